"""Training on two devices: two logical processors of one machine, and two processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from utils import config, training
from utils.distribution import check_last_batch, choose_strategy, is_chief
from utils.fer import prepare_fer

# Batches of 16 of the sample's 36 training images: three steps an epoch, the last of four images.
SCRIPT = """
import sys
import numpy as np, tensorflow as tf
from pathlib import Path
from utils import config, training

project, logical_devices, changes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if logical_devices:
    processor = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * logical_devices
    tf.config.set_logical_device_configuration(processor, parts)
config.ROOT = project
begun, compiled = [], training._compile
def compile_and_remember(model, *arguments, **options):
    begun.append((model, model.get_weights()))
    compiled(model, *arguments, **options)
training._compile = compile_and_remember
training.train(
    training.RunSpec(
        "shared", "fer2013", "final", 2,
        {"dense_units": [8], "dense_dropout": [0], "conv_dropout": 0},
        batch_size=16, optimizer="sgd", learning_rate=1e-5, augmentation="none",
        precision="float32",
    )
)
(model, before), = begun
np.savez(
    changes, *(after - start for after, start in zip(model.get_weights(), before)),
    steps=model.optimizer.iterations.numpy(),
)
"""


def start(project, changes, logical_devices=0, tf_config=None):
    environment = {**os.environ, "FACELAB_SAMPLE": "0", "PYTHONPATH": str(Path.cwd())}
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(project), str(logical_devices), str(changes)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, changes):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]
    with np.load(changes) as stored:
        return dict(stored)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """How the same training on one device changes each array of weights."""
    changes = prepare(tmp_path_factory.mktemp("one")) / "changes.npz"
    return finish(start(changes.parent, changes), changes)


def prepare(project):
    """A project with the prepared sample, as full data."""
    shutil.copytree(config.SAMPLE_DIR / "raw", project / "data" / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACELAB_SAMPLE", "0")
        patch.setattr(config, "ROOT", project)
        prepare_fer()
    return project


def check(project, changes, on_one_device):
    run = training.Run(project / "outputs" / "runs" / "shared", None)
    assert len(pd.read_csv(run.folder / "history.csv")) == 2, "each epoch is written once"
    assert run.metrics["devices"] == 2
    assert run.metrics["valid"]["accuracy"] == pytest.approx(run.history["val_accuracy"][2])
    assert changes["steps"] == on_one_device["steps"] == 2 * 3
    assert changes.keys() == on_one_device.keys()
    for name, expected in on_one_device.items():
        # Rounding grows with each step, so the steps are small. Measured: 0.11 at most; where each
        # device normalises by its own half of a batch, 1.9.
        difference = np.linalg.norm(changes[name] - expected)
        assert difference <= 0.25 * np.linalg.norm(expected) + 1e-8, name


def test_two_logical_devices_learn_as_one(tmp_path, on_one_device):
    changes = prepare(tmp_path) / "changes.npz"
    check(tmp_path, finish(start(tmp_path, changes, logical_devices=2), changes), on_one_device)


def test_two_machines_learn_as_one(tmp_path, on_one_device):
    prepare(tmp_path)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    files = [tmp_path / f"{index}.npz" for index in (0, 1)]
    processes = [
        start(
            tmp_path,
            file,
            tf_config={"cluster": cluster, "task": {"type": "worker", "index": index}},
        )
        for index, file in enumerate(files)
    ]
    chief, other = (finish(*each) for each in zip(processes, files))
    check(tmp_path, chief, on_one_device)
    for name in chief:
        np.testing.assert_array_equal(chief[name], other[name])


def test_a_last_batch_too_small_to_share_is_refused():
    class Three:
        num_replicas_in_sync = 3

    check_last_batch(30, 10, Three)
    check_last_batch(33, 10, Three)
    with pytest.raises(ValueError, match="last of the batches has 2 images for 3 devices"):
        check_last_batch(32, 10, Three)


def test_one_device_is_used_as_it_is(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    choose_strategy.cache_clear()
    assert choose_strategy() is tf.distribute.get_strategy()
    assert is_chief()


def test_tf_config_says_who_writes(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}}')
    assert not is_chief()
    monkeypatch.setenv("TF_CONFIG", "{worker 1}")
    with pytest.raises(ValueError, match="expected for instance"):
        is_chief()
