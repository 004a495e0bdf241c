"""A camera in the browser: where JupyterLab runs on another machine, that one has no camera."""

import threading
import time
from collections import Counter
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from utils.files import decode_image
from utils.realtime.display import BOX_COLOUR, TEXT_COLOUR, place_labels

HERE = Path(__file__).parent
MOST_SAID = 4  # different labels in one sentence of a screen reader


def _css_colour(bgr):
    return "#{2:02x}{1:02x}{0:02x}".format(*bgr)


class BrowserCamera(anywidget.AnyWidget):
    """Shows the browser's camera with a box and a label for each face.

    Frames go to the kernel one at a time, reduced and as JPEG; nothing is stored. Taught in
    notebooks/05_realtime.ipynb.

    Parameters
    ----------
    label : callable
        Takes a frame, uint8 (height, width, 3) BGR, and returns a list of faces: see
        `utils.realtime.engine.Engine.label`.
    frame_width : int
        Width in pixels of the frames that are sent.
    """

    _esm = HERE / "browser.js"
    _css = HERE / "browser.css"
    frame_width = traitlets.Int(480).tag(sync=True)
    colours = traitlets.Dict({"box": _css_colour(BOX_COLOUR), "text": _css_colour(TEXT_COLOUR)})
    colours.tag(sync=True)

    def __init__(self, label, **traits):
        super().__init__(**traits)
        self._label = label
        # ipykernel 7 may run callbacks in threads of their own.
        self._lock = threading.Lock()
        self.on_msg(self._answer)

    def _answer(self, _, content, buffers):
        if content.get("kind") != "frame":
            return
        with self._lock:
            begin = time.perf_counter()
            try:
                frame = decode_image(bytes(buffers[0]) if buffers else b"")
            except ValueError as error:
                self.send({**content, "kind": "error", "text": f"The kernel got {error}."})
                return
            # The browser waits for an answer: it gets one also where labelling fails.
            failed = "The kernel could not label this frame: JupyterLab's log has its message."
            answer = {**content, "kind": "error", "text": failed}
            try:
                answer |= {"kind": "faces", **_drawing(self._label(frame), *frame.shape[:2])}
                answer["milliseconds"] = 1000 * (time.perf_counter() - begin)
            finally:
                self.send(answer)


def _drawing(faces, height, width):
    """What the browser draws, in shares of the picture, and what its screen reader says."""
    sides = (width, height, width, height)
    number = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
    labels = sorted(Counter(face.label for face in faces).items(), key=lambda x: (-x[1], x[0]))
    counted = [label if times == 1 else f"{times} {label}" for label, times in labels]
    if len(counted) > MOST_SAID:
        counted[MOST_SAID:] = ["others"]
    return {
        "boxes": [list(np.divide(face.box, sides)) for face in faces],
        "labels": [
            {"text": text, "box": list(np.divide(place, sides))}
            for text, *place in place_labels(faces, height, width)
        ],
        "said": f"{number}: {'; '.join(counted)}" if faces else "No face.",
    }
