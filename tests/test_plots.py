import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.plots import (
    SEVERITY_UNITS,
    plot_confusion_matrices,
    plot_confusion_matrix,
    plot_history,
    plot_images,
    plot_reliability,
    plot_robustness,
)
from utils.robustness import CORRUPTIONS

matplotlib.use("Agg")
MATRIX = np.array([[3, 1], [0, 0]])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_confusion_matrix_shows_counts_and_names():
    ax = plot_confusion_matrix(MATRIX, ["female", "male"])
    assert texts(ax) == ["3", "1", "0", "0"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["female", "male"]
    assert ax.get_ylabel() == "True label"


def test_normalised_rows_are_shares_and_an_empty_row_stays_empty():
    _, normalised = plot_confusion_matrices(MATRIX, ["female", "male"])
    assert texts(normalised) == ["0.75", "0.25", "0.00", "0.00"]


def test_matrix_that_does_not_fit_the_names_is_refused():
    with pytest.raises(ValueError, match="2 classes|3 classes"):
        plot_confusion_matrix(MATRIX, ["a", "b", "c"])


def test_history_draws_training_and_validation():
    history = pd.DataFrame(
        {"loss": [2, 1], "val_loss": [3, 2], "accuracy": [0.1, 0.2], "val_accuracy": [0.3, 0.4]},
        index=[1, 2],
    )
    axes = plot_history(history)
    for axis, expected in zip(axes, ([[2, 1], [3, 2]], [[0.1, 0.2], [0.3, 0.4]])):
        assert [line.get_ydata().tolist() for line in axis.lines] == expected
        assert axis.lines[0].get_xdata().tolist() == [1, 2]


def test_image_grid_has_a_title_for_each_image():
    images = [np.zeros((4, 4, 1), dtype=np.uint8)] * 3
    figure = plot_images(images, ["a", "b", "c"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]


def test_robustness_has_a_panel_for_each_corruption_and_a_curve_for_each_run():
    table = pd.DataFrame(
        {
            "corruption": ["darkness", "darkness", "noise"],
            "severity": [1.0, 0.5, 0.0],
            "accuracy": [0.8, 0.6, 0.7],
            "low": [0.7, 0.5, 0.6],
            "high": [0.9, 0.7, 0.8],
        }
    )
    axes = plot_robustness({"a": table, "b": table}, lowest=0.4).flat
    assert [ax.get_title() for ax in axes][:2] == ["darkness", "noise"]
    assert axes[1].get_xlabel() == "standard deviation, grey levels"
    assert [line.get_label() for line in axes[0].lines] == ["a", "b"]
    assert axes[0].lines[0].get_xydata().tolist() == [[0.5, 0.6], [1.0, 0.8]]
    assert axes[0].get_ylim() == (0.4, 1)
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_reliability_is_drawn_as_trained_and_with_a_temperature():
    # Two answers of 0.8, one of them right; T = 0.5 squares the odds of 4 to 1: 16 / 17.
    answers = np.array([[0.8, 0.2], [0.8, 0.2]])
    _, ax = plt.subplots()
    plot_reliability(np.array([0, 1]), answers, 0.5, "network", ax)
    trained, sharpened, diagonal = ax.lines
    assert trained.get_xydata() == pytest.approx(np.array([[0.8, 0.5]]))
    assert sharpened.get_xydata() == pytest.approx(np.array([[16 / 17, 0.5]]))
    assert diagonal.get_xydata().tolist() == [[0.5, 0.5], [1, 1]]
    assert trained.get_label() == "as trained: error 0.300"
    assert sharpened.get_label() == "T = 0.50: error 0.441"
    assert ax.get_title() == "network"


def test_every_corruption_has_a_unit():
    assert list(SEVERITY_UNITS) == list(CORRUPTIONS)
