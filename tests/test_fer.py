import csv
import gzip
import lzma
import shutil
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from scenes import damage_content, damage_header

from utils import config
from utils.data import fer
from utils.data.fer import prepare_fer
from utils.data.prepared import audit, load_prepared
from utils.files import encode_image, read_image
from utils.preprocessing import EMOTIONS

# What data/make_sample.py writes: 5 / 2 / 2 of each emotion, a blank one, a copy, a broken row.
SAMPLE_COUNTS = {"train": 7 * 5 + 1, "valid": 7 * 2, "test": 7 * 2 + 1}


@pytest.fixture
def sample_text():
    return (config.SAMPLE_DIR / "raw" / "fer2013.csv").read_bytes()


def as_icml(text):
    lines = text.decode().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    return "\n".join(["emotion, Usage, pixels"] + [f"{e},{u},{p}" for e, p, u in rows]).encode()


def write_tar(path, text):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("fer2013/README", b"readme"), ("fer2013/fer2013.csv", text)):
            file = path.parent / "member"
            file.write_bytes(content)
            archive.add(file, name)
            file.unlink()


def write_zip(path, text):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013.csv", text)


FORMS = {
    "fer2013.csv": lambda path, text: path.write_bytes(text),
    "fer2013.csv.gz": lambda path, text: path.write_bytes(gzip.compress(text)),
    "fer2013.csv.xz": lambda path, text: path.write_bytes(lzma.compress(text)),
    "fer2013.zip": write_zip,
    "fer2013.csv.zip": write_zip,
    "fer2013.tar.gz": write_tar,
    "icml_face_data.csv": lambda path, text: path.write_bytes(as_icml(text)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_csv_gives_the_same(workspace, sample_text, name):
    path = workspace / "data" / "raw" / name
    FORMS[name](path, sample_text)
    before = path.read_bytes()
    prepared = prepare_fer()

    assert prepared.source == name
    assert prepared.found == sum(SAMPLE_COUNTS.values()) + 1
    assert prepared.counts.loc[list(SAMPLE_COUNTS), "all"].to_dict() == SAMPLE_COUNTS
    assert prepared.counts.loc["valid", list(EMOTIONS)].tolist() == [2] * 7
    assert prepared.left_out.values.tolist() == [[65, "3 pixels instead of 2304"]]
    assert prepared.labels["blank"].sum() == 1
    on_disk = [p.relative_to(prepared.folder).as_posix() for p in prepared.folder.rglob("*.png")]
    assert sorted(on_disk) == sorted(prepared.labels["file"])
    assert path.read_bytes() == before, "raw data are never changed"


def test_pixels_survive_without_loss(workspace, sample_text):
    (workspace / "data" / "raw" / "fer2013.csv").write_bytes(sample_text)
    prepared = prepare_fer()
    with open(config.SAMPLE_DIR / "raw" / "fer2013.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for record in prepared.labels.itertuples():
        row = rows[int(record.item)]
        expected = [int(value) for value in row["pixels"].split()]
        stored = read_image(prepared.folder / record.file, cv2.IMREAD_GRAYSCALE)
        assert stored.ravel().tolist() == expected
        assert record.label == EMOTIONS[int(row["emotion"])]


def test_broken_rows_are_listed_with_the_reason(workspace):
    good = " ".join(["7"] * 2304)
    lines = [
        "emotion,pixels,Usage",
        f"0,{good},Training",
        f"12,{good},Training",
        f",{good},Training",
        f"1,{good},Holiday",
        f"1,{good}",
        f"1,{good} 8,Training",
        f"1,{good[:-1]}x,Training",
        f"1,{good[:-1]}256,Training",
        "1,,Training",
        f" 6 ,{good},PrivateTest",
        f"3,{good},PublicTest",
    ]
    (workspace / "data" / "raw" / "fer2013.csv").write_text("\n".join(lines))
    prepared = prepare_fer()
    assert prepared.labels["label"].tolist() == ["angry", "neutral", "happy"]
    assert prepared.left_out["item"].tolist() == list(range(1, 9))
    assert prepared.left_out["reason"].tolist() == [
        "unknown emotion '12'",
        "unknown emotion ''",
        "unknown Usage 'Holiday'",
        "2 fields instead of 3",
        "2305 pixels instead of 2304",
        "pixels: something else than numbers and spaces",
        "pixel value 256, expected 0 to 255",
        "pixels: something else than numbers and spaces",
    ]
    assert prepared.found == len(prepared.labels) + len(prepared.left_out)


def test_a_file_without_usable_rows_says_the_most_frequent_reason(workspace):
    large = " ".join(["7"] * 224 * 224)
    rows = ["0,1 2,Training", f"0,{large},Training", f'"1","{large}","PublicTest"', f"2,{large},x"]
    rows += [f"3,{large},PrivateTest"]
    write_csv(workspace / "data" / "raw" / "fer2013.csv", rows)
    message = "no usable image in 5 rows or files, 3 of them for this reason: 50176 pixels instead"
    with pytest.raises(ValueError, match=message):
        prepare_fer()
    assert not config.prepared_dir("fer2013").exists()


def write_csv(path, rows):
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n", encoding="utf-8")


def rows_of_noise(labels=EMOTIONS, usages=("Training", "PublicTest", "PrivateTest")):
    random = np.random.default_rng(0)
    return [
        f"{label},{' '.join(map(str, random.integers(0, 256, 48 * 48)))},{usage}"
        for label in labels
        for usage in usages
    ]


def test_a_quote_without_its_end_spoils_its_row_alone(workspace):
    rows = rows_of_noise(range(7))
    rows[3] = rows[3].replace(",", ',"', 1)
    rows[8] = rows[8].replace(",P", '",P')
    rows[9] = '"' + rows[9].replace(",", '","') + '"'  # as some programs save each field
    rows[12] = rows[12].replace("1", "\udcff", 1)
    path = workspace / "data" / "raw" / "fer2013.csv"
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]), errors="surrogateescape")
    prepared = prepare_fer()
    assert prepared.found == 21 == len(prepared.labels) + len(prepared.left_out)
    assert prepared.left_out["item"].tolist() == [3, 8, 12]
    assert prepared.labels.set_index("item")["label"][9] == "happy"


