"""Fixtures: a project of its own for each test, so that no test sees another's files."""

import functools
import shutil

import pytest
from projects import move_project

from utils import config
from utils.data.fer import prepare_fer
from utils.data.utk import prepare_utk


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty project below tmp_path: data/raw/ and outputs/, read as full data."""
    move_project(monkeypatch, tmp_path)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="session")
def sample_project(tmp_path_factory):
    """A project with the drawn sample, prepared; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("sample")
    with pytest.MonkeyPatch.context() as patch:
        move_project(patch, folder)
        shutil.copytree(config.SAMPLE_DIR / "raw", folder / "data" / "raw")
        prepare_fer()
        prepare_utk()
    return folder


@pytest.fixture
def prepared_workspace(workspace, sample_project):
    """The same with the drawn sample, prepared."""
    shutil.copytree(sample_project / "data", workspace / "data", dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def trained_project(sample_project):
    """The sample with a finished run "small", of `stand_ins.small_network`; to be copied."""
    from stand_ins import train_small

    with pytest.MonkeyPatch.context() as patch:
        move_project(patch, sample_project)
        train_small("small")
    return sample_project


@pytest.fixture
def small_run(prepared_workspace, trained_project):
    """The finished run "small" in a project of this test."""
    from utils.training import Run

    folder = config.RUNS_DIR / "small"
    shutil.copytree(trained_project / "outputs" / "runs" / "small", folder)
    return Run(folder)


@pytest.fixture(scope="session")
def told(sample_project):
    """A function of "votes" or "years": the folder of a run with that output, trained once."""

    @functools.cache
    def folder_of(output):
        from stand_ins import train_told

        with pytest.MonkeyPatch.context() as patch:
            move_project(patch, sample_project)
            return train_told(output).folder

    return folder_of


@pytest.fixture
def told_run(prepared_workspace, told):
    """A function of "votes" or "years": a run with that output in a project of this test."""
    from utils.training import Run

    def run_with(output):
        shutil.copytree(told(output), config.RUNS_DIR / output)
        return Run(config.RUNS_DIR / output)

    return run_with
