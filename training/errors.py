"""How a program ends: messages, exit statuses, signals, and standard streams that fail."""

import functools
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

SIGNALS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]
OUT_OF_MEMORY = re.compile("out of memory|DefaultCPUAllocator")  # in a RuntimeError of PyTorch
UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it; RANK may be left over from elsewhere


class UsageError(Exception):
    """Wrong usage or unusable input: exit status 2."""


class RunError(Exception):
    """The run itself failed: exit status 1."""


class Stopped(KeyboardInterrupt):
    """A signal ended the program: exit status 128 plus its number."""

    def __init__(self, number=signal.SIGINT, message="run the same command again to continue"):
        super().__init__(message)
        self.number = number


def exit_with_message(main):
    """Decorates main(argv=None) of a program: an error or a signal becomes one line on stderr and
    an exit status; what cannot be written to a standard stream is lost, and nothing else."""

    @functools.wraps(main)
    def guarded(argv=None):
        out, err = Output(sys.stdout), Output(sys.stderr)
        with redirect_stdout(out), redirect_stderr(err), on_signals(_stop):
            try:
                return main(argv)
            except UsageError as error:
                status, message = 2, f"error: {error}"
            except RunError as error:
                status, message = 1, f"error: {error}"
            except (MemoryError, RuntimeError) as error:
                if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
                    raise
                status, message = 1, "error: out of memory: use fewer hidden units, smaller batches"
            except KeyboardInterrupt as stop:
                status = 128 + getattr(stop, "number", signal.SIGINT)
                message = f"stopped: {stop}"
            finally:
                out.flush()
        if UNDER_TORCHRUN in os.environ and os.environ.get("RANK", "0") != "0":
            if status >= 128:  # the first process says so
                raise SystemExit(status)
            time.sleep(5)  # if the first process fails too, torchrun ends this one meanwhile
        print(f"{Path(sys.argv[0]).name}: {one_line(message)}", file=err)
        raise SystemExit(status)

    return guarded


class Output:
    """A standard stream that may be None, closed, full or a broken pipe."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._call("write", text)

    def flush(self):
        self._call("flush")

    def isatty(self):
        with suppress(AttributeError, OSError, ValueError):
            return self._stream.isatty()
        return False

    def _call(self, name, *args):
        try:
            return getattr(self._stream, name)(*args)
        except UnicodeEncodeError:
            return self._call(name, *(t.encode("ascii", "backslashreplace").decode() for t in args))
        except (AttributeError, OSError, ValueError):
            # The null device takes what is buffered: Python writes that out as it exits.
            with suppress(AttributeError, OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def on_signals(handler):
    """Calls handler(number, frame) on Ctrl-C, SIGTERM and SIGHUP, but for those that are ignored.
    Only the main thread of a program receives signals: in another this does nothing."""
    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {n: old for n in numbers if (old := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _stop(number, _frame):
    if UNDER_TORCHRUN in os.environ:  # it sends the signal again while this one is handled
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


@contextmanager
def file_errors(kind, path):
    """Turns an OSError in the block into an error of that kind, which names the file and the
    system's reason."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        lost = os.path.islink(where) and not os.path.exists(where)
        reason = "it is a link to nothing" if lost else error.strerror or error
        raise kind(f"cannot use {where}: {reason}") from error


def one_line(message):
    """message with line breaks, control codes and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))
