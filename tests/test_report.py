import json
import shutil

import pytest

from utils import report
from utils.report import build_report
from utils.training import RunSpec, load_runs, tabulate, train


@pytest.fixture
def runs_dir(prepared_workspace):
    train(RunSpec("emotion_final", "fer2013", "compact", 2, {"widths": [8]}, batch_size=16))
    begun = prepared_workspace / "outputs" / "runs" / "begun"
    begun.mkdir()
    spec = json.loads((begun.parent / "emotion_final" / "spec.json").read_text())
    (begun / "spec.json").write_text(json.dumps({**spec, "name": "begun", "epochs": 7}))
    (begun / "history.csv").touch()  # as Keras does before the first epoch
    return begun.parent


def test_the_page_has_what_is_there_and_says_what_is_missing(runs_dir):
    page = build_report(runs_dir, "Anna & Ben")
    assert "<h1>Anna &amp; Ben</h1>" in page
    assert "SAMPLE DATA" in page
    run = load_runs(runs_dir)[0]["emotion_final"]
    assert f"Test: {run.metrics['test']['correct']} of 15 right" in page
    for split in ("train", "valid", "test"):
        checksum = run.metrics["data"][split]["sha256"][:12]
        assert page.count(checksum) == 2, "in the run and on this machine"
    assert "begun: unfinished, 0 of 7 epochs" in page
    assert "Linux" in page or "Windows" in page or "Darwin" in page
    assert page.count('src="data:image/png;base64,') == 1
    assert "http" not in page, "the page needs no other file"
    six_conv = page[page.index("six convolutions") :]
    assert six_conv[: six_conv.index("</tr>")].count(report.MISSING_HTML) == 8


def test_nothing_from_a_run_is_executed_by_the_browser(runs_dir):
    path = runs_dir / "emotion_final" / "metrics.json"
    evil = "<script>alert(1)</script>"
    metrics = json.loads(path.read_text())
    metrics["versions"] |= {"python": [evil], "keras": evil, evil: "1"}
    metrics |= {"precision": evil, "devices": {"a": evil}}
    path.write_text(json.dumps(metrics))
    assert "<script" not in build_report(runs_dir, evil)


def test_a_copied_run_stands_beside_the_first(runs_dir):
    shutil.copytree(runs_dir / "emotion_final", runs_dir / "before")
    finished, _ = load_runs(runs_dir)
    assert list(finished) == list(tabulate(list(finished.values())).index)
    assert list(finished) == ["before", "emotion_final"]


def test_a_run_that_learned_other_labels_is_marked(runs_dir):
    assert "votes" not in build_report(runs_dir, "x")
    path = runs_dir / "emotion_final" / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": "ferplus"}))
    assert "emotion_final learned people's votes" in build_report(runs_dir, "x")


def test_splits_do_not_share_a_row(runs_dir):
    for name, split_name in (("a", "default"), ("b", "report")):
        shutil.copytree(runs_dir / "emotion_final", runs_dir / name)
        path = runs_dir / name / "spec.json"
        spec = json.loads(path.read_text())
        path.write_text(
            json.dumps({**spec, "name": name, "dataset": "utkface", "split_name": split_name})
        )
    runs = list(load_runs(runs_dir)[0].values())
    table = report._data_table("utkface", runs)
    assert table["split"].to_dict() == {"a": "default", "b": "report"} | {
        "prepared on this machine": "report"
    }


def test_a_run_without_predictions_is_shown_as_far_as_it_goes(runs_dir):
    (runs_dir / "emotion_final" / "predictions.npz").unlink()
    page = build_report(runs_dir, "x")
    assert "missing (no predictions.npz)" in page and "Last epoch" in page


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "spec.json").write_text(
            '{"name": "cut", "of another": "version"}'
        ),
        lambda folder: (folder / "metrics.json").write_text('{"test": {"acc'),
        lambda folder: (folder / "metrics.json").write_text("{}"),
        lambda folder: (folder / "history.csv").unlink(),
        lambda folder: (folder / "predictions.npz").write_bytes(b"PK cut off"),
    ],
)
def test_a_damaged_run_leaves_the_page_of_the_others(runs_dir, damage):
    shutil.copytree(runs_dir / "emotion_final", runs_dir / "cut")
    damage(runs_dir / "cut")
    page = build_report(runs_dir, "x")
    assert "cut: its files cannot be read (" in page
    assert page.count('src="data:image/png;base64,') == 1


def test_no_runs_make_a_page_of_missing_things(workspace):
    (workspace / "outputs" / "runs").mkdir(parents=True)
    page = build_report(workspace / "outputs" / "runs", "empty")
    assert "No finished run" in page and page.count(report.MISSING_HTML) > 50


def test_the_command_writes_the_page_and_refuses_a_wrong_folder(runs_dir, tmp_path, capsys):
    output = tmp_path / "pages" / "anna.html"
    report.main(["--runs", str(runs_dir), "--output", str(output), "--title", "Anna"])
    assert f"report: {output}" in capsys.readouterr().out
    assert "<h1>Anna</h1>" in output.read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        report.main(["--runs", str(tmp_path / "none"), "--output", str(output)])
    assert stop.value.code == 1
    assert "is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main(["--runs", str(runs_dir), "--output", str(tmp_path)])
    assert "is a folder that is there already" in capsys.readouterr().err
