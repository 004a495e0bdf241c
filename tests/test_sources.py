import time

import cv2
import numpy as np
import pytest

from utils.realtime import sources
from utils.realtime.sources import open_source


class PacedCamera:
    """Gives numbered frames by the clock, as a camera does, and fails after the last one."""

    def __init__(self, count, seconds_between):
        self.start, self.count, self.seconds = time.perf_counter(), count, seconds_between
        self.given, self.released, self.read_after_release = 0, False, False

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return True

    def get(self, what):
        return 30.0

    def read(self):
        self.read_after_release |= self.released
        if self.given == self.count:
            return False, None
        self.given += 1
        due = self.start + self.given * self.seconds
        time.sleep(max(0, due - time.perf_counter()))
        return True, np.full((4, 4, 3), self.given, np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def paced(monkeypatch):
    camera = PacedCamera(count=40, seconds_between=0.01)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    monkeypatch.setattr(sources, "CAMERA_RETRY_SECONDS", 0)
    return camera


def test_a_camera_that_raises_ends_instead_of_hanging(paced, monkeypatch):
    def fail():
        raise cv2.error("lost")

    paced.read = fail
    with open_source(0) as source:
        assert list(source) == []
    assert "gave no frame" in source.stop_reason


def test_a_slow_loop_gets_the_newest_frame(paced):
    seen, lags = [], []
    with open_source(0) as source:
        for frame in source:
            seen.append(int(frame[0, 0, 0]))
            lags.append(paced.given - seen[-1])
            time.sleep(0.05)
    assert seen == sorted(set(seen)) and seen[-1] == 40
    assert len(seen) < 20, "no queue of old frames is worked off"
    assert len(seen) + source.skipped == 40, "each frame is either seen or counted"
    assert max(lags) <= 2
    assert source.stop_reason == "camera_0 gave no frame 10 times in a row"


def test_a_fast_loop_sees_every_frame(paced, monkeypatch):
    seen, read = [], paced.read

    def wait_and_read():  # however busy this machine is, the loop is the faster one
        while len(seen) < paced.given:
            time.sleep(0.001)
        return read()

    monkeypatch.setattr(paced, "read", wait_and_read)
    with open_source(0) as source:
        for frame in source:
            seen.append(int(frame[0, 0, 0]))
    assert seen == list(range(1, 41)) and source.skipped == 0


def test_a_camera_is_not_released_while_it_is_read(paced):
    with open_source(0) as source:
        next(iter(source))
    assert paced.released
    time.sleep(0.03)
    assert not paced.read_after_release and paced.given < 40
