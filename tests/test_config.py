import subprocess

import pytest

from utils import config


def test_sample_is_used_until_full_data_are_there(workspace, monkeypatch):
    monkeypatch.delenv("FACELAB_SAMPLE")
    assert config.is_sample_run("fer2013")
    assert config.data_dir("fer2013") == config.SAMPLE_DIR
    assert config.output_dir("fer2013") == workspace / "outputs" / "sample"
    assert "numbers mean nothing" in config.banner("fer2013")

    (workspace / "data" / "raw" / "fer2013.csv.xz").touch()
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
    monkeypatch.setenv("FACELAB_DATA", "faces")
    assert config.prepared_dir("utkface") == workspace / "faces" / "utkface"


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
