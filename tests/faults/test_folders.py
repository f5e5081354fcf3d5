"""Folders and files in trouble: in use, gone, full, unreadable, damaged, or a stranger's. None of a
stranger's code runs, and only what is damaged is called damaged."""

import functools
import json
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from common import at_call, failed, interrupted, limit_on_files, listing, posix, refused, results

import cifar10_utils
from cifar10_utils import parse_batch
from training.files import read_checkpoint, write_checkpoint

# The folder of a run ------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_used_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my work")
    (tmp_path / "file").write_text("my work")
    before = listing(tmp_path)
    nowhere = "/proc/nowhere" if os.name == "posix" else "full"
    for name in ("full", "file", "file/deeper", "new/" + 300 * "a", nowhere):
        for flags in ([], ["--resume"]):
            assert str(tmp_path / name) in refused(run, name, *flags)
    (tmp_path / "runs").symlink_to("unmounted")
    for name in ("runs", "runs/a"):
        assert f"{tmp_path / 'runs'}: it is a link to nothing" in refused(run, name)
    assert listing(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a read-only file system
    for name in ("a", "new/deeper"):
        assert f"cannot write into {tmp_path / name}:" in refused(run, name)
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]


def test_an_empty_folder_is_taken_and_a_run_is_not_run_over(run, tmp_path):
    (tmp_path / "a").mkdir()
    before = listing(run("a"))
    assert "is not empty" in refused(run, "a")
    assert listing(tmp_path / "a") == before


@posix
def test_two_runs_cannot_share_a_folder(run, monkeypatch):
    def second():
        assert "not empty" in refused(run, "a")
        assert "under way" in refused(run, "a", "--resume")

    whole = results(run("whole"))
    at_call(run, "train_step", 3, second, monkeypatch)
    assert results(run("a")) == whole


@posix
def test_a_folder_moved_away_under_the_run(run, tmp_path, monkeypatch):
    """That is said, and what was there is as good as ever."""
    with monkeypatch.context() as patch:
        move = functools.partial(os.rename, tmp_path / "a", tmp_path / "b")
        at_call(run, "train_step", 7, move, patch)
        line = failed(run, "a")
    assert str(tmp_path / "a") in line and "No such file" in line
    assert not (tmp_path / "a").exists()
    assert results(run("b", "--resume")) == results(run("whole"))


def test_a_full_disk_is_called_that_and_what_was_recorded_stays(run, tmp_path):
    """The operating system's own refusal, in the middle of a checkpoint."""
    with limit_on_files(50_000):
        line = failed(run, "a")
    assert re.search("cannot use .*/a/checkpoint.*: File too large", line)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["metrics.csv", "run.json"]
    assert results(run("a", "--resume")) == results(run("whole"))


# Its files ----------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(run):
    """The path of the checkpoint of a run that was interrupted."""
    return next(interrupted(run, "a").glob("checkpoint.*"))


def test_a_damaged_checkpoint_is_refused(run, unfinished):
    whole = unfinished.read_bytes()
    half = len(whole) // 2  # in the middle of the weights
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    for damaged in (b"", b"my work", whole[:half], flipped):
        unfinished.write_bytes(damaged)
        assert f"{unfinished} is damaged" in refused(run, "a", "--resume")
        assert unfinished.read_bytes() == damaged
    unfinished.write_bytes(whole)
    assert results(run("a", "--resume")) == results(run("b"))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def with_weight(state, change):
    name, weight = next(iter(state["network"].items()))
    return state | {"network": {name: change(weight)}}


def with_names_alone(state):
    progress = json.loads(str(state["run"]["progress"]))
    progress["history"] = [*progress["history"]]
    return state | {"run": {"progress": json.dumps(progress)}}


