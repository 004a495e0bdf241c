"""Which devices train: one as it is, several GPUs mirrored, several machines by ``TF_CONFIG``.

Each device computes the gradients of its share of a batch, and all make the same step, so the
batch size of a spec is that of all devices together. What differs from one device: the random
masks of dropout, the weight of images in a batch that cannot be shared evenly, and rounding.
"""

import functools
import json
import os

import keras
import tensorflow as tf


@functools.cache  # TensorFlow allows only one multi-worker strategy in a process
def choose_strategy():
    """The strategy for the devices that are there.

    With ``TF_CONFIG`` in the environment this must come before all other use of TensorFlow: use
    ``python tasks.py train``, started on each machine with its own ``task`` index.

    Returns
    -------
    tf.distribute.Strategy

    Raises
    ------
    ValueError
        If ``TF_CONFIG`` is not the JSON that TensorFlow expects.
    """
    if "TF_CONFIG" in os.environ:
        _read_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


class SharedModel(keras.Model):
    """A functional model whose `fit` works on several machines.

    Keras 3.15 fails there in two places (https://github.com/keras-team/keras/issues/20585): it
    takes the batch of one machine for a tensor, and averages scalars along their first axis.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        inputs, outputs = (
            keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype)
            for tensor in (self.inputs[0], self.outputs[0])
        )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=(inputs, outputs))

    def train_step(self, data):
        """One step on this machine's share of a batch; logs of shape (1,)."""
        return _with_an_axis(super().train_step(data))

    def test_step(self, data):
        """The same without learning."""
        return _with_an_axis(super().test_step(data))


def _with_an_axis(logs):
    return {name: tf.reshape(value, (1,)) for name, value in logs.items()}


def is_chief():
    """Say whether this process writes the results; of several machines, only the first does."""
    return "TF_CONFIG" not in os.environ or _read_tf_config()["task"]["index"] == 0


def wait_for_all(strategy):
    """Return when every machine has called this: none may leave while another needs it."""

    @tf.function
    def add_ones():
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(1)), axis=None)

    if "TF_CONFIG" in os.environ:
        add_ones()


def check_shares(num_images, batch_size, strategy):
    """Refuse batches that leave a device without images: it has no loss, and halves that of others.

    TensorFlow gives each device as many images as the first one, as long as there are any.

    Raises
    ------
    ValueError
        If some device would get no image of a whole batch or of the last one.
    """
    devices = strategy.num_replicas_in_sync
    for size in {min(batch_size, num_images), num_images % batch_size or batch_size}:
        share = -(-size // devices)
        if share * (devices - 1) >= size:
            raise ValueError(
                f"{num_images:,} images in batches of {batch_size}: one of {size} cannot be shared "
                f"by {devices} devices, expected an image for each; choose another batch size"
            )


def _read_tf_config():
    text = os.environ["TF_CONFIG"]
    try:
        content = json.loads(text)
        content["cluster"]["worker"], content["task"]["index"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"TF_CONFIG is {text!r}, expected for instance "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from error
    return content
