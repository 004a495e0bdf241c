import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import filelock
import h5py
import keras
import numpy as np
import pandas as pd
import pytest
from projects import move_project
from stand_ins import TINY, Slow, sample_batches, small_network, train_small

from utils import config, training
from utils.data.batches import Batches
from utils.data.fer import prepare_fer
from utils.data.prepared import load_split
from utils.files import read_json, remove, sha256_of, write_json
from utils.preprocessing import FIVE_EMOTIONS, face_input_for
from utils.training import Run, load_run, load_runs, reference, tabulate, train

LEFT = {"run.json", "history.csv", "predictions.npz", "architecture.json", "model.weights.h5"}


class Stop(keras.callbacks.Callback):
    """Ends a training as Ctrl-C does, in the middle of an epoch; 0: never."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch  # not public: with or without an interruption it is the same run
        self._now = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if self._now == self._epoch:
            raise KeyboardInterrupt


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def names_of_runs():
    return sorted(path.name for path in config.RUNS_DIR.iterdir())


def assert_same_weights(one, other, **tolerance):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, **(tolerance or {"rtol": 0}))


def check_whole(run, epochs):
    """What must hold of every finished run."""
    assert run.is_finished and set(content_of(run.folder)) == LEFT
    assert pd.read_csv(run.folder / "history.csv")["epoch"].tolist() == [*range(epochs)]
    assert run.history.index.tolist() == [*range(1, epochs + 1)] and run.epochs == epochs
    assert run.facts["weights_sha256"] == sha256_of(run.folder / "model.weights.h5")
    # The last line is Keras' own score of the network whose predictions are kept.
    y_true, probabilities = run.predictions("valid")
    accuracy = (probabilities.argmax(axis=1) == y_true).mean()
    assert run.history["val_accuracy"][epochs] == pytest.approx(accuracy, abs=1e-6)


def test_a_finished_run_is_whole(prepared_workspace):
    model = small_network()
    start = model.get_weights()
    run = train_small("small", model, epochs=3)
    assert run.folder == prepared_workspace / "outputs" / "runs" / "small"
    check_whole(run, epochs=3)
    assert not run.is_reference and run.class_names[0] == "angry"
    assert run.history["loss"][3] < run.history["loss"][1]

    kept = run.load_model()
    assert_same_weights(model, kept)
    assert any((old != new).any() for old, new in zip(start, kept.get_weights()))
    assert run.contract.face_input == TINY
    for split, n in (("valid", 14), ("test", 15)):
        images, y_true, _ = load_split("fer2013", split, run.contract.face_input)
        expected = kept(images.astype(np.float32), training=False).numpy()
        stored_true, stored = run.predictions(split)
        np.testing.assert_array_equal(stored_true, y_true)
        np.testing.assert_allclose(stored, expected, atol=1e-6)
        row = tabulate([run], split).loc["small"]
        right = (expected.argmax(axis=1) == y_true).mean()
        assert (row["n"], row["accuracy"]) == (n, right) and row["low"] < right < row["high"]

    # 4 x 9 weights and 4 biases; 4 x 4 x 4 inputs to 7 outputs.
    assert row["parameters"] == 4 * 9 + 4 + 64 * 7 + 7 == sum(w.size for w in start)
    assert (row["epochs"], row["whose"]) == (3, "yours")
    assert row["minutes"] == pytest.approx(run.history["seconds"].sum() / 60, abs=0.06)
    facts = run.facts
    assert facts["train_images"] == facts["made_of"]["data"]["train"]["images"] == 36
    assert facts["versions"]["keras"] == keras.__version__


def test_of_two_runs_of_a_name_the_one_on_full_data_counts(small_run, tmp_path, monkeypatch):
    full, sample = tmp_path / "full", small_run.folder.parent
    shutil.copytree(small_run.folder, full / "small")
    for folders in ([full, sample], [sample, full]):
        monkeypatch.setattr(config, "runs_dirs", list(folders).copy)
        assert load_run("small").folder == folders[0] / "small"
    monkeypatch.undo()
    monkeypatch.setenv("FACELAB_SAMPLE", "1")
    (sample,) = config.runs_dirs()
    monkeypatch.delenv("FACELAB_SAMPLE")
    assert config.runs_dirs()[0] != sample, "data of one's own are full data"


def test_the_same_training_is_loaded(small_run, capsys):
    before = content_of(small_run.folder)
    model = small_network()  # built anew: its layers have other names
    run = train_small("small", model)
    assert run == small_run and content_of(run.folder) == before
    assert "small: finished before" in capsys.readouterr().out
    assert_same_weights(model, run.load_model())
    again = train_small("small", model)  # the cell is run once more
    assert again == run and names_of_runs() == ["small"]
    assert load_run("small") == run
    with pytest.raises(FileNotFoundError, match=r"'large' in .*\['small'\]"):
        load_run("large")


def test_other_epochs_make_another_run_that_begins_where_the_first_began(
    prepared_workspace, capsys
):
    model, batches = small_network(), sample_batches()
    first = train_small("small", model, 1, batches)
    kept = content_of(first.folder)
    capsys.readouterr()
    second = train_small("small", model, 2, batches)
    assert "small_2: small is another run: epochs 1, now 2\n" in capsys.readouterr().out
    check_whole(second, epochs=2)
    assert second.name == "small_2" and content_of(first.folder) == kept
    pd.testing.assert_series_equal(
        first.history.drop(columns="seconds").loc[1],
        second.history.drop(columns="seconds").loc[1],
        rtol=1e-5,
    )
    assert_same_weights(model, second.load_model())
    third = train_small("small", model, 1, batches)
    assert third == first and "small: finished before" in capsys.readouterr().out
    assert_same_weights(model, first.load_model())
    assert train_small("small", model, 2, batches) == second
    assert names_of_runs() == ["small", "small_2"]


def take_another_copy_of_the_data(workspace):
    """Without the first training image: prepared anew, as notebook 01 does it."""
    path = workspace / "data" / "raw" / "fer2013.csv"
    lines = path.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.endswith("Training"))
    path.write_text("\n".join([*lines[:first], *lines[first + 1 :], ""]))
    remove(config.prepared_dir("fer2013"))
    prepare_fer()


def test_whatever_else_changes_makes_another_run(small_run, prepared_workspace, capsys):
    kept = content_of(small_run.folder)
    take_another_copy_of_the_data(prepared_workspace)
    run = train_small("small")
    assert "small_2: small is another run: another copy of the data" in capsys.readouterr().out
    assert (run.name, run.facts["train_images"]) == ("small_2", 35)

    wider = small_network(filters=5)
    run = train_small("small", wider)
    printed = capsys.readouterr().out
    assert "small_3: small is another run" in printed and "filters=4" in printed
    assert "filters=5" in printed and run.load_model().layers[2].filters == 5

    wider.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy", metrics=["accuracy"])
    unchanged = sample_batches(augmentation="none")
    run = train_small("small", wider, batches=unchanged)
    printed = capsys.readouterr().out
    assert "augmentation flip, now none" in printed and "class Adam, now SGD" in printed
    check_whole(run, epochs=2)
    assert train_small("small", wider, batches=unchanged).name == "small_4"
    assert content_of(small_run.folder) == kept


def test_a_model_that_was_fitted_by_hand_is_another_start(small_run, capsys):
    model, (batches, valid) = small_network(), sample_batches()
    model.fit(batches.dataset(), epochs=1, shuffle=False, verbose=0)
    run = train_small("small", model, batches=(batches, valid))
    assert "steps_before 0, now 3" in capsys.readouterr().out and run.name == "small_2"


def test_a_finished_run_is_the_same_in_whatever_precision(small_run, capsys):
    facts = read_json(small_run.folder / "run.json")
    facts["made_of"]["precision"] = "mixed_bfloat16"
    write_json(small_run.folder / "run.json", facts)
    assert train_small("small") == small_run
    assert "small: finished before" in capsys.readouterr().out


def test_a_head_that_was_fitted_otherwise_is_another_start(prepared_workspace, capsys):
    batches = sample_batches()

    def fine_tuned(epochs):
        model = small_network()
        model.fit(batches[0].dataset(), epochs=epochs, shuffle=False, verbose=0)
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        return model, train_small("small", model, 1, batches)

    _, first = fine_tuned(1)
    model, second = fine_tuned(2)
    printed = capsys.readouterr().out
    assert second.name == "small_2" and "another run: learned_before" in printed
    assert fine_tuned(1)[1] == first and train_small("small", model, 1, batches) == second
    assert "begins with the weights" not in printed
    train_small("other", model, 1, batches)
    assert "other: begins with the weights and the learning rate" in capsys.readouterr().out
    # As that sentence says: a model of its layers, and one of the run's file, go on from there.
    learned = set()
    for start in (model, first.load_model()):
        going_on = keras.Model(start.input, start.output)
        going_on.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        run = train_small("going_on", going_on, np.int64(1), batches)
        learned.add(run.facts["made_of"]["learned_before"])
    assert len(learned) == 2 and run.name == "going_on_2"


@pytest.fixture
def our_reference(small_run):
    """The run as one of ours, and nothing of the reader's own: references have no weights."""
    folder = config.REFERENCE_DIR / "small"
    config.REFERENCE_DIR.mkdir()
    small_run.folder.rename(folder)
    config.RUNS_DIR.rmdir()
    for name in ("architecture.json", "model.weights.h5", "lock"):
        remove(folder / name)
    return Run(folder)


