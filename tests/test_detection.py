import numpy as np
import pytest

from utils import config
from utils.realtime import detection
from utils.realtime.detection import HaarDetector, _haar_like_box, fetch_yunet, open_detector


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
    def no_network(url, timeout):
        raise detection.urllib.error.URLError("unreachable")

    monkeypatch.setattr(detection.urllib.request, "urlopen", no_network)
    with pytest.raises(ConnectionError, match="connect this machine once"):
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


def test_boxes_come_back_in_the_pixels_of_the_frame():
    points = np.array([[80, 100], [120, 100], [100, 120], [90, 140], [110, 140]], float)
    row = np.concatenate([[0, 0, 0, 0], points.ravel() / 2, [0.9]])
    sizes = []
    yunet = detection.YuNetDetector.__new__(detection.YuNetDetector)
    yunet.min_size, yunet.searched_size = 40, 20  # the frame is halved

    class Network:
        rows = np.stack([row, row * 0.2])  # the second face is 21 pixels wide

        def setInputSize(self, size):  # noqa: N802 (OpenCV's name)
            sizes.append(size)

        def detect(self, frame):
            return 1, self.rows

    yunet._network = Network()
    assert yunet.detect(np.zeros((200, 300, 3), np.uint8)) == [_haar_like_box(points)]
    assert sizes == [(150, 100)]
    yunet._network.rows = None
    assert yunet.detect(np.zeros((200, 300, 3), np.uint8)) == []


def test_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="'mtcnn'"):
        open_detector("mtcnn")


def test_box_from_features_by_hand():
    # Eyes 40 apart, mouth 40 below them: a box of 2.66 x 40, the middle of all 6.8 % below centre.
    points = np.array([[80, 100], [120, 100], [100, 120], [90, 140], [110, 140]], float)
    side = 2.66 * 40
    left, top, width, height = _haar_like_box(points)
    assert width == height == round(side)
    assert left == round(100 - side / 2)
    assert top == round(120 - 0.068 * side - side / 2)
