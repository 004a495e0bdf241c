"""What a run of somebody else's has in its files: read once, validated, scored anew.

Nothing here needs TensorFlow, Keras or the data, and whatever the files hold, there is a record or
one sentence.
"""

import csv
import io
import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from commands.texts import plain, shown
from utils import config
from utils.data.own import MOST_CLASSES
from utils.data.prepared import SPLITS
from utils.evaluation import evaluate
from utils.files import DAMAGE
from utils.preprocessing import CLASSES

FILES = ("run.json", "history.csv", "predictions.npz")
# Ours have 12 kB, 5 kB and, with 101 outputs for age, 3.3 MB at most.
MAX_BYTES = {"run.json": 2**20, "history.csv": 2**20, "predictions.npz": 2**23}
MAX_UNPACKED = 2**23  # of one array in predictions.npz
MAX_COLUMNS = 200  # of history.csv
MAX_DEPTH = 20  # of run.json
SAMPLE_IMAGES = 100  # a run on fewer training images was made on the sample
# As numpy writes them: the header of an array of numbers in an npz.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>|][fiu][1248])', 'fortran_order': (False|True), "
    rb"'shape': \((\d{1,9}),(?: (\d{1,9}))?\), \} *\n",
    re.DOTALL,
)


class DamagedRun(ValueError):
    """A run that cannot be read; one sentence that names the file and says what to do."""


class UnfinishedRun(DamagedRun):
    """A run that was begun and has no predictions yet."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A finished run as its files have it, scored from its predictions.

    Parameters
    ----------
    folder : pathlib.Path
    facts : dict
        Content of ``run.json``, see `utils.training.train`; its text is free of control
        characters, but not of HTML.
    history : pandas.DataFrame
        Indexed by epoch, from 1: seconds, and what Keras measured.
    predicted : dict of str to numpy.ndarray
        valid_true, valid_probabilities, test_true, test_probabilities; for some runs
        valid_averaged and test_averaged.
    valid, test : dict
        See `utils.evaluation.evaluate`.
    """

    folder: Path
    facts: dict
    history: pd.DataFrame
    predicted: dict
    valid: dict
    test: dict

    @property
    def name(self):
        """Name of its folder, as text that any file can hold."""
        return plain(self.folder.name)

    @property
    def is_reference(self):
        """Whether it is one of ours."""
        return self.folder.parent == config.REFERENCE_DIR

    @property
    def made_of(self):
        """What decided the training, see `utils.networks.structure.describe`."""
        return self.facts["made_of"]

    @property
    def batches(self):
        """What decided its images and labels, see `utils.data.batches.Batches.made_of`."""
        return self.made_of["batches"]

    @property
    def dataset(self):
        """A key of `utils.preprocessing.CLASSES`, or the name of one's own."""
        return self.batches["dataset"]

    @property
    def class_names(self):
        """In the order of the outputs."""
        return tuple(self.batches["classes"])

    @property
    def epochs(self):
        """How many were trained."""
        return len(self.history)

    @property
    def seconds(self):
        """Of all epochs, as `utils.training.Run.seconds` counts them."""
        return float(self.history["seconds"].sum()) + (self.facts.get("frozen_seconds") or 0)

    @property
    def known_classes(self):
        """All classes of its data set; of one's own no others are known than the run's."""
        return CLASSES.get(self.dataset, self.class_names)

    @property
    def is_of_sample(self):
        """Whether it was trained on the drawn sample, whose numbers mean nothing."""
        of_sample = self.dataset in CLASSES and self.facts["train_images"] < SAMPLE_IMAGES
        return of_sample or self.dataset == config.DRAWN

    def predictions(self, split, averaged=False):
        """Labels and probabilities of a split, as `utils.training.Run.predictions`."""
        kind = "averaged" if averaged else "probabilities"
        return self.predicted[f"{split}_true"], self.predicted[f"{split}_{kind}"]


def read_run(folder):
    """Read and validate all that a table or page needs of a finished run.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    RunRecord

    Raises
    ------
    UnfinishedRun
        If it was not trained to its end.
    DamagedRun
        If a file is missing, damaged, too large or not what `utils.training.train` writes.
    """
    folder = Path(folder).resolve()  # as ours are named, see `RunRecord.is_reference`
    facts = _read_facts(folder)
    if "finished" not in facts:
        done = len(_read_history(folder)) if (folder / "history.csv").exists() else 0
        raise UnfinishedRun(f"unfinished, {done} of {facts['made_of']['epochs']} epochs")
    _expect_facts(folder / "run.json", facts, FINISHED_FACTS)
    history = _read_history(folder)
    predicted = _read_predictions(folder, len(facts["made_of"]["batches"]["classes"]))
    scores = {
        split: evaluate(predicted[f"{split}_true"], predicted[f"{split}_probabilities"])
        for split in ("valid", "test")
    }
    return RunRecord(folder, facts, history, predicted, **scores)


