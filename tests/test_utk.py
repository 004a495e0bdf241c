import os
import shutil
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
from scenes import damage_content, damage_header

from utils import config
from utils.data import raw as raw_data
from utils.data.prepared import audit, load_prepared
from utils.data.utk import draw_splits, parse_name, prepare_utk
from utils.files import encode_image


@pytest.mark.parametrize(
    "name, expected",
    [
        ("25_1_0_20170116174525125.jpg.chip.jpg", (25, "female", "White")),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, "male", "Black")),
        ("55_0_0_20170116232725357jpg.chip.jpg", (55, "male", "White")),
        ("1_1_4_2016122021561900.jpg.chip.jpg", (1, "female", "Other")),
        ("116_0_2_201701201348254320.jpg", (116, "male", "Asian")),
        ("0_0_3_20170116174525125.jpg", (0, "male", "Indian")),
    ],
)
def test_usable_names(name, expected):
    row = parse_name(name)
    assert (row["age"], row["label"], row["race"]) == expected


@pytest.mark.parametrize(
    "name, reason",
    [
        ("39_1_20170116174525125.jpg.chip.jpg", "3 fields instead of 4"),
        ("61_1_20170109142408075.jpg.chip.jpg", "3 fields instead of 4"),
        ("53__0_20170116174525125.jpg.chip.jpg", "gender ''"),
        ("61_3_1_20170116174525125.jpg.chip.jpg", "gender '3'"),
        ("61_1_7_20170116174525125.jpg.chip.jpg", "race '7'"),
        ("x_1_1_20170116174525125.jpg.chip.jpg", "age 'x'"),
        ("117_1_1_20170116174525125.jpg.chip.jpg", "age 117"),
        ("30_1_1_yesterday.jpg", "date 'yesterday'"),
        ("README.txt", "1 fields instead of 4"),
    ],
)
def test_unusable_names_say_which_field(name, reason):
    with pytest.raises(ValueError, match=reason):
        parse_name(name)


