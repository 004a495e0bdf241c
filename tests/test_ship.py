import shutil
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from commands import ship as command
from commands.evaluate import score_shipped
from commands.weights import score_run
from utils import config
from utils.data.prepared import load_prepared, load_split, rows_of
from utils.evaluation import fit_temperature, sharpen
from utils.files import read_json, write_json
from utils.networks.contract import ModelContract, find_network
from utils.networks.litert import export_litert, run_litert
from utils.networks.storage import load_network
from utils.preprocessing import EMOTIONS


def test_a_shipped_network_is_calibrated_and_lies_beside_its_run(small_run, monkeypatch, capsys):
    y_true, probabilities = small_run.predictions("valid")
    right = probabilities.argmax(axis=1) == y_true
    sure = sharpen(probabilities, fit_temperature(y_true, probabilities))
    confidence = sure.max(axis=1)
    accuracy = {level: right[confidence >= level].mean() for level in confidence}
    wanted = max(accuracy.values())
    lowest = min(level for level in confidence if accuracy[level] == wanted)

    assert command.main(["small", "--accuracy", str(wanted)]) == 0
    assert (small_run.folder / "network.npz").is_file()
    assert not config.PRETRAINED_DIR.exists()
    model, contract = load_network("small")
    printed = capsys.readouterr().out
    assert f"temperature {contract.temperature:.2f}" in printed
    assert f"{(confidence >= lowest).mean():.1%} of the validation images" in printed
    assert "python tasks.py run --emotion small" in printed
    assert contract.unsure_below == pytest.approx(lowest, abs=1e-4)
    assert contract.unsure_below <= lowest, "the images it was chosen for would be unsure"
    assert (contract.class_names, contract.trained_on) == (
        small_run.class_names, "fer2013, run small"
    )  # fmt: skip
    images, _, _ = load_split("fer2013", "valid", contract.face_input)
    np.testing.assert_allclose(model.predict(images, verbose=0), sure, atol=2e-3)
    assert "network.tflite has 0.0 MB, weights of 8 bits" in printed
    call = run_litert(small_run.folder / "network.tflite")
    np.testing.assert_allclose(call(images.astype(np.float32)), sure, atol=0.05)

    # The LiteRT file is made anew, and of 32 bits where 8 lose something.
    path = small_run.folder / "network.npz"
    path.with_suffix(".tflite").unlink()
    assert command.main(["small"]) == 0
    assert ModelContract.read(path.with_suffix(".json")) == contract
    expected = model.predict(images, verbose=0)

    def export(model, path, quantized):
        if quantized:  # one that is sure of the same emotion in every image
            model = keras.models.clone_model(model)
            kernel, bias = model.layers[-1].get_weights()
            model.layers[-1].set_weights([0 * kernel, 50 * (np.arange(len(bias)) == 1)])
        export_litert(model, path, quantized=False)

    monkeypatch.setattr(command, "export_litert", export)
    capsys.readouterr()
    assert command.main(["small"]) == 0
    assert "weights of 32 bits, as 8 would lose" in capsys.readouterr().out
    of_32_bits = ModelContract.read(path.with_suffix(".json"))
    assert of_32_bits.litert_sha256 not in ("", contract.litert_sha256)
    call = run_litert(path.with_suffix(".tflite"))
    np.testing.assert_allclose(call(images.astype(np.float32)), expected, atol=1e-5)
    # The run is what it was: it can be shipped again, for another accuracy.
    assert command.ship(small_run, 0.0)[0].temperature == contract.temperature


def test_a_network_of_votes_is_calibrated_by_votes(small_run, monkeypatch):
    facts = read_json(small_run.folder / "run.json")
    facts["made_of"]["batches"]["labels"] = "votes, going on from another"
    write_json(small_run.folder / "run.json", facts)
    y_true, probabilities = small_run.predictions("valid")
    people = probabilities.argmax(axis=1)
    people[::3] = (people[::3] + 1) % 7  # they see what the network says in two of three images
    votes = 10 * np.eye(7, dtype=int)[people]
    votes[0] = 0  # nobody saw an emotion
    monkeypatch.setattr(command, "load_votes", {"valid": votes}.get)
    by_votes = fit_temperature(people[1:], probabilities[1:])
    assert by_votes < 0.5 * fit_temperature(y_true, probabilities), "no difference to be seen"
    contract, share = command.ship(small_run, 0.0)
    assert contract.temperature == pytest.approx(by_votes, abs=1e-4)
    assert share == 1


def test_the_threshold_is_not_rounded_above_the_images_it_is_for(small_run, monkeypatch):
    monkeypatch.setattr(command, "choose_threshold", lambda *_: (0.99996, 1.0))
    contract, _ = command.ship(small_run, 1.0)
    assert contract.unsure_below == 0.9999


