"""One page and one table from the submissions of a course.

    python tasks.py grade submissions/
    python tasks.py grade submissions/ --output graded/

Everything is computed anew from what was handed in. Nothing of it is run, and nothing of it is
written but as escaped text. What cannot be read is a row that says why.
"""

import argparse
import base64
import hashlib
from datetime import datetime
from pathlib import Path

import jinja2
import pandas as pd

from commands import cells
from commands.submissions import HEIGHT, WIDTH, Row, own_notebooks, read_students
from commands.texts import few, path_of
from utils import config
from utils.files import replaced_when_done

TEMPLATE = Path(__file__).with_name("grade.html")
MADE_BY = "python tasks.py grade"  # said in each page: pages of others are not deleted
NO_DIFFERENCE = "nothing: our recipe"
NUM_SHOWN = 6  # of differences, in the table; the student's page has all
COLUMNS = (
    *("student", "file", "run", "data", "differs from ours", "epochs", "validation", "test"),
    *("low", "high", "images", "macro F1", "checks", "questions", "seconds", "machine", "finished"),
)


def table_rows(students):
    """The rows of the table: dict by `COLUMNS`, a student without a run has one too."""
    for student in students:
        rows = student.rows or [Row("", state=student.problem or "no run in it")]
        for number, row in enumerate(rows):
            checks = [row.state] if row.state else row.checks or ["all hold"]
            # What is wrong with a submission, not with a run of it, stands once.
            if number == 0:
                checks = [*([student.problem] if student.rows and student.problem else []), *checks]
            yield {
                **dict.fromkeys(COLUMNS, ""),
                **{key: value for key, value in row.facts.items() if key in COLUMNS},
                "student": student.title,
                "file": student.file,
                "run": row.run,
                "differs from ours": few(row.differs, NUM_SHOWN, "; ")
                or ("" if row.state else NO_DIFFERENCE),
                "checks": "; ".join(checks),
                "questions": "; ".join([*row.questions, *(student.notes if not number else ())]),
                "page": student.page,
                "is_bad": row.is_bad,
            }


def answer_rows(students, course):
    """Questions in the order of the notebooks, each with everybody's answer."""
    for name, number in sorted({key for student in students for key in student.answers}):
        given = [(x, x.answers[name, number]) for x in students if (name, number) in x.answers]
        own = cells.find_answers(course[name]) if name in course else []
        ours = [answer.question for answer in own if answer.number == number]
        yield {
            "key": f"{name}, {number}",
            "question": ours[0] if ours else given[0][1].question,
            "answers": given,
        }


def _for_spreadsheet(value):
    """A text that a spreadsheet takes for text: what begins with = is computed there."""
    if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return round(value, 4) if isinstance(value, float) else value


def write_csv(path, students):
    """Write the table, and each student's answers beside the first of their runs."""
    table = pd.DataFrame(table_rows(students), columns=[*COLUMNS, "page"])
    pages = table["page"].mask(table["page"].duplicated())
    for key in sorted({key for student in students for key in student.answers}):
        given = [(x.page, x.answers[key]) for x in students if key in x.answers]
        texts = {page: answer.text for page, answer in given if answer.is_given}
        table["answer {}, {}".format(*key)] = pages.map(texts)
    with replaced_when_done(path) as partial:
        # With a mark by which Excel knows UTF-8.
        table = table.drop(columns="page").map(_for_spreadsheet)
        table.to_csv(partial, index=False, encoding="utf-8-sig")


def _hash(text):
    """By which a Content-Security-Policy knows the page's own style and script."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def grade(folder, output):
    """Read the submissions in a folder, write the page, the table and a page for each student.

    Parameters
    ----------
    folder, output : pathlib.Path

    Returns
    -------
    list of Student

    Raises
    ------
    FileNotFoundError
        If there is nothing to read.
    ValueError
        If the pages would lie among the submissions.
    """
    pages, source = (output / "students").resolve(), folder.resolve()
    if pages.is_relative_to(source) or source.is_relative_to(pages):
        raise ValueError(
            f"{output} would have pages in {folder}, where they would be taken for submissions: "
            "give another --output"
        )
    students = read_students(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["hash"] = _hash
    template = environment.get_template(TEMPLATE.name)
    settings = {"made": f"{datetime.now():%Y-%m-%d %H:%M}", "width": WIDTH, "height": HEIGHT}
    settings["made_by"] = MADE_BY
    for student in students:
        page = template.render(student=student, **settings)
        _write(output / student.page, page)
    pages = {(output / student.page).name for student in students}
    for old in (output / "students").glob("[0-9]*_*.html"):  # of a course graded before
        if old.name not in pages and MADE_BY in old.read_text(encoding="utf-8", errors="replace"):
            old.unlink()
    rows = list(table_rows(students))
    answers = list(answer_rows(students, own_notebooks()))
    page = template.render(student=None, students=students, rows=rows, answers=answers, **settings)
    _write(output / "index.html", page)
    write_csv(output / "grades.csv", students)
    return students


def _write(path, text):
    with replaced_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")


def main(arguments=None):
    """Write the pages and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py grade",
        description="One page and one table from a folder with a zip (or folder) for each "
        "student, as python tasks.py submit makes them.",
    )
    parser.add_argument("folder", type=path_of, help="with the submissions")
    parser.add_argument(
        "--output", type=path_of, help="folder for the pages (default: outputs/reports/grades)"
    )
    options = parser.parse_args(arguments)
    output = options.output or config.REPORTS_DIR / "grades"
    try:
        students = grade(options.folder, output)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    for student in students:
        if student.problem:
            print(f"{student.file}: {student.problem}")
    runs = sum(len(student.rows) for student in students)
    print(f"{len(students)} submissions, {runs} runs: {output / 'index.html'}, and grades.csv")


if __name__ == "__main__":
    main()
