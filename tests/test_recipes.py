import re
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm
from stand_ins import SMALL

from commands import train as command
from utils import config
from utils.data.batches import load_batches, views
from utils.data.ferplus import load_votes, soften
from utils.data.prepared import load_prepared, load_split, rows_of
from utils.files import sha256_of, write_json
from utils.models import BUILDERS, count_parameters
from utils.networks import precision
from utils.networks.contract import SHIPPED_NAME, ModelContract
from utils.networks.storage import save_network
from utils.networks.structure import describe, differences
from utils.preprocessing import FIVE_EMOTIONS, face_input_for
from utils.recipes import recipe as recipes
from utils.recipes.auxiliary import (
    WEIGHTS,
    add_labels,
    add_outputs,
    build_accuracy,
    build_loss,
    split_columns,
)
from utils.recipes.recipe import Recipe, build, compile_model, set_fields, train_recipe
from utils.recipes.statistics import RenewStatistics
from utils.recipes.teachers import ask_teachers
from utils.training import DEPENDS_ON_COPY, Run, load_runs, train

GENDER = replace(SMALL, dataset="utkface", colour="rgb")
TOLD = replace(GENDER, auxiliary=("age", "race"))


@pytest.fixture(autouse=True)
def processor_without_bfloat16(monkeypatch):
    """Answers in float32 compare exactly."""
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: 0)


@pytest.fixture
def handed_over(monkeypatch):
    """What a recipe hands to `train`, which then does nothing."""
    calls = []

    def instead(model, name, train_batches, valid_batches, epochs, **settings):
        calls.append(
            SimpleNamespace(
                model=model, train=train_batches, valid=valid_batches, epochs=epochs, **settings
            )
        )

    monkeypatch.setattr(recipes, "train", instead)
    return calls


def gender_batches(class_names=None):
    return load_batches("utkface", "train", GENDER.face_input, class_names)


def prepare_report_split():
    """A stand-in: the sample has too few faces for the report's."""
    shutil.copytree(config.prepared_dir("utkface"), config.prepared_dir("utkface", "report"))


# Further outputs


@pytest.mark.parametrize("class_names", [("female", "male"), ("male", "female")])
def test_labels_lie_side_by_side(prepared_workspace, class_names):
    batches = gender_batches(class_names)
    wider = add_labels(batches, ("age", "race"))
    assert wider.labels.shape == (len(batches.y_true), 2 + 6 + 5)
    assert wider.labels.dtype == np.float32 and wider.labels_from != batches.labels_from
    rows = rows_of(load_prepared("utkface"), "train", class_names)
    last_years = (5, 17, 30, 45, 60, 120)
    for row, (_, known) in zip(wider.labels, rows.iterrows(), strict=True):
        gender = class_names.index(known["label"])
        band = next(i for i, year in enumerate(last_years) if known["age"] <= year)
        race = ("White", "Black", "Asian", "Indian", "Other").index(known["race"])
        assert np.flatnonzero(row).tolist() == [gender, 2 + band, 8 + race]
    soft = replace(batches, labels=np.full((len(batches.y_true), 2), 0.5, np.float32))
    np.testing.assert_array_equal(add_labels(soft, ("age",)).labels[:, :2], soft.labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_a_sum_over_blocks(smoothing):
    noise = np.random.default_rng(0)
    expected, truths, answers = np.zeros(4), [], []
    for size, weight in ((2, 1), (6, WEIGHTS["age"]), (5, WEIGHTS["race"])):
        truth = np.eye(size)[noise.integers(size, size=4)]
        answer = noise.dirichlet(np.ones(size), 4)
        softened = (1 - smoothing) * truth + smoothing / size
        expected -= weight * (softened * np.log(answer)).sum(axis=1)
        truths.append(truth)
        answers.append(answer)
    joined = [np.concatenate(x, axis=1).astype(np.float32) for x in (truths, answers)]
    loss = build_loss(2, ("age", "race"), smoothing)(*joined)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-4)
    for block, answer in zip(split_columns(joined[1], 2, ("age", "race")), answers, strict=True):
        np.testing.assert_allclose(block, answer, rtol=1e-6)