def test_ours_of_an_earlier_augmentation_is_shown_and_said(our_reference, capsys):
    facts = our_reference.facts
    facts["made_of"]["batches"]["augmentation"] = "strong"  # and no version
    write_json(our_reference.folder / "run.json", facts)
    batches = sample_batches(augmentation="strong")
    assert train_small("small", batches=batches, show_reference=True) == our_reference
    assert "an earlier version of its augmentation). SHOW" in capsys.readouterr().out


def test_ours_is_shown_until_yours_is_there(our_reference, prepared_workspace, capsys):
    before = content_of(our_reference.folder)
    shown = train_small("small", show_reference=True)
    assert shown == our_reference == reference("small") and shown.is_reference
    assert "small: no finished run of yours, OURS IS SHOWN (2 epochs" in capsys.readouterr().out
    assert not config.RUNS_DIR.exists()
    assert tabulate([shown]).loc["small", "whose"] == "ours"
    with pytest.raises(FileNotFoundError, match="tasks.py train small"):
        shown.load_model()
    with pytest.raises(FileNotFoundError, match=r"'large' in .*\['small'\]"):
        reference("large")

    take_another_copy_of_the_data(prepared_workspace)
    assert train_small("small", show_reference=True) == our_reference
    assert not config.RUNS_DIR.exists()

    capsys.readouterr()
    shorter = train_small("small", epochs=1, show_reference=True)
    assert "small: not what our reference was trained with: epochs 2, now 1" in (
        capsys.readouterr().out
    )
    assert not shorter.is_reference and shorter.name == "small"
    # Other epochs are no run of this training: ours is shown again, until it is made.
    assert train_small("small", show_reference=True) == our_reference
    yours = train_small("small")
    assert (yours.name, yours.is_reference) == ("small_2", False)
    assert train_small("small", show_reference=True) == yours
    assert content_of(our_reference.folder) == before
    assert [path.name for path in config.REFERENCE_DIR.iterdir()] == ["small"]


