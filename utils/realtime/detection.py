"""Where the faces are in a frame: the report's Haar cascade, and YuNet, a small network.

Both give the box that the cascade gives, because the networks' crops are described against it.

Sources: Viola and Jones 2001; Wu, Peng and Yu 2023, doi:10.1007/s11633-023-1423-y, weights (MIT)
from OpenCV's model zoo.
"""

import hashlib
import http.client
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils import config
from utils.data.preprocessing import shrink
from utils.files import replaced_when_done, sha256_of

DETECTORS = ("yunet", "haar")
CASCADE = "haarcascade_frontalface_default.xml"
YUNET_NAME = "face_detection_yunet_2023mar.onnx"
YUNET_URL = (
    f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_NAME}"
)
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Networks are trained on crops that are described against the Haar box (CROPS of utils.data).
# Measured on validation images of both data sets (data/measure_crops.py): that box is 2.66 times
# as wide as the mean of the distances eye to eye and eyes to mouth, and the middle of eyes and
# mouth lies 7 % of the box below its centre.
BOX_BY_FEATURES = 2.66
CENTRE_ABOVE = 0.068


@dataclass
class HaarDetector:
    """The Haar cascade, as in the report, with other parameters.

    The report's (1.03, 10, 180) misses every face smaller than 180 pixels. Taught in
    notebooks/05_realtime.ipynb.

    Parameters
    ----------
    scale_factor : float
        Step between the searched sizes; nearer to 1 finds more and takes longer.
    min_neighbors : int
        Hits that must agree; more means fewer false faces.
    min_size : int
        Side of the smallest face in pixels. Frames are reduced until such a face has
        `searched_size`, so larger is faster.
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

    def detect(self, frame):
        """Find faces in a frame, uint8 BGR.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        grey, scale = shrink(grey, self.searched_size / self.min_size)
        smallest = round(self.min_size * scale)
        boxes = self.cascade.detectMultiScale(
            grey, self.scale_factor, self.min_neighbors, minSize=(smallest, smallest)
        )
        return [tuple(int(round(value / scale)) for value in box) for box in boxes]


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
            with urllib.request.urlopen(YUNET_URL, timeout=20) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
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
    """A small network that also finds faces that are turned, tilted or partly covered.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    score_threshold : float
        How sure the network must be.
    min_size : int
        Side of the smallest face in pixels. Frames are reduced until such a face has
        `searched_size`, so larger is faster.
    searched_size : int
        Side in pixels.

    Raises
    ------
    ConnectionError, ValueError
        See `fetch_yunet`.
    """

    def __init__(self, score_threshold=0.7, min_size=40, searched_size=20):
        weights = np.frombuffer(fetch_yunet().read_bytes(), np.uint8)
        # Read from memory: under Windows OpenCV opens no file below a non-ASCII folder.
        self._network = cv2.FaceDetectorYN.create(
            "onnx", weights, np.empty(0, np.uint8), (320, 320), score_threshold
        )
        self.min_size = min_size
        self.searched_size = searched_size

    def detect(self, frame):
        """Find faces in a frame, uint8 BGR.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels, of the box that the Haar cascade would give.
        """
        frame, scale = shrink(frame, self.searched_size / self.min_size)
        self._network.setInputSize(frame.shape[1::-1])
        _, rows = self._network.detect(frame)
        if rows is None:
            return []
        boxes = [_haar_like_box(row[4:14].reshape(5, 2) / scale) for row in rows]
        return [box for box in boxes if box[2] >= self.min_size]


def open_detector(name):
    """Make a detector by name; where YuNet cannot be had, say so and take the cascade.

    Parameters
    ----------
    name : {"yunet", "haar"}

    Returns
    -------
    YuNetDetector or HaarDetector
    """
    if name not in DETECTORS:
        raise ValueError(f"detector is {name!r}, expected one of {DETECTORS}")
    if name == "yunet":
        try:
            return YuNetDetector()
        except ConnectionError as error:
            print(f"{error}; going on with the Haar cascade")
    return HaarDetector()


def _haar_like_box(points):
    """The box for right eye, left eye, nose tip, right and left corner of the mouth."""
    right_eye, left_eye, _, right_mouth, left_mouth = points
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    distances = np.linalg.norm(right_eye - left_eye), np.linalg.norm(eyes - mouth)
    side = BOX_BY_FEATURES * np.mean(distances)
    centre = (eyes + mouth) / 2 - (0, CENTRE_ABOVE * side)
    return tuple(int(round(value)) for value in (*(centre - side / 2), side, side))
