"""A submission that misbehaves gets a complete report in time, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mutants import wrong

from grading import process, runner
from grading.diagnosis import Failure
from grading.helpers import (
    CAN_FAIL,
    RIGHT,
    WAYS,
    both_ways,
    diagnosis,
    failed,
    failure_of_act,
    grade,
    listing,
    mutant,
    needs_bwrap,
    on_top,
    run_rows,
    with_elu,
    write,
)
from grading.worker import LENGTHS

ROOT = Path(__file__).parents[2]
ELU_ROWS = {"ELU value", "ELU gradient", "network output", "network gradient"}
NETWORK_ROWS = {"network output", "network gradient", "initialisation trains"}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def processes_like(mark):
    """The processes with that word among their arguments or in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in text:
            found.append(path.name)
    return found


# Right, with bad habits

MARK = f"mark{os.getpid()}"
HABITS = f"""
import atexit, os, signal, subprocess, sys, threading, time, warnings
import numpy
import utils
from tools.shapes import SIZE

assert utils.ONE == SIZE == 1

import torch, jax.numpy as jnp, tensorflow as tf
import torch.nn.functional as F
from torch import nn
from autograd import grad, numpy as anp

class Net(nn.Module):
    dtype = torch.float32
    def forward(self, x: torch.Tensor | None = None):
        return isinstance(x, torch.Tensor)

assert not Net().forward(1)

for stream in (sys.stdout, sys.stderr):
    stream.write("forged\\n" * 100_000)
numpy.seterr(all="raise")
numpy.random.seed(0)
warnings.simplefilter("error")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
atexit.register(time.sleep, 60)

here = os.path.dirname(os.path.abspath(__file__))
for name in os.listdir("."):
    if os.path.isfile(name):
        os.remove(name)
for folder in (".", here, os.path.expanduser("~")):
    open(os.path.join(folder, "written.txt"), "w").close()
os.makedirs("deep/deeper")
os.chmod("deep", 0)
os.chdir("/")

sleep = [sys.executable, "-c", "import time; time.sleep(60)", {MARK!r}]
subprocess.Popen(sleep)
subprocess.Popen(["sleep", "60"], env={{"MARK": {MARK!r}}})
if os.fork() == 0:
    os.setsid()
    subprocess.Popen(sleep, start_new_session=True)
    os._exit(0)
if os.fork() == 0:
    time.sleep(60)
for _ in range(9):
    threading.Thread(target=time.sleep, args=(60,)).start()
time.sleep(0.1)
"""
BESIDE = {
    "utils.py": "ONE = 1\n",
    "tools/__init__.py": "",
    "tools/shapes.py": "from utils import ONE as SIZE\n",
}


@pytest.fixture(scope="module", params=WAYS)
def habits(request, tmp_path_factory):
    """The report on a right submission with every bad habit, and what it left behind."""
    folder = write(tmp_path_factory.mktemp("habits") / "submission", on_top(HABITS) | BESIDE)
    before = listing(folder.parent)
    report = runner.grade(folder, sandbox=request.param)
    return report, listing(folder.parent) == before, processes_like(MARK)


def test_right_version_with_bad_habits_passes(habits):
    report, _, _ = habits
    assert {row["diagnosis"] for row in report["rows"]} == {None}
    assert report["seconds"] < 10


def test_unused_imports_of_other_packages_are_a_remark(habits):
    (row,) = (row for row in habits[0]["rows"] if row["row"] == "NumPy only")
    assert all(name in row["remarks"][0] for name in ("torch", "jax", "tensorflow", "autograd"))


def test_files_that_a_submission_writes_do_not_reach_its_folder(habits):
    assert habits[1]


@linux_only
def test_processes_of_a_submission_are_gone_afterwards(habits):
    assert habits[2] == []


@both_ways
def test_call_of_another_package_fails_its_row(tmp_path, sandbox):
    """Wherever it stands: in a file beside the modules too."""
    sources = on_top("import utils") | {"utils.py": "import torch\ntorch.manual_seed(1)\n"}
    report = grade(tmp_path, sources, sandbox=sandbox)
    assert failed(report) == {"NumPy only"}
    assert "torch.manual_seed" in diagnosis(report, "NumPy only")


# Wrong, and out to change the verdict

PATCHES = """
import gc, os, sys
import numpy as np

assert not any("expected" in str(type(thing)) for thing in gc.get_objects())
for name in list(sys.modules):
    if "grading" in name or "checks" in name:
        sys.modules[name].run = dict
np.all = np.allclose = np.array_equal = np.isclose = lambda *a, **k: True
np.any = lambda *a, **k: False
np.max = np.abs = lambda *a, **k: 0.0
os.write = lambda *a: 0
"""


@both_ways
def test_no_patch_changes_a_verdict(tmp_path, sandbox):
    bad = mutant("bias gradient averaged")
    report = grade(tmp_path, on_top(PATCHES, wrong.sources(bad)), sandbox=sandbox)
    assert "1/S" in diagnosis(report, "bias gradient") and failed(report) >= bad.fails


