"""Arrays in memory -> batches for Keras: shuffled, augmented, resized."""

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

AUGMENTATIONS = ("none", "flip", "strong", "heavy", "camera")


class RandomAffine(keras.layers.Layer):
    """Rotates, zooms and shifts each image at random, with a single interpolation.

    Keras has a layer for each of the three, but small images lose their detail when they are
    interpolated three times in a row.

    Parameters
    ----------
    degrees : float
        Largest rotation to either side.
    zoom : float
        Largest change of size, for instance 0.1 for 0.9 to 1.1.
    shift : float
        Largest shift along each axis, as a share of the image.
    seed : int
    """

    def __init__(self, degrees, zoom, shift, seed=None):
        super().__init__()
        self.radians, self.zoom, self.shift = np.deg2rad(degrees), zoom, shift
        self.random = keras.random.SeedGenerator(seed)

    def call(self, images):
        """Transform images, float (n, height, width, channels); borders are continued."""
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]

        def draw(limit):
            return keras.random.uniform((count,), -limit, limit, seed=self.random)

        angle, scale = draw(self.radians), 1 + draw(self.zoom)
        cosine, sine = scale * tf.cos(angle), scale * tf.sin(angle)
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        # Each output pixel (x, y) is read from the input at (a x + b y + c, d x + e y + f).
        offset_x = centre_x - cosine * centre_x + sine * centre_y + width * draw(self.shift)
        offset_y = centre_y - sine * centre_x - cosine * centre_y + height * draw(self.shift)
        zero = tf.zeros_like(angle)
        transforms = [cosine, -sine, offset_x, sine, cosine, offset_y, zero, zero]
        return keras.ops.image.affine_transform(
            images, tf.stack(transforms, axis=1), interpolation="bilinear", fill_mode="nearest"
        )


class RandomNoise(keras.layers.Layer):
    """Adds normal noise to half of the images, of a standard deviation drawn for each.

    Parameters
    ----------
    limit : float
        Largest standard deviation, in grey levels.
    seed : int
    """

    def __init__(self, limit, seed=None):
        super().__init__()
        self.limit = limit
        self.random = keras.random.SeedGenerator(seed)

    def call(self, images):
        """Change images, float 0..255, (n, height, width, channels)."""
        deviation = keras.random.uniform(
            (tf.shape(images)[0], 1, 1, 1), -self.limit, self.limit, seed=self.random
        )
        noise = keras.random.normal(tf.shape(images), seed=self.random)
        return tf.clip_by_value(images + tf.nn.relu(deviation) * noise, 0, 255)


