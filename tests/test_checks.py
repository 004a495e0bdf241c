"""Each lie is told apart, each damage is one sentence, and our own runs hold."""

import io
import json
import os
import shutil
import zipfile
from datetime import datetime, timedelta

import keras
import numpy as np
import pytest
import submissions as made_up
from scipy.stats import chi2_contingency

from commands.checks import check, questions, read_references, reference_of
from commands.layers import count_parameters
from commands.records import (
    FILES,
    MAX_BYTES,
    DamagedRun,
    RunRecord,
    UnfinishedRun,
    read_run,
    read_runs,
)
from utils import config
from utils.evaluation import evaluate
from utils.files import read_json, write_json
from utils.models import BUILDERS
from utils.networks.contract import WEIGHTS_NAME
from utils.networks.structure import describe
from utils.training import Run, reference

REFERENCES = config.REFERENCE_DIR


@pytest.fixture
def references(monkeypatch):
    """Ours, wherever the project of the test is."""
    monkeypatch.setattr(config, "REFERENCE_DIR", REFERENCES)
    return read_references()


def change_facts(folder, change):
    facts = read_json(folder / "run.json")
    change(facts)
    write_json(folder / "run.json", facts)


def change_predictions(folder, change):
    with np.load(folder / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    np.savez_compressed(folder / "predictions.npz", **arrays)


def change_history(folder, change):
    lines = (folder / "history.csv").read_text().splitlines()
    table = [line.split(",") for line in lines]
    change(table, {name: index for index, name in enumerate(table[0])})
    (folder / "history.csv").write_text("\n".join(",".join(row) for row in table))


def test_a_run_as_it_was_written_holds(small_run, references):
    record = read_run(small_run.folder)
    assert check(record, references) == []
    assert questions(record) == []
    # The same numbers as those of the class that reads a run of one's own.
    run = Run(small_run.folder)
    assert (record.name, record.epochs, record.class_names) == ("small", 2, run.class_names)
    assert record.history.equals(run.history) and record.seconds == pytest.approx(run.seconds)
    for split, scores in (("valid", record.valid), ("test", record.test)):
        assert scores == evaluate(*run.predictions(split))
        for mine, theirs in zip(record.predictions(split), run.predictions(split)):
            assert (mine == theirs).all()
    assert (record.folder / WEIGHTS_NAME).is_file()


def test_our_own_runs_hold(references):
    assert len(references) > 45
    for name, record in references.items():
        unknown = name in ("emotion_compact", "gender_compact")  # did not keep their data's sums
        expected = ["labels not checked: no checksum of the data was kept"] * unknown
        assert check(record, references) == expected, name
        assert questions(record) == [], name
        run = Run(REFERENCES / name)
        assert record.test == evaluate(*run.predictions("test")) and record.epochs == run.epochs


def no_images(arrays):
    for key in ("test_true", "test_probabilities"):
        arrays[key] = arrays[key][:-1]


LIES = {
    "labels are not those of its data": (
        change_predictions,
        lambda x: x.update(test_true=x["test_true"][::-1].copy()),
    ),
    "predictions of 14 images, but its data have 15": (change_predictions, no_images),
    "test probabilities: 15 of 15 rows are no probabilities": (
        change_predictions,
        lambda x: x.update(test_probabilities=x["test_probabilities"] * 2),
    ),
    "validation accuracy is": (
        change_predictions,
        lambda x: x.update(valid_probabilities=np.eye(7, dtype=np.float32)[x["valid_true"]]),
    ),
    "% in the last epoch of history.csv": (
        change_history,
        lambda table, at: table[-1].__setitem__(at["val_accuracy"], "0.99"),
    ),
    "history.csv has 1 epochs, but the run was made of 2": (
        change_history,
        lambda table, at: table.pop(1) and table[1].__setitem__(at["epoch"], "0"),
    ),
    "do not follow each other": (
        change_history,
        lambda table, at: table[2].__setitem__(at["epoch"], "5"),
    ),
    "history.csv has 2 epochs, but the run was made of 3": (
        change_facts,
        lambda x: x["made_of"].update(epochs=3),
    ),
    "took 9,00": (change_history, lambda table, at: table[1].__setitem__(at["seconds"], "9000")),
    "took no time, or less": (
        change_history,
        lambda table, at: table[1].__setitem__(at["seconds"], "-1"),
    ),
    "is no day and time": (change_facts, lambda x: x.update(finished="yesterday")),
    "run.json says 5 parameters": (change_facts, lambda x: x.update(parameters=[5, 0])),
    "run.json says 99 training images": (change_facts, lambda x: x.update(train_images=99)),
    "is not the file that this run wrote": (
        change_facts,
        lambda x: x.update(weights_sha256="0" * 64),
    ),
    "utkface has no classes angry": (
        change_facts,
        lambda x: x["made_of"]["batches"].update(dataset="utkface"),
    ),
    "labels of test not checked: data of another copy": (
        change_facts,
        lambda x: x["made_of"]["data"]["test"].update(sha256="0" * 64),
    ),
}


def test_each_lie_is_named_and_nothing_else(small_run, references):
    whole = {name: (small_run.folder / name).read_bytes() for name in FILES}
    for expected, (change, how) in LIES.items():
        for name, content in whole.items():
            (small_run.folder / name).write_bytes(content)
        change(small_run.folder, how)
        found = check(read_run(small_run.folder), references)
        assert len([x for x in found if expected in x]) == 1, (expected, found)
        # Where the classes are others, so are the labels.
        assert len(found) == 1 or "utkface" in expected, (expected, found)


def test_what_explains_a_difference_is_no_lie(small_run, references):
    stop = "EarlyStopping(monitor=val_loss, patience=0, restore_best_weights=True)"

    def stopped(facts):
        facts["made_of"].update(epochs=30, callbacks=[stop])

    change_facts(small_run.folder, stopped)
    assert check(read_run(small_run.folder), references) == []
    # The weights of the best epoch were kept, so any epoch may be that of the predictions.
    stored = read_run(small_run.folder).valid["accuracy"]
    for first, is_lie in ((stored, False), (1 - stored, True)):

        def measured(table, at, first=first):
            table[1][at["val_accuracy"]], table[2][at["val_accuracy"]] = str(first), "0.99"

        change_history(small_run.folder, measured)
        assert bool(check(read_run(small_run.folder), references)) == is_lie
    change_facts(small_run.folder, lambda x: x["made_of"].update(callbacks=["RenewStatistics()"]))
    assert check(read_run(small_run.folder), references) == [
        "history.csv has 2 epochs, but the run was made of 30"
    ]
    change_facts(
        small_run.folder,
        lambda x: x["made_of"].update(epochs=2, callbacks=[], optimizer={"use_ema": True}),
    )
    assert check(read_run(small_run.folder), references) == []


def test_clocks_and_16_bits_explain_some_of_it(tmp_path, references):
    def found(name, run):
        (tmp_path / name).mkdir()
        for file, content in run.items():
            (tmp_path / name / file).write_bytes(content)
        return check(read_run(tmp_path / name), references)

    def short(seconds, **more):
        def change(facts):
            end = datetime.fromisoformat(facts["finished"]) - timedelta(seconds=seconds)
            facts.update(finished=str(end), **more)

        return made_up.change_facts(run, change)

    run = made_up.make_run(0)
    assert not found("hour", short(3000)) and found("lie", short(4000))
    assert not found("day", short(80_000, resumed_after=[3]))
    half = made_up.change_facts(run, lambda x: x["made_of"].update(precision="mixed_bfloat16"))
    assert not found("half", half) and found("edited", made_up.better_predictions(half))


def test_labels_need_the_data_or_a_reference_on_them(small_run, references, capsys):
    table = config.prepared_dir("fer2013") / "labels.csv"
    table.write_text(table.read_text().replace(",", ";"))  # as a spreadsheet saves it
    unknown = ["labels of valid and test not checked: data of another copy"]
    assert check(read_run(small_run.folder), references) == unknown
    assert f"not compared with the data here: {table}" in capsys.readouterr().err
    shutil.rmtree(config.prepared_dir("fer2013"))
    assert check(read_run(small_run.folder), references) == unknown
    # A subset of the classes is known from a run on all of them.
    five = {"emotion_six_conv": references["emotion_six_conv"]}
    assert check(references["emotion_five_classes"], five) == []


def test_a_split_s_name_is_not_made_a_path(small_run, references):
    def elsewhere(facts):
        facts["made_of"]["batches"]["split_name"] = "x/../../../raw"

    change_facts(small_run.folder, elsewhere)
    assert "labels of valid and test not checked" in check(read_run(small_run.folder), {})[0]


# ------------------------------------------------------------------------------- parameters


def lines_of(model):
    model.compile("adam", "categorical_crossentropy")
    return describe(model)["network"]


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "mobilenet"])
def test_parameters_are_those_that_keras_counts(name):
    model = BUILDERS[name]((48, 48, 3), 7)
    assert count_parameters(lines_of(model)) == (model.count_params(), (7,))


