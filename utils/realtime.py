"""The loop: frames -> faces -> labels -> picture, window, video and csv.

python -m utils.realtime --help
"""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm.auto import tqdm

from utils import config
from utils.detection import DETECTORS, open_detector
from utils.display import annotate, can_open_window, show_in_window, wait_for_window
from utils.engine import Engine
from utils.faces import RUNTIMES, FaceClassifier
from utils.recording import check_video_name, csv_row, csv_writer, video_writer
from utils.sources import FrameSource, open_source

STOPPED_BY_USER = "ended by the user"
MAX_SKIPPED_IN_A_ROW = 10  # a window that never changes looks broken


@dataclass(frozen=True)
class Summary:
    """What a run of the loop did.

    Parameters
    ----------
    frames, frames_with_face : int
    skipped : int
        Frames that came too fast: of a camera, or of a video that was asked not to lag.
    stage_seconds : dict of str to float
        Time in each of `utils.engine.STAGES`, without waiting for the next frame.
    stop_reason : str
    """

    frames: int
    frames_with_face: int
    skipped: int
    stage_seconds: dict
    stop_reason: str

    @property
    def frames_per_second(self):
        """Frames handled in a second."""
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
    max_frames=None,
    mirror=False,
    detect_every=3,
    smoothing=0.8,
    skip_late=False,
):
    """Label the faces of a source until it ends, `show` says stop, or Ctrl-C is pressed.

    Taught in notebooks/05_realtime.ipynb. Video and csv are whole however the loop ends.

    Parameters
    ----------
    source : FrameSource, or anything that `utils.sources.open_source` takes
    classifier, detector, detect_every, smoothing
        See `utils.engine.Engine`.
    show : callable, optional
        Called with each annotated frame, uint8 BGR; a return value of False ends the loop.
    video_path, csv_path : path-like, optional
        Where the annotated frames, and a row for each face, are written.
    max_frames : int, optional
        At least 1.
    mirror : bool
        Swap left and right, as people expect of a camera that looks at them.
    skip_late : bool
        Skip frames of a video that is shown and falls behind its own speed.

    Returns
    -------
    Summary

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        See `utils.sources.open_source`; ValueError also if the video would replace the source or
        has a name of another kind, or `max_frames` is below 1.
    """
    check_video_name(video_path)
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}, expected at least 1, or None for all")
    frames = frames_with_face = frames_written = skipped = in_a_row = 0
    stop_reason, failure = "", None
    with ExitStack() as stack:
        opened = stack.enter_context(
            source if isinstance(source, FrameSource) else open_source(source)
        )
        for target in (video_path, csv_path):
            if target and opened.path and Path(target).exists() and opened.path.samefile(target):
                raise ValueError(f"{target} is the source: give what is written another name")
        if opened.film:
            engine = Engine(classifier, detector, detect_every, smoothing)
        else:  # pictures: nothing of one is true of the next
            engine = Engine(classifier, detector, detect_every=1, smoothing=0, keep_for=0)
        watch = engine.watch
        write_row = stack.enter_context(csv_writer(csv_path))
        write_frame = stack.enter_context(video_writer(video_path, opened.frames_per_second))
        progress = stack.enter_context(
            tqdm(total=opened.num_frames or max_frames, desc=opened.name, unit="frame", leave=False)
        )
        start = time.perf_counter()
        try:
            for number, frame in enumerate(opened):
                elapsed = time.perf_counter() - start
                # Frames of a camera lie where the clock says, all others where their number says.
                moment = elapsed if opened.live else number / opened.frames_per_second
                late = elapsed > moment + 1 / opened.frames_per_second
                if skip_late and show is not None and late and in_a_row < MAX_SKIPPED_IN_A_ROW:
                    skipped, in_a_row = skipped + 1, in_a_row + 1
                    progress.update()
                    continue
                in_a_row = 0
                if mirror:
                    frame = cv2.flip(frame, 1)
                faces = engine.label(frame)
                with watch("drawing"):
                    picture = annotate(frame, faces, str(watch))
                with watch("writing"):
                    for face in faces:
                        write_row(csv_row(moment, number, face))
                    due = int(moment * opened.frames_per_second) + 1 if opened.live else number + 1
                    for _ in range(frames_written, due):
                        write_frame(picture)
                    frames_written = max(frames_written, due)
                frames += 1
                frames_with_face += bool(faces)
                progress.update()
                if show is not None and show(picture) is False:
                    stop_reason = STOPPED_BY_USER
                    break
                if frames == max_frames:
                    stop_reason = f"{max_frames} frames were asked for"
                    break
                if show is not None and not opened.live:
                    # Nobody can look at a film at the speed of the processor.
                    ahead = (number + 1) / opened.frames_per_second - (time.perf_counter() - start)
                    time.sleep(max(0, ahead))
        except KeyboardInterrupt:
            stop_reason = "ended by Ctrl-C"
        except (ValueError, OSError, cv2.error) as error:
            failure = error  # first the files are finished
    if failure:
        raise failure
    return Summary(
        frames,
        frames_with_face,
        skipped + opened.skipped,
        watch.seconds,
        stop_reason or opened.stop_reason,
    )


