"""The loop: frames -> faces -> labels -> picture, window, video and csv.

python -m utils.realtime --help
"""

import argparse
import csv
import os
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm.auto import tqdm

from utils import config
from utils.data import EMOTIONS, GENDERS
from utils.faces import FaceClassifier, FaceDetector
from utils.files import replaced_when_done
from utils.sources import FrameSource, open_source

BOX_COLOUR = (80, 200, 60)  # BGR
TEXT_COLOUR = (255, 255, 255)
STOPPED_BY_USER = "ended by the user"
WINDOW_TITLE = "gender and emotion (q ends)"
CSV_COLUMNS = (
    *("seconds", "frame", "face", "left", "top", "width", "height"),
    *("emotion", "emotion_confidence", "gender", "gender_confidence"),
    *(f"p_{name}" for name in EMOTIONS + GENDERS),
)


@dataclass(frozen=True)
class Summary:
    """What a run of the loop did.

    Parameters
    ----------
    frames, frames_with_face : int
    seconds : float
        Spent on the frames, without waiting for the next one.
    stop_reason : str
    """

    frames: int
    frames_with_face: int
    seconds: float
    stop_reason: str

    @property
    def frames_per_second(self):
        """Frames handled in a second."""
        return self.frames / self.seconds if self.seconds else 0.0


def annotate(frame, faces, frames_per_second=None):
    """Draw boxes and labels on a copy of a frame.

    Parameters
    ----------
    frame : numpy.ndarray, uint8, (height, width, 3) BGR
    faces : list of utils.faces.Face
    frames_per_second : float, optional
        Written in the corner.

    Returns
    -------
    numpy.ndarray, uint8, (height, width, 3) BGR
    """
    picture = frame.copy()
    scale = max(0.4, min(frame.shape[:2]) / 500)
    for face in faces:
        left, top, width, height = face.box
        cv2.rectangle(picture, (left, top), (left + width, top + height), BOX_COLOUR, 2)
        emotion, gender = face.confidences
        text = f"{face.label}  {emotion:.0%} {gender:.0%}"
        # Over the box as in the report; inside it where the box touches the upper border.
        _write(picture, text, left, top if top > 40 * scale else top + int(40 * scale), scale)
    if frames_per_second:
        _write(picture, f"{frames_per_second:.0f} frames/s", 4, frame.shape[0] - 2, 0.7 * scale)
    return picture


