"""Training in several processes under torchrun, on the CPU."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_cli import PYTORCH, ROOT, record_of, rows_of, train, wait_for

FLAGS = ["--synthetic", "--max_steps", 100, "--eval_freq", 50]


def torchrun(*flags, status=0, wait=True):
    """Runs the trainer in two processes. Returns stdout and stderr, or the process to wait for."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*command, ROOT / PYTORCH, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    if not wait:
        return process
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, err
    return out, err


def assert_same_but_for_rounding(one, two):
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two, strict=True):
        for column in a:
            tolerance = 2e-4 if column.endswith("accuracy") else 1e-4
            assert float(a[column]) == pytest.approx(float(b[column]), abs=tolerance)


def test_two_processes_end_where_one_does(tmp_path):
    train(PYTORCH, *FLAGS, "--run_dir", tmp_path / "one")
    out, err = torchrun(*FLAGS, "--run_dir", tmp_path / "two")
    assert_same_but_for_rounding(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"))
    assert out.count("test accuracy") == 1
    assert err.count("SYNTHETIC DATA") == 2
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["checkpoint.pt", "curves.png", "metrics.csv", "run.json"]


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_all_and_resume_goes_on(rank, tmp_path):
    flags = [*FLAGS[:1], "--max_steps", 200, "--eval_freq", 20, "--run_dir", tmp_path / "two"]
    process = torchrun(*flags, wait=False)
    try:
        wait_for(lambda: len(rows_of(tmp_path / "two")) >= 2)
        os.kill(sorted(children_of(process.pid))[rank], signal.SIGKILL)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "--resume goes on from the last checkpoint" in err or "SIGKILL" in err or "-9" in err
    assert record_of(tmp_path / "two")["status"] != "completed"
    torchrun(*flags, "--resume")
    assert record_of(tmp_path / "two")["status"] == "completed"
    rows = rows_of(tmp_path / "two")
    assert [int(row["step"]) for row in rows] == list(range(0, 201, 20))
    assert np.isfinite([float(row["train_loss"]) for row in rows]).all()


def test_bad_input_is_reported_once(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for flags, complaint in (
        (["--run_dir", tmp_path / "full"], "is not empty"),
        (["--run_dir", "/proc/nowhere/x"], "cannot use --run_dir /proc/nowhere/x"),
        (["--batch_size", "201", "--run_dir", tmp_path / "new"], "2 equal shares"),
    ):
        _, err = torchrun("--synthetic", *flags, status=1)  # torchrun's own, for any failure
        assert err.count(complaint) == err.count("error: ") == 1
        assert "exitcode  : 2" in err
        assert [path.name for path in tmp_path.iterdir()] == ["full"]
