"""What the loop leaves on disk: a video, a table, cut faces; whole however it ends."""

import csv
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from utils.files import check_replaceable, encode_image, free_name, replaced_when_done
from utils.preprocessing import GENDERS, crop_face, prepare_face, rescale
from utils.realtime.webm import LARGEST_SIDE, WebmWriter

LARGEST_SIDES = {".webm": LARGEST_SIDE, ".mp4": 8190}  # of a frame
LEAST_SIDE = 2  # of a frame of mp4v
PICTURES = (".png", ".jpg")  # of a source that is one
MOST_WAITING = 8  # pictures that are not yet written
SECONDS_BETWEEN_FACES = 1.0  # of one track
FACE_COLUMNS = (
    *("seconds", "frame", "file", "track", "left", "top", "width", "height"),
    *("emotion", "emotion_confidence", "gender", "gender_confidence"),
)


def csv_row(source, face):
    """The row of a face in the last frame: `FACE_COLUMNS`, probabilities, age if it is shown."""
    emotion, gender = face.confidences
    probabilities = face.emotion_probabilities | face.gender_probabilities
    return (
        *(f"{source.seconds:.3f}", source.number, source.file, face.track, *face.box),
        *(face.emotion, f"{emotion:.4f}", face.gender, f"{gender:.4f}"),
        *(f"{probability:.4f}" for probability in probabilities.values()),
        *([f"{face.age:.1f}"] if face.show_age else []),
    )


@dataclass
class Recording:
    """What is kept of a source.

    Parameters
    ----------
    left_out : int
        Pictures of a live source that came too fast for the video; the one before stays longer.
    faces : int
        Faces that were cut out.
    """

    left_out: int = 0
    faces: int = 0
    _writers: list = field(default_factory=list)
    _failed: list = field(default_factory=list)

    @property
    def active(self):
        """Whether anything is being written."""
        return len(self._writers) > len(self._failed)

    def write(self, faces, frame, picture):
        """Keep the frame that the source gave last, its faces, and the picture that was shown."""
        # The table last: where Ctrl-C ends the wait for a thread, it has no more than the film.
        for write in reversed(self._writers):
            write(faces, frame, picture)


