import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_ins import TINY, sample_batches

from utils.data.batches import (
    Batches,
    RandomAffine,
    RandomCamera,
    RandomLight,
    build_augmentation,
    load_batches,
    views,
)
from utils.data.prepared import load_split
from utils.preprocessing import FIVE_EMOTIONS, FaceInput, face_input_for

HALF_WHITE = np.zeros((64, 8, 8, 1), dtype=np.uint8)
HALF_WHITE[:, :, 4:] = 255
LABELS = np.arange(64) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


def collect(split, images=HALF_WHITE, labels=ONE_HOT, side=8, **settings):
    defaults = {"batch_size": 10, "augmentation": "none", "mixup": 0.0, "seed": 0}
    known = {
        "decode": lambda: images,
        "y_true": labels.argmax(axis=1),
        "prepared": None,
        "face_input": FaceInput(side, side, "grey"),
        "class_names": tuple("abc"),
        "split_name": "default",
    }
    batches = Batches(split=split, labels=labels, **known, **defaults | settings)
    return joined(batches.dataset())


def joined(dataset):
    """All images, all labels, and the batches."""
    batches = list(dataset)
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches]), batches


def test_evaluation_batches_are_the_arrays_in_order():
    images, labels, batches = collect("valid")
    np.testing.assert_array_equal(images, HALF_WHITE)
    np.testing.assert_array_equal(labels, ONE_HOT)
    assert [len(x) for x, _ in batches] == [10] * 6 + [4], "the last, smaller batch is not dropped"


def test_flip_swaps_about_half_of_the_images_and_changes_nothing_else():
    images, labels, _ = collect("train", augmentation="flip")
    flipped = images[:, 0, 0, 0] == 255
    assert 16 < flipped.sum() < 48
    images[flipped] = images[flipped][:, :, ::-1]
    np.testing.assert_array_equal(images, HALF_WHITE)
    assert sorted(labels.argmax(axis=1)) == sorted(LABELS)


def test_shuffling_depends_on_the_seed_alone():
    first, again, other = (collect("train", seed=seed)[1].argmax(axis=1) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert first.tolist() != LABELS.tolist()


def test_labels_can_be_probabilities():
    soft = np.random.default_rng(0).dirichlet(np.ones(3), 64).astype(np.float32)
    _, labels, _ = collect("valid", labels=soft)
    np.testing.assert_array_equal(labels, soft)


@pytest.mark.parametrize("name", ["strong", "heavy", "camera"])
def test_strong_changes_keep_shape_and_range(name):
    images, _, _ = collect("train", augmentation=name)
    assert images.shape == HALF_WHITE.shape
    assert images.min() >= 0 and images.max() <= 255
    assert len({image.tobytes() for image in images}) > 32


def affine_with(monkeypatch, image, degrees=0.0, zoom=0.0, shift_x=0.0, shift_y=0.0):
    """RandomAffine with these values instead of random ones, on one image."""
    draws = iter([np.deg2rad(degrees), zoom, shift_x, shift_y])
    monkeypatch.setattr(
        keras.random, "uniform", lambda shape, *_, seed: tf.fill(shape, np.float32(next(draws)))
    )
    layer = RandomAffine(degrees=90, zoom=1, shift=1, seed=0)
    return layer(image[None, ..., None].astype(np.float32)).numpy()[0, ..., 0]


def test_affine_against_plain_indexing(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (9, 9))
    np.testing.assert_allclose(affine_with(monkeypatch, image), image, atol=1e-3)
    turned = affine_with(monkeypatch, image, degrees=90)
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-2)
    columns = np.clip(np.arange(9) + 2, 0, 8)  # 2 of 9 pixels, the border is continued
    moved = affine_with(monkeypatch, image, shift_x=2 / 9)
    np.testing.assert_allclose(moved, image[:, columns], atol=1e-2)
    rows = np.clip(np.arange(9) - 3, 0, 8)
    moved = affine_with(monkeypatch, image, shift_y=-3 / 9)
    np.testing.assert_allclose(moved, image[rows], atol=1e-2)
    every_second = np.clip(2 * np.arange(9) - 4, 0, 8)  # twice the step about the centre
    shrunk = affine_with(monkeypatch, image, zoom=1.0)
    np.testing.assert_allclose(shrunk, image[every_second][:, every_second], atol=1e-2)


