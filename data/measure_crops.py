"""Measure how the data sets' crops lie against the Haar box: the numbers in `CROPS`.

    python data/measure_crops.py

Needs both data sets, prepared. Takes half a minute.
"""

import cv2
import numpy as np
import pandas as pd

from utils.data import face_input_for, load_split
from utils.detection import HaarDetector

IMAGES = 800
SIDE = 200
BORDER = 100  # the Haar box may be larger than the crop


def measure(dataset, colour):
    """Medians over validation images in which exactly one face is found."""
    images, _, _ = load_split(dataset, "valid", face_input_for(dataset, 48, 48, colour).stored)
    chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    detector = HaarDetector(scale_factor=1.05, min_size=110, searched_size=110)
    found = []
    for image in images[chosen]:
        face = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if colour == "rgb" else cv2.COLOR_GRAY2BGR)
        face = cv2.resize(face, (SIDE, SIDE))
        frame = cv2.copyMakeBorder(face, *[BORDER] * 4, cv2.BORDER_REPLICATE)
        boxes = detector.detect(frame)
        if len(boxes) == 1:
            _, top, width, height = boxes[0]
            found.append((SIDE / width, (BORDER + SIDE / 2 - top - height / 2) / SIDE))
    scale, shift = np.median(found, axis=0)
    return {"images": len(chosen), "one face": len(found), "scale": scale, "shift down": shift}


if __name__ == "__main__":
    rows = {
        name: measure(name, colour) for name, colour in (("fer2013", "grey"), ("utkface", "rgb"))
    }
    print(pd.DataFrame(rows).T.round(3))
