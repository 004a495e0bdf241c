import re
import sys
from types import SimpleNamespace

import cv2
import pytest
from scenes import FakeCamera, labeller, noise

from commands import run as run_command
from utils import config
from utils.files import encode_image
from utils.realtime import sources
from utils.realtime.engine import Engine
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL
from utils.realtime.sources import open_source


def test_a_copy_of_a_folder_is_a_film_with_a_name_and_that_of_a_picture_is_one(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "REALTIME_DIR", tmp_path / "realtime")
    monkeypatch.setattr(run_command, "FaceClassifier", lambda *_: labeller())
    (tmp_path / "a.png").write_bytes(encode_image(noise()))
    for source, name in ((".", f"{tmp_path.name}.webm"), ("a.png", "a.png")):
        assert run_command.main(["--source", source, "--detector", "haar", "--no-display"]) == 0
        assert (tmp_path / "realtime" / name).is_file()


def test_command_line_says_where_the_video_went(tmp_path, capsys):
    output = tmp_path / "annotated.webm"
    code = run_command.main(
        ["--no-display", "--max-frames", "5", "--detector", "haar", "--output", str(output)]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert f"annotated copy:  {output}" in printed and "5 frames, 0 skipped, a face in 5" in printed
    assert len(list(open_source(output))) == 5
    assert len(output.with_suffix(".csv").read_text().splitlines()) == 6


def test_command_line_reports_errors_in_a_line(tmp_path, capsys):
    code = run_command.main(["--no-display", "--source", str(tmp_path / "none.mp4")])
    assert code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert run_command.main(["--no-display", "--emotion", "emotion_none"]) == 1
    assert "error: no network 'emotion_none', there are " in capsys.readouterr().err


def test_an_age_that_the_network_does_not_say_is_refused(capsys):
    assert run_command.main(["--no-display", "--age", "--gender", "gender_utk_64"]) == 1
    assert "(utkface, run gender_utk_64) has no output for age" in capsys.readouterr().err


def test_a_file_of_keras_is_no_name_of_a_network(capsys):
    assert run_command.main(["--no-display", "--emotion", "fer.json"]) == 1
    assert "networks are known by name here (emotion_fer" in capsys.readouterr().err


def test_ctrl_c_before_the_first_frame_is_answered_with_a_word(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    camera = ["--source", "0", "--detector", "haar", "--no-display"]
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "VideoCapture", lambda number: FakeCamera([noise()]))
        patched.setattr(Engine, "label", interrupted)  # while the first frame is read
        assert run_command.main([*camera, "--csv", str(tmp_path / "t.csv")]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n") and not list(tmp_path.iterdir())
    monkeypatch.setattr(run_command, "FaceClassifier", interrupted)
    assert run_command.main(["--no-display"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_command_line_chooses_the_networks(tmp_path, monkeypatch):
    asked = []

    def no_networks(*arguments):
        asked.append(arguments)
        raise OSError("enough")

    monkeypatch.setattr(run_command, "FaceClassifier", no_networks)
    assert run_command.main(["--no-display", "--emotion", "mine", "--gender", "yours"]) == 1
    assert run_command.main(["--no-display", "--age"]) == 1
    ours = DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL
    assert asked == [("mine", "yours", False), (*ours, True)]


@pytest.fixture
def camera(monkeypatch, tmp_path):
    """A camera of six frames, a window that takes all, and networks that take no time."""
    shown = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: FakeCamera([noise()] * 6, True, 0.05))
    monkeypatch.setattr(sources, "CAMERA_RETRY_SECONDS", 0)
    monkeypatch.setattr(run_command, "FaceClassifier", lambda *_: labeller())
    monkeypatch.setattr(run_command, "can_open_window", lambda: True)
    monkeypatch.setattr(run_command, "show_in_window", shown.append)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(config, "REALTIME_DIR", tmp_path / "realtime")
    monkeypatch.chdir(tmp_path)
    return shown


def test_a_second_recording_of_a_camera_has_another_name(camera, tmp_path):
    assert run_command.main(["--source", "0", "--detector", "haar", "--record"]) == 0
    (video,) = (tmp_path / "realtime").glob("*.webm")
    assert re.fullmatch(r"camera_0_20\d{6}-\d{6}", video.stem)


def written(folder):
    return sorted(path.suffix or path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "options, kept, said",
    [
        ([], [], "nothing was kept"),
        (["--record"], [".csv", ".webm"], "annotated copy:  "),
        (["--output", "v.webm"], [".webm"], "annotated copy:  v.webm"),
        (["--csv", "t.csv"], [".csv"], "table of faces:  t.csv"),
        (["--save-faces", "faces"], [], "cut faces:       0 in faces"),
    ],
)
def test_of_a_camera_only_what_was_asked_for_is_kept(camera, tmp_path, capsys, options, kept, said):
    assert run_command.main(["--source", "0", "--detector", "haar", *options]) == 0
    assert written(tmp_path) == kept
    assert len(camera) > 0 and said in capsys.readouterr().out


def test_a_camera_that_nobody_sees_or_keeps_is_answered_with_what_to_do(
    camera, tmp_path, capsys, monkeypatch
):
    assert run_command.main(["--source", "0", "--no-display"]) == 1
    monkeypatch.setattr(run_command, "can_open_window", lambda: False)
    assert run_command.main(["--source", "0"]) == 1
    said, without_display = capsys.readouterr().err.splitlines()
    assert "camera_0 would neither be shown nor kept: --no-display; add --record" in said
    assert "there is no display here" in without_display
    assert not camera and not written(tmp_path)


@pytest.mark.parametrize(
    ("answer", "content", "waits"),
    [(None, encode_image(noise()), 1), (False, encode_image(noise()), 0), (None, b"no picture", 0)],
)
def test_a_window_stays_after_the_end_of_what_was_shown(
    camera, tmp_path, monkeypatch, answer, content, waits
):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(content)
    waited = []
    monkeypatch.setattr(run_command, "wait_for_window", lambda: waited.append(1))
    monkeypatch.setattr(run_command, "show_in_window", lambda _: answer)
    command = ["--source", "pictures", "--detector", "haar"]
    assert run_command.main(command) == (content == b"no picture") and len(waited) == waits

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "show_in_window", interrupted)
    run_command.main(command)
    assert len(waited) == waits


def test_what_a_killed_recording_left_is_cleared_by_any_run(camera, tmp_path, monkeypatch):
    cleared = []
    monkeypatch.setattr(run_command, "clear_leftovers", cleared.append)
    assert run_command.main(["--source", "none.mp4"]) == 1
    assert cleared == [tmp_path / "realtime"]


def test_a_closed_pipe_does_not_end_the_work(camera, tmp_path, monkeypatch):
    def closed(_):
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=closed, flush=lambda: None))
    assert run_command.main(["--source", "0", "--detector", "haar", "--record"]) == 0
    assert written(tmp_path) == [".csv", ".webm"]


def test_a_tilde_in_an_option_is_the_home_folder(camera, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    names = ("--output=~/v.webm", "--csv=~/t.csv", "--save-faces=~/faces")
    assert run_command.main(["--source", "0", "--detector", "haar", *names]) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"v.webm", "t.csv"}
