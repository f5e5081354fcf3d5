"""What several test files share: small stand-ins for CIFAR-10's files, and ways to run programs."""

import contextlib
import csv
import functools
import hashlib
import io
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import cifar10_utils
from training.run import SYNTHETIC_WARNING

ROOT = Path(cifar10_utils.__file__).parent
REAL = ROOT / cifar10_utils.DEFAULT_DIR
posix = pytest.mark.skipif(os.name != "posix", reason="as it is on Unix")
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")
N = 10  # images in a small batch file

LACKING = ""
try:
    cifar10_utils.verify(REAL)
except (OSError, ValueError) as error:
    LACKING = str(error)  # which names the files
needs_real = pytest.mark.skipif(bool(LACKING), reason=LACKING)


def times(some, many):
    """Gives a test the number of its repetitions: some, and many under -m slow."""
    return pytest.mark.parametrize("times", [some, pytest.param(many, marks=pytest.mark.slow)])


def numerical_gradient(f, x, step=1e-6):
    """Central differences of the scalar f() for every entry of x, which is put back."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        middle = x[i]
        x[i] = middle + step
        above = f()
        x[i] = middle - step
        gradient[i] = (above - f()) / (2 * step)
        x[i] = middle
    return gradient


# Data ---------------------------------------------------------------------------------------------


def batch_bytes(pixels, labels):
    """What is read of a batch file, in the opcodes of the official ones, which Python 2 wrote."""
    n, size = pixels.shape
    return b"".join([
        b"\x80\x02}(U\x06labels](", *(b"K" + bytes([label]) for label in labels),
        b"eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R",
        b"(K\x01M", struct.pack("<HcH", n, b"M", size),
        b"\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNN", 2 * b"J\xff\xff\xff\xff",
        b"K\0tb\x89T", struct.pack("<i", pixels.size), pixels.tobytes(), b"tbu.",
    ])  # fmt: skip


def md5_of(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def use_small_files(monkeypatch):
    """Lets cifar10_utils take small files, with N images in each batch, and their archive for the
    official ones. Returns their content by name."""
    rng = np.random.default_rng(0)
    files = {
        name: batch_bytes(rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N))
        for name in cifar10_utils.MD5
    } | {"batches.meta": b"label names"}
    sums = {name: md5_of(content) for name, content in files.items()}
    monkeypatch.setattr(cifar10_utils, "MD5", sums)
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", md5_of(archive_of(files)))
    monkeypatch.setattr(cifar10_utils, "IMAGES_PER_FILE", N)
    return files


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def archive_of(files, mode="w"):
    """The bytes of a tar archive with the files, as the official one has them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in {**files, "readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"{cifar10_utils.FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# Runs in this process -----------------------------------------------------------------------------


def outcome(call, *args, **options):
    """The exit status of a program's main, or of what runs it, and what it says on stderr apart
    from the warning of synthetic data and the first line of a download.

    Asserts what is promised of every run: it ends well, or with one line on stderr and, where it is
    refused, nothing on stdout. Other exceptions pass through.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            call(*args, **options)
        except SystemExit as exit:
            status = exit.code or 0
    said = err.getvalue().replace(SYNTHETIC_WARNING + "\n", "").removesuffix("\n")
    said = re.sub(r"^downloading CIFAR-10 .* from .*\n", "", said, flags=re.S)
    if status:
        assert (": error: " if status in (1, 2) else ": stopped: ") in said, said
        assert said.isprintable(), said
        assert status != 2 or out.getvalue() == ""
    return status, said


def ended(expected, call, *args, **options):
    """What call(*args) says as it ends with that exit status."""
    status, said = outcome(call, *args, **options)
    assert status == expected, said
    return said


refused, failed = functools.partial(ended, 2), functools.partial(ended, 1)


def at_call(run, name, number, action, monkeypatch):
    """Lets action() happen as this process calls the trainer's function `name` for the number-th
    time: train_step, or evaluate. Returns a list that gets an entry for each call."""
    function, calls = getattr(run.trainer, name), []

    def called(*args, **options):
        calls.append(name)
        if len(calls) == number:
            action()
        return function(*args, **options)

    monkeypatch.setattr(run.trainer, name, called)
    return calls


def interrupted(run, name, *flags):
    """The folder of a run that Ctrl-C ended in step 7."""

    with pytest.MonkeyPatch.context() as patch:
        at_call(run, "train_step", 7, Mock(side_effect=KeyboardInterrupt), patch)
        ended(130, run, name, *flags)
    return run.folder / name


@contextlib.contextmanager
def limit_on_files(size):
    """Lets the operating system refuse to write more than size bytes into a file."""
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# What a run leaves --------------------------------------------------------------------------------


def listing(folder):
    """Every file below folder with its content."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def results(folder):
    """What must not depend on kills: the curve, the weights and the rest of the checkpoint."""
    from training.files import read_checkpoint

    (checkpoint,) = folder.glob("checkpoint.*")
    state = read_checkpoint(checkpoint)
    progress = json.loads(str(state.pop("run")["progress"]))
    del progress["train_seconds"]
    names = sorted(path.name for path in folder.iterdir())
    curve, record = (folder / "metrics.csv").read_bytes(), record_of(folder)
    tested = record["test_accuracy"], record["test_loss"], record["status"]
    return names, curve, dict(leaves(state)), progress, tested


def leaves(tree, path=""):
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, np.asarray(tree).tobytes()


# Programs, each in a process of its own -----------------------------------------------------------

HANG = 900  # seconds, more than anything takes that does not hang


def train(script, *flags, before=(), cwd=None, status=0, **environment):
    """Runs a program to its end, by way of the command `before` if there is one. Returns the lines
    on stdout and on stderr."""
    done = subprocess.run(
        [*before, sys.executable, ROOT / script, *map(str, flags)],
        cwd=cwd,
        env={**os.environ, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def small_files():
    """What use_small_files() has made of cifar10_utils, by name."""
    return {name: getattr(cifar10_utils, name) for name in ("MD5", "IMAGES_PER_FILE")}


def python_path(*folders):
    """The variable with folders before those that it has, as the modules of a cluster set it."""
    before = filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), *before])}


