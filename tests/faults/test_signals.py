"""Signals: Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
from common import HANG, ROOT, Fork, at_call, outcome, record_of, results

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
if os.name != "posix":
    pytest.skip("Windows has no signals but Ctrl-C", allow_module_level=True)


def send(name):
    assert signal.getsignal(getattr(signal, name)) != signal.SIG_DFL  # which would end the tests
    signal.raise_signal(getattr(signal, name))


@pytest.mark.parametrize("name", STATUS)
@pytest.mark.parametrize("call", [("train_step", 7), ("evaluate", 3), ("evaluate", 6)], ids=str)
def test_a_signal_ends_the_run_with_everything_saved(run, call, name, monkeypatch):
    """In a step, in the evaluation of a row, and in the one on the test set at the end."""
    whole, before = results(run("whole")), signal.getsignal(getattr(signal, name))
    with monkeypatch.context() as patch:
        steps = at_call(run, "train_step", None, None, patch)
        at_call(run, *call, lambda: send(name), patch)
        status, said = outcome(run, "a")
    assert signal.getsignal(getattr(signal, name)) == before
    if (status, len(steps)) != (0, 12):  # it may end after the last step
        assert status == STATUS[name]
        assert "--resume" in said and str(run.folder / "a") in said
        record = record_of(run.folder / "a")
        assert (record["status"], record["steps"]) == ("interrupted", len(steps))
    again = at_call(run, "train_step", None, None, monkeypatch)
    run.trainer.main(["--resume", "--run_dir", str(run.folder / "a")])
    assert results(run.folder / "a") == whole
    assert len(steps) + len(again) == 12


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(run, name, monkeypatch):
    """As under nohup, or in the background of a shell."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        at_call(run, "train_step", 3, lambda: signal.raise_signal(number), monkeypatch)
        assert record_of(run("a"))["status"] == "completed"
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


TWICE = """
import signal, time
def hang(*_, **__):
    signal.raise_signal(signal.{0})
    signal.raise_signal(signal.{0})
    while True:
        time.sleep(1)
trainer.train_step = hang
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_a_run_that_hangs(run, name, data):
    flags, folder = ["--data_dir", data, "--batch_size", 20], run.folder / "a"
    status, said = Fork(run.framework, folder, *flags, prepare=TWICE.format(name)).end()
    assert status in (STATUS[name], -getattr(signal, name)) and "Traceback" not in said
    assert record_of(folder)["status"] != "completed"


# The first process of a container or of a namespace: what has no handler there is no signal.
FIRST_PROCESS = """
import importlib, os, signal, sys, time
import pytest
import common

assert os.getpid() == 1
data, folder, *frameworks = sys.argv[1:]
common.use_small_files(pytest.MonkeyPatch())
for framework in frameworks:
    trainer = importlib.import_module(f"train_mlp_{framework}")
    train_step = trainer.train_step
    for many in (1, 2):
        def step(*args, **options):
            for _ in range(many):
                signal.raise_signal(signal.SIGTERM)
            while many == 2:
                time.sleep(1)
            return train_step(*args, **options)
        trainer.train_step = step
        run = f"{folder}/{framework}-{many}"
        try:
            trainer.main(["--data_dir", data, "--batch_size", "20", "--run_dir", run])
        except SystemExit as end:
            print(framework, many, end.code)
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def test_as_the_first_process_too(data, tmp_path):
    try:
        subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no process namespace can be made here")
    frameworks = ["numpy", "pytorch"] if find_spec("torch") else ["numpy"]
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", FIRST_PROCESS, data, tmp_path, *frameworks],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    ends = [line for line in done.stdout.splitlines() if not line.startswith("step")]
    assert ends == [f"{name} {many} 143" for name in frameworks for many in (1, 2)], done.stderr
