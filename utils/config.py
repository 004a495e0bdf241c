"""Where things are, and whether a run uses the sample or the full data.

No other file knows a path. Two environment variables change what is found here:

``FACELAB_DATA``
    Folder that holds ``raw/`` (default: ``data/`` of the project), or one without it in which raw
    data lie anywhere, at most three folders deep (``/kaggle/input``). What may not be written
    beside the raw data, and nothing is beside such downloads, goes to ``data/`` of the project.
``FACELAB_SAMPLE``
    ``1`` forces the drawn sample data, ``0`` forces the full data. Unset: the full data set
    when it is there, raw or prepared, and the sample otherwise.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_DIR = ROOT / "data" / "sample"
SAMPLE_CLIP = SAMPLE_DIR / "clip.mp4"
PRETRAINED_DIR = ROOT / "outputs" / "pretrained"
REFERENCE_DIR = ROOT / "outputs" / "reference"
FIGURES_DIR = ROOT / "outputs" / "figures"
RUNS_DIR = ROOT / "outputs" / "runs"
REPORTS_DIR = ROOT / "outputs" / "reports"
REALTIME_DIR = ROOT / "outputs" / "realtime"

# File or folder names under raw/, in the order in which they are preferred. train.csv is the
# challenge's unlabelled form: it is found only to be refused with a reason.
RAW_NAMES = {
    "fer2013": (
        *("fer2013.csv" + suffix for suffix in ("", ".gz", ".xz", ".zip")),
        *("fer2013" + suffix for suffix in (".zip", ".tar.gz", ".tgz")),
        *("icml_face_data.csv" + suffix for suffix in ("", ".gz", ".xz", ".zip")),
        "fer2013/fer2013.csv",  # as the challenge's tar unpacks
        "fer2013",
        "train.csv",
    ),
    "utkface": ("UTKFace", "UTKFace.tar.gz", "UTKFace.tgz", "UTKFace.tar"),
}
PREPARED_MARKER = "prepared.json"  # written last; a folder that has it is this project's own
DRAWN = "drawn"  # the sample's faces, where notebook 03 takes them for somebody's own
WHERE_TO_GET = "data/README.md says where to get it"
# Of a data set of one's own, whose folder lies beside those of the two.
OWN_NAME = re.compile(r"(?i)(?!fer2013|utkface|raw|models|sample)[a-z0-9][a-z0-9_-]{0,39}")
OWN_NAME_RULE = (
    "expected up to 40 letters, digits, '_' and '-' that do not begin with fer2013, utkface, raw, "
    "models or sample"
)


def named_data_dir():
    """The folder that ``FACELAB_DATA`` names, before links are followed."""
    # Commands and notebooks start in different folders, and are to mean the same one.
    return ROOT / Path(os.environ.get("FACELAB_DATA") or "data").expanduser()


def _full_data_dir():
    folder = named_data_dir()
    if os.environ.get("FACELAB_DATA") and not folder.is_dir():
        raise FileNotFoundError(
            f"FACELAB_DATA names {folder}, which is no folder: make it, name another or unset it"
        )
    return folder.resolve()


def _is_download(folder):
    """Whether raw data lie in `folder` as somebody else laid them, and nothing of ours does."""
    ours = ["raw", *(f"{dataset}/{PREPARED_MARKER}" for dataset in RAW_NAMES)]
    is_default = folder == (ROOT / "data").resolve()
    return not is_default and not any((folder / name).exists() for name in ours)


def _find(folder, names):
    """The first of these names that is there, the nearest if there are several; or None."""
    places, last = [folder / "raw"], None
    if _is_download(folder):
        # Kaggle has input/fer2013/ or input/datasets/OWNER/fer2013/, with or without folders in it.
        places = [folder, *(x for depth in (1, 2, 3) for x in sorted(folder.glob("*/" * depth)))]
        last = folder if folder.name in names else None
        names = [x for x in names if x != "train.csv"]  # which other data sets have as well
    return next((x / name for name in names for x in places if (x / name).exists()), last)


def _writable_data_dir():
    folder = _full_data_dir()
    is_ours = not _is_download(folder) and os.access(folder, os.W_OK)
    return folder if is_ours else ROOT / "data"


def _prepared(name):
    """Where prepared data are, or, if there are none, will be."""
    folder = _full_data_dir() / name
    return folder if (folder / PREPARED_MARKER).is_file() else _writable_data_dir() / name


def is_sample_run(dataset):
    """Say whether `dataset` is read from the drawn sample.

    Parameters
    ----------
    dataset : str
        "fer2013", "utkface", or the name of one's own, which is kept beside the sample where that
        is forced; `DRAWN` always is.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If that is no name for a data set, or ``FACELAB_SAMPLE`` is neither 0 nor 1.
    """
    if dataset not in RAW_NAMES and not OWN_NAME.fullmatch(dataset):
        raise ValueError(f"unknown data set {dataset!r}, {OWN_NAME_RULE}; or one of {[*RAW_NAMES]}")
    setting = os.environ.get("FACELAB_SAMPLE", "")
    if setting not in ("", "0", "1"):
        raise ValueError(f"FACELAB_SAMPLE is {setting!r}, expected 1 (sample), 0 (full) or unset")
    if setting or dataset not in RAW_NAMES:
        return setting == "1" or dataset == DRAWN
    return not (_prepared(dataset).exists() or _find(_full_data_dir(), RAW_NAMES[dataset]))


def data_dir(dataset):
    """Folder in which the raw data of `dataset` are looked for."""
    return SAMPLE_DIR if is_sample_run(dataset) else _full_data_dir()


def find_raw(dataset, names=()):
    """The raw file or folder of a data set, or None.

    Parameters
    ----------
    dataset : {"fer2013", "utkface"}
    names : sequence of str
        Of which the first that exists is given; by default those in `RAW_NAMES`.

    Returns
    -------
    pathlib.Path or None
    """
    return _find(data_dir(dataset), names or RAW_NAMES[dataset])


def raw_path(dataset, names=()):
    """The same, where there must be one.

    Raises
    ------
    FileNotFoundError
        If there is none, with the names that were looked for.
    """
    found = find_raw(dataset, names)
    if found is None:
        raise FileNotFoundError(
            f"no raw data of {dataset} in {data_dir(dataset)} or its folder raw: looked for "
            f"{', '.join(names or RAW_NAMES[dataset])}; {WHERE_TO_GET}"
        )
    return found


def models_dir():
    """Where models of others are kept once they were downloaded."""
    return _writable_data_dir() / "models"


def imagenet_path():
    """Where a copy of MobileNet's ImageNet weights is looked for before they are downloaded."""
    return _full_data_dir() / "raw" / "mobilenet_imagenet.npz"