def test_the_accuracy_is_of_the_class_alone():
    y_true = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], np.float32)
    y_pred = np.array([[0.9, 0.1, 1, 0], [0.6, 0.4, 0, 1]], np.float32)
    right = keras.ops.convert_to_numpy(build_accuracy(2)(y_true, y_pred))
    assert right.tolist() == [1, 0]


def test_further_outputs_come_after_the_class():
    model = build(GENDER)
    wider, kept = add_outputs(model, ("age", "race"))
    assert kept is model, "age and race are not kept"
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype(np.float32)
    answers = wider(images, training=False).numpy()
    assert answers.shape == (3, 13)
    np.testing.assert_allclose(answers[:, :2], model(images, training=False).numpy(), atol=1e-6)
    for block in (answers[:, :2], answers[:, 2:8], answers[:, 8:]):
        np.testing.assert_allclose(block.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_run_told_more_keeps_the_class_alone(prepared_workspace, bfloat16, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: 2 * bfloat16)
    run = train_recipe(TOLD, "told")
    model = run.load_model()
    assert model.output_shape == (None, 2)
    assert not {"age", "race", "age_logits"} & {layer.name for layer in model.layers}
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert run.facts["parameters"] == [*count_parameters(build(GENDER))]
    images, y_true, _ = load_split("utkface", "valid", run.contract.face_input)
    stored_true, stored = run.predictions("valid")
    np.testing.assert_array_equal(stored_true, y_true)
    np.testing.assert_allclose(stored, model(images.astype(np.float32)).numpy(), atol=1e-5)
    made_of = run.facts["made_of"]
    kinds = {line.partition("(")[0] for line in made_of["network"]}
    assert "BatchNormalization" in kinds and "FusedBatchNormalization" not in kinds
    assert ("mixed_bfloat16" in made_of["precision"]) == bfloat16
    assert made_of["batches"]["labels"] == "classes with age, race"
    # What was begun goes on, though the clock says otherwise on another day.
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: 2 - 2 * bfloat16)
    assert train_recipe(TOLD, "told") == run and len(load_runs(config.RUNS_DIR)[0]) == 1


def test_what_was_begun_goes_on_in_its_precision(
    prepared_workspace, handed_over, monkeypatch, capsys
):
    for begun, gain in (("float32", 2), ("mixed_bfloat16", 0)):
        write_json(config.RUNS_DIR / begun / "run.json", {"made_of": {"precision": begun}})
        monkeypatch.setattr(precision, "bfloat16_gain", lambda gain=gain: gain)
        train_recipe(SMALL, begun)
        assert f"{begun}: computes in {begun} on the processor" in capsys.readouterr().out


def test_a_gpu_without_bfloat16_trains_in_float16(prepared_workspace, monkeypatch, capsys):
    """There is none in a test: what it says of itself is a stand-in, the processor computes."""
    facts = {"device_name": "Tesla T4", "compute_capability": (7, 5)}
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: facts)
    optimizers, train_as_ever = [], recipes.train

    def recorded(model, *arguments, **settings):
        optimizers.append(model.optimizer)
        return train_as_ever(model, *arguments, **settings)

    monkeypatch.setattr(recipes, "train", recorded)
    run = train_recipe(replace(TOLD, epochs=4, ema=0.5), "half")
    assert "half: computes in mixed_float16 on a GPU of compute capability 7.5" in (
        capsys.readouterr().out
    )
    assert "mixed_float16" in run.facts["made_of"]["precision"]
    assert run.facts["made_of"]["optimizer"]["class"] == "Adam", "as of a run in float32"
    (optimizer,) = optimizers
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert optimizer.iterations > 0 and np.isfinite(run.history["loss"]).all()
    model = run.load_model()
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    images, _, _ = load_split("utkface", "valid", run.contract.face_input)
    answers = model(images.astype(np.float32)).numpy()
    np.testing.assert_allclose(run.predictions("valid")[1], answers, atol=1e-5)


