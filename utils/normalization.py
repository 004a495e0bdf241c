"""Batch normalisation: faster on processors, and statistics that are measured anew.

Under bfloat16, Keras computes a batch's mean and variance by several operations in float32, which
take a large part of a training step; TensorFlow has one operation for them.
"""

from collections import Counter

import keras
import numpy as np
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with TensorFlow's fused operation where it fits.

    It fits images in training; all else is left to Keras. Weights and results are those of Keras.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise inputs, float (n, height, width, channels)."""
        if not training or not self.trainable or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # The operation's variance is the unbiased one, Keras keeps the biased one.
        n = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), variance.dtype)
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (n - 1) / n),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


def adapt_normalization(model, num_devices):
    """Copy a functional model, its batch normalisation fitted to the devices that train it.

    On one processor it is the fused one. On several devices it is Keras' synchronised one, that
    takes the mean over all of a batch, as one device would.

    Parameters
    ----------
    model : keras.Model
        Its batch normalisation is along the last axis, as Keras' default is.
    num_devices : int

    Returns
    -------
    keras.Model
        The same weights in the same order.
    """

    def clone(layer):
        kind, settings = type(layer), layer.get_config()
        if kind is keras.layers.BatchNormalization and num_devices > 1:
            settings["synchronized"] = True
        elif kind is keras.layers.BatchNormalization and not tf.config.list_physical_devices("GPU"):
            kind = FusedBatchNormalization
        return kind.from_config(settings)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def fold_normalization(model):
    """Copy a functional model for use: batch normalisation becomes part of the convolutions.

    What a trained network's batch normalisation does to a channel is one multiplication and one
    addition, and these can be done to the kernel and the bias of the convolution before it, once.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    keras.Model
        The same answers but for rounding, an eighth sooner. Batch normalisation that does not
        directly follow a convolution stays as it is.
    """
    layers = keras.layers
    taken = Counter(id(x) for step in model.operations for x in keras.tree.flatten(step.input))
    convolutions = {
        id(layer.output): layer
        for layer in model.layers
        if type(layer) is layers.Conv2D
        and layer.activation is keras.activations.linear
        and taken[id(layer.output)] == 1
    }
    norms = {
        convolutions[id(layer.input)].name: layer
        for layer in model.layers
        if type(layer) is layers.BatchNormalization and id(layer.input) in convolutions
    }
    left_out = {layer.name for layer in norms.values()}

    def clone(layer):
        change = {"use_bias": True} if layer.name in norms else {}
        return type(layer).from_config(layer.get_config() | change)

    def call(layer, inputs, *arguments, **settings):
        return inputs if layer.name in left_out else layer(inputs, *arguments, **settings)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in model.layers:
        weights = layer.get_weights()
        if not weights or layer.name in left_out:
            continue
        if layer.name in norms:
            norm = norms[layer.name]
            kernel, bias = weights if len(weights) == 2 else (*weights, 0)
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            weights = [kernel * factor, (bias - mean) * factor + beta]
        folded.get_layer(layer.name).set_weights(weights)
    return folded


def renew_statistics(model, batches):
    """Measure anew what the batch normalisation of a trained network takes for mean and variance.

    In training these are moving averages over changed images, and over weights that go on
    changing; those of the images as they are fit better what the network will see. Its weights
    stay as they are, and dropout is off. Taught in notebook 03.

    Parameters
    ----------
    model : keras.Model
        Its means and variances are replaced by the averages over all batches.
    batches : iterable of (images, labels)
        As from `utils.pipeline.make_dataset`, of training images.
    """
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    dropouts = [x for x in model.layers if isinstance(x, keras.layers.Dropout)]
    momenta, rates = [x.momentum for x in layers], [x.rate for x in dropouts]
    for dropout in dropouts:
        dropout.rate = 0
    for number, (images, _) in enumerate(batches):
        for layer in layers:
            layer.momentum = number / (number + 1)  # makes the moving average a plain one
        model(images, training=True)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
    for dropout, rate in zip(dropouts, rates):
        dropout.rate = rate
