import numpy as np
import pytest

from utils import config
from utils.course_report import EMOTION_MATRIX, GENDER_MATRIX, TRIALS, Trial, compare_with_report
from utils.evaluation import wilson_interval
from utils.files import write_json
from utils.training import Run, reference

REFERENCES = config.REFERENCE_DIR


def test_the_report_s_matrices_have_its_accuracies():
    assert EMOTION_MATRIX.sum() == 3500 and GENDER_MATRIX.sum() == 200
    assert EMOTION_MATRIX.trace() / 3500 == pytest.approx(0.582, abs=5e-4)
    assert GENDER_MATRIX.trace() / 200 == 0.945
    # Per class, the report's test set is PrivateTest less 89 happy faces.
    assert EMOTION_MATRIX.sum(axis=1).tolist() == [491, 55, 528, 879 - 89, 594, 416, 626]


def write_run(folder, right, n, epochs, **facts):
    """A run that says the first of two classes, which is so for `right` of `n` test images."""
    folder.mkdir(parents=True)
    y_true = np.arange(n) >= right
    answers = np.tile([0.9, 0.1], (n, 1))
    np.savez(folder / "predictions.npz", test_true=y_true, test_probabilities=answers)
    lines = [f"{epoch},0.5,1.0,0.5,1.0,10" for epoch in range(epochs)]
    header = "epoch,accuracy,loss,val_accuracy,val_loss,seconds"
    (folder / "history.csv").write_text("\n".join([header, *lines]))
    write_json(folder / "run.json", {"finished": "2026-11-28", **facts})
    return Run(folder)


def test_ours_and_yours_beside_the_report(workspace):
    at_epoch = {"5": {"test": {"n": 100, "correct": 40, "accuracy": 0.4}}}
    ours = write_run(config.REFERENCE_DIR / "once", 50, 100, 9, at_epoch=at_epoch)
    yours = write_run(config.RUNS_DIR / "once", 20, 50, 3)
    trials = (
        Trial("inside ours", "once", 0.59, 200, epochs=30),
        Trial("outside", "once", 0.61, 200, at_epoch=9),
        Trial("earlier", "once", 0.31, 200, at_epoch=5),
    )
    table = compare_with_report(trials, {"once": yours})
    assert table["report"].tolist() == [0.59, 0.61, 0.31]
    assert table["report epochs"].isna().tolist() == [False, True, True]
    assert table.loc["earlier", ["report low", "report high"]].tolist() == pytest.approx(
        wilson_interval(62, 200)
    )
    assert table["ours"].tolist() == [0.5, 0.5, 0.4]
    assert table["ours epochs"].tolist() == [9, 9, 5]
    low, high = wilson_interval(50, 100)
    assert 0.59 < high < 0.61 and low > 0.31
    assert table["inside ours"].tolist() == ["yes", "no", "yes"]
    assert table["yours"].tolist() == [0.4] * 3 and table["yours n"].tolist() == [50] * 3
    assert table["yours epochs"].tolist() == [3] * 3, "yours is scored after its last epoch"
    assert table["inside yours"].tolist() == ["no", "no", "yes"]
    # One of ours that was shown in the place of yours is not yours.
    for runs in ({}, {"once": ours}, {"another": yours}):
        assert "yours" not in compare_with_report(trials, runs)


def test_every_trial_has_a_run_of_ours_on_its_data():
    for dataset, trials in TRIALS.items():
        table = compare_with_report(trials, {})
        assert table["ours"].notna().all() and table["ours epochs"].notna().all()
        for trial in trials:
            run = reference(trial.run)
            assert run.facts["made_of"]["batches"]["dataset"] == dataset
            scored = [run.epochs, *map(int, run.facts.get("at_epoch", {}))]
            assert (trial.at_epoch or run.epochs) in scored
