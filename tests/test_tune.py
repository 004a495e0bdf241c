"""Searches on the sample: several processes on one folder, one of them killed, bad trials."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils import config
from utils.data.prepared import load_prepared, rows_of
from utils.files import write_json
from utils.preprocessing import EMOTIONS
from utils.recipes.recipe import Recipe, set_fields
from utils.training import Run, load_runs

optuna = pytest.importorskip("optuna")
from commands import train, tune  # noqa: E402 (it ends without Optuna)

SMALL = {
    **{"dataset": "fer2013", "architecture": "compact", "epochs": 10, "batch_size": 36},
    **{"arguments": {"widths": [8], "blocks_per_stage": 0, "normalize_images": False}},
    **{"augmentation": "none", "height": 16, "width": 16, "learning_rate": 0.01},
}


@pytest.fixture
def project(prepared_workspace):
    """The sample, prepared, with a reference "small" that trains in no time."""
    folder = config.REFERENCE_DIR / "small"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"finished": "2026-11-28", "recipe": SMALL})
    return prepared_workspace


def only_study():
    """The study in the journal, read without this project."""
    journal = str(config.ROOT / "outputs" / "tune" / "small" / "journal.log")
    lock = optuna.storages.journal.JournalFileOpenLock(journal)
    backend = optuna.storages.journal.JournalFileBackend(journal, lock)
    storage = optuna.storages.JournalStorage(backend)
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def clean_accuracy(run):
    """Of a run, on the validation images that are no copy of a training image: two, happy ones."""
    prepared = load_prepared("fer2013")
    training = set(prepared.labels.query("split == 'train'")["sha256"])
    clean = [x not in training for x in rows_of(prepared, "valid")["sha256"]]
    y_true, probabilities = run.predictions("valid")
    assert sum(clean) == 2 and (y_true[clean] == EMOTIONS.index("happy")).all()
    return np.mean(probabilities.argmax(axis=1)[clean] == y_true[clean])


HANG = """
import sys, time
from pathlib import Path
import pytest
from projects import move_project

move_project(pytest.MonkeyPatch(), Path(sys.argv[1]))
from commands import tune


class Hangs(tune.StopBadTrial):
    def on_train_batch_end(self, batch, logs=None):
        while self._epochs:
            time.sleep(1)


