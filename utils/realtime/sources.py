"""Frames from a camera, a video file, pictures or arrays, all in the same form."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.files import IMAGE_SUFFIXES, read_image

PICTURE_SUFFIXES = (*IMAGE_SUFFIXES, ".bmp")
DEFAULT_FRAMES_PER_SECOND = 25.0
CAMERA_RETRIES = 10
CAMERA_RETRY_SECONDS = 0.1


@dataclass
class FrameSource:
    """Iterates over frames, uint8 (height, width, 3) BGR; leaving its block gives a camera back.

    Parameters
    ----------
    name : str
        For file names and messages.
    frames : iterator
    frames_per_second : float
        What the source claims; 25 where it does not say.
    num_frames : int or None
        None where it is not known.
    live : bool
        Frames come by the clock, as those of a camera do.
    path : pathlib.Path, optional
        Of a file or folder.
    capture : cv2.VideoCapture, optional
        Released at the end of the block.
    stop_reason : str
        Why the frames ended; set when they end.
    skipped : int
        Frames that came while one before them was still worked on.
    film : bool
        Whether a frame goes on from the one before; pictures of a folder do not.
    reader : threading.Thread, optional
        Reads a camera; stopped at the end of the block.
    """

    name: str
    frames: object = ()
    frames_per_second: float = DEFAULT_FRAMES_PER_SECOND
    num_frames: int | None = None
    live: bool = False
    path: Path | None = None
    capture: object = None
    stop_reason: str = ""
    skipped: int = 0
    film: bool = True
    reader: object = None

    def __iter__(self):
        for frame in self.frames:
            yield to_bgr(frame)
        self.stop_reason = self.stop_reason or "end of the frames"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.reader is not None:
            self.reader.stop()
        if self.capture is not None:
            self.capture.release()


def open_source(source):
    """Open whatever gives frames.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    source : int, str, pathlib.Path, numpy.ndarray or list of numpy.ndarray
        Number of a camera (also as a string), a video, a picture, a folder of pictures (sorted by
        name), or frames: uint8, BGR (height, width, 3), BGRA or grey.

    Returns
    -------
    FrameSource

    Raises
    ------
    FileNotFoundError
        If the file or folder does not exist, or the folder has no pictures.
    ValueError
        If the file is neither a picture nor a video that OpenCV reads.
    OSError
        If the camera cannot be opened.
    """
    if isinstance(source, np.ndarray):
        source = [source] if source.ndim < 4 else list(source)
    if isinstance(source, list):
        return FrameSource("frames", iter(source), num_frames=len(source))
    if str(source).isdigit():
        return _open_camera(int(source))
    path = Path(source).expanduser()
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise FileNotFoundError(f"{path} has no pictures ({', '.join(PICTURE_SUFFIXES)})")
        source = FrameSource(
            path.name, path=path, film=False, frames_per_second=1.0, num_frames=len(pictures)
        )
        source.frames = _pictures(source, pictures)
        return source
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: expected the number of a camera, a video, a picture or a "
            "folder of pictures"
        )
    if path.suffix.lower() in PICTURE_SUFFIXES:
        frames = iter([read_image(path)])
        return FrameSource(path.stem, frames, path=path, frames_per_second=1.0, num_frames=1)
    return _open_video(path)


def to_bgr(frame):
    """Bring a frame to uint8 BGR (height, width, 3); grey and BGRA are converted.

    Raises
    ------
    ValueError
        If it is no picture.
    """
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or not frame.size:
        raise ValueError(
            f"a frame has dtype {frame.dtype} and shape {frame.shape}, expected uint8 and "
            "(height, width) or (height, width, channels)"
        )
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    if channels == 3:
        return frame
    if channels not in (1, 4):
        raise ValueError(f"a frame has {channels} channels, expected 1 (grey), 3 (BGR) or 4 (BGRA)")
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)


def _pictures(source, paths):
    unreadable = []
    for path in paths:
        try:
            image = read_image(path)
        except ValueError:
            unreadable.append(path.name)
            continue
        yield image
    if unreadable:
        source.stop_reason = f"end of the pictures; no images: {', '.join(unreadable)}"


def _open_camera(number):
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise OSError(
            f"camera {number} cannot be opened: is one connected, does another program use it, and "
            "may this program use it (system settings)? Try --source 1, or a video file"
        )
    source = FrameSource(
        f"camera_{number}", live=True, capture=capture, frames_per_second=_claimed_rate(capture)
    )
    source.reader = _NewestFrames(source)
    source.frames = source.reader.frames()
    return source


class _NewestFrames(threading.Thread):
    """Reads a camera all the time, so that who asks gets the newest frame and never an old one.

    Cameras queue frames: a loop that is slower than its camera would show the past.
    """

    def __init__(self, source):
        super().__init__(name=source.name, daemon=True)
        self._source = source
        self._arrived = threading.Condition()
        self._frame = None
        self._ended = False
        self._stopping = False

    def run(self):
        try:
            self._read()
        finally:  # whoever waits for a frame must not wait for ever
            with self._arrived:
                self._ended = True
                self._arrived.notify()

    def _read(self):
        failures = 0
        while failures < CAMERA_RETRIES and not self._stopping:
            try:
                success, frame = self._source.capture.read()
            except cv2.error:
                success = False
            if not success:
                failures += 1
                time.sleep(CAMERA_RETRY_SECONDS)
                continue
            failures = 0
            with self._arrived:
                self._source.skipped += self._frame is not None
                self._frame = frame
                self._arrived.notify()

    def frames(self):
        """Yield frames until the camera gives no more."""
        self.start()
        while True:
            with self._arrived:
                # Under Windows Ctrl-C does not end a wait without a limit.
                while not self._arrived.wait_for(
                    lambda: self._frame is not None or self._ended, timeout=0.5
                ):
                    pass
                frame, self._frame = self._frame, None
            if frame is None:
                break
            yield frame
        self._source.stop_reason = (
            f"{self._source.name} gave no frame {CAMERA_RETRIES} times in a row"
        )

    def stop(self):
        """End the thread; a camera must not be released while it is read."""
        self._stopping = True
        if self.is_alive():
            self.join()


def _open_video(path):
    capture = cv2.VideoCapture(str(path))
    success, first = capture.read()
    if not success:
        capture.release()
        raise ValueError(f"{path} is no video that OpenCV can read")
    # Some containers do not know their length and claim 0 or a negative number.
    num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    source = FrameSource(
        path.stem,
        path=path,
        capture=capture,
        frames_per_second=_claimed_rate(capture),
        num_frames=num_frames if num_frames > 0 else None,
    )
    source.frames = _video_frames(source, first)
    return source


def _video_frames(source, frame):
    count = 0
    success = True
    while success:
        count += 1
        yield frame
        success, frame = source.capture.read()
    # Containers only estimate their length: a few frames less are no fault.
    if source.num_frames and count < 0.9 * source.num_frames:
        source.stop_reason = f"the video broke off after {count} of {source.num_frames} frames"


def _claimed_rate(capture):
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 1 <= rate <= 240 else DEFAULT_FRAMES_PER_SECOND
