"""A run: spec -> history, metrics, predictions and weights in ``outputs/runs/<name>/``.

A finished run is loaded, an interrupted one goes on from its last epoch. The spec of a run that
is in git trains again under another name, to be laid beside it:

    python tasks.py train emotion_fer --as my_emotion_fer
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from tqdm.auto import tqdm

from utils import config
from utils.auxiliary import (
    AUXILIARY_CLASSES,
    add_labels,
    add_outputs,
    build_accuracy,
    build_loss,
)
from utils.contracts import ModelContract, find_pretrained
from utils.data import CLASSES, SPLITS, face_input_for, fingerprint, load_prepared, load_split
from utils.distribution import (
    SharedModel,
    check_shares,
    choose_strategy,
    is_chief,
    wait_for_all,
)
from utils.evaluation import evaluate
from utils.ferplus import load_votes, soften
from utils.files import read_json, remove, replaced_when_done, sha256_of, write_json
from utils.models import (
    build,
    count_parameters,
    load_architecture_and_weights,
    load_pretrained,
    save_model,
    split_frozen,
)
from utils.normalization import adapt_normalization, renew_statistics
from utils.pipeline import make_dataset, one_hot, views

# Below this many images in a run, timing both precisions costs more than the faster one saves.
IMAGES_WORTH_TIMING = 10_000
FEATURE_DTYPE = np.float16  # half the disk of float32
FEATURE_FILES = {split: f"features_{split}.npy" for split in ("train", "valid")}
ANSWERS_FILE = "teachers.npy"


@dataclass(frozen=True)
class RunSpec:
    """All that decides a training run; the defaults are the report's recipe.

    Parameters
    ----------
    name : str
        Folder below ``outputs/runs/``.
    dataset : {"fer2013", "utkface"}
    architecture : str
        Key of `utils.models.BUILDERS`.
    epochs : int
    arguments : dict
        Of the builder.
    class_names : tuple of str
        Empty for all classes of the data set.
    height, width : int
        Input size in pixels.
    colour : {"grey", "rgb"}
    split_name : {"default", "report"}
        Split of UTKFace.
    learning_rate : float
    batch_size, evaluation_batch_size : int
    optimizer : {"adam", "sgd"}
        "sgd" has Nesterov momentum 0.9.
    schedule : {"constant", "cosine"}
        "cosine" falls to 0 at the last step.
    weight_decay : float
        Decoupled, on kernels only.
    label_smoothing : float
    augmentation : {"none", "flip", "strong", "heavy", "camera"}
    mixup : float
        Above 0, see `utils.pipeline.make_dataset`.
    class_weight : {"none", "balanced"}
        "balanced" counts each image by the inverse frequency of its class.
    ema : float
        Above 0, what is kept at the end is the moving average of the weights over the steps, with
        this momentum.
    labels : {"own", "ferplus"}
        "ferplus" learns from the shares of ten people's votes; validation and test keep their own.
    teachers : tuple of str
        Names of shipped networks or, where none has that name, of finished runs whose weights are
        on this machine. What is learned is then half the label and half the mean of their answers
        to the image, each of these averaged over `utils.pipeline.views`.
    initial_weights : str
        Name of a shipped network of the same architecture, arguments, input and classes, from
        whose weights training goes on (fine-tuning); empty for random ones. Shipped weights are
        rounded to float16 and calibrated, see `utils.models.calibrate`.
    auxiliary : tuple of {"age", "race"}
        What a network of UTKFace has to tell as well while it is trained, see `utils.auxiliary`.
    precision : {"auto", "float32", "bfloat16"}
        "auto" takes bfloat16 where one device trains, has it and is faster with it.
    seed : int
    evaluate_at : tuple of int
        Epochs after which the network is scored as well, without averaged weights and renewed
        statistics; the last epoch always is.
    renew_statistics : bool
        Batch normalisation measures its means and variances anew at the end, on training images
        that are flipped at most, see `utils.normalization.renew_statistics`.
    average_views : bool
        Score also the mean over `utils.pipeline.views` of each image.
    """

    name: str
    dataset: str
    architecture: str
    epochs: int
    arguments: dict = field(default_factory=dict)
    class_names: tuple = ()
    height: int = 48
    width: int = 48
    colour: str = "grey"
    split_name: str = "default"
    learning_rate: float = 1e-4
    batch_size: int = 70
    evaluation_batch_size: int = 50
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: str = "flip"
    mixup: float = 0.0
    class_weight: str = "none"
    ema: float = 0.0
    labels: str = "own"
    teachers: tuple = ()
    initial_weights: str = ""
    auxiliary: tuple = ()
    precision: str = "auto"
    seed: int = 0
    evaluate_at: tuple = ()
    renew_statistics: bool = False
    average_views: bool = False

    def __post_init__(self):
        for name, allowed in (
            ("dataset", tuple(CLASSES)),
            ("optimizer", ("adam", "sgd")),
            ("schedule", ("constant", "cosine")),
            ("precision", ("auto", "float32", "bfloat16")),
            ("class_weight", ("none", "balanced")),
            ("labels", ("own", "ferplus")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        if self.labels == "ferplus" and (self.dataset != "fer2013" or self.class_names):
            raise ValueError(
                f"labels is 'ferplus', which is for all classes of fer2013, not for "
                f"{self.dataset} with {self.classes}"
            )
        setting = (self.dataset, self.architecture, self.class_weight)
        if self.auxiliary and (
            set(self.auxiliary) - set(AUXILIARY_CLASSES)
            or setting != ("utkface", "compact", "none")
        ):
            raise ValueError(
                f"auxiliary is {self.auxiliary}, expected some of {tuple(AUXILIARY_CLASSES)}, with "
                f"dataset 'utkface', architecture 'compact' and class_weight 'none', not {setting}"
            )
        for name in ("teachers", "initial_weights"):
            if getattr(self, name) and self.split_name != "default":
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: shipped networks learned on the default "
                    f"split and may know validation and test images of {self.split_name!r}"
                )
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, expected at least 1")
        if not all(1 <= epoch <= self.epochs for epoch in self.evaluate_at):
            raise ValueError(f"evaluate_at is {self.evaluate_at}, expected 1 to {self.epochs}")

    @classmethod
    def from_json(cls, content):
        """The spec in the content of a ``spec.json``."""
        content = dict(content)
        for name in ("class_names", "evaluate_at", "teachers", "auxiliary"):
            content[name] = tuple(content.get(name, ()))  # older runs lack the last two
        return cls(**content)

    @property
    def classes(self):
        """Class names in the order of the outputs."""
        return self.class_names or CLASSES[self.dataset]

    @property
    def contract(self):
        """What a user of the trained network must know."""
        return ModelContract(
            architecture=self.architecture,
            arguments=self.arguments,
            class_names=self.classes,
            face_input=face_input_for(self.dataset, self.height, self.width, self.colour),
            trained_on=f"{self.dataset}, run {self.name}",
        )


@dataclass(frozen=True)
class Run:
    """A finished run on disk.

    Parameters
    ----------
    folder : pathlib.Path
    spec : RunSpec
    """

    folder: Path
    spec: RunSpec

    @property
    def history(self):
        """Loss and accuracy of each epoch: pandas.DataFrame indexed by epoch, from 1."""
        table = pd.read_csv(self.folder / "history.csv")
        # A run killed between the line and the backup writes the line of that epoch twice.
        table = table.drop_duplicates("epoch", keep="last")
        table["epoch"] += 1
        return table.set_index("epoch")

    @property
    def epochs_done(self):
        """How many epochs the history has: 0 also while the first is trained."""
        path = self.folder / "history.csv"
        return len(self.history) if path.is_file() and path.stat().st_size else 0

    @property
    def metrics(self):
        """Content of ``metrics.json``."""
        return read_json(self.folder / "metrics.json")

    def scores(self, epoch, split):
        """What `evaluate` gave after an epoch, or None where the run was not scored then."""
        at_epochs = {**self.metrics["at_epoch"], str(self.spec.epochs): self.metrics}
        return at_epochs.get(str(epoch), {}).get(split)

    def predictions(self, split, averaged=False):
        """Labels and probabilities of ``"valid"`` or ``"test"`` after the last epoch.

        Parameters
        ----------
        split : {"valid", "test"}
        averaged : bool
            The mean over several views of each image, for runs with ``average_views``.

        Returns
        -------
        y_true : numpy.ndarray, int, (n,)
        probabilities : numpy.ndarray, float32, (n, num_classes)
        """
        with np.load(self.folder / "predictions.npz") as stored:
            key = f"{split}_averaged" if averaged else f"{split}_probabilities"
            return stored[f"{split}_true"], stored[key].astype(np.float32)

    def load_model(self):
        """The trained network, float32, from the report's pair of files.

        Raises
        ------
        FileNotFoundError
            If the weights, which are not kept in git, are not on this machine.
        """
        if not (self.folder / "model.weights.h5").is_file():
            raise FileNotFoundError(
                f"{self.folder} has no weights (they are not kept in git): python tasks.py train "
                f"{self.folder.name} --as another_name makes them again"
            )
        return load_architecture_and_weights(self.folder)


def train(spec):
    """Train a network, go on with an interrupted run, or load a finished one.

    Several GPUs or machines share each batch, see `utils.distribution`; machines share the
    project folder as well, and the first of them writes the run. Taught in notebooks 03 and 04.

    Parameters
    ----------
    spec : RunSpec

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the folder of that name belongs to another spec, with the fields that differ, or to
        other images than those that are prepared; or a batch cannot be shared, or a teacher has
        another input or other classes or learned on other images, or the network of the initial
        weights is another one.
    FileNotFoundError
        If the data are not prepared, or a network that the spec names is not there.
    """
    strategy = choose_strategy()
    folder = config.runs_dir(spec.dataset) / spec.name
    _refuse_another_spec(folder, spec)
    run = Run(folder, spec)
    if (folder / "metrics.json").is_file():
        _refuse_other_images(run)
        print(f"{spec.name}: finished before, loaded from outputs")
        if is_chief():
            _remove_leftovers(folder)
        return run

    initial_weights = _initial_weights(spec) if spec.initial_weights else None
    teachers = [_load_teacher(spec, name) for name in spec.teachers]
    data = {split: _load(spec, split) for split in SPLITS}
    if is_chief():
        _claim_folder(folder, spec)
    num_images = len(data["train"][0])
    check_shares(num_images, spec.batch_size, strategy)
    check_shares(len(data["valid"][0]), spec.evaluation_batch_size, strategy)
    if teachers:
        images, y_true = data["train"]
        data["train"] = images, _mix_with_teachers(teachers, folder, spec, images, y_true)
    precision = _decide_precision(folder, spec, num_images, strategy)
    if is_chief() and 0 < run.epochs_done < spec.epochs:
        write_json(folder / "resumed.json", [*_resumed_after(folder), run.epochs_done])
    print(f"{spec.name}: {num_images:,} training images, {spec.epochs} epochs, {precision}")

    keras.utils.set_random_seed(spec.seed)
    with strategy.scope():
        model = _build_for_training(spec, precision, strategy.num_replicas_in_sync)
        if initial_weights:
            model.set_weights(initial_weights)
        trained_part, features = model, data
        if spec.auxiliary:  # of the compact network, in which no layer is frozen
            trained_part = add_outputs(model, spec.auxiliary)
            features = {
                split: (images, add_labels(y_true, spec, split))
                for split, (images, y_true) in data.items()
            }
        elif strategy.num_replicas_in_sync == 1:
            trained_part, features = _without_frozen(model, folder, spec, data)
        if strategy.num_replicas_in_sync > 1:
            trained_part = SharedModel(trained_part.inputs, trained_part.outputs)
        _compile(trained_part, spec, steps=spec.epochs * -(-num_images // spec.batch_size))
    # Begun with the same seed, a run that goes on would meet its first epochs' images once more.
    going_on = replace(spec, seed=spec.seed + run.epochs_done)
    trained_part.fit(
        _batches(going_on, *features["train"], training=True),
        validation_data=_batches(spec, *features["valid"]),
        epochs=spec.epochs,
        shuffle=False,  # the data set shuffles
        verbose=2 if is_chief() else 0,
        class_weight=_class_weight(spec, data["train"][1]),
        callbacks=_callbacks(folder, spec),
    )
    if is_chief():
        _score(folder, spec, model, trained_part, data, precision, strategy)
        _remove_leftovers(folder)
    wait_for_all(strategy)
    return run


def _score(folder, spec, model, trained_part, data, precision, strategy):
    """Write predictions, weights and, last, metrics."""
    print(f"{spec.name}: scoring ...")
    # A bfloat16 model would be slow on the next machine: what is kept and scored is float32.
    trained = build(spec.contract, **_without_download(spec))
    trained.set_weights(model.get_weights())
    if spec.renew_statistics:
        augmentation = "none" if spec.augmentation == "none" else "flip"
        unchanged = replace(spec, augmentation=augmentation, mixup=0.0)
        renew_statistics(trained, _batches(unchanged, *data["train"], training=True))

    def predict(images, y_true):
        return trained.predict(_batches(spec, images, y_true), verbose=0)

    metrics, predictions = {"epoch": spec.epochs}, {}
    for split in ("valid", "test"):
        images, y_true = data[split]
        answers = [predict(x, y_true) for x in (views(images) if spec.average_views else [images])]
        probabilities = answers[0]  # the first view is the image itself
        metrics[split] = evaluate(y_true, probabilities)
        predictions[f"{split}_true"] = y_true.astype(np.uint8)
        predictions[f"{split}_probabilities"] = probabilities
        if spec.average_views:
            averaged = np.mean(answers, axis=0)
            metrics[f"{split}_averaged"] = evaluate(y_true, averaged)
            predictions[f"{split}_averaged"] = averaged
    with replaced_when_done(folder / "predictions.npz") as partial:
        np.savez_compressed(partial, **predictions)
    save_model(trained, spec.contract, folder)

    metrics["at_epoch"] = {}
    for epoch in sorted(set(spec.evaluate_at) - {spec.epochs}):
        trained_part.load_weights(_snapshot_path(folder, epoch))
        trained.set_weights(model.get_weights())
        metrics["at_epoch"][str(epoch)] = {
            split: evaluate(data[split][1], predict(*data[split])) for split in ("valid", "test")
        }

    seconds = Run(folder, spec).history["seconds"]
    frozen_seconds = sum(_frozen_seconds(folder).values())
    num_images = len(data["train"][0])
    trainable, frozen = count_parameters(trained)
    initial = spec.initial_weights
    metrics |= {
        "train_images": num_images,
        "trainable_parameters": trainable,
        "non_trainable_parameters": frozen,
        "precision": precision,
        "devices": strategy.num_replicas_in_sync,
        "frozen_seconds": round(frozen_seconds, 1),
        "resumed_after": _resumed_after(folder),
        "wall_seconds": round(float(seconds.sum()) + frozen_seconds, 1),
        "images_per_second": round(num_images / float(seconds.median()), 1),
        "data": fingerprint(load_prepared(spec.dataset, spec.split_name)),
        "teachers": {name: _checksum(spec, name) for name in spec.teachers},
        "initial_weights": {initial: find_pretrained(initial)[1].weights_sha256} if initial else {},
        "versions": _versions(),
    }
    write_json(folder / "metrics.json", metrics)


def _checksum(spec, name):
    """Of a teacher's weights: another one may have that name some day."""
    run = _run_that_teaches(spec, name)
    if run:
        return sha256_of(run.folder / "model.weights.h5")
    return find_pretrained(name)[1].weights_sha256


