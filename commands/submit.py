"""One zip to hand in: the report page, notebooks, runs, answers, and a manifest of it all.

    python tasks.py submit --name "Anna Maier"

What cells put out has no absolute path, no name of a user or machine, no picture of a face.
"""

import argparse
import dataclasses
import getpass
import json
import platform
import re
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import InvalidNotebook

from commands.cells import count_run, find_answers, leave_out_faces, read_notebook
from commands.checks import WEIGHTS_NAME
from commands.packages import MANIFEST, code_checksums, pack
from commands.records import DamagedRun, UnfinishedRun, read_run, run_folders
from commands.report import build_report
from commands.texts import path_of
from utils import config
from utils.files import remove, replaced_when_done

MAX_BYTES = 20_000_000
RUN_FILES = ("run.json", "history.csv", "predictions.npz")
WEIGHT_FILES = ("architecture.json", WEIGHTS_NAME)
NUM_LARGEST = 5
# A notebook's page needs no script and no other file, and whoever opens it runs none.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; font-src data:\">"
)


def submit(output, name="", weights=False, faces=False):
    """Write what a student hands in.

    Parameters
    ----------
    output : pathlib.Path
        The zip.
    name : str
        Of the student or group, for whoever grades.
    weights : bool
        Include the runs' weights.
    faces : bool
        Keep pictures that may show faces.

    Returns
    -------
    dict of str to int
        Packed bytes of each file.

    Raises
    ------
    ValueError
        If the zip would be larger than `MAX_BYTES`; none is written then.
    """
    members, missing = collect(name, weights, faces)
    for line in missing:
        print(f"missing: {line}")
    facts = {
        "name": name,
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        **git_state(),
        "code": code_checksums(),
        "missing": missing,
    }
    with replaced_when_done(output) as partial:
        sizes = pack(partial, members, facts)
        size = partial.stat().st_size
        if size > MAX_BYTES:
            remove(partial)
            raise ValueError(
                f"{output} would have {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} may be "
                f"handed in; the largest files: {_largest(sizes)}. Leave out --weights, delete "
                "runs that you do not need, or clear large outputs of notebooks"
            )
    return sizes


def _largest(sizes):
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:NUM_LARGEST]
    return ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in largest)


def collect(name, weights, faces):
    """Gather what is handed in.

    Returns
    -------
    members : dict of str to (bytes or pathlib.Path)
        By the name in the zip.
    missing : list of str
        What a whole submission has and this one has not.
    """
    missing, members = [], {}
    hide = Places()
    members |= _runs(weights, hide, missing)
    notebooks = _notebooks(faces, hide, missing)
    for path, notebook in notebooks.items():
        content = json.dumps(notebook, indent=1, ensure_ascii=False)
        members[f"notebooks/{path}.ipynb"] = content.encode()
        try:
            members[f"notebooks/{path}.html"] = as_html(content, path).encode()
        except InvalidNotebook as error:  # a picture is named whose pixels are not there
            missing.append(f"{path} as a page ({error}): paste the picture into its cell again")
    answers = [
        {"notebook": path, **dataclasses.asdict(answer)}
        for path, notebook in notebooks.items()
        for answer in find_answers(notebook)
    ]
    empty = [f"{x['notebook'][:2]}.{x['number']}" for x in answers if not x["is_given"]]
    if empty:
        missing.append(
            f"{len(empty)} of {len(answers)} answers are empty: {', '.join(empty)}. They "
            "belong into the cell below their question"
        )
    members["answers.json"] = json.dumps(answers, indent=1, ensure_ascii=False).encode()
    members["answers.md"] = _as_markdown(answers).encode()
    if config.RUNS_DIR.is_dir():
        title = f"Gender and emotion: runs{f' of {name}' if name else ''}"
        members["report.html"] = hide.in_text(build_report(config.RUNS_DIR, title)).encode()
    return members, missing


