"""A run: its record, best weights, checkpoint and progress; how it stops and resumes."""

import copy
import json
import math
import platform
import re
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from training import files
from training.curves import draw_curves
from training.errors import RunError, Stopped, explaining_damage
from training.flags import differing
from training.folder import Folder, columns_of

CHECKPOINTS = {"numpy": "checkpoint.npz", "pytorch": "checkpoint.pt"}
NOT_IN_RECORD = ("run_dir", "resume", "data_dir")  # flags that may differ when a run is resumed
SYNTHETIC_WARNING = "*** SYNTHETIC DATA, not CIFAR-10: its accuracy says nothing about CIFAR-10 ***"


class Run:
    """One training run. Both trainers make these calls, in this order:

        run = Run(args, "numpy", versions)          # looks at the folder, writes nothing
        if run.finished:
            return run.report()
        with run.open(data.name, steps, mlp):       # makes the folder or reads the checkpoint
            if run.is_new:
                run.tally(loss, accuracy)           # of the first batch, before any step
                run.add_row(loss, accuracy)         # on the validation or test set
            data.train.position = run.step * args.batch_size
            for step in run.steps():
                run.tally(loss, accuracy)           # of the batch that the step learned from
                if run.is_due():
                    run.add_row(loss, accuracy)
            run.restore_best()
            return run.finish(loss, accuracy)       # on the test set

    `record` is what run.json holds, `history` the columns of metrics.csv as lists, `step` the
    number of the current step. `train_seconds` sums the time from the start of each step to its
    tally. If several processes share the work, only the first one writes.
    """

    def __init__(self, args, framework, versions, processes=None):
        self.args = args
        # Calls a function in the first process only, and returns its result in all.
        self.from_first = processes.from_first if processes else lambda action: action()
        self.writes = processes is None or processes.rank == 0
        flags = {k: v for k, v in vars(args).items() if k not in NOT_IN_RECORD}
        versions = {"python": platform.python_version(), **versions}
        self.record = {"status": "running", "framework": framework, "dataset": None,
                       "seed": args.seed, "flags": flags, "versions": versions}  # fmt: skip
        self.history = {name: [] for name in columns_of(flags)}
        self.step, self.train_seconds, self._best = 0, 0.0, {}
        self._sums = [0.0, 0.0, 0]  # of loss, accuracy and batches since the last row
        default = Path("runs", f"{framework}-{datetime.now():%Y%m%d-%H%M%S-%f}")
        self.folder = Folder(args.run_dir or default, self.record)
        self._checkpoint = self.folder.path / CHECKPOINTS[framework]
        look = self.folder.read_earlier if args.resume else self.folder.require_empty
        earlier = self.from_first(look)
        self.finished = earlier is not None
        if self.finished:
            self.record, self.history = earlier

    @property
    def is_new(self):
        """Whether nothing is recorded yet."""
        return not self.history["step"]

    @contextmanager
    def open(self, dataset, steps, network, **parts):
        """Wraps the training, `steps` steps long, and records in run.json how it ended.
        A checkpoint holds network, whose best weights are kept, and parts: each has state_dict()
        and load_state_dict()."""
        self.total, self._parts = steps, {"network": network, **parts}
        self._restore()
        path, resume = self.folder.path, self.args.resume
        with ExitStack() as stack:
            self.from_first(lambda: self.folder.claim(stack, dataset, resume))
            self._warn_if_synthetic()
            try:
                yield
            except OSError as error:
                raise RunError(f"cannot continue in {path}: {error.strerror or error}") from error
            except (Stopped, KeyboardInterrupt) as stop:
                self._write_end(status="interrupted", steps=self.step)
                saved = str(stop) or "everything up to the last checkpoint is saved"
                how = f"the same flags with --resume --run_dir {path}"
                raise Stopped(f"{saved}; to continue: {how}") from stop
            except Exception:
                self._write_end(status="failed")
                raise

    def steps(self):
        """Yields the numbers of the remaining steps, under a progress bar. After Ctrl-C the current
        step is finished and saved; a second Ctrl-C ends the run at once."""
        stopping = []

        def on_interrupt(*_):
            stopping.append(True)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, on_interrupt)
        hidden = None if self.writes else True  # None: where there is no terminal
        try:
            with tqdm(total=self.total, initial=self.step, unit="step", disable=hidden) as bar:
                while self.step < self.total:
                    self.step += 1
                    self._began = time.perf_counter()
                    yield self.step
                    bar.update()
                    if stopping:
                        self._save()
                        raise Stopped(f"step {self.step} of {self.total} is saved")
        finally:
            signal.signal(signal.SIGINT, before)

    def tally(self, loss, accuracy):
        """Adds the mean loss and accuracy of a batch to the next row of metrics.csv. Raises
        RunError unless the loss is finite."""
        if self.step:
            self.train_seconds += time.perf_counter() - self._began
        self._require_finite(loss)
        sums = self._sums
        self._sums = [sums[0] + float(loss), sums[1] + float(accuracy), sums[2] + 1]

    def is_due(self):
        """Whether a row and a checkpoint are due after this step."""
        return self.step % self.args.eval_freq == 0 or self.step == self.total

    def add_row(self, *scores):
        """Adds a row to metrics.csv: the means over the batches since the previous row, and the
        scores, a loss and an accuracy for each evaluated set (not the test set if --test_at_end).
        Keeps the weights if their validation accuracy is the best so far."""
        for loss in scores[::2]:
            self._require_finite(loss)
        if self.args.validation_size and scores[-1] > max(self.history["val_accuracy"], default=-1):
            self._best = copy.deepcopy(self._parts["network"].state_dict())
        (loss, accuracy, batches), self._sums = self._sums, [0.0, 0.0, 0]
        values = self.step, loss / batches, accuracy / batches, *scores
        row = dict(zip(self.history, values, strict=False))
        for name, column in self.history.items():
            column.append(row.get(name))
        if self.writes:
            self.folder.write_metrics(self.history)
            shown = (f"{name} {row[name]:.4f}" for name in [*row][1:])
            tqdm.write(f"step {self.step:>5}  {'  '.join(shown)}")
        self._save()

    def restore_best(self):
        """Gives the network the weights that did best on the validation split, if there is one."""
        if self._best:
            self._parts["network"].load_state_dict(self._best)

    def finish(self, loss, accuracy):
        """Completes the record with the test set's loss and accuracy. Returns the history."""
        self._require_finite(loss)
        for name, value in (("test_loss", loss), ("test_accuracy", accuracy)):
            if self.history.get(name, [0])[-1] is None:  # --test_at_end
                self.history[name][-1] = value
        self.record.update(steps=self.step, train_seconds=round(self.train_seconds, 3),
                           test_accuracy=float(accuracy), test_loss=float(loss))  # fmt: skip
        if self.writes:
            self.folder.write_metrics(self.history)
            with files.replacing(self.folder.path / "curves.png") as file:
                draw_curves(self.record, self.history, file)
            self.folder.write_record(status="completed", peak_rss_mb=peak_rss_mb())
        return self.report()

    def report(self):
        """Prints the last line of a finished run. Returns its history."""
        if self.writes:
            self._warn_if_synthetic()
            print(
                f"test accuracy {self.record['test_accuracy']:.4f} ({self.record['dataset']}, "
                f"{self.record['steps']} steps, {self.record['train_seconds']:.1f} s)"
            )
        return self.history

    def _require_finite(self, loss):
        if not math.isfinite(loss):
            rate = self.args.learning_rate
            raise RunError(
                f"the loss is {loss} at step {self.step} with --learning_rate {rate}: "
                "try a smaller one"
            )

    def _save(self):
        """Writes the checkpoint: the parts, the best weights and the progress."""
        if self.writes:
            state = {name: part.state_dict() for name, part in self._parts.items()}
            progress = {"flags": self.record["flags"], "step": self.step, "sums": self._sums,
                        "train_seconds": self.train_seconds, "history": self.history}  # fmt: skip
            state |= {"best": self._best, "run": {"progress": json.dumps(progress)}}
            files.write_checkpoint(self._checkpoint, state)

    def _restore(self):
        """Restores what _save wrote, if there is a checkpoint."""
        path = self._checkpoint
        with explaining_damage(path):
            state = self.from_first(lambda: files.read_checkpoint(path) if path.exists() else None)
            if state is None:
                return
            progress = json.loads(str(state["run"]["progress"]))
            if names := differing(progress["flags"], self.record["flags"]):
                raise ValueError(f"it belongs to a run with other flags: {', '.join(names)}")
            self._best = state.get("best", {})
            if self._best:  # raises an exception unless they fit
                self._parts["network"].load_state_dict(self._best)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.step, self.history = progress["step"], progress["history"]
            self.train_seconds, self._sums = progress["train_seconds"], progress["sums"]

    def _write_end(self, **changes):
        with suppress(OSError):
            if self.writes:
                self.folder.write_record(**changes)

    def _warn_if_synthetic(self):
        if self.writes and self.record["dataset"] == "synthetic":
            print(SYNTHETIC_WARNING, file=sys.stderr)


def peak_rss_mb():
    """The most memory that this process has held so far, in MB (10^6 bytes); None on Windows."""
    with suppress(OSError, TypeError), open("/proc/self/status") as file:
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024 / 1e6, 1)
    with suppress(ImportError):
        import resource  # for macOS, in bytes; on Linux it also counts what the parent held

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
