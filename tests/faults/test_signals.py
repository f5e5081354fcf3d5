"""Signals: Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP."""

import os
import signal
import subprocess

import pytest
from common import at_call, ended, environment_of_small_files, record_of, results, train

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
if os.name != "posix":
    pytest.skip("Windows has no signals but Ctrl-C", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_nohup():
    """The tests may run under nohup; here SIGHUP is not ignored at first."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(name):
    assert signal.getsignal(getattr(signal, name)) != signal.SIG_DFL  # which would end the tests
    signal.raise_signal(getattr(signal, name))


@pytest.mark.parametrize(
    "name, function, number",
    [
        ("SIGINT", "train_step", 7),
        ("SIGTERM", "train_step", 7),
        ("SIGHUP", "train_step", 7),
        ("SIGTERM", "evaluate", 2),  # before the first row
        ("SIGTERM", "evaluate", -2),  # of the last row
        ("SIGTERM", "evaluate", -1),  # on the test set
    ],
)
def test_a_signal_ends_the_run_with_everything_saved(run, name, function, number, monkeypatch):
    before = signal.getsignal(getattr(signal, name))
    with monkeypatch.context() as patch:
        calls = at_call(run, function, None, None, patch)
        whole = results(run("whole"))
    with monkeypatch.context() as patch:
        steps = at_call(run, "train_step", None, None, patch)
        at_call(run, function, number % (len(calls) + 1), lambda: send(name), patch)
        said = ended(STATUS[name], run, "a")
    assert signal.getsignal(getattr(signal, name)) == before
    assert "--resume" in said and str(run.folder / "a") in said
    record = record_of(run.folder / "a")
    assert (record["status"], record["steps"]) == ("interrupted", len(steps))
    again = at_call(run, "train_step", None, None, monkeypatch)
    run.trainer.main(["--resume", "--run_dir", str(run.folder / "a")])
    assert results(run.folder / "a") == whole and len(steps) + len(again) == 12


def test_a_signal_as_the_last_record_is_written(run, monkeypatch):
    replace, whole = os.replace, results(run("whole"))

    def replaced(source, target):
        if b'"completed"' in source.read_bytes():
            send("SIGTERM")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        said = ended(143, run, "a")
    assert "--resume" in said and "complete" not in said
    assert record_of(run.folder / "a")["status"] == "interrupted"
    assert results(run("a", "--resume")) == whole


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(run, name, monkeypatch):
    """As in the background of a shell, or under nohup."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        at_call(run, "train_step", 3, lambda: signal.raise_signal(number), monkeypatch)
        assert record_of(run("a"))["status"] == "completed"
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_a_step_that_hangs(run, name, monkeypatch):
    def hang():
        send(name)
        send(name)
        raise AssertionError("the step goes on")

    at_call(run, "train_step", 3, hang, monkeypatch)
    ended(STATUS[name], run, "a")
    assert record_of(run.folder / "a")["status"] == "interrupted"


# What has no handler is no signal to the first process of a container or of a namespace.
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
SEND = """
import os, signal
assert os.getpid() == 1
next_batch = cifar10_utils.DataSet.next_batch
def sending(self, batch_size):
    signal.raise_signal(signal.SIGTERM)
    return next_batch(self, batch_size)
cifar10_utils.DataSet.next_batch = sending
"""


def test_as_the_first_process_too(data, tmp_path):
    try:
        subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no process namespace can be made here")
    flags = ["--data_dir", data, "--batch_size", 20, "--run_dir", tmp_path / "a"]
    variables = environment_of_small_files(tmp_path, SEND)
    train("train_mlp_numpy.py", *flags, before=NAMESPACE, status=143, **variables)
    assert record_of(tmp_path / "a")["status"] == "interrupted"
