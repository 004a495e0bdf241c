"""How a network beyond the notebooks' cells is trained: what each of our references was made by.

    python tasks.py train emotion_fer_distilled

A `Recipe` names data, labels, teachers, further outputs, changes of the images and the optimizer;
`train_recipe` makes a compiled model and batches of it, and hands them to `utils.training.train`.
"""

import inspect
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args, get_origin

import keras
import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from utils import config
from utils.data.batches import AUGMENTATIONS, load_batches
from utils.data.ferplus import load_votes, soften
from utils.models import BUILDERS
from utils.networks.precision import choose_policy, compute_capabilities, with_policy
from utils.networks.storage import load_network
from utils.preprocessing import CLASSES, face_input_for
from utils.recipes.auxiliary import (
    AUXILIARY_CLASSES,
    add_labels,
    add_outputs,
    build_accuracy,
    build_loss,
)
from utils.recipes.statistics import RenewStatistics
from utils.recipes.teachers import ask_teachers, patient_teachers
from utils.training import Run, check_name, train


@dataclass(frozen=True)
class Recipe:
    """All that decides a training; the defaults are the report's.

    `set_fields` reads texts by the types that stand here.

    Parameters
    ----------
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
    batch_size : int
    optimizer : {"adam", "sgd"}
        "sgd" has Nesterov momentum 0.9.
    schedule : {"constant", "cosine"}
        "cosine" falls to 0 at the last step.
    weight_decay : float
        Decoupled, on kernels only.
    label_smoothing : float
    augmentation : str
        See `utils.data.batches.build_augmentation`.
    mixup : float
        See `utils.data.batches.load_batches`.
    class_weight : {"none", "balanced"}
        "balanced" counts each image by the inverse frequency of its class.
    ema : float
        Above 0, what is kept is the exponential moving average of the weights over the steps.
    labels : {"own", "ferplus"}
        "ferplus" learns from the shares of ten people's votes; validation and test keep their own.
    teachers : tuple of str
        Networks whose mean answer is half of each label, see `utils.recipes.teachers`.
    patient : bool
        Teachers see each image as it is changed for the network, in each epoch, and are not asked
        once about the unchanged ones (Beyer et al. 2022, arXiv:2106.05237).
    initial_weights : str
        Name of a network of the same architecture from whose weights training goes on
        (fine-tuning), of whatever input size; empty for random ones.
    auxiliary : tuple of {"age", "race", "votes", "years"}
        Further outputs, see `utils.recipes.auxiliary`.
    seed : int
    renew_statistics : bool
        See `utils.recipes.statistics.RenewStatistics`.
    average_views : bool
        Score also the mean over `utils.data.batches.views` of each image.
    """

    dataset: Literal[tuple(CLASSES)]
    architecture: Literal[tuple(BUILDERS)]
    epochs: int
    arguments: dict = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    height: int = 48
    width: int = 48
    colour: Literal["grey", "rgb"] = "grey"
    split_name: Literal["default", "report"] = "default"
    learning_rate: float = 1e-4
    batch_size: int = 70
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Literal[AUGMENTATIONS] = "flip"
    mixup: float = 0.0
    class_weight: Literal["none", "balanced"] = "none"
    ema: float = 0.0
    labels: Literal["own", "ferplus"] = "own"
    teachers: tuple[str, ...] = ()
    patient: bool = False
    initial_weights: str = ""
    auxiliary: tuple[Literal[tuple(AUXILIARY_CLASSES)], ...] = ()
    seed: int = 0
    renew_statistics: bool = False
    average_views: bool = False

    @classmethod
    def of_reference(cls, run):
        """The recipe of one of our runs; ValueError if it is none."""
        content = run.facts.get("recipe")
        if content is None or set(content) - {x.name for x in fields(cls)}:
            raise ValueError(f"{run.folder / 'run.json'} holds no recipe, expected one of ours")
        return cls(**content)

    @property
    def classes(self):
        """Class names in the order of the outputs."""
        return tuple(self.class_names) or CLASSES[self.dataset]

    @property
    def face_input(self):
        """What the network wants to see."""
        return face_input_for(self.dataset, self.height, self.width, self.colour)


def settable(recipe):
    """What `set_fields` can change in a recipe.

    Returns
    -------
    dict of str to tuple
        Of fields, and of the builder's arguments as "arguments.NAME": the type, a Literal of the
        words that are known or a tuple of one of these; and the present value.
    """
    found = {x.name: (x.type, getattr(recipe, x.name)) for x in fields(recipe)}
    del found["arguments"]
    for x in inspect.signature(BUILDERS[recipe.architecture]).parameters.values():
        if x.default is not x.empty:
            kind = type(x.default)
            if kind is tuple:
                kind = tuple[type(x.default[0]) if x.default else str, ...]
            found[f"arguments.{x.name}"] = kind, recipe.arguments.get(x.name, x.default)
    return found