def test_people_s_votes_are_an_answer_of_their_own(told_run):
    run = told_run("votes")
    batches, model = load_batches("fer2013", "valid", SMALL.face_input), run.load_model()
    images = batches.images.astype(np.float32)
    answers = [x.numpy() for x in model(images, training=False)]
    for output, expected in zip(("", "votes"), answers, strict=True):
        np.testing.assert_allclose(run.predictions("valid", output=output)[1], expected, atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    averaged = np.mean([model(x.astype(np.float32))[1].numpy() for x in views(images)], axis=0)
    stored = run.predictions("valid", averaged=True, output="votes")[1]
    np.testing.assert_allclose(stored, averaged, atol=1e-5)
    # Learned are both: the label, and what at least two people say.
    labels = add_labels(batches, ("votes",)).labels
    np.testing.assert_array_equal(labels[:, :7], batches.labels)
    for row, votes in zip(labels[:, 7:], load_votes("valid"), strict=True):
        counted = votes * (votes > 1)
        if counted.any():
            np.testing.assert_allclose(row, counted / counted.sum(), atol=1e-6)


def test_years_are_learned_as_a_distribution_and_kept(told_run):
    run = told_run("years")
    batches = load_batches("utkface", "valid", GENDER.face_input)
    model = run.load_model()
    answers = model.predict(batches.images.astype(np.float32), verbose=0)
    assert [x.shape[1] for x in answers] == [2, 101]
    assert not any("race" in layer.name for layer in model.layers)
    for output, expected in zip(("", "years"), answers):
        np.testing.assert_allclose(run.predictions("valid", output=output)[1], expected, atol=1e-5)
    batches = gender_batches()
    wider = add_labels(batches, ("years", "race")).labels
    assert wider.shape[1] == 2 + 101 + 5
    ages = rows_of(batches.prepared, "train")["age"].clip(upper=100)
    assert ages.min() < 6 and ages.max() > 80
    for age, label in zip(ages, wider[:, 2:103], strict=True):
        expected = norm.pdf(np.arange(101), age, 2)
        np.testing.assert_allclose(label, expected / expected.sum(), atol=1e-6)
        if 8 <= age <= 92:
            assert label @ np.arange(101) == pytest.approx(age, abs=0.01)


# How a model is compiled


def test_the_defaults_are_the_report_s(prepared_workspace, handed_over):
    train_recipe(Recipe("fer2013", "six_conv", epochs=3), "report")
    (call,) = handed_over
    assert isinstance(call.model.optimizer, keras.optimizers.Adam)
    assert float(call.model.optimizer.learning_rate) == pytest.approx(1e-4)
    assert call.model.loss == "categorical_crossentropy" and call.epochs == 3
    assert (call.train.batch_size, call.train.augmentation, call.train.mixup) == (70, "flip", 0)
    assert call.class_weight is None and not call.callbacks and not call.average_views


def test_the_rate_falls_to_zero_at_the_last_step(prepared_workspace, handed_over):
    recipe = replace(SMALL, epochs=4, schedule="cosine", learning_rate=0.1, optimizer="sgd")
    train_recipe(recipe, "cosine")  # 36 images in batches of 16: three steps an epoch
    optimizer = handed_over[0].model.optimizer
    for step, rate in ((0, 0.1), (6, 0.05), (12, 0)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-8)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weights_decay_in_kernels_alone(optimizer):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(7), keras.layers.BatchNormalization()]
    )
    compile_model(model, replace(SMALL, optimizer=optimizer, weight_decay=0.5), steps=1)
    before = [weights.numpy() + 1 for weights in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, before):
        variable.assign(value)
    nothing = [tf.zeros_like(value) for value in before]
    model.optimizer.apply(nothing, model.trainable_variables)
    shares = [
        float(np.mean(variable.numpy() / old))
        for variable, old in zip(model.trainable_variables, before)
    ]
    assert [variable.name for variable in model.trainable_variables] == [
        "kernel", "bias", "gamma", "beta",
    ]  # fmt: skip
    assert shares == pytest.approx([1 - 0.01 * 0.5, 1, 1, 1])