def load_run(folder):
    """The run, finished or not, in a folder of its own.

    Raises
    ------
    FileNotFoundError
        If there is no ``spec.json``.
    """
    return Run(folder, RunSpec.from_json(read_json(folder / "spec.json")))


def load_runs(folder):
    """Read what runs are below a folder.

    Parameters
    ----------
    folder : pathlib.Path
        ``outputs/runs/`` or somebody else's.

    Returns
    -------
    finished, unfinished : dict of str to Run
        By the name of their folder.
    """
    finished, unfinished = {}, {}
    for path in sorted(folder.glob("*/spec.json")):
        run = load_run(path.parent)
        done = (path.parent / "metrics.json").is_file()
        (finished if done else unfinished)[path.parent.name] = run
    return finished, unfinished


def tabulate(runs):
    """Accuracies, speed and cost of runs.

    Parameters
    ----------
    runs : list of Run

    Returns
    -------
    pandas.DataFrame
        A row for each run, indexed by name; accuracies are those after the last epoch, images/s
        are training images by the time of an epoch, in which validation is included. Minutes are
        those of all epochs and of frozen layers that were computed once.
    """
    rows = [
        {
            "run": run.folder.name,
            "validation": metrics["valid"]["accuracy"],
            "test": metrics["test"]["accuracy"],
            "low": metrics["test"]["low"],
            "high": metrics["test"]["high"],
            "n": metrics["test"]["n"],
            "macro F1": metrics["test"]["macro_f1"],
            "images/s": metrics["images_per_second"],
            "minutes": metrics["wall_seconds"] / 60,
            "computed in": metrics["precision"],
        }
        for run in runs
        for metrics in [run.metrics]
    ]
    return pd.DataFrame(rows).set_index("run")


