"""The loop: frames -> faces -> labels -> picture, window, video and csv."""

import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import cv2
from tqdm import tqdm

from utils.realtime.display import annotate
from utils.realtime.engine import BUDGET, Engine
from utils.realtime.recording import recorder
from utils.realtime.sources import FrameSource, open_source

STOPPED_BY_USER, INTERRUPTED = "ended by the user", "interrupted"


@dataclass(frozen=True)
class Summary:
    """What a run of the loop did.

    Parameters
    ----------
    frames, frames_with_face : int
    skipped : int
        Frames of a camera that came too fast.
    stage_seconds : dict of str to float
        Time in each of `utils.realtime.engine.STAGES`: neither reading the source nor showing.
    stop_reason : str
    left_out : int
        Pictures of a live source that are not in the video: writing was too slow.
    faces_kept : int
        Faces that were cut out and kept.
    """

    frames: int
    frames_with_face: int
    skipped: int
    stage_seconds: dict
    stop_reason: str
    left_out: int = 0
    faces_kept: int = 0

    @property
    def frames_per_second(self):
        """Frames that could be handled in a second, if reading and showing them took no time."""
        seconds = sum(self.stage_seconds.values())
        return self.frames / seconds if seconds else 0.0

    @property
    def milliseconds(self):
        """Time of each stage in a frame: dict of str to float."""
        return {
            stage: 1000 * seconds / max(self.frames, 1)
            for stage, seconds in self.stage_seconds.items()
        }


def run(
    source,
    classifier,
    detector=None,
    show=None,
    video_path=None,
    csv_path=None,
    faces_folder=None,
    max_frames=None,
    mirror=False,
    smoothing=0.8,
):
    """Label the faces of a source until it ends, `show` says stop, or Ctrl-C is pressed.

    Taught in notebooks/05_realtime.ipynb. Nothing is kept that no path is given for, and what is
    kept is whole however the loop ends; a process that is killed leaves cut faces and
    unfinished files.

    Parameters
    ----------
    source : FrameSource, or anything that `utils.realtime.sources.open_source` takes
    classifier, detector, smoothing
        See `utils.realtime.engine.Engine`.
    show : callable, optional
        Called with each annotated frame, uint8 BGR; a return value of False ends the loop.
    video_path, csv_path : path-like, optional
        Where the annotated frames (``.webm``, or ``.mp4``, which browsers do not play; of a single
        picture ``.png`` or ``.jpg``) and a row for each face are written.
    faces_folder : path-like, optional
        Where the cut faces are kept, of each track one a second.
    max_frames : int, optional
        At least 1.
    mirror : bool
        Swap left and right, as people expect of a camera that looks at them.

    Returns
    -------
    Summary

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        See `utils.realtime.sources.open_source` and `utils.realtime.recording.recorder`; ValueError
        also if `max_frames` is below 1.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}, expected at least 1, or None for all")
    frames, frames_with_face, stop_reason = 0, 0, ""
    with ExitStack() as stack:
        if not isinstance(source, FrameSource):
            source = open_source(source)
        stack.enter_context(source)
        # A film that nobody watches has time: its table is to be the same on each machine.
        budget = BUDGET if source.live or show is not None else None
        engine = Engine(classifier, detector, budget, smoothing, source.film)
        paths = video_path, csv_path, faces_folder
        without_ctrl_c = stack.enter_context(_ctrl_c_ignored())
        recording = stack.enter_context(recorder(source, *paths, classifier))
        total = source.num_frames or max_frames
        # A log file has no use for a bar, and a notebook shows pictures instead.
        bar = tqdm(source, desc=source.name, total=total, unit="frame", leave=False, disable=None)
        stack.enter_context(bar)
        stack.callback(without_ctrl_c)  # an impatient second one would cost the recording
        start = time.perf_counter()
        try:
            for frame in bar:
                # Nobody can look at a film at the speed of the processor.
                if show is not None and not source.live:
                    time.sleep(max(0, source.seconds - (time.perf_counter() - start)))
                if mirror:
                    frame = cv2.flip(frame, 1)
                faces = engine.label(frame)
                with engine.watch("drawing"):
                    kept_live = source.live and recording.active
                    picture = annotate(frame, faces, str(engine.watch), recording=kept_live)
                with engine.watch("writing"):
                    recording.write(faces, frame, picture)
                frames += 1
                frames_with_face += bool(faces)
                if show is not None and show(picture) is False:
                    stop_reason = STOPPED_BY_USER
                    break
                if frames == max_frames:
                    stop_reason = f"{max_frames} frames were asked for"
                    break
        except KeyboardInterrupt:
            stop_reason = INTERRUPTED
    stop_reason = stop_reason or source.stop_reason
    counts = frames, frames_with_face, source.skipped
    kept = recording.left_out, recording.faces
    return Summary(*counts, engine.watch.seconds, stop_reason, *kept)


@contextmanager
def _ctrl_c_ignored():
    """Yield a function from whose call to the end of the block Ctrl-C does nothing."""
    before = signal.getsignal(signal.SIGINT)
    can_change = before is not None and threading.current_thread() is threading.main_thread()
    try:
        yield lambda: can_change and signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        if can_change:
            signal.signal(signal.SIGINT, before)
