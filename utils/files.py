"""Files that are either whole or not there, and pictures under any file name."""

import csv
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@contextmanager
def replaced_when_done(path):
    """Write a file or folder under a temporary name and move it into place at the end.

    An interrupted block leaves `path` as it was; the next call clears the remains. A file may be
    replaced; a folder never is.

    Parameters
    ----------
    path : path-like

    Yields
    ------
    pathlib.Path
        The temporary name, in the same folder and with the same suffix.

    Raises
    ------
    ValueError
        If `path` is a folder that is there already.
    PermissionError
        If the file is open in another program that forbids its replacement.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder that is there already: move it or take another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.open("ab").close()  # better to fail now than after the work
    partial = path.with_name(f"partial-{path.name}")
    remove(partial)
    yield partial
    try:
        os.replace(partial, path)
    except PermissionError as error:
        raise PermissionError(
            f"{path} could not be replaced ({error}), probably because another program has it "
            f"open: close it there; what was made is in {partial}"
        ) from error


@contextmanager
def refuse_damaged(archive):
    """Turn the many errors of a damaged archive, or of one of another kind, into one.

    Raises
    ------
    ValueError
        If reading the archive fails in the block, or the text of a csv in it.
    """
    try:
        yield
    except (
        *(EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
        *(tarfile.TarError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error),
    ) as error:
        raise ValueError(
            f"{archive} cannot be read ({error}): it is damaged, cut off or of another kind than "
            "expected; get it again, or unpack it and give the folder or file that comes out"
        ) from error


def refuse_rest(archive):
    """Refuse a tar of which something is left when all its members were read.

    At a header that it cannot read tarfile ends without a word, and what follows would be lost.
    Reading the rest has gzip compare its checksum, too.

    Raises
    ------
    tarfile.ReadError
        Which `refuse_damaged` turns into a sentence.
    """
    if archive.fileobj.read().strip(b"\0"):
        raise tarfile.ReadError("a header in the middle is unreadable")


def remove(path):
    """Delete a file or a folder of this project's own making, if it is there."""
    path = Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path, content):
    """Write `content` as indented JSON, whole or not at all."""
    with replaced_when_done(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def decode_image(encoded, flags=cv2.IMREAD_COLOR):
    """Decode the bytes of an image file.

    Parameters
    ----------
    encoded : bytes
    flags : int
        ``cv2.IMREAD_COLOR`` or ``cv2.IMREAD_GRAYSCALE``.

    Returns
    -------
    numpy.ndarray, uint8, BGR (height, width, 3) or grey (height, width), or None
        None if the bytes are no image.
    """
    if not encoded:
        return None
    try:
        return cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flags)
    except cv2.error:  # raised for headers with absurd dimensions
        return None


def read_image(path, flags=cv2.IMREAD_COLOR):
    """Read an image file; see `decode_image` for what is returned.

    ``cv2.imread`` fails on non-ASCII paths under Windows, which is why the bytes are read here.

    Raises
    ------
    ValueError
        If the file is no image.
    """
    image = decode_image(Path(path).read_bytes(), flags)
    if image is None:
        raise ValueError(f"{path} is no image that OpenCV can read")
    return image


def encode_image(image, suffix=".png"):
    """Encode an image (uint8, BGR or grey) as the bytes of a PNG or JPEG file."""
    return cv2.imencode(suffix, image)[1].tobytes()


def sha256_of(path):
    """Checksum of a file, as hexadecimal text."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
