"""One HTML page from a folder of runs, for those who grade or compare them.

    python tasks.py report
    python tasks.py report --runs anna/outputs/runs --output anna.html

Numbers are computed from stored predictions; what a run says of itself is checked. The page needs
no other file, always has the same order, and says what is missing.
"""

import argparse
import base64
import io
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from commands.checks import check, prepared_here, questions, read_references, reference_of
from commands.records import UnfinishedRun, read_runs, run_folders
from commands.texts import path_of, shown
from utils import config
from utils.data.prepared import SPLITS
from utils.evaluation import confusion, per_class
from utils.files import replaced_when_done
from utils.networks.structure import DEPENDS_ON_COPY, differences
from utils.plots import plot_confusion_matrix, plot_history
from utils.preprocessing import CLASSES

# Another copy of the data is said here, unlike the rest of what depends on it.
OF_THE_MACHINE = tuple(name for name in DEPENDS_ON_COPY if name != "data")
TEMPLATE = Path(__file__).with_name("report.html")
MISSING_HTML = Markup('<span class="missing">missing</span>')
SHARES = {
    *("report", "report low", "report high", "ours", "ours low", "ours high"),
    *("yours", "yours low", "yours high", "validation", "accuracy", "low", "high"),
    *("precision", "recall", "recall low", "recall high", "F1", "macro F1"),
}
MAX_TEXT = 300  # of a value that somebody else's file holds
MAX_FIGURE = 2**21  # bytes


