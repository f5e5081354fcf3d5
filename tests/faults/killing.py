"""Kills a trainer with SIGKILL again and again, resumes it, and compares what comes out:

    python tests/faults/killing.py {numpy,pytorch} FOLDER KILLS SEED

Works in FOLDER on the synthetic set and prints a line of JSON: how many kills hit a run in which
state, how often several runs wanted one folder, and what went wrong. Each run is a process of its
own, forked from this one, which has imported everything and generated the data: so the moments
fall into the run and not into its start.
"""

import collections
import functools
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from common import record_of, results

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
        file = open(path, mode)  # noqa: SIM115 (closed by the caller)
        self.moment()
        return HalfWritten(file, self)

    def dying_replace(self, source, target):
        self.moment()
        self.replace(source, target)
        self.moment()


class HalfWritten:
    def __init__(self, file, killer):
        self.file, self.killer = file, killer

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.killer.moment()
        return half + self.file.write(content[half:])


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
            print(json.dumps(killer.count), file=log)
    finally:
        os._exit(status)


def ended(pid, folder):
    """The exit status of a run (-9: killed) and the lines that it printed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    log = Path(f"{folder}.log-{pid}")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return status, lines


def state_of(folder):
    """How far the run in folder had come when it was killed."""
    if not folder.exists():
        return "no folder"
    if not list(folder.glob("checkpoint.*")):
        return "no checkpoint"
    return "completed" if record_of(folder)["status"] == "completed" else "checkpoint"


def main():
    framework, base, kills, seed = sys.argv[1:]
    base, kills, rng = Path(base), int(kills), random.Random(int(seed))
    trainer = importlib.import_module(f"train_mlp_{framework}")
    cifar10_utils.get_synthetic = functools.lru_cache(cifar10_utils.get_synthetic)
    importlib.import_module("matplotlib.figure")  # now, not in every run
    variants = VARIANTS[framework][-1:] if kills < 10 else VARIANTS[framework]
    if any("--optimizer" in flags for flags in variants):
        importlib.import_module("torch._dynamo")  # likewise: those optimizers need it

    wholes = []
    for i, flags in enumerate(variants):
        args = make_parser("").parse_known_args([*FLAGS, *flags])[0]
        training.data.load_data(args, from_first=None, one_hot=framework == "numpy")
        began = time.monotonic()
        status, lines = ended(start(trainer, base / f"whole{i}", flags), base / f"whole{i}")
        assert status == 0, lines
        moments, seconds = int(lines[-1]), time.monotonic() - began
        wholes.append((flags, results(base / f"whole{i}"), moments, seconds))

    killed, failures, races = collections.Counter(), [], 0
    trial = 0
    while sum(killed.values()) < kills:
        trial += 1
        flags, expected, moments, seconds = rng.choice(wholes)
        folder = base / str(trial)
        for _ in range(rng.choice([1, 1, 2, 3])):
            if rng.random() < 0.5:
                pid = start(trainer, folder, flags, fatal=rng.randint(1, moments))
            else:
                pid = start(trainer, folder, flags)
                time.sleep(rng.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)
            status, lines = ended(pid, folder)
            if status == -signal.SIGKILL:
                killed[state_of(folder)] += 1
            elif status:
                failures.append(lines)
        at_once = rng.choice([1, 1, 1, 3])
        races += at_once > 1
        ends = [ended(pid, folder) for pid in
                [start(trainer, folder, flags) for _ in range(at_once)]]  # fmt: skip
        for status, lines in ends:
            if status != 0 and not (
                status == 2 and at_once > 1 and f"--run_dir {folder}" in lines[-2]
            ):
                failures.append(lines)
        if all(status for status, _ in ends) or results(folder) != expected:
            failures.append([f"trial {trial} {flags} ends differently: {ends}"])
        else:
            shutil.rmtree(folder)
    print(json.dumps({"killed": killed, "trials": trial, "races": races, "failures": failures}))


if __name__ == "__main__":
    main()