def test_labels_are_softened():
    model = build(SMALL)
    compile_model(model, replace(SMALL, label_smoothing=0.1), steps=1)
    answer = np.full((1, 7), 0.05, np.float32)
    answer[0, 2] = 0.7
    loss = float(model.loss(np.eye(7, dtype=np.float32)[[2]], answer))
    softened = 0.9 * np.eye(7)[2] + 0.1 / 7
    assert loss == pytest.approx(-(softened * np.log(answer[0])).sum(), rel=1e-5)


def test_balanced_weights_are_inverse_frequencies(prepared_workspace, handed_over):
    few = replace(SMALL, class_names=("happy", "sad"), class_weight="balanced")
    labels = load_prepared("fer2013").labels.query("split == 'train'")["label"].value_counts()
    train_recipe(few, "balanced")
    n = labels["happy"] + labels["sad"]
    expected = {0: n / 2 / labels["happy"], 1: n / 2 / labels["sad"]}
    assert handed_over[0].class_weight == pytest.approx(expected)


def test_the_average_of_the_weights_is_kept(prepared_workspace, handed_over):
    steps = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([w.numpy() for w in self.model.trainable_weights])

    train_recipe(replace(SMALL, epochs=2, ema=0.9), "averaged")
    (call,) = handed_over
    run = train(call.model, "averaged", call.train, call.valid, 2, callbacks=[Record()])
    average = steps[0]
    for weights in steps[1:]:
        average = [0.9 * a + 0.1 * w for a, w in zip(average, weights, strict=True)]
    kept = [w.numpy() for w in run.load_model().trainable_weights]
    for ours, expected in zip(kept, average, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(kept, steps[-1]))


# Batch normalisation


def renew_statistics(model, batches):
    """As at the end of a training on these batches."""
    callback = RenewStatistics(SimpleNamespace(dataset=lambda: batches))
    callback.set_model(model)
    callback.on_train_end()


def test_statistics_are_those_of_all_batches():
    model = BUILDERS["compact"]((8, 8, 1), 7, widths=[8], normalize_images=False)
    before = [weights.copy() for weights in model.get_weights()]
    noise = np.random.default_rng(1)
    batches = [(noise.uniform(0, 255, (5, 8, 8, 1)).astype(np.float32), None) for _ in range(3)]
    renew_statistics(model, batches)

    convolution, first = model.layers[2:4]
    inputs = [convolution(images / 255).numpy() for images, _ in batches]
    means = [x.mean(axis=(0, 1, 2)) for x in inputs]
    variances = [x.var(axis=(0, 1, 2)) for x in inputs]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, np.mean(variances, axis=0), rtol=1e-4)
    assert first.momentum == 0.99
    trained = [id(weights) for weights in model.trainable_weights]
    for weights, old in zip(model.weights, before):
        if id(weights) in trained:
            np.testing.assert_array_equal(weights, old)


def test_statistics_are_measured_without_dropout():
    def of(rate):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dropout(rate),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
            ]
        )

    images = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    models = [of(rate) for rate in (0.0, 0.5)]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        renew_statistics(model, [(images, None)])
    for one, other in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert models[1].layers[0].rate == 0.5


