import ssl
import time

import cv2
import numpy as np
import pytest
from scenes import noise
from skimage.data import astronaut

from utils import config
from utils.realtime import detection
from utils.realtime.detection import (
    HaarDetector,
    YuNetDetector,
    fetch_yunet,
    open_detector,
)

PORTRAIT = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)  # public domain, of 512x512 pixels
FACE = PORTRAIT[30:180, 150:300]  # the face fills most of it


@pytest.fixture(scope="module")
def yunet():
    try:
        return YuNetDetector()
    except ConnectionError:
        pytest.skip("YuNet is neither here nor can it be downloaded")


def resized(picture, width, height=None):
    return cv2.resize(picture, (width, height or width), interpolation=cv2.INTER_AREA)


class Response:
    def __init__(self, content):
        self.content = content

    def read(self):
        return self.content

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def test_weights_are_downloaded_once_and_checked(workspace, monkeypatch):
    asked = []
    monkeypatch.setattr(
        detection.urllib.request,
        "urlopen",
        lambda url, timeout: asked.append(url) or Response(b"abc"),
    )
    # sha256 of "abc", from FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(detection, "YUNET_SHA256", digest)
    for _ in range(2):
        assert fetch_yunet().read_bytes() == b"abc"
    assert len(asked) == 1 and asked[0].endswith(detection.YUNET_NAME)
    fetch_yunet().write_bytes(b"abd")
    with pytest.raises(ValueError, match="delete it, and it is downloaded again"):
        fetch_yunet()


def test_without_a_network_the_cascade_goes_on(workspace, monkeypatch, capsys):
    reasons = ["unreachable", ssl.SSLCertVerificationError("self-signed"), "unreachable"]

    def no_network(url, timeout):
        raise detection.urllib.error.URLError(reasons.pop())

    monkeypatch.setattr(detection.urllib.request, "urlopen", no_network)
    for said in ("connect this machine once", "connect this machine once.*Install Certificates"):
        with pytest.raises(ConnectionError, match=said):
            fetch_yunet()
    assert not list(config.models_dir().glob("*"))
    assert isinstance(open_detector("yunet"), HaarDetector)
    assert "going on with the Haar cascade" in capsys.readouterr().out


def test_a_login_page_instead_of_the_weights_is_not_kept(workspace, monkeypatch, capsys):
    page = Response(b"<html>please log in</html>")
    monkeypatch.setattr(detection.urllib.request, "urlopen", lambda url, timeout: page)
    assert isinstance(open_detector("yunet"), HaarDetector)
    assert "something else than YuNet" in capsys.readouterr().out
    assert not list(config.models_dir().glob("*"))


POINTS = np.array([[80, 100], [120, 100], [100, 120], [90, 140], [110, 140]], float)
# By hand: eyes 40 apart, the mouth 40 below them, so a side of 2.66 x 40 = 106.4; the middle of
# all, (100, 120), lies 6.8 % of it below the box's: 100 - 53.2 and 120 - 7.2 - 53.2.
BOX = (47, 60, 106, 106)


def fake_yunet(*rows):
    """A detector whose network gives these rows in a frame of 640x640, which is halved."""

    class Network:
        sizes = []

        def setInputSize(self, size):  # noqa: N802 (OpenCV's name)
            self.sizes.append(size)

        def detect(self, frame):
            return 1, np.array(rows) if rows else None

    fake = YuNetDetector.__new__(YuNetDetector)
    fake.min_size, fake.searched_size = 40, 20
    fake._network = fake._of_turned = Network()
    return fake


def row_of(points, score=0.95):
    return np.concatenate([[0, 0, 0, 0], np.ravel(points), [score]])


def test_boxes_come_back_in_the_pixels_of_the_frame():
    fake = fake_yunet(row_of(POINTS / 2), row_of(POINTS * 0.08))  # the second: 17 pixels
    frame = np.zeros((640, 640, 3), np.uint8)
    assert fake.detect(frame) == [BOX]
    assert fake._network.sizes == [(320, 320)]
    assert fake_yunet().detect(frame) == []


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30, -5e3])
def test_boxes_out_of_reason_are_dropped(value):
    frame = np.zeros((640, 640, 3), np.uint8)
    broken = row_of(POINTS / 2)
    broken[4] = value
    assert fake_yunet(broken).detect(frame) == []
    assert fake_yunet(row_of(POINTS * 20), row_of(POINTS / 2 + 400)).detect(frame) == []


