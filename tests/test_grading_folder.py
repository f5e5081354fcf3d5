"""One command grades a folder of submissions into one CSV."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from grading.checks import ROWS
from mutants import wrong

SCRIPT = Path(__file__).with_name("grade.py")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-B", SCRIPT, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def submissions(tmp_path):
    mutant = next(m for m in wrong.WRONG if m.name == "bias gradient averaged")
    folders = {
        "ann": wrong.right_sources("textbook"),
        "bob/unpacked/assignment_1": wrong.sources(mutant),
        "eve": {"modules.py": "import os; os._exit(0)"},
        "zoe": {},
    }
    for name, sources in folders.items():
        folder = tmp_path / "submissions" / name
        folder.mkdir(parents=True)
        for file, text in sources.items():
            (folder / file).write_text(text)
    return tmp_path / "submissions"


def test_every_submission_gets_a_line(submissions, tmp_path):
    before = sorted(submissions.rglob("*"))
    process = run(submissions, tmp_path / "grades.csv", "--reports", tmp_path / "reports")
    assert process.returncode == 0, process.stderr
    with open(tmp_path / "grades.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["submission"] for line in lines] == ["ann", "bob", "eve", "zoe"]
    assert [line["passed"] for line in lines] == ["yes", "no", "no", "no"]
    assert lines[0]["stale caches"] == "remark"
    assert lines[1]["bias gradient"] == lines[1]["network gradient"] == "failed"
    assert lines[1]["weight gradient"] == "passed" and lines[1]["failed rows"] == "2"
    failing = [row.name for row in ROWS if row.kind != "efficiency"]
    assert all(line[name] == "failed" for line in lines[2:] for name in failing)
    assert "averaged" in (tmp_path / "reports" / "bob.txt").read_text()
    assert json.loads((tmp_path / "reports" / "ann.json").read_text())["passed"] is True
    assert sorted(submissions.rglob("*")) == before


@pytest.mark.parametrize("folder", ["no_such_folder", "."])
def test_folder_without_submissions_is_a_usage_error(tmp_path, folder):
    process = run(tmp_path / folder, tmp_path / "grades.csv")
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
