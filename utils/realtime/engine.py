"""Frames in, labelled faces out: search or follow, cut out, both networks, smooth."""

import time
from contextlib import contextmanager
from dataclasses import replace

from utils.realtime.detection import HaarDetector
from utils.realtime.tracking import FaceTracker, Smoother

STAGES = ("detection", "crops", "networks", "drawing", "writing")


class Engine:
    """Labels the faces of one frame after the other.

    Searching and reading are the dear steps, so no frame does both for a known face: where faces
    are searched only now and then, a face that has a label keeps it in such a frame.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    classifier : utils.realtime.faces.FaceClassifier
    detector : object with ``detect(frame)``, optional
        See `utils.realtime.detection`; the Haar cascade by default.
    detect_every : int
        Faces are searched in every so many frames, and followed in those between.
    smoothing : float
        See `utils.realtime.tracking.Smoother`; 0 labels each frame by itself.
    keep_for : int
        See `utils.realtime.tracking.FaceTracker`.
    """

    def __init__(self, classifier, detector=None, detect_every=3, smoothing=0.8, keep_for=30):
        self.classifier = classifier
        self.tracker = FaceTracker(detector or HaarDetector(), detect_every, keep_for)
        self.smoother = Smoother(smoothing)
        self.watch = Stopwatch()
        self._rested = False

    def label(self, frame):
        """Label the faces of the next frame, uint8 BGR (height, width, 3): list of Face."""
        with self.watch("detection"):
            tracks = self.tracker.update(frame)
            known = self.smoother.faces if self._rests() else {}
            unread = [track for track in tracks if track.number not in known]
            boxes = [track.rounded_box for track in unread]
        with self.watch("crops"):
            crops = self.classifier.crop(frame, boxes)
        with self.watch("networks"):
            read = iter(self.classifier.label(boxes, crops))
        return self.smoother.smooth(
            [
                replace(
                    known.get(track.number) or next(read),
                    box=track.rounded_box,
                    track=track.number,
                )
                for track in tracks
            ]
        )

    def _rests(self):
        """Say whether known faces are not read in this frame; never twice in a row."""
        averaged = self.smoother.memory > 0 and self.tracker.detect_every > 1
        self._rested = averaged and self.tracker.searched and not self._rested
        return self._rested


class Stopwatch:
    """Time in each of `STAGES`: in all, and lately."""

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lately = {}

    @contextmanager
    def __call__(self, stage):
        """Time what is done in a ``with`` block."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[stage] += seconds
        # A moving average: single frames vary too much to be read.
        self._lately[stage] = 0.9 * self._lately.get(stage, seconds) + 0.1 * seconds

    def __str__(self):
        stages = " ".join(f"{name} {1000 * x:.0f}" for name, x in self._lately.items())
        return f"{1 / max(sum(self._lately.values()), 1e-6):.0f} frames/s ({stages} ms)"
