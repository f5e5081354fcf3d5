"""The command for one submission: pytest tests --submission=DIR."""

import json
import math
import os
import subprocess
import sys

import pytest
from common import HANG, ROOT
from mutants import wrong

from grading import runner
from grading.checks import ROWS
from grading.folder import printable
from grading.helpers import RIGHT, failed, listing, mutant, run_row, write


def pytest_run(*arguments, cwd=ROOT):
    """The command that a grader types. Returns the finished process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )


def with_traps(folder, sources):
    """A submission among files that give themselves away when they are run."""
    trap = f"open({str(folder.parent / 'sprung')!r}, 'w').close()\nraise SystemExit('sprung')\n"
    traps = ("conftest.py", "test_submission.py", "test_own.py", "sitecustomize.py", "numpy.py")
    traps += ("json.py", "setup.py", "__init__.py", "cifar10_utils.py", "pytest.py")
    write(folder, sources | dict.fromkeys(traps, trap))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only -p no_such_plugin\n")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--version'\n")
    return folder


def test_nothing_else_of_a_submission_is_run_and_remarks_leave_exit_status_0(tmp_path):
    folder = with_traps(tmp_path / "submission", RIGHT)
    files = ["--report", folder / "report.json", "--gradescope", folder / "results.json"]
    for path in files[1::2]:
        path.touch()
    before = set(listing(folder))
    process = pytest_run(ROOT / "tests", "--submission", folder, *files, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{len(ROWS)} passed" in process.stdout
    assert "numerically stable      remark" in process.stdout
    assert not (tmp_path / "sprung").exists() and set(listing(folder)) == before


def test_failing_submission_gets_a_table_reports_and_exit_status_1(tmp_path):
    wrong_rows = {"bias gradient", "network gradient"}
    with_traps(tmp_path / "real", wrong.sources(mutant("bias gradient averaged")))
    folder = tmp_path / "sub\x1b[31mred"  # the grader's own link is followed
    folder.symlink_to(tmp_path / "real")
    files = ["--report", tmp_path / "report.json", "--gradescope", tmp_path / "results.json"]
    (tmp_path / "weights.csv").write_text("row,points\nbias gradient,4\n")
    files += ["--weights", tmp_path / "weights.csv"]
    process = pytest_run("tests", f"--submission={folder}", *files, "--seed=5", "--color=no")
    assert process.returncode == 1 and not (tmp_path / "sprung").exists()
    assert "bias gradient           FAILED" in process.stdout
    assert "the bias gradient is 1/S of the right one: averaged" in process.stdout
    assert f"collected {len(ROWS)} items" in process.stdout and "seed 5" in process.stdout

    report = json.loads((tmp_path / "report.json").read_text())
    assert failed(report) == wrong_rows
    assert (report["submission"], report["passed"], report["seed"]) == (printable(folder), False, 5)

    results = json.loads((tmp_path / "results.json").read_text())
    assert [test["name"] for test in results["tests"]] == [row.name for row in ROWS]
    not_passed = [test for test in results["tests"] if test["status"] != "passed"]
    assert {test["name"] for test in not_passed} == wrong_rows
    assert all(test["status"] == "failed" and test["output"] for test in not_passed)
    # The network's gradient is wrong only because of the bias, which is charged once.
    assert "18 of 22 points" in results["output"] and "18 of 22 points" in process.stdout
    # The folder's name has an escape sequence, which reaches neither terminal nor files.
    for text in (process.stdout, process.stderr, *(file.read_text() for file in files[1:4:2])):
        assert all(c.isprintable() or c == "\n" for c in text) and "\\u001b" not in text


def test_same_seed_gives_the_same_numbers_and_another_one_others(tmp_path):
    sources = wrong.sources(mutant("bias gradient averaged"))
    five, again, six = (run_row("bias gradient", sources, seed=n)["got"] for n in (5, 5, 6))
    assert five == again != six
    assert runner.grade(tmp_path)["seed"] != runner.grade(tmp_path)["seed"]


def test_pytest_may_run_in_a_thread():
    """Where signals cannot be set."""
    call = "pytest.main(['tests/grading/test_submission.py', '--collect-only'])"
    code = f"import pytest, threading\nthreading.Thread(target=lambda: print(int({call}))).start()"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert process.stdout.endswith("\n0\n"), process.stdout + process.stderr


@pytest.mark.parametrize(
    "option", ["--submission=no/such/folder", "--report", "--weights", "--seed=-1"]
)
def test_unusable_option_is_a_usage_error(option):
    given = [] if "=" in option else ["--submission=.", "no/such/folder/report.json"]
    process = pytest_run("tests", option, *given[::-1])
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    says = "must be 0 or more" if "seed" in option else "o such f"
    assert says in process.stderr and "Traceback" not in process.stderr


def test_not_finite_numbers_are_written_as_valid_json(tmp_path):
    runner.save_json({"got": math.nan, "expected": -math.inf}, tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {"got": "nan", "expected": "-inf"}