def test_heavy_erases_a_rectangle_of_half_of_the_images():
    layer = build_augmentation("heavy", 0)[-1]
    images = np.zeros((1000, 48, 48, 1), np.float32)
    erased = layer(images, training=True).numpy() == 128
    touched = erased.any(axis=(1, 2, 3))
    assert 0.4 < touched.mean() < 0.6
    for mask in erased[touched][:50, ..., 0]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.mean() < 0.3


def test_changes_of_an_image_do_not_depend_on_one_another():
    # Black on the left, grey on the right; flips and levels can be read off again.
    images = np.zeros((2000, 4, 8, 1), np.float32)
    images[:, :, 4:] = 100
    flip, _, brightness, contrast = build_augmentation("strong", 0)
    flipped = flip(images, training=True).numpy()[:, 0, 0, 0] == 100
    grey = np.full((2000, 4, 4, 1), 127, np.float32)
    level = brightness(grey, training=True).numpy().mean(axis=(1, 2, 3)) - 127
    spread = contrast(images, training=True).numpy().std(axis=(1, 2, 3)) / images[0].std()
    assert np.abs(np.corrcoef([flipped, level, spread]) - np.eye(3)).max() < 0.1
    assert spread.min() < 0.85 and spread.max() > 1.1, "contrast is lowered and raised"


def test_light_is_another_exposure_contrast_and_side():
    grey = np.full((500, 16, 16, 1), 127, np.float32)
    exposed = RandomLight(gamma=2, contrast=1, side=0, seed=0)(grey).numpy()
    assert exposed.std(axis=(1, 2, 3)).max() < 1e-3
    exponents = np.log(exposed[:, 0, 0, 0] / 255) / np.log(127 / 255)
    assert 0.5 <= exponents.min() < 0.55 and 1.9 < exponents.max() <= 2.001
    noise = np.random.default_rng(0).uniform(60, 190, (500, 16, 16, 1)).astype(np.float32)
    contrast = RandomLight(gamma=1, contrast=1.5, side=0, seed=0)(noise).numpy()
    np.testing.assert_allclose(contrast.mean(axis=(1, 2, 3)), noise.mean(axis=(1, 2, 3)), atol=0.5)
    factors = contrast.std(axis=(1, 2, 3)) / noise.std(axis=(1, 2, 3))
    assert 0.66 < factors.min() < 0.7 and 1.4 < factors.max() < 1.51
    lit = RandomLight(gamma=1, contrast=1, side=0.4, seed=0)(grey).numpy()[..., 0]
    opposite = lit + lit[:, ::-1, ::-1]
    np.testing.assert_allclose(opposite, 254, atol=1e-2)  # what one side gains the other loses
    assert 1.3 < (lit / 127).max() < 1.6


def test_a_camera_costs_detail_noise_and_compression():
    sharp = np.random.default_rng(0).integers(0, 256, (300, 24, 24, 1)).astype(np.float32)
    reduced = RandomCamera(detail=0.3, noise=0, quality=99, seed=1)(sharp).numpy()
    errors = np.abs(reduced - sharp).mean(axis=(1, 2, 3))
    assert errors[:150].min() > 20 and errors[150:].max() < 10, "JPEG of the best quality is near"
    grey = np.full((400, 24, 24, 1), 127, np.float32)
    noisy = RandomCamera(detail=1, noise=16, quality=99, seed=0)(grey).numpy()
    deviations = noisy[:260].std(axis=(1, 2, 3))
    assert 0.4 < (deviations < 0.01).mean() < 0.6 and 14 < deviations.max() < 17.5
    assert abs(noisy.mean() - 127) < 0.3
    coarse = RandomCamera(detail=1, noise=0, quality=20, seed=0)(sharp).numpy()
    errors = np.abs(coarse - sharp).mean(axis=(1, 2, 3))
    assert errors[:200].max() < 0.01 and errors[200:].min() > 0.1


def test_old_references_are_not_taken_for_what_is_done_now(prepared_workspace):
    plain, changed = (sample_batches(augmentation=x)[0].made_of for x in ("flip", "camera"))
    assert "augmentation_version" not in plain and changed["augmentation_version"] == 3


def test_images_are_interpolated_to_the_input_size():
    images, _, _ = collect("valid", side=16)
    assert images.shape == (64, 16, 16, 1)
    assert images[0, 0, 0, 0] == 0 and images[0, 0, -1, 0] == 255


