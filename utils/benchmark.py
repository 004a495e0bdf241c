"""How fast the loop is on this machine, beside the report's loop and, where installed, `fer`.

python -m utils.benchmark --help
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from skimage import transform
from tqdm.auto import tqdm

from utils import config
from utils.detection import DETECTORS, HaarDetector, fetch_yunet, open_detector
from utils.display import annotate
from utils.engine import Engine
from utils.faces import RUNTIMES, FaceClassifier
from utils.models import BUILDERS
from utils.sources import open_source
from utils.tracking import FaceTracker, is_inside

WIDTH, HEIGHT = 640, 360
SMALLEST_OF_THE_REPORT = 180
FACE_SIDE = 200  # faces of the report's size, or its loop would not find them
LARGEST_TURN = 60  # degrees


def report_loop():
    """The report's webcam loop, written again: a function that labels one frame.

    Source: course report, "Realtime prediction". The networks have random weights, which take the
    same time. A face at the border, at which the report's loop fails, is left out.
    """
    cascade = HaarDetector(1.03, 10, SMALLEST_OF_THE_REPORT, SMALLEST_OF_THE_REPORT)
    emotion = BUILDERS["final"]((48, 48, 1), 7)
    gender = BUILDERS["final"]((48, 48, 3), 2, dense_units=[256, 128, 64])

    def label(frame):
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        boxes = cascade.detect(frame)
        for left, top, width, height in boxes:
            if min(left, top) < 20:
                continue
            rows, columns = slice(top - 20, top + height + 20), slice(left - 20, left + width + 20)
            for picture, network in ((grey, emotion), (frame, gender)):
                shape = network.input_shape[1:]
                face = transform.resize(picture[rows, columns].astype("float32") / 255, shape)
                network.predict(face[None], verbose=0)
        return boxes

    return label


def engine_loop(classifier, detector):
    """This project's loop without video and csv: a function that labels one frame."""
    engine = Engine(classifier, detector)

    def label(frame):
        faces = engine.label(frame)
        annotate(frame, faces, str(engine.watch))
        return faces

    return label


def fer_loop():
    """The package `fer` with its Haar cascade and TensorFlow Lite, or None: one network."""
    if importlib.util.find_spec("fer") is None:
        return None
    from fer.fer import FER  # not a dependency of this project

    return FER().detect_emotions


def enlarge_faces(frames, side=FACE_SIDE):
    """Cut and scale a clip so that its first face has this side in pixels, at 640 x 360."""
    detector = HaarDetector()
    left, top, width, height = next(box for frame in frames for box in detector.detect(frame))
    scale = side / width
    centre = np.array([left + width / 2, top + height / 2])
    move = np.array([WIDTH / 2, HEIGHT / 2]) - scale * centre
    matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
    return [
        cv2.warpAffine(frame, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        for frame in frames
    ]


def four_faces(frames):
    """Each frame four times in one of 640 x 480."""
    small = [cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA) for frame in frames]
    return [np.tile(frame, (2, 2, 1)) for frame in small]


