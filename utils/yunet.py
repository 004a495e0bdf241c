"""YuNet, a face detector that also finds faces that are turned, tilted or partly covered.

Source: Wu, Peng and Yu 2023, doi:10.1007/s11633-023-1423-y; weights (MIT) from OpenCV's model zoo.
"""

import hashlib
import urllib.error
import urllib.request

import cv2
import numpy as np

from utils import config
from utils.files import replaced_when_done

NAME = "face_detection_yunet_2023mar.onnx"
URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{NAME}"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Networks are trained on crops that are described against the Haar box (CROPS in utils/data.py).
# Measured on validation images of both data sets (data/measure_crops.py): that box is 2.66 times
# as wide as the mean of the distances eye to eye and eyes to mouth, and the middle of eyes and
# mouth lies 7 % of the box below its centre.
BOX_BY_FEATURES = 2.66
CENTRE_ABOVE = 0.068


def fetch_weights():
    """Path of the weights (233 kB), downloaded at first use and checked each time.

    Raises
    ------
    ConnectionError
        If they are not there and cannot be downloaded.
    ValueError
        If the file is another one.
    """
    path = config.models_dir() / NAME
    if not path.is_file():
        try:
            with urllib.request.urlopen(URL, timeout=20) as response:
                content = response.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise ConnectionError(
                f"YuNet could not be downloaded ({error}): connect this machine once, put {NAME} "
                f"of OpenCV's model zoo into {path.parent}, or use the Haar cascade"
            ) from error
        with replaced_when_done(path) as partial:
            partial.write_bytes(content)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {SHA256}: delete it, and it is downloaded again"
        )
    return path


class YuNetDetector:
    """Finds faces by a small network.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    score_threshold : float
        How sure the network must be.
    min_size : int
        Side of the smallest face in pixels.

    Raises
    ------
    ConnectionError, ValueError
        See `fetch_weights`.
    """

    def __init__(self, score_threshold=0.7, min_size=30):
        weights = np.frombuffer(fetch_weights().read_bytes(), np.uint8)
        # Read from memory: under Windows OpenCV opens no file below a non-ASCII folder.
        self._network = cv2.FaceDetectorYN.create(
            "onnx", weights, np.empty(0, np.uint8), (320, 320), score_threshold
        )
        self.min_size = min_size

    def detect(self, frame):
        """Find faces in a frame, uint8 BGR.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels, of the box that the Haar cascade would give.
        """
        self._network.setInputSize(frame.shape[1::-1])
        _, rows = self._network.detect(frame)
        if rows is None:
            return []
        boxes = [_haar_like_box(row[4:14].reshape(5, 2)) for row in rows]
        return [box for box in boxes if box[2] >= self.min_size]


def _haar_like_box(points):
    """The box for right eye, left eye, nose tip, right and left corner of the mouth."""
    right_eye, left_eye, _, right_mouth, left_mouth = points
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    distances = np.linalg.norm(right_eye - left_eye), np.linalg.norm(eyes - mouth)
    side = BOX_BY_FEATURES * np.mean(distances)
    centre = (eyes + mouth) / 2 - (0, CENTRE_ABOVE * side)
    return tuple(int(round(value)) for value in (*(centre - side / 2), side, side))
