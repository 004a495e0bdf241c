"""Frames in, labelled faces out, in time: search or follow, cut out, both networks, smooth."""

import math
import time
from contextlib import contextmanager
from dataclasses import replace

from utils.realtime.detection import HaarDetector
from utils.realtime.tracking import FaceTracker

STAGES = ("detection", "reading", "drawing", "writing")
BUDGET = 0.01  # seconds: a camera gives 30 frames a second, and drawing and writing take time too
SEARCH_SHARE = 0.1  # of the budget, on average
SELDOM = 10  # frames from one search to the next, at most


class Engine:
    """Labels the faces of one frame after the other, in as little time as it is given.

    Searches take a tenth of the budget on average: one that takes longer is made only every few
    frames, at least in every tenth, and faces are followed in between. What is left of a frame's
    budget goes to the networks, one face at a time: new faces first, then half of the others, those
    that were read longest ago. At least one is read; the rest keep their label.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    classifier : utils.realtime.faces.FaceClassifier
    detector : object with ``detect(frame, known)``, optional
        See `utils.realtime.detection`; the Haar cascade by default.
    budget : float, optional
        Seconds for searching and reading in a frame. None searches and reads all in each frame,
        so that the labels are the same on each machine.
    smoothing : float
        Weight of what was said of a face before: 0 labels each reading by itself, 0.8 averages
        about five, so that labels do not flicker.
    film : bool
        False for pictures that have nothing to do with each other: nothing of one is true of the
        next, and there is no budget.
    """

    def __init__(self, classifier, detector=None, budget=BUDGET, smoothing=0.8, film=True):
        if not (budget is None or budget > 0) or not 0 <= smoothing < 1:
            raise ValueError(
                f"budget is {budget} and smoothing {smoothing}, expected seconds above 0 or None, "
                "and 0 to less than 1"
            )
        self.classifier = classifier
        self.tracker = FaceTracker(detector or HaarDetector())
        self.budget = budget if film else None
        self.smoothing = smoothing
        self.film = film
        self.watch = Stopwatch()
        self._labelled = {}  # faces by track, in the order in which they were read
        self._frames_to_follow = 0

    def label(self, frame):
        """Label the faces of the next frame, uint8 BGR (height, width, 3): list of Face.

        A new face is left out until there was time to read it.
        """
        start, search = time.perf_counter(), self._frames_to_follow == 0
        if not self.film:
            self.tracker.tracks, self._labelled = [], {}
        with self.watch("detection"):
            tracks = self.tracker.update(frame, search)
        if search and self.budget:
            share = (time.perf_counter() - start) / (SEARCH_SHARE * self.budget)
            self._frames_to_follow = min(math.ceil(share), SELDOM)
        self._frames_to_follow = max(0, self._frames_to_follow - 1)  # this one included
        with self.watch("reading"):
            turns = {number: turn for turn, number in enumerate(self._labelled)}
            waiting = sorted(tracks, key=lambda track: turns.get(track.number, -1))
            if self.budget:
                known = sum(track.number in turns for track in tracks)
                waiting = waiting[: len(waiting) - known // 2]
            for count, track in enumerate(waiting):
                if count and self.budget and time.perf_counter() - start >= self.budget:
                    break
                self._read(frame, track)
        boxes = {track.number: track.rounded_box for track in tracks}
        self._labelled = {x: face for x, face in self._labelled.items() if x in boxes}
        return [
            replace(self._labelled[number], box=box)
            for number, box in boxes.items()
            if number in self._labelled
        ]

    def _read(self, frame, track):
        """Average what the networks say of a face now with what they said before."""
        (face,) = self.classifier.classify(frame, [track.rounded_box])
        before = self._labelled.pop(track.number, face)
        means = {
            name: {
                key: self.smoothing * getattr(before, name)[key] + (1 - self.smoothing) * now
                for key, now in getattr(face, name).items()
            }
            for name in ("emotion_probabilities", "gender_probabilities")
        }
        age = self.smoothing * before.age + (1 - self.smoothing) * face.age
        self._labelled[track.number] = replace(face, track=track.number, age=age, **means)


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
        return f"up to {1 / max(sum(self._lately.values()), 1e-6):.0f} frames/s ({stages} ms)"