def set_fields(recipe, settings):
    """Change a recipe as a command line says.

    Parameters
    ----------
    recipe : Recipe
    settings : sequence of str
        Each "FIELD=VALUE", for instance "learning_rate=0.02" or, of the builder,
        "arguments.dropout=0.5"; several values are separated by commas. One after the other:
        another architecture begins with the defaults of its builder.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        If there is no such field, with those there are; or the value is below 0 or not of its type.
    """
    for setting in settings:
        name, _, text = setting.partition("=")
        known = settable(recipe)
        if name not in known:
            raise ValueError(
                f"{name!r} is nothing that can be set for the architecture "
                f"{recipe.architecture!r}, expected one of {', '.join(known)}"
            )
        value = _read(name, text, known[name][0])
        if value == () and name.startswith("arguments.") and known[name][1]:
            raise ValueError(f"{name} cannot be empty")
        least, below = _limits(name, value)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(x, (int, float)) and not least <= x < below for x in numbers):
            limit = f" and less than {below}" * (below < np.inf)
            raise ValueError(f"{name} cannot be {text}, expected {least} or more{limit}")
        if name == "architecture":
            recipe = replace(recipe, arguments={})
        elif name.startswith("arguments."):
            value = recipe.arguments | {name.removeprefix("arguments."): value}
            name = "arguments"
        recipe = replace(recipe, **{name: value})
    return recipe


def _limits(name, value):
    """From where on the numbers of a setting may lie, and below what."""
    if "dropout" in name or name in ("label_smoothing", "ema"):  # shares
        return 0, 1
    if name == "seed":
        return 0, 2**32
    if name == "arguments.scaled_to":
        return -np.inf, np.inf
    is_count = isinstance(value, tuple) or name in ("epochs", "batch_size", "height", "width")
    return int(is_count), np.inf


def _read(name, text, kind):
    """A text as a value of a type of `settable`."""
    if get_origin(kind) is tuple:
        return tuple(_read(name, each, get_args(kind)[0]) for each in text.split(",") if each)
    words = {"false": False, "true": True} if kind is bool else {x: x for x in get_args(kind)}
    try:
        return words[text] if words else kind(text)
    except (KeyError, ValueError):
        numbers = {int: "a whole number", float: "a number"}
        expected = numbers.get(kind) or f"one of {', '.join(words)}"
        raise ValueError(f"{name} cannot be {text!r}, expected {expected}") from None


