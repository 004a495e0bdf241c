import json
import zlib

import cv2
import numpy as np
import pytest

from utils.realtime import display
from utils.realtime.browser import BrowserCamera
from utils.realtime.faces import Face


@pytest.fixture
def camera(monkeypatch):
    widget = BrowserCamera(lambda frame: [Face((16, 12, 32, 24), {"sad": 0.9}, {"male": 0.7})])
    widget.sent = []
    monkeypatch.setattr(widget, "send", lambda content: widget.sent.append(content))
    return widget


def jpeg(frame):
    return memoryview(cv2.imencode(".jpg", frame)[1].tobytes())


def test_a_frame_is_answered_with_boxes_in_shares_of_the_picture(camera):
    frame = np.full((48, 64, 3), 128, np.uint8)
    camera._handle_custom_msg({"kind": "frame", "number": 7}, [jpeg(frame)])
    (answer,) = camera.sent
    assert answer["kind"] == "faces" and answer["number"] == 7 and answer["milliseconds"] > 0
    assert answer["boxes"] == [[0.25, 0.25, 0.5, 0.5]]
    (label,) = answer["labels"]
    assert label["text"] == "Sad, M"
    left, top, width, height = label["box"]
    assert 0 <= left and left + width <= 1 and 0 <= top and 0.1 < height <= 0.3
    json.dumps(answer)


@pytest.mark.parametrize(
    "emotions, said",
    [
        ([], "No face."),
        (["sad"], "1 face: Sad, M"),
        (["sad", "happy", "sad"], "3 faces: 2 Sad, M; Happy, M"),
        (["happy", "sad", "sad"], "3 faces: 2 Sad, M; Happy, M"),
        ("edcbaa", "6 faces: 2 A, M; B, M; C, M; D, M; others"),
    ],
)
def test_what_is_said_of_a_frame_changes_with_its_labels_alone(camera, emotions, said, monkeypatch):
    frame = np.zeros((48, 64, 3), np.uint8)
    for probability in (0.6, 0.9):
        faces = [Face((1, 1, 9, 9), {x: probability}, {"male": 0.7}) for x in emotions]
        monkeypatch.setattr(camera, "_label", lambda _, faces=faces: faces)
        camera._handle_custom_msg({"kind": "frame", "number": 1}, [jpeg(frame)])
    assert [answer["said"] for answer in camera.sent] == [said, said]


def test_the_browser_gets_the_colours_of_the_window(camera):
    for name, colour in (("box", display.BOX_COLOUR), ("text", display.TEXT_COLOUR)):
        assert tuple(bytes.fromhex(camera.colours[name][1:])) == colour[::-1]
    assert {"colours", "frame_width"} <= set(camera.get_state())


def test_a_frame_that_cannot_be_labelled_is_answered_too(camera, monkeypatch):
    def fails(frame):
        raise RuntimeError("no network")

    monkeypatch.setattr(camera, "_label", fails)
    content = {"kind": "frame", "number": 3}
    with pytest.raises(RuntimeError):
        camera._answer(camera, content, [jpeg(np.zeros((48, 64, 3), np.uint8))])
    assert [(x["kind"], x["number"]) for x in camera.sent] == [("error", 3)]


HUGE = bytearray(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes())
HUGE[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height of the header
HUGE[29:33] = zlib.crc32(HUGE[12:29]).to_bytes(4, "big")


@pytest.mark.parametrize(
    "buffers, reason",
    [([], "no image"), ([b"no jpeg"], "no image"), ([b""], "no image"), ([HUGE], "400,000,000")],
)
def test_what_is_no_picture_is_answered_with_an_error(camera, buffers, reason):
    buffers = [memoryview(content) for content in buffers]
    camera._handle_custom_msg({"kind": "frame", "number": 1}, buffers)
    assert reason in camera.sent[0]["text"]
    assert camera.sent[0]["kind"] == "error" and camera.sent[0]["number"] == 1
    camera._handle_custom_msg({"kind": "hello"}, [])
    assert len(camera.sent) == 1
