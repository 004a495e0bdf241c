"""Trains a network by the recipe of one of our runs.

python tasks.py train --help
"""

import argparse
import os
import sys
from dataclasses import replace

from utils import config
from utils.recipes.recipe import Recipe, train_recipe
from utils.training import load_runs


def main(arguments=None):
    """Train the recipe of a reference, as a run of one's own."""
    references, _ = load_runs(config.REFERENCE_DIR)
    parser = argparse.ArgumentParser(
        prog="python tasks.py train",
        description="Trains a network as one of our runs was trained, or with a change. The run "
        "is yours, in outputs/runs; an interrupted one goes on when the same command comes again.",
    )
    parser.add_argument(
        "reference", choices=references, metavar="NAME", help=f"one of {', '.join(references)}"
    )
    parser.add_argument("--as", dest="name", help="name of your run; default: the same")
    parser.add_argument("--epochs", type=int, help="instead of the reference's")
    parser.add_argument("--seed", type=int, help="of all that is random, instead of 0")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16 on a processor: faster on those with AMX; a GPU is asked itself",
    )
    options = parser.parse_args(arguments)
    recipe = Recipe.of_reference(references[options.reference])
    changes = {"epochs": options.epochs, "seed": options.seed}
    recipe = replace(recipe, **{key: x for key, x in changes.items() if x is not None})
    print(config.banner(recipe.dataset))
    try:
        if config.is_sample_run(recipe.dataset) and os.environ.get("FACELAB_SAMPLE") != "1":
            raise FileNotFoundError(
                f"there is no full {recipe.dataset} ({config.WHERE_TO_GET}); FACELAB_SAMPLE=1 "
                "trains on the drawn sample, which teaches nothing"
            )
        run = train_recipe(recipe, options.name or options.reference, options.bfloat16)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"run: {run.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
