"""What a camera does to faces that training images do not show: dark, noisy, blurred, moved."""

import zlib
from functools import partial

import cv2
import numpy as np
import pandas as pd

from utils.data.prepared import copies_of_training, load_images
from utils.evaluation import evaluate, jitter
from utils.files import read_table, replaced_when_done
from utils.networks.storage import load_network, only_class
from utils.preprocessing import average_mirrored
from utils.training import prepared_of


def _add_noise(image, deviation):
    """The same noise for the same image."""
    random = np.random.default_rng(zlib.crc32(image.tobytes()))
    return image + random.normal(0, deviation, image.shape)


def _blur(image, deviation):
    if deviation == 0:
        return image
    return cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)


def _move(image, degrees=0.0, scale=1.0, right=0.0, down=0.0):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    matrix[:, 2] += right * width, down * height
    # What was outside the image repeats its border, as in the crops of the realtime loop.
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


# The first severity leaves the image as it is; `utils.plots.SEVERITY_UNITS` has their units.
CORRUPTIONS = {
    "darkness": (lambda image, share: image * share, (1.0, 0.5, 0.25, 0.12, 0.06)),
    "noise": (_add_noise, (0, 8, 16, 32, 64)),
    "blur": (_blur, (0, 0.5, 1, 2, 3)),
    "rotation": (lambda image, degrees: _move(image, degrees=degrees), (0, 10, 20, 30, 45)),
    "scale": (lambda image, scale: _move(image, scale=scale), (1.0, 0.7, 0.85, 1.2, 1.4)),
    "shift": (lambda image, share: _move(image, right=share), (0, 0.05, 0.1, 0.2, 0.3)),
}
# How a detector's box differs from frame to frame, while the face is the same.
BOX_CHANGES = {
    "right": {"right": 0.05},
    "left": {"right": -0.05},
    "down": {"down": 0.05},
    "up": {"down": -0.05},
    "counterclockwise": {"degrees": 5},
    "clockwise": {"degrees": -5},
}


def _changed(images, change, *severity, **by):
    changed = [change(image.astype(np.float32), *severity, **by) for image in images]
    return np.clip(np.rint(np.stack(changed)), 0, 255).astype(np.uint8).reshape(images.shape)


def _load(run):
    """What is asked: of ours the shipped network, with its outputs' mean; of yours the class."""
    return load_network(run.name)[0] if run.is_reference else only_class(run.load_model())


def accuracy_by_severity(run):
    """Accuracy of a finished run on changed test images, or what was measured before.

    Taught in notebooks 03 and 04. Costs as much as some thirty predictions of the test split.

    Parameters
    ----------
    run : utils.training.Run
        As for `jitter_of`.

    Returns
    -------
    pandas.DataFrame
        corruption, severity, n, accuracy, low, high; kept as ``robustness.csv`` with the run.

    Raises
    ------
    FileNotFoundError
        If it was not measured before, and the weights or the data are not here.
    """
    path = run.folder / "robustness.csv"
    if not path.is_file():
        model, prepared, face_input = _load(run), prepared_of(run), run.contract.face_input
        images, y_true, _ = load_images(prepared, "test", face_input, run.class_names)
        rows = []
        for name, (change, severities) in CORRUPTIONS.items():
            for severity in severities:
                changed = _changed(images, change, severity)
                scores = evaluate(y_true, model.predict(changed, batch_size=256, verbose=0))
                rows.append({"corruption": name, "severity": severity, **scores})
        table = pd.DataFrame(rows).drop(columns=["correct", "macro_f1"])
        with replaced_when_done(path) as unfinished:
            table.to_csv(unfinished, index=False)
    return read_table(path, columns=("corruption", "severity", "accuracy"))


def jitter_of(run):
    """How often a network's label changes with a box that moves a little, or what was measured.

    Validation images without copies of training images; the face moves in the image by 5 % of its
    side in four directions (`BOX_CHANGES`), or turns by 5 degrees both ways. As in the loop, the
    mean answer to an image and its mirror image counts. Taught in notebook 03. Costs as much as
    fourteen predictions of the validation split.

    Parameters
    ----------
    run : utils.training.Run
        One of ours must be among the networks in ``outputs/pretrained/``, whose weights are used.

    Returns
    -------
    pandas.DataFrame
        See `utils.evaluation.jitter`; kept as ``jitter.csv`` with the run.

    Raises
    ------
    FileNotFoundError
        If it was not measured before, and the weights or the data are not here.
    """
    path = run.folder / "jitter.csv"
    if not path.is_file():
        model, prepared, face_input = _load(run), prepared_of(run), run.contract.face_input
        images, _, _ = load_images(prepared, "valid", face_input, run.class_names)
        images = images[~copies_of_training(prepared, "valid", run.class_names)]

        predict = partial(model.predict, batch_size=256, verbose=0)
        moved = {
            name: average_mirrored(predict, _changed(images, _move, **by))
            for name, by in BOX_CHANGES.items()
        }
        with replaced_when_done(path) as unfinished:
            jitter(average_mirrored(predict, images), moved).to_csv(unfinished)
    return read_table(path, columns=("change", "share", "low", "high")).set_index("change")
