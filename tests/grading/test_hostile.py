"""A submission that misbehaves gets a complete report in time, and leaves nothing behind."""

import contextlib
import functools
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from common import ROOT, wait_for
from mutants import wrong

from grading import checks, process, runner
from grading.diagnosis import NotGraded
from grading.helpers import (
    CAN_FAIL,
    RIGHT,
    both_ways,
    failed,
    failure_of_act,
    listing,
    mutant,
    needs_bwrap,
    on_top,
    run_row,
    run_rows,
    with_elu,
    write,
)
from grading.submission import Lost
from grading.worker import LENGTHS

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")


def processes_like(mark):
    """The processes with that word as their name, among their arguments or in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            texts = [(path / name).read_bytes() for name in ("cmdline", "environ", "comm")]
            if texts[0] and mark.encode() in b"".join(texts):  # a zombie has no arguments
                found.append(path.name)
    return found


# Right, with bad habits

MARK = f"mark{os.getpid()}"
HABITS = f"""
import atexit, os, signal, subprocess, sys, threading, time, warnings
import numpy
from tools.shapes import SIZE

import torch, jax.numpy as jnp, tensorflow as tf
import torch.nn.functional as F
from torch import nn
from autograd import grad, numpy as anp

class Net(nn.Module):
    dtype = torch.float32
    def forward(self, x: torch.Tensor | None = None):
        return isinstance(x, torch.Tensor)

assert SIZE == 1 and not Net().forward(1)

for stream in (sys.stdout, sys.stderr):
    stream.write("forged\\n" * 100_000)
numpy.seterr(all="raise")
numpy.random.seed(0)
warnings.simplefilter("error")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
atexit.register(time.sleep, 60)

here = os.path.dirname(os.path.abspath(__file__))
for folder in (".", here, os.path.expanduser("~")):
    open(os.path.join(folder, "written.txt"), "w").close()
os.makedirs("deep/deeper")
os.chmod("deep", 0)

for new_session in (False, True):
    if os.fork() == 0:
        if new_session:
            os.setsid()
        subprocess.Popen(["sleep", "600"], env={{"MARK": {MARK!r}}}, start_new_session=new_session)
        time.sleep(600)
for _ in range(9):
    threading.Thread(target=time.sleep, args=(600,)).start()
"""
LATE = "\n\ndef late():\n    from mlp_numpy import MLP\n    return MLP\n"
ITSELF = """
import argparse, importlib.util, inspect, os
import modules
argparse.ArgumentParser().parse_args()
assert modules.late() is MLP
assert "def backward" in inspect.getsource(modules.ELUModule)
assert importlib.reload(modules) is modules
spec = importlib.util.spec_from_file_location("again", modules.__file__)
spec.loader.exec_module(importlib.util.module_from_spec(spec))
os.chdir("/")
"""
BAD_HABITS = {
    "modules.py": f"import utils\n{RIGHT['modules.py']}{LATE}",
    "mlp_numpy.py": RIGHT["mlp_numpy.py"] + ITSELF,
    "utils.py": HABITS,
    "tools/__init__.py": "",
    "tools/shapes.py": "SIZE = 1\n",
}


@both_ways
def test_right_version_with_bad_habits_passes_and_leaves_nothing(tmp_path, sandbox):
    folder = write(tmp_path / "submission", BAD_HABITS)
    before = listing(tmp_path)
    report = runner.grade(folder, 7, sandbox)
    assert {row["diagnosis"] for row in report["rows"]} == {None}
    (row,) = (row for row in report["rows"] if row["row"] == "NumPy only")
    assert all(name in row["remarks"][0] for name in ("torch", "jax", "tensorflow", "autograd"))
    assert listing(tmp_path) == before
    assert processes_like(MARK) == []
    head = runner.table(report)[1]
    assert head.startswith("in a sandbox" if sandbox else "no sandbox") and "seed 7" in head


def test_memory_that_was_never_set_shows():
    """Fresh memory is often zero, or what was right a moment ago."""
    fresh = RIGHT["modules.py"].replace(wrong.INIT, "np.empty((out_features, in_features))")
    row = run_row("initialisation trains", RIGHT | {"modules.py": fresh}, start=runner.in_child)
    assert "not finite" in row["diagnosis"]


# Wrong, and out to change the verdict

LIES = """
import gc, types
import numpy as np

functions = [
    f for f in gc.get_objects()
    if type(f) is types.FunctionType and "worker" in f.__code__.co_filename
]
for f in functions:
    if f.__name__ == "as_array":  # what is sent is float64, and nothing that was kept has changed
        f.__code__ = (lambda what, value: __import__("numpy").array(value, "f8")).__code__
    if f.__name__ == "kept":
        f.__code__ = (lambda self, arrays, id: ((), [])).__code__
