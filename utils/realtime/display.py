"""What a person sees: boxes and labels on a frame, and a window."""

import os
import subprocess
import sys
import unicodedata
from functools import lru_cache
from math import ceil, log
from typing import NamedTuple

import cv2
import numpy as np

from utils.preprocessing import rescale

# BGR. Words are dark on green, white on dark: at least 4.5 : 1, see WCAG 2.2, 1.4.3.
BOX_COLOUR = (80, 200, 60)
TEXT_COLOUR = (24, 24, 24)
MARK_COLOURS = ((255, 255, 255), TEXT_COLOUR)
DOT_COLOUR = (70, 70, 255)
MARK = "   recording"  # the dot stands in the spaces
FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_CAPITAL = 21  # pixels, height of its capitals at scale 1
PLATE = 1.75  # height of a label, in capitals
SMALLEST_CAPITAL = 10  # pixels
SIZE_STEP = 1.25
WAIT_FOR_DISPLAY = 10  # seconds
WINDOW_TITLE = "gender and emotion (q ends)"
LARGEST_WINDOW = (720, 1280)  # height, width: fits most screens


class Label(NamedTuple):
    """A text and its place: left, top, width, height in pixels."""

    text: str
    left: int
    top: int
    width: int
    height: int


def annotate(frame, faces, note="", recording=False):
    """Draw boxes and labels on a copy of a frame.

    Parameters
    ----------
    frame : numpy.ndarray, uint8, (height, width, 3) BGR
    faces : list of utils.realtime.faces.Face
    note : str
        Written in the lower left corner.
    recording : bool
        Whether a red dot and the word stand in the upper left corner.

    Returns
    -------
    numpy.ndarray, uint8, (height, width, 3) BGR
    """
    picture = frame.copy()
    height, width = frame.shape[:2]
    side = min(height, width)
    capital = max(SMALLEST_CAPITAL, side / 45)
    line = max(1, round(side / 240))
    for face in faces:
        left, top, box_width, box_height = map(int, face.box)
        right, bottom = left + box_width, top + box_height
        cv2.rectangle(picture, (left, top), (right, bottom), BOX_COLOUR, line)
    corners = []
    if note and (plate := _fitting_height(note, capital, height, width)):
        corners.append(Label(note, 0, height - plate, _text_width(note, plate), plate))
    if recording:
        plate = _fitting_height(MARK, capital, height, width)
        word, plate = (MARK, plate) if plate else ("", side // 2)
        corners.append(Label(word, 0, 0, _text_width(word, plate), plate))
    for label in [*place_labels(faces, height, width, corners), *corners]:
        _write(picture, label, *(MARK_COLOURS if label.text == MARK else ()))
    if recording:
        centre = (plate // 2, plate // 2)
        cv2.circle(picture, centre, round(0.3 * plate), DOT_COLOUR, -1, cv2.LINE_AA)
    return picture


def place_labels(faces, height, width, corners=()):
    """Say what is written for each face, and where.

    A label stands over its box, else under it, else inside; it moves sideways as far as it must.
    No label covers another, or the middle of a face. Each face gets its label first, then the
    caption where there is room; a face without room for its label gets none. Faces of lower
    track number choose first, so that labels rest while others come and go.

    Parameters
    ----------
    faces : list of utils.realtime.faces.Face
    height, width : int
        Of the picture, in pixels.
    corners : list of Label
        What is written already.

    Returns
    -------
    list of Label
        Inside the picture, in the order of their faces' track numbers.
    """
    faces = sorted(faces, key=lambda face: face.track)
    boxes = [_visible(face.box, height, width) for face in faces]
    # Eyes, nose and mouth; the rest of a box is hair, chin and background.
    taken = [
        (left + (right - left) // 8, top + (bottom - top) // 4,
         right - (right - left) // 8, bottom - (bottom - top) // 8)
        for left, top, right, bottom in boxes
    ]  # fmt: skip
    taken += [_surroundings(label) for label in corners]
    labels = {}

    def write(number, text, top, plate):
        left, _, right, _ = boxes[number]
        others = [_surroundings(label) for x, label in labels.items() if x != number]
        label = _beside(text, (left, right), top, plate, width, taken + others)
        if label:
            labels[number] = label
        return label

    for number, (face, (left, top, right, bottom)) in enumerate(zip(faces, boxes)):
        plate = _height_for(face.label, bottom - top, height, width)
        if plate and left < right and top < bottom:
            places = max(top - plate, 0), min(bottom, height - plate), top
            any(write(number, face.label, place, plate) for place in places)
    # Where there is room left, what else is known.
    for number, label in labels.items():
        write(number, faces[number].caption, label.top, label.height)
    return list(labels.values())


def _visible(box, height, width):
    left, top, box_width, box_height = map(int, box)
    right, bottom = left + box_width, top + box_height
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _edges(label):
    return label.left, label.top, label.left + label.width, label.top + label.height


def _surroundings(label):
    """The edges with a gap around them: labels that touch read as one."""
    left, top, right, bottom = _edges(label)
    gap = label.height // 6
    return left - gap, top - gap, right + gap, bottom + gap


def _height_for(text, face_height, height, width):
    """Height of a label by its face and the picture, or 0.

    Few sizes, so that letters do not flicker where a box grows and shrinks by a pixel.
    """
    side = min(height, width)
    smallest = max(min(SMALLEST_CAPITAL, side / 8), side / 60)
    largest = max(smallest, side / 24)
    wanted = min(max(face_height / 8, smallest), largest)
    capital = smallest * SIZE_STEP ** int(log(wanted / smallest, SIZE_STEP))
    return _fitting_height(text, capital, height, width)


def _fitting_height(text, capital, height, width):
    """Height of a label that fits into the picture, or 0 where no letter could be read."""
    plate = min(ceil(PLATE * capital), height)
    legible = PLATE * SMALLEST_CAPITAL / 2
    while plate >= legible and _text_width(text, plate) > width:
        plate -= 1
    return plate if plate >= legible else 0


def _beside(text, sides, top, plate, picture_width, taken):
    """A label over at least half of its box's width, as far left as its box if it may, or None."""
    width = _text_width(text, plate)
    if width > picture_width:
        return None
    left, right = sides
    preferred = min(left, picture_width - width)
    half = (right - left) // 2
    first = max(min(left, right - width) - half, 0)
    last = min(max(left, right - width) + half, picture_width - width)
    bottom = top + plate
    blocked = [
        (start, end)
        for start, upper, end, lower in taken
        if upper < bottom and lower > top and start < last + width and end > first
    ]
    places = [preferred, *(start - width for start, _ in blocked), *(end for _, end in blocked)]
    free = [
        place
        for place in places
        if first <= place <= last
        and all(end <= place or start >= place + width for start, end in blocked)
    ]
    if not free:
        return None
    return Label(text, min(free, key=lambda place: abs(place - preferred)), top, width, plate)


@lru_cache(maxsize=4096)
def _text_width(text, plate):
    return sum(_advance(x, plate) for x in _drawable(text)) + 2 * (plate // 5)


def _drawable(text):
    """The same in the letters that OpenCV has: without accents, "?" for other scripts."""
    plain = "".join(x for x in unicodedata.normalize("NFKD", text) if not unicodedata.combining(x))
    return plain.encode("ascii", "replace").decode()


def _advance(character, plate):
    (width, _), _ = cv2.getTextSize(character, FONT, 10, 1)
    return round((width - 1) * plate / (10 * PLATE * FONT_CAPITAL))


@lru_cache(maxsize=512)
def _glyph(character, plate, colour, plate_colour):
    """A character on its piece of plate, drawn once: thick smooth lines cost 20 times thin ones."""
    scale = plate / PLATE / FONT_CAPITAL
    thickness = max(1, round(2 * scale))
    glyph = np.full((plate, _advance(character, plate), 3), plate_colour, np.uint8)
    start = (0, plate - round(0.26 * plate))
    for _ in range(2):  # OpenCV draws thin smooth lines at 80 to 95 % of their colour
        cv2.putText(glyph, character, start, FONT, scale, colour, thickness, cv2.LINE_AA)
    return glyph


def _write(picture, label, colour=TEXT_COLOUR, plate_colour=BOX_COLOUR):
    left, top, right, bottom = _edges(label)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), plate_colour, -1)
    left += label.height // 5
    for character in _drawable(label.text):
        glyph = _glyph(character, label.height, colour, plate_colour)
        picture[top:bottom, left : left + glyph.shape[1]] = glyph
        left += glyph.shape[1]


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
    """Show a frame in a window; return False when `q` was pressed or the window was closed.

    A frame that is larger than most screens is shown smaller.
    """
    scale = min(1, *(most / side for most, side in zip(LARGEST_WINDOW, picture.shape)))
    cv2.imshow(WINDOW_TITLE, rescale(picture, scale))
    pressed = cv2.waitKey(1) & 0xFF
    return pressed != ord("q") and _window_is_open()


def wait_for_window():
    """Leave the last frame in the window until a key is pressed or it is closed."""
    while _window_is_open() and cv2.waitKey(50) < 0:
        pass


def _window_is_open():
    # OpenCV's windows cannot be closed on macOS, where one that is minimised counts as invisible.
    visible = cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) >= 1
    return visible or sys.platform == "darwin"
