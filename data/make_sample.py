"""Make the sample data of this project: drawn faces, and a clip with a real one.

    python data/make_sample.py [FOLDER]

Writes ``raw/fer2013.csv`` with votes on its rows, ``raw/UTKFace/`` and ``clip.mp4`` to FOLDER
(default: data/sample), the same bytes each time. The faces are drawn here, so they belong to
nobody; the clip moves over the public-domain photograph of the astronaut Eileen Collins (NASA)
that comes with scikit-image.
"""

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data as skimage_data

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER_COUNTS = {"Training": 5, "PublicTest": 2, "PrivateTest": 2}  # images of each emotion
# Columns of FER+; the first seven are the emotions in FER-2013's order.
VOTES = (
    "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt",
    "unknown", "NF",
)  # fmt: skip
UTK_COUNT = 28  # images of each gender
CANVAS = 200  # side of a drawn face in pixels

# How a drawn face shows an emotion: mouth corners up (positive) or down, mouth open, inner end of
# the brows up (positive) or down, brows raised, eyes open, nose wrinkled.
EXPRESSIONS = {
    "angry": (-12, 0, -10, -6, 7, 0),
    "disgust": (-10, 5, -6, -3, 5, 1),
    "fear": (-8, 10, 9, 8, 13, 0),
    "happy": (18, 8, 2, 3, 7, 0),
    "sad": (-16, 0, 9, 0, 6, 0),
    "surprise": (0, 18, 2, 14, 14, 0),
    "neutral": (0, 0, 0, 0, 9, 0),
}


def draw_face(random, emotion, gender):
    """Draw one face: uint8, (200, 200, 3), BGR."""
    smile, mouth_open, brow_slope, brow_raise, eye_open, wrinkles = EXPRESSIONS[emotion]
    skin = np.array([150, 180, 220]) * random.uniform(0.45, 1.0)
    hair = np.array([40, 50, 70]) * random.uniform(0.3, 2.5)
    dark = skin * 0.35
    image = np.empty((CANVAS, CANVAS, 3), dtype=np.uint8)
    image[:] = random.integers(40, 200, 3)
    centre_x, centre_y = (int(v) for v in 100 + random.integers(-6, 7, 2))
    width, height = int(random.integers(60, 70)), int(random.integers(80, 90))

    if gender == "female":
        cv2.ellipse(image, (centre_x, centre_y + 5), (width + 22, height + 18), 0, 0, 360, hair, -1)
    cv2.ellipse(image, (centre_x, centre_y), (width, height), 0, 0, 360, skin, -1)
    cv2.ellipse(image, (centre_x, centre_y - 42), (width - 2, height - 42), 0, 180, 360, hair, -1)
    if gender == "male" and random.random() < 0.6:
        cv2.ellipse(
            image, (centre_x, centre_y + 34), (width - 14, height - 40), 0, 0, 180, hair, -1
        )

    for side in (-1, 1):
        eye = (centre_x + side * 27, centre_y - 14)
        cv2.ellipse(image, eye, (13, eye_open), 0, 0, 360, (245, 245, 245), -1)
        cv2.circle(image, eye, min(6, eye_open), (30, 30, 30), -1)
        inner = (centre_x + side * 13, eye[1] - 18 - brow_raise - brow_slope)
        outer = (centre_x + side * 42, eye[1] - 18 - brow_raise)
        cv2.line(image, inner, outer, dark, 5 if gender == "male" else 3)
    cv2.line(image, (centre_x, centre_y - 8), (centre_x - 5, centre_y + 16), dark, 2)
    for line in range(3 * wrinkles):
        top = centre_y - 12 + 6 * line
        cv2.line(image, (centre_x - 9, top), (centre_x + 9, top), dark, 2)

    across = np.linspace(-1, 1, 21)
    bend = smile * (1 - across**2) - smile / 2
    lips = [
        np.stack([centre_x + 30 * across, centre_y + 42 + bend + gap * (1 - across**2)], axis=1)
        for gap in (-mouth_open, mouth_open)
    ]
    mouth = np.concatenate([lips[0], lips[1][::-1]]).round().astype(np.int32)
    colour = (60, 60, 190) if gender == "female" else (60, 70, 120)
    cv2.fillPoly(image, [mouth], (40, 30, 60))
    cv2.polylines(image, [mouth], True, colour, 4)

    light = np.linspace(random.uniform(0.7, 1.1), random.uniform(0.7, 1.1), CANVAS)[None, :, None]
    noise = random.normal(0, 4, image.shape)
    return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def write_fer(path):
    """Write a csv in the form of fer2013.csv, with a blank image, a copy and a broken row."""
    random = np.random.default_rng(2013)
    rows = []
    for usage, count in FER_COUNTS.items():
        for _ in range(count):
            for label, emotion in enumerate(EMOTIONS):
                face = draw_face(random, emotion, random.choice(["female", "male"]))
                face = cv2.resize(
                    cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), (48, 48), interpolation=cv2.INTER_AREA
                )
                rows.append((label, " ".join(map(str, face.ravel())), usage))
    rows.append((6, " ".join(["0"] * 48 * 48), "Training"))
    rows.append((rows[0][0], rows[0][1], "PrivateTest"))
    rows.append((3, "255 255 255", "Training"))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("emotion", "pixels", "Usage"))
        writer.writerows(rows)
    return rows


