import json
import shutil
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_ins import small_network

from utils import config
from utils.models import BUILDERS
from utils.networks import precision
from utils.networks.contract import SHIPPED_NAME, ModelContract, find_network, networks
from utils.networks.precision import (
    FusedBatchNormalization,
    choose_policy,
    with_policy,
)
from utils.networks.storage import (
    calibrate,
    load_architecture_and_weights,
    load_network,
    save_architecture_and_weights,
    save_network,
)
from utils.preprocessing import GENDERS, face_input_for
from utils.training import Run

RGB = (48, 48, 3)
CONTRACT = ModelContract(
    architecture="compact",
    arguments={"widths": [8, 16]},
    class_names=GENDERS,
    face_input=face_input_for("utkface", 48, 48, "rgb"),
    trained_on="nothing",
)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return BUILDERS["compact"](RGB, 2, widths=[8, 16])


def outputs(model):
    images = np.random.default_rng(1).integers(0, 256, (5, *model.input_shape[1:]))
    return model(images.astype(np.float32), training=False).numpy()


def spread_statistics(model):
    """Weights of batch normalisation that change what comes through."""
    noise = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([noise.uniform(0.5, 2, shape) for _ in range(4)])


# On disk


def test_the_report_s_pair_of_files_gives_the_same_outputs(model, tmp_path):
    spread_statistics(model)
    save_architecture_and_weights(model, tmp_path)
    assert {x.name for x in tmp_path.iterdir()} == {"architecture.json", "model.weights.h5"}
    np.testing.assert_array_equal(outputs(load_architecture_and_weights(tmp_path)), outputs(model))


@pytest.mark.parametrize("sequential", [False, True])
def test_what_a_compiled_model_needs_for_training_alone_is_not_kept(tmp_path, sequential):
    def loss(y_true, y_pred):
        return keras.losses.categorical_crossentropy(y_true, y_pred)

    model = small_network()
    if sequential:
        model = keras.Sequential([keras.Input((12, 12, 1)), *model.layers[1:]])
    model.compile("adam", loss)
    model.fit(np.zeros((4, 12, 12, 1)), np.eye(7)[:4], verbose=0)
    save_architecture_and_weights(model, tmp_path)
    found = []
    with h5py.File(tmp_path / "model.weights.h5") as stored:
        stored.visititems(lambda name, x: found.append((name, getattr(x, "size", 0))))
    assert sum(size for _, size in found) == model.count_params(), found
    assert not json.loads((tmp_path / "architecture.json").read_text())["compile_config"]
    np.testing.assert_array_equal(outputs(load_architecture_and_weights(tmp_path)), outputs(model))
    assert model.compiled and model.optimizer.iterations == 1, "the model itself was changed"


def test_calibration_divides_the_logits(model):
    before = outputs(model)
    calibrate(model, 2.0)
    halved = np.sqrt(before)  # exp(logits / 2) is the root of exp(logits)
    np.testing.assert_allclose(
        outputs(model), halved / halved.sum(axis=1, keepdims=True), rtol=1e-4
    )


def test_what_is_shipped_comes_back(model, workspace):
    contract = replace(CONTRACT, temperature=1.5, unsure_below=0.4)
    path = config.PRETRAINED_DIR / "gender_small.npz"
    save_network(model, contract, path)
    loaded, read = load_network("gender_small")
    np.testing.assert_allclose(outputs(loaded), outputs(model), atol=2e-3)  # float16 on disk
    assert read == replace(contract, weights_sha256=read.weights_sha256)
    # Two bytes for each weight, less what compression saves, and a name for each array.
    assert path.stat().st_size < 2 * model.count_params() + 300 * len(model.weights)


def test_a_shipped_run_is_found_by_its_name_and_built_as_its_own_cell_says(workspace):
    own = small_network(filters=5)  # no builder makes this one
    folder = config.RUNS_DIR / "mine"
    save_architecture_and_weights(own, folder)
    contract = replace(
        CONTRACT,
        architecture="architecture.json",
        arguments={},
        class_names=("a", "b", "c", "d", "e", "f", "g"),
        face_input=face_input_for("fer2013", 12, 12, "grey"),
    )
    save_network(own, contract, folder / SHIPPED_NAME)
    loaded, read = load_network("mine")
    assert read.class_names == contract.class_names
    np.testing.assert_allclose(outputs(loaded), outputs(own), atol=2e-3)
    assert find_network("mine")[0] == folder / SHIPPED_NAME == networks()["mine"]
    # A run alone is not shipped; one with the name of ours has another name.
    save_architecture_and_weights(own, config.RUNS_DIR / "another")
    shutil.copytree(folder, config.RUNS_DIR / "gender_small")
    ours = BUILDERS["compact"](RGB, 2, widths=[8, 16])
    save_network(ours, CONTRACT, config.PRETRAINED_DIR / "gender_small.npz")
    assert set(networks()) == {"mine", "gender_small", "my_gender_small"}
    assert find_network("gender_small")[0].parent == config.PRETRAINED_DIR
    assert find_network("my_gender_small")[0].parent == config.RUNS_DIR / "gender_small"


