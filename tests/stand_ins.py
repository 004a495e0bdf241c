"""Networks without training, pictures of noise and damaged archives, for several tests."""

import gzip
import tarfile

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


def keep_the_scale(mobilenet):
    """He-normal kernels, in place: from Keras' own the outputs fade to 0 over the layers."""
    random = np.random.default_rng(0)
    for layer in mobilenet.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                inputs = 9 if "dw" in layer.name else np.prod(weight.shape[:-1])
                weight.assign(random.normal(0, np.sqrt(2 / inputs), weight.shape))


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
