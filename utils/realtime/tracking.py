"""The same face from frame to frame: detected now and then, followed in between.

Detection is the dearest step of the loop and misses a face that turns for a moment. A few points
inside each box are followed by optical flow instead (Lucas and Kanade 1981), which costs little.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.preprocessing import rescale

FLOW_WIDTH = 320  # frames are reduced to this width before points are followed
MIN_POINTS = 6
MIN_OVERLAP = 0.3


@dataclass
class Track:
    """A face over time.

    Parameters
    ----------
    number : int
        Never used again for another face.
    box : tuple of float
        Left, top, width, height in pixels of the frame.
    unseen : int
        Frames since a detector last saw it.
    sightings : int
        How often a detector saw it.
    """

    number: int
    box: tuple
    unseen: int = 0
    sightings: int = 1

    @property
    def rounded_box(self):
        """The box in whole pixels, as detectors give it."""
        return tuple(round(value) for value in self.box)


class FaceTracker:
    """Follows faces; asks the detector every few frames.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    detector : object with ``detect(frame)``
        See `utils.realtime.detection`.
    detect_every : int
        1 detects in each frame.
    keep_for : int
        Frames for which a face is followed that the detector does not see any more. One that was
        seen a single time is dropped at the next search: it may have been a mistake.
    """

    def __init__(self, detector, detect_every=3, keep_for=30):
        if detect_every < 1 or keep_for < 0:
            raise ValueError(
                f"detect_every is {detect_every} and keep_for {keep_for}, expected at least 1 and 0"
            )
        self.detector = detector
        self.detect_every = detect_every
        self.keep_for = keep_for
        self.tracks = []
        self.searched = False  # in the last frame
        self._size = None
        self._grey = None
        self._frames = 0
        self._next_number = 1

    def update(self, frame):
        """Find the faces of the next frame, uint8 (height, width, 3) BGR.

        Returns
        -------
        list of Track
            In the order in which they were found first.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        scale = min(1, FLOW_WIDTH / frame.shape[1])
        grey = rescale(grey, scale)
        if self._size != frame.shape[:2]:
            self.tracks = []  # another camera, or a window that was resized
        lost = [track for track in self.tracks if not _follow(track, self._grey, grey, scale)]
        for track in self.tracks:
            track.unseen += 1
        self.searched = not self.tracks or bool(lost) or self._frames % self.detect_every == 0
        if self.searched:
            self._match(self.detector.detect(frame), lost)
        self._size, self._grey = frame.shape[:2], grey
        self._frames += 1
        self.tracks = [track for track in self.tracks if track.unseen <= self.keep_for]
        return self.tracks

    def _match(self, boxes, lost):
        """Give the boxes to the tracks; a lost one is found again near to where it was."""
        overlaps = np.array([[overlap(track.box, box) for box in boxes] for track in self.tracks])
        matched = set()
        if overlaps.size:
            for row, column in zip(*linear_sum_assignment(overlaps, maximize=True)):
                if overlaps[row, column] >= MIN_OVERLAP:
                    self.tracks[row].box = tuple(map(float, boxes[column]))
                    self.tracks[row].unseen = 0
                    self.tracks[row].sightings += 1
                    matched.add(column)
        seen = [track.box for track in self.tracks if not track.unseen]
        ended = [
            track
            for track in self.tracks
            if track.unseen
            and (track in lost or track.sightings == 1 or _centre_is_inside(track.box, seen))
        ]
        self.tracks = [track for track in self.tracks if track not in ended]
        for column, box in enumerate(boxes):
            if column not in matched:
                self.tracks.append(Track(self._next_number, tuple(map(float, box))))
                self._next_number += 1


def overlap(box, other):
    """Shared area of two boxes (left, top, width, height), divided by the area of both together."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared / (box[2] * box[3] + other[2] * other[3] - shared)


def _centre_is_inside(box, others):
    """Say whether the middle of a box lies in another one: then both are of the same face."""
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return any(
        left <= x <= left + width and top <= y <= top + height
        for left, top, width, height in others
    )


def _follow(track, before, now, scale):
    """Move the track's box as most of its points moved; False if they were lost."""
    left, top, width, height = (value * scale for value in track.box)
    mask = np.zeros_like(before)
    # The inner part of the box: its corners show what is behind the face.
    x, y = int(left + 0.15 * width), int(top + 0.15 * height)
    mask[max(0, y) : int(y + 0.7 * height), max(0, x) : int(x + 0.7 * width)] = 255
    points = cv2.goodFeaturesToTrack(before, 30, 0.01, max(2, width / 15), mask=mask)
    if points is None or len(points) < MIN_POINTS:
        return False
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(now, before, moved, None)
    # A point that does not come back to where it started was lost on the way.
    error = np.linalg.norm(points - back, axis=2).ravel()
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & (error < 1)
    if good.sum() < MIN_POINTS:
        return False
    start, end = points[good, 0], moved[good, 0]
    centre = np.median(start, axis=0)
    distances = np.linalg.norm(start - centre, axis=1)
    far = distances > width / 10
    growth = 1.0
    if far.sum() >= MIN_POINTS:
        new = np.linalg.norm(end - np.median(end, axis=0), axis=1)
        growth = float(np.clip(np.median(new[far] / distances[far]), 0.9, 1.1))
    shift = np.median(end - start, axis=0) / scale
    left, top, width, height = track.box
    centre_x, centre_y = left + width / 2 + shift[0], top + height / 2 + shift[1]
    width, height = width * growth, height * growth
    track.box = (centre_x - width / 2, centre_y - height / 2, width, height)
    inside = 0 <= centre_x < now.shape[1] / scale and 0 <= centre_y < now.shape[0] / scale
    return bool(inside)


class Smoother:
    """Averages what is said of a face over time, so that labels do not flicker.

    Parameters
    ----------
    memory : float
        Weight of what was before: 0 forgets at once, 0.8 remembers about five frames.
    """

    def __init__(self, memory=0.8):
        if not 0 <= memory < 1:
            raise ValueError(f"memory is {memory}, expected 0 to less than 1")
        self.memory = memory
        self.faces = {}  # of the last frame, by track

    def smooth(self, faces):
        """Mean probabilities of each track up to now; tracks that are not there any more end.

        Parameters
        ----------
        faces : list of utils.realtime.faces.Face
            Of one frame, with their track.

        Returns
        -------
        list of utils.realtime.faces.Face
        """
        smoothed = []
        for face in faces:
            before = self.faces.get(face.track, face)
            means = {
                name: self._mean(getattr(before, name), getattr(face, name))
                for name in ("emotion_probabilities", "gender_probabilities")
            }
            smoothed.append(replace(face, **means))
        self.faces = {face.track: face for face in smoothed}
        return smoothed

    def _mean(self, before, now):
        return {
            name: self.memory * before[name] + (1 - self.memory) * value
            for name, value in now.items()
        }
