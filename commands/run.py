"""Writes emotion and gender over each face of a camera, a video or pictures.

python tasks.py run --help
"""

import argparse
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2

from utils import config
from utils.realtime.detection import DETECTORS, open_detector
from utils.realtime.display import can_open_window, show_in_window, wait_for_window
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL, FaceClassifier
from utils.realtime.loop import STOPPED_BY_USER, run
from utils.realtime.sources import open_source


def main(arguments=None):
    """Run the loop from the command line."""
    options = _parse(arguments)
    window = not options.no_display and can_open_window()
    if not window and not options.no_display:
        print("no display here: the frames go to the video only")
    try:
        summary = _label(options, window)
    except (ValueError, OSError, ImportError, cv2.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the loop, which ends well by itself
        print("interrupted", file=sys.stderr)
        return 130
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
    print(f"annotated video: {options.output}")
    print(f"table of faces:  {options.csv}")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python tasks.py run",
        description="Writes emotion and gender over each face, for instance 'Happy, F'.",
    )
    parser.add_argument(
        "--source",
        default=str(config.SAMPLE_CLIP),
        help="number of a camera (0), an address (rtsp://), a video, a picture or a folder of "
        "pictures; default: the sample clip",
    )
    for what, default in (("emotion", DEFAULT_EMOTION_MODEL), ("gender", DEFAULT_GENDER_MODEL)):
        parser.add_argument(
            f"--{what}",
            metavar="NAME",
            default=default,
            help=f"network that reads the {what}: one in outputs/pretrained, or a run of yours "
            f"that was shipped; default: {default}",
        )
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        default=DETECTORS[0],
        help="what finds the faces: yunet also finds turned ones (233 kB, downloaded once), haar "
        "is the report's; default: yunet",
    )
    for name, text in (
        ("--output", "annotated video, .mp4; default: in outputs/realtime"),
        ("--csv", "table of all faces; default: beside the video"),
    ):
        # The shell leaves the ~ of --output=~/x.mp4 as it is.
        parser.add_argument(name, type=lambda path: Path(os.path.expanduser(path)), help=text)
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames")
    parser.add_argument("--mirror", action="store_true", help="swap left and right")
    parser.add_argument(
        "--skip-late",
        action="store_true",
        help="skip frames of a video that cannot be labelled at its own speed",
    )
    return parser.parse_args(arguments)


def _default_video_path(source):
    # A second recording must not replace the first.
    taken = f"_{time.strftime('%Y%m%d-%H%M%S')}" if source.live else ""
    return config.REALTIME_DIR / f"{source.name}{taken}.mp4"


@contextmanager
def _without_log():
    """Keep TensorFlow's first lines away, which it writes before it reads any setting.

    They look like faults ("could not find cuda drivers") to somebody who starts for the first time.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _label(options, window):
    with open_source(options.source) as source:
        options.output = options.output or _default_video_path(source)
        options.csv = options.csv or options.output.with_suffix(".csv")
        print("loading the networks ...")
        with _without_log():
            classifier = FaceClassifier(options.emotion, options.gender)
        detector = open_detector(options.detector)
        if window:
            print("press q in the window, or close it, to end")
        summary = run(
            source,
            classifier,
            detector,
            show=show_in_window if window else None,
            video_path=options.output,
            csv_path=options.csv,
            max_frames=options.max_frames,
            mirror=options.mirror,
            skip_late=options.skip_late,
        )
        if window and not source.live and summary.stop_reason != STOPPED_BY_USER:
            print("the end: press any key in the window, or close it")
            wait_for_window()
    return summary


def end_like_ctrl_c():
    """Have whoever stops the process or closes the terminal leave whole files, too."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, and nohup ignores it
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    end_like_ctrl_c()
    sys.exit(main())
