import numpy as np
import pytest

from utils import config, shipping
from utils.data import load_split
from utils.evaluation import sharpen
from utils.models import load_pretrained
from utils.training import RunSpec, train


def test_a_shipped_network_is_calibrated(prepared_workspace, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(config, "PRETRAINED_DIR", tmp_path / "pretrained")
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8, 16]}, batch_size=16)
    run = train(spec)
    capsys.readouterr()
    assert shipping.main(["small", "--accuracy", "0.05"]) == 0
    model, contract = load_pretrained("small")
    assert f"temperature {contract.temperature:.2f}" in capsys.readouterr().out
    y_true, probabilities = run.predictions("valid")
    expected = sharpen(probabilities, contract.temperature)
    images, _, _ = load_split("fer2013", "valid", contract.face_input)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=2e-3)
    confidence = expected.max(axis=1)
    sure = confidence >= contract.unsure_below - 1e-4
    assert (expected.argmax(axis=1) == y_true)[sure].mean() >= 0.05


def test_missing_run_is_an_error_in_a_line(workspace, capsys):
    assert shipping.main(["none"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_an_accuracy_that_is_never_reached_is_refused(prepared_workspace):
    spec = RunSpec("small", "fer2013", "compact", 1, arguments={"widths": [8]}, batch_size=16)
    with pytest.raises(ValueError, match="no threshold"):
        shipping.ship(train(spec), 1.01)
