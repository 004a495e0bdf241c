"""What holds of a run that somebody else hands in, recomputed and never believed.

    records, failures = commands.records.read_runs(folder)
    for record in records.values():
        print(record.name, check(record, read_references()), questions(record))

Without TensorFlow, as `commands.records`.
"""

import hashlib
import math
import re
import sys
from collections import Counter
from datetime import datetime, timedelta
from functools import cache

import numpy as np
from scipy.stats import norm

from commands.layers import count_parameters
from commands.records import read_runs
from utils import config
from utils.data.prepared import fingerprint, load_prepared
from utils.files import GET_AGAIN, refuse_damaged
from utils.networks.contract import WEIGHTS_NAME
from utils.preprocessing import CLASSES

MAX_WEIGHTS = 2**31
NOT_CHECKED = " not checked: "

# Above what we know of, on all classes: see RESULTS.md, "Peers".
BEST_KNOWN = {"fer2013": ("emotion", 0.77), "utkface": ("gender", 0.98)}
RARE = 0.001  # a course has hundreds of runs: at 0.05 chance alone would raise questions

# What neither stops a training nor changes its weights behind the metrics of an epoch.
HARMLESS_CALLBACKS = ("ReduceLROnPlateau", "LearningRateScheduler", "ModelCheckpoint")
# Shares of images: in float32 the same answers but for rounding; ours in bfloat16, which are scored
# in float32, differ by 0.0095 at most.
SAME_ACCURACY = {"float32": 0.002}
SAME_ACCURACY_MIXED = 0.012
SAME_SUM = 0.002  # float16 has it from 1 by 0.0004


@cache
def _references(folder):
    records, failures = read_runs(folder)
    for error in failures.values():
        raise ValueError(f"of our runs, {error}; {GET_AGAIN}") from error
    return records


def read_references():
    """Our runs, read once in a process: dict of str to RunRecord."""
    return _references(config.REFERENCE_DIR)


def reference_of(record, references):
    """Our run of the same name, or of the one that NAME_2 was called after; None: there is none."""
    name = re.sub(r"_\d+$", "", record.name)
    return references.get(record.name) or references.get(name)


def check(record, references):
    """Find what does not hold of a run.

    Parameters
    ----------
    record : commands.records.RunRecord
    references : dict of str to RunRecord
        Ours, see `read_references`.

    Returns
    -------
    list of str
        What contradicts what, with both numbers; empty if all holds. A text with `NOT_CHECKED` in
        it says what cannot be checked here, and why.
    """
    return [
        *_check_probabilities(record),
        *_check_classes(record),
        *_check_labels(record, references),
        *_check_images(record),
        *_check_epochs(record),
        *_check_seconds(record),
        *_check_accuracy(record),
        *_check_parameters(record, references),
        *_check_weights(record),
    ]


def _check_probabilities(record):
    for key, values in record.predicted.items():
        if key.endswith("true"):
            continue
        wrong = (np.abs(values.sum(axis=1) - 1) > SAME_SUM) | (values < -SAME_SUM).any(axis=1)
        if wrong.any():
            split, part = key.split("_")
            yield (
                f"{split} {part}: {wrong.sum():,} of {len(values):,} rows are no probabilities, "
                "as they do not sum to 1"
            )


def _check_classes(record):
    if others := [name for name in record.class_names if name not in record.known_classes]:
        yield f"{record.dataset} has no classes {', '.join(others)}"


def _check_labels(record, references):
    """Labels stand class by class, so a split's are known from how many images a class has."""
    unknown = []
    if record.made_of.get("data") is None:
        yield f"labels{NOT_CHECKED}no checksum of the data was kept"
        return
    for split in ("valid", "test"):
        counts = _class_counts(record, split, references)
        if counts is None:
            unknown.append(split)
            continue
        expected = np.repeat(np.arange(len(counts)), counts)
        stored = record.predicted[f"{split}_true"]
        if len(stored) != len(expected):
            yield (
                f"{split}: predictions of {len(stored):,} images, but its data have "
                f"{len(expected):,} of these classes"
            )
        elif (stored != expected).any():
            wrong = int((stored != expected).sum())
            yield f"{split}: {wrong:,} of {len(stored):,} labels are not those of its data"
    if unknown:
        yield f"labels of {' and '.join(unknown)}{NOT_CHECKED}data of another copy"


