"""What a network and its training are made of, as lines that can be compared and read."""

import dis
import hashlib
import inspect
import re
import sys

PLAIN = (bool, int, float, str)


def describe(model, class_weight=None, callbacks=()):
    """All of a compiled model that decides what it learns, as JSON has it.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, compiled.
    class_weight : dict of int to float, optional
    callbacks : sequence of keras.callbacks.Callback

    Returns
    -------
    dict
        network (a line for each layer, without names, which are counted in each process),
        precision, frozen_weights (their checksum), optimizer, loss, class_weight, callbacks,
        steps_before (that `fit` has made already). Where all weights decay, decays says so.

    Raises
    ------
    ValueError
        If the model is a class of its own, which no file can describe.
    """
    compiled = model.get_compile_config()
    optimizer = compiled["optimizer"]
    # Loss scaling is a part of the precision "mixed_float16".
    optimizer = optimizer["config"].get("inner_optimizer", optimizer)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # Keras does not store what was excluded.
    spared = [x for x in model.trainable_variables if not inner._use_weight_decay(x)]
    all_decay = inner.weight_decay and not spared
    frozen = [w for layer in model.layers if not layer.trainable for w in layer.get_weights()]
    return {
        "network": _lines(model),
        "precision": " and ".join(sorted({x.dtype_policy.name for x in model.layers if x.weights})),
        "frozen_weights": checksum_of(frozen) if frozen else None,
        "optimizer": _plain(optimizer),
        "loss": _function(model.loss) or _own_loss(model.loss) or _plain(compiled["loss"]),
        "class_weight": class_weight and {str(k): float(v) for k, v in class_weight.items()},
        "callbacks": [f"{type(x).__name__}({_arguments(x)}){_own_code(x)}" for x in callbacks],
        "steps_before": int(model.optimizer.iterations.numpy()),
        **({"decays": "all weights"} if all_decay else {}),
    }


def _is_plain(value):
    """Whether a value says all of itself: a list does not, as a callback may fill it."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def checksum_of(weights):
    """SHA-256 of arrays, one after the other."""
    return hashlib.sha256(b"".join(x.tobytes() for x in weights)).hexdigest()


def _arguments(callback):
    """What a callback was made with; the rest of it is what it counts."""
    names = inspect.signature(type(callback).__init__).parameters
    known = {name: value for name, value in vars(callback).items() if name in names}
    if isinstance(known.get("min_delta"), float):
        known["min_delta"] = abs(known["min_delta"])  # Keras changes its sign when it begins
    known.pop("verbose", None)
    settings = {name: _function(x) or x for name, x in known.items()}
    return ", ".join(f"{name}={x}" for name, x in settings.items() if _is_plain(x))


def _own_code(callback):
    """What tells a callback of a notebook's own class from others of its name."""
    kind = type(callback)
    # Knows a command that is started as __main__; a notebook has none.
    spec = getattr(sys.modules.get(kind.__module__), "__spec__", None)
    if (spec.name if spec else "").startswith(("keras.", "utils.", "commands.")):
        return ""
    numbers = {k: x for k, x in vars(kind).items() if _is_plain(x) and not k.startswith("__")}
    code = [code for x in vars(kind).values() if (code := _function(x))]
    return "".join(f" {x}" for x in (*code, *([numbers] if numbers else [])))


def _function(function, callers=()):
    """What tells a function of one's own from others: its name and a checksum of its code.

    The numbers that it takes from around it count, and functions beside it that it calls.
    """
    if not inspect.isfunction(function):
        return None
    callers = (*callers, function)
    around = [x.cell_contents for x in function.__closure__ or ()]
    around += [function.__globals__.get(name) for name in _globals(function.__code__)]
    around += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    called = [
        _function(x, callers)
        for x in around
        if inspect.isfunction(x) and x.__module__ == function.__module__
        if x not in callers  # two that call each other would be followed for ever
    ]
    values = [x for x in around if _is_plain(x)]
    content = repr((_code(function.__code__), values, *called))
    return f"{function.__name__} {hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _own_loss(loss):
    """What tells a loss object of one's own class from others: its name, code and numbers."""
    if isinstance(loss, str) or type(loss).__module__.startswith("keras."):
        return None
    settings = {key: x for key, x in vars(loss).items() if _is_plain(x) and key != "name"}
    return f"{type(loss).__name__} {_function(type(loss).call)} {settings}"


