import re
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from scenes import FakeCamera, face_at, labeller, noise, rows_of_csv, still
from stand_ins import EMOTION, GENDER, of_both_views

from utils import config
from utils.data.batches import load_batches
from utils.data.prepared import rows_of
from utils.files import encode_image, read_image
from utils.models import add_head, build_compact_cnn
from utils.networks.contract import ModelContract
from utils.networks.storage import join_age, load_network
from utils.preprocessing import EMOTIONS, face_input_for
from utils.realtime import display, sources
from utils.realtime.detection import HaarDetector
from utils.realtime.engine import STAGES
from utils.realtime.faces import DEFAULT_GENDER_MODEL, FaceClassifier
from utils.realtime.loop import run
from utils.realtime.sources import open_source
from utils.training import load_run, train


@pytest.fixture(scope="module")
def classifier():
    return FaceClassifier(EMOTION, GENDER)


@pytest.fixture(scope="module")
def clip_frames():
    return list(open_source(config.SAMPLE_CLIP))


# --- sources


def test_video_gives_every_frame(clip_frames):
    source = open_source(str(config.SAMPLE_CLIP))
    assert source.frames_per_second == 25 and source.num_frames == len(clip_frames) == 60
    assert clip_frames[0].shape == (360, 640, 3)


def test_folder_of_pictures_is_sorted(tmp_path):
    for name, value in (("b.png", 2), ("a.png", 1)):
        (tmp_path / name).write_bytes(encode_image(np.full((4, 4, 3), value, dtype=np.uint8)))
    (tmp_path / "._a.png").write_bytes(b"left by a file manager")
    (tmp_path / "c.txt").write_bytes(b"notes")
    source = open_source(tmp_path)
    assert [frame[0, 0, 0] for frame in source] == [1, 2]
    reason = "end of the pictures; 1 of 3 could not be read: ._a.png ("
    assert source.stop_reason.startswith(reason)
    assert source.stop_reason.endswith("); other files: 1")
    assert [frame[0, 0, 0] for frame in open_source(tmp_path / "b.png")] == [2]


@pytest.mark.parametrize("channels, ndim", [((), 2), ((1,), 3), ((3,), 3), ((4,), 3)])
def test_arrays_of_any_colour_become_bgr(channels, ndim):
    frames = noise(channels=channels)
    assert frames.ndim == ndim
    (frame,) = open_source([frames])
    assert frame.shape == (120, 160, 3)
    assert [f.shape for f in open_source(np.stack([noise(), noise()]))] == [(120, 160, 3)] * 2


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), "x"])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match="a frame has"):
        list(open_source([frame]))


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match="no pictures"):
        open_source(tmp_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match="no video that OpenCV can read"):
        open_source(broken)


def test_no_camera(monkeypatch):
    camera = FakeCamera([], opens=False)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    with pytest.raises(OSError, match="camera 3 cannot be opened"):
        open_source("3")
    assert camera.released


def test_camera_that_stops_ends_the_loop_and_is_released(monkeypatch, classifier):
    camera = FakeCamera([noise(), None, noise()], seconds_between=0.2)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    monkeypatch.setattr(sources, "CAMERA_RETRY_SECONDS", 0)
    summary = run(0, classifier)
    assert summary.frames == 2, "a single failed read is no end"
    assert summary.stop_reason == "camera_0 gave no frame 10 times in a row"
    assert camera.released


# --- faces


def test_the_detector_finds_the_face_of_the_clip(clip_frames):
    found = [HaarDetector().detect(frame) for frame in clip_frames]
    assert sum(len(boxes) == 1 for boxes in found) >= 0.95 * len(found)
    left, top, width, height = found[0][0]
    assert 100 < width < 220 and width == height


def seen_by_both_paths(dataset, model, contract, colour_cast=(0, 0, 0)):
    """Probabilities of a validation image as training feeds it, and as the loop does."""
    batches = load_batches(dataset, "valid", contract.face_input)
    images, _ = next(iter(batches.dataset()))
    in_training = of_both_views(model, images[:1])
    # The picture is the crop of a face: this is the Haar box that leads to just this crop.
    frame = read_image(batches.prepared.folder / rows_of(batches.prepared, "valid")["file"][0])
    frame = (frame.astype(int) + colour_cast).clip(0, 255).astype(np.uint8)
    side = frame.shape[0]
    box_side = side / contract.face_input.crop_scale
    left = side / 2 - box_side / 2
    box = (left, left - side * contract.face_input.crop_shift_down, box_side, box_side)
    label = {"fer2013": "emotion", "utkface": "gender"}[dataset]
    networks = {"emotion": EMOTION, "gender": GENDER, label: (model, contract)}
    (face,) = FaceClassifier(**networks).classify(frame, [box])
    return in_training, list(getattr(face, f"{label}_probabilities").values())