def test_renewed_statistics_leave_what_was_learned(prepared_workspace, monkeypatch):
    recipe = replace(SMALL, augmentation="strong", mixup=0.2)
    plain = train_recipe(recipe, "plain").load_model()
    seen = []

    class Renew(RenewStatistics):
        def on_train_end(self, logs=None):
            seen.append(np.concatenate([images for images, _ in self.batches.dataset()]))
            super().on_train_end(logs)

    monkeypatch.setattr(recipes, "RenewStatistics", Renew)
    renewed = train_recipe(replace(recipe, renew_statistics=True), "renewed").load_model()
    for one, other in zip(plain.trainable_weights, renewed.trainable_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(plain.non_trainable_weights, renewed.non_trainable_weights, strict=True):
        assert not np.allclose(one, other)

    images, _, _ = load_split("fer2013", "train", SMALL.face_input)
    known = {each.tobytes() for each in (*images, *images[:, :, ::-1])}
    assert len(seen) == 1 and len(seen[0]) == len(images)
    assert all(each.astype(np.uint8).tobytes() in known for each in seen[0])


# Labels of others, weights of others


def ship_untrained(name, seed=0, recipe=SMALL):
    """A network of ours with weights that float16 can hold, so that answers compare exactly."""
    keras.utils.set_random_seed(seed)
    model = build(recipe)
    model.set_weights([w.astype(np.float16).astype(np.float32) for w in model.get_weights()])
    contract = ModelContract(
        recipe.architecture, recipe.arguments, recipe.classes, recipe.face_input, "nothing"
    )
    save_network(model, contract, config.PRETRAINED_DIR / f"{name}.npz")
    return model


def test_teachers_give_half_of_each_label(prepared_workspace, handed_over, capsys):
    larger = replace(SMALL, height=24, width=24)
    teachers = [ship_untrained("one", seed=1), ship_untrained("two", seed=2, recipe=larger)]
    taught = replace(SMALL, teachers=("one", "two"))
    train_recipe(taught, "taught")
    (call,) = handed_over
    assert "asking one and two" in capsys.readouterr().out
    seen = [load_batches("fer2013", "train", x.face_input).images for x in (SMALL, larger)]
    for row in (5, 30):
        answers = [
            model(view.astype(np.float32), training=False).numpy()[0]
            for model, images in zip(teachers, seen)
            for view in views(images[row : row + 1])
        ]
        expected = np.sum(answers, axis=0) / 20 / 2
        expected[call.train.y_true[row]] += 0.5
        np.testing.assert_allclose(call.train.labels[row], expected, atol=1e-6)
    assert call.train.made_of["labels"] == "classes and one and two"
    np.testing.assert_array_equal(call.valid.labels, np.eye(7)[call.valid.y_true])
    # A training that goes on does not ask them again, one with another teacher does.
    train_recipe(taught, "taught")
    assert "asking" not in capsys.readouterr().out
    np.testing.assert_array_equal(handed_over[1].train.labels, call.train.labels)
    ship_untrained("two", seed=3)
    train_recipe(taught, "taught")
    assert np.abs(handed_over[2].train.labels - call.train.labels).max() > 1e-3


def test_patient_teachers_see_what_the_network_sees(prepared_workspace, handed_over):
    larger = replace(SMALL, height=24, width=24)
    teachers = [ship_untrained("one", seed=1), ship_untrained("two", seed=2, recipe=larger)]
    changes = {"teachers": ("one", "two"), "patient": True, "augmentation": "strong"}
    train_recipe(replace(SMALL, auxiliary=("votes",), **changes), "taught")
    (call,) = handed_over
    seen = set()
    for images, labels in call.train.dataset():
        sizes = (images, tf.image.resize(images, (24, 24)))
        answers = sum(model(x, training=False).numpy() for model, x in zip(teachers, sizes)) / 2
        own = 2 * labels[:, :7].numpy() - answers
        np.testing.assert_allclose(np.sort(own, axis=1), [[0] * 6 + [1]] * len(own), atol=1e-5)
        np.testing.assert_allclose(labels[:, 7:].numpy().sum(axis=1), 1, atol=1e-5)
        seen |= {image.tobytes() for image in images.numpy()}
    assert not seen & {x.tobytes() for x in call.train.images.astype(np.float32)}
    assert call.train.made_of["labels"] == "classes and one and two, patient with votes"
    images, labels = next(iter(call.valid.dataset()))
    assert set(np.unique(labels[:, :7])) == {0, 1}, "validation has its own labels"


def test_a_finished_run_teaches_where_nothing_is_shipped_by_its_name(small_run, capsys):
    batches = load_batches("fer2013", "train", small_run.contract.face_input)
    answers = ask_teachers(["small"], batches)
    model = small_run.load_model()
    images = batches.images.astype(np.float32)
    expected = np.mean([model(x).numpy() for x in views(images)], axis=0)
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    # Ours come first: their files are in git, a run's are not.
    shipped = ship_untrained("small")
    batches = load_batches("fer2013", "train", SMALL.face_input)
    answers = ask_teachers(["small"], batches)
    images = batches.images.astype(np.float32)
    expected = np.mean([shipped(x, training=False).numpy() for x in views(images)], axis=0)
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_teachers_of_something_else_are_refused(prepared_workspace, handed_over):
    ship_untrained("five", recipe=replace(SMALL, class_names=FIVE_EMOTIONS))
    ship_untrained("colour", recipe=replace(SMALL, colour="rgb"))
    ship_untrained("gender", recipe=GENDER)
    with pytest.raises(ValueError, match="teacher five has the classes .* expected"):
        train_recipe(replace(SMALL, teachers=("five",)), "taught")
    with pytest.raises(ValueError, match="teacher colour sees grey_as_rgb images, expected grey"):
        train_recipe(replace(SMALL, teachers=("colour",), patient=True), "taught")
    with pytest.raises(FileNotFoundError, match="no finished run 'none'"):
        train_recipe(replace(SMALL, teachers=("none",)), "taught")
    # Trained on another split, it may know the test images.
    prepare_report_split()
    on_the_report_s = replace(GENDER, split_name="report", teachers=("gender",))
    with pytest.raises(ValueError, match="learned on the split 'default'"):
        train_recipe(on_the_report_s, "taught")
    assert not handed_over and not (config.output_dir("fer2013") / "answers").exists()


def test_a_run_on_another_split_is_no_teacher_shipped_or_not(small_run):
    facts = small_run.facts
    facts["made_of"]["batches"]["split_name"] = "report"
    write_json(small_run.folder / "run.json", facts)
    batches = load_batches("fer2013", "train", small_run.contract.face_input)
    with pytest.raises(ValueError, match="small learned on the split 'report'"):
        ask_teachers(["small"], batches)
    save_network(small_run.load_model(), small_run.contract, small_run.folder / SHIPPED_NAME)
    with pytest.raises(ValueError, match="small learned on the split 'report'"):
        ask_teachers(["small"], batches)


def test_people_s_votes_are_what_is_learned(prepared_workspace, handed_over, capsys):
    train_recipe(replace(SMALL, labels="ferplus"), "voted")
    (call,) = handed_over
    expected, num_without = soften(load_votes("train"), call.train.y_true)
    np.testing.assert_allclose(call.train.labels, expected)
    assert f"{num_without} images without a vote" in capsys.readouterr().out
    shares = np.sort(call.train.labels, axis=1)
    assert ((shares[:, -1] < 1) & (shares[:, -1] > 0.2)).any(), "no image with several answers"
    np.testing.assert_array_equal(call.valid.labels, np.eye(7)[call.valid.y_true])
    assert call.train.made_of["labels"] == "votes"


def test_training_goes_on_from_shipped_weights(prepared_workspace, handed_over):
    shipped = ship_untrained("begun", seed=1)
    begun = {"initial_weights": "begun", "teachers": ("begun",), "arguments": {"widths": (8,)}}
    train_recipe(replace(SMALL, height=20, width=20, **begun), "gone_on")  # larger images
    (call,) = handed_over
    for one, other in zip(shipped.get_weights(), call.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (call.train.labels.max(axis=1) < 1).all()
    assert call.train.made_of["labels"] == "classes and begun, going on from begun"


def test_initial_weights_of_another_network_are_refused(workspace):
    ship_untrained("five", recipe=replace(SMALL, class_names=FIVE_EMOTIONS))
    ship_untrained("wider", recipe=replace(SMALL, arguments={"widths": [16]}))
    ship_untrained("colour", recipe=replace(SMALL, colour="rgb"))
    for name in ("five", "wider", "colour"):
        with pytest.raises(ValueError, match=f"{name} sees other colours, .* cannot go on"):
            build(replace(SMALL, initial_weights=name))
    with pytest.raises(FileNotFoundError, match="no network 'none', there are colour, five"):
        build(replace(SMALL, initial_weights="none"))


# Our runs


def built_as(recipe):
    """What decides the network of a recipe; its ImageNet weights are left out."""
    imagenet = {"weights": None} if recipe.architecture == "mobilenet" else {}
    return replace(recipe, arguments=recipe.arguments | imagenet, initial_weights="")


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"auxiliary": ("age", "votes")}, "no labels for age"),
        ({"labels": "ferplus", "class_names": FIVE_EMOTIONS}, "5 classes has no labels for votes"),
        ({"auxiliary": ("votes",), "architecture": "final"}, "'final' takes no further outputs"),
        ({"auxiliary": ("votes",), "class_weight": "balanced"}, "goes with one output"),
        ({"split_name": "report"}, "fer2013 has no split 'report'"),
    ],
)
def test_labels_that_the_data_lack_are_refused(workspace, changes, missing):
    with pytest.raises(ValueError, match=missing):
        train_recipe(replace(SMALL, **changes), "asked_too_much")


