from dataclasses import replace

import keras
import numpy as np
import pytest

from utils import training
from utils.auxiliary import WEIGHT, add_labels, add_outputs, build_accuracy, build_loss
from utils.data import load_prepared, rows_of
from utils.evaluation import evaluate
from utils.models import build
from utils.training import RunSpec, train

SPEC = RunSpec(
    "small", "utkface", "compact", 1,
    arguments={"widths": [8]}, colour="rgb", batch_size=16, auxiliary=("age", "race"),
)  # fmt: skip


@pytest.mark.parametrize("class_names", [(), ("male", "female")])
def test_labels_lie_side_by_side(prepared_workspace, class_names):
    spec = replace(SPEC, class_names=class_names)
    _, y_true = training._load(spec, "train")
    labels = add_labels(y_true, spec, "train")
    assert labels.shape == (len(y_true), 2 + 6 + 5) and labels.dtype == np.float32
    rows = rows_of(load_prepared("utkface"), "train", spec.classes)
    last_years = (5, 17, 30, 45, 60, 120)
    for row, (_, known) in zip(labels, rows.iterrows()):
        gender = spec.classes.index(known["label"])
        band = next(i for i, year in enumerate(last_years) if known["age"] <= year)
        race = ("White", "Black", "Asian", "Indian", "Other").index(known["race"])
        assert np.flatnonzero(row).tolist() == [gender, 2 + band, 8 + race]
    soft = np.full((len(y_true), 2), 0.5, np.float32)
    taught = add_labels(soft, spec, "train")
    np.testing.assert_array_equal(taught[:, :2], soft)
    np.testing.assert_array_equal(taught[:, 2:], labels[:, 2:])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_a_sum_over_blocks(smoothing):
    noise = np.random.default_rng(0)
    expected, truths, answers = np.zeros(4), [], []
    for size, weight in ((2, 1), (6, WEIGHT), (5, WEIGHT)):
        truth = np.eye(size)[noise.integers(size, size=4)]
        answer = noise.dirichlet(np.ones(size), 4)
        softened = (1 - smoothing) * truth + smoothing / size
        expected -= weight * (softened * np.log(answer)).sum(axis=1)
        truths.append(truth)
        answers.append(answer)
    joined = (np.concatenate(x, axis=1).astype(np.float32) for x in (truths, answers))
    loss = build_loss(2, ("age", "race"), smoothing)(*joined)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-4)


def test_the_accuracy_is_of_the_class_alone():
    y_true = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], np.float32)
    y_pred = np.array([[0.9, 0.1, 1, 0], [0.6, 0.4, 0, 1]], np.float32)
    right = keras.ops.convert_to_numpy(build_accuracy(2)(y_true, y_pred))
    assert right.tolist() == [1, 0]


def test_further_outputs_come_after_the_class():
    model = build(SPEC.contract)
    wider = add_outputs(model, SPEC.auxiliary)
    images = np.random.default_rng(0).uniform(0, 255, (3, 48, 48, 3)).astype(np.float32)
    answers = wider(images, training=False).numpy()
    assert answers.shape == (3, 13)
    np.testing.assert_allclose(answers[:, :2], model(images, training=False).numpy(), atol=1e-6)
    for block in (answers[:, :2], answers[:, 2:8], answers[:, 8:]):
        np.testing.assert_allclose(block.sum(axis=1), 1, atol=1e-5)


def test_a_run_keeps_the_class_alone(prepared_workspace, monkeypatch):
    spec = replace(SPEC, epochs=2, evaluate_at=(1,), learning_rate=0.01)
    valid_images, valid_true = training._load(spec, "valid")
    compile_, callbacks = training._compile, training._callbacks
    widths, answers = [], []

    def compile_and_note(model, *arguments, **options):
        widths.append(model.output_shape)
        compile_(model, *arguments, **options)

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            images = valid_images.astype(np.float32)
            answers.append(np.asarray(self.model.predict_on_batch(images))[:, :2])

    monkeypatch.setattr(training, "_compile", compile_and_note)
    monkeypatch.setattr(training, "_callbacks", lambda f, s: [*callbacks(f, s), Record()])
    run = train(spec)
    assert widths == [(None, 2 + 6 + 5)]
    assert run.load_model().output_shape == (None, 2)
    np.testing.assert_allclose(run.predictions("valid")[1], answers[1], atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-3, "the epochs do not differ"
    assert run.scores(1, "valid") == evaluate(valid_true, answers[0])
