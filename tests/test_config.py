import subprocess
from pathlib import Path

import pytest

from utils import config


def test_sample_is_used_until_full_data_are_there(workspace, monkeypatch):
    monkeypatch.delenv("FACELAB_SAMPLE")
    assert config.is_sample_run("fer2013")
    assert config.data_dir("fer2013") == config.SAMPLE_DIR
    assert config.output_dir("fer2013") == workspace / "outputs" / "sample"
    assert "numbers mean nothing" in config.banner("fer2013")

    raw = workspace / "data" / "raw"
    (raw / "Archive.ZIP").touch()  # as Kaggle names each download
    (raw / "UTKFace.tar.gz").touch()
    says = config.banner("fer2013")
    assert f"{raw} holds Archive.ZIP: unpack it, data/README.md says" in says
    (raw / "UTKFace.tar.gz").unlink()

    (raw / "fer2013.csv.xz").touch()
    assert not config.is_sample_run("fer2013")
    assert config.is_sample_run("utkface"), "each data set is decided for itself"
    assert config.output_dir("fer2013") == workspace / "outputs"
    assert "full" in config.banner("fer2013")


def test_prepared_data_alone_count_as_full(workspace, monkeypatch):
    monkeypatch.delenv("FACELAB_SAMPLE")
    (workspace / "data" / "utkface").mkdir()
    assert not config.is_sample_run("utkface")


def test_data_folder_of_the_user(workspace, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "raw" / "UTKFace").mkdir(parents=True)
    monkeypatch.setenv("FACELAB_DATA", str(elsewhere))
    assert config.raw_path("utkface") == elsewhere / "raw" / "UTKFace"
    assert config.prepared_dir("utkface", "report") == elsewhere / "utkface_report"
    monkeypatch.chdir(elsewhere)
    (workspace / "faces" / "raw").mkdir(parents=True)
    monkeypatch.setenv("FACELAB_DATA", "faces")
    assert config.prepared_dir("utkface") == workspace / "faces" / "utkface"
    monkeypatch.setenv("FACELAB_DATA", '"faces"')  # cmd.exe keeps quotes
    for ask in (config.prepared_dir, config.is_sample_run, config.banner):
        monkeypatch.delenv("FACELAB_SAMPLE", raising=False)
        with pytest.raises(FileNotFoundError, match='FACELAB_DATA names .*"faces", which is no fo'):
            ask("utkface")


def test_beside_raw_data_that_may_only_be_read_nothing_is_written(workspace, tmp_path, monkeypatch):
    course = tmp_path / "course"
    (course / "raw" / "UTKFace").mkdir(parents=True)
    monkeypatch.setenv("FACELAB_DATA", str(course))
    assert config.prepared_dir("utkface").parent == config.models_dir().parent == course
    # Tests may run as root, whom no right stops: the system's answer is a stand-in.
    monkeypatch.setattr(config.os, "access", lambda path, mode: Path(path) != course)
    assert config.raw_path("utkface") == course / "raw" / "UTKFace"
    for folder in (config.prepared_dir("utkface", "report"), config.models_dir()):
        assert folder.parent == workspace / "data"
    prepared = course / "utkface" / config.PREPARED_MARKER
    prepared.parent.mkdir()
    prepared.touch()  # by whoever may write there
    (course / "raw" / "UTKFace").rmdir()
    assert config.prepared_dir("utkface") == prepared.parent
    assert not config.is_sample_run("utkface")


DOWNLOADS = [
    ("fer2013/fer2013.csv", "", "fer2013/fer2013.csv"),
    ("datasets/anna/fer2013/fer2013/fer2013.csv", "", "datasets/anna/fer2013/fer2013/fer2013.csv"),
    ("fer2013/train/happy/1.jpg", "", "fer2013"),
    ("datasets/anna/fer2013/train/happy/1.jpg", "", "datasets/anna/fer2013"),
    ("fer2013/train/happy/1.jpg", "fer2013", "fer2013"),
    ("faces/icml_face_data.csv", "faces", "faces/icml_face_data.csv"),
    ("datasets/anna/utkface-new/UTKFace/1.jpg", "", "datasets/anna/utkface-new/UTKFace"),
    ("utkface-new/UTKFace/1.jpg", "utkface-new/UTKFace", "utkface-new/UTKFace"),
]


@pytest.mark.parametrize("file, named, expected", DOWNLOADS)
def test_downloads_are_found_as_they_lie(workspace, monkeypatch, file, named, expected):
    path = workspace / "input" / file
    path.parent.mkdir(parents=True)
    path.touch()
    (workspace / "input" / "other").mkdir()
    monkeypatch.setenv("FACELAB_DATA", str(workspace / "input" / named))
    monkeypatch.delenv("FACELAB_SAMPLE")
    dataset = "utkface" if "UTKFace" in file else "fer2013"
    assert config.raw_path(dataset) == workspace / "input" / expected
    assert not config.is_sample_run(dataset)
    assert sum(map(config.is_sample_run, config.RAW_NAMES)) == 1, "of the other there is nothing"


def test_raw_files_are_taken_in_order_of_preference(workspace):
    for name in ("train.csv", "icml_face_data.csv", "fer2013.csv.gz"):
        (workspace / "data" / "raw" / name).touch()
    assert config.raw_path("fer2013").name == "fer2013.csv.gz"
    assert config.find_raw("fer2013") == config.raw_path("fer2013")


def test_missing_raw_data_say_what_to_do(workspace):
    assert config.find_raw("fer2013") is None
    with pytest.raises(FileNotFoundError, match=r"fer2013\.csv.*data/README\.md"):
        config.raw_path("fer2013")


def test_nonsense_is_refused(workspace, monkeypatch):
    for name in ("../mine", "utkface2", "Raw", "", "a" * 41):
        with pytest.raises(ValueError, match=f"unknown data set {name!r}, expected up to 40"):
            config.is_sample_run(name)
    monkeypatch.setenv("FACELAB_SAMPLE", "yes")
    with pytest.raises(ValueError, match="'yes'"):
        config.is_sample_run("fer2013")


@pytest.mark.skipif(not (config.ROOT / ".git").exists(), reason="downloaded without git")
def test_git_keeps_what_is_ours_and_ignores_what_is_yours():
    def ignored(folder):
        probe = folder.relative_to(config.ROOT) / "mine" / "run.json"
        git = ["git", "check-ignore", "--quiet", str(probe)]
        return subprocess.run(git, cwd=config.ROOT).returncode == 0

    for folder in (*config.runs_dirs(), config.RUNS_DIR, config.REPORTS_DIR, config.REALTIME_DIR):
        assert ignored(folder), folder
    for folder in (config.REFERENCE_DIR, config.PRETRAINED_DIR):
        assert folder.is_dir() and not ignored(folder), folder
