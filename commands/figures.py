"""The figures of README, RESULTS and MODEL_CARD, from our runs and the sample clip alone."""

import io
import tempfile
from functools import partial
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from commands import tables, tune
from utils import config
from utils.data.fer import prepare_fer
from utils.data.prepared import load_images
from utils.data.utk import prepare_utk
from utils.evaluation import accuracy_by, confusion
from utils.files import replaced_when_done
from utils.networks.contract import find_network
from utils.plots import (
    plot_accuracies,
    plot_confusion_matrix,
    plot_images,
    plot_reliability,
    plot_robustness,
)
from utils.preprocessing import CLASSES, EMOTIONS, crop_face, face_input_for, prepare_face
from utils.realtime.detection import HaarDetector
from utils.realtime.display import BOX_COLOUR, annotate
from utils.realtime.engine import Engine
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL, FaceClassifier
from utils.realtime.sources import open_source
from utils.robustness import accuracy_by_severity
from utils.training import reference

WIDTH = 7  # inches; pages show figures at some 700 pixels, so a point is about 1.4 pixels


def _dots(table, height):
    figure, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    plot_accuracies(table, ax)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.get_legend().remove()  # in the axes it would lie on dots
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    return figure


def draw_family(family):
    """Accuracies of a family with their intervals; colours tell the test images apart."""
    # A row each: that of one view, and of ensembles that of ten.
    table = tables.family_table(family)
    table = table[(table["views"] == 1) | table["run"].isin(tables.ENSEMBLES)].copy()
    by_votes = np.where(table["judge"] == "majority", ", by FER+", "")
    ten_views = np.where(table["views"] == 10, ", ten views", "")
    table.index = table["run"] + by_votes + ten_views
    data = np.where(table["run"].str.contains("gender"), "UTKFace", "FER-2013")
    table["group"] = [f"{name}, n = {n:,}" for name, n in zip(data, table["n"])]
    return _dots(table, 1 + 0.19 * len(table))


def draw_confusion_emotion():
    """What the loop's emotion network says, by what most people say (FER+)."""
    matrix = confusion(*tables.answers(tables.as_shipped(DEFAULT_EMOTION_MODEL), judge="majority"))
    figure, ax = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    plot_confusion_matrix(matrix, EMOTIONS, normalise=True, ax=ax)
    ax.set_yticklabels(f"{name}\n(n = {n:,})" for name, n in zip(EMOTIONS, matrix.sum(axis=1)))
    ax.set(title="", xlabel=f"said by {DEFAULT_EMOTION_MODEL}", ylabel="majority of people (FER+)")
    return figure


def draw_study():
    """How much learning rate and dropout matter to the report's network, and what was tried."""
    study = tune.reference_study(tables.STUDIED)
    return tune.draw(study, study.trials[0].distributions)


def draw_robustness(names):
    """Accuracy of some runs on test images that are changed more and more."""
    with plt.rc_context({"font.size": 13}):
        axes = plot_robustness({name: accuracy_by_severity(reference(name)) for name in names})
    return axes[0, 0].figure


def draw_reliability():
    """Accuracy against confidence of the loop's networks, with and without their temperature."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="constrained")
    titles = ("by FER-2013's label", "by UTKFace's label")
    for ax, name, title in zip(axes, (DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL), titles):
        temperature = find_network(name)[1].temperature
        y_true, probabilities = tables.answers(tables.as_shipped(name))
        title = f"{name}, n = {len(y_true):,}\n{title}"
        plot_reliability(y_true, probabilities, temperature, title, ax)
        ax.legend(loc="upper left", fontsize=8)  # elsewhere it would lie on the curves
    return figure


def draw_accuracy_by_age_and_race():
    """Accuracy of the loop's gender network by label, age and race."""
    known = tables.faces(DEFAULT_GENDER_MODEL)
    parts = {
        "label": (known, "label"),
        "age": (known, "age"),
        "race": (known, "race"),
        "race, 18 to 60": (tables.of_ages(known, "18 to 60"), "race"),
    }
    rows = {name: accuracy_by(*part).assign(group=name) for name, part in parts.items()}
    table = pd.concat(rows)
    table.index = [
        f"{name} ({part}, n = {n:,})" for (part, name), n in zip(table.index, table["n"])
    ]
    figure = _dots(table, 4.6)
    figure.axes[0].set_xlabel(f"accuracy of {DEFAULT_GENDER_MODEL} on test faces, 95 % interval")
    return figure


