"""One HTML page from a folder of runs, for those who grade or compare them.

    python tasks.py report
    python tasks.py report --runs anna/outputs/runs --output anna.html

The page needs no other file, always has the same order, and says what is missing.
"""

import argparse
import base64
import io
import zipfile
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd

from utils import config
from utils.data import CLASSES, SPLITS, fingerprint, load_prepared
from utils.evaluation import confusion, per_class
from utils.files import replaced_when_done
from utils.plots import plot_confusion_matrix, plot_history
from utils.training import RunSpec, load_run, tabulate
from utils.trials import TRIALS, compare_with_report

TEMPLATE = Path(__file__).with_name("report.html")
MISSING_HTML = '<span class="missing">missing</span>'
SHARES = {
    "report", "report low", "report high", "validation", "test", "low", "high",
    "precision", "recall", "recall low", "recall high", "F1", "macro F1",
}  # fmt: skip
# What a file that was cut off, edited or made by another version raises when it is read.
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile)
SAMPLE_IMAGES = 100  # a run on fewer training images was made on the sample


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
    if not runs_dir.is_dir():
        raise FileNotFoundError(
            f"{runs_dir} is no folder: expected one with a folder for each run, as outputs/runs is"
        )
    finished, unfinished, unreadable, sections = {}, {}, {}, []
    for path in sorted(runs_dir.glob("*/spec.json")):
        name = path.parent.name
        try:
            run = load_run(path.parent)
            if not (path.parent / "metrics.json").is_file():
                unfinished[name] = f"{run.epochs_done} of {run.spec.epochs} epochs"
                continue
            section = _section(run)
        except DAMAGE as error:
            unreadable[name] = f"{type(error).__name__}: {error}"
        else:
            finished[name] = run
            sections.append(section)
    runs = list(finished.values())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        sample_runs=[x.folder.name for x in runs if x.metrics["train_images"] < SAMPLE_IMAGES],
        other_labels=[x.folder.name for x in runs if x.spec.labels == "ferplus"],
        finished=finished,
        unfinished=unfinished,
        unreadable=unreadable,
        trials={name: _html(compare_with_report(TRIALS[name], finished)) for name in TRIALS},
        runs_table=_html(tabulate(runs)) if runs else "",
        data={name: _html(_data_table(name, runs)) for name in CLASSES},
        environments=_html(_environments(runs)) if runs else "",
        sections=sections,
    )


def _html(table):
    """A table with rounded numbers; what is missing is said, not left empty."""
    index_names = list(table.index.names)
    styled = table.reset_index().style.hide(axis="index")
    styled = styled.format(precision=1, na_rep=MISSING_HTML, escape="html")
    shares = [name for name in table if name in SHARES]
    styled = styled.format("{:.1%}", subset=shares, na_rep=MISSING_HTML)
    numbers = table.select_dtypes("number").columns
    styled = styled.set_properties(subset=list(numbers), **{"text-align": "right"})
    return styled.set_properties(subset=index_names, **{"font-weight": "bold"}).to_html()


def _data_table(dataset, runs):
    """Images and checksum of each split: as the runs recorded them, and as they are here."""
    runs = [run for run in runs if run.spec.dataset == dataset]
    groups = {}
    for run in runs:
        key = (run.spec.split_name, str(run.metrics.get("data")))
        groups.setdefault(key, []).append(run)
    rows = [
        (", ".join(x.folder.name for x in group), split_name, group[0].metrics.get("data"))
        for (split_name, _), group in sorted(groups.items())
    ]
    for split_name in sorted({"default"} | {run.spec.split_name for run in runs}):
        try:
            here = fingerprint(load_prepared(dataset, split_name))
        except FileNotFoundError:
            here = None
        rows.append(("prepared on this machine", split_name, here))
    table = []
    for names, split_name, content in rows:
        row = {"runs": names, "split": split_name}
        for split in SPLITS:
            row[f"{split} images"] = content and content[split]["images"]
            row[f"{split} sha256"] = content and content[split]["sha256"][:12]
        table.append(row)
    table = pd.DataFrame(table).set_index("runs")
    return table.astype({f"{split} images": "Int64" for split in SPLITS})


def _environments(runs):
    names = ("python", "tensorflow", "keras", "numpy", "opencv", "system", "cores")
    rows = {
        run.folder.name: {name: run.metrics["versions"].get(name) for name in names}
        | {"devices": run.metrics.get("devices"), "computed in": run.metrics["precision"]}
        for run in runs
    }
    table = pd.DataFrame(rows).T.rename_axis("run")
    # As text, which is escaped: these values come from files that anybody may have written.
    return table.map(str, na_action="ignore")


def _section(run):
    """What the page shows of one run."""
    # What the tables need is asked for here, where a damaged run fails alone.
    tabulate([run])
    _environments([run])
    run.scores(1, "test")
    defaults = {x.name: x.default if x.default is not MISSING else None for x in fields(RunSpec)}
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plot_history(run.history, axes[:2])
    table = None
    if (run.folder / "predictions.npz").is_file():
        y_true, probabilities = run.predictions("test")
        plot_confusion_matrix(confusion(y_true, probabilities), run.spec.classes, True, axes[2])
        table = per_class(y_true, probabilities, run.spec.classes).rename_axis("test images of")
    else:
        axes[2].axis("off")
    return {
        "name": run.folder.name,
        "spec": {
            name: value
            for name, value in vars(run.spec).items()
            if name != "name" and value != defaults[name] and value not in ({}, ())
        },
        "metrics": run.metrics,
        "last": run.history.iloc[-1],
        "figure": _png(figure),
        "per_class": None if table is None else _html(table),
    }


def _png(figure):
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png", dpi=70)
        plt.close(figure)
        return base64.b64encode(stream.getvalue()).decode()


def main(arguments=None):
    """Write the page and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py report", description="One HTML page from a folder of runs."
    )
    parser.add_argument(
        "--runs", type=Path, default=config.RUNS_DIR, help="folder of runs (default: outputs/runs)"
    )
    parser.add_argument(
        "--output", type=Path, help="the page (default: outputs/reports/report.html)"
    )
    parser.add_argument("--title", default="Gender and emotion: runs", help="heading of the page")
    options = parser.parse_args(arguments)
    output = options.output or config.REPORTS_DIR / "report.html"
    try:
        page = build_report(options.runs, options.title)
        with replaced_when_done(output) as partial:
            partial.write_text(page, encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"report: {output}")


if __name__ == "__main__":
    main()
