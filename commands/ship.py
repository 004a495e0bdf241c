"""A finished run of yours becomes a network that the loop finds: calibrated, with its contract.

python tasks.py ship NAME --accuracy 0.75
"""

import argparse
import math
import sys
from dataclasses import replace

from utils.data.ferplus import load_votes
from utils.evaluation import choose_threshold, fit_temperature, sharpen
from utils.networks.contract import SHIPPED_NAME, networks
from utils.networks.storage import calibrate, save_network
from utils.training import load_run


def ship(run, accuracy):
    """Write a run's network beside it, for the realtime loop.

    The temperature, and the threshold below which the loop says "unsure", are chosen on the
    validation split: by its own labels, or by people's votes for a run that learned from these.
    Temperatures are taught in notebooks 03 and 04.

    Parameters
    ----------
    run : utils.training.Run
        With its weights.
    accuracy : float
        Wanted, on the validation split, of what the network says when it is not unsure.

    Returns
    -------
    contract : utils.networks.contract.ModelContract
    share : float
        Of the validation images on which it is not unsure.

    Raises
    ------
    ValueError
        If no threshold will do, or the network does not end in a dense layer and a softmax.
    FileNotFoundError
        If the weights are not on this machine.
    """
    model = run.load_model()
    y_true, probabilities = run.predictions("valid")
    if run.facts["made_of"]["batches"]["labels"].startswith("votes"):
        votes = load_votes("valid")  # what most people say is what it should say
        judged = votes.any(axis=1)
        y_true, probabilities = votes.argmax(axis=1)[judged], probabilities[judged]
    temperature = fit_temperature(y_true, probabilities)
    threshold, share = choose_threshold(y_true, sharpen(probabilities, temperature), accuracy)
    calibrate(model, temperature)
    # Rounded up, the threshold could lie above the images it was chosen for.
    unsure_below = math.floor(threshold * 1e4) / 1e4
    contract = replace(run.contract, temperature=round(temperature, 4), unsure_below=unsure_below)
    save_network(model, contract, run.folder / SHIPPED_NAME)
    return contract, share


def main(arguments=None):
    """Ship a run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py ship",
        description="Makes a finished run of yours a network that the loop finds by its name.",
    )
    parser.add_argument("name", help="of the run in outputs/runs")
    parser.add_argument(
        "--accuracy",
        type=float,
        required=True,
        help="wanted of what is not called unsure, on the validation split",
    )
    options = parser.parse_args(arguments)
    try:
        run = load_run(options.name)
        contract, share = ship(run, options.accuracy)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    name = next(name for name, path in networks().items() if path.parent == run.folder)
    print(
        f"{options.name}: temperature {contract.temperature:.2f}, unsure below "
        f"{contract.unsure_below:.2f}, which leaves {share:.1%} of the validation images; "
        f"python tasks.py run --emotion {name} (or --gender) loads it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