def _code(code):
    """Of compiled code, all but where it stood."""
    constants = [
        # A set has another order in each process.
        _code(x) if inspect.iscode(x) else sorted(map(repr, x)) if type(x) is frozenset else x
        for x in code.co_consts
    ]
    return code.co_code, code.co_names, constants


def _globals(code):
    """Names that compiled code, and functions within it, take from around it, once each."""
    names = [x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL"]
    inner = [name for x in code.co_consts if inspect.iscode(x) for name in _globals(x)]
    return dict.fromkeys([*names, *inner])


def _lines(model):
    """A line for each layer: its class and settings, and the numbers of the layers before it."""
    try:
        layers = model.get_config()["layers"]
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{type(model).__name__} is a class of its own, which cannot be kept as a file: build "
            "the network by keras.Model(inputs, outputs) or keras.Sequential(layers)"
        ) from error
    numbers = {layer["config"]["name"]: number for number, layer in enumerate(layers)}
    classes = {layer.name: type(layer) for layer in model.layers}
    lines = []
    for layer in layers:
        inputs = [numbers[name] for name in _inputs(layer.get("inbound_nodes", []))]
        defaults = _defaults(classes.get(layer["config"]["name"]))
        settings = ", ".join(
            f"{key}={value}"
            for key, value in _plain(layer["config"]).items()
            if value != defaults.get(key)
        )
        # Of utils.networks.precision, which needs TensorFlow: it computes the same.
        kind = layer["class_name"].removeprefix("Fused")
        lines.append(f"{kind}({settings}) of {inputs}")
    return lines


def _defaults(kind):
    """Settings of a layer's class that need not be said; another Keras may have more of them."""
    parameters = inspect.signature(kind).parameters.values() if kind else ()
    defaults = {
        x.name: list(x.default) if type(x.default) is tuple else x.default for x in parameters
    }
    return defaults | {"trainable": True}


def _inputs(content):
    """Names of the layers in the calls of a layer, in their order."""
    if isinstance(content, dict):
        history = content.get("keras_history")
        return [history[0]] if history else _inputs(list(content.values()))
    if isinstance(content, (list, tuple)):
        return [name for each in content for name in _inputs(each)]
    return []


# Of a training, what another copy of the data or another machine makes differ.
DEPENDS_ON_COPY = ("data", "given", "decay_steps", "precision", "frozen_weights")
NO_SETTINGS = (
    *("name", "dtype", "build_config", "registered_name", "module", "data_format"),
    *("input_layers", "output_layers"),  # of a network within the network: names as well
)


def _plain(content):
    """A Keras configuration without names, types and what is not set."""
    if isinstance(content, dict):
        if content.get("class_name") == "function":
            return content["config"]  # its name
        if "class_name" in content and "config" in content:
            settings = _plain(content["config"])
            if not isinstance(settings, dict) or not settings:  # "GlorotUniform": "glorot_uniform"
                return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", content["class_name"]).lower()
            return {"class": content["class_name"], **settings}
        return {
            key: _plain(value)
            for key, value in content.items()
            if key not in NO_SETTINGS and value is not None
        }
    if isinstance(content, (list, tuple)):
        return [_plain(each) for each in content]
    # float32 numbers have digits that nobody wrote.
    return float(f"{content:.6g}") if isinstance(content, float) else content


def differences(one, other, besides=()):
    """In what two trainings differ, for people.

    Parameters
    ----------
    one, other : dict
        What they are made of, the earlier one first.
    besides : sequence of str
        Names, at any depth, that do not count.

    Returns
    -------
    list of str
        For instance "epochs 15, now 1"; empty if they are the same.
    """
    one, other = ({k: v for k, v in _flat(x) if not set(k) & set(besides)} for x in (one, other))
    found = []
    for key in {**one, **other}:
        before, now = one.get(key), other.get(key)
        if before == now:
            continue
        if key == ("network",) and before and now:
            found.append(_other_network(before, now))
        elif key[0] in ("data", "given"):
            found.append("another copy of the data, of its splits or labels")
        else:
            found.append(f"{' '.join(key)} {before}, now {now}")
    return list(dict.fromkeys(found))


def _flat(content, key=()):
    """Pairs of where a value stands and the value, of nested dictionaries."""
    if not isinstance(content, dict):
        return [(key, content)]
    return [pair for name, value in content.items() for pair in _flat(value, (*key, name))]


def _other_network(before, now):
    if len(before) != len(now):
        return f"a network of {len(before)} layers, now {len(now)}"
    number, old, new = next((i, a, b) for i, (a, b) in enumerate(zip(before, now)) if a != b)
    return f"layer {number} of the network {old}, now {new}"
