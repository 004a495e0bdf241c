import numpy as np
import pytest

from utils import config
from utils.training import RunSpec, load_runs
from utils.trials import EMOTION_MATRIX, GENDER_MATRIX, TRIALS, Trial, compare_with_report


def test_the_report_s_matrices_have_its_accuracies():
    assert EMOTION_MATRIX.sum() == 3500 and GENDER_MATRIX.sum() == 200
    assert EMOTION_MATRIX.trace() / 3500 == pytest.approx(0.582, abs=5e-4)
    assert GENDER_MATRIX.trace() / 200 == 0.945
    # Per class, the report's test set is PrivateTest less 89 happy faces.
    assert EMOTION_MATRIX.sum(axis=1).tolist() == [491, 55, 528, 879 - 89, 594, 416, 626]


class FakeRun:
    spec = RunSpec("ours", "fer2013", "final", epochs=9)

    def scores(self, epoch, split):
        if epoch == 4:
            return None
        accuracy = {"valid": 0.55, "test": 0.5}[split]
        return {"accuracy": accuracy, "low": 0.4, "high": 0.6, "n": 100}


def test_rows_beside_the_report():
    table = compare_with_report(
        (
            Trial("inside", "ours", 0.6, 200, epochs=30),
            Trial("outside", "ours", 0.61, 200, at_epoch=5),
            Trial("not scored then", "ours", 0.6, 200, at_epoch=4),
            Trial("not run", "none", 0.945, 200),
        ),
        {"ours": FakeRun()},
    )
    assert table["inside"].tolist()[:2] == ["yes", "no"]
    assert table["epochs"].tolist()[:2] == [9, 5]
    assert table.loc["inside", ["validation", "test", "low", "high", "n"]].tolist() == [
        0.55, 0.5, 0.4, 0.6, 100,
    ]  # fmt: skip
    for name in ("not scored then", "not run"):
        assert table.loc[name, ["epochs", "validation", "test", "n", "inside"]].isna().all()
    assert table["report epochs"].isna().tolist() == [False, True, True, True]
    low, high = table.loc["not run", ["report low", "report high"]]
    assert (low, high) == pytest.approx((0.904, 0.969), abs=1e-3)


def test_stored_runs_are_of_the_data_set_that_their_trial_says():
    finished, _ = load_runs(config.RUNS_DIR)
    for dataset, trials in TRIALS.items():
        for trial in trials:
            assert finished[trial.run].spec.dataset == dataset


def test_numbers_in_git_are_those_of_their_predictions():
    finished, _ = load_runs(config.RUNS_DIR)
    assert finished
    for run in finished.values():
        y_true, probabilities = run.predictions("test")
        correct = int((probabilities.argmax(axis=1) == y_true).sum())
        assert len(y_true) == run.metrics["test"]["n"]
        assert correct == run.metrics["test"]["correct"], run.spec.name
        # Two older runs keep their predictions in float16.
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=5e-3)
