import cv2
import numpy as np
import pytest

from utils.realtime.faces import Face
from utils.realtime.tracking import FaceTracker, Smoother, overlap

SCENE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8), (0, 0), 2
)
PATCH = cv2.GaussianBlur(
    np.random.default_rng(1).integers(0, 256, (80, 80, 3)).astype(np.uint8), (0, 0), 2
)


def frame_with(*places):
    frame = SCENE.copy()
    for left, top in places:
        frame[top : top + 80, left : left + 80] = PATCH
    return frame


class Detector:
    """Says what it is told, and counts how often it was asked."""

    def __init__(self, boxes=()):
        self.boxes, self.asked = list(boxes), 0

    def detect(self, frame):
        self.asked += 1
        return self.boxes


def test_overlap_by_hand():
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (20, 20, 5, 5)) == 0


def test_a_face_is_followed_while_the_detector_is_blind():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1, keep_for=30)
    for _ in range(2):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    for step in range(1, 21):
        (track,) = tracker.update(frame_with((100 + 3 * step, 80 + step)))
    assert track.number == 1 and track.unseen == 20
    np.testing.assert_allclose(track.box, (160, 100, 80, 80), atol=4)


def test_a_face_that_comes_nearer_gets_a_larger_box():
    detector = Detector([(120, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1000)
    for side in range(80, 121, 4):
        frame = SCENE.copy()
        left, top = 160 - side // 2, 120 - side // 2
        frame[top : top + side, left : left + side] = cv2.resize(PATCH, (side, side))
        (track,) = tracker.update(frame)
    assert track.box[2] == pytest.approx(120, rel=0.1)
    assert detector.asked == 1


def test_an_unseen_face_is_dropped_in_time():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1, keep_for=5)
    for _ in range(2):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    lengths = [len(tracker.update(frame_with((100, 80)))) for _ in range(7)]
    assert lengths == [1] * 5 + [0] * 2


def test_what_was_seen_once_is_dropped_at_the_next_search():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1)
    tracker.update(frame_with((100, 80)))
    detector.boxes = []
    assert tracker.update(frame_with((100, 80))) == []


def test_two_boxes_of_one_face_do_not_stay():
    detector = Detector([(100, 80, 80, 80), (120, 100, 40, 40)])
    tracker = FaceTracker(detector, detect_every=1)
    for _ in range(2):
        assert len(tracker.update(frame_with((100, 80)))) == 2
    detector.boxes = detector.boxes[:1]
    (track,) = tracker.update(frame_with((100, 80)))
    assert track.number == 1


def test_a_face_that_cannot_be_followed_keeps_its_number():
    """On a blank picture there is no point to follow, but the detector goes on seeing it."""
    detector = Detector([(100, 80, 80, 80), (10, 10, 40, 40)])
    tracker = FaceTracker(detector, detect_every=3)
    blank = np.zeros_like(SCENE)
    for _ in range(7):
        assert [track.number for track in tracker.update(blank)] == [1, 2]


def test_the_detector_is_asked_every_few_frames():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=3)
    for _ in range(9):
        tracker.update(frame_with((100, 80)))
    assert detector.asked == 3
    detector.boxes = []
    empty = FaceTracker(detector, detect_every=3)
    for _ in range(9):
        empty.update(SCENE)
    assert detector.asked == 3 + 9, "where there is no face, each frame is searched"


def test_two_faces_keep_their_numbers_whatever_the_order_of_the_boxes():
    detector = Detector([(20, 80, 80, 80), (200, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1)
    tracker.update(frame_with((20, 80), (200, 80)))
    detector.boxes = [(196, 82, 80, 80), (24, 82, 80, 80)]
    tracks = tracker.update(frame_with((24, 82), (196, 82)))
    assert [(track.number, track.box[0]) for track in tracks] == [(1, 24), (2, 196)]
    detector.boxes = [(24, 82, 80, 80), (120, 0, 60, 60), (196, 82, 80, 80)]
    tracks = tracker.update(frame_with((24, 82), (196, 82)))
    assert [track.number for track in tracks] == [1, 2, 3]


def test_another_frame_size_starts_anew():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector)
    tracker.update(frame_with((100, 80)))
    (track,) = tracker.update(frame_with((100, 80))[:200])
    assert track.number == 2
    twice = cv2.resize(SCENE, (640, 400))  # the same once it is reduced
    assert [track.number for track in tracker.update(twice)] == [3]


def test_a_blank_frame_loses_the_face_without_an_error():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector, detect_every=1000)
    tracker.update(frame_with((100, 80)))
    detector.boxes = []
    assert tracker.update(np.zeros_like(SCENE)) == []


def face(track, a, male=1.0):
    return Face((0, 0, 9, 9), {"a": a, "b": 1 - a}, {"male": male, "female": 1 - male}, track=track)


def test_smoothing_by_hand_and_for_each_track():
    smoother = Smoother(memory=0.5)
    assert smoother.smooth([face(1, 1.0)]) == [face(1, 1.0)]
    first, second = smoother.smooth([face(1, 0.0, male=0.0), face(2, 0.0)])
    assert first == face(1, 0.5, male=0.5)
    assert second == face(2, 0.0)
    assert smoother.smooth([face(2, 1.0)]) == [face(2, 0.5)]
    assert smoother.smooth([face(1, 0.0)]) == [face(1, 0.0)], "an ended track is forgotten"
    with pytest.raises(ValueError, match="memory is 1"):
        Smoother(1)
