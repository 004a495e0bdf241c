"""Where the faces are in a frame: the report's Haar cascade, and YuNet, a small network.

Both give the box that the cascade gives, because the networks' crops are described against it.

Sources: Viola and Jones 2001; Wu, Peng and Yu 2023, doi:10.1007/s11633-023-1423-y, weights (MIT)
from OpenCV's model zoo.
"""

import hashlib
import http.client
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils import config
from utils.files import CERTIFICATES, check_replaceable, replaced_when_done, sha256_of
from utils.preprocessing import rescale

DETECTORS = ("yunet", "haar")
CASCADE = "haarcascade_frontalface_default.xml"
YUNET_NAME = "face_detection_yunet_2023mar.onnx"
YUNET_URL = (
    f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_NAME}"
)
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Neither detector knows faces below 20 pixels, so a small picture is enlarged and not reduced:
# YuNet finds 73 % of FER-2013's faces in 48x48 pixels, 97 % once these are 160x160.
SHORTER_SIDE = 160
MOST_ENLARGED = 4
# Where a side has 64 pixels or less, YuNet reads memory that is not its own.
LEAST_SIDE = 96
# Up to this size YuNet is as sure of a face as of a small one; larger ones, up to the whole
# picture, are searched in copies that are coarser by this factor.
LARGEST_FACE = 400
COARSER = 4
# YuNet takes nearly a third of turned faces for upright ones, but is less sure of them, and hardly
# any small ones. Where it is not quite sure it searches again in the other three quarter turns:
# of 2,818 upright faces three are left out by that, of 2,757 turned ones all but 51.
LEAST_SCORE, SURE = 0.7, 0.92
SMALLEST_TURNED = 40

# Networks are trained on crops that are described against the Haar box (see CROPS).
# Measured on validation images of both data sets (data/measure_crops.py): that box is 2.66 times
# as wide as the mean of the distances eye to eye and eyes to mouth, and the middle of eyes and
# mouth lies 7 % of the box below its centre.
BOX_BY_FEATURES = 2.66
CENTRE_ABOVE = 0.068


