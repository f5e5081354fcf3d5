"""What the NumPy and the PyTorch trainer share, free of either framework: the flags, the data, and
a run with its folder, its metrics, its progress and its curves.

Errors become exit statuses in `command`: 2 for wrong usage or unusable input, before anything is
made; 1 where the run itself fails; 130 after Ctrl-C. What was recorded until then stays.
"""

import argparse
import csv
import fcntl
import functools
import json
import math
import os
import platform
import resource
import shutil
import signal
import sys
import time
import zipfile
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

import cifar10_utils

NOT_IN_RECORD = ("run_dir", "resume", "data_dir")  # flags that may differ where a run goes on
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "synthetic data, NOT CIFAR-10"}
MAX_STEPS = 1400  # unless --max_steps says otherwise
FRAMEWORKS = {"numpy": "NumPy", "pytorch": "PyTorch"}
MAX_RECORD = 2**28  # bytes of run.json or metrics.csv; a million rows have less than half of it
SYNTHETIC_WARNING = """\
*******************************************************************************************
*** SYNTHETIC DATA, not CIFAR-10: the accuracy of this run says nothing about CIFAR-10. ***
*******************************************************************************************"""


class UsageError(Exception):
    """Wrong usage or unusable input: exit status 2."""


class RunError(Exception):
    """The run itself failed: exit status 1."""


def command(main):
    """Decorates main(argv=None) of a trainer: an error is one line on stderr and a status."""

    @functools.wraps(main)
    def guarded(argv=None):
        try:
            return main(argv)
        except UsageError as error:
            status, message = 2, f"error: {error}"
        except RunError as error:
            status, message = 1, f"error: {error}"
        except MemoryError:
            status, message = 1, "error: out of memory: use fewer hidden units or smaller batches"
        except KeyboardInterrupt as stop:
            status, message = 130, f"stopped: {str(stop) or 'nothing to save yet'}"
        print(f"{Path(sys.argv[0]).name}: {cifar10_utils.one_line(message)}", file=sys.stderr)
        raise SystemExit(status)

    return guarded


# Flags --------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """One whose complaints are one line, whatever was typed."""

    def error(self, message):
        super().error(cifar10_utils.one_line(message))

    def _get_values(self, action, arg_strings):
        # Python 3.11 takes --flag=-- for a flag with no value, and checks neither type nor choice.
        if arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "'--' is no value")
        return super()._get_values(action, arg_strings)


def make_parser(description):
    """A parser with the flags of both trainers. @FILE reads flags from a file (# comments)."""
    parser = Parser(description=description, allow_abbrev=False, fromfile_prefix_chars="@")
    parser.convert_arg_line_to_args = lambda line: line.partition("#")[0].split()
    for name, default, kind, text in (
        ("dnn_hidden_units", [100], hidden_units, 'units of each hidden layer; "" for none'),
        ("learning_rate", 1e-3, positive_number, "of gradient descent"),
        ("max_steps", MAX_STEPS, whole_number(1), "steps to train for"),
        ("batch_size", 200, whole_number(1), "examples in a step"),
        ("eval_freq", 100, whole_number(1), "steps from one evaluation and checkpoint to the next"),
        ("seed", 42, whole_number(0, 2**32 - 1), "of the initial weights and order of examples"),
        ("validation_size", 0, whole_number(0), "training images to evaluate on in place of the "
            "test set, which is then read once, with the weights that did best on them"),
        ("data_dir", None, folder, "folder of CIFAR-10's files, or its parent (default: "
            f"{cifar10_utils.DEFAULT_DIR}, downloaded where missing)"),
        ("run_dir", None, folder, "new folder for the results (default: runs/<trainer>-<time>)"),
    ):  # fmt: skip
        text = with_default(text, default)
        parser.add_argument(f"--{name}", default=default, type=kind, help=text)
    parser.add_argument("--synthetic", action="store_true", help="train on generated data")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run_dir")
    return parser


