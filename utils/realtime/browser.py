"""A camera in the browser: where JupyterLab runs on another machine, that one has no camera."""

import threading
import time
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from utils.files import decode_image

HERE = Path(__file__).parent


class BrowserCamera(anywidget.AnyWidget):
    """Shows the browser's camera with boxes and labels over each face.

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
            height, width = frame.shape[:2]
            # The browser waits for an answer: it gets one also where labelling fails.
            failed = "The kernel could not label this frame: JupyterLab's log has its message."
            answer = {**content, "kind": "error", "text": failed}
            try:
                faces = [
                    {
                        "box": list(np.divide(face.box, (width, height, width, height))),
                        "text": face.caption,
                    }
                    for face in self._label(frame)
                ]
                milliseconds = 1000 * (time.perf_counter() - begin)
                answer |= {"kind": "faces", "faces": faces, "milliseconds": milliseconds}
            finally:
                self.send(answer)
