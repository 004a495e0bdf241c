"""Arrays in memory -> batches for Keras: shuffled, augmented, resized."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import keras
import numpy as np
import tensorflow as tf

from utils.data.prepared import PreparedDataset, load_images, load_prepared, rows_of
from utils.preprocessing import FaceInput

AUGMENTATIONS = ("none", "flip", "strong", "heavy", "camera")
# In 1, all layers of "strong" and more drew the same numbers, and contrast was only raised. In 2,
# "camera" changed more: 20 epochs did not make up for it.
AUGMENTATION_VERSION = 3


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


class RandomLight(keras.layers.Layer):
    """Another exposure, another contrast, and light from one side, drawn for each image.

    Parameters
    ----------
    gamma, contrast : float
        Largest factor, up or down, of the exponent and of the distance from the mean.
    side : float
        Largest share by which one border gains light and the opposite one loses it.
    seed : int
    """

    def __init__(self, gamma, contrast, side, seed=None):
        super().__init__()
        self.gamma, self.contrast, self.side = np.log(gamma), np.log(contrast), side
        self.random = keras.random.SeedGenerator(seed)

    def call(self, images):
        """Change images, float 0..255, (n, height, width, channels)."""

        def draw(limit):
            shape = (tf.shape(images)[0], 1, 1, 1)
            return keras.random.uniform(shape, -limit, limit, seed=self.random)

        images = 255 * (images / 255) ** tf.exp(draw(self.gamma))
        mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
        images = mean + (images - mean) * tf.exp(draw(self.contrast))
        x = tf.linspace(-1.0, 1.0, images.shape[2])[None, None, :, None]
        y = tf.linspace(-1.0, 1.0, images.shape[1])[None, :, None, None]
        angle = draw(np.pi)
        slope = x * tf.cos(angle) + y * tf.sin(angle)
        return tf.clip_by_value(images * (1 + draw(self.side) * slope), 0, 255)


class RandomCamera(keras.layers.Layer):
    """What a camera costs: half of the images lose detail, half get noise, a third are JPEG files.

    Batches are shuffled, so the first half of one is any half.

    Parameters
    ----------
    detail : float
        Smallest share of the pixels along a side to which images are reduced before they are
        enlarged again.
    noise : float
        Largest standard deviation, in grey levels.
    quality : int
        Lowest quality of JPEG, of 100.
    seed : int
    """

    def __init__(self, detail, noise, quality, seed=None):
        super().__init__()
        self.detail, self.noise, self.quality = detail, noise, quality
        self.random = keras.random.SeedGenerator(seed)

    def call(self, images):
        """Change images, float 0..255, (n, height, width, channels)."""
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        reduced, others = images[: count // 2], images[count // 2 :]
        share = keras.random.uniform((), self.detail, 1, seed=self.random)
        size = tf.cast(share * tf.constant([height, width], tf.float32), tf.int32)
        reduced = tf.image.resize(tf.image.resize(reduced, size, antialias=True), (height, width))
        images = tf.concat([reduced, others], axis=0)
        # Below zero half of the time: no noise.
        deviation = keras.random.uniform(
            (count, 1, 1, 1), -self.noise, self.noise, seed=self.random
        )
        noise = keras.random.normal(tf.shape(images), seed=self.random)
        images = tf.clip_by_value(images + tf.nn.relu(deviation) * noise, 0, 255)
        first = count - count // 3
        quality = keras.random.randint((count - first,), self.quality, 100, seed=self.random)
        as_jpeg = tf.map_fn(
            lambda pair: tf.image.adjust_jpeg_quality(pair[0], pair[1]),
            (images[first:] / 255, quality),
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
        )
        return tf.concat([images[:first], 255 * as_jpeg], axis=0)


def build_augmentation(name, seed):
    """Random changes of training images.

    Parameters
    ----------
    name : {"none", "flip", "strong", "heavy", "camera"}
        "flip" is the report's: left and right swapped for half of the images. "strong" adds
        rotation, zoom, shift, brightness and contrast, for networks that train longer than the
        report's. "heavy" does more of each and erases a rectangle of half of the images (Zhong et
        al. 2017, arXiv:1708.04896). "camera" changes light, detail, noise and compression as
        cameras do. Taught in notebook 03.
    seed : int

    Returns
    -------
    list of keras.layers.Layer
        To be called with ``training=True`` on float images in 0..255.
    """
    # Layers of one seed would draw the same numbers: what is flipped would be darkened, too.
    seeds = iter(np.random.SeedSequence(seed).generate_state(4).tolist())
    layers = []
    if name != "none":
        layers += [keras.layers.RandomFlip("horizontal", seed=seed)]
    if name == "strong":
        layers += [
            RandomAffine(degrees=11, zoom=0.12, shift=0.08, seed=next(seeds)),
            keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=next(seeds)),
            # Of one number, Keras makes a factor that only raises contrast.
            keras.layers.RandomContrast((0.25, 0.25), value_range=(0, 255), seed=next(seeds)),
        ]
    if name in ("heavy", "camera"):
        layers += [RandomAffine(degrees=15, zoom=0.2, shift=0.12, seed=next(seeds))]
    if name == "heavy":
        layers += [
            keras.layers.RandomBrightness(0.2, value_range=(0, 255), seed=next(seeds)),
            keras.layers.RandomContrast((0.3, 0.3), value_range=(0, 255), seed=next(seeds)),
        ]
    if name == "camera":
        layers += [
            RandomLight(gamma=1.5, contrast=1.3, side=0.4, seed=next(seeds)),
            RandomCamera(detail=0.5, noise=10, quality=40, seed=next(seeds)),
        ]
    if name in ("heavy", "camera"):
        layers += [
            keras.layers.RandomErasing(
                factor=(0.5, 0.5), scale=(0.02, 0.25), fill_value=128, seed=next(seeds)
            )
        ]
    return layers


@dataclass(frozen=True, eq=False)
class Batches:
    """The images of one split, and how they are given to a network: see `load_batches`.

    Parameters
    ----------
    decode : callable
        Gives `images`; they are decoded once, when they are first needed, and kept in memory.
    y_true : numpy.ndarray, int64, (n,)
        Index into `class_names`.
    labels : numpy.ndarray, float32, (n, num_outputs)
        What is learned: one-hot classes, unless others were put in their place.
    prepared : utils.data.prepared.PreparedDataset
    split, face_input, class_names, split_name, batch_size, augmentation, mixup, seed
        See `load_batches`.
    labels_from : str
        Where the labels are from: "classes", or what took their place.
    teach : callable, optional
        Takes a batch of the training split as the network will see it, and its labels, and gives
        others.
    """

    decode: Callable
    y_true: np.ndarray
    labels: np.ndarray
    prepared: PreparedDataset
    split: str
    face_input: FaceInput
    class_names: tuple
    split_name: str
    batch_size: int
    augmentation: str
    mixup: float
    seed: int
    labels_from: str = "classes"
    teach: Callable | None = None

    @property
    def images(self):
        """uint8, 0..255, (n, height, width, channels), grey or RGB; no larger than in the data."""
        return self.decode()

    def dataset(self, epochs_done=0, images=None):
        """Batches for Keras: tf.data.Dataset of float32 images in 0..255 and float32 labels.

        The training split is shuffled and changed anew in each epoch, the others stay in order.
        Begun with the same seed, a training that goes on would meet its first epochs' images
        once more: `epochs_done` begins elsewhere. `images` take the place of the own ones.
        """
        images = self.images if images is None else images
        stored, labels = tf.constant(images), tf.constant(self.labels)
        # Numbers are shuffled: a buffer of all images would need their memory once more.
        dataset = tf.data.Dataset.range(len(images))
        changes, mix, teach = [], None, None
        if self.split == "train":
            seed = self.seed + epochs_done
            dataset = dataset.shuffle(len(images), seed=seed)
            changes = build_augmentation(self.augmentation, seed)
            mix = keras.layers.MixUp(self.mixup, seed=seed) if self.mixup else None
            teach = self.teach
        size = (self.face_input.height, self.face_input.width)

        def transform(indices):
            batch = tf.cast(tf.gather(stored, indices), tf.float32)
            for change in changes:
                batch = change(batch, training=True)
            # Larger inputs are interpolated here, so that only small images are kept in memory.
            if tuple(batch.shape[1:3]) != size:
                batch = tf.image.resize(batch, size)
            targets = tf.gather(labels, indices)
            if mix:
                mixed = mix({"images": batch, "labels": targets})
                batch, targets = mixed["images"], mixed["labels"]
            return batch, teach(batch, targets) if teach else targets

        # One call at a time: the layers' random state makes a parallel map depend on chance.
        return dataset.batch(self.batch_size).map(transform).prefetch(tf.data.AUTOTUNE)

    def of(self, split, face_input=None):
        """The same for another split, or for a network of another input, with its own labels."""
        seen = face_input or self.face_input
        data = self.prepared.dataset, split, seen, self.class_names, self.split_name
        return load_batches(*data, self.batch_size, self.augmentation, self.mixup, self.seed)

    @property
    def given(self):
        """How many images, and a checksum of the labels."""
        return {"images": len(self.y_true), "labels": f"{zlib.crc32(self.labels.tobytes()):08x}"}

    @property
    def made_of(self):
        """All that decides what is learned, as JSON has it."""
        plain = self.augmentation in ("none", "flip")
        version = {} if plain else {"augmentation_version": AUGMENTATION_VERSION}
        return version | {
            "dataset": self.prepared.dataset,
            "split_name": self.split_name,
            "classes": list(self.class_names),
            "input": asdict(self.face_input),
            "labels": self.labels_from,
            "batch_size": self.batch_size,
            "augmentation": self.augmentation,
            "mixup": self.mixup,
            "seed": self.seed,
        }


def load_batches(
    dataset,
    split,
    face_input,
    class_names=None,
    split_name="default",
    batch_size=70,
    augmentation="none",
    mixup=0.0,
    seed=0,
):
    """Decode the images of a split, once, and give them to a network in batches.

    Taught in notebooks 03 and 04.

    Parameters
    ----------
    dataset : str
        "fer2013", "utkface", or the name of one's own.
    split : {"train", "valid", "test"}
    face_input : FaceInput
        What the network wants to see.
    class_names : sequence of str, optional
        In the order of the outputs; all classes of the data set by default.
    split_name : {"default", "report"}
        Split of UTKFace.
    batch_size : int
    augmentation : {"none", "flip", "strong", "heavy", "camera"}
        Of the training split, see `build_augmentation`.
    mixup : float
        Above 0, images and labels of a training batch are mixed in pairs, with shares from a beta
        distribution of this parameter (Zhang et al. 2018, arXiv:1710.09412).
    seed : int
        Of all that is drawn for the training split.

    Returns
    -------
    Batches

    Raises
    ------
    FileNotFoundError
        If the data are not prepared.
    ValueError
        If the split, a class or the augmentation is unknown, or the classes are not two or more.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation is {augmentation!r}, expected one of {AUGMENTATIONS}")
    prepared = load_prepared(dataset, split_name)
    class_names = tuple(class_names or prepared.class_names)
    if len(set(class_names)) < max(2, len(class_names)):
        raise ValueError(f"classes are {', '.join(class_names)}: expected two or more, each once")

    @functools.cache
    def decode():
        return load_images(prepared, split, face_input.stored, class_names)[0]

    y_true = rows_of(prepared, split, class_names)["label"].map(class_names.index).to_numpy()
    labels = keras.utils.to_categorical(y_true, len(class_names)).astype(np.float32)
    known = decode, y_true, labels, prepared, split, face_input, class_names, split_name
    return Batches(*known, batch_size, augmentation, mixup, seed)


def views(images):
    """The same faces seen ten ways: moved by two pixels or not, and each of these mirrored.

    The mean of a network's answers to all of them is better than one answer, and takes ten times
    as long. Taught in notebook 03.

    Parameters
    ----------
    images : numpy.ndarray, (n, height, width, channels)

    Yields
    ------
    numpy.ndarray, (n, height, width, channels)
        First the images themselves.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    for top, left in ((2, 2), (0, 2), (4, 2), (2, 0), (2, 4)):
        moved = padded[:, top : top + height, left : left + width]
        yield moved
        yield moved[:, :, ::-1]