def build_report(runs_dir, title):
    """Make the page.

    Parameters
    ----------
    runs_dir : pathlib.Path
    title : str

    Returns
    -------
    str
        HTML with its figures inside.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    runs_dir = runs_dir.resolve()
    if not runs_dir.is_dir():
        raise FileNotFoundError(
            f"{runs_dir} is no folder: expected one with a folder for each run, as train makes it; "
            "--runs outputs/sample/runs reads those on the sample"
        )
    # It loads TensorFlow, which a wrong folder need not wait for.
    from utils.course_report import TRIALS, compare_with_report
    from utils.training import tabulate

    records, failures = read_runs(runs_dir)
    references, runs = read_references(), list(records.values())
    own = sorted({record.dataset for record in runs} - set(CLASSES))
    found = {record.name: check(record, references) for record in runs}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        sample_runs=[x.name for x in runs if x.is_of_sample],
        other_labels=[x.name for x in runs if x.batches["labels"].startswith("votes")],
        finished=records,
        unfinished={k: x for k, x in failures.items() if isinstance(x, UnfinishedRun)},
        unreadable={k: x for k, x in failures.items() if not isinstance(x, UnfinishedRun)},
        trials={x: _table(compare_with_report(TRIALS[x], records)) for x in TRIALS},
        runs_table=_table(_with_checks(tabulate(runs, "test"), runs, found)) if runs else None,
        data={x: _table(_data_table(x, runs)) for x in [*CLASSES, *own]},
        studies=_studies(runs_dir.parent / "tune"),
        environments=_table(_environments(runs)) if runs else None,
        sections=[_section(x, reference_of(x, references), found[x.name]) for x in runs],
    )


def _studies(folder):
    """Figures of ``python tasks.py tune``, by the reference whose recipe was searched."""
    # It may be somebody else's folder: what is no such picture is not shown to them.
    files = [x for x in sorted(folder.glob("*/study.png")) if x.is_file()]
    pictures = {x.parent.name: x.read_bytes() for x in files if x.stat().st_size < MAX_FIGURE}
    known = {name: x for name, x in pictures.items() if x.startswith(b"\x89PNG")}
    return {_clipped(name): base64.b64encode(x).decode() for name, x in known.items()}


def _with_checks(table, runs, found):
    """The table of runs, test accuracies with their 95 % Wilson intervals, and what to ask."""
    table.insert(4, "validation", [run.valid["accuracy"] for run in runs])
    return table.assign(
        checks=["; ".join(found[run.name]) or "all hold" for run in runs],
        questions=[" ".join(questions(run)) or "none" for run in runs],
    )


def _table(table):
    """A table as the template draws it: rounded numbers; what is missing is said, not left empty.

    Cells are text, which the template escapes: many come from files that anybody may have written.
    """
    names, table = list(table.index.names), table.reset_index()
    numbers = set(table.select_dtypes("number").columns)
    kinds = {x: "number" for x in numbers} | {"checks": "text long", "questions": "text long"}
    kinds = ["name" if x in names else kinds.get(x, "text") for x in table]
    rows = [
        [(_cell(value, column), kind) for value, column, kind in zip(row, table, kinds)]
        for row in table.itertuples(index=False)
    ]
    return {"columns": [str(x) for x in table], "rows": rows}


def _cell(value, column):
    if value is None or value is pd.NA or value != value:
        return MISSING_HTML
    if isinstance(value, float):
        return f"{value:.1%}" if column in SHARES else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


def _clipped(value):
    return shown(value, MAX_TEXT)


def _data_table(dataset, records):
    """Images and checksum of each split: as the runs recorded them, and as they are here."""
    groups = {}
    for record in records:
        if record.dataset == dataset:
            data = record.made_of.get("data")
            key = (_clipped(record.batches["split_name"]), str(data))
            groups.setdefault(key, (data, []))[1].append(record.name)
    rows = [
        (", ".join(names), split_name, data)
        for (split_name, _), (data, names) in sorted(groups.items())
    ]
    for split_name in sorted({"default"} | {split_name for split_name, _ in groups}):
        here = prepared_here(dataset, split_name)
        rows.append(("prepared on this machine", split_name, here and here[0]))
    table = []
    for names, split_name, data in rows:
        row = {"runs": names, "split": split_name}
        for split in SPLITS:
            row[f"{split} images"] = data and data[split]["images"]
            row[f"{split} sha256"] = data and data[split]["sha256"][:12]
        table.append(row)
    table = pd.DataFrame(table).set_index("runs")
    return table.astype({f"{split} images": "Int64" for split in SPLITS})


def _environments(records):
    names = ("python", "tensorflow", "keras", "numpy", "opencv", "system", "cores", "devices")
    rows = {
        record.name: {name: record.facts["versions"].get(name) for name in names}
        | {"computed in": record.made_of["precision"], "finished": record.facts["finished"]}
        for record in records
    }
    table = pd.DataFrame(rows).T.rename_axis("run")
    return table.map(_clipped, na_action="ignore")


def _section(record, ours, found):
    """What the page shows of one run, and of ours of the same name or None."""
    made_of = record.made_of
    # Two of ours kept no checksum of their data.
    known = ours and ours.made_of.get("data")
    besides = OF_THE_MACHINE if known else DEPENDS_ON_COPY
    settings = {key: made_of[key] for key in ("epochs", "optimizer", "loss")} | record.batches
    trained, others = record.facts["parameters"]
    asked = questions(record)
    matrix = confusion(*record.predictions("test"))
    return {
        "name": record.name,
        "checks": found,
        "questions": asked,
        "ours": ours and ours.name,
        "differences": ours and [_clipped(x) for x in differences(ours.made_of, made_of, besides)],
        "compared": _table(_beside(record, ours)),
        "settings": {_clipped(key): _clipped(value) for key, value in settings.items()},
        "network": [_clipped(line) for line in made_of["network"]],
        "train_images": record.facts["train_images"],
        "trained": trained,
        "others": others,
        "scores": record.test,
        "images_per_second": _speed(record),
        "figure": _png(_figure(record, ours)),
        "alt": _alternative(record, matrix),
        "per_class": _table(
            per_class(*record.predictions("test"), record.class_names).rename_axis("test images of")
        ),
    }


def _speed(record):
    """Images a second in the middle one of the epochs."""
    return record.facts["train_images"] / max(record.history["seconds"].median(), 0.01)


def _beside(record, ours):
    """Yours and ours in two columns, as text: the rows have different units."""
    columns = {"yours": _numbers(record)} | ({"ours": _numbers(ours)} if ours else {})
    return pd.DataFrame(columns).rename_axis("of the run").map(str)


def _numbers(record):
    last = record.history.iloc[-1]
    test = record.test

    def share(value):
        return "not measured" if value is None or value != value else f"{value:.1%}"

    return {
        "test accuracy": share(test["accuracy"]),
        "95 % interval": f"{share(test['low'])} to {share(test['high'])}, n = {test['n']:,}",
        "test macro F1": share(test["macro_f1"]),
        "validation accuracy": f"{share(record.valid['accuracy'])}, n = {record.valid['n']:,}",
        "training accuracy, last epoch": share(last.get("accuracy")),
        "epochs": f"{record.epochs:,}",
        "minutes": f"{record.seconds / 60:,.1f}",
        "parameters": f"{sum(record.facts['parameters']):,}",
    }


def _figure(record, ours):
    """Loss and accuracy over the epochs, and confusion matrices; ours in grey and to the right."""
    columns = 4 if ours else 3
    figure = Figure(figsize=(4.7 * columns, 4.2), layout="constrained")
    axes = figure.subplots(1, columns)
    plot_history(_drawable(record), axes[:2])
    plot_confusion_matrix(confusion(*record.predictions("test")), record.class_names, True, axes[2])
    axes[2].set_title("yours: share of each true class")
    if ours:
        history = _drawable(ours)
        for axis, quantity in zip(axes, ("loss", "accuracy")):
            axis.plot(
                history.index,
                history[f"val_{quantity}"],
                "--",
                color="grey",
                label="validation, ours",
            )
            axis.set_xlim(0.5, max(len(history), record.epochs) + 0.5)
            axis.legend()
        plot_confusion_matrix(confusion(*ours.predictions("test")), ours.class_names, True, axes[3])
        axes[3].set_title("ours: share of each true class")
    return figure


def _drawable(record):
    """The history with the columns that are drawn, none of them beyond what axes can show."""
    quantities = ["loss", "val_loss", "accuracy", "val_accuracy"]
    return record.history.reindex(columns=quantities).clip(-1e9, 1e9)


def _alternative(record, matrix):
    """The figure in words, for those who do not see it."""
    off = matrix * (1 - np.eye(len(matrix), dtype=int))
    true, seen = np.unravel_index(off.argmax(), off.shape)
    worst = (
        f"most often {record.class_names[true]} was read as {record.class_names[seen]} "
        f"({off.max()} times)"
    )
    return (
        f"Loss and accuracy over the {record.epochs} epochs of {record.name}, and the confusion "
        f"matrix of its {record.test['n']:,} test images: {worst if off.any() else 'all are right'}"
    )


def _png(figure):
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png", dpi=70)
        return base64.b64encode(stream.getvalue()).decode()


def _where_runs_are(folder):
    """A hint for who gave a folder without runs."""
    folder = folder.resolve()
    if (folder / "run.json").is_file():
        return f"it is a run itself, give the folder above it: --runs {folder.parent}"
    patterns = ("*/*/run.json", "*/*/*/run.json", "../sample/runs/*/run.json")
    others = {path.parent.parent for x in patterns for path in folder.glob(x)}
    if others := sorted(others - {config.REFERENCE_DIR}):
        return f"there are some in {others[0]}: give --runs {others[0]}"
    return "notebooks 03 and 04 and python tasks.py train make some, in outputs/runs"


def main(arguments=None):
    """Write the page and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py report", description="One HTML page from a folder of runs."
    )
    parser.add_argument(
        "--runs",
        type=path_of,
        default=config.RUNS_DIR,
        help="folder of runs (default: outputs/runs)",
    )
    parser.add_argument(
        "--output", type=path_of, help="the page (default: outputs/reports/report.html)"
    )
    parser.add_argument("--title", default="Gender and emotion: runs", help="heading of the page")
    options = parser.parse_args(arguments)
    output = options.output or config.REPORTS_DIR / "report.html"
    if options.runs.is_dir() and not run_folders(options.runs):
        parser.exit(1, f"0 runs found in {options.runs}: {_where_runs_are(options.runs)}\n")
    try:
        page = build_report(options.runs, options.title)
        with replaced_when_done(output) as partial:
            partial.write_text(page, encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"report: {output}")


if __name__ == "__main__":
    main()
