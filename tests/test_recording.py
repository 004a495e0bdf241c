import errno
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from scenes import FakeCamera, face_at, heed_signals, labeller, noise, rows_of_csv, still

from utils import config
from utils.files import clear_leftovers, encode_image, read_image
from utils.preprocessing import GENDERS
from utils.realtime import loop, recording, sources
from utils.realtime.loop import run
from utils.realtime.recording import recorder, video_writer
from utils.realtime.sources import FrameSource, open_source
from utils.realtime.webm import WebmWriter

VIDEOS = ("v.webm", "v.mp4")
FACE = (40, 20, 60, 60)


@pytest.fixture
def classifier():
    return labeller()


@pytest.fixture(scope="module")
def clip_frames():
    return list(open_source(config.SAMPLE_CLIP))


@pytest.mark.parametrize("name", VIDEOS)
def test_video_and_csv_hold_every_frame_and_face(tmp_path, classifier, clip_frames, name):
    video, table = tmp_path / "out" / name, tmp_path / "out" / "faces.csv"
    shown = []
    summary = run(clip_frames[:10], classifier, show=shown.append, video_path=video, csv_path=table)
    assert summary.frames == len(shown) == 10
    assert len(list(open_source(video))) == 10
    rows = rows_of_csv(table)
    assert len(rows) == summary.frames_with_face == 10
    assert [row["frame"] for row in rows] == [str(number) for number in range(10)]
    for row in rows:
        emotions = {name: float(row[f"p_{name}"]) for name in ("happy", "sad")}
        assert sum(emotions.values()) == pytest.approx(1, abs=1e-3)
        assert emotions[row["emotion"]] == float(row["emotion_confidence"]) == 0.9
        assert row["gender"] in GENDERS
    assert sorted(p.name for p in video.parent.iterdir()) == ["faces.csv", name]


@pytest.mark.parametrize("show_age", [False, True])
def test_an_age_is_in_the_table_only_if_it_is_shown(tmp_path, classifier, show_age):
    settings = {"child_below": 9, "show_age": show_age}
    ages = {40: 6.25, 100: 31.0}  # by the left side of the box
    classifier.show_age = show_age
    classifier.classify = lambda frame, boxes: [
        face_at(box, age=ages[box[0]], **settings) for box in boxes
    ]
    boxes, table = ((40, 20, 40, 40), (100, 20, 40, 40)), tmp_path / "t.csv"
    run([noise()], classifier, still(*boxes), csv_path=table, faces_folder=tmp_path / "faces")
    rows = rows_of_csv(table)
    assert [row["gender"] for row in rows] == ["child", "female"]
    assert [row.get("age") for row in rows] == (["6.2", "31.0"] if show_age else [None, None])
    assert list(rows[0])[-1] == ("age" if show_age else "p_male"), "no column without a name"
    faces = rows_of_csv(tmp_path / "faces" / "faces.csv")
    ends = [row["file"].split("_track")[1] for row in faces]
    assert ends == ["1_happy_child.png", "2_happy_F.png"] and "age" not in faces[0]


def interrupt(picture):
    raise KeyboardInterrupt


def test_ctrl_c_leaves_whole_files(tmp_path, classifier, clip_frames, monkeypatch):
    close, before = WebmWriter.close, signal.getsignal(signal.SIGINT)

    def press_again(writer):
        signal.raise_signal(signal.SIGINT)
        close(writer)

    monkeypatch.setattr(WebmWriter, "close", press_again)
    video, table = tmp_path / "v.webm", tmp_path / "t.csv"
    summary = run(clip_frames, classifier, show=interrupt, video_path=video, csv_path=table)
    assert summary.stop_reason == "interrupted" and summary.frames == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert len(list(open_source(video))) == 1
    assert len(table.read_text().splitlines()) == 2


def test_a_camera_has_the_budget_without_a_window(tmp_path):
    slow = labeller()
    at_once = slow.classify
    slow.classify = lambda *x: (time.sleep(0.02), at_once(*x))[1]
    boxes = (10, 10, 40, 40), (60, 10, 40, 40), (110, 10, 40, 40)
    source = FrameSource("camera_0", iter([noise()] * 2), live=True)
    run(source, slow, still(*boxes), csv_path=tmp_path / "t.csv")
    assert len(rows_of_csv(tmp_path / "t.csv")) == 1 + 2, "one face was read in each frame"


