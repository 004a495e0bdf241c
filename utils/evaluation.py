"""Numbers: accuracy with its interval, by class and by group, calibration; without Keras."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics

from utils.preprocessing import EMOTIONS

AGE_BANDS = {"0-5": 5, "6-17": 17, "18-30": 30, "31-45": 45, "46-60": 60, "61+": 120}
# Young children's labels are uncertain, so some count from six; 21 to 60 is what CORAL (Cao et al.
# 2020, arXiv:1901.07884) made of UTKFace, and who follows its split counts no others.
AGE_RANGES = {"from 6": (6, 120), "18 to 60": (18, 60), "21 to 60": (21, 60)}
CHILD_AGES = np.arange(1, 18.5, 0.5)  # years, of which one is chosen
GENDER_FROM_THERE = 0.965  # wanted accuracy of gender from that age on
MOST_CALLED_CHILD = 0.01  # of adults
MOST_OTHERWISE = 0.10  # of resting faces; a person at rest reads a wrong word once in ten


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


def _intervals(correct, n):
    """Low ends of the Wilson intervals of several proportions, and high ones."""
    return np.reshape([wilson_interval(*pair) for pair in zip(correct, n)], (-1, 2)).T


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
    macro_f1 = metrics.f1_score(y_true, y_pred, labels=labels, average="macro", zero_division=0)
    return {
        "n": len(y_true),
        "correct": correct,
        "accuracy": correct / len(y_true),
        "low": low,
        "high": high,
        "macro_f1": float(macro_f1),
    }


def confusion(y_true, probabilities):
    """Confusion matrix, int (num_classes, num_classes): rows are true, columns predicted."""
    labels = range(probabilities.shape[1])
    return metrics.confusion_matrix(y_true, probabilities.argmax(axis=1), labels=labels)


def per_class(y_true, probabilities, class_names):
    """Precision, recall with its 95 % Wilson interval, F1 and number of images of each class.

    Returns
    -------
    pandas.DataFrame
        precision, recall, recall low, recall high, F1, n; indexed by class name.
    """
    scores = metrics.precision_recall_fscore_support(
        y_true, probabilities.argmax(axis=1), labels=range(len(class_names)), zero_division=0
    )
    ends = _intervals(confusion(y_true, probabilities).diagonal(), scores[3])
    names = ["precision", "recall", "F1", "n", "recall low", "recall high"]
    table = pd.DataFrame(dict(zip(names, (*scores, *ends))), index=list(class_names))
    return table[["precision", "recall", "recall low", "recall high", "F1", "n"]]


def balanced_recall(y_true, probabilities):
    """Mean recall of the classes that occur, so that a rare one counts as much as a frequent one.

    Also known as balanced accuracy (Brodersen et al. 2010). Its interval is made of the Wilson
    intervals of the recalls: the distances of their ends are squared and added, as variances are
    (MOVER, Zou and Donner 2008). So a class of ten images, all of them found, still adds doubt.
    Taught in notebook 03. Parameters: see `evaluate`.

    Returns
    -------
    dict
        n, recall (the mean), low and high (95 % interval).
    """
    matrix = confusion(y_true, probabilities)
    counts = matrix.sum(axis=1)
    right, counts = matrix.diagonal()[counts > 0], counts[counts > 0]
    recalls = right / counts
    low, high = _intervals(right, counts)
    mean = recalls.mean()
    return {
        "n": int(counts.sum()),
        "recall": float(mean),
        "low": float(mean - np.linalg.norm(recalls - low) / len(recalls)),
        "high": float(mean + np.linalg.norm(high - recalls) / len(recalls)),
    }


def resting_face(neutral_votes, probabilities):
    """How often a network calls a face something else that nine of ten people call neutral.

    A face at rest is what a camera sees most of the time, so each such error is seen. Taught in
    notebook 03.

    Parameters
    ----------
    neutral_votes : numpy.ndarray, int, (n,)
        How many of ten people call each image neutral: see `utils.data.ferplus.load_votes`.
    probabilities : numpy.ndarray, float, (n, 7)
        In the order of `utils.preprocessing.EMOTIONS`.

    Returns
    -------
    dict
        n (images that count), otherwise (how many of these are called something else), share, low
        and high (95 % Wilson interval), confidence (mean of those; NaN where there are none).
    """
    resting = probabilities[neutral_votes >= 9]
    wrong = resting[resting.argmax(axis=1) != EMOTIONS.index("neutral")]
    low, high = wilson_interval(len(wrong), len(resting))
    return {
        "n": len(resting),
        "otherwise": len(wrong),
        "share": len(wrong) / len(resting) if len(resting) else np.nan,
        "low": low,
        "high": high,
        "confidence": float(wrong.max(axis=1).mean()) if len(wrong) else np.nan,
    }


def jitter(probabilities, changed):
    """How often the label of an image is another after a change too small for people to answer to.

    Taught in notebook 03.

    Parameters
    ----------
    probabilities : numpy.ndarray, float, (n, num_classes)
        Of the images as they are.
    changed : dict of str to numpy.ndarray, float, (n, num_classes)
        Of the same images after each change: see `utils.robustness.jitter_of`.

    Returns
    -------
    pandas.DataFrame
        n, changed (labels), share, low and high (95 % Wilson interval) of each change, and of
        images with any of them; indexed by change, with "any" last.
    """
    said = probabilities.argmax(axis=1)
    other = pd.DataFrame({name: x.argmax(axis=1) != said for name, x in changed.items()})
    other["any"] = other.any(axis=1)
    table = pd.DataFrame({"n": len(said), "changed": other.sum(), "share": other.mean()})
    table["low"], table["high"] = _intervals(table["changed"], table["n"])
    return table.rename_axis("change")


def mcnemar(y_true, probabilities, others):
    """Test whether one of two networks is right more often on the same images.

    Images that both read alike say nothing; among the others, a coin would decide if the networks
    were equally good (exact McNemar test).

    Parameters
    ----------
    y_true, probabilities
        See `evaluate`.
    others : numpy.ndarray, float, (n, num_classes)
        Of the second network.

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
    correct = table.groupby(columns, observed=True)["correct"]
    groups = correct.agg(n="size", accuracy="mean")
    groups["low"], groups["high"] = _intervals(correct.sum(), groups["n"])
    return groups


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


