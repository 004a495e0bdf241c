"""The architectures, one builder each, uncompiled.

Every model is functional, takes pixels in 0..255 and scales them in its first layer, so input of
the wrong range cannot happen. Its last layer is a softmax over the classes, in float32 also under
mixed precision.
"""

import keras
import numpy as np
from keras import layers, regularizers

from utils import config
from utils.files import CERTIFICATES


def build_six_conv_cnn(input_shape, num_classes):
    """The report's model 1: six convolutions, one hidden dense layer.

    Source: report, "Model 1: Sequential model with 6 Conv Layers". Taught in notebooks 03 and 04.

    Parameters
    ----------
    input_shape : tuple of int
        (height, width, channels)
    num_classes : int

    Returns
    -------
    keras.Model
        Input 0..255, output probabilities (n, num_classes), float32.
    """
    stages = (64, 5, 2), (128, 5, 2), (256, 3, 2)
    return _plain_cnn(input_shape, num_classes, stages, "six_conv_cnn")


def build_five_conv_cnn(input_shape, num_classes):
    """A network of five convolutions for the five-class experiment.

    The report names "a 5 Conv layer model" and gives no table; this one keeps the style of its
    model 1 (5x5 before 3x3, more filters as images shrink). Taught in notebook 03.

    Parameters and return value: see `build_six_conv_cnn`.
    """
    stages = (64, 5, 2), (128, 3, 2), (256, 3, 1)
    return _plain_cnn(input_shape, num_classes, stages, "five_conv_cnn")


def build_final_cnn(
    input_shape,
    num_classes,
    dense_units=(1024, 512, 256),
    dense_dropout=(0.5, 0.5, 0.5),
    conv_dropout=0.1,
    l2=1e-4,
    batch_normalization=True,
    early_dropout=0.0,
):
    """The report's finalised network: three convolutions, three regularised dense layers.

    Source: report, "Finalized Model" of both parts. The defaults are the emotion network; gender
    trial 3 has `dense_units` (256, 128, 64) and `dense_dropout` (0.3, 0.3, 0.2). Taught in
    notebooks 03 and 04.

    The first two parameters and the return value: see `build_six_conv_cnn`.

    Parameters
    ----------
    dense_units, dense_dropout : sequence
        Width and dropout rate of each dense layer, of the same length.
    conv_dropout : float
        Dropout rate after the third convolution.
    l2 : float
        Weight penalty of the dense layers.
    batch_normalization : bool
        False leaves these layers out, to see what they are for.
    early_dropout : float
        Dropout rate after the second convolution; 0, as in the report, leaves the layer out.

    Raises
    ------
    ValueError
        If `dense_units` and `dense_dropout` differ in length.
    """
    _check_lengths(dense_units=dense_units, dense_dropout=dense_dropout)

    def normalise(x):
        return layers.BatchNormalization()(x) if batch_normalization else x

    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(32, 5, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 5, padding="same", activation="relu")(x)
    if early_dropout:
        x = layers.Dropout(early_dropout)(x)
    x = layers.MaxPooling2D()(normalise(x))
    x = layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    x = layers.Dropout(conv_dropout)(x)
    x = layers.MaxPooling2D()(normalise(x))
    x = layers.Flatten()(x)
    for units, rate in zip(dense_units, dense_dropout):
        x = layers.Dense(units, activation="relu", kernel_regularizer=regularizers.L2(l2))(x)
        x = layers.Dropout(rate)(normalise(x))
    return keras.Model(inputs, _softmax(x, num_classes), name="final_cnn")


