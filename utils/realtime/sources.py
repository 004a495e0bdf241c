"""Frames from a camera, a video file, pictures or arrays, all in the same form."""

import mimetypes
import os
import queue
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from utils.files import is_picture, read_image

EXPECTED = "expected the number of a camera, a video, a picture or a folder of pictures"
DEFAULT_FRAMES_PER_SECOND = 25.0
LONGEST_STILL = 60.0  # seconds; a clock that goes further at once, or back, is a wrong one
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
        What the source claims, or more where that is a mean; 25 where it does not say.
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
        Whether a frame goes on from the one before; pictures do not.
    number : int
        Of the frame that was given last; pictures that cannot be read have one, too.
    seconds : float
        When that frame is to be seen, from the first one on.
    file : str
        Name of the file that it is from.
    unreadable : list of str
        Names of pictures that could not be read.
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
    number: int = 0
    seconds: float = 0.0
    file: str = ""
    unreadable: list = field(default_factory=list)

    @property
    def is_picture(self):
        """Whether it is a single picture, and no folder of one or film of one frame."""
        is_folder = self.path is not None and self.path.is_dir()
        return self.num_frames == 1 and self.capture is None and not is_folder

    def __iter__(self):
        for count, frame in enumerate(self.frames):
            self.number = count + len(self.unreadable)
            if self.capture is None:  # what is captured has a clock of its own
                self.seconds = self.number / self.frames_per_second
            yield to_bgr(frame)
        self.stop_reason = self.stop_reason or "end of the frames"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if hasattr(self.frames, "close"):  # a generator, which ends what it began
            self.frames.close()
        if self.capture is not None:
            self.capture.release()


def open_source(source):
    """Open whatever gives frames.

    Taught in notebooks/05_realtime.ipynb.

    Parameters
    ----------
    source : int, str, pathlib.Path, numpy.ndarray or list of numpy.ndarray
        Number of a camera (also as a string), an address, a video, a picture, a folder of pictures
        (sorted by name), or frames: uint8, BGR (height, width, 3), BGRA or grey. What a file is
        stands in it, whatever its suffix.

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
        If the camera or address cannot be opened.
    """
    if isinstance(source, np.ndarray):
        source = [source] if source.ndim < 4 else list(source)
    if isinstance(source, list):
        count = len(source)
        return FrameSource("frames", iter(source), num_frames=count, film=count > 1)
    text = os.path.expanduser(str(source))
    if not text.strip():
        raise ValueError(f"the source is {text!r}: {EXPECTED}")
    # Also a device by its path. Larger numbers are names of folders, and means of access to OpenCV.
    camera = re.fullmatch("([0-9]{1,2})", text) or re.fullmatch(
        "/dev/video([0-9]{1,2})", os.path.realpath(text)
    )
    if camera:
        return _open_camera(int(camera[1]))
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", text):
        return _open_address(text)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        fault = "is no plain file" if path.exists() else "does not exist"
        if text.isdecimal():
            fault += ", and cameras have the numbers 0 to 99"
        raise FileNotFoundError(f"{path} {fault}: {EXPECTED}")
    if is_picture(path):
        frames, facts = iter([read_image(path)]), {"path": path, "file": path.name, "film": False}
        return FrameSource(path.stem, frames, frames_per_second=1.0, num_frames=1, **facts)
    address = str(path.absolute())  # FFmpeg takes "12:30.mp4" for a protocol
    film = _film(path.stem, cv2.VideoCapture(address), address, path)
    film.path, film.file = path, path.name
    return film


def to_bgr(frame):
    """Bring a frame to uint8 BGR (height, width, 3); grey and BGRA are converted.

    Raises
    ------
    ValueError
        If it is no picture.
    """
    frame = np.asarray(frame)
    channels = 1 if frame.ndim == 2 else frame.shape[2] if frame.ndim == 3 else 0
    if frame.dtype != np.uint8 or channels not in (1, 3, 4) or not frame.size:
        raise ValueError(
            f"a frame has dtype {frame.dtype} and shape {frame.shape}, expected uint8 and "
            "(height, width), or (height, width, channels) with 1 (grey), 3 (BGR) or 4 (BGRA)"
        )
    if channels == 3:
        return frame
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)


def _open_folder(path):
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    pictures = [file for file in files if _claims_to_be_picture(file)]
    if not pictures:
        raise FileNotFoundError(
            f"{path} has no pictures, but {len(files)} other files; folders in it are not looked "
            "into: give one that has pictures itself"
        )
    source = FrameSource(
        path.resolve().name or "pictures",  # the root of a disk has no name
        path=path,
        film=False,
        frames_per_second=1.0,
        num_frames=len(pictures),
    )
    source.frames = _pictures(source, pictures, len(files) - len(pictures))
    return source


