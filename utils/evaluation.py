"""Numbers: accuracy with its interval, by class and by group, how sure and how robust.

python -m utils.evaluation --help scores the shipped networks on your own copy of the data.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import classification_report, confusion_matrix, f1_score, log_loss

from utils import config
from utils.data import EMOTIONS, copies_of_training, fingerprint, load_images, rows_of
from utils.fer import prepare_fer
from utils.ferplus import agreed, load_votes
from utils.files import read_json
from utils.models import load_pretrained
from utils.pipeline import views
from utils.utk import RACES, prepare_utk

AGE_BANDS = {"0-5": 5, "6-17": 17, "18-30": 30, "31-45": 45, "46-60": 60, "61+": 120}
ADULT_AGES = (18, 60)
TEN_VIEWS = ", ten views"


def wilson_interval(correct, n):
    """95 % Wilson interval of a proportion.

    Parameters
    ----------
    correct, n : int

    Returns
    -------
    low, high : float
        0 and 1 where there is nothing to count.
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(correct), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(y_true, probabilities):
    """Score probabilities against labels.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
        Class indices.
    probabilities : numpy.ndarray, float, (n, num_classes)

    Returns
    -------
    dict
        n, correct, accuracy, low and high (95 % Wilson interval), macro_f1 (mean over classes).

    Raises
    ------
    ValueError
        If the lengths differ, there is nothing to score, or a prediction is not a number.
    """
    if len(y_true) != len(probabilities) or not len(y_true):
        raise ValueError(
            f"{len(y_true)} labels and {len(probabilities)} predictions, expected the same number, "
            "at least 1"
        )
    if not np.isfinite(probabilities).all():  # argmax would call these the first class
        broken = (~np.isfinite(probabilities)).any(axis=1).sum()
        raise ValueError(
            f"{broken} of {len(probabilities)} predictions are not finite numbers: the training "
            "has probably diverged, try a lower learning rate under another name"
        )
    y_pred = probabilities.argmax(axis=1)
    correct = int((y_pred == y_true).sum())
    low, high = wilson_interval(correct, len(y_true))
    labels = range(probabilities.shape[1])
    return {
        "n": len(y_true),
        "correct": correct,
        "accuracy": correct / len(y_true),
        "low": low,
        "high": high,
        "macro_f1": float(
            f1_score(y_true, y_pred, labels=labels, average="macro", zero_division=0)
        ),
    }


