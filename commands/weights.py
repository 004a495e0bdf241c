"""A run's own weights, scored on the data that are prepared here; the files may be anybody's."""

import json
from pathlib import Path

import h5py
import keras
import numpy as np

from commands.checks import check, questions, read_references
from commands.records import FILES, read_run
from utils import config
from utils.data.batches import load_batches
from utils.data.prepared import fingerprint
from utils.evaluation import evaluate
from utils.models import count_parameters
from utils.networks.contract import OWN_ARCHITECTURE, WEIGHTS_NAME
from utils.networks.storage import only_class
from utils.preprocessing import FaceInput

MAX_BYTES = {OWN_ARCHITECTURE: 2**22, WEIGHTS_NAME: 2**30}  # ours: 100 kB and 80 MB
MAX_SIDE = 512  # of a picture in pixels
SAME_ANSWER = 0.01  # float16, and processors that add in another order, differ by less
# Where Keras' own parts of a network are; of these layers, some run code or read files.
MODULES = (
    *("keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints"),
    *("keras.src.models.functional", "keras.src.models.sequential"),
)
OPERATIONS = "keras.src.ops."
RUN_CODE_OR_READ_FILES = (
    *("Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"),
    *("StringLookup", "IntegerLookup", "TextVectorization"),
)


def find_folder(text):
    """The folder of a run, from its path or its name.

    Raises
    ------
    FileNotFoundError
        If there is no such run.
    """
    runs_dirs = config.runs_dirs()
    for folder in (Path(text), *(runs_dir / text for runs_dir in runs_dirs)):
        if any((folder / name).is_file() for name in FILES):
            return folder
    where = " or ".join(str(folder) for folder in runs_dirs)
    raise FileNotFoundError(
        f"{text} is no run: expected the folder of one, or the name of one in {where}"
    )


def score_run(folder):
    """Score a run's own weights on the data that are prepared here.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    list of str
        What is to be said, the accuracy on the test split last.

    Raises
    ------
    ValueError, FileNotFoundError
        If the run or its weights cannot be used, or the data are not prepared.
    """
    record = read_run(folder)
    batches = {split: _batches(record, split) for split in ("valid", "test")}
    model = load_untrusted(folder, record)
    by_class = only_class(model)
    answers = {split: by_class.predict(x.dataset(), verbose=0) for split, x in batches.items()}
    scores = evaluate(batches["test"].y_true, answers["test"])
    found = "; ".join(check(record, read_references())) or "all hold"
    lines = [f"Checks of {record.name}: {found}."]
    lines += [f"Question: {question}" for question in questions(record)]
    counted, said = sum(count_parameters(model)), sum(record.facts["parameters"])
    if counted != said:
        lines += [f"Its weights are {counted:,} parameters, but run.json says {said:,}."]
    lines += [_compare(record, batches["test"].prepared, answers)]
    accuracy, low, high = (100 * scores[key] for key in ("accuracy", "low", "high"))
    lines += [
        f"Accuracy on the test split: {accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f}, "
        f"n = {scores['n']:,})"
    ]
    return lines


def _batches(record, split):
    """A split of the data that are prepared here, as the run's network wants to see it."""
    path, batches = record.folder / "run.json", record.batches
    try:
        face_input = FaceInput(**batches["input"])
        sides = (face_input.height, face_input.width, face_input.detail)
        if not all(type(x) is int and 0 <= x <= MAX_SIDE for x in sides) or 0 in sides[:2]:
            raise ValueError(f"sides of {sides}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has a face input that cannot be used ({str(error)[:80]}), expected one of at "
            f"most {MAX_SIDE} pixels: ask for the run again"
        ) from error
    if batches["split_name"] not in ("default", "report"):
        raise ValueError(f"{path} names an unknown split, expected 'default' or 'report'")
    names, split_name = record.class_names, batches["split_name"]
    return load_batches(record.dataset, split, face_input, names, split_name, batch_size=256)


