"""FER+: what ten people saw in each image of FER-2013 (Barsoum et al. 2016, arXiv:1608.01041)."""

import numpy as np
import pandas as pd

from utils import config
from utils.data.prepared import load_prepared, rows_of
from utils.files import read_table
from utils.preprocessing import EMOTIONS

RAW_NAMES = ("fer2013new.csv", "ferplus_votes.csv")
# In the order of EMOTIONS; then what else people could answer, without a class in FER-2013.
COLUMNS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
OTHER_COLUMNS = ("contempt", "unknown", "NF")
LEAST_AGREEMENT = 0.4  # of votes with labels: 0.64 in each split, 0.18 a row further
USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}


def load_votes(split, prepared=None, path=None, all_answers=False):
    """Read the votes on the images of a split.

    Taught in notebook 03.

    Parameters
    ----------
    split : {"train", "valid", "test"}
    prepared : utils.data.prepared.PreparedDataset, optional
        FER-2013; by default that in the data folder.
    path : pathlib.Path, optional
        Of the votes; by default one of `RAW_NAMES` in ``data/raw/``.
    all_answers : bool
        Three more columns: contempt, unknown, no face.

    Returns
    -------
    numpy.ndarray, int64, (n, 7) or (n, 10)
        Votes for each emotion in the order of `EMOTIONS`, of at most ten people; a row for each
        image in the order of `utils.data.prepared.load_split`.

    Raises
    ------
    FileNotFoundError
        If the file of votes is not in ``data/raw/``, or FER-2013 is not prepared.
    ValueError
        If the file has other columns or another order, or FER-2013 was prepared from a form that
        does not keep the order of its rows.
    """
    path = path or config.raw_path("fer2013", RAW_NAMES)
    columns = [*COLUMNS, *(all_answers * OTHER_COLUMNS)]
    votes = read_table(path, "get fer2013new.csv of FERPlus", ("Usage", *columns))
    if not all(kind.kind in "iu" for kind in votes[columns].dtypes):
        raise ValueError(f"{path} has votes that are no whole numbers: get it again")
    prepared = prepared or load_prepared("fer2013")
    known = rows_of(prepared, split)
    rows = pd.to_numeric(known["item"], errors="coerce")
    if rows.isna().any():
        raise ValueError(
            f"the votes belong to rows of fer2013.csv, and FER-2013 was prepared from files such "
            f"as {known['item'].iloc[0]}: prepare it from fer2013.csv"
        )
    if prepared.found != len(votes):
        raise ValueError(
            f"{path.name} has {len(votes):,} rows and {prepared.source} {prepared.found:,}: one of "
            "the two is not whole, get it again"
        )
    chosen = votes.iloc[rows.astype(int)]
    winners = chosen[[*COLUMNS]].to_numpy().argmax(axis=1)
    agreement = (np.array(EMOTIONS)[winners] == known["label"].to_numpy()).mean()
    if not (chosen["Usage"] == USAGES[split]).all() or agreement < LEAST_AGREEMENT:
        raise ValueError(
            f"{path.name} has other splits than the prepared images, or votes that are their "
            f"labels in {agreement:.0%} only: one of the two is not in the order of fer2013.csv"
        )
    return chosen[columns].to_numpy()


def soften(votes, y_true):
    """Turn votes into the labels that a network can learn from.

    Parameters
    ----------
    votes : numpy.ndarray, int, (n, 7)
    y_true : numpy.ndarray, int, (n,)
        FER-2013's own labels, used where nobody voted for one of its emotions.

    Returns
    -------
    probabilities : numpy.ndarray, float32, (n, 7)
        Shares of the votes.
    num_without : int
        Images that kept FER-2013's label.
    """
    totals = votes.sum(axis=1)
    without = totals == 0
    probabilities = np.where(
        without[:, None], np.eye(votes.shape[1])[y_true], votes / np.maximum(totals, 1)[:, None]
    )
    return probabilities.astype(np.float32), int(without.sum())


def agreed(votes, num_people=7):
    """Say for which images at least so many people saw the same emotion: bool (n,)."""
    return votes.max(axis=1) >= num_people


def majority(votes):
    """What more than half of the people see, by the rule of FER+'s authors.

    Votes of a single person are dropped; images without a majority, and those of which it says
    "unknown" or "no face", are left out. Source: mode "majority" of src/ferplus.py,
    https://github.com/microsoft/FERPlus. Published accuracies on FER+ use this rule.

    Parameters
    ----------
    votes : numpy.ndarray, int, (n, 10)
        See `load_votes`, with all answers.

    Returns
    -------
    numpy.ndarray, int64, (n,)
        Index into `EMOTIONS`, 7 for contempt, -1 for what is left out.
    """
    counted = np.where(votes > 1, votes, 0)
    winners = counted.argmax(axis=1)
    decided = 2 * counted.max(axis=1) > counted.sum(axis=1)
    return np.where(decided & (winners <= len(EMOTIONS)), winners, -1)
