import base64
import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import submissions as made_up

from commands import cells, submit
from commands.submissions import read_students
from utils import config

REFERENCES = config.REFERENCE_DIR
PICTURE = "iVBORw0KGgo/9j/home/someone/x"  # text that looks like paths


@pytest.fixture
def project(workspace, monkeypatch):
    """A project with a finished run and a notebook that has an answer, without git."""
    monkeypatch.setattr(config, "REFERENCE_DIR", REFERENCES)
    write_run("emotion_six_conv", made_up.make_run(0))
    write_notebook("03_emotion_experiments", made_up.notebook("# Happy is easiest."))
    return workspace


@pytest.fixture
def quick_project(project, monkeypatch):
    """The same without the report's figures, which take most of the time."""
    monkeypatch.setattr(submit, "build_report", lambda folder, title: f"{title} in {folder}")
    return project


def write_run(name, run):
    folder = config.RUNS_DIR / name
    folder.mkdir(parents=True)
    for file, content in run.items():
        (folder / file).write_bytes(content)
    return folder


def write_notebook(name, content):
    path = config.ROOT / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def of_cells(*sources, **output):
    """A notebook of cells that were run and show a picture, or another output."""
    data = output or {"image/png": PICTURE, "text/plain": "<Figure>"}
    result = {"output_type": "display_data", "metadata": {}, "data": data}
    return {"cells": [made_up.code(x, 1) | {"outputs": [dict(result)]} for x in sources]}


def handed_in(*options):
    """Files of the zip that the command writes."""
    output = config.ROOT / "handed_in" / "anna.zip"
    submit.main(["--output", str(output), *options])
    with zipfile.ZipFile(output) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_everything_is_in_the_zip_and_in_the_manifest(project):
    folder = config.RUNS_DIR / "emotion_six_conv"
    for name in ("lock", "checkpoint_00003.weights.h5", "partial-history.csv", "model.weights.h5"):
        (folder / name).write_text("x")
    write_run("begun", made_up.unfinished(made_up.make_run(1)))
    files = handed_in("--name", "Anna Maier")
    assert set(files) == {
        *("manifest.json", "report.html", "answers.json", "answers.md"),
        *(f"notebooks/03_emotion_experiments.{suffix}" for suffix in ("ipynb", "html")),
        *(f"runs/emotion_six_conv/{x}" for x in ("run.json", "history.csv", "predictions.npz")),
        *(f"runs/begun/{x}" for x in ("run.json", "history.csv")),
    }
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["name"] == "Anna Maier" and manifest["git"] == "no git"
    assert manifest["changed"] is None
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    (answer,) = json.loads(files["answers.json"])
    assert (
        answer["notebook"] == "03_emotion_experiments" and answer["text"] == "# Happy is easiest."
    )
    assert b"    # Happy is easiest." in files["answers.md"]
    assert b"runs of Anna Maier" in files["report.html"]
    page = files["notebooks/03_emotion_experiments.html"].decode()
    assert page.index("Content-Security-Policy") < page.index("<script")
    assert "Happy is easiest" in page


def test_what_is_missing_is_said_before_it_is_written(quick_project, capsys):
    write_run("begun", made_up.unfinished(made_up.make_run(1)))
    write_run("cut", {"run.json": b"{"})
    trial = made_up.change_facts(
        made_up.make_run(2), lambda x: x["made_of"].update(callbacks=["StopBadTrial()"])
    )
    write_run("emotion_final_trial_0", trial)
    write_notebook("01_prepare_fer", {"cells": [made_up.code("1 + 1"), made_up.code("2", 3)]})
    write_notebook("02_prepare_utk", made_up.notebook("# Your code."))
    write_notebook("04_gender_experiments", b"{")
    files = handed_in()
    printed = capsys.readouterr().out
    for line in (
        "missing: run begun is unfinished, 2 of 15 epochs",
        "missing: run cut is left out: cut/run.json is not JSON",
        "missing: 1 trials of tune: train the best of them in full",
        "missing: 01_prepare_fer.ipynb: 1 of its 2 cells not run",
        "missing: 04_gender_experiments.ipynb is no notebook that can be read",
        "missing: 1 of 2 answers are empty: 02.1",
    ):
        assert line in printed
    assert printed.rindex("missing:") < printed.index("anna.zip")
    assert not [name for name in files if "cut" in name or "04_" in name or "trial" in name]
    assert len(json.loads(files["manifest.json"])["missing"]) == 6


def test_a_project_without_anything_says_so(workspace, capsys):
    files = handed_in()
    printed = capsys.readouterr().out
    assert "missing: no finished run in outputs/runs" in printed
    assert "missing: there is no notebook in notebooks/" in printed
    assert set(files) == {"manifest.json", "answers.json", "answers.md"}


def test_what_is_no_zip_by_name_is_refused(workspace, capsys):
    with pytest.raises(SystemExit):
        submit.main(["--output", str(workspace / "anna")])
    assert "expected one that ends in .zip" in capsys.readouterr().err
    assert not (workspace / "anna").exists()


