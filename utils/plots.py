"""Figures: each function draws on given axes and returns them; showing is the notebook's job."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from utils.evaluation import calibration_error, reliability, sharpen

# Colours that everybody can tell apart (Okabe and Ito 2008).
plt.style.use("seaborn-v0_8-colorblind")

SEVERITY_UNITS = {
    "darkness": "share of the light that is left",
    "noise": "standard deviation, grey levels",
    "blur": "standard deviation, pixels",
    "rotation": "degrees",
    "scale": "size of the face",
    "shift": "share of the picture",
}


def plot_images(images, titles, columns=7):
    """Show images in a grid.

    Parameters
    ----------
    images : sequence of numpy.ndarray, uint8, (height, width, 1 or 3)
        Grey or RGB.
    titles : sequence of str
    columns : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.495 * rows), squeeze=False)
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
        for name, label in ((quantity, "training"), (f"val_{quantity}", "validation")):
            if name in history:  # a model need not be compiled with the accuracy
                axis.plot(history.index, history[name], marker=marker, label=label)
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(history.index.min() - 0.5, history.index.max() + 0.5)
        axis.grid(alpha=0.3)
        if axis.lines:
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
    names = [name.replace("$", r"\$") for name in class_names]  # which begins a formula
    display = ConfusionMatrixDisplay(matrix, display_labels=names)
    display.plot(
        ax=ax,
        cmap="Blues",
        colorbar=False,
        values_format=".2f" if normalise else "d",
        xticks_rotation=45,
        # Never so dark that black could not be read on it.
        im_kw={"vmin": 0, "vmax": 1.5 * (1 if normalise else matrix.max())},
        text_kw={"color": "black"},
    )
    ax.set_title("share of each true class" if normalise else "number of images")
    return ax


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
    """Draw accuracy, with 95 % intervals, against confidence, as trained and with a temperature.

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
        below, above = bins["accuracy"] - bins["low"], bins["high"] - bins["accuracy"]
        ax.errorbar(bins["confidence"], bins["accuracy"], (below, above), marker="o", label=label)
    chance = 1 / probabilities.shape[1]
    ax.plot([chance, 1], [chance, 1], color="grey", linestyle=":")
    ax.set(title=title, xlabel="largest probability", ylabel="accuracy")
    ax.legend()
    return ax


def plot_accuracies(table, ax=None):
    """Draw accuracies as dots with their intervals, a row each, the first on top.

    Parameters
    ----------
    table : pandas.DataFrame
        accuracy, low and high in 0..1, indexed by what was measured; *group*, where there is such
        a column, gives the colour.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 1 + 0.24 * len(table)), layout="constrained")
    names = [str(name) for name in table.index]
    groups = table["group"] if "group" in table else np.full(len(table), "")
    for group in dict.fromkeys(groups):
        chosen = np.asarray(groups == group)
        rows = table[chosen]
        errors = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
        ax.errorbar(
            rows["accuracy"], np.flatnonzero(chosen), xerr=errors, fmt="o", capsize=2, label=group
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("accuracy, 95 % interval")
    ax.grid(axis="x", alpha=0.3)
    if "group" in table:
        ax.legend()
    return ax


def plot_architectures(models):
    """Draw networks side by side, from the input at the top to the classes at the bottom.

    A bar is a layer that has a kernel. Of a convolution its length is the side of its output, in
    shares of the input; dense layers are orange, frozen ones grey. Written in it are filters and
    size of the kernel, or units. Taught in notebook 03.

    Parameters
    ----------
    models : dict of str to keras.Model

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(
        1, len(models), figsize=(2.3 * len(models), 7), layout="constrained", squeeze=False
    )
    deepest = 0
    for ax, (name, model) in zip(axes.flat, models.items()):
        depth = 0
        for layer in model.layers:
            kind = type(layer).__name__
            is_dense = kind == "Dense"
            # What squeeze-and-excitation computes of one place is no map.
            if not is_dense and ("Conv2D" not in kind or layer.output.shape[1] == 1):
                continue
            channels = layer.output.shape[-1]
            length = (
                np.log2(channels) / 12 if is_dense else layer.output.shape[1] / model.input_shape[1]
            )
            colour = "sandybrown" if is_dense else "lightsteelblue"
            ax.barh(depth, length, 0.85, color=colour if layer.trainable else "lightgrey")
            size = "" if is_dense else f", {layer.kernel_size[0]}x{layer.kernel_size[1]}"
            ax.text(0, depth, f"{channels}{size}", ha="center", va="center", fontsize=6)
            ax.patches[-1].set_x(-length / 2)
            depth += 1
        deepest = max(deepest, depth)
        ax.set_title(f"{name}\n{model.count_params() / 1e6:.1f} million", fontsize=9)
        ax.axis("off")
    for ax in axes.flat:
        ax.set(ylim=(deepest, -1), xlim=(-0.52, 0.52))
    return figure
