"""LiteRT runs the loop's networks: a small interpreter, and files with weights of 8 bits.

Source: ai.google.dev/edge/litert (post-training dynamic range quantization), keras.Model.export.
"""

import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter

NUM_THREADS = 1  # measured: for one face a call, two take longer


def run_litert(path):
    """Turn a LiteRT file of `export_litert` into a function from a batch to probabilities.

    Returns
    -------
    callable
        float32 (n, height, width, channels), 0..255 -> float32 (n, num_classes)

    Raises
    ------
    RuntimeError
        If the network has an operation that LiteRT lacks.
    """
    # Read here: LiteRT opens no path with other than ASCII letters under Windows.
    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=NUM_THREADS)
    interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]
    lock = threading.Lock()  # the widget of a notebook labels in a thread of its own

    def call(image):
        with lock:
            interpreter.set_tensor(input_index, image[None])
            interpreter.invoke()
            return interpreter.get_tensor(output_index)[0]

    return lambda batch: np.array([call(image) for image in batch])


def export_litert(model, path, quantized):
    """Write the LiteRT file of a network, which takes one image a call.

    Parameters
    ----------
    model : keras.Model
        float32
    path : pathlib.Path
        ``.tflite``
    quantized : bool
        Weights of 8 bits, which are computed with as such; else of 32.
    """
    import tensorflow as tf  # takes seconds, which the loop does not need

    one_image = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    optimizations = [tf.lite.Optimize.DEFAULT] if quantized else []
    settings = {"input_signature": one_image, "optimizations": optimizations, "verbose": False}
    # As text: Keras 3.13, which Colab has, takes no Path here.
    model.export(str(path), format="litert", **settings)
