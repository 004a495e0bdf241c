"""Searches the learning rate and the dropout of one of our recipes: a study of many runs.

    python tasks.py tune emotion_final --trials 40 --hours 2

The same command in another process, on another machine that shares this folder or in each task of a
SLURM array takes the next trial of the same study. The report's authors wished for this search:
"experimenting with learning rates and location of dropout layers".
"""

import argparse
import hashlib
import math
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager

import filelock
import keras
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from commands.train import add_recipe_options, refuse_sample
from utils import config
from utils.data.prepared import copies_of_training, fingerprint, load_prepared
from utils.evaluation import evaluate, wilson_interval
from utils.files import refuse_damaged, replaced_when_done
from utils.recipes.recipe import Recipe, set_fields, settable, train_recipe

try:
    import optuna
except ImportError:
    sys.exit("tune needs Optuna, which this Python lacks: pip install 'optuna>=5,<6'")
from optuna.distributions import FloatDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say is said below
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.RUNNING: "begun",
    TrialState.FAIL: "interrupted",
    TrialState.WAITING: "to be tried again",
}
MAX_TRIES = 3  # of a trial whose process dies each time before an epoch is done


class TimeIsOver(Exception):
    """Ends a training between two epochs; the trial waits for the next process."""


class StopBadTrial(keras.callbacks.Callback):
    """Reports validation accuracy after each epoch, and stops what is worse than other trials.

    Parameters
    ----------
    trial : optuna.Trial
    end : float
        When the time is over, by `time.monotonic`; what was begun has an epoch at least.
    """

    def __init__(self, trial, end):
        super().__init__()
        # Not public: they are not what the run is made of.
        self._trial, self._end, self._epochs = trial, end, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Stop here, where all that was done is on the disk."""
        if self._epochs and time.monotonic() > self._end:
            raise TimeIsOver

    def on_epoch_end(self, epoch, logs=None):
        """Report; the run of a bad trial ends here as early stopping ends one."""
        if not np.isfinite(logs["loss"]):
            raise optuna.TrialPruned
        self._epochs += 1
        self._trial.report(logs["val_accuracy"], epoch)
        if self._trial.should_prune():
            self.model.stop_training = True


def search_space(recipe, settings):
    """What is searched of a recipe.

    Batch size is not: twice the batch has about the effect of half the learning rate.

    Parameters
    ----------
    recipe : Recipe
    settings : sequence of str
        As for `set_fields`: what is set is not searched.

    Returns
    -------
    dict of str to optuna.distributions.FloatDistribution
        The learning rate, ten times lower to ten times higher than the recipe's, and each rate of
        dropout that the builder knows.
    """
    rate = recipe.learning_rate
    space = {"learning_rate": FloatDistribution(rate / 10, rate * 10, log=True)}
    for name in settable(recipe):
        if "dropout" in name:
            space[name] = FloatDistribution(0, 0.7, step=0.1)
    fixed = {x.partition("=")[0] for x in settings}
    return {name: x for name, x in space.items() if name not in fixed}


def settings_of(params, recipe):
    """A trial's values as texts for ``--set``; one rate is that of all layers of an argument."""
    sizes = {name: np.size(value) for name, (_, value) in settable(recipe).items()}
    return [f"{name}={','.join([f'{x:.3g}'] * sizes[name])}" for name, x in params.items()]


def open_study(folder, name, epochs):
    """The study of that name in the journal of a folder, which is made if it is not there.

    Raises
    ------
    ValueError
        If the journal is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal.log"
    _cut_off_half_a_line(journal)
    with refuse_damaged(journal, "move its folder away, and a new study begins"):
        return optuna.create_study(
            study_name=name,
            storage=_storage(journal),
            direction="maximize",
            # Values that others are trying count as bad ones, so that nobody tries them again.
            sampler=optuna.samplers.TPESampler(constant_liar=True),
            # Stops what is below the median of the others; a low rate begins slowly.
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=epochs // 4),
            load_if_exists=True,
        )


def _cut_off_half_a_line(journal):
    """Drop what a process wrote last that was killed or had a full disk: all else is whole."""
    lock = JournalFileOpenLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes() if journal.is_file() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def reference_study(name):
    """Our study of a reference's recipe: optuna.Study, of which only the trials are known."""
    return optuna.load_study(
        study_name=None, storage=_storage(config.REFERENCE_DIR / f"{name}_study.log")
    )


def _storage(journal):
    # Optuna's own choice, a lock that is a link, needs a privilege under Windows; one that is a
    # file works there and on network folders (NFS 3 and later).
    backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
    return optuna.storages.JournalStorage(backend)


