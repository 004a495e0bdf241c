"""Pictures of one's own: prepared, trained on by a new head, shipped, and seen by the loop."""

import shutil

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from projects import move_project
from scenes import noise, rows_of_csv
from stand_ins import EMOTION, GENDER

from commands import prepare as command
from commands import run as run_command
from commands import ship as ship_command
from commands.checks import check
from commands.records import read_run
from commands.report import build_report
from utils import config, data
from utils.data.batches import load_batches
from utils.data.own import prepare_own
from utils.files import encode_image, read_image
from utils.networks.storage import load_network, save_network
from utils.preprocessing import crop_face, face_input_for, prepare_face, rescale
from utils.realtime.detection import HaarDetector
from utils.realtime.display import annotate
from utils.realtime.faces import DEFAULT_GENDER_MODEL, Face
from utils.realtime.sources import open_source
from utils.training import load_run, train

REFERENCES = config.REFERENCE_DIR
CLASSES = ("FFP2", "Mütze", "surgical mask")
PERSONS = ("anna_{:02}", "Ben-{}", "carla ({})", "s01_{}", "s02_{}", "eve{}")


def picture(seed, side=30):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(image, path.suffix))


def write_classes(folder, names, class_names=CLASSES):
    """In each class folder a picture for each name, all of them different."""
    for label in class_names:
        for name in names:
            write(folder / label / name, picture(len(list(folder.rglob("*.png")))))
    return folder


def of_persons(folder):
    return write_classes(folder, [f"{x.format(n)}.png" for x in PERSONS for n in (1, 2)])


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_are_counted_and_persons_and_copies_stay_in_one_split(workspace):
    faces = of_persons(workspace / "faces")
    first = faces / "FFP2" / "anna_01.png"
    write(faces / "FFP2" / "zoe.bmp", read_image(first))  # the same pixels in another form
    write(faces / "surgical mask" / "zoe_1.png", read_image(first))
    write(faces / "FFP2" / "eve 9.jpg", noise(700, 900))
    (faces / "FFP2" / "cut.jpg").write_bytes((faces / "FFP2" / "eve 9.jpg").read_bytes()[:999])
    for name in ("notes.txt", "Mütze/notes.txt", ".cache/0.png", "__MACOSX/0.png"):
        (faces / name).parent.mkdir(exist_ok=True)
        shutil.copy(first, faces / name) if "Mütze" not in name else (faces / name).touch()
    before = content_of(faces)
    prepared = prepare_own(faces)
    assert content_of(faces) == before
    assert prepared.found == len(before) == len(prepared.labels) + len(prepared.left_out) == 44
    assert dict(prepared.left_out.values.tolist()) == {
        ".cache/0.png": "not in a class folder",
        "FFP2/cut.jpg": "no whole image, it is cut off or damaged: get it again",
        "FFP2/zoe.bmp": "the same picture again",
        "Mütze/notes.txt": "no image that OpenCV can read",
        "notes.txt": "not in a class folder",
        "__MACOSX/0.png": "not in a class folder",
        "surgical mask/zoe_1.png": "the same picture again, also in FFP2",
    }
    labels = prepared.labels
    assert (
        prepared.class_names == CLASSES and (prepared.counts.loc["all"] == [13, 12, 12, 37]).all()
    )
    assert set(labels["person"]) == {"anna", "ben", "carla", "s01", "s02", "eve"}
    assert (labels.groupby("person")["split"].nunique() == 1).all()
    by_person, oblong = prepared.notes
    assert by_person.endswith(
        "person: 6, as the names of the files say (anna, ben, carla, eve, s01, ...)."
    )
    assert oblong.startswith("1 of 37 pictures are far from square") and "--cut" in oblong
    assert (prepared.counts > 0).all(axis=None), "a class is missing in a split"
    assert prepared.counts.loc["train", "all"] > 37 / 2
    for row in labels.itertuples():
        kept, raw = read_image(prepared.folder / row.file), read_image(faces / row.item)
        assert row.file.startswith(f"{row.split}/{row.label}/") and row.item.startswith(row.label)
        if max(raw.shape) <= 200:
            np.testing.assert_array_equal(kept, raw)
        else:
            assert kept.shape == (156, 200, 3)
    assert len(list(prepared.folder.rglob("*.png"))) == len(labels)
    for source in (prepared.folder, prepared.folder / "train"):
        with pytest.raises(ValueError, match="would be replaced: give|give one of these"):
            prepare_own(source)
    again = data.load_prepared("mine")
    pd.testing.assert_frame_equal(again.labels, labels)


