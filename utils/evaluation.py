"""Numbers: accuracy with its interval, one table row for each class."""

import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, f1_score


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
