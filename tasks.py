"""Set up and run this project with nothing but Python 3.11, 3.12 or 3.13.

    python tasks.py run     annotate the sample clip, or a camera: python tasks.py run --source 0
    python tasks.py test    run all tests and notebooks on the sample data
    python tasks.py lab     open JupyterLab; with --gpu also install what an NVIDIA GPU needs
    python tasks.py prepare FOLDER   make a data set of your own pictures, a folder for each class
    python tasks.py train   train a network by the recipe of one of our runs (--help lists them)
    python tasks.py tune NAME   search its learning rate and dropout, on one machine or many
    python tasks.py ship    make a run of yours a network that the loop finds (--help says how)
    python tasks.py report  one HTML page from your finished runs
    python tasks.py submit --name NAME   one zip to hand in: page, notebooks, runs, answers
    python tasks.py grade FOLDER         one page and one table from the submissions of a course
    python tasks.py evaluate --fer FILE --utk FOLDER   score the shipped networks on your data
    python tasks.py results write RESULTS.md and its figures from our runs
    python tasks.py benchmark   how fast the loop is here, beside the report's

The first call makes .venv and installs requirements.txt there: its first part for run (a minute,
about 400 MB), all of it for the others (a few minutes, about 2.5 GB). Later calls install again
only when this list has changed.
"""

import hashlib
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.sha256"
REST = "# ---"  # the line of requirements.txt after which comes what run does not need
NAMES = "run prepare train tune ship report submit grade evaluate results benchmark".split()
COMMANDS = {name: ["-m", f"commands.{name}"] for name in NAMES} | {
    "test": ["-m", "pytest", "-n", "2"],
    "lab": ["-m", "jupyterlab", "--LabApp.default_url=/lab/tree/notebooks/01_prepare_fer.ipynb"],
}


def refuse_unsupported():
    """End with a sentence where this Python or machine has no package of TensorFlow or LiteRT."""
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"This is Python {version}, and TensorFlow 2.21 needs Python 3.11, 3.12 or 3.13: "
            "install one of them and use it for this command, for instance "
            "py -3.12 tasks.py (Windows) or python3.12 tasks.py (macOS, Linux)."
        )
    # A Python for x64 on Windows for ARM has packages, although its machine is ARM64.
    made_for = sysconfig.get_platform()
    of_intel = (platform.system(), platform.machine()) == ("Darwin", "x86_64")
    if of_intel or made_for == "win-arm64" or sys.maxsize < 2**32:
        sys.exit(
            f"TensorFlow and LiteRT have no package for this Python ({made_for}): they need a "
            "64-bit Python on Windows x64, macOS 13 or newer with Apple silicon, or Linux."
        )


def works(python):
    """Say whether the environment's Python starts, has pip, and is of this Python's version.

    It does not start once the Python that it was made from was removed.
    """
    if not python.exists():
        return False
    # All that pip begins with: an interruption may have left a part of it.
    question = "import pip._internal.cli.main, sys; print(*sys.version_info[:2])"
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True)
    return answer.stdout.split() == [str(number) for number in sys.version_info[:2]]


def install(*what):
    """Have pip install these requirements, or end with a sentence."""
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.run([*pip, *what], cwd=ROOT).returncode:
        advice = ", without JupyterLab open, and in a short folder such as C:\\facelab"
        sys.exit(
            "pip could not install the requirements (its message is above): repeat the command"
            f"{advice * (os.name == 'nt')}."
        )


def add_gpu():
    """Install the libraries with which the TensorFlow that is there computes on an NVIDIA GPU."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print(
            "--gpu: TensorFlow has packages for GPUs on Linux x86_64 alone, so the processor "
            "computes here; Windows: use WSL2, or Colab (README)"
        )
        return
    print("installing what TensorFlow needs for an NVIDIA GPU (some GB) ...", flush=True)
    install("tensorflow[and-cuda]")


def set_up(command):
    """Make the environment and install what a command lacks there."""
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    first, _ = requirements.split(REST)
    # The folder counts too: an environment that was moved still imports from where it was made.
    # So does where this Python is: under Windows, the environment's is only a way to it.
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    where = f"{ROOT} {sys.base_prefix} {sys.version} {project}"
    light, whole = (
        hashlib.sha256(f"{x}{where}".encode()).hexdigest() for x in (first, requirements)
    )
    installed = STAMP.read_text() if PYTHON.exists() and STAMP.is_file() else ""
    if installed == whole or (installed == light and command == "run"):
        return
    if not works(PYTHON):
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit(
                "This Python cannot make virtual environments: install the package python3-venv "
                f"(sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv) and "
                "repeat the command."
            )
        print("making .venv ...", flush=True)
        try:
            # As `python -m venv` does: copied binaries do not start on macOS.
            venv.create(VENV, with_pip=True, clear=True, symlinks=os.name != "nt")
        except (subprocess.CalledProcessError, OSError) as error:
            sys.exit(
                f"{VENV} could not be made ({error}): close what uses it, delete it and try again."
            )
    if command == "run":
        what = [line.partition("#")[0].strip() for line in first.splitlines()]
        print("installing what run needs into .venv (a minute, about 400 MB) ...", flush=True)
    else:
        what = ["-r", "requirements.txt"]
        print("installing requirements.txt into .venv (minutes, about 2.5 GB) ...", flush=True)
    STAMP.unlink(missing_ok=True)  # one that is interrupted may have removed what was there
    install(*filter(None, what))
    STAMP.write_text(light if command == "run" else whole)


def main(arguments):
    """Set up, then hand over to the command; its exit code is this one's."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if not arguments or arguments[0] in ("-h", "--help", "help") else 2
    refuse_unsupported()
    command, *options = arguments
    set_up(command)
    if command == "lab" and "--gpu" in options:
        options.remove("--gpu")
        add_gpu()
    wait = "" if command == "run" else " (TensorFlow takes a few seconds to load)"
    print(f"starting {command}{wait} ...", flush=True)
    # What run needs does not include this project, whose build takes seconds.
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    import utils  # noqa: F401 (its settings are for what is started, too: notebooks import it late)

    # Paths among the options are meant from where the user is; -P: a utils.py there is not ours.
    start, cwd = ([PYTHON], ROOT) if command in ("test", "lab") else ([PYTHON, "-P"], None)
    process = subprocess.Popen([*start, *COMMANDS[command], *options], cwd=cwd)
    # Who ends this one means the command: a camera must not be recorded on unseen.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # Ctrl-C reached the command too: let it finish its files


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted: repeat the command to go on")