@pytest.mark.parametrize(
    "labels, usages",
    [
        (range(7), ("train", "val", "test")),
        (EMOTIONS, ("Training", "PublicTest", "PrivateTest")),
        (
            ("Anger", "disgusted", "fearful", "happiness", "sadness", "Surprised", "neutral"),
            ("TRAIN", "validation", "testing"),
        ),
    ],
)
def test_names_of_emotions_and_splits_are_labels_too(workspace, labels, usages):
    write_csv(workspace / "data" / "raw" / "fer2013.csv", rows_of_noise(labels, usages))
    prepared = prepare_fer()
    assert prepared.labels["label"].tolist() == [name for name in EMOTIONS for _ in range(3)]
    assert prepared.labels["split"].tolist() == ["train", "valid", "test"] * 7
    assert prepared.notes == ()


def test_a_class_without_images_is_said(workspace):
    write_csv(workspace / "data" / "raw" / "fer2013.csv", rows_of_noise(("anger", "sad", "6")))
    notes = prepare_fer().notes
    assert len(notes) == 3
    assert notes[1].startswith("No images of disgust, fear, happy, surprise in the valid split")


def test_a_file_that_was_cut_off_after_a_row_is_an_error(workspace, sample_text):
    rows = sample_text.splitlines(keepends=True)
    kept = b"".join(row for row in rows if not row.strip().endswith(b"PrivateTest"))
    assert len(rows) - len(kept.splitlines()) == 15
    (workspace / "data" / "raw" / "fer2013.csv").write_bytes(kept)
    with pytest.raises(ValueError, match="'test': 0.*cut off"):
        prepare_fer()


@pytest.mark.parametrize(
    "content, message",
    [
        ("emotion,pixels,Usage\n0,1 2,Training\n".encode("utf-16"), "lacks"),
        (b"\0" * 9999, "lacks"),
        (b"emotion,pixels,Usage\n" + b"1 " * 3_000_000, "a line of 4,194,304 characters"),
        (b"emotion,pixels,Usage\n" + b"\n" * 1_100, "1,001 lines"),
    ],
)
def test_a_csv_that_is_no_text_or_without_end_is_refused_in_a_sentence(
    workspace, monkeypatch, content, message
):
    monkeypatch.setattr(fer, "MAX_FILES", 1000)
    path = workspace / "data" / "raw" / "fer2013.csv.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=rf"fer2013\.csv\.gz .*{message}"):
        prepare_fer()


