"""Raw data as people have them: every file of a folder or tar, read or counted with a reason."""

import os
import re
import tarfile
import zlib
from pathlib import Path

from utils.files import MAX_FILE_BYTES, refuse_damaged

MAX_FILES = 1_000_000
MAX_ARCHIVE_BYTES = 4 * 2**30  # UTKFace has a fortieth of it
OF_SYSTEM = (
    *(".DS_Store", "Thumbs.db", "desktop.ini"),
    *("__MACOSX", "System Volume Information", "$RECYCLE.BIN"),
)


def printable(name):
    """Escape what no table keeps: line ends, bytes that are no UTF-8, and the backslash itself."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]",
        lambda match: match[0].encode("unicode_escape").decode(),
        name,
    )


def files_in(source):
    """Yield all that a folder or tar holds and that is no folder.

    Links to folders are followed. A folder gives its files sorted, a tar in its own order.

    Parameters
    ----------
    source : pathlib.Path

    Yields
    ------
    item : str
        Name below the source, as `printable` gives it.
    content : bytes or None
    reason : str
        Why there is no content, or "".

    Raises
    ------
    ValueError
        If the tar is damaged, cut off or beyond the limits.
    """
    if source.is_dir():
        for path in paths_below(source):
            item = printable(path.relative_to(source).as_posix())
            yield item, *_read(path)
        return
    with refuse_damaged(source), tarfile.open(source) as archive:
        for member in members_of(archive, source):
            reason = _why_unread(member.isreg(), member.size)
            if member.islnk() or member.issym():
                reason = f"a link to {printable(member.linkname)}"
            content = None if reason else archive.extractfile(member).read()
            yield printable(member.name), content, reason


def paths_below(folder):
    """All that is below a folder and no folder itself, sorted; links to folders are followed.

    A link to a folder that is read anyway, as one to a folder above it, is given as it is.
    """

    def keep(error):  # a folder that may not be read is counted as a file that may not be
        paths.append(Path(error.filename))

    paths, seen, top = [], set(), Path(os.path.realpath(folder))
    for root, folders, names in os.walk(folder, onerror=keep, followlinks=True):
        folders.sort()
        for link in [name for name in folders if os.path.islink(Path(root, name))]:
            target = Path(os.path.realpath(Path(root, link)))
            if target in seen or target == top or top in target.parents or target in top.parents:
                folders.remove(link)
                names.append(link)
            seen.add(target)
        paths += [Path(root, name) for name in names]
    return sorted(paths)


def state_of(source):
    """Files, bytes, time of the last change, names: other numbers are another copy.

    Without what systems put into folders that somebody has looked at: looking changes no data.
    """
    paths = paths_below(source) if source.is_dir() else [source]
    paths = [x for x in paths if x.name not in OF_SYSTEM and not x.name.startswith("._")]
    facts = [path.stat() if path.exists() else path.lstat() for path in paths]
    newest = max((x.st_mtime_ns for x in facts), default=0)
    state = [len(facts), sum(x.st_size for x in facts), newest]
    if source.is_dir():  # who moves a picture to another class changes nothing but names
        names = (os.fsencode(path.relative_to(source)) for path in paths)
        state.append(zlib.crc32(b"\n".join(names)))
    return state


def members_of(archive, path):
    """Yield the members of a tar that are no folders, and refuse one that is not whole.

    At a header that it cannot read, and at a cut between two members, tarfile ends without a word.
    A whole tar ends with a block of zeros and consists of whole blocks. Reading to the end has gzip
    compare its checksum, too.

    Parameters
    ----------
    archive : tarfile.TarFile
    path : pathlib.Path
        For the message.

    Raises
    ------
    ValueError
        If it declares too much.
    tarfile.ReadError
        If it is not whole; `utils.files.refuse_damaged` turns that into a sentence.
    """
    total = 0
    for number, member in enumerate(archive, start=1):
        total += member.size
        if number > MAX_FILES or total > MAX_ARCHIVE_BYTES:
            raise ValueError(
                f"{path} declares {number:,} files of {total:,} bytes, expected at most "
                f"{MAX_FILES:,} of {MAX_ARCHIVE_BYTES:,}: it is another archive or damaged"
            )
        if not member.isdir():
            yield member
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends without an end mark, or a header in it is unreadable")
    if archive.fileobj.read(2**24).strip(b"\0") or archive.fileobj.read(1):
        raise tarfile.ReadError("something follows after its end mark")
    if archive.fileobj.tell() % tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"its length is no multiple of {tarfile.BLOCKSIZE}")


def _read(path):
    try:
        facts = path.stat()
        reason = _why_unread(path.is_file(), facts.st_size)
        return (None, reason) if reason else (path.read_bytes(), "")
    except OSError as error:  # a link that leads nowhere, a file of somebody else
        return None, f"cannot be read: {error.strerror}"


def _why_unread(is_plain_file, size):
    if not is_plain_file:
        return "no plain file"
    if size > MAX_FILE_BYTES:
        return f"{size:,} bytes, more than a picture can have"
    return ""