STRANGE = {  # what a checkpoint holds in place of state, that of the run
    "weights of another shape": lambda state: with_weight(state, lambda weight: weight[:1]),
    "no network": lambda state: {"run": state["run"]},
    "code in an array": lambda state: with_weight(state, lambda _: np.array(Evil(), object)),
    "code": lambda state: with_weight(state, lambda _: Evil()),
    "no parts": lambda state: [],
    "the columns' names alone": with_names_alone,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strangers_checkpoint_is_refused(run, unfinished, kind, monkeypatch):
    monkeypatch.chdir(run.folder)
    write_checkpoint(unfinished, STRANGE[kind](read_checkpoint(unfinished)))
    before = listing(unfinished.parent)
    assert f"{unfinished} is damaged" in refused(run, "a", "--resume")
    assert listing(unfinished.parent) == before and not Path("ran").exists()


def test_the_checkpoint_of_another_run_is_refused(run, unfinished):
    """Its weights have the same shapes, so nothing else could tell."""
    shutil.copy(run("b", "--seed", "1") / unfinished.name, unfinished)
    before = listing(unfinished.parent)
    line = refused(run, "a", "--resume")
    assert "have different flags" in line and "damaged" not in line  # the run can be saved
    assert listing(unfinished.parent) == before


RECORDS = {
    "empty": lambda raw: b"",
    "truncated": lambda raw: raw[:-100],
    "an impossible flag": lambda raw: raw.replace(b'"batch_size": 20', b'"batch_size": {}'),
    "a list of frameworks": lambda raw: re.sub(rb'(?<="framework": )(.*),', rb"[\1],", raw),
    "no result": lambda raw: raw.replace(b'"test_accuracy"', b'"tset_accuracy"'),
}


@pytest.mark.parametrize("change", RECORDS)
def test_a_damaged_record_is_refused(run, change):
    path = run("a") / "run.json"
    raw = path.read_bytes()
    path.write_bytes(RECORDS[change](raw))
    before = listing(path.parent)
    line = refused(run.trainer.main, ["--resume", "--run_dir", str(path.parent)])
    assert re.search(r"run\.json.* is damaged", line) and len(line) < 1000
    assert listing(path.parent) == before and path.read_bytes() != raw


@posix
@pytest.mark.parametrize("name", ["checkpoint.*", "run.json"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(run, unfinished, name):
    (path,) = unfinished.parent.glob(name)
    path.unlink()
    path.mkdir()
    line = refused(run, "a", "--resume")
    assert str(path) in line and "Is a directory" in line and "damaged" not in line


@pytest.mark.parametrize("rows", [None, "", "step,train_loss\n\n0,2.3\n", 200_000 * "\0"])
def test_a_finished_run_without_a_sound_curve_is_refused(run, rows):
    path = run("a") / "metrics.csv"
    path.unlink() if rows is None else path.write_text(rows)
    assert str(path) in refused(run, "a", "--resume")


@pytest.mark.parametrize("error", [TypeError(), RuntimeError("CUDA error: illegal access")])
def test_an_error_of_the_program_is_not_called_damage(run, unfinished, monkeypatch, error):
    monkeypatch.setattr(run.trainer.MLP, "load_state_dict", Mock(side_effect=error))
    with pytest.raises(type(error)):
        run("a", "--resume")


@pytest.mark.parametrize("now, way", [("other", "begin a new run"), ("synthetic", "--data_dir")])
def test_a_run_on_other_data_is_refused(run, unfinished, monkeypatch, now, way):
    splits, before = cifar10_utils.make_splits, listing(unfinished.parent)
    monkeypatch.setattr(
        cifar10_utils, "make_splits", lambda _, *args, **kw: splits(now, *args, **kw)
    )
    line = refused(run, "a", "--resume")
    assert f"is on cifar10, not {now}" in line and way in line
    assert listing(unfinished.parent) == before


def test_want_of_memory_is_not_called_damage(run, unfinished, monkeypatch):
    error = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(run.trainer.MLP, "load_state_dict", Mock(side_effect=error))
    assert "error: out of memory" in failed(run, "a", "--resume")


# The folder of the data ---------------------------------------------------------------------------


def test_altered_data_is_refused_and_nothing_is_written(run, data):
    os.truncate(Path(data) / "data_batch_2", 1000)
    assert "data_batch_2: truncated or altered" in refused(run, "a")
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["posix.system", "numpy.memmap"])
def test_a_batch_with_other_names_than_the_official_ones_is_refused(name, data, tmp_path):
    before, official, after = (Path(data) / "data_batch_1").read_bytes().rpartition(b"numpy\ndtype")
    assert official
    (tmp_path / "batch").write_bytes(before + name.replace(".", "\n").encode() + after)
    with pytest.raises(ValueError, match=f"refused: {name}, "):
        parse_batch(tmp_path / "batch")
