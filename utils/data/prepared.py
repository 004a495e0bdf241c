"""Prepared class folders: their counts, their audit, and their images as arrays."""

import hashlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils import config
from utils.data.raw import files_in, state_of
from utils.files import read_image, read_json, read_table, rename, replaced_when_done, write_json
from utils.preprocessing import CLASSES, face_input_for, prepare_face

SPLITS = ("train", "valid", "test")
LEFT_OUT_COLUMNS = ["item", "reason"]
MARKER = config.PREPARED_MARKER
FACTS = ("dataset", "source", "found", "notes", "seed")  # in it
NOTEBOOKS = {"fer2013": "01_prepare_fer", "utkface": "02_prepare_utk"}


@dataclass(frozen=True)
class PreparedDataset:
    """A folder of class folders with its tables.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``train/ valid/ test/`` x class names, ``labels.csv``, ``left_out.csv`` and
        ``prepared.json``.
    dataset : str
        "fer2013", "utkface", or the name of one's own.
    source : str
        Name of the raw file or folder.
    found : int
        Rows or files read: ``found == len(labels) + len(left_out)``, or it is refused.
    labels : pandas.DataFrame
        One row per image: file, split, label, sha256, and what the data set knows besides.
    left_out : pandas.DataFrame
        One row per row or file that was not used: item, reason.
    notes : tuple of str
        What a reader of the numbers must know, for instance a split that is not the official one.
    seed : int
        Of the draw, where the data set has no splits of its own.
    raw : list of int, optional
        See `utils.data.raw.state_of`.
    """

    folder: Path
    dataset: str
    source: str
    found: int
    labels: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple = ()
    seed: int = 0
    raw: list | None = None

    def __post_init__(self):
        used, left_out = len(self.labels.dropna()), len(self.left_out)
        if used + left_out != self.found:
            raise ValueError(
                f"{self.folder} has {used:,} whole rows in labels.csv and {left_out:,} in "
                f"left_out.csv, expected {self.found} together: {_again(self.folder)}"
            )

    @property
    def class_names(self):
        """All classes, in the order of their indices: tuple of str."""
        return CLASSES.get(self.dataset) or tuple(sorted(set(self.labels["label"])))

    @property
    def counts(self):
        """Images per split and class, with sums."""
        table = pd.crosstab(
            self.labels["split"], self.labels["label"], margins=True, margins_name="all"
        )
        return table.reindex([*SPLITS, "all"], columns=[*self.class_names, "all"], fill_value=0)


def prepare_once(
    dataset,
    read,
    arrange,
    expected,
    source=None,
    destination=None,
    items=files_in,
    seed=0,
    by=(),
):
    """Prepare a data set, or read what was prepared before from these raw data in this way.

    What was prepared from another copy stays until it is replaced, and a line says so.

    Parameters
    ----------
    dataset : str
        "fer2013", "utkface", or the name of one's own.
    read : callable
        Takes an item and its content; gives what `labels` is to hold of it (dict), and the bytes
        of the picture to be written. A ValueError says why the item is left out.
    arrange : callable
        Takes `labels`, sorted by item, the pairs of `left_out`, and the source; gives the split of
        each row, and notes.
    expected : str
        What should be there, for the message where nothing is.
    source, destination : pathlib.Path, optional
        Raw file or folder, and where the class folders go; by default those of `utils.config`.
    items : callable
        As `utils.data.raw.files_in`.
    seed : int
        Of the draw.
    by : sequence of str
        What decides besides.

    Returns
    -------
    PreparedDataset

    Raises
    ------
    FileNotFoundError
        If there are neither prepared nor raw data.
    ValueError
        If the folder is there but was not written by this project, as it may be somebody's raw
        data; or no item can be used, with the most frequent reason.
    """
    folder = destination or config.prepared_dir(dataset)
    source = source or config.find_raw(dataset)  # none is needed where data are prepared
    if source and folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise ValueError(
            f"{source} is what was prepared, and would be replaced: give the folder or file of "
            "your own from which it was made"
        )
    raw = source and [*state_of(source), *by]
    if folder.is_dir():
        if not (folder / MARKER).is_file():
            raise ValueError(
                f"{folder} was not written by this project, and prepared data belong there: if it "
                f"holds raw data, move it to {folder.parent / 'raw'}"
            )
        prepared = read_prepared(folder)
        if prepared.seed == seed and raw in (None, prepared.raw):
            return prepared
        print(f"{folder.name} was prepared from other raw data or in another way: it is made anew")
    source = source or config.raw_path(dataset)
    with replaced_when_done(folder, MARKER) as partial:
        partial.mkdir()
        found, rows, left_out = 0, [], []
        for item, content, reason in tqdm(items(source), desc=source.name, leave=False):
            found += 1
            try:
                if reason:
                    raise ValueError(reason)
                facts, picture = read(item, content)
            except ValueError as error:
                left_out.append((item, str(error)))
            else:
                (partial / str(found)).write_bytes(picture)
                rows.append({"written": str(found), "suffix": ".png", "item": item, **facts})
        if not rows:
            why = pd.Series([reason for _, reason in left_out], dtype=str).value_counts()[:1]
            raise ValueError(
                f"{source} holds no usable image in {found:,} rows or files"
                + "".join(f", {n:,} of them for this reason: {x}" for x, n in why.items())
                + f"; expected {expected}"
            )
        # Archives list their files in any order; the draw must not depend on it.
        labels = pd.DataFrame(rows).sort_values("item", ignore_index=True)
        labels["split"], notes = arrange(labels, left_out, source)
        names = [f"{number:05d}{suffix}" for number, suffix in enumerate(labels["suffix"])]
        labels["file"] = labels["split"] + "/" + labels["label"] + "/" + names
        first = ["file", "split", "label", "item", "sha256"]
        others = [x for x in labels if x not in (*first, "written", "suffix")]
        prepared = PreparedDataset(
            folder=folder,
            dataset=dataset,
            source=source.name,
            found=found,
            labels=labels[first + others],
            left_out=pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS),
            seed=seed,
            raw=raw,
        )
        prepared = replace(prepared, notes=(*notes, *_empty_classes(prepared)))
        for split, name in itertools.product(SPLITS, prepared.class_names):
            (partial / split / name).mkdir(parents=True)
        for written, file in zip(labels["written"], labels["file"]):
            rename(partial / written, partial / file)
        prepared.labels.to_csv(partial / "labels.csv", index=False)
        prepared.left_out.to_csv(partial / "left_out.csv", index=False)
        facts = {name: getattr(prepared, name) for name in (*FACTS, "raw")}
        write_json(partial / MARKER, facts)
        read_prepared(partial)  # which counts again
    return prepared