def draw_sample(dataset):
    """Faces of the drawn sample, one or two for each class; those of the real data show people."""
    prepare, name = {
        "fer2013": (prepare_fer, "fer2013.csv"),
        "utkface": (prepare_utk, "UTKFace"),
    }[dataset]
    with tempfile.TemporaryDirectory() as folder:
        source = config.SAMPLE_DIR / "raw" / name
        prepared = prepare(source=source, destination=Path(folder) / dataset)
        face_input = face_input_for(dataset, 48, 48, "rgb")
        images, y_true, _ = load_images(prepared, "train", face_input)
    chosen = [i for label in np.unique(y_true) for i in np.flatnonzero(y_true == label)[:3]][:6]
    names = CLASSES[dataset]
    return plot_images(images[chosen], [names[y_true[i]] for i in chosen], columns=3)


def draw_frame():
    """The way of a frame: find, cut out, prepare, predict."""
    with open_source(config.SAMPLE_CLIP) as source:
        frame = next(iter(source))
    boxes = HaarDetector().detect(frame)
    classifier = FaceClassifier()
    (face,) = classifier.classify(frame, boxes)
    figure = plt.figure(figsize=(WIDTH, 2.7), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(2.4, 1, 1, 1.1))
    found = figure.add_subplot(grid[:, 0])
    found.imshow(_rgb(cv2.rectangle(frame.copy(), face.box, BOX_COLOUR, 3)))
    found.set_title("1. find", fontsize=9)
    networks = {
        "emotion": (classifier.emotion, face.emotion_probabilities),
        "gender": (classifier.gender, face.gender_probabilities),
    }
    for row, (what, (network, answer)) in enumerate(networks.items()):
        cut, seen, said = (figure.add_subplot(grid[row, column]) for column in (1, 2, 3))
        face_input = network.contract.face_input
        picture = crop_face(frame, face.box, face_input)
        cut.imshow(_rgb(picture))
        cut.set_ylabel(what)
        seen.imshow(prepare_face(picture, face_input).squeeze(), cmap="gray", vmin=0, vmax=255)
        seen.set_xlabel(" x ".join(str(side) for side in face_input.shape), fontsize=8)
        said.barh(list(answer), list(answer.values()))
        said.set(xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(len(answer) - 0.4, -0.6))
        said.tick_params(labelsize=7)
        if row == 0:
            for ax, title in zip((cut, seen, said), ("2. cut out", "3. prepare", "4. predict")):
                ax.set_title(title, fontsize=9)
    for ax in figure.axes:
        if ax.images:
            ax.set(xticks=[], yticks=[])
    return figure


def _rgb(picture):
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def write_moving_picture(path, every=2):
    """Write the sample clip with its labels as an animated WebP, every second frame."""
    # Without a budget of time, so that the picture is the same on each machine.
    engine = Engine(FaceClassifier(), HaarDetector(), budget=None)
    with open_source(config.SAMPLE_CLIP) as source:
        pictures = [_rgb(annotate(frame, engine.label(frame))) for frame in source]
    first, *others = (Image.fromarray(picture) for picture in pictures[::every])
    duration = round(1000 * every / source.frames_per_second)
    with replaced_when_done(path) as unfinished:
        options = {"duration": duration, "loop": 0, "quality": 60, "method": 6}
        first.save(unfinished, save_all=True, append_images=others, **options)


FIGURES = {
    **{family: partial(draw_family, family) for family in tables.FAMILIES},
    "confusion_emotion": draw_confusion_emotion,
    "robustness": partial(
        draw_robustness,
        ("emotion_final", "emotion_fer", "emotion_fer_distilled", DEFAULT_EMOTION_MODEL),
    ),
    "robustness_gender": partial(
        draw_robustness, ("gender_final_trial_3_on_80_10_10", "gender_utk", DEFAULT_GENDER_MODEL)
    ),
    "reliability": draw_reliability,
    "accuracy_by_age_and_race": draw_accuracy_by_age_and_race,
    "study": draw_study,
    "frame": draw_frame,
    "sample_fer": partial(draw_sample, "fer2013"),
    "sample_utk": partial(draw_sample, "utkface"),
}
MOVING_PICTURE = "sample.webp"


def write_figures(folder, names=tuple(FIGURES)):
    """Write figures as ``NAME.png``, without anything that differs from run to run.

    Parameters
    ----------
    folder : pathlib.Path
    names : sequence of str
        Keys of `FIGURES`.
    """
    plt.switch_backend("Agg")  # no window is opened, and none is needed
    for name in names:
        figure, drawn = FIGURES[name](), io.BytesIO()
        figure.savefig(drawn, dpi=150 * WIDTH / figure.get_size_inches()[0])
        plt.close(figure)
        with replaced_when_done(folder / f"{name}.png") as unfinished:
            # A palette makes a third of the size; what savefig notes of its version is left out.
            Image.open(drawn).convert("RGB").quantize(256).save(unfinished, optimize=True)
