"""Puts every test on the sample data, prepared and trained anew."""

import os

os.environ["FACELAB_SAMPLE"] = "1"


def pytest_sessionstart(session):
    if session.config.option.collectonly:
        return
    from utils import config
    from utils.files import remove

    for leftover in (
        config.output_dir("fer2013"),
        *(config.prepared_dir(dataset) for dataset in config.RAW_NAMES),
        config.prepared_dir("utkface", "report"),
    ):
        remove(leftover)
