"""FER-2013 in every form in which people have it -> train/ valid/ test/ x seven emotions."""

import csv
import gzip
import io
import itertools
import lzma
import tarfile
import zipfile
from contextlib import contextmanager
from hashlib import sha256

import cv2
import numpy as np

from utils.data.prepared import SPLITS, prepare_once
from utils.data.raw import MAX_FILES, files_in, members_of
from utils.files import decode_image, encode_image, refuse_damaged
from utils.preprocessing import EMOTIONS

SIDE = 48
ENCODING = "utf-8-sig"  # some programs save a csv with a byte order mark
# fer2013.csv has 35,888 lines of 9,000 characters, a line of pictures of 512 x 512 a million.
MAX_LINE, MAX_TEXT = 2**22, 2**31
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
EXPECTED = (
    "fer2013.csv or icml_face_data.csv, or pictures of 48x48 pixels in train/angry/*.jpg and so on"
)

USAGES = ("Training", "PublicTest", "PrivateTest")
SPLIT_NAMES = {
    "train": ("training",),
    "valid": ("validation", "val", "publictest"),
    "test": ("testing", "privatetest"),
}
EMOTION_NAMES = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised", "suprise"),  # so written in one copy
    "neutral": (),
}


def _inverse(names):
    return {other: name for name, others in names.items() for other in (name, *others)}


TO_SPLIT = _inverse(SPLIT_NAMES)
TO_EMOTION = _inverse(EMOTION_NAMES)
CODE_TO_EMOTION = {str(code): emotion for code, emotion in enumerate(EMOTIONS)}


def prepare_fer(source=None, destination=None):
    """Prepare FER-2013, or load its tables when that was done before from these raw data.

    Taught in notebooks/01_prepare_fer.ipynb. Raw data are only read.

    Parameters
    ----------
    source, destination : pathlib.Path, optional
        Raw file or folder, and where the class folders go; by default those of `utils.config`.

    Returns
    -------
    utils.data.prepared.PreparedDataset
        `labels` has the columns file, split, label, item (row of the csv, or file), sha256 (of the
        pixels), blank (every pixel has the same value).

    Raises
    ------
    FileNotFoundError
        If there are no raw data.
    ValueError
        If the raw data are in a form that cannot be used, with what to use instead.
    """
    seen = set()

    def read(item, content):
        if isinstance(content, bytes):
            split, emotion = _place_of(item)
            # Kaggle's copies hold some folders twice, one in the other.
            key = split, emotion, item.rsplit("/", 1)[-1], sha256(content).digest()
            if key in seen:
                raise ValueError("the same file again")
            seen.add(key)
            image = _decode(content)
        else:
            split, emotion, image = _parse(*content)
        facts = {
            "split": split,
            "label": emotion,
            "sha256": sha256(image.tobytes()).hexdigest(),
            "blank": bool(image.min() == image.max()),
        }
        return facts, encode_image(image)

    def items(source):
        return files_in(source) if source.is_dir() else _read_csv(source)

    return prepare_once("fer2013", read, _with_each_split, EXPECTED, source, destination, items)


@contextmanager
def _open_text(path):
    """Open the csv in `path`, packed or not, as text."""
    suffix = path.suffix.lower()
    if ".tar" in map(str.lower, path.suffixes) or suffix == ".tgz":
        with tarfile.open(path) as archive:
            # All are read before the first is used: so it is known that the tar is whole.
            names = [member.name for member in members_of(archive, path) if member.isreg()]
            yield _as_text(archive.extractfile(_csv_member(path, names)))
    elif suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            with archive.open(_csv_member(path, archive.namelist())) as stream:
                yield _as_text(stream)
    else:
        open_packed = {".gz": gzip.open, ".xz": lzma.open}.get(suffix, open)
        with open_packed(path, "rb") as stream:
            yield _as_text(stream)


def _as_text(stream):
    # A byte that is no text spoils its row, not the file.
    return io.TextIOWrapper(stream, encoding=ENCODING, errors="replace", newline="")


def _csv_member(path, names):
    for wanted in CSV_NAMES:
        for name in names:
            if name.lower().rsplit("/", 1)[-1] == wanted:
                return name
    raise ValueError(
        f"{path} holds no plain file {' or '.join(CSV_NAMES)}; if it holds pictures in "
        f"folders, unpack it to {path.parent / 'fer2013'} so that there is "
        f"{path.parent / 'fer2013' / 'train' / 'angry'}"
    )


