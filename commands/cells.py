"""What a notebook's file says of its reader: answers, cells that were run, pictures of faces.

Notebooks come from anybody: nothing here runs a cell or believes that a field is there.
"""

import ast
import json
import re
from dataclasses import dataclass

ANSWER_TAG = "answer"
# "**1. Contradictions.**", "**Your turn, 2: the search.**"
QUESTION = re.compile(r"^\*\*(?:Your turn, |(?=1\.))(\d{1,3})[.:]", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar that no page moves
UNTOUCHED = ("", "# Your code.")  # lines of a cell for an answer
# What puts pixels on a page: of data sets, or of a camera.
SHOWING = {
    *("plot_images", "imshow", "matshow", "figimage", "pcolor", "pcolormesh"),
    *("Image", "Video", "HTML", "load_img", "array_to_img", "cv2_imshow"),
    "display_id",  # of what other cells update
}
LEFT_OUT = "picture left out: faces of the data set, or yours (submit --faces keeps it)"


@dataclass(frozen=True)
class Answer:
    """What stands under a question.

    Parameters
    ----------
    number : int
        In its notebook, from 1.
    question, text : str
    output : str
        What the cells printed, without pictures.
    is_given : bool
        Whether it is more than the comment that was there.
    """

    number: int
    question: str
    text: str
    output: str
    is_given: bool


def read_notebook(content, name):
    """Read a notebook, with each cell's source as one text.

    Parameters
    ----------
    content : bytes
        Of the file.
    name : str
        For the message.

    Returns
    -------
    dict
        Its ``cells`` have cell_type, source, tags, and code also outputs, execution_count.

    Raises
    ------
    ValueError
        If it is no notebook of format 4.
    """
    try:
        notebook = json.loads(content)
        cells = [_cell(cell) for cell in notebook["cells"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{name} is no notebook that can be read ({type(error).__name__}): open it in "
            "JupyterLab and save it again"
        ) from error
    return {
        "cells": cells,
        # What else stands there names an environment or keeps a widget's pictures.
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def _text(lines):
    """A text that may be stored as a list of its lines."""
    return lines if isinstance(lines, str) else "".join(map(str, lines))


def _cell(cell):
    tags = [str(tag) for tag in cell.get("metadata", {}).get("tags", [])]
    kept = {
        "cell_type": cell["cell_type"],
        "source": _text(cell["source"]),
        "metadata": {"tags": tags} if tags else {},
    }
    if kept["cell_type"] == "code":
        count = cell.get("execution_count")
        outputs = [dict(output) for output in cell.get("outputs", [])]
        outputs = [output for output in outputs if WIDGET not in (output.get("data") or ())]
        kept |= {"execution_count": count if type(count) is int else None, "outputs": outputs}
    elif kept["cell_type"] not in ("markdown", "raw"):
        raise ValueError("another kind of cell")
    elif isinstance(cell.get("attachments"), dict):  # pictures that were pasted into the text
        kept["attachments"] = cell["attachments"]
    return kept


def is_code(cell):
    """Whether it is a cell of code."""
    return cell["cell_type"] == "code"


def is_answer(cell):
    """Whether it is a cell for the reader's own words or code."""
    return ANSWER_TAG in cell["metadata"].get("tags", [])


def count_run(notebook):
    """How many of a notebook's cells were run.

    Returns
    -------
    run, cells : int
        Of code, without answers. Our own outputs have the number 0, which Jupyter never gives.
    """
    cells = [
        cell
        for cell in notebook["cells"]
        if is_code(cell) and cell["source"].strip() and not is_answer(cell)
    ]
    return sum(bool(cell["execution_count"]) for cell in cells), len(cells)


def find_answers(notebook):
    """What stands under the questions of a notebook.

    An answer is its tagged cell and what follows up to the next question, as readers add cells,
    and text before it; where that cell is gone, all that stands there. Questions have numbers that
    rise.

    Returns
    -------
    list of Answer
    """
    found, number, question, cells = [], 0, "", []
    for cell in [*notebook["cells"], None]:
        heading = cell and cell["cell_type"] == "markdown" and QUESTION.search(cell["source"])
        if cell and not (heading and int(heading[1]) > number):
            cells.append(cell)
            continue
        tagged = [x for x, each in enumerate(cells) if is_answer(each)]
        first = min(tagged, default=0)
        if question or tagged:
            text_before = [each for each in cells[:first] if not is_code(each)]
            found.append(_answer(max(1, number), question, [*text_before, *cells[first:]]))
        if cell:
            number, question, cells = int(heading[1]), cell["source"][heading.start() :], []
    return found


def _answer(number, question, cells):
    text = "\n\n".join(cell["source"] for cell in cells).strip()
    output = "\n".join(printed(cell) for cell in cells if is_code(cell)).strip()
    is_given = not all(line.strip() in UNTOUCHED for line in text.splitlines())
    return Answer(number, question.strip(), text, output, is_given)


def printed(cell):
    """What a cell printed and returned, as text, without pictures."""
    texts = []
    for output in cell["outputs"]:
        data = output.get("data")
        lines = [output.get("text"), data.get("text/plain") if isinstance(data, dict) else None]
        if output.get("output_type") == "error":
            lines = [f"{output.get('ename')}: {output.get('evalue')}"]
        texts += [COLOUR.sub("", _text(line)) for line in lines if isinstance(line, (str, list))]
    return "\n".join(texts).strip()


def leave_out_faces(notebook):
    """Put a line in place of what the cells show that call for a picture's pixels.

    A function of the notebook's own that calls for them counts too. Pictures that a cell returns,
    as a figure by its name, are left out as well: what is in them is not known.
    """
    names = [_names(cell["source"]) for cell in notebook["cells"] if is_code(cell)]
    showing = set(SHOWING)
    while True:
        found = {
            name
            for _, aliases in names
            for name, behind in aliases
            if behind & showing and name not in showing
        }
        if not found:
            break
        showing |= found
    code = [cell for cell in notebook["cells"] if is_code(cell)]
    for cell, (used, _) in zip(code, names):
        is_shown = bool(used & showing)
        if cell["outputs"] and is_shown:
            line = {"output_type": "stream", "name": "stdout", "text": f"{LEFT_OUT}\n"}
            kept = ("stream", "error", "execute_result")
            cell["outputs"] = [line, *(x for x in cell["outputs"] if x.get("output_type") in kept)]
        for output in cell["outputs"]:
            data = output.get("data")
            if output.get("output_type") == "execute_result" and isinstance(data, dict):
                output["data"] = {
                    kind: shown
                    for kind, shown in data.items()
                    if kind == "text/plain" or not (is_shown or kind.startswith("image/"))
                }


def _names(source):
    """Names that a cell uses; and those that it makes, each with the names that are behind it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # %magic, or no Python at all
        return set(re.findall(r"\w+", source)), []
    made = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.append((node.name, _used(node)))
        elif isinstance(node, ast.ImportFrom):
            made += [(alias.asname or alias.name, {alias.name}) for alias in node.names]
        elif isinstance(node, ast.Import):
            made += [(x.asname, {x.name.rpartition(".")[2]}) for x in node.names if x.asname]
        elif isinstance(node, ast.Assign):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            made += [(target, _used(node.value)) for target in targets]
    return _used(tree), made


def _used(tree):
    """Names, attributes and the names of arguments."""
    kinds = {ast.Name: "id", ast.Attribute: "attr", ast.keyword: "arg"}
    return {getattr(node, kinds[type(node)]) for node in ast.walk(tree) if type(node) in kinds}