def _class_counts(record, split, references):
    """Images of each class in the data that a run names; None if these are not known here."""
    checksum = _checksum(record, split)
    if checksum is None:
        return None
    for ours in references.values():
        if _checksum(ours, split) == checksum and set(record.class_names) <= set(ours.class_names):
            counts = Counter(ours.predicted[f"{split}_true"].tolist())
            return [counts[ours.class_names.index(name)] for name in record.class_names]
    here = prepared_here(record.dataset, record.batches["split_name"])
    if here is None or here[0][split]["sha256"] != checksum:
        return None
    return [here[1].get((split, name), 0) for name in record.class_names]


def _checksum(record, split):
    """Of a split's images and labels; None for two of our oldest runs, which did not keep it."""
    data = record.made_of.get("data")
    return data and data[split]["sha256"]


def prepared_here(dataset, split_name):
    """What is prepared on this machine.

    Parameters
    ----------
    dataset : str
    split_name : str

    Returns
    -------
    tuple or None
        The fingerprint and, for each (split, class), how many images there are; None if these
        data are not prepared here, or cannot be read, which is said.
    """
    # The name comes from somebody's file, and becomes that of a folder.
    if split_name not in ("default", "report"):
        return None
    folder = config.prepared_dir(dataset, split_name)
    table = folder / "labels.csv"
    if not (folder / "prepared.json").is_file() or not table.is_file():
        return None
    return _prepared(dataset, split_name, folder, table.stat().st_mtime_ns)


@cache
def _prepared(dataset, split_name, folder, changed):
    try:
        prepared = load_prepared(dataset, split_name)
    except (ValueError, OSError) as error:
        print(f"not compared with the data here: {error}", file=sys.stderr)
        return None
    counts = prepared.labels.groupby(["split", "label"]).size().to_dict()
    return fingerprint(prepared), counts


def _callbacks(record, besides=()):
    """Those of a run that are not known to be harmless, as its text has them."""
    harmless = (*HARMLESS_CALLBACKS, *besides)
    return [x for x in record.made_of["callbacks"] if x.split("(")[0] not in harmless]


def _check_images(record):
    data, said = record.made_of.get("data"), record.facts["train_images"]
    if data and record.class_names == CLASSES.get(record.dataset):
        if said != (images := data["train"]["images"]):
            yield f"run.json says {said:,} training images, but its data have {images:,}"


def _check_epochs(record):
    done, wanted = record.epochs, record.made_of["epochs"]
    if record.history.index.tolist() != list(range(1, done + 1)):
        yield "history.csv: its epochs do not follow each other from the first"
    can_stop = _callbacks(record, ["RenewStatistics"])
    if done > wanted or (done < wanted and not can_stop):
        yield f"history.csv has {done} epochs, but the run was made of {wanted}"


def _check_seconds(record):
    seconds = record.history["seconds"]
    if (seconds < 0).any() or not seconds.sum() > 0:
        yield "history.csv: an epoch took no time, or less than none"
    try:
        finished = datetime.fromisoformat(record.facts["finished"])
        began = record.facts.get("began") and datetime.fromisoformat(record.facts["began"])
    except ValueError:
        yield "run.json: began or finished is no day and time"
        return
    if not began:  # our oldest runs
        return
    allowed = (finished.replace(tzinfo=None) - began.replace(tzinfo=None)).total_seconds() + 2
    allowed += timedelta(hours=1).total_seconds()  # the night in which clocks are set back
    if record.facts.get("resumed_after"):  # perhaps on a machine with another clock
        allowed += timedelta(days=1).total_seconds()
    if seconds.sum() > allowed:
        yield (
            f"history.csv: its epochs took {seconds.sum():,.0f} seconds, but there are only "
            f"{max(allowed, 0):,.0f} between began and finished"
        )