def read_runs(folder):
    """Read what runs are below a folder.

    Parameters
    ----------
    folder : pathlib.Path
        As ``outputs/runs/``: a folder for each run.

    Returns
    -------
    records : dict of str to RunRecord
        By the name of their folder.
    failures : dict of str to DamagedRun
        Those that cannot be read, and the unfinished ones.
    """
    records, failures = {}, {}
    for path in run_folders(folder):
        name = plain(path.name)
        try:
            records[name] = read_run(path)
        except DamagedRun as error:
            failures[name] = error
    return records, failures


def run_folders(folder):
    """Folders below a folder that hold a file of a run, sorted: list of pathlib.Path."""
    found = {path.parent for name in FILES for path in Path(folder).glob(f"*/{name}")}
    return sorted(found)


def _damaged(path, what):
    """The one sentence of a run that cannot be read."""
    return DamagedRun(
        f"{plain(path.parent.name)}/{path.name} {what}; ask for the folder again, or delete "
        "it and train the run once more"
    )


def _read_bytes(path):
    limit = MAX_BYTES[path.name]
    if not path.is_file():  # a pipe or a device would be waited for
        raise _damaged(path, "is missing or no plain file")
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise _damaged(path, f"cannot be opened ({error.strerror})") from error
    if len(content) > limit:
        raise _damaged(path, f"has more than {limit:,} bytes, expected less")
    return content


def _read_facts(folder):
    """Content of run.json, with what an unfinished run has too."""
    path = folder / "run.json"
    content = _read_bytes(path)
    try:
        facts = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise _damaged(path, "is nested too deeply, expected what a training writes") from error
    except ValueError as error:
        raise _damaged(path, f"is not JSON ({shown(error, 80)})") from error
    facts = _cleaned(path, facts)
    _expect_facts(path, facts, BEGUN_FACTS)
    return facts


def _cleaned(path, content, depth=0):
    """JSON whose text is plain."""
    if depth > MAX_DEPTH:
        raise _damaged(path, f"is nested more than {MAX_DEPTH} deep, expected less")
    if isinstance(content, dict):
        return {plain(k): _cleaned(path, x, depth + 1) for k, x in content.items()}
    if isinstance(content, list):
        return [_cleaned(path, x, depth + 1) for x in content]
    return plain(content) if isinstance(content, str) else content


def _is_text(value):
    return isinstance(value, str)


def _is_count(value):
    return type(value) is int and 0 <= value < 10**12


def _is_number(value):
    return type(value) in (int, float) and 0 <= value < 10**12


def _is_texts(value):
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _are_classes(value):
    named = _is_texts(value) and all(0 < len(x) <= 255 for x in value)
    return named and MOST_CLASSES >= len(set(value)) == len(value) > 1


def _or_missing(kind):
    return lambda value: value is None or kind(value)


def _are_splits(value):
    return isinstance(value, dict) and all(
        isinstance(value.get(split), dict)
        and _is_count(value[split].get("images"))
        and _is_text(value[split].get("sha256"))
        for split in SPLITS
    )


# Where it stands in run.json: what it must be, in a function and in words.
BEGUN_FACTS = {
    "made_of epochs": (lambda x: _is_count(x) and x > 0, "a whole number above 0"),
    "made_of batches dataset": (
        lambda x: _is_text(x) and (x in CLASSES or config.OWN_NAME.fullmatch(x)),
        f"one of {list(CLASSES)} or the name of one's own",
    ),
    "made_of batches split_name": (_is_text, "a text"),
    "made_of batches labels": (_is_text, "a text"),
    "made_of batches classes": (_are_classes, f"2 to {MOST_CLASSES} names, each once"),
    "made_of batches input": (lambda x: isinstance(x, dict), "the settings of a FaceInput"),
    "made_of data": (_or_missing(_are_splits), f"images and sha256 of {', '.join(SPLITS)}"),
    "made_of network": (lambda x: _is_texts(x) and x, "a line for each layer"),
    "made_of precision": (_is_text, "a text"),
    "made_of callbacks": (_is_texts, "a list of texts"),
    "made_of optimizer": (lambda x: isinstance(x, (str, dict)), "the settings of an optimizer"),
    "made_of loss": (lambda x: x is not None, "the name of a loss or its settings"),
    "began": (_or_missing(_is_text), "a day and time"),
    "id": (_or_missing(_is_text), "a text"),
}
FINISHED_FACTS = {
    "finished": (_is_text, "a day and time"),
    "train_images": (_is_count, "a whole number"),
    "parameters": (
        lambda x: isinstance(x, list) and len(x) == 2 and all(map(_is_count, x)),
        "two whole numbers",
    ),
    "versions": (lambda x: isinstance(x, dict), "names and versions"),
    "weights_sha256": (_or_missing(_is_text), "a checksum"),
    "frozen_seconds": (_or_missing(_is_number), "a number"),
}