def _read_csv(path):
    """Yield (row number, (emotion, pixels, usage), reason) for each row, as `files_in` does."""
    with refuse_damaged(path), _open_text(path) as stream:
        rows = _rows(path, stream)
        columns = [name.strip().lower()[:40] for name in next(rows, [])]
        missing = {"emotion", "pixels", "usage"} - set(columns)
        if missing:
            raise ValueError(
                f"{path} has the columns {columns[:9]} and lacks {sorted(missing)}: expected "
                "fer2013.csv or icml_face_data.csv. The challenge's train.csv has no Usage and its "
                "test.csv no emotion, so they give no validation and test split"
            )
        places = [columns.index(name) for name in ("emotion", "pixels", "usage")]
        for row_number, row in enumerate(rows):
            if len(row) == len(columns):
                yield row_number, [row[place] for place in places], ""
            else:
                yield row_number, None, f"{len(row)} fields instead of {len(columns)}"


def _rows(path, stream):
    """Yield the fields of each line. A quote without its end must not swallow the rows after it."""
    total = 0
    for number in itertools.count():
        line = stream.readline(MAX_LINE)
        if not line:
            return
        total += len(line)
        if len(line) == MAX_LINE or total > MAX_TEXT or number > MAX_FILES:
            raise ValueError(
                f"{path} has a line of {len(line):,} characters, {number:,} lines, {total:,} "
                f"characters in all, expected at most {MAX_LINE:,}, {MAX_FILES:,}, {MAX_TEXT:,}: "
                "it is damaged or another; get fer2013.csv again"
            )
        try:
            yield next(csv.reader([line])) if '"' in line else line.rstrip("\r\n").split(",")
        except csv.Error:  # a quoted field of more than 131,072 characters
            yield [line]


def _parse(label, pixels, usage):
    """Split, emotion and image of a row."""
    label, usage = label.strip(), usage.strip()
    split = TO_SPLIT.get(usage.lower())
    emotion = CODE_TO_EMOTION.get(label) or TO_EMOTION.get(label.lower())
    if split is None:
        raise ValueError(f"unknown Usage {usage[:40]!r}")
    if emotion is None:
        raise ValueError(f"unknown emotion {label[:40]!r}")
    if not (pixels.isascii() and pixels.replace(" ", "").isdigit()):
        raise ValueError("pixels: something else than numbers and spaces")
    # Only numpy's binary mode of fromstring is gone; its text mode reads this twice as fast as
    # anything built on str.split.
    pixels = np.fromstring(pixels, dtype=np.int64, sep=" ")
    if pixels.size != SIDE * SIDE:
        raise ValueError(f"{pixels.size} pixels instead of {SIDE * SIDE}")
    if pixels.max() > 255:
        raise ValueError(f"pixel value {pixels.max()}, expected 0 to 255")
    return split, emotion, pixels.astype(np.uint8).reshape(SIDE, SIDE)


def _place_of(item):
    """Split and emotion by a file's folders."""
    *folders, name = item.split("/")
    if len(folders) < 2:
        raise ValueError("not in a split/emotion folder")
    # Some copies keep the Usage in the file name and have PublicTest in test/.
    usage = name.split("_")[0]
    split = TO_SPLIT.get((usage if usage in USAGES else folders[-2]).lower())
    emotion = TO_EMOTION.get(folders[-1].lower())
    if split is None:
        raise ValueError(f"unknown split {folders[-2]!r}")
    if emotion is None:
        raise ValueError(f"unknown emotion {folders[-1]!r}")
    return split, emotion


def _decode(content):
    image = decode_image(content, cv2.IMREAD_GRAYSCALE)
    height, width = image.shape
    if (height, width) != (SIDE, SIDE):
        raise ValueError(f"{width}x{height} pixels instead of {SIDE}x{SIDE}")
    return image


def _with_each_split(labels, left_out, source):
    """Some copies have two splits only: the second is halved, and a note says so."""
    there = [split for split in SPLITS if (labels["split"] == split).any()]
    if len(there) == len(SPLITS):
        return labels["split"], []
    counts = labels["split"].value_counts().reindex(SPLITS, fill_value=0).to_dict()
    second = labels[labels["split"] != "train"]
    if not source.is_dir() or len(there) == 1 or "train" not in there:
        raise ValueError(
            f"{source} has {counts} images, expected some in each split: it was probably cut off "
            "or is a part; get fer2013.csv, or a copy with train/ and test/"
        )
    of_two = second.drop_duplicates("sha256", keep=False)  # no copy is to cross over
    of_two = of_two[of_two.groupby("label")["label"].transform("size") > 1]
    if of_two.empty:
        raise ValueError(f"{source} has {counts} images, too few to halve {there[1]}")
    from sklearn.model_selection import train_test_split  # half a second, which the loop saves

    to_valid, to_test = train_test_split(
        of_two.index, train_size=0.5, stratify=of_two["label"], random_state=0
    )
    new, moved = ("valid", to_valid) if there[1] == "test" else ("test", to_test)
    note = (
        f"The pictures have no {new} split: {len(moved):,} of the {len(second):,} {there[1]} "
        "images were drawn for it (stratified, seed 0). Figures for this split cannot be compared "
        "with those for PrivateTest."
    )
    return labels["split"].where(~labels.index.isin(moved), new), [note]