def test_every_reference_has_a_recipe_that_makes_what_it_is_made_of():
    finished, unfinished = load_runs(config.REFERENCE_DIR)
    assert len(finished) > 40 and not unfinished
    networks = {}
    for name, run in finished.items():
        recipe, made_of = Recipe.of_reference(run), run.facts["made_of"]
        key = str((recipe.architecture, recipe.arguments, recipe.face_input, recipe.classes))
        model = keep = networks.setdefault(key, None) or build(built_as(recipe))
        networks[key] = keep
        if recipe.auxiliary:
            model, keep = add_outputs(keep, recipe.auxiliary)
        assert run.facts["parameters"] == [*count_parameters(keep)], name
        compile_model(model, recipe, steps=1)
        described = describe(model) | {"epochs": recipe.epochs}
        known = {key: made_of[key] for key in described}
        # Weights of classes and callbacks need the images.
        besides = (*DEPENDS_ON_COPY, "class_weight", "callbacks")
        if recipe.auxiliary:
            besides += ("loss",)  # a function of ours, told by a checksum of its code
        assert differences(known, described, besides) == [], name
        assert (made_of["class_weight"] is not None) == (recipe.class_weight == "balanced"), name
        callbacks = ["RenewStatistics()"] if recipe.renew_statistics else []
        assert made_of["callbacks"] == callbacks, name
        batches = made_of["batches"]
        assert batches["classes"] == [*recipe.classes] and run.epochs == recipe.epochs, name
        assert batches["input"] == asdict(recipe.face_input), name
        for setting in ("dataset", "split_name", "batch_size", "augmentation", "mixup", "seed"):
            assert batches[setting] == getattr(recipe, setting), name
        for other in (*recipe.teachers, recipe.initial_weights):
            assert other in batches["labels"] and (not other or other in finished), name