def test_changed_or_missing_weights_are_refused(model, workspace):
    path = config.PRETRAINED_DIR / "gender_small.npz"
    save_network(model, CONTRACT, path)
    with pytest.raises(FileNotFoundError, match="no network 'gender_large', there are gender_sm"):
        load_network("gender_large")
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ValueError, match="not the file that"):
        load_network("gender_small")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no network 'gender_small'"):
        load_network("gender_small")


def test_what_we_ship_is_small_and_whole():
    paths = sorted(config.PRETRAINED_DIR.glob("*.npz"))
    assert len(paths) >= 2
    for path in paths:
        assert path.stat().st_size <= 6_000_000
        assert find_network(path.stem)[1].weights_sha256
        assert Run(config.REFERENCE_DIR / path.stem).is_finished, "where is it from?"


# Trained in 16 bits, kept in float32


P100, T4, L4, OTHER_MAKER = (6, 0), (7, 5), (8, 9), (0, 0)


@pytest.mark.parametrize(
    "gpus, gain, policy",
    [
        ([], 0.1, "float32"),
        ([], 1.2, "float32"),
        ([], 1.9, "mixed_bfloat16"),
        ([L4], 0.1, "mixed_bfloat16"),
        ([T4], 1.9, "mixed_float16"),
        ([P100], 0.1, "mixed_float16"),
        ([L4, T4], 0.1, "mixed_float16"),
        ([OTHER_MAKER], 1.9, "float32"),
    ],
)
def test_precision_is_what_the_device_is_fastest_in(gpus, gain, policy, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: gain)
    assert choose_policy(gpus) == policy


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_a_processor_is_asked_by_the_clock(monkeypatch, slow):
    as_it_is, convolve = precision.bfloat16_gain.__wrapped__(), tf.nn.conv2d

    def slowed(images, *arguments):
        for _ in range(20 if images.dtype == slow else 1):
            images = convolve(images, *arguments)
        return images

    monkeypatch.setattr(tf.nn, "conv2d", slowed)
    changed = precision.bfloat16_gain.__wrapped__() / as_it_is
    assert changed > 5 if slow == "float32" else 0 < changed < 1 / 5


IMAGES = np.random.default_rng(0).normal(3, 2, (6, 5, 4, 3)).astype(np.float32)


def step(layer, images, training=True):
    """Outputs, gradients and weights after one call."""
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=training)
        loss = tf.reduce_sum(outputs**3)
    gradients = tape.gradient(loss, [images, *layer.trainable_variables])
    return [outputs, *gradients, *layer.get_weights()]


@pytest.mark.parametrize(
    "shape, training, trainable",
    [
        ((6, 5, 4, 3), True, True),
        ((6, 5, 4, 3), False, True),
        ((6, 5, 4, 3), True, False),
        ((120, 3), True, True),
    ],
)
def test_results_are_those_of_keras(shape, training, trainable):
    layers = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(trainable=trainable)
        layer.build(shape)
        layer.set_weights(
            [np.array(v, "float32") for v in ([1, 2, 3], [0, 1, 0], [2] * 3, [5] * 3)]
        )
        layers.append(layer)
    images = IMAGES.reshape(shape)
    for expected, got in zip(*(step(layer, images, training) for layer in layers)):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_a_fused_model_keeps_its_weights_and_what_is_frozen():
    model = BUILDERS["mobilenet"]((64, 64, 3), 7, weights=None)
    fused = with_policy(model, fused=True)
    for before, after in zip(model.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    frozen = [[x.trainable for x in each.layers if x.weights] for each in (model, fused)]
    assert frozen[0] == frozen[1] and set(frozen[0]) == {True, False}
    kinds = {type(x) for x in fused.layers}
    assert FusedBatchNormalization in kinds and keras.layers.BatchNormalization not in kinds


def test_what_computed_in_bfloat16_computes_in_float32_with_the_same_weights(model):
    half = with_policy(BUILDERS["compact"](RGB, 2, widths=[8, 16]), "mixed_bfloat16", fused=True)
    spread_statistics(model)
    half.set_weights(model.get_weights())
    assert {layer.compute_dtype for layer in half.layers} == {"bfloat16", "float32"}
    half.compile("sgd", lambda y_true, y_pred: 0.0)  # a loss that no file can describe
    whole = with_policy(half)
    assert {layer.compute_dtype for layer in whole.layers} == {"float32"}
    assert {type(x) for x in whole.layers} == {type(x) for x in model.layers}
    np.testing.assert_allclose(outputs(whole), outputs(model), atol=1e-6)
    assert 1e-5 < np.abs(outputs(half) - outputs(model)).max() < 0.05
    assert with_policy(model) is model
