"""A submission that misbehaves gets a complete report, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grading import runner
from grading.checks import ROWS
from mutants import wrong

ROOT = Path(__file__).parent.parent
RIGHT = wrong.right_sources("textbook")
FORWARD = "    def forward(self, x):\n        self.x = x\n        out = np.where"
NETWORK_ROWS = {"network output", "network gradient", "initialisation trains"}
ELU_ROWS = {"ELU value", "ELU gradient"}


def write(folder, sources):
    folder.mkdir(exist_ok=True)
    for name, text in sources.items():
        (folder / name).write_text(text)
    return folder


def grade(folder, modules=RIGHT["modules.py"], mlp=RIGHT["mlp_numpy.py"], **options):
    return runner.grade(write(folder, {"modules.py": modules, "mlp_numpy.py": mlp}), **options)


def failed(report):
    assert [row["row"] for row in report["rows"]] == [row.name for row in ROWS]
    return {row["row"] for row in report["rows"] if not row["passed"]}


def diagnosis(report, name):
    return next(row for row in report["rows"] if row["row"] == name)["diagnosis"]


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    "code",
    [
        "print('forged\\n' * 100_000)",
        "import sys; sys.stderr.write('forged\\n' * 100_000)",
        "import numpy; numpy.seterr(all='raise')",
        "import numpy; numpy.random.seed(0); numpy.set_printoptions(precision=1)",
        "import warnings; warnings.simplefilter('error')",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "import atexit, time; atexit.register(time.sleep, 60)",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        "import subprocess; subprocess.Popen(['sleep', '60'])",
        "import os; os.chdir('/')",
    ],
)
def test_right_version_with_a_bad_habit_passes(tmp_path, code):
    start = time.monotonic()
    assert failed(grade(tmp_path, modules=f"{code}\n{RIGHT['modules.py']}")) == set()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def broken(:", "SyntaxError"),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("raise SystemExit(0)", "raised SystemExit"),
        ("import sys; sys.exit(0)", "raised SystemExit"),
        ("import os; os._exit(0)", "ends the Python process"),
        ("input('name? ')", "EOFError"),
        ("while True: pass", "takes more than 0.4"),
        ("import time; time.sleep(60)", "takes more than 0.4"),
        ("x = 1 / 0", "division by zero (modules.py, line 1)"),
        ("raise BaseException", "raised BaseException"),
    ],
)
def test_modules_that_do_not_import_fail_every_row(tmp_path, code, says):
    report = grade(tmp_path, modules=f"{code}\n{RIGHT['modules.py']}", time_limit=0.4)
    assert failed(report) == {row.name for row in ROWS if row.kind != "efficiency"}
    assert all(says in row["diagnosis"] for row in report["rows"])
    assert report["seconds"] < 10


def test_mlp_that_does_not_import_fails_its_own_rows(tmp_path):
    report = grade(tmp_path, mlp="import no_such_package")
    assert failed(report) == NETWORK_ROWS
    assert "no_such_package" in diagnosis(report, "network output")


def test_missing_mlp_fails_its_own_rows(tmp_path):
    write(tmp_path, {"modules.py": RIGHT["modules.py"]})
    report = runner.grade(tmp_path)
    assert failed(report) == NETWORK_ROWS
    assert diagnosis(report, "network output") == "there is no mlp_numpy.py"


def test_empty_folder_fails_every_row(tmp_path):
    report = runner.grade(tmp_path)
    assert failed(report) == {row.name for row in ROWS if row.kind != "efficiency"}
    assert diagnosis(report, "shapes") == "there is no modules.py"


def test_missing_class_fails_its_own_rows(tmp_path):
    modules = RIGHT["modules.py"].replace("class SoftMaxModule", "class Softmax")
    report = grade(tmp_path, modules=modules, mlp="")
    assert failed(report) == {"softmax value", "softmax gradient"} | NETWORK_ROWS
    assert diagnosis(report, "softmax value") == "modules.py has no class SoftMaxModule"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("while True: pass", "takes more than 0.4 s"),
        ("__import__('time').sleep(60)", "takes more than 0.4 s"),
        ("__import__('os')._exit(0)", "ends the Python process"),
        ("__import__('os').kill(__import__('os').getpid(), 9)", "ends the Python process"),
        ("raise SystemExit(0)", "raised SystemExit"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("return self.forward(x)", "RecursionError"),
        ("return [0] * 10**10", "MemoryError"),
        ("open('big', 'wb').truncate(10**9)", "File too large"),
        ("return 'eleven'", "not real numbers"),
        ("return None", "None"),
        ("raise ValueError('\\x1b[31m' + 'x' * 10**6)", "?[31mxxx"),
    ],
)
def test_elu_that_misbehaves_fails_its_own_rows(tmp_path, code, says):
    modules = RIGHT["modules.py"].replace(FORWARD, f"    def forward(self, x):\n        {code}\n")
    modules = modules.replace("(x >= 0, x, np.exp(np.minimum(x, 0)) - 1)", "")
    write(tmp_path, {"modules.py": modules, "mlp_numpy.py": RIGHT["mlp_numpy.py"]})
    report = runner.grade(tmp_path, time_limit=0.4)
    for name in ("ELU value", "ELU gradient"):
        assert says in diagnosis(report, name)
        assert len(diagnosis(report, name)) < 400
    assert failed(report) == {"ELU value", "ELU gradient", "network output", "network gradient"}


def test_endless_loop_that_catches_everything_is_killed(tmp_path):
    loop = (
        "    def backward(self, dout):\n        while True:\n            try:\n"
        "                import time; time.sleep(60)\n            except BaseException: pass\n\n"
    )
    modules = RIGHT["modules.py"].replace("class SoftMaxModule:\n", f"class SoftMaxModule:\n{loop}")
    modules = modules.replace(
        "def backward(self, dout):\n        total", "def old(self, dout):\n        total"
    )
    start = time.monotonic()
    report = grade(tmp_path, modules=modules, time_limit=0.4)
    assert "hangs" in diagnosis(report, "softmax gradient")
    assert "linear forward" not in failed(report) and "softmax value" not in failed(report)
    assert time.monotonic() - start < 60


def test_files_that_a_submission_writes_do_not_reach_its_folder(tmp_path):
    folder = write(tmp_path / "submission", RIGHT)
    code = (
        "import os\n"
        "here = os.path.dirname(os.path.abspath(__file__))\n"
        "for folder in ('.', here, os.path.expanduser('~')):\n"
        "    open(os.path.join(folder, 'written.txt'), 'w').close()\n"
    )
    (folder / "modules.py").write_text(code + RIGHT["modules.py"])
    before = listing(tmp_path)
    assert failed(runner.grade(folder)) == set()
    assert listing(tmp_path) == before


def test_only_the_two_modules_are_importable(tmp_path):
    folder = write(tmp_path, RIGHT | {"helper.py": "VALUE = 1\n"})
    (folder / "modules.py").write_text("import helper\n" + RIGHT["modules.py"])
    report = runner.grade(folder)
    assert "No module named 'helper'" in diagnosis(report, "linear forward")


def pytest_run(*arguments, cwd=ROOT):
    """The command that a grader types. Returns the finished process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def hostile(tmp_path):
    """A right submission among files that give themselves away when they are run."""
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nraise SystemExit('sprung')\n"
    folder = write(tmp_path / "submission", RIGHT)
    traps = ("conftest.py", "test_grading.py", "test_own.py", "sitecustomize.py", "numpy.py")
    traps += ("json.py", "setup.py", "__init__.py", "cifar10_utils.py", "pytest.py")
    write(folder, dict.fromkeys(traps, trap))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only -p no_such_plugin\n")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--version'\n")
    return folder


