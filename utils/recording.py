"""What the loop leaves on disk: an annotated video and a table of faces, whole however it ends."""

import csv
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2

from utils.data import EMOTIONS, GENDERS
from utils.files import replaced_when_done

VIDEO_SUFFIXES = (".mp4", ".avi")
CSV_COLUMNS = (
    *("seconds", "frame", "track", "left", "top", "width", "height"),
    *("emotion", "emotion_confidence", "gender", "gender_confidence"),
    *(f"p_{name}" for name in EMOTIONS + GENDERS),
)


def csv_row(seconds, frame_number, face):
    """The row of a face, in the order of `CSV_COLUMNS`."""
    emotion, gender = face.confidences
    probabilities = {**face.emotion_probabilities, **face.gender_probabilities}
    return (
        *(f"{seconds:.3f}", frame_number, face.track, *face.box),
        *(face.emotion, f"{emotion:.4f}", face.gender, f"{gender:.4f}"),
        *(f"{probabilities.get(name, 0):.4f}" for name in EMOTIONS + GENDERS),
    )


@contextmanager
def csv_writer(path):
    """Yield a function that appends a row. No path, no file."""
    if path is None:
        yield lambda row: None
        return
    with replaced_when_done(path) as partial:
        with open(partial, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(CSV_COLUMNS)
            yield writer.writerow


def check_video_name(path):
    """Refuse names that OpenCV would not write as mp4v video.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    if path is not None and Path(path).suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is no name for a video: expected {' or '.join(VIDEO_SUFFIXES)}")


@contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends a frame; the first sets the size. No frame, no file.

    Raises
    ------
    ValueError
        By that function, if OpenCV cannot write frames of this size.
    """
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
            # Somewhere above 60, mp4v takes whole rates only.
            rate = frames_per_second if frames_per_second <= 60 else round(frames_per_second)
            if not writer.open(str(partial), codec, rate, size):
                stack.pop_all()  # there is nothing to move into place
                raise ValueError(
                    f"this OpenCV cannot write {size[0]}x{size[1]} pixels at {rate} frames/s as "
                    f"mp4v video to {path}"
                )
        elif picture.shape[1::-1] != size:
            picture = cv2.resize(picture, size)
        writer.write(picture)

    with ExitStack() as stack:
        yield write