@pytest.mark.parametrize("dataset, network", [("fer2013", EMOTION), ("utkface", GENDER)])
def test_realtime_sees_what_training_sees(prepared_workspace, dataset, network):
    in_training, in_the_loop = seen_by_both_paths(dataset, *network)
    np.testing.assert_allclose(in_the_loop, in_training, atol=1e-6)


def test_a_network_for_large_colour_input_sees_what_it_learned_from(prepared_workspace):
    """FER-2013 in three channels: the loop's coloured frame must become grey and coarse first."""
    face_input = face_input_for("fer2013", 96, 96, "rgb")
    contract = ModelContract("compact", {"widths": [8]}, EMOTIONS, face_input, "nothing")
    network = build_compact_cnn(face_input.shape, len(EMOTIONS), widths=[8]), contract
    in_training, in_the_loop = seen_by_both_paths("fer2013", *network, colour_cast=(0, 0, 0))
    np.testing.assert_allclose(in_the_loop, in_training, atol=1e-3)
    # Blue weighs 0.114 and red 0.299: this cast leaves the grey value as it was.
    cast = (29.9, 0, -11.4)
    _, with_cast = seen_by_both_paths("fer2013", *network, colour_cast=cast)
    np.testing.assert_allclose(with_cast, in_training, atol=1e-2)


def test_a_network_that_was_just_trained_labels_faces(prepared_workspace):
    model, contract = keras.models.clone_model(EMOTION[0]), EMOTION[1]
    batches = [load_batches("fer2013", x, contract.face_input) for x in ("train", "valid")]
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    train(model, "mine", *batches, epochs=1)
    mine = load_run("mine")
    classifier = FaceClassifier((mine.load_model(), mine.contract), GENDER)
    (face,) = classifier.classify(noise(), [(10, 10, 60, 60)])
    assert tuple(face.emotion_probabilities) == EMOTIONS


def test_networks_in_the_wrong_places_are_refused():
    for networks, wanted in (((GENDER, GENDER), "none"), ((EMOTION, EMOTION), "some")):
        with pytest.raises(ValueError, match=f"has the classes .*expected {wanted} of .*female"):
            FaceClassifier(*networks)


def gender_of(age, child_below=8.0):
    """An untrained network that says female or male, and this age of each face."""
    model, contract = GENDER
    aged = keras.Model(model.input, [model.output, add_head(model, "years", 101)])
    kernel, _ = aged.get_layer("years_logits").get_weights()
    aged.get_layer("years_logits").set_weights([0 * kernel, 99.0 * (np.arange(101) == age)])
    return join_age(aged), replace(contract, child_below=child_below)


def test_of_a_child_no_gender_is_said_and_an_age_only_if_asked(classifier):
    frame, boxes = noise(), [(10, 10, 60, 60), (70, 30, 80, 80)]
    for age, gender in ((7, "child"), (8, "[FM]"), (31, "[FM]")):
        network = gender_of(age)
        for show_age, end in ((False, ""), (True, f", {age}")):
            faces = FaceClassifier(EMOTION, network, show_age).classify(frame, boxes)
            for face in faces:
                assert re.fullmatch(f"[A-Z][a-z]+, {gender}{end}", face.label)
                numbers = 1 if gender == "child" else 2
                assert face.caption.startswith(f"{face.label}  ")
                assert face.caption.count("%") == numbers
                assert set(face.gender_probabilities) == {"female", "male"}
    plain = classifier.classify(frame, boxes)
    for before, now in zip(plain, faces, strict=True):
        assert now.gender_probabilities == pytest.approx(before.gender_probabilities, abs=1e-5)
    with pytest.raises(ValueError, match=r"\(nothing\) has no output for age, .* leave --age out"):
        FaceClassifier(EMOTION, GENDER, show_age=True)
    # A network that was trained with an age, by its class alone; and as it is loaded without.
    model, contract = GENDER
    both = keras.Model(model.input, [model.output, add_head(model, "years", 101)])
    shipped = load_network(DEFAULT_GENDER_MODEL)
    for network in ((both, contract), shipped):
        (face, *_) = FaceClassifier(EMOTION, network).classify(frame, boxes)
        assert face.gender != "child" and face.label[-1] in "FM?"


