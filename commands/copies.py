"""Runs of different people that look like one: questions for an instructor, not verdicts."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from commands.texts import few
from utils.evaluation import wilson_interval
from utils.networks.structure import checksum_of

# Two trainings of ours that differ in the seed agree in 80 to 89 % (emotion) and 95 % (gender) of
# the test answers; of all our pairs only those go above these, of which one began with the other.
AGREEMENT_OF_SEEDS = {"fer2013": 0.92, "utkface": 0.96}
MIN_EPOCHS = 2  # the seconds of one epoch may be the same by chance
NUM_NAMED = 3


@dataclass(frozen=True)
class Trace:
    """What is kept of a run to find it again among others'.

    Parameters
    ----------
    owner : int
        Whose it is.
    title : str
        For people: run and owner.
    id, seconds, predictions : str or None
        Drawn when the run began; checksums of the epochs' times and of the probabilities.
    dataset, truth : str
        The latter is the checksum of the labels.
    answers : numpy.ndarray, uint8, (n,)
        On the test images.
    machine : str
    has_own_start : bool
        Whether its training began with random weights.
    """

    owner: int
    title: str
    id: str
    seconds: str
    predictions: str
    dataset: str
    truth: str
    answers: np.ndarray
    machine: str
    has_own_start: bool


def trace_of(record, owner, title, machine):
    """The trace of a run.

    Parameters
    ----------
    record : commands.records.RunRecord
    owner : int
    title, machine : str

    Returns
    -------
    Trace
    """
    y_true, probabilities = record.predictions("test")
    seconds = record.history["seconds"].to_numpy()
    return Trace(
        owner=owner,
        title=title,
        id=record.facts.get("id"),
        seconds=checksum_of([seconds]) if len(seconds) >= MIN_EPOCHS else None,
        predictions=checksum_of([probabilities]),
        dataset=record.dataset,
        truth=checksum_of([y_true]),
        answers=probabilities.argmax(axis=1).astype(np.uint8),
        machine=machine,
        # What was frozen, or where another network ended, is common to honest runs.
        has_own_start=not record.made_of.get("frozen_weights")
        and "going on from" not in record.batches["labels"],
    )


def ask_about_copies(traces):
    """Find runs of different owners that are more alike than two trainings are.

    Parameters
    ----------
    traces : list of Trace

    Returns
    -------
    list of list of str
        The questions about each.
    """
    asked, known = [[] for _ in traces], set()
    for key, ask in (("id", _ask_id), ("seconds", _ask_seconds), ("predictions", _ask_predictions)):
        groups = defaultdict(list)
        for number, trace in enumerate(traces):
            if getattr(trace, key):
                groups[getattr(trace, key)].append(number)
        for group in groups.values():
            pairs = {frozenset(x) for x in itertools.combinations(group, 2)} - known
            pairs = {x for x in pairs if len({traces[number].owner for number in x}) > 1}
            known |= pairs  # about each pair is asked once
            for one in group:
                if others := [traces[x] for x in group if {one, x} in pairs]:
                    asked[one].append(ask(traces[one], others))
    for pair, share in _alike(traces):
        if set(pair) not in known:
            for one, other in (pair, pair[::-1]):
                asked[one].append(_ask_agreement(traces[one], traces[other], share))
    return asked


def _named(others):
    return few([other.title for other in others], NUM_NAMED)


def _ask_id(_, others):
    return f"the same run as {_named(others)}? Both have the id that is drawn when a run begins"


def _ask_seconds(_, others):
    return f"a copy of {_named(others)}, or copied? Each epoch took the same time to a hundredth"


def _ask_predictions(one, others):
    same = all(other.machine == one.machine for other in others)
    # Measured: two trainings with one seed, on one machine, ended with the same digits.
    machines = "the machines are of one kind" if same else "but the machines differ"
    return (
        f"the same predictions as {_named(others)}, digit for digit: copied? One seed on one kind "
        f"of machine gives that too; here {machines}"
    )


def _ask_agreement(one, other, share):
    return (
        f"{share:.1%} of its test answers are those of {other.title}: copied? Two seeds agree in "
        f"at most {AGREEMENT_OF_SEEDS[one.dataset]:.0%}"
    )


def _alike(traces):
    """Pairs of runs of different owners that agree more than seeds do, and in which share."""
    groups = defaultdict(list)
    for number, trace in enumerate(traces):
        if trace.has_own_start:
            groups[trace.dataset, trace.truth].append(number)
    for (dataset, _), group in groups.items():
        if dataset not in AGREEMENT_OF_SEEDS:  # pictures of one's own
            continue
        answers = np.stack([traces[number].answers for number in group])
        for place, one in enumerate(group[:-1]):
            shares = (answers[place + 1 :] == answers[place]).mean(axis=1)
            for other, share in zip(group[place + 1 :], shares):
                n = answers.shape[1]
                if traces[one].owner == traces[other].owner or share <= AGREEMENT_OF_SEEDS[dataset]:
                    continue
                # On a few images two networks agree by chance.
                if wilson_interval(round(share * n), n)[0] > AGREEMENT_OF_SEEDS[dataset]:
                    yield (one, other), share
