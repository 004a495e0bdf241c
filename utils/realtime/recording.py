"""What the loop leaves on disk: an annotated video and a table of faces, whole however it ends."""

import csv
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2

from utils.data.prepared import EMOTIONS, GENDERS
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
def recorder(source, video_path=None, csv_path=None):
    """Yield a function that writes second, number, faces and picture of a frame.

    An error in the block goes on after video and csv are finished.

    Raises
    ------
    ValueError
        If a path is that of the source; see also `video_writer`.
    """
    for target in (video_path, csv_path):
        if target and source.path and Path(target).exists() and source.path.samefile(target):
            raise ValueError(f"{target} is the source: give what is written another name")
    written, failure = 0, None
    rate = source.frames_per_second

    def write(seconds, number, faces, picture):
        nonlocal written
        for face in faces:
            write_row(csv_row(seconds, number, face))
        # A camera's frame fills the time since the one before, so the video keeps its speed.
        due = int(seconds * rate) + 1 if source.live else number + 1
        for _ in range(written, due):
            write_frame(picture)
        written = max(written, due)

    with video_writer(video_path, rate) as write_frame, csv_writer(csv_path) as write_row:
        try:
            yield write
        except Exception as error:
            failure = error
    if failure:
        raise failure


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


@contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends a frame; the first sets the size. No frame, no file.

    Raises
    ------
    ValueError
        If the name is not one of mp4v video, or, by that function, if OpenCV cannot write frames of
        this size.
    """
    if path is not None and Path(path).suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is no name for a video: expected {' or '.join(VIDEO_SUFFIXES)}")
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