def test_all_faces_of_a_frame_are_one_batch_and_one_of_mirror_images(classifier, monkeypatch):
    frame = noise()
    boxes = [(10, 10, 60, 60), (70, 30, 80, 80), (-20, -20, 70, 70), (120, 80, 70, 70)]
    calls = []
    call = classifier.emotion._call
    monkeypatch.setattr(classifier.emotion, "_call", lambda x: calls.append(x) or call(x))
    together = classifier.classify(frame, boxes)
    faces, mirrored = calls
    assert len(faces) == 4
    np.testing.assert_array_equal(mirrored, np.flip(faces, axis=2))
    for box, face in zip(boxes, together):
        (alone,) = classifier.classify(frame, [box])
        assert alone.emotion_probabilities == pytest.approx(face.emotion_probabilities, abs=1e-5)
        assert face.box == box
    assert classifier.classify(frame, []) == []


# --- the loop


def test_what_is_not_sure_enough_is_not_said():
    assert face_at((0, 0, 9, 9)).label == "Happy, F"
    assert face_at((0, 0, 9, 9), gender=0.1).label == "Happy, M"
    assert face_at((0, 0, 9, 9), unsure_below=(0.95, 0.0)).label == "Unsure, F"
    assert face_at((0, 0, 9, 9), unsure_below=(0.9, 0.81)).label == "Happy, ?"


def test_a_film_is_shown_at_its_own_speed(classifier):
    source = sources.FrameSource("film", iter([noise()] * 4), frames_per_second=20)
    start = time.perf_counter()
    run(source, classifier, show=lambda picture: None)
    assert time.perf_counter() - start >= 0.15


def test_a_film_that_nobody_watches_is_read_whole(tmp_path):
    boxes = (10, 10, 40, 40), (60, 10, 40, 40), (110, 10, 40, 40)
    slow = labeller()
    at_once = slow.classify
    slow.classify = lambda *faces: (time.sleep(0.02), at_once(*faces))[1]
    rows = {}
    for name, show in (("unseen", None), ("shown", lambda picture: True)):
        path = tmp_path / f"{name}.csv"
        run([noise()] * 2, slow, still(*boxes), show=show, csv_path=path)
        rows[name] = len(rows_of_csv(path))
    assert rows == {"unseen": 6, "shown": 1 + 2}, "of a film that is shown, a face a frame is read"


def test_pictures_of_a_folder_are_not_a_film(tmp_path):
    """Faces in one place of two pictures are two people: nothing is averaged over them."""
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(encode_image(noise()))
    rows = tmp_path / "rows.csv"
    run(tmp_path / "pictures", labeller(*[0.9, 0.1] * 2), still((40, 20, 60, 60)), csv_path=rows)
    assert [row["emotion"] for row in rows_of_csv(rows)] == ["happy", "sad"] * 2


@pytest.mark.parametrize(
    "least, label", [((1.1, 0), "Unsure, [FM]"), ((0, 1.1), "(?!Unsure).+, .")]
)
def test_each_network_has_a_threshold_of_its_own(least, label):
    networks = [
        (model, replace(contract, unsure_below=x))
        for (model, contract), x in zip((EMOTION, GENDER), least)
    ]
    (face,) = FaceClassifier(*networks).classify(noise(), [(40, 20, 60, 60)])
    assert re.fullmatch(label, face.label) and ("?" in face.label) == (least[1] > 1)


def test_time_is_kept_by_stage(classifier, monkeypatch):
    detector = SimpleNamespace(detect=lambda frame, known: time.sleep(0.02) or [])
    summary = run([noise()] * 5, classifier, detector)
    assert tuple(summary.stage_seconds) == STAGES
    assert summary.milliseconds["detection"] >= 20 > summary.milliseconds["reading"]
    assert summary.frames_per_second == pytest.approx(5 / sum(summary.stage_seconds.values()))


