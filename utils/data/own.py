"""Pictures of one's own, a folder for each class -> train/ valid/ test/ x these classes."""

import re
import unicodedata
from hashlib import sha256

import numpy as np
import pandas as pd

from utils import config
from utils.data.fer import TO_SPLIT
from utils.data.prepared import SPLITS, prepare_once
from utils.data.raw import OF_SYSTEM, printable
from utils.files import decode_image, encode_image
from utils.preprocessing import crop_face, face_input_for, rescale

SIDE = 200  # pixels, the larger one of what is kept: no network of the project sees more
SHARES = (5 / 7, 1 / 7, 1 / 7)  # of `SPLITS`, in each class
LEAST_PICTURES, LEAST_PERSONS, MOST_CLASSES = 7, 3, 50
# A date, as cameras and phones write it, is no person: 20240501, 2024-05-01, 5-1-24.
PERSON = re.compile(r"((?:(?!\d{6}|\d{1,4}[-.]\d{1,2}[-.]\d{1,4}).)*?)[\s_.(-]*\d{1,5}\D*")
LOOP_S_FACE = re.compile(r"\d+\.\d{3}s_(track\d+)_.*")  # as `run --save-faces` names it
NUM_DRAWS = 100
MOST_OBLONG = 1.25  # the larger side of a face's picture by the smaller one


def prepare_own(source, name="mine", detector=None):
    """Prepare pictures of one's own, or load their tables when that was done before.

    A folder for each class, with pictures of any form and size; they are only read. A picture that
    comes again, pixel by pixel, is left out. Persons are known by the names of the files, up to
    the last number and without a class: ``anna_01.jpg``, ``anna-2.png`` and, where ``mask`` is a
    class, ``mask_anna (3).jpg`` show one. Of faces that the loop kept, a track counts as a
    person. All pictures of a person go to one split, if each class shows three persons or more, and
    these have two pictures or more on average. Otherwise pictures are drawn one by one, and a note
    says so.

    Parameters
    ----------
    source : pathlib.Path
        Folder of the class folders.
    name : str
        Of the data set, see `utils.config.OWN_NAME`.
    detector : object with ``detect(frame)``, optional
        See `utils.realtime.detection`. The face in each picture is cut out as the loop cuts it; a
        picture with several is left out. None: each picture is a face.

    Returns
    -------
    PreparedDataset
        `labels` has the columns file, split, label, item, sha256 (of the pixels), person.

    Raises
    ------
    ValueError
        If the name is none, there are no class folders, or a class has too few pictures.
    """
    if not config.OWN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for your own pictures: {config.OWN_NAME_RULE}")
    class_names, seen = _class_folders(source), {}

    def read(item, content):
        label, *below = item.split("/")
        if not below or label not in class_names:
            raise ValueError("not in a class folder")
        face = _face_in(decode_image(content), detector)
        digest = sha256(face.tobytes()).hexdigest()
        if seen.setdefault(digest, item) != item:
            there = seen[digest].split("/")[0]
            raise ValueError(f"the same picture again{f', also in {there}' * (there != label)}")
        person = _person(below[-1].rpartition(".")[0], class_names)
        is_face = bool(detector) or max(face.shape[:2]) <= MOST_OBLONG * min(face.shape[:2])
        facts = {"label": label, "sha256": digest, "person": person, "is_face": is_face}
        return facts, encode_image(face)

    def arrange(labels, left_out, source):
        counts = labels["label"].value_counts().reindex(class_names, fill_value=0)
        if counts.min() < LEAST_PICTURES:
            why = pd.Series([reason for _, reason in left_out], dtype=str).mode()
            raise ValueError(
                f"{source / counts.idxmin()} has {counts.min()} different pictures that can be "
                f"used, expected at least {LEAST_PICTURES} in each class folder; {len(left_out)} "
                f"files of {source.name} were left out{''.join(f', most as: {x}' for x in why[:1])}"
            )
        splits, note = _draw_splits(labels)
        oblong, notes = ~labels.pop("is_face"), [note]
        if oblong.any():
            notes.append(
                f"{oblong.sum():,} of {len(labels):,} pictures are far from square. Whole "
                "photographs would be taken for faces: prepare with --cut, which cuts the faces "
                "out."
            )
        return splits, notes

    expected = f"at least {LEAST_PICTURES} pictures in each class folder"
    by = [type(detector).__name__]
    return prepare_once(name, read, arrange, expected, source, by=by)


