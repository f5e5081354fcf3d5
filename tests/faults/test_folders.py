"""A run's folder in trouble: in use, deleted under the run, on a full disk."""

import errno
import io
import os
import shutil
import signal

import pytest
from common import failed, interrupted, listing, outcome, record_of, refused, rows_of

from training import files
from training.run import Run

resource = pytest.importorskip("resource", reason="limits of file size are those of Unix")


def test_a_run_folder_in_use_is_refused_and_left_alone(trainer, data, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my work")
    (tmp_path / "file").write_text("my work")
    before = listing(tmp_path)
    for name, complaint in (("full", "is not empty"), ("file", "Not a directory")):
        argv = ["--data_dir", data, "--run_dir", str(tmp_path / name)]
        assert complaint in refused(trainer.main, argv)
    argv = ["--data_dir", data, "--batch_size", "5", "--run_dir", str(tmp_path / "file" / "deeper")]
    assert "/file/deeper: Not a directory" in refused(trainer.main, argv)
    argv[-1] = "/proc/nowhere"
    assert "cannot use --run_dir /proc/nowhere" in refused(trainer.main, argv)
    assert listing(tmp_path) == before


def test_a_run_folder_that_holds_no_run_is_taken_and_stays_the_same_folder(run, tmp_path):
    """Also one whose first run was killed while it wrote run.json."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".run.json.tmp").touch()
    before = (tmp_path / "a").stat().st_ino
    assert run("a").stat().st_ino == before
    assert (tmp_path / "a" / "run.json").exists()
    run(250 * "b")


def test_two_runs_cannot_share_a_folder(run, tmp_path, monkeypatch):
    add_row = Run.add_row

    def second(self, *args):
        monkeypatch.setattr(Run, "add_row", add_row)
        assert "another run is under way" in refused(run, "a", "--resume")
        return add_row(self, *args)

    monkeypatch.setattr(Run, "add_row", second)
    run("a")


@pytest.mark.parametrize("first", [True, False])
def test_two_runs_that_start_at_once_in_a_new_folder(run, first, tmp_path, monkeypatch):
    """The first to rename its folder has it at once, the second leaves nothing."""
    replace = os.replace

    def meeting(source, target):
        if target == tmp_path / "a":
            monkeypatch.setattr(os, "replace", replace)
            if first:
                replace(source, target)
                assert "another run is under way" in refused(run, "a", "--resume")
                return
            assert outcome(run, "a")[0] == 0
        replace(source, target)

    monkeypatch.setattr(os, "replace", meeting)
    if first:
        run("a")
    else:
        assert "is not empty" in refused(run, "a")
    assert record_of(tmp_path / "a")["status"] == "completed"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("step", [0, 5, 12])
def test_a_folder_deleted_under_the_run(run, step, file, tmp_path, monkeypatch):
    """Or moved away, and a file put in its place."""
    add_row = Run.add_row

    def delete(self, *args):
        if self.step == step:
            os.rename(self.folder.path, tmp_path / "elsewhere")
            if file:
                self.folder.path.write_text("my work")
        return add_row(self, *args)

    monkeypatch.setattr(Run, "add_row", delete)
    line = failed(run, "a")
    assert "cannot continue in" in line and ("Not a directory" if file else "No such file") in line
    assert (tmp_path / "a").exists() == file
    assert not file or (tmp_path / "a").read_text() == "my work"
    os.rename(tmp_path / "elsewhere", tmp_path / "b")  # and what was there is as good as ever
    monkeypatch.setattr(Run, "add_row", add_row)
    assert rows_of(run("b", "--resume")) == rows_of(run("whole"))


def test_a_limit_on_the_size_of_files(run, tmp_path):
    """The operating system's own refusal, in the middle of writing a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        line = failed(run, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot continue in" in line and "File too large" in line
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["metrics.csv", "run.json"]


class Full(io.BytesIO):
    """A file on a full disk: what is in its buffer is refused when it is closed."""

    def __exit__(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(room):
    """open() on a disk that has room for so many more files."""
    left = iter(range(room))

    def opened(path, mode="r"):
        if "x" not in mode or next(left, None) is not None:
            return open(path, mode)
        path.touch()
        return Full()

    return opened


@pytest.mark.parametrize("flags", [[], ["--validation_size", "15"]], ids=str)
def test_a_disk_that_is_full_at_any_write(run, flags, tmp_path, monkeypatch):
    whole = rows_of(run("whole", *flags))
    folder = tmp_path / "a"
    for room in range(11):  # such a run writes twelve files
        with monkeypatch.context() as patch:
            patch.setattr(files, "open", full_disk(room), raising=False)
            status, line = outcome(run, "a", *flags)
        assert "No space left on device" in line
        if room == 0:
            assert status == 2 and not folder.exists()
            continue
        assert status == 1 and "cannot continue in" in line
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        assert room == 1 or rows_of(folder) == whole[: room // 2][: len(whole)]
        with monkeypatch.context() as patch:
            patch.setattr(files, "open", full_disk(0), raising=False)
            assert "cannot use --run_dir" in refused(run, "a", *flags, "--resume")
        assert rows_of(run("a", *flags, "--resume")) == whole
        shutil.rmtree(folder)


def test_ctrl_c_on_a_full_disk(run, tmp_path, monkeypatch):
    def interrupt(self, *_):
        monkeypatch.setattr(files, "open", full_disk(0), raising=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", interrupt)
    assert "the last checkpoint is saved" in interrupted(run, "a")
