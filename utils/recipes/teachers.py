"""Knowledge distillation: what trained networks say of the training images, as labels.

Source: Hinton et al. 2015, arXiv:1503.02531. Taught in notebook 03.
"""

import hashlib
from dataclasses import replace

import numpy as np
import tensorflow as tf

from utils import config
from utils.data.batches import views
from utils.files import replaced_when_done, sha256_of
from utils.networks.contract import find_network
from utils.networks.precision import with_policy
from utils.networks.storage import build_with_weights, only_class
from utils.training import load_run


def ask_teachers(names, batches, policy="float32"):
    """The mean answer of some networks to each image, and of each to several views of it.

    It takes minutes, so it is kept, under checksums of the networks and the images.

    Parameters
    ----------
    names : sequence of str
        Of shipped networks or, where none has that name, of finished runs of yours.
    batches : utils.data.batches.Batches
        Of the training split.
    policy : str
        Of Keras, in which they compute.

    Returns
    -------
    numpy.ndarray, float32, (n, num_classes)

    Raises
    ------
    FileNotFoundError
        If there is no such network.
    ValueError
        If a teacher has other classes, or learned on another split.
    """
    teachers = [_load(name, batches, policy) for name in names]
    checksum = hashlib.sha256(policy.encode() + batches.images.tobytes())
    for _, _, weights_sha256 in teachers:
        checksum.update(weights_sha256.encode())
    path = config.output_dir(batches.prepared.dataset) / "answers" / f"{checksum.hexdigest()}.npy"
    if not path.is_file():
        print(f"asking {' and '.join(names)} about the training images ...")
        answers = []
        for model, face_input, _ in teachers:
            seen = batches.of("train", face_input)
            plain = replace(seen, split="valid")  # read as that one is: in order and unchanged
            answers += [
                np.concatenate([model.predict_on_batch(x) for x, _ in plain.dataset(images=images)])
                for images in views(seen.images)
            ]
        with replaced_when_done(path) as partial:
            np.save(partial, np.mean(answers, axis=0))
    return np.load(path)


def patient_teachers(names, batches, policy="float32"):
    """Teachers that are asked about each batch as the network will see it, but for its size.

    Parameters, errors: see `ask_teachers`; also if a teacher sees other colours.

    Returns
    -------
    callable
        Takes images and labels of a batch; the first labels, those of the class, become half
        what the teachers say.
    """
    teachers = [_load(name, batches, policy) for name in names]
    for name, (_, face_input, _) in zip(names, teachers):
        if face_input.colour != batches.face_input.colour:
            raise ValueError(
                f"teacher {name} sees {face_input.colour} images, expected "
                f"{batches.face_input.colour} ones: it is to be asked about the same"
            )
    num_classes = len(batches.class_names)

    def teach(images, labels):
        answers = sum(
            teacher(tf.image.resize(images, face_input.shape[:2]), training=False)
            for teacher, face_input, _ in teachers
        ) / len(teachers)
        mixed = (labels[:, :num_classes] + answers) / 2
        return tf.concat([mixed, labels[:, num_classes:]], axis=1)

    return teach


def _load(name, batches, policy):
    """A teacher, its input, and the checksum of its weights."""
    split_name = "default"  # of all that is shipped
    if (config.PRETRAINED_DIR / f"{name}.npz").is_file():
        path, contract = find_network(name)
        model, checksum = build_with_weights(path, contract), sha256_of(path)
    else:
        run = load_run(name)
        model, contract = only_class(run.load_model()), run.contract
        checksum = run.facts["weights_sha256"]
        split_name = run.facts["made_of"]["batches"]["split_name"]
    if split_name != batches.split_name:
        raise ValueError(
            f"teacher {name} learned on the split {split_name!r} and may know validation and test "
            f"images of {batches.split_name!r}, expected one that learned on the latter"
        )
    if contract.class_names != batches.class_names:
        raise ValueError(
            f"teacher {name} has the classes {contract.class_names}, expected {batches.class_names}"
        )
    model = with_policy(model, policy)
    model.jit_compile = False
    return model, contract.face_input, checksum
