"""The submissions of a course, read without running or believing anything of them.

What cannot be read is said in a sentence, and the others are read all the same.
"""

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from commands import cells, copies, packages
from commands.checks import NOT_CHECKED, check, questions, read_references, reference_of
from commands.packages import Refused
from commands.records import FILES, MAX_BYTES, DamagedRun, read_run
from commands.texts import few, plain, shown
from utils import config
from utils.evaluation import confusion
from utils.networks.structure import DEPENDS_ON_COPY, differences

MAX_RUNS = 100  # of one submission
MAX_NOTEBOOKS = 20
MAX_CELLS, MAX_ANSWERS = 500, 50  # of one notebook
MAX_NOTEBOOK = 30_000_000  # bytes
MAX_MANIFEST = 2_000_000
MAX_TEXT, MAX_QUESTION, MAX_OUTPUT = 4_000, 600, 1_000  # characters that are shown
RUN_FILE = re.compile(rf"(?:.*/)?runs/([^/]+)/({'|'.join(map(re.escape, FILES))})")
# A name that begins with a dot is what macOS packs beside a file.
NOTEBOOK = re.compile(r"(?:.*/)?notebooks/([^./][^/]*)\.ipynb")
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # to Windows
NUM_NAMED = 6  # of the files that were changed
WIDTH, HEIGHT = 300, 110  # of a figure of curves


@dataclass
class Row:
    """A run of a submission.

    Parameters
    ----------
    run : str
    state : str
        Why there are no numbers; empty for a finished run.
    facts : dict
        By the names of `commands.grade.COLUMNS`, and more for the student's page.
    checks, questions, differs : list of str
    curves, matrix : dict, list
        For the student's page.
    trace : commands.copies.Trace or None
    """

    run: str
    state: str = ""
    facts: dict = field(default_factory=dict)
    checks: list = field(default_factory=list)
    questions: list = field(default_factory=list)
    differs: list = field(default_factory=list)
    curves: dict = field(default_factory=dict)
    matrix: list = field(default_factory=list)
    trace: copies.Trace | None = None

    @property
    def is_bad(self):
        """Whether it cannot be read, or something does not hold."""
        return bool(self.state) or any(NOT_CHECKED not in x for x in self.checks)


@dataclass
class Student:
    """What was handed in by one student or group.

    Parameters
    ----------
    number : int
        From 1, by the names of the files.
    file, name : str
        Of the submission, and as its manifest has it.
    problem : str
        Why it could not be read; empty if it could.
    notes : list of str
    rows : list of Row
    notebooks : list of dict
        name, run and cells (how many), shown (see `_shown_cells`).
    answers : dict of (str, int) to commands.cells.Answer
    project : str
        Which commit, and what was changed.
    """

    number: int
    file: str
    name: str = ""
    problem: str = ""
    notes: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    notebooks: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    project: str = ""

    @property
    def title(self):
        """The name that was given, or else that of the file."""
        return self.name or self.file

    @property
    def page(self):
        """Where their page is, below the output folder."""
        stem = re.sub(r"[^A-Za-z0-9]+", "_", self.file.removesuffix(".zip")).strip("_")[:40]
        return f"students/{self.number:02}_{stem}.html"


def _passage(text, limit=MAX_TEXT):
    """Lines of text for a page, and how long they are where some are left out."""
    text = plain(text, kept="\n\t")
    return text if len(text) <= limit else f"{text[:limit]}\n... ({len(text):,} characters)"


def _end_of(output):
    """The last of what a cell printed, where its result is."""
    text = plain(output, kept="\n\t")
    if len(text) <= MAX_OUTPUT:
        return text
    return f"({len(text):,} characters) ...\n{text[-MAX_OUTPUT:]}"


