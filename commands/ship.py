"""A finished run of yours becomes a network that the loop finds: calibrated, with its contract.

python tasks.py ship NAME --accuracy 0.75
python tasks.py ship emotion_ferplus      makes only the LiteRT file of a network anew
"""

import argparse
import itertools
import math
import sys
from dataclasses import replace

import numpy as np

from utils.data.ferplus import agreed, load_votes
from utils.data.prepared import (
    copies_of_training,
    load_images,
    load_prepared,
    rows_of,
)
from utils.evaluation import (
    MOST_OTHERWISE,
    balanced_recall,
    calibration_error,
    choose_child_age,
    choose_threshold,
    combine,
    evaluate,
    fit_temperature,
    mcnemar,
    reliability,
    resting_face,
    sharpen,
)
from utils.files import replaced_when_done, sha256_of
from utils.networks.contract import SHIPPED_NAME, ModelContract, find_network, networks
from utils.networks.litert import export_litert, run_litert
from utils.networks.storage import (
    build_with_weights,
    calibrate,
    combine_outputs,
    join_age,
    save_network,
)
from utils.preprocessing import EMOTIONS, GENDERS, YEARS
from utils.training import Run, load_run, prepared_of, reference

MAX_LOSS = 0.005  # of macro F1 and of calibration, where weights of 8 bits are taken
MAX_YEARS = 0.5  # mean difference of the estimated age by 8 bits
MAX_GAP = 0.05  # of accuracy between races, that needs no warning


def ship(run, accuracy):
    """Write a run's network beside it, for the realtime loop.

    The temperature, and the threshold below which the loop says "unsure", are chosen on the
    validation split: by its own labels, or by people's votes for a run that learned from these.
    Temperatures are taught in notebooks 03 and 04. Of a network with an output for labels and one
    for people's votes, a mean of both is shipped, see `choose_mean`. With an output for age, the
    age below which the loop says "child" is chosen too, see `utils.evaluation.choose_child_age`.

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
        Of the validation images on which it is not unsure, without those it calls children.

    Raises
    ------
    ValueError
        If no threshold will do, the network does not end in a dense layer and a softmax, or the
        faces prepared here are not the run's.
    FileNotFoundError
        If the weights are not on this machine.
    """
    prepared_of(run)  # other data are refused before anything is written
    model, mean, child_below = run.load_model(), {}, 0.0
    further = {x.name for x in model.layers} if len(model.outputs) > 1 else ()
    y_true, probabilities = run.predictions("valid")
    if "votes" in further:
        mean, probabilities = choose_mean(run)
        weights = 1 - mean["votes_weight"], mean["votes_weight"]
        model = combine_outputs(model, weights, mean["tau"] * np.log(mean["prior"]))
    y_true, judged = _labels(run, y_true)
    if "years" in further:
        faces = faces_by_age(run)
        child_below = choose_child_age(*(faces[x].to_numpy() for x in ("right", "said", "age")))
        judged &= faces["said"].to_numpy() >= child_below  # of others it says no gender
    y_true, probabilities = y_true[judged], probabilities[judged]
    # Where all are right, the likeliest temperature is zero, which few images cannot tell.
    all_right = (probabilities.argmax(axis=1) == y_true).all()
    temperature = 1.0 if all_right else fit_temperature(y_true, probabilities)
    threshold, share = choose_threshold(y_true, sharpen(probabilities, temperature), accuracy)
    calibrate(model, temperature)
    model = join_age(model) if child_below else model
    # Rounded up, the threshold could lie above the images it was chosen for.
    unsure_below = math.floor(threshold * 1e4) / 1e4
    settings = {"temperature": round(temperature, 4), "unsure_below": unsure_below, **mean}
    contract = replace(run.contract, child_below=child_below, **settings)
    save_network(model, contract, run.folder / SHIPPED_NAME)
    return contract, share


