"""Fixtures: a project of its own for each test, so that no test sees another's files."""

import shutil

import pytest

from utils import config
from utils.fer import prepare_fer
from utils.utk import prepare_utk


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty project below tmp_path: data/raw/ and outputs/, read as full data."""
    monkeypatch.setenv("FACELAB_SAMPLE", "0")
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(config, "RUNS_DIR", tmp_path / "outputs" / "runs")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def prepared_workspace(workspace):
    """The same with the drawn sample, prepared."""
    shutil.copytree(config.SAMPLE_DIR / "raw", workspace / "data" / "raw", dirs_exist_ok=True)
    prepare_fer()
    prepare_utk()
    return workspace