def _empty_classes(prepared):
    """Yield notes on classes of which a split has no image."""
    for split, counts in prepared.counts.loc[list(SPLITS), list(prepared.class_names)].iterrows():
        if (counts == 0).any():
            yield (
                f"No images of {', '.join(counts.index[counts == 0])} in the {split} split: a "
                "network cannot learn or be measured on them."
            )


def load_prepared(dataset, split_name="default"):
    """Read the tables of a prepared data set.

    Parameters
    ----------
    dataset : str
        "fer2013", "utkface", or the name of one's own.
    split_name : str
        ``"default"``, or ``"report"`` for the report's split of UTKFace.

    Returns
    -------
    PreparedDataset

    Raises
    ------
    FileNotFoundError
        If it was not prepared yet, with the notebook or command that does it.
    """
    folder = config.prepared_dir(dataset, split_name)
    if not (folder / MARKER).is_file():
        raise FileNotFoundError(f"{folder} is not prepared: run {_preparation(folder)} first")
    return read_prepared(folder)


def read_prepared(folder):
    """Read the tables in the folder of a prepared data set.

    Raises
    ------
    ValueError
        If one of them is damaged, or if they do not hold as many rows as were found.
    """
    advice = _again(folder)
    facts = read_json(folder / MARKER, advice, FACTS)
    as_text = {"keep_default_na": False}  # a file may be called NA, and a class 7
    columns = ("file", "split", "label", "item", "sha256")
    labels = read_table(folder / "labels.csv", advice, columns, dtype={"label": str}, **as_text)
    left_out = read_table(folder / "left_out.csv", advice, LEFT_OUT_COLUMNS, dtype=str, **as_text)
    return PreparedDataset(
        folder=folder,
        labels=labels,
        left_out=left_out,
        raw=facts.get("raw"),
        **{name: facts[name] for name in FACTS} | {"notes": tuple(facts["notes"])},
    )


def _again(folder):
    return f"delete {folder} and run {_preparation(folder)} again"


def _preparation(folder):
    """What prepares a data set, by the name of its folder."""
    for dataset, notebook in NOTEBOOKS.items():
        if folder.name.startswith(dataset):
            return f"notebooks/{notebook}.ipynb"
    return f"python tasks.py prepare FOLDER --name {folder.name}"


