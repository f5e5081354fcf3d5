"""Runs that die, fail or find no room for a file, at any moment, and go on with --resume."""

import errno
import functools
import importlib
import itertools
import json
import os
import re
import signal
from pathlib import Path

import common
import pytest
from common import Fork, ended, interrupted, listing, record_of, refused, results, rows_of

FULL = functools.partial(OSError, errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [common.Killed, FULL], ids=["killed", "disk full"])
@pytest.mark.parametrize("flags", [[], ["--validation_size", "15", "--learning_rate", "0.05"]])
def test_stopped_at_any_file_a_run_ends_the_same(run, flags, error, monkeypatch):
    """Before the first, second, ... file takes its place, and so after the one before has."""
    whole, replace = results(run("whole", *flags)), os.replace

    def stopping(source, target):
        if next(moments, None) is None:
            stopped.append(target.name)
            raise error()
        replace(source, target)

    for moment in itertools.count():
        moments, stopped, folder = iter(range(moment)), [], run.folder / str(moment)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            try:
                status, line = common.outcome(run, folder.name, *flags)
            except common.Killed:
                status = None
        if not stopped:
            break
        if error is FULL:
            assert "No space left on device" in line
            names = {path.name for path in folder.iterdir()}
            assert not [name for name in names if name.endswith(".tmp")]
            drawn = stopped == ["curves.png"]  # by then the record is complete
            assert status == (0 if drawn else 1)
            assert not names or (record_of(folder)["status"] == "completed") == drawn
        assert results(run(folder.name, *flags, "--resume")) == whole
    assert moment > 8


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


@pytest.mark.skipif(os.name != "posix", reason="forks are Unix's")
def test_killed_again_and_again_while_it_writes_a_run_ends_the_same(run, data):
    """By SIGKILL, with half of the file written; and three at once complete it: one has it, and
    the others say so, or come when it is finished."""
    whole, folder = run("whole"), run.folder / "a"
    flags = ["--data_dir", data, "--dnn_hidden_units", "8", "--max_steps", "12"]
    flags += ["--batch_size", "20", "--eval_freq", "5", "--resume"]
    for moment in (0, 2, 3, 2, 3):
        status, said = Fork(run.framework, folder, *flags, prepare=KILL.format(moment)).end()
        assert status == -signal.SIGKILL, said
    assert len(rows_of(folder)) > 1
    ends = [fork.end() for fork in [Fork(run.framework, folder, *flags) for _ in range(3)]]
    assert 0 in [status for status, _ in ends], ends
    for status, said in ends:
        assert status == 0 or status == 2 and "another run is under way" in said, said
    assert results(folder) == results(whole)


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
    (tmp_path / "file").write_text("my work")
    before = listing(tmp_path)
    for flags, complaint in (
        (["--max_steps", "20"], "--max_steps is 20 .* 12"),
        (["--seed", "1"], "--seed is 1 .* 42"),
        (["--seed", "42", "--learning_rate", "0.1"], "--learning_rate is 0.1 .* 0.01"),
        (["--learning_rate", "1e-3"], "--learning_rate is 0.001 .* 0.01"),  # the default, but given
        (["--dnn_hidden_units", "8,8"], "--dnn_hidden_units is 8,8 .* 8"),
        (["--dnn_hidden_units", ""], "--dnn_hidden_units is .* 8"),
        (["--synthetic"], "--synthetic"),
        (["--run_dir", data], "holds no run"),
        (["--run_dir", str(tmp_path / "file")], "Not a directory"),
    ):
        argv = ["--resume", "--run_dir", str(folder), *flags]
        assert re.search(complaint, refused(run.trainer.main, argv)), flags
    other = {"numpy": "pytorch", "pytorch": "numpy"}[run.framework]
    pytest.importorskip("torch")
    main = importlib.import_module(f"train_mlp_{other}").main
    line = refused(main, ["--resume", "--run_dir", str(folder)])
    assert f"train_mlp_{run.framework}.py" in line
    assert listing(tmp_path) == before


@pytest.mark.parametrize("change", [{"processes": 2}, {"precision": "bfloat16"}], ids=str)
def test_what_changes_the_numbers_must_be_the_same(run, change):
    if run.framework == "numpy":
        pytest.skip("the NumPy trainer has one process and one precision")
    folder = run("a")
    record = record_of(folder) | change | {"status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(record))
    assert next(iter(change)).removesuffix("es") in refused(run, "a", "--resume")
    assert record_of(folder) == record


def test_a_folder_of_an_earlier_version_is_called_that(run):
    folder = run("a")
    record = record_of(folder) | {"status": "interrupted"}
    record["flags"]["recolour"] = 0.1
    (folder / "run.json").write_text(json.dumps(record))
    line = refused(run, "a", "--resume")
    assert "recolour" in line and "damaged" not in line and "version" in line


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path):
    line = common.failed(run, "a", "--learning_rate", "1e38")
    sentence = r"the loss is (nan|inf) at step [2-4] with --learning_rate 1e\+38: try a smaller"
    assert re.search(sentence, line)
    assert record_of(tmp_path / "a")["status"] == "failed"
    assert rows_of(tmp_path / "a")
