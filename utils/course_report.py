"""What the report gives, to be laid beside our runs: its trials and its confusion matrices.

Source: course report, "Few Trial Runs" of both parts and the observations on each model.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.evaluation import evaluate, wilson_interval
from utils.training import reference

# Rows are true classes, columns predicted ones, in the order of EMOTIONS and of GENDERS.
EMOTION_MATRIX = np.array(
    [
        [223, 0, 46, 34, 102, 6, 80],
        [14, 25, 2, 1, 6, 2, 5],
        [56, 1, 186, 24, 164, 28, 69],
        [24, 0, 21, 612, 79, 7, 47],
        [57, 1, 40, 48, 334, 5, 109],
        [18, 1, 43, 23, 31, 272, 28],
        [39, 0, 22, 40, 138, 2, 385],
    ]
)
GENDER_MATRIX = np.array([[90, 10], [1, 99]])


@dataclass(frozen=True)
class Trial:
    """A test accuracy of the report and the run that repeats it.

    Parameters
    ----------
    name : str
    run : str
        Name of ours.
    accuracy : float
        As the report prints it; a round figure is one of its text.
    n : int
        Test images of the report.
    epochs : int or None
        The report's; None where it gives none.
    at_epoch : int or None
        Ours is scored after this epoch of the run; None: after its last.
    """

    name: str
    run: str
    accuracy: float
    n: int
    epochs: int | None = None
    at_epoch: int | None = None


TRIALS = {
    "fer2013": (
        Trial("six convolutions", "emotion_six_conv", 0.50, 3500),
        Trial("MobileNet", "emotion_mobilenet", 0.40, 3500),
        # 3,500 less the report's 528 fear and 55 disgust images; it gives no number itself.
        Trial("five classes", "emotion_five_classes", 0.66, 2917, epochs=30),
        Trial("finalised, trial 2", "emotion_final", 0.5482, 3500, epochs=20, at_epoch=20),
        Trial("finalised, trial 1", "emotion_final", 0.5124, 3500, epochs=30, at_epoch=30),
        Trial("finalised, trial 3", "emotion_final", 0.582, 3500, epochs=50, at_epoch=50),
    ),
    "utkface": (
        Trial("six convolutions, trial 1", "gender_six_conv", 0.94, 200, epochs=20),
        Trial("MobileNet", "gender_mobilenet", 0.90, 200),
        Trial("finalised, trial 2", "gender_final_trial_2", 0.93, 200, epochs=30),
        Trial("finalised, trial 3", "gender_final_trial_3", 0.945, 200, epochs=30),
    ),
}


def compare_with_report(trials, runs):
    """Lay our runs and yours beside the report.

    Parameters
    ----------
    trials : sequence of Trial
    runs : dict of str to utils.training.Run
        Yours, by the name of the trial's run; what is missing here, or is one of ours that was
        shown in its place, is missing in the table.

    Returns
    -------
    pandas.DataFrame
        A row for each trial: epochs, test accuracy and its 95 % Wilson interval of the report, of
        our run (*ours*) and of yours after its last epoch; *inside* says whether the report's
        accuracy lies in the interval.
    """
    rows = []
    for trial in trials:
        correct = round(trial.accuracy * trial.n)
        said = {"accuracy": trial.accuracy, "correct": correct, "n": trial.n}
        row = _columns("report", trial.epochs, said)
        ours, yours = reference(trial.run), runs.get(trial.run)
        at_epoch = ours.facts.get("at_epoch", {}).get(str(trial.at_epoch))
        # After an earlier epoch only the scores are kept.
        scores = at_epoch["test"] if at_epoch else evaluate(*ours.predictions("test"))
        row |= _columns("ours", trial.at_epoch or ours.epochs, scores, trial)
        if yours and not yours.is_reference:
            row |= _columns("yours", yours.epochs, evaluate(*yours.predictions("test")), trial)
        rows.append(row | {"trial": trial.name})
    table = pd.DataFrame(rows).set_index("trial")
    return table.astype({name: "Int64" for name in table if name.endswith((" epochs", " n"))})


def _columns(whose, epochs, scores, trial=None):
    low, high = wilson_interval(scores["correct"], scores["n"])
    columns = {
        f"{whose} epochs": epochs,
        whose: scores["accuracy"],
        f"{whose} low": low,
        f"{whose} high": high,
        f"{whose} n": scores["n"],
    }
    if trial:
        columns[f"inside {whose}"] = "yes" if low <= trial.accuracy <= high else "no"
    return columns
