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
import pandas as pd
from tqdm.auto import tqdm

from utils import config
from utils.data.prepared import (
    LEFT_OUT_COLUMNS,
    MARKER,
    SPLITS,
    PreparedDataset,
    empty_classes,
    load_unchanged,
    make_class_folders,
    refuse_unusable,
    save_tables,
)
from utils.data.raw import MAX_FILES, files_in, members_of, state_of
from utils.files import decode_image, encode_image, refuse_damaged, replaced_when_done
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
    PreparedDataset
        `labels` has the columns file, split, label, item (row of the csv, or file), blank
        (every pixel has the same value), sha256 (of the pixels).

    Raises
    ------
    FileNotFoundError
        If there are no raw data.
    ValueError
        If the raw data are in a form that cannot be used, with what to use instead.
    """
    destination = destination or config.prepared_dir("fer2013")
    source = source or config.find_raw("fer2013")
    raw = source and state_of(source)
    prepared = load_unchanged(destination, raw)
    if prepared:
        return prepared
    source = source or config.raw_path("fer2013")
    with replaced_when_done(destination, MARKER) as partial:
        make_class_folders(partial, EMOTIONS)
        found, labels, left_out = _write_images(source, partial)
        if not labels:
            refuse_unusable(source, left_out, EXPECTED)
        columns = ["file", "split", "label", "item", "blank", "sha256"]
        labels, notes = _with_each_split(partial, pd.DataFrame(labels, columns=columns), source)
        prepared = PreparedDataset(
            folder=destination,
            dataset="fer2013",
            source=source.name,
            found=found,
            labels=labels,
            left_out=pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS),
            notes=notes + empty_classes(labels, EMOTIONS),
            raw=raw,
        )
        save_tables(prepared, partial)
    return prepared


def _write_images(source, folder):
    """Write what can be used as PNG; return how much was found, rows of labels, rows left out."""
    records = _read_folder(source) if source.is_dir() else _read_csv(source)
    found, labels, left_out = 0, [], []
    for item, split, emotion, image, reason in tqdm(records, desc=source.name, leave=False):
        if reason:
            left_out.append((item, reason))
        else:
            file = f"{split}/{emotion}/{found:05d}.png"
            (folder / file).write_bytes(encode_image(image))
            blank = bool(image.min() == image.max())
            digest = sha256(image.tobytes()).hexdigest()
            labels.append((file, split, emotion, item, blank, digest))
        found += 1
    return found, labels, left_out


@contextmanager
def _open_text(path):
    """Open the csv in `path`, packed or not, as text."""
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            # All are read before the first is used: so it is known that the tar is whole.
            names = [member.name for member in members_of(archive, path) if member.isreg()]
            yield _as_text(archive.extractfile(_csv_member(path, names)))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            with archive.open(_csv_member(path, archive.namelist())) as stream:
                yield _as_text(stream)
    else:
        open_packed = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
        with open_packed(path, "rb") as stream:
            yield _as_text(stream)


def _as_text(stream):
    # A byte that is no text spoils its row, not the file.
    return io.TextIOWrapper(stream, encoding=ENCODING, errors="replace", newline="")


def _csv_member(path, names):
    for wanted in CSV_NAMES:
        for name in names:
            if name.rsplit("/", 1)[-1] == wanted:
                return name
    raise ValueError(
        f"{path} holds no plain file {' or '.join(CSV_NAMES)}; if it holds pictures in "
        f"folders, unpack it to {path.parent / 'fer2013'} so that there is "
        f"{path.parent / 'fer2013' / 'train' / 'angry'}"
    )


def _read_csv(path):
    """Yield (row number, split, emotion, image, reason) for each row; reason if it is left out."""
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
        emotion_at, pixels_at, usage_at = (columns.index(c) for c in ("emotion", "pixels", "usage"))
        for row_number, row in enumerate(rows):
            if len(row) != len(columns):
                reason = f"{len(row)} fields instead of {len(columns)}"
                yield row_number, None, None, None, reason
                continue
            usage, label = row[usage_at].strip(), row[emotion_at].strip()
            split = TO_SPLIT.get(usage.lower())
            emotion = CODE_TO_EMOTION.get(label) or TO_EMOTION.get(label.lower())
            image = None
            if split is None:
                reason = f"unknown Usage {usage[:40]!r}"
            elif emotion is None:
                reason = f"unknown emotion {label[:40]!r}"
            else:
                image, reason = _parse_pixels(row[pixels_at])
            yield row_number, split, emotion, image, reason


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


def _parse_pixels(text):
    if not (text.isascii() and text.replace(" ", "").isdigit()):
        return None, "pixels: something else than numbers and spaces"
    # Only numpy's binary mode of fromstring is gone; its text mode reads this twice as fast as
    # anything built on str.split.
    pixels = np.fromstring(text, dtype=np.int64, sep=" ")
    if pixels.size != SIDE * SIDE:
        return None, f"{pixels.size} pixels instead of {SIDE * SIDE}"
    if pixels.max() > 255:
        return None, f"pixel value {pixels.max()}, expected 0 to 255"
    return pixels.astype(np.uint8).reshape(SIDE, SIDE), ""


def _read_folder(folder):
    """Yield the same as `_read_csv` for pictures in ``split/emotion/``, sorted by name."""
    seen = set()
    for item, content, unread in files_in(folder):
        split, emotion, reason = _place_of(item)
        image, reason = None, reason or unread
        if not reason:
            # Kaggle's copies hold some folders twice, one in the other.
            key = split, emotion, item.rsplit("/", 1)[-1], sha256(content).digest()
            image, reason = _decode(content) if key not in seen else (None, "the same file again")
            seen.add(key)
        yield item, split, emotion, image, reason


def _place_of(item):
    """Split and emotion by a file's folders, and the reason if one is not known."""
    *folders, name = item.split("/")
    if len(folders) < 2:
        return None, None, "not in a split/emotion folder"
    # Some copies keep the Usage in the file name and have PublicTest in test/.
    usage = name.split("_")[0]
    split = TO_SPLIT.get((usage if usage in USAGES else folders[-2]).lower())
    emotion = TO_EMOTION.get(folders[-1].lower())
    if split is None:
        return None, None, f"unknown split {folders[-2]!r}"
    return split, emotion, "" if emotion else f"unknown emotion {folders[-1]!r}"


