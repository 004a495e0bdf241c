import csv
import json
import os
import re
import stat
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import submissions as made_up
from sklearn.metrics import f1_score

from commands import cells, copies, grade, packages
from commands.checks import read_references
from commands.submissions import find_submissions, own_notebooks, read_students
from utils import config

TITLES = {
    "bomb": "a zip bomb? Its 2",
    "copied": "all hold",
    "edited_facts": "run.json says 18 parameters",
    "edited_history": "validation accuracy is 70.0% in the last epoch of history.csv, but 60.0% by",
    "edited_predictions": "validation accuracy is 60.5% in the last epoch of history.csv",
    "empty": "there is no run and no notebook in it",
    "other_data": "valid: predictions of 3,000 images, but its data have 3,589",
    "outside": "a file in it would lie outside its folder (../../outside.txt)",
    "script": "run.json: began or finished is no day and time",
    "truncated": "it cannot be read as a zip",
    "unfinished": "unfinished, 2 of 15 epochs",
    "whole": "all hold",
}


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """The twelve kinds, graded: folder of the pages."""
    folder = tmp_path_factory.mktemp("course")
    made_up.make_twelve(folder / "in" / "submissions")
    grade.main([str(folder / "in" / "submissions"), "--output", str(folder / "out")])
    return folder / "out"


def rows_of(folder):
    with (folder / "grades.csv").open(encoding="utf-8-sig", newline="") as stream:
        return {row["file"].removesuffix(".zip"): row for row in csv.DictReader(stream)}


def graded(folder, **files):
    """Students of submissions, each of runs by name."""
    for name, runs in files.items():
        made_up.submission(folder / f"{name}.zip", made_up.members(runs), name)
    return {student.title: student for student in read_students(folder)}


def problem_of(path):
    """Why a submission is refused."""
    with pytest.raises(packages.Refused) as refusal:
        with packages.opened(path) as package:
            for name in package.sizes:
                package.read(name, packages.MAX_UNPACKED)
    return str(refusal.value)


def test_the_twelve_are_told_apart(twelve):
    rows = rows_of(twelve)
    assert sorted(rows) == sorted(TITLES)
    for name, beginning in TITLES.items():
        assert rows[name]["checks"].startswith(beginning), name
    asked = {name for name, row in rows.items() if row["questions"]}
    assert asked == {"whole", "copied"}
    assert rows["copied"]["questions"].startswith("a copy of emotion_six_conv of Whole, or copied?")
    assert "of Copied" in rows["whole"]["questions"]
    whole = rows["whole"]
    assert whole["differs from ours"] == grade.NO_DIFFERENCE and whole["images"] == "3589"
    assert float(whole["low"]) < float(whole["test"]) < float(whole["high"])
    assert whole["answer 03_emotion_experiments, 1"] == "# Happy is easiest."
    assert whole["answer 03_emotion_experiments, 2"] == "", "only the comment that was there"


def test_nothing_is_written_but_the_pages(twelve):
    course = twelve.parent
    assert {path.name for path in course.iterdir()} == {"in", "out"}
    assert [path.name for path in (course / "in").iterdir()] == ["submissions"]
    assert len(list((course / "in" / "submissions").iterdir())) == len(TITLES)
    assert {path.name for path in twelve.iterdir()} == {"grades.csv", "index.html", "students"}
    assert len(list((twelve / "students").iterdir())) == len(TITLES)


def test_nothing_of_theirs_is_run_by_the_browser(twelve):
    for path in [twelve / "index.html", *(twelve / "students").iterdir()]:
        page = path.read_text(encoding="utf-8")
        policy = page.index("Content-Security-Policy")
        assert "default-src 'none'" in page and policy < page.index("<style>")
        assert page.count("<script") == (path.name == "index.html")
        assert not re.search(r"<img|onerror=\"|javascript:|<iframe|<object", page)
    index = (twelve / "index.html").read_text(encoding="utf-8")
    assert index.count("&lt;script&gt;") >= 6
    script = re.search(r"<script>(.*)</script>", index, re.DOTALL)[1]
    assert grade._hash(script) in index, "the browser runs ours"
    assert "&lt;script&gt;" in (twelve / "students" / "09_script.html").read_text(encoding="utf-8")


