"""FER-2013 in every form in which people have it -> train/ valid/ test/ x seven emotions."""

import csv
import gzip
import io
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
    EMOTIONS,
    LEFT_OUT_COLUMNS,
    SPLITS,
    PreparedDataset,
    load_unchanged,
    make_class_folders,
    raw_state,
    save_tables,
)
from utils.files import (
    IMAGE_SUFFIXES,
    decode_image,
    encode_image,
    refuse_damaged,
    refuse_rest,
    replaced_when_done,
)

SIDE = 48
CODE_TO_EMOTION = {str(code): emotion for code, emotion in enumerate(EMOTIONS)}
USAGE_TO_SPLIT = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
FOLDER_TO_SPLIT = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}
ENCODING = "utf-8-sig"  # some programs save a csv with a byte order mark
OTHER_CLASS_NAMES = {"disgusted": "disgust", "fearful": "fear", "surprised": "surprise"}


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
    prepared = load_unchanged(destination, source or config.find_raw("fer2013"))
    if prepared:
        return prepared
    source = source or config.raw_path("fer2013")
    records = _read_folder(source) if source.is_dir() else _read_csv(source)
    found, labels, left_out = 0, [], []
    with replaced_when_done(destination) as partial:
        make_class_folders(partial, "fer2013")
        for item, split, emotion, image, reason in tqdm(records, desc=source.name, leave=False):
            if reason:
                left_out.append((item, reason))
            else:
                file = f"{split}/{emotion}/{found:05d}.png"
                (partial / file).write_bytes(encode_image(image))
                blank = bool(image.min() == image.max())
                labels.append(
                    (file, split, emotion, item, blank, sha256(image.tobytes()).hexdigest())
                )
            found += 1
        if not labels:
            raise ValueError(f"{source} holds no usable image in {found} rows or files")
        columns = ["file", "split", "label", "item", "blank", "sha256"]
        labels = pd.DataFrame(labels, columns=columns)
        notes = ()
        if source.is_dir() and not (labels["split"] == "valid").any():
            labels, notes = _halve_test_split(partial, labels)
        counts = labels["split"].value_counts().reindex(SPLITS, fill_value=0)
        if not counts.all():
            raise ValueError(
                f"{source} has {counts.to_dict()} images, expected some in each split: it was "
                "probably cut off, get it again"
            )
        prepared = PreparedDataset(
            folder=destination,
            dataset="fer2013",
            source=source.name,
            found=found,
            labels=labels,
            left_out=pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS),
            notes=notes,
            raw=raw_state(source),
        )
        save_tables(prepared, partial)
    return prepared


@contextmanager
def _open_text(path):
    """Open the csv in `path`, packed or not, as text."""
    if path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(path) as archive:
            names = archive.getnames()
            refuse_rest(archive)
            member = _csv_member(path, names)
            yield io.TextIOWrapper(archive.extractfile(member), encoding=ENCODING, newline="")
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            member = _csv_member(path, archive.namelist())
            with archive.open(member) as stream:
                yield io.TextIOWrapper(stream, encoding=ENCODING, newline="")
    else:
        open_packed = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
        with open_packed(path, "rt", encoding=ENCODING, newline="") as stream:
            yield stream


def _csv_member(path, names):
    for wanted in ("fer2013.csv", "icml_face_data.csv"):
        for name in names:
            if name.rsplit("/", 1)[-1] == wanted:
                return name
    raise ValueError(
        f"{path} holds no fer2013.csv and no icml_face_data.csv; if it holds pictures in "
        f"folders, unpack it to {path.parent / 'fer2013'} so that there is "
        f"{path.parent / 'fer2013' / 'train' / 'angry'}"
    )


def _read_csv(path):
    """Yield (row number, split, emotion, image, reason) for each row; reason if it is left out."""
    with refuse_damaged(path), _open_text(path) as stream:
        reader = csv.reader(stream)
        columns = [name.strip() for name in next(reader, [])]
        missing = {"emotion", "pixels", "Usage"} - set(columns)
        if missing:
            raise ValueError(
                f"{path} has the columns {columns} and lacks {sorted(missing)}: expected "
                "fer2013.csv or icml_face_data.csv. The challenge's train.csv has no Usage and its "
                "test.csv no emotion, so they give no validation and test split"
            )
        emotion_at, pixels_at, usage_at = (columns.index(c) for c in ("emotion", "pixels", "Usage"))
        for row_number, row in enumerate(reader):
            split = emotion = image = None
            reason = ""
            if len(row) != len(columns):
                reason = f"{len(row)} fields instead of {len(columns)}"
            elif (split := USAGE_TO_SPLIT.get(row[usage_at].strip())) is None:
                reason = f"unknown Usage {row[usage_at]!r}"
            elif (emotion := CODE_TO_EMOTION.get(row[emotion_at].strip())) is None:
                reason = f"unknown emotion {row[emotion_at]!r}"
            else:
                image, reason = _parse_pixels(row[pixels_at])
            yield row_number, split, emotion, image, reason


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
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in paths):
        raise ValueError(
            f"{folder} holds no pictures: expected train/angry/*.jpg and so on below it"
        )
    for path in paths:
        item = path.relative_to(folder).as_posix()
        # Kaggle's copies keep the Usage in the file name and have PublicTest in test/.
        split = USAGE_TO_SPLIT.get(path.name.split("_")[0])
        emotion, image, reason = None, None, ""
        if len(path.relative_to(folder).parts) < 3:
            reason = "not in a split/emotion folder"
        else:
            split = split or FOLDER_TO_SPLIT.get(path.parent.parent.name.lower())
            class_name = path.parent.name.lower()
            emotion = OTHER_CLASS_NAMES.get(class_name, class_name)
            if split is None:
                reason = f"unknown split {path.parent.parent.name!r}"
            elif emotion not in EMOTIONS:
                reason = f"unknown emotion {path.parent.name!r}"
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                reason = f"unknown file type {path.suffix!r}"
            else:
                image = decode_image(path.read_bytes(), cv2.IMREAD_GRAYSCALE)
                if image is None:
                    reason = "corrupt image"
                elif image.shape != (SIDE, SIDE):
                    reason = f"{image.shape[1]}x{image.shape[0]} pixels instead of {SIDE}x{SIDE}"
        yield item, split, emotion, image, reason


def _halve_test_split(folder, labels):
    """Some copies have train/ and test/ only, without Usage in the names."""
    from sklearn.model_selection import train_test_split  # half a second, which the loop saves

    test = labels[labels["split"] == "test"]
    if test.empty:
        raise ValueError("the pictures hold neither a validation nor a test split")
    to_valid, _ = train_test_split(
        test.index, train_size=0.5, stratify=test["label"], random_state=0
    )
    labels = labels.copy()
    for index in to_valid:
        old = labels.at[index, "file"]
        new = old.replace("test/", "valid/", 1)
        (folder / old).rename(folder / new)
        labels.loc[index, ["file", "split"]] = [new, "valid"]
    return labels, (
        f"The pictures do not say which are PublicTest: {len(to_valid)} of the {len(test)} test "
        "images were drawn for validation (stratified, seed 0). Figures for this split cannot be "
        "compared with those for PrivateTest.",
    )
