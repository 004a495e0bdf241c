"""Further outputs beside the class (multi-task learning).

Age and race of UTKFace exist only in training: a network that learns nothing but gender fails most
on children, and to know that a face is a child's may help (Ranjan et al. 2017, arXiv:1611.00851,
learn age, gender and more together); notebook 04, where this is taught, asks whether it does.

The age in years is kept: it is learned as a distribution over 101 years around the label (label
distribution learning, Gao et al. 2017, arXiv:1611.01731), and the answer is the expected value
(DEX, Rothe et al. 2018). So the loop can tell a child, of whom it should not say a gender.

People's votes on FER-2013 are kept: FER-2013's labels and FER+ disagree on a quarter of the images,
and a network that has an answer to each can be asked for either, or for the mean.
"""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
from scipy.special import softmax

from utils.data.ferplus import load_votes, soften
from utils.data.prepared import rows_of
from utils.data.utk import RACES
from utils.evaluation import AGE_BANDS, age_bands
from utils.models import add_head
from utils.preprocessing import EMOTIONS, YEARS

AUXILIARY_CLASSES = {"age": tuple(AGE_BANDS), "race": RACES, "votes": EMOTIONS, "years": YEARS}
# In the loss; the class itself counts 1. Measured: by 0.1, the gradient that years leave on the
# features of `gender_utk_64_distilled` is as large as that of gender.
WEIGHTS = {"age": 0.3, "race": 0.3, "votes": 1.0, "years": 0.1}
SPREAD = 2.0  # years, standard deviation of the label around an age that was estimated itself
# Scored and kept with the class; the others only have to shape the network.
KEPT = ("votes", "years")


def add_labels(batches, names):
    """Put the labels of the further outputs beside those of the class.

    Parameters
    ----------
    batches : utils.data.batches.Batches
        Of UTKFace or, for votes, of FER-2013.
    names : sequence of {"age", "race", "votes", "years"}

    Returns
    -------
    utils.data.batches.Batches
        Its labels are float32 (n, num_classes + further classes): one block of columns after the
        other; age (bands) and race one-hot, votes as shares without those of a single person,
        years as a normal distribution around the age.
    """
    rows = rows_of(batches.prepared, batches.split, batches.class_names)
    blocks = [batches.labels]
    for name in names:
        if name == "votes":
            votes = load_votes(batches.split)
            blocks.append(soften(np.where(votes > 1, votes, 0), batches.y_true)[0])
            continue
        if name == "years":
            distances = np.array(YEARS) - rows["age"].to_numpy().clip(max=YEARS[-1])[:, None]
            blocks.append(softmax(-0.5 * (distances / SPREAD) ** 2, axis=1))
            continue
        values = age_bands(rows["age"]) if name == "age" else rows["race"]
        codes = pd.Categorical(values, categories=AUXILIARY_CLASSES[name]).codes
        blocks.append(keras.utils.to_categorical(codes, len(AUXILIARY_CLASSES[name])))
    labels = np.concatenate(blocks, axis=1).astype(np.float32)
    return replace(
        batches, labels=labels, labels_from=f"{batches.labels_from} with {', '.join(names)}"
    )


def add_outputs(model, names):
    """Give a network further outputs.

    Parameters
    ----------
    model : keras.Model
        Its last layers are a global average, dropout and the classifier. Outputs that are kept
        see what the classifier sees; the others see the average without dropout.
    names : sequence of {"age", "race", "votes", "years"}

    Returns
    -------
    joined : keras.Model
        All outputs as one array, to be trained.
    kept : keras.Model
        The class alone or, where there are any, with the outputs that are `KEPT`.
        Both share the layers of `model`: training one trains the other.
    """
    heads = {
        name: add_head(model, name, len(AUXILIARY_CLASSES[name]), dropout=name in KEPT)
        for name in names
    }
    kept = [model.output, *(head for name, head in heads.items() if name in KEPT)]
    outputs = keras.layers.Concatenate(dtype="float32")([model.output, *heads.values()])
    joined = keras.Model(model.input, outputs)
    return joined, keras.Model(model.input, kept, name=model.name) if kept[1:] else model


def split_columns(array, num_classes, names):
    """The blocks of columns that belong to each output."""
    sizes = [num_classes, *(len(AUXILIARY_CLASSES[name]) for name in names)]
    return keras.ops.split(array, np.cumsum(sizes)[:-1].tolist(), axis=1)


def build_loss(num_classes, names, label_smoothing):
    """The loss of the class and, times `WEIGHTS`, that of each further output."""

    def loss(y_true, y_pred):
        cross_entropy = keras.losses.CategoricalCrossentropy(
            label_smoothing=label_smoothing, reduction=None
        )
        truths, answers = (split_columns(x, num_classes, names) for x in (y_true, y_pred))
        terms = [cross_entropy(truth, answer) for truth, answer in zip(truths, answers)]
        return terms[0] + sum(WEIGHTS[name] * term for name, term in zip(names, terms[1:]))

    return loss


def build_accuracy(num_classes):
    """The accuracy of the class alone, under the name that Keras gives it."""

    def accuracy(y_true, y_pred):
        return keras.metrics.categorical_accuracy(y_true[:, :num_classes], y_pred[:, :num_classes])

    return accuracy
