"""What the commands of tasks.py start."""

import utils  # noqa: F401 (first: OpenCV, TensorFlow and Keras read its settings when imported)
