"""A training run: fit, resume, record; and what a run left on disk.

`train` does what ``model.fit`` does, and keeps it: yours in ``outputs/runs/NAME/``. Ours, to be
compared with, lie in ``outputs/reference/``; nothing writes there.
"""

import itertools
import os
import platform
import re
import time
import uuid
import weakref
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import filelock
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.auto import tqdm

from utils import config
from utils.data.batches import views
from utils.data.prepared import fingerprint, load_prepared
from utils.evaluation import evaluate
from utils.files import (
    GET_AGAIN,
    check_replaceable,
    read_json,
    refuse_damaged,
    remove,
    replaced_when_done,
    sha256_of,
    write_json,
)
from utils.models import count_parameters
from utils.networks.contract import OWN_ARCHITECTURE, WEIGHTS_NAME, ModelContract
from utils.networks.precision import with_policy
from utils.networks.storage import (
    check_that_it_loads,
    load_architecture_and_weights,
    save_architecture_and_weights,
)
from utils.networks.structure import DEPENDS_ON_COPY, checksum_of, describe, differences
from utils.preprocessing import FaceInput

SECONDS_TO_WAIT = 10  # for a table that another program has open


@dataclass(frozen=True)
class Run:
    """What a training left in its folder.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``run.json`` (what it is made of, versions, times, checksum of the weights),
        ``history.csv``, ``predictions.npz`` and, unless it is a reference, the weights.
    """

    folder: Path

    @property
    def name(self):
        """Name of its folder."""
        return self.folder.name

    @property
    def is_reference(self):
        """Whether it is one of ours, which is there to be compared with."""
        return self.folder.parent == config.REFERENCE_DIR

    @property
    def facts(self):
        """Content of ``run.json``."""
        return read_json(self.folder / "run.json", self._advice)

    @property
    def is_begun(self):
        """Whether there is a run in the folder."""
        return (self.folder / "run.json").is_file()

    @property
    def is_finished(self):
        """Whether it was trained to its end and scored."""
        return self.is_begun and "finished" in self.facts

    @property
    def class_names(self):
        """In the order of the outputs."""
        return tuple(self.facts["made_of"]["batches"]["classes"])

    @property
    def history(self):
        """Loss, accuracy and seconds of each epoch: pandas.DataFrame indexed by epoch, from 1."""
        # As text first: pandas 2 reads numbers but for their last digit.
        table = pd.read_csv(self.folder / "history.csv", dtype=str).astype(float)
        table["epoch"] = table["epoch"].astype(int) + 1
        return table.set_index("epoch")

    @property
    def epochs(self):
        """How many epochs were trained."""
        return len(self.history) if (self.folder / "history.csv").is_file() else 0

    @property
    def seconds(self):
        """Of all epochs, and of frozen layers that two of ours computed once, before them."""
        return self.history["seconds"].sum() + self.facts.get("frozen_seconds", 0)

    @property
    def contract(self):
        """What a user of the network must know: utils.networks.contract.ModelContract."""
        batches = self.facts["made_of"]["batches"]
        return ModelContract(
            architecture=OWN_ARCHITECTURE,
            arguments={},
            class_names=self.class_names,
            face_input=FaceInput(**batches["input"]),
            trained_on=f"{batches['dataset']}, run {self.name}",
        )

    def predictions(self, split, averaged=False, output=""):
        """Labels and probabilities of a split after the last epoch.

        Parameters
        ----------
        split : {"valid", "test"}
        averaged : bool
            The mean over several views of each image, for runs with ``average_views``.
        output : str
            Name of a further output that was kept, for instance "votes".

        Returns
        -------
        y_true : numpy.ndarray, int, (n,)
        probabilities : numpy.ndarray, float32, (n, num_classes)
        """
        with self._stored() as stored:
            key = f"{split}_averaged" if averaged else f"{split}_probabilities"
            key += f"_{output}" if output else ""
            return stored[f"{split}_true"], stored[key].astype(np.float32)

    @property
    def has_averaged(self):
        """Whether several views of each image were scored too."""
        with self._stored() as stored:
            return "valid_averaged" in stored

    @contextmanager
    def _stored(self):
        path = self.folder / "predictions.npz"
        with refuse_damaged(path, self._advice), np.load(path) as stored:
            yield stored

    @property
    def _advice(self):
        return GET_AGAIN if self.is_reference else "delete its folder and train it again"

    def load_model(self):
        """The trained network, float32, from the report's pair of files.

        Raises
        ------
        FileNotFoundError
            If the weights are not on this machine: those of references are not kept in git.
        """
        if not (self.folder / WEIGHTS_NAME).is_file():
            advice = "delete the folder and train it again"
            if self.is_reference:
                advice = f"python tasks.py train {self.name} makes some"
            raise FileNotFoundError(f"{self.folder} has no weights ({WEIGHTS_NAME}): {advice}")
        model = load_architecture_and_weights(self.folder)
        _TRAINED.update(x for x in model.layers if x.weights)
        return model