def _check_accuracy(record):
    """An epoch's validation accuracy was measured on the same images as the predictions."""
    optimizer, precision = record.made_of["optimizer"], record.made_of["precision"]
    other_weights = isinstance(optimizer, dict) and optimizer.get("use_ema")
    if other_weights or _callbacks(record, ["EarlyStopping", "StopBadTrial"]):
        return  # what was kept are not the weights that were measured
    if "val_accuracy" not in record.history:  # compiled with another metric
        return
    measured, stored = record.history["val_accuracy"], record.valid["accuracy"]
    if "restore_best_weights=True" not in " ".join(record.made_of["callbacks"]):
        measured = measured.iloc[-1:]
    allowed = SAME_ACCURACY.get(precision, SAME_ACCURACY_MIXED) + 1 / record.valid["n"]
    if not ((measured - stored).abs() <= allowed).any():
        yield (
            f"validation accuracy is {measured.iloc[-1]:.1%} in the last epoch of history.csv, "
            f"but {stored:.1%} by the stored predictions"
        )


def _check_parameters(record, references):
    network, said = record.made_of["network"], sum(record.facts["parameters"])
    known = [x for x in references.values() if x.made_of["network"] == network]
    counted = count_parameters(network)
    if known:
        expected = sum(known[0].facts["parameters"])
    elif counted is None or counted[1] != (len(record.class_names),):
        # A layer that is not known here; or a part of the network was kept, without the outputs
        # that only training needs.
        yield f"parameters{NOT_CHECKED}some of its layers or outputs are not counted here"
        return
    else:
        expected = counted[0]
    if said != expected:
        yield f"run.json says {said:,} parameters, but its layers have {expected:,}"


def _check_weights(record):
    path, expected = record.folder / WEIGHTS_NAME, record.facts.get("weights_sha256")
    if not expected or not path.is_file():
        return
    if path.stat().st_size > MAX_WEIGHTS:
        yield f"{WEIGHTS_NAME}{NOT_CHECKED}it has more than {MAX_WEIGHTS:,} bytes"
        return
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
            yield f"{WEIGHTS_NAME} is not the file that this run wrote (sha256 differs)"


def questions(record):
    """Find what an instructor may want to ask about: flags, not verdicts.

    Parameters
    ----------
    record : commands.records.RunRecord

    Returns
    -------
    list of str
        Each with its reason. Accuracies on the sample mean nothing and raise none.
    """
    asked = list(_ask_copy_of_ours(record))
    if record.is_of_sample:
        return asked
    return [*asked, *_ask_test_above_valid(record), *_ask_best_known(record), *_ask_copies(record)]


def _ask_copy_of_ours(record):
    """Only the same machine, seed and copy of the data give the same digits, if at all."""
    _, probabilities = record.predictions("test")
    for ours in read_references().values():
        if np.array_equal(probabilities, ours.predictions("test")[1]) and not record.is_reference:
            yield f"its test predictions are those of our {ours.name}, digit for digit: a copy?"


def _ask_test_above_valid(record):
    """Two proportions: a network that was chosen by its test split is better there."""
    valid, test = record.valid, record.test
    both = (valid["correct"] + test["correct"]) / (valid["n"] + test["n"])
    error = math.sqrt(both * (1 - both) * (1 / valid["n"] + 1 / test["n"]))
    above = test["accuracy"] - valid["accuracy"]
    if error and (chance := norm.sf(above / error)) < RARE:
        yield (
            f"test accuracy {test['accuracy']:.1%} is above validation {valid['accuracy']:.1%} by "
            f"more than chance (p = {chance:.1g}): was it chosen or trained on test images?"
        )


def _ask_best_known(record):
    if record.dataset not in BEST_KNOWN:
        return
    what, best = BEST_KNOWN[record.dataset]
    if len(record.class_names) == len(record.known_classes) and record.test["accuracy"] > best:
        yield (
            f"test accuracy {record.test['accuracy']:.1%} is above the best that is known of "
            f"{what} ({best:.0%}): which other data was it trained on?"
        )


def _ask_copies(record):
    """Of FER-2013, 288 test images are in the training split too, some with another label."""
    path = config.REFERENCE_DIR / "fer2013_copies.npz"
    ours = read_references().get("emotion_final")
    if not path.is_file() or not ours or record.made_of.get("data") != ours.made_of["data"]:
        return
    with refuse_damaged(path, GET_AGAIN), np.load(path) as stored:
        copies = stored["test"]
    y_true, probabilities = record.predictions("test")
    if len(copies) != len(y_true) or record.class_names != ours.class_names:
        return
    if (probabilities.argmax(axis=1) == y_true)[copies].all():
        yield (
            f"all {copies.sum()} test images that are in the training split too are right, some "
            "of which have another label there: how were they learned? (ours: 96 % at most)"
        )