def test_an_encrypted_zip_is_refused_in_a_sentence(workspace, sample_text):
    path = workspace / "data" / "raw" / "fer2013.zip"
    write_zip(path, sample_text)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"fer2013\.zip cannot be read .*encrypted"):
        prepare_fer()


@pytest.mark.parametrize(
    "kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]
)
def test_a_tar_whose_csv_is_no_file_is_refused_in_a_sentence(workspace, kind):
    path = workspace / "data" / "raw" / "fer2013.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("fer2013/fer2013.csv")
        member.type, member.linkname = kind, "elsewhere.csv"
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"fer2013\.tar\.gz holds no plain file fer2013\.csv or"):
        prepare_fer()


@pytest.mark.parametrize("damage", [damage_header, damage_content])
def test_a_damaged_tar_is_refused(workspace, sample_text, damage):
    path = workspace / "data" / "raw" / "fer2013.tar.gz"
    write_tar(path, sample_text)
    damage(path, "fer2013/fer2013.csv")
    with pytest.raises(ValueError, match=r"fer2013\.tar\.gz cannot be read"):
        prepare_fer()


def test_the_challenge_tar_unpacked(workspace, sample_text):
    folder = workspace / "data" / "raw" / "fer2013"
    folder.mkdir()
    (folder / "fer2013.csv").write_bytes(sample_text)
    (folder / "README").write_text("readme")
    assert prepare_fer().counts.loc["all", "all"] == sum(SAMPLE_COUNTS.values())


def test_unlabelled_form_is_refused_with_a_word(workspace):
    (workspace / "data" / "raw" / "train.csv").write_text("emotion,pixels\n0,1 2 3\n")
    with pytest.raises(ValueError, match=r"lacks \['usage'\].*icml_face_data"):
        prepare_fer()
    assert not config.prepared_dir("fer2013").exists()


def test_archive_of_something_else_says_what_to_do(workspace):
    with zipfile.ZipFile(workspace / "data" / "raw" / "fer2013.zip", "w") as archive:
        archive.writestr("train/angry/1.jpg", b"")
    with pytest.raises(ValueError, match="unpack it to"):
        prepare_fer()


def test_damaged_raw_data_leave_what_was_prepared_before(workspace, sample_text):
    path = workspace / "data" / "raw" / "fer2013.csv"
    path.write_bytes(sample_text)
    before = prepare_fer()
    path.write_bytes(sample_text[:5000])
    with pytest.raises(ValueError, match="no usable image"):
        prepare_fer()
    assert load_prepared("fer2013").counts.equals(before.counts)
    path.write_bytes(sample_text)
    assert prepare_fer().counts.equals(before.counts)


def write_pictures(folder, names):
    random = np.random.default_rng(1)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (48, 48), dtype=np.uint8)
        path.write_bytes(encode_image(image, path.suffix))


def test_folders_with_usage_in_the_names(workspace):
    folder = workspace / "data" / "raw" / "fer2013"
    write_pictures(
        folder,
        [
            "train/angry/Training_3.jpg",
            "test/angry/PublicTest_1.jpg",
            "test/happy/PrivateTest_9.jpg",
        ],
    )
    (folder / "train" / "angry" / "notes.txt").write_text("x")
    (folder / "train" / "angry" / "Training_4.jpg").write_bytes(b"broken")
    (folder / "train" / "bored").mkdir()
    write_pictures(folder, ["train/bored/Training_5.jpg"])
    prepared = prepare_fer()
    found = {row.item: (row.split, row.label) for row in prepared.labels.itertuples()}
    assert found == {
        "train/angry/Training_3.jpg": ("train", "angry"),
        "test/angry/PublicTest_1.jpg": ("valid", "angry"),
        "test/happy/PrivateTest_9.jpg": ("test", "happy"),
    }
    assert dict(prepared.left_out.values.tolist()) == {
        "train/angry/notes.txt": "no image that OpenCV can read",
        "train/angry/Training_4.jpg": "no image that OpenCV can read",
        "train/bored/Training_5.jpg": "unknown emotion 'bored'",
    }


def test_folders_with_other_names(workspace):
    write_pictures(
        workspace / "data" / "raw" / "fer2013",
        [
            "train/disgusted/1.png",
            "val/fearful/1.png",
            "validation/Surprised/1.png",
            "test/sad/1.png",
        ],
    )
    labels = prepare_fer().labels
    assert sorted(zip(labels["split"], labels["label"])) == [
        ("test", "sad"), ("train", "disgust"), ("valid", "fear"), ("valid", "surprise"),
    ]  # fmt: skip


