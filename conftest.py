"""Puts every test on the sample data, prepared and trained anew."""

import os

import pytest

os.environ["FACELAB_SAMPLE"] = "1"


def pytest_sessionstart(session):
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist comes after the process that has done it
    from utils import config
    from utils.files import remove

    outputs = config.output_dir("fer2013")
    # Yours on the sample come back at the end, or at that of the next tests.
    if outputs.is_dir() and not _aside(outputs).exists():
        outputs.rename(_aside(outputs))
    for leftover in (
        outputs,
        *(config.prepared_dir(dataset) for dataset in config.RAW_NAMES),
        config.prepared_dir("utkface", "report"),
    ):
        remove(leftover)


def pytest_sessionfinish(session):
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    from utils import config
    from utils.files import remove

    outputs = config.output_dir("fer2013")
    remove(outputs)
    if _aside(outputs).is_dir():
        _aside(outputs).rename(outputs)


def _aside(folder):
    return folder.with_name(f"{folder.name}_during_tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessAFile(LoadScopeScheduling):
        """All notebooks count as one: 03 needs what 01 has prepared."""

        def _split_scope(self, nodeid):
            path, _, _ = nodeid.partition("::")
            return "notebooks" if path.endswith(".ipynb") else path

    return OneProcessAFile(config, log)
