"""The folder of a run: run.json says what the run is and how it ended; metrics.csv, a checkpoint
and curves.png lie beside it."""

import json
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from training import files
from training.curves import draw_curves
from training.errors import RunError, UsageError, file_errors, one_line
from training.history import FRAMEWORKS, as_csv

RECORD, METRICS, CURVES = "run.json", "metrics.csv", "curves.png"
CHECKPOINTS = {"numpy": "checkpoint.npz", "pytorch": "checkpoint.pt"}
NOT_RECORDED = ("framework", "run_dir", "resume", "data_dir")  # what may differ as a run resumes
RESULTS = ("steps", "train_seconds", "test_accuracy", "test_loss")


def read_record(path):
    """run.json of the run in the folder path; None where the folder is absent or empty. Raises
    UsageError where the folder holds something else."""
    with file_errors(UsageError, path):
        # A run that is killed while it writes its first record leaves only this file.
        names = {*os.listdir(path)} - {f".{RECORD}.tmp"} if path.exists() else {}
    if not names:
        return None
    if RECORD not in names:
        raise UsageError(f"{path} is not empty, and holds no run: give another folder")
    with files.reading(path / RECORD):
        record = json.loads((path / RECORD).read_bytes())
        known = isinstance(record, dict) and isinstance(record.get("flags"), dict)
        if not known or record["framework"] not in [*FRAMEWORKS] or "dataset" not in record:
            raise ValueError("it is not the record of a run")
        results = RESULTS if record["status"] == "completed" else ()
        if not all(isinstance(record[name], int | float) for name in results):
            raise ValueError("a result is no number")
        return record


def new_record(args, processes=None):
    """What run.json holds at the start. processes: the module training.processes, for PyTorch."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {
        "status": "running",
        "framework": args.framework,
        "dataset": None,
        "seed": args.seed,
        "flags": {k: v for k, v in vars(args).items() if k not in NOT_RECORDED},
        "versions": versions | ({"torch": processes.torch.__version__} if processes else {}),
        "precision": processes.precision(args) if processes else "float32",
        "processes": processes.size() if processes else 1,
        "data_dir": args.data_dir and os.path.abspath(args.data_dir),
    }


class Folder:
    """The folder at path, of the run that record describes. resume: it may have begun before."""

    def __init__(self, path, record, resume):
        self.path, self.record, self.resume = path, record, resume
        self.checkpoint = path / CHECKPOINTS[record["framework"]]

    def look(self):
        """The record of the run to be resumed, None if there is none. Writes nothing. Raises
        UsageError where the folder is not free for a new run, or the old one cannot go on here."""
        self.earlier = read_record(self.path)
        if self.earlier and not self.resume:
            how = "give another, or --resume to continue its run"
            raise UsageError(f"--run_dir {self.path} is not empty: {how}")
        goes_on = self.earlier and self.earlier["status"] != "completed"
        for name in ("processes", "precision") if goes_on else ():
            if (before := self.earlier.get(name)) != (now := self.record[name]):
                change = f"has {name}: {before}, and now it would be {now}"
                raise UsageError(f"the run in {self.path} {change}, which changes its numbers")
        return self.earlier

    def lock_and_restore(self, stack):
        """Makes the folder unless it is there, and locks it until the ExitStack closes. Returns
        what its checkpoint holds, None without one."""
        with file_errors(UsageError, self.path):
            stack.enter_context(files.locked(self.path))
        if not os.access(self.path, os.W_OK):
            raise UsageError(f"cannot write into {self.path}: give another folder")
        if read_record(self.path) != self.earlier:
            raise UsageError(f"another run is under way in {self.path}, or has just ended there")
        before, now = self.earlier and self.earlier["dataset"], self.record["dataset"]
        if before not in (None, now):
            what = f"the run in {self.path} is on {before}, not {now}"
            how = "give its data with --data_dir" if now == "synthetic" else "begin a new run"
            raise UsageError(f"{what}: {how}")
        if self.resume and not self.earlier:
            print(f"there was no run in {self.path}: it begins", file=sys.stderr)
        with files.reading(self.checkpoint):
            return files.read_checkpoint(self.checkpoint) if self.checkpoint.exists() else None

    def write_record(self, **changes):
        with files.replacing(self.path / RECORD) as file:
            file.write((json.dumps(self.record | changes, indent=1) + "\n").encode())
        self.record |= changes  # only now: a run whose record is not written is not complete

    def write_end(self, **changes):
        """Records how a run ended that did not complete, if that can still be written."""
        if self.record["status"] == "running":
            with suppress(RunError):
                self.write_record(**changes)

    def write_history(self, columns):
        with files.replacing(self.path / METRICS) as file:
            file.write(as_csv(columns))

    def draw(self, columns):
        """Draws curves.png unless it is there."""
        path = self.path / CURVES
        if path.exists():
            return
        try:
            with files.replacing(path) as file:
                draw_curves(self.record, columns, file)
        except Exception as error:  # whatever is wrong with matplotlib, the run is complete
            what = error if isinstance(error, RunError) else repr(error)
            print(one_line(f"warning: {path} is not drawn: {what}"), file=sys.stderr)


def load_flags(folder):
    """The flags of the run in folder, for make_mlp()."""
    if not (record := read_record(Path(folder))):
        raise UsageError(f"{folder} holds no run")
    return SimpleNamespace(**record["flags"])


def peak_rss_mb():
    """The most memory that this process has held so far, in MB (10^6 bytes); None on Windows."""
    with suppress(OSError, TypeError), open("/proc/self/status") as file:
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024 / 1e6, 1)
    with suppress(ImportError):
        import resource  # for macOS, in bytes; on Linux it also counts what the parent held

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