def turn_head(frame, box, degrees):
    """Bend the head in a picture over an ellipsoid and turn it about its vertical axis.

    A stand-in for a film of somebody who turns: there is no nose that sticks out, and what was not
    in the picture repeats its edge.

    Parameters
    ----------
    frame : numpy.ndarray, uint8, (height, width, 3)
    box : tuple of int
        Left, top, width, height of the face, seen from the front.
    degrees : float
        To the right of the picture.

    Returns
    -------
    turned : numpy.ndarray, uint8, (height, width, 3)
    middle : tuple of float
        Where the middle of the face is now, x and y in pixels.
    """
    left, top, width, height = box
    centre_x, centre_y = left + width / 2, top + height / 2
    radius_x, radius_y = 0.55 * width, 0.75 * height  # the head is larger than the box
    rows, columns = np.indices(frame.shape[:2], dtype=np.float32)
    rim = np.sqrt(np.maximum(1 - ((rows - centre_y) / radius_y) ** 2, 1e-6))
    across = (columns - centre_x) / radius_x / rim  # -1 to 1 from rim to rim of the head
    angle = np.arcsin(np.clip(across, -1, 1)) - np.deg2rad(degrees)
    seen = centre_x + radius_x * rim * np.sin(np.clip(angle, -np.pi / 2, np.pi / 2))
    map_x = np.where(np.abs(across) < 1, seen, columns).astype(np.float32)
    turned = cv2.remap(frame, map_x, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return turned, (centre_x + radius_x * np.sin(np.deg2rad(degrees)), centre_y)


def follow_turning_head(detector, frame, num_frames=200):
    """Turn the head in a frame to both sides, twice, and count the frames that carry its box.

    Parameters
    ----------
    detector : object with ``detect(frame)``
    frame : numpy.ndarray, uint8, (height, width, 3) BGR
        With one face, seen from the front.
    num_frames : int

    Returns
    -------
    followed, alone : float
        Shares of the frames in which a box holds the middle of the face, with the detector and
        following, and with the detector in each frame alone.
    """
    (box,) = HaarDetector().detect(frame)
    tracker = FaceTracker(detector)

    followed, alone = [], []
    for degrees in LARGEST_TURN * np.sin(np.linspace(0, 4 * np.pi, num_frames)):
        turned, middle = turn_head(frame, box, degrees)
        followed.append(is_inside(*middle, [track.box for track in tracker.update(turned)]))
        alone.append(is_inside(*middle, detector.detect(turned)))
    return np.mean(followed), np.mean(alone)


def time_frames(label, frames):
    """Label all frames and time each.

    Returns
    -------
    dict
        frames/s and 95th percentile in ms, both over frames with a face, and the share of frames
        that had one. The first frames, in which everything is set up, do not count.
    """
    label(frames[0])
    label(frames[1])
    times, found = [], []
    for frame in tqdm(frames, leave=False):
        start = time.perf_counter()
        found.append(len(label(frame)))
        times.append(time.perf_counter() - start)
    with_face = np.array(times)[np.array(found) > 0]
    return {
        "frames/s": 1 / with_face.mean() if len(with_face) else np.nan,
        "95th percentile, ms": 1000 * np.quantile(with_face, 0.95) if len(with_face) else np.nan,
        "frames with a face": np.mean(np.array(found) > 0),
        "faces a frame": np.mean(found),
    }


def seconds_to_first_label(clip, detector, runtime):
    """From the start of the program to its first labelled frame, with everything loaded anew."""
    source = str(Path(clip).expanduser().resolve())
    with tempfile.TemporaryDirectory() as folder:
        options = ["--source", source, "--detector", detector, "--runtime", runtime]
        output = ["--no-display", "--max-frames", "1", "--output", str(Path(folder) / "frame.mp4")]
        command = [sys.executable, "-m", "utils.realtime", *options, *output]
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=config.ROOT, capture_output=True)
        return time.perf_counter() - start


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py benchmark",
        description="Times the loop on this machine, beside the course report's.",
    )
    parser.add_argument(
        "--clip", default=config.SAMPLE_CLIP, help="video with one face; default: the sample clip"
    )
    parser.add_argument("--max-frames", type=int, default=300)
    options = parser.parse_args(arguments)
    try:
        with open_source(options.clip) as source:
            frames = [frame for frame, _ in zip(source, range(options.max_frames))]
        if len(frames) < 2:
            raise ValueError(f"{options.clip} has {len(frames)} frame, expected a clip")
        frames = enlarge_faces(frames)
        front = next(frame for frame in frames if len(HaarDetector().detect(frame)) == 1)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except StopIteration:
        print(f"error: no frame with one face in {options.clip}", file=sys.stderr)
        return 1
    rows = {"report's loop": time_frames(report_loop(), frames)}
    fer = fer_loop()
    if fer:
        rows["fer, emotion only"] = time_frames(fer, frames)
    detectors = list(DETECTORS)
    try:
        fetch_yunet()
    except ConnectionError as error:  # the cascade must not be timed under its name
        print(f"{error}; it was not timed")
        detectors.remove("yunet")
    runtimes = []
    clips = {"1 face": frames, "4 faces, 640x480": four_faces(frames)}
    for runtime in RUNTIMES:
        try:
            classifier = FaceClassifier(runtime=runtime)
        except ImportError as error:
            print(f"{error}; it was not timed")
            continue
        runtimes.append(runtime)
        for name in detectors:
            for faces, clip in clips.items():
                label = engine_loop(classifier, open_detector(name))
                rows[f"{runtime}, {name}, {faces}"] = time_frames(label, clip)
    table = pd.DataFrame(rows).T
    print(table.to_string(float_format="{:.2f}".format))
    for name in detectors:
        followed, alone = follow_turning_head(open_detector(name), front)
        print(
            f"a head that is turned {LARGEST_TURN} degrees to both sides has its box in "
            f"{followed:.1%} of the frames, {name} in each frame alone: {alone:.1%}"
        )
    for runtime in runtimes:
        for name in detectors:
            seconds = seconds_to_first_label(options.clip, name, runtime)
            print(f"from start to first labelled frame, {runtime}, {name}: {seconds:.1f} s")
    if not fer:
        print("fer is not installed here, so it was not timed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