def _expect_facts(path, facts, expected):
    """Refuse a run.json in which something is missing or of another kind."""
    for key, (is_right, words) in expected.items():
        value = facts
        for step in key.split():
            value = value.get(step) if isinstance(value, dict) else None
        if not is_right(value):
            came = "is missing" if value is None else f"is {shown(repr(value), 80)}"
            raise _damaged(path, f"cannot be used: {key} {came}, expected {words}")


def _read_history(folder):
    """history.csv as `utils.training.Run.history` has it; empty fields are not a number."""
    path = folder / "history.csv"
    try:
        text = _read_bytes(path).decode("utf-8")
        if text.split("\n", 1)[0].count(",") >= MAX_COLUMNS:
            raise _damaged(path, f"has more than {MAX_COLUMNS} columns, expected less")
        names, *rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
        numbers = [[float(x) if x else math.nan for x in row] for row in rows]
        if not rows or any(len(row) != len(names) for row in rows):
            raise ValueError("no epoch, or a line of another length")
        table = pd.DataFrame(numbers, columns=[plain(x) for x in names])
        table = table.replace([np.inf, -np.inf], math.nan)
        needed = table[["epoch", "seconds"]]
        if table.columns.has_duplicates or needed.isna().any(axis=None):
            raise ValueError("a column twice, or an epoch without a number")
        if (needed["epoch"] % 1).any() or needed.abs().max(axis=None) > 1e9:
            raise ValueError("epochs or seconds are out of range")
    except DamagedRun:
        raise
    except (ValueError, KeyError, csv.Error) as error:
        reason = shown(error, 80)
        raise _damaged(path, f"is no table of epochs and their seconds ({reason})") from error
    table["epoch"] = table["epoch"].astype(int) + 1
    return table.set_index("epoch")


def _read_predictions(folder, num_classes):
    """Arrays of predictions.npz: labels int64 (n,), probabilities float32 (n, num_classes)."""
    path = folder / "predictions.npz"
    content, arrays = io.BytesIO(_read_bytes(path)), {}
    try:
        with zipfile.ZipFile(content) as archive:
            members = {x.filename: x for x in archive.infolist()}
            for split in ("valid", "test"):
                for part in ("true", "probabilities", "averaged"):
                    member = members.get(f"{split}_{part}.npy")
                    if member or part != "averaged":
                        arrays[f"{split}_{part}"] = _read_array(archive, member)
    except DAMAGE as error:
        raise _damaged(path, f"cannot be read ({shown(error, 80)})") from error
    for key, array in arrays.items():
        if fault := _fault_of(array, key, arrays, num_classes):
            raise _damaged(path, f"cannot be used: {key} {fault}")
    return arrays


def _read_array(archive, member):
    """An array of numbers in an npz, whatever its header promises."""
    if member is None:
        raise ValueError("labels or probabilities of valid or test are missing")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("packed in a way that numpy does not use")
    with archive.open(member) as stream:
        content = stream.read(MAX_UNPACKED + 1)
    if len(content) > MAX_UNPACKED:
        raise ValueError(f"an array of more than {MAX_UNPACKED:,} bytes")
    header = NPY_HEADER.match(content)
    if not header:
        raise ValueError("an array with another header than numpy writes")
    dtype, by_columns = np.dtype(header[1].decode()), header[2] == b"True"
    shape = tuple(int(size) for size in header.groups()[2:] if size)
    if math.prod(shape) * dtype.itemsize != len(content) - header.end():
        raise ValueError("an array of another length than its header says")
    array = np.frombuffer(content, dtype, offset=header.end())
    array = array.reshape(shape, order="F" if by_columns else "C")
    with np.errstate(over="ignore"):  # too large for float32: infinite, which is refused
        return array.astype(np.float32) if dtype.kind == "f" else array.astype(np.int64)


def _fault_of(array, key, arrays, num_classes):
    """What is wrong with an array of predictions, in words; None: nothing."""
    kind = "whole numbers" if array.dtype == np.int64 else "decimal numbers"
    came = f"has {kind} of shape {array.shape}"
    if key.endswith("true"):
        if array.dtype != np.int64 or array.ndim != 1 or not len(array):
            return f"{came}, expected whole numbers of shape (n,)"
        if array.min() < 0 or array.max() >= num_classes:
            return f"has labels from {array.min()} to {array.max()}, expected {num_classes} classes"
        return None
    n = len(arrays[f"{key.split('_')[0]}_true"])
    if array.dtype != np.float32 or array.shape != (n, num_classes):
        return f"{came}, expected decimal numbers of shape {(n, num_classes)}"
    broken = int((~np.isfinite(array)).any(axis=1).sum())
    return f"has {broken} of {n} rows that are not finite, expected none" if broken else None
