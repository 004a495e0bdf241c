import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import rotate

from utils import config, robustness
from utils.data.prepared import load_split
from utils.robustness import CORRUPTIONS
from utils.training import reference

REFERENCES = config.REFERENCE_DIR
IMAGES = np.random.default_rng(0).integers(60, 200, (3, 9, 9, 1)).astype(np.uint8)
LABELS = np.arange(3)


class Recorder:
    """A network that keeps what it sees, and says anything."""

    def __init__(self):
        self.seen, self.said, self.draw = [], [], np.random.default_rng(0)

    def predict(self, images, **_):
        self.seen.append(images)
        self.said.append(self.draw.random((len(images), 7)))
        return self.said[-1]


@pytest.fixture
def corrupt(small_run, monkeypatch):
    """A function of images, corruption and severity: what a network is shown."""

    def show(images, name, severity):
        network, change = Recorder(), CORRUPTIONS[name][0]
        with monkeypatch.context() as patch:
            patch.setattr(robustness, "CORRUPTIONS", {name: (change, (severity,))})
            patch.setattr(robustness, "load_images", lambda *_: (images, LABELS[: len(images)], []))
            patch.setattr(robustness, "only_class", lambda _: network)
            robustness.accuracy_by_severity(small_run)
        (small_run.folder / "robustness.csv").unlink()
        return network.seen[0]

    return show


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_first_severity_changes_nothing_and_the_last_does(name, corrupt):
    severities = CORRUPTIONS[name][1]
    np.testing.assert_array_equal(corrupt(IMAGES, name, severities[0]), IMAGES)
    changed = corrupt(IMAGES, name, severities[-1])
    assert changed.shape == IMAGES.shape and changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - IMAGES).mean() > 5


def test_changes_against_plain_indexing(corrupt):
    image = IMAGES[:1]
    np.testing.assert_array_equal(corrupt(image, "darkness", 0.5), np.rint(image * 0.5))
    turned = corrupt(image, "rotation", 90)
    np.testing.assert_array_equal(turned[0, ..., 0], np.rot90(image[0, ..., 0]))
    moved = corrupt(image, "shift", 2 / 9)
    columns = np.clip(np.arange(9) - 2, 0, 8)
    np.testing.assert_array_equal(moved, image[:, :, columns])
    colour = np.repeat(image, 3, axis=-1)
    np.testing.assert_array_equal(corrupt(colour, "rotation", 90)[..., 1:2], turned)


def test_noise_has_the_strength_that_it_says(corrupt):
    grey = np.full((1, 100, 100, 1), 128, np.uint8)
    assert corrupt(grey, "noise", 16).std() == pytest.approx(16, rel=0.05)


def test_a_run_is_measured_once(small_run, monkeypatch):
    table = robustness.accuracy_by_severity(small_run)
    assert len(table) == sum(len(severities) for _, severities in CORRUPTIONS.values())
    assert set(table["n"]) == {15}
    y_true, probabilities = small_run.predictions("test")
    accuracy = (probabilities.argmax(axis=1) == y_true).mean()
    unchanged = table.groupby("corruption").first()["accuracy"]
    assert unchanged.to_dict() == pytest.approx(dict.fromkeys(CORRUPTIONS, accuracy))
    # One of the others by hand.
    images, _, _ = load_split("fer2013", "test", small_run.contract.face_input)
    dark = np.rint(images * np.float32(0.06)).astype(np.uint8)
    says = small_run.load_model().predict(dark, verbose=0).argmax(axis=1)
    row = table.query("corruption == 'darkness' and severity == 0.06").iloc[0]
    assert row["accuracy"] == pytest.approx((says == y_true).mean())
    assert row["low"] < row["accuracy"] < row["high"] or row["accuracy"] in (0, 1)
    monkeypatch.setattr(robustness, "load_images", None)
    pd.testing.assert_frame_equal(robustness.accuracy_by_severity(small_run), table)


def test_labels_that_change_with_the_box(small_run, monkeypatch):
    images, _, _ = load_split("fer2013", "valid", small_run.contract.face_input)
    known, network = np.arange(len(images)) < 2, Recorder()
    monkeypatch.setattr(robustness, "copies_of_training", lambda *_: known)
    monkeypatch.setattr(type(small_run), "load_model", lambda _: network)
    monkeypatch.setattr(robustness, "only_class", lambda model: model)
    table = robustness.jitter_of(small_run)
    assert set(table["n"]) == {len(images) - 2}
    *seen, unchanged = network.seen[::2]
    np.testing.assert_array_equal(unchanged, images[2:])
    for pictures, mirrored in zip(network.seen[::2], network.seen[1::2], strict=True):
        np.testing.assert_array_equal(mirrored, np.flip(pictures, axis=2))
    said = np.add(network.said[::2], network.said[1::2]).argmax(axis=2)
    differs = [labels != said[-1] for labels in said[:-1]]
    differs.append(np.any(differs, axis=0))
    assert table["changed"].tolist() == [each.sum() for each in differs]

    def by_hand(axis, step):
        """By 5 % of twelve pixels: 0.6 of the pixel beside and 0.4 of its own."""
        beside = np.take(unchanged, np.clip(np.arange(12) - step, 0, 11), axis=axis)
        return 0.4 * unchanged + 0.6 * beside

    def turned(degrees):
        return rotate(unchanged.astype(float), degrees, (1, 2), False, order=1, mode="nearest")

    expected = {
        "down": by_hand(1, 1),
        "up": by_hand(1, -1),
        "right": by_hand(2, 1),
        "left": by_hand(2, -1),
        "counterclockwise": turned(5),
        "clockwise": turned(-5),
    }
    for name, pictures in zip(table.index, seen):
        # OpenCV rounds to 1/32 of a pixel.
        np.testing.assert_allclose(pictures, expected.pop(name), atol=3)
    assert not expected
    monkeypatch.setattr(robustness, "load_images", None)
    pd.testing.assert_frame_equal(robustness.jitter_of(small_run), table)


def test_what_was_measured_of_ours_needs_no_data(workspace, monkeypatch):
    monkeypatch.setattr(config, "REFERENCE_DIR", REFERENCES)
    stored = robustness.accuracy_by_severity(reference("emotion_final"))
    assert set(stored["corruption"]) == set(CORRUPTIONS)
    moved = robustness.jitter_of(reference("emotion_ferplus"))
    assert set(moved["n"]) == {3589 - 280} and len(moved) == 7
    before = {path.name for path in (REFERENCES / "emotion_six_conv").iterdir()}
    with pytest.raises(FileNotFoundError, match="no network .emotion_six_conv."):
        robustness.accuracy_by_severity(reference("emotion_six_conv"))
    assert {path.name for path in (REFERENCES / "emotion_six_conv").iterdir()} == before