def listing(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_read_and_left_out_add_up_and_raw_files_stay(workspace):
    raw = workspace / "data" / "raw" / "UTKFace"
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", raw)
    before = listing(raw)
    prepared = prepare_utk()

    assert prepared.found == len(before) == len(prepared.labels) + len(prepared.left_out)
    assert dict(prepared.left_out.values.tolist()) == {
        "20_1_0_20170116000000004.jpg.chip.jpg": "no whole image, it is cut off or damaged: get it "
        "again",
        "39_1_20170116000000001.jpg.chip.jpg": "3 fields instead of 4: gender or race is missing",
        "53__0_20170116000000002.jpg.chip.jpg": "gender ''",
        "61_3_1_20170116000000003.jpg.chip.jpg": "gender '3'",
    }
    assert listing(raw) == before
    for row in prepared.labels.itertuples():
        assert (prepared.folder / row.file).read_bytes() == before[row.item]
        assert row.file.startswith(f"{row.split}/{row.label}/")
    on_disk = [p.relative_to(prepared.folder).as_posix() for p in prepared.folder.rglob("*.jpg")]
    assert sorted(on_disk) == sorted(prepared.labels["file"])
    assert audit(prepared.labels)["groups of identical images"] == 1
    assert audit(prepared.labels)["groups that cross splits"] == 0


def test_tar_in_any_order_gives_the_same_split_as_the_folder(workspace):
    source = config.SAMPLE_DIR / "raw" / "UTKFace"
    raw = workspace / "data" / "raw"
    shutil.copytree(source, raw / "UTKFace")
    from_folder = prepare_utk().labels
    shutil.rmtree(raw / "UTKFace")
    shutil.rmtree(config.prepared_dir("utkface"))
    with tarfile.open(raw / "UTKFace.tar.gz", "w:gz") as archive:
        for path in sorted(source.iterdir(), reverse=True):
            archive.add(path, f"UTKFace/{path.name}")
    from_tar = prepare_utk().labels
    from_tar["item"] = from_tar["item"].str.removeprefix("UTKFace/")
    pd.testing.assert_frame_equal(from_folder, from_tar)


@pytest.mark.parametrize("damage", [damage_header, damage_content])
def test_a_damaged_tar_is_refused(workspace, damage):
    path = workspace / "data" / "raw" / "UTKFace.tar.gz"
    source = config.SAMPLE_DIR / "raw" / "UTKFace"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(source, "UTKFace")
    member = sorted(source.iterdir())[20].name
    damage(path, f"UTKFace/{member}")
    with pytest.raises(ValueError, match=r"UTKFace\.tar\.gz cannot be read"):
        prepare_utk()


def write_tar(path, others=()):
    """The sample in a tar, then members that are no files: (name, type, name of the target)."""
    with tarfile.open(path, "w") as archive:
        archive.add(config.SAMPLE_DIR / "raw" / "UTKFace", "UTKFace")
        for name, kind, target in others:
            member = tarfile.TarInfo(f"UTKFace/{name}")
            member.type, member.linkname = kind, target
            archive.addfile(member)


@pytest.mark.parametrize("inside", [-1, 0, 100, 512, 600])
def test_a_tar_that_was_cut_is_refused_wherever_it_was(workspace, inside):
    path = workspace / "data" / "raw" / "UTKFace.tar"
    write_tar(path)
    with tarfile.open(path) as archive:
        at = archive.getmembers()[33].offset
    path.write_bytes(path.read_bytes()[: at + inside])
    with pytest.raises(ValueError, match=r"UTKFace\.tar cannot be read"):
        prepare_utk()


def test_links_and_devices_in_a_tar_are_counted(workspace):
    others = [
        ("90_0_0_20170116174525125.jpg", tarfile.LNKTYPE, "UTKFace/x.jpg"),
        ("91_0_0_20170116174525125.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("92_0_0_20170116174525125.jpg", tarfile.CHRTYPE, ""),
    ]
    write_tar(workspace / "data" / "raw" / "UTKFace.tar", others)
    prepared = prepare_utk()
    assert prepared.found == len(list((config.SAMPLE_DIR / "raw" / "UTKFace").iterdir())) + 3
    assert prepared.left_out["reason"].tolist()[-3:] == [
        "a link to UTKFace/x.jpg", "a link to /etc/passwd", "no plain file",
    ]  # fmt: skip


def test_a_tar_that_declares_too_much_is_refused_before_it_is_read(workspace, monkeypatch):
    path = workspace / "data" / "raw" / "UTKFace.tar"
    write_tar(path)
    member = tarfile.TarInfo("UTKFace/25_1_0_20170116174525125.jpg")
    member.size = 2**43
    end = path.read_bytes().rstrip(b"\0")
    path.write_bytes(end + bytes(-len(end) % 512) + member.tobuf() + bytes(1024))
    with pytest.raises(ValueError, match=r"UTKFace\.tar declares .* files of 8,796,"):
        prepare_utk()
    monkeypatch.setattr(raw_data, "MAX_FILES", 10)
    with pytest.raises(ValueError, match=r"UTKFace\.tar declares 11 files"):
        prepare_utk()


def test_a_file_that_is_too_large_is_left_out(workspace, monkeypatch):
    monkeypatch.setattr(raw_data, "MAX_FILE_BYTES", 5000)
    write_tar(workspace / "data" / "raw" / "UTKFace.tar")
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", workspace / "data" / "raw" / "UTKFace")
    left_out = []
    for name in ("UTKFace", "UTKFace.tar"):
        prepared = prepare_utk(
            source=workspace / "data" / "raw" / name, destination=workspace / "data" / f"of_{name}"
        )
        assert prepared.found == len(prepared.labels) + len(prepared.left_out)
        too_large = prepared.left_out["reason"].str.endswith("bytes, more than a picture can have")
        left_out.append(too_large.sum())
    assert left_out[0] == left_out[1] > 1


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such names")
def test_a_folder_is_accounted_for_whatever_lies_in_it_and_is_read_back_the_same(workspace):
    folder, elsewhere = workspace / "data" / "raw" / "UTKFace", workspace / "elsewhere"
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", folder)
    num_files = len(list(folder.iterdir()))
    first = sorted(folder.iterdir())[0].name
    (elsewhere / "deep").mkdir(parents=True)
    shutil.copy(folder / first, elsewhere / "deep" / "33_0_0_20170116174525125.jpg")
    (elsewhere / "back").symlink_to(folder)
    (folder / "more").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "77_1_1_20170116174525125.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "78_1_1_20170116174525125.jpg")
    odd = [b"Icon\r", b"notes\xff.txt", b"NA", b'a,"b"\nc', b"a\\nc", b" ", "\u2028".encode()]
    for name in odd:
        (folder / os.fsdecode(name)).touch()
    prepared = prepare_utk()
    # Of the linked folders: one picture, one way back; the other link, the loop.
    assert prepared.found == num_files + len(odd) + 2 + 4
    assert prepared.found == len(prepared.labels) + len(prepared.left_out)
    reasons = prepared.left_out.set_index("item")["reason"]
    assert reasons.index.is_unique
    assert reasons["77_1_1_20170116174525125.jpg"] == "cannot be read: No such file or directory"
    assert reasons["78_1_1_20170116174525125.jpg"] == reasons["loop"] == "no plain file"
    again = load_prepared("utkface")
    pd.testing.assert_frame_equal(again.labels, prepared.labels)
    pd.testing.assert_frame_equal(again.left_out, prepared.left_out)
    assert (
        sum(item.endswith("deep/33_0_0_20170116174525125.jpg") for item in again.labels["item"])
        == 1
    )


def test_a_picture_of_another_size_is_said(workspace):
    folder = workspace / "data" / "raw" / "UTKFace"
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", folder)
    assert prepare_utk().notes == ()
    photograph = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    (folder / "40_1_0_20170116174525125.webp").write_bytes(encode_image(photograph, ".webp"))
    (note,) = prepare_utk().notes
    assert note.startswith("1 of 58 pictures are not 200 x 200") and "in the wild" in note


def test_a_name_twice_in_a_tar_is_used_once(workspace):
    first, second, *others = sorted((config.SAMPLE_DIR / "raw" / "UTKFace").iterdir())
    with tarfile.open(workspace / "data" / "raw" / "UTKFace.tar.gz", "w:gz") as archive:
        for path in (first, *others):
            archive.add(path, f"UTKFace/{path.name}")
        archive.add(second, f"UTKFace/{first.name}")
    prepared = prepare_utk()
    row = prepared.labels.set_index("item").loc[f"UTKFace/{first.name}"]
    assert (prepared.folder / row["file"]).read_bytes() == first.read_bytes()
    assert all((prepared.folder / file).is_file() for file in prepared.labels["file"])
    reasons = prepared.left_out.set_index("item")["reason"]
    assert reasons[f"UTKFace/{first.name}"] == CAME_BEFORE


def test_a_face_in_two_forms_is_used_once(workspace):
    """Some copies have a face aligned, as X.jpg.chip.jpg, and cut otherwise, as X.jpg."""
    folder = workspace / "data" / "raw" / "UTKFace"
    paths = sorted((config.SAMPLE_DIR / "raw" / "UTKFace").iterdir())
    for path in paths:
        stem = path.name.split(".")[0]
        (folder / "a").mkdir(parents=True, exist_ok=True)
        (folder / "b").mkdir(exist_ok=True)
        shutil.copy(path, folder / "a" / f"{stem}.jpg.chip.jpg")
        other = encode_image(np.full((99, 99, 3), len(stem), np.uint8), ".jpg")
        (folder / "b" / f"{stem}.jpg").write_bytes(other)
    prepared = prepare_utk()
    labels = prepared.labels
    stems = labels["item"].str.extract(r"/([^.]*)")[0]
    assert stems.is_unique and prepared.found == 2 * len(paths)
    assert labels["item"].str.startswith("a/").sum() == 57
    assert labels["item"].str.startswith("b/").sum() == 1, "of the corrupt one, the other form"


CAME_BEFORE = "a picture of this age, gender, race and date came before"


def test_same_seed_same_split_and_other_seed_another(workspace, capsys):
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", workspace / "data" / "raw" / "UTKFace")
    splits = []
    for seed in (0, 0, 1):
        splits.append(prepare_utk(seed=seed).labels["split"].tolist())
        shutil.rmtree(config.prepared_dir("utkface"))
    assert splits[0] == splits[1] != splits[2]
    prepare_utk(seed=0)
    assert not capsys.readouterr().out
    assert prepare_utk(seed=1).labels["split"].tolist() == splits[2], "drawn anew in its place"
    assert "it is made anew" in capsys.readouterr().out
    assert prepare_utk(seed=1).labels["split"].tolist() == splits[2]
    assert not capsys.readouterr().out


def table(females, males, copies=0):
    labels = ["female"] * females + ["male"] * males
    hashes = [str(number) for number in range(len(labels))]
    hashes[:copies] = ["copy"] * copies
    return pd.DataFrame({"label": labels, "sha256": hashes})


def test_default_split_is_80_10_10_of_each_gender():
    labels = table(1000, 500)
    split = draw_splits(labels, 0.1, 0.1, seed=0)
    assert pd.crosstab(labels["label"], split).to_dict() == {
        "train": {"female": 800, "male": 400},
        "valid": {"female": 100, "male": 50},
        "test": {"female": 100, "male": 50},
    }


def test_report_split_has_the_report_sizes():
    labels = table(1000, 1200)
    split = draw_splits(labels, (200, 200), (100, 100), seed=0)
    assert pd.crosstab(labels["label"], split).to_dict() == {
        "train": {"female": 700, "male": 900},
        "valid": {"female": 200, "male": 200},
        "test": {"female": 100, "male": 100},
    }


def test_copies_stay_in_training():
    labels = table(50, 50, copies=20)
    split = draw_splits(labels, 0.2, 0.2, seed=0)
    assert set(split[:20]) == {"train"}
    assert (split[:50] == "test").sum() == 10, "the share is that of all images"
    with pytest.raises(ValueError, match="10 female images without a copy, and 10 are wanted"):
        draw_splits(table(50, 50, copies=30), 0.2, 0.2, seed=0)


def test_nothing_usable_is_an_error(workspace):
    raw = workspace / "data" / "raw" / "UTKFace"
    raw.mkdir()
    (raw / "readme.txt").write_text("x")
    with pytest.raises(
        ValueError, match="no usable image in 1 rows or files, 1 of them for this reason: 1 fields"
    ):
        prepare_utk()
    with pytest.raises(ValueError, match="'thirds'"):
        prepare_utk("thirds")
