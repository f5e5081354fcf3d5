"""One command grades a folder of submissions into one CSV."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mutants import wrong

from grading.checks import ROWS
from grading.helpers import CAN_FAIL, RIGHT, listing, mutant, on_top, with_elu, write

SCRIPT = Path(__file__).parents[1] / "grade.py"
AVERAGED = wrong.sources(mutant("bias gradient averaged"))
COLUMNS = ["submission", "passed", *(row.name for row in ROWS), "seconds", "failed rows", "folder"]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-B", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error.decode()


def read(path):
    """The lines of the CSV, by submission."""
    text = path.read_bytes().decode("utf-8")
    assert not text.startswith("\ufeff")
    lines = list(csv.DictReader(text.splitlines()))
    assert all(list(line) == COLUMNS and None not in line.values() for line in lines)
    return {line["submission"]: line for line in lines}


NAMES = {
    b"na\xefve \xff": r"na\xefve \xff",
    b"tab\there": r"tab\there",
    b"line\nbreak": r"line\nbreak",
    b"\x1b[31mred": r"\x1b[31mred",
    "ünï, \"quoted\" 🙂".encode(): "ünï, \"quoted\" 🙂",
    b"l" * 200: "l" * 200,
    ("ö" * 127).encode(): "ö" * 127,
    b"=1+1": "'=1+1",
    b"-x": "'-x",
    b"@sum": "'@sum",
    b"+1": "'+1",
    rb"back\xff": r"back\\xff",
}  # fmt: skip
NOT_OWN = (".venv/lib", "venv", "site-packages", ".ipynb_checkpoints", "__MACOSX", ".git")
COURSE = {
    "ann": RIGHT,
    "bob": {f"unpacked/assignment_1/{name}": text for name, text in AVERAGED.items()},
    "eve": on_top("import os; os._exit(0)"),
    "zoe": {},
    "hangs": with_elu("import time; time.sleep(60)"),
    "dies": with_elu("import os; os.kill(os.getpid(), 9)"),
    "parent": with_elu("import os; os.kill(os.getppid(), 9); return x"),
    "huge": {"modules.py": "x = 1\n" * 10**6},
    "deep": {"/".join([*["d"] * 900, name]): text for name, text in RIGHT.items()},
    "inner": {f"{place}/{name}": text for place in NOT_OWN for name, text in AVERAGED.items()}
    | {f"work/code/{name}": text for name, text in RIGHT.items()},
    # Two places qualify: the one with both files is taken, then the less deep one.
    "places": {"modules.py": AVERAGED["modules.py"]}
    | {f"new/{name}": text for name, text in RIGHT.items()}
    | {f"new/old/{name}": text for name, text in AVERAGED.items()},
}


class Course:
    """A folder of submissions of all kinds, graded under a terminal that knows Latin-1 only."""

    def __init__(self, folder):
        submissions, self.reports = folder / "submissions", folder / "reports"
        for name, sources in COURSE.items():
            write(submissions / name, sources)
        for name in NAMES:
            os.mkdir(os.path.join(os.fsencode(submissions), name))
        (submissions / "link").mkdir()
        (submissions / "link" / "modules.py").symlink_to(submissions / "ann" / "modules.py")
        (submissions / "linked folder").symlink_to(submissions / "ann")
        (submissions / "pipe").mkdir()
        os.mkfifo(submissions / "pipe" / "modules.py")
        before = listing(submissions)
        self.command = [submissions, folder / "grades.csv", "--reports", self.reports]
        self.command += ["--jobs", "4", "--seed", "3"]
        self.status, self.out, self.error = run(*self.command, PYTHONIOENCODING="latin-1")
        self.lines = read(folder / "grades.csv")
        self.untouched = listing(submissions) == before

    def text(self, name):
        return " ".join((self.reports / f"{name}.txt").read_text().split())


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return Course(tmp_path_factory.mktemp("course"))


def test_every_submission_gets_a_line(course):
    assert course.status == 0, course.error
    names = [*COURSE, *NAMES.values(), "link", "linked folder", "pipe"]
    assert sorted(course.lines) == sorted(names)
    # In the order of the names, without the apostrophes of spreadsheets.
    assert list(course.lines) == sorted(course.lines)
    passed = {name for name, line in course.lines.items() if line["passed"] == "yes"}
    assert passed == {"ann", "deep", "inner", "places"}
    assert course.untouched


def test_line_has_every_verdict_and_the_folder_that_was_taken(course):
    ann, bob, eve, zoe = (course.lines[name] for name in ("ann", "bob", "eve", "zoe"))
    assert ann["stale caches"] == "remark" and ann["failed rows"] == "0"
    assert bob["bias gradient"] == bob["network gradient"] == "failed"
    assert bob["weight gradient"] == "passed" and bob["failed rows"] == "2"
    assert all(line[name] == "failed" for line in (eve, zoe) for name in CAN_FAIL)
    for name in ("hangs", "dies"):  # which an ELU does
        failed = {row.name for row in ROWS if course.lines[name][row.name] == "failed"}
        assert failed == {"ELU value", "ELU gradient", "network output", "network gradient"}
    assert "averaged" in course.text("bob") and "seed 3" in course.text("bob")
    assert json.loads((course.reports / "ann.json").read_text())["passed"] is True
    folders = {name: course.lines[name]["folder"] for name in ("ann", "bob", "inner", "places")}
    taken = {"ann": ".", "bob": "unpacked/assignment_1", "inner": "work/code", "places": "new"}
    assert folders == taken


def test_every_name_is_written_and_known_again(course):
    assert set(NAMES.values()) <= set(course.lines)
    assert all(c.isprintable() or c == "\n" for c in course.out.decode("latin-1"))
    assert b"\x1b[31m" not in course.out and "\x1b[31m" not in course.error
    assert len(list(course.reports.iterdir())) == 2 * len(course.lines)
    status, out, _ = run(*course.command)
    assert (status, out) == (0, b"")


def test_line_says_why_a_file_is_not_read_or_a_call_not_done(course):
    for name, sentence in {
        "link": "modules.py is not read: it is a link",
        "linked folder": "the folder is a link",
        "pipe": "modules.py is not read: it is not a regular file",
        "huge": "modules.py is not read: it has more than 1 MiB",
        "hangs": "takes more than 2 s",
    }.items():
        assert sentence in course.text(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_files_and_folders_get_a_line(tmp_path):
    folder, reports = tmp_path / "submissions", tmp_path / "reports"
    for name in ("file", "folder"):
        write(folder / name, RIGHT)
    (folder / "file" / "modules.py").chmod(0)
    (folder / "folder").chmod(0)
    run(folder, tmp_path / "grades.csv", "--reports", reports)
    (folder / "folder").chmod(0o700)
    said = [" ".join((reports / f"{n}.txt").read_text().split()) for n in ("file", "folder")]
    assert "modules.py is not read: Permission denied" in said[0]
    assert "the folder cannot be read" in said[1]


def test_interrupted_work_goes_on_where_it_stopped(tmp_path):
    folder, grades = tmp_path / "submissions", tmp_path / "grades.csv"
    for name in ("ann", "bob"):
        write(folder / name, {})
    write(folder / "hangs", on_top("import time; time.sleep(60)"))
    process = start(folder, grades)
    until = time.monotonic() + 30
    while time.monotonic() < until and (not grades.exists() or "bob" not in grades.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in error and "same command to continue" in error
    assert list(read(grades)) == ["ann", "bob"]
    # A line that was cut off is graded again; one that is whole is left as it is.
    text = grades.read_text().replace("ann,no", "ann,yes")
    grades.write_text(text[:-9])
    (folder / "hangs" / "modules.py").write_text("")
    status, out, error = run(folder, grades)
    assert status == 0 and "ann" not in out.decode()
    lines = read(grades)
    assert list(lines) == ["ann", "bob", "hangs"]
    assert [line["passed"] for line in lines.values()] == ["yes", "no", "no"]


@pytest.mark.parametrize(
    ("folder", "text", "says"),
    [
        ("no_such_folder", None, "No such file"),
        (".", None, "has no sub-folders"),
        ("..", "name,grade\nann,7\n", "has other columns"),
        ("..", b"\xff\xfe", "is not a file of grades"),
    ],
)
def test_unusable_files_are_usage_errors(tmp_path, folder, text, says):
    grades = tmp_path / "inner" / "grades.csv"
    grades.parent.mkdir()
    if text is not None:
        grades.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, error = run(grades.parent / folder, grades)
    assert status == 2 and says in error and "Traceback" not in error
    assert not grades.exists() if text is None else grades.stat().st_size == len(text)
