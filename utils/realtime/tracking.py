"""The same face from frame to frame: searched now and then, followed in between.

A search is dear, and misses a face that turns for a moment. A few points in each box are followed
by optical flow instead (Lucas and Kanade 1981), those of all faces in one call.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.preprocessing import rescale
from utils.realtime.detection import has_centre_of

FLOW_WIDTH = 320  # frames are reduced to this width before points are followed
# Points in the inner part of a box, in units of its sides: its corners show what is behind it.
POINTS = np.stack(np.meshgrid(*2 * [np.linspace(0.2, 0.8, 4)]), axis=-1).reshape(-1, 2)
MIN_POINTS = 6
MIN_OVERLAP = 0.3
KEEP_FOR = 30  # frames
CUT = 40  # grey levels from frame to frame: the sample clip has 23, other photographs 48 to 89


@dataclass
class Track:
    """A face over time.

    Parameters
    ----------
    number : int
        Never used again for another face.
    box : tuple of float
        Left, top, width, height in pixels of the frame.
    unseen : float
        Frames since a detector last saw it; infinite where it could not be followed.
    sightings : int
        How often a detector saw it.
    """

    number: int
    box: tuple
    unseen: float = 0
    sightings: int = 1

    @property
    def rounded_box(self):
        """The box in whole pixels, as detectors give it."""
        return tuple(round(value) for value in self.box)


class FaceTracker:
    """Gives each face a number, and keeps it.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    detector : object with ``detect(frame, known)``
        See `utils.realtime.detection`. A face that it does not see any more is followed for
        `KEEP_FOR` frames; one that it saw a single time is dropped at the next search: it may have
        been a mistake.
    """

    def __init__(self, detector):
        self.detector = detector
        self.tracks = []
        self._size = None
        self._grey = None
        self._next_number = 1

    def update(self, frame, search=True):
        """Find the faces of the next frame, uint8 (height, width, 3) BGR.

        Parameters
        ----------
        frame : numpy.ndarray
        search : bool
            Ask the detector, and follow what it misses; else follow all. A face that cannot be
            followed stays where it was until the next search. After a cut in a film the detector
            is asked at once, and all faces are new.

        Returns
        -------
        list of Track
            In the order in which they were found first.
        """
        scale = min(1, FLOW_WIDTH / frame.shape[1])
        before, self._grey = self._grey, rescale(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), scale)
        if self._size != frame.shape[:2]:
            self.tracks = []  # another camera, or a window that was resized
        elif before is not None and cv2.absdiff(before, self._grey).mean() > CUT:
            search, self.tracks = True, []
        self._size = frame.shape[:2]
        for track in self.tracks:
            track.unseen += 1
        new = self._search(frame) if search else []
        followed = [track for track in self.tracks if 0 < track.unseen < np.inf]
        if followed:
            _follow(followed, before, self._grey, scale)
        if search:
            seen = [track.box for track in self.tracks if not track.unseen]
            # Seen now; or seen twice before, not long ago, and no other face is there now.
            self.tracks = [
                track
                for track in self.tracks
                if not track.unseen
                or track.unseen <= KEEP_FOR
                and track.sightings > 1
                and not any(has_centre_of(box, track.box) for box in seen)
            ]
        self.tracks += new
        return self.tracks

    def _search(self, frame):
        """Give the detector's boxes to the tracks that they overlap most; tracks of the others."""
        known = [track.rounded_box for track in self.tracks]
        boxes = self.detector.detect(frame, known)
        overlaps = overlap(known, boxes)
        new = dict(enumerate(boxes))
        while overlaps.size and overlaps.max() >= MIN_OVERLAP:
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            overlaps[row], overlaps[:, column] = 0, 0
            track = self.tracks[row]
            track.box, track.unseen = tuple(map(float, new.pop(column))), 0
            track.sightings += 1
        self._next_number += len(new)
        numbers = range(self._next_number - len(new), self._next_number)
        return [Track(number, tuple(map(float, box))) for number, box in zip(numbers, new.values())]


def overlap(boxes, others):
    """Shared area of two boxes, divided by the area of both together: intersection over union.

    Parameters
    ----------
    boxes, others : sequence of (left, top, width, height)

    Returns
    -------
    numpy.ndarray, float, (number of boxes, number of others)
    """
    boxes, others = np.reshape(boxes, (-1, 1, 4)), np.reshape(others, (1, -1, 4))
    ends = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    shared = np.maximum(0.0, ends - np.maximum(boxes[..., :2], others[..., :2])).prod(axis=-1)
    return shared / (boxes[..., 2:].prod(axis=-1) + others[..., 2:].prod(axis=-1) - shared)


def _follow(tracks, before, now, scale):
    """Move each track's box as most of its points moved; mark those that were lost."""
    boxes = np.array([track.box for track in tracks])[:, None]
    start = np.float32(scale * (boxes[..., :2] + POINTS * boxes[..., 2:]))
    # Following the points back again, as a check, costs as much once more and was not better: the
    # medians bear a few that went astray, and a box that did ends once it was unseen for too long.
    end, found, _ = cv2.calcOpticalFlowPyrLK(
        before, now, start.reshape(-1, 1, 2), None, winSize=(11, 11)
    )
    end, good = end.reshape(start.shape), found.reshape(start.shape[:2]) == 1
    kept = good.sum(axis=1) >= MIN_POINTS
    start, end = (np.where(good[kept, :, None], x[kept], np.nan) for x in (start, end))
    boxes[kept, 0, :2] += np.nanmedian(end - start, axis=1) / scale
    growth = np.clip(_spread(end) / _spread(start), 0.9, 1.1)[:, None] - 1
    boxes[kept, 0, :2] -= growth * boxes[kept, 0, 2:] / 2
    boxes[kept, 0, 2:] += growth * boxes[kept, 0, 2:]
    for track, box, is_kept in zip(tracks, boxes[:, 0], kept):
        track.box = tuple(map(float, box))
        if not (is_kept and has_centre_of((0, 0, *np.divide(now.shape[::-1], scale)), box)):
            track.unseen = np.inf


def _spread(points):
    """How far the points of each face lie from their middle."""
    middles = np.nanmedian(points, axis=1, keepdims=True)
    return np.nanmedian(np.linalg.norm(points - middles, axis=2), axis=1)