def write_reference(name, content):
    folder = config.REFERENCE_DIR / name
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"finished": "2026-11-28", "recipe": content})
    return Run(folder)


def test_runs_without_a_recipe_are_said(workspace):
    for name, content in (("yours", None), ("later", {"dataset": "fer2013", "layers": 3})):
        with pytest.raises(ValueError, match="holds no recipe, expected one of ours"):
            Recipe.of_reference(write_reference(name, content))


def test_the_command_trains_a_reference_s_recipe_as_yours(prepared_workspace, monkeypatch, capsys):
    recipe = {key: value for key, value in asdict(SMALL).items() if key != "seed"}
    ours = write_reference("small", recipe)
    before = sha256_of(ours.folder / "run.json")
    options = ["--epochs", "2", "--seed", "7", "--set", "batch_size=9"]
    assert command.main(["small", "--as", "mine", *options]) == 0
    run = Run(config.RUNS_DIR / "mine")
    printed = capsys.readouterr().out
    assert f"run: {run.folder}" in printed and "full data (fer2013)" in printed
    assert run.is_finished and run.epochs == 2
    batches = run.facts["made_of"]["batches"]
    assert (batches["seed"], batches["batch_size"]) == (7, 9)
    assert run.facts["made_of"]["network"] == describe_network(SMALL)
    calls = []
    monkeypatch.setattr(command, "train_recipe", lambda *x: calls.append(x) or run)
    assert command.main(["small"]) == 0
    assert calls == [(Recipe.of_reference(ours), "small")] and calls[0][0].epochs == 1
    assert sha256_of(ours.folder / "run.json") == before
    with pytest.raises(SystemExit) as stop:
        command.main(["none"])
    assert stop.value.code == 2 and "small" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "one of small" in capsys.readouterr().out