def test_faces_are_left_out_unless_asked_for(quick_project):
    shown = [
        "plots.plot_images(x)",
        "p(x)",
        "for f in x:\n    ax.imshow(f)",
        "grid(x)",
        "deep()",
        "f()",
    ]
    shown += ["import PIL.Image as P\nP.open('me.jpg')", "keras.utils.load_img('me.jpg')"]
    shown.append("handle = display(display_id=True)")  # of which another cell shows faces
    kept = ["plots.plot_history(run.history)", "from utils.plots import plot_images as p"]
    made = [
        "f = lambda: axis.imshow(x)",
        "def grid(x):\n    plot_images(x)",
        "def deep():\n    grid(1)",
        "%magic\nplot_images(x)",
    ]
    content = of_cells(*shown, *kept, *made)
    printed = {"output_type": "stream", "name": "stdout", "text": "nine of them"}
    table = {"output_type": "execute_result", "execution_count": 1, "metadata": {}}
    table["data"] = {"text/plain": "counts", "text/html": f"<img src='{PICTURE}'>"}
    content["cells"][0]["outputs"] += [printed, table]
    write_notebook("01_prepare_fer", content)
    files = handed_in()
    notebook = json.loads(files["notebooks/01_prepare_fer.ipynb"])
    left_out = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["outputs"][0].get("text", "").startswith("picture left out: faces of the data set")
    ]
    assert left_out == [*shown, *made]
    kept_table = table | {"data": {"text/plain": "counts"}}
    assert notebook["cells"][0]["outputs"][1:] == [printed, kept_table]
    for suffix in ("ipynb", "html"):
        page = files[f"notebooks/01_prepare_fer.{suffix}"].decode()
        assert page.count(PICTURE) == len(kept) and "picture left out" in page
    files = handed_in("--faces")
    with_faces = files["notebooks/01_prepare_fer.ipynb"].decode()
    assert with_faces.count(PICTURE) == len(shown + kept + made) + 1

    # What a cell returns may be anything: a figure with faces that another cell has drawn.
    content = of_cells("figure")
    content["cells"][0]["outputs"][0] |= {"output_type": "execute_result", "execution_count": 1}
    write_notebook("01_prepare_fer", content)
    files = handed_in()
    assert PICTURE not in str(files) and b"<Figure>" in files["notebooks/01_prepare_fer.ipynb"]


