"""What a user of a trained network must know, beside its weights; read without Keras."""

from dataclasses import asdict, dataclass

from utils import config
from utils.files import read_json, sha256_of, write_json
from utils.preprocessing import FaceInput

SHIPPED_NAME = "network.npz"  # in the folder of a run
OWN_ARCHITECTURE = "architecture.json"  # of a run, whose network may be from a notebook's cell
WEIGHTS_NAME = "model.weights.h5"  # beside it


@dataclass(frozen=True)
class ModelContract:
    """Saved as ``.json`` beside the weights of a shipped network.

    Parameters
    ----------
    architecture : str
        Key of `utils.models.BUILDERS`, or ``"architecture.json"``: that file beside the weights.
    arguments : dict
        Of the builder.
    class_names : tuple of str
        In the order of the outputs.
    face_input : FaceInput
        Size, colour and crop of the input.
    trained_on : str
        Data set and run.
    weights_sha256 : str
        Of the weights file.
    litert_sha256 : str
        Of the ``.tflite`` beside it, which the loop runs; without one, the loop runs Keras.
    votes_weight, tau : float
        Of a network with an output for labels and one for people's votes: the weight of the latter
        in their mean, and how far rare classes are raised, see `utils.evaluation.combine`; the
        weights contain both.
    prior : tuple of float
        Share of each class in training, for `tau`.
    temperature : float
        By which the logits were divided, see `utils.networks.storage.calibrate`; the weights
        contain it.
    unsure_below : float
        The realtime loop says "unsure" where the largest probability is lower.
    child_below : float
        Of a face that is estimated younger, in years, the loop says "child" and no gender. 0 for a
        network without an output for age; the answers of others are those of
        `utils.networks.storage.join_age`.
    """

    architecture: str
    arguments: dict
    class_names: tuple
    face_input: FaceInput
    trained_on: str
    weights_sha256: str = ""
    litert_sha256: str = ""
    votes_weight: float = 0.0
    tau: float = 0.0
    prior: tuple = ()
    temperature: float = 1.0
    unsure_below: float = 0.0
    child_below: float = 0.0

    @classmethod
    def read(cls, path):
        """Read a contract; FileNotFoundError if there is none."""
        content = read_json(path)
        content["face_input"] = FaceInput(**content["face_input"])
        content["class_names"] = tuple(content["class_names"])
        content["prior"] = tuple(content.get("prior", ()))
        content.pop("pixel_range", None)  # of earlier contracts: 0..255, as all networks here
        return cls(**content)

    def write(self, path):
        """Write the contract as JSON."""
        write_json(path, asdict(self))


def find_network(name):
    """Find a network by name, and check its file.

    Parameters
    ----------
    name : str
        ``outputs/pretrained/<name>.npz`` and ``.json``, or a run of yours that was shipped:
        ``outputs/runs/<name>/network.npz`` and ``.json``.

    Returns
    -------
    path : pathlib.Path
        Of its weights.
    contract : ModelContract

    Raises
    ------
    FileNotFoundError
        If there is no such network, with the names there are.
    ValueError
        If the weights are not those that the contract was written for, or other pixels are wanted.
    """
    paths = networks()
    if name not in paths:
        raise FileNotFoundError(
            f"no network {name!r}, there are {', '.join(paths)}; python tasks.py ship NAME "
            "--accuracy 0.75 adds a run of yours"
        )
    path = paths[name]
    contract = ModelContract.read(path.with_suffix(".json"))
    check_file(path, contract.weights_sha256)
    return path, contract


def check_file(path, sha256):
    """Raise ValueError if a file beside a contract is missing, or another than it was made for."""
    if not path.is_file() or sha256_of(path) != sha256:
        raise ValueError(
            f"{path} is missing or not the file that {path.stem}.json was written for (sha256): "
            "get both again by git checkout outputs/pretrained, or ship the run once more by "
            "python tasks.py ship and its name"
        )


def networks():
    """Networks that can be loaded, by name: dict of str to the path of the weights.

    Ours are in ``outputs/pretrained/``; a run of yours that has the name of one of them is found
    as ``my_<name>``.
    """
    ours = {path.stem: path for path in sorted(config.PRETRAINED_DIR.glob("*.npz"))}
    folders = reversed(config.runs_dirs())  # of two runs of a name, that in the first one counts
    yours = [path for x in folders for path in sorted(x.glob(f"*/{SHIPPED_NAME}"))]
    names = [("my_" * (path.parent.name in ours)) + path.parent.name for path in yours]
    return dict(zip(names, yours)) | ours