def parse_args(parser, argv=None):
    """The flags in argv; exit status 2 where they are wrong."""
    try:
        args = parser.parse_args(argv)
    except (ValueError, RecursionError) as error:
        parser.error(f"unreadable argument file: {error}")
    if args.resume and not args.run_dir:
        parser.error("--resume needs --run_dir, the folder of the run to go on with")
    if args.synthetic and args.data_dir:
        parser.error("--synthetic and --data_dir contradict each other: drop one")
    return args


def whole_number(low, high=10**9):
    def parse(text):
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse


def positive_number(text):
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")


def number_between(low, high):
    def parse(text):
        with suppress(ValueError):
            if low <= float(text) <= high:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number from {low} to {high}")

    return parse


def folder(text):
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} names no folder")
    return text


def hidden_units(text):
    parts = text.split(",") if text.strip() else []
    try:
        return [whole_number(1, 100_000)(part.strip()) for part in parts]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f'{text!r}: {error}; write 100 or 100,50 or, for no hidden layer, ""'
        ) from None


def with_default(text, default):
    """The help of a flag."""
    return text if default is None else f"{text} (default: {flag_text(default)})"


def flag_text(value):
    """The value of a flag as one would type it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# Data ---------------------------------------------------------------------------------------------


def load_data(args, one_hot=True):
    """The splits that the flags ask for; generated ones where CIFAR-10 cannot be had."""
    options = {"one_hot": one_hot, "validation_size": args.validation_size, "seed": args.seed}
    try:
        if args.synthetic or not (args.data_dir or _fetch_default_data()):
            splits = cifar10_utils.get_synthetic(**options)
        else:
            data_dir = args.data_dir or cifar10_utils.DEFAULT_DIR
            splits = cifar10_utils.get_cifar10(data_dir, **options)
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    if args.batch_size > splits.train.num_examples:
        raise UsageError(
            f"--batch_size {args.batch_size} is above {splits.train.num_examples}, "
            "the number of training examples"
        )
    return splits


def _fetch_default_data():
    try:
        cifar10_utils.find_data()
    except FileNotFoundError:
        # Here and not at the top: what it imports takes 40 ms, which only the first run needs.
        from fetch import DownloadError, download

        try:
            download()
        except DownloadError as error:
            print(cifar10_utils.one_line(error), file=sys.stderr)
            print("to try again: python cifar10_utils.py", file=sys.stderr)
            return False
    return True


# A run --------------------------------------------------------------------------------------------


def as_floats(pairs):
    return [tuple(map(float, pair)) for pair in pairs]


class Run:
    """One training run: its folder, its history, its progress.

    The folder holds run.json (what the run is and how it ended), metrics.csv (the history), the
    checkpoint and, at the end, curves.png. Each is written beside its name and then renamed, so
    that it is whole at any moment.

    Args:
        args: the flags.
        framework: "numpy" or "pytorch".
        versions: of the packages that the numbers depend on, for run.json.
        writes: False in a process that leaves the folder to another one.
        to_floats: turns a list of pairs (loss, accuracy) into one of Python floats.
        flush_every: steps whose pairs are turned at once, where each time makes a device wait.

    Attributes:
        step: the number of the step under way, or of steps done.
        history: the columns of metrics.csv, a dict of lists.
    """

    def __init__(self, args, framework, versions, writes=True, to_floats=as_floats, flush_every=1):
        self.args = args
        self.writes, self._to_floats, self._flush_every = writes, to_floats, flush_every
        self.step, self.train_seconds = 0, 0.0
        split = "val" if args.validation_size else "test"
        columns = "step", "train_loss", "train_accuracy", f"{split}_loss", f"{split}_accuracy"
        self.history = {column: [] for column in columns}
        self._sums = [0.0, 0.0, 0]  # of loss, accuracy and batches since the row before
        self._pending = []  # pairs that are not in the sums yet
        self._bar = self._lock = None
        name = f"{framework}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        self.path = Path(os.path.realpath(args.run_dir or Path("runs", name)))
        self.record = {
            "status": "running",
            "framework": framework,
            "dataset": None,
            "seed": args.seed,
            "flags": {k: v for k, v in vars(args).items() if k not in NOT_IN_RECORD},
            "versions": {"python": platform.python_version(), **versions},
        }

    def is_finished(self):
        """Looks at the folder. Returns whether the run in it is complete already."""
        try:
            if self.args.resume:
                self._load_record()
            elif self.path.is_dir() and any(self.path.iterdir()):
                raise UsageError(
                    f"--run_dir {self.path} is not empty: give another, or --resume to go on there"
                )
            elif self.path.exists() and not self.path.is_dir():
                raise UsageError(f"--run_dir {self.path} is a file: give a folder")
        except OSError as error:
            raise UsageError(f"cannot use --run_dir {self.path}: {error.strerror}") from error
        return self.record["status"] == "completed"

    def claim(self, dataset):
        """Makes the folder, or takes the one that is there, and locks it."""
        if self.record["dataset"] not in (None, dataset):
            raise UsageError(f"{self.path} holds a run on {self.record['dataset']}, not {dataset}")
        self.record.update(dataset=dataset, status="running")
        try:
            if not self.path.exists():
                self._make_folder()
            else:
                self._lock_folder(self.path)
                if not self.args.resume and any(self.path.iterdir()):
                    raise UsageError(f"--run_dir {self.path} is not empty any more: give another")
                self._write_record()
        except BaseException as error:
            if self._lock is not None:
                os.close(self._lock)
            if not isinstance(error, OSError):
                raise
            reason = f"{error.filename or self.path}: {error.strerror}"
            if isinstance(error, BlockingIOError):
                reason = "another run is under way there"
            raise UsageError(f"cannot use --run_dir {self.path}: {reason}") from error

    @contextmanager
    def open(self):
        """Around the training: run.json tells if it fails or is stopped."""
        self._warn_if_synthetic()
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot go on in {self.path}: {error.strerror or error}") from error
        except (RunError, MemoryError):
            with suppress(OSError):
                self._write_record(status="failed")
            raise
        except KeyboardInterrupt as stop:
            with suppress(OSError):
                self._write_record(status="interrupted", steps=self.step)
            saved = str(stop) or "what is in the last checkpoint is saved"
            raise KeyboardInterrupt(
                f"{saved}; to go on: the same flags with --resume --run_dir {self.path}"
            ) from stop
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def steps(self, save):
        """Counts the steps still to do, under a progress bar. Ctrl-C ends the run after the step
        under way, once save() has written a checkpoint; a second Ctrl-C ends it at once."""
        stop = []

        def on_interrupt(*_):
            stop.append(True)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, on_interrupt)
        total = self.args.max_steps
        try:
            with tqdm(total=total, initial=self.step, unit="step", disable=None) as self._bar:
                while self.step < total and not stop:
                    self.step += 1
                    yield self.step
                    self._bar.update()
            if stop:
                save()
                raise KeyboardInterrupt(f"step {self.step} of {total} is saved")
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def timed(self):
        """Adds the time that its block takes to train_seconds. With the tally inside, for where a
        device works ahead, reading the losses is what waits for it."""
        began = time.perf_counter()
        yield
        self.train_seconds += time.perf_counter() - began

    def tally(self, loss, accuracy):
        """Counts a batch, by its means, into the next row of metrics.csv."""
        self._pending.append((loss, accuracy))
        if len(self._pending) >= self._flush_every or self.is_due(self.step):
            self._flush()

    def is_due(self, step):
        """Whether a row and a checkpoint are due after this step."""
        return step % self.args.eval_freq == 0 or step == self.args.max_steps

    def add_row(self, loss, accuracy):
        """Adds a row to metrics.csv: the means over the batches since the row before, and the loss
        and accuracy on the validation or test set. Returns whether that accuracy is a new best."""
        self._require_finite(loss, self.step)
        *_, accuracies = self.history.values()
        improved = accuracy > max(accuracies, default=-1)
        *sums, batches = self._sums
        self._sums = [0.0, 0.0, 0]
        row = (self.step, *(s / batches for s in sums), loss, accuracy)
        for column, value in zip(self.history.values(), row, strict=True):
            column.append(value)
        self._write_metrics()
        shown = (f"{name} {column[-1]:.4f}" for name, column in [*self.history.items()][1:])
        tqdm.write(f"step {self.step:>5}  {'  '.join(shown)}")
        return improved

    def finish(self, loss, accuracy):
        """Completes the record with the test set's loss and accuracy. Returns the history."""
        self._require_finite(loss, self.step)
        self._write_metrics()
        results = {
            "steps": self.step,
            "train_seconds": round(self.train_seconds, 3),
            "test_accuracy": float(accuracy),
            "test_loss": float(loss),
        }
        if self.writes:
            with self.writing("curves.png", "wb") as file:
                draw_curves(self.record | results, self.history, file)
        results["peak_rss_mb"] = round(peak_rss_mb(), 1)
        self._write_record(status="completed", **results)
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

    def state(self):
        """What a checkpoint must hold of the run, as JSON."""
        with self.timed():
            self._flush()
        return json.dumps([self.step, self.train_seconds, self._sums, self.history])

    def restore(self, state):
        """Takes up what state() gave. Raises an exception where it is something else."""
        step, train_seconds, sums, history = json.loads(state)
        loss, accuracy, batches = sums
        _require_numbers(train_seconds, loss, accuracy)
        if not (type(step) is type(batches) is int and 0 <= batches <= step <= self.args.max_steps):
            raise ValueError(f"step {step}, {batches} of them since the last row")
        self.history = self._checked_history(history, step, step == self.args.max_steps)
        self.step, self.train_seconds, self._sums = step, train_seconds, sums

    @contextmanager
    def writing(self, name, mode="w"):
        """A file that takes its place in the folder, whole, when the block ends."""
        if not self.writes:
            with open(os.devnull, mode) as file:
                yield file
            return
        temporary = self.path / f".{name}.tmp"
        try:
            temporary.unlink(missing_ok=True)  # it may be a link to elsewhere: never write into it
            with open(temporary, mode.replace("w", "x")) as file:
                yield file
            os.replace(temporary, self.path / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _load_record(self):
        """Reads run.json of the run to go on with; its flags must be those of now."""
        try:
            record = json.loads(read_file(self.path / "run.json", MAX_RECORD))
            flags, framework, status = record["flags"], record["framework"], record["status"]
            if framework not in FRAMEWORKS or record["dataset"] not in (None, *DATASETS):
                raise ValueError("an unknown framework or dataset")
            if framework != self.record["framework"]:
                raise UsageError(f"the run in {self.path} is one of train_mlp_{framework}.py")
            for name, value in self.record["flags"].items():
                if (flags.get(name) or None) != (value or None):  # a flag newer than the run is off
                    raise UsageError(
                        f"--{name} is {flag_text(value)} now, but the run in {self.path} "
                        f"began with {flag_text(flags.get(name)):.200}: use the same flags"
                    )
            self.record["dataset"] = record["dataset"]
            if status == "completed":
                names = ("steps", "train_seconds", "test_accuracy", "test_loss")
                _require_numbers(*(record[name] for name in names))
                self.history = self._read_metrics(record["steps"])
                self.record = record
        except FileNotFoundError as error:
            raise UsageError(f"nothing to resume: there is no {error.filename}") from error
        except (UsageError, OSError):
            raise
        except Exception as error:  # a damaged file can raise almost anything
            raise UsageError(
                f"run.json or metrics.csv in {self.path} is damaged ({error!r:.200}): "
                "begin a new run"
            ) from error

    def _lock_folder(self, folder):
        self._lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _make_folder(self):
        """The folder with run.json inside, by one rename; locked before anybody can see it."""
        temporary = self.path.with_name(f".{os.getpid()}-{time.time_ns()}.tmp")
        missing = [parent for parent in self.path.parents if not parent.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            self._lock_folder(temporary)
            (temporary / "run.json").write_text(json.dumps(self.record, indent=1) + "\n")
            os.rename(temporary, self.path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):
                for parent in missing:
                    parent.rmdir()
            raise

    def _write_record(self, **changes):
        self.record.update(changes)
        with self.writing("run.json") as file:
            file.write(json.dumps(self.record, indent=1) + "\n")

    def _write_metrics(self):
        with self.writing("metrics.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.history)
            writer.writerows(zip(*self.history.values(), strict=True))

    def _read_metrics(self, steps):
        """The history in metrics.csv after so many steps, the last ones."""
        lines = read_file(self.path / "metrics.csv", MAX_RECORD).decode().splitlines()
        names, *rows = csv.reader(lines)
        columns = zip(*([int(row[0]), *map(float, row[1:])] for row in rows), strict=True)
        history = dict(zip(names, map(list, columns), strict=True))
        return self._checked_history(history, steps, ended=True)

    def _checked_history(self, history, step, ended):
        """history, which must be that of this run after a step, or after its last one."""
        due = range(0, step + 1, self.args.eval_freq)
        last = [step] if ended and step not in due else []
        if list(history) != list(self.history) or any(
            len(column) != len(due) + len(last) for column in history.values()
        ):
            raise ValueError("the history is not that of this run")
        steps, *others = history.values()
        if [*map(repr, steps)] != [*map(repr, [*due, *last])]:
            raise ValueError("the history has other steps than this run")
        _require_numbers(*(value for column in others for value in column))
        return history

    def _flush(self):
        """Adds the pending pairs to the sums."""
        pairs = self._to_floats(self._pending) if self._pending else []
        for step, (loss, accuracy) in enumerate(pairs, self.step - len(pairs) + 1):
            self._require_finite(loss, step)
            for i, value in enumerate((loss, accuracy, 1)):
                self._sums[i] += value
        if self._bar is not None and pairs:
            loss, accuracy = pairs[-1]
            self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.3f}", refresh=False)
        self._pending = []

    def _require_finite(self, loss, step):
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step} with --learning_rate "
                f"{self.args.learning_rate}: try a smaller one"
            )

    def _warn_if_synthetic(self):
        if self.record["dataset"] == "synthetic":
            print(SYNTHETIC_WARNING, file=sys.stderr)