def _write(picture, text, left, bottom, scale):
    thickness = max(1, round(2 * scale))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    left = max(0, min(left, picture.shape[1] - width - 4))
    margin = max(3, height // 3)
    cv2.rectangle(
        picture, (left, bottom - height - 2 * margin), (left + width + 4, bottom), BOX_COLOUR, -1
    )
    cv2.putText(
        picture, text, (left + 2, bottom - margin), cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT_COLOUR,
        thickness, cv2.LINE_AA,
    )  # fmt: skip


def run(
    source,
    classifier,
    detector=None,
    show=None,
    video_path=None,
    csv_path=None,
    max_frames=None,
    mirror=False,
):
    """Label the faces of a source until it ends, `show` says stop, or Ctrl-C is pressed.

    Taught in notebooks/05_realtime.ipynb. Video and csv are whole however the loop ends.

    Parameters
    ----------
    source : FrameSource, or anything that `utils.sources.open_source` takes
    classifier : FaceClassifier
    detector : FaceDetector, optional
    show : callable, optional
        Called with each annotated frame, uint8 BGR; a return value of False ends the loop.
    video_path, csv_path : path-like, optional
        Where the annotated frames, and a row for each face, are written.
    max_frames : int, optional
    mirror : bool
        Swap left and right, as people expect of a camera that looks at them.

    Returns
    -------
    Summary

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        See `utils.sources.open_source`; ValueError also if the video would replace the source.
    """
    detector = detector or FaceDetector()
    frames = frames_with_face = frames_written = 0
    seconds = rate = 0.0
    stop_reason, failure = "", None
    with ExitStack() as stack:
        opened = stack.enter_context(
            source if isinstance(source, FrameSource) else open_source(source)
        )
        for target in (video_path, csv_path):
            if target and opened.path and Path(target).resolve() == opened.path.resolve():
                raise ValueError(f"{target} is the source: give what is written another name")
        write_row = stack.enter_context(_csv_writer(csv_path))
        write_frame = stack.enter_context(_video_writer(video_path, opened.frames_per_second))
        progress = stack.enter_context(
            tqdm(total=opened.num_frames or max_frames, desc=opened.name, unit="frame", leave=False)
        )
        start = time.perf_counter()
        try:
            for frame in opened:
                begin = time.perf_counter()
                if mirror:
                    frame = cv2.flip(frame, 1)
                faces = classifier.classify(frame, detector.detect(frame))
                # A moving average: single frames vary too much to be read.
                latest = 1 / max(time.perf_counter() - begin, 1e-6)
                rate = 0.9 * rate + 0.1 * latest if rate else latest
                picture = annotate(frame, faces, rate)
                # Frames of a camera lie where the clock says, all others where their number says.
                moment = begin - start if opened.live else frames / opened.frames_per_second
                for number, face in enumerate(faces):
                    write_row(_csv_row(moment, frames, number, face))
                due = int(moment * opened.frames_per_second) + 1 if opened.live else frames + 1
                for _ in range(frames_written, due):
                    write_frame(picture)
                frames_written = max(frames_written, due)
                frames += 1
                frames_with_face += bool(faces)
                seconds += time.perf_counter() - begin
                progress.update()
                if show is not None and show(picture) is False:
                    stop_reason = STOPPED_BY_USER
                    break
                if frames == max_frames:
                    stop_reason = f"{max_frames} frames were asked for"
                    break
                if show is not None and not opened.live:
                    # Nobody can look at a film at the speed of the processor.
                    ahead = frames / opened.frames_per_second - (time.perf_counter() - start)
                    time.sleep(max(0, ahead))
        except KeyboardInterrupt:
            stop_reason = "ended by Ctrl-C"
        except (ValueError, OSError, cv2.error) as error:
            failure = error  # first the files are finished
    if failure:
        raise failure
    return Summary(frames, frames_with_face, seconds, stop_reason or opened.stop_reason)


def _csv_row(seconds, frame_number, face_number, face):
    emotion, gender = face.confidences
    probabilities = {**face.emotion_probabilities, **face.gender_probabilities}
    return (
        *(f"{seconds:.3f}", frame_number, face_number, *face.box),
        *(face.emotion, f"{emotion:.4f}", face.gender, f"{gender:.4f}"),
        *(f"{probabilities.get(name, 0):.4f}" for name in EMOTIONS + GENDERS),
    )


@contextmanager
def _csv_writer(path):
    if path is None:
        yield lambda row: None
        return
    with replaced_when_done(path) as partial:
        with open(partial, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(CSV_COLUMNS)
            yield writer.writerow


@contextmanager
def _video_writer(path, frames_per_second):
    """Yield a function that appends a frame; the first sets the size. No frame, no file."""
    writer = cv2.VideoWriter()
    size = None

    def write(picture):
        nonlocal size
        if path is None:
            return
        if size is None:
            size = picture.shape[1::-1]
            partial = stack.enter_context(replaced_when_done(path))
            stack.callback(writer.release)
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            if not writer.open(str(partial), codec, frames_per_second, size):
                raise ValueError(f"OpenCV cannot write mp4v video to {path}: give a name with .mp4")
        elif picture.shape[1::-1] != size:
            picture = cv2.resize(picture, size)
        writer.write(picture)

    with ExitStack() as stack:
        yield write


def can_open_window():
    """Say whether there is a display; without one `cv2.imshow` aborts the process."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY"))  # OpenCV's wheel has no Wayland support
    return True


def show_in_window(picture):
    """Show a frame in a window; return False when `q` was pressed or the window was closed."""
    cv2.imshow(WINDOW_TITLE, picture)
    pressed = cv2.waitKey(1) & 0xFF
    return pressed != ord("q") and _window_is_open()


def wait_for_window():
    """Leave the last frame in the window until a key is pressed or it is closed."""
    while _window_is_open() and cv2.waitKey(50) < 0:
        pass


def _window_is_open():
    return cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) >= 1


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
    parser.add_argument("--output", help="annotated video, .mp4; default: in outputs/realtime")
    parser.add_argument("--csv", help="table of all faces; default: beside the video")
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames")
    parser.add_argument("--mirror", action="store_true", help="swap left and right")
    options = parser.parse_args(arguments)

    window = not options.no_display and can_open_window()
    if not window and not options.no_display:
        print("no display here: the frames go to the video only")
    video_path = Path(options.output) if options.output else _default_video_path(options.source)
    csv_path = Path(options.csv) if options.csv else video_path.with_suffix(".csv")
    try:
        with open_source(options.source) as source:
            print("loading the networks ...")
            classifier = FaceClassifier()
            if window:
                print("press q in the window, or close it, to end")
            summary = run(
                source,
                classifier,
                show=show_in_window if window else None,
                video_path=video_path,
                csv_path=csv_path,
                max_frames=options.max_frames,
                mirror=options.mirror,
            )
            if window and not source.live and summary.stop_reason != STOPPED_BY_USER:
                print("the end: press any key in the window, or close it")
                wait_for_window()
    except (ValueError, OSError, cv2.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if window:
            cv2.destroyAllWindows()
    if not summary.frames:
        print(f"error: no frame came: {summary.stop_reason}", file=sys.stderr)
        return 1
    print(
        f"{summary.frames} frames, a face in {summary.frames_with_face}, "
        f"{summary.frames_per_second:.1f} frames/s; ended: {summary.stop_reason}"
    )
    print(f"annotated video: {video_path}")
    print(f"table of faces:  {csv_path}")
    return 0


def _default_video_path(source):
    if source.isdigit():
        # A second recording must not replace the first.
        return config.REALTIME_DIR / f"camera_{source}_{time.strftime('%Y%m%d-%H%M%S')}.mp4"
    return config.REALTIME_DIR / f"{Path(source).stem}.mp4"


if __name__ == "__main__":
    sys.exit(main())