def train(
    model,
    name,
    train_batches,
    valid_batches,
    epochs,
    *,
    class_weight=None,
    callbacks=(),
    average_views=False,
    keep=None,
    show_reference=False,
):
    """Train a network, go on with an interrupted run, or load a finished one.

    A run is what it is made of: the network, how it was compiled, images and batches, epochs. The
    same again is loaded or goes on; something else of the same name becomes NAME_2, and what
    differs is printed. A finished run counts as the same in whatever precision. Where the model, or
    a layer of it, was trained before, its weights count. Taught in notebooks 03 and 04.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, compiled. Afterwards it has the weights of the run. Given once
        more, it begins with those that it was first given with.
    name : str
        Of the folder below ``outputs/runs/``: letters, digits, ``_``, ``-`` and ``.``.
    train_batches, valid_batches : utils.data.batches.Batches
    epochs : int
    class_weight : dict of int to float, optional
        See ``keras.Model.fit``.
    callbacks : sequence of keras.callbacks.Callback
        As for ``fit``. After an interruption they begin to count anew.
    average_views : bool
        Score also the mean over `utils.data.batches.views` of each image.
    keep : keras.Model, optional
        A part of `model` that is to be scored and kept, for outputs that only training needs;
        the first output is the class, others are kept under the names of their layers.
    show_reference : bool
        Where yours is not finished and one of ours was the same training, return ours; `model`
        is where it began.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the name is none, the model cannot be kept, the batches do not belong together, or the
        loss is not finite.
    RuntimeError
        If another process is training this run.
    """
    check_name(name)
    _check(model, train_batches, valid_batches, epochs)
    learned, begins_again = _begin_at_start(model)
    made_of = {
        "epochs": epochs,
        **({"learned_before": learned} if learned else {}),
        "batches": train_batches.made_of,
        "data": fingerprint(train_batches.prepared),
        "given": train_batches.given,
        **describe(model, class_weight, callbacks),
    }
    runs_dir = config.runs_dir(train_batches.prepared.dataset)
    run = _find_finished(runs_dir, name, made_of)
    if not run and show_reference and (ours := _same_reference(name, made_of)):
        return ours
    keep = keep or model
    if not run:
        check_that_it_loads(with_policy(keep))
        _check_outputs(model, keep, valid_batches)
        with _claimed(runs_dir, name, made_of) as run:
            if not run.is_finished:  # else by another process, while this one got ready
                if begins_again and not run.epochs:
                    print(
                        f"{run.name}: begins with the weights and the learning rate that this "
                        "model had when it was trained first; to go on from what it has "
                        "learned, train keras.Model(model.input, model.output) under another name"
                    )
                _fit(model, run, train_batches, valid_batches, epochs, class_weight, callbacks)
                _score_and_keep(keep, run, valid_batches, average_views)
                return run
    print(f"{run.name}: finished before, loaded from {run.folder}")
    keep.set_weights(run.load_model().get_weights())
    _TRAINED.update(x for x in {*model.layers, *keep.layers} if x.weights)
    if average_views and not run.has_averaged:
        _score_and_keep(keep, run, valid_batches, average_views)
    return run


