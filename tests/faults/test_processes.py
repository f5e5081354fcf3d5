"""Training in several processes, on the CPU: in forks that are started as torchrun starts its own
processes, and once under torchrun itself."""

import os
import signal
import subprocess
import sys

import pytest
from common import (
    HANG,
    ROOT,
    environment_of_small_files,
    fork_trainer,
    record_of,
    refused,
    results,
    rows_of,
    wait_for,
)

if os.name != "posix":
    pytest.skip("torchrun and signals as they are on Unix", allow_module_level=True)
torch = pytest.importorskip("torch")
import train_mlp_pytorch  # noqa: E402

FLAGS = ["--max_steps", 30, "--eval_freq", 10, "--batch_size", 20, "--dnn_hidden_units", 8]
VARIABLES = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"]


@pytest.fixture
def start(data, tmp_path):
    """A function that starts processes to train together into the folder `name`. prepare: code for
    the first, the second, ...; size: the number of processes, if some of them are missing."""

    def start(name, *flags, prepare=("", ""), size=None):
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
        environment["MASTER_PORT"] = str(store.port)
        argv, forks = ["--data_dir", data, *FLAGS, "--run_dir", tmp_path / name, *flags], []
        for rank, code in enumerate(prepare):
            numbers = dict(zip(VARIABLES, 2 * [rank] + 2 * [size or len(prepare)], strict=True))
            environment |= {name: str(number) for name, number in numbers.items()}
            forks.append(fork_trainer("pytorch", *argv, prepare=code, **environment))
            forks[-1].store = store  # which must outlive them
        return forks

    return start


def end(forks):
    return [fork.end() for fork in forks]


def in_step(number, code, name="train_step"):
    """Code that lets a process execute `code` in step `number`, or in that call of `name`."""
    return f"""
import os, signal
function, count = trainer.{name}, iter(range({number - 1}))
def called(*args, **options):
    if next(count, None) is None:
        {code}
    return function(*args, **options)
trainer.{name} = called
"""


def test_several_processes_end_where_one_does(start, tmp_path):
    (status, said), *others = end(start("several", prepare=4 * [""]))
    assert status == 0 and said.count("test accuracy 0.") == 1, said
    assert others == 3 * [(0, "")]
    assert end(start("one", prepare=[""]))[0][0] == 0
    for one, several in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "several"), strict=True):
        for column in one:
            assert float(several[column]) == pytest.approx(float(one[column]), rel=1e-4, abs=1e-4)
    names = sorted(path.name for path in (tmp_path / "several").iterdir())
    assert names == ["checkpoint.pt", "curves.png", "metrics.csv", "run.json"]
    assert record_of(tmp_path / "several")["processes"] == 4
    (status, again), *_ = end(start("several", "--resume", prepare=[""]))
    assert status == 0 and again.splitlines() == said.splitlines()[-2:]  # it is finished


TERM = "signal.raise_signal(signal.SIGTERM); " * 2  # torchrun repeats it
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
AT_ONCE = "import time; time.sleep = lambda _: None\n"  # in place of a wait for the first to speak
STOPS = [  # what each process does, how each ends, and the status of the run and its steps
    (in_step(4, TERM), "", [143, 143], ("interrupted", 4)),
    ("", in_step(4, TERM), [143, 143], ("interrupted", 8)),
    (in_step(4, TERM), in_step(5, TERM), [143, 143], ("interrupted", 12)),
    (in_step(4, KILL), AT_ONCE, [-signal.SIGKILL, 1], ("running", None)),
    ("", in_step(4, KILL), [1, -signal.SIGKILL], ("failed", None)),
    ("", in_step(1, TERM, "evaluate"), [143, 143], ("interrupted", 20)),
    ("", in_step(1, TERM, "evaluate"), [143, 143], ("interrupted", 30)),
]


def test_stopped_in_every_way_they_end_together_and_go_on(start, tmp_path):
    """A signal to one process or to all stops them after the same step; a killed one ends all."""
    for *prepare, expected, how in STOPS:
        ends = end(start("stopped", "--resume", prepare=prepare))
        assert [status for status, _ in ends] == expected, ends
        said = [said for status, said in ends if status == 1 or said]
        assert "--resume" in said[0] and "Traceback" not in said[0]
        record = record_of(tmp_path / "stopped")
        assert (record["status"], record.get("steps")) == how
    for name in ("stopped", "whole"):
        assert [status for status, _ in end(start(name, "--resume"))] == [0, 0]
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_bad_input_is_reported_once(start, tmp_path):
    """What only the first process finds; where the second waits, torchrun ends it meanwhile."""
    (tmp_path / "mine").write_text("my work")
    ended = f"import os, signal, time; time.sleep = lambda _: {KILL}"
    (status, said), second = end(start(".", prepare=["", ended]))
    assert status == 2 and "holds no run" in said and said.count("\n") == 1
    assert second == (-signal.SIGKILL, "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--normalization", "batch"], "--normalization batch needs --use_gpu"),
        (["--batch_size", "5"], "--batch_size 5 does not divide into 2"),
        (["--use_gpu"], "--use_gpu needs 2 CUDA device(s), but there are 1"),
    ],
)
def test_flags_that_several_processes_cannot_have(flags, named, data, monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", *VARIABLES):
        monkeypatch.setenv(name, "2" if "SIZE" in name else "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert named in refused(train_mlp_pytorch.main, ["--data_dir", data, "--batch_size=10", *flags])


def test_a_process_that_waits_for_the_others_ends_at_a_signal(start):
    """The wait is in C++, where a handler of Python is never called."""
    (fork,) = start("a", prepare=[""], size=2)
    empty = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    wait_for(lambda: fork.store.num_keys() > empty.num_keys())
    os.kill(fork.process.pid, signal.SIGTERM)
    assert fork.end()[0] == -signal.SIGTERM


def test_ctrl_c_under_torchrun_saves_everything_and_leaves_at_once(data, tmp_path):
    """What PyTorch's threads do at random as Python cleans up, an exit handler does here: speak."""
    speak = "import atexit, os; 'RANK' in os.environ and atexit.register(os.write, 2, b'clean-up')"
    folder, flags = tmp_path / "a", ["--data_dir", data, *FLAGS, "--max_steps", 10**6]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    with subprocess.Popen(
        [*torchrun, ROOT / "train_mlp_pytorch.py", *map(str, flags), "--run_dir", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment_of_small_files(tmp_path, speak)},
    ) as process:
        try:
            wait_for(lambda: process.poll() is not None or (folder / "metrics.csv").exists())
            wait_for(lambda: process.poll() is not None or len(rows_of(folder)) > 1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=HANG)
        finally:
            process.terminate()  # unless it has ended; it ends what it started
    assert process.returncode != 0
    record = record_of(folder)
    assert record["status"] == "interrupted" and record["processes"] == 2, err
    assert "--resume --run_dir" in err and "clean-up" not in err
    assert out.count("step     0") == 1