def find_submissions(folder):
    """Zips and folders in a folder, as a course's web page hands them out.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    list of (str, pathlib.Path)
        A name, and where the submission is: each zip in a student's folder is one, whatever lies
        beside it (a course's web page adds texts); without any, the folder is.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: expected one with a zip for each student")
    found = [
        (shown("/".join(place.relative_to(folder).parts), 80), place)
        for path in _visible(folder)
        for place in _zips_in(path) or [path]
    ]
    if not found:
        raise FileNotFoundError(f"{folder} is empty: expected a zip or folder for each student")
    return found


def _visible(folder):
    """What a person sees in a folder, without what macOS leaves beside it."""
    return sorted(x for x in folder.iterdir() if not x.name.startswith((".", "__MACOSX")))


def _zips_in(path):
    """The zips in a folder that is not itself an unpacked submission."""
    try:
        inside = _visible(path) if path.is_dir() and not path.is_symlink() else []
    except OSError:  # not ours to read, which is said when it is opened
        return []
    zips = [x for x in inside if x.suffix.lower() == ".zip"]
    return [] if (path / packages.MANIFEST).exists() else zips


def read_students(folder):
    """Read all submissions in a folder, whatever they hold.

    Returns
    -------
    list of Student
    """
    students, references = [], read_references()
    course = own_notebooks()
    for number, (name, path) in enumerate(find_submissions(folder), start=1):
        student = Student(number, name)
        students.append(student)
        try:
            with packages.opened(path) as package:
                _read(student, package, references, course)
        except Refused as error:
            student.problem = str(error)
        # Whatever a stranger's files provoke, the others' are read.
        except Exception as error:
            student.problem = (
                f"it cannot be read ({type(error).__name__}: {shown(error)}): {packages.ADVICE}"
            )
    rows = [row for student in students for row in student.rows if row.trace]
    for row, asked in zip(rows, copies.ask_about_copies([row.trace for row in rows])):
        row.questions += asked
    return students


def own_notebooks():
    """The course's own notebooks by name, to see what was changed in a student's."""
    paths = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
    return {path.stem: cells.read_notebook(path.read_bytes(), path.name) for path in paths}


def _read(student, package, references, course):
    manifest, unlike = _read_manifest(student, package)
    with tempfile.TemporaryDirectory() as scratch:
        for folder, paths in _copy_runs(student, package, Path(scratch)):
            row = _read_row(student, folder, references)
            row.checks += [
                f"{file} is not the file that submit has packed"
                for file, path in paths.items()
                if path in unlike
            ]
            student.rows.append(row)
    _read_notebooks(student, package, course, unlike)
    student.project = _describe_project(manifest)
    if not (student.rows or student.notebooks):
        zips = "".join(f", but {shown(x)}" for x in package.sizes if x.lower().endswith(".zip"))
        raise Refused(f"there is no run and no notebook in it{zips}: {packages.ADVICE}")


def _read_manifest(student, package):
    """The manifest, and the paths of files that are not those it was packed with."""
    paths = [path for path in package.sizes if path.split("/")[-1] == packages.MANIFEST]
    path = min(paths, key=len, default=None)
    if path is None:
        student.notes.append("no manifest.json: not made by submit, or changed since")
        return {}, set()
    folder = path.removesuffix(packages.MANIFEST)
    try:
        content = json.loads(package.read(path, MAX_MANIFEST))
        sums = {f"{folder}{name}": x["sha256"] for name, x in content["files"].items()}
        manifest = {
            "name": shown(content["name"], 80).strip(),
            "git": shown(content["git"], 40),
            "date": shown(content["date"], 20),
            "changed": [shown(x, 100) for x in content["changed"] or []],
            "code": dict(content["code"]),
        }
    except Refused:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        student.notes.append(f"manifest.json is not what submit writes ({type(error).__name__})")
        return {}, set()
    student.name = manifest["name"]
    paths = [x for x in package.sizes if RUN_FILE.fullmatch(x) or NOTEBOOK.fullmatch(x)]
    digests = {x: hashlib.sha256(package.read(x, MAX_NOTEBOOK)).hexdigest() for x in paths}
    return manifest, {path for path, digest in digests.items() if digest != sums.get(path)}


def _copy_runs(student, package, scratch):
    """Write the runs' files, and nothing else, into folders of ours; where each came from."""
    found = {}
    for path in sorted(package.sizes):
        if match := RUN_FILE.fullmatch(path):
            found.setdefault(path.removesuffix(match[2]), (match[1], {}))[1][match[2]] = path
    if len(found) > MAX_RUNS:
        student.notes.append(f"{len(found)} runs, of which the first {MAX_RUNS} are shown")
    for number, (name, paths) in enumerate(list(found.values())[:MAX_RUNS]):
        # A name that any system has for a folder; two runs never share one.
        name = re.sub(r"[^\w.-]", "_", name)[:100].strip(".") or "_"
        name = f"_{name}" if DEVICE.fullmatch(name) else name
        folder = scratch / str(number) / name
        folder.mkdir(parents=True)
        for file, path in paths.items():
            (folder / file).write_bytes(package.read(path, MAX_BYTES[file]))
        yield folder, paths


def _read_row(student, folder, references):
    """A run's numbers, what does not hold of it, and what to ask."""
    row = Row(shown(folder.name, 60))
    try:
        record = read_run(folder)
        row.checks, row.questions = check(record, references), questions(record)
        row.differs = _differences(record, references)
        machine = _machine(record.facts["versions"])
        title = f"{row.run} of {student.title}"
        row.facts = _facts(record, machine)
        row.curves = _curves(record.history)
        row.matrix = _shares(record)
        row.trace = copies.trace_of(record, student.number, title, machine)
    except DamagedRun as error:
        return Row(row.run, state=str(error))
    except Exception as error:  # as in read_students: the other runs are read
        return Row(row.run, state=f"it cannot be read ({type(error).__name__}: {shown(error)})")
    return row