def message(text, data=b""):
    return LENGTHS.pack(len(text), len(data)) + text + data


FRAMES = {
    "the next answers": b"".join(message(b'{"number": %d, "arrays": []}' % i) for i in range(9)),
    "an endless length": b"\xff" * 64,
    "nested lists": message(b"[" * 50_000),
    "no dict": message(b"[]"),
    "no number": message(b'{"arrays": []}'),
}


@both_ways
@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_forged_messages_fail_every_row(tmp_path, data, sandbox):
    code = (
        "import os\n"
        "for descriptor in range(64):\n"
        f"    try: os.write(descriptor, {data!r})\n"
        "    except OSError: pass"
    )
    report = grade(tmp_path, on_top(code), sandbox=sandbox, import_limit=5)
    assert failed(report) == CAN_FAIL
    assert report["seconds"] < 10


def errors_of(code, sandbox, **limits):
    """What goes wrong when modules.py begins with that code, in one sentence or none."""
    with runner.in_child(on_top(code), sandbox=sandbox, **limits) as submission:
        return list(submission.errors.values())


@needs_bwrap
def test_sandbox_hides_this_project_and_the_network(tmp_path):
    """And other processes, and everything else that is nobody's business."""
    secret = tmp_path / "secret.txt"
    secret.write_text("expected")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import os, socket\n"
            f"for path in ({str(ROOT / 'modules.py')!r}, {str(secret)!r}, '/etc/passwd'):\n"
            "    assert not os.path.exists(path), path\n"
            "for name in filter(str.isdigit, os.listdir('/proc')):\n"
            "    command = open(f'/proc/{name}/cmdline').read()\n"
            "    assert 'worker.py' in command or 'bwrap' in command, command\n"
            "for path in ('/', '/usr', os.path.dirname(os.__file__), '/dev'):\n"
            "    try: open(os.path.join(path, 'written'), 'w')\n"
            "    except OSError: pass\n"
            "    else: raise AssertionError(path)\n"
            "try: os.kill(os.getppid(), 9)\n"
            "except OSError: pass\n"
            f"try: socket.create_connection({server.getsockname()!r}, timeout=1)\n"
            "except OSError: pass\n"
            "else: raise AssertionError('network')\n"
        )
        assert errors_of(code, sandbox=True) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_submission_has_none_of_roots_rights(tmp_path):
    code = (
        "import os\n"
        "assert 0 not in os.getresuid() + os.getresgid() and not os.getgroups()\n"
        "for action in (lambda: os.kill(os.getppid(), 9), lambda: os.setuid(0),\n"
        f"               lambda: open({str(tmp_path / 'written')!r}, 'w')):\n"
        "    try: action()\n"
        "    except PermissionError: pass\n"
        "    else: raise AssertionError\n"
    )
    assert errors_of(code, sandbox=False) == []


def test_right_version_takes_less_than_three_seconds_and_the_table_says_where_it_ran(tmp_path):
    report = grade(tmp_path, RIGHT, seed=7)
    place = "in a sandbox (bwrap)" if process.sandbox_starts() else "no sandbox"
    assert runner.table(report)[1].startswith(place) and "seed 7" in runner.table(report)[1]
    assert report["seconds"] < 3


# Files that do not import


def test_modules_that_raise_say_what():
    with runner.in_child(RIGHT) as submission:
        for code, says in (
            ("def broken(:", "SyntaxError"),
            ("import no_such_package", "No module named 'no_such_package'"),
            ("raise SystemExit(0)", "raised SystemExit"),
            ("input('name? ')", "EOFError"),
            ("x = 1 / 0", "division by zero (modules.py, line 1)"),
            ("raise BaseException", "raised BaseException"),
            ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "raised E"),
        ):
            text = np.frombuffer(code.encode(), np.uint8)
            with pytest.raises(Failure, match="importing modules.py") as failure:
                submission.ask("importing", "load", [text], name="modules")
            assert says in failure.value.sentence


@both_ways
@pytest.mark.parametrize(
    ("code", "says", "limit"),
    [
        ("import os; os._exit(0)", "ends the Python process", 20),
        ("while True: pass", "takes more than 0.6 s", 0.6),
    ],
)
def test_modules_that_hang_or_end_the_process_say_so(code, says, limit, sandbox):
    (sentence,) = errors_of(code, sandbox, import_limit=limit)
    assert says in sentence


def test_mlp_that_ends_the_process_fails_its_own_rows(tmp_path):
    report = grade(tmp_path, RIGHT | {"mlp_numpy.py": "import os; os._exit(0)"})
    assert failed(report) == NETWORK_ROWS
    says = "importing mlp_numpy.py ends the Python process"
    assert diagnosis(report, "network output") == says


def test_missing_class_fails_its_own_rows():
    modules = RIGHT["modules.py"].replace("class SoftMaxModule", "class Softmax")
    rows = run_rows({"modules.py": modules, "mlp_numpy.py": ""})
    assert failed(rows) == {"softmax value", "softmax gradient"} | NETWORK_ROWS
    assert rows["softmax value"]["diagnosis"] == "modules.py has no class SoftMaxModule"


