"""Where a network looked: Grad-CAM."""

import cv2
import keras
import numpy as np
import tensorflow as tf

from utils.networks.storage import only_class


def grad_cam(model, image, class_index=None):
    """Heat map of the places that speak for a class (Selvaraju et al. 2017, arXiv:1610.02391).

    Taught in notebooks 03 and 04.

    Parameters
    ----------
    model : keras.Model
        Functional, with convolutions, and an activation (softmax) as last layer.
    image : numpy.ndarray, 0..255, (height, width, channels)
    class_index : int, optional
        The predicted class by default.

    Raises
    ------
    ValueError
        If the network ends in something else.

    Returns
    -------
    numpy.ndarray, float32, 0..1, (height, width)
        0 where nothing speaks for the class.
    """
    # The last output that still has places: a pooled one has a single one.
    outputs = [layer.output for layer in model.layers if len(layer.output.shape) == 4]
    last = [output for output in outputs if output.shape[1] > 1][-1]
    softmax = only_class(model).layers[-1]
    if not isinstance(softmax, (keras.layers.Activation, keras.layers.Softmax)):
        raise ValueError(
            f"the network ends in a {type(softmax).__name__}, expected a softmax as a layer by "
            'itself: Dense(num_classes), then Activation("softmax")'
        )
    both = keras.Model(model.input, [last, softmax.input])
    with tf.GradientTape() as tape:
        features, scores = both(image[None].astype(np.float32), training=False)
        index = int(scores[0].numpy().argmax()) if class_index is None else class_index
        score = scores[:, index]
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))[0].numpy()
    heat = cv2.resize(heat, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return heat / max(heat.max(), 1e-12)
