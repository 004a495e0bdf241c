"""Writes RESULTS.md and its figures from our runs, which are in git: no data are needed.

python tasks.py results
"""

import argparse
import math
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from commands import tables, tune
from commands.figures import MOVING_PICTURE, write_figures, write_moving_picture
from utils import config
from utils.course_report import TRIALS, compare_with_report
from utils.evaluation import AGE_RANGES, evaluate, wilson_interval
from utils.files import replaced_when_done
from utils.preprocessing import EMOTIONS
from utils.robustness import jitter_of
from utils.training import load_runs, reference

TEMPLATE = Path(__file__).with_name("results.md")
LEAST_POINTS = 1  # a smaller change, of one run each, shows nothing
SPLITS = {"valid": "validation", "test": "test"}
BEST_TRIALS = 5  # of the study
MOST_CHANCE = 0.05  # nor one that chance brings as often
NUM_SPREADS = 3  # nor one within so many standard deviations of the difference


def build_page():
    """Make the text of RESULTS.md.

    Returns
    -------
    str
        Markdown; its figures are in ``outputs/figures/``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    families = {
        name: markdown(tables.family_table(name), FAMILY_COLUMNS) for name in tables.FAMILIES
    }
    single = ("emotion_two_labels", "emotion_fer_distilled")
    blurred = {
        "emotion_step_8_short": tables.SEEDS[tables.SHORT],
        "emotion_step_8_short_anti_aliased": tables.SEEDS[tables.BLURRED],
        **{x: [x] for each in single for x in (each, f"{each}_anti_aliased")},
        "emotion_two_labels_again": ["emotion_two_labels_again"],
    }
    after_ten_epochs = reference("emotion_final").facts["at_epoch"]["10"]["test"]
    camera = tables.camera_table()
    judged, _ = tables.answers(tables.OWN_LABELS, "valid", judge="agreed", clean=True)
    trials = tune.reference_study(tables.STUDIED).trials_dataframe()
    return environment.get_template(TEMPLATE.name).render(
        families=families,
        num_runs=len(load_runs(config.REFERENCE_DIR)[0]),
        num_copies=int(tables.recorded("fer2013_copies")["test"].sum()),
        people=markdown(tables.people_table(), PEOPLE_COLUMNS),
        num_judged={
            judge: evaluate(*tables.answers("emotion_ferplus", judge=judge))["n"]
            for judge in ("majority", "eight", "agreed")
        },
        ours=_same_protocols(),
        camera=markdown(camera, CAMERA_COLUMNS),
        camera_n={key: int(camera[f"{key} n"].max()) for key in CAMERA_SCORES},
        jitter={
            name: _percent(np.mean([jitter_of(reference(x)).loc["any", "share"] for x in seeds]))
            for name, seeds in blurred.items()
        },
        num_disgust=int((judged == EMOTIONS.index("disgust")).sum()),
        loop=tables.choose_for_loop(camera).partition(", ")[0],
        most_otherwise=round(100 * tables.MOST_OTHERWISE),
        most_jitter=round(100 * tables.MOST_JITTER),
        groups=markdown(tables.groups_table(), GROUP_COLUMNS),
        seeds=markdown(tables.seeds_table(), SEED_COLUMNS),
        pairs=markdown(tables.pairs_table(), PAIR_COLUMNS),
        changes=markdown(tables.changes_table(), CHANGE_COLUMNS),
        num_spreads=NUM_SPREADS,
        most_chance=MOST_CHANCE,
        study=markdown(best_trials(trials), STUDY_COLUMNS),
        states=trials["state"].value_counts(),
        hours=trials.query("state != 'FAIL'")["duration"].sum().total_seconds() / 3600,
        tuned={x: _tuned(x) for x in ("valid", "test")},
        after_ten_epochs=f"{_percent(after_ten_epochs['accuracy'])} ({_ends(after_ten_epochs)})",
        trials={
            dataset: markdown(compare_with_report(trials, {}).reset_index(), TRIAL_COLUMNS)
            for dataset, trials in TRIALS.items()
        },
    )


def best_trials(trials):
    """The best trials of a study, and the one with the report's values.

    Parameters
    ----------
    trials : pandas.DataFrame
        As `optuna.Study.trials_dataframe` makes it.

    Returns
    -------
    pandas.DataFrame
        Those rows, the best first, with low and high: the interval of value on clean validation
        images.
    """
    # A trial that is tried again goes on with the run of its first try, and has its number.
    numbers = trials.get("user_attrs_run", trials["number"]).fillna(trials["number"]).astype(int)
    best = trials.assign(number=numbers)[trials["state"] == "COMPLETE"]
    best = best.sort_values("value", ascending=False)
    best = best[(np.arange(len(best)) < BEST_TRIALS) | (best["number"] == 0)]
    n = int((~tables.recorded("fer2013_copies")["valid"]).sum())
    ends = [wilson_interval(round(value * n), n) for value in best["value"]]
    return best.assign(**pd.DataFrame(ends, columns=["low", "high"], index=best.index))


def _tuned(split):
    """Clean accuracy of the best trial, trained in full, and of the report's values."""
    runs = ("emotion_final_tuned", tables.STUDIED)
    found = (evaluate(*tables.answers(x, split, clean=True)) for x in runs)
    return [_percent(x["accuracy"]) for x in found]


