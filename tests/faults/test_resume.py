"""Runs that are killed, stopped or failed, and continue with --resume, where they can."""

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from common import ROOT, TRAINERS, Killed, failed, interrupted, listing, record_of, refused, results

from training.run import Run


def stop(*_):
    raise Killed


@pytest.mark.parametrize("flags", [[], ["--validation_size", "15", "--learning_rate", "0.05"]])
def test_a_run_killed_at_any_write_ends_the_same(run, flags, tmp_path, monkeypatch):
    """Dies before the 1st, 2nd, 3rd ... file takes its place, and so after the one before has."""
    whole, replace, left = run("whole", *flags), os.replace, [0]

    def dying(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        replace(source, target)

    for moment in range(13):  # the folder and twelve files take their place, or more
        left[0], name = moment, str(moment)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", dying)
            run(name, *flags)
        there = (tmp_path / name / "run.json").exists()
        assert there == (tmp_path / name).exists() == (moment > 1)
        run(name, *flags, *["--resume"] * there)
        assert results(tmp_path / name) == results(whole)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("framework", TRAINERS)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs the processes of Unix")
def test_killed_at_any_moment_a_run_ends_the_same(framework, step, tmp_path):
    """Also where three runs want the same folder at once: one has it, the others say so."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killing.py"), framework, tmp_path, str(step)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 5  # kills


def test_ctrl_c_saves_everything_and_resume_goes_on(run, tmp_path, monkeypatch):
    whole, tally, steps = run("whole"), Run.tally, []

    def interrupt(self, *args):
        tally(self, *args)
        if self.step == 7:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "tally", interrupt)
        assert "step 7 of 12 is saved" in interrupted(run, "a")
    record = record_of(tmp_path / "a")
    assert (record["status"], record["steps"]) == ("interrupted", 7)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def counted(self, *args):
        steps.append(self.step)
        tally(self, *args)

    monkeypatch.setattr(Run, "tally", counted)
    assert results(run("a", "--resume")) == results(whole)
    assert steps == [8, 9, 10, 11, 12]


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path):
    line = failed(run, "a", "--learning_rate", "1e38")
    sentence = r"the loss is (nan|inf) at step [2-4] with --learning_rate 1e\+38: try a smaller"
    assert re.search(sentence, line)
    assert record_of(tmp_path / "a")["status"] == "failed"
    assert (tmp_path / "a" / "metrics.csv").exists()


def test_resume_refuses_what_it_cannot_continue(run, data, tmp_path, trainer):
    folder = str(run("a", steps=10))
    base = ["--data_dir", data, "--dnn_hidden_units", "8", "--batch_size", "20", "--eval_freq", "5"]
    before = listing(tmp_path)
    for flags, complaint in (
        ([str(tmp_path / "none")], r"no .*none[\\/]run.json"),
        ([data], "no .*run.json"),
        ([folder, "--max_steps", "20"], "--max_steps is 20 now, but .* began with 10"),
        ([folder, "--max_steps", "10", "--seed", "1"], "--seed is 1 now, but .* with 42"),
        ([folder, "--max_steps", "10", "--dnn_hidden_units", "8,8"],
         "--dnn_hidden_units is 8,8 now, but .* with 8:"),
    ):  # fmt: skip
        line = refused(trainer.main, [*base, "--resume", "--run_dir", *flags])
        assert re.search(complaint, line)
    assert listing(tmp_path) == before


def test_a_run_of_the_other_trainer_is_refused(run, trainer, data):
    names = {"train_mlp_numpy": "train_mlp_pytorch", "train_mlp_pytorch": "train_mlp_numpy"}
    other = importlib.import_module(names[trainer.__name__])
    line = refused(other.main, ["--data_dir", data, "--resume", "--run_dir", str(run("a"))])
    assert f"was made by {trainer.__name__}.py" in line


# The checkpoint of a run that is not finished


@pytest.fixture
def unfinished(run, tmp_path, monkeypatch):
    """A function that makes a run which has its last checkpoint, but not its end, and returns the
    path of the checkpoint."""

    def unfinished(name, *flags):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Run, "finish", stop)
            run(name, *flags)
        (checkpoint,) = (tmp_path / name).glob("checkpoint.*")
        return checkpoint

    return unfinished


def test_a_damaged_checkpoint_is_refused(run, unfinished):
    checkpoint = unfinished("a")
    whole = checkpoint.read_bytes()
    half = len(whole) // 2  # in the middle of the weights
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    for damaged in (b"", whole[:100], whole[:-30], whole[:half] + b"y" * 500, flipped):
        checkpoint.write_bytes(damaged)
        assert "is damaged" in refused(run, "a", "--resume")
    checkpoint.write_bytes(whole)
    assert results(run("a", "--resume")) == results(run("b"))


def test_a_checkpoint_of_a_run_with_other_flags_is_refused(run, unfinished):
    """Their networks are of one shape, so that nothing else could tell."""
    checkpoint, other = unfinished("a"), unfinished("b", "--seed", "1")
    checkpoint.write_bytes(other.read_bytes())
    before = listing(checkpoint.parent)
    assert re.search("is damaged .* run with other .*seed", refused(run, "a", "--resume"))
    assert listing(checkpoint.parent) == before
