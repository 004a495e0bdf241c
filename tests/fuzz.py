"""Damages inputs in thousands of ways: nothing may vanish, whatever happens.

    python tests/fuzz.py --seed 7 --attempts 6000

Each attempt must end in one of two ways: all that was found is accounted for, or a sentence names
the file. Anything else stops with a traceback, after the seed and number that repeat the attempt.
"""

import argparse
import contextlib
import functools
import gzip
import io
import lzma
import os
import random
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from submissions import make_run

from commands.checks import check, questions, read_references
from commands.records import read_run
from utils.data.fer import prepare_fer
from utils.data.prepared import read_prepared
from utils.data.utk import prepare_utk
from utils.preprocessing import EMOTIONS
from utils.realtime.sources import open_source

ODD_NAMES = ("NA", "顔 ü", "#")
if sys.platform == "linux":  # others have no file of any bytes but these
    ODD_NAMES += (" ", "Icon\r", "a\nb", 'a,"b"', "a\\nb", "\udcff.jpg", "x" * 200)
SOMETHING = (b"\0", b"\xff", b'"', b",", b"\n", b"\r", b" ", b"-", b"9999999999999999999999")
NOISE = [np.random.default_rng(n).integers(0, 256, (48, 48), dtype=np.uint8) for n in range(21)]
PICTURES = [
    cv2.imencode(suffix, image)[1].tobytes()
    for image in NOISE
    for suffix in (".jpg", ".png", ".webp")
]
ROWS = [
    f"{number % 7},{' '.join(map(str, image.ravel()))},{usage}"
    for number, image in enumerate(NOISE)
    for usage in (("Training", "PublicTest", "PrivateTest")[number // 7],)
]


def damaged(chance, content):
    """Change one to four places of `content`."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        length = chance.choice((1, 2, 9, 100, 3000))
        what = chance.randrange(5)
        if what == 0:
            content[at : at + 1] = chance.choice(SOMETHING)
        elif what == 1:
            del content[at : at + length]
        elif what == 2:
            content[at:at] = content[at - length : at] or chance.randbytes(length)
        elif what == 3 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        elif what == 4:
            del content[max(at, len(content) - 10 * length) :]
    return bytes(content)


def prepares(prepare, source, expected):
    """A function that prepares raw data and counts: on disk, in memory, and as it is read back."""

    def use():
        folder = source.parent / "prepared"
        prepared = prepare(source=source, destination=folder)
        used, left_out = prepared.labels, prepared.left_out
        assert len(used) + len(left_out) == prepared.found == expected
        again = read_prepared(folder)
        pd.testing.assert_frame_equal(again.labels.astype(str), used.astype(str))
        pd.testing.assert_frame_equal(again.left_out.astype(str), left_out.astype(str))
        on_disk = sum(path.is_file() for path in folder.glob("*/*/*"))
        assert on_disk == len(used) == used["file"].nunique()

    return source, use


def fer_csv(chance, folder):
    """fer2013.csv, damaged, plain or packed; its rows are its lines."""
    text = damaged(chance, "\n".join(["emotion,pixels,Usage", *ROWS, ""]).encode())
    if chance.random() < 0.3:  # whole, and what it is packed in may be damaged
        text = "\n".join(["emotion,pixels,Usage", *ROWS]).encode()
    lines = re.split(r"\r\n|\r|\n", text.decode("utf-8-sig", errors="replace"))
    expected = len(lines) - (not lines[-1]) - 1

    def zipped():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013.csv", text)
        return stream.getvalue()

    packed = {
        "fer2013.csv": lambda: text,
        "fer2013.csv.gz": lambda: gzip.compress(text, 1),
        "fer2013.csv.xz": lambda: lzma.compress(text, preset=0),
        "fer2013.zip": zipped,
        "fer2013.tar.gz": lambda: tar_of([("fer2013/fer2013.csv", text)], "w:gz"),
    }
    name = chance.choice(list(packed))
    content = packed[name]()
    if name != "fer2013.csv" and chance.random() < 0.5:
        content = damaged(chance, content)
    (folder / name).write_bytes(content)
    return prepares(prepare_fer, folder / name, expected)


def tar_of(members, mode="w"):
    """A tar of (name, content), or of (name, type of a member that is no file)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) > 1:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, members[0][0]
                archive.addfile(member)
    return stream.getvalue()


def faces(chance):
    """Names and contents of UTKFace, some of them damaged, twice there or of another name."""
    files = []
    for number, content in enumerate(chance.sample(PICTURES, 24)):
        files.append((f"{20 + number}_{number % 2}_0_201701161745251{number:02}.jpg", content))
    for _ in range(chance.randrange(6)):
        name, content = chance.choice(files)
        names = [name, *ODD_NAMES]
        if sys.platform == "linux":
            names.append(os.fsdecode(damaged(chance, os.fsencode(name))))
        name = re.sub(r"[\0/]", "_", chance.choice(names))[:200]
        if name not in (".", "..", ""):
            files.append((name, chance.choice((content, damaged(chance, content) + b"..", b"..."))))
    return files


def utk_tar(chance, folder):
    """UTKFace.tar with members of all kinds, damaged or whole."""
    kinds = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    others = [(f"odd{n}.jpg", chance.choice(kinds)) for n in range(chance.randrange(4))]
    members = faces(chance) + others
    content = tar_of(members, chance.choice(("w", "w:gz")))
    if chance.random() < 0.6:
        content = damaged(chance, content)
    source = folder / "UTKFace.tar"
    source.write_bytes(content)
    return prepares(prepare_utk, source, sum(kind != tarfile.DIRTYPE for _, kind in members))


def write_odd(chance, folder, outside):
    """Add links, pipes and empty folders to a folder; return how many of them are to be counted."""
    if os.name == "nt":
        return 0
    counted = 0
    for number in range(chance.randrange(5)):
        path, what = folder / f"odd{number}", chance.randrange(5)
        if what == 0:
            path.symlink_to(chance.choice(("nowhere", path.name, folder, "/", folder.parent)))
        elif what == 1:
            os.mkfifo(path)
        elif what == 2:
            path.symlink_to(next(p for p in folder.iterdir() if p.is_file()))
        elif what == 3:  # a folder elsewhere, with a picture and a way back
            elsewhere = outside / f"elsewhere{number}"
            elsewhere.mkdir()
            (elsewhere / "1_1_1_20170116174525125.jpg").write_bytes(chance.choice(PICTURES))
            (elsewhere / "back").symlink_to(folder)
            path.symlink_to(elsewhere)
            counted += 1
        else:
            path.mkdir()
            counted -= 1
        counted += 1
    return counted


def utk_folder(chance, folder):
    """UTKFace/ with odd names, links, pipes."""
    source = folder / "UTKFace"
    source.mkdir()
    files = dict(faces(chance))
    for name, content in files.items():
        (source / name).write_bytes(content)
    return prepares(prepare_utk, source, len(files) + write_odd(chance, source, folder))


def fer_folder(chance, folder):
    """fer2013/ with two or three splits, other names of classes, damaged pictures, odd files."""
    source, number = folder / "fer2013", 0
    splits = chance.choice((("train", "valid", "test"), ("train", "test"), ("Train", "validation")))
    classes = chance.choice((EMOTIONS, ("anger", "happiness", "bored"), ("sad", "Surprised")))
    for split in splits:
        for name in classes:
            (source / split / name).mkdir(parents=True)
            for n in range(2):
                content = chance.choice(PICTURES)
                if chance.random() < 0.1:
                    content = damaged(chance, content)
                (source / split / name / f"{n}.jpg").write_bytes(content)
                number += 1
    for name in set(chance.choices(ODD_NAMES, k=3)):
        (chance.choice((source, source / splits[0] / classes[0])) / name).write_bytes(b"...")
        number += 1
    number += write_odd(chance, source / splits[0] / classes[0], folder)
    return prepares(prepare_fer, source, number)


@functools.cache
def whole_film():
    """Bytes of a film of noise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 48))
        for image in NOISE:
            writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
        writer.release()
        return path.read_bytes()


def film(chance, folder):
    """A film, whole or damaged: its frames come in the order of time, and it says how it ended."""
    source = folder / "film.mp4"
    source.write_bytes(damaged(chance, whole_film()) if chance.random() < 0.9 else whole_film())

    def use():
        with open_source(source) as opened:
            moments = [opened.seconds for _ in opened]
            assert moments and moments == sorted(moments) and opened.stop_reason

    return source, use


def run_folder(chance, folder):
    """A run of which one file is damaged: read as a whole, or a sentence names that file."""
    files = small_run()
    name = chance.choice(list(files))
    (folder / "run").mkdir()
    for each, content in files.items():
        (folder / "run" / each).write_bytes(damaged(chance, content) if each == name else content)

    def use():
        record = read_run(folder / "run")
        assert record.test["n"] and np.isfinite(record.test["accuracy"])
        check(record, read_references()), questions(record)

    return folder / "run" / name, use


@functools.cache
def small_run():
    return make_run(0, num_images=30)


KINDS = (fer_csv, fer_folder, utk_folder, utk_tar, film, run_folder)


def attempt(seed, number, folder):
    """Make an input and use it; return its kind and the way it ended.

    A kind is a function that writes something into a folder and returns its path and a function
    that uses it, which returns when all is accounted for, or raises a ValueError.
    """
    chance = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    source, use = kind(chance, folder)
    try:
        use()
    except ValueError as error:
        assert source.name in str(error), f"the sentence names no file: {error}"
        assert not (folder / "prepared").exists()
        return kind.__name__, "sentences"
    finally:
        assert not list(folder.rglob("partial-*"))
    return kind.__name__, "accounted for"


def fuzz(seed, attempts, folder):
    """Try so often; return how many attempts of each kind ended in which way."""
    ends = Counter()
    for number in range(attempts):
        place = folder / f"seed {seed} number {number}"
        place.mkdir()
        with contextlib.ExitStack() as stack:
            stack.callback(print, f"failed: seed {seed}, number {number}", flush=True)
            ends[attempt(seed, number, place)] += 1
            stack.pop_all()
        shutil.rmtree(place)
    return ends


def main():
    """Fuzz as often as the command line says, and print the table of ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempts", type=int, default=600)
    options = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # hundreds of progress bars
            ends = fuzz(options.seed, options.attempts, Path(folder))
    table = pd.Series(ends).unstack(fill_value=0)
    table.insert(0, "tried", table.sum(axis="columns"))
    table.loc["all"] = table.sum()
    print(f"seed {options.seed}\n{table}\ntracebacks 0, silent losses 0")


if __name__ == "__main__":
    main()
