"""Further outputs that exist only in training: age and race of UTKFace, beside gender.

A network that learns nothing but gender fails most on children. To know that a face is a child's
may help (Ranjan et al. 2017, arXiv:1611.00851, learn age, gender and more together); notebook 04,
where this is taught, asks whether it does.
"""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
from keras import layers

from utils.data.prepared import rows_of
from utils.data.utk import RACES
from utils.evaluation import AGE_BANDS, age_bands

AUXILIARY_CLASSES = {"age": tuple(AGE_BANDS), "race": RACES}
WEIGHT = 0.3  # of each further output in the loss; the class itself counts 1


def add_labels(batches, names):
    """Put the labels of the further outputs beside those of the class.

    Parameters
    ----------
    batches : utils.data.batches.Batches
        Of UTKFace.
    names : sequence of {"age", "race"}

    Returns
    -------
    utils.data.batches.Batches
        Its labels are float32 (n, num_classes + further classes): one block of columns after the
        other, the further ones one-hot.
    """
    rows = rows_of(batches.prepared, batches.split, batches.class_names)
    blocks = [batches.labels]
    for name in names:
        values = age_bands(rows["age"]) if name == "age" else rows["race"]
        codes = pd.Categorical(values, categories=AUXILIARY_CLASSES[name]).codes
        blocks.append(keras.utils.to_categorical(codes, len(AUXILIARY_CLASSES[name])))
    labels = np.concatenate(blocks, axis=1).astype(np.float32)
    return replace(
        batches, labels=labels, labels_from=f"{batches.labels_from} with {', '.join(names)}"
    )


def add_outputs(model, names):
    """A model with the outputs of another one and further ones, joined to one array.

    Parameters
    ----------
    model : keras.Model
        Its last layers are a global average, dropout and the classifier. The further outputs see
        the average without dropout: they only have to shape it.
    names : sequence of {"age", "race"}

    Returns
    -------
    keras.Model
        Shares the layers of `model`: training it trains `model`.
    """
    pools = [x for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)]
    outputs = [model.output]
    for name in names:
        logits = layers.Dense(len(AUXILIARY_CLASSES[name]), name=f"{name}_logits")(pools[-1].output)
        outputs.append(layers.Activation("softmax", dtype="float32", name=name)(logits))
    return keras.Model(model.input, layers.Concatenate(dtype="float32")(outputs))


def split_columns(array, num_classes, names):
    """The blocks of columns that belong to each output."""
    sizes = [num_classes, *(len(AUXILIARY_CLASSES[name]) for name in names)]
    return keras.ops.split(array, np.cumsum(sizes)[:-1].tolist(), axis=1)


def build_loss(num_classes, names, label_smoothing):
    """The loss of the class, and `WEIGHT` times that of each further output."""

    def loss(y_true, y_pred):
        cross_entropy = keras.losses.CategoricalCrossentropy(
            label_smoothing=label_smoothing, reduction=None
        )
        truths, answers = (split_columns(x, num_classes, names) for x in (y_true, y_pred))
        terms = [cross_entropy(truth, answer) for truth, answer in zip(truths, answers)]
        return terms[0] + WEIGHT * sum(terms[1:])

    return loss


def build_accuracy(num_classes):
    """The accuracy of the class alone, under the name that Keras gives it."""

    def accuracy(y_true, y_pred):
        return keras.metrics.categorical_accuracy(y_true[:, :num_classes], y_pred[:, :num_classes])

    return accuracy