def supports_bfloat16():
    """Say whether this processor computes in bfloat16 (Linux tells; elsewhere: no)."""
    cpu_facts = Path("/proc/cpuinfo")
    if not cpu_facts.is_file():
        return False
    words = set(cpu_facts.read_text(encoding="utf-8").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _difference(folder, spec):
    """Fields in which the folder's spec is another one: name to (stored, asked)."""
    path = folder / "spec.json"
    if not path.is_file():
        return {"name": (None, spec.name)}
    # Fields that a stored spec does not have had their default then.
    stored, asked = (asdict(x) for x in (RunSpec.from_json(read_json(path)), spec))
    stored, asked = (json.loads(json.dumps(content)) for content in (stored, asked))
    return {name: (stored[name], asked[name]) for name in asked if stored[name] != asked[name]}


def _refuse_another_spec(folder, spec):
    differing = _difference(folder, spec)
    if differing and Run(folder, spec).epochs_done:  # else nothing is lost
        raise ValueError(
            f"{folder} holds a run of another spec, (stored, asked): {differing}; give this run "
            "another name or delete the folder"
        )


def _refuse_other_images(run):
    # Else its predictions would be laid beside rows of other images, without a word.
    prepared = load_prepared(run.spec.dataset, run.spec.split_name)
    if run.metrics.get("data") not in (None, fingerprint(prepared)):  # the first runs have none
        raise ValueError(
            f"{run.folder} is a run on other images or splits than {prepared.folder} holds: delete "
            f"{prepared.folder} and prepare it as the run had it (notebooks 01 and 02 with their "
            "own seed), or give this run another name"
        )


def _claim_folder(folder, spec):
    if _difference(folder, spec):
        _remove_leftovers(folder)  # what another spec has begun
        write_json(folder / "spec.json", asdict(spec))


def _remove_leftovers(folder):
    """Remove what a run needs only until it is finished."""
    begun = ("backup", "snapshots", "precision.json", "frozen.json", "resumed.json")
    for name in (*begun, ANSWERS_FILE, *FEATURE_FILES.values()):
        remove(folder / name)


def _load(spec, split):
    stored = spec.contract.face_input.stored  # larger inputs are interpolated batch by batch
    images, y_true, _ = load_split(spec.dataset, split, stored, spec.classes, spec.split_name)
    if split == "train" and spec.labels == "ferplus":
        y_true, num_without = soften(load_votes("train"), y_true)
        print(f"{spec.name}: {num_without} images without a vote for an emotion keep their label")
    return images, y_true


def _run_that_teaches(spec, name):
    """The finished run of that name, or None where a network is shipped by it."""
    if (config.PRETRAINED_DIR / f"{name}.npz").is_file():
        return None
    folder = config.runs_dir(spec.dataset) / name
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(
            f"teacher {name} is neither a network in {config.PRETRAINED_DIR} nor a finished run in "
            f"{folder.parent}: train it first"
        )
    run = load_run(folder)
    if run.spec.split_name != spec.split_name:
        raise ValueError(
            f"teacher {name} learned on the split {run.spec.split_name!r} and may know validation "
            f"and test images of {spec.split_name!r}, expected one that learned on the latter"
        )
    _refuse_other_images(run)
    return run


def _load_teacher(spec, name):
    run = _run_that_teaches(spec, name)
    teacher, contract = (run.load_model(), run.spec.contract) if run else load_pretrained(name)
    theirs, ours = ((x.face_input, tuple(x.class_names)) for x in (contract, spec.contract))
    if theirs != ours:
        raise ValueError(
            f"teacher {name} has input and classes {theirs}, expected those of {spec.name}: {ours}"
        )
    return teacher


def _mix_with_teachers(teachers, folder, spec, images, y_true):
    """Half the label, half what the teachers say (Hinton et al. 2015, arXiv:1503.02531)."""
    path = folder / ANSWERS_FILE  # minutes of work, which an interrupted run need not do again
    if path.is_file():
        answers = np.load(path)
    else:
        print(f"{spec.name}: asking {' and '.join(spec.teachers)} about the training images ...")
        answers = np.mean(
            [
                teacher.predict(_batches(spec, view, y_true), verbose=0)
                for teacher in teachers
                for view in views(images)
            ],
            axis=0,
        )
        if is_chief():
            with replaced_when_done(path) as partial:
                np.save(partial, answers)
    return (one_hot(y_true, len(spec.classes)) + answers) / 2


def _initial_weights(spec):
    shipped, contract = load_pretrained(spec.initial_weights)
    theirs, ours = (
        # Read from JSON, tuples among the arguments are lists.
        (x.architecture, json.dumps(x.arguments, sort_keys=True), x.face_input, [*x.class_names])
        for x in (contract, spec.contract)
    )
    if theirs != ours:
        raise ValueError(
            f"initial_weights is {spec.initial_weights!r}, with architecture, input and classes "
            f"{theirs}, expected those of {spec.name}: {ours}"
        )
    return shipped.get_weights()


def _class_weight(spec, y_true):
    if spec.class_weight == "none":
        return None
    indices = y_true if y_true.ndim == 1 else y_true.argmax(axis=1)
    present = np.unique(indices)
    weights = compute_class_weight("balanced", classes=present, y=indices)
    return dict(zip(present.tolist(), weights.tolist()))


def _batches(spec, images, y_true, training=False):
    return make_dataset(
        images,
        y_true,
        num_classes=len(spec.classes),
        batch_size=spec.batch_size if training else spec.evaluation_batch_size,
        # A path holds features of frozen layers, of whatever size these have.
        input_size=None if isinstance(images, Path) else (spec.height, spec.width),
        augmentation=spec.augmentation if training else "none",
        mixup=spec.mixup if training else 0.0,
        shuffle_seed=spec.seed if training else None,
    )


def _without_frozen(model, folder, spec, data):
    """The part of the model that is trained, and what it gets of each split.

    The outputs of frozen layers are the same in each epoch, unless the images change.
    """
    frozen, trained_part = split_frozen(model)
    if frozen is None or spec.augmentation != "none":
        return model, data
    return trained_part, {
        split: (_features(frozen, folder, spec, split, *data[split]), data[split][1])
        for split in FEATURE_FILES
    }


def _features(frozen, folder, spec, split, images, y_true):
    """Path of the outputs of the frozen layers, computed where it is not there yet."""
    path = folder / FEATURE_FILES[split]
    if not path.is_file():
        start = time.perf_counter()
        batches = _batches(spec, images, y_true)
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(FEATURE_DTYPE)),
            "fortran_order": False,
            "shape": (len(images), *frozen.output_shape[1:]),
        }
        with replaced_when_done(path) as partial, partial.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for batch, _ in tqdm(batches, desc=f"frozen layers, {split}", leave=False):
                stream.write(frozen.predict_on_batch(batch).astype(FEATURE_DTYPE).tobytes())
        seconds = {split: round(time.perf_counter() - start, 2)}
        write_json(folder / "frozen.json", _frozen_seconds(folder) | seconds)
    return path


