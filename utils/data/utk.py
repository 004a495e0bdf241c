"""UTKFace, folder or tar -> train/ valid/ test/ x female, male, with one table of labels."""

import re
from hashlib import sha256
from pathlib import PurePosixPath

import pandas as pd

from utils import config
from utils.data.prepared import prepare_once
from utils.files import decode_image
from utils.preprocessing import GENDERS

# In the order of the data set's own numbers.
GENDER_CODES = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Other")
SIDE = 200  # of the aligned and cropped form
MAX_AGE = 116  # README of UTKFace: ages from 0 to 116

# Dates have 16 to 18 digits and the tails vary (".jpg.chip.jpg", " .jpg", "jpg.chip.jpg").
FIELDS = {"age": r"\d{1,3}", "gender": "[01]", "race": "[0-4]", "date": r"\d{14,}.*"}

# Validation and test sizes: a share of the usable images, or images of (female, male).
SPLIT_SIZES = {"default": (0.10, 0.10), "report": ((200, 200), (100, 100))}


def prepare_utk(split_name="default", seed=0, source=None, destination=None):
    """Prepare UTKFace, or load its tables when that was done before from these raw data.

    Taught in notebooks/02_prepare_utk.ipynb. Raw files are copied, byte by byte, never moved.
    Images that occur several times, byte by byte, all go to training, so that no copy crosses over
    and validation and test faces are counted once.

    Parameters
    ----------
    split_name : {"default", "report"}
        80/10/10 stratified by gender, or the report's sizes: validation 200 + 200, test
        100 + 100, the rest for training. The sample is too small for the latter: it gets 80/10/10.
    seed : int
        Of the draw.
    source, destination : pathlib.Path, optional
        Raw file or folder, and where the class folders go; by default those of `utils.config`.

    Returns
    -------
    PreparedDataset
        `labels` has the columns file, split, label (gender), item, sha256 (of the file), age, race.

    Raises
    ------
    FileNotFoundError
        If there are no raw data.
    ValueError
        If the split is unknown, or no usable image was found.
    """
    if split_name not in SPLIT_SIZES:
        raise ValueError(f"split_name is {split_name!r}, expected one of {sorted(SPLIT_SIZES)}")
    sizes = SPLIT_SIZES["default" if config.is_sample_run("utkface") else split_name]
    seen = set()

    def read(item, content):
        path, digest = PurePosixPath(item), sha256(content).hexdigest()
        row = parse_name(path.name)
        stem = path.name.split(".")[0].strip()
        if stem in seen:  # some copies have a face as X.jpg and, cut otherwise, as X.jpg.chip.jpg
            raise ValueError("a picture of this age, gender, race and date came before")
        is_crop = decode_image(content).shape[:2] == (SIDE, SIDE)
        seen.add(stem)
        suffix = path.suffix.lower()
        suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,9}", suffix) else ".jpg"
        return {"suffix": suffix, **row, "sha256": digest, "is_crop": is_crop}, content

    def arrange(labels, left_out, source):
        try:
            splits = draw_splits(labels, *sizes, seed=seed)
        except ValueError as error:
            raise ValueError(f"{source} has {error}") from error
        return splits, _note_on_sizes(labels.pop("is_crop"))

    destination = destination or config.prepared_dir("utkface", split_name)
    expected = "names such as 25_1_0_20170116174525125.jpg"
    return prepare_once("utkface", read, arrange, expected, source, destination, seed=seed)


def _note_on_sizes(is_crop):
    if is_crop.all():
        return ()
    return (
        f"{(~is_crop).sum():,} of {len(is_crop):,} pictures are not {SIDE} x {SIDE} pixels. They "
        "may be whole photographs (UTKFace 'in the wild') and would be taken for faces. Get the "
        "form 'aligned and cropped', or cut the faces out with a detector of notebook 05.",
    )


def parse_name(name):
    """Read age, gender and race from a file name of UTKFace.

    Parameters
    ----------
    name : str
        ``[age]_[gender]_[race]_[date].jpg.chip.jpg``

    Returns
    -------
    dict with age (int), label (gender, str), race (str)

    Raises
    ------
    ValueError
        If a field is missing or impossible, with the field.
    """
    fields = name.split(".")[0].split("_")
    if len(fields) < len(FIELDS):
        raise ValueError(f"{len(fields)} fields instead of 4: gender or race is missing")
    for (field, pattern), value in zip(FIELDS.items(), fields):
        if not re.fullmatch(pattern, value, re.DOTALL):
            raise ValueError(f"{field} {value!r}")
    age, gender, race = map(int, fields[:3])
    if age > MAX_AGE:
        raise ValueError(f"age {age}, the data set ends at {MAX_AGE}")
    return {"age": age, "label": GENDER_CODES[gender], "race": RACES[race]}


def draw_splits(labels, valid_size, test_size, seed):
    """Draw validation and test images, stratified by gender, among those without a copy.

    Parameters
    ----------
    labels : pandas.DataFrame
        Columns label and sha256.
    valid_size, test_size : float, or tuple of int
        Share of all images, or number of images of each class in the order of `GENDERS`.
    seed : int

    Returns
    -------
    pandas.Series of str
        Split of each row.
    """
    from sklearn.model_selection import train_test_split  # half a second, which the loop saves

    split = pd.Series("train", index=labels.index)
    single = labels[~labels["sha256"].duplicated(keep=False)]
    for name, size in (("test", test_size), ("valid", valid_size)):
        pool = single[split[single.index] == "train"]
        for number, gender in enumerate(GENDERS):
            of_class = pool.index[pool["label"] == gender]
            wanted = (
                size[number]
                if isinstance(size, tuple)
                else max(1, round(size * (labels["label"] == gender).sum()))
            )
            if wanted >= len(of_class):
                raise ValueError(
                    f"{len(of_class)} {gender} images without a copy, and {wanted} are wanted for "
                    f"the {name} split: is this the whole data set?"
                )
            _, drawn = train_test_split(of_class, test_size=wanted, random_state=seed)
            split[drawn] = name
    return split
