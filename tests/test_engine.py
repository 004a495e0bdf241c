import gc
from itertools import count
from types import SimpleNamespace

import psutil
import pytest
from scenes import face_at, noise, still
from stand_ins import EMOTION, GENDER

from utils import config
from utils.realtime import engine as module
from utils.realtime.display import annotate
from utils.realtime.engine import Engine
from utils.realtime.faces import Face, FaceClassifier
from utils.realtime.sources import open_source
from utils.realtime.tracking import Track

THIRTY = [(40 * (number % 10), 50 * (number // 10), 36, 36) for number in range(30)]


@pytest.fixture(scope="module")
def classifier():
    return FaceClassifier(EMOTION, GENDER)


class World:
    """A clock, a detector and a classifier; searches and readings take as long as is said.

    Of the first face that is read the classifier says 0 % happy, and of each other a little more.
    """

    def __init__(self, monkeypatch, boxes, search=0.0, reading=0.0):
        self.boxes, self.search, self.reading = list(boxes), search, reading
        self.now, self.searches, self.read, self.said = 0.0, 0, [], count()
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def detect(self, frame, known):
        self.now, self.searches = self.now + self.search, self.searches + 1
        return list(self.boxes)

    def classify(self, frame, boxes):
        assert len(boxes) == 1
        self.now, self.read = self.now + self.reading, self.read + boxes
        return [face_at(boxes[0], emotion=next(self.said) / 1000)]

    def film(self, frames, **settings):
        """Yield what was read in each frame of a picture that stands still, its faces and time."""
        engine, frame = Engine(self, self, **{"budget": 0.02, **settings}), noise(200, 400)
        for _ in range(frames):
            start, already = self.now, len(self.read)
            faces = engine.label(frame)
            yield self.read[already:], faces, self.now - start


def happiness(faces):
    return {face.track: face.emotion_probabilities["happy"] for face in faces}


def test_thirty_faces_are_read_in_turn_and_no_frame_is_late(monkeypatch):
    world = World(monkeypatch, THIRTY, search=0.005, reading=0.0025)
    before = {}
    for read, faces, seconds in world.film(12):
        assert 6 <= len(read) <= 8 and seconds <= 0.02 + 0.0025
        numbers = {THIRTY.index(box) + 1 for box in read}
        now = happiness(faces)
        assert numbers | set(before) == set(now), "what was read once keeps its label"
        assert {number for number in now if now[number] != before.get(number)} == numbers
        assert [face.box for face in faces] == [THIRTY[number - 1] for number in sorted(now)]
        before = now
    assert world.read == (THIRTY * 4)[: len(world.read)], "those first that were read longest ago"
    assert len(world.read) > 60 and world.searches == 4, "5 ms are a tenth of 20 every third frame"


def test_a_new_face_is_read_before_those_that_are_known(monkeypatch):
    world = World(monkeypatch, THIRTY[:4], reading=0.011)
    film = world.film(6)
    assert [next(film)[0] for _ in range(3)] == [THIRTY[:2], THIRTY[2:4], THIRTY[:2]]
    world.boxes = THIRTY[4::-1]
    assert next(film)[0] == [THIRTY[4], THIRTY[2]]
    assert next(film)[0] == [THIRTY[3], THIRTY[0]]


def test_half_of_the_known_faces_are_read_where_there_is_time_for_all(monkeypatch):
    film = World(monkeypatch, THIRTY[:5]).film(4)
    read = [[THIRTY.index(box) for box in next(film)[0]] for _ in range(4)]
    assert read == [[0, 1, 2, 3, 4], [0, 1, 2], [3, 4, 0], [1, 2, 3]]


@pytest.mark.parametrize(
    "search, searches", [(0.0019, 20), (0.0021, 10), (0.009, 4), (0.3, 2), (30, 2)]
)
def test_a_search_that_takes_long_is_made_less_often(monkeypatch, search, searches):
    world = World(monkeypatch, THIRTY[:1], search)
    assert all(read == THIRTY[:1] for read, _, _ in world.film(20)), "at least one is read"
    assert world.searches == searches
    empty = World(monkeypatch, [], search)
    assert not any(faces for _, faces, _ in empty.film(20))
    assert empty.searches == searches, "also while nobody is there"


@pytest.mark.parametrize("settings", [{"budget": None}, {"film": False}])
def test_without_a_budget_all_is_searched_and_read(monkeypatch, settings):
    world = World(monkeypatch, THIRTY, search=1, reading=1)
    for read, faces, _ in world.film(3, **settings):
        assert read == [face.box for face in faces] == THIRTY
    assert world.searches == 3


def test_nothing_of_one_picture_is_true_of_the_next(monkeypatch):
    world = World(monkeypatch, THIRTY[:2])
    film = world.film(3, film=False)
    assert happiness(next(film)[1]) == {1: 0, 2: 0.001}
    assert happiness(next(film)[1]) == {3: 0.002, 4: 0.003}, "neither numbers nor averages"
    world.boxes = []
    assert next(film)[1] == [], "what is not found is not followed"


def test_averages_by_hand_and_for_each_face(monkeypatch):
    world = World(monkeypatch, THIRTY[:1])
    film = world.film(4, smoothing=0.5, budget=None)
    assert happiness(next(film)[1]) == {1: 0}
    world.boxes = THIRTY[:2]
    assert happiness(next(film)[1]) == {1: 0.001, 2: 0.001}, "the new one was read first"
    assert happiness(next(film)[1]) == pytest.approx({1: 0.0025, 2: 0.002})
    alone = World(monkeypatch, THIRTY[:1]).film(3, smoothing=0)
    assert [happiness(faces)[1] for _, faces, _ in alone] == [0, 0.001, 0.002]


def test_a_child_is_who_is_young_on_average(monkeypatch):
    ages = iter([20, 4, 4, 4])
    world = World(monkeypatch, THIRTY[:1])
    world.classify = lambda frame, boxes: [face_at(boxes[0], age=next(ages), child_below=9)]
    said = [faces[0] for _, faces, _ in world.film(4, smoothing=0.5)]
    assert [face.age for face in said] == [20, 12, 8, 6]
    assert [face.gender for face in said] == ["female", "female", "child", "child"]


def test_faces_that_are_gone_leave_nothing_behind(monkeypatch):
    world = World(monkeypatch, [])
    film = world.film(101)
    for number in range(100):
        world.boxes = THIRTY[number % 30 :][:1]  # another one each time
        next(film)
    kept = [x for x in gc.get_objects() if isinstance(x, (Face, Track))]
    assert len(world.read) > 90 and len(kept) < 10


@pytest.mark.parametrize("settings", [{"budget": 0}, {"smoothing": 1}, {"smoothing": -0.1}])
def test_settings_out_of_reason_are_refused(classifier, settings):
    with pytest.raises(ValueError, match="expected seconds above 0 or None, and 0 to less than 1"):
        Engine(classifier, still(), **settings)


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
    (face,) = Engine(classifier, still(box)).label(frame)
    assert face.box == box
    assert sum(face.emotion_probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert annotate(frame, [face]).shape == frame.shape


def test_memory_does_not_grow(classifier):
    """A leak of one small frame (58 kB) per step would be 23 MB here."""
    frame = next(iter(open_source(config.SAMPLE_CLIP)))[:120, :160].copy()
    engine = Engine(classifier, still((40, 20, 60, 60)))
    process = psutil.Process()

    def run(steps):
        for _ in range(steps):
            annotate(frame, engine.label(frame))
        return process.memory_info().rss

    before = run(100)
    assert run(400) - before < 10e6


def test_the_watch_says_frames_and_milliseconds(monkeypatch):
    now = iter([0, 0.02, 1, 1.03, 2, 2.04, 3, 3.03])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    watch = module.Stopwatch()
    for stage in ("detection", "reading") * 2:
        with watch(stage):
            pass
    assert str(watch) == "up to 19 frames/s (detection 22 reading 30 ms)"