def test_what_cannot_be_shipped_is_said_in_a_line(small_run, capsys):
    def refused(name, accuracy="0"):
        assert command.main([name, "--accuracy", accuracy]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "no finished run 'none' in" in refused("none")
    assert "accuracy of 1.01 on these 14 images" in refused("small", "1.01")
    (small_run.folder / "model.weights.h5").unlink()
    assert "has no weights" in refused("small")
    assert command.main(["none"]) == 1
    assert "no network 'none', there are" in capsys.readouterr().err
    assert not (small_run.folder / "network.npz").exists()


def test_labels_and_votes_become_one_output(told_run, capsys):
    run = told_run("votes")
    mean, chosen = command.choose_mean(run)
    assert command.main(["votes", "--accuracy", "0"]) == 0
    said = f"people's votes count {mean['votes_weight']:.0%}" in capsys.readouterr().out
    assert said == (mean["votes_weight"] > 0 or mean["tau"] > 0)
    model, contract = load_network("votes")
    assert {key: getattr(contract, key) for key in mean} == mean
    (_, own), (_, votes) = (run.predictions("valid", output=x) for x in ("", "votes"))
    logits = (1 - mean["votes_weight"]) * np.log(own) + mean["votes_weight"] * np.log(votes)
    logits = (logits - mean["tau"] * np.log(mean["prior"])) / contract.temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images, y_true, _ = load_split("fer2013", "valid", contract.face_input)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=2e-3)
    np.testing.assert_array_equal(chosen.argmax(axis=1), expected.argmax(axis=1))
    labels = load_prepared("fer2013").labels.query("split == 'train'")["label"].tolist()
    np.testing.assert_allclose(mean["prior"], [labels.count(x) / len(labels) for x in EMOTIONS])


def known_faces(**columns):
    """Six validation faces as the labels have them, and what a network says of them."""
    races = ["White", "Black", "White", "Black", "White", "White"]
    return pd.DataFrame({"age": [2, 5, 7, 20, 40, 83], "race": races, **columns})


def test_what_an_output_for_age_does_is_said_and_a_gap_between_races_is_a_warning():
    said, right = [2.0, 7.0, 8.0, 17.0, 40.0, 83.0], np.array([0, 1, 0, 1, 1, 1], bool)
    first, second = command.describe_age(known_faces(said=said, right=right), 17.5)
    assert first == (
        '"child" below 17.5 years, 33.3% of adults; of other validation faces gender is right in '
        "100.0%; the estimated age is 1.0 years off on average"
    )
    assert second == (
        "warning: from six years on, gender is right in 66.7% (White) to 100.0% (Black) by race, "
        "33.3 points apart"
    )
    _, second = command.describe_age(known_faces(said=said, right=right | True), 17.5)
    assert second.startswith("from six years on") and second.endswith(" 0.0 points apart")


