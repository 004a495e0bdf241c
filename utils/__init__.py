"""What two notebooks share, or what needs a test; README.md has the map of its files."""

import os

# Under Windows, cameras take up to a minute to open with this on; OpenCV reads it when imported.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
# TensorFlow's faster convolutions, which it leaves off by itself on processors without instructions
# for neural networks (AMD before Zen 4, laptops with Intel before Ice Lake), read when imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