def _decode(content):
    try:
        image = decode_image(content, cv2.IMREAD_GRAYSCALE)
    except ValueError as error:
        return None, str(error)
    height, width = image.shape
    if (height, width) != (SIDE, SIDE):
        return None, f"{width}x{height} pixels instead of {SIDE}x{SIDE}"
    return image, ""


def _with_each_split(folder, labels, source):
    """Some copies have two splits only: the second is halved, and a note says so."""
    there = [split for split in SPLITS if (labels["split"] == split).any()]
    if len(there) == len(SPLITS):
        return labels, ()
    counts = labels["split"].value_counts().reindex(SPLITS, fill_value=0).to_dict()
    second = labels[labels["split"] != "train"]
    if not source.is_dir() or len(there) == 1 or "train" not in there:
        raise ValueError(
            f"{source} has {counts} images, expected some in each split: it was probably cut off "
            "or is a part; get fer2013.csv, or a copy with train/ and test/"
        )
    of_two = second[second.groupby("label")["label"].transform("size") > 1]
    if of_two.empty:
        raise ValueError(f"{source} has {counts} images, too few to halve {there[1]}")
    from sklearn.model_selection import train_test_split  # half a second, which the loop saves

    to_valid, to_test = train_test_split(
        of_two.index, train_size=0.5, stratify=of_two["label"], random_state=0
    )
    labels = labels.copy()
    new = "valid" if there[1] == "test" else "test"
    moved = to_valid if new == "valid" else to_test
    for index in moved:
        old = labels.at[index, "file"]
        file = old.replace(f"{there[1]}/", f"{new}/", 1)
        (folder / old).rename(folder / file)
        labels.loc[index, ["file", "split"]] = [file, new]
    return labels, (
        f"The pictures have no {new} split: {len(moved):,} of the {len(second):,} {there[1]} "
        f"images were drawn for it (stratified, seed 0). Figures for this split cannot be compared "
        "with those for PrivateTest.",
    )