@contextmanager
def next_trial(study, folder, space, first, wanted):
    """Hold the next trial: one whose process has died, with its values, before a new one.

    Optuna's heartbeat needs a database. Here each trial that runs has a lock file, of which the
    system lets go when its process ends, however it ends.

    Parameters
    ----------
    study : optuna.Study
    folder : pathlib.Path
    space : dict of str to FloatDistribution
    first : dict of str to float
        Values of the first trial.
    wanted : int
        Trials of the study, over all processes; one that is tried again counts once.

    Yields
    ------
    optuna.Trial or None
        None if there are enough.
    """
    locks = folder / "locks"
    locks.mkdir(exist_ok=True)
    # A digest, as the settings in the name may be longer than a file's name can be.
    prefix = hashlib.sha256(study.study_name.encode()).hexdigest()[:12]
    with filelock.FileLock(locks / prefix):
        for old in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            try:
                with filelock.FileLock(locks / f"{prefix} {old.number}", blocking=False):
                    _try_again(study, old)
            except filelock.Timeout:
                pass  # its process lives
        trials = study.get_trials(deepcopy=False)
        waits = any(x.state == TrialState.WAITING for x in trials)
        if not waits and len({run_number(x) for x in trials}) >= wanted:
            yield None
            return
        if not trials:
            study.enqueue_trial(first)
        trial = study.ask(space)
        lock = filelock.FileLock(locks / f"{prefix} {trial.number}")
        lock.acquire()
    try:
        yield trial
    finally:
        lock.release()


def _try_again(study, old):
    """Put a trial whose process has died at the head of the queue."""
    study.tell(old.number, state=TrialState.FAIL)
    epochs, earlier = len(old.intermediate_values), old.user_attrs.get("epochs", 0)
    tries = 1 if epochs > earlier else 1 + old.user_attrs.get("tries", 0)
    if tries < MAX_TRIES:
        # As Study.enqueue_trial does, but with what was reported: it is judged by all its epochs.
        waiting = optuna.trial.create_trial(
            state=TrialState.WAITING,
            intermediate_values=old.intermediate_values,
            user_attrs={"run": run_number(old), "tries": tries, "epochs": epochs},
            system_attrs={"fixed_params": old.params},
        )
        study.add_trial(waiting)


def run_number(trial):
    """Number in the name of a trial's run: a trial that is tried again goes on with that run."""
    return trial.user_attrs.get("run", trial.number)


def run_trial(study, trial, recipe, name, clean, end):
    """Train by a recipe with the values of a trial, and tell the study how good it was.

    Parameters
    ----------
    study : optuna.Study
    trial : optuna.Trial
    recipe : Recipe
    name : str
        The run's is NAME_trial_NUMBER.
    clean : numpy.ndarray, bool, (n,)
        Validation images that are not in the training split too; all of them are reported after
        each epoch, but these decide which trial is best.
    end : float
        See `StopBadTrial`.

    Raises
    ------
    TimeIsOver
    """
    keras.utils.clear_session()  # the network of the trial before need not stay in memory
    settings = settings_of(trial.params, recipe)
    print(f"trial {run_number(trial)}: {' '.join(settings)}")
    for other in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        if other.params == trial.params:
            print(f"the values of trial {run_number(other)}, and so its accuracy")
            study.tell(trial, other.value)
            return
    run_name = f"{name}_trial_{run_number(trial)}"
    try:
        callbacks = [StopBadTrial(trial, end)]
        run = train_recipe(set_fields(recipe, settings), run_name, callbacks)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"{run_name}: has diverged")
        return
    if run.epochs < recipe.epochs:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"{run.name}: stopped after {run.epochs} epochs, others are better")
        return
    y_true, probabilities = run.predictions("valid")
    study.tell(trial, evaluate(y_true[clean], probabilities[clean])["accuracy"])


