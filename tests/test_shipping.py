import numpy as np
import pytest

from utils import config, shipping
from utils.data import load_split
from utils.evaluation import fit_temperature, sharpen
from utils.models import load_pretrained
from utils.training import Run, RunSpec, train


def test_a_shipped_network_is_calibrated(prepared_workspace, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path / "pretrained")
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8, 16]}, batch_size=16)
    run = train(spec)
    y_true, probabilities = run.predictions("valid")
    right = probabilities.argmax(axis=1) == y_true
    sure = sharpen(probabilities, fit_temperature(y_true, probabilities))
    confidence = sure.max(axis=1)
    accuracy = {level: right[confidence >= level].mean() for level in confidence}
    wanted = max(accuracy.values())
    lowest = min(level for level in confidence if accuracy[level] == wanted)

    capsys.readouterr()
    assert shipping.main(["small", "--accuracy", str(wanted)]) == 0
    model, contract = load_pretrained("small")
    assert f"temperature {contract.temperature:.2f}" in capsys.readouterr().out
    assert contract.unsure_below == pytest.approx(lowest, abs=1e-4)
    images, _, _ = load_split("fer2013", "valid", contract.face_input)
    np.testing.assert_allclose(model.predict(images, verbose=0), sure, atol=2e-3)


def test_a_network_of_votes_is_calibrated_by_votes(prepared_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path / "pretrained")
    spec = RunSpec(
        "voted", "fer2013", "compact", 1, arguments={"widths": [8]}, batch_size=16, labels="ferplus"
    )
    run = train(spec)
    y_true, probabilities = run.predictions("valid")
    people = probabilities.argmax(axis=1)
    people[::3] = (people[::3] + 1) % 7  # they see what the network says in two of three images
    votes = 10 * np.eye(7, dtype=int)[people]
    votes[0] = 0  # nobody saw an emotion
    monkeypatch.setattr(shipping, "load_votes", {"valid": votes}.get)
    by_votes = fit_temperature(people[1:], probabilities[1:])
    assert by_votes < 0.5 * fit_temperature(y_true, probabilities), "no difference to be seen"
    contract, share = shipping.ship(run, 0.0)
    assert contract.temperature == pytest.approx(by_votes, abs=1e-4)
    assert share == 1


def test_the_threshold_is_not_rounded_above_the_images_it_is_for(
    prepared_workspace, monkeypatch, tmp_path
):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path / "pretrained")
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8]}, batch_size=16)
    monkeypatch.setattr(shipping, "choose_threshold", lambda *_: (0.99996, 1.0))
    contract, _ = shipping.ship(train(spec), 1.0)
    assert contract.unsure_below == 0.9999


def test_a_network_that_may_know_test_images_is_not_shipped(workspace):
    spec = RunSpec("known", "utkface", "compact", 1, split_name="report")
    with pytest.raises(ValueError, match="learned on the split 'report'"):
        shipping.ship(Run(workspace / "outputs" / "runs" / "known", spec), 0.9)


def test_missing_run_is_an_error_in_a_line(workspace, capsys):
    assert shipping.main(["none", "--accuracy", "0.8"]) == 1
    assert "none is no finished run" in capsys.readouterr().err


def test_an_accuracy_that_is_never_reached_is_refused(prepared_workspace):
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8]}, batch_size=16)
    with pytest.raises(ValueError, match=r"an accuracy of 1\.01 .* ask for less"):
        shipping.ship(train(spec), 1.01)
