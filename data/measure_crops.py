"""Measure how the data sets' crops lie against the detectors' boxes, and what that costs.

    python data/measure_crops.py

The first gives the numbers in `CROPS`. The second puts validation images into frames, lets the
detector find them and the shipped networks read what the realtime loop would cut out: their
accuracy beside that on the images themselves. Needs both data sets, prepared. Takes some minutes.
"""

import cv2
import numpy as np
import pandas as pd

from utils.data.prepared import load_split
from utils.preprocessing import CLASSES, face_input_for
from utils.realtime.detection import HaarDetector, open_detector
from utils.realtime.faces import FaceClassifier

IMAGES = 800
SIDE = 200
BORDER = 100  # the Haar box may be larger than the crop


def measure(dataset, colour, network, detector):
    """Medians over validation images in which exactly one face is found."""
    all_detail = face_input_for(dataset, SIDE, SIDE, colour).stored
    images, y_true, _ = load_split(dataset, "valid", all_detail)
    chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    ready, cut, places = [], [], []
    for image, label in zip(images[chosen], y_true[chosen]):
        face = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if colour == "rgb" else cv2.COLOR_GRAY2BGR)
        face = cv2.resize(face, (SIDE, SIDE))
        frame = cv2.copyMakeBorder(face, *[BORDER] * 4, cv2.BORDER_REPLICATE)
        boxes = detector.detect(frame)
        if len(boxes) != 1:
            continue
        _, top, width, height = boxes[0]
        places.append((SIDE / width, (BORDER + SIDE / 2 - top - height / 2) / SIDE))
        for box, right in ((box_of_the_whole(network.contract.face_input), ready), (boxes[0], cut)):
            (answer,) = network.predict(network.crop(frame, [box]))
            right.append(max(answer, key=answer.get) == CLASSES[dataset][label])
    scale, shift = np.median(places, axis=0)
    return {
        "images": len(chosen),
        "one face": len(places),
        "scale": scale,
        "shift down": shift,
        "accuracy": np.mean(ready),
        "as the loop cuts": np.mean(cut),
    }


def box_of_the_whole(face_input):
    """The box from which the loop would cut just the image that was put into the frame."""
    side = SIDE / face_input.crop_scale
    left = BORDER + SIDE / 2 - side / 2
    return (left, left - SIDE * face_input.crop_shift_down, side, side)


if __name__ == "__main__":
    classifier = FaceClassifier()
    networks = {"fer2013": ("grey", classifier.emotion), "utkface": ("rgb", classifier.gender)}
    detectors = {
        "haar, fine": HaarDetector(1.05, 5, min_size=110, searched_size=110),
        "haar": HaarDetector(),
        "yunet": open_detector("yunet"),
    }
    rows = {
        (dataset, name): measure(dataset, *networks[dataset], detector)
        for dataset in networks
        for name, detector in detectors.items()
    }
    print(pd.DataFrame(rows).T.round(3).to_string())
