"""One command grades all submissions into one CSV."""

import csv
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import grade
import pytest
from common import HANG, wait_for
from mutants import wrong

from grading import feedback
from grading.checks import ROWS
from grading.helpers import CAN_FAIL, RIGHT, listing, mutant, on_top, with_elu, write
from grading.process import sandbox_starts
from grading.test_delivery import pack

SCRIPT = Path(grade.__file__)
AVERAGED = wrong.sources(mutant("bias gradient averaged"))
COLUMNS = ["submission", "passed", "points", "out of", *(row.name for row in ROWS), "seconds"]
COLUMNS += ["seed", "failed rows", "folder"]
ANYHOW = () if sandbox_starts() else ("--no-sandbox",)


def start(*arguments, program=(SCRIPT, *ANYHOW), **environment):
    return subprocess.Popen(
        [sys.executable, "-B", *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=HANG)
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
    b"tab\tline\nbreak\x1b[31mred": r"tab\tline\nbreak\x1b[31mred",
    'ünï, "quoted" 🙂'.encode(): 'ünï, "quoted" 🙂',
    b"l" * 200: "l" * 200,
    ("ö" * 127).encode(): "ö" * 127,
    rb"back\xff": r"back\\xff",
    **{name.encode(): f"'{name}" for name in ("=1+1", "-x", "@sum", "+1")},
}
COURSE = {
    "ann": RIGHT,
    "bob": {f"unpacked/assignment_1/{name}": text for name, text in AVERAGED.items()},
    "eve": on_top("import os; os._exit(0)"),
    "linear alone": RIGHT | {"modules.py": RIGHT["modules.py"].partition("class SoftMaxModule")[0]},
    "paths": on_top("open('/no/such/folder/weights.npy')"),
    "zoe": {},
    "dies": with_elu("import os; os.kill(os.getpid(), 9)"),
    "huge": {"a\x1b[31m\udcff_modules.py": "x = 1\n" * 10**6},
    "closed": {"modules.py": ""},
}


class Course:
    """A folder of submissions of all kinds, graded under a terminal that knows Latin-1 only."""

    def __init__(self, folder):
        self.folder, submissions = folder, folder / "submissions"
        self.reports, self.gradescope = folder / "reports", folder / "gradescope"
        (folder / "weights.csv").write_text("row,points\nbias gradient,3.5\nshapes,1.5\n")
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
        (submissions / "closed" / "modules.py").chmod(0)
        self.command = [submissions, folder / "grades.csv", "--reports", self.reports]
        self.command += ["--gradescope", self.gradescope, "--weights", folder / "weights.csv"]
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
    assert passed == {"ann"}
    assert course.untouched


def test_line_has_every_verdict_and_the_folder_that_was_taken(course):
    ann, bob, eve, zoe = (course.lines[name] for name in ("ann", "bob", "eve", "zoe"))
    assert ann["numerically stable"] == "remark" and ann["failed rows"] == "0"
    assert bob["bias gradient"] == bob["network gradient"] == "failed"
    assert bob["weight gradient"] == "passed" and bob["failed rows"] == "2"
    assert all(eve[name] == "failed" for name in CAN_FAIL)
    assert all(zoe[row.name] == "not graded" for row in ROWS) and zoe["failed rows"] == "0"
    failed = {row.name for row in ROWS if course.lines["dies"][row.name] == "failed"}
    assert failed == {"ELU value", "ELU gradient", "network output", "network gradient"}
    assert {line["seed"] for line in course.lines.values()} == {"3"}
    assert (ann["folder"], bob["folder"]) == (".", "unpacked/assignment_1")


def test_points_are_the_same_everywhere_and_one_mistake_is_charged_once(course):
    for name, points in {"ann": 22, "bob": 18.5, "zoe": 0, "eve": 0, "linear alone": 7.8}.items():
        assert float(course.lines[name]["points"]) == points
        assert course.lines[name]["out of"] == "22"
        report, results = (
            json.loads((folder / f"{name}.json").read_text())
            for folder in (course.reports, course.gradescope)
        )
        assert report["points"] == points and report["out of"] == 22
        for key, of_test in (("points", "score"), ("out of", "max_score")):
            assert [row[key] for row in report["rows"]] == [t[of_test] for t in results["tests"]]
            assert sum(test[of_test] for test in results["tests"]) == pytest.approx(report[key])