def check_name(name):
    """Refuse, by a ValueError, what cannot be the name of a run's folder."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?", name):
        raise ValueError(
            f"{name!r} is no name for a run: expected at most 100 letters, digits, '_', '-' and '.'"
        )


def _check(model, train_batches, valid_batches, epochs):
    """Refuse what could not be kept, before anything is written."""
    if not model.built or not model.compiled:
        raise ValueError(
            "the model has no input shape or is not compiled: begin it with keras.Input(shape) "
            "and call model.compile(...) before train"
        )
    splits = (train_batches.split, valid_batches.split)
    if splits != ("train", "valid"):
        raise ValueError(f"batches of the splits {splits} were given, expected ('train', 'valid')")
    ours, theirs = train_batches.made_of, valid_batches.made_of
    for key in ("dataset", "split_name", "classes", "input"):
        if ours[key] != theirs[key]:
            raise ValueError(
                f"training and validation batches differ in {key}: {ours[key]} and {theirs[key]}, "
                "expected the same"
            )
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected at least 1")


def _check_outputs(model, keep, batches):
    """Refuse what would be found out too late: another loss, outputs that are no probabilities."""
    images, labels = next(iter(batches.dataset()))
    answers = model(images, training=False)
    try:
        model.compute_loss(images, labels, answers, training=False)
    except ValueError as error:
        raise ValueError(
            "the loss does not fit the labels, which are one-hot (categorical_crossentropy does): "
            f"{str(error).splitlines()[0]}"
        ) from error
    # A network may have further outputs: the first is the class.
    kept = answers if keep is model else keep(images, training=False)
    answers = keras.tree.flatten(kept)[0]
    answers = keras.ops.convert_to_numpy(answers).astype(np.float32)
    expected = (len(images), len(batches.class_names))
    if answers.shape != expected or answers.min() < 0 or abs(answers.sum(axis=1) - 1).max() > 0.02:
        raise ValueError(
            f"the network answers {len(images)} images by an array {answers.shape}, expected "
            f"{expected} with rows that sum to 1: end it with a softmax over the classes"
        )


# Of each model that was given to `train`, and of its optimizer: their variables, and the values
# that these had then.
_STARTS = weakref.WeakKeyDictionary()
_LEARNED = weakref.WeakKeyDictionary()  # of models that had learned before that
_TRAINED = weakref.WeakSet()  # layers that got their weights by `train` or from a run


def _begin_at_start(model):
    """Put a model back to where it began, so that a cell can be run twice with the same effect.

    Returns
    -------
    learned : str or None
        Checksum of these weights, if the model had learned before: its layers do not say it.
    changed : bool
        Whether it had others.
    """
    model.jit_compile = False  # XLA, which Keras would choose, halves the speed on CPUs
    has_learned = getattr(model, "history", None) or any(x in _TRAINED for x in model.layers)
    if has_learned and model not in _STARTS:
        _LEARNED[model] = checksum_of(model.get_weights())
    changed = _reset(model)
    if not model.optimizer.built:  # loss scaling would get variables again
        model.optimizer.build(model.trainable_variables)
    _reset(model.optimizer)  # another one if the model was compiled again
    return _LEARNED.get(model), changed


def _reset(owner):
    if owner not in _STARTS:
        _STARTS[owner] = [(x, keras.ops.convert_to_numpy(x)) for x in owner.variables]
    others = [(x, value) for x, value in _STARTS[owner] if not np.array_equal(x, value)]
    for variable, value in others:
        variable.assign(value)
    return bool(others)


def _same_reference(name, made_of):
    """Our run of that name, if it was the same training on whatever copy of the data."""
    ours = Run(config.REFERENCE_DIR / name)
    if not ours.is_finished:
        return None
    besides = (*DEPENDS_ON_COPY, "augmentation_version")
    differing = differences(ours.facts["made_of"], made_of, besides)
    if differing:
        print(f"{name}: not what our reference was trained with: {'; '.join(differing)}")
        return None
    versions = (x["batches"].get("augmentation_version") for x in (ours.facts["made_of"], made_of))
    earlier = ", an earlier version of its augmentation" if len(set(versions)) > 1 else ""
    print(
        f"{name}: no finished run of yours, OURS IS SHOWN ({ours.epochs} epochs, "
        f"{ours.seconds / 60:.0f} minutes on two cores{earlier}). SHOW_REFERENCE = False trains "
        "yours."
    )
    return ours


def _find_finished(runs_dir, name, made_of):
    """Your finished run of that name that is made of the same; None if there is none."""
    for path in sorted(runs_dir.glob(f"{name}*/run.json")):
        run = Run(path.parent)
        is_of_name = re.fullmatch(re.escape(name) + r"(_\d+)?", run.name)
        # In what it was computed is no reason to train for hours again.
        if is_of_name and run.is_finished and not _difference(run, made_of, ("precision",)):
            return run
    return None


def _difference(run, made_of, besides=()):
    """In what the run in a folder is another one; empty where there is none."""
    return differences(run.facts["made_of"], made_of, besides) if run.is_begun else []


@contextmanager
def _claimed(runs_dir, name, made_of):
    """The run in the folder that is free or holds the same, locked while this process lives."""
    first = None
    for number in itertools.count(1):
        run = Run(runs_dir / (name if number == 1 else f"{name}_{number}"))
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(run.folder / "lock", blocking=False):
                other = _difference(run, made_of)
                first = first or other
                left = {x.name for x in run.folder.glob("*") if not x.name.startswith("partial-")}
                if left - {"run.json", "lock"} and (other or not run.is_begun):
                    continue
                if run.name != name:
                    print(f"{run.name}: {name} is another run: {'; '.join(first or ['damaged'])}")
                if other or not run.is_begun:
                    _begin(run, made_of)
                yield run
                return
        except filelock.Timeout:
            other = _difference(run, made_of)
            first = first or other
            if other:
                continue
            raise RuntimeError(
                f"{run.name} is being trained by another process, in {run.folder}: wait until it "
                "is finished and run this again to load it, or take another name"
            ) from None


def _begin(run, made_of):
    for path in (run.folder / "history.csv", *_checkpoints(run.folder)):
        remove(path)
    began = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    content = {"id": uuid.uuid4().hex, "began": began, "made_of": made_of}
    write_json(run.folder / "run.json", content)


def _fit(model, run, train_batches, valid_batches, epochs, class_weight, callbacks):
    """Train from the last checkpoint, or from the beginning, to the last epoch."""
    _TRAINED.update(x for x in model.layers if x.weights)
    done = _resume(model, run)
    epochs = min(epochs, run.facts.get("stopped_after", epochs))
    if done < epochs:
        going_on = f", going on after epoch {done}" if done else ""
        images = len(train_batches.y_true)
        print(f"{run.name}: {images:,} images, epochs {done + 1} to {epochs}{going_on}")
        if done:
            resumed_after = [*run.facts.get("resumed_after", []), done]
            write_json(run.folder / "run.json", run.facts | {"resumed_after": resumed_after})
    # Metrics make their variables when they are first asked; asked in `fit`, the step of training
    # is traced twice, which takes seconds.
    model.evaluate(valid_batches.dataset().take(1), verbose=0)
    model.fit(
        train_batches.dataset(epochs_done=done),
        validation_data=valid_batches.dataset(),
        epochs=epochs,
        initial_epoch=done,
        shuffle=False,  # the data set shuffles
        verbose=2,
        class_weight=class_weight,
        # The record comes last: what the others change in an epoch belongs to it.
        callbacks=[*callbacks, _Record(run, done)],
    )


def _checkpoints(folder):
    """Of a run, the latest first; the name has the number of epochs that are in it."""
    return sorted(folder.glob(f"checkpoint_{'[0-9]' * 5}.weights.h5"), reverse=True)


def _resume(model, run):
    """Load the last checkpoint that is whole; how many epochs it has."""
    for path in _checkpoints(run.folder):
        done = int(path.name.split("_")[1].split(".")[0])
        try:
            if run.history.index.tolist()[:done] != list(range(1, done + 1)):
                raise ValueError(f"history.csv does not have its {done} epochs")
            model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            print(f"{run.name}: {path.name} is set aside, as it cannot be used: {error}")
            _begin_at_start(model)
        else:
            return done
    return 0


def _wait_for(table):
    """Wait while Excel has a table open under Windows: it is not worth a night's training."""
    while True:
        try:
            return check_replaceable(table)
        except PermissionError as error:
            print(f"{error}; the training waits")
            time.sleep(SECONDS_TO_WAIT)


