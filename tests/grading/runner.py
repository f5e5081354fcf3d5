"""Grades the submission in a folder: starts the worker, watches the clock, makes the report.

The two modules are copied into a temporary folder, and only the copies are run, in a process that
starts there with an empty environment. That keeps accidents away from the submission and from the
grader's files. It is no prison: see the warning in tests/README.md.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np

from .checks import EFFICIENCY, ROWS
from .submission import JOURNAL_SIZE

FILES = ("modules.py", "mlp_numpy.py")
TIME_LIMIT = 2.0  # seconds for one call of the submission, which should take a thousandth of that


def grade(directory, seed=0, time_limit=TIME_LIMIT):
    """The report on a submission, a dict that can be written as JSON."""
    start = time.monotonic()
    directory = Path(directory)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch, "submission")
        folder.mkdir()
        for name in FILES:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, folder / name)
        rows = _all_rows(folder, seed, time_limit)
    return {
        "submission": str(directory),
        "passed": all(row["passed"] for row in rows),
        "rows": rows,
        "seconds": round(time.monotonic() - start, 2),
    }


def _all_rows(folder, seed, time_limit):
    """The rows of the report, from as many workers as it takes.

    Where a worker dies or hangs, the next one is told in which call, does without it, and so comes
    to the rows that do not need it.
    """
    results, fatal = {}, {}
    names = [row.name for row in ROWS]
    # Several calls of one row may all run into their time limit. Who hangs in spite of that is
    # waited for once, and then no longer than for a single call.
    patience = 4 * time_limit + 2
    while todo := [name for name in names if name not in results]:
        job = {
            "seed": seed,
            "time_limit": time_limit,
            "rows": todo,
            "fatal": fatal,
            "packages": str(Path(np.__file__).parent.parent),
        }
        rows, end, call = _run_worker(folder, job, patience)
        results |= {row["row"]: row for row in rows}
        if end == HANGS:
            patience = time_limit + 1
        if call and call not in fatal:
            fatal[call] = f"{call} {end}"
        elif len(rows) < len(todo):
            name = next(name for name in todo if name not in results)
            results[name] = _not_checked(name, end)
    return [results[name] for name in names]


HANGS, ENDS = "hangs", "ends the Python process"


def _run_worker(folder, job, patience):
    """Returns the rows that a worker got through, how it ended, and in which call."""
    work = tempfile.mkdtemp(dir=folder.parent)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as journal:
        ends = {"folder": str(folder), "results": writing, "journal": journal.fileno()}
        worker = Path(__file__).with_name("worker.py")
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(worker), json.dumps(job | ends)],
            cwd=work,
            env=_environment(work),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing, journal.fileno()],
            start_new_session=True,
        )
        os.close(writing)
        rows, end = [], HANGS
        try:
            for row in _messages(reading, patience):
                if row is None:
                    end = ENDS
                else:
                    rows.append(row)
                if len(rows) == len(job["rows"]):
                    break
        finally:
            os.close(reading)
            _kill(process)
        return rows, end, os.pread(journal.fileno(), JOURNAL_SIZE, 0).decode().strip()


def _environment(home):
    """One thread, and nothing of the grader's own settings."""
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return keep | threads | {"HOME": home, "TMPDIR": home}


def _messages(descriptor, patience):
    """The worker's messages, until it ends (None) or is silent for too long."""
    text = b""
    while select.select([descriptor], [], [], patience)[0]:
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            yield None
            return
        *lines, text = (text + chunk).split(b"\n")
        yield from map(json.loads, lines)


def _kill(process):
    """The worker and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _not_checked(name, sentence):
    row = next(row for row in ROWS if row.name == name)
    remark = row.kind == EFFICIENCY
    return {
        "row": name,
        "kind": row.kind,
        "passed": remark,
        "remarks": [f"could not be checked: {sentence}"] if remark else [],
        "diagnosis": sentence,
        "got": None,
        "expected": None,
        "index": None,
    }


def verdict(row):
    """passed, failed or remark."""
    return ("remark" if row["remarks"] else "passed") if row["passed"] else "failed"


def explanation(row):
    """The numbers that differ and what is probably wrong, or the remarks; '' where all is well."""
    if row["passed"]:
        return "; ".join(row["remarks"])
    text = row["diagnosis"]
    if row["got"] is not None and row["expected"] is not None:
        at = f" at {row['index']}" if row["index"] else ""
        text += f" (got {row['got']:.6g}, expected {row['expected']:.6g}{at})"
    return text


def table(report, width=100):
    """The report as lines of text that can be handed back, the rows under their kinds."""
    name_width = max(len(row["row"]) for row in report["rows"])
    indent = " " * (name_width + 12)
    lines, kind = [f"grading report: {report['submission']}"], None
    for row in report["rows"]:
        if row["kind"] != kind:
            kind = row["kind"]
            lines.append(kind + (" (remarks only)" if kind == EFFICIENCY else ""))
        word = verdict(row)
        head = f"  {row['row']:<{name_width}}  {word.upper() if word == 'failed' else word:<6}  "
        text = head + explanation(row)
        lines += textwrap.wrap(text, max(width, 60), subsequent_indent=indent) or [head]
    count = Counter(map(verdict, report["rows"]))
    lines.append(
        f"{'passed' if report['passed'] else 'FAILED'}: {count['passed']} passed, "
        f"{count['remark']} with a remark, {count['failed']} failed"
    )
    return lines


def save_json(report, path):
    Path(path).write_text(json.dumps(_strict(report), indent=2) + "\n", encoding="utf-8")


def _strict(value):
    """Numbers that JSON does not have, as their names."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