def test_any_plain_field_is_set_by_a_text_of_its_type(workspace, capsys):
    settings = ("learning_rate=0.02", "optimizer=sgd", "patient=true", "teachers=a,b", "epochs=3")
    settings += ("arguments.widths=8,16", "arguments.dropout=0.5", "arguments.squeeze=false")
    expected = {"learning_rate": 0.02, "optimizer": "sgd", "patient": True, "teachers": ("a", "b")}
    arguments = {"widths": (8, 16), "dropout": 0.5, "squeeze": False}
    assert set_fields(SMALL, settings) == replace(SMALL, **expected, epochs=3, arguments=arguments)
    # Another architecture begins with its own defaults, and has arguments of its own.
    final = set_fields(SMALL, ["architecture=final", "arguments.dense_dropout=0.1,0.2,0"])
    assert (final.architecture, final.arguments) == ("final", {"dense_dropout": (0.1, 0.2, 0)})
    assert set_fields(replace(SMALL, teachers=("a",)), ["teachers="]).teachers == ()
    scaled = set_fields(SMALL, ["architecture=mobilenet", "arguments.scaled_to=-1,0"])
    assert scaled.arguments == {"scaled_to": (-1, 0)}

    write_reference("small", asdict(SMALL))
    for setting, said in (
        ("depth=3", "'depth' is nothing that can be set for .*'compact'.*mixup.*arguments.widths"),
        ("arguments.l2=0", "'arguments.l2' is nothing that can be set"),
        ("arguments=x", "'arguments' is nothing that can be set"),
        ("learning_rate=fast", "learning_rate cannot be 'fast', expected a number"),
        ("learning_rate", "learning_rate cannot be '', expected a number"),
        ("learning_rate=nan", "learning_rate cannot be nan, expected 0 or more"),
        ("batch_size=0", "batch_size cannot be 0, expected 1 or more"),
        ("arguments.widths=8,x", "arguments.widths cannot be 'x', expected a whole number"),
        ("optimizer=rmsprop", "optimizer cannot be 'rmsprop', expected one of adam, sgd"),
        ("epochs=0", "epochs cannot be 0, expected 1 or more"),
        ("arguments.dropout=1", "arguments.dropout cannot be 1, expected 0 or more and less than"),
        ("arguments.widths=8,0", "arguments.widths cannot be 8,0, expected 1 or more"),
        ("seed=4294967296", "seed cannot be 4294967296, expected 0 or more and less than"),
        ("arguments.widths=", "arguments.widths cannot be empty"),
        ("patient=yes", "patient cannot be 'yes', expected one of false, true"),
        ("auxiliary=age,sex", "auxiliary cannot be 'sex', expected one of age, race, votes"),
    ):
        assert command.main(["small", "--set", setting]) == 1
        assert re.search(said, capsys.readouterr().err), setting
    assert not config.RUNS_DIR.exists()


def describe_network(recipe):
    model = build(recipe)
    compile_model(model, recipe, steps=1)
    return describe(model)["network"]


def test_the_command_does_not_train_on_the_sample_unasked(workspace, monkeypatch, capsys):
    write_reference("small", asdict(SMALL))
    monkeypatch.delenv("FACELAB_SAMPLE")
    assert command.main(["small"]) == 1
    assert "there is no full fer2013" in capsys.readouterr().err
    monkeypatch.setenv("FACELAB_SAMPLE", "0")
    assert command.main(["small"]) == 1
    assert "error: " in capsys.readouterr().err
    assert not config.RUNS_DIR.exists()


def test_grey_and_colour_follow_the_data():
    assert SMALL.face_input == face_input_for("fer2013", 16, 16, "grey")
    assert replace(SMALL, colour="rgb").face_input.colour == "grey_as_rgb"
    assert GENDER.face_input.colour == "rgb" and GENDER.classes == ("female", "male")