def test_the_page_links_each_student_and_puts_answers_side_by_side(twelve):
    index = (twelve / "index.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="(students/[^"]+)"', index))
    assert len(links) == len(TITLES) and all((twelve / link).is_file() for link in links)
    answers = index[index.index('id="answers"') :]
    assert answers.count("# Happy is easiest.") == 7 and answers.count("no answer") == 7
    page = (twelve / "students" / "12_whole.html").read_text(encoding="utf-8")
    for text in ("# Happy is easiest.", "print(accuracy)", "57 %", "21 layers", "<polyline"):
        assert text in page


def test_the_command_refuses_what_is_no_folder_of_submissions(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, text in ((tmp_path / "none", "is no folder"), (tmp_path / "empty", "is empty")):
        with pytest.raises(SystemExit) as stop:
            grade.main([str(path), "--output", str(tmp_path / "out")])
        assert stop.value.code == 1 and text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    students = tmp_path / "students"
    students.mkdir()
    for folder, output in ((tmp_path, tmp_path / "pages"), (students, tmp_path)):
        with pytest.raises(SystemExit):
            grade.main([str(folder), "--output", str(output)])
        assert "would be taken for submissions" in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()
    essay = tmp_path / "out" / "students" / "2024_essay.html"
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        files = made_up.members({"a": made_up.make_run(0)})
        made_up.submission(tmp_path / name / f"{name}.zip", files)
        grade.main([str(tmp_path / name), "--output", str(tmp_path / "out")])
        essay.write_text("somebody else's")
    pages = {path.name for path in (tmp_path / "out" / "students").iterdir()}
    assert pages == {"01_ben.html", essay.name}, "pages of another grading have gone, and no more"


def test_nothing_here_needs_tensorflow():
    code = "import sys, commands.grade; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == 0


# -------------------------------------------------------------------------------------- copies


def with_noise(run, share, seed=9):
    """A run of which a share of the test answers is another, and nothing else is the same."""
    other = made_up.make_run(seed)
    arrays, rng = made_up.arrays_of(run), np.random.default_rng(seed)
    shares = arrays["test_probabilities"]
    chosen = rng.permutation(len(shares))[: int(share * len(shares))]
    shares[chosen] = np.roll(shares[chosen], 1, axis=1)
    return other | {"predictions.npz": made_up.npz(arrays)}


def test_copies_are_asked_about_with_both_names(tmp_path):
    run = made_up.make_run(0)
    same_digits = made_up.make_run(1) | {"predictions.npz": run["predictions.npz"]}
    students = graded(
        tmp_path,
        anna={"emotion_six_conv": run},
        ben={"emotion_final": same_digits},
        cleo={"emotion_six_conv": with_noise(run, 0.04)},
        dora={"emotion_six_conv": run, "again": run},
        emil={"emotion_six_conv": with_noise(run, 0.12, 10)},
    )
    asked = {name: " | ".join(x.rows[-1].questions) for name, x in students.items()}
    assert "the same run as emotion_six_conv of anna? Both have the id" in asked["dora"]
    assert "again of dora" not in asked["dora"], "not about runs of one's own"
    assert "the same predictions as emotion_six_conv of anna, again of dora" in asked["ben"]
    assert "here the machines are of one kind" in asked["ben"]
    assert "96.0% of its test answers are those of emotion_six_conv of anna" in asked["cleo"]
    assert "of cleo: copied? Two seeds agree in at most 92%" in asked["anna"]
    assert asked["emil"] == "" and "emil" not in "".join(asked.values())


def test_numbers_are_those_of_the_predictions(tmp_path):
    run = made_up.make_run(0)
    arrays = made_up.arrays_of(run)
    student = graded(tmp_path, anna={"emotion_six_conv": run})["anna"]
    (row,), (shown,) = student.rows, grade.table_rows([student])
    for split, column in (("valid", "validation"), ("test", "test")):
        y_true, said = arrays[f"{split}_true"], arrays[f"{split}_probabilities"].argmax(axis=1)
        assert shown[column] == (y_true == said).mean()
    last = row.curves["accuracy"]["lines"]["val_accuracy"].split()[-1]
    assert last == f"300.0,{110 * (1 - shown['validation']):.1f}"
    assert shown["macro F1"] == pytest.approx(f1_score(y_true, said, average="macro"))
    assert row.matrix[3] == [round(100 * (said[y_true == 3] == k).mean()) for k in range(7)]


def test_honest_runs_are_not_asked_about():
    """Of ours, a pair is asked about only where one began with the other."""
    records = read_references()
    traces = [copies.trace_of(x, n, name, "") for n, (name, x) in enumerate(records.items())]
    assert not any(copies.ask_about_copies(traces))
    going_on = {trace.title for trace in traces if not trace.has_own_start}
    assert "emotion_ferplus" in going_on and len(going_on) < len(traces) / 3


def test_agreement_on_few_images_says_nothing():
    trace = copies.Trace(0, "a", None, None, None, "fer2013", "x", np.zeros(15, "u1"), "", True)
    other = copies.Trace(1, "b", None, None, None, "fer2013", "x", np.zeros(15, "u1"), "", True)
    assert copies.ask_about_copies([trace, other]) == [[], []]


# --------------------------------------------------------------------------- what is handed in


def test_files_that_were_changed_after_packing_are_named(tmp_path):
    files = made_up.members({"emotion_six_conv": made_up.make_run(0)})
    made_up.submission(tmp_path / "a.zip", files)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "anna")
    (tmp_path / "a.zip").unlink()
    for name in ("runs/emotion_six_conv/run.json", "notebooks/03_emotion_experiments.ipynb"):
        with (tmp_path / "anna" / name).open("a") as stream:
            stream.write(" ")
    (student,) = read_students(tmp_path)
    assert student.rows[0].checks == ["run.json is not the file that submit has packed"]
    assert student.notes == ["03_emotion_experiments.ipynb is not the file that submit has packed"]
    manifest = tmp_path / "anna" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": {}}))
    (student,) = read_students(tmp_path)
    assert len(student.rows[0].checks) == len(made_up.make_run(0)), "a manifest names every file"


def test_runs_of_the_same_name_as_folders_are_not_mixed(tmp_path):
    first, second = (made_up.make_run(seed) for seed in (0, 1))
    files = {f"runs/a b/{name}": content for name, content in first.items()}
    files |= {f"runs/a_b/{name}": content for name, content in second.items()}
    del files["runs/a b/history.csv"]
    made_up.submission(tmp_path / "anna.zip", files)
    (student,) = read_students(tmp_path)
    states = {bool(row.state) for row in student.rows}
    assert [row.run for row in student.rows] == ["a_b", "a_b"] and states == {True, False}


def test_folders_nested_and_packed_are_found(tmp_path):
    run = made_up.make_run(0)
    (tmp_path / "Anna_1_file").mkdir()
    members = made_up.members({"a": run})
    members["__MACOSX/x/notebooks/._03_emotion.ipynb"] = b"packed by macOS"
    made_up.submission(tmp_path / "Anna_1_file" / "x.zip", members)
    (tmp_path / "Anna_1_file" / ".DS_Store").write_bytes(b"left by a file manager")
    (tmp_path / "Anna_1_file" / "onlinetext.html").write_text("what Anna typed beside it")
    for name, content in run.items():
        path = tmp_path / "ben" / "project" / "outputs" / "runs" / "b" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / ".DS_Store").write_text("x")
    cleo = tmp_path / "cleo"
    made_up.submission(tmp_path / "inner.zip", made_up.members({"c": run}))
    for name in ("first", "later"):  # beside a folder of pictures
        (cleo / "pictures").mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(cleo / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / "inner.zip", f"{name}/inner.zip")
            archive.writestr("Icon\r", "")  # of a Mac's folder
    (tmp_path / "inner.zip").unlink()
    names = [name for name, _ in find_submissions(tmp_path)]
    assert names == ["Anna_1_file/x.zip", "ben", "cleo/first.zip", "cleo/later.zip"]
    anna, ben, first, later = read_students(tmp_path)
    assert anna.rows[0].run == "a" and not anna.notes
    assert ben.rows[0].run == "b" and ben.notes == [
        "no manifest.json: not made by submit, or changed since"
    ]
    for student, name in ((first, "first"), (later, "later")):
        assert f"no run and no notebook in it, but {name}/inner.zip: ask" in student.problem


def test_a_run_of_another_name_is_compared_with_the_nearest(tmp_path):
    run = made_up.change_facts(made_up.make_run(0), lambda x: x["made_of"].update(loss="mse"))
    student = graded(tmp_path, anna={"my_own": run})["anna"]
    assert student.rows[0].differs == [
        "nearest: emotion_six_conv",
        "loss categorical_crossentropy, now mse",
    ]


def test_damaged_parts_leave_the_others(tmp_path):
    epochs = "".join(f"epoch {x} \x1b[31m0.5\x1b[0m\n" for x in range(100)) + "the result: 5"
    runs = {
        "whole": made_up.make_run(0),
        "cut": made_up.make_run(1) | {"predictions.npz": b"PK cut off"},
        "deep": {"run.json": b"[" * 100_000},
        "large": {"run.json": b" " * 2_000_000},
        "con": {"history.csv": b"\xff"},
    }
    files = made_up.members(runs, {"03_emotion_experiments": b'{"cells": [{"source": 5}]}'})
    files["notebooks/04.ipynb"] = made_up.notebook(
        "\ud800 \u202e", "x" * 9_000, "=1+1", output=epochs
    )
    files["manifest.json"] = b'{"name": 5}'
    path = tmp_path / "in" / "anna.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (student,) = grade.grade(path.parent, tmp_path / "out")
    assert not student.problem and len(student.rows) == 5
    assert [row.run for row in student.rows if not row.state] == ["whole"]
    assert student.notes[0] == "manifest.json is not what submit writes (KeyError)"
    assert "03_emotion_experiments.ipynb is no notebook" in student.notes[1]
    line = (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8-sig")
    assert ",'=1+1" in line, "not computed by a spreadsheet"
    (page,) = (tmp_path / "out" / "students").glob("*anna.html")
    page = page.read_text(encoding="utf-8")
    assert "the result: 5" in page and "epoch 0 " not in page and "[31m" not in page
    assert "\u202e" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def write_zip(path, name="runs/a/run.json", content=b"{}", method=zipfile.ZIP_DEFLATED, mode=0):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    member.compress_type = method
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "C:/a", "c:a", "..\\a", "\\\\x\\a"])
def test_names_outside_the_folder_are_refused(tmp_path, name):
    problem = problem_of(write_zip(tmp_path / "a.zip", name))
    assert "would lie outside its folder" in problem and packages.ADVICE in problem


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    assert "is a link or a device" in problem_of(write_zip(tmp_path / "a.zip", mode=kind | 0o644))


def test_what_unpacks_without_a_limit_or_by_a_password_is_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        problem = problem_of(write_zip(tmp_path / "a.zip", method=method))
        assert "is packed in a way that is not read" in problem
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in problem_of(path)


def test_a_size_that_is_a_lie_ends_at_it(tmp_path):
    path = write_zip(tmp_path / "a.zip", content=bytes(50_000_000))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    assert "is damaged" in problem_of(path)


def test_too_many_files_and_too_large_ones_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}", "x" * 100)
    monkeypatch.setattr(packages, "MAX_FILES", 39)
    assert "more than 39 files" in problem_of(path)
    monkeypatch.setattr(packages, "MAX_DIRECTORY", 1000)
    assert "Truncated central directory" in problem_of(path), "which lists the files"
    monkeypatch.setattr(packages, "MAX_ARCHIVE", 1000)
    assert "at most 1,000 are read" in problem_of(path)
    monkeypatch.undo()
    monkeypatch.setattr(packages, "MAX_UNPACKED", 3000)
    assert "a zip bomb" in problem_of(path)