def build_mobilenet(
    input_shape,
    num_classes,
    first_trainable="conv_pw_9",
    weights="imagenet",
    random_layers=(),
    scaled_to=(-1, 1),
):
    """MobileNet with a new head on its global average, all but the last blocks frozen.

    Source: report, "Model 2"; Howard et al. 2017, arXiv:1704.04861. The report's text says "the
    last 23 layers" (emotion), but its parameter counts are those of the last 30, from `conv_pw_9`
    on, so that is what is trained here. Taught in notebooks 03 and 04.

    The first two parameters and the return value: see `build_six_conv_cnn`; images have three
    channels.

    Parameters
    ----------
    first_trainable : str
        Name of the first layer that is trained; layers before it are frozen.
    weights : {"imagenet"} or None
        None starts at random. ImageNet weights (17 MB) are read from
        ``data/raw/mobilenet_imagenet.npz`` (keys ``layer__variable``) where that file is, and
        downloaded otherwise; layers that the file lacks start at random, which is printed.
    random_layers : sequence of str
        Layers that start at random all the same.
    scaled_to : (float, float)
        To what black and white are scaled inside. The ImageNet weights were trained on -1..1; the
        report's generators scale to 0..1.

    Raises
    ------
    ConnectionError
        If the ImageNet weights are neither at hand nor to be downloaded.
    ValueError
        If `weights` is something else, or a layer is none of MobileNet's.
    """
    inputs = keras.Input(input_shape)
    black, white = scaled_to
    x = layers.Rescaling((white - black) / 255, offset=black)(inputs)
    base = keras.applications.MobileNet(
        input_tensor=x, include_top=False, pooling="avg", weights=None
    )
    names = [layer.name for layer in base.layers]
    if weights not in ("imagenet", None):
        raise ValueError(f"weights is {weights!r}, expected 'imagenet' or None")
    if unknown := {first_trainable, *random_layers} - set(names):
        raise ValueError(f"MobileNet has no layers {sorted(unknown)}, expected some of {names}")
    if weights == "imagenet":
        _set_imagenet_weights(base, random_layers)
    for layer in base.layers[: names.index(first_trainable)]:
        layer.trainable = False
    return keras.Model(inputs, _softmax(base.output, num_classes), name="mobilenet")


def build_compact_cnn(
    input_shape,
    num_classes,
    widths=(64, 128, 256),
    blocks_per_stage=1,
    dropout=0.3,
    normalize_images=True,
    residual=True,
    squeeze=True,
    stem_width=0,
    anti_aliased=False,
):
    """A small residual network with squeeze-and-excitation, of 0.3 to 2.9 million parameters.

    Sources: He et al. 2016, arXiv:1603.05027 (residual blocks); Hu et al. 2018, arXiv:1709.01507
    (squeeze-and-excitation). Its weights are what the realtime loop loads. Taught in notebooks
    03 and 04.

    The first two parameters and the return value: see `build_six_conv_cnn`.

    Parameters
    ----------
    widths : sequence of int
        Channels of each stage; every stage after the first halves height and width.
    blocks_per_stage : int
    dropout : float
        Rate before the classifier.
    normalize_images : bool
        Bring each image to mean 0 and deviation 1, inside the network.
    residual, squeeze : bool
        False leaves out the shortcuts, or squeeze-and-excitation, to see what they are for.
    stem_width : int
        Channels of a convolution on all pixels, before the one that halves height and width; 0
        for none.
    anti_aliased : bool
        Blur before each halving, so that a small move of the face changes less (Zhang 2019,
        arXiv:1904.11486).
    """
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(inputs)
    if normalize_images:  # light and contrast of the scene matter less
        x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False)(x)
    if stem_width:
        x = layers.Activation("relu")(_conv_norm(x, stem_width, 3))
    x = _blur(x) if anti_aliased else x
    x = layers.Activation("relu")(_conv_norm(x, widths[0], 3, strides=2))
    for stage, width in enumerate(widths):
        for block in range(blocks_per_stage):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _blur(x) if anti_aliased and strides == 2 else x
            x = _residual_block(x, width, strides, residual, squeeze)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _softmax(x, num_classes), name="compact_cnn")


def build_vgg_cnn(
    input_shape, num_classes, widths=(32, 96, 256), convolutions=(2, 2, 3), dropout=0.3
):
    """A plain network in the style of VGG, with batch normalisation: 1.5 million parameters.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556. It has no shortcuts, and pools where
    `build_compact_cnn` strides. RESULTS.md compares them.

    The first two parameters and the return value: see `build_six_conv_cnn`.

    Parameters
    ----------
    widths, convolutions : sequence of int
        Channels and number of the convolutions before each pooling, of the same length.
    dropout : float
        Rate before the classifier.

    Raises
    ------
    ValueError
        If `widths` and `convolutions` differ in length.
    """
    _check_lengths(widths=widths, convolutions=convolutions)
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False)(x)
    for width, count in zip(widths, convolutions):
        for _ in range(count):
            x = layers.Activation("relu")(_conv_norm(x, width, 3))
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _softmax(x, num_classes), name="vgg_cnn")


