import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from commands import evaluate as command
from utils import config
from utils.data.batches import views
from utils.data.ferplus import load_votes
from utils.data.prepared import (
    copies_of_training,
    fingerprint,
    load_prepared,
    load_split,
    rows_of,
)
from utils.evaluation import (
    accuracy_by,
    age_bands,
    balanced_recall,
    calibration_error,
    choose_child_age,
    choose_threshold,
    confusion,
    evaluate,
    fit_temperature,
    jitter,
    mcnemar,
    per_class,
    reliability,
    resting_face,
    sharpen,
    wilson_interval,
)
from utils.files import write_json
from utils.networks.storage import load_network
from utils.realtime.faces import DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL

PRETRAINED, REFERENCES = config.PRETRAINED_DIR, config.REFERENCE_DIR

# Three classes; true 0 0 0 1 1 2, predicted 0 0 1 1 2 2
Y_TRUE = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.8 + 0.1


def test_confusion_against_a_hand_counted_matrix():
    assert confusion(Y_TRUE, PROBABILITIES).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_confusion_keeps_classes_that_do_not_occur():
    assert confusion(np.array([1]), np.eye(3)[[1]]).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_scores_by_hand():
    scores = evaluate(Y_TRUE, PROBABILITIES)
    assert (scores["n"], scores["correct"]) == (6, 4)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    # F1: class 0: 2*2/(2*2+0+1), class 1: 2/(2+1+1), class 2: 2/(2+1+0)
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_interval_of_the_report_gender_test_set():
    # 189 of 200; Wilson's formula written out
    n, p, z = 200, 189 / 200, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(189, 200) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson_interval(189, 200) == pytest.approx((0.904, 0.969), abs=1e-3)


