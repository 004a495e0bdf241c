"""What notebooks and commands call. Read config, models, training, evaluation and plots first.

The rooms: ``data`` (from raw data to batches), ``networks`` (a network on disk, and what a training
is made of), ``recipes`` (the trainings beyond the report), ``realtime`` (from frames to labels).
"""

import io
import os
import sys
from pathlib import Path

# Under Windows, cameras take up to a minute to open with this on; OpenCV reads it when imported.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
# TensorFlow's faster convolutions, which it leaves off by itself on processors without instructions
# for neural networks (AMD before Zen 4, laptops with Intel before Ice Lake), read when imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# TensorFlow's own log: on a machine without a GPU it begins with lines that look like faults.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What a closed stream leaves free would be taken by the next file, and messages written into it.
for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))
# A name that the terminal's code page lacks (cp1252, 日本語) must not end a command after its work.
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")
# In a file a progress bar is a line each time; in a terminal or a notebook it stays one.
if not (sys.stderr and sys.stderr.isatty()) and "ipykernel" not in sys.modules:
    os.environ.setdefault("TQDM_MININTERVAL", "10")
os.environ["KERAS_BACKEND"] = "tensorflow"
# A keras.json of years ago has the channels first; this is where models of others are anyway.
os.environ["KERAS_HOME"] = str(Path(__file__).parents[1] / "data" / "models")
if _keras := sys.modules.get("keras"):  # imported before, with whatever this machine has set
    if _keras.config.backend() != "tensorflow":
        raise ImportError(
            f"Keras runs on {_keras.config.backend()}, and this project needs TensorFlow: remove "
            "KERAS_BACKEND from the environment, or set it to tensorflow, and start Python again"
        )
    _keras.config.set_image_data_format("channels_last")
    _keras.config.set_floatx("float32")


def _say_interrupted(kind, error, trace):
    """Print an error as Python does, but a word for Ctrl-C, which may come while all this loads."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("interrupted", file=sys.stderr)
    sys.exit(130)


sys.excepthook = _say_interrupted