@pytest.mark.parametrize("there, new", [("test", "valid"), ("validation", "test")])
def test_folders_of_two_splits_have_the_second_halved_and_it_is_said(workspace, there, new):
    names = [
        f"{split}/{name}/im{n}.png"
        for split in ("train", there)
        for name in EMOTIONS
        for n in range(4)
    ]
    write_pictures(workspace / "data" / "raw" / "fer2013", names)
    prepared = prepare_fer()
    assert prepared.counts["all"].to_dict() == {"train": 28, "valid": 14, "test": 14, "all": 56}
    assert f"no {new} split: 14 of the 28" in prepared.notes[0] and len(prepared.notes) == 1
    assert all((prepared.folder / file).is_file() for file in prepared.labels["file"])
    assert (prepared.labels["file"].str.split("/").str[0] == prepared.labels["split"]).all()

    pictures = sorted((workspace / "data" / "raw" / "fer2013" / there).rglob("*.png"))
    for copy, picture in zip(pictures[::4], pictures[2::4]):
        shutil.copy(picture, copy)
    again = prepare_fer()
    splits = again.labels.groupby("sha256")["split"].unique().map(set)
    assert {"valid", "test"} not in splits.tolist(), "what is there twice crosses over"
    assert again.counts.loc[new, "all"] == 7


def test_a_class_of_one_picture_stays_where_it_is(workspace):
    names = [f"{split}/sad/{n}.png" for split in ("train", "test") for n in range(4)]
    write_pictures(workspace / "data" / "raw" / "fer2013", [*names, "test/fear/1.png"])
    counts = prepare_fer().counts
    assert counts["sad"].tolist() == [4, 2, 2, 8] and counts["fear"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "splits, message", [(["train"], "expected some"), (["train", "test"], "too few")]
)
def test_folders_that_cannot_be_split_say_which_copy_to_take(workspace, splits, message):
    names = [f"{split}/{name}/1.png" for split in splits for name in EMOTIONS]
    write_pictures(workspace / "data" / "raw" / "fer2013", names)
    with pytest.raises(ValueError, match=f"fer2013 has .*{message}"):
        prepare_fer()


def test_a_folder_is_accounted_for_whatever_lies_in_it(workspace):
    folder = workspace / "data" / "raw" / "fer2013"
    names = [f"{split}/sad/{n}.jpg" for split in ("train", "valid", "test") for n in range(3)]
    write_pictures(folder, names)
    shutil.copytree(folder, folder / "images")  # one of Kaggle's copies holds all twice
    cut = folder / "train" / "sad" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 7 // 10])
    (folder / "train" / "sad" / "2.webp").write_bytes((folder / "test/sad/1.jpg").read_bytes())
    (folder / "NA").write_text("a name that pandas takes for nothing")
    prepared = prepare_fer()
    assert prepared.found == 9 + 9 + 1 + 1 == len(prepared.labels) + len(prepared.left_out)
    reasons = prepared.left_out.set_index("item")["reason"]
    assert reasons["train/sad/2.jpg"].startswith("no whole image")
    assert reasons["NA"] == "not in a split/emotion folder"
    assert (reasons == "the same file again").sum() == 8, "of the cut one, its copy is used"
    assert "train/sad/2.webp" in prepared.labels["item"].tolist()


def test_killed_run_can_be_run_again(workspace, sample_text, monkeypatch):
    (workspace / "data" / "raw" / "fer2013.csv").write_bytes(sample_text)
    read_csv = fer._read_csv

    def killed_after_ten(path):
        for number, record in enumerate(read_csv(path)):
            if number == 10:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(fer, "_read_csv", killed_after_ten)
    with pytest.raises(KeyboardInterrupt):
        prepare_fer()
    assert not config.prepared_dir("fer2013").exists(), "half a data set must not look prepared"
    monkeypatch.setattr(fer, "_read_csv", read_csv)
    assert prepare_fer().counts.loc["all", "all"] == sum(SAMPLE_COUNTS.values())
    assert not list((workspace / "data").glob("partial-*"))


def test_audit_finds_the_copy_in_the_sample(workspace, sample_text):
    (workspace / "data" / "raw" / "fer2013.csv").write_bytes(sample_text)
    assert audit(prepare_fer().labels).tolist() == [1, 2, 1, 0, 0, 1]
