from dataclasses import replace

import keras
import numpy as np
import pytest

from utils import training
from utils.auxiliary import WEIGHT, add_labels, add_outputs, build_accuracy, build_loss
from utils.data import load_prepared, rows_of
from utils.models import build
from utils.training import RunSpec, train

SPEC = RunSpec(
    "small", "utkface", "compact", 1,
    arguments={"widths": [8]}, colour="rgb", batch_size=16, auxiliary=("age", "race"),
)  # fmt: skip


def test_labels_lie_side_by_side(prepared_workspace):
    _, y_true = training._load(SPEC, "train")
    labels = add_labels(y_true, SPEC, "train")
    assert labels.shape == (len(y_true), 2 + 6 + 5) and labels.dtype == np.float32
    rows = rows_of(load_prepared("utkface"), "train")
    last_years = (5, 17, 30, 45, 60, 120)
    for row, (_, known) in zip(labels, rows.iterrows()):
        assert ("female", "male")[row[:2].argmax()] == known["label"]
        band = next(i for i, year in enumerate(last_years) if known["age"] <= year)
        race = ("White", "Black", "Asian", "Indian", "Other").index(known["race"])
        assert np.flatnonzero(row).tolist() == [row[:2].argmax(), 2 + band, 8 + race]


def test_loss_and_accuracy_by_hand():
    y_true = np.zeros((2, 8), np.float32)
    y_pred = np.full((2, 8), 0.1, np.float32)
    y_true[0, [0, 2]] = 1
    y_true[1, [1, 7]] = 1
    y_pred[0, [0, 1, 2]] = 0.9, 0.1, 0.5
    y_pred[1, [0, 1, 7]] = 0.6, 0.4, 0.5
    loss = keras.ops.convert_to_numpy(build_loss(2, ("age",), 0.0)(y_true, y_pred))
    further = WEIGHT * -np.log(0.5)
    np.testing.assert_allclose(loss, -np.log([0.9, 0.4]) + further, rtol=1e-5)
    assert np.asarray(build_accuracy(2)(y_true, y_pred)).tolist() == [1, 0]


def test_further_outputs_come_after_the_class():
    model = build(SPEC.contract)
    wider = add_outputs(model, SPEC.auxiliary)
    images = np.random.default_rng(0).uniform(0, 255, (3, 48, 48, 3)).astype(np.float32)
    answers = wider(images, training=False).numpy()
    assert answers.shape == (3, 13)
    np.testing.assert_allclose(answers[:, :2], model(images, training=False).numpy(), atol=1e-6)
    for block in (answers[:, :2], answers[:, 2:8], answers[:, 8:]):
        np.testing.assert_allclose(block.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"ema": 0.5, "evaluate_at": (1,), "epochs": 2}])
def test_a_run_with_further_outputs_keeps_the_class_alone(prepared_workspace, change):
    run = train(replace(SPEC, **change))
    assert run.load_model().output_shape == (None, 2)
    logged = run.history["val_accuracy"]
    assert run.scores(1, "valid")["accuracy"] == pytest.approx(logged[1], abs=1e-6)
