"""The tables of README.md and RESULTS.md say what the predictions in git say."""

import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from utils import config
from utils.evaluation import wilson_interval
from utils.training import load_runs

FINISHED, _ = load_runs(config.REFERENCE_DIR)


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of_runs(document):
    """The rows of the tables of runs: name, whether of ten views, cells by column."""
    name, header = None, []
    for line in (config.ROOT / document).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells_of(line)
        elif header[0] == "run" and {"accuracy", "macro F1"} <= set(header):
            row = dict(zip(header, cells_of(line), strict=True))
            title = row.pop("run")
            named = [word for word in re.findall(r"`(\w+)`", title) if word in FINISHED]
            # What people say, and what several outputs say, is judged in test_results.py.
            elsewhere = re.search(r"by FER|`, (votes|mean)", title)
            if (named or title.startswith("the same")) and not elsewhere:
                name = named[0] if named else name
                yield name, "ten views" in title, row


ROWS = [
    pytest.param(*row, id=f"{document}, {row[0]}{', ten views' * row[1]}")
    for document in ("README.md", "RESULTS.md")
    for row in rows_of_runs(document)
]


def test_every_run_in_git_is_in_a_table():
    assert {row.values[0] for row in ROWS} == set(FINISHED)


@pytest.mark.parametrize(("name", "ten_views", "row"), ROWS)
def test_rows_are_computed_from_the_predictions(name, ten_views, row):
    run = FINISHED[name]
    with np.load(run.folder / "predictions.npz") as stored:
        y_true = stored["test_true"]
        y_pred = stored["test_averaged" if ten_views else "test_probabilities"].argmax(axis=1)
    n, accuracy = len(y_true), accuracy_score(y_true, y_pred)
    low, high = wilson_interval((y_true == y_pred).sum(), n)
    expected = {
        "accuracy": f"{100 * accuracy:.1f} %",
        "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}",
        "macro F1": f"{f1_score(y_true, y_pred, average='macro'):.3f}",
    }
    assert {key: row[key] for key in expected} == expected
    assert row["n"] == f"{n:,}"
    if ten_views:
        return
    parameters = sum(run.facts["parameters"])
    if "million" in row["parameters"]:
        assert float(row["parameters"].split()[0]) == pytest.approx(parameters / 1e6, abs=0.06)
    else:
        assert row["parameters"] == f"{parameters:,}"
    assert int(row["epochs"]) == run.epochs
    assert float(row["minutes"]) == pytest.approx(run.seconds / 60, abs=0.51)
