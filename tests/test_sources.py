import _thread
import io
import os
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import FakeCamera, noise

from utils import config
from utils.files import encode_image
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


class TimedFilm:
    """Frames at these milliseconds; claims a rate and a number of frames."""

    def __init__(self, times, rate, count):
        self.times, self.claims = times, {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: count}
        self.given = 0

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return True

    def get(self, what):
        if what == cv2.CAP_PROP_POS_MSEC:
            return self.times[self.given - 1]
        return self.claims.get(what, 0)

    def grab(self):
        self.given += self.given < len(self.times)
        return self.given < len(self.times)

    def read(self):
        if self.given == len(self.times):
            return False, None
        self.given += 1
        return True, np.full((4, 4, 3), self.given, np.uint8)

    def release(self):
        pass


def seconds_of(monkeypatch, *film):
    monkeypatch.setattr(cv2, "VideoCapture", lambda address: TimedFilm(*film))
    with open_source("rtsp://camera.local/1") as source:
        return [round(source.seconds, 3) for _ in source], source


# Dense and then sparse, as phones record in the dark; its container claims the mean or the densest.
UNEVEN = [*range(0, 200, 40), *range(200, 1400, 200)]


@pytest.mark.parametrize("rate, count", [(11 / 1.4, 11), (25, 35), (1000, 1400)])
def test_frames_keep_the_time_of_their_film(monkeypatch, rate, count):
    seconds, source = seconds_of(monkeypatch, UNEVEN, rate, count)
    assert seconds == [time / 1000 for time in UNEVEN]
    assert source.frames_per_second == pytest.approx(25), "no dense frame is lost in a video"
    assert source.stop_reason == "end of the frames"


def test_a_film_that_breaks_off_is_known_by_its_time(monkeypatch):
    _, source = seconds_of(monkeypatch, UNEVEN[:6], 25, 35)
    assert source.stop_reason == "the video broke off after 0.2 of 1.4 seconds"


@pytest.mark.parametrize("times", [[0, 0, 0], [0, -9e15, 0], [0, 9e9, 40], [0, float("nan"), 0]])
def test_a_film_whose_clock_is_wrong_has_an_even_pace(monkeypatch, times):
    assert seconds_of(monkeypatch, times, 25, 3)[0] == [0, 0.04, 0.08]


def test_after_a_long_still_times_go_on(monkeypatch):
    seconds, source = seconds_of(monkeypatch, [0, 40, 80_080, 81_080, 81_120], 25, 2028)
    assert seconds == [0, 0.04, 0.08, 1.08, 1.12]


def test_times_that_are_given_twice_do_not_add_up(monkeypatch):
    seconds, _ = seconds_of(monkeypatch, [0, 80, 80, 160, 160, 240, 240, 280], 25, 8)
    assert seconds == [0, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32]


def test_a_film_of_an_even_pace_keeps_its_rate(monkeypatch):
    assert seconds_of(monkeypatch, [0, 95, 205, 300], 10, 4)[1].frames_per_second == 10
    assert seconds_of(monkeypatch, [0, 10_000, 20_000], 0.1, 3)[1].frames_per_second == 1


def test_frames_of_a_camera_lie_where_they_came(paced):
    paced.count = 5
    with open_source(0) as source:
        seconds = [source.seconds for _ in source]
    assert seconds[0] == 0 and seconds == sorted(seconds) and 0.03 <= seconds[-1] < 1


@pytest.mark.parametrize(
    "source, asked",
    [
        ("rtsp://name:word@camera.local/1", "rtsp://name:word@camera.local/1"),
        ("07", 7),
        pytest.param("/dev/video2", 2, marks=pytest.mark.skipif(os.name == "nt", reason="Linux")),
    ],
)
def test_cameras_by_number_device_and_address(monkeypatch, paced, source, asked):
    addresses = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda address: addresses.append(address) or paced)
    paced.get = lambda what: -1 if what == cv2.CAP_PROP_FRAME_COUNT else 30
    with open_source(source) as opened:
        assert opened.live and addresses == [asked]
        assert opened.name == (f"camera_{asked}" if isinstance(asked, int) else "camera.local")