for name in ("allclose", "array_equal", "isclose"):
    setattr(np, name, lambda *args, **kwargs: True)
"""


@both_ways
def test_no_patch_changes_a_verdict(tmp_path, sandbox):
    """Mistakes in several modules, in values, signs and precision."""
    bad = [mutant(n) for n in ("bias gradient averaged", "loss without minus", "ELU float32")]
    changes = [piece for one in bad for piece in one.changes]
    sources = wrong.sources(wrong.wrong("all of them", set(), "", *changes))
    rows = set().union(*(one.rows for one in bad))
    assert failed(runner.grade(write(tmp_path, on_top(LIES, sources)), sandbox=sandbox)) == rows


def message(text, data=b""):
    return LENGTHS.pack(len(text), len(data)) + text + data


FRAMES = {
    "the next answers": b"".join(message(b"%d\n0\nanswer" % i) for i in range(9)),
    "an endless length": b"\xff" * 64,
    "endless numbers": message(b"9" * 50_000),
}


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_forged_messages_fail_every_row(tmp_path, data):
    code = (
        "import os\n"
        "for descriptor in range(64):\n"
        f"    try: os.write(descriptor, {data!r})\n"
        "    except OSError: pass"
    )
    assert failed(runner.grade(write(tmp_path, on_top(code)))) == CAN_FAIL


def test_parameters_that_grow_later_do_not_reach_the_checks():
    grow = "\n        self.params = Grows(self.params)\n        self.grads = {"
    modules = RIGHT["modules.py"].replace("\n        self.grads = {", grow, 1)
    code = (
        "class Grows(dict):\n"
        "    def __getitem__(self, key):\n"
        "        import sys\n"
        "        reads = sys._getframe(1).f_code.co_name == 'read'\n"
        "        huge = __import__('numpy').zeros((60_000, 9))\n"
        "        return huge if reads else dict.__getitem__(self, key)"
    )
    sources = on_top(code, RIGHT | {"modules.py": modules})
    row = run_row("initialisation trains", sources)
    assert "more arrays than can be sent" in row["diagnosis"]
    assert "(60000, 9)" in run_row("linear forward", sources)["diagnosis"]


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


@both_ways
@linux_only
@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="other numbers")
def test_no_user_namespace_no_session_and_no_memory_that_nobody_has(sandbox):
    """Such memory counts for no process, or stays when all have ended. A session gets as much of
    the processor as the grader's."""
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "stack = ctypes.create_string_buffer(1 << 16)\n"
        "end = ctypes.cast(ctypes.addressof(stack) + 65536, ctypes.c_void_p)\n"
        "child = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)\n"
        "for name, *arguments in (('unshare', 0x10000000), ('shmget', 0, 4096, 0o1600),\n"
        "                         ('memfd_create', b'x', 0),\n"
        "                         ('clone', child, end, 0x10000000 | 17, None)):\n"
        "    assert getattr(libc, name)(*arguments) == -1, name\n"
        "session = os.getsid(0)\n"
        "if (pid := os.fork()) == 0:\n"
        "    os.setsid()\n"
        "    os._exit(os.getsid(0) != session)\n"
        "assert os.waitpid(pid, 0)[1] == 0, 'a session of its own'\n"
    )
    assert errors_of(code, sandbox) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_submission_has_none_of_roots_rights(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("expected")
    secret.chmod(0o600)
    code = (
        "import os, colorsys, xml.dom.minidom, encodings.idna  # of Python, and not yet imported\n"
        "assert 0 not in os.getresuid() + os.getresgid() and not os.getgroups()\n"
        "for action in (lambda: os.kill(os.getppid(), 9), lambda: os.setuid(0),\n"
        f"               lambda: open({str(tmp_path / 'written')!r}, 'w'),\n"
        f"               lambda: open({str(secret)!r})):\n"
        "    try: action()\n"
        "    except PermissionError: pass\n"
        "    else: raise AssertionError\n"
    )
    assert errors_of(code, sandbox=False) == []


IN_A_CONTAINER = """
import ctypes, os, sys
for right in range(64):
    if right not in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31):  # what Docker leaves to root
        ctypes.CDLL(None).prctl(24, right)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@linux_only
@pytest.mark.skipif(os.geteuid() != 0, reason="of root alone")
def test_root_of_a_container_can_grade(tmp_path):
    write(tmp_path, RIGHT)
    command = [sys.executable, "-c", IN_A_CONTAINER, "-m", "pytest", ROOT / "tests"]
    result = subprocess.run([*command, f"--submission={tmp_path}"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# Files that do not import

IMPORTS = {  # of each pair, the first is modules.py, and the second mlp_numpy.py
    "def broken(:": "SyntaxError",
    "import no_such_package": "No module named 'no_such_package'",
    "x = 1 / 0": "division by zero (modules.py, line 1)",
    "input('name? ')": "EOFError",
    "raise BaseException": "raised BaseException",
    "class E(Exception):\n    def __str__(self): 1 / 0\nraise E": "raised E",
    "from mlp_numpy import MLP": "circular import",
    "from modules import ELUModule": "circular import",
}


@pytest.mark.parametrize("first", range(0, len(IMPORTS), 2))
def test_modules_that_raise_say_what(first):
    pair = list(IMPORTS.items())[first : first + 2]
    sources = dict(zip(("modules.py", "mlp_numpy.py"), dict(pair), strict=True))
    with runner.in_child(sources, sandbox=False) as submission:
        for (name, sentence), (_, says) in zip(submission.errors.items(), pair, strict=True):
            assert says in sentence and f"importing {name}.py" in sentence


def test_modules_that_hang_say_so():
    (sentence,) = errors_of("while True: pass", None, import_limit=0.6)
    assert "takes more than 0.6 s of processor time" in sentence and "train" in sentence


MLPS = {  # what there is beside modules.py
    "there is no mlp_numpy.py: found modules.py": {},
    "importing mlp_numpy.py ends the Python process": {"mlp_numpy.py": "import os; os._exit(0)"},
}


@pytest.mark.parametrize("says", MLPS)
def test_mlp_that_is_missing_or_ends_the_process_fails_its_own_rows(tmp_path, says):
    report = runner.grade(write(tmp_path, {"modules.py": RIGHT["modules.py"]} | MLPS[says]))
    said = {row["row"]: row["diagnosis"] for row in report["rows"] if not row["passed"]}
    rows = ("network output", "network gradient", "initialisation trains")
    assert said == dict.fromkeys(rows, says)


# Calls that go wrong

RAISES = {
    "raise SystemExit(0)": "raised SystemExit",
    "raise KeyboardInterrupt": "raised KeyboardInterrupt",
    "return self.forward(x)": "RecursionError",
    "return [0] * 10**10": "MemoryError",
    "open('big', 'wb').truncate(10**9)": "File too large",
    "return 'eleven'": "not real numbers",
    "return x + 1j": "ndarray of complex128, not real numbers",
    "return x, x[0]": "ELUModule.forward gives a tuple that is no array of numbers",
    "return None": "None",
    "return np.zeros(10**7)": "more arrays than can be sent",
    "return np.zeros((10_000, 1))": "gives an array of the shape (10000, 1)",
    "return np.zeros((1,) * 30)": "gives an array of the shape (1, 1,",
    "raise ValueError('\\x1b[31m\\u202e\\udcff' + 'x' * 10**6)": "?[31m??xxx",
}


@both_ways
def test_calls_that_raise_or_return_no_numbers_say_so(sandbox):
    with runner.in_child(with_elu(*RAISES), sandbox=sandbox) as submission:
        for number, says in enumerate(RAISES.values()):
            assert says in failure_of_act(submission, number)
        assert submission.generation == 1  # one process has done all of that


HANGS = {
    "many processes that deal with signals": "import os, signal\n"
    "for s in (1, 2, 14, 15): signal.signal(s, signal.SIG_IGN)\n"
    "for _ in range(4): os.fork()\nwhile True: pass",
    "endless fork": "import os\n"
    "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
}
SLEEPS = {
    "sleep": "__import__('time').sleep(600)",
    "a stopped process": "import os; os.kill(os.getpid(), 19)",
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
        return submission.generation


@both_ways
@pytest.mark.parametrize("code", HANGS.values(), ids=HANGS)
def test_call_that_hangs_is_ended(code, sandbox):
    expect_act(code, "takes more than 0.3 s of processor time: an endless loop?", sandbox, 0.3)


@pytest.mark.parametrize("code", SLEEPS.values(), ids=SLEEPS)
def test_call_that_waits_is_tried_again_once_and_is_no_loop(code, monkeypatch):
    monkeypatch.setattr(process, "ASLEEP", 3)
    assert expect_act(code, "ELUModule.forward waits", sandbox=None) == 3


@both_ways
def test_call_that_fills_the_disk_is_ended(sandbox):
    expect_act(FULL_DISK, "No space" if sandbox else "more than 64 MiB", sandbox, 20)


def test_memory_of_all_processes_together_is_limited(monkeypatch):
    code = (
        "import os, time\n"
        "for _ in range(3): os.fork()\n"
        "memory = bytearray(40 << 20)\n"
        "time.sleep(600)"
    )
    with runner.in_child(with_elu(code)) as submission:
        submission.elu()
        monkeypatch.setattr(process, "MEMORY", 150 << 20)  # of which one process may take two
        assert "GiB of memory" in failure_of_act(submission)


LOST_LATE = {
    "SoftMaxModule.forward takes": (wrong.MAX, "while np.abs(x).max() > 700: x = x / 1.0"),
    "CrossEntropyModule.forward ends": (wrong.LOSS, "if x.min() == 0: import os; os._exit(0)"),
}


@pytest.mark.parametrize("says", LOST_LATE)
def test_call_that_is_lost_at_extreme_values_alone_fails_that_row(says):
    line, extreme = LOST_LATE[says]
    sources = wrong.sources(wrong.wrong("", set(), "", line, f"{extreme}\n        {line}"))
    with runner.in_child(sources, call_limit=0.5) as submission:
        failures = [row for row in checks.run_all(submission) if row["cell"] == "failed"]
    assert [row["row"] for row in failures] == ["numerically stable"]
    assert says in failures[0]["diagnosis"]


def test_what_takes_too_long_in_all_is_over():
    """The rows after the limit say why they were not checked."""
    spin = "(self, x):\n        while True: pass\n"
    sources = RIGHT | {"modules.py": RIGHT["modules.py"].replace("(self, x):\n", spin)}
    start = functools.partial(runner.in_child, call_limit=1, all_limit=1.5)
    rows = run_rows(sources, start=start)
    assert failed(rows) >= {"linear forward", "softmax value", "network output"}
    assert "too long in all" in rows["network output"]["diagnosis"]


# A machine that is busy


@pytest.mark.parametrize(
    ("state", "share", "says"),
    [
        ("R", 0.01, "takes more than 2 s of processor time"),  # beside a hundred others
        ("S", 0.01, "takes more than 2 s of processor time"),  # another of its threads runs
        ("S", 0.0, "waits"),
        ("R", 0.0, None),  # the machine has no time for it
    ],
)
def test_only_what_the_submission_does_counts(state, share, says, monkeypatch):
    with runner.in_child(RIGHT) as submission:
        child = submission.process
        child.limit, child.start, child.seconds, child.used = 2.0, 0.0, 0.0, {}
        used = itertools.count(0.0, share * process.WATCH)  # seconds of processor time at each look
        with monkeypatch.context() as patch:
            patch.setattr(process, "_family", lambda _: {1: (0, next(used), 0.0, state)})
            with pytest.raises(Lost, match=says) if says else contextlib.nullcontext():
                for _ in range(5000):  # a quarter of an hour
                    child._watch()


def test_submission_that_gets_no_processor_is_not_graded(monkeypatch):
    monkeypatch.setattr(process, "WALL", 0.0)
    with runner.in_child(RIGHT) as submission:
        for make in (submission.elu, submission.softmax):
            with pytest.raises(NotGraded, match="too busy"):
                make()


@both_ways
def test_machine_that_starts_no_process_does_not_grade(sandbox, tmp_path, monkeypatch):
    def no_process(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    process.sandbox_starts()
    monkeypatch.setattr(subprocess, "Popen", no_process)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        runner.in_child(RIGHT, sandbox=sandbox) as submission,
        pytest.raises(NotGraded, match="temporarily"),
    ):
        submission.elu()
    assert not [*tmp_path.iterdir()]


def test_machine_without_room_for_a_folder_does_not_grade(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with (
        runner.in_child(RIGHT, sandbox=False) as submission,
        pytest.raises(NotGraded, match="no process starts"),
    ):
        submission.elu()


def test_time_that_is_used_up_while_a_process_starts_is_the_submissions(monkeypatch):
    def answer(child):
        child.budget.seconds = 0.0
        child.budget.check()

    monkeypatch.setattr(process.Child, "_answer", answer)
    with pytest.raises(Lost, match="too long in all"):
        process.Child(False, process.Budget())


@both_ways
@linux_only
def test_submission_ends_with_a_grader_that_is_killed(sandbox):
    mark = f"{MARK}{sandbox:d}"
    code = f"import ctypes, time; ctypes.CDLL(None).prctl(15, b'{mark}'); time.sleep(600)"
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # the submission runs in there, and may be another user's
        folder = str(write(Path(place) / "submission", on_top(code)))
        command = f"from grading import runner; runner.grade({folder!r}, sandbox={sandbox})"
        with subprocess.Popen(
            [sys.executable, "-c", command],
            cwd=ROOT / "tests",
            env=os.environ | {"TMPDIR": place},
        ) as grader:
            wait_for(lambda: processes_like(mark))
            grader.kill()
        wait_for(lambda: not processes_like(mark))
