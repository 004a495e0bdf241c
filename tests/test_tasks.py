"""The README's commands, from tasks.py on: set-up with small stand-ins, commands for real."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import nullcontext

import pytest
from packaging.requirements import Requirement

from utils import config

SPEC = importlib.util.spec_from_file_location("tasks", config.ROOT / "tasks.py")
Version = namedtuple("Version", "major minor micro releaselevel serial")


@pytest.fixture
def tasks():
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    return module


@pytest.fixture
def installed(tasks, monkeypatch):
    """tasks.py with the set-up done: the environment is the one that runs the tests."""
    monkeypatch.setattr(tasks, "PYTHON", sys.executable)
    monkeypatch.setattr(tasks, "set_up", lambda command: None)
    monkeypatch.setattr(tasks.signal, "signal", lambda *_: None)  # the tests' own stays
    return tasks


def test_run_annotates_the_sample_clip(installed, tmp_path, monkeypatch, capfd):
    output = tmp_path / "annotated.mp4"
    monkeypatch.chdir(tmp_path)  # paths are meant from where the user is
    (tmp_path / "utils.py").write_text("raise RuntimeError")  # of the user's own
    options = ["--no-display", "--max-frames", "3", "--detector", "haar", "--output", output.name]
    assert installed.main(["run", *options]) == 0
    assert "annotated copy:  annotated.mp4" in capfd.readouterr().out
    assert output.stat().st_size > 1000


def test_run_passes_the_exit_code_on(installed, tmp_path, capfd):
    assert installed.main(["run", "--no-display", "--source", str(tmp_path / "none.mp4")]) == 1
    assert "does not exist" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking")
def test_who_ends_it_ends_the_command():
    code = """
import sys, tasks
tasks.PYTHON, tasks.set_up = sys.executable, lambda command: None
script = "import time; print('on', flush=True); time.sleep(20); print('late')"
tasks.COMMANDS["run"] = ["-c", script]
tasks.main(["run"])
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, text=True, cwd=config.ROOT, stdout=subprocess.PIPE) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["starting run ...\n", "on\n"]
        process.terminate()
        assert process.stdout.read() == ""


def test_report_makes_a_page_of_a_folder_of_runs(installed, tmp_path, monkeypatch, capfd):
    names = ("emotion_five_classes", "gender_six_conv")
    for name in names:
        shutil.copytree(config.REFERENCE_DIR / name, tmp_path / "anna" / name)
    monkeypatch.chdir(tmp_path)
    assert installed.main(["report", "--runs", "anna", "--output", "page.html"]) == 0
    assert "report: page.html" in capfd.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(f'<h3 id="{name}">' in page for name in names)


def test_test_collects_unit_tests_and_all_notebooks(installed, capfd):
    # Of the unit tests one file stands for all: to import each takes most of the time.
    tests = config.ROOT / "tests"
    others = (f"--ignore-glob={tests}/test_{x}*" for x in ("[!c]", "c[!o]", "co[!n]"))
    assert installed.main(["test", "--collect-only", "-q", *others]) == 0
    collected = capfd.readouterr().out
    for name in ("test_config.py", "01_prepare_fer", "02_prepare_utk", "03_", "04_", "05_realtime"):
        assert name in collected
    assert "test_fer.py" not in collected


def test_lab_opens_jupyterlab(installed, capfd):
    assert installed.main(["lab", "--version"]) == 0
    assert capfd.readouterr().out.strip().splitlines()[-1].startswith("4.")


@pytest.mark.parametrize("machine, asked", [("Linux", 1), ("Windows", 0)])
def test_lab_gets_what_a_gpu_needs(installed, monkeypatch, capfd, machine, asked):
    calls, started, start = [], [], subprocess.Popen
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(installed.subprocess, "run", lambda call, **_: calls.append(call) or done)
    monkeypatch.setattr(
        installed.subprocess, "Popen", lambda call, **x: started.append(call) or start(call, **x)
    )
    monkeypatch.setattr(installed.platform, "system", lambda: machine)
    monkeypatch.setattr(installed.platform, "machine", lambda: "x86_64")
    assert installed.main(["lab", "--version", "--gpu"]) == 0
    assert [call[-1] for call in calls] == ["tensorflow[and-cuda]"] * asked
    assert started[0][-1] == "--version", "JupyterLab knows no --gpu"
    assert ("on Linux x86_64 alone" in capfd.readouterr().out) == (not asked)