def _same_protocols():
    """Ours for the published rows, by the same protocol; of FER-2013 clean too, in brackets."""
    emotion, gender = "emotion_fer_distilled_anti_aliased", "gender_utk_64"
    cases = {
        "fer2013": (emotion, "test", True, "label"),
        "public": (emotion, "valid", True, "label"),
        "ferplus": ("emotion_ferplus", "test", False, "eight"),
    }
    found = {}
    for key, case in cases.items():
        both = [evaluate(*tables.answers(*case, clean))["accuracy"] for clean in (False, True)]
        found[key] = "{} ({})".format(*map(_percent, both))
    for ages in ("all", "21 to 60"):
        found[ages] = _percent(tables.of_ages(tables.faces(gender), ages)["correct"].mean())
    return found


def markdown(table, columns):
    """Write a table.

    Parameters
    ----------
    table : pandas.DataFrame
    columns : dict of str to callable
        By heading, what stands below it: a function of a row.

    Returns
    -------
    str
    """
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row) for cell in columns.values()] for row in table.to_dict("records")]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share):
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def _ends(row, prefix=""):
    return f"{100 * row[f'{prefix}low']:.1f} to {100 * row[f'{prefix}high']:.1f}"


def _column(key, form="{:,.0f}", missing="-"):
    """A column of numbers."""
    return lambda row: missing if pd.isna(row[key]) else form.format(row[key])


def _share(key):
    return lambda row: _percent(row[key])


def _share_with_ends(key, prefix=""):
    def cell(row):
        return "-" if pd.isna(row[key]) else f"{_percent(row[key])} ({_ends(row, prefix)})"

    return cell


def _points(key):
    # Rounded first, and added to 0: there is no "-0.0".
    return lambda row: "-" if pd.isna(row[key]) else f"{round(row[key], 1) + 0:+.1f}"


def _run(key="run"):
    """A run's name; what stands behind it is no code."""

    def cell(row):
        name, comma, seeds = row[key].partition(", ")
        if name not in (*tables.ENSEMBLES, tables.OWN_LABELS):
            name = f"`{name}`"
        ten_views = ", ten views" if row.get("views") == 10 else ""
        by_votes = ", by FER+" if row.get("judge") == "majority" and key == "run" else ""
        return f"{name}{comma}{seeds}{ten_views}{by_votes}"

    return cell


def _verdict(row):
    """Worse, better or neither."""
    spread = row["spread"] if row["spread"] > 0 else 0
    limit = max(LEAST_POINTS, NUM_SPREADS * math.sqrt(row["runs"]) * spread)
    points = row["points"] if pd.isna(row["clean"]) else row["clean"]
    verdict = "no difference shown"
    if abs(points) > limit and row["p_value"] < MOST_CHANCE:
        verdict = "better" if points > 0 else "worse"
    return f"{verdict}; {row['remark']}" if row["remark"] else verdict


def _p_value(row):
    return "< 0.0001" if row["p_value"] < 1e-4 else f"{row['p_value']:.4f}"


