"""Scores the shipped networks on somebody's own copy of the data, or a run's own weights.

python tasks.py evaluate --fer fer2013.csv --utk UTKFace --ten-views
python tasks.py evaluate --run outputs/runs/emotion_final
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from commands.texts import path_of
from commands.weights import find_folder, score_run
from utils import config
from utils.data.batches import views
from utils.data.fer import prepare_fer
from utils.data.ferplus import agreed, load_votes, majority
from utils.data.prepared import copies_of_training, fingerprint, load_images, rows_of
from utils.data.utk import prepare_utk
from utils.evaluation import AGE_BANDS, AGE_RANGES, age_bands, evaluate
from utils.networks.storage import load_network
from utils.preprocessing import EMOTIONS
from utils.training import reference

TEN_VIEWS = ", ten views"
NOT_IN_TRAINING = "not in training as well"


def score_shipped(dataset, prepared, votes_path=None, ten_views=False):
    """Score the shipped networks of a data set on its test split.

    Parameters
    ----------
    dataset : {"fer2013", "utkface"}
    prepared : utils.data.prepared.PreparedDataset
    votes_path : pathlib.Path, optional
        Votes of FER+, to score emotion networks also by what people agree on.
    ten_views : bool
        Score also the mean answer to ten views of each image, which takes ten times as long.

    Returns
    -------
    pandas.DataFrame
        Indexed by model and by what was scored; columns as `evaluate` gives them, but no macro_f1
        where images of a class are missing. Where a network has an output for age, age_error, in
        one view: the mean absolute error in years.
    """
    votes = load_votes("test", prepared, votes_path, all_answers=True) if votes_path else None
    prefix = {"fer2013": "emotion", "utkface": "gender"}[dataset]
    rows = {}
    for path in sorted(config.PRETRAINED_DIR.glob(f"{prefix}_*.npz")):
        name = path.stem
        model, contract = load_network(name, with_age=True)
        names = contract.class_names
        images, y_true, _ = load_images(prepared, "test", contract.face_input, names)
        seen = itertools.islice(views(images), None if ten_views else 1)
        predictions = [model.predict(view, batch_size=256, verbose=0) for view in seen]
        probabilities, estimated = np.split(predictions[0], [len(names)], axis=1)
        answers = {"": probabilities}
        if ten_views:
            answers[TEN_VIEWS] = np.mean(predictions, axis=0)[:, : len(names)]
        known = rows_of(prepared, "test", names)
        groups = {"all test images": known["label"].notna()}
        if dataset == "fer2013":
            new = ~copies_of_training(prepared, "test", names)
            groups[NOT_IN_TRAINING] = new
            if votes is not None and tuple(names) == EMOTIONS:
                for title, each in answers.items():
                    for part, scores in _by_people(votes, each, new):
                        rows[name, f"{part}{title}"] = scores
        else:
            bands = age_bands(known["age"])
            for ages, limits in AGE_RANGES.items():
                groups[f"ages {ages}"] = known["age"].between(*limits)
            groups |= {f"age {band}": bands == band for band in AGE_BANDS}
            groups |= {race: known["race"] == race for race in sorted(known["race"].unique())}
            groups |= {label: known["label"] == label for label in names}
        off = (known["age"] - estimated[:, 0]).abs() if contract.child_below else None
        for group, chosen in groups.items():
            chosen = np.asarray(chosen)
            if not chosen.any():
                continue
            for title, each in answers.items():
                scores = rows[name, f"{group}{title}"] = evaluate(y_true[chosen], each[chosen])
                if len(np.unique(y_true[chosen])) < len(names):  # none is known of the others
                    scores["macro_f1"] = np.nan
            if off is not None:
                rows[name, group]["age_error"] = off[chosen].mean()
    table = pd.DataFrame(rows).T.astype({"n": int, "correct": int})
    return table.rename_axis(["model", "test images"])


def _by_people(votes, probabilities, new):
    """Scores by what people say, on all images and on those that are not in training as well."""
    said, emotions = majority(votes), votes[:, : len(EMOTIONS)]
    rules = {
        "majority of people, 7 classes": np.where(said < len(EMOTIONS), said, -1),
        "majority of people, 8 classes": said,
        "7 of 10 people agree": np.where(agreed(emotions), emotions.argmax(axis=1), -1),
    }
    for rule, labels in rules.items():
        # No network of ours can say contempt.
        answers = np.pad(probabilities, ((0, 0), (0, 1))) if "8" in rule else probabilities
        for part, chosen in ((rule, labels >= 0), (f"{rule}, {NOT_IN_TRAINING}", new)):
            chosen = chosen & (labels >= 0)
            if chosen.any():
                yield part, evaluate(labels[chosen], answers[chosen])


def _notes_on_labels(name, votes):
    """What to know of a network that learned other labels than those that are counted."""
    if "votes" in reference(name).facts["made_of"]["batches"]["labels"]:
        by_votes = "the rows of what people say" if votes else "--votes fer2013new.csv"
        yield f"{name}: it learned from people's votes, not FER-2013's labels alone; see {by_votes}"


def _note_on_images(name, prepared):
    """Say whether these are the images of the run that made the shipped network."""
    if reference(name).facts["made_of"]["data"] == fingerprint(prepared):
        return f"{name}: the same images in the same splits as in its training run"
    return (
        f"{name}: not the images or splits of its training run, so test images may be among "
        "those that it has learned from"
    )


def main(arguments=None):
    """Score the shipped networks, or the weights of a run, from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py evaluate",
        description="Scores the networks in outputs/pretrained on the test splits of your own "
        "copy of the data; or, with --run, the weights of a run on the data that are prepared "
        "here. Intervals are 95 % Wilson intervals.",
    )
    for name, text in (
        ("--fer", "FER-2013: fer2013.csv, packed or not, or folder"),
        ("--utk", "UTKFace: folder of images, or .tar.gz"),
        ("--votes", "fer2013new.csv of FERPlus, with --fer a csv"),
    ):
        parser.add_argument(name, type=path_of, help=text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--ten-views", action="store_true", help="also the mean of ten views: ten times as long"
    )
    parser.add_argument(
        "--run", type=os.path.expanduser, help="folder or name of a run, whose weights are scored"
    )
    options = parser.parse_args(arguments)
    given = {"fer2013": options.fer, "utkface": options.utk}
    if options.run and (any(given.values()) or options.votes or options.json or options.ten_views):
        parser.error("--run stands alone: it scores on the data that are prepared here")
    if not options.run and not any(given.values()):
        parser.error("give --fer, --utk or both, or --run")
    if options.votes and not options.fer:
        parser.error("--votes are on images of FER-2013: give --fer as well")
    try:
        if options.run:
            print(*score_run(find_folder(options.run)), sep="\n")
            return 0
        for path in filter(None, (*given.values(), options.votes)):
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
        records = {}
        for dataset, table in _score_copies(given, options.votes, options.ten_views):
            if options.json:
                text = table.reset_index().to_json(orient="records", double_precision=15)
                records[dataset] = json.loads(text)
            else:
                table = table.drop(columns="correct").round(3)
                print(table.to_string(na_rep="-"), end="\n\n", flush=True)
        if options.json:
            print(json.dumps(records, indent=1))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _score_copies(given, votes_path, ten_views):
    """Yield a data set and its table for each copy of the data that was given."""
    for dataset, path in given.items():
        if path is None:
            continue
        prepare = {"fer2013": prepare_fer, "utkface": prepare_utk}[dataset]
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(source=path, destination=Path(folder) / dataset)
            used, left_out = len(prepared.labels), len(prepared.left_out)
            counted = f"{path}: {prepared.found:,} found, {used:,} used, {left_out:,} left out"
            print(counted, *prepared.notes, sep="\n", file=sys.stderr)
            votes = votes_path if dataset == "fer2013" else None
            table = score_shipped(dataset, prepared, votes, ten_views)
            for name in table.index.unique("model"):
                print(_note_on_images(name, prepared), file=sys.stderr)
                for note in _notes_on_labels(name, votes):
                    print(note, file=sys.stderr)
            yield dataset, table


if __name__ == "__main__":
    sys.exit(main())