def combine(answers, weights, prior, tau):
    """Mean of several answers, for classes that are to count alike (logit adjustment).

    A network says frequent classes more readily than rare ones. Taking `tau` times the logarithm of
    their shares from the logits undoes that (Menon et al. 2021, arXiv:2007.07314). Taught in
    notebook 03.

    Parameters
    ----------
    answers : sequence of numpy.ndarray, float, (n, num_classes)
        Probabilities of several outputs for the same images.
    weights : sequence of float
        Of each output, with sum 1: their logits are averaged.
    prior : numpy.ndarray, float, (num_classes,)
        Share of each class in training.
    tau : float
        0 changes nothing, 1 is made for classes of equal shares.

    Returns
    -------
    numpy.ndarray, float, (n, num_classes)
    """
    logits = sum(weight * np.log(np.maximum(x, 1e-12)) for weight, x in zip(weights, answers))
    return softmax(logits - tau * np.log(prior), axis=1)


def fit_temperature(y_true, probabilities):
    """Find the temperature that makes validation labels most likely (Guo et al. 2017).

    Source: arXiv:1706.04599. Parameters: see `evaluate`.

    Returns
    -------
    float
    """

    def loss(log_temperature):
        calibrated = sharpen(probabilities, np.exp(log_temperature))
        return metrics.log_loss(y_true, calibrated, labels=range(probabilities.shape[1]))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def reliability(y_true, probabilities):
    """Compare how sure a network is with how often it is right.

    Parameters: see `evaluate`.

    Returns
    -------
    pandas.DataFrame
        n, accuracy, low, high and confidence (mean) of each of 15 equal bins of the largest
        probability that has images.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true
    bins = pd.cut(confidence.clip(max=1), np.linspace(0, 1, 16))  # a sum may round to more
    table = pd.DataFrame({"confidence": confidence, "correct": right, "bin": bins})
    means = table.groupby("bin", observed=True)["confidence"].mean()
    return accuracy_by(table, "bin").assign(confidence=means)


def calibration_error(bins):
    """Expected calibration error: mean difference of a table of `reliability`, weighted by n."""
    return float(np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["n"]))


def choose_threshold(y_true, probabilities, accuracy):
    """Find how sure a network must be, so that what it then says is right often enough.

    Parameters
    ----------
    y_true, probabilities
        Of the validation split, see `evaluate`.
    accuracy : float
        Wanted among the images on which the network is at least as sure as the threshold.

    Returns
    -------
    threshold : float
        The lowest that will do; 0 where all images may be answered.
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
    if last == len(right) - 1:  # all of them, so nothing speaks for a threshold
        return 0.0, 1.0
    return float(confidence[order[last]]), float((last + 1) / len(right))


def choose_child_age(right, estimated, ages):
    """Choose the age below which "child" is said of a face, and no gender.

    The lowest of `CHILD_AGES` from which on gender is right often enough (`GENDER_FROM_THERE`),
    else the one from which on it is right most often; of those that call few adults children.

    Parameters
    ----------
    right : numpy.ndarray, bool, (n,)
        Whether gender is read rightly; of the validation split.
    estimated, ages : numpy.ndarray, float, (n,)
        Years as the network and as the labels have them.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If each calls more than `MOST_CALLED_CHILD` of adults children.
    """
    adults = estimated[ages >= 18]
    usable = [age for age in CHILD_AGES if (adults < age).mean() <= MOST_CALLED_CHILD]
    if not usable:
        raise ValueError(
            f"more than {MOST_CALLED_CHILD:.0%} of {len(adults)} adults would be called children "
            f"below {CHILD_AGES[0]:g} years, expected fewer: the output for age learned too little"
        )

    def goodness(age):
        return min(right[estimated >= age].mean(), GENDER_FROM_THERE)

    return float(max(usable, key=goodness))  # the first of several
