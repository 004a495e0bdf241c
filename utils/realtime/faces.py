"""What the two networks say of the faces in a frame."""

import math
from dataclasses import dataclass

import numpy as np

from utils.networks.contract import check_file, find_network, networks
from utils.networks.litert import run_litert
from utils.preprocessing import GENDERS, average_mirrored, crop_face, prepare_face

DEFAULT_EMOTION_MODEL = "emotion_two_labels"
DEFAULT_GENDER_MODEL = "gender_utk_64_years"
UNSURE = "unsure"
CHILD = "child"


@dataclass(frozen=True)
class Face:
    """A face and what is said of it.

    Parameters
    ----------
    box : tuple of int
        Left, top, width, height in pixels.
    emotion_probabilities, gender_probabilities : dict of str to float
    unsure_below : tuple of float
        Probabilities of the emotion and of the gender below which nothing is said.
    track : int
        The same number for the same face in all frames.
    age : float
        Estimated, in years; NaN where the gender network has no output for it.
    child_below : float
        Age below which no gender is said.
    show_age : bool
        Whether the label has the age.
    """

    box: tuple
    emotion_probabilities: dict
    gender_probabilities: dict
    unsure_below: tuple = (0.0, 0.0)
    track: int = 0
    age: float = math.nan
    child_below: float = 0.0
    show_age: bool = False

    @property
    def confidences(self):
        """Largest probability of an emotion and of a gender."""
        return max(self.emotion_probabilities.values()), max(self.gender_probabilities.values())

    @property
    def emotion(self):
        """The most probable emotion, or "unsure"."""
        return self._say(self.emotion_probabilities, self.unsure_below[0])

    @property
    def gender(self):
        """The most probable gender, or "unsure"; of a child "child"."""
        if self.age < self.child_below:
            return CHILD
        return self._say(self.gender_probabilities, self.unsure_below[1])

    @property
    def label(self):
        """What the report writes over a face, "Happy, F"; "?" stands for an unsure gender.

        Of a child it is "Happy, child"; the age, where it is shown, comes last: "Happy, F, 31".
        """
        gender = {UNSURE: "?", CHILD: CHILD}.get(self.gender, self.gender[0].upper())
        age = f", {self.age:.0f}" if self.show_age else ""
        return f"{self.emotion[0].upper()}{self.emotion[1:]}, {gender}{age}"

    @property
    def caption(self):
        """The label and how sure the networks are of what it says."""
        said = self.confidences[: 1 if self.gender == CHILD else 2]
        return f"{self.label}  {' '.join(f'{each:.0%}' for each in said)}"

    @staticmethod
    def _say(probabilities, unsure_below):
        best = max(probabilities, key=probabilities.get)
        return best if probabilities[best] >= unsure_below else UNSURE


class FaceClassifier:
    """Both networks; the one for emotion may have classes of one's own.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    emotion, gender : str or tuple
        Name of a network, see `utils.networks.contract.find_network`, which LiteRT runs; or the
        network and its contract, (keras.Model, ModelContract), which Keras runs.
    show_age : bool
        Have labels, and the loop's table, say the estimated age as well.

    Raises
    ------
    ValueError
        If a network has other classes, a file is missing or not the one that its contract was
        written for, or the age is to be shown and the gender network has no output for it.
    FileNotFoundError
        If there is no network of that name.
    ImportError
        If a network has no LiteRT file and TensorFlow is not installed.
    """

    def __init__(self, emotion=DEFAULT_EMOTION_MODEL, gender=DEFAULT_GENDER_MODEL, show_age=False):
        self.emotion, self.gender = _Network(emotion), _Network(gender)
        for network, fits, wanted in (
            (self.emotion, set(GENDERS).isdisjoint, "none"),
            (self.gender, set(GENDERS).issuperset, "some"),
        ):
            if not fits(network.contract.class_names):
                raise ValueError(
                    f"{network.contract.trained_on} has the classes "
                    f"{network.contract.class_names}, expected {wanted} of {GENDERS} here"
                )
        if show_age and not self.gender.contract.child_below:
            raise ValueError(
                f"the gender network ({self.gender.contract.trained_on}) has no output for age, "
                "expected one, as the age is to be shown: leave --age out, or name another network"
            )
        self.show_age = show_age

    def classify(self, frame, boxes):
        """Label the faces in `boxes`: the mean answer to each and to its mirror image counts.

        Parameters
        ----------
        frame : numpy.ndarray, uint8, (height, width, 3) BGR
        boxes : list of tuple of int
            Left, top, width, height; see `utils.realtime.detection`.

        Returns
        -------
        list of Face
        """
        if not boxes:
            return []
        networks = self.emotion, self.gender
        said = [network.predict(network.crop(frame, boxes)) for network in networks]
        ages = [answer.pop("age", math.nan) for answer in said[1]]
        settings = {
            "unsure_below": tuple(network.contract.unsure_below for network in networks),
            "child_below": self.gender.contract.child_below,
            "show_age": self.show_age,
        }
        return [Face(*face, age=age, **settings) for *face, age in zip(boxes, *said, ages)]


class _Network:
    """What the loop needs of a network: its view of faces, and what it says of them."""

    def __init__(self, model):
        self.contract, self._call = _open(model)

    def crop(self, frame, boxes):
        face_input = self.contract.face_input
        faces = [prepare_face(crop_face(frame, box, face_input), face_input) for box in boxes]
        return np.array(faces, dtype=np.float32)

    def predict(self, crops):
        names = *self.contract.class_names, "age"  # which not all have
        answers = average_mirrored(self._call, crops)
        return [dict(zip(names, map(float, row))) for row in answers]


def _open(model):
    """The contract of a network, and a function from a batch to its probabilities."""
    if not isinstance(model, str):
        from utils.networks.storage import only_class  # who has a model has TensorFlow

        network, contract = model
        return contract, _compile_keras(only_class(network))
    if model.endswith((".json", ".h5", ".hdf5", ".keras")):
        raise ValueError(
            f"{model} is a file of Keras, and networks are known by name here "
            f"({', '.join(networks())}): build yours in Keras 3, load its weights into it, and "
            "give FaceClassifier that network and a contract, as notebook 05 does under Your turn"
        )
    path, contract = find_network(model)
    if contract.litert_sha256:
        litert = path.with_suffix(".tflite")
        check_file(litert, contract.litert_sha256)
        return contract, run_litert(litert)
    try:
        from utils.networks.storage import build_with_weights
    except ImportError as error:
        raise ImportError(
            f"{model} has no LiteRT file, and TensorFlow is not installed here ({error}): "
            f"python tasks.py ship {model} makes the file"
        ) from error
    return contract, _compile_keras(build_with_weights(path, contract, with_age=True))


def _compile_keras(network):
    """Compile a keras.Model for all numbers of faces: `predict` costs 50 times as much for one."""
    import tensorflow as tf  # takes seconds, which LiteRT does not need

    signature = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32)
    call = tf.function(lambda batch: network(batch, training=False), [signature])
    call(tf.zeros((1, *network.input_shape[1:])))  # now, not at the first face
    return lambda batch: call(batch).numpy()
