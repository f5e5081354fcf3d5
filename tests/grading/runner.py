"""Grades the submission in a folder: reads it, runs the checks, makes the report.

The checks run here. The submission runs in a child process, which sends arrays.
"""

import contextlib
import itertools
import json
import secrets
import textwrap
import time
from collections import Counter
from pathlib import Path

from . import checks, folder
from .checks import EFFICIENCY, FAILED, PASSED, REMARK
from .diagnosis import NotGraded
from .process import ALL, Budget, Child, sandbox_starts
from .submission import Submission


def in_child(sources, errors=(), sandbox=None, all_limit=ALL, **limits):
    """A Submission that runs in a child process, which ends with the block.

    sandbox: whether the child runs inside bwrap; None: where bwrap starts.
    """
    sandbox = sandbox_starts() if sandbox is None else sandbox
    budget = Budget(all_limit)
    submission = Submission(sources, lambda: Child(sandbox, budget), errors, **limits)
    return contextlib.closing(submission)


def grade(directory, seed=None, sandbox=None, files=None, **limits):
    """The report on a submission, a dict that can be written as JSON.

    seed: of the numbers that are drawn; None for any. files: a function that gives those of the
    submission, where they are not in the directory; see folder.py. For the other arguments see
    in_child and Submission.
    """
    start = time.monotonic()
    sandbox = sandbox_starts() if sandbox is None else sandbox
    try:
        taken = folder.take(files() if files else folder.files_in(directory))
    except OSError as error:
        return not_graded(directory, f"it is not read: {error.strerror or error}", seed)
    if "modules" in taken.errors:
        return not_graded(directory, taken.errors["modules"], seed)
    with in_child(taken.sources, taken.errors, sandbox, **limits) as submission:
        result = report(directory, submission, seed, sandbox)
    seconds = round(time.monotonic() - start, 2)
    return result | {"folder": taken.place, "note": taken.note, "seconds": seconds}


def report(directory, submission, seed=None, sandbox=False):
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    rows = checks.run_all(submission, seed)
    return {
        "submission": folder.printable(directory),
        "passed": passed(rows),
        "seed": seed,
        "sandbox": sandbox,
        "rows": rows,
        "seconds": 0.0,
        "folder": "",
        "note": "",
    }


def passed(rows):
    return all(row["passed"] for row in rows if row["kind"] != EFFICIENCY)


def chosen(report, names):
    """The report on these rows alone."""
    rows = [row for row in report["rows"] if row["row"] in names]
    return report | {"rows": rows, "passed": passed(rows)}


def not_graded(directory, sentence, seed):
    """The report on a submission of which nothing could be run: one sentence, and no verdicts."""
    result = report(directory, Submission({}, None, {"modules": sentence}), seed)
    empty = {"cell": NotGraded.cell, "passed": False, "remarks": [], "diagnosis": sentence}
    rows = [row | empty | {"follows": []} for row in result["rows"]]
    return result | {"passed": False, "rows": rows, "note": sentence}


def explanation(row):
    """The numbers that differ and what is probably wrong, or the remarks; '' where all is well."""
    if row["remarks"]:
        return "; ".join(row["remarks"])
    if row["passed"]:
        return ""
    text = row["diagnosis"]
    if row["got"] is not None and row["expected"] is not None:
        at = f" at {row['index']}" if row["index"] else ""
        text += f" (got {row['got']:.6g}, expected {row['expected']:.6g}{at})"
    return f"{text}{' ' if text.endswith('?') else '. '}{row.get('advice', '')}".rstrip(". ")


def head(report):
    where = "in a sandbox (bwrap)" if report["sandbox"] else "no sandbox: a process with limits"
    return f"{where}; seed {report['seed']}"


def table(report, width=100):
    """The report as lines of text that can be handed back, the rows under their kinds."""
    title, rows = f"grading report: {report['submission']}", report["rows"]
    if nothing_ran(report):
        return [title, summary(report)]
    wide, wrap = max(width, 60), textwrap.wrap
    name_width, cell_width = (max(len(row[key]) for row in rows) for key in ("row", "cell"))
    lines, said = [title, head(report), *wrap(report["note"], wide)], {}
    for kind, of_kind in itertools.groupby(rows, lambda row: row["kind"]):
        lines.append(kind + (" (remarks only)" if kind == EFFICIENCY else ""))
        for row in of_kind:
            word = "FAILED" if row["cell"] == FAILED else row["cell"]
            start = f"  {row['question']:<5}  {row['row']:<{name_width}}  {word:<{cell_width}}  "
            if "points" in row:
                start += f"{row['points']:g}/{row['out of']:g}".ljust(6)
            first = said.setdefault(row["diagnosis"] or row["row"], row["row"])
            says = explanation(row) if first == row["row"] else f"the same as in '{first}'"
            lines += wrap(start + says, wide, subsequent_indent=" " * len(start))
    return [*lines, summary(report)]


def nothing_ran(report):
    return all(row["diagnosis"] == report["note"] for row in report["rows"])


def summary(report):
    if nothing_ran(report):
        text = f"{NotGraded.cell}: {report['note']}"
    else:
        count = Counter(row["cell"] for row in report["rows"])
        others = [cell for cell in count if cell not in (PASSED, REMARK, FAILED)]
        word = PASSED if report["passed"] else "FAILED" if count[FAILED] else others[0]
        said = [f"{count[PASSED]} passed, {count[REMARK]} with a remark, {count[FAILED]} failed"]
        text = f"{word}: " + ", ".join(said + [f"{count[cell]} {cell}" for cell in others])
    if "points" in report:
        text += f"; {report['points']:g} of {report['out of']:g} points"
    return text


def save_json(report, path):
    # JSON has no number for nan: its name, as a string.
    strict = json.loads(json.dumps(report), parse_constant=lambda name: str(float(name)))
    _write(strict, path)


def save_gradescope(report, path):
    """The results.json that an autograder of Gradescope gives back: a test for each row."""
    tests = [
        {
            "name": row["row"],
            "status": "passed" if row["passed"] else "failed",
            "score": row["points"],
            "max_score": row["out of"],
            "output": explanation(row),
        }
        for row in report["rows"]
    ]
    output = "\n".join([summary(report), head(report), report["note"]]).strip()
    _write({"output": output, "execution_time": report["seconds"], "tests": tests}, path)


def _write(value, path):
    Path(path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
