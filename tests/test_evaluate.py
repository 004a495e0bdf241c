"""A run's own weights, scored; and weights of others that are not loaded."""

import json
import shutil

import h5py
import keras
import numpy as np
import pytest
from stand_ins import small_network

from commands import evaluate as command
from commands import weights
from commands.records import read_run
from commands.weights import find_folder, load_untrusted, score_run
from utils import config
from utils.data.prepared import load_split
from utils.files import read_json, write_json
from utils.networks.contract import WEIGHTS_NAME
from utils.networks.storage import load_architecture_and_weights, save_architecture_and_weights


@pytest.fixture
def small(small_run):
    return small_run.folder


def scored_by_hand(run):
    """Test images that the run's network reads rightly, without anything of the command."""
    images, y_true, _ = load_split("fer2013", "test", run.contract.face_input)
    model = load_architecture_and_weights(run.folder)
    return int((model(images.astype(np.float32)).numpy().argmax(axis=1) == y_true).sum())


def test_a_run_s_weights_are_scored_here(small_run, capsys):
    assert command.main(["--run", str(small_run.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "Checks of small: all hold."
    assert lines[-2].startswith("Stored predictions are those of these weights (largest diff")
    correct = scored_by_hand(small_run)
    assert lines[-1].startswith(f"Accuracy on the test split: {100 * correct / 15:.1f} % (95 % in")
    assert lines[-1].endswith(", n = 15)")
    assert score_run(find_folder("small")) == lines[-3:], "by its name, too"


def test_the_one_line_of_3589_images(small_run, monkeypatch):
    scores = {"accuracy": 2067 / 3589, "low": 0.5597, "high": 0.5920, "n": 3589}
    monkeypatch.setattr("commands.weights.evaluate", lambda *_: scores)
    assert score_run(small_run.folder)[-1] == (
        "Accuracy on the test split: 57.6 % (95 % interval 56.0 to 59.2, n = 3,589)"
    )


def test_predictions_of_other_weights_are_told(small_run):
    with np.load(small_run.folder / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["test_probabilities"] = np.eye(7, dtype=np.float32)[arrays["test_true"]]
    np.savez_compressed(small_run.folder / "predictions.npz", **arrays)
    lines = score_run(small_run.folder)
    assert lines[-2].startswith("Stored predictions are NOT those of these weights (largest")
    assert f"{100 * scored_by_hand(small_run) / 15:.1f} %" in lines[-1], "what the weights say"


def test_data_of_another_copy_are_told_and_scored(small, capsys):
    facts = read_json(small / "run.json")
    facts["made_of"]["data"]["test"]["sha256"] = "0" * 64
    write_json(small / "run.json", facts)
    assert command.main(["--run", "small"]) == 0
    out = capsys.readouterr().out
    assert "another copy than the run's (test)" in out and "Accuracy on the test split" in out
    shutil.rmtree(config.prepared_dir("fer2013"))
    assert command.main(["--run", "small"]) == 1
    assert "is not prepared: run notebooks/01_prepare_fer" in capsys.readouterr().err


def test_what_is_no_run_and_what_has_no_weights(small, tmp_path, capsys):
    assert command.main(["--run", "none"]) == 1
    assert "none is no run: expected the folder of one, or the name" in capsys.readouterr().err
    (small / WEIGHTS_NAME).unlink()
    assert command.main(["--run", "small"]) == 1
    assert f"{WEIGHTS_NAME} is missing" in capsys.readouterr().err
    (small / "history.csv").write_text("")
    assert command.main(["--run", "small"]) == 1
    assert "small/history.csv is no table" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--run", "small", "--utk", str(tmp_path)])
    assert "--run stands alone" in capsys.readouterr().err


def refuses(folder, words):
    with pytest.raises(ValueError, match=words):
        score_run(folder)


def keep(folder, model):
    save_architecture_and_weights(model, folder)


def between(layer):
    """The small network's input and output, with a layer between."""
    inputs = keras.Input((12, 12, 1))
    x = keras.layers.Flatten()(layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(7, activation="softmax")(x))


def test_no_code_of_a_network_is_run(small, tmp_path):
    witness = tmp_path / "witness"

    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    keep(small, between(keras.layers.Lambda(lambda x: x)))
    refuses(small, "a layer Lambda, which can run code or read files")
    keep(small, between(Own()))
    refuses(small, "expected Keras' own layers: it is not loaded")
    # Keras lets a nested object name any module, wherever it stands.
    keep(small, small_network())
    whole = read_json(small / "architecture.json")
    for evil in (
        {"module": "os", "class_name": "system", "config": f"touch {witness}"},
        {"module": "builtins", "class_name": "function", "config": "eval"},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/x"}},
    ):
        content = json.loads(json.dumps(whole))
        content["config"]["layers"][2]["config"]["kernel_initializer"] = evil
        write_json(small / "architecture.json", content)
        refuses(small, "it is not loaded")
    assert not witness.exists()


def test_own_layers_of_keras_are_loaded(small, small_run):
    layer = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.GroupNormalization(1)])
    keep(small, between(lambda x: layer(x) * 2.0))
    lines = score_run(small)
    assert any("Its weights are" in x and "run.json says" in x for x in lines), lines
    assert "are NOT those of these weights" in lines[-2]


def test_a_network_of_another_form_is_refused(small):
    inputs = keras.Input((8, 8, 1))
    keep(small, keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(inputs))))
    refuses(small, r"from \(8, 8, 1\) to \(7,\), expected \(12, 12, 1\) to \(7,\)")


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"[" * 10**5, b"\xff", b'{"a": {"b": 1}}'])
def test_a_damaged_architecture_is_a_sentence(small, content):
    (small / "architecture.json").write_bytes(content)
    refuses(small, "architecture.json .*cannot be loaded .*ask for both again")