def _require_numbers(*values):
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError("something else in place of a finite number")


def open_plain(path):
    """A file opened to read its bytes; ValueError where it is a device, a pipe or a folder."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is no plain file")
    return open(path, "rb")


def read_file(path, limit):
    """The bytes of a file; ValueError where it has more than limit."""
    with open_plain(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return content


def read_zip(path):
    """The members, by name, of a zip file as numpy.savez and torch.save write it, each found whole
    by its checksum. Takes no more memory than the file is long, whatever it says of its members."""
    with open_plain(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size = os.fstat(file.fileno()).st_size
        if any(m.compress_type or m.file_size != m.compress_size for m in members):
            raise ValueError("its members are packed")
        if sum(m.file_size for m in members) > size:
            raise ValueError("its members are longer than it is")
        return {member.filename: archive.read(member) for member in members}


def draw_curves(record, history, file):
    """Loss and accuracy of a run against its steps, as a PNG: see run.json and metrics.csv."""
    # Here and not at the top: it costs a third of a second, which only the end of a run needs.
    from matplotlib.figure import Figure

    units = "-".join(map(str, ["3072", *record["flags"]["dnn_hidden_units"], "10"]))
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(
        f"{FRAMEWORKS[record['framework']]} MLP {units} on {DATASETS[record['dataset']]}: "
        f"test accuracy {record['test_accuracy']:.4f}",
        color="red" if record["dataset"] == "synthetic" else "black",
    )
    step, *curves = history.values()
    held_out = "validation" if "val_loss" in history else "test"
    best = step[curves[3].index(max(curves[3]))]
    for axes, train, other, test, label in zip(
        figure.subplots(1, 2),
        curves[:2],
        curves[2:],
        (record["test_loss"], record["test_accuracy"]),
        ("cross-entropy loss (nats)", "accuracy (fraction)"),
        strict=True,
    ):
        axes.plot(step, train, color="C0", label="train (mean since the point before)")
        axes.plot(step, other, color="C1", label=held_out)
        if held_out == "validation":
            axes.plot(
                best, test, "*", color="C3", markersize=11, label="test, weights of this step"
            )
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, format="png", dpi=150)


def peak_rss_mb():
    """The most memory that this process has held so far, in MB (10^6 bytes)."""
    with suppress(FileNotFoundError, StopIteration):  # not on macOS, nor in every sandbox
        # Not getrusage, which on Linux counts what a parent held before it started this process.
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
