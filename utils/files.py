"""Files that are either whole or not there, and pictures and archives under any file name."""

import csv
import errno
import hashlib
import io
import itertools
import json
import lzma
import os
import pickle
import platform
import re
import shutil
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image

MAX_PIXELS = 120_000_000  # the largest cameras of phones give 108 million
MAX_FILE_BYTES = 3 * MAX_PIXELS + 2**20  # of one picture that is not compressed

# Those that OpenCV reads and Pillow knows by their first bytes.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "SUN", "JPEG2000")
PHONE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns; see MAX_PIXELS

# What a file that is damaged or of another kind raises where it is read.
DAMAGE = (
    *(EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, csv.Error),
    *(OSError, ValueError, RuntimeError, struct.error, pickle.UnpicklingError),
    *(LookupError, OverflowError, MemoryError),
)
GET_AGAIN = "get it again"
CERTIFICATES = 'Python of python.org on a Mac needs its "Install Certificates" first'
OPEN_ELSEWHERE = "probably because another program has it open: close it there"
UNPACK = "get it again, or unpack it and give the folder or file that comes out"
PATIENCE = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # seconds between attempts
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_numbers = itertools.count()


@contextmanager
def replaced_when_done(path, marker=None):
    """Write a file or folder under a temporary name and move it into place at the end.

    Whatever happens in the block, `path` is as it was or whole. Each process has temporary names of
    its own; what killed ones left in this folder is cleared. A link stays, and what it leads to is
    replaced.

    Parameters
    ----------
    path : path-like
    marker : str, optional
        A folder that is there is replaced only if it has a file of this name, by which it is known
        as this project's own.

    Yields
    ------
    pathlib.Path
        The temporary name, in the same folder and with the same suffix.

    Raises
    ------
    ValueError
        If `path` is no plain file: a pipe, a device, or a folder.
    PermissionError
        If the file is open in another program that forbids its replacement.
    OSError
        If the disk is full.
    """
    path = Path(path)
    target = check_replaceable(path, marker)
    clear_leftovers(target.parent)
    unique = f"{_machine()}-pid{os.getpid()}-{next(_numbers)}"
    partial = target.with_name(f"partial-{unique}-{target.name[-30:]}")
    try:
        yield partial
        _refuse_full_disk(partial)
        _refuse_irreplaceable(target, path, marker)
        _move(partial, target)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: {path} was not written, and what was there before is as "
            "it was; make room on the disk and start again",
        ) from error
    finally:
        with suppress(OSError):  # Windows keeps what is still open: a later call clears it
            remove(partial)


def check_replaceable(path, marker=None):
    """Fail before the work if `replaced_when_done` would fail after it; make the folder.

    Returns
    -------
    pathlib.Path
        What is replaced: `path`, or what it leads to.
    """
    path = Path(path)
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    _refuse_irreplaceable(target, path, marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        try:
            _patiently(open, target, "ab").close()
        except PermissionError as error:
            raise PermissionError(
                f"{target} cannot be written ({error}), {OPEN_ELSEWHERE}"
            ) from error
    tempfile.TemporaryFile(dir=target.parent).close()
    return target


def _refuse_irreplaceable(target, path, marker):
    if target.is_dir() and not (marker and (target / marker).is_file()):
        raise ValueError(f"{path} is a folder that is there already: move it or take another name")
    if os.path.lexists(target) and not (target.is_file() or target.is_dir()):
        raise ValueError(f"{path} is a pipe, a device or a link to itself: give the name of a file")


def _refuse_full_disk(partial):
    """Raise the disk's error if there is no more room: some writers, of video above all, do not."""
    probe = partial.with_name(f"{partial.name}-probe")
    if partial.is_file():
        try:
            probe.write_bytes(bytes(4096))
        finally:
            remove(probe)


def _move(partial, target):
    old = partial.with_name(f"{partial.name}-old")
    try:
        if target.is_dir():
            rename(target, old)
        rename(partial, target)
    except OSError as error:
        if old.is_dir() and not target.exists():
            rename(old, target)
        if isinstance(error, PermissionError):
            beside = free_name(target)
            rename(partial, beside)
            if beside == target:
                return
            raise PermissionError(
                f"{target} could not be replaced ({error}), {OPEN_ELSEWHERE}; what was made is in "
                f"{beside}"
            ) from error
        if target.is_dir():
            raise ValueError(
                f"another process made {target} at the same moment: run this again to read it"
            ) from error
        raise
    with suppress(OSError):
        remove(old)


def rename(source, target):
    """Give a file or folder another name, under which one may be there."""
    _patiently(os.replace, source, target)


def _patiently(do, *what):
    """Under Windows, virus scanners and the like hold a new file open for a moment."""
    for wait in PATIENCE:
        try:
            return do(*what)
        except PermissionError:
            time.sleep(wait)
    return do(*what)


def free_name(path):
    """A path or, where that is taken, NAME_2, NAME_3, ... : the first that is not."""
    others = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], others) if not os.path.lexists(name))


def _machine():
    # Nodes of a cluster may have names that begin alike, and are too long for a file's name.
    return f"{zlib.crc32(platform.node().encode()):08x}"