def test_a_bad_frame_leaves_whole_files_too(tmp_path, classifier, clip_frames):
    video, table = tmp_path / "v.webm", tmp_path / "t.csv"
    with pytest.raises(ValueError, match="a frame has"):
        run([*clip_frames[:2], "no frame"], classifier, video_path=video, csv_path=table)
    assert len(list(open_source(video))) == 2
    assert len(table.read_text().splitlines()) == 3


def test_without_a_frame_there_is_nothing_new_but_a_reason(tmp_path, monkeypatch, classifier):
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: FakeCamera([]))
    monkeypatch.setattr(sources, "CAMERA_RETRY_SECONDS", 0)
    (tmp_path / "t.csv").write_text("of another day")
    paths = {"video_path": tmp_path / "v.mp4", "csv_path": tmp_path / "t.csv"}
    summary = run(0, classifier, **paths)
    assert (tmp_path / "t.csv").read_text() == "of another day"
    (tmp_path / "t.csv").unlink()
    assert summary.frames == 0 and "gave no frame" in summary.stop_reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", VIDEOS)
def test_a_recorded_camera_plays_at_its_own_speed(tmp_path, monkeypatch, classifier, name):
    """A loop that manages 10 of 30 frames a second shows frames longer, and none too fast."""
    camera = FakeCamera([noise()] * 6, seconds_between=0.1)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    run(0, classifier, video_path=tmp_path / name, max_frames=5)
    monkeypatch.undo()
    with open_source(tmp_path / name) as video:
        *_, last = (video.seconds for _ in video)
    assert 0.35 <= last <= 2


@pytest.mark.parametrize("name", ["x.txt", "x.avi", "x"])
def test_other_names_for_the_video_are_refused(tmp_path, classifier, name):
    path = tmp_path / name
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"expected .webm or .mp4"):
        run([noise()], classifier, video_path=path)
    assert path.read_bytes() == b"mine"


def test_frames_of_several_sizes_fit_one_video(tmp_path, classifier):
    video = tmp_path / "v.mp4"
    run([noise(120, 160), noise(90, 200)], classifier, video_path=video)
    assert {frame.shape for frame in open_source(video)} == {(120, 160, 3)}


@pytest.mark.parametrize("rate", [23.976, 59.871, 90.123, 119.713, 238.477])
def test_a_video_of_any_rate_can_be_written(tmp_path, rate):
    for name in VIDEOS:
        with video_writer(tmp_path / name, rate) as write:
            write(noise(120, 160), 0)
        assert len(list(open_source(tmp_path / name))) == 1


@pytest.mark.parametrize("name, width, least", [("v.mp4", 12000, 8000), ("v.webm", 17000, 16000)])
def test_a_picture_too_large_for_a_video_is_reduced(tmp_path, classifier, name, width, least):
    """The table is whole, and what comes after it keeps its shape."""
    video, table = tmp_path / name, tmp_path / "t.csv"
    # Without noise, which is what takes an encoder long.
    frames = [np.zeros((512, width, 3), np.uint8), np.full((300, 300, 3), 255, np.uint8)]
    run(frames, classifier, still((9, 9, 60, 60)), video_path=video, csv_path=table)
    assert len(rows_of_csv(table)) == 2
    first, second = open_source(video)
    assert first.shape == second.shape and first.shape[1] > least
    assert first.shape[1] / first.shape[0] == pytest.approx(width / 512, rel=0.01)
    white = (second > 200).all(axis=-1)
    assert white.any(axis=0).sum() == pytest.approx(white.any(axis=1).sum(), rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (3, 3)])
def test_a_picture_too_small_for_a_video_gets_a_border(tmp_path, classifier, size):
    for name in VIDEOS:
        run([noise(*size)], classifier, video_path=tmp_path / name)
        assert len(list(open_source(tmp_path / name))) == 1


