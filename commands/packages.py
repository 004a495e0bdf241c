"""A submission as a file: packed with a manifest, and opened again without trusting it.

Whoever opens one asks for files by name and gets their bytes: nothing is unpacked anywhere.
"""

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from contextlib import contextmanager
from pathlib import Path

from commands.texts import shown
from utils import config
from utils.files import DAMAGE

MANIFEST = "manifest.json"
# What `submit` packs has 40 to 200 files and 20 MB at most.
MAX_ARCHIVE = 100_000_000
MAX_UNPACKED = 250_000_000
MAX_FILES = 3_000
MAX_DIRECTORY = 2_000_000  # bytes in which a zip lists its files
MAX_RATIO = 100  # text packs to a tenth, zeros to a thousandth
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a limit
ADVICE = "ask for the zip that python tasks.py submit makes"


class Refused(ValueError):
    """A submission that is not read; one sentence that says why and what to do."""


def pack(path, members, facts):
    """Write a zip and, as its last file, the manifest.

    Parameters
    ----------
    path : pathlib.Path
    members : dict of str to (bytes or pathlib.Path)
        By the name in the zip.
    facts : dict
        What the manifest says besides the checksums.

    Returns
    -------
    dict of str to int
        Packed bytes of each file.
    """
    files = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if isinstance(content, Path):
                content = content.read_bytes()
            archive.writestr(name, content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = {**facts, "files": files}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1).encode())
        return {member.filename: member.compress_size for member in archive.infolist()}


def code_checksums():
    """Checksums of the project's Python files, as text on any system: dict of str to str."""
    paths = [
        config.ROOT / "tasks.py",
        *(path for name in ("commands", "utils") for path in (config.ROOT / name).rglob("*.py")),
    ]
    return {
        path.relative_to(config.ROOT).as_posix(): hashlib.sha256(
            path.read_bytes().replace(b"\r\n", b"\n")
        ).hexdigest()
        for path in sorted(paths)
        if path.is_file()
    }


class Package:
    """An opened submission: names of its files, and their bytes.

    Parameters
    ----------
    sizes : dict of str to int
        As declared, by name, with ``/`` between folders.
    read : callable
        Of a name and a number of bytes: the file's first bytes, no more than these.
    """

    def __init__(self, sizes, read):
        self.sizes = sizes
        self._read = read
        self._left = MAX_UNPACKED

    def read(self, name, limit):
        """A file's bytes, cut at one more than `limit`, by which a reader sees that it is larger.

        Raises
        ------
        Refused
            If the file is damaged, or more was read by now than a submission may have.
        """
        try:
            content = self._read(name, min(limit, self._left) + 1)
        except DAMAGE as error:
            raise Refused(f"{shown(name)} is damaged ({shown(error)}): {ADVICE}") from error
        self._left -= len(content)
        if self._left < 0:
            raise Refused(f"it unpacks to more than {MAX_UNPACKED:,} bytes: {ADVICE}")
        return content


@contextmanager
def opened(path):
    """Open a submission, a zip or a folder.

    Parameters
    ----------
    path : pathlib.Path

    Yields
    ------
    Package

    Raises
    ------
    Refused
        If it is of another kind, damaged, too large, a zip bomb, or has a file that would lie
        outside its folder, a link or a device.
    """
    if path.is_symlink():
        raise Refused(f"it is a link to another place: {ADVICE}")
    if path.is_dir():
        yield _open_folder(path)
        return
    # A pipe would be waited for.
    if path.suffix.lower() != ".zip" or not path.is_file():
        raise Refused(f"it is no zip ({shown(path.name, 40)}): {ADVICE}")
    size = path.stat().st_size
    if size > MAX_ARCHIVE:
        raise Refused(f"it has {size:,} bytes, at most {MAX_ARCHIVE:,} are read: {ADVICE}")
    try:
        # Closed at the end: the package reads from it.
        archive = zipfile.ZipFile(_Frugal(io.FileIO(path)))
    except DAMAGE as error:
        reason = "it is empty" if not size else shown(error)
        raise Refused(f"it cannot be read as a zip ({reason}): {ADVICE}") from error
    with archive:
        yield _open_zip(archive, size)


class _Frugal(io.BufferedReader):
    """A file that is never read in one large piece, as the list of files in a zip would be."""

    def read(self, size=-1):
        return super().read(min(size, MAX_DIRECTORY) if size and size > 0 else MAX_DIRECTORY)


def _open_zip(archive, size):
    members = {}
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        _refuse_name(name)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"{shown(name)} in it is a link or a device: {ADVICE}")
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise Refused(f"{shown(name)} in it is encrypted: {ADVICE}")
        if member.compress_type not in METHODS:
            raise Refused(f"{shown(name)} in it is packed in a way that is not read: {ADVICE}")
        members[name] = member
    _refuse_number(len(members))
    unpacked = sum(member.file_size for member in members.values())
    most = min(MAX_UNPACKED, MAX_RATIO * max(size, 10_000))
    if unpacked > most:
        raise Refused(
            f"a zip bomb? Its {size:,} bytes unpack to {unpacked:,}, at most {most:,} are read: "
            f"{ADVICE}"
        )

    def read(name, limit):
        with archive.open(members[name]) as stream:
            return stream.read(limit)

    return Package({name: member.file_size for name, member in members.items()}, read)


def _refuse_name(name):
    """Refuse a name that is, on any system, not that of a file below the folder."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise Refused(f"a file in it would lie outside its folder ({shown(name)}): {ADVICE}")


def _refuse_number(number):
    if number > MAX_FILES:
        raise Refused(f"it has more than {MAX_FILES:,} files: {ADVICE}")


def _open_folder(folder):
    root = folder.resolve()
    sizes = {}
    for place, folders, names in os.walk(folder, followlinks=False):
        for name in (*folders, *names):
            path = Path(place) / name
            mode = path.lstat().st_mode
            # A junction of Windows is no link by its mode, but leads to another place.
            leads_out = not path.resolve().is_relative_to(root)
            if leads_out or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                relative = shown(path.relative_to(folder).as_posix())
                raise Refused(f"{relative} in it is a link or a device: {ADVICE}")
            if stat.S_ISREG(mode):
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        _refuse_number(len(sizes))

    def read(name, limit):
        with (folder / name).open("rb") as stream:
            return stream.read(limit)

    return Package(sizes, read)
