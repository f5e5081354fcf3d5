"""A run: its loop with signals and progress, its best weights, how it stops and resumes."""

import copy
import json
import math
import os
import shlex
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training import files
from training.errors import UNDER_TORCHRUN, RunError, Stopped, UsageError, on_signals
from training.flags import total_steps
from training.folder import METRICS, Folder, new_record, peak_rss_mb
from training.history import History, read_history

ON_DISK = "everything up to the last checkpoint is saved"
RESULT = "test accuracy {test_accuracy:.4f} ({dataset}, {steps} steps, {train_seconds:.1f} s)"
SYNTHETIC_WARNING = "*** SYNTHETIC DATA, not CIFAR-10: its accuracy says nothing about CIFAR-10 ***"


class Run:
    """One training run; `main` of train_mlp_numpy.py shows its calls in their order. Until
    `training` begins it writes nothing.

    `record` is what run.json holds, `step` the number of the current step. processes: the module
    training.processes if torchrun may have started several: only the main process writes.
    """

    def __init__(self, args, processes=None):
        self.args, self._processes = args, processes
        self._on_main_process = processes.on_main_process if processes else lambda action: action()
        self._is_main = processes is None or processes.is_main_process()
        self.record = new_record(args, processes)
        default = Path("runs", f"{args.framework}-{datetime.now():%Y%m%d-%H%M%S-%f}")
        self.folder = Folder(Path(args.run_dir or default), self.record, resume=args.resume)
        self.history = History(self.record["flags"])
        self.step, self.train_seconds, self._best = 0, 0.0, {}
        self._in_loop, self._signal, self._stopping = False, None, False
        earlier = self._on_main_process(self.folder.look)
        self.finished = earlier is not None and earlier["status"] == "completed"
        if self.finished:
            self.record |= earlier
            with files.reading(self.folder.path / METRICS):
                self.history.columns = read_history(self.folder.path / METRICS)

    @property
    def _is_new(self):
        """True before the first row."""
        return not self.history.columns["step"]

    @property
    def is_due(self):
        """True where a row and a checkpoint follow this step."""
        return self.step % self.args.eval_freq == 0 or self.step == self.total_steps

    @contextmanager
    def training(self, data, network, **parts):
        """A context manager for the training loop; run.json records how it ends.

        A checkpoint holds network, whose best weights are kept, and parts: each has state_dict()
        and load_state_dict().
        """
        self.total_steps = total_steps(self.args, data.train.num_examples)
        self.record["dataset"] = data.name
        self._parts = {"network": network, **parts}
        with ExitStack() as stack:
            state = self._on_main_process(lambda: self.folder.lock_and_restore(stack))
            if state is not None:
                self._restore(state)
            self._warn_if_synthetic()
            hidden = None if self._is_main else True  # None: tqdm hides it without a terminal
            bar = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=hidden)
            self._bar = stack.enter_context(bar)
            stack.enter_context(on_signals(self._on_signal))
            stack.enter_context(np.errstate(over="ignore", invalid="ignore"))  # the loss shows it
            try:
                self._on_main_process(lambda: self.folder.write_record(status="running"))
                yield
            except KeyboardInterrupt as stop:
                if self._is_main:
                    self.folder.write_end(status="interrupted", steps=self.step)
                where, saved = shlex.quote(self.folder.path.as_posix()), str(stop) or ON_DISK
                said = f"{saved}; to continue, give only --resume --run_dir {where}"
                if self.record["status"] == "completed":
                    said = "the run is complete"
                raise Stopped(getattr(stop, "number", signal.SIGINT), said) from stop
            except Exception:
                if self._is_main:
                    self.folder.write_end(status="failed")
                raise

    def _restore(self, state):
        with files.reading(self.folder.checkpoint):
            progress = json.loads(str(state["run"]["progress"]))
            known = isinstance(progress, dict) and isinstance(progress["step"], int)
            history, flags = (progress[k] if known else None for k in ("history", "flags"))
            if not (isinstance(flags, dict) and isinstance(history, dict)
                    and [*history] == [*self.history.columns]):  # fmt: skip
                raise ValueError("it is not that of this run")
            if not flags.items() <= self.record["flags"].items():  # which may have new ones
                where = f"{self.folder.checkpoint} and run.json"
                raise UsageError(f"{where} have different flags: one of them was edited")
            self._best = state.get("best", {})
            if self._best:
                self._parts["network"].load_state_dict(self._best)  # raises unless they fit
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.step, self.history.columns = progress["step"], history
            self.train_seconds, self.history.sums = progress["train_seconds"], progress["sums"]

    def _on_signal(self, number, _frame):
        """Lets the loop finish its step; a second signal, or one outside the loop, ends at once."""
        first, self._signal = self._signal is None, number
        again = not first and UNDER_TORCHRUN in os.environ  # torchrun repeats it
        if not (first and self._in_loop or again):
            raise Stopped(number, "nothing is saved yet" if self._is_new else ON_DISK)

    def batches(self, train):
        """Yields the remaining batches of the training set, x and y, one for each step. Step 0 of
        a new run has the batch of step 1, to be evaluated before any training."""
        self._in_loop = True
        for step in range(0 if self._is_new else self.step + 1, self.total_steps + 1):
            self.step = step
            train.position = max(step - 1, 0) * self.args.batch_size
            self._began = time.perf_counter()
            yield train.next_batch(self.args.batch_size)
            self._bar.update(step > 0)
            if self._stopping or (self._signal and self.record["processes"] == 1):
                self._save()
                number = self._signal or signal.SIGTERM  # another process received it
                raise Stopped(number, f"step {step} of {self.total_steps} is saved")
        self._in_loop = False
        self._bar.close()

    def log(self, loss, accuracy):
        """Adds the loss and the accuracy of a batch to the next row, and the time of the step, with
        the drawing of its batch, to `train_seconds`. Raises RunError unless the loss is finite."""
        numbers = loss, accuracy, self._signal is not None
        if self._processes:  # they must agree on the step after which they stop
            numbers = self._processes.mean(numbers)
        loss, accuracy, self._stopping = map(float, numbers)
        if self.step:
            self.train_seconds += time.perf_counter() - self._began
        self._require_finite(loss)
        self.history.log(loss, accuracy)

    def add_row(self, held_out=None, clean=None):
        """Adds a row to metrics.csv, with the (loss, accuracy) on the validation or test set and on
        the unaugmented training images. Keeps the weights with the best validation accuracy."""
        history = self.history
        scores = {history.held_out: held_out, "clean": clean}
        scores = {split: [*map(float, s)] for split, s in scores.items() if s is not None}
        for loss, _ in scores.values():
            self._require_finite(loss)
        best = max(history.columns.get("val_accuracy", []), default=-1)
        if "val" in scores and held_out[1] > best:
            self._best = copy.deepcopy(self._parts["network"].state_dict())
        row = history.add_row(self.step, **scores)
        if self._is_main:
            self.folder.write_history(history.columns)
            shown = (f"{name} {value:.4f}" for name, value in row.items() if name != "step")
            tqdm.write(f"step {self.step:>5}  {'  '.join(shown)}")
        self._save()
        if self._processes:  # a signal may have come since log
            (self._stopping,) = self._processes.mean([self._signal is not None])

    def restore_best(self):
        """Gives the network the weights that did best on the validation split, if there is one."""
        if self._best:
            self._parts["network"].load_state_dict(self._best)

    def finish(self, test, **others):
        """Completes the record with the (loss, accuracy) on the test set, and others by name.
        Returns the history, the columns of metrics.csv as lists."""
        for name, (loss, accuracy) in {"test": test, **others}.items():
            self._require_finite(loss)
            self.record |= {f"{name}_loss": float(loss), f"{name}_accuracy": float(accuracy)}
        self.record |= {"steps": self.step, "train_seconds": round(self.train_seconds, 3)}
        for name, column in self.history.columns.items():
            if column[-1] is None:  # --test_at_end
                one_view = name.replace("test", "test_single_view")
                column[-1] = self.record.get(one_view, self.record[name])
        if self._is_main:
            self.folder.write_history(self.history.columns)
            self.folder.write_record(status="completed", peak_rss_mb=peak_rss_mb())
        return self.report()

    def report(self):
        """Draws the curves of a finished run, if they are missing, and prints where the results are
        and the test accuracy. Returns the history."""
        if self._is_main:
            self.folder.draw(self.history.columns)
            self._warn_if_synthetic()
            print(f"the results are in {self.folder.path}")
            print(RESULT.format(**self.record))
        return self.history.columns

    def _require_finite(self, loss):
        if not math.isfinite(loss):
            advice = f" with --learning_rate {self.args.learning_rate}: try a smaller one"
            if self.step == 0:
                advice = ", before any training: the network or the loss is wrong"
            raise RunError(f"the loss is {loss} at step {self.step}{advice}")

    def _save(self):
        """Writes the checkpoint: the parts, the best weights and the progress."""
        if self._is_main:
            state = {name: part.state_dict() for name, part in self._parts.items()}
            progress = {"step": self.step, "train_seconds": self.train_seconds,
                        "sums": self.history.sums, "history": self.history.columns,
                        "flags": self.record["flags"]}  # fmt: skip
            state |= {"best": self._best, "run": {"progress": json.dumps(progress)}}
            files.write_checkpoint(self.folder.checkpoint, state)

    def _warn_if_synthetic(self):
        if self._is_main and self.record["dataset"] == "synthetic":
            print(SYNTHETIC_WARNING, file=sys.stderr)