def build_augmentation(name, seed):
    """Random changes of training images.

    Parameters
    ----------
    name : {"none", "flip", "strong", "heavy", "camera"}
        "flip" is the report's: left and right swapped for half of the images. "strong" adds
        rotation, zoom, shift, brightness and contrast, for networks that train longer than the
        report's. "heavy" does more of each and erases a rectangle of half of the images (Zhong et
        al. 2017, arXiv:1708.04896). "camera" adds blur and noise to that, of which the data sets
        have little. Taught in notebook 03.
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
    if name != "none":
        layers += [keras.layers.RandomFlip("horizontal", seed=seed)]
    if name == "strong":
        layers += [
            RandomAffine(degrees=11, zoom=0.12, shift=0.08, seed=seed),
            keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=seed),
            keras.layers.RandomContrast(0.25, value_range=(0, 255), seed=seed),
        ]
    if name in ("heavy", "camera"):
        layers += [
            RandomAffine(degrees=15, zoom=0.2, shift=0.12, seed=seed),
            keras.layers.RandomBrightness(0.2, value_range=(0, 255), seed=seed),
            keras.layers.RandomContrast(0.3, value_range=(0, 255), seed=seed),
        ]
    if name == "camera":
        layers += [
            keras.layers.RandomGaussianBlur((0.5, 0.5), kernel_size=5, sigma=(0, 1), seed=seed),
            RandomNoise(16, seed=seed),
        ]
    if name in ("heavy", "camera"):
        layers += [
            keras.layers.RandomErasing(
                factor=(0.5, 0.5), scale=(0.02, 0.25), fill_value=128, seed=seed
            )
        ]
    return layers


def one_hot(y_true, num_classes):
    """Labels as probabilities: class indices (n,) become one-hot, (n, num_classes) stays."""
    return keras.utils.to_categorical(y_true, num_classes) if y_true.ndim == 1 else y_true


def make_dataset(
    images,
    y_true,
    num_classes,
    batch_size,
    input_size=None,
    augmentation="none",
    mixup=0.0,
    shuffle_seed=None,
):
    """Batches of images and one-hot labels.

    Parameters
    ----------
    images : numpy.ndarray, uint8, 0..255, (n, height, width, channels)
        Or the path of such an array in a ``.npy`` file, which stays on disk.
    y_true : numpy.ndarray, int, (n,), or float, (n, num_classes)
        Class indices, or a probability for each class.
    num_classes : int
    batch_size : int
    input_size : tuple of int, optional
        Height and width for the network; images of another size are interpolated, batch by batch,
        so that only the small ones are kept in memory. None: as they are.
    augmentation : str
        See `build_augmentation`.
    mixup : float
        Above 0, images and labels of a batch are mixed in pairs, with shares from a beta
        distribution of this parameter (Zhang et al. 2018, arXiv:1710.09412).
    shuffle_seed : int, optional
        Shuffles anew each epoch; None keeps the order.

    Returns
    -------
    tf.data.Dataset
        of float32 images in 0..255 and float32 labels, one-hot or as given.
    """
    labels = tf.constant(one_hot(y_true, num_classes), tf.float32)
    if isinstance(images, Path):
        read = _reader_of(images)
    else:
        stored = tf.constant(images)
        read = functools.partial(tf.gather, stored)
    # Numbers are shuffled, not images: a buffer of all images would need their memory once more.
    dataset = tf.data.Dataset.range(len(y_true))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(y_true), seed=shuffle_seed)
    changes = build_augmentation(augmentation, shuffle_seed)
    mix = keras.layers.MixUp(mixup, seed=shuffle_seed) if mixup else None

    def transform(indices):
        batch = tf.cast(read(indices), tf.float32)
        for change in changes:
            batch = change(batch, training=True)
        if input_size and tuple(batch.shape[1:3]) != tuple(input_size):
            batch = tf.image.resize(batch, input_size)
        targets = tf.gather(labels, indices)
        if mix:
            mixed = mix({"images": batch, "labels": targets})
            batch, targets = mixed["images"], mixed["labels"]
        return batch, targets

    # One call at a time: the layers' random state makes a parallel map depend on chance.
    return dataset.batch(batch_size).map(transform).prefetch(tf.data.AUTOTUNE)


def views(images, shift=2):
    """The same faces seen ten ways: moved by some pixels or not, and each of these mirrored.

    The mean of a network's answers to all of them is better than one answer, and takes ten times
    as long. Taught in notebook 03.

    Parameters
    ----------
    images : numpy.ndarray, (n, height, width, channels)
    shift : int
        In pixels; borders are continued.

    Yields
    ------
    numpy.ndarray, (n, height, width, channels)
        First the images themselves.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    for down, right in ((0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift)):
        top, left = shift - down, shift - right
        moved = padded[:, top : top + height, left : left + width]
        yield moved
        yield moved[:, :, ::-1]


def _reader_of(path):
    """A function from indices to what stands at these places of a ``.npy`` file."""
    array = np.load(path, mmap_mode="r")
    shape, dtype = array.shape, array.dtype
    del array

    def read(indices):
        # Opened for each batch: Windows deletes no file that somebody holds open.
        batch = tf.numpy_function(
            lambda chosen: np.load(path, mmap_mode="r")[chosen], [indices], dtype
        )
        batch.set_shape((None, *shape[1:]))
        return batch

    return read
