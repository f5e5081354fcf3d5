"""Training in several processes under torchrun, on the CPU."""

import os
import signal
import subprocess
import sys
import time

import pytest
from common import ROOT, record_of, refused, results, rows_of, wait_for

import train_mlp_pytorch
from training import flags
from training.data import load_data
from training.errors import UsageError

if sys.platform == "win32":
    pytest.skip("torchrun and signals as they are on Unix", allow_module_level=True)
PYTORCH = "train_mlp_pytorch.py"
FLAGS = ["--synthetic", "--max_steps", 30, "--eval_freq", 10]


def end(process):
    """Kills torchrun and what it started, each of which has a session of its own."""
    if process.poll() is None:
        for pid in (*children_of(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def torchrun(*flags, status=0, wait=True):
    """Runs the trainer in two processes. Returns stdout and stderr, or the process to wait for."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*command, ROOT / PYTORCH, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if not wait:
        return process
    try:
        out, err = process.communicate(timeout=400)
    finally:
        end(process)
    assert process.returncode == status, err
    return out, err


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of a run in two processes, and what it printed."""
    folder = tmp_path_factory.mktemp("processes") / "two"
    return folder, *torchrun(*FLAGS, "--run_dir", folder)


def test_two_processes_end_where_one_does(two, tmp_path, no_curves):
    folder, out, err = two
    train_mlp_pytorch.main([*map(str, FLAGS), "--run_dir", str(tmp_path / "one")])
    for one, both in zip(rows_of(tmp_path / "one"), rows_of(folder), strict=True):
        for column in one:
            tolerance = 2e-4 if column.endswith("accuracy") else 1e-4
            assert float(one[column]) == pytest.approx(float(both[column]), abs=tolerance)
    assert out.count("test accuracy") == 1
    assert err.count("SYNTHETIC DATA") == 2
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoint.pt", "curves.png", "metrics.csv", "run.json"]


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


RANKS = [[1], *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in ([0], [0, 1]))]


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_a_killed_process_ends_all_and_resume_ends_the_same(ranks, two, tmp_path):
    folder = tmp_path / "killed"
    process = torchrun(*FLAGS, "--run_dir", folder, wait=False)
    try:
        wait_for(lambda: len(rows_of(folder)) >= 2)
        children = sorted(children_of(process.pid))
        for rank in ranks:
            os.kill(children[rank], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode != 0
    assert "--resume goes on from the last checkpoint" in err or "SIGKILL" in err or "-9" in err
    assert record_of(folder)["status"] != "completed"
    torchrun(*FLAGS, "--run_dir", folder, "--resume")
    assert results(folder) == results(two[0])


def test_bad_input_is_reported_once(tmp_path):
    """What the first process finds, and what each of them finds."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for argv, complaint in (
        (["--run_dir", tmp_path / "full"], "is not empty"),
        (["--batch_size", "201", "--run_dir", tmp_path / "new"], "2 equal shares"),
    ):
        _, err = torchrun("--synthetic", *argv, status=1)  # torchrun's own, for any failure
        assert err.count(complaint) == err.count("error: ") == 1
        assert "exitcode  : 2" in err
        assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(("flags", "status"), [(["--max_steps", "2"], 0), (["--shift", "32"], 2)])
def test_a_process_of_torchrun_ends_at_once(flags, status, tmp_path):
    """What PyTorch's threads do at random as Python ends, an exit handler does here: abort."""
    program = "import atexit, os, runpy; atexit.register(os.abort)"
    program += f"; runpy.run_path({str(ROOT / PYTORCH)!r}, run_name='__main__')"
    argv = ["--synthetic", "--run_dir", tmp_path / "run", *flags]
    ended = subprocess.run(
        [sys.executable, "-c", program, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == status, ended.stderr
    assert ("test accuracy" in ended.stdout) == (status == 0)
    assert ended.stderr.count("error: ") == (status != 0)


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [(5, "")])])
def test_a_process_but_the_first_waits_before_it_says_what_failed(rank, waits, monkeypatch):
    """By then torchrun has ended it, if the first process failed too and said so."""
    slept = []  # how long, and what had been said by then
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(time, "sleep", lambda s: slept.append((s, sys.stderr.getvalue())))
    assert "'32'" in refused(train_mlp_pytorch.main, ["--shift", "32"])
    assert slept == waits


def test_a_process_without_the_data_of_the_first_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = flags.parse(train_mlp_pytorch.make_parser(), [])
    with pytest.raises(UsageError, match="no CIFAR-10 in"):
        load_data(
            args, on_main_process=lambda action: "cifar10"
        )  # where the first process finds it
