"""Kills a trainer with SIGKILL, resumes it, and compares what comes out:

    python tests/faults/killing.py {numpy,pytorch} FOLDER STEP

Works in FOLDER on the synthetic set. Of the moments at which a file changes, every STEP-th is the
end of a run. Each run is a process of its own, forked from this one, which has imported everything
and generated the data.
"""

import functools
import importlib
import io
import os
import shutil
import signal
import sys
from pathlib import Path

from common import results

import cifar10_utils
import training.data
import training.files
from training.flags import make_parser

FLAGS = ["--synthetic", "--max_steps", "30", "--eval_freq", "7", "--dnn_hidden_units", "20,20"]
VARIANTS = {
    "numpy": [[], ["--validation_size", "2000", "--learning_rate", "0.02"]],
    "pytorch": [
        [],
        ["--validation_size", "2000", "--optimizer", "adamw", "--dropout", "0.2"],
        ["--test_at_end", "--clean_images", "1000"],
    ],
}


class Killer:
    """Counts the moments at which a file changes, and ends this process at one of them: before and
    after a file is opened, in the middle of each write, before and after it takes its place."""

    def __init__(self, fatal):
        self.count, self.fatal = 0, fatal
        training.files.open = self.open
        self.replace, os.replace = os.replace, self.dying_replace

    def moment(self):
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path, mode="r"):
        if "x" not in mode:
            return open(path, mode)
        self.moment()
        file = HalfWritten(path, mode)
        file.moment = self.moment
        self.moment()
        return file

    def dying_replace(self, source, target):
        self.moment()
        self.replace(source, target)
        self.moment()


class HalfWritten(io.FileIO):
    """A file of which each half of a write is a moment of its own."""

    def write(self, content):
        half = len(content) // 2
        super().write(content[:half])
        self.moment()
        return half + super().write(content[half:])


def start(trainer, folder, flags, fatal=0):
    """Forks a run into folder, or of the run that is in it already. Returns the process's id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with open(f"{folder}.log-{os.getpid()}", "w") as log:
            sys.stdout = sys.stderr = log
            killer = Killer(fatal)
            resume = ["--resume"] if folder.exists() else []
            try:
                trainer.main([*FLAGS, *flags, "--run_dir", str(folder), *resume])
                status = 0
            except SystemExit as exit:
                status = exit.code
            print(killer.count, file=log)
    finally:
        os._exit(status)


def ended(pid, folder):
    """The exit status of a run (-9: killed) and the lines that it printed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    log = Path(f"{folder}.log-{pid}")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return status, lines


def complete(trainer, folder, flags, at_once):
    """Completes the run in folder, by so many processes at once: one has it, the others say so."""
    pids = [start(trainer, folder, flags) for _ in range(at_once)]
    ends = [ended(pid, folder) for pid in pids]
    assert 0 in [status for status, _ in ends], ends
    for status, lines in ends:
        assert status == 0 or status == 2 and f"--run_dir {folder}" in lines[-2], lines


def main():
    framework, base, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    trainer = importlib.import_module(f"train_mlp_{framework}")
    cifar10_utils.get_synthetic = functools.lru_cache(cifar10_utils.get_synthetic)
    importlib.import_module("matplotlib.figure")  # now, not in every run
    variants = VARIANTS[framework][-1:] if step > 1 else VARIANTS[framework]
    if any("--optimizer" in flags for flags in variants):
        importlib.import_module("torch._dynamo")  # likewise: those optimizers need it

    kills = 0
    for flags in variants:
        args = make_parser("").parse_known_args([*FLAGS, *flags])[0]
        training.data.load_data(args, on_main_process=None, one_hot=framework == "numpy")
        whole = base / "whole"
        status, lines = ended(start(trainer, whole, flags), whole)
        assert status == 0, lines
        moments = int(lines[-1])
        for fatal in range(1, moments + 1, step):
            folder = base / str(fatal)
            for moment in (fatal, fatal % 7 + 1):  # of the run, and of the one that resumes it
                status, lines = ended(start(trainer, folder, flags, moment), folder)
                assert status == -signal.SIGKILL or fatal == moments, lines
            kills += 2
            complete(trainer, folder, flags, at_once=1 if kills % 8 else 3)
            assert results(folder) == results(whole), f"killed at moment {fatal} with {flags}"
            shutil.rmtree(folder)
        shutil.rmtree(whole)
    print(f"{framework}: {kills} kills change nothing in what comes out")


if __name__ == "__main__":
    main()
