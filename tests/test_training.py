import json
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_ins import keep_the_scale

from utils import config, training
from utils.data import FIVE_EMOTIONS, face_input_for, load_split
from utils.evaluation import evaluate
from utils.files import sha256_of, write_json
from utils.models import build, save_pretrained
from utils.normalization import renew_statistics
from utils.pipeline import views
from utils.training import RunSpec, tabulate, train

SMALL = RunSpec(
    "small", "fer2013", "compact", epochs=3, arguments={"widths": [8, 16]}, batch_size=16
)
ONE_DEVICE = tf.distribute.get_strategy()
GREY = face_input_for("fer2013", 48, 48, "grey")


class StopAfter(keras.callbacks.Callback):
    """Ends the process' training as Ctrl-C does."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            raise KeyboardInterrupt


def test_a_finished_run_is_whole_and_is_loaded_again(prepared_workspace, monkeypatch):
    run = train(replace(SMALL, evaluate_at=(1,)))
    assert run.folder == prepared_workspace / "outputs" / "runs" / "small"
    assert run.history.index.tolist() == [1, 2, 3]
    metrics = run.metrics
    assert metrics["valid"]["n"] == 14 and metrics["test"]["n"] == 15
    assert metrics["train_images"] == 36 and metrics["precision"] == "float32"
    assert metrics["devices"] == 1 and metrics["data"]["test"]["images"] == 15
    assert metrics["resumed_after"] == []
    assert metrics["wall_seconds"] > 0 and metrics["versions"]["keras"] == keras.__version__

    # Keras scored epoch 1 by itself: the snapshot must be that network.
    logged = run.history["val_accuracy"]
    for epoch in (1, 3):
        assert run.scores(epoch, "valid")["accuracy"] == pytest.approx(logged[epoch], abs=1e-6)
    assert run.scores(2, "valid") is None

    images, y_true, _ = load_split("fer2013", "test", GREY)
    probabilities = run.load_model()(images.astype(np.float32), training=False).numpy()
    assert run.spec.contract.face_input == GREY
    stored_true, stored_probabilities = run.predictions("test")
    np.testing.assert_array_equal(stored_true, y_true)
    np.testing.assert_allclose(stored_probabilities, probabilities, atol=1e-6)
    assert evaluate(y_true, probabilities) == metrics["test"]

    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "spec.json", "history.csv", "metrics.json", "predictions.npz", "contract.json",
        "model.keras", "architecture.json", "model.weights.h5",
    }  # fmt: skip

    # The stored spec trains again, from the command line, to the same figures.
    training.main(["small", "--as", "again"])
    again = training.Run(run.folder.with_name("again"), SMALL)
    assert again.metrics["valid"] == pytest.approx(metrics["valid"], abs=1e-6)

    monkeypatch.setattr(training, "_load", None)
    assert train(replace(SMALL, evaluate_at=(1,))).metrics == metrics
    relabelled = prepared_workspace / "data" / "fer2013" / "labels.csv"
    relabelled.write_text(relabelled.read_text().replace("valid", "test"))
    with pytest.raises(ValueError, match="other images or splits"):
        train(replace(SMALL, evaluate_at=(1,)))
    row = tabulate([run]).loc["small"]
    assert row["validation"] == metrics["valid"]["accuracy"] and row["n"] == 15
    assert row["minutes"] == pytest.approx(run.history["seconds"].sum() / 60, abs=1e-2)


@pytest.mark.parametrize("before_backup", [False, True])
def test_an_interrupted_run_goes_on_from_its_last_epoch(
    prepared_workspace, monkeypatch, before_backup
):
    callbacks = training._callbacks

    def interrupted(folder, spec):
        ours = callbacks(folder, spec)
        ours.insert(-1 if before_backup else len(ours), StopAfter(2))
        return ours

    first_batches, batches = [], training._batches

    def recorded(spec, images, y_true, training=False):
        if training:
            first_batches.append(next(iter(batches(spec, images, y_true, training)))[0])
        return batches(spec, images, y_true, training)

    monkeypatch.setattr(training, "_batches", recorded)
    monkeypatch.setattr(training, "_callbacks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL)
    folder = config.output_dir("fer2013") / "runs" / "small"
    assert not (folder / "metrics.json").exists()
    first_lines = (folder / "history.csv").read_text().splitlines()

    epochs = []
    counting = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epochs.append(epoch))
    monkeypatch.setattr(training, "_callbacks", lambda f, s: [*callbacks(f, s), counting])
    run = train(SMALL)
    assert epochs == ([1, 2] if before_backup else [2])
    assert run.metrics["resumed_after"] == [2]
    begun, gone_on = first_batches
    assert not np.array_equal(begun, gone_on), "the first epochs' order and changes come back"
    assert run.history.index.tolist() == [1, 2, 3]
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[: len(first_lines)] == first_lines
    assert not (folder / "backup").exists()


def test_a_run_interrupted_while_it_is_scored_trains_no_epoch_again(
    prepared_workspace, monkeypatch
):
    def interrupted(y_true, probabilities):
        raise KeyboardInterrupt

    spec = replace(SMALL, epochs=2)
    monkeypatch.setattr(training, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(spec)
    monkeypatch.setattr(training, "evaluate", evaluate)
    before = (config.runs_dir("fer2013") / "small" / "history.csv").read_text()
    run = train(spec)
    assert (run.folder / "history.csv").read_text() == before
    assert run.metrics["resumed_after"] == []
    assert run.metrics["valid"]["accuracy"] == pytest.approx(run.history["val_accuracy"][2])


def write_weights_that_keep_the_scale():
    source = keras.applications.MobileNet(include_top=False, pooling="avg", weights=None)
    keep_the_scale(source)
    weights = ((layer.name, weight) for layer in source.layers for weight in layer.weights)
    arrays = {f"{name}__{weight.name}": weight.numpy() for name, weight in weights}
    np.savez(config.imagenet_path(), **arrays)


def test_frozen_layers_computed_once_train_as_computed_each_time(prepared_workspace, monkeypatch):
    # As float16 the outputs differ in the fourth digit, which is much after six small steps.
    monkeypatch.setattr(training, "FEATURE_DTYPE", np.float32)
    write_weights_that_keep_the_scale()
    spec = RunSpec(
        "once", "fer2013", "mobilenet", 2, colour="rgb", batch_size=16,
        augmentation="none", optimizer="sgd", learning_rate=1e-4, evaluate_at=(1,),
    )  # fmt: skip
    once = train(spec)
    assert not list(once.folder.glob("features*"))
    metrics = once.metrics
    assert metrics["frozen_seconds"] > 0
    epochs = once.history["seconds"].sum()
    assert metrics["wall_seconds"] == pytest.approx(epochs + metrics["frozen_seconds"], abs=0.1)
    calls = []
    monkeypatch.setattr(training, "split_frozen", lambda model: calls.append(1) or (None, model))
    each_time = train(replace(spec, name="each_time"))
    assert calls
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(once.history[name], each_time.history[name], rtol=1e-3)
    for epoch in (1, 2):
        logged = once.history["val_accuracy"][epoch]
        assert once.scores(epoch, "valid")["accuracy"] == pytest.approx(logged, abs=1e-6)
    keras.utils.set_random_seed(spec.seed)
    start, *ends = (
        np.concatenate([w.numpy().ravel() for w in model.trainable_weights])
        for model in (build(spec.contract), once.load_model(), each_time.load_model())
    )
    assert np.linalg.norm(ends[0] - ends[1]) < 0.02 * np.linalg.norm(ends[0] - start)
    assert once.history["loss"].nunique() == 2, "nothing was learned, so nothing was compared"


def test_the_average_of_the_weights_is_kept(prepared_workspace, monkeypatch):
    steps = []
    callbacks = training._callbacks

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([w.numpy() for w in self.model.trainable_weights])

    monkeypatch.setattr(training, "_callbacks", lambda f, s: [*callbacks(f, s), Record()])
    run = train(replace(SMALL, epochs=2, ema=0.9))
    average = steps[0]
    for weights in steps[1:]:
        average = [0.9 * a + 0.1 * w for a, w in zip(average, weights, strict=True)]
    kept = [w.numpy() for w in run.load_model().trainable_weights]
    for ours, expected in zip(kept, average, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(kept, steps[-1]))


def test_several_views_of_each_image_are_averaged(prepared_workspace):
    run = train(replace(SMALL, epochs=1, average_views=True))
    images, y_true, _ = load_split("fer2013", "test", GREY)
    model = run.load_model()
    first, mirrored = (
        model.predict(np.ascontiguousarray(view), verbose=0)
        for view in (images, images[:, :, ::-1])
    )
    _, single = run.predictions("test")
    _, averaged = run.predictions("test", averaged=True)
    np.testing.assert_allclose(single, first, atol=1e-5)
    rest = 10 * averaged - first - mirrored  # the eight moved views
    np.testing.assert_allclose(rest.sum(axis=1), 8, atol=1e-3)
    assert np.abs(averaged - first).max() > 1e-5
    assert run.metrics["test_averaged"] == evaluate(y_true, averaged)


def test_balanced_class_weights_are_inverse_frequencies():
    y_true = np.array([0, 0, 0, 1, 2, 2])
    spec = replace(SMALL, class_weight="balanced")
    expected = {0: 6 / 3 / 3, 1: 6 / 3 / 1, 2: 6 / 3 / 2}
    assert training._class_weight(spec, y_true) == pytest.approx(expected)
    assert training._class_weight(spec, np.eye(3)[y_true]) == pytest.approx(expected)
    assert training._class_weight(SMALL, y_true) is None


def test_another_spec_of_the_same_name_is_refused(workspace):
    training._claim_folder(workspace, replace(SMALL, epochs=9))
    training._refuse_another_spec(workspace, SMALL)  # nothing was trained yet
    training._claim_folder(workspace, SMALL)
    (workspace / "history.csv").touch()  # as Keras does before the first epoch
    training._refuse_another_spec(workspace, replace(SMALL, epochs=2))
    (workspace / "history.csv").write_text("epoch,accuracy\n0,0.5\n")
    training._refuse_another_spec(workspace, replace(SMALL, arguments={"widths": (8, 16)}))
    with pytest.raises(ValueError, match=r"'epochs': \(3, 2\)"):
        training._refuse_another_spec(workspace, replace(SMALL, epochs=2))


def test_the_command_does_not_train_on_the_sample_unasked(workspace, monkeypatch, capsys):
    folder = config.RUNS_DIR / "small"
    folder.mkdir(parents=True)
    training._claim_folder(folder, SMALL)
    monkeypatch.delenv("FACELAB_SAMPLE")
    assert training.main(["small", "--as", "again"]) == 1
    assert "there is no full fer2013" in capsys.readouterr().err
    monkeypatch.setenv("FACELAB_SAMPLE", "0")
    assert training.main(["small", "--as", "again"]) == 1
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in config.RUNS_DIR.iterdir()] == ["small"]


def test_what_another_spec_has_begun_is_not_used(workspace):
    training._claim_folder(workspace, SMALL)
    leftovers = [workspace / "precision.json", workspace / "features_train.npy"]
    for path in leftovers:
        path.touch()
    training._claim_folder(workspace, SMALL)
    assert all(path.exists() for path in leftovers), "an interrupted run goes on"
    training._claim_folder(workspace, replace(SMALL, height=96))
    assert not any(path.exists() for path in leftovers)


def test_without_data_no_run_is_begun(workspace):
    with pytest.raises(FileNotFoundError):
        train(SMALL)
    assert not config.runs_dir("fer2013").exists()


def test_weights_trained_in_bfloat16_are_kept_as_a_float32_model(prepared_workspace):
    run = train(replace(SMALL, epochs=1, precision="bfloat16"))
    assert run.metrics["precision"] == "bfloat16"
    model = run.load_model()
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_the_faster_precision_is_taken_once(prepared_workspace, monkeypatch, tmp_path):
    seconds = {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(training, "_time_steps", lambda spec, name: seconds[name])
    monkeypatch.setattr(training, "supports_bfloat16", lambda: True)
    assert training._decide_precision(tmp_path, SMALL, 1_000_000, ONE_DEVICE) == "bfloat16"
    seconds["bfloat16"] = 3.0
    assert training._decide_precision(tmp_path, SMALL, 1_000_000, ONE_DEVICE) == "bfloat16", (
        "run goes on"
    )
    (tmp_path / "precision.json").unlink()
    assert training._decide_precision(tmp_path, SMALL, 1_000_000, ONE_DEVICE) == "float32"
    (tmp_path / "precision.json").unlink()
    seconds.clear()  # a short run is not worth the timing
    assert training._decide_precision(tmp_path, SMALL, 100, ONE_DEVICE) == "float32"


def test_default_recipe_is_the_report_s(prepared_workspace):
    spec = RunSpec("recipe", "fer2013", "final", epochs=1)
    model = keras.Sequential([keras.layers.Dense(7)])
    training._compile(model, spec, steps=1)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
    assert isinstance(model.loss, keras.losses.CategoricalCrossentropy)
    assert (spec.batch_size, spec.evaluation_batch_size, spec.augmentation) == (70, 50, "flip")


def test_cosine_reaches_zero_at_the_last_step_and_spares_the_norms(prepared_workspace):
    spec = replace(SMALL, optimizer="sgd", schedule="cosine", learning_rate=0.1, weight_decay=1e-3)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(7), keras.layers.BatchNormalization()]
    )
    training._compile(model, spec, steps=100)
    schedule = model.optimizer._learning_rate
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(50)) == pytest.approx(0.05)
    assert float(schedule(100)) == pytest.approx(0, abs=1e-9)
    model.optimizer.build(model.trainable_variables)
    decayed = [v.name for v in model.trainable_variables if model.optimizer._use_weight_decay(v)]
    assert decayed == ["kernel"]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"dataset": "mnist"},
        {"optimizer": "lbfgs"},
        {"precision": "int8"},
        {"labels": "mine"},
        {"labels": "ferplus", "dataset": "utkface"},
        {"labels": "ferplus", "class_names": ("happy", "sad")},
        {"class_weight": "rare"},
        {"auxiliary": ("age",)},
        {"auxiliary": ("age",), "dataset": "utkface", "class_weight": "balanced"},
        {"auxiliary": ("age",), "dataset": "utkface", "architecture": "final"},
        {"teachers": ("gender_utk_64",), "dataset": "utkface", "split_name": "report"},
        {"initial_weights": "gender_utk_64", "dataset": "utkface", "split_name": "report"},
        {"auxiliary": ("height",), "dataset": "utkface"},
        {"evaluate_at": (9,)},
    ],
)
def test_impossible_specs_are_refused(change):
    with pytest.raises(ValueError, match=f"{list(change)[0]} is"):
        replace(SMALL, **change)


def test_renewed_statistics_leave_what_was_learned(prepared_workspace, monkeypatch):
    spec = replace(SMALL, epochs=1, augmentation="strong", mixup=0.2)
    plain = train(spec).load_model()
    seen = []

    def renew(model, batches):
        seen.append(np.concatenate([images for images, _ in batches]))
        renew_statistics(model, batches)

    monkeypatch.setattr(training, "renew_statistics", renew)
    renewed = train(replace(spec, name="renewed", renew_statistics=True)).load_model()
    for one, other in zip(plain.trainable_weights, renewed.trainable_weights):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(plain.non_trainable_weights, renewed.non_trainable_weights):
        assert not np.allclose(one, other)

    images = load_split("fer2013", "train", GREY)[0]
    known = {each.tobytes() for each in (*images, *images[:, :, ::-1])}
    assert len(seen[0]) == len(images)
    assert all(each.astype(np.uint8).tobytes() in known for each in seen[0])


def ship_untrained(name, seed=0, **changes):
    spec = replace(SMALL, name=name, **changes)
    keras.utils.set_random_seed(seed)
    model = build(spec.contract)
    # Shipped weights are float16: with the same here, answers can be compared exactly.
    model.set_weights([w.astype(np.float16).astype(np.float32) for w in model.get_weights()])
    save_pretrained(model, spec.contract, name)
    return model


def test_teachers_give_half_of_each_label(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    teachers = [ship_untrained("one", seed=1), ship_untrained("two", seed=2)]
    taught = replace(SMALL, teachers=("one", "two"))
    images, own = training._load(taught, "train")
    soft = training._mix_with_teachers(teachers, tmp_path, taught, images, own)
    answers = []
    for model in teachers:
        for view in views(images[5:6]):
            answers.append(model(view.astype(np.float32), training=False).numpy()[0])
    expected = np.sum(answers, axis=0) / 20 / 2
    expected[own[5]] += 0.5
    np.testing.assert_allclose(soft[5], expected, atol=1e-6)
    # A run that goes on does not ask them again.
    again = training._mix_with_teachers([], tmp_path, taught, images, own)
    np.testing.assert_array_equal(again, soft)


def test_a_teacher_of_something_else_is_refused(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    ship_untrained("five", class_names=FIVE_EMOTIONS)
    ship_untrained("colour", colour="rgb")
    for name in ("five", "colour"):
        with pytest.raises(ValueError, match=f"teacher {name} has input and classes"):
            train(replace(SMALL, teachers=(name,)))
        assert not (prepared_workspace / "outputs" / "runs" / "small").exists()


def test_a_finished_run_teaches_where_nothing_is_shipped_by_its_name(
    prepared_workspace, monkeypatch, tmp_path
):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    elder = train(replace(SMALL, name="elder", epochs=1))
    taught = replace(SMALL, name="taught", epochs=1, teachers=("elder",))
    teacher = training._load_teacher(taught, "elder")
    for one, other in zip(teacher.get_weights(), elder.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    checksum = sha256_of(elder.folder / "model.weights.h5")
    assert train(taught).metrics["teachers"] == {"elder": checksum}
    # What is shipped comes first: its file is in git, a run's is not.
    ship_untrained("elder")
    later = train(replace(taught, name="later"))
    assert later.metrics["teachers"] == {"elder": sha256_of(tmp_path / "elder.npz")}


def test_a_teacher_that_may_know_test_images_is_refused(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    taught = replace(SMALL, teachers=("elder",))
    with pytest.raises(FileNotFoundError, match="teacher elder is neither"):
        train(taught)
    folder = prepared_workspace / "outputs" / "runs" / "elder"
    write_json(folder / "spec.json", asdict(replace(SMALL, name="elder", split_name="report")))
    write_json(folder / "metrics.json", {"data": {"train": "of other images"}})
    with pytest.raises(ValueError, match="teacher elder learned on the split 'report'"):
        train(taught)
    write_json(folder / "spec.json", asdict(replace(SMALL, name="elder")))
    with pytest.raises(ValueError, match="elder is a run on other images or splits"):
        train(taught)
    assert not (folder.parent / "small").exists()


def test_training_goes_on_from_shipped_weights(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    shipped = ship_untrained("begun", seed=1)
    labels, batches = [], training._batches

    def recorded(spec, images, y_true, training=False):
        if training:
            labels.append(y_true)
        return batches(spec, images, y_true, training)

    monkeypatch.setattr(training, "_batches", recorded)
    # With a learning rate of 0 what is trained stays as it began.
    run = train(
        replace(
            SMALL, epochs=1, learning_rate=0.0, initial_weights="begun", teachers=("begun",),
            arguments={"widths": (8, 16)},
        )
    )  # fmt: skip
    for one, other in zip(
        shipped.trainable_weights, run.load_model().trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    (taught,) = labels
    assert taught.shape == (36, 7) and (taught.max(axis=1) < 1).all()
    checksums = {"begun": sha256_of(tmp_path / "begun.npz")}
    assert run.metrics["initial_weights"] == run.metrics["teachers"] == checksums


def test_initial_weights_of_another_network_are_refused(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path)
    ship_untrained("five", class_names=FIVE_EMOTIONS)
    ship_untrained("wider", arguments={"widths": [8, 32]})
    for name in ("five", "wider"):
        with pytest.raises(ValueError, match=f"initial_weights is '{name}', with architecture"):
            train(replace(SMALL, initial_weights=name))
        assert not (prepared_workspace / "outputs" / "runs" / "small").exists()


def test_spec_survives_json():
    spec = replace(
        SMALL, evaluate_at=(1, 2), class_names=("happy", "sad"), teachers=("emotion_fer",)
    )
    gender = replace(SMALL, dataset="utkface", auxiliary=("age", "race"))
    for each in (spec, gender):
        assert RunSpec.from_json(json.loads(json.dumps(each.__dict__))) == each


def test_specs_of_older_runs_are_read():
    content = json.loads(json.dumps(SMALL.__dict__))
    for name in ("teachers", "initial_weights", "auxiliary", "renew_statistics"):
        del content[name]
    assert RunSpec.from_json(content) == SMALL


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="tasks.py train"):
        training.Run(tmp_path, SMALL).load_model()
