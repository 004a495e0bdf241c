"""Arrays in memory -> batches for Keras: shuffled, augmented, resized."""

import keras
import tensorflow as tf

AUGMENTATIONS = ("none", "flip", "strong")


def build_augmentation(name, seed):
    """Random changes of training images.

    Parameters
    ----------
    name : {"none", "flip", "strong"}
        "flip" is the report's: left and right swapped for half of the images. "strong" adds
        rotation, zoom, shift, brightness and contrast, for networks that train longer than the
        report's. Taught in notebook 03.
    seed : int

    Returns
    -------
    list of keras.layers.Layer
        To be called with ``training=True`` on float images in 0..255.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation is {name!r}, expected one of {AUGMENTATIONS}")
    layers = []
    if name in ("flip", "strong"):
        layers += [keras.layers.RandomFlip("horizontal", seed=seed)]
    if name == "strong":
        layers += [
            keras.layers.RandomRotation(0.03, fill_mode="nearest", seed=seed),  # +-11 degrees
            keras.layers.RandomZoom(0.12, fill_mode="nearest", seed=seed),
            keras.layers.RandomTranslation(0.08, 0.08, fill_mode="nearest", seed=seed),
            keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=seed),
            keras.layers.RandomContrast(0.25, value_range=(0, 255), seed=seed),
        ]
    return layers


def make_dataset(
    images, y_true, num_classes, batch_size, input_size, augmentation="none", shuffle_seed=None
):
    """Batches of images and one-hot labels.

    Parameters
    ----------
    images : numpy.ndarray, uint8, 0..255, (n, height, width, channels)
    y_true : numpy.ndarray, int, (n,)
    num_classes : int
    batch_size : int
    input_size : tuple of int
        Height and width for the network; images of another size are interpolated, batch by batch,
        so that only the small ones are kept in memory.
    augmentation : str
        See `build_augmentation`.
    shuffle_seed : int, optional
        Shuffles anew each epoch; None keeps the order.

    Returns
    -------
    tf.data.Dataset
        of float32 images in 0..255 and float32 one-hot labels.
    """
    one_hot = keras.utils.to_categorical(y_true, num_classes)
    dataset = tf.data.Dataset.from_tensor_slices((images, one_hot))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(images), seed=shuffle_seed)
    changes = build_augmentation(augmentation, shuffle_seed)

    def transform(batch, labels):
        batch = tf.cast(batch, tf.float32)
        for change in changes:
            batch = change(batch, training=True)
        if images.shape[1:3] != tuple(input_size):
            batch = tf.image.resize(batch, input_size)
        return batch, labels

    # One call at a time: the layers' random state makes a parallel map depend on chance.
    return dataset.batch(batch_size).map(transform).prefetch(tf.data.AUTOTUNE)