def test_parameters_of_a_network_of_one_s_own():
    layers = keras.layers
    inputs = keras.Input((33, 40, 3))
    x = layers.ZeroPadding2D(((0, 1), (2, 3)))(layers.Rescaling(1 / 255)(inputs))
    x = layers.Conv2D(12, (3, 5), strides=2, dilation_rate=1, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, padding="same")(x)
    x = layers.DepthwiseConv2D(3, dilation_rate=2)(x)
    y = layers.Conv2D(8, 1, groups=2)(x)
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.LayerNormalization(axis=[1, 2], center=False)(x)
    x = layers.AveragePooling2D(3, strides=2, padding="same")(x)
    x = layers.MaxPooling2D((2, 1))(layers.ZeroPadding2D(2)(x))
    x = layers.Dense(5, use_bias=False, trainable=False)(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Dropout(0.1)(x)))
    assert count_parameters(lines_of(model)) == (model.count_params(), (2,))
    model = keras.Sequential([inputs, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(7)])
    assert count_parameters(lines_of(model)) == (model.count_params(), (7,))


def test_a_layer_that_is_not_counted_is_said_to_be_unchecked(small_run, references):
    inputs = keras.Input((12, 12, 1))
    x = keras.layers.Flatten()(keras.layers.PReLU()(inputs))
    lines = lines_of(keras.Model(inputs, keras.layers.Dense(7)(x)))
    assert count_parameters(lines) is None
    assert count_parameters(["Dense(units=1) of [7]"]) is None
    assert count_parameters(["x" * 10**6]) is None
    change_facts(small_run.folder, lambda x: x["made_of"].update(network=lines))
    found = check(read_run(small_run.folder), references)
    assert found == ["parameters not checked: some of its layers or outputs are not counted here"]