def test_age_is_shipped_as_one_more_column(told_run, monkeypatch, capsys):
    run = told_run("years")
    assert score_run(run.folder)[-2].startswith("Stored predictions are those of these weights")
    images, _, _ = load_split("utkface", "test", run.contract.face_input)
    images = images.astype(np.float32)
    genders, years = run.load_model().predict(images, verbose=0)
    # Of the validation faces it says, from now on, each age and the gender of three.
    monkeypatch.setattr(command, "rows_of", lambda *_: known_faces())
    with np.load(run.folder / "predictions.npz") as stored:
        arrays = dict(stored)
    arrays["valid_probabilities_years"] = np.eye(101, dtype=np.float32)[known_faces()["age"]]
    said = arrays["valid_true"] ^ np.array([1, 1, 0, 0, 1, 0], np.uint8)
    arrays["valid_probabilities"] = (0.2 + 0.6 * np.eye(2)[said]).astype(np.float32)
    np.savez(run.folder / "predictions.npz", **arrays)

    assert command.main(["years", "--accuracy", "0.7"]) == 0
    printed = capsys.readouterr().out
    path, contract = find_network("years")
    assert contract.child_below == 5.5, "from there on three of four are right, nowhere more"
    assert '"child" below 5.5 years, 0.0% of adults; of other' in printed
    assert "gender is right in 75.0%" in printed and "warning: from six years on" in printed
    assert "leaves 100.0% of the validation images, children left out\n" in printed
    by_these = fit_temperature(arrays["valid_true"][2:], arrays["valid_probabilities"][2:])
    assert contract.temperature == pytest.approx(by_these, abs=1e-4)

    answers = load_network("years", with_age=True)[0].predict(images, verbose=0)
    np.testing.assert_allclose(answers[:, :2], sharpen(genders, contract.temperature), atol=5e-3)
    np.testing.assert_allclose(answers[:, 2], years @ np.arange(101), atol=0.1)
    assert np.ptp(answers[:, 2]) > 0.1, "all of one age"
    by_class, _ = load_network("years")
    np.testing.assert_array_equal(by_class.predict(images, verbose=0), answers[:, :2])
    by_litert = run_litert(path.with_suffix(".tflite"))(images)
    np.testing.assert_allclose(by_litert[:, :2], answers[:, :2], atol=0.05)
    np.testing.assert_allclose(by_litert[:, 2], answers[:, 2], atol=1)

    # As one of ours: built by the name of its builder, and scored with the others.
    config.PRETRAINED_DIR.mkdir(parents=True)
    shutil.copy(path, config.PRETRAINED_DIR / "gender_aged.npz")
    ours = replace(contract, architecture="compact", arguments={"widths": [8]})
    ours.write(config.PRETRAINED_DIR / "gender_aged.json")
    built, _ = load_network("gender_aged", with_age=True)
    np.testing.assert_allclose(built.predict(images, verbose=0), answers, atol=1e-5)
    prepared = load_prepared("utkface")
    scores = score_shipped("utkface", prepared).loc["gender_aged"]["age_error"]
    ages = rows_of(prepared, "test")["age"].to_numpy()
    off = np.abs(answers[:, 2] - ages)
    assert scores["ages from 6"] == pytest.approx(off[ages >= 6].mean(), abs=1e-3)
    assert scores["female"] == pytest.approx(off[: len(off) // 2].mean(), abs=1e-3)

    def by_8_bits_a_year_older(model, path, quantized):
        age = model.get_layer("age")
        (kernel,) = age.get_weights()
        age.set_weights([kernel + quantized])
        export_litert(model, path, quantized=False)
        age.set_weights([kernel])

    monkeypatch.setattr(command, "export_litert", by_8_bits_a_year_older)
    capsys.readouterr()
    assert command.main(["years"]) == 0
    assert "of 32 bits, as 8 would lose age" in capsys.readouterr().out

    facts = read_json(run.folder / "run.json")
    facts["made_of"]["data"]["valid"]["sha256"] = "0"
    write_json(run.folder / "run.json", facts)
    assert command.main(["years", "--accuracy", "0.7"]) == 1
    assert "holds other images than years learned from" in capsys.readouterr().err


def test_the_mean_raises_what_is_rare_hears_people_and_is_the_calmest(monkeypatch):
    rows = pd.DataFrame({"label": np.repeat(EMOTIONS, [8, 8, 1, 32, 8, 8, 8])})
    clean = np.full(80, False)
    for name, x in (("load_prepared", None), ("rows_of", rows), ("copies_of_training", clean)):
        monkeypatch.setattr(command, name, lambda *_, x=x: x)

    def sure(said):
        return 0.9 * np.eye(7)[said] + 0.1 / 7

    def chosen(y_true, people, own, votes):
        monkeypatch.setattr(command, "load_votes", lambda _: 10 * np.eye(7, dtype=int)[people])
        run = SimpleNamespace(
            class_names=EMOTIONS,
            predictions=lambda _, output="": (y_true, votes if output else own),
        )
        return command.choose_mean(run)[0]

    y_true = np.repeat([2, 3, 6], [20, 40, 20])
    said = sure(y_true)
    said[:20] = 0.4 * np.eye(7)[2] + 0.5 * np.eye(7)[3] + 0.1 / 7
    assert chosen(y_true, y_true, said, said)["tau"] > 0
    y_true, people = np.repeat([3, 6], [60, 20]), np.repeat([5, 3, 6], [12, 48, 20])
    assert chosen(y_true, people, sure(y_true), sure(people))["votes_weight"] > 0
    own, votes = sure(y_true), sure(y_true)
    own[60:], votes[60:70] = sure(np.full(20, 4)), sure(np.full(10, 4))
    assert chosen(y_true, y_true, own, votes)["votes_weight"] >= 0.5


def test_the_mean_has_the_best_recall_of_those_that_leave_resting_faces_neutral(monkeypatch):
    # Labels find fear and call half of resting faces sad; votes do neither, and both find the rest.
    y_true = np.repeat([2, 6, 4], [20, 40, 20])
    own, votes = 0.9 * np.eye(7)[y_true] + 0.1 / 7, 0.9 * np.eye(7)[y_true] + 0.1 / 7
    own[20:40] = 0.6 * np.eye(7)[4] + 0.3 * np.eye(7)[6] + 0.1 / 7
    votes[:20] = 0.6 * np.eye(7)[6] + 0.3 * np.eye(7)[2] + 0.1 / 7
    people = np.eye(7, dtype=int)[y_true] * 10
    rows = pd.DataFrame({"label": np.array(EMOTIONS)[np.arange(70) % 7]})
    monkeypatch.setattr(command, "load_prepared", lambda _: None)
    monkeypatch.setattr(command, "load_votes", lambda _: people)
    monkeypatch.setattr(command, "rows_of", lambda *_: rows)

    def chosen(copies):
        monkeypatch.setattr(command, "copies_of_training", lambda *_: copies)
        run = SimpleNamespace(
            class_names=EMOTIONS,
            predictions=lambda _, output="": (y_true, votes if output else own),
        )
        mean, _ = command.choose_mean(run)
        np.testing.assert_allclose(mean["prior"], 1 / 7)
        return mean["votes_weight"]

    # One sixth of the weight is enough to call all resting faces neutral, five sixths miss fear.
    assert 1 / 7 < chosen(np.full(80, False)) < 6 / 7
    # Where resting faces do not count, as copies, labels alone are right about all.
    assert chosen((np.arange(80) >= 20) & (np.arange(80) < 40)) == 0
