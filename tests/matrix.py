"""Runs the tests under every condition in which they must pass, each in a fresh clone of HEAD:

    python tests/matrix.py [--quick] [--only NAME ...] [--log FILE] [-- PYTEST ARGUMENTS]

Prints a line for each run, and below it the tests that failed. --quick runs each condition once.
"""

import argparse
import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534  # the user that owns nothing, on Linux


class Skip(Exception):
    """This condition cannot be made on this machine."""


class Place:
    """A fresh clone, and the command that tests it; a condition changes either."""

    def __init__(self, base):
        self.base, self.clone, self.temporary = base, base / "clone", base / "temporary"
        base.chmod(0o755)
        self.temporary.mkdir(mode=0o777)
        self.temporary.chmod(0o1777)
        subprocess.run(["git", "clone", "--quiet", ROOT, self.clone], check=True)
        self.data = (ROOT / "cifar10").resolve()
        if self.data.exists():
            (self.clone / "cifar10").symlink_to(self.data)
        self.prefix, self.python, self.arguments = [], sys.executable, ["-p", "no:randomly"]
        self.environment = {**os.environ, "TMPDIR": str(self.temporary)}

    def run(self, arguments):
        """The exit status of pytest, and what it printed."""
        command = [*self.prefix, self.python, "-m", "pytest", *self.arguments, *arguments]
        options = {"cwd": self.clone, "env": self.environment, "errors": "replace"}
        done = subprocess.run(command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def hide_packages(self, *names):
        """Takes a virtual environment like this one, but without these packages."""
        source, target = Path(sysconfig.get_path("purelib")), self.base / "environment"
        venv.create(target, symlinks=True)
        (target_packages,) = target.glob("lib/python*/site-packages")
        gone = {
            file.parts[0]
            for name in names
            for file in importlib.metadata.files(name) or ()
            if file.parts[0] not in ("..", "__pycache__")
        }
        for path in source.iterdir():
            if path.name not in gone and path.is_dir():
                shutil.copytree(path, target_packages / path.name, copy_function=_link)
            elif path.name not in gone:
                _link(path, target_packages / path.name)
        self.python = target / "bin" / "python"


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


# Conditions: each is given the place, and a stack for what must end with the run -----------------


def quiet(place, stack):
    pass


def busy(place, stack):
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        stack.callback(process.wait)
        stack.callback(process.kill)


def one_core(place, stack):
    place.prefix = ["taskset", "-c", "0"]
    if not shutil.which("taskset"):
        raise Skip("taskset is not installed")


def no_bwrap(place, stack):
    programs = place.base / "programs"
    programs.mkdir()
    for folder in reversed(os.get_exec_path()):
        for path in Path(folder).glob("*"):
            if path.name != "bwrap":
                (programs / path.name).unlink(missing_ok=True)
                (programs / path.name).symlink_to(path)
    place.environment["PATH"] = str(programs)


def no_data(place, stack):
    (place.clone / "cifar10").unlink(missing_ok=True)


def some_data(place, stack):
    no_data(place, stack)
    folder = place.clone / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("data_batch_1", "batches.meta"):
        (folder / name).symlink_to(place.data / folder.name / name)


def ordinary_user(place, stack):
    """Who owns neither a home nor the checkout."""
    place.environment["HOME"] = "/nonexistent"
    if os.getuid() == 0:
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        place.prefix = ["setpriv", *ids]
        again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        if subprocess.run(
            [*place.prefix, place.python, "-c", again], stderr=subprocess.DEVNULL
        ).returncode:
            raise Skip(f"{NOBODY}, an ordinary user, cannot start {place.python}")
    for folder, _, names in os.walk(place.clone):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & ~0o222)
                stack.callback(os.chmod, path, os.stat(path).st_mode | 0o200)


def random_order(place, stack):
    place.arguments = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pytest-randomly")
        return
    raise Skip("pytest-randomly is not installed")


def one_process(place, stack):
    place.arguments += ["-n", "0"]


def no_xdist(place, stack):
    place.hide_packages("pytest-xdist")


def no_torch(place, stack):
    place.hide_packages("torch")


REPEATED = [quiet, busy, one_core]
ONCE = [
    *(no_bwrap, no_data, some_data, ordinary_user, random_order, one_process, no_xdist, no_torch),
]
CONDITIONS = {condition.__name__: condition for condition in REPEATED + ONCE}


def try_condition(name, arguments, log):
    """Prints the line of one run. Returns whether it passed, or could not be made."""
    with tempfile.TemporaryDirectory() as base, contextlib.ExitStack() as stack:
        place = Place(Path(base))
        try:
            CONDITIONS[name](place, stack)
        except (Skip, FileNotFoundError) as reason:
            print(f"{name:>15}  skipped: {reason}", flush=True)
            return True
        began = time.monotonic()
        status, out = place.run(arguments)
        seconds = time.monotonic() - began
    log.write(f"===== {name}\n{out}\n")
    lines = re.sub(r"\x1b\[\d*m", "", out).splitlines()
    print(f"{name:>15}  {'passed' if status == 0 else 'FAILED'} in {seconds:.0f} s: ", end="")
    print(lines[-1].strip("= ") if lines else "no output", flush=True)
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            print(f"{'':>15}  {line}", flush=True)
    return status == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each condition once")
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--log", default=os.devnull, help="a file for all that pytest prints")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    args = parser.parse_args()
    with open(args.log, "w") as log:
        passed = [
            try_condition(name, args.arguments, log)
            for name in args.only
            for _ in range(1 if args.quick or CONDITIONS[name] not in REPEATED else 3)
        ]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
