"""The sample data: small, the same each time, and drawn rather than taken from a data set."""

import runpy

import numpy as np
import pytest

from utils import config
from utils.files import read_image
from utils.realtime.sources import open_source

MAKE_SAMPLE = config.SAMPLE_DIR.parent / "make_sample.py"
LIMIT_BYTES = 1_500_000


def files(folder):
    below = [*(folder / "raw").rglob("*"), folder / "clip.mp4"]
    return {p.relative_to(folder).as_posix(): p for p in below if p.is_file()}


@pytest.fixture(scope="module")
def made_twice(tmp_path_factory):
    make_sample = runpy.run_path(str(MAKE_SAMPLE))["make_sample"]
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        make_sample(folder)
    return folders


def test_the_script_gives_the_same_bytes_each_time(made_twice):
    first, second = map(files, made_twice)
    assert first.keys() == second.keys()
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_the_sample_in_git_is_what_the_script_makes(made_twice):
    made, stored = files(made_twice[0]), files(config.SAMPLE_DIR)
    assert made.keys() == stored.keys()
    for name in ("raw/fer2013.csv", "raw/ferplus_votes.csv"):
        assert made[name].read_bytes() == stored[name].read_bytes()
    # JPEG and video encoders differ a little between systems: those are compared as pictures.
    for name in made:
        if name.endswith(".jpg") and "20_1_0_20170116" not in name:
            difference = read_image(made[name]).astype(int) - read_image(stored[name])
            assert np.abs(difference).mean() < 2, name
    for new, old in zip(
        open_source(made["clip.mp4"]), open_source(stored["clip.mp4"]), strict=True
    ):
        assert np.abs(new.astype(int) - old).mean() < 6


def test_the_sample_stays_small():
    assert sum(path.stat().st_size for path in files(config.SAMPLE_DIR).values()) < LIMIT_BYTES