def test_an_interrupted_training_ends_as_one_without_interruption(
    prepared_workspace, monkeypatch, capsys
):
    begun_after, dataset = [], Batches.dataset

    def recorded(batches, epochs_done=0, **settings):
        if batches.split == "train":
            begun_after.append(epochs_done)
        return dataset(batches, epochs_done, **settings)

    monkeypatch.setattr(Batches, "dataset", recorded)

    def start(name, stop):
        # Nothing is random: each batch has all images, unchanged.
        batches = sample_batches(batch_size=36, augmentation="none")
        model = small_network(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
        return model, train_small(name, model, 4, batches, callbacks=[Stop(stop)])

    whole, expected = start("whole", 0)
    with pytest.raises(KeyboardInterrupt):
        start("small", 3)
    run = Run(config.RUNS_DIR / "small")
    assert load_runs(config.RUNS_DIR) == ({"whole": expected}, {"small": run})
    assert run.epochs == 2 and not run.is_finished
    first_lines = (run.folder / "history.csv").read_text().splitlines()
    capsys.readouterr()

    model, run = start("small", 0)
    assert ", going on after epoch 2\n" in capsys.readouterr().out
    check_whole(run, epochs=4)
    assert (run.folder / "history.csv").read_text().splitlines()[:3] == first_lines
    assert run.facts["resumed_after"] == [2] and "resumed_after" not in expected.facts
    assert begun_after == [0, 0, 2], "the order of the first epochs' images would come back"
    assert_same_weights(model, whole, atol=1e-5)
    np.testing.assert_allclose(run.history["loss"], expected.history["loss"], rtol=1e-5)
    assert names_of_runs() == ["small", "whole"]


def test_a_table_that_is_open_in_another_program_is_waited_for(
    prepared_workspace, monkeypatch, capsys
):
    answers = iter([PermissionError("history.csv cannot be written"), None])

    def check(path):
        if answer := next(answers, None):
            raise answer

    monkeypatch.setattr(training, "check_replaceable", check)
    monkeypatch.setattr(training, "SECONDS_TO_WAIT", 0)
    check_whole(train_small("small"), epochs=2)
    assert "history.csv cannot be written; the training waits\n" in capsys.readouterr().out


def test_nothing_is_trained_again_where_only_the_scores_were_missing(prepared_workspace):
    class StopAtTheEnd(Stop):
        def on_train_end(self, logs=None):
            if self._epoch:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_small("small", callbacks=[StopAtTheEnd(9)])
    run = Run(config.RUNS_DIR / "small")
    before = (run.folder / "history.csv").read_text()
    train_small("small", callbacks=[StopAtTheEnd(0)])
    check_whole(run, epochs=2)
    assert (run.folder / "history.csv").read_text() == before


@pytest.fixture(scope="module")
def interrupted(sample_project):
    """The folder of a run of three epochs that was interrupted in its third one."""
    with pytest.MonkeyPatch.context() as patch:
        move_project(patch, sample_project)
        with pytest.raises(KeyboardInterrupt):
            train_small("interrupted", epochs=3, callbacks=[Stop(3)])
        return config.RUNS_DIR / "interrupted"


DIE_WHILE_WRITING = """
import os, sys
from pathlib import Path
from utils.files import replaced_when_done

folder = Path(sys.argv[1])
with replaced_when_done(folder / "checkpoint_00003.weights.h5") as checkpoint:
    with replaced_when_done(folder / "history.csv") as history:
        checkpoint.write_bytes(b"HDF" * 9)
        history.write_text("epoch,ac")
        os._exit(9)
"""


def leave_all_half_written(folder):
    command = [sys.executable, "-c", DIE_WHILE_WRITING, str(folder)]
    assert subprocess.run(command, cwd=Path(__file__).parents[1]).returncode == 9
    assert len(list(folder.glob("partial-*"))) == 2
    with (folder / "history.csv").open("a") as stream:
        stream.write("2,0.2")


def lose_the_last_layer(folder):
    with h5py.File(folder / LAST, "a") as stored:
        del stored["layers/dense/vars/0"]


# What is done to the folder, and after which epoch the training goes on.
LAST = "checkpoint_00002.weights.h5"
DAMAGES = {
    "all half written": (leave_all_half_written, 2),
    "a later checkpoint, empty": (lambda x: (x / "checkpoint_00003.weights.h5").touch(), 2),
    "the checkpoint empty": (lambda x: (x / LAST).write_bytes(b""), 0),
    "the checkpoint cut": (lambda x: (x / LAST).write_bytes((x / LAST).read_bytes()[:-99]), 0),
    "the checkpoint without a layer": (lose_the_last_layer, 0),
    "no history": (lambda x: (x / "history.csv").unlink(), 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_killed_process_leaves_does_not_hold_up(
    prepared_workspace, interrupted, damage, capsys
):
    folder = config.RUNS_DIR / "interrupted"
    shutil.copytree(interrupted, folder)
    do, done = DAMAGES[damage]
    do(folder)
    run = train_small("interrupted", epochs=3, callbacks=[Stop(0)])
    printed = capsys.readouterr().out
    assert f", going on after epoch {done}\n" in printed if done else "going on" not in printed
    assert ("is set aside, as it cannot be used" in printed) == (done == 0 or "later" in damage)
    assert names_of_runs() == ["interrupted"]
    check_whole(run, epochs=3)
    # Gone on or begun anew, it is the same training.
    before, now = (x.history.drop(columns="seconds").loc[1] for x in (Run(interrupted), run))
    pd.testing.assert_series_equal(before, now, rtol=1e-4)


SCRIPT = """
import sys
from pathlib import Path
import pytest
from projects import move_project
from stand_ins import Slow, train_small

move_project(pytest.MonkeyPatch(), Path(sys.argv[1]))
train_small("killed", epochs=15, callbacks=[Slow()])
"""


def test_a_killed_process_is_followed_by_another(prepared_workspace, capsys):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    run = Run(config.RUNS_DIR / "killed")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(prepared_workspace)],
        env={**os.environ, "PYTHONPATH": paths, "SECONDS_A_STEP": "0.5"},
        stdout=subprocess.DEVNULL,
    ) as first:
        try:
            while not run.epochs and first.poll() is None:
                time.sleep(0.05)
            with pytest.raises(RuntimeError, match="killed is being trained by another process"):
                train_small("killed", epochs=15, callbacks=[Slow()])
            assert first.poll() is None, "the first has ended, so nothing was tried"
            time.sleep(0.6)  # into an epoch
        finally:
            first.kill()
    done = run.epochs
    assert 0 < done < 15 and not run.is_finished
    train_small("killed", epochs=15, callbacks=[Slow()])
    check_whole(run, epochs=15)
    (resumed,) = run.facts["resumed_after"]
    # Killed between the history and the checkpoint of an epoch, it trains that one again.
    assert resumed in (done - 1, done) and names_of_runs() == ["killed"]
    assert f", going on after epoch {resumed}\n" in capsys.readouterr().out


def test_names_that_are_no_folder_are_refused(prepared_workspace):
    model, batches = small_network(), sample_batches()
    for name in ("..", ".", "a/b", "a\\b", "/abs", "", ".hidden", "a b", "ä.", 101 * "a"):
        with pytest.raises(ValueError, match="is no name for a run"):
            train_small(name, model, batches=batches)
    assert not (prepared_workspace / "outputs").exists()


def test_early_stopping_ends_a_run_that_counts_as_finished(prepared_workspace):
    callbacks = [keras.callbacks.EarlyStopping(patience=2)]

    def start():
        model = small_network(optimizer=keras.optimizers.SGD(0.0))  # learns nothing
        return train_small("small", model, 9, callbacks=callbacks)

    run = start()
    check_whole(run, epochs=3)  # the first, and two that are no better
    before = content_of(run.folder)
    assert start() == run  # though the callback has counted
    callbacks = [keras.callbacks.EarlyStopping(patience=2)]
    assert start() == run and content_of(run.folder) == before


class StopAtTheEnd(keras.callbacks.Callback):
    """Ends the process after the last epoch, before anything is scored; 0: never."""

    def __init__(self, times):
        super().__init__()
        self._times = times

    def on_train_end(self, logs=None):
        if self._times:
            raise KeyboardInterrupt


def test_what_early_stopping_ended_is_not_gone_on_with(prepared_workspace):
    def start(times):
        model = small_network(optimizer=keras.optimizers.SGD(0.0))
        stop = keras.callbacks.EarlyStopping(patience=2)
        return train_small("small", model, 9, callbacks=[stop, StopAtTheEnd(times)])

    with pytest.raises(KeyboardInterrupt):
        start(1)
    check_whole(start(0), epochs=3)


def test_early_stopping_that_goes_back_does_so_after_an_interruption(
    prepared_workspace, monkeypatch
):
    def start(name):
        model = small_network(optimizer=keras.optimizers.SGD(3.0))  # soon worse than at first
        stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        return train_small(name, model, 9, callbacks=[stop])

    def interrupt(run):
        raise KeyboardInterrupt

    whole = start("whole")
    with monkeypatch.context() as while_it_is_scored:
        while_it_is_scored.setattr(training, "prepared_of", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start("small")
    assert_same_weights(start("small").load_model(), whole.load_model())
    assert whole.history["val_loss"].idxmin() < whole.epochs


def test_another_callback_or_other_labels_make_another_run(small_run):
    stop = keras.callbacks.EarlyStopping(patience=9)
    assert train_small("small", callbacks=[stop]).name == "small_2"
    batches, valid = sample_batches()
    soft = replace(batches, labels=0.9 * batches.labels + np.float32(0.1 / 7))
    assert train_small("small", batches=(soft, valid)).name == "small_3"


def test_views_can_be_asked_for_later(small_run):
    facts, weights = small_run.facts, sha256_of(small_run.folder / "model.weights.h5")
    assert train_small("small", average_views=True) == small_run and small_run.has_averaged
    assert (facts, weights) == (small_run.facts, sha256_of(small_run.folder / "model.weights.h5"))


def test_a_name_that_another_training_holds_gets_a_number(small_run):
    with filelock.FileLock(small_run.folder / "lock"):
        assert train_small("small", epochs=1).name == "small_2"


def test_images_that_are_prepared_anew_meanwhile_are_not_scored(prepared_workspace):
    table = config.prepared_dir("fer2013") / "labels.csv"
    labels = pd.read_csv(table)
    drawn = [labels.assign(split=labels["split"].replace({"test": "valid", "valid": "test"}))]

    class PreparesAnew(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            if drawn:
                drawn.pop().to_csv(table, index=False)

    with pytest.raises(ValueError, match="holds other images than small learned from"):
        train_small("small", callbacks=[PreparesAnew()])
    assert not Run(config.RUNS_DIR / "small").is_finished
    labels.to_csv(table, index=False)  # the same seed
    check_whole(train_small("small", callbacks=[PreparesAnew()]), epochs=2)


def test_a_diverging_training_ends_in_a_sentence_and_leaves_its_name_free(prepared_workspace):
    def start(rate):
        return train_small("small", small_network(optimizer=keras.optimizers.SGD(rate)))

    with pytest.raises(ValueError, match="loss of epoch 1 is nan.*try a lower learning rate"):
        start(1e25)
    run = start(0.01)
    check_whole(run, epochs=2)
    assert names_of_runs() == ["small"]


def test_the_same_model_is_trained_as_it_was_compiled_last(prepared_workspace):
    def compile_with(momentum):
        optimizer = keras.optimizers.SGD(0.1, momentum=momentum)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])

    model = small_network()
    runs = []
    for momentum in (0.0, 0.9, 0.9):
        compile_with(momentum)
        runs += [train_small("small", model), train_small("small", model)]
    assert [run.name for run in runs] == ["small"] * 2 + ["small_2"] * 4


def test_loss_scaling_begins_anew_with_its_model(prepared_workspace):
    model = small_network(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    batches = sample_batches(augmentation="none")
    first, again = (train_small(name, model, 1, batches) for name in ("first", "again"))
    np.testing.assert_allclose(again.predictions("valid")[1], first.predictions("valid")[1])
    paths = [variable.path for variable in model.optimizer.variables]
    assert len(paths) == len(set(paths)), "its variables were made twice"


def own_class():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(7, "softmax")

        def call(self, images):
            return self.dense(self.flat(images))

    model = Own()
    model(np.zeros((1, *TINY.shape), np.float32))
    model.compile("adam", "categorical_crossentropy")
    return model


def uncompiled():
    return keras.Sequential([keras.Input(TINY.shape), keras.layers.Flatten()])


def without_input():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(7, "softmax")])
    model.compile("adam", "categorical_crossentropy")
    return model


