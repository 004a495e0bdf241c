import numpy as np
import pandas as pd
import pytest

from utils import robustness
from utils.robustness import CORRUPTIONS, corrupt
from utils.training import RunSpec, train

IMAGES = np.random.default_rng(0).integers(60, 200, (3, 9, 9, 1)).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_first_severity_changes_nothing_and_the_last_does(name):
    severities = CORRUPTIONS[name][1]
    np.testing.assert_array_equal(corrupt(IMAGES, name, severities[0]), IMAGES)
    changed = corrupt(IMAGES, name, severities[-1])
    assert changed.shape == IMAGES.shape and changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - IMAGES).mean() > 5


def test_changes_against_plain_indexing():
    image = IMAGES[:1]
    np.testing.assert_array_equal(corrupt(image, "darkness", 0.5), np.rint(image * 0.5))
    turned = corrupt(image, "rotation", 90)
    np.testing.assert_array_equal(turned[0, ..., 0], np.rot90(image[0, ..., 0]))
    moved = corrupt(image, "shift", 2 / 9)
    columns = np.clip(np.arange(9) - 2, 0, 8)
    np.testing.assert_array_equal(moved, image[:, :, columns])
    colour = np.repeat(image, 3, axis=-1)
    np.testing.assert_array_equal(corrupt(colour, "rotation", 90)[..., 1:2], turned)


def test_noise_has_the_strength_that_it_says():
    grey = np.full((1, 100, 100, 1), 128, np.uint8)
    assert corrupt(grey, "noise", 16).std() == pytest.approx(16, rel=0.05)


def test_a_run_is_measured_once(prepared_workspace, monkeypatch):
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8]}, batch_size=16)
    run = train(spec)
    table = robustness.accuracy_by_severity(run)
    assert len(table) == sum(len(severities) for _, severities in CORRUPTIONS.values())
    unchanged = table.groupby("corruption").first()
    assert unchanged["accuracy"].tolist() == pytest.approx(
        [run.metrics["test"]["accuracy"]] * len(CORRUPTIONS)
    )
    monkeypatch.setattr(robustness, "load_split", None)
    pd.testing.assert_frame_equal(robustness.accuracy_by_severity(run), table)


def test_unknown_corruption_is_refused():
    with pytest.raises(ValueError, match="'rain'"):
        corrupt(IMAGES, "rain", 1)