def main(arguments=None):
    """Run the loop from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py run",
        description="Writes emotion and gender over each face, for instance 'Happy, F'.",
    )
    parser.add_argument(
        "--source",
        default=str(config.SAMPLE_CLIP),
        help="number of a camera (0), a video, a picture or a folder of pictures; "
        "default: the sample clip",
    )
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        default=DETECTORS[0],
        help="what finds the faces: yunet also finds turned ones (233 kB, downloaded once), haar "
        "is the report's; default: yunet",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help="what computes the networks: litert is lighter (pip install ai-edge-litert); "
        "default: keras",
    )
    parser.add_argument("--output", help="annotated video, .mp4; default: in outputs/realtime")
    parser.add_argument("--csv", help="table of all faces; default: beside the video")
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames")
    parser.add_argument("--mirror", action="store_true", help="swap left and right")
    parser.add_argument(
        "--skip-late",
        action="store_true",
        help="skip frames of a video that cannot be labelled at its own speed",
    )
    options = parser.parse_args(arguments)

    window = not options.no_display and can_open_window()
    if not window and not options.no_display:
        print("no display here: the frames go to the video only")
    video_path = Path(options.output) if options.output else _default_video_path(options.source)
    csv_path = Path(options.csv) if options.csv else video_path.with_suffix(".csv")
    try:
        with open_source(options.source) as source:
            print("loading the networks ...")
            classifier = FaceClassifier(runtime=options.runtime)
            detector = open_detector(options.detector)
            if window:
                print("press q in the window, or close it, to end")
            summary = run(
                source,
                classifier,
                detector,
                show=show_in_window if window else None,
                video_path=video_path,
                csv_path=csv_path,
                max_frames=options.max_frames,
                mirror=options.mirror,
                skip_late=options.skip_late,
            )
            if window and not source.live and summary.stop_reason != STOPPED_BY_USER:
                print("the end: press any key in the window, or close it")
                wait_for_window()
    except (ValueError, OSError, ImportError, cv2.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if window:
            cv2.destroyAllWindows()
    if not summary.frames:
        print(f"error: no frame came: {summary.stop_reason}", file=sys.stderr)
        return 1
    print(
        f"{summary.frames} frames, {summary.skipped} skipped, a face in "
        f"{summary.frames_with_face}, {summary.frames_per_second:.1f} frames/s; ended: "
        f"{summary.stop_reason}"
    )
    stages = ", ".join(f"{name} {value:.1f}" for name, value in summary.milliseconds.items())
    print(f"milliseconds a frame: {stages}")
    print(f"annotated video: {video_path}")
    print(f"table of faces:  {csv_path}")
    return 0


def _default_video_path(source):
    if source.isdigit():
        # A second recording must not replace the first.
        return config.REALTIME_DIR / f"camera_{source}_{time.strftime('%Y%m%d-%H%M%S')}.mp4"
    name = Path(source).expanduser().resolve().stem or "pictures"  # the root of a disk has none
    return config.REALTIME_DIR / f"{name}.mp4"


if __name__ == "__main__":
    sys.exit(main())
