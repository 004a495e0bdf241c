"""The loop's networks as LiteRT files: they say what the networks in Keras say."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scenes import noise
from stand_ins import EMOTION, GENDER, of_both_views

from utils import config
from utils.data.batches import load_batches
from utils.data.prepared import load_images, load_prepared, rows_of
from utils.files import read_image
from utils.models import BUILDERS
from utils.networks.contract import find_network
from utils.networks.litert import export_litert, run_litert
from utils.networks.storage import load_network, save_network
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL, FaceClassifier

PRETRAINED = config.PRETRAINED_DIR
DATASETS = {DEFAULT_EMOTION_MODEL: "fer2013", DEFAULT_GENDER_MODEL: "utkface"}
ROUNDING = 0.05  # of a probability, for weights of 8 bits


@pytest.fixture
def shipped(prepared_workspace, monkeypatch):
    """Our shipped networks in a project with the drawn sample, prepared."""
    monkeypatch.setattr(config, "PRETRAINED_DIR", PRETRAINED)


@pytest.mark.parametrize("name", sorted(path.stem for path in PRETRAINED.glob("*.npz")))
def test_each_shipped_file_is_small_and_says_what_its_weights_say(shipped, name):
    path, contract = find_network(name)
    assert path.with_suffix(".tflite").stat().st_size <= 3_000_000
    prepared = load_prepared(contract.trained_on.split(",")[0])
    images = np.concatenate(
        [load_images(prepared, x, contract.face_input)[0] for x in ("train", "valid", "test")]
    )
    expected = load_network(name, with_age=True)[0].predict(images, verbose=0)
    got = run_litert(path.with_suffix(".tflite"))(images.astype(np.float32))
    assert got.shape == expected.shape
    # Where there is an output for age, its years come after the probabilities.
    (got, ages), (expected, other) = (
        np.split(x, [len(contract.class_names)], 1) for x in (got, expected)
    )
    np.testing.assert_allclose(got, expected, atol=ROUNDING)
    np.testing.assert_allclose(ages, other, atol=1)
    assert len(set(expected.argmax(axis=1))) > 1
    assert 1e-5 < np.abs(got - expected).max(), "these are not weights of 8 bits"
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


def test_the_loop_sees_what_training_sees(shipped):
    """One validation image of each data set, as training's batches and as a frame's crop."""
    classifier = FaceClassifier()
    for name, dataset in DATASETS.items():
        model, contract = load_network(name)
        batches = load_batches(dataset, "valid", contract.face_input)
        images, _ = next(iter(batches.dataset()))
        in_training = of_both_views(model, images[:1])
        file = rows_of(batches.prepared, "valid")["file"][0]
        frame = read_image(batches.prepared.folder / file)
        # The picture is the crop of a face: this is the Haar box that leads to just this crop.
        side, box_side = len(frame), len(frame) / contract.face_input.crop_scale
        left = (side - box_side) / 2
        box = (left, left - side * contract.face_input.crop_shift_down, box_side, box_side)
        (face,) = classifier.classify(frame, [box])
        said = {"fer2013": face.emotion_probabilities, "utkface": face.gender_probabilities}
        assert tuple(said[dataset]) == contract.class_names
        np.testing.assert_allclose(list(said[dataset].values()), in_training, atol=ROUNDING)


def test_two_threads_may_ask_one_network():
    path, contract = find_network(DEFAULT_EMOTION_MODEL)
    call = run_litert(path.with_suffix(".tflite"))
    batch = noise(*contract.face_input.shape[:2], [1])[None].astype(np.float32)
    with ThreadPoolExecutor(2) as threads:
        answers = [*threads.map(call, [batch] * 200)]
    assert all((answer == answers[0]).all() for answer in answers)


def test_a_float_file_says_what_keras_says_for_any_number_of_faces(tmp_path):
    model = BUILDERS["compact"]((48, 48, 1), 7, widths=[8, 16])
    export_litert(model, tmp_path / "ä.tflite", quantized=False)
    call = run_litert(tmp_path / "ä.tflite")
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1)).astype(np.float32)
    for count in (1, 4, 2):
        expected = model(noise[:count], training=False).numpy()
        np.testing.assert_allclose(call(noise[:count]), expected, atol=1e-5)


def test_another_file_than_the_contract_s_is_refused(workspace):
    shutil.copytree(PRETRAINED, config.PRETRAINED_DIR)
    path = config.PRETRAINED_DIR / f"{DEFAULT_GENDER_MODEL}.tflite"
    path.write_bytes((PRETRAINED / f"{DEFAULT_EMOTION_MODEL}.tflite").read_bytes())
    with pytest.raises(ValueError, match="tflite is missing or not the file .*tasks.py ship"):
        FaceClassifier()
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} is missing or .*tasks.py ship"):
        FaceClassifier()


def test_a_network_without_such_a_file_runs_by_keras_or_says_what_to_do(workspace, monkeypatch):
    model, contract = EMOTION
    save_network(model, contract, config.PRETRAINED_DIR / "mine.npz")
    classifier, crop = FaceClassifier("mine", GENDER), noise(48, 48)
    (face,) = classifier.classify(crop, [(0, 0, 48, 48)])
    expected = of_both_views(model, classifier.emotion.crop(crop, [(0, 0, 48, 48)]))
    np.testing.assert_allclose(list(face.emotion_probabilities.values()), expected, atol=1e-3)
    monkeypatch.setitem(sys.modules, "utils.networks.storage", None)  # as without Keras
    with pytest.raises(ImportError, match="python tasks.py ship mine makes the file"):
        FaceClassifier("mine", GENDER)