def test_weights_that_are_links_bombs_or_rubbish_are_refused(small, tmp_path, monkeypatch):
    path = small / WEIGHTS_NAME
    whole = path.read_bytes()
    for content in (b"", b"x" * 999, whole[: len(whole) // 2]):
        path.write_bytes(content)
        refuses(small, f"{WEIGHTS_NAME} is damaged .*ask for it again")
    secret = tmp_path / "secret.h5"
    secret.write_bytes(whole)

    def change(how):
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            how(file)

    change(lambda x: x.update({"a": h5py.ExternalLink(str(secret), "/layers")}))
    refuses(small, "has links")
    change(lambda x: x.update({"a": h5py.SoftLink("/layers")}))
    refuses(small, "has links")
    change(
        lambda x: x.create_dataset("a", (9,), "u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    )
    refuses(small, "has arrays that are elsewhere")
    change(lambda x: x.create_dataset("a", (10**6, 10**6), "f4", chunks=(999, 999)))
    refuses(small, r"unpacks to 4,000,000,\d+,\d+ bytes")
    path.write_bytes(whole)
    monkeypatch.setitem(weights.MAX_BYTES, WEIGHTS_NAME, 99)
    refuses(small, "more than 99 bytes")


def test_a_face_input_that_no_network_has_is_refused(small):
    facts = read_json(small / "run.json")
    for change in ({"height": 10**6}, {"height": "9"}, {"colour": "blue"}, {"x": 1}, {"width": 0}):
        wrong = json.loads(json.dumps(facts))
        wrong["made_of"]["batches"]["input"] |= change
        write_json(small / "run.json", wrong)
        refuses(small, "run.json has a face input that cannot be used")
    facts["made_of"]["batches"]["split_name"] = "../x"
    write_json(small / "run.json", facts)
    refuses(small, "names an unknown split")


def test_the_weights_loaded_are_those_of_the_run(small_run):
    model = load_untrusted(small_run.folder, read_run(small_run.folder))
    for mine, theirs in zip(model.get_weights(), small_run.load_model().get_weights(), strict=True):
        assert (mine == theirs).all()