def _person(stem, class_names):
    """Who is on a picture, by the name of its file; empty where that does not say it."""
    match = LOOP_S_FACE.fullmatch(stem) or PERSON.fullmatch(stem)
    name = _words(match[1]) if match else ""
    for label in sorted(map(_words, class_names), key=len, reverse=True):
        name = f" {name} ".removeprefix(f" {label} ").removesuffix(f" {label} ").strip()
    return name


def _words(text):
    text = unicodedata.normalize("NFC", text).lower()  # a Mac writes an umlaut as two characters
    return " ".join(re.split(r"[\s_.()-]+", text)).strip()


def _class_folders(source):
    """Names of the class folders, without those of the system."""
    if not source.is_dir():
        raise ValueError(f"{source} is no folder: give one that holds a folder for each class")
    folders = [x.name for x in source.iterdir() if x.is_dir() and not x.name.startswith(".")]
    names = sorted(printable(name) for name in folders if name not in OF_SYSTEM)
    if not 2 <= len(names) <= MOST_CLASSES or {name.lower() for name in names} <= set(TO_SPLIT):
        raise ValueError(
            f"{source} holds {len(names)} folders ({', '.join(names[:5])}), expected 2 to "
            f"{MOST_CLASSES}, one for each class, as {source.name}/mask and {source.name}/no mask; "
            "if it holds the splits train and test, give one of these"
        )
    return names


def _face_in(picture, detector):
    if detector:
        boxes = detector.detect(picture)
        if len(boxes) != 1:
            raise ValueError(f"{len(boxes)} faces were found in it, expected one")
        picture = crop_face(picture, boxes[0], face_input_for("mine", SIDE, SIDE, "rgb"))
    return rescale(picture, min(1, SIDE / max(picture.shape[:2])))


def _draw_splits(labels):
    """Split of each picture, and a note on how it was drawn."""
    is_known = labels["person"] != ""
    groups = labels["person"].where(is_known, labels["item"])
    counts = pd.crosstab(groups, labels["label"])
    known = pd.crosstab(labels["person"][is_known], labels["label"])
    known = known.reindex(columns=counts.columns, fill_value=0)
    if 2 * len(known) <= is_known.sum() and (known > 0).sum().min() >= LEAST_PERSONS:
        # Of many draws the one that leaves no class out, and is nearest to the shares of each.
        random = np.random.default_rng(0)
        draws = [_draw_persons(counts.to_numpy(), random) for _ in range(NUM_DRAWS)]
        splits = dict(zip(counts.index, np.array(SPLITS)[min(draws, key=lambda x: x[0])[1]]))
        names = ", ".join(known.index[:5]) + ", ..." * (len(known) > 5)
        note = f"Split by person: {len(known)}, as the names of the files say ({names})."
        if not is_known.all():
            note += f" {(~is_known).sum():,} pictures name nobody: who is on them is not known."
        if labels["person"].str.fullmatch(r"track\d+").any():
            note += " A track of the loop counts as a person: who came back is in it twice."
        return groups.map(splits), note
    turns = labels.sample(frac=1, random_state=0).groupby("label").cumcount() % LEAST_PICTURES
    return turns.map({0: "valid", 1: "test"}).fillna("train"), (
        "Split picture by picture, as the names of the files do not tell persons apart: a face may "
        "be in several splits, and figures say little about other people."
    )


def _draw_persons(counts, random):
    """Give each person, in an order by chance, to the split that lacks most of their classes.

    Parameters
    ----------
    counts : numpy.ndarray, int, (persons, classes)
        Pictures of each.

    Returns
    -------
    faults : tuple
        Classes that a split has none of, and how far the shares are from `SHARES`.
    splits : list of int
        Of each person, an index of `SPLITS`.
    """
    wanted = np.outer(SHARES, counts.sum(axis=0))
    held, splits = np.zeros_like(wanted), [0] * len(counts)
    for person in random.permutation(len(counts)):
        lacking = ((wanted - held) / wanted)[:, counts[person] > 0].max(axis=1)
        splits[person] = int(lacking.argmax())
        held[splits[person]] += counts[person]
    return ((held == 0).sum(), abs(held / wanted - 1).max()), splits
