import keras
import numpy as np
import pytest
import tensorflow as tf

from utils.models import BUILDERS
from utils.normalization import (
    FusedBatchNormalization,
    adapt_normalization,
    fold_normalization,
    renew_statistics,
)

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


def test_moving_statistics_against_numpy():
    layer = FusedBatchNormalization(momentum=0.9)
    layer(IMAGES, training=True)
    _, _, mean, variance = layer.get_weights()
    np.testing.assert_allclose(mean, 0.1 * IMAGES.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * IMAGES.var(axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "stay"),
    [
        ("compact", {"widths": [8, 16], "stem_width": 4}, 0),
        ("final", {}, None),  # batch normalisation after the activation cannot be folded
        ("mobilenet", {"weights": None}, 13),  # nor can that of depthwise convolutions
    ],
)
def test_folded_batch_normalisation_changes_no_answer(name, arguments, stay):
    model = BUILDERS[name]((48, 48, 3), 7, **arguments)
    noise = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([noise.uniform(0.5, 2, shape) for _ in range(4)])
    folded = fold_normalization(model)

    def count(model):
        return sum(isinstance(x, keras.layers.BatchNormalization) for x in model.layers)

    assert count(folded) == (count(model) if stay is None else stay) and count(model) > 0
    images = noise.uniform(0, 255, (3, 48, 48, 3)).astype(np.float32)
    expected = model(images, training=False).numpy()
    assert expected.std() > 1e-3, "else the answers show nothing"
    np.testing.assert_allclose(folded(images, training=False).numpy(), expected, atol=1e-4)


def test_a_convolution_that_others_need_as_well_is_not_folded():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    model = keras.Model(inputs, x + keras.layers.BatchNormalization()(x))
    model.layers[2].set_weights([np.full(4, value, "float32") for value in (2, 1, 0.5, 3)])
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(fold_normalization(model)(images).numpy(), expected, atol=1e-5)


def test_a_model_keeps_its_weights_and_what_is_frozen():
    model = BUILDERS["mobilenet"]((64, 64, 3), 7, weights=None)
    fused = adapt_normalization(model, 1)
    for before, after in zip(model.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    frozen = [[x.trainable for x in each.layers if x.weights] for each in (model, fused)]
    assert frozen[0] == frozen[1] and set(frozen[0]) == {True, False}
    kinds = {type(x) for x in fused.layers}
    assert FusedBatchNormalization in kinds and keras.layers.BatchNormalization not in kinds


def test_statistics_are_those_of_all_batches():
    model = BUILDERS["compact"]((8, 8, 1), 7, widths=[8], normalize_images=False)
    before = [weights.copy() for weights in model.get_weights()]
    noise = np.random.default_rng(1)
    batches = [(noise.uniform(0, 255, (5, 8, 8, 1)).astype(np.float32), None) for _ in range(3)]
    renew_statistics(model, batches)

    convolution, first = model.layers[2:4]
    inputs = [convolution(images / 255).numpy() for images, _ in batches]
    means = [x.mean(axis=(0, 1, 2)) for x in inputs]
    variances = [x.var(axis=(0, 1, 2)) for x in inputs]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, np.mean(variances, axis=0), rtol=1e-4)
    assert first.momentum == 0.99
    trained = [id(weights) for weights in model.trainable_weights]
    for weights, old in zip(model.weights, before):
        if id(weights) in trained:
            np.testing.assert_array_equal(weights, old)


def test_statistics_are_measured_without_dropout():
    def build(rate):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dropout(rate),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
            ]
        )

    images = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    models = [build(rate) for rate in (0.0, 0.5)]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        renew_statistics(model, [(images, None)])
    for one, other in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert models[1].layers[0].rate == 0.5
