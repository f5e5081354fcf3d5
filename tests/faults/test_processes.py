"""Training in several processes, on the CPU: under torchrun, and in forks that are started as
torchrun starts its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from common import HANG, ROOT, Fork, record_of, results, rows_of, wait_for

if os.name != "posix":
    pytest.skip("torchrun and signals as they are on Unix", allow_module_level=True)
torch = pytest.importorskip("torch")
import train_mlp_pytorch  # noqa: E402
from training import errors, flags, processes  # noqa: E402

FLAGS = ["--max_steps", 30, "--eval_freq", 10, "--batch_size", 20, "--dnn_hidden_units", 8]


def fork(ranks, folder, *flags, prepare=()):
    """Starts that many processes that train together. prepare: code for the first, second, ..."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"},
        **{"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1"},
        **{"MASTER_PORT": str(store.port)},
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks)),
    }
    forks = []
    for rank in range(ranks):
        code = dict(enumerate(prepare)).get(rank, "")
        forks.append(Fork("pytorch", folder, *flags, prepare=code, RANK=str(rank), **environment))
        forks[-1].store = store  # which must outlive them
    return forks


@pytest.fixture
def together(data, tmp_path):
    """A function that trains in two processes into the folder `name`. Returns how each ended."""

    def together(name, *flags, ranks=2, prepare=()):
        argv = ["--data_dir", data, *FLAGS, *flags]
        return [f.end() for f in fork(ranks, tmp_path / name, *argv, prepare=prepare)]

    return together


def in_step(number, code):
    """Code that lets a process execute `code` in step `number`."""
    return f"""
import os, signal
step, count = trainer.train_step, iter(range({number - 1}))
def train_step(*args, **options):
    if next(count, None) is None:
        {code}
    return step(*args, **options)
trainer.train_step = train_step
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_several_processes_end_where_one_does(ranks, together, tmp_path):
    (status, said), *others = together("several", ranks=ranks)
    assert status == 0 and said.count("test accuracy 0.") == 1, said
    assert others == [(0, "")] * (ranks - 1)
    assert together("one", ranks=1)[0][0] == 0
    pairs = zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "several"), strict=True)
    for one, several in pairs:
        for column in one:
            assert float(several[column]) == pytest.approx(float(one[column]), rel=1e-4, abs=1e-4)
    names = sorted(path.name for path in (tmp_path / "several").iterdir())
    assert names == ["checkpoint.pt", "curves.png", "metrics.csv", "run.json"]
    assert record_of(tmp_path / "several")["processes"] == ranks
    assert "processes" in together("several", "--resume", ranks=1)[0][1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_resume_ends_the_same(rank, together, tmp_path):
    together("whole")
    kill = in_step(15, "os.kill(os.getpid(), signal.SIGKILL)")
    ends = together("killed", prepare=["", kill] if rank else [kill])
    assert ends.pop(rank)[0] == -signal.SIGKILL
    ((status, said),) = ends
    assert status == 1 and "--resume goes on from the last checkpoint" in said
    assert record_of(tmp_path / "killed")["status"] != "completed"
    assert [status for status, _ in together("killed", "--resume")] == [0, 0]
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.parametrize("receivers", [[0], [1], [0, 1]], ids=str)
def test_a_signal_stops_all_after_the_same_step(receivers, together, tmp_path):
    """To one process, or to all, each in a step of its own; twice, as torchrun sends it."""
    together("whole")
    send = "signal.raise_signal(signal.SIGTERM); " * 2
    prepare = [in_step(12 + rank, send) if rank in receivers else "" for rank in (0, 1)]
    ends = together("stopped", prepare=prepare)
    assert [status for status, _ in ends] == [143, 143], ends
    assert "--resume" in ends[0][1]
    record = record_of(tmp_path / "stopped")
    assert record["status"] == "interrupted" and record["steps"] in (12, 13, 14)
    assert [status for status, _ in together("stopped", "--resume")] == [0, 0]
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


# torchrun itself ----------------------------------------------------------------------------------


def torchrun(*flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, ROOT / "train_mlp_pytorch.py", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    """Waits for torchrun. Kills it, and what it started, where it hangs."""
    try:
        return process.communicate(timeout=HANG)
    finally:
        if process.poll() is None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            pids = children.read_text().split() if children.exists() else []
            for pid in (*map(int, pids), process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()


def test_ctrl_c_under_torchrun_saves_everything(tmp_path):
    folder = tmp_path / "a"
    process = torchrun("--synthetic", "--max_steps", 10**6, "--eval_freq", 5, "--run_dir", folder)
    try:
        wait_for(lambda: process.poll() is not None or len(rows_of(folder)) > 1)
        os.kill(process.pid, signal.SIGINT)
    finally:
        out, err = end(process)
    assert process.returncode != 0
    record = record_of(folder)
    assert record["status"] == "interrupted" and record["processes"] == 2, err
    assert err.count("--resume --run_dir") >= 1 and err.count("SYNTHETIC DATA") == 1
    assert out.count("step     0") == 1


def test_bad_input_under_torchrun_is_reported_once(tmp_path):
    """What only the first process finds; for what each of them finds, the others wait."""
    (tmp_path / "mine").write_text("my work")
    process = torchrun("--synthetic", "--run_dir", tmp_path)
    _, err = end(process)
    assert process.returncode == 1  # torchrun's own, for any failure
    assert err.count("holds no run") == err.count("error: ") == 1
    assert "exitcode  : 2" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_process_of_torchrun_ends_at_once(tmp_path):
    """What PyTorch's threads do at random as Python ends, an exit handler does here: abort."""
    program = "import atexit, os, runpy, sys; atexit.register(os.abort)"
    program += f"; runpy.run_path({str(ROOT / 'train_mlp_pytorch.py')!r}, run_name='__main__')"
    flags = ["--synthetic", "--max_steps", "2", "--run_dir", str(tmp_path / "a")]
    variables = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}
    variables["LOCAL_WORLD_SIZE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("test accuracy")


def test_a_process_that_waits_for_the_others_ends_at_a_signal(monkeypatch):
    """The wait is in C++, where a handler of Python is never called."""
    seen = []
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        processes.distributed,
        "init_process_group",
        lambda *_: seen.append(signal.getsignal(signal.SIGTERM)),
    )
    with errors.on_signals(lambda *_: None):
        processes.join(flags.parse(train_mlp_pytorch.make_parser(), []))
    assert seen == [signal.SIG_DFL]