def _frozen_seconds(folder):
    """Time that the frozen layers took, by split; empty where none were computed."""
    path = folder / "frozen.json"
    return read_json(path) if path.is_file() else {}


def _resumed_after(folder):
    """Epochs in the history at each resumption; from there a run drew other changes of images."""
    path = folder / "resumed.json"
    return read_json(path) if path.is_file() else []


def _build_for_training(spec, precision, num_devices=1):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return adapt_normalization(build(spec.contract), num_devices)
    finally:
        keras.config.set_dtype_policy(before)


def _without_download(spec):
    """Arguments for a copy whose weights are set at once: it needs no ImageNet weights."""
    return {"weights": None} if spec.architecture == "mobilenet" else {}


def _compile(model, spec, steps):
    learning_rate = spec.learning_rate
    if spec.schedule == "cosine":
        learning_rate = keras.optimizers.schedules.CosineDecay(spec.learning_rate, steps)
    weight_decay = spec.weight_decay or None
    average = {"use_ema": True, "ema_momentum": spec.ema} if spec.ema else {}
    if spec.optimizer == "adam":
        optimizer = keras.optimizers.Adam(learning_rate, weight_decay=weight_decay, **average)
    else:
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay, **average
        )
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if spec.auxiliary:
        loss = build_loss(len(spec.classes), spec.auxiliary, spec.label_smoothing)
        accuracy = build_accuracy(len(spec.classes))
    else:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=spec.label_smoothing)
        accuracy = "accuracy"
    model.compile(
        optimizer,
        loss=loss,
        metrics=[accuracy],
        # XLA, which Keras would choose, halves the speed of convolutions on CPUs.
        jit_compile=False,
    )