def _facts(record, machine):
    valid, test = record.valid, record.test
    return {
        "data": f"{record.dataset}{', SAMPLE' if record.is_of_sample else ''}",
        "epochs": record.epochs,
        "validation": valid["accuracy"],
        "test": test["accuracy"],
        "low": test["low"],
        "high": test["high"],
        "images": test["n"],
        "macro F1": test["macro_f1"],
        "seconds": round(record.seconds),
        "machine": machine,
        "finished": shown(record.facts["finished"], 20),
        "network": [shown(line, 200) for line in record.made_of["network"][:300]],
        "classes": record.class_names,
    }


def _machine(versions):
    system, cores, tensorflow = (
        shown(str(versions.get(key, "?")), 30) for key in ("system", "cores", "tensorflow")
    )
    devices = versions.get("devices", 1)
    accelerators = f", {shown(str(devices), 9)} devices" if devices != 1 else ""
    return f"{system}, {cores} cores{accelerators}, TensorFlow {tensorflow}"


def _differences(record, references):
    """In what a run differs from ours of the same name, or else from the nearest one."""

    def apart(ours):
        return differences(ours.made_of, record.made_of, besides=DEPENDS_ON_COPY)

    ours = reference_of(record, references)
    if ours is not None:
        return [shown(x, 200) for x in apart(ours)]
    same_data = [x for x in references.values() if x.dataset == record.dataset]
    nearest = min(same_data, key=lambda x: len(apart(x)), default=None)
    if nearest is None:
        return ["no run of ours on these data"]
    return [f"nearest: {nearest.name}", *(shown(x, 200) for x in apart(nearest))]


def _curves(history):
    """Points of the curves of loss and accuracy, for an SVG of WIDTH by HEIGHT."""
    drawn = {}
    for quantity in ("loss", "accuracy"):
        lines = {name: history[name] for name in (quantity, f"val_{quantity}") if name in history}
        lines = {name: line.dropna() for name, line in lines.items()}
        lines = {name: line for name, line in lines.items() if len(line)}
        if not lines:
            continue
        top = 1 if quantity == "accuracy" else max(line.max() for line in lines.values()) or 1
        last = max(history.index.max() - 1, 1)
        drawn[quantity] = {
            "top": top,
            "lines": {
                name: " ".join(
                    f"{WIDTH * (epoch - 1) / last:.1f},{HEIGHT * (1 - value / top):.1f}"
                    for epoch, value in line.items()
                )
                for name, line in lines.items()
            },
        }
    return drawn


def _shares(record):
    """The confusion matrix of the test images: per cent of each true class, row by row."""
    matrix = confusion(*record.predictions("test"))
    sums = matrix.sum(axis=1, keepdims=True).clip(min=1)
    return (100 * matrix / sums).round().astype(int).tolist()


def _read_notebooks(student, package, course, unlike):
    sources = {cell["source"] for notebook in course.values() for cell in notebook["cells"]}
    paths = sorted(path for path in package.sizes if NOTEBOOK.fullmatch(path))
    for path in paths[:MAX_NOTEBOOKS]:
        name = shown(NOTEBOOK.fullmatch(path)[1], 60)
        if path in unlike:
            student.notes.append(f"{name}.ipynb is not the file that submit has packed")
        content = package.read(path, MAX_NOTEBOOK)
        try:
            notebook = cells.read_notebook(content, f"{name}.ipynb")
        except ValueError as error:
            student.notes.append(shown(error))
            continue
        run, count = cells.count_run(notebook)
        parts = _shown_cells(notebook, sources)
        student.notebooks.append({"name": name, "run": run, "cells": count, "shown": parts})
        ours = next((x for x in course if x[:2] == name[:2]), name)  # 03 under any further name
        for answer in cells.find_answers(notebook)[:MAX_ANSWERS]:
            if not answer.is_given and (ours, answer.number) in student.answers:
                continue  # the untouched copy of a notebook
            student.answers[ours, answer.number] = replace(
                answer,
                question=_passage(answer.question, MAX_QUESTION),
                text=_passage(answer.text),
                output=_end_of(answer.output),
            )


def _shown_cells(notebook, sources):
    """What a page has of a notebook: sources, printed text, and whether the course has it too."""
    return [
        {
            "source": _passage(cell["source"]),
            "printed": _end_of(cells.printed(cell)) if cells.is_code(cell) else "",
            "is_new": cell["source"] not in sources,
        }
        for cell in notebook["cells"][:MAX_CELLS]
        if cell["source"].strip()
    ]


def _describe_project(manifest):
    if not manifest:
        return ""
    here = packages.code_checksums()
    unlike = [name for name, checksum in here.items() if manifest["code"].get(name) != checksum]
    parts = [f"packed {manifest['date']}", f"at {manifest['git'][:12]}"]
    if manifest["changed"]:
        parts.append(f"changed since: {few(manifest['changed'], NUM_NAMED)}")
    if unlike:
        parts.append(f"not as here: {few(unlike, NUM_NAMED)}")
    return ", ".join(parts)
