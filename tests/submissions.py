"""Makes up submissions of a course, without any training, for tests and to be looked at.

python tests/submissions.py FOLDER                        the twelve kinds
python tests/submissions.py FOLDER --students 30 --runs 10  a course of whole ones
"""

import argparse
import io
import json
import random
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from commands.packages import code_checksums, pack
from utils import config
from utils.files import read_json

EVIL = "<script>document.title='it ran'</script>\"'><img src=x onerror=\"document.title='it ran'\">"
REFERENCES = config.REFERENCE_DIR
FACTS = {"date": "2026-11-28 12:00", "git": "0" * 40, "changed": [], "missing": []}


def make_run(seed, reference="emotion_six_conv", sure=1.1, num_images=None):
    """The files of a run that might be true, by name: dict of str to bytes.

    Parameters
    ----------
    seed : int
    reference : str
        Ours, of which it has the recipe and the data.
    sure : float
        How far the right answer stands above the noise.
    num_images : int, optional
        In its splits, instead of those of its data.
    """
    rng = np.random.default_rng(seed)
    folder = REFERENCES / reference
    facts = read_json(folder / "run.json")
    with np.load(folder / "predictions.npz") as stored:
        labels = {split: stored[f"{split}_true"][:num_images] for split in ("valid", "test")}
    classes = len(facts["made_of"]["batches"]["classes"])
    predicted, scores = {}, {}
    for split, y_true in labels.items():
        logits = rng.gumbel(size=(len(y_true), classes)) + sure * 2 * np.eye(classes)[y_true]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        predicted |= {f"{split}_true": y_true, f"{split}_probabilities": shares.astype(np.float32)}
        scores[split] = (shares.argmax(axis=1) == y_true).mean()
    epochs = facts["made_of"]["epochs"]
    seconds = rng.uniform(200, 300, epochs).round(2)
    began = datetime(2026, 11, 1) + timedelta(minutes=int(rng.integers(10_000)))
    finished = began + timedelta(seconds=seconds.sum() + 20)
    facts |= {
        "id": random.Random(seed).randbytes(16).hex(),
        "began": f"{began:%Y-%m-%d %H:%M:%S}",
        "finished": f"{finished:%Y-%m-%d %H:%M:%S}",
        "weights_sha256": "0" * 64,
    }
    facts["made_of"]["precision"] = "float32"
    lines = ["epoch,accuracy,loss,seconds,val_accuracy,val_loss"]
    for epoch in range(epochs):
        share = scores["valid"] * (epoch + 1) / epochs
        lines.append(f"{epoch},{share},{2 - share},{seconds[epoch]},{share},{2.1 - share}")
    return {
        "run.json": json.dumps(facts, indent=2).encode(),
        "history.csv": ("\n".join(lines) + "\n").encode(),
        "predictions.npz": npz(predicted),
    }


def npz(arrays):
    """Arrays as the bytes of an npz."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def arrays_of(run):
    """Arrays of the predictions of a run."""
    with np.load(io.BytesIO(run["predictions.npz"])) as stored:
        return dict(stored)


def change_facts(run, change):
    """Change what a run.json says by a function of it."""
    facts = json.loads(run["run.json"])
    change(facts)
    return run | {"run.json": json.dumps(facts).encode()}


def notebook(*answers, question="What is seen?", output="57 %"):
    """A notebook with a cell that was run and, under questions, the answers: bytes."""
    cells = [code("print(accuracy)", 1, output)]
    for number, text in enumerate(answers, start=1):
        heading = "1. Look." if number == 1 else f"Your turn, {number}: look."
        cells.append(
            {"cell_type": "markdown", "metadata": {}, "source": f"**{heading}** {question}"}
        )
        cells.append(code(text, number + 1) | {"metadata": {"tags": ["answer"]}})
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(content).encode()


def code(source, count=None, output=""):
    """A cell of code."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    return {
        "cell_type": "code",
        "metadata": {},
        "source": source,
        "execution_count": count,
        "outputs": outputs,
    }


def members(runs, notebooks=None):
    """Files of a submission by their name in the zip."""
    if notebooks is None:
        notebooks = {"03_emotion_experiments": notebook("# Happy is easiest.", "# Your code.")}
    files = {f"notebooks/{name}.ipynb": content for name, content in notebooks.items()}
    return files | {f"runs/{name}/{x}": run[x] for name, run in runs.items() for x in run}


def submission(path, files, name="", **facts):
    """Pack files as `submit` does."""
    pack(path, files, {**FACTS, "name": name, "code": code_checksums(), **facts})