def test_per_class_table_by_hand():
    table = per_class(Y_TRUE, PROBABILITIES, ["a", "b", "c"])
    assert table["precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["n"].tolist() == [3, 2, 1]
    # (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.96, for 2 of 3, 1 of 2, 1 of 1
    assert table["recall low"].tolist() == pytest.approx([0.208, 0.095, 0.207], abs=1e-3)
    assert table["recall high"].tolist() == pytest.approx([0.939, 0.905, 1], abs=1e-3)


def test_predictions_that_are_no_numbers_are_refused():
    probabilities = np.array([[0.7, 0.3], [np.nan, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match="1 of 3 predictions are not finite"):
        evaluate(np.array([0, 0, 1]), probabilities)


def test_a_class_without_images_can_be_anything():
    table = per_class(np.array([0, 0]), np.eye(2)[[0, 0]], ["a", "b"])
    assert table.loc["b", ["n", "recall low", "recall high"]].tolist() == [0, 0, 1]


def test_balanced_recall_is_the_mean_over_classes_that_occur():
    draw = np.random.default_rng(3)
    y_true, said = draw.choice([0, 1, 3], 300, p=[0.9, 0.07, 0.03]), draw.choice([0, 1, 3], 300)
    scores = balanced_recall(y_true, np.eye(4)[said])
    assert scores["recall"] == pytest.approx(balanced_accuracy_score(y_true, said))
    assert scores["n"] == 300
    # By hand: 2 of 3, 1 of 2, 1 of 1, with the ends of `test_per_class_table_by_hand`.
    scores = balanced_recall(Y_TRUE, PROBABILITIES)
    assert scores["recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    down, up = np.array([2 / 3, 1 / 2, 1]) - [0.208, 0.095, 0.207], [0.272, 0.405, 0]
    assert scores["low"] == pytest.approx(scores["recall"] - np.sqrt((down**2).sum()) / 3, abs=1e-3)
    assert scores["high"] == pytest.approx(
        scores["recall"] + np.sqrt(np.square(up).sum()) / 3, abs=1e-3
    )


def test_balanced_recall_s_interval_holds_the_truth_in_95_of_100_draws():
    draw = np.random.default_rng(0)
    truth, counts = np.array([0.6, 0.9, 0.97]), np.array([12, 60, 400])
    y_true, hits = np.repeat(range(3), counts), 0
    for _ in range(400):
        right = draw.random(len(y_true)) < truth[y_true]
        scores = balanced_recall(y_true, np.eye(3)[np.where(right, y_true, (y_true + 1) % 3)])
        hits += scores["low"] <= truth.mean() <= scores["high"]
    assert 0.92 < hits / 400 < 0.98


def test_resting_face_by_hand():
    votes = np.array([10, 9, 9, 8, 0])
    probabilities = np.full((5, 7), 0.05)
    for row, (said, sure) in enumerate([(6, 0.7), (4, 0.6), (0, 0.4), (3, 0.9), (6, 0.9)]):
        probabilities[row, said] = sure
    scores = resting_face(votes, probabilities)
    assert (scores["n"], scores["otherwise"]) == (3, 2)
    assert scores["share"] == pytest.approx(2 / 3) and scores["confidence"] == pytest.approx(0.5)
    assert (scores["low"], scores["high"]) == wilson_interval(2, 3)
    calm = resting_face(votes, np.eye(7)[[6] * 5])
    assert calm["share"] == 0 and np.isnan(calm["confidence"])


def test_jitter_by_hand():
    table = jitter(np.eye(3)[[0, 1, 2, 2]], {
        "up": np.eye(3)[[0, 1, 2, 0]], "down": np.eye(3)[[1, 1, 2, 1]],
    })  # fmt: skip
    assert table["changed"].to_dict() == {"up": 1, "down": 2, "any": 2}
    assert table["share"].tolist() == [0.25, 0.5, 0.5] and set(table["n"]) == {4}
    assert tuple(table.loc["any", ["low", "high"]]) == wilson_interval(2, 4)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="6 labels and 5 predictions"):
        evaluate(Y_TRUE, PROBABILITIES[:5])
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(np.array([]), np.empty((0, 3)))


def one_hot(classes, sure=0.9):
    """Probabilities with `sure` on these of three classes."""
    return np.full((len(classes), 3), (1 - sure) / 2) + np.eye(3)[classes] * (sure - (1 - sure) / 2)


def test_mcnemar_by_hand():
    y_true = np.zeros(10, dtype=int)
    first = one_hot([0] * 8 + [1, 1])
    second = one_hot([0, 0] + [1] * 6 + [0, 1])
    # Only the first is right on 6 images, only the second on 1: P(X <= 1 or X >= 6), X ~ B(7, 1/2)
    expected = 2 * (1 + 7) / 2**7
    result = mcnemar(y_true, first, second)
    assert (result["first_only"], result["second_only"]) == (6, 1)
    assert result["p_value"] == pytest.approx(expected)
    assert mcnemar(y_true, first, first)["p_value"] == 1


def test_accuracy_of_groups_by_hand():
    table = pd.DataFrame({"race": list("aaab"), "sex": list("fmmm"), "correct": [1, 1, 0, 1]})
    by_race = accuracy_by(table.astype({"correct": bool}), "race")
    assert by_race["n"].tolist() == [3, 1]
    assert by_race["accuracy"].tolist() == pytest.approx([2 / 3, 1])
    assert by_race.loc["a", ["low", "high"]].tolist() == pytest.approx(wilson_interval(2, 3))
    assert accuracy_by(table, ["race", "sex"])["n"].to_dict() == {
        ("a", "f"): 1, ("a", "m"): 2, ("b", "m"): 1,
    }  # fmt: skip


def test_temperature_is_found_again():
    noise = np.random.default_rng(0)
    logits = noise.normal(0, 2, (20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y_true = np.array([noise.choice(3, p=row) for row in honest])
    too_sure = sharpen(honest, 1 / 2.5)
    temperature = fit_temperature(y_true, too_sure)
    assert temperature == pytest.approx(2.5, rel=0.05)
    np.testing.assert_allclose(sharpen(too_sure, 2.5), honest, atol=1e-4)
    before, after = (
        calibration_error(reliability(y_true, p))
        for p in (too_sure, sharpen(too_sure, temperature))
    )
    assert after < 0.02 < before


def test_reliability_by_hand():
    # Two images at 0.9, one of them wrong; one at 0.5 and right: |0.9 - 0.5| 2/3 + |0.5 - 1| 1/3
    probabilities = np.vstack([one_hot([0, 1], 0.9), one_hot([2], 0.5)])
    bins = reliability(np.array([0, 0, 2]), probabilities)
    assert bins["n"].tolist() == [1, 2]
    assert bins["accuracy"].tolist() == [1, 0.5]
    assert calibration_error(bins) == pytest.approx(0.4 * 2 / 3 + 0.5 / 3)


def test_threshold_by_hand():
    # Sorted by confidence: right, right, wrong, right, wrong; shares 1, 1, 2/3, 3/4, 3/5
    confidence = np.array([0.6, 0.9, 0.8, 0.7, 0.95])
    y_true = np.array([1, 0, 1, 0, 0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    assert choose_threshold(y_true, probabilities, 0.75) == (0.7, 0.8)
    assert choose_threshold(y_true, probabilities, 0.9) == (0.9, 0.4)
    assert choose_threshold(y_true, probabilities, 0.5) == (0, 1), "all may be answered"
    ties = np.array([0.9, 0.8, 0.8, 0.7])
    answers = np.stack([ties, 1 - ties], axis=1)  # right, right, wrong, wrong
    assert choose_threshold(np.array([0, 0, 1, 1]), answers, 0.9) == (0.9, 0.25)
    with pytest.raises(ValueError, match="accuracy of 0.9"):
        choose_threshold(1 - y_true[[1, 4]], probabilities[[1, 4]], 0.9)


def test_child_is_said_below_the_lowest_age_from_which_gender_is_right_often_enough():
    # A hundred faces a year from 2 to 40; below 9, gender is a coin's; the age is read rightly.
    ages = np.repeat(np.arange(2, 41), 100)
    right = (ages >= 9) | (np.arange(len(ages)) % 2 == 0)
    wrong_above = {age: 1 - right[ages >= age].mean() for age in (6, 7)}
    assert wrong_above[7] < 0.035 < wrong_above[6]
    assert choose_child_age(right, ages.astype(float), ages) == 6.5, "6.5 lies above those of six"
    # Nowhere often enough: from where on it is right most often.
    seldom = right & (np.arange(len(ages)) % 10 != 1)
    assert choose_child_age(seldom, ages.astype(float), ages) == 8.5
    # One adult in a hundred may be called a child, not more.
    estimated = ages.astype(float)
    estimated[np.flatnonzero(ages >= 18)[:23]] = 5  # of 2,300
    assert choose_child_age(right, estimated, ages) == 6.5
    estimated[ages == 40] = 5  # a hundred more
    assert choose_child_age(right, estimated, ages) == 4.5, "at most 5, above those of four"
    with pytest.raises(ValueError, match="more than 1% of 2300 adults .* learned too little"):
        choose_child_age(right, 0 * estimated, ages)


def test_age_bands_have_their_ends():
    bands = age_bands(pd.Series([0, 5, 6, 18, 60, 61, 116]))
    assert bands.tolist() == ["0-5", "0-5", "6-17", "18-30", "46-60", "61+", "61+"]


@pytest.fixture
def two_shipped(prepared_workspace, monkeypatch):
    """The loop's networks alone: to load and score all of them takes three times as long."""
    monkeypatch.setattr(config, "REFERENCE_DIR", REFERENCES)
    config.PRETRAINED_DIR.mkdir(parents=True)
    for name in (DEFAULT_EMOTION_MODEL, DEFAULT_GENDER_MODEL):
        for path in PRETRAINED.glob(f"{name}.*"):
            shutil.copy(path, config.PRETRAINED_DIR)


def test_shipped_networks_are_scored_from_the_command_line(prepared_workspace, two_shipped, capsys):
    raw = prepared_workspace / "data" / "raw"
    before = sorted(raw.iterdir())
    arguments = ["--fer", raw / "fer2013.csv", "--utk", raw / "UTKFace", "--json", "--ten-views"]
    assert command.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    tables = json.loads(captured.out)
    assert sorted(raw.iterdir()) == before, "raw is only read"
    for dataset, name in (("fer2013", DEFAULT_EMOTION_MODEL), ("utkface", DEFAULT_GENDER_MODEL)):
        (scores,) = [x for x in tables[dataset] if x["test images"] == "all test images"]
        assert scores["model"] == name
        assert f"{name}: not the images or splits of its training run" in captured.err
        model, contract = load_network(name)
        images, y_true, _ = load_split(dataset, "test", contract.face_input)
        expected = evaluate(y_true, model.predict(images, verbose=0))
        assert {key: scores[key] for key in expected} == pytest.approx(expected)
    rows = {record["test images"]: record for record in tables["utkface"]}
    utk = load_prepared("utkface")
    assert (
        f"{utk.found} found, {len(utk.labels)} used, {len(utk.left_out)} left out" in captured.err
    )
    labels = rows_of(utk, "test")
    for part, ends in {"from 6": (6, 200), "18 to 60": (18, 60), "21 to 60": (21, 60)}.items():
        assert rows[f"ages {part}"]["n"] == labels["age"].between(*ends).sum()
    assert rows["female"]["n"] + rows["male"]["n"] == len(labels)
    assert rows["female"]["macro_f1"] is None and rows["ages 18 to 60"]["macro_f1"] is not None
    races = labels["race"].value_counts()
    assert {race: rows[race]["n"] for race in races.index} == races.to_dict()
    # Here model, images and y_true are those of gender, the last of the loop above.
    answers = np.mean([model.predict(view, verbose=0) for view in views(images)], axis=0)
    adult = labels["age"].between(18, 60).to_numpy()
    right = (answers.argmax(axis=1) == y_true)[adult].sum()
    assert rows["ages 18 to 60, ten views"]["correct"] == right


def test_emotions_are_scored_by_people_s_votes_where_these_are_given(
    prepared_workspace, two_shipped, capsys
):
    raw = prepared_workspace / "data" / "raw"
    table = pd.read_csv(raw / "ferplus_votes.csv")
    first = table.index[table["Usage"] == "PrivateTest"][0]
    table.loc[first, table.columns[1:]] = 0
    table.loc[first, ["contempt", "neutral"]] = 8, 2  # the eighth class occurs
    table.to_csv(raw / "ferplus_votes.csv", index=False)
    arguments = ["--fer", raw / "fer2013.csv", "--votes", raw / "ferplus_votes.csv", "--json"]
    assert command.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    records = json.loads(captured.out)["fer2013"]
    model, contract = load_network(DEFAULT_EMOTION_MODEL)
    images, _, _ = load_split("fer2013", "test", contract.face_input)
    says = model.predict(images, verbose=0).argmax(axis=1)
    votes = load_votes("test").tolist()
    clear = [i for i, row in enumerate(votes) if max(row) >= 7]
    right = sum(votes[i][says[i]] == max(votes[i]) for i in clear)
    scores = {row["test images"]: row for row in records}
    agreed = scores["7 of 10 people agree"]
    assert 0 < len(clear) < len(votes)
    assert not any("ten views" in part for part in scores), "ten times the time, unasked"
    assert (agreed["n"], agreed["correct"]) == (len(clear), right)
    assert "see the rows of what people say" in captured.err, "it learned from votes"
    # The rule of FER+'s authors: single votes go, more than half of the rest is needed.
    copies = copies_of_training(load_prepared("fer2013"), "test")
    rest = [
        [x if x > 1 else 0 for x in row] for row in load_votes("test", all_answers=True).tolist()
    ]
    for num_classes in (7, 8):
        counted = [
            i
            for i, row in enumerate(rest)
            if 2 * max(row) > sum(row) and max(row) in row[:num_classes]
        ]
        part = scores[f"majority of people, {num_classes} classes"]
        assert part["n"] == len(counted)
        assert part["correct"] == sum(rest[i][says[i]] == max(rest[i]) for i in counted)
        new = scores[f"majority of people, {num_classes} classes, not in training as well"]
        assert new["n"] == sum(not copies[i] for i in counted)
    everything = scores["not in training as well"]
    assert everything["n"] == (~copies).sum() < len(copies)


def test_what_a_reader_of_the_scores_must_know_is_said(prepared_workspace, monkeypatch, capsys):
    scores = {
        ("mine", "White"): (200, 0.95),
        ("voted", "White"): (200, 0.2),
    }
    table = pd.DataFrame(scores, index=["n", "accuracy"]).T.rename_axis(["model", "test images"])
    monkeypatch.setattr(command, "score_shipped", lambda *_: table.assign(correct=0))
    data = fingerprint(load_prepared("utkface"))
    other = {**data, "train": {**data["train"], "sha256": "another"}}
    for name, images, labels in (("mine", data, "classes"), ("voted", other, "votes, going on")):
        made_of = {"data": images, "batches": {"labels": labels}}
        write_json(
            config.REFERENCE_DIR / name / "run.json", {"finished": "2026", "made_of": made_of}
        )
    assert command.main(["--utk", str(prepared_workspace / "data" / "raw" / "UTKFace")]) == 0
    printed = capsys.readouterr()
    assert "0.95\n" in printed.out and "correct" not in printed.out
    notes = [line for line in printed.err.splitlines() if line.startswith(("mine", "voted"))]
    assert notes == [
        "mine: the same images in the same splits as in its training run",
        "voted: not the images or splits of its training run, so test images may be among those "
        "that it has learned from",
        "voted: it learned from people's votes, not FER-2013's labels alone; see --votes "
        "fer2013new.csv",
    ]


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert command.main(["--fer", str(tmp_path / "none.csv")]) == 1
    assert "none.csv does not exist" in capsys.readouterr().err
    for option, name in (("--utk", "UTKFace.zip"), ("--fer", "fer2013.csv.gz")):
        (tmp_path / name).write_bytes(b"no archive")
        assert command.main([option, str(tmp_path / name)]) == 1
        assert f"{name} cannot be read" in capsys.readouterr().err
    both = ["--fer", str(tmp_path / "fer2013.csv.gz"), "--utk", str(tmp_path / "Typo")]
    assert command.main(both) == 1
    assert "Typo does not exist" in capsys.readouterr().err, "before the first is read"
    for arguments, reason in (
        ([], "give --fer, --utk or both"),
        (["--utk", "UTKFace", "--votes", "votes.csv"], "give --fer as well"),
        (["--run", "x", "--ten-views"], "--run stands alone"),
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert reason in capsys.readouterr().err
