"""The anatomy of the notebooks, checked on their JSON; nbval runs them."""

import re

import pytest

from utils import config
from utils.files import read_json

NAMES = (
    "01_prepare_fer",
    "02_prepare_utk",
    "03_emotion_experiments",
    "04_gender_experiments",
    "05_realtime",
)
# The compared cells must say the same on sample and full data; the marker must stand alone.
MARKER = "# NBVAL_CHECK_OUTPUT"
MAX_LINES = 25


@pytest.fixture(params=NAMES)
def notebook(request):
    content = read_json(config.ROOT / "notebooks" / f"{request.param}.ipynb")
    content["name"] = request.param
    return content


def source(cell):
    return "".join(cell["source"])


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_no_other_notebooks():
    assert sorted(p.stem for p in (config.ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)


def test_title_and_opening(notebook):
    text = source(notebook["cells"][0])
    assert text.startswith(f"# {notebook['name'][:2]} ")
    for part in ("you'll learn", "you need", "How long"):
        assert part in text, part
    assert (
        sum(source(c).startswith("# ") for c in notebook["cells"] if c["cell_type"] == "markdown")
        == 1
    )
    last = [source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"][-1]
    assert "Your turn" in last


def test_code_is_short_and_has_no_shortcuts(notebook):
    for cell in code_cells(notebook):
        text = source(cell)
        assert len(text.splitlines()) <= MAX_LINES, text
        assert not re.search(
            r"import \*|^\s*[!%]|sys\.path|filterwarnings|simplefilter", text, re.M
        ), text
        compile(text, notebook["name"], "exec")


def test_only_one_cell_knows_sample_or_full(notebook):
    knowing = [source(c) for c in code_cells(notebook) if "is_sample_run" in source(c)]
    assert len(knowing) <= 1
    # 05 has no data set: it runs on the sample clip or on what the user names.
    expected = 0 if notebook["name"] == "05_realtime" else 1
    assert sum("config.banner(" in source(c) for c in code_cells(notebook)) == expected


def test_markers_stand_alone_on_the_first_line(notebook):
    for cell in code_cells(notebook):
        for number, line in enumerate(source(cell).splitlines()):
            if "NBVAL" in line:
                assert (number, line) == (0, MARKER)
        if source(cell).startswith(MARKER):
            assert cell["outputs"], f"nothing to compare with in {notebook['name']}"


def test_notebooks_are_whole_and_never_from_a_sample_run(notebook):
    for cell in code_cells(notebook):
        number = 0 if cell["outputs"] else None
        assert cell["execution_count"] == number, "others are for who runs it: submit counts them"
        stored = str(cell["outputs"])
        assert "SAMPLE DATA" not in stored
        assert "Traceback" not in stored
        assert "widget-view" not in stored
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", source(cell)


def test_cells_that_show_faces_of_the_data_sets_are_cleared(notebook):
    for cell in code_cells(notebook):
        if "plot_images(" in source(cell):
            assert not cell["outputs"], "a figure with people's faces must not be committed"


def test_each_notebook_names_its_kernel(notebook):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
