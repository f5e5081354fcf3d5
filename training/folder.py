"""The folder of a run: run.json says what the run is and how it ended; metrics.csv, a checkpoint
and curves.png lie beside it."""

import json
import os
import platform
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from training import files
from training.curves import draw_curves
from training.errors import UsageError, one_line, writing
from training.history import as_csv, read_history

RECORD, METRICS, CURVES = "run.json", "metrics.csv", "curves.png"
CHECKPOINTS = {"numpy": "checkpoint.npz", "pytorch": "checkpoint.pt"}
NOT_RECORDED = ("framework", "run_dir", "resume", "data_dir")  # what may differ as a run resumes
RESULTS = ("steps", "train_seconds", "test_accuracy", "test_loss")


def read_record(path):
    """run.json of the run in the folder path; None where the folder is absent or empty. Raises
    UsageError where the folder holds something else."""
    with usable(path):
        # A run that is killed while it writes its first record leaves only this file.
        names = {*os.listdir(path)} - {f".{RECORD}.tmp"} if path.exists() else {}
    if not names:
        return None
    if RECORD not in names:
        raise UsageError(f"{path} is not empty, and holds no run: give another folder")
    with files.reading(path / RECORD):
        record = json.loads((path / RECORD).read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("flags"), dict):
            raise ValueError("it is not the record of a run")
        results = RESULTS if record["status"] == "completed" else ()
        if not all(isinstance(record[name], int | float) for name in results):
            raise ValueError("a result is no number")
        record["framework"], record["dataset"]  # raises KeyError
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
        "versions": versions | ({"torch": processes.TORCH} if processes else {}),
        "precision": processes.precision(args) if processes else "float32",
        "processes": processes.size() if processes else 1,
        "data_dir": args.data_dir and os.path.abspath(args.data_dir),
    }


class Folder:
    """The folder at path, of the run that record describes."""

    def __init__(self, path, record):
        self.path, self.record = path, record
        self.checkpoint = path / CHECKPOINTS[record["framework"]]

    def look(self, resume):
        """The record of the run to be resumed, None if there is none. Writes nothing. Raises
        UsageError where the folder is not free for a new run, or the old one cannot go on here."""
        earlier = read_record(self.path)
        if earlier and not resume:
            raise UsageError(
                f"--run_dir {self.path} is not empty: give another, or --resume to continue its run"
            )
        for name in ("processes", "precision") if earlier else ():
            if (before := earlier.get(name)) != self.record[name]:
                raise UsageError(
                    f"the run in {self.path} has {name}: {before}, and now it would be "
                    f"{self.record[name]}, which changes its numbers"
                )
        return earlier

    def read_history(self, names):
        """The columns of metrics.csv, which must have these names."""
        with files.reading(self.path / METRICS):
            columns = read_history(self.path / METRICS)
            if [*columns] != [*names]:
                raise ValueError("it is not that of this run")
            return columns

    def open(self, stack, resume):
        """Makes the folder unless it is there, and locks it until the ExitStack closes. Returns
        what its checkpoint holds, None without one."""
        made = [parent for parent in self.path.parents if not parent.exists()]
        with usable(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError:
                for parent in made:
                    with suppress(OSError):
                        parent.rmdir()
                raise
            stack.enter_context(files.locked(self.path))
        # Looks again: another process may have been here since.
        if earlier := self.look(resume):
            if earlier["status"] == "completed":
                raise UsageError(f"another process has just completed the run in {self.path}")
            if earlier["dataset"] not in (None, self.record["dataset"]):
                before, now = earlier["dataset"], self.record["dataset"]
                what = f"the run in {self.path} is on {before}, not {now}"
                raise UsageError(f"{what}: give its data with --data_dir")
        with files.reading(self.checkpoint):
            if self.checkpoint.exists():
                return files.read_checkpoint(self.checkpoint)

    def begin(self, resume):
        """Writes the first record, or that the run goes on."""
        if resume and not (self.path / RECORD).exists():
            print(f"there was no run in {self.path}: it begins", file=sys.stderr)
        with usable(self.path):
            self.write_record(status="running")

    def write_record(self, **changes):
        self.record |= changes
        with files.replacing(self.path / RECORD) as file:
            file.write((json.dumps(self.record, indent=1) + "\n").encode())

    def complete(self):
        with writing(self.path):
            self.write_record(status="completed", peak_rss_mb=peak_rss_mb())

    def write_end(self, **changes):
        """Records how a run ended that did not complete, if that can still be written."""
        if self.record["status"] == "running":
            with suppress(OSError):
                self.write_record(**changes)

    def write_history(self, columns):
        with writing(self.path / METRICS), files.replacing(self.path / METRICS) as file:
            file.write(as_csv(columns))

    def write_checkpoint(self, state):
        with writing(self.checkpoint):
            files.write_checkpoint(self.checkpoint, state)

    def draw(self, columns):
        """Draws curves.png unless it is there."""
        path = self.path / CURVES
        if path.exists():
            return
        try:
            with files.replacing(path) as file:
                draw_curves(self.record, columns, file)
        except Exception as error:  # whatever is wrong with matplotlib, the run is complete
            print(one_line(f"warning: {path} is not drawn: {error!r}"), file=sys.stderr)


def load_flags(folder):
    """The flags of the run in folder, for make_mlp()."""
    if not (record := read_record(Path(folder))):
        raise UsageError(f"{folder} holds no run")
    return SimpleNamespace(**record["flags"])


@contextmanager
def usable(path):
    """Turns an OSError in the block into a UsageError about --run_dir."""
    try:
        yield
    except OSError as error:
        busy = isinstance(error, BlockingIOError)
        reason = "another run is under way there" if busy else error.strerror
        raise UsageError(f"cannot use --run_dir {path}: {reason}") from error


def peak_rss_mb():
    """The most memory that this process has held so far, in MB (10^6 bytes); None on Windows."""
    with suppress(OSError, TypeError), open("/proc/self/status") as file:
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024 / 1e6, 1)
    with suppress(ImportError):
        import resource  # for macOS, in bytes; on Linux it also counts what the parent held

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