@contextmanager
def recorder(source, video_path=None, csv_path=None, faces_folder=None, classifier=None):
    """Yield a `Recording`; what has no path is not kept.

    Video and faces are written by threads, so the loop need not wait. A film waits for them, and
    each of its pictures is kept; of a live source those are left out for which there is no time.

    An error, of the block or of a thread, goes on once everything else is finished; if there are
    several, the last with the others as its notes.

    Parameters
    ----------
    source : utils.realtime.sources.FrameSource
    video_path, csv_path, faces_folder : path-like, optional
    classifier : utils.realtime.faces.FaceClassifier, optional
        Needed for a table, whose columns are its classes, and for faces as its emotion network
        sees them.

    Raises
    ------
    ValueError
        If a path is that of the source, or the name of no video or table; see also `video_writer`.
    OSError
        At once if a path cannot be written.
    """
    video_path, csv_path, faces_folder = (
        path and Path(os.path.expanduser(path)) for path in (video_path, csv_path, faces_folder)
    )
    for target in (video_path, csv_path, faces_folder):
        if target and source.path and target.exists() and source.path.samefile(target):
            raise ValueError(f"{target} is the source: give what is written another name")
    suffixes = (*LARGEST_SIDES, *(PICTURES if source.is_picture else ()))
    if video_path and video_path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{video_path} is no name for an annotated copy: expected {' or '.join(suffixes)}"
        )
    if csv_path and csv_path.suffix.lower() != ".csv":
        raise ValueError(f"{csv_path} is no .csv file: give the table another name")
    if faces_folder and faces_folder.exists() and not faces_folder.is_dir():
        raise ValueError(f"{faces_folder} is to be the folder of faces, and is a file: move it")
    table_of_faces = faces_folder and free_name(faces_folder / "faces.csv")
    targets = [path for path in (video_path, csv_path, table_of_faces) if path]
    if len({target.resolve() for target in targets}) < len(targets):
        raise ValueError(f"{csv_path} is to be two files at once: give the table another name")
    for target in targets:
        check_replaceable(target)
    recording, failures = Recording(), []

    def keep_row(faces, frame, picture):
        write_rows(csv_row(source, face) for face in faces)

    def keep_picture(faces, frame, picture):
        recording.left_out += not submit_picture(write_picture, picture, source.seconds)

    saved = {}

    def keep_faces(faces, frame, picture):
        for face in faces:
            due = saved.get(face.track, -np.inf) + SECONDS_BETWEEN_FACES
            if source.seconds >= due and submit_face(save, frame, face, csv_row(source, face)):
                saved[face.track] = source.seconds
                recording.faces += 1
        for track in [x for x, at in saved.items() if source.seconds - at > SECONDS_BETWEEN_FACES]:
            del saved[track]  # a camera's tracks have no end

    # The table ends last: what the video took on a full disk is free again by then.
    with ExitStack() as stack:
        if csv_path:
            stack.enter_context(_kept(failures))
            networks = classifier.emotion, classifier.gender
            names = [f"p_{name}" for x in networks for name in x.contract.class_names]
            columns = (*FACE_COLUMNS, *names, *["age"] * classifier.show_age)
            write_rows = stack.enter_context(csv_writer(csv_path, columns))
            recording._writers.append(keep_row)
        background = partial(_in_background, recording._failed, not source.live)
        if faces_folder:
            stack.enter_context(_kept(failures))
            face_input = classifier.emotion.contract.face_input
            write_kept = stack.enter_context(csv_writer(table_of_faces, FACE_COLUMNS))
            save = partial(_save_face, write_kept, faces_folder, face_input)
            stack.enter_context(_kept(failures))  # the table of those that could be kept
            submit_face = stack.enter_context(background())
            recording._writers.append(keep_faces)
        if video_path:
            stack.enter_context(_kept(failures))
            if video_path.suffix.lower() in PICTURES:
                write_picture = partial(_write_picture, video_path)
            else:
                writer = video_writer(video_path, source.frames_per_second)
                write_picture = stack.enter_context(writer)
            submit_picture = stack.enter_context(background())
            recording._writers.append(keep_picture)
        with _kept(failures):
            yield recording
    if failures:
        for error in failures[:-1]:
            failures[-1].add_note(str(error))
        raise failures[-1]


@contextmanager
def _kept(errors):
    """Keep what is raised in a block for later."""
    try:
        yield
    except Exception as error:
        errors.append(error)


@contextmanager
def _in_background(failed, patient):
    """Yield a function that has calls made by a thread, one after the other.

    It returns whether the call was taken; where it is patient, it waits until there is room. After
    an error no call is made any more; it is raised at the end.
    """
    room, errors = threading.Semaphore(MOST_WAITING), []

    def work(call):
        if not errors:
            with _kept(errors):
                call()
            failed.extend(errors)
        room.release()

    def submit(*call):
        taken = room.acquire(blocking=patient)
        if taken:
            worker.submit(work, partial(*call))
        return taken

    with ThreadPoolExecutor(1, "recording") as worker:
        yield submit
    if errors:
        raise errors[0]


@contextmanager
def csv_writer(path, columns):
    """Yield a function that appends rows; until it is called, there is no file."""
    writer = None
    with ExitStack() as stack:

        def write(rows):
            nonlocal writer
            if writer is None:
                partial_path = stack.enter_context(replaced_when_done(path))
                # Each row goes to the disk at once; names of files need not be text.
                as_text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
                stream = stack.enter_context(open(partial_path, "w", buffering=1, **as_text))
                writer = csv.writer(stream)
                writer.writerow(columns)
            writer.writerows(rows)

        yield write