def _runs(weights, hide, missing):
    """Files of the runs that were begun or finished, without the trials of a search."""
    members, finished, trials = {}, 0, 0
    for folder in run_folders(config.RUNS_DIR):
        try:
            record = read_run(folder)
            if any(str(x).startswith("StopBadTrial(") for x in record.made_of["callbacks"]):
                trials += 1
                continue
            finished += 1
        except UnfinishedRun as error:
            missing.append(f"run {folder.name} is {error}")
        except DamagedRun as error:
            missing.append(f"run {folder.name} is left out: {hide.in_text(str(error))}")
            continue
        for name in RUN_FILES:
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                if name == "run.json":  # callbacks may have been given paths, of any letters
                    text = json.dumps(json.loads(content), indent=2, ensure_ascii=False)
                    content = hide.in_text(text).encode()
                members[f"runs/{folder.name}/{name}"] = content
        if weights and not (folder / WEIGHTS_NAME).is_file():
            missing.append(f"run {folder.name} has no weights ({WEIGHTS_NAME})")
        elif weights:
            members |= {f"runs/{folder.name}/{name}": folder / name for name in WEIGHT_FILES}
    if trials:
        missing.append(f"{trials} trials of tune: train the best of them in full, as tune says")
    if not finished:
        missing.append("no finished run in outputs/runs (those on the sample are not handed in)")
    return members


def _notebooks(faces, hide, missing):
    """Notebooks by name, without faces and without what is personal."""
    notebooks = {}
    for path in sorted((config.ROOT / "notebooks").glob("*.ipynb")):
        try:
            notebook = read_notebook(path.read_bytes(), path.name)
        except ValueError as error:
            missing.append(str(error))
            continue
        if not faces:
            leave_out_faces(notebook)
        run, cells = count_run(notebook)
        if run < cells:
            missing.append(f"{path.name}: {cells - run} of its {cells} cells not run")
        notebooks[path.stem] = hide.in_notebook(notebook)
    if not notebooks:
        missing.append("there is no notebook in notebooks/")
    return notebooks


def as_html(content, title):
    """A notebook, the text of its file, as one page in which no script runs: str."""
    node = nbformat.reads(content, as_version=4)
    page, _ = HTMLExporter().from_notebook_node(node, {"metadata": {"name": title}})
    return page.replace("<head>", f"<head>{POLICY}", 1)


def _as_markdown(answers):
    parts = ["# Answers"]
    for answer in answers:
        parts.append(f"## {answer['notebook']}, {answer['number']}\n\n{answer['question']}")
        if not answer["is_given"]:
            parts.append("*No answer.*")
            continue
        # Indented, as an answer may hold fences of its own.
        for text in (answer["text"], answer["output"]):
            if text:
                parts.append("\n".join(f"    {line}" for line in text.splitlines()))
                parts.append("<!-- -->")  # keeps two indented blocks apart
    return "\n\n".join(parts) + "\n"


HOMES = re.compile(
    r"(?<![\w.])(?:/home|/Users)/+[^/\s'\"<>]+"
    # Names have spaces there, which belong to the path where a slash follows.
    r"|\b[A-Z]:[\\/]+Users[\\/]+(?:[^\\/\n'\"<>|]{1,40}(?=[\\/])|[^\\/\s'\"<>|]+)",
    re.IGNORECASE,
)
# The last part of a path stays, as it says what it was; a picture within HTML is no path.
ABSOLUTE = re.compile(
    r"base64,[A-Za-z0-9+/=\s]+"
    r"|(?<![\w.:/<~…])(?:[A-Za-z]:[\\/]+(?:[\w.+-]+[\\/]+)*|/(?:[\w.+-]+/+)+)(?P<last>[\w.+-]*)"
)
COMMON_NAMES = ("root", "user", "localhost")