@dataclass
class HaarDetector:
    """The Haar cascade, as in the report, with other parameters.

    The report's (1.03, 10, 180) misses every face whose box, by itself, has less than 180
    pixels a side. Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    scale_factor : float
        Step between the searched sizes; nearer to 1 finds more and takes longer.
    min_neighbors : int
        Hits that must agree; more means fewer false faces.
    min_size : int
        Side of the smallest face in pixels; smaller in frames below 320 pixels. Frames are reduced
        until such a face has `searched_size`, so larger is faster.
    searched_size : int
        Side in pixels, at least the cascade's 24.
    """

    scale_factor: float = 1.1
    min_neighbors: int = 3
    min_size: int = 60
    searched_size: int = 30

    def __post_init__(self):
        # Read here, because under Windows OpenCV opens no file below a non-ASCII folder.
        text = (Path(cv2.data.haarcascades) / CASCADE).read_text(encoding="utf-8")
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        self.cascade = cv2.CascadeClassifier()
        if not self.cascade.read(storage.getFirstTopLevelNode()):
            raise ValueError(f"{CASCADE} of this OpenCV is no cascade: install opencv-python again")

    def detect(self, frame, known=()):
        """Find faces in a frame, uint8 BGR, whatever is known of them.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if min(frame.shape[:2]) < self.searched_size:
            return []
        scale = finest_scale(frame, self.searched_size / self.min_size)
        smallest = (self.searched_size, self.searched_size)
        boxes = self.cascade.detectMultiScale(
            rescale(grey, scale), self.scale_factor, self.min_neighbors, minSize=smallest
        )
        # The cascade runs in threads, whose order changes from call to call.
        return sorted(tuple(int(round(value / scale)) for value in box) for box in boxes)


def fetch_yunet():
    """Path of the weights (233 kB), downloaded at first use and checked each time.

    Raises
    ------
    ConnectionError
        If they are not there and cannot be downloaded.
    ValueError
        If the file is another one.
    """
    path = config.models_dir() / YUNET_NAME
    advice = (
        f"connect this machine once, or put {YUNET_NAME} of OpenCV's model zoo into {path.parent}"
    )
    if not path.is_file():
        try:
            check_replaceable(path)
            with urllib.request.urlopen(YUNET_URL, timeout=20) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                advice += f"; {CERTIFICATES}"
            raise ConnectionError(f"YuNet could not be downloaded ({error}): {advice}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != YUNET_SHA256:  # the page of a network that asks to log in, for instance
            raise ConnectionError(
                f"{YUNET_URL} gave something else than YuNet (sha256 {found}): {advice}"
            )
        with replaced_when_done(path) as partial:
            partial.write_bytes(content)
    found = sha256_of(path)
    if found != YUNET_SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {YUNET_SHA256}: delete it, and it is downloaded "
            "again"
        )
    return path


class YuNetDetector:
    """A small network that also finds faces that are tilted, in profile or partly covered.

    A face that is turned by a quarter or more is left out: the networks cannot read it. Errors: see
    `fetch_yunet`. Taught in notebooks/05_realtime.ipynb.
    """

    min_size, searched_size = 40, 20  # as in `HaarDetector`

    def __init__(self):
        # Read from memory: under Windows OpenCV opens no file below a non-ASCII folder.
        weights = np.frombuffer(fetch_yunet().read_bytes(), np.uint8)
        # Two, as another size each time would cost more than a small search itself.
        self._network, self._of_turned = (
            cv2.FaceDetectorYN.create("onnx", weights, np.empty(0, np.uint8), size, LEAST_SCORE)
            for size in ((320, 320), (LEAST_SIDE, LEAST_SIDE))
        )

    def detect(self, frame, known=()):
        """Find faces in a frame, uint8 BGR, of any size.

        Parameters
        ----------
        frame : numpy.ndarray
        known : list of tuple of int
            Boxes of upright faces in the frame before: whether these are turned, which is the
            dearest question, is not asked again.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels, of the box that the Haar cascade would give.
        """
        boxes = []
        for score, box, doubtful in sorted(self._find(frame), reverse=True):
            # A part of a large face, or the same face in another scale.
            if _is_one_of(boxes, box):
                continue
            if not doubtful or _is_one_of(known, box) or not self._is_turned(frame, box, score):
                boxes.append(box)
        return boxes

    def _find(self, frame):
        """Yield score and box of what may be a face, and whether it may be a turned one."""
        shorter = min(frame.shape[:2])
        if shorter < self.searched_size:
            return
        scale = finest_scale(frame, self.searched_size / self.min_size)
        picture = rescale(frame, scale)
        while True:
            for score, points in _search(self._network, picture):
                box = _haar_like_box(points / scale)
                side = box[2] * scale
                if side >= self.searched_size and _is_in(box, frame):
                    yield score, box, score < SURE and side >= SMALLEST_TURNED
            if shorter * scale <= LARGEST_FACE:
                return
            scale, picture = scale / COARSER, rescale(picture, 1 / COARSER)

    def _is_turned(self, frame, box, score):
        """Say whether YuNet is surer of a face once the picture is turned by quarters."""
        left, top, side, _ = box
        rows, columns = (
            slice(max(0, start - side // 4), start + side + side // 4) for start in (top, left)
        )
        face = frame[rows, columns]
        face = rescale(face, LEAST_SIDE / max(face.shape[:2]))
        return any(
            turned > score
            for turns in (1, 2, 3)
            for turned, _ in _search(self._of_turned, np.rot90(face, turns))
        )


def finest_scale(frame, scale):
    """By how much a frame is reduced or enlarged in which faces are searched.

    `scale` is what a frame of the usual size needs; small ones are reduced less, or enlarged.
    """
    enough = min(MOST_ENLARGED, SHORTER_SIDE / min(frame.shape[:2]))
    return max(scale, enough)


def open_detector(name):
    """Make a detector by name; where YuNet cannot be had, say so and take the cascade.

    ValueError if the name is none of `DETECTORS`.
    """
    if name not in DETECTORS:
        raise ValueError(f"detector is {name!r}, expected one of {DETECTORS}")
    if name == "yunet":
        try:
            return YuNetDetector()
        except ConnectionError as error:
            print(f"{error}; going on with the Haar cascade")
    return HaarDetector()


def _search(network, picture):
    """Yield the score and the five points, float (5, 2), of each face that YuNet sees."""
    below, right = (max(0, LEAST_SIDE - side) for side in picture.shape[:2])
    picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT)
    network.setInputSize(picture.shape[1::-1])
    _, rows = network.detect(picture)
    for row in () if rows is None else rows:
        if np.isfinite(row).all():
            yield float(row[14]), row[4:14].reshape(5, 2)


def _haar_like_box(points):
    """The box for right eye, left eye, nose tip, right and left corner of the mouth."""
    right_eye, left_eye, _, right_mouth, left_mouth = points
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    distances = np.linalg.norm(right_eye - left_eye), np.linalg.norm(eyes - mouth)
    side = BOX_BY_FEATURES * np.mean(distances)
    centre = (eyes + mouth) / 2 - (0, CENTRE_ABOVE * side)
    return tuple(int(round(value)) for value in (*(centre - side / 2), side, side))


def has_centre_of(box, other):
    """Say whether the middle of the other box lies in this one: then both are of one face."""
    left, top, width, height = box
    x, y = other[0] + other[2] / 2, other[1] + other[3] / 2
    return left <= x <= left + width and top <= y <= top + height


def _is_one_of(boxes, box):
    """Say whether a box is of the same face as one of these."""
    return any(has_centre_of(*pair) for x in boxes for pair in ((x, box), (box, x)))


def _is_in(box, frame):
    """Say whether a box has its middle in the frame and is no larger than a face there can be."""
    height, width = frame.shape[:2]
    return has_centre_of((0, 0, width, height), box) and box[2] <= 2 * min(height, width)
