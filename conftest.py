"""Puts every test on the sample data, prepared and trained anew."""

import os

import pytest

os.environ["FACELAB_SAMPLE"] = "1"


def pytest_sessionstart(session):
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist comes after the process that has done it
    from utils import config
    from utils.files import free_name, remove

    outputs = config.output_dir("fer2013")
    if outputs.is_dir():  # yours on the sample come back at the end
        session.aside = free_name(outputs.with_name("sample_during_tests"))
        outputs.rename(session.aside)
    for leftover in (
        *(config.prepared_dir(dataset) for dataset in config.RAW_NAMES),
        config.prepared_dir("utkface", "report"),
    ):
        remove(leftover)


def pytest_sessionfinish(session):
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    from utils import config
    from utils.files import remove

    remove(config.output_dir("fer2013"))
    if hasattr(session, "aside"):
        session.aside.rename(config.output_dir("fer2013"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessAFile(LoadScopeScheduling):
        """All notebooks count as one: 03 needs what 01 has prepared."""

        def _split_scope(self, nodeid):
            path, _, _ = nodeid.partition("::")
            return "notebooks" if path.endswith(".ipynb") else path

    return OneProcessAFile(config, log)