def test_a_large_file_is_read_in_pieces(tmp_path, monkeypatch):
    content = made_up.members({"a": made_up.make_run(0)})
    made_up.submission(tmp_path / "a.zip", content)
    monkeypatch.setattr(packages, "MAX_DIRECTORY", 1000)
    with packages.opened(tmp_path / "a.zip") as package:
        for name, expected in content.items():
            assert package.read(name, 10**6) == expected
    assert len(content["runs/a/predictions.npz"]) > 10_000


def test_what_is_read_counts_though_sizes_change(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for name in ("x", "y"):
        (tmp_path / "a" / name).write_bytes(bytes(2000))
    monkeypatch.setattr(packages, "MAX_UNPACKED", 3000)
    assert "unpacks to more than 3,000 bytes" in problem_of(tmp_path / "a")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_folders_with_links_and_pipes_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "run.json").write_text("{}")
    for number, make in enumerate(
        [
            lambda path: path.symlink_to(secret / "run.json"),
            lambda path: path.symlink_to(secret),
            os.mkfifo,
        ]
    ):
        path = tmp_path / f"student_{number}" / "runs" / "a"
        path.parent.mkdir(parents=True)
        make(path)
        assert "runs/a in it is a link or a device" in problem_of(tmp_path / f"student_{number}")
    os.mkfifo(tmp_path / "pipe.zip")
    assert "it is no zip" in problem_of(tmp_path / "pipe.zip")
    (tmp_path / "linked").symlink_to(secret)
    assert "it is a link to another place" in problem_of(tmp_path / "linked")


