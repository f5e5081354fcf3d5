"""The folder of a run: run.json says what the run is and how it ended."""

import json
import os
from contextlib import ExitStack, contextmanager

from training import files
from training.errors import UsageError

RECORD = "run.json"
FRAMEWORKS = {"numpy": "NumPy", "pytorch": "PyTorch"}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "synthetic data, NOT CIFAR-10"}
RESULTS = ("dataset", "steps", "train_seconds", "test_accuracy", "test_loss")


def read_record(path):
    """run.json of the run in the folder path; None where the folder is absent or empty. Raises
    UsageError where the folder holds something else."""
    with usable(path):
        # A run that is killed while it writes its first record leaves only this file.
        names = {*os.listdir(path)} - {f".{RECORD}.tmp"} if path.exists() else {}
    if not names:
        return None
    if RECORD not in names:
        raise UsageError(f"--run_dir {path} is not empty, and holds no run: give another")
    with files.reading(path / RECORD):
        record = json.loads((path / RECORD).read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("flags"), dict):
            raise ValueError("it is not the record of a run")
        if record.get("status") == "completed" and not {*RESULTS} <= record.keys():
            raise ValueError("it lacks results")
        return record


def write_record(path, record):
    with files.replacing(path / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


@contextmanager
def locked(path, resume):
    """Makes the folder path unless it is there, and locks it during the block. Raises UsageError
    where it holds a run, unless that is to be resumed."""
    with usable(path), ExitStack() as stack:
        path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(files.locked(path))
        lock = stack.pop_all()
    with lock:
        record = read_record(path)
        if record and not resume:
            raise UsageError(f"--run_dir {path} holds a run: give another, or --resume")
        if record and record.get("status") == "completed":
            raise UsageError(f"another process has just completed the run in {path}")
        yield


@contextmanager
def usable(path):
    """Turns an OSError in the block into a UsageError about --run_dir."""
    try:
        yield
    except OSError as error:
        busy = isinstance(error, BlockingIOError)
        reason = "another run is under way there" if busy else error.strerror
        raise UsageError(f"cannot use --run_dir {path}: {reason}") from error
