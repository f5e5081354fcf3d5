"""The trainers in process, on a data folder of fifty images: flags, files, exit status, resume."""

import csv
import ctypes
import errno
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from common import listing

import cifar10_utils
import train_mlp_numpy
import train_mlp_pytorch
import training

TRAINERS = {"numpy": train_mlp_numpy, "pytorch": train_mlp_pytorch}
torch.set_num_threads(1)  # networks as small as those here only wait for more


@pytest.fixture(params=TRAINERS)
def trainer(request):
    return TRAINERS[request.param]


@pytest.fixture(autouse=True)
def curves_are_drawn_where_they_are_tested(request, monkeypatch):
    if request.function is not test_the_files_of_a_run:
        monkeypatch.setattr(training, "draw_curves", lambda *_: None)


@pytest.fixture
def run(trainer, data, tmp_path):
    """Trains a small network into the folder `name`. Returns the folder."""

    def run(name, *flags, steps=12):
        trainer.main(
            ["--data_dir", data, "--dnn_hidden_units", "8", "--max_steps", str(steps)]
            + ["--batch_size", "20", "--eval_freq", "5", "--run_dir", str(tmp_path / name), *flags]
        )
        return tmp_path / name

    return run


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def refused(main, argv, capsys):
    """What main says when it refuses argv: status 2 and one line after argparse's usage."""
    with pytest.raises(SystemExit) as exit:
        main(argv)
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert out == "" and "Traceback" not in err
    usage, line = err[: err.rfind("\n", 0, -1) + 1], err.splitlines()[-1]
    assert not usage or usage.startswith("usage: ")
    assert ": error: " in line
    return line


# What a run leaves


def test_the_files_of_a_run(run, capsys):
    folder = run("a")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["run.json", "metrics.csv", "curves.png", next(folder.glob("checkpoint.*")).name]
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "completed" and record["dataset"] == "cifar10"
    assert record["seed"] == 42 and record["flags"]["batch_size"] == 20 and record["steps"] == 12
    assert record["versions"]["numpy"] == np.__version__
    assert 0 < record["train_seconds"] < 5 and 30 < record["peak_rss_mb"] < 5000
    rows = rows_of(folder)
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 12]
    assert float(rows[-1]["test_accuracy"]) == record["test_accuracy"]
    assert float(rows[-1]["test_loss"]) == record["test_loss"]
    assert float(rows[0]["test_loss"]) == pytest.approx(np.log(10), rel=1e-6)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.splitlines()[-1]
    pattern = r"test accuracy \d\.\d{4} \(cifar10, 12 steps, \d+\.\d s\)"
    assert re.fullmatch(pattern, last) and f"{record['test_accuracy']:.4f}" in last


def test_main_returns_the_history(trainer, data, tmp_path):
    history = trainer.main(
        ["--data_dir", data, "--max_steps", "3", "--batch_size", "50", "--run_dir"]
        + [str(tmp_path / "a")]
    )
    assert history["step"] == [0, 3]
    assert history["train_loss"][1] < history["train_loss"][0]


def test_train_columns_are_means_since_the_row_before(run):
    every = rows_of(run("a", "--eval_freq", "1"))
    some = rows_of(run("b"))
    for name in ("train_loss", "train_accuracy"):
        values = [float(row[name]) for row in every]
        means = [values[0], np.mean(values[1:6]), np.mean(values[6:11]), np.mean(values[11:13])]
        np.testing.assert_allclose([float(row[name]) for row in some], means)
    assert every[0]["train_loss"] == every[1]["train_loss"]  # both: first batch, first weights
    assert some[-1]["test_loss"] == every[-1]["test_loss"]  # evaluation does not disturb training