def test_submission_of_another_year_is_told_the_truth():
    """With a leaky ReLU, whose slope must not be filled with 1 and give the identity."""
    leaky = "class LeakyReLUModule:\n    def __init__(self, neg_slope): pass\n\n"
    sources = dict(RIGHT)
    for name in sources:
        for old, new in (
            ("class ELUModule:\n", leaky),
            ("ELUModule()", "LeakyReLUModule(neg_slope)"),
            ("n_classes):", "n_classes, neg_slope):"),
            ("import ELUModule", "import LeakyReLUModule"),
        ):
            sources[name] = sources[name].replace(old, new)
    rows = run_rows(sources)
    assert {rows[name]["diagnosis"] for name in ELU_ROWS} == {"modules.py has no class ELUModule"}
    assert failed(rows) == ELU_ROWS | NETWORK_ROWS


# Calls that go wrong

RAISES = {
    "raise SystemExit(0)": "raised SystemExit",
    "raise KeyboardInterrupt": "raised KeyboardInterrupt",
    "return self.forward(x)": "RecursionError",
    "return [0] * 10**10": "MemoryError",
    "open('big', 'wb').truncate(10**9)": "File too large",
    "return 'eleven'": "not real numbers",
    "return None": "None",
    "return np.zeros(10**7)": "gives an array of the shape (10000000,)",
    "raise ValueError('\\x1b[31m' + 'x' * 10**6)": "?[31mxxx",
}


@both_ways
def test_calls_that_raise_or_return_no_numbers_say_so(sandbox):
    with runner.in_child(with_elu(*RAISES), sandbox=sandbox) as submission:
        for number, says in enumerate(RAISES.values()):
            assert says in failure_of_act(submission, number)
        assert submission.generation == 1  # one process has done all of that


HANGS = {
    "a loop that deals with signals": "import signal\n"
    "for s in (1, 2, 14, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "a stopped process": "import os; os.kill(os.getpid(), 19)",
    "endless fork": "import os\n"
    "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
}
FULL_DISK = (  # in a folder that is passed over where a submission is looked for
    "import os; os.makedirs('venv', exist_ok=True); i = 0\n"
    "while True:\n    open(f'venv/{i}', 'wb').write(bytes(10**7)); i += 1"
)


def expect_act(code, says, sandbox, limit=None):
    """Fails the call that says so, and the next process works."""
    with runner.in_child(with_elu(code), sandbox=sandbox) as submission:
        assert says in failure_of_act(submission, limit=limit)
        assert submission.softmax().forward(np.ones((1, 2))).shape == (1, 2)


@both_ways
@pytest.mark.parametrize("code", HANGS.values(), ids=HANGS)
def test_call_that_hangs_is_ended(code, sandbox):
    expect_act(code, "ELUModule.forward takes more than 0.3 s", sandbox, 0.3)


@both_ways
def test_call_that_fills_the_disk_is_ended(sandbox):
    expect_act(FULL_DISK, "No space" if sandbox else "more than 64 MiB", sandbox, 20)


def test_memory_of_all_processes_together_is_limited(monkeypatch):
    monkeypatch.setattr(process, "MEMORY", 1 << 20)
    expect_act("import time; time.sleep(60)", "GiB of memory", None, 10)


@both_ways
def test_everything_that_hangs_is_over_in_time(tmp_path, sandbox):
    """The rows after the limit of all say why they were not checked."""
    sleep = "(self, x):\n        __import__('time').sleep(60)\n"
    sources = RIGHT | {"modules.py": RIGHT["modules.py"].replace("(self, x):\n", sleep)}
    report = grade(tmp_path, sources, sandbox=sandbox, call_limit=1, all_limit=1.5)
    assert failed(report) and report["seconds"] < 6
    assert any("too long in all" in (row["diagnosis"] or "") for row in report["rows"])


# A grader that is killed

GRADER = """
import sys, tempfile
tests, folder, sandbox = sys.argv[1:]
sys.path.insert(0, tests)
from grading import process, runner
tempfile.tempdir = folder  # where a killed grader leaves a folder
start = process.Child.__init__
def say_number(child, *arguments):
    start(child, *arguments)
    print(child.process.pid, flush=True)
process.Child.__init__ = say_number
runner.grade(folder, sandbox=sandbox == "True", call_limit=60)
"""


@both_ways
@linux_only
def test_submission_ends_with_a_grader_that_is_killed(tmp_path, sandbox):
    write(tmp_path, with_elu("import time; time.sleep(60)"))
    command = [sys.executable, "-c", GRADER, str(ROOT / "tests"), str(tmp_path), str(sandbox)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as grader:
        child = Path("/proc", grader.stdout.readline().strip())
        time.sleep(0.5)
        assert runs(child)
        grader.kill()
    until = time.monotonic() + 5
    while runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(child)


def runs(path):
    """Whether a process is there, given its folder in /proc, and no zombie."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