def clear_leftovers(folder):
    """Delete what processes of this machine were writing in a folder when they were killed."""
    for path in folder.glob(f"partial-{_machine()}-pid*"):
        pid = re.match(rf"partial-{_machine()}-pid(\d+)-", path.name)
        with suppress(OSError):
            if pid and not _was_running(int(pid[1]), path.stat().st_mtime):
                remove(path)


def _was_running(pid, moment):
    """Whether a process lives and began before a moment: numbers of dead ones are given again."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < moment + 60
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@contextmanager
def refuse_damaged(path, advice=UNPACK):
    """Turn the many errors of a damaged file, or of one of another kind, into one.

    Errors of the system (no such file, no permission) and sentences that name the file pass.

    Parameters
    ----------
    path : path-like
        What is read in the block.
    advice : str
        What to do.

    Raises
    ------
    ValueError
        If reading fails in the block, with the file, the reason and the advice.
    """
    try:
        yield
    except DAMAGE as error:
        if str(path) in str(error) or getattr(error, "filename", None) is not None:
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({reason}): it is empty, damaged, cut off or of another kind "
            f"than expected; {advice}"
        ) from error


def _check_names(path, wanted, there, advice):
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is damaged or another; {advice}")


def read_json(path, advice=GET_AGAIN, keys=()):
    """Read a JSON file that holds an object.

    Parameters
    ----------
    path : path-like
    advice : str
        What to do if it is damaged.
    keys : iterable of str
        What it must have.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is empty, cut off, no JSON or lacks a key, with the file and the advice.
    """
    with refuse_damaged(path, advice):
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected {{…}}; {advice}")
    _check_names(path, keys, content, advice)
    return content


def write_json(path, content):
    """Write `content`, which may hold numbers of NumPy, as indented JSON, whole or not at all."""
    with replaced_when_done(path) as partial:
        text = json.dumps(content, indent=2, default=np.generic.item)
        partial.write_text(f"{text}\n", encoding="utf-8")


def read_table(path, advice=GET_AGAIN, columns=(), **settings):
    """Read a csv file as pandas.DataFrame; parameters and errors as `read_json`.

    Parameters
    ----------
    settings
        Of `pandas.read_csv`.
    """
    import pandas as pd  # a third of a second, which the loop does not need

    with refuse_damaged(path, advice):
        table = pd.read_csv(path, **settings)
    _check_names(path, columns, table, advice)
    return table


def remove(path):
    """Delete a file or a folder of this project's own making, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def decode_image(encoded, flags=cv2.IMREAD_COLOR):
    """Decode the bytes of a picture, upright: this is the one way from bytes to pixels.

    Parameters
    ----------
    encoded : bytes
    flags : int
        ``cv2.IMREAD_COLOR`` or ``cv2.IMREAD_GRAYSCALE``.

    Returns
    -------
    numpy.ndarray, uint8, BGR (height, width, 3) or grey (height, width)
        Turned as its EXIF says.

    Raises
    ------
    ValueError
        If the bytes are no picture, no whole one, or one of too many pixels; the message says
        which and what to do.
    """
    kind, pixels = _kind_and_pixels(io.BytesIO(encoded))
    if kind is None:
        raise ValueError("no image that OpenCV can read")
    if kind == "HEIC":
        raise ValueError("a HEIC or AVIF image, which OpenCV reads in part: save it as JPEG")
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"an image of {pixels:,} pixels, more than the {MAX_PIXELS:,} that are read: reduce it"
        )
    image = None
    if kind not in ("JPEG", "MPO") or _has_end(encoded):
        with suppress(cv2.error):  # raised for what a header promises and cannot be
            image = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flags)
    if image is None:
        raise ValueError("no whole image, it is cut off or damaged: get it again")
    return image


def is_picture(path):
    """Whether a file is a still picture, by its first bytes, whatever its name.

    A HEIC is one, too, which `read_image` refuses with a word. A GIF may move: it is left to those
    who read films.
    """
    with open(path, "rb") as stream:
        return _kind_and_pixels(stream)[0] not in (None, "GIF")


def _kind_and_pixels(stream):
    """Format of a picture and number of its pixels, by its header alone; None if it is none."""
    head = stream.read(12)
    stream.seek(0)
    if head[4:8] == b"ftyp" and head[8:] in PHONE_BRANDS:
        return "HEIC", 0
    try:
        with Image.open(stream, formats=PICTURE_FORMATS) as image:
            return image.format, image.width * image.height
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError):
        return None, 0


def _has_end(jpeg):
    """Whether the end marker follows the pixels: OpenCV fills what is missing with grey."""
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":
        is_fill = jpeg[at + 1 : at + 2] == b"\xff"  # any number of them may stand before a marker
        at += 1 if is_fill else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(b"\xff\xd9", at) > 0


def read_image(path, flags=cv2.IMREAD_COLOR):
    """Read an image file; see `decode_image` for what is returned and raised.

    ``cv2.imread`` fails on non-ASCII paths under Windows, which is why the bytes are read here.
    """
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is of {size:,} bytes, more than a picture can have")
    try:
        return decode_image(Path(path).read_bytes(), flags)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error


def encode_image(image, suffix=".png"):
    """Encode an image (uint8, BGR or grey) as the bytes of a PNG or JPEG file."""
    return cv2.imencode(suffix, image)[1].tobytes()


def sha256_of(path):
    """Checksum of a file, as hexadecimal text."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