def without_softmax():
    layers = [keras.layers.Flatten(), keras.layers.Dense(7)]
    model = keras.Sequential([keras.Input(TINY.shape), *layers])
    model.compile("adam", "categorical_crossentropy")
    return model


def with_another_loss():
    layers = [keras.layers.Flatten(), keras.layers.Dense(7, "softmax")]
    model = keras.Sequential([keras.Input(TINY.shape), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def with_lambda():
    images = keras.layers.Lambda(lambda x: x / 255)
    model = keras.Sequential([keras.Input(TINY.shape), images, keras.layers.Flatten()])
    model.add(keras.layers.Dense(7, "softmax"))
    model.compile("adam", "categorical_crossentropy")
    return model


def test_models_that_cannot_be_kept_are_refused(prepared_workspace):
    batches = sample_batches()
    for build, reason in (
        (own_class, "Own is a class of its own"),
        (with_lambda, "cannot be loaded from a file"),
        (uncompiled, "is not compiled: .* call model.compile"),
        (without_input, r"no input shape .* begin it with keras.Input"),
        (without_softmax, "end it with a softmax over the classes"),
        (with_another_loss, "loss does not fit the labels, which are one-hot"),
    ):
        with pytest.raises(ValueError, match=reason):
            train_small("small", build(), batches=batches)
    assert not (prepared_workspace / "outputs").exists()


def test_batches_that_do_not_belong_together_are_refused(prepared_workspace):
    batches, valid = sample_batches()
    _, larger = sample_batches(face_input_for("fer2013", 16, 16, "grey"))
    _, fewer = sample_batches(class_names=FIVE_EMOTIONS)
    for given, reason in (
        ((batches, larger), "differ in input"),
        ((batches, fewer), "differ in classes"),
        ((valid, batches), "expected .'train', 'valid'."),
        ((batches, batches.of("test")), "expected .'train', 'valid'."),
    ):
        with pytest.raises(ValueError, match=reason):
            train_small("small", batches=given)
    with pytest.raises(ValueError, match="epochs is 0"):
        train_small("small", epochs=0)
    assert not (prepared_workspace / "outputs").exists()


def test_a_sequential_model_with_a_loss_of_its_own_is_kept(prepared_workspace):
    def loss(y_true, y_pred):
        return keras.losses.categorical_crossentropy(y_true, y_pred)

    model = keras.Sequential(
        [keras.Input(TINY.shape), keras.layers.Flatten(), keras.layers.Dense(7, "softmax")]
    )
    model.compile("adam", loss, metrics=["accuracy"])
    run = train_small("small", model)
    check_whole(run, epochs=2)
    assert_same_weights(model, run.load_model())


def test_what_was_trained_in_bfloat16_is_kept_as_float32(prepared_workspace):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_network()
    finally:
        keras.config.set_dtype_policy("float32")
    run = train_small("small", model, epochs=1)
    assert run.facts["made_of"]["precision"] == "mixed_bfloat16"
    kept = run.load_model()
    assert {layer.compute_dtype for layer in kept.layers} == {"float32"}
    assert_same_weights(model, kept)
    images, _, _ = load_split("fer2013", "test", TINY)
    _, stored = run.predictions("test")
    np.testing.assert_allclose(stored, kept(images.astype(np.float32)).numpy(), atol=1e-6)


def test_weights_of_classes_count_in_the_loss(prepared_workspace):
    batches = sample_batches(batch_size=36, augmentation="none")
    factors = {index: 1.0 + index for index in range(7)}
    model = small_network(optimizer=keras.optimizers.SGD(0.0))
    images = batches[0].images.astype(np.float32)
    answers = model(images, training=False).numpy()[np.arange(36), batches[0].y_true]
    run = train_small("small", model, 1, batches, class_weight=factors)
    expected = np.mean((1 + batches[0].y_true) * -np.log(answers))
    assert run.history["loss"][1] == pytest.approx(expected, rel=1e-4)
    assert run.facts["made_of"]["class_weight"]["6"] == 7


def test_several_views_of_each_image_are_averaged(prepared_workspace):
    run = train_small("small", epochs=1, average_views=True)
    images, _, _ = load_split("fer2013", "test", TINY)
    model = run.load_model()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    answers = []
    for top, left in ((2, 2), (0, 2), (4, 2), (2, 0), (2, 4)):
        moved = padded[:, top : top + 12, left : left + 12].astype(np.float32)
        answers += [model(view).numpy() for view in (moved, moved[:, :, ::-1])]
    _, single = run.predictions("test")
    _, averaged = run.predictions("test", averaged=True)
    np.testing.assert_allclose(single, answers[0], atol=1e-6)
    np.testing.assert_allclose(averaged, np.mean(answers, axis=0), atol=1e-6)
    assert np.abs(averaged - single).max() > 1e-3


def test_a_part_of_a_model_is_kept(prepared_workspace):
    """What only training needs is left out: here the outputs are doubled for the loss."""
    batches = [
        replace(x, labels=np.concatenate([x.labels, x.labels], axis=1)) for x in sample_batches()
    ]
    keep = small_network()
    wider = keras.Model(keep.input, keras.layers.Concatenate()([keep.output, keep.output]))
    wider.compile("adam", "categorical_crossentropy")
    run = train(wider, "small", *batches, epochs=1, keep=keep)
    assert run.predictions("test")[1].shape == (15, 7)
    assert run.load_model().output_shape == (None, 7)
    assert_same_weights(keep, run.load_model())
