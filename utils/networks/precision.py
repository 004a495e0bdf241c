"""Trained in 16 bits where the device is faster in them, kept in float32.

Under bfloat16, Keras computes a batch's mean and variance by several operations in float32, which
take a large part of a training step; TensorFlow has one operation for them.
"""

import functools
import time
import timeit

import keras
import tensorflow as tf

LEAST_GAIN = 1.5  # layers between convolutions lose a part of it


def compute_capabilities():
    """Of each GPU, as NVIDIA counts it: list of tuple of int, (0, 0) for one of another maker."""
    devices = tf.config.list_physical_devices("GPU")
    facts = [tf.config.experimental.get_device_details(x) for x in devices]
    return [x.get("compute_capability", (0, 0)) for x in facts]


@functools.cache
def bfloat16_gain():
    """How many times as fast as in float32 this processor convolves in bfloat16.

    Some are made for it (AMX, AVX-512 BF16), others emulate it, and TensorFlow does not say. The
    time that counts is this process's own: others may be computing, too.
    """
    return _seconds_to_convolve("float32") / _seconds_to_convolve("bfloat16")


def _seconds_to_convolve(dtype):
    images, kernel = tf.ones((32, 12, 12, 128), dtype), tf.ones((3, 3, 128, 128), dtype)
    convolve = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    convolve()  # traces
    # As often as takes 0.2 seconds: under Windows this clock moves on in steps of 0.016.
    timer = timeit.Timer(lambda: convolve().numpy(), timer=time.process_time)
    number, seconds = timer.autorange()
    return seconds / number


def choose_policy(capabilities, begun_in=""):
    """In what to train: by the weakest of the GPUs or, without one, by the processor.

    Parameters
    ----------
    capabilities : list of tuple of int
        See `compute_capabilities`; empty without a GPU.
    begun_in : str
        Policies of a run that is to go on: on a processor they count more than its clock.

    Returns
    -------
    str
        A policy of Keras: "mixed_bfloat16" from 8.0 on (A100, L4), "mixed_float16" from 6.0 on
        (P100, T4), "float32" below; on a processor "mixed_bfloat16" if it pays there.
    """
    if not capabilities:
        pays = "bfloat16" in begun_in if begun_in else bfloat16_gain() >= LEAST_GAIN
        return "mixed_bfloat16" if pays else "float32"
    weakest = min(capabilities)
    if weakest >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if weakest >= (6, 0) else "float32"


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


def with_policy(model, policy="float32", fused=False):
    """A model of Keras' own layers that computes as a policy says: the model itself if it does.

    Its weights stay in their order, its outputs float32. `fused` makes its batch normalisation one
    operation in training.
    """
    norms = keras.layers.BatchNormalization, FusedBatchNormalization
    is_fused = any(type(layer) is FusedBatchNormalization for layer in model.layers)
    if {x.dtype_policy.name for x in model.layers} == {policy} and is_fused == fused:
        return model

    def clone(layer):
        kind = norms[fused] if type(layer) in norms else type(layer)
        is_output = any(layer.output is x for x in model.outputs)
        return kind.from_config(layer.get_config() | {"dtype": "float32" if is_output else policy})

    # A copy of a compiled model would be compiled as well, which fails for a loss of one's own.
    copy = keras.models.clone_model(uncompiled(model), clone_function=clone)
    copy.set_weights(model.get_weights())
    copy.jit_compile = False
    return copy


def uncompiled(model):
    """The same layers without optimizer, whose variables are twice as many, and without loss."""
    outputs = model.outputs if model.outputs[1:] else model.outputs[0]
    return keras.Model(model.inputs[0], outputs, name=model.name)
