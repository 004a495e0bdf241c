"""Networks, small trainings, pictures of noise and damaged archives, for several tests."""

import csv
import gzip
import os
import signal
import tarfile
import time
from types import SimpleNamespace

import keras
import numpy as np

from utils.data.batches import load_batches
from utils.models import BUILDERS
from utils.networks.contract import ModelContract
from utils.preprocessing import EMOTIONS, GENDERS, face_input_for
from utils.realtime.faces import Face
from utils.training import train


def untrained(dataset, class_names, colour):
    face_input = face_input_for(dataset, 48, 48, colour)
    contract = ModelContract("compact", {"widths": [8]}, class_names, face_input, "nothing")
    return BUILDERS["compact"](face_input.shape, len(class_names), widths=[8]), contract


EMOTION = untrained("fer2013", EMOTIONS, "grey")
GENDER = untrained("utkface", GENDERS, "rgb")
TINY = face_input_for("fer2013", 12, 12, "grey")


def small_network(filters=4, activation="relu", optimizer=None, loss="categorical_crossentropy"):
    """A network for TINY that trains in no time, compiled; always with the same weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(TINY.shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(filters, 3, strides=3, activation=activation)(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(len(EMOTIONS), activation="softmax")(x))
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def sample_batches(face_input=TINY, **changes):
    """The sample's training and validation batches."""
    settings = {"batch_size": 16, "augmentation": "flip", **changes}
    return [load_batches("fer2013", split, face_input, **settings) for split in ("train", "valid")]


def train_small(name, model=None, epochs=2, batches=None, **settings):
    """Train `small_network` on the sample, or what was given instead."""
    return train(model or small_network(), name, *(batches or sample_batches()), epochs, **settings)


class Slow(keras.callbacks.Callback):
    """Waits after each step for as many seconds as the environment says."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))


def noise(height=120, width=160, channels=(3,)):
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def damage_header(path, member):
    """Change a bit in the header of a member of a tar.gz, at which tarfile ends without a word."""
    with tarfile.open(path) as archive:
        offset = archive.getmember(member).offset
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset + 150] ^= 1  # of the header's checksum
    path.write_bytes(gzip.compress(content))


def damage_content(path, _):
    """Change a bit in the middle of a tar.gz, which only the checksum of gzip can tell."""
    stored = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)


def heed_signals():
    """In a new process: what started the tests in the background has it ignore these."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


class FakeCamera:
    """Gives these frames (None: a failed read), then nothing, as a camera that was unplugged."""

    def __init__(self, frames, opens=True, seconds_between=0.0):
        self.frames, self.opens, self.released = list(frames), opens, False
        self.seconds_between = seconds_between

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return self.opens

    def get(self, what):
        return 30.0

    def read(self):
        time.sleep(self.seconds_between)
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def release(self):
        self.released = True


def face_at(box, emotion=0.9, gender=0.8, unsure_below=(0.0, 0.0), **age):
    """A face that is happy or sad, female or male, with these probabilities."""
    return Face(
        box,
        {"happy": emotion, "sad": 1 - emotion},
        {"female": gender, "male": 1 - gender},
        unsure_below,
        **age,
    )


def still(*boxes):
    """A detector that sees the same in each frame."""
    return SimpleNamespace(detect=lambda frame, known: list(boxes))


def labeller(*answers):
    """A classifier that says 0.9 happy of each face, or these answers one after the other."""
    left = iter(answers)
    face_input = face_input_for("fer2013", 48, 48, "grey")
    contracts = [
        SimpleNamespace(face_input=face_input, class_names=names)
        for names in (("happy", "sad"), GENDERS)
    ]
    return SimpleNamespace(
        emotion=SimpleNamespace(contract=contracts[0]),
        gender=SimpleNamespace(contract=contracts[1]),
        show_age=False,
        classify=lambda frame, boxes: [face_at(box, emotion=next(left, 0.9)) for box in boxes],
    )


def rows_of_csv(path):
    """The rows of a csv file: list of dict."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
