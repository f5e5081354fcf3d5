"""Where people start runs: notebooks, threads, pipes, shells with old variables, Windows."""

import errno
import io
import os
import subprocess
import sys
import threading
import types
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
from common import (
    HANG,
    ROOT,
    Fork,
    archive_of,
    ended,
    environment_of_small_files,
    fork_trainer,
    posix,
    record_of,
    refused,
    results,
    use_small_files,
    write_files,
)

from cifar10_utils import ARCHIVE
from training.errors import Output

DRAWING = {
    "a busy machine": {"prepare": "import itertools, types, matplotlib.legend as legend\n"
                       "clock = itertools.count(step=2)  # seconds\n"
                       "legend.time = types.SimpleNamespace(perf_counter=clock.__next__)"},
    "the backend of a notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "matplotlib missing": {"prepare": "import sys; sys.modules['matplotlib'] = None"},
}  # fmt: skip


@posix
@pytest.mark.parametrize("trouble", DRAWING)
def test_a_picture_that_cannot_be_drawn_costs_nothing_else(run, trouble):
    """The result is there, the exit status 0, and --resume draws what is missing."""
    fork = fork_trainer(run.framework, *run.argv("a"), curves=True, **DRAWING[trouble])
    (status, said), folder = fork.end(), run.folder / "a"
    assert status == 0 and "Traceback" not in said and "Warning" not in said, said
    assert said.splitlines()[-1].startswith("test accuracy")
    assert record_of(folder)["status"] == "completed"
    drawn = (folder / "curves.png").exists()
    assert drawn or sum("curves.png" in line for line in said.splitlines()) == 1
    assert results(run("a", "--resume")) == results(run("whole"))


def test_a_variable_left_in_the_shell_is_no_launch(run, monkeypatch):
    whole = results(run("whole"))
    for value in ("3", "not a number"):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
            monkeypatch.setenv(name, value)
        assert results(run(value)) == whole


CLOSED = io.StringIO()
CLOSED.close()
FAIL = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
GONE = types.SimpleNamespace(write=FAIL, flush=FAIL, isatty=lambda: True, closed=False)
STREAMS = {"None": None, "closed": CLOSED, "a terminal that is gone": GONE}


@pytest.mark.parametrize("stream", STREAMS)
def test_output_is_not_the_run(run, stream, monkeypatch):
    whole = results(run("whole"))
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, STREAMS[stream])
        run("a", "--resume")
        with pytest.raises(SystemExit) as end:
            run("b", "--max_steps", "0")
    assert end.value.code == 2
    assert results(run.folder / "a") == whole


def test_a_stream_that_does_not_know_what_it_is_is_written(tmp_path):
    with open(tmp_path / "file", "w") as file:
        names = ("write", "flush", "fileno")  # no isatty
        stream = types.SimpleNamespace(**{name: getattr(file, name) for name in names})
        assert not Output(stream).isatty()
        Output(stream).write("said")
    assert (tmp_path / "file").read_text() == "said"


FULL_DISK = pytest.param("/dev/full", "-B", marks=pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="there is no /dev/full"))  # fmt: skip


@posix
@pytest.mark.parametrize("out, option", [("a pipe", "-OO"), FULL_DISK])
def test_a_program_without_streams_and_without_docstrings(out, option, data, tmp_path):
    """Standard error closed, and standard output lost: still exit status 0. With python -OO."""
    if out == "a pipe":
        reader, descriptor = os.pipe()
        os.close(reader)
    else:
        descriptor = os.open(out, os.O_WRONLY)
    variables = {**os.environ, **environment_of_small_files(tmp_path)}
    variables["PYTHONUNBUFFERED"] = ""  # so that Python writes as it exits
    command = [sys.executable, option, ROOT / "train_mlp_numpy.py", "--data_dir", data]
    command += ["--max_steps=2", "--batch_size=20", "--run_dir", tmp_path / "a"]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    done = subprocess.run([*shell, *command], stdout=descriptor, env=variables, timeout=HANG)
    os.close(descriptor)
    assert done.returncode == 0
    assert record_of(tmp_path / "a")["status"] == "completed"


def test_in_a_thread_and_twice_in_a_row(run):
    whole, ends = results(run("whole")), []
    for name in ("a", "b"):
        thread = threading.Thread(target=lambda name=name: ends.append(results(run(name))))
        thread.start()
        thread.join(HANG)
    assert ends == [whole, whole]


def test_main_in_a_notebook_says_how_flags_are_given(trainer, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "/x/kernel-1.json"])
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert "write flags as a list" in refused(trainer.main)
    assert "as a list" not in refused(trainer.main, ["-f"])  # where they are one


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(run, number, monkeypatch):
    refuse = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr("fcntl.flock", refuse)
    said = ended(0, run, "a")
    assert "lock" in said and "\n" not in said
    assert record_of(run.folder / "a")["status"] == "completed"


# What the standard library and PyTorch look up in os as they are imported on Unix was there then;
# our modules are imported anew.
WINDOWS = """
import importlib, os, signal, sys, warnings
from unittest.mock import Mock
import common

root = str(common.ROOT) + os.sep
for name, module in [*sys.modules.items()]:
    path = getattr(module, "__file__", None) or ""
    if path.startswith(root) and "site-packages" not in path:  # an environment may lie in here
        del sys.modules[name]
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # so that importing it raises ImportError
for name in ("O_NOFOLLOW", "O_DIRECTORY", "geteuid", "fork", "killpg", "setsid", "pread",
             "pwrite", "mkfifo", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP
warnings.simplefilter("error")

import cifar10_utils, common, pytest

folder, *names = sys.argv[1:]
common.use_small_files(pytest.MonkeyPatch())
cifar10_utils.main([folder])

interrupt = Mock(side_effect=KeyboardInterrupt)
for name in names:
    trainer = importlib.import_module(f"train_mlp_{name}")
    argv = ["--data_dir", folder, "--batch_size=20", "--max_steps=3", "--run_dir", folder + name]
    step, trainer.train_step = trainer.train_step, interrupt
    common.ended(130, trainer.main, argv)
    trainer.train_step = step
    assert "is not empty" in common.refused(trainer.main, argv)
    for _ in range(2):
        common.ended(0, trainer.main, [*argv, "--resume"])
"""


@posix
def test_without_what_only_unix_has(tmp_path, monkeypatch):
    """As on Windows: one program unpacks the data, and trains there as a person does."""
    folder = write_files(tmp_path / "a", {ARCHIVE: archive_of(use_small_files(monkeypatch))})
    names = ["numpy", "pytorch"] if find_spec("torch") else ["numpy"]
    status, said = Fork(WINDOWS, folder, *names).end()
    assert status == 0, said
    for name in names:
        files = sorted(path.stem for path in Path(f"{folder}{name}").iterdir())
        assert files == ["checkpoint", "curves", "metrics", "run"]
        assert record_of(Path(f"{folder}{name}"))["status"] == "completed"
