"""What a user of a trained network must know, beside its weights; read without Keras."""

from dataclasses import asdict, dataclass

from utils import config
from utils.files import read_json, sha256_of, write_json
from utils.preprocessing import FaceInput

PIXEL_RANGE = (0, 255)


@dataclass(frozen=True)
class ModelContract:
    """Saved as ``contract.json`` or ``<name>.json`` beside the weights of a network.

    Parameters
    ----------
    architecture : str
        Key of `utils.models.BUILDERS`.
    arguments : dict
        Of the builder.
    class_names : tuple of str
        In the order of the outputs.
    face_input : FaceInput
        Size, colour and crop of the input.
    trained_on : str
        Data set and run.
    pixel_range : tuple of int
        Range of the input; scaling is the model's first layer.
    weights_sha256 : str
        Of the weights file.
    temperature : float
        By which the logits were divided, see `utils.models.calibrate`; the weights contain it.
    unsure_below : float
        The realtime loop says "unsure" where the largest probability is lower.
    """

    architecture: str
    arguments: dict
    class_names: tuple
    face_input: FaceInput
    trained_on: str
    pixel_range: tuple = PIXEL_RANGE
    weights_sha256: str = ""
    temperature: float = 1.0
    unsure_below: float = 0.0

    @classmethod
    def read(cls, path):
        """Read a contract; FileNotFoundError if there is none."""
        content = read_json(path)
        content["face_input"] = FaceInput(**content["face_input"])
        content["class_names"] = tuple(content["class_names"])
        content["pixel_range"] = tuple(content["pixel_range"])
        return cls(**content)

    def write(self, path):
        """Write the contract as JSON."""
        write_json(path, asdict(self))


def find_pretrained(name):
    """Find a shipped network by name, and check its file.

    Parameters
    ----------
    name : str
        For instance ``"emotion_fer"``: ``outputs/pretrained/<name>.npz`` and ``.json``.

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
    path = config.PRETRAINED_DIR / f"{name}.npz"
    if not path.is_file():
        names = sorted(p.stem for p in config.PRETRAINED_DIR.glob("*.npz"))
        raise FileNotFoundError(f"no pretrained model {name!r}, there are {names}")
    contract = ModelContract.read(path.with_suffix(".json"))
    if sha256_of(path) != contract.weights_sha256:
        raise ValueError(
            f"{path} is not the file that {name}.json was written for (sha256 differs): "
            "get both again with git checkout outputs/pretrained"
        )
    if contract.pixel_range != PIXEL_RANGE:
        raise ValueError(
            f"{name}.json says pixels in {contract.pixel_range}, expected {PIXEL_RANGE}: every "
            "network of this project scales them in its first layer"
        )
    return path, contract