def rows_of(prepared, split, class_names=None):
    """What is known of each image of a split, in the order of `load_images`.

    Parameters
    ----------
    prepared : PreparedDataset
    split : {"train", "valid", "test"}
    class_names : sequence of str, optional
        In the order of their indices; all of the data set by default.

    Returns
    -------
    pandas.DataFrame
        Rows of ``prepared.labels``, class by class and sorted by file.

    Raises
    ------
    ValueError
        If the split or a class is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    known = prepared.class_names
    class_names = tuple(class_names or known)
    unknown = set(class_names) - set(known)
    if unknown:
        raise ValueError(f"{prepared.dataset} has no classes {sorted(unknown)}, only {known}")
    table = prepared.labels[prepared.labels["split"] == split].sort_values("file")
    return pd.concat([table[table["label"] == name] for name in class_names], ignore_index=True)


def load_split(dataset, split, face_input, class_names=None):
    """Decode the images of one split of a data set, by its name; else as `load_images`."""
    return load_images(load_prepared(dataset), split, face_input, class_names)


def load_images(prepared, split, face_input, class_names=None):
    """Decode the images of one split, once, into memory.

    Parameters
    ----------
    prepared : PreparedDataset
    split : {"train", "valid", "test"}
    face_input : FaceInput
    class_names : sequence of str, optional
        Classes to read, in the order of their indices; all of the data set by default.

    Returns
    -------
    images : numpy.ndarray, uint8, 0..255, (n, height, width, channels), grey or RGB
    y_true : numpy.ndarray, int64, (n,)
        Index into `class_names`.
    files : list of pathlib.Path
        Where each image came from; see also `rows_of`.

    Raises
    ------
    FileNotFoundError
        If images are missing.
    ValueError
        If the split or a class is unknown.
    """
    rows = rows_of(prepared, split, class_names)
    class_names = list(class_names or prepared.class_names)
    y_true = rows["label"].map(class_names.index).to_numpy(np.int64)
    files = [prepared.folder / file for file in rows["file"]]
    missing = sum(not path.is_file() for path in files)
    if missing:
        raise FileNotFoundError(
            f"{missing} of {len(files)} images are missing: {_again(prepared.folder)}"
        )

    flags = cv2.IMREAD_COLOR if face_input.colour == "rgb" else cv2.IMREAD_GRAYSCALE
    images = np.empty((len(files), *face_input.shape), dtype=np.uint8)
    bar = tqdm(files, desc=f"decode {prepared.dataset} {split}", leave=False)
    for index, path in enumerate(bar):
        try:
            images[index] = prepare_face(read_image(path, flags), face_input)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {_again(prepared.folder)}") from error
    return images, y_true, files


def fingerprint(prepared):
    """What a number rests on: images and a checksum of each split.

    Returns
    -------
    dict
        For each split, ``images`` and ``sha256`` of the sorted labels and image checksums: two
        people whose checksums agree have the same images with the same labels.
    """
    lines = prepared.labels["label"] + " " + prepared.labels["sha256"]
    return {
        split: {
            "images": len(group),
            "sha256": hashlib.sha256("\n".join(sorted(group)).encode()).hexdigest(),
        }
        for split, group in lines.groupby(prepared.labels["split"])
    }


def copies_of_training(prepared, split, class_names=None):
    """Say which images of a split are in the training split as well: bool, as `rows_of`."""
    training = prepared.labels.loc[prepared.labels["split"] == "train", "sha256"]
    return rows_of(prepared, split, class_names)["sha256"].isin(training).to_numpy()


def likeness_to_training(prepared, split):
    """Tell how like each image of a split is to the training image that is most like it.

    A picture that was stored twice, in another size, cut or quality, has other pixels each time,
    so it is no copy for `copies_of_training`; but small and grey both are nearly the same.
    Taught in notebook 03.

    Parameters
    ----------
    prepared : PreparedDataset
    split : {"valid", "test"}

    Returns
    -------
    numpy.ndarray, float32, -1..1, (n,)
        Correlation of the two, shrunk to 24 x 24 grey pixels; in the order of `rows_of`.
    """
    face_input = face_input_for(prepared.dataset, 24, 24, "grey")

    def standardized(name):
        images, _, _ = load_images(prepared, name, face_input)
        pixels = images.reshape(len(images), -1).astype(np.float32)
        pixels -= pixels.mean(axis=1, keepdims=True)
        # An image of one grey is like no other: it is left at zero.
        return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)

    training = standardized("train").T
    parts = np.array_split(standardized(split), 10)  # all at once would be half a gigabyte
    return np.concatenate([(part @ training).max(axis=1) for part in parts])


def audit(labels):
    """Count images that occur more than once, and what that does to the splits.

    Parameters
    ----------
    labels : pandas.DataFrame
        Table of a `PreparedDataset`: split, label, sha256.

    Returns
    -------
    pandas.Series of int
        Groups of identical images, the images in them, groups that cross splits, groups with
        conflicting labels, and validation and test images that are also in the training split.
    """
    groups = labels.groupby("sha256")
    sizes = groups.size()
    repeated = sizes[sizes > 1].index
    in_train = labels["sha256"].isin(labels.loc[labels["split"] == "train", "sha256"])
    return pd.Series(
        {
            "groups of identical images": len(repeated),
            "images in these groups": int(sizes[repeated].sum()),
            "groups that cross splits": int((groups["split"].nunique() > 1).sum()),
            "groups with conflicting labels": int((groups["label"].nunique() > 1).sum()),
            "validation images also in training": int(
                (in_train & (labels["split"] == "valid")).sum()
            ),
            "test images also in training": int((in_train & (labels["split"] == "test")).sum()),
        },
        name="images",
    )