def choose_mean(run):
    """Choose how much people's votes count beside labels, and how far rare emotions are raised.

    Of all pairs on a grid, the one with the highest mean of both balanced recalls, on clean
    validation images, among those that call at most `MOST_OTHERWISE` of resting faces something
    else; if there is none, the one that calls the fewest so.

    Parameters
    ----------
    run : utils.training.Run
        Of FER-2013, with the further output "votes".

    Returns
    -------
    mean : dict
        votes_weight, tau, prior: see `utils.networks.contract.ModelContract`.
    probabilities : numpy.ndarray, float, (n, 7)
        Of the validation images, by that mean.
    """
    y_true, own = run.predictions("valid")
    answers = own, run.predictions("valid", output="votes")[1]
    prepared = load_prepared("fer2013")
    clean, votes = ~copies_of_training(prepared, "valid"), load_votes("valid")
    learned = rows_of(prepared, "train")["label"].value_counts(normalize=True)
    prior = tuple(float(learned[name]) for name in run.class_names)
    rows = []
    for votes_weight, tau in itertools.product(np.arange(21) / 20, np.arange(9) / 8):
        combined = combine(answers, (1 - votes_weight, votes_weight), prior, tau)
        said, agree = combined[clean], clean & agreed(votes)
        recalls = (
            balanced_recall(votes[agree].argmax(axis=1), combined[agree])["recall"],
            balanced_recall(y_true[clean], said)["recall"],
        )
        otherwise = resting_face(votes[clean, EMOTIONS.index("neutral")], said)["share"]
        rows.append((votes_weight, tau, otherwise, np.mean(recalls)))
    calm = [row for row in rows if row[2] <= MOST_OTHERWISE]
    best = max(calm, key=lambda row: row[3]) if calm else min(rows, key=lambda row: row[2])
    mean = {"votes_weight": float(best[0]), "tau": float(best[1]), "prior": prior}
    return mean, combine(answers, (1 - best[0], best[0]), prior, best[1])


def faces_by_age(run):
    """What is known of a run's validation faces, the age it `said`, whether gender is `right`."""
    prepared = prepared_of(run)
    y_true, probabilities = run.predictions("valid")
    return rows_of(prepared, "valid", run.class_names).assign(
        said=run.predictions("valid", output="years")[1] @ np.array(YEARS),
        right=probabilities.argmax(axis=1) == y_true,
    )


def describe_age(faces, child_below):
    """Say what an output for age does to the faces of `faces_by_age`: yields two sentences."""
    older, adult = faces["said"] >= child_below, faces["age"] >= 18
    yield (
        f'"child" below {child_below:g} years, {1 - older[adult].mean():.1%} of adults; of other '
        f"validation faces gender is right in {faces['right'][older].mean():.1%}; the estimated "
        f"age is {(faces['said'] - faces['age']).abs().mean():.1f} years off on average"
    )
    races = faces[faces["age"] >= 6].groupby("race")["right"].mean().sort_values()
    gap = races.iloc[-1] - races.iloc[0]
    yield ("warning: " if gap > MAX_GAP else "") + (
        f"from six years on, gender is right in {races.iloc[0]:.1%} ({races.index[0]}) to "
        f"{races.iloc[-1]:.1%} ({races.index[-1]}) by race, {100 * gap:.1f} points apart"
    )


def _labels(run, y_true):
    """What a run should say of the validation images, and of which images that is known."""
    if not run.facts["made_of"]["batches"]["labels"].startswith("votes"):
        return y_true, np.full(len(y_true), True)
    votes = load_votes("valid")  # what most people say is what it should say
    return votes.argmax(axis=1), votes.any(axis=1)