def test_text_can_be_handed_back(course):
    bob = course.text("bob")
    assert "the bias gradient is 1/S of the right one" in bob and "seed 3" in bob
    assert "Look at LinearModule.backward" in bob and "18.5 of 22 points" in bob
    assert "Mend 'bias gradient' first: this row keeps its points" in bob
    assert "taken: unpacked/assignment_1/mlp_numpy.py and" in bob
    assert course.text("zoe").count("there is no modules.py: found no file") == 1
    assert "No such file or directory: 'weights.npy'" in course.text("paths")
    for path in [*course.reports.iterdir(), *course.gradescope.iterdir()]:
        assert str(course.folder) not in path.read_text() and "/no/such" not in path.read_text()


def test_a_diagnosis_stands_once_and_no_other_place_where_it_names_one(course):
    for name, says in {
        "linear alone": "modules.py has no class ELUModule",
        "paths": "directory: 'weights.npy' (modules.py, line 1)",
    }.items():
        assert says in course.text(name) and "Look at" not in course.text(name)
    assert course.text("paths").count("the same as in 'linear forward'") == len(ROWS) - 1


def test_every_name_is_written_and_known_again(course):
    assert set(NAMES.values()) <= set(course.lines)
    assert all(c.isprintable() or c == "\n" for c in course.out.decode("latin-1"))
    assert b"\x1b[31m" not in course.out and "\x1b[31m" not in course.error
    assert len(list(course.reports.iterdir())) == 2 * len(course.lines)
    assert len(list(course.gradescope.iterdir())) == len(course.lines)
    status, out, _ = run(*course.command)
    assert (status, out) == (0, b"")


def test_line_says_why_a_file_is_not_read(course):
    for name, sentence in {
        "link": "modules.py is not read: it is a link",
        "linked folder": "it is not read: it is a link",
        "pipe": "modules.py is not read: it is not a regular file",
        "huge": r"a\x1b[31m\xff_modules.py is not read: it has more than 1 MiB",
        "closed": "modules.py is not read: Permission denied" if os.geteuid() else "",  # for root
    }.items():
        assert sentence in course.text(name)


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGALRM, "the machine is too slow"), (signal.SIGKILL, "ended the")]
)
def test_report_says_what_ended_the_process_that_graded(monkeypatch, number, says):
    monkeypatch.setattr(grade, "work", lambda *_: os.kill(os.getpid(), number))
    args, running = types.SimpleNamespace(seed=0, weights={}), {}
    grade.start(args, "ann", running)
    ((reader, (name, process)),) = running.items()
    report = grade.result(args, name, reader, process)
    assert says in report["note"] and {row["cell"] for row in report["rows"]} == {"not graded"}


WAITS = on_top("import time; time.sleep(600)")
# Ctrl-C at the worst moment: in a hook that runs at a fork, where an exception is lost.
AT_FORK = f"""
import os, signal, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import grade
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
sys.exit(grade.main())
"""


@pytest.mark.parametrize("moment", ["as a process starts", "as one waits"])
def test_interrupted_work_goes_on_where_it_stopped(tmp_path, moment):
    folder, grades = tmp_path / "submissions", tmp_path / "grades.csv"
    for name in ("ann", "bob"):
        write(folder / name, {})
    write(folder / "waits", WAITS)
    if moment == "as one waits":
        process = start(folder, grades)
        wait_for(lambda: process.poll() or grades.exists() and "bob" in grades.read_text())
        process.send_signal(signal.SIGINT)
    else:
        process = start(folder, grades, program=("-c", AT_FORK, *ANYHOW))
    error = process.communicate(timeout=HANG)[1].decode()
    assert process.returncode == 130, error
    assert "Traceback" not in error and "same command to continue" in error
    done = read(grades)
    if moment == "as one waits":
        assert list(done) == ["ann", "bob"]
        # A line that was cut off is graded again; one that is whole is left as it is.
        grades.write_text(grades.read_text().replace("ann,no", "ann,yes")[:-9])
    (folder / "waits" / "modules.py").unlink()
    status, out, error = run(folder, grades)
    assert status == 0, error
    lines = read(grades)
    assert list(lines) == ["ann", "bob", "waits"]
    assert lines["ann"]["passed"] == ("yes" if moment == "as one waits" else "no")
    seeds = {line["seed"] for line in lines.values()}
    assert len(seeds) == 1 and seeds >= {line["seed"] for line in done.values()}


