import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from utils import config
from utils.networks.litert import compile_litert
from utils.networks.storage import load_network
from utils.realtime.detection import HaarDetector
from utils.realtime.engine import Engine
from utils.realtime.faces import DEFAULT_GENDER_MODEL, RUNTIMES, FaceClassifier
from utils.realtime.sources import open_source


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder for what is exported, once for all tests here: an export takes many seconds."""
    return tmp_path_factory.mktemp("litert")


@pytest.fixture
def interpreter(monkeypatch, exported):
    """TensorFlow's own interpreter, which has the same interface, where LiteRT is not installed."""
    monkeypatch.setattr(config, "LITERT_DIR", exported)
    if "ai_edge_litert" not in sys.modules:
        stand_in = SimpleNamespace(Interpreter=tf.lite.Interpreter)
        monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", stand_in)


def test_outputs_are_those_of_keras_for_any_number_of_faces(interpreter, exported):
    model, contract = load_network(DEFAULT_GENDER_MODEL)
    call = compile_litert(lambda: model, contract)
    noise = np.random.default_rng(0)
    for count in (1, 4, 4, 1):
        batch = noise.integers(0, 256, (count, *contract.face_input.shape)).astype(np.float32)
        expected = model(batch, training=False).numpy()
        np.testing.assert_allclose(call(batch), expected, atol=1e-3)
    assert (exported / f"{contract.weights_sha256}.tflite").is_file()
    compile_litert(None, contract)(batch)  # the file is there: nothing is exported again


def test_the_loop_says_the_same_by_litert(interpreter):
    with open_source(config.SAMPLE_CLIP) as source:
        frames = list(source)[:20:10]
    said = {}
    for runtime in RUNTIMES:
        labels = said[runtime] = []
        engine = Engine(FaceClassifier(runtime=runtime), HaarDetector())
        for frame in frames:
            labels += [(face.box, face.label, face.confidences) for face in engine.label(frame)]
    assert len(said["keras"]) == 2
    for keras_face, litert_face in zip(said["keras"], said["litert"], strict=True):
        assert keras_face[:2] == litert_face[:2]
        np.testing.assert_allclose(keras_face[2], litert_face[2], atol=1e-3)


def test_without_the_package_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        FaceClassifier(runtime="litert")


def test_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="'onnx'"):
        FaceClassifier(runtime="onnx")


def test_the_loop_does_not_wait_for_tensorflow_before_it_needs_it():
    check = "import sys, utils.realtime.loop; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=config.ROOT).returncode == 0
