"""Networks and small trainings, for several tests."""

import os
import time
from dataclasses import replace

import keras
import numpy as np

from utils.data.batches import load_batches
from utils.models import BUILDERS
from utils.networks.contract import ModelContract
from utils.preprocessing import EMOTIONS, GENDERS, face_input_for
from utils.recipes.recipe import Recipe, train_recipe
from utils.training import train


def untrained(dataset, class_names, colour):
    keras.utils.set_random_seed(0)
    face_input = face_input_for(dataset, 48, 48, colour)
    contract = ModelContract("compact", {"widths": [8]}, class_names, face_input, "nothing")
    return BUILDERS["compact"](face_input.shape, len(class_names), widths=[8]), contract


EMOTION = untrained("fer2013", EMOTIONS, "grey")
GENDER = untrained("utkface", GENDERS, "rgb")
TINY = face_input_for("fer2013", 12, 12, "grey")


def of_both_views(model, image):
    """What the loop says of an image, (1, height, width, channels): its mirror image counts too."""
    both = np.concatenate([image, np.flip(image, axis=2)])
    return model(both, training=False).numpy().mean(axis=0)


def small_network(filters=4, activation="relu", optimizer=None, loss="categorical_crossentropy"):
    """A network for TINY that trains in no time, compiled; always with the same weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(TINY.shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(filters, 3, strides=3, activation=activation)(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(len(EMOTIONS), activation="softmax")(x))
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def sample_batches(face_input=TINY, **changes):
    """The sample's training and validation batches."""
    settings = {"batch_size": 16, "augmentation": "flip", **changes}
    return [load_batches("fer2013", split, face_input, **settings) for split in ("train", "valid")]


def train_small(name, model=None, epochs=2, batches=None, **settings):
    """Train `small_network` on the sample, or what was given instead."""
    return train(model or small_network(), name, *(batches or sample_batches()), epochs, **settings)


SMALL = Recipe(
    "fer2013", "compact", 1, {"widths": [8]}, height=16, width=16, learning_rate=0.01, batch_size=16
)
TOLD = {
    "votes": replace(SMALL, auxiliary=("votes",), average_views=True),
    "years": replace(SMALL, dataset="utkface", colour="rgb", auxiliary=("years", "race"), epochs=2),
}


def train_told(output):
    """Train a recipe whose network has a further output, under the name of that output."""
    return train_recipe(TOLD[output], output)


class Slow(keras.callbacks.Callback):
    """Waits after each step for as many seconds as the environment says."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))
