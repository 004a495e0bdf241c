"""Trains a network by the recipe of one of our runs.

python tasks.py train --help
"""

import argparse
import os
import sys

from utils import config
from utils.recipes.recipe import Recipe, set_fields, train_recipe
from utils.training import load_runs


def add_recipe_options(parser):
    """Options that name one of our runs and change its recipe.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Gets reference and settings (see `utils.recipes.recipe.set_fields`).

    Returns
    -------
    dict of str to utils.training.Run
        Our runs.
    """
    references, _ = load_runs(config.REFERENCE_DIR)
    parser.add_argument(
        "reference", choices=references, metavar="NAME", help=f"one of {', '.join(references)}"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="instead of the reference's, for instance learning_rate=0.02 or, of its network, "
        "arguments.dropout=0.5; may be repeated; a wrong one lists what there is",
    )
    for field, meaning in {"epochs": "how many", "seed": "of all that is random"}.items():
        parser.add_argument(
            f"--{field}",
            dest="settings",
            action="append",
            type=f"{field}={{}}".format,
            metavar="N",
            help=f"{meaning}: short for --set {field}=N",
        )
    return references


def refuse_sample(dataset):
    """Say which data are read; FileNotFoundError where it is the sample, unasked."""
    print(config.banner(dataset))
    if config.is_sample_run(dataset) and os.environ.get("FACELAB_SAMPLE") != "1":
        raise FileNotFoundError(
            f"there is no full {dataset} ({config.WHERE_TO_GET}); FACELAB_SAMPLE=1 "
            "trains on the drawn sample, which teaches nothing"
        )


def main(arguments=None):
    """Train the recipe of a reference, as a run of one's own."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py train",
        description="Trains a network as one of our runs was trained, or with a change. The run "
        "is yours, in outputs/runs; an interrupted one goes on when the same command comes again.",
    )
    references = add_recipe_options(parser)
    parser.add_argument("--as", dest="name", help="name of your run; default: the same")
    options = parser.parse_args(arguments)
    try:
        recipe = set_fields(Recipe.of_reference(references[options.reference]), options.settings)
        refuse_sample(recipe.dataset)
        run = train_recipe(recipe, options.name or options.reference)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"run: {run.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