@pytest.mark.parametrize(
    "names",
    [
        "{:04}.png",  # no name but a number
        "IMG_{}.jpg.png",  # the camera's, the same for all
        "IMG-202407{:02}-WA0003.png",  # a day is no person
        "Screenshot 2024-05-01 at 10.{:02}.22.png",  # nor a minute
        "Photo on 5-1-24 at 10.{:02} AM #2.png",
        "{}.png",
    ],
)
def test_without_persons_pictures_are_drawn_one_by_one(workspace, names):
    faces = write_classes(workspace / "faces", [names.format(n) for n in range(10, 24)], ("0", "1"))
    prepared = prepare_own(faces, "others")
    assert prepared.folder == workspace / "data" / "others"
    (note,) = prepared.notes
    assert note.startswith("Split picture by picture")
    assert prepared.counts[["0", "1"]].loc[["train", "valid", "test"]].values.tolist() == [
        [10, 10], [2, 2], [2, 2]
    ]  # fmt: skip
    assert data.load_prepared("others").class_names == ("0", "1"), "numbers are names as well"
    _, y_true, files = data.load_split("others", "test", face_input_for("others", 9, 9, "rgb"))
    assert [int(file.parent.name) for file in files] == y_true.tolist()


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ("{person}_{label}_{n}.png", 6),
        ("{label}-{person} ({n}).png", 6),
        ("000{n}.040s_{person}_{label}_F_48x48.png", 6),
        ("zoe\u0308_{person}_{n}.png", 6),  # as a Mac writes an umlaut; below as others do
    ],
)
def test_a_person_is_known_whatever_stands_beside_the_name(workspace, names, number):
    faces, persons = workspace / "faces", [f"track{x}" for x in range(6)]
    for label in ("mask", "no mask"):
        names = names.replace("e\u0308", "\u00eb" if label == "no mask" else "e\u0308")
        word = label.replace(" ", "_")
        files = [names.format(person=p, label=word, n=n) for p in persons for n in range(2)]
        write_classes(faces, files, [label])
    prepared = prepare_own(faces)
    assert prepared.notes[0].startswith(
        f"Split by person: {number}, as the names of the files say ("
    )
    assert (prepared.labels.groupby("person")["split"].nunique() == 1).all()


def test_one_numbered_name_makes_no_split_by_persons(workspace):
    write_classes(
        workspace / "faces", ["IMG_1.png", *("x" * n + ".png" for n in range(1, 9))], "ab"
    )
    assert prepare_own(workspace / "faces").notes[0].startswith("Split picture by picture")
    # Who is not named is nobody: 28 names of days do not make three persons of one.
    days = [f"PXL_20240501_{n}.png" for n in range(14)]
    write_classes(workspace / "faces", [*(f"IMG_{n}.png" for n in range(40)), *days], "ab")
    assert prepare_own(workspace / "faces").notes[0].startswith("Split picture by picture")


def test_no_class_is_left_out_where_each_person_has_one(workspace):
    for label in "abcde":
        files = [f"{label}{x}_{n}.png" for x in "xyz" for n in range(3)]
        write_classes(workspace / "faces", files, [label])
    prepared = prepare_own(workspace / "faces")
    assert (
        "person: 15, as the names of the files say (ax, ay, az, bx, by, ...)" in prepared.notes[0]
    )
    assert (prepared.counts > 0).all(axis=None)


def test_a_class_that_is_a_person_cannot_be_split_by_persons(workspace):
    for person in ("anna", "ben"):
        write_classes(workspace / "faces", [f"{person}_{n}.png" for n in range(7)], [person])
    prepared = prepare_own(workspace / "faces")
    assert prepared.notes[0].startswith("Split picture by picture")
    assert (prepared.counts.loc[["valid", "test"], ["anna", "ben"]] == 1).all(axis=None)


def test_the_same_is_loaded_and_a_change_is_prepared_anew(workspace, capsys):
    faces = of_persons(workspace / "faces")
    assert command.main([str(faces)]) == 0
    printed = capsys.readouterr().out
    assert "36 files found, 36 used, 0 left out" in printed and "Split by person: 6" in printed
    table = workspace / "data" / "mine" / "labels.csv"
    content, written = table.read_text(), table.stat().st_mtime_ns
    assert command.main([str(faces)]) == 0
    assert table.stat().st_mtime_ns == written and "made anew" not in capsys.readouterr().out
    for name in (".DS_Store", "._eve1.png", "Thumbs.db"):  # a folder that somebody has looked at
        (faces / "FFP2" / name).write_bytes(b"...")
    assert command.main([str(faces)]) == 0
    assert table.stat().st_mtime_ns == written and "made anew" not in capsys.readouterr().out
    (faces / "FFP2" / "eve1.png").rename(faces / "Mütze" / "eve3.png")
    assert command.main([str(faces)]) == 0
    assert "mine was prepared from other raw data or in another way" in capsys.readouterr().out
    assert table.read_text() != content
    assert data.load_prepared("mine").counts.loc["all"].tolist() == [11, 13, 12, 36]


