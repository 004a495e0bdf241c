"""Faces in a frame: where they are, and what the two networks say of them."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from utils.models import load_pretrained
from utils.preprocessing import crop_face, prepare_face

DEFAULT_EMOTION_MODEL = "emotion_compact"
DEFAULT_GENDER_MODEL = "gender_compact"
CASCADE = "haarcascade_frontalface_default.xml"


@dataclass(frozen=True)
class Face:
    """A face with its labels.

    Parameters
    ----------
    box : tuple of int
        Left, top, width, height in pixels.
    emotion, gender : str
        The most probable classes.
    emotion_probabilities, gender_probabilities : dict of str to float
    """

    box: tuple
    emotion: str
    emotion_probabilities: dict
    gender: str
    gender_probabilities: dict

    @property
    def label(self):
        """What the report writes over a face: "Happy, F"."""
        return f"{self.emotion.capitalize()}, {self.gender[0].upper()}"

    @property
    def confidences(self):
        """Probability of the emotion and of the gender that are shown."""
        return self.emotion_probabilities[self.emotion], self.gender_probabilities[self.gender]


class FaceDetector:
    """The Haar cascade that the report uses.

    Source: Viola and Jones 2001. The report's (1.03, 10, minSize 180) misses every face smaller
    than 180 pixels. Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    scale_factor : float
        Step between the searched sizes; nearer to 1 finds more and takes longer.
    min_neighbors : int
        Hits that must agree; more means fewer false faces.
    min_size : int
        Side of the smallest face in pixels.
    """

    def __init__(self, scale_factor=1.1, min_neighbors=5, min_size=60):
        self.scale_factor = scale_factor
        self.min_neighbors = min_neighbors
        self.min_size = min_size
        # Read here, because under Windows OpenCV opens no file below a non-ASCII folder.
        text = (Path(cv2.data.haarcascades) / CASCADE).read_text(encoding="utf-8")
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        self._cascade = cv2.CascadeClassifier()
        if not self._cascade.read(storage.getFirstTopLevelNode()):
            raise ValueError(f"{CASCADE} of this OpenCV is no cascade: install opencv-python again")

    def detect(self, frame):
        """Find faces in a frame, uint8 BGR.

        Returns
        -------
        list of tuple of int
            Left, top, width, height in pixels.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        boxes = self._cascade.detectMultiScale(
            grey, self.scale_factor, self.min_neighbors, minSize=(self.min_size, self.min_size)
        )
        return [tuple(int(value) for value in box) for box in boxes]


class FaceClassifier:
    """Both networks, each called once for all faces of a frame.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    emotion, gender : str or tuple
        Name of a pretrained model, or (keras.Model, ModelContract).
    """

    def __init__(self, emotion=DEFAULT_EMOTION_MODEL, gender=DEFAULT_GENDER_MODEL):
        self._emotion, self._gender = (
            _Network(*(load_pretrained(model) if isinstance(model, str) else model))
            for model in (emotion, gender)
        )

    def classify(self, frame, boxes):
        """Label the faces in `boxes`.

        Parameters
        ----------
        frame : numpy.ndarray, uint8, (height, width, 3) BGR
        boxes : list of tuple of int
            Left, top, width, height; see `FaceDetector.detect`.

        Returns
        -------
        list of Face
        """
        if not boxes:
            return []
        return [
            Face(
                box,
                max(emotions, key=emotions.get),
                emotions,
                max(genders, key=genders.get),
                genders,
            )
            for box, emotions, genders in zip(
                boxes, self._emotion.predict(frame, boxes), self._gender.predict(frame, boxes)
            )
        ]


class _Network:
    """A model behind a compiled call: `model.predict` costs 50 times as much for one face."""

    def __init__(self, model, contract):
        self.contract = contract
        signature = tf.TensorSpec((None, *contract.face_input.shape), tf.float32)
        self._call = tf.function(lambda batch: model(batch, training=False), [signature])
        self._call(tf.zeros((1, *contract.face_input.shape)))  # compiled now, not at the first face

    def predict(self, frame, boxes):
        face_input = self.contract.face_input
        batch = np.stack(
            [prepare_face(crop_face(frame, box, face_input), face_input) for box in boxes]
        )
        probabilities = self._call(batch.astype(np.float32)).numpy()
        return [dict(zip(self.contract.class_names, map(float, row))) for row in probabilities]
