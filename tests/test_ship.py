import keras
import numpy as np
import pytest

from commands import ship as command
from utils import config
from utils.data.prepared import load_split
from utils.evaluation import fit_temperature, sharpen
from utils.files import read_json, write_json
from utils.networks.contract import ModelContract
from utils.networks.litert import export_litert, load_litert
from utils.networks.storage import load_network


def test_a_shipped_network_is_calibrated_and_lies_beside_its_run(small_run, capsys):
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
    call = load_litert(small_run.folder / "network.npz", contract)
    np.testing.assert_allclose(call(images.astype(np.float32)), sure, atol=0.05)
    # The run is what it was: it can be shipped again, for another accuracy.
    assert command.main(["small", "--accuracy", "0"]) == 0
    assert load_network("small")[1].temperature == contract.temperature


def test_the_litert_file_is_made_anew_and_of_32_bits_where_8_lose_something(
    small_run, monkeypatch, capsys
):
    path = small_run.folder / "network.npz"
    assert command.main(["small", "--accuracy", "0"]) == 0
    first = ModelContract.read(path.with_suffix(".json"))
    path.with_suffix(".tflite").unlink()
    assert command.main(["small"]) == 0
    assert ModelContract.read(path.with_suffix(".json")) == first
    model, _ = load_network("small")
    images, _, _ = load_split("fer2013", "valid", first.face_input)
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
    contract = ModelContract.read(path.with_suffix(".json"))
    assert contract.litert_sha256 not in ("", first.litert_sha256)
    call = load_litert(path, contract)
    np.testing.assert_allclose(call(images.astype(np.float32)), expected, atol=1e-5)


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
