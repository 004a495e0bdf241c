"""Where things are, and whether a run uses the sample or the full data.

No other file knows a path. Two environment variables change what is found here:

``FACELAB_DATA``
    Folder that holds ``raw/`` (default: ``data/`` of the project).
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
WHERE_TO_GET = "data/README.md says where to get it"
# Of a data set of one's own, whose folder lies beside those of the two.
OWN_NAME = re.compile(r"(?i)(?!fer2013|utkface|raw|models|sample)[a-z0-9][a-z0-9_-]{0,39}")
OWN_NAME_RULE = (
    "expected up to 40 letters, digits, '_' and '-' that do not begin with fer2013, utkface, raw, "
    "models or sample"
)


def _check_dataset(dataset):
    if dataset not in RAW_NAMES and not OWN_NAME.fullmatch(dataset):
        raise ValueError(f"unknown data set {dataset!r}, {OWN_NAME_RULE}; or one of {[*RAW_NAMES]}")


def _full_data_dir():
    # Commands and notebooks start in different folders, and are to mean the same one.
    return (ROOT / Path(os.environ.get("FACELAB_DATA") or "data").expanduser()).resolve()


def _raw_candidates(folder, dataset):
    return [path for name in RAW_NAMES[dataset] if (path := folder / "raw" / name).exists()]


def is_sample_run(dataset):
    """Say whether `dataset` is read from the drawn sample.

    Parameters
    ----------
    dataset : str
        "fer2013", "utkface", or the name of one's own, which is kept beside the sample where that
        is forced.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If that is no name for a data set, or ``FACELAB_SAMPLE`` is neither 0 nor 1.
    """
    _check_dataset(dataset)
    setting = os.environ.get("FACELAB_SAMPLE", "")
    if setting not in ("", "0", "1"):
        raise ValueError(f"FACELAB_SAMPLE is {setting!r}, expected 1 (sample), 0 (full) or unset")
    if setting or dataset not in RAW_NAMES:
        return setting == "1"
    full = _full_data_dir()
    return not ((full / dataset).exists() or _raw_candidates(full, dataset))


def data_dir(dataset):
    """Folder that holds ``raw/`` and the prepared folders of `dataset`."""
    return SAMPLE_DIR if is_sample_run(dataset) else _full_data_dir()


def find_raw(dataset):
    """The raw file or folder of a data set, the first of `RAW_NAMES` that exists, or None.

    Parameters
    ----------
    dataset : {"fer2013", "utkface"}

    Returns
    -------
    pathlib.Path or None
    """
    return next(iter(_raw_candidates(data_dir(dataset), dataset)), None)


def raw_path(dataset):
    """The same, where there must be one.

    Raises
    ------
    FileNotFoundError
        If there is none, with the names that were looked for.
    """
    found = find_raw(dataset)
    if found is None:
        raise FileNotFoundError(
            f"no raw data of {dataset} in {data_dir(dataset) / 'raw'}: looked for "
            f"{', '.join(RAW_NAMES[dataset])}; {WHERE_TO_GET}"
        )
    return found


def models_dir():
    """Where models of others are kept once they were downloaded."""
    return _full_data_dir() / "models"


def imagenet_path():
    """Where a copy of MobileNet's ImageNet weights is looked for before they are downloaded."""
    return _full_data_dir() / "raw" / "mobilenet_imagenet.npz"


def prepared_dir(dataset, split_name="default"):
    """Folder of the prepared class folders; the UTKFace split of the report has its own."""
    _check_dataset(dataset)
    return data_dir(dataset) / (dataset if split_name == "default" else f"{dataset}_{split_name}")


def output_dir(dataset):
    """Folder for results: ``outputs/``, or ``outputs/sample/`` for the sample, never both."""
    return ROOT / "outputs" / "sample" if is_sample_run(dataset) else ROOT / "outputs"


def runs_dir(dataset):
    """Folder of the training runs on `dataset`."""
    return output_dir(dataset) / "runs"


def runs_dirs():
    """All folders of runs: on the full data, on the sample, and on data of one's own."""
    return sorted({runs_dir(dataset) for dataset in (*RAW_NAMES, "mine")})


def tune_dir(dataset, name):
    """Folder of the studies that search the recipe of our run `name`."""
    return output_dir(dataset) / "tune" / name


def banner(dataset):
    """One line that says which data a notebook runs on."""
    if is_sample_run(dataset):
        return f"SAMPLE DATA ({dataset}, drawn faces): the numbers mean nothing"
    return f"full data ({dataset})"