@pytest.mark.parametrize(("spelling", "where"), [("=", ROOT), (" ", None)])
def test_nothing_else_of_a_submission_is_run(hostile, spelling, where):
    before = listing(hostile)
    option = [f"--submission={hostile}"] if spelling == "=" else ["--submission", hostile]
    report = hostile / "report.json"
    for _ in range(2):  # the report is there already the second time
        process = pytest_run(
            ROOT / "tests", *option, "--report", report, cwd=where or hostile.parent
        )
        assert process.returncode == 0, process.stdout + process.stderr
        assert "19 passed" in process.stdout
    assert not (hostile.parent / "sprung").exists()
    report.unlink()
    after = listing(hostile)
    after[hostile] = before.get(hostile)
    before[hostile] = before.get(hostile)
    assert after == before


def test_failing_submission_gets_a_table_a_report_and_exit_status_1(tmp_path):
    mutant = next(m for m in wrong.WRONG if m.name == "bias gradient averaged")
    folder = write(tmp_path / "submission", wrong.sources(mutant))
    process = pytest_run("tests", f"--submission={folder}", "--report", tmp_path / "report.json")
    assert process.returncode == 1
    assert "bias gradient           FAILED" in process.stdout
    assert "the bias gradient is 1/S of the right one: averaged" in process.stdout
    assert "collected 19 items" in process.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert failed(report) == mutant.fails
    row = next(row for row in report["rows"] if row["row"] == "bias gradient")
    assert row["got"] == pytest.approx(row["expected"] / 5)
    assert report["submission"] == str(folder) and report["passed"] is False


def test_remarks_alone_leave_exit_status_0(tmp_path):
    folder = write(tmp_path / "submission", wrong.right_sources("loops"))
    process = pytest_run("tests", f"--submission={folder}")
    assert process.returncode == 0
    assert "no loops over samples   remark" in process.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--submission=no/such/folder"], ["--submission=.", "--report", "no/such/folder/report.json"]],
)
def test_unusable_folder_is_a_usage_error(arguments):
    process = pytest_run("tests", *arguments)
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no such folder" in process.stderr


def test_not_finite_numbers_are_written_as_valid_json(tmp_path):
    mutant = next(m for m in wrong.WRONG if m.name == "no maximum subtracted")
    report = runner.grade(write(tmp_path, wrong.sources(mutant)))
    runner.save_json(report, tmp_path / "report.json")

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    rows = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)["rows"]
    assert [row["got"] for row in rows if row["row"] == "numerically stable"] == ["nan"]


def test_grading_takes_less_than_ten_seconds(tmp_path):
    assert grade(tmp_path)["seconds"] < 10