def macro_f1_interval(y_true, probabilities, num_draws=1000, seed=0):
    """Bootstrap a 95 % interval of macro F1, for which there is no formula.

    Images are drawn anew, with repetition; the interval holds the middle 95 % of the draws. A class
    of which a draw has no image counts as 0 there, so each needs a dozen images or more. Taught in
    notebooks 03 and 04.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
    probabilities : numpy.ndarray, float, (n, num_classes)
    num_draws, seed : int

    Returns
    -------
    tuple of float
        Its ends.
    """
    labels = range(probabilities.shape[1])

    def macro_f1(truth, answers):
        return f1_score(truth, answers, labels=labels, average="macro", zero_division=0)

    drawn = bootstrap(
        (y_true, probabilities.argmax(axis=1)),
        macro_f1,
        paired=True,
        vectorized=False,
        n_resamples=num_draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return tuple(float(end) for end in drawn.confidence_interval)


def confusion(y_true, probabilities):
    """Confusion matrix, int (num_classes, num_classes): rows are true, columns predicted."""
    labels = range(probabilities.shape[1])
    return confusion_matrix(y_true, probabilities.argmax(axis=1), labels=labels)


def per_class(y_true, probabilities, class_names):
    """Precision, recall with its 95 % Wilson interval, F1 and number of images of each class.

    Returns
    -------
    pandas.DataFrame
        precision, recall, recall low, recall high, F1, n; indexed by class name.
    """
    report = classification_report(
        y_true,
        probabilities.argmax(axis=1),
        labels=range(len(class_names)),
        target_names=list(class_names),
        output_dict=True,
        zero_division=0,
    )
    table = pd.DataFrame({name: report[name] for name in class_names}).T
    table = table.rename(columns={"f1-score": "F1", "support": "n"}).astype({"n": int})
    right = confusion(y_true, probabilities).diagonal()
    ends = [wilson_interval(correct, n) for correct, n in zip(right, table["n"])]
    table[["recall low", "recall high"]] = ends
    return table[["precision", "recall", "recall low", "recall high", "F1", "n"]]


def mcnemar(y_true, probabilities, others):
    """Test whether one of two networks is right more often on the same images.

    Images that both read alike say nothing; among the others, a coin would decide if the networks
    were equally good (exact McNemar test).

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
    probabilities, others : numpy.ndarray, float, (n, num_classes)

    Returns
    -------
    dict
        first_only, second_only (images that only this network reads rightly), p_value.
    """
    first = probabilities.argmax(axis=1) == y_true
    second = others.argmax(axis=1) == y_true
    counts = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    return {"first_only": counts[0], "second_only": counts[1], "p_value": float(p_value)}


def accuracy_by(table, columns):
    """Accuracy of each group with its 95 % Wilson interval.

    Parameters
    ----------
    table : pandas.DataFrame
        A row for each image, with a boolean column ``correct``.
    columns : str or list of str
        What makes the groups.

    Returns
    -------
    pandas.DataFrame
        n, accuracy, low, high; indexed by group.
    """
    groups = table.groupby(columns, observed=True)["correct"].agg(["size", "sum", "mean"])
    intervals = [wilson_interval(right, n) for right, n in zip(groups["sum"], groups["size"])]
    groups[["low", "high"]] = intervals
    return groups.drop(columns="sum").rename(columns={"size": "n", "mean": "accuracy"})


def age_bands(ages):
    """The band of `AGE_BANDS` of each age in years: pandas.Series, ordered."""
    return pd.cut(ages, [-1, *AGE_BANDS.values()], labels=list(AGE_BANDS))


def sharpen(probabilities, temperature):
    """Divide the logits by a temperature: above 1 makes a network less sure of itself.

    Parameters
    ----------
    probabilities : numpy.ndarray, float, (n, num_classes)
    temperature : float

    Returns
    -------
    numpy.ndarray, float, (n, num_classes)
        With the same order of classes in each row.
    """
    # log p is the logits but for a constant of each row, which softmax takes away again.
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def fit_temperature(y_true, probabilities):
    """Find the temperature that makes validation labels most likely (Guo et al. 2017).

    Source: arXiv:1706.04599.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
        Of the validation split.
    probabilities : numpy.ndarray, float, (n, num_classes)

    Returns
    -------
    float
    """

    def loss(log_temperature):
        calibrated = sharpen(probabilities, np.exp(log_temperature))
        return log_loss(y_true, calibrated, labels=range(probabilities.shape[1]))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def reliability(y_true, probabilities, num_bins=15):
    """Compare how sure a network is with how often it is right.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
    probabilities : numpy.ndarray, float, (n, num_classes)
    num_bins : int
        Of equal width, of the largest probability.

    Returns
    -------
    pandas.DataFrame
        confidence (mean), accuracy, n of each bin that has images. The expected calibration error
        is the mean of their absolute difference, weighted by n: see `calibration_error`.
    """
    table = pd.DataFrame(
        {
            "confidence": probabilities.max(axis=1),
            "accuracy": probabilities.argmax(axis=1) == y_true,
        }
    )
    bins = pd.cut(table["confidence"], np.linspace(0, 1, num_bins + 1))
    groups = table.groupby(bins, observed=True)
    return groups.mean().assign(n=groups.size())


def calibration_error(bins):
    """Expected calibration error of a table of `reliability`."""
    return float(np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["n"]))