def test_files_of_another_kind_are_refused(tmp_path):
    for name, text in (("a.rar", "it is no zip (a.rar)"), ("b.zip", "it is empty")):
        (tmp_path / name).write_bytes(b"")
        assert text in problem_of(tmp_path / name)


def test_damaged_zips_never_stop_the_others(tmp_path):
    made_up.submission(tmp_path / "z.zip", made_up.members({"a": made_up.make_run(0)}))
    whole, rng = (tmp_path / "z.zip").read_bytes(), np.random.default_rng(0)
    for number in range(60):
        content = bytearray(whole)
        # Headers, and the list of files at the end, are where damage means most.
        for place in rng.choice([*range(400), *range(len(whole) - 1500, len(whole))], 6):
            content[place] = rng.integers(256)
        (tmp_path / f"{number:02}.zip").write_bytes(content)
    students = read_students(tmp_path)
    assert len(students) == 61 and students[-1].rows[0].facts["images"] == 3589
    assert all(x.problem or x.rows or x.notebooks for x in students)


# ----------------------------------------------------------------------------------- notebooks


def test_answers_reach_to_the_next_question():
    content = json.loads(made_up.notebook("# Your code.", "# Your code.\n\nf(3)"))
    assert [x.is_given for x in cells.find_answers(content)] == [False, True]
    content["cells"].insert(
        3, {"cell_type": "markdown", "metadata": {}, "source": "**2. So** it is 5."}
    )
    content["cells"].insert(4, made_up.code("print(5)", 3, "5\n"))
    notebook = cells.read_notebook(json.dumps(content), "x")
    first, second = cells.find_answers(notebook)
    assert first.question == "**1. Look.** What is seen?" and first.is_given
    assert first.text.endswith("**2. So** it is 5.\n\nprint(5)") and first.output == "5"
    assert second.is_given and second.number == 2
    assert cells.count_run(notebook) == (2, 2)
    # Words on the line of the comment, or above its cell, are an answer; given code is not.
    content["cells"][2]["source"] = "# Your code. Fear is found least."
    del content["cells"][3:5]
    (first, _) = cells.find_answers(cells.read_notebook(json.dumps(content), "x"))
    assert first.is_given
    content["cells"][2]["source"] = "# Your code."
    content["cells"].insert(2, {"cell_type": "markdown", "metadata": {}, "source": "Fear."})
    content["cells"].insert(2, made_up.code("given()"))
    (first, _) = cells.find_answers(cells.read_notebook(json.dumps(content), "x"))
    assert first.text == "Fear.\n\n# Your code." and first.is_given
    # The cell for the first answer is gone, and what stands there looks like a question.
    words = {"cell_type": "markdown", "metadata": {}, "source": "**1. Happy** is seen."}
    content["cells"][2:5] = [words]
    first, second = cells.find_answers(cells.read_notebook(json.dumps(content), "x"))
    assert (first.number, first.text, first.is_given) == (1, "**1. Happy** is seen.", True)
    assert second.number == 2 and second.text.endswith("f(3)")
    for name, own in own_notebooks().items():
        answers = cells.find_answers(own)
        assert [x.number for x in answers] == [*range(1, 1 + len(answers))], name
        assert not any(answer.is_given for answer in answers), name
        assert cells.count_run(own)[0] == 0, "stored outputs are not the reader's"
