"""Numbers: accuracy with its interval, one table row for each class."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, f1_score, log_loss


def wilson_interval(correct, n):
    """95 % Wilson interval of a proportion.

    Parameters
    ----------
    correct, n : int

    Returns
    -------
    low, high : float
    """
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
        If the lengths differ or there is nothing to score.
    """
    if len(y_true) != len(probabilities) or not len(y_true):
        raise ValueError(
            f"{len(y_true)} labels and {len(probabilities)} predictions, expected the same number, "
            "at least 1"
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


def confusion(y_true, probabilities):
    """Confusion matrix, int (num_classes, num_classes): rows are true, columns predicted."""
    labels = range(probabilities.shape[1])
    return confusion_matrix(y_true, probabilities.argmax(axis=1), labels=labels)


def per_class(y_true, probabilities, class_names):
    """Precision, recall, F1 and number of images of each class, as a table.

    Returns
    -------
    pandas.DataFrame
        Indexed by class name.
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
    table["support"] = table["support"].astype(int)
    return table.rename(columns={"f1-score": "F1", "support": "n"})


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