def test_the_same_seed_gives_the_same_file_and_another_does_not(run):
    first, same = run("a", "--seed", "5"), run("b", "--seed", "5")
    other = run("c", "--seed", "6")
    assert (first / "metrics.csv").read_bytes() == (same / "metrics.csv").read_bytes()
    assert (first / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes()


def test_the_default_run_folder(trainer, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer.main(["--data_dir", data, "--max_steps", "1", "--batch_size", "50"])
    trainer.main(["--data_dir", data, "--max_steps", "1", "--batch_size", "50"])
    kind = next(name for name, module in TRAINERS.items() if module is trainer)
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2 and all(
        re.fullmatch(rf"{kind}-\d{{8}}-\d{{6}}-\d{{6}}", n) for n in names
    )


def test_validation_replaces_the_test_set_until_the_end(run, capsys):
    folder = run("a", "--validation_size", "15", "--learning_rate", "0.05")
    rows = rows_of(folder)
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    record = json.loads((folder / "run.json").read_text())
    assert 0 <= record["test_accuracy"] <= 1 and record["test_loss"] > 0


def test_the_best_weights_on_validation_are_restored(trainer, data, tmp_path, monkeypatch):
    """The accuracies on validation are dictated: step 2 is best, so its weights must be tested."""
    seen = []
    accuracies = iter([0.1, 0.2, 0.9, 0.3, 0.9])

    def evaluate(network, dataset, *_):
        weights = trainer.get_weights(network)
        seen.append((getattr(dataset, "dataset", dataset).num_examples, weights))
        return 1.0, next(accuracies, 0.5)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    trainer.main(
        ["--data_dir", data, "--validation_size", "20", "--max_steps", "4", "--eval_freq", "1"]
        + ["--batch_size", "10", "--run_dir", str(tmp_path / "a")]
    )
    assert [n for n, _ in seen] == [20] * 5 + [10]  # the test set once, at the end
    equal = [all((w[k] == seen[-1][1][k]).all() for k in w) for _, w in seen]
    assert equal == [False, False, True, False, False, True]


def test_an_empty_list_of_units_is_logistic_regression(trainer, data, tmp_path):
    history = trainer.main(
        ["--data_dir", data, "--dnn_hidden_units", "", "--max_steps", "30", "--batch_size", "50"]
        + ["--learning_rate", "1e-4", "--run_dir", str(tmp_path / "a")]
    )
    assert history["train_loss"][-1] < 2


def test_an_argument_file(trainer, data, tmp_path):
    (tmp_path / "flags.txt").write_text("# a comment\n--max_steps 2  # another\n--batch_size=50\n")
    run = str(tmp_path / "a")
    history = trainer.main([f"@{tmp_path}/flags.txt", "--data_dir", data, "--run_dir", run])
    assert history["step"] == [0, 2]


# Bad input


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--learning-rate", "0.1"], "--learning-rate"),
        (["--learn", "0.1"], "--learn"),
        (["--nonsense"], "--nonsense"),
        (["stray"], "stray"),
        (["@missing.txt"], "missing.txt"),
        (["@\0"], "unreadable argument file"),
        *(([f"--{n}=--"], f"--{n}: '--' is no") for n in ("seed", "dnn_hidden_units", "run_dir")),
        *(
            (["--dnn_hidden_units", u], u)
            for u in ("100,x", "0", "-5", "100,,5", "1e3", ",", "5.0")
        ),
        (["--dnn_hidden_units", "999999999"], "999999999"),
        *(([f"--learning_rate={r}"], r) for r in ("-1", "0", "nan", "inf", "-inf", "x", "")),
        *((["--batch_size", b], b) for b in ("0", "2.5", "-1", "x")),
        (["--batch_size", "51"], "51 is above 50"),
        (["--batch_size", "31", "--validation_size", "20"], "31 is above 30"),
        *((["--seed", s], s) for s in ("-1", "1.5", "4294967296")),
        *((["--max_steps", s], s) for s in ("0", "-3", "1e3")),
        *((["--eval_freq", s], s) for s in ("0", "-3", "1.0")),
        *((["--validation_size", s], s) for s in ("-1", "50", "51", "x")),
        (["--synthetic"], "--data_dir"),
        (["--run_dir", ""], "names no folder"),
        (["--data_dir", ""], "names no folder"),
        (["--run_dir", "new/" + 300 * "a"], "File name too long"),
        (["--resume"], "--run_dir"),
    ],
    ids=str,
)
def test_bad_flags_are_refused_and_nothing_is_written(
    trainer, flags, named, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = refused(trainer.main, ["--data_dir", data, "--batch_size", "10", *flags], capsys)
    assert named in line
    assert list(tmp_path.iterdir()) == []


def spoil(folder, how):
    if how == "missing":
        return str(folder / "typo")
    if how == "empty":
        (folder / "empty").mkdir()
        return str(folder / "empty")
    if how == "a file":
        return str(folder / "data_batch_1")
    if how == "incomplete":
        (folder / "test_batch").unlink()
    if how == "truncated":
        os.truncate(folder / "data_batch_2", 1000)
    if how == "altered":
        (folder / "data_batch_5").write_bytes(b"x" * 1000)
    return str(folder)


@pytest.mark.parametrize(
    "how, named",
    [
        ("missing", "no CIFAR-10 in"),
        ("empty", "no CIFAR-10 in"),
        ("a file", "is a file"),
        ("incomplete", "lacks test_batch"),
        ("truncated", "data_batch_2: truncated or altered"),
        ("altered", "data_batch_5: truncated or altered"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_written(trainer, how, named, data, tmp_path, capsys):
    folder = spoil(Path(data), how)
    line = refused(trainer.main, ["--data_dir", folder, "--run_dir", str(tmp_path / "a")], capsys)
    assert named in line
    assert list(tmp_path.iterdir()) == []


def test_a_malicious_batch_with_the_right_sum_is_refused(trainer, data, tmp_path, capsys):
    evil = b"cos\nmkdir\n(S'%s'\ntR." % str(tmp_path / "ran").encode()
    (Path(data) / "data_batch_1").write_bytes(evil)
    cifar10_utils.MD5["data_batch_1"] = cifar10_utils.md5_of(evil)
    line = refused(trainer.main, ["--data_dir", data, "--run_dir", str(tmp_path / "a")], capsys)
    assert "data_batch_1" in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_in_use_is_refused_and_left_alone(trainer, data, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my work")
    (tmp_path / "file").write_text("my work")
    before = listing(tmp_path)
    for name, complaint in (("full", "is not empty"), ("file", "is a file")):
        argv = ["--data_dir", data, "--run_dir", str(tmp_path / name)]
        assert complaint in refused(trainer.main, argv, capsys)
    argv = ["--data_dir", data, "--batch_size", "5", "--run_dir", str(tmp_path / "file" / "deeper")]
    assert "/file: File exists" in refused(trainer.main, argv, capsys)
    argv[-1] = "/proc/nowhere"
    assert "cannot use --run_dir /proc/nowhere" in refused(trainer.main, argv, capsys)
    assert listing(tmp_path) == before


def test_an_empty_run_folder_is_taken(run, tmp_path):
    (tmp_path / "a").mkdir()
    assert (run("a") / "run.json").exists()


def test_a_run_folder_that_exists_stays_the_same_folder(run, tmp_path):
    (tmp_path / "a").mkdir()
    before = (tmp_path / "a").stat().st_ino
    assert run("a").stat().st_ino == before
    run(250 * "b")


# Resume


class Killed(BaseException):
    """Ends a run where it stands, as a kill would: no handler of the program catches it."""


@pytest.mark.parametrize("flags", [[], ["--validation_size", "15", "--learning_rate", "0.05"]])
def test_a_run_killed_at_any_write_ends_the_same(run, flags, tmp_path, monkeypatch):
    """Dies at the 1st, 2nd, 3rd ... file that takes its place, before or after the rename."""
    whole = run("whole", *flags)
    replace, left = os.replace, []

    def dying(source, target):
        left[0] -= 1
        if left[0] > 0:
            return replace(source, target)
        if left[1]:
            replace(source, target)
        raise Killed

    for moment in range(1, 12):  # eleven files take their place in such a run
        for after in (False, True):
            name = f"{moment}-{after}"
            left[:] = [moment, after]
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(os, "replace", dying)
                run(name, *flags)
            run(name, *flags, "--resume")
            expected = {p: c for p, c in listing(whole).items() if p.suffix == ".csv"}
            assert {p: c for p, c in listing(tmp_path / name).items() if p.suffix == ".csv"} == (
                expected
            )
            assert sorted(listing(tmp_path / name)) == sorted(listing(whole))
            one, two = (json.loads((f / "run.json").read_text()) for f in (whole, tmp_path / name))
            assert (one["test_loss"], one["steps"]) == (two["test_loss"], two["steps"])


def test_ctrl_c_saves_everything_and_resume_goes_on(run, capsys, tmp_path, monkeypatch):
    whole = run("whole")
    tally = training.Run.tally

    def interrupt(self, *args):
        tally(self, *args)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(training.Run, "tally", interrupt)
        run("a")
    assert exit.value.code == 130
    assert "step 7 of 12 is saved" in capsys.readouterr().err.splitlines()[-1]
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("interrupted", 7)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = []
    monkeypatch.setattr(training.Run, "tally", lambda self, *a: (steps.append(self.step),
                                                                 tally(self, *a)))  # fmt: skip
    assert (run("a", "--resume") / "metrics.csv").read_bytes() == (
        whole / "metrics.csv"
    ).read_bytes()
    assert steps == [8, 9, 10, 11, 12]


def test_a_finished_run_prints_its_line_again(run, capsys):
    folder = run("a")
    first = capsys.readouterr().out.splitlines()[-1]
    before = listing(folder)
    run("a", "--resume")
    assert capsys.readouterr().out.splitlines() == [first]
    assert listing(folder) == before


def test_resume_refuses_what_it_cannot_continue(run, data, tmp_path, trainer, capsys):
    folder = run("a", steps=10)
    base = ["--data_dir", data, "--dnn_hidden_units", "8", "--batch_size", "20", "--eval_freq", "5"]
    base += ["--resume", "--run_dir"]
    before = listing(folder)
    capsys.readouterr()
    for flags, complaint in (
        ([str(tmp_path / "none")], "no .*none/run.json"),
        ([data], "no .*run.json"),
        ([str(folder), "--max_steps", "20"], "--max_steps is 20 now, but .* began with 10"),
        ([str(folder), "--max_steps", "10", "--seed", "1"], "--seed is 1 now, but .* with 42"),
        (
            [str(folder), "--max_steps", "10", "--dnn_hidden_units", "8,8"],
            "--dnn_hidden_units is 8,8 now, but .* with 8:",
        ),
    ):
        assert re.search(complaint, refused(trainer.main, [*base, *flags], capsys))
    assert listing(folder) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"flags": 3}', "\xff" * 9])
def test_a_damaged_record_is_refused(run, trainer, content, capsys, monkeypatch):
    folder = run("a")
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    before = listing(folder)
    capsys.readouterr()
    assert "run.json or metrics.csv in" in refused(lambda _: run("a", "--resume"), [], capsys)
    assert listing(folder) == before


def test_a_damaged_checkpoint_is_refused(run, capsys, monkeypatch):
    def stop(self, *args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.Run, "finish", stop)
        run("a")
    folder = run("b")
    checkpoint = next(folder.with_name("a").glob("checkpoint.*"))
    whole = checkpoint.read_bytes()
    capsys.readouterr()
    for damaged in (b"", whole[:100], whole[:-30], whole[: len(whole) // 2] + b"y" * 500):
        checkpoint.write_bytes(damaged)
        assert "is damaged" in refused(lambda _: run("a", "--resume"), [], capsys)
    checkpoint.write_bytes(whole)
    assert (run("a", "--resume") / "metrics.csv").read_bytes() == (
        folder / "metrics.csv"
    ).read_bytes()


def test_two_runs_cannot_share_a_folder(run, tmp_path, monkeypatch, capsys):
    add_row = training.Run.add_row

    def second(self, *args):
        monkeypatch.setattr(training.Run, "add_row", add_row)
        capsys.readouterr()
        assert "another run is under way" in refused(lambda _: run("a", "--resume"), [], capsys)
        return add_row(self, *args)

    monkeypatch.setattr(training.Run, "add_row", second)
    run("a")


# A run that fails


def failure(run, capsys, *flags):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        run("a", *flags)
    assert exit.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_loss_that_is_not_finite_stops_the_run(run, capsys, tmp_path):
    line = failure(run, capsys, "--learning_rate", "1e38")
    assert re.search(
        r"the loss is (nan|inf) at step \d with --learning_rate 1e\+38: try a smaller", line
    )
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["status"] == "failed"
    assert (tmp_path / "a" / "metrics.csv").exists()


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("step", [0, 5, 12])
def test_a_folder_deleted_under_the_run(run, step, file, capsys, tmp_path, monkeypatch):
    """Or moved away, and a file put in its place."""
    add_row = training.Run.add_row

    def delete(self, *args):
        if self.step == step:
            os.rename(self.path, tmp_path / "elsewhere")
            if file:
                self.path.write_text("my work")
        return add_row(self, *args)

    monkeypatch.setattr(training.Run, "add_row", delete)
    line = failure(run, capsys)
    assert "cannot go on in" in line and ("Not a directory" if file else "No such file") in line
    assert (tmp_path / "a").exists() == file
    assert not file or (tmp_path / "a").read_text() == "my work"
    os.rename(tmp_path / "elsewhere", tmp_path / "b")  # and what was there is as good as ever
    monkeypatch.setattr(training.Run, "add_row", add_row)
    assert rows_of(run("b", "--resume")) == rows_of(run("whole"))


def test_a_limit_on_the_size_of_files(run, capsys, tmp_path):
    """The operating system's own refusal, in the middle of writing a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        line = failure(run, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot go on in" in line and "File too large" in line
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["metrics.csv", "run.json"]


def test_ctrl_c_during_evaluation_says_how_to_go_on(run, capsys, tmp_path, monkeypatch):
    def interrupt(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "finish", interrupt)
    with pytest.raises(SystemExit) as exit:
        run("a")
    assert exit.value.code == 130
    assert "the last checkpoint is saved; to go on: the same" in capsys.readouterr().err
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "interrupted"


def test_a_run_of_the_other_trainer_is_refused(run, trainer, data, tmp_path, capsys):
    folder = run("a")
    other = next(module for module in TRAINERS.values() if module is not trainer)
    capsys.readouterr()
    line = refused(other.main, ["--data_dir", data, "--resume", "--run_dir", str(folder)], capsys)
    assert f"is one of {trainer.__name__}.py" in line


class FullDisk:
    """open() on a disk that has room for so many files and half of one more."""

    def __init__(self, files):
        self.left = files

    def __call__(self, path, mode="r"):
        if "x" in mode:
            self.left -= 1
        return open(path, mode) if "x" not in mode or self.left >= 0 else self.HalfAFile(path)

    class HalfAFile(io.BytesIO):
        def __init__(self, path):
            super().__init__()
            path.touch()

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("flags", [[], ["--validation_size", "15"]], ids=str)
def test_a_disk_that_is_full_at_any_write(run, flags, capsys, tmp_path, monkeypatch):
    whole = rows_of(run("whole", *flags))
    for files in range(10):  # eleven files are written into such a run's folder once it is there
        with monkeypatch.context() as patch:
            patch.setattr(training, "open", FullDisk(files), raising=False)
            line = failure(run, capsys, *flags)
        assert "cannot go on in" in line and "No space left on device" in line
        folder = tmp_path / "a"
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        assert files == 0 or rows_of(folder) == whole[: (files + 1) // 2][: len(whole)]
        assert rows_of(run("a", *flags, "--resume")) == whole
        training.shutil.rmtree(folder)


def test_ctrl_c_on_a_full_disk(run, capsys, tmp_path, monkeypatch):
    def interrupt(self, *_):
        monkeypatch.setattr(training, "open", FullDisk(0), raising=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "finish", interrupt)
    with pytest.raises(SystemExit) as exit:
        run("a")
    assert exit.value.code == 130
    assert "the last checkpoint is saved" in capsys.readouterr().err.splitlines()[-1]


def test_a_disk_of_any_size(run, capsys, tmp_path):
    """A real one, in memory, that is full sooner or later; with more room the run goes on."""
    whole, disk = run("whole"), tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    statuses = []
    try:
        (disk / "mine").write_bytes(bytes(4096))
        for size in (4, 8, 12, 20, 100, 200, 300, 400, 2000):
            for room in (size, 9000):
                subprocess.run(["mount", "-o", f"remount,size={room}k", disk], check=True)
                resume = ["--resume"] * (disk / "a" / "run.json").exists()
                try:
                    run("disk/a", *resume)
                    statuses.append(0)
                except SystemExit as exit:
                    statuses.append(exit.code)
                    line = capsys.readouterr().err.splitlines()[-1]
                    assert "No space left on device" in line
                    assert exit.code == 1 or not (disk / "a").exists()
            assert rows_of(disk / "a") == rows_of(whole)
            training.shutil.rmtree(disk / "a")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert statuses[-3:] == [0, 0, 0] and {1, 2} <= set(statuses)


@contextmanager
def as_anybody():
    """Takes from root, for a while, the right to write where permissions forbid it."""
    libc, held = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 8)(0x20080522, 0)
    data = ctypes.byref(held, 8)
    assert libc.capget(held, data) == 0
    effective = held[2]
    held[2] &= ~(1 << 1)  # CAP_DAC_OVERRIDE
    assert libc.capset(held, data) == 0
    try:
        yield
    finally:
        held[2] = effective
        assert libc.capset(held, data) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's rights away as Linux does")
def test_a_read_only_folder(run, trainer, capsys, tmp_path, monkeypatch):
    whole = run("whole")
    shut = tmp_path / "shut"
    (shut / "empty").mkdir(parents=True)
    add_row = training.Run.add_row

    def shut_down(self, *args):
        if self.step == 5:
            self.path.chmod(0o500)
        return add_row(self, *args)

    with as_anybody(), monkeypatch.context() as patch:
        patch.setattr(training.Run, "add_row", shut_down)
        line = failure(run, capsys)
        assert "cannot go on in" in line and "Permission denied" in line
    before = listing(tmp_path)
    for folder in (shut, shut / "empty"):
        folder.chmod(0o500)
    with as_anybody():
        for name, *flags in (["shut/empty"], ["shut/new"], ["a", "--resume"]):
            line = refused(lambda _, n=name, f=flags: run(n, *f), [], capsys)
            assert "cannot use --run_dir" in line and "Permission denied" in line
    for folder in (shut, shut / "empty", tmp_path / "a"):
        folder.chmod(0o700)
    assert listing(tmp_path) == before
    assert rows_of(run("a", "--resume")) == rows_of(whole)