def environment_of_small_files(folder, code=""):
    """The variables with which any Python program takes the small files for CIFAR-10's, and
    executes code before it begins."""
    start = f"import cifar10_utils\nvars(cifar10_utils).update({small_files()})\n{code}\n"
    return python_path(write_files(folder / "start", {"sitecustomize.py": start.encode()}), ROOT)


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.01)


class Fork:
    """`python -c program argv` in a process forked from one that has imported everything but
    matplotlib: that takes a tenth of a second, where PyTorch's trainer takes seconds to start."""

    def __init__(self, program, *argv, **environment):
        descriptor, self.log = tempfile.mkstemp()
        os.close(descriptor)
        environment = {**os.environ, **environment}
        args = program, [*map(str, argv)], small_files(), environment, os.getcwd(), self.log
        self.process = fork_server().Process(target=_execute, args=args, daemon=True)
        self.process.start()

    def end(self):
        """The exit status (negative: the signal), and what it said."""
        self.process.join(HANG)
        status, said = self.process.exitcode, Path(self.log).read_text()
        self.process.kill()
        os.unlink(self.log)
        assert status is not None, f"it hangs: {said}"
        return status, said


NO_CURVES = "import training.folder; training.folder.draw_curves = lambda *_: None"
CALL_MAIN = {"numpy": "trainer.main()", "pytorch": "trainer.processes.run_and_leave(trainer.main)"}


def fork_trainer(framework, *flags, prepare="", curves=False, **environment):
    """A trainer in a Fork, which draws its curves only where that is asked for. prepare: code that
    is executed first, and knows the module `trainer`."""
    lines = [f"import train_mlp_{framework} as trainer", prepare, CALL_MAIN[framework]]
    return Fork("\n".join(["" if curves else NO_CURVES, *lines]), *flags, **environment)


@functools.cache
def fork_server():
    context = multiprocessing.get_context("forkserver")
    trainers = [f"train_mlp_{framework}" for framework in CALL_MAIN]
    context.set_forkserver_preload(["common", "torch._dynamo", *trainers])
    with pytest.MonkeyPatch.context() as patch:  # it is not given this process's sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        multiprocessing.forkserver.ensure_running()
    return context


def _execute(program, argv, data, environment, cwd, log):
    """In the new process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # ignored if the tests run under nohup, say
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    vars(cifar10_utils).update(data)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.argv = ["fork", *argv]
    exec(program, {"__name__": "__main__"})
