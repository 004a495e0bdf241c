import re
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from utils import config
from utils.data.fer import prepare_fer
from utils.data.prepared import audit, fingerprint, likeness_to_training, load_prepared, load_split
from utils.data.utk import prepare_utk
from utils.files import encode_image, read_image
from utils.preprocessing import FIVE_EMOTIONS, face_input_for

GREY = face_input_for("fer2013", 48, 48, "grey")


def test_arrays_follow_the_class_order_and_the_files(prepared_workspace):
    images, y_true, files = load_split("fer2013", "valid", GREY)
    assert images.shape == (14, 48, 48, 1) and images.dtype == np.uint8
    assert y_true.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    for image, path in zip(images, files):
        np.testing.assert_array_equal(image[..., 0], read_image(path)[..., 0])
    assert [path.parent.name for path in files][::2] == [
        "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral",
    ]  # fmt: skip


def test_five_classes_have_indices_of_their_own(prepared_workspace):
    _, y_true, files = load_split("fer2013", "valid", GREY, FIVE_EMOTIONS)
    assert [FIVE_EMOTIONS[y] for y in y_true] == [path.parent.name for path in files]
    assert set(y_true) == {0, 1, 2, 3, 4}


def test_colour_images_are_rgb_and_resized(prepared_workspace):
    rgb = face_input_for("utkface", 100, 100, "rgb")
    images, _, files = load_split("utkface", "test", rgb)
    assert images.shape == (6, 100, 100, 3)
    bgr_means = read_image(files[0]).mean(axis=(0, 1))
    np.testing.assert_allclose(images[0].mean(axis=(0, 1)), bgr_means[::-1], atol=1)


def test_unprepared_data_name_the_notebook(workspace):
    with pytest.raises(FileNotFoundError, match=r"run notebooks/02_prepare_utk\.ipynb first"):
        load_prepared("utkface")


def test_who_only_looks_at_data_does_not_wait_for_tensorflow():
    question = (
        "import sys, utils.data, utils.plots, utils.evaluation, utils.config; "
        "print(*{'tensorflow', 'keras'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", question]
    answer = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_nonsense_is_refused(prepared_workspace):
    with pytest.raises(ValueError, match="'dev'"):
        load_split("fer2013", "dev", GREY)
    with pytest.raises(ValueError, match=r"\['bored'\]"):
        load_split("fer2013", "test", GREY, ["angry", "bored"])


def test_lost_images_are_said_and_strange_files_ignored(prepared_workspace):
    fear = config.prepared_dir("fer2013") / "test" / "fear"
    (fear / ".DS_Store").write_bytes(b"left by a file manager")
    assert len(load_split("fer2013", "test", GREY)[0]) == 15
    first = next(fear.glob("*.png"))
    first.write_bytes(first.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"\.png is damaged: delete .* and run .* again"):
        load_split("fer2013", "test", GREY)
    first.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 15 images are missing"):
        load_split("fer2013", "test", GREY)