def test_without_a_command_the_commands_are_explained(tasks, capsys):
    assert tasks.main([]) == 0
    assert tasks.main(["fly"]) == 2
    explained = capsys.readouterr().out
    for name, arguments in tasks.COMMANDS.items():
        assert f"python tasks.py {name}" in explained
        assert importlib.util.find_spec(arguments[1]), f"{name} is no module"


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_other_pythons_are_refused_in_a_sentence(tasks, monkeypatch, version):
    monkeypatch.setattr(tasks.sys, "version_info", Version(*version, "final", 0))
    with pytest.raises(SystemExit, match="needs Python 3.11, 3.12 or 3.13"):
        tasks.refuse_unsupported()


@pytest.mark.parametrize(
    "system, machine, made_for, is_refused",
    [
        ("Darwin", "x86_64", "macosx-10.9-universal2", True),
        ("Darwin", "arm64", "macosx-10.9-universal2", False),
        ("Windows", "ARM64", "win-arm64", True),
        ("Windows", "ARM64", "win-amd64", False),  # emulated, which has packages
    ],
)
def test_machines_without_tensorflow_are_refused(
    tasks, monkeypatch, system, machine, made_for, is_refused
):
    monkeypatch.setattr(tasks.platform, "system", lambda: system)
    monkeypatch.setattr(tasks.platform, "machine", lambda: machine)
    monkeypatch.setattr(tasks.sysconfig, "get_platform", lambda: made_for)
    refused = pytest.raises(SystemExit, match="no package for this Python")
    with refused if is_refused else nullcontext():
        tasks.refuse_unsupported()


def test_what_colab_has_is_within_our_bounds():
    def read(name):
        lines = (config.ROOT / name).read_text(encoding="utf-8").splitlines()
        lines = [line.partition("#")[0].strip() for line in lines]
        found = map(Requirement, (line for line in lines if line and line != "-e ."))
        return {each.name.lower(): each.specifier for each in found}

    ours, theirs = read("requirements.txt"), read(".github/colab-requirements.txt")
    # The headless one stands in for OpenCV; tune says that it wants Optuna.
    assert set(ours) - set(theirs) == {"opencv-python", "optuna"}
    pinned = {name: str(x).removeprefix("==") for name, x in theirs.items() if "==" in str(x)}
    assert {name for name in set(ours) & set(pinned) if pinned[name] not in ours[name]} == set()


@pytest.fixture
def fresh(tasks, tmp_path, monkeypatch):
    """A project without requirements and without an environment."""
    (tmp_path / "requirements.txt").write_text("pip  # is there\n# --- the rest\n")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    monkeypatch.setattr(tasks, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(tasks, "PYTHON", tmp_path / tasks.PYTHON.relative_to(config.ROOT))
    monkeypatch.setattr(tasks, "STAMP", tmp_path / ".venv" / "installed.sha256")
    return tasks


def test_set_up_makes_the_environment_once_and_installs_what_is_missing(fresh, monkeypatch, capfd):
    def printed(command):
        fresh.set_up(command)
        return capfd.readouterr().out

    def stand_in(call, **settings):
        """For pip, once it was seen to work and to fail: it takes a second each time."""
        if "install" not in call:
            return run(call, **settings)
        wanted = (fresh.ROOT / call[-1]).read_text() if "-r" in call else " ".join(map(str, call))
        return subprocess.CompletedProcess(call, "no-such-package" in wanted)

    def require(first, rest):
        (fresh.ROOT / "requirements.txt").write_text(f"{first}\n# --- the rest\n{rest}\n")

    assert "making .venv" in printed("lab") and fresh.PYTHON.exists() and fresh.works(fresh.PYTHON)
    assert printed("lab") == printed("run") == ""
    require("./no-such-package  # of the loop", "")
    run = subprocess.run
    for command in ("run", "lab"):
        with pytest.raises(SystemExit, match="repeat the command"):
            fresh.set_up(command)
        started = capfd.readouterr().out
        assert "installing" in started and "making .venv" not in started
        monkeypatch.setattr(fresh.subprocess, "run", stand_in)
    # What run does not need is not installed for it, but then for the others.
    require("pip  # changed", "./no-such-package")
    assert "400 MB" in printed("run") and printed("run") == ""
    with pytest.raises(SystemExit, match="repeat the command"):
        fresh.set_up("lab")
    assert "400 MB" in printed("run"), "what was begun may have broken what was there"
    require("pip  # changed", "# mended")
    assert "2.5 GB" in printed("lab")
    assert printed("lab") == printed("run") == ""
    # One of another Python, or one that does not start, is made anew.
    monkeypatch.setattr(fresh.sys, "version_info", Version(3, 99, 0, "final", 0))
    assert not fresh.works(fresh.PYTHON)
    assert not fresh.works(fresh.ROOT / "no" / "python")


def test_missing_venv_package_is_named(fresh, monkeypatch):
    monkeypatch.setattr(fresh.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="python3-venv"):
        fresh.set_up("run")
