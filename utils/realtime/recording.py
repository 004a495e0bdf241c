"""What the loop leaves on disk: an annotated video and a table of faces, whole however it ends."""

import csv
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np

from utils.files import replaced_when_done
from utils.preprocessing import EMOTIONS, GENDERS, rescale

VIDEO_SUFFIXES = (".mp4", ".avi")
LARGEST_SIDE, LEAST_SIDE = 8190, 2  # of a frame of mp4v
CSV_COLUMNS = (
    *("seconds", "frame", "file", "track", "left", "top", "width", "height"),
    *("emotion", "emotion_confidence", "gender", "gender_confidence"),
    *(f"p_{name}" for name in EMOTIONS + GENDERS),
)


def csv_row(source, face):
    """The row of a face in the frame that the source gave last, in the order of `CSV_COLUMNS`."""
    emotion, gender = face.confidences
    probabilities = {**face.emotion_probabilities, **face.gender_probabilities}
    return (
        *(f"{source.seconds:.3f}", source.number, source.file, face.track, *face.box),
        *(face.emotion, f"{emotion:.4f}", face.gender, f"{gender:.4f}"),
        *(f"{probabilities.get(name, 0):.4f}" for name in EMOTIONS + GENDERS),
    )


@contextmanager
def recorder(source, video_path=None, csv_path=None):
    """Yield a function that writes faces and picture of the frame that the source gave last.

    An error, of the block or of the video, goes on once everything else is finished.

    Raises
    ------
    ValueError
        If a path is that of the source, or the name of no video; see also `video_writer`.
    """
    video_path, csv_path = (
        path and Path(os.path.expanduser(path)) for path in (video_path, csv_path)
    )
    for target in (video_path, csv_path):
        if target and source.path and target.exists() and source.path.samefile(target):
            raise ValueError(f"{target} is the source: give what is written another name")
    if video_path and video_path == csv_path:
        raise ValueError(f"{video_path} is to be video and table: give one another name")
    if video_path and video_path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(
            f"{video_path} is no name for a video: expected {' or '.join(VIDEO_SUFFIXES)}"
        )
    rate, failures, unwritten = _writable_rate(source.frames_per_second), [], []
    written, held = 0, ()

    def write(faces, picture):
        nonlocal written, held
        for face in faces:
            write_row(csv_row(source, face))
        # Each picture stays until the next one is due, so the video keeps the source's time.
        due = round(source.seconds * rate)
        write_frames(held * (due - written))
        written, held = max(written, due), (picture,)

    def write_frames(pictures):
        if not unwritten:  # without a video the table still goes on
            with _kept(unwritten):
                for picture in pictures:
                    write_frame(picture)

    # The table ends last: what the video took on a full disk is free again by then.
    with csv_writer(csv_path) as write_row:
        with _kept(failures), video_writer(video_path, rate) as write_frame:
            with _kept(failures):
                yield write
            write_frames(held)
            for error in unwritten:
                raise error
    if failures:
        raise failures[-1]


@contextmanager
def _kept(errors):
    """Keep what is raised in a block for later."""
    try:
        yield
    except Exception as error:
        errors.append(error)


@contextmanager
def csv_writer(path):
    """Yield a function that appends a row. No path, no file."""
    if path is None:
        yield lambda row: None
        return
    with replaced_when_done(path) as partial:
        # Each row goes to the disk at once; names of files need not be text.
        with open(partial, "w", 1, "utf-8", "backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(CSV_COLUMNS)
            yield writer.writerow


@contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends a frame; the first sets the size. No frame, no file.

    Later frames of another size get black borders.

    Raises
    ------
    ValueError
        By that function, if OpenCV cannot write such a video.
    """
    writer = cv2.VideoWriter()
    size = None

    def write(picture):
        nonlocal size
        if path is None:
            return
        if size is None:
            scale = min(1, LARGEST_SIDE / max(picture.shape[:2]))
            size = tuple(max(LEAST_SIDE, round(side * scale)) for side in picture.shape[1::-1])
            partial = stack.enter_context(replaced_when_done(path))
            stack.callback(writer.release)
            codec, rate = cv2.VideoWriter_fourcc(*"mp4v"), _writable_rate(frames_per_second)
            if not writer.open(str(partial), codec, rate, size):
                raise ValueError(
                    f"this OpenCV cannot write {size[0]}x{size[1]} pixels at {rate} frames/s as "
                    f"mp4v video to {path}: there is none, but all the rest"
                )
        writer.write(_fitted(picture, size))

    with ExitStack() as stack:
        yield write


def _writable_rate(frames_per_second):
    """Somewhere above 60, mp4v takes whole rates only."""
    return frames_per_second if frames_per_second <= 60 else round(frames_per_second)


def _fitted(picture, size):
    """A picture in the middle of one of another size (width, height), as large as it can be."""
    if picture.shape[1::-1] == size:
        return picture
    picture = rescale(picture, min(np.divide(size, picture.shape[1::-1])))
    right, below = np.subtract(size, picture.shape[1::-1])
    borders = below // 2, below - below // 2, right // 2, right - right // 2
    return cv2.copyMakeBorder(picture, *map(int, borders), cv2.BORDER_CONSTANT)
