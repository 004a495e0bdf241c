from types import SimpleNamespace

import numpy as np
import pytest

from commands import benchmark
from utils import config
from utils.realtime.detection import HaarDetector
from utils.realtime.recording import video_writer
from utils.realtime.sources import open_source


@pytest.fixture(scope="module")
def frames():
    return list(open_source(config.SAMPLE_CLIP))[:6]


def test_times_count_frames_with_a_face_only(monkeypatch):
    answers = iter([["face"], []] * 10)
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(benchmark, "time", clock)

    def label(frame):
        faces = next(answers)
        clock.now += 0.02 if faces else 0
        return faces

    row = benchmark.time_frames(label, [np.zeros((4, 4, 3), np.uint8)] * 8)
    assert row["frames with a face"] == 0.5 and row["faces a frame"] == 0.5
    assert row["frames/s"] == pytest.approx(50)
    assert row["95th percentile, ms"] == pytest.approx(20)


def test_the_face_gets_the_size_that_the_report_finds(frames):
    large = benchmark.enlarge_faces(frames)
    assert large[0].shape == (360, 640, 3)
    ((_, _, width, _),) = HaarDetector().detect(large[0])
    assert width == pytest.approx(200, rel=0.1)
    for columns, rows in ((2, 2), (6, 5)):
        picture = benchmark.crowd(large[:1], columns, rows)[0]
        assert picture.shape == (480, 640, 3)
        assert len(HaarDetector(min_size=40).detect(picture)) == columns * rows
    begins_empty = [np.zeros_like(large[0]), *large[:1]]
    assert len(benchmark.crowd(begins_empty, 2, 2)) == 2
    with pytest.raises(ValueError, match="no face in any"):
        benchmark.crowd(begins_empty[:1], 2, 2)


def test_the_table_is_printed(monkeypatch, capsys):
    def no_network():
        raise ConnectionError("no YuNet")

    monkeypatch.setattr(benchmark, "seconds_to_first_label", lambda clip, detector: 1.5)
    monkeypatch.setattr(benchmark, "fetch_yunet", no_network)
    assert benchmark.main(["--max-frames", "3"]) == 0
    printed = capsys.readouterr().out
    assert "report's loop" in printed
    assert all(f"{runtime}, haar, 4 faces, 640x480" in printed for runtime in ("litert", "keras"))
    assert "from start to first labelled frame, haar: 1.5 s" in printed
    assert "no YuNet; it was not timed" in printed and "keras, yunet" not in printed


def test_the_report_s_loop_leaves_out_faces_at_the_border(monkeypatch):
    label = benchmark.report_loop()
    monkeypatch.setattr(benchmark.HaarDetector, "detect", lambda self, frame: [(5, 40, 200, 200)])
    assert label(np.zeros((360, 640, 3), np.uint8)) == [(5, 40, 200, 200)]


def test_without_a_face_there_is_nothing_to_time(tmp_path, capsys):
    assert benchmark.main(["--clip", str(tmp_path / "none.mp4")]) == 1
    assert "does not exist" in capsys.readouterr().err
    with video_writer(tmp_path / "empty.mp4", 25) as write:
        for number in range(3):
            write(np.zeros((120, 160, 3), np.uint8), number / 25)
    assert benchmark.main(["--clip", str(tmp_path / "empty.mp4")]) == 1
    assert "no face in any of these frames" in capsys.readouterr().err
