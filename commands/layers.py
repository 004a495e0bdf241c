"""How many parameters a network has, counted from the lines that its run is made of.

Without Keras: a network of somebody else's is not built to be counted.
"""

import math
import re

LINE = re.compile(r"(\w+)\((.*)\) of \[([\d, ]*)\]")
MAX_LINE = 2000
# Neither have these parameters nor do they change the shape of what they are given.
WITHOUT = {
    *("Rescaling", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "ActivityRegularization"),
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"),
    *("RandomBrightness", "Identity"),
}
MERGES = {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"}
CONVOLUTIONS = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D"}


def count_parameters(lines):
    """Count the parameters of a network.

    Parameters
    ----------
    lines : sequence of str
        See `utils.networks.structure.describe`.

    Returns
    -------
    tuple or None
        Their number, and the shape of the last layer's output without the batch; None if a layer
        is of a kind that is not counted here.
    """
    total, shapes = 0, []
    try:
        for line in lines:
            name, settings, inputs = LINE.fullmatch(line[:MAX_LINE]).groups()
            # A Sequential model's layers say nothing of inputs: each takes what the last one gives.
            given = [shapes[int(x)] for x in re.findall(r"\d+", inputs)] or shapes[-1:]
            count, shape = _layer(name, _Settings(settings), given)
            total += count
            shapes.append(shape)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # a line that `describe` would not write, or a layer that is not known here
    return total, shapes[-1]


class _Settings:
    """The settings of a line; those that are Keras' defaults are not in it."""

    def __init__(self, text):
        self.text = text

    def get(self, name, default):
        """Whole numbers, a truth or a word, as `default` is."""
        found = re.search(rf"\b{name}=(\[[^=]*\]|[^,]*)", self.text)
        if found is None:
            return default
        if isinstance(default, bool):
            return found[1] == "True"
        if isinstance(default, str):
            return found[1]
        numbers = [int(x) for x in re.findall(r"-?\d+", found[1])]
        return numbers if isinstance(default, list) else numbers[0]

    def pair(self, name, default):
        """Height and width."""
        numbers = self.get(name, [default])
        return numbers * 2 if len(numbers) == 1 else numbers


def _layer(name, settings, given):
    """Parameters of a layer and the shape of its output."""
    if name == "InputLayer":
        return 0, tuple(settings.get("batch_shape", []))
    shape = given[0]
    if name in WITHOUT:
        return 0, shape
    if name in MERGES:
        return 0, tuple(max(sizes) for sizes in zip(*given, strict=True))
    if name in CONVOLUTIONS:
        return _convolution(name, settings, shape)
    if name == "Dense":
        units = settings.get("units", 0)
        return shape[-1] * units + units * settings.get("use_bias", True), (*shape[:-1], units)
    if name in ("BatchNormalization", "LayerNormalization"):
        axes = settings.get("axis", [-1])
        # The axes are counted with the batch, which comes first.
        size = math.prod(shape[axis - 1 if axis > 0 else axis] for axis in axes)
        kinds = settings.get("center", True) + settings.get("scale", True)
        return size * (kinds + 2 * (name == "BatchNormalization")), shape
    return 0, _shape_after(name, settings, given)


def _convolution(name, settings, shape):
    height, width, channels = shape
    kernel = settings.pair("kernel_size", 0)
    area, has_bias = math.prod(kernel), settings.get("use_bias", True)
    after = _windows(settings, (height, width), kernel, settings.pair("strides", 1))
    if name == "Conv2D":
        filters = settings.get("filters", 0)
        count = area * channels // settings.get("groups", 1) * filters
    else:
        filters = channels * settings.get("depth_multiplier", 1)
        count = area * filters
        if name == "SeparableConv2D":
            count += filters * settings.get("filters", 0)
            filters = settings.get("filters", 0)
    return count + filters * has_bias, (*after, filters)


def _windows(settings, size, window, strides):
    """Height and width after a convolution or a pooling."""
    if settings.get("padding", "valid") == "same":
        return tuple(-(-x // step) for x, step in zip(size, strides))
    reach = [
        (k - 1) * dilation + 1 for k, dilation in zip(window, settings.pair("dilation_rate", 1))
    ]
    return tuple((x - k) // step + 1 for x, k, step in zip(size, reach, strides))


def _shape_after(name, settings, given):
    """Of layers without parameters; KeyError if the layer is not known."""
    shape = given[0]
    if name == "Flatten":
        return (math.prod(shape),)
    if name == "Concatenate":
        if settings.get("axis", -1) != -1:
            raise KeyError(name)
        return (*shape[:-1], sum(each[-1] for each in given))
    height, width, channels = shape
    if name in ("GlobalAveragePooling2D", "GlobalMaxPooling2D"):
        return (1, 1, channels) if settings.get("keepdims", False) else (channels,)
    if name in ("MaxPooling2D", "AveragePooling2D"):
        window = settings.pair("pool_size", 2)
        strides = settings.pair("strides", 0)
        strides = window if strides == [0, 0] else strides
        return (*_windows(settings, (height, width), window, strides), channels)
    if name == "ZeroPadding2D":
        numbers = settings.get("padding", [1])
        above, below, left, right = {1: numbers * 4, 2: [numbers[0]] * 2 + [numbers[-1]] * 2}.get(
            len(numbers), numbers
        )
        return (height + above + below, width + left + right, channels)
    raise KeyError(name)
