"""Where people start runs: notebooks, threads, containers, pipes, shells with old variables."""

import builtins
import errno
import io
import os
import subprocess
import sys
import threading
import types

import pytest
from common import HANG, ROOT, Fork, ended, record_of, refused, results

posix = pytest.mark.skipif(os.name != "posix", reason="as it is on Unix")
BLOCK = "import sys, types; sys.modules['matplotlib'] = "
DRAWING = {
    "the backend of a notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "matplotlib missing": {"prepare": BLOCK + "None"},
    "matplotlib broken": {"prepare": BLOCK + "types.ModuleType('matplotlib')"},
}


@posix
@pytest.mark.parametrize("trouble", DRAWING)
def test_a_picture_that_cannot_be_drawn_costs_nothing_else(run, trouble, data):
    """The result is there, the exit status 0, and --resume draws what is missing."""
    folder, flags = run.folder / "a", ["--data_dir", data, "--max_steps", 2, "--batch_size", 20]
    status, said = Fork(run.framework, folder, *flags, **DRAWING[trouble]).end()
    assert status == 0 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("test accuracy")
    assert record_of(folder)["status"] == "completed"
    drawn = (folder / "curves.png").exists()
    assert drawn or sum("curves.png" in line for line in said.splitlines()) == 1
    assert run.trainer.main(["--resume", "--run_dir", str(folder)])["step"] == [0, 2]
    assert (folder / "curves.png").exists()


def test_a_variable_left_in_the_shell_is_no_launch(run, monkeypatch):
    whole = results(run("whole"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    assert results(run("a")) == whole
    monkeypatch.setenv("RANK", "not a number")
    assert results(run("b")) == whole


# Standard streams ---------------------------------------------------------------------------------


class Broken(io.StringIO):
    """A stream on which nothing can be written: a pipe without a reader, a full disk."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, _):
        raise OSError(self.number, os.strerror(self.number))

    flush = close = lambda self: self.write("")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "None": lambda: None,
    "closed": closed,
    "a pipe without a reader": lambda: Broken(errno.EPIPE),
    "a full disk": lambda: Broken(errno.ENOSPC),
    "a terminal that is gone": lambda: Broken(errno.EIO),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("names", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids=str)
def test_output_is_not_the_run(run, names, stream, monkeypatch):
    whole = results(run("whole"))
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(sys, name, STREAMS[stream]())
        assert run.trainer.main(["--resume", "--run_dir", str(run("a"))])["step"][-1] == 12
        with pytest.raises(SystemExit) as end:
            run("b", "--max_steps", "0")
    assert end.value.code == 2
    assert results(run.folder / "a") == whole


LOST = [("numpy", "a pipe", "-OO"), ("numpy", "/dev/full", "-B")]


@posix
@pytest.mark.parametrize("framework, out, option", [*LOST, ("pytorch", "a pipe", "-B")])
def test_a_program_without_streams_and_without_docstrings(framework, out, option, tmp_path):
    """Standard error closed, and standard output lost: still exit status 0. With python -OO."""
    if framework == "pytorch":
        pytest.importorskip("torch")  # which -OO would compile anew
    if out == "a pipe":
        reader, descriptor = os.pipe()
        os.close(reader)
    elif not os.path.exists(out):
        pytest.skip("there is no /dev/full")
    else:
        descriptor = os.open(out, os.O_WRONLY)
    command = [sys.executable, option, ROOT / f"train_mlp_{framework}.py", "--synthetic"]
    command += ["--max_steps", "2", "--run_dir", tmp_path / "a"]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that Python writes as it exits
    done = subprocess.run([*shell, *command], stdout=descriptor, env=buffered, timeout=HANG)
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
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
    assert "list" in refused(trainer.main)


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(run, number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    for name in ("flock", "lockf"):
        monkeypatch.setattr(f"fcntl.{name}", refuse)
    said = ended(0, run, "a")
    assert "lock" in said and "\n" not in said
    assert record_of(run.folder / "a")["status"] == "completed"
