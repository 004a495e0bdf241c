"""Figures: each function draws on given axes and returns them; showing is the notebook's job."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from utils.evaluation import calibration_error, reliability, sharpen

SEVERITY_UNITS = {
    "darkness": "share of the light that is left",
    "noise": "standard deviation, grey levels",
    "blur": "standard deviation, pixels",
    "rotation": "degrees",
    "scale": "size of the face",
    "shift": "share of the picture",
}


def plot_images(images, titles, columns=7, size=1.3):
    """Show images in a grid.

    Parameters
    ----------
    images : sequence of numpy.ndarray, uint8, (height, width, 1 or 3)
        Grey or RGB.
    titles : sequence of str
    columns : int
    size : float
        Width and height of one image in inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * size * 1.15), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles):
        axis.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
    figure.tight_layout()
    return figure


def plot_history(history, axes=None):
    """Draw loss and accuracy of training and validation over the epochs.

    Parameters
    ----------
    history : pandas.DataFrame
        Indexed by epoch, with the columns of Keras: loss, val_loss, accuracy, val_accuracy.
    axes : sequence of two matplotlib.axes.Axes, optional

    Returns
    -------
    sequence of two matplotlib.axes.Axes
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    marker = "o" if len(history) == 1 else None
    for axis, quantity in zip(axes, ("loss", "accuracy")):
        axis.plot(history.index, history[quantity], marker=marker, label="training")
        axis.plot(history.index, history[f"val_{quantity}"], marker=marker, label="validation")
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(history.index.min() - 0.5, history.index.max() + 0.5)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[1].set_ylim(0, 1)
    return axes


def plot_confusion_matrix(matrix, class_names, normalise=False, ax=None):
    """Draw a confusion matrix with class names.

    Parameters
    ----------
    matrix : numpy.ndarray, int, (num_classes, num_classes)
        Rows are true classes, columns predicted ones.
    class_names : sequence of str
    normalise : bool
        Divide each row by its sum, so that the diagonal is the recall; empty rows stay 0.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the matrix is not square or does not fit the class names.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"the matrix has shape {matrix.shape}, expected a row and a column for each of "
            f"{len(class_names)} classes"
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(1.5 + 0.7 * len(class_names),) * 2, layout="constrained")
    if normalise:
        matrix = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(matrix, display_labels=class_names)
    display.plot(
        ax=ax,
        cmap="Blues",
        colorbar=False,
        values_format=".2f" if normalise else "d",
        xticks_rotation=45,
    )
    if normalise:
        display.im_.set_clim(0, 1)
    ax.set_title("share of each true class" if normalise else "number of images")
    return ax


def plot_confusion_matrices(matrix, class_names):
    """Draw the raw and the normalised matrix side by side; return both axes."""
    size = 1.5 + 0.6 * len(class_names)
    _, axes = plt.subplots(1, 2, figsize=(2 * size + 0.5, size), layout="constrained")
    for ax, normalise in zip(axes, (False, True)):
        plot_confusion_matrix(matrix, class_names, normalise, ax)
    return axes


def plot_robustness(tables, lowest=0.0):
    """Draw accuracy against severity, a panel for each corruption, with 95 % intervals.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        By the name of the run: see `utils.robustness.accuracy_by_severity`.
    lowest : float
        Where the axis of accuracy begins.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, (2, 3)
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.8), layout="constrained", sharey=True)
    names = next(iter(tables.values()))["corruption"].unique()
    for ax, name in zip(axes.flat, names):
        for run_name, table in tables.items():
            rows = table[table["corruption"] == name].sort_values("severity")
            ax.plot(rows["severity"], rows["accuracy"], marker=".", label=run_name)
            ax.fill_between(rows["severity"], rows["low"], rows["high"], alpha=0.2)
        ax.set(title=name, xlabel=SEVERITY_UNITS[name], ylim=(lowest, 1))
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    # Below the panels: in any of them it would lie on the curves of one network or another.
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return axes


def plot_reliability(y_true, probabilities, temperature, title, ax):
    """Draw accuracy against confidence, as trained and with a temperature.

    Taught in notebooks 03 and 04.

    Parameters
    ----------
    y_true : numpy.ndarray, int, (n,)
    probabilities : numpy.ndarray, float, (n, num_classes)
    temperature : float
        See `utils.evaluation.fit_temperature`.
    title : str
    ax : matplotlib.axes.Axes

    Returns
    -------
    matplotlib.axes.Axes
    """
    sharpened = sharpen(probabilities, temperature)
    for name, answers in (("as trained", probabilities), (f"T = {temperature:.2f}", sharpened)):
        bins = reliability(y_true, answers)
        label = f"{name}: error {calibration_error(bins):.3f}"
        ax.plot(bins["confidence"], bins["accuracy"], marker="o", label=label)
    chance = 1 / probabilities.shape[1]
    ax.plot([chance, 1], [chance, 1], color="grey", linestyle=":")
    ax.set(title=title, xlabel="largest probability", ylabel="accuracy")
    ax.legend()
    return ax