class _EpochClock(keras.callbacks.Callback):
    """Shows the progress of each epoch and adds its wall time to the logs, for CSVLogger."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()
        self._bar = tqdm(total=self.params["steps"], desc=f"epoch {epoch + 1}", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()

    def on_epoch_end(self, epoch, logs):
        self._bar.close()
        logs["seconds"] = round(time.perf_counter() - self._start, 2)


class _Snapshots(keras.callbacks.Callback):
    """Keeps the weights of the epochs that are scored besides the last one."""

    def __init__(self, folder, epochs):
        super().__init__()
        self.folder, self.epochs = folder, epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in self.epochs:
            with replaced_when_done(_snapshot_path(self.folder, epoch + 1)) as partial:
                self.model.save_weights(partial)


def _snapshot_path(folder, epoch):
    return folder / "snapshots" / f"epoch_{epoch}.weights.h5"


class _Restore(keras.callbacks.BackupAndRestore):
    """Goes on from the backup that another machine writes."""

    def _save_model(self):
        pass


def _callbacks(folder, spec):
    # Kept until the metrics are written: scoring can be interrupted too.
    backup = {
        "backup_dir": folder / "backup", "double_checkpoint": True, "delete_checkpoint": False,
    }  # fmt: skip
    if not is_chief():
        return [_Restore(**backup)]
    # The backup comes last: what is logged and kept for an epoch is there before it counts as done.
    return [
        _EpochClock(),
        keras.callbacks.CSVLogger(folder / "history.csv", append=True),
        _Snapshots(folder, spec.evaluate_at),
        keras.callbacks.BackupAndRestore(**backup),
    ]


def _decide_precision(folder, spec, num_images, strategy):
    """The spec's precision, or the measured one; an interrupted run keeps what it began with."""
    if strategy.num_replicas_in_sync > 1:  # each machine would measure for itself
        return "float32" if spec.precision == "auto" else spec.precision
    decided = folder / "precision.json"
    if decided.is_file():
        return read_json(decided)
    precision = spec.precision
    if precision == "auto":
        worth_timing = num_images * spec.epochs >= IMAGES_WORTH_TIMING
        if worth_timing and (supports_bfloat16() or tf.config.list_physical_devices("GPU")):
            print(f"{spec.name}: measuring whether float32 or bfloat16 is faster here ...")
            seconds = {name: _time_steps(spec, name) for name in ("float32", "bfloat16")}
            precision = min(seconds, key=seconds.get)
        else:
            precision = "float32"
    write_json(decided, precision)
    return precision


