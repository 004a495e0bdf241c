"""Training on two devices: two logical processors of one machine, and two processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from utils import config, training
from utils.distribution import check_shares, choose_strategy, is_chief
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
        "shared", "fer2013", "final", 1,
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


@pytest.fixture
def start():
    """Starts the script in processes of their own, which do not outlive the test."""
    processes = []

    def start_one(project, logical_devices=0, worker=0, cluster=None):
        environment = {**os.environ, "FACELAB_SAMPLE": "0", "PYTHONPATH": str(config.ROOT)}
        environment.pop("FACELAB_DATA", None)
        environment.pop("TF_CONFIG", None)
        if cluster:
            task = {"type": "worker", "index": worker}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        changes, log = project / f"{worker}.npz", project / f"{worker}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, project, str(logical_devices), changes],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)

        def finish():
            """What the training changed, by array."""
            assert process.wait(timeout=240) == 0, log.read_text(errors="replace")[-3000:]
            with np.load(changes) as stored:
                return dict(stored)

        return finish

    yield start_one
    for process in processes:
        process.kill()
        process.wait()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes projects with the prepared sample, as full data."""
    monkeypatch.setenv("FACELAB_SAMPLE", "0")
    monkeypatch.delenv("FACELAB_DATA", raising=False)

    def make(name):
        shutil.copytree(config.SAMPLE_DIR / "raw", tmp_path / name / "data" / "raw")
        with monkeypatch.context() as patch:
            patch.setattr(config, "ROOT", tmp_path / name)
            prepare_fer()
        return tmp_path / name

    return make


def check(project, changes, on_one_device):
    run = training.Run(project / "outputs" / "runs" / "shared", None)
    assert len(pd.read_csv(run.folder / "history.csv")) == 1, "an epoch is written once"
    assert run.metrics["devices"] == 2
    assert run.metrics["valid"]["accuracy"] == pytest.approx(run.history["val_accuracy"][1])
    assert changes["steps"] == on_one_device["steps"] == 3
    assert changes.keys() == on_one_device.keys()
    for name, expected in on_one_device.items():
        # Rounding grows with each step, so these are few and small. On noise they differ by 2 %,
        # and more than the change itself where each device normalised by its own half of a batch.
        difference = np.linalg.norm(changes[name] - expected)
        assert difference <= 0.1 * np.linalg.norm(expected) + 1e-8, name


def test_two_devices_or_machines_learn_as_one(project, start):
    # All at a time: they wait for each other and for TensorFlow more than they compute.
    finish_one = start(project("one"))
    two_devices, two_machines = project("devices"), project("machines")
    finish_devices = start(two_devices, logical_devices=2)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    # The two machines share the folder.
    workers = [start(two_machines, worker=index, cluster=cluster) for index in (0, 1)]

    on_one_device = finish_one()
    check(two_devices, finish_devices(), on_one_device)
    chief, other = (finish() for finish in workers)
    check(two_machines, chief, on_one_device)
    for name in chief:
        np.testing.assert_array_equal(chief[name], other[name])


@pytest.mark.parametrize(
    "num_images, batch_size, devices, shared",
    [
        (30, 10, 3, True),  # 4, 4 and 2
        (36, 10, 3, True),  # the last: 2, 2 and 2
        (34, 10, 3, False),  # the last: 2, 2 and none
        (32, 10, 3, False),
        (28_709, 70, 4, False),  # the last: 3, 3, 3 and none
        (28_709, 70, 2, True),
        (100, 10, 6, False),  # 2, 2, 2, 2, 2 and none
        (7, 70, 1, True),
    ],
)
def test_batches_must_have_an_image_for_each_device(num_images, batch_size, devices, shared):
    strategy = SimpleNamespace(num_replicas_in_sync=devices)
    if shared:
        check_shares(num_images, batch_size, strategy)
    else:
        with pytest.raises(ValueError, match="expected an image for each"):
            check_shares(num_images, batch_size, strategy)


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
