"""The folder of a run: run.json says what the run is and how it ended, metrics.csv has its curves.

Files are replaced atomically: written under a temporary name, then renamed.
"""

import csv
import io
import json
import math
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from training import files
from training.curves import DATASETS, FRAMEWORKS, QUANTITIES
from training.errors import UsageError, explaining_damage
from training.flags import differing, flag_text


class Folder:
    """The folder at path, of the run that record describes."""

    def __init__(self, path, record):
        self.path, self.record = Path(os.path.realpath(path)), record

    def require_empty(self):
        """Raises UsageError unless the path is free for a new run: absent or an empty folder."""
        with self._usable():
            # A run that is killed while it writes its first record leaves only this file.
            if self.path.exists() and {*os.listdir(self.path)} - {".run.json.tmp"}:
                raise UsageError(
                    f"--run_dir {self.path} is not empty: give another, or --resume to continue it"
                )

    def read_earlier(self):
        """Reads run.json of the run to resume, whose flags must equal the current ones. Returns
        its record and history if it is finished, else None."""
        now = self.record["flags"]
        with explaining_damage(f"run.json or metrics.csv in {self.path}"), self._usable():
            if not (self.path / "run.json").exists():
                raise UsageError(f"nothing to resume: there is no {self.path / 'run.json'}")
            record = json.loads((self.path / "run.json").read_bytes())
            flags, framework, dataset = record["flags"], record["framework"], record["dataset"]
            if framework not in FRAMEWORKS or dataset not in (None, *DATASETS):
                raise ValueError("an unknown framework or dataset")
            if framework != self.record["framework"]:
                raise UsageError(f"the run in {self.path} was made by train_mlp_{framework}.py")
            for name in differing(now, flags):
                raise UsageError(
                    f"--{name} is {flag_text(now.get(name))} now, but the run in "
                    f"{self.path} began with {flag_text(flags.get(name)):.200}: use the same flags"
                )
            self.record["dataset"] = dataset
            return read_run(self.path) if record["status"] == "completed" else None

    def claim(self, stack, dataset, resume):
        """Locks the folder until the ExitStack closes. A new folder appears already locked and with
        run.json in it. Raises UsageError if the run to resume used other data."""
        if (earlier := self.record["dataset"]) not in (None, dataset):
            raise UsageError(f"{self.path} holds a run on {earlier}, not {dataset}")
        self.record["dataset"] = dataset
        with self._usable():
            if self.path.exists():
                stack.enter_context(files.locked(self.path))
                if not resume:
                    self.require_empty()
                self.write_record()
            else:
                self._make(stack)

    def _make(self, stack):
        """Makes the folder under another name, locks it, writes run.json and renames it."""
        temporary = self.path.with_name(f".{os.getpid()}-{time.time_ns()}.tmp")
        made = [parent for parent in self.path.parents if not parent.exists()]
        try:
            temporary.mkdir(parents=True)
            stack.enter_context(files.locked(temporary))
            Folder(temporary, self.record).write_record()
            os.replace(temporary, self.path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
            self.require_empty()  # says so if another run has just made it
            raise

    @contextmanager
    def _usable(self):
        try:
            yield
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
            reason = "another run is under way there" if busy else error.strerror
            raise UsageError(f"cannot use --run_dir {self.path}: {reason}") from error

    def write_record(self, **changes):
        self.record.update(changes)
        with files.replacing(self.path / "run.json") as file:
            file.write((json.dumps(self.record, indent=1) + "\n").encode())

    def write_metrics(self, history):
        table = io.StringIO()
        rows = zip(*history.values(), strict=True)
        csv.writer(table, lineterminator="\n").writerows([history, *rows])
        with files.replacing(self.path / "metrics.csv") as file:
            file.write(table.getvalue().encode())


def read_run(folder):
    """The record and the history of the finished run in folder. Raises an exception where
    run.json or metrics.csv is damaged."""
    record = json.loads((folder / "run.json").read_bytes())
    for name in ("train_seconds", "test_accuracy", "test_loss"):
        if not math.isfinite(record[name]):
            raise ValueError(f"{name} is not a finite number")
    names, *rows = csv.reader((folder / "metrics.csv").read_text("utf-8").splitlines())
    at_end, table = record["flags"].get("test_at_end"), []
    for row in rows:
        table.append([int(row[0]), *(None if at_end and not v else float(v) for v in row[1:])])
    history = dict(zip(names, map(list, zip(*table, strict=True)), strict=True))
    if [*history] != columns_of(record["flags"]) or history["step"][-1] != record["steps"]:
        raise ValueError("metrics.csv is not that of this run")
    return record, history


def columns_of(flags):
    """The columns of metrics.csv."""
    clean = ["clean"] if flags.get("train_eval_size") else []
    splits = ["train", *clean, "val" if flags["validation_size"] else "test"]
    return ["step", *(f"{split}_{quantity}" for split in splits for quantity in QUANTITIES)]
