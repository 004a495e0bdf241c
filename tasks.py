"""Set up and run this project with nothing but Python 3.11, 3.12 or 3.13.

    python tasks.py run     annotate the sample clip, or a camera: python tasks.py run --source 0
    python tasks.py test    run all tests and notebooks on the sample data
    python tasks.py lab     open JupyterLab
    python tasks.py train   train a network by the recipe of one of our runs (--help lists them)
    python tasks.py ship    make a run of yours a network that the loop finds (--help says how)
    python tasks.py report  one HTML page from your finished runs
    python tasks.py submit --name NAME   one zip to hand in: page, notebooks, runs, answers
    python tasks.py grade FOLDER         one page and one table from the submissions of a course
    python tasks.py evaluate --fer FILE --utk FOLDER   score the shipped networks on your data
    python tasks.py results write RESULTS.md and its figures from our runs
    python tasks.py benchmark   how fast the loop is here, beside the report's

The first call makes .venv and installs requirements.txt there (a few minutes, about 2 GB); later
calls install again only when a list of requirements has changed.
"""

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.sha256"
COMMANDS = {
    "run": ["-m", "commands.run"],
    "test": ["-m", "pytest"],
    "train": ["-m", "commands.train"],
    "ship": ["-m", "commands.ship"],
    "report": ["-m", "commands.report"],
    "submit": ["-m", "commands.submit"],
    "grade": ["-m", "commands.grade"],
    "evaluate": ["-m", "commands.evaluate"],
    "results": ["-m", "commands.results"],
    "benchmark": ["-m", "commands.benchmark"],
    "lab": ["-m", "jupyterlab", "--LabApp.default_url=/lab/tree/notebooks/01_prepare_fer.ipynb"],
}


def refuse_unsupported():
    """End with a sentence where TensorFlow has no package for this Python or machine."""
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"This is Python {version}, and TensorFlow 2.21 needs Python 3.11, 3.12 or 3.13: "
            "install one of them and use it for this command, for instance "
            "py -3.12 tasks.py (Windows) or python3.12 tasks.py (macOS, Linux)."
        )
    machine = (platform.system(), platform.machine())
    if machine == ("Darwin", "x86_64") or machine == ("Windows", "ARM64") or sys.maxsize < 2**32:
        sys.exit(
            f"TensorFlow 2.21 has no package for this Python ({' '.join(machine)}): it needs a "
            "64-bit Python on Windows x64, macOS with Apple silicon, or Linux."
        )


def works(python):
    """Say whether the environment's Python starts, has pip, and is of this Python's version.

    It does not start once the Python that it was made from was removed.
    """
    if not python.exists():
        return False
    question = "import pip, sys; print(*sys.version_info[:2])"
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True)
    return answer.stdout.split() == [str(number) for number in sys.version_info[:2]]


def set_up():
    """Make the environment and install what is missing."""
    requirements = b"".join((ROOT / n).read_bytes() for n in ("requirements.txt", "pyproject.toml"))
    # The folder counts too: an environment that was moved still imports from where it was made.
    wanted = hashlib.sha256(requirements + f"{ROOT} {sys.version}".encode()).hexdigest()
    if PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == wanted:
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
        except subprocess.CalledProcessError as error:
            sys.exit(f"pip could not be put into {VENV} ({error}): delete it and try again.")
    print("installing requirements.txt into .venv (a few minutes the first time) ...", flush=True)
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-r", "requirements.txt"], cwd=ROOT).returncode:
        sys.exit(
            "pip could not install the requirements (its message is above): repeat the command."
        )
    STAMP.write_text(wanted)


def main(arguments):
    """Set up, then hand over to the command; its exit code is this one's."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if not arguments or arguments[0] in ("-h", "--help", "help") else 2
    refuse_unsupported()
    set_up()
    command, *options = arguments
    print(f"starting {command} (TensorFlow takes a few seconds to load) ...", flush=True)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # notebooks import Keras before they import utils
    # Paths among the options are meant from where the user is; -P: a utils.py there is not ours.
    start, cwd = ([PYTHON], ROOT) if command in ("test", "lab") else ([PYTHON, "-P"], None)
    process = subprocess.Popen([*start, *COMMANDS[command], *options], cwd=cwd)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # Ctrl-C reached the command too: let it finish its files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
