import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from utils.realtime.tracking import FaceTracker, overlap

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
    """Says what it is told, and notes how often it was asked and what was known."""

    def __init__(self, boxes=()):
        self.boxes, self.asked = list(boxes), 0

    def detect(self, frame, known):
        self.asked, self.known = self.asked + 1, known
        return self.boxes


def test_overlap_by_hand():
    others = [(5, 0, 10, 10), (0, 0, 10, 10), (20, 20, 5, 5)]
    np.testing.assert_allclose(overlap([(0, 0, 10, 10)], others), [[50 / 150, 1, 0]])
    assert overlap([], others).shape == (0, 3) and overlap(others, []).shape == (3, 0)


def test_a_face_is_followed_while_the_detector_is_blind():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector)
    for _ in range(2):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    for step in range(1, 21):
        (track,) = tracker.update(frame_with((100 + 3 * step, 80 + step)))
    assert track.number == 1 and track.unseen == 20
    np.testing.assert_allclose(track.box, (160, 100, 80, 80), atol=4)


def test_a_face_that_comes_nearer_gets_a_larger_box():
    detector = Detector([(120, 80, 80, 80)])
    tracker = FaceTracker(detector)
    for side in range(80, 121, 4):
        frame = SCENE.copy()
        left, top = 160 - side // 2, 120 - side // 2
        frame[top : top + side, left : left + side] = cv2.resize(PATCH, (side, side))
        (track,) = tracker.update(frame, search=side == 80)
    assert track.box[2] == pytest.approx(120, rel=0.1)
    assert detector.asked == 1


def test_an_unseen_face_is_dropped_in_time():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector)
    for _ in range(2):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    lengths = [len(tracker.update(frame_with((100, 80)))) for _ in range(32)]
    assert lengths == [1] * 30 + [0] * 2


def test_after_a_cut_the_background_is_not_followed():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector)
    for _ in range(3):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    assert len(tracker.update(frame_with((103, 81)))) == 1
    assert tracker.update(np.full_like(SCENE, 220), search=False) == []
    assert detector.asked == 5
    # Also where there is much to follow.
    portrait = cv2.resize(astronaut(), (320, 240))
    detector.boxes = [(100, 50, 100, 100)]
    for _ in range(3):
        tracker.update(portrait)
    detector.boxes = []
    assert tracker.update(np.ascontiguousarray(portrait[::-1]), search=False) == []
    # Who is seen after a cut at the same place may be somebody else.
    detector.boxes = [(100, 80, 80, 80), (10, 10, 60, 60)]
    for _ in range(2):
        before = {track.number for track in tracker.update(frame_with((100, 80)))}
    del detector.boxes[1]
    (track,) = tracker.update(np.full_like(SCENE, 20), search=False)
    assert track.box == (100, 80, 80, 80) and track.number not in before


def test_what_was_seen_once_is_dropped_at_the_next_search():
    detector = Detector([(100, 80, 80, 80)])
    tracker = FaceTracker(detector)
    tracker.update(frame_with((100, 80)))
    detector.boxes = []
    assert tracker.update(frame_with((100, 80))) == []


def test_two_boxes_of_one_face_do_not_stay():
    detector = Detector([(100, 80, 80, 80), (120, 100, 40, 40)])
    tracker = FaceTracker(detector)
    for _ in range(2):
        assert len(tracker.update(frame_with((100, 80)))) == 2
    detector.boxes = detector.boxes[:1]
    (track,) = tracker.update(frame_with((100, 80)))
    assert track.number == 1


def test_a_face_that_cannot_be_followed_keeps_its_number():
    """On a blank picture there is no point to follow, but the detector goes on seeing it."""
    detector = Detector([(100, 80, 80, 80), (10, 10, 40, 40)])
    tracker = FaceTracker(detector)
    blank = np.zeros_like(SCENE)
    for step in range(7):
        tracks = tracker.update(blank, search=step % 3 == 0)
        assert [track.number for track in tracks] == [1, 2]
    assert detector.asked == 3
    detector.boxes.pop()
    assert [track.number for track in tracker.update(blank)] == [1], "neither seen nor followed"


def test_the_detector_is_asked_when_told_and_told_what_is_known():
    detector = Detector()
    tracker = FaceTracker(detector)
    for _ in range(4):
        tracker.update(SCENE, search=False)
    assert detector.asked == 0, "also where there is no face"
    detector.boxes = [(100, 80, 80, 80)]
    for step in range(6):
        tracker.update(frame_with((100 + step, 80)), search=step % 3 == 2)
    assert detector.asked == 2
    assert detector.known == [(102, 80, 80, 80)], "seen at 100, then followed by two pixels"


def test_crossing_neighbours_keep_their_numbers():
    """In the middle each overlaps the other's last place by more than is needed for a match."""
    detector = Detector()
    tracker = FaceTracker(detector)
    for step in range(31):
        boxes = [(40 + 5 * step, 80, 80, 80), (190 - 5 * step, 95, 80, 80)]
        detector.boxes = boxes[:: (-1) ** step]
        tracks = tracker.update(SCENE)
        assert [track.box for track in tracks] == boxes
        assert [track.number for track in tracks] == [1, 2]


def test_two_faces_keep_their_numbers_whatever_the_order_of_the_boxes():
    detector = Detector([(20, 80, 80, 80), (200, 80, 80, 80)])
    tracker = FaceTracker(detector)
    tracker.update(frame_with((20, 80), (200, 80)))
    detector.boxes = [(196, 82, 80, 80), (24, 82, 80, 80)]
    tracks = tracker.update(frame_with((24, 82), (196, 82)))
    assert [(track.number, track.box[0]) for track in tracks] == [(1, 24), (2, 196)]
    detector.boxes = [(24, 82, 80, 80), (120, 0, 60, 60), (196, 82, 80, 80)]
    tracks = tracker.update(frame_with((24, 82), (196, 82)))
    assert [track.number for track in tracks] == [1, 2, 3]


def test_a_face_is_followed_in_a_frame_that_is_reduced():
    detector = Detector([(200, 160, 160, 160)])
    tracker = FaceTracker(detector)
    for step in range(8):
        frame = cv2.resize(frame_with((100 + 3 * step, 80 + step)), (640, 480))
        (track,) = tracker.update(frame, search=step == 0)
    np.testing.assert_allclose(track.box, (242, 174, 160, 160), atol=8)


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
    tracker = FaceTracker(detector)
    for _ in range(2):
        tracker.update(frame_with((100, 80)))
    detector.boxes = []
    assert tracker.update(np.zeros_like(SCENE)) == []
