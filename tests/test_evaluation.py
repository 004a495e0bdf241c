import numpy as np
import pytest

from utils.evaluation import (
    confusion,
    evaluate,
    mcnemar,
    per_class,
    wilson_interval,
)

# Three classes; true 0 0 0 1 1 2, predicted 0 0 1 1 2 2
Y_TRUE = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.8 + 0.1


def test_confusion_against_a_hand_counted_matrix():
    assert confusion(Y_TRUE, PROBABILITIES).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_confusion_keeps_classes_that_do_not_occur():
    assert confusion(np.array([1]), np.eye(3)[[1]]).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_scores_by_hand():
    scores = evaluate(Y_TRUE, PROBABILITIES)
    assert (scores["n"], scores["correct"]) == (6, 4)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    # F1: class 0: 2*2/(2*2+0+1), class 1: 2/(2+1+1), class 2: 2/(2+1+0)
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_interval_of_the_report_gender_test_set():
    # 189 of 200; Wilson's formula written out
    n, p, z = 200, 189 / 200, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(189, 200) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson_interval(189, 200) == pytest.approx((0.904, 0.969), abs=1e-3)


def test_per_class_table_by_hand():
    table = per_class(Y_TRUE, PROBABILITIES, ["a", "b", "c"])
    assert table["precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["n"].tolist() == [3, 2, 1]


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="6 labels and 5 predictions"):
        evaluate(Y_TRUE, PROBABILITIES[:5])
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(np.array([]), np.empty((0, 3)))


def one_hot(classes, sure=0.9):
    """Probabilities with `sure` on these of three classes."""
    return np.full((len(classes), 3), (1 - sure) / 2) + np.eye(3)[classes] * (sure - (1 - sure) / 2)


def test_mcnemar_by_hand():
    y_true = np.zeros(10, dtype=int)
    first = one_hot([0] * 8 + [1, 1])
    second = one_hot([0, 0] + [1] * 6 + [0, 1])
    # Only the first is right on 6 images, only the second on 1: P(X <= 1 or X >= 6), X ~ B(7, 1/2)
    expected = 2 * (1 + 7) / 2**7
    result = mcnemar(y_true, first, second)
    assert (result["first_only"], result["second_only"]) == (6, 1)
    assert result["p_value"] == pytest.approx(expected)
    assert mcnemar(y_true, first, first)["p_value"] == 1
