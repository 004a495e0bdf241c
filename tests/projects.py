"""Where a test's project is; without TensorFlow, as most tests need it."""

from utils import config


def move_project(patch, folder):
    """Make `folder` the project, read as full data, with nothing of ours in it but the sample."""
    patch.setenv("FACELAB_SAMPLE", "0")
    patch.delenv("FACELAB_DATA", raising=False)
    patch.setattr(config, "ROOT", folder)
    for name in ("runs", "reference", "pretrained", "reports", "realtime"):
        patch.setattr(config, f"{name.upper()}_DIR", folder / "outputs" / name)
