"""Networks without training and pictures of noise, for the tests of the loop."""

import numpy as np

from utils.contracts import ModelContract
from utils.data import EMOTIONS, GENDERS, face_input_for
from utils.models import build


def untrained(dataset, class_names, colour):
    contract = ModelContract(
        "compact", {"widths": [8]}, class_names, face_input_for(dataset, 48, 48, colour), "nothing"
    )
    return build(contract), contract


EMOTION = untrained("fer2013", EMOTIONS, "grey")
GENDER = untrained("utkface", GENDERS, "rgb")


def noise(height=120, width=160, channels=(3,)):
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