def test_an_address_that_does_not_answer_is_said_without_its_password(monkeypatch, paced):
    paced.isOpened = lambda: False
    with pytest.raises(OSError, match=r"rtsp://camera.local/1 cannot be opened.*another player"):
        open_source("rtsp://name:word@camera.local/1")
    with pytest.raises(OSError, match="http://camera.local/@anna/1 cannot be opened"):
        open_source("http://camera.local/@anna/1")


def test_an_address_without_a_frame_is_said_without_its_password(monkeypatch):
    capture = SimpleNamespace(
        isOpened=lambda: True, get=lambda _: 1, read=lambda: (False, None), release=lambda: None
    )
    monkeypatch.setattr(cv2, "VideoCapture", lambda address: capture)
    with pytest.raises(ValueError, match="^http://camera.local/a.mp4 is no picture, and no video"):
        open_source("http://name:word@camera.local/a.mp4")


@pytest.mark.parametrize("source", ["", " ", "²", "٣", "2024", "-1", 100, None, "~nobody/x"])
def test_what_cannot_be_a_source_is_answered_with_what_can(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match="expected the number of a camera"):
        open_source(source)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_a_film_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    (tmp_path / "12:30.mp4").write_bytes(config.SAMPLE_CLIP.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert next(iter(open_source("12:30.mp4"))).shape[2] == 3


def test_a_folder_may_be_named_as_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "a.png").write_bytes(encode_image(noise()))
    assert len(list(open_source("2024"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="pipe is no plain file"):
        open_source(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["a.jfif", "a.webp", "a.mp4", "a"])
def test_a_picture_is_one_by_its_content_and_upright(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stream = io.BytesIO()
    kind = "WEBP" if name == "a.webp" else "JPEG"
    Image.new("RGB", (60, 40)).save(stream, format=kind, exif=exif)
    (tmp_path / name).write_bytes(stream.getvalue())
    for source in (tmp_path / name, tmp_path):
        opened = open_source(source)
        assert [frame.shape for frame in opened] == [(60, 40, 3)] and opened.file == name


def test_a_picture_of_an_iphone_is_refused_and_counted(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(ValueError, match=r"a\.heic is a HEIC.*save it as JPEG"):
        open_source(tmp_path / "a.heic")
    source = open_source(tmp_path)
    assert list(source) == []
    said = source.stop_reason
    assert said.startswith("end of the pictures; 1 of 1 could not be read: a.heic (")
    assert "is a HEIC" in said and said.endswith("save it as JPEG)")


def test_pictures_of_a_folder_keep_their_number_and_name(tmp_path):
    whole = cv2.imencode(".jpg", noise())[1].tobytes()
    for number in (1, 3, 4):
        (tmp_path / f"IMG_0{number}.jpg").write_bytes(whole)
    (tmp_path / "IMG_02_broken.jpg").write_bytes(whole[: len(whole) // 2])
    with open_source(tmp_path) as source:
        found = [(source.number, source.seconds, source.file) for _ in source]
    assert found == [(0, 0.0, "IMG_01.jpg"), (2, 2.0, "IMG_03.jpg"), (3, 3.0, "IMG_04.jpg")]
    assert "1 of 4 could not be read: IMG_02_broken.jpg (" in source.stop_reason


def test_an_impatient_ctrl_c_does_not_release_a_camera_that_is_read(monkeypatch):
    class Stalled(FakeCamera):
        def read(self):
            found = super().read()
            if not found[0]:  # a stream without a frame: OpenCV waits for long
                time.sleep(1)
                self.left = time.perf_counter()
            return found

        def release(self):
            self.released = time.perf_counter()

    camera = Stalled([noise()])
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    monkeypatch.setattr(sources, "CAMERA_RETRIES", 1)
    with open_source(0) as source:
        next(iter(source))
        threading.Timer(0.3, _thread.interrupt_main).start()
    assert camera.left < camera.released
