"""LiteRT runs the same networks by a small interpreter: faster for a few faces on a weak laptop.

Optional: README says how to install it. Source: keras.Model.export, ai.google.dev/edge/litert.
"""

import os
import sys

from utils import config
from utils.files import replaced_when_done


def compile_litert(load_model, contract):
    """Turn a network into a function from a batch to probabilities.

    Parameters
    ----------
    load_model : callable
        Gives the keras.Model; called only where no exported file is kept, so that a start from
        such a file does not wait for Keras.
    contract : utils.networks.contract.ModelContract
        Of a shipped network: its LiteRT file is kept under its checksum. Other networks are
        exported each time.

    Returns
    -------
    callable
        float32 (n, height, width, channels), 0..255 -> float32 (n, num_classes)

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter  # not a dependency of this project
    except ImportError as error:
        install = f"{sys.executable} -m pip install ai-edge-litert"
        raise ImportError(f"LiteRT is not installed: {install}") from error

    path = (
        config.LITERT_DIR / f"{contract.weights_sha256 or contract.trained_on.rsplit()[-1]}.tflite"
    )
    if not (contract.weights_sha256 and path.is_file()):
        with replaced_when_done(path) as partial:
            load_model().export(partial, format="litert", verbose=False)
    # Read here: LiteRT opens no path with other than ASCII letters under Windows.
    threads = min(4, os.cpu_count() or 1)
    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    shape = None

    def call(batch):
        nonlocal shape
        if batch.shape != shape:
            interpreter.resize_tensor_input(input_index, batch.shape)
            interpreter.allocate_tensors()
            shape = batch.shape
        interpreter.set_tensor(input_index, batch)
        interpreter.invoke()
        return interpreter.get_tensor(output_index)

    return call
