"""How fast the loop is on this machine, beside the report's loop.

python -m commands.benchmark --help
"""

import argparse
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
from utils.models import BUILDERS
from utils.networks.storage import load_network
from utils.preprocessing import FaceInput, crop_face
from utils.realtime.detection import DETECTORS, HaarDetector, fetch_yunet, open_detector
from utils.realtime.display import annotate
from utils.realtime.engine import Engine
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL, FaceClassifier
from utils.realtime.sources import open_source

WIDTH, HEIGHT, CROWD_HEIGHT = 640, 360, 480
SMALLEST_OF_THE_REPORT = 180
FACE_SIDE = 200  # faces of the report's size, or its loop would not find them


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


def _first_face(detector, frames):
    box = next((box for frame in frames for box in detector.detect(frame)), None)
    if box is None:
        raise ValueError("no face in any of these frames")
    return box


def enlarge_faces(frames, side=FACE_SIDE):
    """Cut and scale a clip so that its first face has this side in pixels, at 640 x 360."""
    left, top, width, height = _first_face(HaarDetector(), frames)
    scale = side / width
    centre = np.array([left + width / 2, top + height / 2])
    move = np.array([WIDTH / 2, HEIGHT / 2]) - scale * centre
    matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
    return [
        cv2.warpAffine(frame, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        for frame in frames
    ]


def crowd(frames, columns, rows):
    """The face of clips of `enlarge_faces` at as many places of 640 x 480 pixels, in four sizes."""
    width, height = WIDTH // columns, CROWD_HEIGHT // rows
    detector, wider, crops = HaarDetector(), FaceInput(48, 48, "rgb", crop_scale=1.3), []
    box = _first_face(detector, frames)
    for frame in frames:
        box = next(iter(detector.detect(frame)), box)
        crops.append(crop_face(frame, box, wider))
    pictures = [np.full((CROWD_HEIGHT, WIDTH, 3), 127, np.uint8) for _ in frames]
    for place in range(columns * rows):
        side = round((0.7 + 0.1 * (place % 4)) * min(width, height))
        top, left = height * (place // columns), width * (place % columns)
        for picture, crop in zip(pictures, crops):
            picture[top : top + side, left : left + side] = cv2.resize(crop, (side, side))
    return pictures


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


def seconds_to_first_label(clip, detector):
    """From the start of the program to its first labelled frame, with everything loaded anew."""
    path = Path(clip).expanduser()
    source = str(path.resolve() if path.exists() else clip)  # a camera has no path
    with tempfile.TemporaryDirectory() as folder:
        options = ["--source", source, "--detector", detector]
        output = ["--no-display", "--max-frames", "1", "--output", str(Path(folder) / "frame.mp4")]
        command = [sys.executable, "-m", "commands.run", *options, *output]
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
        "--clip", default=config.SAMPLE_CLIP, help="video with a face; default: the sample clip"
    )
    parser.add_argument("--max-frames", type=int, default=300)
    options = parser.parse_args(arguments)
    if options.max_frames < 2:
        parser.error(f"--max-frames is {options.max_frames}, expected at least 2")
    try:
        with open_source(options.clip) as source:
            frames = [frame for frame, _ in zip(source, range(options.max_frames))]
        if len(frames) < 2:
            raise ValueError(f"{options.clip} has {len(frames)} frame, expected a clip")
        frames = enlarge_faces(frames)
        rows = {"report's loop": time_frames(report_loop(), frames)}
        clips = {f"{n * m} faces, 640x480": crowd(frames, n, m) for n, m in ((2, 2), (6, 5))}
        ours = time_engines({"1 face": frames, **clips})
        for (runtime, detector, faces), row in ours.items():
            rows[f"{runtime}, {detector}, {faces}"] = row
        print(pd.DataFrame(rows).T.to_string(float_format="{:.2f}".format))
        for detector in dict.fromkeys(detector for _, detector, _ in ours):
            seconds = seconds_to_first_label(options.clip, detector)
            print(f"from start to first labelled frame, {detector}: {seconds:.1f} s")
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def time_engines(clips):
    """Time our loop with each detector that is here, its networks run by LiteRT and by Keras.

    Parameters
    ----------
    clips : dict of str to list of numpy.ndarray

    Returns
    -------
    dict
        (runtime, detector, key of the clip) to what `time_frames` says.
    """
    detectors = list(DETECTORS)
    try:
        fetch_yunet()
    except ConnectionError as error:  # the cascade must not be timed under its name
        print(f"{error}; it was not timed")
        detectors.remove("yunet")
    rows = {}
    names = DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL
    with_keras = [load_network(name, with_age=True) for name in names]
    for runtime, networks in (("litert", names), ("keras", with_keras)):
        classifier = FaceClassifier(*networks)
        for detector in detectors:
            for faces, clip in clips.items():
                label = engine_loop(classifier, open_detector(detector))
                rows[runtime, detector, faces] = time_frames(label, clip)
    return rows


if __name__ == "__main__":
    sys.exit(main())
