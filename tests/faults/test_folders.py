"""A run's folder in trouble: in use, deleted under the run, on a full disk; only a damaged file is
called damaged."""

import os
import re
import shutil
import signal

import pytest
from common import at_call, failed, interrupted, listing, refused, results

posix = pytest.mark.skipif(os.name != "posix", reason="as it is on Unix")


def test_a_folder_that_cannot_be_used_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my work")
    (tmp_path / "file").write_text("my work")
    before = listing(tmp_path)
    nowhere = "/proc/nowhere" if os.name == "posix" else "full"
    for name in ("full", "file", "file/deeper", "new/" + 300 * "a", nowhere):
        for flags in ([], ["--resume"]):
            assert str(tmp_path / name) in refused(run, name, *flags)
    assert listing(tmp_path) == before


def test_an_empty_folder_is_taken_and_a_run_is_not_run_over(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".run.json.tmp").touch()  # what a kill leaves that came first of all
    before = listing(run("a"))
    assert "is not empty" in refused(run, "a")
    assert listing(tmp_path / "a") == before
    run(250 * "b")


def test_two_runs_cannot_share_a_folder(run, monkeypatch):
    def second():
        for flags in ([], ["--resume"]):
            assert re.search("not empty|under way", refused(run, "a", *flags))

    whole = results(run("whole"))
    at_call(run, "train_step", 3, second, monkeypatch)
    assert results(run("a")) == whole


@posix
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("call", [("evaluate", 2), ("train_step", 5), ("evaluate", 6)], ids=str)
def test_a_folder_moved_away_under_the_run(run, call, file, tmp_path, monkeypatch):
    """Or with a file in its place: that is said, and what was there is as good as ever."""

    def move():
        os.rename(tmp_path / "a", tmp_path / "b")
        if file:
            (tmp_path / "a").write_text("my work")

    with monkeypatch.context() as patch:
        at_call(run, *call, move, patch)
        line = failed(run, "a")
    assert str(tmp_path / "a") in line
    assert ("Not a directory" if file else "No such file") in line
    assert (tmp_path / "a").exists() == file
    assert not file or (tmp_path / "a").read_text() == "my work"
    assert results(run("b", "--resume")) == results(run("whole"))


@posix
def test_a_limit_on_the_size_of_files(run, tmp_path):
    """The operating system's own refusal, in the middle of writing a checkpoint."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        line = failed(run, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "checkpoint" in line and "File too large" in line
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["metrics.csv", "run.json"]
    assert results(run("a", "--resume")) == results(run("whole"))


# What is said of a file ---------------------------------------------------------------------------


@pytest.fixture
def unfinished(run):
    """The path of the checkpoint of a run that was interrupted."""
    return next(interrupted(run, "a").glob("checkpoint.*"))


def test_a_damaged_checkpoint_is_refused(run, unfinished):
    whole = unfinished.read_bytes()
    half = len(whole) // 2  # in the middle of the weights
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    for damaged in (b"", b"my work", whole[:100], whole[:-30], whole[:half], flipped):
        unfinished.write_bytes(damaged)
        line = refused(run, "a", "--resume")
        assert f"{unfinished} is damaged" in line
        assert unfinished.read_bytes() == damaged
    unfinished.write_bytes(whole)
    assert results(run("a", "--resume")) == results(run("b"))


@pytest.mark.parametrize("flags", [["--seed", "1"], ["--dnn_hidden_units", "9"]], ids=str)
def test_the_checkpoint_of_another_run_is_refused(run, unfinished, flags):
    """Of the same shape, so that nothing else could tell, and of another one."""
    other = run("b", *flags)
    shutil.copy(other / unfinished.name, unfinished)
    before = listing(unfinished.parent)
    line = refused(run, "a", "--resume")
    assert "have different flags" in line and "damaged" not in line  # the run can be saved
    assert listing(unfinished.parent) == before


RECORDS = [
    *(b"", b"{", b"[]", b'{"status": "completed"}', b"\xff\xfe", b'{"flags": 1}'),
    lambda raw: raw[:-100],
    lambda raw: raw.replace(b'"seed": 42', b'"seed": "x\\n"'),
    lambda raw: raw.replace(b'"batch_size": 20', b'"batch_size": {}'),
    lambda raw: raw.replace(b'"test_accuracy"', b'"tset_accuracy"'),
    lambda raw: raw.replace(b'"status"', b'"state"'),
    lambda raw: raw.replace(b'"dataset"', b'"data"'),
    lambda raw: raw.replace(b'"train_seconds": ', b'"train_seconds": null, "was": '),
]


@pytest.mark.parametrize("change", RECORDS, ids=range(len(RECORDS)))
def test_a_damaged_record_is_refused(run, change):
    folder = run("a")
    raw = (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(change(raw) if callable(change) else change)
    assert (folder / "run.json").read_bytes() != raw
    before = listing(folder)
    line = refused(run.trainer.main, ["--resume", "--run_dir", str(folder)])
    assert re.search(r"run\.json|was made by", line) and len(line) < 1000
    assert listing(folder) == before


@posix
@pytest.mark.parametrize("name", ["checkpoint.*", "run.json"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(run, unfinished, name):
    (path,) = unfinished.parent.glob(name)
    path.unlink()
    path.mkdir()
    line = refused(run, "a", "--resume")
    assert str(path) in line and "Is a directory" in line and "damaged" not in line


@pytest.mark.parametrize("rows", [None, "", "step,train_loss\n\n0,2.3\n"])
def test_a_finished_run_without_a_sound_curve_is_refused(run, rows):
    path = run("a") / "metrics.csv"
    path.unlink() if rows is None else path.write_text(rows)
    assert str(path) in refused(run, "a", "--resume")


@pytest.mark.parametrize("error", [TypeError, AttributeError, ZeroDivisionError, MemoryError])
def test_an_error_of_the_program_is_not_called_damage(run, unfinished, error, monkeypatch):
    def wrong(*_):
        raise error("a mistake in the program")

    monkeypatch.setattr(run.trainer.MLP, "load_state_dict", wrong)
    if error is MemoryError:
        assert "out of memory" in failed(run, "a", "--resume")
    else:
        with pytest.raises(error):
            run("a", "--resume")