def test_one_box_for_a_face():
    part = (POINTS + (2, 8)) * 0.3 + 70  # a box round the mouth, which is less sure
    fake = fake_yunet(row_of(POINTS / 2), row_of(POINTS / 2 + 3, 0.94), row_of(part / 2, 0.93))
    assert fake.detect(np.zeros((640, 640, 3), np.uint8)) == [BOX]


def test_whether_a_face_is_turned_is_asked_once():
    frame = np.zeros((640, 640, 3), np.uint8)
    fake = fake_yunet(row_of(POINTS / 2, 0.8))
    fake._of_turned = fake_yunet(row_of(POINTS / 2, 0.85))._network
    assert fake.detect(frame) == fake.detect(frame, [(400, 400, 90, 90)]) == []
    assert fake.detect(frame, [(BOX[0] + 9, *BOX[1:])]) == [BOX]


@pytest.mark.parametrize("width, height", [(3000, 3000), (3500, 5200)])
def test_a_face_that_fills_a_large_picture(yunet, width, height):
    (box,) = yunet.detect(resized(FACE, width, height))
    assert box[2] == pytest.approx(0.75 * (width * height) ** 0.5, rel=0.2)
    assert box[0] + box[2] / 2 == pytest.approx(width / 2, rel=0.1)


def test_small_faces_beside_a_large_one(yunet):
    frame = np.full((2400, 3200, 3), 90, np.uint8)
    frame[:2400, :2400] = resized(FACE, 2400)
    for top in (100, 900, 1700):
        frame[top : top + 160, 2800:2960] = resized(FACE, 160)
    *small, large = sorted(yunet.detect(frame), key=lambda box: box[2])
    assert large[2] > 1500 and len(small) == 3
    assert all(box[0] > 2750 and box[2] < 160 for box in small)


def test_faces_of_the_size_of_fer_2013(yunet):
    """Its pictures are the smallest that people have, and are faces from border to border."""
    grey = cv2.cvtColor(cv2.cvtColor(FACE, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    for detector in (yunet, HaarDetector()):
        (box,) = detector.detect(resized(grey, 48))
        assert 28 < box[2] < 48


def test_frames_of_any_size_give_the_same_boxes_each_time(yunet):
    draw = np.random.default_rng(1)
    sides = [(width, int(width * draw.uniform(1, 1.5))) for width in draw.integers(30, 130, 20)]
    frames = [resized(FACE, int(width), height) for width, height in sides]
    frames += [resized(FACE, 640, side) for side in (40, 50, 63, 64, 65)]
    found = [yunet.detect(frame) for frame in frames]
    assert sum(len(boxes) == 1 for boxes in found[:20]) >= 19
    for frame, boxes in zip(frames, found):
        yunet.detect(noise(300, 400))  # what lies in memory then is something else
        assert yunet.detect(frame) == boxes
        for left, top, side, _ in boxes:
            assert side <= 2 * min(frame.shape[:2])
            assert 0 <= left + side / 2 <= frame.shape[1]
            assert 0 <= top + side / 2 <= frame.shape[0]


@pytest.mark.parametrize("size", [(1, 1), (16, 4000), (4000, 16), (1, 20000), (45, 640), (640, 45)])
def test_frames_without_room_for_a_face_have_none_at_once(yunet, size):
    for detector in (yunet, HaarDetector()):
        start = time.process_time()  # whatever else the machine does
        assert detector.detect(np.full((*size, 3), 99, np.uint8)) == []
        assert time.process_time() - start < 2


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_turned_face_is_no_face(yunet, side):
    frame = resized(PORTRAIT, side)
    assert len(yunet.detect(frame)) == 1
    for turns in (1, 2, 3):
        assert yunet.detect(np.ascontiguousarray(np.rot90(frame, turns))) == []


def test_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="'mtcnn'"):
        open_detector("mtcnn")