def lose_the_last_line(content):
    return b"".join(content.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize("name", ["prepared.json", "labels.csv", "left_out.csv"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff\0\x9d" * 99,
        lambda content: b"{}",
        lose_the_last_line,
    ],
)
def test_a_damaged_table_says_what_to_delete(prepared_workspace, name, damage):
    folder = config.prepared_dir("utkface")
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    advice = re.escape(f"delete {folder} and run notebooks/02_prepare_utk.ipynb again")
    message = f"utkface.*[;:] {advice}"
    for read in (prepare_utk, lambda: load_prepared("utkface")):
        with pytest.raises(ValueError, match=message):
            read()


def test_what_is_not_accounted_for_is_never_written(prepared_workspace):
    prepared = load_prepared("fer2013")
    with pytest.raises(ValueError, match="65 whole rows .* expected 66 together"):
        replace(prepared, left_out=prepared.left_out[:0])


def test_a_folder_of_the_user_is_never_taken_for_prepared_data(workspace):
    mine = workspace / "data" / "fer2013" / "train"
    mine.mkdir(parents=True)
    (mine / "picture.png").touch()
    with pytest.raises(ValueError, match="move it to .*raw"):
        prepare_fer()
    assert (mine / "picture.png").exists()


def test_audit_against_hand_counts():
    labels = pd.DataFrame(
        [
            ("a", "train", "sad"), ("a", "train", "sad"),  # a pair inside training
            ("b", "train", "sad"), ("b", "valid", "fear"), ("b", "test", "fear"),  # crosses twice
            ("c", "valid", "sad"), ("c", "test", "sad"),  # crosses, but not from training
            ("d", "test", "sad"),
        ],
        columns=["sha256", "split", "label"],
    )  # fmt: skip
    assert audit(labels).tolist() == [3, 7, 2, 1, 1, 1]


def test_a_picture_stored_again_is_like_its_original(prepared_workspace):
    prepared = load_prepared("utkface")
    tiny = face_input_for("utkface", 24, 24, "grey")
    _, _, training = load_split("utkface", "train", tiny)
    _, _, files = load_split("utkface", "test", tiny)
    darker = cv2.resize(read_image(training[3]) // 2, (120, 120), interpolation=cv2.INTER_AREA)
    files[1].write_bytes(encode_image(darker, files[1].suffix))
    small = {}
    for name in ("train", "test"):
        images, _, _ = load_split("utkface", name, tiny)
        small[name] = [image.ravel().astype(float) for image in images]
    likeness = likeness_to_training(prepared, "test")
    nearest = [max(np.corrcoef(a, b)[0, 1] for b in small["train"]) for a in small["test"]]
    np.testing.assert_allclose(likeness, nearest, atol=1e-5)
    assert likeness[1] > 0.99 > np.delete(likeness, 1).max()


def test_fingerprint_depends_on_images_and_labels_alone(prepared_workspace):
    prepared = load_prepared("fer2013")
    before = fingerprint(prepared)
    assert [before[split]["images"] for split in ("train", "valid", "test")] == [36, 14, 15]
    renamed = prepared.labels.assign(file=prepared.labels["file"] + "x").sample(frac=1)
    assert fingerprint(replace(prepared, labels=renamed)) == before
    labels = prepared.labels.copy()
    index = labels.index[labels["split"] == "test"][0]
    labels.loc[index, "label"] = "happy" if labels.loc[index, "label"] != "happy" else "sad"
    after = fingerprint(replace(prepared, labels=labels))
    assert after["train"] == before["train"] and after["test"] != before["test"]


def test_exchanged_raw_data_are_prepared_anew(prepared_workspace, capsys):
    before = config.prepared_dir("utkface") / "labels.csv"
    old, written = before.read_text(), before.stat().st_mtime_ns
    prepare_utk()
    assert before.stat().st_mtime_ns == written, "the same raw data are not read again"
    files = sorted((prepared_workspace / "data" / "raw" / "UTKFace").rglob("*.jpg"))
    for path in files[::10]:
        path.unlink()
    capsys.readouterr()
    prepared = prepare_utk()
    assert "it is made anew" in capsys.readouterr().out
    assert prepared.found == len(prepared.labels) + len(prepared.left_out) < len(old.splitlines())
    shutil.rmtree(prepared_workspace / "data" / "raw")
    assert len(prepare_utk().labels) == len(prepared.labels), "prepared data need no raw ones"


def test_what_kaggle_has_is_prepared_beside_our_own_data(workspace, monkeypatch):
    """Its input may only be read: whoever writes there meets a file in the place of the folder."""
    inputs = workspace / "input"
    shutil.copytree(config.SAMPLE_DIR / "raw" / "UTKFace", inputs / "utkface-new" / "UTKFace")
    (inputs / "fer").mkdir()
    (source,) = (config.SAMPLE_DIR / "raw").glob("fer2013.csv*")
    shutil.copy(source, inputs / "fer")
    (inputs / "utkface").touch()
    before = {path: path.stat().st_mtime_ns for path in inputs.rglob("*")}
    monkeypatch.setenv("FACELAB_DATA", str(inputs))
    for prepared in (prepare_fer(), prepare_utk()):
        assert prepared.folder == workspace / "data" / prepared.dataset
        assert len(load_prepared(prepared.dataset).labels) == len(prepared.labels) > 0
    assert {path: path.stat().st_mtime_ns for path in inputs.rglob("*")} == before