def test_faces_are_cut_from_photographs_as_the_loop_cuts_them(workspace, monkeypatch, capsys):
    monkeypatch.setattr(command, "open_detector", lambda _: HaarDetector())
    frames = [rescale(frame, 0.5) for frame in list(open_source(config.SAMPLE_CLIP))[::4]]
    for number, frame in enumerate(frames[:14]):
        write(workspace / "faces" / "ab"[number % 2] / f"{number}.png", frame)
    write(workspace / "faces" / "a" / "empty.png", np.full((300, 300, 3), 90, np.uint8))
    two = np.hstack([frames[0], frames[9]])
    write(workspace / "faces" / "b" / "two.png", two)
    assert command.main([str(workspace / "faces"), "--name", "cut", "--cut"]) == 0
    printed = capsys.readouterr().out
    assert "16 files found, 14 used, 2 left out" in printed
    for faces in (0, 2):
        assert f"  1: {faces} faces were found in it, expected one" in printed
    face_input = face_input_for("cut", 48, 48, "grey")
    prepared = data.load_prepared("cut")
    for split in ("train", "valid", "test"):
        images, _, _ = data.load_split("cut", split, face_input)
        for image, item in zip(images, data.rows_of(prepared, split)["item"]):
            frame = read_image(workspace / "faces" / item)
            (box,) = HaarDetector().detect(frame)
            in_the_loop = prepare_face(crop_face(frame, box, face_input), face_input)
            assert abs(image.astype(int) - in_the_loop).mean() < 1.5
    # The same pictures as they are: another way.
    assert command.main([str(workspace / "faces"), "--name", "cut"]) == 0
    assert "made anew" in capsys.readouterr().out
    assert len(data.load_prepared("cut").labels) == 16


def test_what_cannot_be_prepared_is_said_in_a_line(workspace, capsys):
    faces = workspace / "faces"

    def refused(*options, folder=faces):
        assert command.main([str(folder), *options]) == 1
        error = capsys.readouterr().err.rpartition("\r")[2]  # after the bar
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert f"{faces} is no folder: give one that holds a folder for each class" in refused()
    write(faces / "a.png", picture(99))
    assert f"{faces} holds 0 folders (), expected 2 to 50, one for each class" in refused()
    of_persons(faces / "pictures")
    assert "holds 1 folders (pictures), expected 2" in refused()
    of_persons(workspace / "splits" / "Train")
    of_persons(workspace / "splits" / "test")
    assert "the splits train and test, give one" in refused(folder=workspace / "splits")
    faces = faces / "pictures"
    for number, path in enumerate(sorted((faces / "Mütze").iterdir())):
        if number >= 6:
            path.write_bytes(b"no picture")
    assert (
        f"{faces / 'Mütze'} has 6 different pictures that can be used, expected at least 7 in each "
        "class folder; 6 files of pictures were left out, most as: no image that OpenCV can read"
    ) in refused(folder=faces)
    (faces / "none").mkdir()
    assert f"{faces / 'none'} has 0 different pictures" in refused(folder=faces)
    for name in ("fer2013", "UTKFace_mine", "raw", "models", "../x", "a b"):
        said = refused("--name", name, folder=faces)
        assert f"{name!r} is no name for your own pictures: expected up to 40" in said
    with pytest.raises(FileNotFoundError, match="tasks.py prepare FOLDER --name theirs first"):
        data.load_prepared("theirs")
    (workspace / "data" / "theirs").mkdir()
    assert "theirs was not written by this project" in refused("--name", "theirs", folder=faces)
    assert not list((workspace / "data").glob("*/prepared.json"))


# --- a new head on a shipped network, trained, shipped, and in the loop