def draw(study, space):
    """How much each value matters, and which values went together.

    Parameters
    ----------
    study : optuna.Study
        With three finished trials or more that are not equally good.
    space : dict of str to FloatDistribution

    Returns
    -------
    matplotlib.figure.Figure
        Bars of importance, with lines from the least to the most that they become where one trial
        is left out; and a line for each trial (parallel coordinates): the darker, the better; grey
        ones were stopped early.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    figure.suptitle(study.study_name.rpartition(" ")[0], fontsize=9)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    trials = study.get_trials(deepcopy=False, states=[TrialState.PRUNED, TrialState.COMPLETE])
    left_out = [_importances([*trials[:x], *trials[x + 1 :]], space) for x in range(len(trials))]
    bars = _importances(trials, space)
    ends = bars - np.min(left_out, axis=0), np.max(left_out, axis=0) - bars
    left.barh([name.split(".")[-1] for name in space], bars, xerr=np.maximum(ends, 0))
    left.set(xlabel="importance (fANOVA)", xlim=(0, 1))
    left.invert_yaxis()
    values = [x.value for x in trials if x.state == TrialState.COMPLETE]
    axes = {**space, "validation accuracy": FloatDistribution(min(values), max(values))}
    for trial in sorted(trials, key=lambda x: (x.state == TrialState.COMPLETE, x.value or 0)):
        heights = [_height(space[name], trial.params[name]) for name in space]
        colour = "silver"
        if trial.state == TrialState.COMPLETE:
            heights.append(_height(axes["validation accuracy"], trial.value))
            colour = colormaps["viridis_r"](heights[-1])
        right.plot(heights, color=colour)
    for number, distribution in enumerate(axes.values()):
        right.axvline(number, 0.1, 0.9, color="black", linewidth=0.8)
        right.text(number, -0.05, f"{distribution.low:.3g}", ha="center", va="center")
        right.text(number, 1.05, f"{distribution.high:.3g}", ha="center", va="center")
    right.set_xticks(range(len(axes)), [name.split(".")[-1] for name in axes])
    right.set(yticks=[], ylim=(-0.125, 1.125), frame_on=False)
    return figure


def _importances(trials, space):
    """Importance of each value of a space: numpy.ndarray, float.

    A trial that was stopped early counts with what it had reached. Without it, what is bad would
    seem not to matter, as it is never finished.
    """
    reached = optuna.create_study(direction="maximize")
    for trial in trials:
        value = trial.value
        if trial.state == TrialState.PRUNED:
            value = max(trial.intermediate_values.values(), default=0)
        known = {"params": trial.params, "distributions": trial.distributions}
        reached.add_trial(optuna.trial.create_trial(**known, value=value))
    # Optuna's own choice asks the best tenth of the trials: two or three, and so chance.
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(reached, evaluator=evaluator)
    return np.array([found[name] for name in space])


def _height(distribution, value):
    """A value as a share of the way from the lowest to the highest."""
    ends = distribution.low, distribution.high
    low, high, value = (math.log(x) if distribution.log else x for x in (*ends, value))
    return (value - low) / (high - low or 1)


def summarize(study, n):
    """Print how many trials there are and which is best, of so many validation images; return it.

    Returns
    -------
    optuna.trial.FrozenTrial or None
    """
    counts = Counter(STATES[x.state] for x in study.trials)
    print(f"trials: {', '.join(f'{count} {x}' for x, count in counts.items()) or 'none'}")
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not finished:
        return None
    best = study.best_trial
    low, high = wilson_interval(round(best.value * n), n)
    ours = [f"; with our values {x.value:.1%}" for x in finished if run_number(x) == 0]
    print(
        f"best: trial {run_number(best)}, {best.value:.1%} ({low:.1%} to {high:.1%}) of {n:,} "
        f"validation images that are not in training too{''.join(ours)}"
    )
    return best


def main(arguments=None):
    """Take trials of a study until there are enough or the time is over; report."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py tune",
        description="Searches the learning rate and the dropout of one of our recipes by Optuna. "
        "Each trial is a run of yours, NAME_trial_NUMBER, with its weights, and has a fifth of our "
        "epochs unless --epochs is given; the first one has our own values (one rate where those "
        "of its layers differ). The same command started elsewhere on this folder takes the next "
        "trial; one whose process was killed is gone on with. What is set is not searched.",
    )
    references = add_recipe_options(parser)
    parser.add_argument(
        "--trials", type=int, default=20, help="of the study, in all (default: 20); 0 only reports"
    )
    parser.add_argument(
        "--hours", type=float, default=math.inf, help="end after so many, between two epochs"
    )
    options = parser.parse_args(arguments)
    try:
        if options.trials < 0 or not options.hours > 0:
            raise ValueError(f"--trials {options.trials} --hours {options.hours:g} ends at once")
        ours = Recipe.of_reference(references[options.reference])
        settings = options.settings
        if not any(x.startswith("epochs=") for x in settings):
            settings = [f"epochs={-(-ours.epochs // 5)}", *settings]
        recipe = set_fields(ours, settings)
        refuse_sample(recipe.dataset)
        prepared = load_prepared(recipe.dataset, recipe.split_name)
        clean = ~copies_of_training(prepared, "valid", recipe.classes)
        space = search_space(recipe, settings)
        if not space:
            raise ValueError("all is set, so nothing is left to search: leave one --set out")
        first = {name: float(np.ravel(settable(recipe)[name][1])[0]) for name in space}
        folder = config.output_dir(recipe.dataset) / "tune" / options.reference
        # Another setting, in whatever order, or another copy of the data is another study.
        data = "-".join(x["sha256"][:8] for x in fingerprint(prepared).values())
        study = open_study(folder, " ".join([*sorted(settings), data]), recipe.epochs)
        end = time.monotonic() + 3600 * options.hours
        try:
            while options.trials and time.monotonic() < end:
                with next_trial(study, folder, space, first, options.trials) as trial:
                    if trial is None:
                        break
                    run_trial(study, trial, recipe, options.reference, clean, end)
        except TimeIsOver:
            print("the time is over: the same command goes on with this trial")

        if best := summarize(study, int(clean.sum())):
            changes = [x for x in settings if not x.startswith("epochs=")]
            changes = [f"--set {x}" for x in (*changes, *settings_of(best.params, recipe))]
            whole = f"--epochs {ours.epochs}"
            print("in full: python tasks.py train", options.reference, *changes, whole)
        accuracies = {x.value for x in study.trials if x.state == TrialState.COMPLETE}
        if len(accuracies) >= 3:
            with replaced_when_done(folder / "study.png") as partial:
                draw(study, space).savefig(partial, dpi=70)
            print(f"figure: {folder / 'study.png'}")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