# -------------------------------------------------------------------------------- questions


def record_of(valid_correct, test_correct, n=1000, dataset="utkface"):
    """A run of which only these counts matter."""
    predicted = {}
    for split, correct in (("valid", valid_correct), ("test", test_correct)):
        y_true = np.repeat([0, 1], [n // 2, n - n // 2])
        y_pred = np.where(np.arange(n) < correct, y_true, 1 - y_true)
        predicted[f"{split}_true"] = y_true
        predicted[f"{split}_probabilities"] = np.eye(2, dtype=np.float32)[y_pred]
    classes = ["female", "male"] if dataset == "utkface" else ["happy", "sad"]
    facts = {"train_images": 9000, "made_of": {"batches": {"dataset": dataset, "classes": classes}}}
    scores = [
        evaluate(predicted[f"{split}_true"], predicted[f"{split}_probabilities"])
        for split in ("valid", "test")
    ]
    return RunRecord(config.RUNS_DIR / "made_up", facts, None, predicted, *scores)


def test_a_test_split_above_validation_by_more_than_chance_is_a_question(references):
    last = None
    for test_correct in range(900, 960):
        table = [[900, 100], [test_correct, 1000 - test_correct]]
        one_sided = chi2_contingency(table, correction=False).pvalue / 2
        asked = questions(record_of(900, test_correct))
        assert bool(asked) == (one_sided < 0.001 and test_correct > 900)
        if asked:
            assert f"(p = {one_sided:.1g})" in asked[0] and "above validation 90.0%" in asked[0]
        last = asked
    assert last
    assert questions(record_of(950, 900)) == [], "below is overfitting, which is no question"


def test_above_the_best_that_is_known_is_a_question(references):
    (asked,) = questions(record_of(985, 985))
    assert "98.5% is above the best that is known of gender (98%)" in asked
    assert questions(record_of(979, 979)) == []
    assert questions(record_of(985, 985, dataset="fer2013")) == [], "of two emotions, who knows"


def test_copies_of_ours_are_a_question(references, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(REFERENCES / "emotion_six_conv", folder)
    assert questions(read_run(folder)) == [
        "its test predictions are those of our emotion_six_conv, digit for digit: a copy?"
    ]


def test_all_copies_of_training_images_right_is_a_question(references, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(REFERENCES / "emotion_final", folder)
    with np.load(REFERENCES / "fer2013_copies.npz") as stored:
        copies = stored["test"]

    def learned(arrays, but=0):
        rows = np.flatnonzero(copies)[but:]
        arrays["test_probabilities"][rows] = np.eye(7)[arrays["test_true"][rows]]

    change_predictions(folder, lambda x: learned(x, but=288 - 200))
    assert not any(
        "copies" in x or "in the training split" in x for x in questions(read_run(folder))
    )
    change_predictions(folder, learned)
    assert any("all 288 test images" in x for x in questions(read_run(folder)))


def test_a_damaged_run_of_ours_is_named_not_missing(tmp_path, monkeypatch):
    shutil.copytree(REFERENCES / "emotion_fer", tmp_path / "emotion_fer")
    monkeypatch.setattr(config, "REFERENCE_DIR", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_run("emotion_fer").is_reference, "from wherever it is named"
    path = tmp_path / "emotion_fer" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match="of our runs, emotion_fer/predictions.npz cannot be read"):
        read_references()
    with pytest.raises(ValueError, match="emotion_fer.predictions.npz cannot be read .*get it"):
        reference("emotion_fer").predictions("test")


def test_a_second_run_of_a_name_is_laid_beside_the_reference_of_the_first(references):
    def named(name):
        return RunRecord(config.RUNS_DIR / name, {}, None, {}, {}, {})

    for name, ours in (
        ("emotion_final", "emotion_final"),
        ("emotion_final_2", "emotion_final"),
        ("gender_final_trial_3", "gender_final_trial_3"),
        ("gender_final_trial_3_2", "gender_final_trial_3"),
    ):
        assert reference_of(named(name), references).name == ours
    assert reference_of(named("mine"), references) is None


# ---------------------------------------------------------------------------------- damages


def nested(depth):
    return '{"finished": ' + "[" * depth + "]" * depth + "}"


def npz(**members):
    """A predictions.npz with these bytes as its arrays."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array, allow_pickle=False):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def with_array(**changes):
    """Whole predictions but for some arrays."""
    arrays = {
        **{f"{split}_true": np.zeros(3, np.uint8) for split in ("valid", "test")},
        **{f"{split}_probabilities": np.eye(7)[[0, 0, 1]] for split in ("valid", "test")},
        **changes,
    }
    return npz(**{k: x if isinstance(x, bytes) else npy(x) for k, x in arrays.items()})


BROKEN = np.full((3, 7), np.nan)
HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999, 7), }".ljust(117) + b"\n"
)
DAMAGES = [
    *((name, content) for name in FILES for content in (b"", b"\0" * 99, b"\xff\xfe{}", b"PK\3\4")),
    *(("run.json", text.encode()) for text in ("[]", "null", "{}", "1e999", nested(15))),
    *(("run.json", text.encode()) for text in (nested(500), nested(100_000), '{"a": NaN}')),
    ("run.json", b'{"finished": "' + b"x" * MAX_BYTES["run.json"] + b'"}'),
    *(
        ("history.csv", text.encode())
        for text in (
            "epoch,seconds\n",
            "epoch,seconds\n0,1,2\n",
            "epoch,seconds\n0,nan\n",
            "epoch,seconds\n1e99,1\n",
            "epoch,seconds\n0.5,1\n",
            "epoch,seconds,seconds\n0,1,1\n",
            "epoch,loss\n0,1\n",
            'epoch,seconds\n"0,1\n',
            "epoch,seconds\n0,x\n",
            "epoch" + ",a" * 500_000 + "\n",
        )
    ),
    *(
        ("predictions.npz", content)
        for content in (
            npz(valid_true=npy(np.zeros(3))),
            with_array(test_true=np.array([0, 1, 7])),
            with_array(test_true=np.array([0, 1, -1])),
            with_array(test_true=np.zeros((3, 1), int)),
            with_array(test_true=np.zeros(0, int), test_probabilities=np.zeros((0, 7))),
            with_array(test_true=np.zeros(2, int)),
            with_array(test_probabilities=np.zeros((3, 6))),
            with_array(test_probabilities=BROKEN),
            with_array(test_probabilities=np.full((3, 7), 1e300)),
            with_array(test_probabilities=np.zeros((3, 7), int)),
            with_array(test_averaged=np.zeros((2, 7))),
            with_array(test_true=npy(np.array([0, [1]], object), allow_pickle=True)),
            with_array(test_probabilities=HUGE),
            with_array(test_probabilities=HUGE + b"\0" * 10**8),  # a bomb: 100 kB
            with_array(test_true=b"\x93NUMPY\x02\x00" + b"{" * 99),
        )
    ),
]


def test_a_damaged_run_is_one_sentence_that_names_the_file(small_run):
    whole = {name: (small_run.folder / name).read_bytes() for name in FILES}
    for number, (name, content) in enumerate(DAMAGES):
        (small_run.folder / name).write_bytes(content)
        with pytest.raises(DamagedRun) as error:
            read_run(small_run.folder)
            pytest.fail(f"{name}, {number} in DAMAGES, was read")
        text = str(error.value)
        assert f"small/{name}" in text and "train the run once more" in text, number
        assert "\n" not in text and len(text) < 400, number
        (small_run.folder / name).write_bytes(whole[name])


WRONG = {
    "made_of": None,
    "made_of epochs": "2",
    "made_of data": {"test": 1},
    "made_of batches": [],
    "made_of batches dataset": "../mine",
    "made_of batches split_name": None,
    "made_of batches labels": 5,
    "made_of batches classes": ["happy", "happy"],
    "made_of batches input": "x",
    "made_of network": [],
    "made_of precision": 16,
    "made_of optimizer": None,
    "made_of callbacks": [1],
    "began": 5,
    "id": ["x"],
    "finished": True,
    "train_images": -1,
    "parameters": [1],
    "versions": "x",
    "weights_sha256": 1,
    "frozen_seconds": "9",
}


def test_a_value_of_another_kind_is_named(small_run):
    whole = (small_run.folder / "run.json").read_bytes()
    for key, wrong in WRONG.items():
        *way, last = key.split()

        def change(facts, way=way, last=last, wrong=wrong):
            for step in way:
                facts = facts[step]
            facts[last] = wrong

        change_facts(small_run.folder, change)
        with pytest.raises(DamagedRun, match=f"small/run.json cannot be used: {key}"):
            read_run(small_run.folder)
        (small_run.folder / "run.json").write_bytes(whole)


def test_files_that_are_no_files_are_not_waited_for(small_run):
    for name in FILES:
        path = small_run.folder / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DamagedRun, match="missing"):
            read_run(small_run.folder)
        path.mkdir()
        with pytest.raises(DamagedRun, match="no plain file"):
            read_run(small_run.folder)
        path.rmdir()
        if hasattr(os, "mkfifo"):
            os.mkfifo(path)
            with pytest.raises(DamagedRun, match="no plain file"):
                read_run(small_run.folder)
            path.unlink()
        path.write_bytes(content)
    read_run(small_run.folder)


def test_text_of_a_run_can_be_written_to_any_file(small_run):
    text = (small_run.folder / "run.json").read_text()
    finished = read_json(small_run.folder / "run.json")["finished"]
    evil = json.dumps("\ud800\x00\x1b[31m\u202enepo")
    (small_run.folder / "run.json").write_text(text.replace(f'"{finished}"', evil))
    record = read_run(small_run.folder)
    finished = record.facts["finished"]
    assert finished.encode() and finished.isprintable()


def test_runs_of_a_folder_are_read_though_some_are_damaged(small_run):
    runs_dir = small_run.folder.parent
    for name in ("begun", "cut", "without"):
        shutil.copytree(small_run.folder, runs_dir / name)
    change_facts(runs_dir / "begun", lambda x: x.pop("finished"))
    (runs_dir / "cut" / "run.json").write_text('{"finished": ')
    (runs_dir / "without" / "run.json").unlink()
    (runs_dir / "notes").mkdir()
    records, failures = read_runs(runs_dir)
    assert list(records) == ["small"] and list(failures) == ["begun", "cut", "without"]
    assert isinstance(failures["begun"], UnfinishedRun)
    assert str(failures["begun"]) == "unfinished, 2 of 2 epochs"
    assert "without/run.json is missing" in str(failures["without"])