def test_a_notebook_is_a_page_as_jupyter_stores_it(quick_project, capsys):
    svg = ["<svg>\n", "<circle/></svg>"]
    content = of_cells("plot()", **{"image/svg+xml": svg, "text/plain": ["<Figure>\n", "two"]})
    lines = {"output_type": "stream", "name": "stdout", "text": ["line one\n", "line two\n"]}
    bar = {cells.WIDGET: {"model_id": "a"}, "text/plain": "epoch 1: 0%"}
    bar = {"output_type": "display_data", "metadata": {}, "data": bar}
    content["cells"][0]["outputs"] += [lines, bar]
    pasted = {"cell_type": "markdown", "metadata": {}, "source": ["![x](attachment:a.png)"]}
    content["cells"].append(pasted | {"attachments": {"a.png": {"image/png": PICTURE}}})
    content |= {"metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    write_notebook("01_prepare_fer", content)
    write_notebook("02_prepare_utk", content | {"cells": [pasted]})
    files = handed_in()
    page = files["notebooks/01_prepare_fer.html"].decode()
    drawn = base64.b64encode("".join(svg).encode()).decode()
    assert "line one\nline two\n" in page and drawn in page and PICTURE in page
    assert "epoch 1" not in page, "a bar that does not move"
    assert "notebooks/02_prepare_utk.html" not in files
    assert (
        "missing: 02_prepare_utk as a page (missing attachment: a.png)" in capsys.readouterr().out
    )


def test_the_course_s_own_notebooks_show_no_face(quick_project):
    shutil.rmtree(config.ROOT / "notebooks")
    shutil.copytree(REFERENCES.parent.parent / "notebooks", config.ROOT / "notebooks")
    for path in (config.ROOT / "notebooks").glob("*.ipynb"):
        notebook = cells.read_notebook(path.read_bytes(), path.name)
        figures = sum("image/" in str(cell.get("outputs")) for cell in notebook["cells"])
        cells.leave_out_faces(notebook)
        kept = [cell for cell in notebook["cells"] if "image/" in str(cell.get("outputs"))]
        assert not [cell for cell in kept if "plot_images(" in cell["source"]]
        if path.stem[:2] in ("03", "04"):
            assert len(kept) > 0.8 * figures, "curves and matrices stay"


def test_nothing_in_it_says_whose_machine_it_is(quick_project, monkeypatch, capsys):
    project = quick_project  # whose page names its folder
    monkeypatch.setattr(submit.getpass, "getuser", lambda: "annamaier")
    monkeypatch.setattr(submit.platform, "node", lambda: "annas-laptop.example.org")
    monkeypatch.setattr(submit.Path, "home", lambda: project.parent)
    personal = [
        str(project / "outputs" / "runs" / "a"), str(project.parent / "notes"),
        "/home/benno/facelab", r"C:\Users\Cleo Maier\x", "C:/Users/cleo/x", "/mnt/disk/deep/x.csv",
        "annamaier@annas-laptop", r"D:\\lab\\a\\b.py",
    ]  # fmt: skip
    text = "\n".join(personal) + " https://keras.io/api/x 3/4 and/or <b>x</b>"
    content = of_cells(f'source = "{project}/clip.mp4"', **{"text/plain": text, "text/html": text})
    content["cells"].append(of_cells("f()", **{"image/png": PICTURE})["cells"][0])
    html = {"text/html": f'<img src="data:image/png;base64,{PICTURE}">'}
    content["cells"].append(of_cells("g()", **html)["cells"][0])
    content["metadata"] = {"kernelspec": {"display_name": "annamaier"}, "widgets": {"x": PICTURE}}
    write_notebook("05_realtime", content)
    facts = made_up.change_facts(
        made_up.make_run(1),
        lambda x: x["made_of"].update(
            callbacks=[f"CSVLogger(filename={project}/log.csv)", r"C:\Users\Jürgen Maier\x.csv"]
        ),
    )
    write_run("logged", facts)
    write_run("cut", {"history.csv": b"x"})
    files = handed_in()
    for name, content in files.items():
        stored = content.decode("utf-8", "ignore").replace(PICTURE, "")
        for word in (
            *("annamaier", "annas-laptop", "benno", "cleo", "rgen", "/mnt", "lab\\\\a", "Maier\\"),
            str(project),
        ):
            assert word not in stored, (word, name)
        assert str(project.parent) not in stored, name
    notebook = files["notebooks/05_realtime.ipynb"].decode()
    here = json.dumps(str(Path("outputs", "runs", "a")))[1:-1]
    for text in (here, "…/x.csv", "https://keras.io/api/x 3/4 and/or <b>x</b>"):
        assert text in notebook
    assert notebook.count(PICTURE) == 2, "pictures are whole"
    assert "CSVLogger(filename=./log.csv)" in files["runs/logged/run.json"].decode()
    missing = [x for x in capsys.readouterr().out.splitlines() if x.startswith("missing: ")]
    assert missing and str(project) not in str(missing)


def test_a_zip_that_is_too_large_names_the_largest_files(quick_project, monkeypatch, capsys):
    monkeypatch.setattr(submit, "MAX_BYTES", 100_000)
    with pytest.raises(SystemExit) as stop:
        handed_in()
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "at most 0 may be handed in" in error
    assert "runs/emotion_six_conv/predictions.npz (0.2 MB)" in error
    assert list((config.ROOT / "handed_in").iterdir()) == []


def test_weights_come_when_asked_for(quick_project, capsys):
    folder = config.RUNS_DIR / "emotion_six_conv"
    for name in ("architecture.json", "model.weights.h5"):
        (folder / name).write_text("weights")
    write_run("begun", made_up.unfinished(made_up.make_run(1)))
    files = handed_in("--weights")
    assert files["runs/emotion_six_conv/model.weights.h5"] == b"weights"
    assert "missing: run begun has no weights" in capsys.readouterr().out


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    subprocess.run([*command, *arguments], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_what_was_changed_are_told(quick_project):
    (quick_project / "utils").mkdir()
    for name in ("a ä.py", "b.py"):
        (quick_project / "utils" / name).write_text("1\n")
    git(quick_project, "init")
    assert submit.git_state() == {"git": "no git", "changed": None}, "no commit"
    git(quick_project, "add", "utils")
    git(quick_project, "commit", "-m", "x")
    state = submit.git_state()
    assert len(state["git"]) == 40 and state["changed"] == []
    (quick_project / "utils" / "a ä.py").write_text("2\n")
    assert submit.git_state()["changed"] == ["utils/a ä.py"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_another_repository_around_the_project_says_nothing(quick_project, monkeypatch):
    git(quick_project, "init")
    git(quick_project, "add", "notebooks")
    git(quick_project, "commit", "-m", "x")
    monkeypatch.setattr(config, "ROOT", quick_project / "notebooks")
    assert submit.git_state() == {"git": "no git", "changed": None}
    monkeypatch.setenv("PATH", "")
    assert submit.git_state() == {"git": "no git", "changed": None}


def test_what_is_submitted_can_be_graded(quick_project, monkeypatch):
    output = config.ROOT / "course" / "anna.zip"
    submit.main(["--output", str(output), "--name", "Anna"])
    (student,) = read_students(output.parent)
    assert student.title == "Anna" and not student.problem and not student.notes
    (row,) = student.rows
    assert not row.checks and not row.questions and row.facts["images"] == 3589
    assert student.answers["03_emotion_experiments", 1].text == "# Happy is easiest."


def test_the_default_place_is_among_the_reports(quick_project, capsys):
    submit.main(["--name", "Anna & Ben Maier"])
    assert (config.REPORTS_DIR / "Anna_Ben_Maier.zip").is_file()
    assert "1 runs" in capsys.readouterr().out
