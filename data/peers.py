"""What the scripts that score other people's networks have in common."""

import numpy as np

from utils import config
from utils.data.prepared import load_split
from utils.evaluation import evaluate
from utils.files import replaced_when_done, write_json


def measure(name, dataset, face_input, predict, facts):
    """Score a network on validation and test images; keep its answers in ``outputs/peers/name/``.

    Parameters
    ----------
    name : str
        Of the package.
    dataset : {"fer2013", "utkface"}
        Prepared.
    face_input : utils.preprocessing.FaceInput
        In which the images are handed on.
    predict : callable
        Images, uint8 (n, height, width, channels), to probabilities, float (n, num_classes).
    facts : dict
        To be kept beside the answers: versions, and what was chosen.
    """
    predictions = {}
    for split in ("valid", "test"):
        images, y_true, _ = load_split(dataset, split, face_input)
        probabilities = predict(images)
        predictions[f"{split}_true"] = y_true
        predictions[f"{split}_probabilities"] = probabilities.astype(np.float16)
        print(split, evaluate(y_true, probabilities))
    folder = config.ROOT / "outputs" / "peers" / name
    with replaced_when_done(folder / "predictions.npz") as partial:
        np.savez_compressed(partial, **predictions)
    write_json(folder / "facts.json", facts)