def add_head(model, name, num_classes, dropout=True):
    """A further answer of a network whose last layers are a global average, dropout and softmax.

    Parameters
    ----------
    model : keras.Model
    name : str
        Of the new output's layer.
    num_classes : int
    dropout : bool
        Whether it sees what the classifier sees, or the average without dropout.

    Returns
    -------
    keras.KerasTensor
        float32 (n, num_classes), a softmax.
    """
    average = [x for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)][-1].output
    dropped = [x for x in model.layers if isinstance(x, layers.Dense)][-1].input
    logits = layers.Dense(num_classes, name=f"{name}_logits")(dropped if dropout else average)
    return layers.Activation("softmax", dtype="float32", name=name)(logits)


def _check_lengths(**settings):
    """Refuse two sequences that have an entry for each layer or stage, and differ in length."""
    (name, values), (other, others) = settings.items()
    if len(values) != len(others):
        raise ValueError(
            f"{name} has {len(values)} entries and {other} {len(others)}, expected as many of each"
        )


def _plain_cnn(input_shape, num_classes, stages, name):
    """For each stage so many filters of a size, so often, and a pooling; then a dense layer."""
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for filters, kernel_size, repeats in stages:
        for _ in range(repeats):
            x = layers.Conv2D(filters, kernel_size, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(128)(layers.Flatten()(x))
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    return keras.Model(inputs, _softmax(layers.Dropout(0.2)(x), num_classes), name=name)


def _conv_norm(x, filters, kernel_size, strides=1):
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    return layers.BatchNormalization()(x)


def _blur(x):
    for _ in range(2):  # twice the mean of two neighbours: a triangle of 1, 2, 1
        x = layers.AveragePooling2D(2, strides=1, padding="same")(x)
    return x


def _residual_block(x, width, strides, residual, squeeze):
    shortcut = x
    if residual and (strides > 1 or x.shape[-1] != width):
        shortcut = _conv_norm(x, width, 1, strides)
    x = layers.Activation("relu")(_conv_norm(x, width, 3, strides))
    x = _conv_norm(x, width, 3)
    if squeeze:  # squeeze-and-excitation: a weight for each channel, from the channels' means
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Conv2D(width // 8, 1, activation="relu")(gate)
        gate = layers.Conv2D(width, 1, activation="sigmoid")(gate)
        x = layers.Multiply()([x, gate])
    return layers.Activation("relu")(layers.Add()([x, shortcut]) if residual else x)


def _set_imagenet_weights(base, random_layers):
    wanted = [x for x in base.layers if x.weights and x.name not in random_layers]
    path = config.imagenet_path()
    if path.is_file():
        missing = []
        with np.load(path) as stored:
            for layer in wanted:
                arrays = [
                    # Of older Keras, a depthwise kernel is called depthwise_kernel.
                    stored[key]
                    for weight in layer.weights
                    for key in stored.files
                    if key.startswith(f"{layer.name}__") and key.endswith(weight.name)
                ]
                if len(arrays) == len(layer.weights):
                    layer.set_weights(arrays)
                else:
                    missing.append(layer.name)
        if missing:
            print(f"{path.name} has no weights for {', '.join(missing)}: they start at random")
        return
    try:
        source = keras.applications.MobileNet(
            input_shape=(224, 224, 3), include_top=False, pooling="avg", weights="imagenet"
        )
    except Exception as error:  # Keras raises the bare class when a download fails
        if "URL fetch failure" not in str(error):
            raise
        raise ConnectionError(
            f"MobileNet's ImageNet weights could not be downloaded ({error}): connect this machine "
            f"once, put a copy at {path}, or pass weights=None and say that the network started at "
            f"random; {CERTIFICATES}"
        ) from error
    for layer in wanted:
        layer.set_weights(source.get_layer(layer.name).get_weights())


def _softmax(x, num_classes):
    logits = layers.Dense(num_classes)(x)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(logits)


BUILDERS = {
    "six_conv": build_six_conv_cnn,
    "five_conv": build_five_conv_cnn,
    "final": build_final_cnn,
    "mobilenet": build_mobilenet,
    "compact": build_compact_cnn,
    "vgg": build_vgg_cnn,
}


def count_parameters(model):
    """Return (trainable, non-trainable) parameters of a model."""
    return tuple(
        sum(int(np.prod(weight.shape)) for weight in weights)
        for weights in (model.trainable_weights, model.non_trainable_weights)
    )