def write_votes(path, rows):
    """Write invented votes on the rows of `write_fer` in the form of FER+: most for the label."""
    random = np.random.default_rng(2016)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("Usage", *VOTES))
        for label, _, usage in rows:
            for_label = random.integers(5, 11)
            votes = np.bincount(random.integers(0, 10, 10 - for_label), minlength=len(VOTES))
            votes[label] += for_label
            writer.writerow((usage, *votes))


def write_utk(folder):
    """Write pictures in the form of UTKFace, with the odd names that its copies are known for."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2017)
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 75]
    for number in range(2 * UTK_COUNT):
        gender = number % 2
        face = draw_face(random, random.choice(["happy", "neutral"]), ("male", "female")[gender])
        date = f"20170101{number:09d}"
        tail = {4: " .jpg.chip.jpg", 5: "jpg.chip.jpg"}.get(number, ".jpg.chip.jpg")
        name = f"{random.integers(1, 91)}_{gender}_{random.integers(0, 5)}_{date}{tail}"
        content = cv2.imencode(".jpg", face, jpeg)[1].tobytes()
        (folder / name).write_bytes(content)
        if number == 0:
            (folder / f"30_0_1_2017020200000000{number}.jpg.chip.jpg").write_bytes(content)
    for name in (
        "39_1_20170116000000001.jpg.chip.jpg",
        "53__0_20170116000000002.jpg.chip.jpg",
        "61_3_1_20170116000000003.jpg.chip.jpg",
    ):
        (folder / name).write_bytes(content)
    (folder / "20_1_0_20170116000000004.jpg.chip.jpg").write_bytes(content[: len(content) // 2])


def write_clip(path, frames=60, size=(640, 360)):
    """Pan and zoom over the astronaut's photograph while the light changes."""
    photograph = cv2.cvtColor(skimage_data.astronaut(), cv2.COLOR_RGB2BGR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, size)
    if not writer.isOpened():
        raise OSError(f"OpenCV could not open {path} for writing mp4v video")
    for progress in np.linspace(0, 2 * np.pi, frames):
        width = 400 - 110 * np.sin(progress / 2)
        height = width * size[1] / size[0]
        left = 224 + 45 * np.sin(progress) - width / 2
        top = max(0, 118 + 12 * np.cos(progress) - height / 2)
        scale = size[0] / width
        view = np.float32([[scale, 0, -scale * left], [0, scale, -scale * top]])
        frame = cv2.warpAffine(photograph, view, size, borderMode=cv2.BORDER_REPLICATE)
        light = 1 + 0.25 * np.sin(2 * progress)
        writer.write(cv2.convertScaleAbs(frame, alpha=light))
    writer.release()


def make_sample(folder):
    """Write all sample data below `folder`."""
    raw = Path(folder) / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rows = write_fer(raw / "fer2013.csv")
    write_votes(raw / "ferplus_votes.csv", rows)
    write_utk(raw / "UTKFace")
    write_clip(Path(folder) / "clip.mp4")


if __name__ == "__main__":
    make_sample(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "sample")
