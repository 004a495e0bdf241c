"""What a person sees: boxes and labels on a frame, and a window."""

import os
import subprocess
import sys

import cv2

BOX_COLOUR = (80, 200, 60)  # BGR
TEXT_COLOUR = (255, 255, 255)
WAIT_FOR_DISPLAY = 10  # seconds
WINDOW_TITLE = "gender and emotion (q ends)"


def annotate(frame, faces, note=""):
    """Draw boxes and labels on a copy of a frame.

    Parameters
    ----------
    frame : numpy.ndarray, uint8, (height, width, 3) BGR
    faces : list of utils.realtime.faces.Face
    note : str
        Written in the corner.

    Returns
    -------
    numpy.ndarray, uint8, (height, width, 3) BGR
    """
    picture = frame.copy()
    scale = max(0.4, min(frame.shape[:2]) / 500)
    for face in faces:
        left, top, width, height = face.box
        cv2.rectangle(picture, (left, top), (left + width, top + height), BOX_COLOUR, 2)
        # Over the box as in the report; inside it where the box touches the upper border.
        bottom = top if top > 40 * scale else max(top, 0) + int(40 * scale)
        _write(picture, face.caption, left, bottom, scale)
    if note:
        _write(picture, note, 4, frame.shape[0] - 2, 0.6 * scale)
    return picture


def _write(picture, text, left, bottom, scale):
    thickness = max(1, round(2 * scale))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    left = max(0, min(left, picture.shape[1] - width - 4))
    margin = max(3, height // 3)
    cv2.rectangle(
        picture, (left, bottom - height - 2 * margin), (left + width + 4, bottom), BOX_COLOUR, -1
    )
    cv2.putText(
        picture, text, (left + 2, bottom - margin), cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT_COLOUR,
        thickness, cv2.LINE_AA,
    )  # fmt: skip


def can_open_window():
    """Say whether a window opens; where no display answers, OpenCV would abort the process."""
    if not sys.platform.startswith("linux"):
        return True
    if not os.environ.get("DISPLAY"):  # OpenCV's wheel has no Wayland support
        return False
    attempt = [sys.executable, "-c", "import cv2; cv2.namedWindow('test')"]
    try:
        return not subprocess.run(attempt, capture_output=True, timeout=WAIT_FOR_DISPLAY).returncode
    except subprocess.TimeoutExpired:
        return False


def show_in_window(picture):
    """Show a frame in a window; return False when `q` was pressed or the window was closed."""
    cv2.imshow(WINDOW_TITLE, picture)
    pressed = cv2.waitKey(1) & 0xFF
    return pressed != ord("q") and _window_is_open()


def wait_for_window():
    """Leave the last frame in the window until a key is pressed or it is closed."""
    while _window_is_open() and cv2.waitKey(50) < 0:
        pass


def _window_is_open():
    return cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) >= 1