def write_litert(path):
    """Write the LiteRT file of a network beside its weights, and its checksum into its contract.

    Weights of 8 bits are taken where the validation images show no loss by them: of accuracy
    (McNemar's test, p < 0.05), or of more than `MAX_LOSS` of macro F1 or of calibration; and where
    estimated ages change by at most `MAX_YEARS` on average.

    Parameters
    ----------
    path : pathlib.Path
        Of the weights, see `utils.networks.contract.find_network`.

    Returns
    -------
    str
        What was written, in a sentence.

    Raises
    ------
    FileNotFoundError
        If the data set is not prepared.
    ValueError
        If LiteRT lacks an operation of the network, which is then run by Keras; or if other data
        are prepared here than the network learned from.
    """
    contract = ModelContract.read(path.with_suffix(".json"))
    run = Run(path.parent) if path.name == SHIPPED_NAME else reference(path.stem)
    prepared = prepared_of(run)
    images, y_true, _ = load_images(prepared, "valid", contract.face_input, contract.class_names)
    y_true, judged = _labels(run, y_true)
    model = build_with_weights(path, contract, with_age=True)
    expected = model.predict(images, verbose=0)
    litert_path = path.with_suffix(".tflite")
    with replaced_when_done(litert_path) as partial:
        export_litert(model, partial, quantized=True)
        try:
            answers = run_litert(partial)(images.astype(np.float32))
        except RuntimeError as error:
            raise ValueError(
                f"{litert_path} was not written, and the loop will run this network by Keras: "
                f"LiteRT lacks an operation of it ({str(error).splitlines()[0]})"
            ) from error
        # With an output for age, there is a column more.
        classes = (judged, slice(len(contract.class_names)))
        losses = _losses(y_true[judged], answers[classes], expected[classes])
        if contract.child_below and np.abs(answers - expected)[:, -1].mean() > MAX_YEARS:
            losses.append("age")
        if losses:
            export_litert(model, partial, quantized=False)
        size = partial.stat().st_size / 1e6
    replace(contract, litert_sha256=sha256_of(litert_path)).write(path.with_suffix(".json"))
    bits = f"32 bits, as 8 would lose {' and '.join(losses)}" if losses else "8 bits"
    return f"{litert_path.name} has {size:.1f} MB, weights of {bits}"


def _losses(y_true, probabilities, expected):
    """What is worse than expected: list of str."""
    got, wanted = evaluate(y_true, probabilities), evaluate(y_true, expected)
    errors = [calibration_error(reliability(y_true, x)) for x in (probabilities, expected)]
    worse = {
        "accuracy": got["accuracy"] < wanted["accuracy"]
        and mcnemar(y_true, probabilities, expected)["p_value"] < 0.05,
        "macro F1": got["macro_f1"] < wanted["macro_f1"] - MAX_LOSS,
        "calibration": errors[0] > errors[1] + MAX_LOSS,
    }
    return [name for name, is_worse in worse.items() if is_worse]


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
        help="wanted of what is not called unsure, on the validation split; without it, only the "
        "LiteRT file of a network that is there is made anew",
    )
    options = parser.parse_args(arguments)
    try:
        if options.accuracy is None:
            path, _ = find_network(options.name)
        else:
            run = load_run(options.name)
            contract, share = ship(run, options.accuracy)
            path = run.folder / SHIPPED_NAME
            # On a Mac, the name may have been typed in other letters than the folder's.
            name = next((name for name, x in networks().items() if x.samefile(path)), options.name)
            if contract.votes_weight or contract.tau:
                print(
                    f"{options.name}: people's votes count {contract.votes_weight:.0%}, and rare "
                    f"emotions are raised by tau = {contract.tau:g}"
                )
            if contract.child_below:
                for sentence in describe_age(faces_by_age(run), contract.child_below):
                    print(f"{options.name}: {sentence}")
            print(
                f"{options.name}: temperature {contract.temperature:.2f}, unsure below "
                f"{contract.unsure_below:.2f}, which leaves {share:.1%} of the validation images"
                f"{', children left out' * bool(contract.child_below)}"
            )
        print(write_litert(path))
        if options.accuracy is not None:
            others = set(contract.class_names) - set(GENDERS)
            if others and len(others) < len(contract.class_names):
                print(f"{name} has genders and other classes together, which the loop cannot show")
            else:
                option = "emotion" if others else "gender"
                print(f"python tasks.py run --{option} {name} loads {path.parent}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