def _compare(record, prepared, answers):
    """Say whether the stored predictions are those of the weights."""
    here, data = fingerprint(prepared), record.made_of.get("data")
    others = [x for x in answers if not data or here[x]["sha256"] != data[x]["sha256"]]
    if others:
        return (
            f"The data prepared here are another copy than the run's ({' and '.join(others)}): its "
            "predictions cannot be compared, and it may have learned from these test images."
        )
    largest = 0.0
    for split, found in answers.items():
        stored = record.predictions(split)[1]
        if stored.shape != found.shape:
            return f"Stored predictions are NOT those of these weights ({split}: another number)."
        largest = max(largest, float(np.abs(stored - found).max()))
    is_same = "are" if largest <= SAME_ANSWER else "are NOT"
    return (
        f"Stored predictions {is_same} those of these weights (largest difference {largest:.2g})."
    )


def load_untrusted(folder, record):
    """Load a network of somebody else's: Keras' own layers, nothing that runs code.

    Parameters
    ----------
    folder : pathlib.Path
        Holds the report's pair of files.
    record : commands.records.RunRecord

    Returns
    -------
    keras.Model

    Raises
    ------
    ValueError, FileNotFoundError
        If a file is missing, too large, damaged, or holds what is not loaded.
    """
    for name, limit in MAX_BYTES.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: references and most submissions have no weights, ask for them"
                " (python tasks.py submit --weights)"
            )
        if path.stat().st_size > limit:
            raise ValueError(f"{path} has more than {limit:,} bytes, expected less")
    _check_weights(folder / WEIGHTS_NAME)
    path = folder / OWN_ARCHITECTURE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_architecture(path, content)
        model = keras.saving.deserialize_keras_object(content, safe_mode=True)
        model.load_weights(folder / WEIGHTS_NAME)
        shapes = model.input_shape[1:], model.outputs[0].shape[1:]
    except _Refused:
        raise
    except Exception as error:  # Keras has many, for a file that Keras did not write
        raise ValueError(
            f"{path} and {WEIGHTS_NAME} cannot be loaded ({type(error).__name__}: "
            f"{str(error)[:200]}): ask for both again"
        ) from error
    expected = FaceInput(**record.batches["input"]).shape, (len(record.class_names),)
    if shapes != expected:
        raise ValueError(
            f"{path} is a network from {shapes[0]} to {shapes[1]}, expected {expected[0]} to "
            f"{expected[1]}, as run.json has it"
        )
    return model


class _Refused(ValueError):
    """What is not loaded."""


def _check_architecture(path, content):
    """Refuse what is not Keras' own, and layers that run code or read files."""
    if isinstance(content, list):
        for each in content:
            _check_architecture(path, each)
    if not isinstance(content, dict):
        return
    name, module = content.get("class_name"), content.get("module")
    if name in RUN_CODE_OR_READ_FILES:
        raise _Refused(
            f"{path} has a layer {name}, which can run code or read files of this computer: it is "
            "not loaded; ask for a network of Keras' other layers"
        )
    if module is not None and module not in MODULES and not str(module).startswith(OPERATIONS):
        raise _Refused(
            f"{path} has {str(module)[:60]}.{str(name)[:60]}, expected Keras' own layers: it is "
            "not loaded, as code of its own is needed; run the notebook that holds it"
        )
    for each in content.values():
        _check_architecture(path, each)


def _check_weights(path):
    """Refuse links to other files, and arrays that are larger than their file lets expect."""
    links, entries = [], []
    try:
        with h5py.File(path) as file:
            file.visititems_links(lambda _, link: links.append(link))
            if not all(type(link) is h5py.HardLink for link in links):
                raise _Refused(f"{path} has links, expected arrays only: it is not loaded")
            file.visititems(lambda _, entry: entries.append(entry))
            arrays = [x for x in entries if isinstance(x, h5py.Dataset)]
            if any(x.external or x.is_virtual or x.dtype.kind not in "fiu" for x in arrays):
                raise _Refused(f"{path} has arrays that are elsewhere: it is not loaded")
            total = sum(x.nbytes for x in arrays)
    except _Refused:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({str(error)[:100]}): ask for it again") from error
    if total > MAX_BYTES[WEIGHTS_NAME]:
        raise ValueError(f"{path} unpacks to {total:,} bytes, expected less: it is not loaded")