def draw_classes(folder):
    """Drawn faces of three emotions in folders of other names."""
    table = pd.read_csv(config.SAMPLE_DIR / "raw" / "fer2013.csv")
    for number, label, pixels in table[["emotion", "pixels"]].itertuples():
        if label in (0, 4, 5):
            face = np.array(pixels.split(), np.uint8).reshape(48, 48)
            write(folder / dict(zip((0, 4, 5), CLASSES))[label] / f"{number}.png", face)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """The cells of notebook 03, Your turn 5, on a small network in place of ours; shipped."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        move_project(patch, folder)
        ours = {"emotion_ferplus": EMOTION, DEFAULT_GENDER_MODEL: GENDER}
        for name, (network, contract) in ours.items():
            save_network(network, contract, config.PRETRAINED_DIR / f"{name}.npz")
        draw_classes(folder / "faces")
        mine = data.prepare_own(folder / "faces", "masks")

        shipped, contract = load_network("emotion_ferplus")
        settings = {"batch_size": 16, "augmentation": "flip", "seed": 0}
        own_train = load_batches("masks", "train", contract.face_input, **settings)
        own_valid = load_batches("masks", "valid", contract.face_input)
        shipped.trainable = False  # batch normalisation keeps its stored means, too
        x = layers.Dense(len(mine.class_names))(shipped.layers[-2].input)
        own_model = keras.Model(shipped.input, layers.Activation("softmax")(x))
        own_model.compile(
            "adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False
        )
        own_model.optimizer.learning_rate = 1e-2
        own_model.fit(own_train.dataset(), epochs=1, shuffle=False, verbose=2)

        for layer in own_model.layers:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)
        own_model.compile(
            keras.optimizers.Adam(1e-5), "categorical_crossentropy", metrics=["accuracy"]
        )
        run = train(own_model, "drawn_faces", own_train, own_valid, epochs=1)

        assert ship_command.main(["drawn_faces", "--accuracy", "0"]) == 0
        yield run


def test_a_run_on_own_faces_is_found_and_has_its_own_classes(own_run):
    run = own_run
    assert load_run("drawn_faces").class_names == CLASSES
    images, y_true, _ = data.load_split("masks", "test", run.contract.face_input)
    stored_true, stored = run.predictions("test")
    np.testing.assert_array_equal(stored_true, y_true)
    np.testing.assert_allclose(run.load_model().predict(images, verbose=0), stored, atol=1e-5)
    # The trunk may learn, but its batch normalisation keeps its means.
    start = EMOTION[0]
    for before, after in zip(start.layers[:-2], run.load_model().layers[:-2], strict=True):
        pairs = zip(before.get_weights(), after.get_weights())
        changed = any(not np.allclose(*pair, atol=1e-3) for pair in pairs)
        assert not (changed and isinstance(after, layers.BatchNormalization))
    _, contract = load_network("drawn_faces")
    assert contract.class_names == CLASSES and contract.trained_on == "masks, run drawn_faces"
    assert contract.face_input == EMOTION[1].face_input


def test_the_loop_by_name_writes_the_own_labels(own_run, tmp_path):
    table, faces = tmp_path / "faces.csv", tmp_path / "cut"
    options = ["--no-display", "--max-frames", "8", "--csv", str(table), "--save-faces", str(faces)]
    video = ["--output", str(tmp_path / "v.webm")]
    assert run_command.main(["--emotion", "drawn_faces", *options, *video]) == 0
    rows = rows_of_csv(table)
    assert len(rows) == 8 and list(rows[0])[12:] == [
        *(f"p_{name}" for name in CLASSES), "p_female", "p_male"
    ]  # fmt: skip
    for row in rows:
        own = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert own[row["emotion"]] == max(own.values())
        assert sum(own.values()) == pytest.approx(1, abs=1e-3)
    (kept,) = rows_of_csv(faces / "faces.csv")
    assert kept["emotion"] in kept["file"] and (faces / kept["file"]).is_file()


def test_a_run_on_own_faces_is_checked_and_reported_as_others(own_run, monkeypatch):
    run = own_run
    record = read_run(run.folder)
    assert check(record, {}) == [] and not record.is_of_sample
    monkeypatch.setattr(config, "REFERENCE_DIR", REFERENCES)
    page = build_report(run.folder.parent, "x")
    assert all(f">{name}<" in page for name in (*CLASSES, "masks")) and "SAMPLE" not in page


def test_names_of_classes_are_shown_as_they_are():
    def face(name):
        return Face((60, 80, 90, 90), {name: 0.9, "other": 0.1}, {"female": 0.8, "male": 0.2})

    labels = [face(name).label for name in (*CLASSES, "happy")]
    assert labels == ["FFP2, F", "Mütze, F", "Surgical mask, F", "Happy, F"]
    frame = np.full((300, 400, 3), 90, np.uint8)
    drawn = [annotate(frame, [face(name)]) for name in ("Mütze", "Mutze", "Motze")]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert cv2.countNonZero(cv2.absdiff(drawn[0], frame)[:, :, 0])


def test_where_all_validation_images_are_right_no_temperature_is_made_up(own_run, monkeypatch):
    run = own_run
    y_true, _ = run.predictions("valid")
    sure = np.full((len(y_true), 3), 0.2)
    sure[np.arange(len(y_true)), y_true] = 0.6
    monkeypatch.setattr(type(run), "predictions", lambda *_: (y_true, sure))
    monkeypatch.setattr(ship_command, "save_network", lambda *_: None)
    contract, share = ship_command.ship(run, 0.9)
    assert (contract.temperature, contract.unsure_below, share) == (1, 0, 1)
