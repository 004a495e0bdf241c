import errno
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from utils import config, files
from utils.files import (
    MAX_PIXELS,
    decode_image,
    encode_image,
    is_picture,
    read_image,
    read_json,
    read_table,
    refuse_damaged,
    replaced_when_done,
    write_json,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, {"run": 1})
    with pytest.raises(KeyboardInterrupt):
        with replaced_when_done(path) as partial:
            partial.write_text("half a")
            raise KeyboardInterrupt
    assert read_json(path) == {"run": 1} and names_in(tmp_path) == ["table.json"]
    write_json(path, {"run": 2})
    assert read_json(path) == {"run": 2}


WRITE_AND_WAIT = """
import sys, time
from utils.files import replaced_when_done
with replaced_when_done(sys.argv[1]) as partial:
    partial.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_WAIT, tmp_path / "camera_0.mp4"]
    with subprocess.Popen(command, cwd=config.ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        write_json(tmp_path / "other.json", {})
        assert len(names_in(tmp_path)) == 2, "it is still being written"
        process.kill()
        process.wait()
        write_json(tmp_path / "other.json", {})
        assert names_in(tmp_path) == ["other.json"]


def test_who_writes_the_same_file_at_the_same_time_has_a_name_of_its_own(tmp_path):
    path = tmp_path / ("ü" * 100 + ".txt")
    with replaced_when_done(path) as first:
        with replaced_when_done(path) as second:
            first.write_text("aaaa")
            second.write_text("bbbb")
        assert path.read_text() == "bbbb"
    assert path.read_text() == "aaaa" and names_in(tmp_path) == [path.name]


def test_a_file_that_is_open_elsewhere_is_said_to_be(tmp_path, monkeypatch):
    replace, path = os.replace, tmp_path / "table.csv"

    def locked(source, target):
        if target == path:
            raise PermissionError("used by another process")
        replace(source, target)

    path.write_text("old")
    monkeypatch.setattr("os.replace", locked)
    monkeypatch.setattr(files, "PATIENCE", (0, 0))
    with pytest.raises(PermissionError, match=r"table\.csv could not be replaced.*table_2\.csv"):
        with replaced_when_done(path) as partial:
            partial.write_text("whole")
    write_json(tmp_path / "other.json", {})
    assert path.read_text() == "old" and (tmp_path / "table_2.csv").read_text() == "whole"


def test_a_table_that_excel_has_open_is_said_to_be_before_the_work(tmp_path, monkeypatch):
    def denied(self, *_):
        raise PermissionError("used by another process")

    (tmp_path / "table.csv").touch()
    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr(files, "PATIENCE", (0, 0))
    with pytest.raises(PermissionError, match=r"table\.csv cannot be written .*close it there"):
        with replaced_when_done(tmp_path / "table.csv"):
            pytest.fail("the block must not run")


def test_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    replace, attempts = os.replace, []

    def scanned(source, target):
        attempts.append(target)
        if len(attempts) < num_attempts:
            raise PermissionError("used by another process")
        replace(source, target)

    monkeypatch.setattr("os.replace", scanned)
    monkeypatch.setattr(files, "PATIENCE", (0, 0))
    for num_attempts in (3, 5):
        attempts.clear()
        write_json(tmp_path / f"{num_attempts}.json", {})
    assert names_in(tmp_path) == ["3.json", "5.json"]


def test_a_folder_is_replaced_only_if_it_is_known_as_ours(tmp_path):
    folder = tmp_path / "results"
    with replaced_when_done(folder) as partial:
        partial.mkdir()
        (partial / "mine").touch()
    for marker in (None, "ours.json"):
        with pytest.raises(ValueError, match="is a folder that is there already"):
            with replaced_when_done(folder, marker):
                pytest.fail("the block must not run")
    assert names_in(folder) == ["mine"]
    with replaced_when_done(folder, "mine") as partial:
        partial.mkdir()
        assert names_in(folder) == ["mine"], "it stays until the other is whole"
    assert names_in(folder) == [] and names_in(tmp_path) == ["results"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_only_plain_files_are_replaced_and_links_lead_on(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to_null").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", "/dev/null", tmp_path / "loop", tmp_path / "to_null"):
        with pytest.raises(ValueError, match=f"{path} is a pipe, a device or a link to itself"):
            write_json(path, {})
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.json").symlink_to("elsewhere/new.json")
    for content in ({"run": 1}, {"run": 2}):
        write_json(tmp_path / "link.json", content)
        assert read_json(tmp_path / "elsewhere" / "new.json") == content
    assert (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize("told", [True, False])
def test_a_full_disk_leaves_the_old_file_whether_the_writer_tells_it_or_not(
    tmp_path, monkeypatch, told
):
    path = tmp_path / "video.mp4"
    path.write_text("old")

    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space.*video\.mp4 was not written.*make room"):
        with replaced_when_done(path) as partial:
            partial.write_text("half of a vi")
            monkeypatch.setattr("pathlib.Path.write_bytes", full)
            if told:
                partial.write_bytes(b"deo")
    assert path.read_text() == "old" and names_in(tmp_path) == ["video.mp4"]


@pytest.mark.parametrize(
    "read",
    [
        lambda path: gzip.open(path).read(),
        lambda path: lzma.open(path).read(),
        lambda path: tarfile.open(path),
        lambda path: zipfile.ZipFile(path),
    ],
)
@pytest.mark.parametrize("content", [b"no archive", gzip.compress(b"faces" * 99, mtime=0)[:-9]])
def test_damaged_archives_are_refused_in_one_way(tmp_path, read, content):
    path = tmp_path / "faces.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"faces\.zip cannot be read"):
        with refuse_damaged(path):
            read(path)


@pytest.mark.parametrize("read", [read_json, read_table])
@pytest.mark.parametrize(
    "damage", [lambda x: b"", lambda x: x[: len(x) // 2], lambda x: b"\xff\0["]
)
def test_each_reader_names_the_file_and_what_to_do(tmp_path, read, damage):
    path = tmp_path / "content"
    if read is read_table:  # half a table is a shorter one: its reader must know how long it is
        path.write_bytes(b'a,"b\n1\n2')
    else:
        write_json(path, {"a": [1, 2, 3]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="content cannot be read.*; delete it and train again"):
        read(path, "delete it and train again")


def test_readers_say_what_is_missing(tmp_path):
    path = tmp_path / "content"
    write_json(path, {"a": 1})
    assert read_json(path, keys=["a"]) == {"a": 1}
    with pytest.raises(ValueError, match="content lacks b, c: .*; get it again"):
        read_json(path, keys=["a", "b", "c"])
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="content cannot be read"):
        read_json(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="content holds a list, expected"):
        read_json(path)
    path.write_text("a,b\n1,2\n")
    assert read_table(path, columns=["b"])["b"].tolist() == [2]
    with pytest.raises(ValueError, match="content lacks c"):
        read_table(path, columns=["c"])
    with pytest.raises(FileNotFoundError, match="absent"):
        read_json(tmp_path / "absent.json")


def test_png_is_lossless_under_any_name(tmp_path):
    image = noise(48, 48)
    path = tmp_path / "gesicht_ü_顔.dat"
    path.write_bytes(encode_image(image))
    np.testing.assert_array_equal(read_image(path), image)
    assert is_picture(path) and not is_picture(config.SAMPLE_CLIP)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_bytes(kind, image=None, **settings):
    stream = io.BytesIO()
    smooth = cv2.GaussianBlur(noise(60, 90), (9, 9), 3)
    (image or Image.fromarray(smooth)).save(stream, format=kind, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("flags", [cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE])
def test_pictures_come_upright(kind, flags):
    image = Image.new("RGB", (40, 60))
    image.paste((255, 255, 255), (0, 0, 40, 20))  # as it is seen: white above
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to the right"
    stored = image.transpose(Image.Transpose.ROTATE_90)
    decoded = decode_image(as_bytes(kind, stored, exif=exif), flags)
    assert decoded.shape[:2] == (60, 40)
    assert decoded[:18].min() > 200 and decoded[22:].max() < 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_cut_pictures_are_no_whole_ones_and_what_follows_a_whole_one_does_no_harm(kind):
    encoded = as_bytes(kind)
    whole = decode_image(encoded)
    for share in (0.6, 0.9, 0.99):
        cut = encoded[: int(share * len(encoded))]
        with pytest.raises(ValueError, match="no (whole )?image"):
            decode_image(cut)
        if kind in ("JPEG", "PNG"):  # as a disk leaves it that was full, or switched off
            with pytest.raises(ValueError, match="no whole image"):
                decode_image(cut + bytes(5000))
    np.testing.assert_array_equal(decode_image(encoded + b"a film, as phones append it"), whole)
    if kind == "JPEG":  # bytes that fill may stand before each marker
        filled = encoded[:2] + b"\xff" + encoded[2:]
        np.testing.assert_array_equal(decode_image(filled), whole)


def png_of(width, height):
    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "no image"),
        (b"no picture", "no image"),
        (b"\xff\xd8\xff", "no image"),
        (b"\0\0\0\x18ftypisom", "no image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC or AVIF image.*save it as JPEG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "a HEIC or AVIF image.*save it as JPEG"),
        (png_of(20_000, 20_000), "an image of 400,000,000 pixels, more than"),
        (png_of(2**31 - 1, 2**31 - 1), "an image of 4,611,686,014,132,420,609 pixels"),
        (png_of(MAX_PIXELS // 1000 + 1, 1000), "an image of 120,001,000 pixels"),
        (png_of(MAX_PIXELS // 1000, 1000), "no whole image"),
    ],
)
def test_what_cannot_be_decoded_says_why(tmp_path, content, reason):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}"):
        decode_image(content)
    with pytest.raises(ValueError, match=rf"x\.png is {reason}"):
        read_image(path)