def test_without_a_codec_the_table_is_whole_and_it_is_said(tmp_path, classifier, monkeypatch):
    video, table = tmp_path / "v.mp4", tmp_path / "t.csv"
    monkeypatch.setattr(cv2.VideoWriter, "open", lambda *_: False)
    with pytest.raises(ValueError, match=r"v\.mp4 was not written.*160x120 pixels"):
        run([noise()] * 3, classifier, still((9, 9, 60, 60)), video_path=video, csv_path=table)
    assert len(rows_of_csv(table)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("name", VIDEOS)
def test_a_full_disk_leaves_the_old_video_and_the_rows(tmp_path, classifier, monkeypatch, name):
    video, table = tmp_path / name, tmp_path / "t.csv"
    video.write_bytes(b"mine")

    def fails(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(recording, "_fitted", fails)
    with pytest.raises(OSError, match=f"{name} was not written"):
        run([noise()] * 3, classifier, still((9, 9, 60, 60)), video_path=video, csv_path=table)
    assert len(rows_of_csv(table)) == 3 and video.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", name]


def test_a_full_disk_leaves_the_table_of_the_faces_that_were_kept(tmp_path, monkeypatch):
    kept = iter([noise(8, 8), noise(8, 8)])  # then no room
    monkeypatch.setattr(recording, "encode_image", lambda _: encode_image(next(kept, None)))
    monkeypatch.setattr(recording, "_fitted", lambda *_: [][0])
    source = FrameSource("film", iter([noise()] * 3), frames_per_second=1)
    with pytest.raises(cv2.error) as raised:
        run(source, labeller(), still(FACE), None, tmp_path / "v.webm", None, tmp_path / "faces")
    assert raised.value.__notes__ == ["list index out of range"], "each fault is told"
    (row,) = rows_of_csv(tmp_path / "faces" / "faces.csv")
    assert (tmp_path / "faces" / row["file"]).is_file()


@pytest.mark.parametrize("what", ["video_path", "faces_folder"])
def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path, classifier, what):
    table = tmp_path / "t.csv"
    table.write_text("mine")
    with pytest.raises(OSError):  # a file is no folder
        run([noise()], classifier, show=pytest.fail, csv_path=table, **{what: table / "v.webm"})
    assert table.read_text() == "mine"


def test_rows_are_on_the_disk_while_the_loop_runs(tmp_path, classifier):
    seen = []

    def show(_):
        (partial,) = tmp_path.glob("partial-*")
        seen.append(len(rows_of_csv(partial)))

    table = tmp_path / "t.csv"
    run([noise()] * 3, classifier, still((9, 9, 60, 60)), show=show, csv_path=table)
    assert seen == [1, 2, 3]


def shades_over_time():
    """A film of four shades at 0, 0.1, 0.2 and 1 s."""
    source = FrameSource("film", frames_per_second=10, capture=FakeCamera([]))

    def frames():
        for number, seconds in enumerate((0, 0.1, 0.2, 1)):
            source.seconds = seconds
            yield np.full((120, 160, 3), 60 * number, np.uint8)

    source.frames = frames()
    return source


def test_a_video_keeps_the_time_of_its_source(tmp_path, classifier):
    video, table = tmp_path / "v.webm", tmp_path / "t.csv"
    run(shades_over_time(), classifier, still(FACE), video_path=video, csv_path=table)
    with open_source(video) as film:
        found = [(round(film.seconds, 3), round(frame[-60:, 120:].mean() / 60)) for frame in film]
    assert found == [(0, 0), (0.1, 1), (0.2, 2), (1, 3)]
    rows = rows_of_csv(table)
    assert [row["seconds"] for row in rows] == ["0.000", "0.100", "0.200", "1.000"]
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3"]


def test_an_mp4_repeats_frames_to_keep_the_time(tmp_path, classifier):
    run(shades_over_time(), classifier, still(), video_path=tmp_path / "v.mp4")
    shades = [round(frame[-60:, 120:].mean() / 60) for frame in open_source(tmp_path / "v.mp4")]
    assert shades == [0, 1, *[2] * 8, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_rows_name_their_picture_whatever_its_name(tmp_path, classifier):
    names = ["Icon\r.png", "a,b.png", "顔.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (tmp_path / name).write_bytes(encode_image(noise()))
    table = tmp_path / "out" / "t.csv"
    run(tmp_path, classifier, still((9, 9, 60, 60)), csv_path=table)
    written = {row["file"] for row in rows_of_csv(table)}
    assert written == {*names[:3], "\\udcff.png"}


def test_a_tilde_is_the_home_folder(tmp_path, classifier, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    paths = {"video_path": "~/v.webm", "csv_path": "~/t.csv", "faces_folder": "~/faces"}
    run([noise()], classifier, still(FACE), **paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "t.csv", "v.webm"]
    assert len(list(open_source("~/v.webm"))) == 1


def test_each_file_needs_a_name_of_its_own(tmp_path, classifier):
    table = tmp_path / "no" / ".." / "faces.csv"
    (tmp_path / "b.jpg").write_bytes(b"a picture")
    with pytest.raises(ValueError, match="b.jpg is no .csv file"):
        run([noise()], classifier, csv_path=tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes() == b"a picture"
    for others in ({"video_path": tmp_path / "v.mp4"}, {"faces_folder": tmp_path}):
        with pytest.raises(ValueError, match="give the table another name"):
            same = others.get("video_path", table)
            run([noise()], classifier, csv_path=same, **others)


def test_the_source_is_never_overwritten(classifier):
    before = config.SAMPLE_CLIP.read_bytes()
    with pytest.raises(ValueError, match="is the source"):
        run(config.SAMPLE_CLIP, classifier, video_path=config.SAMPLE_CLIP)
    assert config.SAMPLE_CLIP.read_bytes() == before


def test_the_sample_clip_keeps_its_frames_size_and_length(tmp_path, classifier):
    run(config.SAMPLE_CLIP, classifier, still(), video_path=tmp_path / "v.webm")
    clip, video = (
        cv2.VideoCapture(str(config.SAMPLE_CLIP)),
        cv2.VideoCapture(str(tmp_path / "v.webm")),
    )
    for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
        assert video.get(what) == clip.get(what)
    assert video.get(cv2.CAP_PROP_FPS) == clip.get(cv2.CAP_PROP_FPS)
    difference, count = [], 0
    while True:
        (more, expected), (also, found) = clip.read(), video.read()
        assert more == also
        if not more:
            break
        assert video.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(1000 * count / 25, abs=1)
        difference.append(np.abs(found.astype(int) - expected)[:250].mean())
        count += 1
    assert count == 60 and np.mean(difference) < 4


def test_a_webm_that_was_never_closed_can_be_read(tmp_path):
    """As after a power cut."""
    code = (
        "import os, sys, numpy as np; from utils.realtime.webm import WebmWriter; "
        "writer = WebmWriter(sys.argv[1], 10, (64, 48)); "
        "[writer.write(n, np.full((48, 64, 3), 20 * n, np.uint8)) for n in range(5)]; os._exit(0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "v.webm")]
    subprocess.run(command, check=True, cwd=config.ROOT)
    shades = [frame.mean() / 20 for frame in open_source(tmp_path / "v.webm")]
    assert shades == pytest.approx([0, 1, 2, 3, 4], abs=0.2)


@pytest.mark.parametrize("live", [True, False])
def test_a_camera_does_not_wait_for_the_video_and_a_film_does(tmp_path, monkeypatch, live):
    fitted = recording._fitted
    monkeypatch.setattr(recording, "_fitted", lambda *x: time.sleep(0.05) or fitted(*x))
    source, start = FrameSource("s", live=live, frames_per_second=100), time.perf_counter()
    with recorder(source, tmp_path / "v.webm") as kept:
        for number in range(30):
            source.seconds = number / 100
            kept.write([], noise(), noise())
        assert (time.perf_counter() - start < 0.8) == live
    frames = len(list(open_source(tmp_path / "v.webm")))
    assert frames + kept.left_out == 30 and (kept.left_out > 0) == live


@pytest.mark.parametrize("what", ["video_path", "csv_path", "faces_folder"])
def test_who_is_recorded_sees_it(tmp_path, monkeypatch, classifier, what):
    marks = []
    monkeypatch.setattr(
        loop, "annotate", lambda frame, *_, recording: marks.append(recording) or frame
    )
    path = tmp_path / {"video_path": "v.webm", "csv_path": "x.csv"}.get(what, "x")
    for live, paths in ((True, {what: path}), (True, {}), (False, {what: path})):
        run(FrameSource("s", iter([noise()]), live=live), classifier, still(), **paths)
    assert marks == [True, False, False]


def test_there_is_no_mark_once_nothing_is_written_any_more(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(recording, "_fitted", fails)
    source, seen = FrameSource("s", live=True), []
    with pytest.raises(OSError, match="was not written"):
        with recorder(source, tmp_path / "v.webm") as kept:
            seen.append(kept.active)
            kept.write([], noise(), noise())
            time.sleep(0.2)
            seen.append(kept.active)
    assert seen == [True, False]


def faces_of(path):
    return sorted(file.name for file in path.iterdir())


def test_faces_are_kept_once_a_second_with_their_labels(tmp_path, classifier):
    folder = tmp_path / "faces"
    source = FrameSource("film", iter([noise()] * 100), frames_per_second=5)
    summary = run(source, classifier, still(FACE), faces_folder=folder)
    rows = rows_of_csv(folder / "faces.csv")
    assert summary.faces_kept == len(rows) == 20
    assert [float(row["seconds"]) for row in rows] == list(range(20))
    row = rows[12]
    assert row["file"] == "0012.000s_track1_happy_F.png" and row["frame"] == "60"
    said = [row[x] for x in ("emotion", "emotion_confidence", "gender", "gender_confidence")]
    assert said == ["happy", "0.9000", "female", "0.8000"]
    assert [int(row[x]) for x in ("left", "top", "width", "height")] == list(FACE)
    assert len(faces_of(folder)) == 41
    # By hand: a FER crop is 1.03 times the box about the same centre.
    seen = noise()[19:81, 39:101]
    np.testing.assert_array_equal(read_image(folder / row["file"]), seen)
    grey = cv2.resize(
        cv2.cvtColor(seen, cv2.COLOR_BGR2GRAY), (48, 48), interpolation=cv2.INTER_AREA
    )
    kept = read_image(folder / "0012.000s_track1_happy_F_48x48.png", cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(kept, grey)
    with open_source(folder) as pictures:
        assert len(list(pictures)) == 40


def test_each_face_is_kept_and_none_takes_the_place_of_another(tmp_path, classifier):
    boxes = (10, 10, 40, 40), (90, 60, 40, 40)
    for _ in range(2):
        run([noise()] * 3, classifier, still(*boxes), faces_folder=tmp_path)
    names = [
        row["file"]
        for name in ("faces", "faces_2")
        for row in rows_of_csv(tmp_path / f"{name}.csv")
    ]
    assert len(set(names)) == 4 and all((tmp_path / name).is_file() for name in names)
    assert len(faces_of(tmp_path)) == 2 * 4 + 2


def test_the_folder_of_faces_is_no_file_and_not_the_source(tmp_path, classifier):
    (tmp_path / "a.png").write_bytes(encode_image(noise()))
    with pytest.raises(ValueError, match="is the source"):
        run(tmp_path, classifier, faces_folder=tmp_path)
    with pytest.raises(ValueError, match=r"a\.png is to be the folder of faces, and is a file"):
        run([noise()], classifier, faces_folder=tmp_path / "a.png")


ENDLESS = """
import sys, time
sys.path.insert(0, "tests")
from scenes import labeller, noise, still
from commands.run import end_like_ctrl_c
from utils.realtime.loop import run
from utils.realtime.sources import FrameSource

def frames():
    while True:
        time.sleep(0.02)
        yield noise()
        if source.seconds == 1.0:
            print("recording", flush=True)

end_like_ctrl_c()
source = FrameSource("film", frames(), frames_per_second=20)
paths = [f"{sys.argv[1]}/{name}" for name in ("v.webm", "t.csv", "faces")]
summary = run(source, labeller(), still((40, 20, 60, 60)), None, *paths)
print(summary.frames, summary.stop_reason)
"""


def end_while_recording(folder, *signals):
    """What a process said after it got these signals while it recorded."""
    command = [sys.executable, "-c", ENDLESS, str(folder)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "preexec_fn": heed_signals}
    with subprocess.Popen(command, text=True, cwd=config.ROOT, **settings) as process:
        assert process.stdout.readline() == "recording\n"
        for number in signals:
            process.send_signal(getattr(signal, number))
        return process.stdout.read()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking")
@pytest.mark.parametrize("signals", [["SIGTERM"], ["SIGHUP", "SIGHUP", "SIGTERM"]])
def test_who_stops_the_process_leaves_whole_files_too(tmp_path, signals):
    count, reason = end_while_recording(tmp_path, *signals).split(maxsplit=1)
    assert reason == "interrupted\n"
    assert len(list(open_source(tmp_path / "v.webm"))) == int(count) >= 20
    assert len(rows_of_csv(tmp_path / "t.csv")) == int(count)
    assert len(rows_of_csv(tmp_path / "faces" / "faces.csv")) == 1 + int(count) // 20
    assert faces_of(tmp_path) == ["faces", "t.csv", "v.webm"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking")
def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    assert end_while_recording(tmp_path, "SIGKILL") == ""
    left = [name for name in faces_of(tmp_path) if name != "faces"]
    assert len(left) == 2 and all(name.startswith("partial-") for name in left)
    clear_leftovers(tmp_path)
    assert faces_of(tmp_path) == ["faces"]