def train_recipe(recipe, name, callbacks=()):
    """Train by a recipe, on all GPUs of this machine or on its processor.

    It computes in what is fastest there, see `utils.networks.precision.choose_policy`; what is kept
    is float32.

    Parameters
    ----------
    recipe : Recipe
    name : str
        Of the run in ``outputs/runs/``.
    callbacks : sequence of keras.callbacks.Callback
        Besides the recipe's own.

    Returns
    -------
    utils.training.Run

    Raises
    ------
    FileNotFoundError, ValueError, RuntimeError
        See `utils.training.train`; also if a network that the recipe names is not there, or is
        one of other classes, or the recipe's labels are not known of its data.
    """
    check_name(name)
    _check_labels(recipe)
    capabilities = compute_capabilities()
    policy = choose_policy(capabilities, _begun_in(recipe, name))
    devices = [f"a GPU of compute capability {x}.{y}" for x, y in capabilities]
    print(f"{name}: computes in {policy} on {' and '.join(devices) or 'the processor'}")
    names = ("split_name", "batch_size", "augmentation", "mixup", "seed")
    settings = {x: getattr(recipe, x) for x in names}
    given = load_batches(recipe.dataset, "train", recipe.face_input, recipe.classes, **settings)
    train_batches = _with_soft_labels(recipe, given, policy)
    valid_batches = given.of("valid")
    class_weight = None
    if recipe.class_weight == "balanced":
        present = np.unique(train_batches.y_true)
        weights = compute_class_weight("balanced", classes=present, y=train_batches.y_true)
        class_weight = dict(zip(present.tolist(), weights.tolist()))
    if recipe.renew_statistics:
        augmentation = "none" if recipe.augmentation == "none" else "flip"
        plain = replace(train_batches, augmentation=augmentation, mixup=0.0, teach=None)
        callbacks = [*callbacks, RenewStatistics(plain)]
    keras.utils.set_random_seed(recipe.seed)
    with _strategy().scope():
        model = keep = build(recipe, policy)
        if recipe.auxiliary:
            model, keep = add_outputs(keep, recipe.auxiliary)
            train_batches = add_labels(train_batches, recipe.auxiliary)
            valid_batches = add_labels(valid_batches, recipe.auxiliary)
        steps = recipe.epochs * -(-len(train_batches.y_true) // recipe.batch_size)
        compile_model(model, recipe, steps)
        return train(
            model,
            name,
            train_batches,
            valid_batches,
            recipe.epochs,
            class_weight=class_weight,
            callbacks=callbacks,
            average_views=recipe.average_views,
            keep=keep,
        )


def _begun_in(recipe, name):
    """Policies of the run that was begun under a name; empty if there is none."""
    run = Run(config.runs_dir(recipe.dataset) / name)
    return run.facts["made_of"]["precision"] if run.is_begun else ""


def _check_labels(recipe):
    if recipe.split_name != "default" and recipe.dataset != "utkface":
        raise ValueError(f"{recipe.dataset} has no split 'report', expected 'default'")
    asked = {*recipe.auxiliary, *["votes"] * (recipe.labels == "ferplus")}
    there = {"utkface": {"age", "race", "years"}, "fer2013": {"votes"}}[recipe.dataset]
    if recipe.classes != CLASSES[recipe.dataset]:
        there = set()  # votes are for all seven emotions
    if not asked <= there:
        raise ValueError(
            f"{recipe.dataset} with {len(recipe.classes)} classes has no labels for "
            f"{', '.join(sorted(asked - there))}, expected some of {sorted(there)} or none"
        )
    if recipe.auxiliary and recipe.class_weight != "none":
        raise ValueError(
            f"class_weight={recipe.class_weight} goes with one output, and this recipe has further "
            f"ones ({', '.join(recipe.auxiliary)}): leave one of both out"
        )
    if recipe.auxiliary and recipe.architecture not in ("compact", "vgg"):
        raise ValueError(
            f"the architecture {recipe.architecture!r} takes no further outputs, expected "
            "'compact' or 'vgg'"
        )


def _strategy():
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _with_soft_labels(recipe, batches, policy):
    """Training batches with people's votes, or half of what teachers say, as labels."""
    if recipe.labels == "ferplus":
        labels, num_without = soften(load_votes("train"), batches.y_true)
        print(f"{num_without} images without a vote for an emotion keep their label")
        batches = replace(batches, labels=labels, labels_from="votes")
    if recipe.teachers:
        labels_from = f"{batches.labels_from} and {' and '.join(recipe.teachers)}"
        if recipe.patient:
            teach = patient_teachers(recipe.teachers, batches, policy)
            batches = replace(batches, teach=teach, labels_from=f"{labels_from}, patient")
        else:
            answers = ask_teachers(recipe.teachers, batches, policy)
            labels = (batches.labels + answers) / 2
            batches = replace(batches, labels=labels, labels_from=labels_from)
    if recipe.initial_weights:
        labels_from = f"{batches.labels_from}, going on from {recipe.initial_weights}"
        batches = replace(batches, labels_from=labels_from)
    return batches


def build(recipe, policy="float32"):
    """Build the network of a recipe, not compiled: keras.Model that computes as a policy says."""
    builder = BUILDERS[recipe.architecture]
    model = builder(recipe.face_input.shape, len(recipe.classes), **recipe.arguments)
    fused = policy == "mixed_bfloat16" and not tf.config.list_physical_devices("GPU")
    model = with_policy(model, policy, fused)
    if recipe.initial_weights:
        shipped, contract = load_network(recipe.initial_weights)
        # Layers of equal weights may see images of another size.
        theirs = (contract.face_input.colour, contract.class_names, _shapes(shipped))
        ours = (recipe.face_input.colour, recipe.classes, _shapes(model))
        if theirs != ours:
            raise ValueError(
                f"{recipe.initial_weights} sees other colours, or has other classes or other "
                "layers than this recipe, expected the same: training cannot go on from its weights"
            )
        model.set_weights(shipped.get_weights())
    return model


def _shapes(model):
    return [weights.shape for weights in model.get_weights()]


def compile_model(model, recipe, steps):
    """Compile a model as a recipe says, for a training of so many steps."""
    learning_rate = recipe.learning_rate
    if recipe.schedule == "cosine":
        learning_rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    weight_decay = recipe.weight_decay or None
    average = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    if recipe.optimizer == "adam":
        optimizer = keras.optimizers.Adam(learning_rate, weight_decay=weight_decay, **average)
    else:
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay, **average
        )
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    # Keras does it by itself for a model of this policy, but not for one with further outputs.
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = "categorical_crossentropy"
    if recipe.label_smoothing:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    accuracy = "accuracy"
    if recipe.auxiliary:
        num_classes = len(recipe.classes)
        loss = build_loss(num_classes, recipe.auxiliary, recipe.label_smoothing)
        accuracy = build_accuracy(num_classes)
    model.compile(optimizer, loss, metrics=[accuracy])
