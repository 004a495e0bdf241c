"""Pictures of noise, cameras, faces and damaged archives, for tests without TensorFlow."""

import csv
import gzip
import signal
import tarfile
import time
from types import SimpleNamespace

import numpy as np

from utils.preprocessing import GENDERS, face_input_for
from utils.realtime.faces import Face


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