def test_mixup_mixes_images_and_labels_with_the_same_shares():
    # Each image holds its own class as a grey level, so a mixture can be read from the pixels.
    images = np.repeat(np.arange(3, dtype=np.uint8), 20)[:, None, None, None] * np.full(
        (1, 4, 4, 1), 100, np.uint8
    )
    one_hot = np.eye(3, dtype=np.float32)[np.repeat(np.arange(3), 20)]
    mixed, labels, _ = collect("train", images, one_hot, 4, batch_size=30, mixup=0.4)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], labels @ [0, 100, 200], atol=1e-3)
    assert ((labels > 0.01) & (labels < 0.99)).any(), "nothing was mixed"
    _, unmixed, _ = collect("valid", images, one_hot, 4)
    assert set(np.unique(unmixed)) == {0, 1}


def test_views_are_moved_and_mirrored():
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 5, 1), dtype=np.uint8)
    all_views = [view[0, ..., 0] for view in views(image)]
    original = image[0, ..., 0]
    expected = [
        original,
        original[np.clip(np.arange(5) - 2, 0, 4)],  # face two pixels further down
        original[np.clip(np.arange(5) + 2, 0, 4)],
        original[:, np.clip(np.arange(5) - 2, 0, 4)],
        original[:, np.clip(np.arange(5) + 2, 0, 4)],
    ]
    assert len(all_views) == 10
    for moved, view, mirrored in zip(expected, all_views[::2], all_views[1::2], strict=True):
        np.testing.assert_array_equal(view, moved)
        np.testing.assert_array_equal(mirrored, moved[:, ::-1])


def test_validation_batches_are_the_split_in_order(prepared_workspace):
    _, valid = sample_batches(augmentation="heavy", mixup=0.5)
    images, y_true, _ = load_split("fer2013", "valid", TINY)
    np.testing.assert_array_equal(valid.images, images)
    np.testing.assert_array_equal(valid.y_true, y_true)
    np.testing.assert_array_equal(valid.labels, np.eye(7)[y_true])
    assert valid.labels.dtype == np.float32
    given, labels, _ = joined(valid.dataset())
    np.testing.assert_array_equal(given, images)
    np.testing.assert_array_equal(labels, valid.labels)
    given, _, _ = joined(valid.dataset(images=255 - images))
    np.testing.assert_array_equal(given, 255 - images)


def test_training_batches_are_the_split_shuffled_anew_in_each_epoch(prepared_workspace):
    batches, _ = sample_batches(augmentation="none")

    def orders(dataset):
        rows = {image.tobytes(): row for row, image in enumerate(batches.images)}
        for _ in range(2):
            given, labels, _ = joined(dataset)
            order = [rows[image.astype(np.uint8).tobytes()] for image in given]
            np.testing.assert_array_equal(labels, batches.labels[order])
            yield order

    first, second = orders(batches.dataset())
    assert len(set(first)) == len(first) == 36 and set(first) == set(second)
    assert first != second != sorted(second)
    assert [first, second] == [*orders(batches.dataset())]
    gone_on, _ = orders(batches.dataset(epochs_done=1))
    assert gone_on not in (first, second), "the first epochs' order comes back"


def test_other_splits_and_classes_keep_the_rest(prepared_workspace):
    batches, _ = sample_batches(class_names=FIVE_EMOTIONS, seed=3)
    test = batches.of("test")
    assert (test.split, test.class_names, test.labels.shape[1]) == ("test", FIVE_EMOTIONS, 5)
    assert batches.made_of == test.made_of
    assert json.loads(json.dumps(batches.made_of)) == batches.made_of
    assert {key: batches.made_of[key] for key in ("dataset", "batch_size", "seed", "labels")} == {
        "dataset": "fer2013", "batch_size": 16, "seed": 3, "labels": "classes"
    }  # fmt: skip


def test_large_inputs_are_interpolated_batch_by_batch(prepared_workspace):
    (batches, _) = sample_batches(face_input_for("fer2013", 96, 96, "rgb"), augmentation="none")
    assert batches.images.shape == (36, 48, 48, 3)
    images, _ = next(iter(batches.dataset()))
    assert images.shape == (16, 96, 96, 3)


def test_what_cannot_be_given_is_refused(prepared_workspace):
    with pytest.raises(ValueError, match="'mixup'.*'flip'"):
        sample_batches(augmentation="mixup")[0].dataset()
    with pytest.raises(ValueError, match="split is 'all'"):
        load_batches("fer2013", "all", TINY)
    with pytest.raises(ValueError, match="no classes .'bored'."):
        load_batches("fer2013", "train", TINY, class_names=("happy", "bored"))
    for too_few in (("happy",), ("sad", "sad")):
        with pytest.raises(ValueError, match="expected two or more, each once"):
            load_batches("fer2013", "train", TINY, class_names=too_few)