def test_a_face_keeps_its_label_through_a_single_other_answer(tmp_path):
    """The network is replaced by one that is wrong in every fifth frame."""
    for settings, expected in (({}, {"happy"}), ({"smoothing": 0.0}, {"happy", "sad"})):
        classifier = labeller(*[0.9, 0.9, 0.9, 0.9, 0.1] * 4)
        table, detector = tmp_path / f"{len(expected)}.csv", still((40, 20, 60, 60))
        run([noise()] * 10, classifier, detector, csv_path=table, **settings)
        rows = rows_of_csv(table)
        assert len(rows) == 10 and {row["track"] for row in rows} == {"1"}
        assert {row["emotion"] for row in rows} == expected


def test_the_user_or_a_limit_ends_the_loop(classifier):
    frames = [noise()] * 5
    stopped = run(frames, classifier, show=lambda picture: False)
    assert (stopped.frames, stopped.stop_reason) == (1, "ended by the user")
    assert run(frames, classifier, max_frames=3).frames == 3
    whole = run(frames, classifier)
    assert (whole.frames, whole.frames_with_face) == (5, 0)
    assert whole.stop_reason == "end of the frames"


def test_mirror_swaps_left_and_right(classifier):
    frame = noise()
    seen = []
    still = SimpleNamespace(detect=lambda frame, known: seen.append(frame) or [])
    run([frame], classifier, detector=still, mirror=True)
    np.testing.assert_array_equal(seen[0], frame[:, ::-1])


def test_all_faces_of_a_picture_are_read_although_somebody_looks(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encode_image(noise(120, 200)))
    slow, boxes, shown = labeller(), [(40 * x, 10, 30, 30) for x in range(5)], []
    said = slow.classify
    slow.classify = lambda frame, boxes: [time.sleep(0.02), *said(frame, boxes)][1:]
    path = tmp_path / "b.png"
    run(tmp_path / "a.png", slow, still(*boxes), shown.append, path, path.with_suffix(".csv"))
    assert len(rows_of_csv(path.with_suffix(".csv"))) == 5
    np.testing.assert_array_equal(read_image(path), shown[0])


def test_no_frames_cannot_be_asked_for(classifier):
    with pytest.raises(ValueError, match="max_frames is 0"):
        run([noise()], classifier, max_frames=0)


def test_no_window_without_a_display(monkeypatch):
    monkeypatch.setattr(display.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not display.can_open_window()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert not display.can_open_window(), "OpenCV's wheel has no Wayland support"


def test_a_window_only_where_the_display_answers(monkeypatch):
    monkeypatch.setattr(display.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    for code, answers in ((0, True), (-6, False)):  # Qt aborts
        done = SimpleNamespace(returncode=code)
        monkeypatch.setattr(display.subprocess, "run", lambda *_, done=done, **__: done)
        assert display.can_open_window() is answers

    def hangs(command, timeout, **_):
        raise display.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(display.subprocess, "run", hangs)
    assert not display.can_open_window()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_no_window_on_a_display_that_is_gone(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":4999")
    assert not display.can_open_window()


def test_window_ends_with_q_or_when_it_is_closed(monkeypatch):
    monkeypatch.setattr(display.sys, "platform", "linux")
    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture.shape))
    for key, visible, goes_on in ((255, 1.0, True), (ord("q"), 1.0, False), (255, 0.0, False)):
        monkeypatch.setattr(cv2, "waitKey", lambda delay, key=key: key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_, visible=visible: visible)
        assert display.show_in_window(noise()) is goes_on
    monkeypatch.setattr(display.sys, "platform", "darwin")  # there, a minimised one is invisible
    assert display.show_in_window(noise()) and set(shown) == {noise().shape}
    for height, width in ((1920, 1080), (1080, 1920), (720, 1280)):
        display.show_in_window(np.zeros((height, width, 3), np.uint8))
    assert shown[-3:] == [(720, 405, 3), (720, 1280, 3), (720, 1280, 3)], "larger than a screen"


# --- with the shipped networks


def test_the_shipped_networks_label_the_smiling_woman(clip_frames):
    labels = []
    classifier = FaceClassifier()
    for frame in clip_frames[::4]:
        labels += [f.label for f in classifier.classify(frame, HaarDetector().detect(frame))]
    assert labels.count("Happy, F") >= 0.8 * len(labels) > 0