def test_grades_that_cannot_be_written_at_the_end_stop_with_a_sentence(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(grade, "grade_all", lambda args, *_: Path(f"{args.csv}.part").mkdir())
    write(tmp_path / "all" / "ann", {})
    assert grade.main([str(tmp_path / "all"), str(tmp_path / "grades.csv"), *ANYHOW]) == 1
    assert "the grades stop here: " in capsys.readouterr().err


def test_one_submission_is_graded_again_with_its_seed(tmp_path):
    path, grades = tmp_path / "all.zip", tmp_path / "grades.csv"
    pack(path, {"export/ann/notes.txt": "", "export/bob_1_modules.py": "x"})
    assert run(path, grades)[0] == 0
    before = read(grades)
    pack(path, {"export/ann/modules.py": "x", "export/bob_1_modules.py": "x"})
    status, _, error = run(path, grades, "--regrade", "ann")
    lines = read(grades)
    assert status == 0 and lines["bob_1"] == before["bob_1"], error
    assert "1 of 2 submissions keep their lines" in error
    assert (before["ann"]["failed rows"], lines["ann"]["failed rows"]) == ("0", "19")
    assert lines["ann"]["seed"] == before["ann"]["seed"]


def test_strangers_code_needs_a_sandbox_or_a_word(tmp_path):
    folder, grades = tmp_path / "submissions", tmp_path / "grades.csv"
    write(folder / "ann", on_top("import os; os.kill(os.getppid(), 9)"))
    status, _, error = run(folder, grades, program=(SCRIPT,), PATH=str(tmp_path))
    assert status == 2 and "--no-sandbox" in error and not grades.exists()
    assert run(folder, grades, "--no-sandbox", program=(SCRIPT,))[0] == 0
    assert read(grades)["ann"]["points"] == "0"  # whether it could end its grader or not


ONE = "ELU value needs one number of points"
WEIGHTS = {
    "row,points\nELU valu,2\n": "there is no row 'ELU valu'; the rows are linear forward,",
    **{f"row,points\nELU value,{bad}\n": ONE for bad in ("x", "-1", "inf", "1\nELU value,1")},
    **dict.fromkeys(["ELU value,2\n", "", "\udcff"], "its first line must be row,points"),
}


@pytest.mark.parametrize(("text", "says"), WEIGHTS.items())
def test_unusable_weights_are_usage_errors(tmp_path, text, says):
    (tmp_path / "weights.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=says):
        feedback.read_weights(tmp_path / "weights.csv")


@pytest.mark.parametrize(
    ("folder", "text", "options", "says"),
    [
        ("no_such_folder", None, [], "No such file"),
        (".", None, [], "has no submissions: found no file"),
        ("..", "name,grade\nann,7\n", [], "has other columns"),
        ("..", "\udcff", [], "is not a file of grades"),
        ("..", "x" * 200_000, [], "is not a file of grades"),
        ("..", None, ["--seed", "-1"], "--seed must be 0 or more"),
        ("..", None, ["--regrade", "eve"], "there is no such submission"),
        ("..", None, ["--reports", "same", "--gradescope", "same"], "need two folders"),
    ],
)
def test_unusable_files_are_usage_errors(tmp_path, capsys, folder, text, options, says):
    grades = tmp_path / "inner" / "grades.csv"
    grades.parent.mkdir()
    if text is not None:
        grades.write_text(text, errors="surrogateescape")
    before = listing(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        grade.main([str(grades.parent / folder), str(grades), *options, *ANYHOW])
    assert says in capsys.readouterr().err and listing(tmp_path) == before