def unfinished(run):
    """The same before its end: two epochs, no predictions."""
    run = change_facts(run, lambda facts: [facts.pop(x) for x in ("finished", "parameters")])
    history = b"".join(run["history.csv"].splitlines(keepends=True)[:3])
    return {"run.json": run["run.json"], "history.csv": history}


def better_predictions(run):
    """The same with 400 answers of each split put right."""
    arrays = arrays_of(run)
    for split in ("valid", "test"):
        y_true, shares = arrays[f"{split}_true"], arrays[f"{split}_probabilities"]
        wrong = np.flatnonzero(shares.argmax(axis=1) != y_true)[:400]
        shares[wrong] = np.eye(shares.shape[1])[y_true[wrong]]
    return run | {"predictions.npz": npz(arrays)}


def better_history(run):
    """The same with a history that ends a tenth higher."""
    lines = run["history.csv"].decode().splitlines()
    *start, accuracy, loss = lines[-1].split(",")
    lines[-1] = ",".join([*start, str(float(accuracy) + 0.1), loss])
    return run | {"history.csv": "\n".join(lines).encode()}


def full_of_scripts(run):
    """The same with a script in every text that a run.json may hold."""

    def change(facts):
        made_of = facts["made_of"]
        facts |= {"id": EVIL, "finished": EVIL, "began": EVIL, EVIL: EVIL}
        facts["versions"] = {key: EVIL for key in facts["versions"]} | {EVIL: [EVIL]}
        made_of |= {"network": [EVIL, *made_of["network"]], "callbacks": [EVIL], "loss": EVIL}
        made_of |= {"optimizer": {EVIL: EVIL}, "class_weight": {EVIL: EVIL}, EVIL: EVIL}
        made_of["batches"] |= {"labels": EVIL, "augmentation": EVIL, "split_name": EVIL}
        made_of["batches"]["input"] |= {EVIL: EVIL, "colour": EVIL}

    return change_facts(run, change)


def add_member(path, name, content):
    """Put one more file into a zip, under whatever name."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def make_twelve(folder):
    """Write the twelve kinds of submissions into a folder.

    Returns
    -------
    list of str
        Names of the zips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = make_run(0)
    runs = {
        "whole": whole,
        "unfinished": unfinished(make_run(1)),
        "edited_facts": change_facts(make_run(2), lambda x: x.update(parameters=[9, 9])),
        "edited_predictions": better_predictions(make_run(3)),
        "edited_history": better_history(make_run(4)),
        "copied": change_facts(whole, lambda x: x.update(id="0" * 32)),
        "other_data": make_run(5, num_images=3000),
        "truncated": make_run(6),
        "outside": make_run(7),
        "bomb": make_run(8),
    }
    for name, run in runs.items():
        submission(folder / f"{name}.zip", members({"emotion_six_conv": run}), name.title())
    path = folder / "truncated.zip"
    path.write_bytes(path.read_bytes()[:20_000])
    add_member(folder / "outside.zip", "../../outside.txt", "x")
    add_member(folder / "bomb.zip", "runs/bomb/history.csv", bytes(60_000_000))
    submission(folder / "empty.zip", {})
    scripts = members(
        {f"a{EVIL.replace('/', '')}": full_of_scripts(make_run(9))},
        {f"b{EVIL.replace('/', '')}": notebook(EVIL, question=EVIL, output=EVIL)},
    )
    facts = {"git": EVIL, "date": EVIL, "changed": [EVIL], "missing": [EVIL]}
    submission(folder / "script.zip", scripts, EVIL, **facts)
    return sorted(path.name for path in folder.glob("*.zip"))


def make_course(folder, num_students, num_runs):
    """Write whole submissions with the course's own notebooks."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
    notebooks = {path.stem: path.read_bytes() for path in paths}
    names = sorted(path.parent.name for path in REFERENCES.glob("*/run.json"))
    for student in range(num_students):
        runs = {
            names[(7 * student + 5 * run) % len(names)] + f"_{run}": make_run(
                1000 * student + run, names[(7 * student + 5 * run) % len(names)]
            )
            for run in range(num_runs)
        }
        submission(folder / f"student_{student:02}.zip", members(runs, notebooks), f"S {student}")


def main():
    """Write submissions from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    if options.students:
        make_course(options.folder, options.students, options.runs)
    else:
        print(*make_twelve(options.folder), sep="\n")


if __name__ == "__main__":
    main()
