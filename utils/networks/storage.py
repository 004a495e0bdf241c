"""Networks on disk: the report's pair of files, and what is shipped, by its name."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from utils.files import replaced_when_done, sha256_of
from utils.models import BUILDERS, add_head
from utils.networks.contract import OWN_ARCHITECTURE, WEIGHTS_NAME, find_network
from utils.networks.precision import uncompiled
from utils.preprocessing import YEARS


def save_architecture_and_weights(model, folder):
    """Save the report's pair of files: ``architecture.json`` and ``model.weights.h5``."""
    folder, model = Path(folder), uncompiled(model)
    with replaced_when_done(folder / OWN_ARCHITECTURE) as partial:
        partial.write_text(model.to_json(indent=1), encoding="utf-8")
    with replaced_when_done(folder / WEIGHTS_NAME) as partial:
        model.save_weights(partial)


def check_that_it_loads(model):
    """Refuse a network whose architecture could not be read again from a file.

    Raises
    ------
    ValueError
        With what Keras says.
    """
    try:
        keras.models.model_from_json(uncompiled(model).to_json())
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            "this network cannot be loaded from a file, probably for a layer or function of one's "
            f"own: use Keras' own layers ({str(error).splitlines()[0]})"
        ) from error


def load_architecture_and_weights(folder):
    """Load the report's pair of files as a keras.Model."""
    model = load_architecture(folder)
    model.load_weights(Path(folder) / WEIGHTS_NAME)
    return model


def load_architecture(folder):
    """Build the network of an ``architecture.json``, with new weights: keras.Model."""
    text = (Path(folder) / OWN_ARCHITECTURE).read_text(encoding="utf-8")
    return keras.models.model_from_json(text)


def calibrate(model, temperature):
    """Divide the logits of a network by a temperature, in its last weights.

    Parameters
    ----------
    model : keras.Model
        With a dense layer before the softmax of its first output; it is changed.
    temperature : float
        See `utils.evaluation.fit_temperature`.

    Raises
    ------
    ValueError
        If a softmax does not directly follow one dense layer at the end.
    """
    last = _classifier(only_class(model))
    last.set_weights([weights / temperature for weights in last.get_weights()])


def only_class(model):
    """The part of a network that gives its first output, the class; layers are shared."""
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def join_age(model):
    """Make one output of two: probabilities of the classes and, last, the expected age.

    Parameters
    ----------
    model : keras.Model
        Its outputs are the class and the probabilities of `utils.preprocessing.YEARS`.

    Returns
    -------
    keras.Model
        float32 (n, num_classes + 1), of the same layers.
    """
    classes, years = model.outputs
    expected = keras.layers.Dense(1, use_bias=False, name="age")
    age = expected(years)
    expected.set_weights([np.array(YEARS, np.float32)[:, None]])
    joined = keras.layers.Concatenate(name="class_and_age")([classes, age])
    return keras.Model(model.inputs[0], joined, name=model.name)


def combine_outputs(model, weights, shift):
    """Make one output of several: softmax of the mean of their logits, less a shift.

    The mean of dense layers on the same features is one dense layer, so nothing is added.

    Parameters
    ----------
    model : keras.Model
        Each output is a softmax after a dense layer; the first one is changed.
    weights : sequence of float
        Of each output, with sum 1.
    shift : numpy.ndarray, float, (num_classes,)
        See `utils.evaluation.combine`.

    Returns
    -------
    keras.Model
        With the first output alone.

    Raises
    ------
    ValueError
        If a softmax does not directly follow one dense layer at each end.
    """
    parts = [keras.Model(model.inputs[0], output, name=model.name) for output in model.outputs]
    layers = [_classifier(part) for part in parts]
    kernels, biases = zip(*(layer.get_weights() for layer in layers))
    kernel, bias = (sum(w * x for w, x in zip(weights, each)) for each in (kernels, biases))
    layers[0].set_weights([kernel, bias - shift])
    return parts[0]


def _classifier(model):
    """The dense layer that a softmax directly follows at the end."""
    *_, end = model.layers
    last = [layer for layer in model.layers if layer.weights][-1]
    alone = end is last or end.input is last.output
    if not (isinstance(last, keras.layers.Dense) and alone):
        raise ValueError(
            f"{model.name} ends in {type(last).__name__} and {type(end).__name__}, expected a "
            "dense layer and a softmax: its logits cannot be changed in its weights"
        )
    return last


def save_network(model, contract, path):
    """Write what the loop loads: weights in float16 and, beside them, their contract.

    float16 halves the file; the weights are read back as float32.

    Parameters
    ----------
    model : keras.Model
    contract : utils.networks.contract.ModelContract
    path : pathlib.Path
        Of the weights, ``.npz``; the contract has the same name and ``.json``.
    """
    with replaced_when_done(path) as partial:
        np.savez_compressed(
            partial, *(weights.astype(np.float16) for weights in model.get_weights())
        )
    replace(contract, weights_sha256=sha256_of(path)).write(path.with_suffix(".json"))


def load_network(name, with_age=False):
    """Load a network by name: one in ``outputs/pretrained/``, or one that you shipped.

    Parameters, errors: see `utils.networks.contract.find_network` and `build_with_weights`.

    Returns
    -------
    model : keras.Model
        float32
    contract : utils.networks.contract.ModelContract
        Without age, no face is a child to it.
    """
    path, contract = find_network(name)
    model = build_with_weights(path, contract, with_age)
    return model, contract if with_age else replace(contract, child_below=0.0)


def build_with_weights(path, contract, with_age=False):
    """Build a network that `utils.networks.contract.find_network` has found: keras.Model.

    With age, one that has an output for it answers as `join_age` says; else by the class alone.
    """
    if contract.architecture == OWN_ARCHITECTURE:
        model = load_architecture(path.parent)
    else:
        shape, num_classes = contract.face_input.shape, len(contract.class_names)
        model = BUILDERS[contract.architecture](shape, num_classes, **contract.arguments)
        if contract.child_below:
            outputs = [model.output, add_head(model, "years", len(YEARS))]
            model = keras.Model(model.input, outputs, name=model.name)
    classes = only_class(model)
    # Of a run with votes, what is shipped has one output.
    shipped = join_age(model) if contract.child_below else classes
    with np.load(path) as weights:
        shipped.set_weights([array.astype(np.float32) for array in weights.values()])
    return shipped if with_age else classes
