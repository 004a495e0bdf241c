from types import SimpleNamespace

import psutil
import pytest
from stand_ins import EMOTION, GENDER, noise

from utils import config
from utils.realtime.display import annotate
from utils.realtime.engine import Engine
from utils.realtime.faces import FaceClassifier
from utils.realtime.sources import open_source


@pytest.fixture(scope="module")
def classifier():
    return FaceClassifier(EMOTION, GENDER)


def detector_of(boxes):
    return SimpleNamespace(detect=lambda frame: boxes)


def count_calls(monkeypatch, *networks):
    """A list that grows by the number of faces in each call of these networks."""
    calls = []
    for network in networks:
        call = network._call
        monkeypatch.setattr(network, "_call", lambda x, call=call: calls.append(len(x)) or call(x))
    return calls


@pytest.mark.parametrize("count", [0, 1, 4, 30])
def test_any_number_of_faces_is_one_call_for_each_network(classifier, monkeypatch, count):
    boxes = [(40 * (number % 10), 50 * (number // 10), 36, 36) for number in range(count)]
    calls = count_calls(monkeypatch, classifier.emotion, classifier.gender)
    engine = Engine(classifier, detector_of(boxes), detect_every=1)
    for _ in range(2):
        faces = engine.label(noise(200, 400))
    assert [face.box for face in faces] == boxes
    assert [face.track for face in faces] == list(range(1, count + 1))
    assert calls == [count] * 4 if count else calls == []


def test_a_frame_that_is_searched_reads_only_faces_without_a_label(classifier, monkeypatch):
    calls = count_calls(monkeypatch, classifier.emotion)
    boxes = [(10, 20, 60, 60)]
    engine = Engine(classifier, SimpleNamespace(detect=lambda frame: list(boxes)), detect_every=3)
    frame = noise()
    labels = [engine.label(frame) for _ in range(6)]
    assert calls == [1] * 5, "the fourth frame is searched and reads nothing"
    assert labels[3] == labels[2]
    boxes.append((90, 40, 50, 50))
    engine.label(frame)
    assert calls == [1] * 6, "the new face only"
    assert [face.track for face in engine.label(frame)] == [1, 2] and calls[-1] == 2


def test_known_faces_are_read_though_each_frame_is_searched(classifier, monkeypatch):
    calls = count_calls(monkeypatch, classifier.emotion)
    engine = Engine(classifier, detector_of([(10, 20, 60, 60)]), detect_every=3)
    for number in range(7):  # a frame without structure: nothing can be followed
        engine.label(noise() * 0 + number)
    assert calls == [1] * 4, "every second frame"


def test_without_averaging_each_frame_is_read(classifier, monkeypatch):
    calls = count_calls(monkeypatch, classifier.emotion)
    engine = Engine(classifier, detector_of([(10, 20, 60, 60)]), smoothing=0)
    for _ in range(6):
        engine.label(noise())
    assert calls == [1] * 6


@pytest.mark.parametrize("size", [(121, 161), (1, 1), (97, 640), (480, 641)])
def test_frames_of_odd_sizes(classifier, size):
    """The search itself must bear them: here it is the real one."""
    engine = Engine(classifier)
    for _ in range(2):
        frame = noise(*size)
        assert annotate(frame, engine.label(frame), "note").shape == frame.shape


@pytest.mark.parametrize(
    "box", [(-30, 20, 60, 60), (130, 20, 60, 60), (50, -30, 60, 60), (50, 90, 60, 60)]
)
def test_faces_over_each_border(classifier, box):
    frame = noise(120, 160)
    (face,) = Engine(classifier, detector_of([box])).label(frame)
    assert face.box == box
    assert sum(face.emotion_probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert annotate(frame, [face]).shape == frame.shape


def test_memory_does_not_grow(classifier):
    """A leak of one small frame (58 kB) per step would be 23 MB here."""
    frame = next(iter(open_source(config.SAMPLE_CLIP)))[:120, :160].copy()
    engine = Engine(classifier, detector_of([(40, 20, 60, 60)]))
    process = psutil.Process()

    def run(steps):
        for _ in range(steps):
            annotate(frame, engine.label(frame))
        return process.memory_info().rss

    before = run(100)
    assert run(400) - before < 10e6