FAMILY_COLUMNS = {
    "run": _run(),
    "what it is": lambda row: row["what"],
    "parameters": _column("parameters", missing=""),
    "epochs": _column("epochs", missing=""),
    "minutes": _column("minutes", missing=""),
    "n": _column("n"),
    "accuracy": _share("accuracy"),
    "95 % interval": _ends,
    "clean": _share("clean"),
    "macro F1": _column("macro_f1", "{:.3f}"),
}
PEOPLE_COLUMNS = {
    "network": _run(),
    "seven classes": _share("majority"),
    "95 % interval": _ends,
    "clean": _share("majority clean"),
    "macro F1": _column("macro_f1", "{:.3f}"),
    "eight classes": _share("eight"),
    "eight, clean": _share("eight clean"),
    "seven agree": _share("agreed"),
    "agree, clean": _share("agreed clean"),
}
CAMERA_SCORES = {
    "otherwise": "resting face said otherwise",
    "jitter": "jitter",
    "agreed": "balanced recall, seven agree",
    "label": "balanced recall, labels",
}
CAMERA_COLUMNS = {
    "network": _run(),
    **{title: _share_with_ends(key, f"{key} ") for key, title in CAMERA_SCORES.items()},
    "mean of both": _share("mean"),
    "the same on test": _share("test mean"),
    "how surely otherwise": _share("confidence"),
}
GROUP_COLUMNS = {
    "network": _run(),
    **{
        f"{ages}, {title}": _share(f"{split} {ages}")
        for split, title in SPLITS.items()
        for ages in ("all", *AGE_RANGES)
    },
    **{f"gap, {x}": _column(f"{split} gap", "{:.1f} points") for split, x in SPLITS.items()},
    "jitter, validation": _share_with_ends("share"),
}
SEED_COLUMNS = {
    "run and two other seeds": _run(),
    "validation, clean": _share("valid"),
    "standard deviation": _column("valid spread", "{:.1f} points"),
    "test": _share("test"),
    "its deviation": _column("test spread", "{:.1f} points"),
    "test, clean": _share("clean"),
    "clean deviation": _column("clean spread", "{:.1f} points"),
}
PAIR_COLUMNS = {
    "network": _run(),
    "other": _run("other"),
    "faces": lambda row: row["whose"],
    "n": _column("n"),
    "only the network is right": _column("first_only"),
    "only the other is right": _column("second_only"),
    "p": _p_value,
}
CHANGE_COLUMNS = {
    "idea": lambda row: row["idea"],
    "run": _run(),
    "compared with": _run("base"),
    "points": _points("points"),
    "clean": _points("clean"),
    "spread of seeds": _column("spread", "{:.1f}"),
    "p": _p_value,
    "verdict": _verdict,
}
STUDY_COLUMNS = {
    "trial": _column("number"),
    "learning rate": _column("params_learning_rate", "{:.2g}"),
    "dropout after the second convolution": _column("params_arguments.early_dropout", "{:.1f}"),
    "after the third": _column("params_arguments.conv_dropout", "{:.1f}"),
    "in the dense layers": _column("params_arguments.dense_dropout", "{:.1f}"),
    "accuracy": _share_with_ends("value"),
}
TRIAL_COLUMNS = {
    "trial": lambda row: row["trial"],
    "report": _share("report"),
    "its interval": lambda row: _ends(row, "report "),
    "its n": _column("report n"),
    "its epochs": _column("report epochs"),
    "ours": _share("ours"),
    "our interval": lambda row: _ends(row, "ours "),
    "our n": _column("ours n"),
    "our epochs": _column("ours epochs"),
    "report inside": lambda row: row["inside ours"],
}


def main(arguments=None):
    """Write the page and the figures."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py results",
        description="Writes RESULTS.md and its figures from outputs/reference and outputs/peers.",
    )
    parser.parse_args(arguments)
    output = config.ROOT / "RESULTS.md"
    try:
        tables.record()
        page = build_page()
        with replaced_when_done(output) as partial:
            partial.write_text(page, encoding="utf-8")
        print(f"page: {output}")
        write_figures(config.FIGURES_DIR)
        write_moving_picture(config.FIGURES_DIR / MOVING_PICTURE)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"figures: {config.FIGURES_DIR}")


if __name__ == "__main__":
    main()
