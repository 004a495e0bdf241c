"""What notebooks and commands call. Read config, models, training, evaluation and plots first.

The rooms: ``data`` (from raw data to batches), ``networks`` (a network on disk, and what a training
is made of), ``recipes`` (the trainings beyond the report), ``realtime`` (from frames to labels).
"""

import os
import sys

# Under Windows, cameras take up to a minute to open with this on; OpenCV reads it when imported.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
# TensorFlow's faster convolutions, which it leaves off by itself on processors without instructions
# for neural networks (AMD before Zen 4, laptops with Intel before Ice Lake), read when imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# TensorFlow's own log: on a machine without a GPU it begins with lines that look like faults.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# In a file a progress bar is a line each time; in a terminal or a notebook it stays one.
if not (sys.stderr and sys.stderr.isatty()) and "ipykernel" not in sys.modules:
    os.environ.setdefault("TQDM_MININTERVAL", "10")
