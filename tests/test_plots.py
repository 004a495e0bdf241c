import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.plots import (
    SEVERITY_UNITS,
    plot_accuracies,
    plot_architectures,
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
    normalised = plot_confusion_matrix(MATRIX, ["female", "male"], normalise=True)
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
    without_accuracy = plot_history(history[["loss", "val_loss"]])
    assert [len(axis.lines) for axis in without_accuracy] == [2, 0]


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
    labels = [container.get_label() for container in ax.containers]
    assert labels == ["as trained: error 0.300", "T = 0.50: error 0.441"]
    (interval,) = ax.collections[0].get_segments()  # Wilson's of one of two
    assert interval == pytest.approx(np.array([[0.8, 0.0945], [0.8, 0.9055]]), abs=1e-4)
    assert ax.get_title() == "network"


def test_every_corruption_has_a_unit():
    assert list(SEVERITY_UNITS) == list(CORRUPTIONS)


def test_accuracies_are_dots_with_their_intervals_the_first_on_top():
    table = pd.DataFrame(
        {"accuracy": [0.5, 0.7, 0.6], "low": [0.4, 0.6, 0.5], "high": [0.55, 0.8, 0.7]},
        index=["a", "b", "c"],
    )
    ax = plot_accuracies(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.yaxis_inverted() and ax.get_legend() is None
    (container,) = ax.containers
    dots, _, (intervals,) = container
    assert dots.get_xydata().tolist() == [[0.5, 0], [0.7, 1], [0.6, 2]]
    ends = [segment.tolist() for segment in intervals.get_segments()]
    assert np.allclose(ends, [[[0.4, 0], [0.55, 0]], [[0.6, 1], [0.8, 1]], [[0.5, 2], [0.7, 2]]])

    ax = plot_accuracies(table.assign(group=["ours", "theirs", "ours"]), plt.subplots()[1])
    ours, theirs = (container[0] for container in ax.containers)
    assert ours.get_xydata().tolist() == [[0.5, 0], [0.6, 2]]
    assert theirs.get_xydata().tolist() == [[0.7, 1]]
    assert ours.get_color() != theirs.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ours", "theirs"]


def test_architectures_are_bars_of_the_layers_with_a_kernel():
    inputs = keras.Input((48, 48, 1))
    x = keras.layers.Conv2D(32, 5, padding="same")(inputs)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(64, (3, 1), padding="same", trainable=False)(x)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(64, 1)(gate)])  # of one place: no map
    x = keras.layers.Dense(16)(keras.layers.Flatten()(x))
    convolutions = keras.Model(inputs, x)
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    first, second = plot_architectures({"convolutions": convolutions, "dense": dense}).axes
    assert texts(first) == ["32, 5x5", "64, 3x1", "16"] and texts(second) == ["4", "2"]
    widths = [bar.get_width() for bar in first.patches]
    assert widths == pytest.approx([1, 0.5, np.log2(16) / 12])
    middles = [bar.get_x() + bar.get_width() / 2 for bar in first.patches]
    assert middles == pytest.approx([0, 0, 0])
    colours = [bar.get_facecolor() for bar in first.patches]
    assert len(set(colours)) == 3, "convolution, frozen convolution, dense"
    assert first.get_title() == f"convolutions\n{convolutions.count_params() / 1e6:.1f} million"
    assert first.get_ylim() == second.get_ylim() == (3, -1), "both begin at the top"