def _remove_checkpoints(checkpoints):
    for path in checkpoints:
        with suppress(OSError):  # Windows keeps what is open in another program: they do no harm
            remove(path)


class _Record(keras.callbacks.Callback):
    """After each epoch: its line in the history, then a checkpoint, each whole or not there."""

    def __init__(self, run, done):
        super().__init__()
        self.run, self.folder = run, run.folder
        self.rows = run.history.head(done).reset_index().to_dict("records") if done else []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()
        self._bar = tqdm(total=self.params["steps"], desc=f"epoch {epoch + 1}", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()

    def on_epoch_end(self, epoch, logs):
        self._bar.close()
        if not np.isfinite(logs["loss"]):
            raise ValueError(
                f"the loss of epoch {epoch + 1} is {logs['loss']}: the training has diverged, try "
                "a lower learning rate"
            )
        if self.model.stop_training:  # by another callback; else a run that goes on would not know
            write_json(self.run.folder / "run.json", self.run.facts | {"stopped_after": epoch + 1})
        seconds = round(time.perf_counter() - self._start, 2)
        self.rows.append({"epoch": epoch + 1, **logs, "seconds": seconds})
        table = pd.DataFrame(self.rows)
        _wait_for(self.folder / "history.csv")
        with replaced_when_done(self.folder / "history.csv") as partial:
            table.assign(epoch=table["epoch"] - 1).to_csv(partial, index=False)
        self._keep_weights(epoch + 1)

    def on_train_end(self, logs=None):
        if self.rows:  # early stopping may have gone back to the best epoch
            self._keep_weights(self.rows[-1]["epoch"])

    def _keep_weights(self, epochs):
        earlier = _checkpoints(self.folder)
        path = self.folder / f"checkpoint_{epochs:05}.weights.h5"
        with replaced_when_done(path) as partial:
            self.model.save_weights(partial)
        _remove_checkpoints(each for each in earlier if each != path)


def _score_and_keep(model, run, valid_batches, average_views):
    """Write predictions, weights and, last, that the run is finished."""
    prepared_of(run)  # the test split may have been drawn anew since this training began
    model = with_policy(model)  # what computed in bfloat16 would be slow on the next machine
    predictions = {}
    further = [x for output in model.outputs[1:] for x in model.layers if x.output is output]
    for batches in (valid_batches, valid_batches.of("test")):
        answers = [
            model.predict(batches.dataset(images=images), verbose=0)
            for images in (views(batches.images) if average_views else [batches.images])
        ]
        predictions[f"{batches.split}_true"] = batches.y_true.astype(np.uint8)
        for number, name in enumerate(["", *(f"_{x.name}" for x in further)]):
            of_output = [keras.tree.flatten(each)[number] for each in answers]
            # The first view is the images as they are.
            predictions[f"{batches.split}_probabilities{name}"] = of_output[0]
            if average_views:
                predictions[f"{batches.split}_averaged{name}"] = np.mean(of_output, axis=0)
    scores = evaluate(valid_batches.y_true, predictions["valid_probabilities"])
    with replaced_when_done(run.folder / "predictions.npz") as partial:
        np.savez_compressed(partial, **predictions)
    if run.is_finished:  # only the views were missing
        return
    save_architecture_and_weights(model, run.folder)
    facts = {
        "finished": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "train_images": run.facts["made_of"]["given"]["images"],
        "parameters": list(count_parameters(model)),
        "weights_sha256": sha256_of(run.folder / WEIGHTS_NAME),
        "versions": _versions(),
    }
    write_json(run.folder / "run.json", run.facts | facts)
    _remove_checkpoints(_checkpoints(run.folder))
    print(f"{run.name}: {scores['accuracy']:.1%} of {scores['n']:,} validation images")


def prepared_of(run):
    """The data that a run learned from: utils.data.prepared.PreparedDataset.

    Raises
    ------
    ValueError
        If those prepared here are others: what it learned from may be in the test split now.
    """
    made_of = run.facts["made_of"]
    prepared = load_prepared(made_of["batches"]["dataset"], made_of["batches"]["split_name"])
    if made_of["data"] != fingerprint(prepared):
        raise ValueError(
            f"{prepared.folder} holds other images than {run.name} learned from, or others in its "
            "splits, expected the same: prepare that copy again with the same seed, or train anew"
        )
    return prepared


def _versions():
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "devices": max(1, len(tf.config.list_physical_devices("GPU"))),
    }


