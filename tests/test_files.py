import gzip
import lzma
import tarfile
import zipfile

import numpy as np
import pytest

from utils.files import (
    decode_image,
    encode_image,
    read_image,
    read_json,
    refuse_damaged,
    replaced_when_done,
    write_json,
)


def test_an_interrupted_write_leaves_the_old_file_and_can_be_repeated(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, {"run": 1})
    with pytest.raises(KeyboardInterrupt):
        with replaced_when_done(path) as partial:
            partial.write_text("half a")
            raise KeyboardInterrupt
    assert read_json(path) == {"run": 1}
    write_json(path, {"run": 2})
    assert read_json(path) == {"run": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "read",
    [
        lambda path: gzip.open(path).read(),
        lambda path: lzma.open(path).read(),
        lambda path: tarfile.open(path),
        lambda path: zipfile.ZipFile(path),
    ],
)
@pytest.mark.parametrize("content", [b"no archive", gzip.compress(b"faces" * 99)[:-9]])
def test_damaged_archives_are_refused_in_one_way(tmp_path, read, content):
    path = tmp_path / "faces.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"faces\.zip cannot be read"):
        with refuse_damaged(path):
            read(path)


def test_a_file_that_is_open_elsewhere_is_said_to_be(tmp_path, monkeypatch):
    def locked(source, target):
        raise PermissionError("used by another process")

    monkeypatch.setattr("os.replace", locked)
    with pytest.raises(PermissionError, match=r"table\.csv could not be replaced.*partial-table"):
        with replaced_when_done(tmp_path / "table.csv") as partial:
            partial.write_text("whole")
    assert (tmp_path / "partial-table.csv").read_text() == "whole"


def test_a_folder_is_never_replaced(tmp_path):
    folder = tmp_path / "results"
    with replaced_when_done(folder) as partial:
        partial.mkdir()
        (partial / "mine").touch()
    with pytest.raises(ValueError, match="is a folder that is there already"):
        with replaced_when_done(folder):
            pytest.fail("the block must not run")
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_png_is_lossless_under_any_name(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    path = tmp_path / "gesicht_ü_顔.png"
    path.write_bytes(encode_image(image))
    np.testing.assert_array_equal(read_image(path), image)


HUGE_PNG = bytearray(encode_image(np.zeros((2, 2), dtype=np.uint8)))
HUGE_PNG[16:24] = b"\x7f\xff\xff\xff" * 2  # width and height of the header


@pytest.mark.parametrize("content", [b"", b"no picture", bytes(HUGE_PNG)])
def test_what_is_no_image_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert decode_image(content) is None
    with pytest.raises(ValueError, match="no image"):
        read_image(path)