def _time_steps(spec, precision, steps=3):
    """Seconds for a few training steps on noise, after one that compiles."""
    model = _build_for_training(spec, precision)
    _compile(model, replace(spec, auxiliary=()), steps=100)
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (spec.batch_size, *model.input_shape[1:])).astype(np.float32)
    labels = keras.utils.to_categorical(
        noise.integers(0, len(spec.classes), spec.batch_size), len(spec.classes)
    )
    model.train_on_batch(images, labels)
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(images, labels)
    return time.perf_counter() - start


def _versions():
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def main(arguments=None):
    """Train the spec of a stored run again."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py train", description="Trains the spec of a stored run again."
    )
    stored = {path.parent.name: path for path in sorted(config.RUNS_DIR.glob("*/spec.json"))}
    parser.add_argument("run", choices=stored, help="folder below outputs/runs")
    parser.add_argument("--as", dest="name", required=True, help="name of the new run")
    options = parser.parse_args(arguments)
    spec = RunSpec.from_json(read_json(stored[options.run]))
    print(config.banner(spec.dataset))
    try:
        if config.is_sample_run(spec.dataset) and os.environ.get("FACELAB_SAMPLE") != "1":
            raise FileNotFoundError(
                f"there is no full {spec.dataset} ({config.WHERE_TO_GET}); FACELAB_SAMPLE=1 trains "
                "on the drawn sample, which teaches nothing"
            )
        run = train(replace(spec, name=options.name))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({split: run.metrics[split] for split in ("valid", "test")}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