def prepared_dir(dataset, split_name="default"):
    """Folder of the prepared class folders; the UTKFace split of the report has its own."""
    name = dataset if split_name == "default" else f"{dataset}_{split_name}"
    return SAMPLE_DIR / name if is_sample_run(dataset) else _prepared(name)


def output_dir(dataset):
    """Folder for results: ``outputs/``, or ``outputs/sample/`` for the sample, never both."""
    return ROOT / "outputs" / "sample" if is_sample_run(dataset) else ROOT / "outputs"


def runs_dir(dataset):
    """Folder of the training runs on `dataset`."""
    return output_dir(dataset) / "runs"


def runs_dirs():
    """All folders of runs, of which the first counts: on full data or one's own, on the sample."""
    return sorted({runs_dir(dataset) for dataset in (*RAW_NAMES, "mine", DRAWN)})


def _unknown_archives():
    """What somebody probably meant to be the data, where the sample was not asked for."""
    raw = _full_data_dir() / "raw"
    known = {name for names in RAW_NAMES.values() for name in names}
    packed = [x.name for x in sorted(raw.glob("*")) if x.suffix.lower() in (".zip", ".gz", ".tar")]
    unknown = [name for name in packed if name not in known]
    if not unknown or os.environ.get("FACELAB_SAMPLE"):
        return ""
    return f"; {raw} holds {', '.join(unknown)}: unpack it, {WHERE_TO_GET} and how to name it"


def banner(dataset):
    """One line that says which data a notebook runs on."""
    if is_sample_run(dataset):
        text = f"SAMPLE DATA ({dataset}, drawn faces): the numbers mean nothing"
        return text + _unknown_archives()
    return f"full data ({dataset})"