def reference(name):
    """One of our runs, by its name; FileNotFoundError if there is none. It needs no data."""
    return _find(name, [config.REFERENCE_DIR])


def load_run(name):
    """One of your finished runs, by its name; FileNotFoundError if there is none."""
    return _find(name, config.runs_dirs())


def _find(name, folders):
    found = [run for folder in folders if (run := Run(folder / name)).is_finished]
    if not found:
        where = " or ".join(f"{folder} (there are {[*load_runs(folder)[0]]})" for folder in folders)
        raise FileNotFoundError(f"no finished run {name!r} in {where}")
    return found[0]  # of two runs of a name, that on full data


def load_runs(folder):
    """What runs are below a folder.

    Parameters
    ----------
    folder : pathlib.Path
        ``outputs/runs/``, ``outputs/reference/``, or somebody else's.

    Returns
    -------
    finished, unfinished : dict of str to Run
        By the name of their folder.
    """
    finished, unfinished = {}, {}
    for path in sorted(folder.glob("*/run.json")):
        run = Run(path.parent)
        (finished if run.is_finished else unfinished)[run.name] = run
    return finished, unfinished


def tabulate(runs, split="valid", averaged=False):
    """Scores and cost of runs, computed from their predictions and histories.

    Parameters
    ----------
    runs : sequence of Run
    split : {"valid", "test"}
    averaged : bool
        The mean over several views of each image, for runs with ``average_views``.

    Returns
    -------
    pandas.DataFrame
        Indexed by run: whose, parameters, epochs, minutes, n, accuracy, low, high, macro F1.
    """
    rows = []
    for run in runs:
        scores = evaluate(*run.predictions(split, averaged))
        rows.append(
            {
                "run": run.name,
                "whose": "ours" if run.is_reference else "yours",
                "parameters": sum(run.facts["parameters"]),
                "epochs": run.epochs,
                "minutes": round(run.seconds / 60, 1),
                **{key: scores[key] for key in ("n", "accuracy", "low", "high")},
                "macro F1": scores["macro_f1"],
            }
        )
    return pd.DataFrame(rows).set_index("run")