def _save_face(write_rows, folder, face_input, frame, face, row):
    """Keep a face as it is in the frame, whose name the row gets, and as a network sees it."""
    row = dict(zip(FACE_COLUMNS, row))
    gender = face.gender[0].upper() if face.gender in GENDERS else face.gender
    name = f"{float(row['seconds']):08.3f}s_track{face.track}_{face.emotion}_{gender}"
    crop = crop_face(frame, face.box, face_input)
    seen = prepare_face(crop, face_input)
    if face_input.colour == "rgb":
        seen = cv2.cvtColor(seen, cv2.COLOR_RGB2BGR)
    row["file"] = _write_anew(folder / f"{name}.png", encode_image(crop)).name
    _write_anew(folder / f"{name}_{face_input.width}x{face_input.height}.png", encode_image(seen))
    write_rows([row.values()])


def _write_anew(path, content):
    path = free_name(path)
    with replaced_when_done(path) as partial_path:
        partial_path.write_bytes(content)
    return path


def _write_picture(path, picture, seconds):
    with replaced_when_done(path) as partial_path:
        partial_path.write_bytes(encode_image(picture, path.suffix.lower()))


@contextmanager
def video_writer(path, frames_per_second):
    """Yield a function that appends a frame, uint8 BGR, and the second from which it is seen.

    The first frame gives the size, reduced if no video can have it; others are brought to it, with
    a border where their shape is another one. Without a frame there is no file.

    Parameters
    ----------
    path : pathlib.Path
        ``.webm``, which browsers play, or ``.mp4``, which they do not (MPEG-4 part 2, OpenCV's).
    frames_per_second : float

    Raises
    ------
    ValueError
        If this OpenCV cannot write such a video.
    OSError
        If the disk is full; what was there before is as it was.
    """
    writer, size = None, ()

    def write(picture, seconds):
        nonlocal writer, size
        if writer is None:
            suffix = path.suffix.lower()
            scale = min(1, LARGEST_SIDES[suffix] / max(picture.shape[:2]))
            size = tuple(max(LEAST_SIDE, round(side * scale)) for side in picture.shape[1::-1])
            partial_path = stack.enter_context(replaced_when_done(path))
            open_writer = WebmWriter if suffix == ".webm" else _Mp4Writer
            try:
                writer = open_writer(partial_path, frames_per_second, size)
            except ValueError as error:
                raise ValueError(f"{path} was not written, all else was: {error}") from error
            stack.callback(writer.close)
        writer.write(seconds, _fitted(picture, size))

    with ExitStack() as stack:
        yield write


class _Mp4Writer:
    """As `WebmWriter`, at an even pace: each picture is repeated until the next one is due."""

    def __init__(self, path, frames_per_second, size):
        # Somewhere above 60, mp4v takes whole rates only.
        self._rate = frames_per_second if frames_per_second <= 60 else round(frames_per_second)
        self._count, self._held = 0, None
        self._writer = cv2.VideoWriter()
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        if not self._writer.open(str(path), codec, self._rate, size):
            raise ValueError(
                f"this OpenCV cannot write {size[0]}x{size[1]} pixels at {self._rate} frames/s as "
                "mp4v video; choose a name that ends in .webm"
            )

    def write(self, seconds, picture):
        self._hold_until(round(seconds * self._rate))
        self._held = picture

    def close(self):
        self._hold_until(self._count + 1)
        self._writer.release()

    def _hold_until(self, count):
        for _ in range(self._count, count if self._held is not None else 0):
            self._writer.write(self._held)
        self._count = max(self._count, count)


def _fitted(picture, size):
    """A picture in the middle of one of another size (width, height), as large as it can be."""
    if picture.shape[1::-1] == size:
        return picture
    picture = rescale(picture, min(np.divide(size, picture.shape[1::-1])))
    right, below = np.subtract(size, picture.shape[1::-1])
    borders = below // 2, below - below // 2, right // 2, right - right // 2
    return cv2.copyMakeBorder(picture, *map(int, borders), cv2.BORDER_CONSTANT)
