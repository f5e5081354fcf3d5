"""Messages and exit statuses: an error is one line on stderr."""

import functools
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path


class UsageError(Exception):
    """Wrong usage or unusable input: exit status 2."""


class RunError(Exception):
    """The run itself failed: exit status 1."""


class Stopped(Exception):
    """Ctrl-C ended the run, and the message says what is saved: exit status 130."""


def command(main):
    """Decorates main(argv=None) of a script: an error becomes one line and an exit status."""

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
        except (Stopped, KeyboardInterrupt) as stop:
            status, message = 130, f"stopped: {str(stop) or 'nothing to save yet'}"
        if os.environ.get("RANK", "0") != "0":
            # If the first process fails too, torchrun ends this one before it repeats the message.
            time.sleep(5)
        print(f"{Path(sys.argv[0]).name}: {one_line(message)}", file=sys.stderr)
        raise SystemExit(status)

    return guarded


@contextmanager
def explaining_damage(what):
    """Turns the exception that a damaged file raises in the block, of any type, into UsageError."""
    try:
        yield
    except (UsageError, RunError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(f"{what} is damaged ({error!r:.200}): begin a new run") from error


def one_line(message):
    """message with line breaks, control codes and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))
