"""One HTML page from a folder of runs, for those who grade or compare them.

    python tasks.py report
    python tasks.py report --runs anna/outputs/runs --output anna.html

The page needs no other file, always has the same order, and says what is missing.
"""

import argparse
import base64
import io
import zipfile
from datetime import datetime
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd

from utils import config
from utils.course_report import TRIALS, compare_with_report
from utils.data.prepared import CLASSES, SPLITS, fingerprint, load_prepared
from utils.evaluation import confusion, evaluate, per_class
from utils.files import replaced_when_done
from utils.plots import plot_confusion_matrix, plot_history
from utils.training import Run, tabulate

TEMPLATE = Path(__file__).with_name("report.html")
MISSING_HTML = '<span class="missing">missing</span>'
SHARES = {
    *("report", "report low", "report high", "ours", "ours low", "ours high"),
    *("yours", "yours low", "yours high", "accuracy", "low", "high"),
    *("precision", "recall", "recall low", "recall high", "F1", "macro F1"),
}
# What a file that was cut off, edited or made by another version raises when it is read.
DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    zipfile.BadZipFile,
)
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
    for path in sorted(runs_dir.glob("*/run.json")):
        run = Run(path.parent)
        try:
            if not run.is_finished:
                unfinished[run.name] = f"{run.epochs} of {run.facts['made_of']['epochs']} epochs"
                continue
            section = _section(run)
        except DAMAGE as error:
            unreadable[run.name] = f"{type(error).__name__}: {error}"
        else:
            finished[run.name] = run
            sections.append(section)
    runs = list(finished.values())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        sample_runs=[x["name"] for x in sections if x["is_of_sample"]],
        other_labels=[x["name"] for x in sections if x["learned_votes"]],
        finished=finished,
        unfinished=unfinished,
        unreadable=unreadable,
        trials={name: _html(compare_with_report(TRIALS[name], finished)) for name in TRIALS},
        runs_table=_html(tabulate(runs, "test")) if runs else "",
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
    runs = [run for run in runs if _batches(run)["dataset"] == dataset]
    groups = {}
    for run in runs:
        key = (_batches(run)["split_name"], str(run.facts["made_of"]["data"]))
        groups.setdefault(key, []).append(run)
    rows = [
        (", ".join(x.name for x in group), split_name, group[0].facts["made_of"]["data"])
        for (split_name, _), group in sorted(groups.items())
    ]
    for split_name in sorted({"default"} | {_batches(run)["split_name"] for run in runs}):
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


def _batches(run):
    return run.facts["made_of"]["batches"]


def _environments(runs):
    names = ("python", "tensorflow", "keras", "numpy", "opencv", "system", "cores", "devices")
    rows = {
        run.name: {name: run.facts["versions"].get(name) for name in names}
        | {"computed in": run.facts["made_of"]["precision"], "finished": run.facts["finished"]}
        for run in runs
    }
    table = pd.DataFrame(rows).T.rename_axis("run")
    # As text, which is escaped: these values come from files that anybody may have written.
    return table.map(str, na_action="ignore")


def _section(run):
    """What the page shows of one run."""
    # What the tables need is asked for here, where a damaged run fails alone.
    tabulate([run], "test")
    _environments([run])
    _data_table(_batches(run)["dataset"], [run])
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plot_history(run.history, axes[:2])
    y_true, probabilities = run.predictions("test")
    plot_confusion_matrix(confusion(y_true, probabilities), run.class_names, True, axes[2])
    seconds = run.history["seconds"]
    made_of = run.facts["made_of"]
    settings = {key: made_of[key] for key in ("epochs", "optimizer", "loss")} | _batches(run)
    trained, others = run.facts["parameters"]
    return {
        "name": run.name,
        "is_of_sample": run.facts["train_images"] < SAMPLE_IMAGES,
        "learned_votes": _batches(run)["labels"].startswith("votes"),
        "settings": settings,
        "network": list(made_of["network"]),
        "train_images": run.facts["train_images"],
        "trained": trained,
        "others": others,
        "scores": evaluate(y_true, probabilities),
        "minutes": seconds.sum() / 60,
        "images_per_second": run.facts["train_images"] / seconds.median(),
        "last": run.history.iloc[-1],
        "figure": _png(figure),
        "per_class": _html(
            per_class(y_true, probabilities, run.class_names).rename_axis("test images of")
        ),
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