class Places:
    """Replaces what tells whose machine this is: folders, user and machine."""

    def __init__(self):
        names = {
            config.named_data_dir(): "data",
            config.ROOT: ".",
            Path(sys.prefix): "PYTHON",
            Path(sys.base_prefix): "PYTHON",
            Path.home(): "~",
            Path(tempfile.gettempdir()): "TEMP",
        }
        names |= {folder.resolve(): name for folder, name in names.items()}
        self._folders = []
        # The longest first: the project usually lies below the home folder.
        for folder, name in sorted(names.items(), key=lambda pair: -len(str(pair[0]))):
            if len(folder.parts) > 1:
                forms = {str(folder), folder.as_posix(), str(folder).replace("\\", "\\\\")}
                form = "|".join(re.escape(x) for x in sorted(forms))
                self._folders.append((re.compile(rf"(?<![\w.])({form})(?![\w-])", re.I), name))
        words = {_user(), platform.node(), platform.node().split(".")[0]}
        words = [re.escape(x) for x in words if len(x) > 3 and x.lower() not in COMMON_NAMES]
        self._words = re.compile(rf"\b({'|'.join(words)})\b", re.I) if words else None

    def in_text(self, text):
        """A text without folders of this machine, or homes of another on which it was run."""
        for pattern, name in self._folders:
            text = pattern.sub(name, text)
        return HOMES.sub("~", text)

    def in_output(self, text):
        """What a cell has put out, without any absolute path, user or machine."""
        text = ABSOLUTE.sub(
            lambda x: x[0] if x["last"] is None else f"…/{x['last']}", self.in_text(text)
        )
        return self._words.sub("NAME", text) if self._words else text

    def in_notebook(self, notebook):
        """A copy of a notebook, see `commands.cells.read_notebook`."""
        change = {"source": self.in_text, "outputs": self._in_outputs}
        cells = [
            {key: change[key](x) if key in change else x for key, x in cell.items()}
            for cell in notebook["cells"]
        ]
        return notebook | {"cells": cells}

    def _in_outputs(self, content, key=""):
        if isinstance(content, dict):
            return {name: self._in_outputs(x, name) for name, x in content.items()}
        if isinstance(content, list):
            return [self._in_outputs(x, key) for x in content]
        is_picture = key.startswith(("image/", "video/", "audio/")) and key != "image/svg+xml"
        return self.in_output(content) if isinstance(content, str) and not is_picture else content


def _user():
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return ""


def git_state():
    """The commit that the project is at, and which of its files were changed since.

    Returns
    -------
    dict
        git: the commit, or "no git"; changed: list of str, or None without git.
    """
    commit = _git("rev-parse", "--show-cdup", "HEAD")
    # A line of its own for the way up: another repository around the project says nothing of it.
    if commit is None or commit.startswith("."):
        return {"git": "no git", "changed": None}
    changed = _git("diff", "--name-only", "-z", "HEAD") or ""
    return {"git": commit.strip(), "changed": [x for x in changed.split("\0") if x]}


def _git(*arguments):
    command = ["git", "-C", str(config.ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return None if done.returncode else done.stdout


def main(arguments=None):
    """Write the zip and say what is in it."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py submit",
        description="One zip to hand in: report, notebooks, runs, answers. No picture of a face, "
        "no absolute path, no name but the one that you give.",
    )
    parser.add_argument("--name", default="", help="of the student or group")
    parser.add_argument(
        "--output", type=path_of, help="the zip (default: outputs/reports/NAME.zip)"
    )
    parser.add_argument("--weights", action="store_true", help="with the runs' weights")
    parser.add_argument("--faces", action="store_true", help="keep pictures that may show faces")
    options = parser.parse_args(arguments)
    file_name = re.sub(r"\W+", "_", options.name).strip("_")[:80] or "submission"
    output = options.output or config.REPORTS_DIR / f"{file_name}.zip"
    try:
        if output.suffix.lower() != ".zip":
            raise ValueError(f"{output} is no name of a zip, expected one that ends in .zip")
        sizes = submit(output, options.name, options.weights, options.faces)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    runs = {name.split("/")[1] for name in sizes if name.startswith("runs/")}
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {len(sizes)} files, {len(runs)} runs; "
        f"{MANIFEST} lists them"
    )


if __name__ == "__main__":
    main()