def _claims_to_be_picture(path):
    """By name or, where that says nothing, by content."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return kind.startswith("image/") or os.access(path, os.R_OK) and is_picture(path)


def _pictures(source, paths, others):
    why = ""
    for path in paths:
        try:
            image = read_image(path)
        except (ValueError, OSError) as error:  # one of them must not cost all the others
            source.unreadable.append(path.name)
            why = why or str(error)
            continue
        source.file = path.name
        yield image
    source.stop_reason = "end of the pictures"
    if source.unreadable:
        names = ", ".join(source.unreadable[:5]) + (" ..." if source.unreadable[5:] else "")
        source.stop_reason += (
            f"; {len(source.unreadable)} of {len(paths)} could not be read: {names} ({why})"
        )
    if others:
        source.stop_reason += f"; other files: {others}"


def _open_camera(number):
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        asks = "macOS asks the first time: allow it and start again. " * (sys.platform == "darwin")
        raise OSError(
            f"camera {number} cannot be opened: is one connected, does another program use it, and "
            f"may this program use it (system settings)? {asks}Try another number, or a video file"
        )
    return _live(f"camera_{number}", capture)


def _open_address(address):
    """A stream, or a video that lies elsewhere."""
    capture = cv2.VideoCapture(address)
    parts = urlsplit(address)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # no password
    if not capture.isOpened():
        raise OSError(
            f"{shown} cannot be opened: does another player show it, and does it need a name and "
            "password (rtsp://name:password@...)?"
        )
    name = parts.hostname or "stream"
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return _film(name, capture, address, shown)
    return _live(name, capture)


def _live(name, capture):
    claimed = capture.get(cv2.CAP_PROP_FPS)
    rate = claimed if 1 <= claimed <= 240 else DEFAULT_FRAMES_PER_SECOND
    source = FrameSource(name, live=True, capture=capture, frames_per_second=rate)
    source.frames = _newest_frames(source)
    return source


def _newest_frames(source):
    """Yield frames of a camera that a thread reads all the time: the newest one, never an old one.

    Cameras queue frames: a loop that is slower than its camera would show the past.
    """
    arrived, stopping, before = queue.Queue(), threading.Event(), None

    def read():
        failures = 0
        try:
            while failures < CAMERA_RETRIES and not stopping.is_set():
                try:
                    success, frame = source.capture.read()
                except cv2.error:
                    success = False
                if not success:
                    failures += 1
                    time.sleep(CAMERA_RETRY_SECONDS)
                    continue
                failures = 0
                with suppress(queue.Empty):
                    arrived.get_nowait()
                    source.skipped += 1
                arrived.put((frame, time.perf_counter()))
        finally:  # whoever waits for a frame must not wait for ever
            arrived.put((None, 0.0))

    reader = threading.Thread(target=read, name=source.name, daemon=True)
    reader.start()
    try:
        while True:
            try:  # under Windows Ctrl-C does not end a wait without a limit
                frame, arrival = arrived.get(timeout=0.5)
            except queue.Empty:
                continue
            if frame is None:
                break
            # A machine that slept has no hours of frames to show.
            source.seconds += min(arrival - (before or arrival), LONGEST_STILL)
            before = arrival
            yield frame
        source.stop_reason = f"{source.name} gave no frame {CAMERA_RETRIES} times in a row"
    finally:  # a camera must not be released while it is read
        stopping.set()
        while reader.is_alive():
            with suppress(KeyboardInterrupt):  # an impatient second one
                reader.join()


def _film(name, capture, address, shown):
    success, first = capture.read()
    if not success:
        capture.release()
        raise ValueError(f"{shown} is no picture, and no video that OpenCV can read")
    claimed, count = (capture.get(x) for x in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
    # Some containers do not know their length, and claim 0 or a negative number.
    known = claimed > 0 and 0 < count < 1e9
    source = FrameSource(
        name,
        capture=capture,
        frames_per_second=_rate_of_film(address, claimed),
        num_frames=int(count) if known else None,
        film=not (known and count == 1),  # some pictures are films to OpenCV
    )
    source.frames = _film_frames(source, first, count / claimed if known else 0)
    return source


def _film_frames(source, frame, length):
    """Yield frames, each with its time; where the film does not say it, at an even pace."""
    success, first, usual = True, _seconds(source.capture), 1 / source.frames_per_second
    while success:
        yield frame
        success, frame = source.capture.read()
        now, even = _seconds(source.capture) - first, source.seconds + usual
        if now - source.seconds >= LONGEST_STILL:  # left out, also of all times that follow
            first, now = first + now - even, even
        source.seconds = now if 0.001 < now - source.seconds < LONGEST_STILL else even
    # Containers only estimate their length: a little less is no fault.
    if source.seconds < 0.9 * length - usual:
        source.stop_reason = (
            f"the video broke off after {source.seconds:.1f} of {length:.1f} seconds"
        )


def _rate_of_film(address, claimed):
    """Frames a second where they are dense.

    Some containers claim the mean of a changing pace, at which a video would lose dense frames, and
    some their clock's rate.
    """
    if DEFAULT_FRAMES_PER_SECOND <= claimed <= 240:
        return claimed
    capture = cv2.VideoCapture(address)
    steps = np.diff([_seconds(capture) for _ in range(100) if capture.grab()])
    capture.release()
    plausible = 0 < claimed <= 240
    rate = claimed if plausible else DEFAULT_FRAMES_PER_SECOND
    if (steps > 0).any():
        dense = 1 / np.quantile(steps[steps > 0], 0.25)
        rate = rate if plausible and dense < 1.5 * rate else dense
    return float(np.clip(rate, 1, 240))


def _seconds(capture):
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
