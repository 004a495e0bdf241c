import json

import keras
import numpy as np
import pytest

from utils.networks.structure import describe, differences
from utils.recipes.statistics import RenewStatistics

layers = keras.layers


def build(filters=4, activation="relu", optimizer=None, loss="categorical_crossentropy", **names):
    """A convolution with a shortcut and a dense layer, compiled."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(filters, 3, padding="same", activation=activation, **names)(inputs)
    x = layers.Concatenate()([x, inputs])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def test_names_and_first_weights_of_layers_do_not_matter():
    one, other = build(), build(name="my_convolution")
    assert one.layers[2].name != other.layers[2].name
    assert describe(one) == describe(other) and differences(describe(one), describe(other)) == []


def test_the_description_is_one_of_a_line_for_each_layer_that_survives_a_file():
    described = describe(build(), {0: 1, 1: 2.5}, [keras.callbacks.EarlyStopping(patience=3)])
    assert json.loads(json.dumps(described)) == described
    assert len(described["network"]) == 5
    assert described["network"][1].startswith("Conv2D(filters=4, kernel_size=[3, 3]")
    # Both inputs of the shortcut: the convolution and the images, by their numbers.
    assert described["network"][2].endswith("of [1, 0]")
    assert described["precision"] == "float32" and described["frozen_weights"] is None
    assert described["class_weight"] == {"0": 1.0, "1": 2.5} and described["steps_before"] == 0


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, {"filters": 5}, ["layer 1 of the network", "filters=4", "filters=5"]),
        ({}, {"activation": "elu"}, ["layer 1 of the network", "=relu", "=elu"]),
        (
            {"optimizer": keras.optimizers.SGD(0.1)},
            {"optimizer": keras.optimizers.SGD(0.2)},
            ["optimizer learning_rate 0.1, now 0.2"],
        ),
        ({}, {"optimizer": "adam"}, ["optimizer class SGD, now Adam"]),
        (
            {"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 50))},
            {"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 60))},
            ["optimizer learning_rate decay_steps 50, now 60"],
        ),
        ({}, {"loss": "mean_squared_error"}, ["loss categorical_crossentropy, now mean_squared"]),
    ],
)
def test_what_was_changed_is_named(one, other, said):
    found = "; ".join(differences(describe(build(**one)), describe(build(**other))))
    assert all(part in found for part in said), found


def test_the_code_of_a_callback_of_one_s_own_counts():
    def described(rate, every=None, epochs=()):
        class Fixed(keras.callbacks.Callback):
            def __init__(self, epochs):
                super().__init__()
                self.epochs = epochs

            def on_epoch_begin(self, epoch, logs=None):
                self.model.optimizer.learning_rate = rate

        Fixed.every = every
        return describe(build(), None, [Fixed(epochs)])

    (found,) = differences(described(0.1), described(0.2))
    assert found.startswith("callbacks ['Fixed(epochs=()) ") and " on_epoch_begin " in found
    (found,) = differences(described(0.1, 2), described(0.1, 3))
    assert "{'every': 2}" in found and "{'every': 3}" in found
    (found,) = differences(described(0.1, epochs=(5, 10)), described(0.1, epochs=(1, 2)))
    assert "epochs=(5, 10)" in found and "epochs=(1, 2)" in found
    assert described(0.1) == described(0.1)
    assert "RenewStatistics()" in str(describe(build(), None, [RenewStatistics(None)])["callbacks"])


def test_sets_have_no_order():
    assert str({0, 8}) != str({8, 0}), "as words have another one in each process"
    described = []
    for members in ("{0, 8}", "{8, 0}", "{0, 9}"):
        known = {"keras": keras}
        exec(f"def loss(y, p):\n    return y if 3 in {members} else p", known)
        described.append(describe(build(loss=known["loss"])))
    assert described[0] == described[1] != described[2]


def test_what_weight_decay_leaves_out_is_known_where_it_leaves_out_nothing():
    def of(*excluded):
        optimizer = keras.optimizers.SGD(0.1, weight_decay=0.01)
        optimizer.exclude_from_weight_decay(var_names=[*excluded])
        return describe(build(optimizer=optimizer))

    assert differences(of("bias"), of()) == ["decays None, now all weights"]


def test_callbacks_and_weights_of_classes_are_compared():
    def of(patience=3, class_weight=None):
        callbacks = [keras.callbacks.EarlyStopping(patience=patience)]
        return describe(build(), class_weight, callbacks)

    assert differences(of(), of()) == []
    (found,) = differences(of(), of(patience=4))
    assert found.startswith("callbacks ['EarlyStopping(") and found.endswith(")']")
    before, now = found.split(", now ")
    assert "patience=3" in before and "patience=4" in now
    (found,) = differences(describe(build()), of())
    assert found.startswith("callbacks [], now ['EarlyStopping(")
    (found,) = differences(of(class_weight={0: 1, 1: 2}), of(class_weight={0: 1, 1: 3}))
    assert found == "class_weight 1 2.0, now 3.0"


def test_functions_of_one_s_own_are_told_apart_by_what_they_compute():
    def loss_with(factor):
        def loss(y_true, y_pred):
            return factor * keras.losses.mean_squared_error(y_true, y_pred)

        return describe(build(loss=loss))

    def another(y_true, y_pred):
        return keras.losses.mean_absolute_error(y_true, y_pred)

    assert loss_with(1) == loss_with(1)
    for other in (loss_with(2), describe(build(loss=another))):
        (found,) = differences(loss_with(1), other)
        assert found.startswith("loss loss ")
    known = {"keras": keras, "FACTOR": 1}  # of a notebook: numbers of other cells count, too
    exec("def loss(y, p):\n    return FACTOR * keras.losses.mean_squared_error(y, p)", known)
    first, again = describe(build(loss=known["loss"])), describe(build(loss=known["loss"]))
    known["FACTOR"] = 2
    assert first == again != describe(build(loss=known["loss"]))

    # So do functions that it calls, but no variable that is called like an attribute.
    exec("def twice(x):\n    return 2 * x\ndef loss(y, p):\n    return twice(y - p).mean", known)
    calls = [describe(build(loss=known["loss"]))]
    for line in ("mean = 5", "def twice(x):\n    return x + x"):
        exec(line, known)
        calls.append(describe(build(loss=known["loss"])))
    assert calls[0] == calls[1] != calls[2]
    gammas = []
    for gamma in (1.0, 2.0):
        exec(f"def loss(y, p, *, gamma={gamma}):\n    return gamma * (y - p)", known)
        gammas.append(describe(build(loss=known["loss"])))
    assert gammas[0] != gammas[1]

    class Scaled(keras.losses.Loss):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, y_true, y_pred):
            return self.factor * keras.losses.mean_squared_error(y_true, y_pred)

    one, same, other = (describe(build(loss=Scaled(factor))) for factor in (1, 1, 2))
    assert one == same and len(differences(one, other)) == 1
    functions = (keras.losses.mean_squared_error, keras.losses.categorical_crossentropy)
    assert differences(*(describe(build(loss=function)) for function in functions))

    def schedule(rate):
        return describe(build(), None, [keras.callbacks.LearningRateScheduler(lambda _: rate)])

    assert schedule(0.1) == schedule(0.1)
    assert differences(schedule(0.1), schedule(0.2))


def test_the_way_through_the_layers_is_compared():
    def wired(shortcut_from):
        inputs = keras.Input((6, 6, 3))
        first = layers.Conv2D(3, 3, padding="same")(inputs)
        second = layers.Conv2D(3, 3, padding="same")(first)
        model = keras.Model(inputs, layers.Add()([second, (inputs, first)[shortcut_from]]))
        model.compile("sgd", "mse")
        return describe(model)

    (found,) = differences(wired(0), wired(1))
    assert found == "layer 3 of the network Add() of [2, 0], now Add() of [2, 1]"


def test_frozen_weights_are_part_of_a_training_and_others_are_where_it_begins():
    def frozen(value):
        model = build()
        convolution = model.layers[1]
        convolution.set_weights([np.full(w.shape, value) for w in convolution.get_weights()])
        convolution.trainable = False
        return describe(model)

    assert frozen(1.0) == frozen(1.0)
    (found,) = differences(frozen(1.0), frozen(2.0))
    assert found.startswith("frozen_weights ")
    assert any("trainable=False" in each for each in differences(describe(build()), frozen(1.0)))


def test_a_network_within_the_network_has_no_names_either():
    def nested(filters):
        inside = keras.Input((6, 6, 3))
        base = keras.Model(inside, layers.Conv2D(filters, 3)(inside))
        inputs = keras.Input((6, 6, 3))
        model = keras.Model(inputs, layers.GlobalAveragePooling2D()(base(inputs)))
        model.compile("sgd", "mse")
        return describe(model)

    assert nested(4) == nested(4)
    (found,) = differences(nested(4), nested(5))
    assert "'filters': 4" in found and "'filters': 5" in found


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_precision_is_compared(policy):
    expected = describe(build())
    keras.config.set_dtype_policy(policy)
    try:
        found = differences(expected, describe(build()))
    finally:
        keras.config.set_dtype_policy("float32")
    assert found == [f"precision float32, now {policy}"]


def test_more_layers_are_counted():
    def deep(depth):
        model = keras.Sequential([keras.Input((3,)), *(layers.Dense(3) for _ in range(depth))])
        model.compile("sgd", "mse")
        return describe(model)

    assert differences(deep(2), deep(4)) == ["a network of 3 layers, now 5"]


def test_differences_of_data_are_one_and_some_do_not_count():
    one = {"epochs": 15, "data": {"train": {"images": 36, "sha256": "a"}, "test": {"sha256": "b"}}}
    other = {"epochs": 1, "data": {"train": {"images": 35, "sha256": "c"}, "test": {"sha256": "d"}}}
    assert differences(one, other) == [
        "epochs 15, now 1", "another copy of the data, of its splits or labels"
    ]  # fmt: skip
    assert differences(one, other, besides=("data",)) == ["epochs 15, now 1"]
    assert differences(one, other, besides=("sha256", "epochs", "images")) == []
    assert differences({"a": 1}, {"a": 1, "seed": 2}) == ["seed None, now 2"]
