"""Writes emotion and gender over each face of a camera, a video or pictures.

python tasks.py run --help
"""

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import cv2

from commands.texts import path_of
from utils import config
from utils.files import clear_leftovers
from utils.realtime.detection import DETECTORS, open_detector
from utils.realtime.display import can_open_window, show_in_window, wait_for_window
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL, FaceClassifier
from utils.realtime.loop import INTERRUPTED, STOPPED_BY_USER, run
from utils.realtime.sources import open_source


def main(arguments=None):
    """Run the loop from the command line."""
    options = _parse(arguments)
    try:
        # What a recording left that was killed: the next one has another name.
        clear_leftovers(config.REALTIME_DIR)
        summary = _label(options)
        if not summary.frames and summary.stop_reason == INTERRUPTED:
            raise KeyboardInterrupt
    except (ValueError, OSError, ImportError, cv2.error) as error:
        for line in (error, *getattr(error, "__notes__", ())):
            _say(f"error: {line}", "stderr")
        return 1
    except KeyboardInterrupt:  # before the first frame; later the loop ends well by itself
        _say("interrupted", "stderr")
        return 130
    if not summary.frames:
        _say(f"error: no frame came: {summary.stop_reason}", "stderr")
        return 1
    _say(
        f"{summary.frames} frames, {summary.skipped} skipped, a face in "
        f"{summary.frames_with_face}, up to {summary.frames_per_second:.1f} frames/s; ended: "
        f"{summary.stop_reason}"
    )
    stages = ", ".join(f"{name} {value:.1f}" for name, value in summary.milliseconds.items())
    _say(f"milliseconds a frame: {stages}")
    for line in _kept(options, summary):
        _say(line)
    return 0


def _kept(options, summary):
    """Sentences about what was written."""
    if options.output:
        yield f"annotated copy:  {options.output}"
    if summary.left_out:
        yield (
            f"  without {summary.left_out} of {summary.frames} pictures, for which there was no "
            "time; the one before them stays"
        )
    if options.csv:
        yield f"table of faces:  {options.csv}"
    if options.save_faces:
        yield f"cut faces:       {summary.faces_kept} in {options.save_faces}"
    if not (options.output or options.csv or options.save_faces):
        yield "nothing was kept: --record keeps a video and a table"


def _say(line, stream="stdout"):
    """Print a line; that nobody listens any more must not end what is being written."""
    try:
        print(line, file=getattr(sys, stream), flush=True)
    except OSError:
        setattr(sys, stream, open(os.devnull, "w"))


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python tasks.py run",
        description="Writes emotion and gender over each face, for instance 'Happy, F'; over a "
        "child's face 'Happy, child', where the network has learned age.",
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
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep video and table of a camera, in outputs/realtime; of files they always are",
    )
    for name, text in (
        (
            "--output",
            "annotated copy: .webm, or .mp4 (no browser plays it); of a picture .png or .jpg",
        ),
        ("--csv", "table of all faces; default of a file: beside the video"),
        ("--save-faces", "folder for the cut faces with their labels, of each face one a second"),
    ):
        parser.add_argument(name, type=path_of, help=text)
    parser.add_argument(
        "--age",
        action="store_true",
        help="write the estimated age too, 'Happy, F, 31', also into the table; needs a gender "
        "network that has learned it",
    )
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames")
    parser.add_argument("--mirror", action="store_true", help="swap left and right")
    return parser.parse_args(arguments)


def _default_video_path(source):
    # A second recording of a camera must not replace the first.
    taken = f"_{time.strftime('%Y%m%d-%H%M%S')}" if source.live else ""
    suffix = ".png" if source.is_picture else ".webm"
    return config.REALTIME_DIR / f"{source.name}{taken}{suffix}"


@contextmanager
def _without_log():
    """Keep away what LiteRT and TensorFlow write first, before they read any setting.

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


def _label(options):
    with ExitStack() as stack:
        with _without_log():
            source = stack.enter_context(open_source(options.source))
        if options.record or not source.live:
            options.output = options.output or _default_video_path(source)
            options.csv = options.csv or options.output.with_suffix(".csv")
        window = not options.no_display and can_open_window()
        if not (window or options.output or options.csv or options.save_faces):
            raise ValueError(
                f"{source.name} would neither be shown nor kept: "
                f"{'there is no display here' if not options.no_display else '--no-display'}; add "
                "--record, --output FILE, --csv FILE or --save-faces FOLDER"
            )
        if not window and not options.no_display:
            _say("no display here: nothing is shown")
        _say("loading the networks ...")
        with _without_log():
            classifier = FaceClassifier(options.emotion, options.gender, options.age)
        detector = open_detector(options.detector)
        if window:
            stack.callback(cv2.destroyAllWindows)
            _say("press q in the window to end")
        summary = run(
            source,
            classifier,
            detector,
            show=show_in_window if window else None,
            video_path=options.output,
            csv_path=options.csv,
            faces_folder=options.save_faces,
            max_frames=options.max_frames,
            mirror=options.mirror,
        )
        ended_early = summary.stop_reason in (STOPPED_BY_USER, INTERRUPTED)
        if window and summary.frames and not (source.live or ended_early):
            _say("the end: press any key in the window")
            with suppress(KeyboardInterrupt):
                wait_for_window()
    return summary


def end_like_ctrl_c():
    """Have whoever stops the process or closes the terminal leave whole files, too."""
    numbers = [
        number
        for name in ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP, and nohup ignores it
        if (number := getattr(signal, name, None)) and signal.getsignal(number) == signal.SIG_DFL
    ]

    def end(*_):
        for number in numbers:  # a closed terminal sends two: the second must not break the ending
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, end)


if __name__ == "__main__":
    end_like_ctrl_c()
    sys.exit(main())