def choose_threshold(y_true, probabilities, accuracy):
    """Find how sure a network must be, so that what it then says is right often enough.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
        Of the validation split.
    probabilities : numpy.ndarray, float, (n, num_classes)
    accuracy : float
        Wanted among the images on which the network is at least as sure as the threshold.

    Returns
    -------
    threshold : float
        The lowest that will do.
    share : float
        Of the images on which the network is that sure.

    Raises
    ------
    ValueError
        If no threshold will do.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == y_true)[order]
    # Images on which it is equally sure are above the threshold together or not at all.
    together = np.append(np.diff(confidence[order]) < 0, True)
    reached = np.where(together, np.cumsum(right) / np.arange(1, len(right) + 1), 0)
    if not (reached >= accuracy).any():
        raise ValueError(
            f"no threshold gives an accuracy of {accuracy} on these {len(right)} images, the best "
            f"gives {reached.max(initial=0):.3f}: ask for less"
        )
    last = np.flatnonzero(reached >= accuracy)[-1]
    return float(confidence[order[last]]), float((last + 1) / len(right))


def score_shipped(dataset, prepared, votes_path=None):
    """Score the shipped networks of a data set on its test split.

    Parameters
    ----------
    dataset : {"fer2013", "utkface"}
    prepared : utils.data.PreparedDataset
    votes_path : pathlib.Path, optional
        Votes of FER+, to score emotion networks also by what people agree on.

    Returns
    -------
    pandas.DataFrame
        Indexed by model and by what was scored; columns as `evaluate` gives them, but for images
        of one class no macro_f1.
    """
    votes = load_votes("test", prepared, votes_path) if votes_path else None
    prefix = {"fer2013": "emotion", "utkface": "gender"}[dataset]
    rows = {}
    for path in sorted(config.PRETRAINED_DIR.glob(f"{prefix}_*.npz")):
        name = path.stem
        model, contract = load_pretrained(name)
        names = contract.class_names
        images, y_true, _ = load_images(prepared, "test", contract.face_input, names)
        predictions = [model.predict(view, batch_size=256, verbose=0) for view in views(images)]
        probabilities, averaged = predictions[0], np.mean(predictions, axis=0)
        rows[name, "all test images"] = evaluate(y_true, probabilities)
        rows[name, "the same, ten views"] = evaluate(y_true, averaged)
        if votes is not None and tuple(names) == EMOTIONS and (clear := agreed(votes)).any():
            rows[name, "7 of 10 people agree, by their votes"] = evaluate(
                votes.argmax(axis=1)[clear], probabilities[clear]
            )
        known = rows_of(prepared, "test", names)
        if dataset == "fer2013":
            new = ~copies_of_training(prepared, "test", names)
            groups = {"not in training as well": new}
        else:
            bands, (youngest, oldest) = age_bands(known["age"]), ADULT_AGES
            groups = {f"ages {youngest} to {oldest}": known["age"].between(youngest, oldest)}
            groups |= {f"age {band}": bands == band for band in AGE_BANDS}
            groups |= {race: known["race"] == race for race in sorted(known["race"].unique())}
            groups |= {label: known["label"] == label for label in contract.class_names}
        for group, chosen in groups.items():
            chosen = np.asarray(chosen)
            if not chosen.any():
                continue
            for part, answers in ((group, probabilities), (f"{group}{TEN_VIEWS}", averaged)):
                rows[name, part] = evaluate(y_true[chosen], answers[chosen])
                if len(np.unique(y_true[chosen])) == 1:  # a mean over classes means nothing then
                    rows[name, part]["macro_f1"] = np.nan
    table = pd.DataFrame(rows).T.astype({"n": int, "correct": int})
    return table.rename_axis(["model", "test images"])


def _notes_on_labels(name, votes):
    """What to know of a network that learned other labels than those that are counted."""
    path = config.RUNS_DIR / name / "spec.json"
    if path.is_file() and read_json(path).get("labels") == "ferplus":
        by_votes = "the row of 7 of 10 people" if votes else "--votes fer2013new.csv"
        yield f"{name}: it learned from people's votes, not from FER-2013's labels; see {by_votes}"


def _note_on_images(name, prepared):
    """Say whether these are the images of the run that made the shipped network."""
    path = config.RUNS_DIR / name / "metrics.json"
    of_the_run = read_json(path).get("data") if path.is_file() else None
    if of_the_run is None:
        return f"{name}: its run does not say which images it had"
    if of_the_run == fingerprint(prepared):
        return f"{name}: the same images in the same splits as in its training run"
    return (
        f"{name}: not the images or splits of its training run, so test images may be among "
        "those that it has learned from"
    )


def _notes_on_races(name, table):
    """How far apart the best and the worst race are, of those with enough faces to say."""
    for views_of_each in ("", TEN_VIEWS):
        rows = [key for race in RACES if (key := (name, f"{race}{views_of_each}")) in table.index]
        large = table.loc[rows].query("n > 100")["accuracy"]
        if len(large) > 1:
            lowest, highest = 100 * large.min(), 100 * large.max()
            yield (
                f"{name}{views_of_each}: races of more than 100 faces from {lowest:.1f} to "
                f"{highest:.1f} %, {highest - lowest:.1f} points apart"
            )


def main(arguments=None):
    """Score the shipped networks from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py evaluate",
        description="Scores the networks in outputs/pretrained on the test splits of your own "
        "copy of the data. Intervals are 95 % Wilson intervals.",
    )
    parser.add_argument("--fer", type=Path, help="FER-2013: fer2013.csv, packed or not, or folder")
    parser.add_argument("--utk", type=Path, help="UTKFace: folder of images, or .tar.gz")
    parser.add_argument("--votes", type=Path, help="fer2013new.csv of FERPlus, with --fer a csv")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    given = {"fer2013": options.fer, "utkface": options.utk}
    if not any(given.values()):
        parser.error("give --fer, --utk or both")
    if options.votes and not options.fer:
        parser.error("--votes are on images of FER-2013: give --fer as well")
    tables = {}
    try:
        for dataset, path in given.items():
            if path is None:
                continue
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
            prepare = {"fer2013": prepare_fer, "utkface": prepare_utk}[dataset]
            with tempfile.TemporaryDirectory() as folder:
                prepared = prepare(source=path, destination=Path(folder) / dataset)
                votes = options.votes if dataset == "fer2013" else None
                table = tables[dataset] = score_shipped(dataset, prepared, votes)
                for name in table.index.unique("model"):
                    print(_note_on_images(name, prepared), file=sys.stderr)
                    for note in (*_notes_on_labels(name, votes), *_notes_on_races(name, table)):
                        print(note, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        records = {
            name: json.loads(table.reset_index().to_json(orient="records", double_precision=15))
            for name, table in tables.items()
        }
        print(json.dumps(records, indent=1))
    else:
        for table in tables.values():
            print(table.drop(columns="correct").round(3).to_string(na_rep="-"), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
