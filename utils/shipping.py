"""A finished run becomes a shipped network: calibrated, float16, with its contract.

python tasks.py ship NAME --accuracy 0.75
"""

import argparse
import math
import sys
from dataclasses import replace

from utils import config
from utils.evaluation import choose_threshold, fit_temperature, sharpen
from utils.ferplus import load_votes
from utils.models import calibrate, save_pretrained
from utils.training import load_run


def ship(run, accuracy):
    """Write a run's network to ``outputs/pretrained/``, for the realtime loop.

    The temperature, and the threshold below which the loop says "unsure", are chosen on the
    validation split: by its own labels, or by people's votes for a run that learned from these.
    Temperatures are taught in notebooks 03 and 04.

    Parameters
    ----------
    run : utils.training.Run
        With its weights, which are not kept in git.
    accuracy : float
        Wanted, on the validation split, of what the network says when it is not unsure.

    Returns
    -------
    contract : utils.contracts.ModelContract
    share : float
        Of the validation images on which it is not unsure.

    Raises
    ------
    ValueError
        If the run is of another split than the default one, or no threshold will do.
    FileNotFoundError
        If the weights are not on this machine.
    """
    if run.spec.split_name != "default":
        raise ValueError(
            f"{run.spec.name} learned on the split {run.spec.split_name!r}, expected 'default', on "
            "whose test images shipped networks are evaluated: it may have learned from these"
        )
    model = run.load_model()
    y_true, probabilities = run.predictions("valid")
    if run.spec.labels == "ferplus":  # then what most people say is what it should say
        votes = load_votes("valid")
        judged = votes.any(axis=1)
        y_true, probabilities = votes.argmax(axis=1)[judged], probabilities[judged]
    temperature = fit_temperature(y_true, probabilities)
    threshold, share = choose_threshold(y_true, sharpen(probabilities, temperature), accuracy)
    calibrate(model, temperature)
    # Rounded up, the threshold could lie above the images it was chosen for.
    unsure_below = math.floor(threshold * 1e4) / 1e4
    contract = replace(
        run.spec.contract, temperature=round(temperature, 4), unsure_below=unsure_below
    )
    save_pretrained(model, contract, run.spec.name)
    return contract, share


def main(arguments=None):
    """Ship a run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py ship",
        description="Writes the network of a finished run to outputs/pretrained.",
    )
    parser.add_argument("name", help="of the run in outputs/runs")
    parser.add_argument(
        "--accuracy",
        type=float,
        required=True,
        help="wanted of what is not called unsure, on the validation split",
    )
    options = parser.parse_args(arguments)
    folder = config.RUNS_DIR / options.name
    try:
        if not (folder / "metrics.json").is_file():
            raise FileNotFoundError(
                f"{folder} is no finished run: python tasks.py train --help says how to make one"
            )
        contract, share = ship(load_run(folder), options.accuracy)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.name}: temperature {contract.temperature:.2f}, unsure below "
        f"{contract.unsure_below:.2f}, which leaves {share:.1%} of the validation images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