Hangs.__name__, Hangs.__module__ = "StopBadTrial", "commands.tune"
tune.StopBadTrial = Hangs
tune.main(sys.argv[2:])
"""


def test_processes_share_the_trials_and_take_over_what_a_killed_one_left(project, capsys):
    # Of the validation images, all but the happy ones are copies of a training image.
    table = config.prepared_dir("fer2013") / "labels.csv"
    labels = pd.read_csv(table)
    copies = (labels["split"] == "valid") & (labels["label"] != "happy")
    labels.loc[copies, "sha256"] = labels.query("split == 'train'")["sha256"].iloc[0]
    labels.to_csv(table, index=False)
    options = ["small", "--epochs", "3", "--trials", "2"]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    begun = Run(config.RUNS_DIR / "small_trial_0")
    with subprocess.Popen(
        [sys.executable, "-c", HANG, str(project), *options],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    ) as other:
        try:
            while not begun.epochs and other.poll() is None:
                time.sleep(0.1)
            assert tune.main(options) == 0  # while the other is in the middle of its trial
            assert other.poll() is None
            assert "trials: 1 begun, 1 finished" in capsys.readouterr().out
        finally:
            other.kill()
    assert tune.main(options) == 0
    assert ", going on after epoch 1" in capsys.readouterr().out
    trials = only_study().trials
    assert [x.state.name for x in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[0].params != trials[1].params
    assert trials[0].params == {"learning_rate": 0.01, "arguments.dropout": 0.3}, "ours come first"
    finished, unfinished = load_runs(config.RUNS_DIR)
    assert list(finished) == ["small_trial_0", "small_trial_1"] and not unfinished
    for run, trial in zip(finished.values(), (trials[2], trials[1])):
        assert run.epochs == 3 and trial.value == pytest.approx(clean_accuracy(run))
    # What has been tried is known, and half a line that a killed process left is dropped.
    study, journal = only_study(), config.ROOT / "outputs" / "tune" / "small" / "journal.log"
    study.enqueue_trial(trials[1].params)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert tune.main([*options[:-1], "3"]) == 0
    assert "the values of trial 1, and so its accuracy" in capsys.readouterr().out
    assert only_study().trials[-1].value == trials[1].value
    assert len(load_runs(config.RUNS_DIR)[0]) == 2

    # Enough of them: nothing more is tried, here or anywhere.
    assert tune.main(options) == 0
    assert "trials: 1 interrupted, 3 finished" in capsys.readouterr().out
    assert len(only_study().trials) == 4


def test_what_is_found_is_said_drawn_and_can_be_trained(project, capsys):
    options = ["small", "--set", "label_smoothing=0.1", "--set", "arguments.dropout=0.5"]
    assert tune.main([*options, "--trials", "2"]) == 0
    study, printed = only_study(), capsys.readouterr().out
    assert all(set(x.params) == {"learning_rate"} for x in study.trials), "what is set is searched"
    made_of = Run(config.RUNS_DIR / "small_trial_1").facts["made_of"]
    assert made_of["epochs"] == 2 and made_of["loss"]["label_smoothing"] == 0.1
    rate = study.trials[1].params["learning_rate"]
    assert 0.001 <= rate <= 0.1
    assert made_of["optimizer"]["learning_rate"] == pytest.approx(rate, rel=0.01)
    assert f"{max(x.value for x in study.trials):.1%} (" in printed

    (command,) = re.findall("in full: python tasks.py train (.*)", printed)
    assert command.endswith(" --epochs 10")
    assert train.main([*shlex.split(command)[:-1], "1", "--as", "whole"]) == 0
    best = Run(config.RUNS_DIR / f"small_trial_{study.best_trial.number}").facts["made_of"]
    whole = Run(config.RUNS_DIR / "whole").facts["made_of"]
    for key in ("network", "optimizer", "loss", "batches"):
        assert whole[key] == best[key], key

    # From three on they are drawn; other epochs are another study of the same journal.
    figure = config.ROOT / "outputs" / "tune" / "small" / "study.png"
    assert not figure.exists()
    for value in (0.0, 0.001, 0.002):
        known = {"params": {"learning_rate": 0.02}, "distributions": study.trials[0].distributions}
        study.add_trial(optuna.trial.create_trial(**known, value=value))
    assert tune.main([*options, "--trials", "0"]) == 0
    assert f"figure: {figure}" in capsys.readouterr().out
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert tune.main([*options, "--epochs", "3", "--trials", "0"]) == 0
    assert "trials: none" in capsys.readouterr().out


def test_bad_trials_are_stopped_and_the_time_ends_between_epochs(project, capsys):
    options = ["small", "--epochs", "4"]
    assert tune.main([*options, "--trials", "1", "--hours", "1e-5"]) == 0
    printed = capsys.readouterr().out
    assert "the time is over" in printed and "trials: 1 begun" in printed
    assert Run(config.RUNS_DIR / "small_trial_0").epochs == 1
    study = only_study()
    begun = study.trials[0]
    for _ in range(5):  # of others, all of them better than anything here
        study.add_trial(
            optuna.trial.create_trial(
                params=begun.params | {"learning_rate": 0.02},
                distributions=begun.distributions,
                value=1.0,
                intermediate_values=dict.fromkeys(range(4), 1.0),
            )
        )
    assert tune.main([*options, "--trials", "6"]) == 0
    printed = capsys.readouterr().out
    assert "trials: 1 interrupted, 5 finished, 1 stopped early" in printed
    last = only_study().trials[-1]
    assert last.state.name == "PRUNED" and ", going on after epoch 1" in printed
    assert sorted(last.intermediate_values) == [0, 1], "it is judged by all its epochs"
    run = Run(config.RUNS_DIR / "small_trial_0")
    assert run.is_finished and run.epochs == 2, "the first epoch of four tells too little"


def test_a_trial_that_ends_its_process_each_time_is_given_up(project, monkeypatch, capsys):
    def die(*_):
        raise MemoryError

    monkeypatch.setattr(tune, "train_recipe", die)
    for _ in range(3):
        with pytest.raises(MemoryError):
            tune.main(["small", "--trials", "1"])
    assert tune.main(["small", "--trials", "1"]) == 0
    assert "trials: 3 interrupted" in capsys.readouterr().out


def test_what_cannot_be_is_said_in_a_sentence(project, monkeypatch, capsys):
    assert tune.main(["small", "--set", "depth=3"]) == 1
    assert "'depth' is nothing that can be set" in capsys.readouterr().err
    for nothing in (["--hours", "nan"], ["--trials", "-1"]):
        assert tune.main(["small", *nothing]) == 1
        assert "ends at once" in capsys.readouterr().err
    fixed = ["--set", "learning_rate=0.01", "--set", "arguments.dropout=0.1"]
    assert tune.main(["small", *fixed]) == 1
    assert "nothing is left to search" in capsys.readouterr().err
    journal = config.ROOT / "outputs" / "tune" / "small" / "journal.log"
    journal.parent.mkdir(parents=True)
    journal.write_text("{half\n{half\n")
    assert tune.main(["small"]) == 1
    error = capsys.readouterr().err
    assert str(journal) in error and "move its folder away" in error
    monkeypatch.delitem(sys.modules, "commands.tune")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match="needs Optuna.*pip install"):
        __import__("commands.tune")


def test_every_reference_can_be_searched():
    places = {"final": {"early", "conv", "dense"}, "compact": {""}, "vgg": {""}}
    for name, run in load_runs(config.REFERENCE_DIR)[0].items():
        recipe = Recipe.of_reference(run)
        highest = {key: x.high for key, x in tune.search_space(recipe, []).items()}
        changed = set_fields(recipe, tune.settings_of(highest, recipe))
        assert changed.learning_rate == pytest.approx(10 * recipe.learning_rate), name
        found = {key for key in changed.arguments if "dropout" in key}
        assert found == {f"{x}_dropout".strip("_") for x in places.get(recipe.architecture, ())}
        if recipe.architecture == "final":
            assert changed.arguments["dense_dropout"] == (0.7, 0.7, 0.7), name
