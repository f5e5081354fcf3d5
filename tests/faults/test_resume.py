"""Runs that die, fail at any moment, and go on with --resume."""

import importlib
import json
import re
import signal
from pathlib import Path

import pytest
from common import (
    ended,
    failed,
    fork_trainer,
    interrupted,
    listing,
    posix,
    record_of,
    refused,
    results,
    rows_of,
)

KILL = """
import os, signal
replace, moments = os.replace, iter(range({}))
def dying(source, target):
    if next(moments, None) is None:
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
"""


@posix
def test_killed_while_it_writes_any_file_a_run_ends_the_same(run):
    """By SIGKILL, with half of the first, second, ... file written."""
    flags = ["--validation_size", 15, "--learning_rate", 0.05]
    whole, moment, status = results(run("whole", *flags)), -1, -signal.SIGKILL
    while status:
        moment += 1
        argv = run.argv(str(moment), *flags)
        status, said = fork_trainer(run.framework, *argv, prepare=KILL.format(moment)).end()
        assert status in (0, -signal.SIGKILL), said
        assert results(run(str(moment), "--resume", *flags)) == whole
    assert moment > 8


@posix
def test_of_three_processes_that_complete_a_run_at_once_one_has_it(run):
    """And the others say so, or come when it is finished."""
    folder, argv = interrupted(run, "a"), run.argv("a", "--resume")
    for status, said in [f.end() for f in [fork_trainer(run.framework, *argv) for _ in range(3)]]:
        late = re.search("another run is under way|has just completed", said)
        assert status == 0 or (status == 2 and late), said
    assert results(folder) == results(run("whole"))


def test_resume_takes_the_flags_from_the_run_and_begins_where_there_is_none(run, tmp_path):
    """One command serves a job that is started again and again; the flags need not be repeated."""
    said = ended(0, run, "a", "--resume")  # nothing is there
    assert str(tmp_path / "a") in said
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".run.json.tmp").touch()  # what a kill leaves that came first of all
    run("b", "--resume")
    assert results(tmp_path / "a") == results(tmp_path / "b") == results(run("c"))
    before, history = listing(tmp_path / "a"), run.history
    assert run.trainer.main(["--resume", "--run_dir", str(tmp_path / "a")]) == history
    assert listing(tmp_path / "a") == before


def test_data_that_has_moved_is_named_as_a_run_goes_on(run, data, tmp_path):
    folder = interrupted(run, "a")
    data = Path(data).rename(tmp_path / "data")
    run.trainer.main(["--resume", "--run_dir", str(folder), "--data_dir", str(data)])
    assert results(folder) == results(run("whole", "--data_dir", data))


def test_resume_refuses_what_it_cannot_continue(run, data, tmp_path):
    folder = run("a", "--learning_rate", "0.01")
    before = listing(tmp_path)
    for flags, complaint in (
        (["--seed", "42", "--max_steps", "20"], "--max_steps is 20 .* 12"),
        (["--learning_rate", "1e-3"], "--learning_rate is 0.001 .* 0.01"),  # the default, but given
        (["--dnn_hidden_units", "8,8"], "--dnn_hidden_units is 8,8 .* 8"),
        (["--synthetic"], "--synthetic"),
        (["--run_dir", data], "holds no run"),
    ):
        argv = ["--resume", "--run_dir", str(folder), *flags]
        assert re.search(complaint, refused(run.trainer.main, argv)), flags
    other = {"numpy": "pytorch", "pytorch": "numpy"}[run.framework]
    pytest.importorskip("torch")
    main = importlib.import_module(f"train_mlp_{other}").main
    line = refused(main, ["--resume", "--run_dir", str(folder)])
    assert f"train_mlp_{run.framework}.py" in line
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"processes": 2}, "has processes: 2"),  # these two change the numbers
        ({"precision": "bfloat16"}, "has precision: bfloat16"),
        ({"flags": {"recolour": 0.1}}, "earlier version, which had --recolour"),
    ],
    ids=str,
)
def test_a_run_of_another_kind_is_called_that(run, change, named):
    path = interrupted(run, "a") / "run.json"
    record = json.loads(path.read_text())
    flags = record["flags"] | change.get("flags", {})
    path.write_text(json.dumps(record | change | {"flags": flags}))
    before = listing(path.parent)
    line = refused(run, "a", "--resume")
    assert named in line and "damaged" not in line and listing(path.parent) == before


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path, monkeypatch):
    line = failed(run, "a", "--learning_rate", "1e38")
    sentence = r"the loss is (nan|inf) at step [2-4] with --learning_rate 1e\+38: try a smaller"
    assert re.search(sentence, line)
    assert record_of(tmp_path / "a")["status"] == "failed"
    assert rows_of(tmp_path / "a")
    monkeypatch.setattr(run.trainer, "evaluate", lambda *_: (float("nan"), 0.1))
    line = failed(run, "b")  # no rate is to blame
    assert "nan at step 0, before any training" in line and "smaller" not in line
