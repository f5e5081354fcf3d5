"""The child process in which a submission runs: started, asked, watched, and gone afterwards.

Where bubblewrap (`bwrap`) starts, the child runs inside it: it sees Python, the installed packages
and an empty folder of its own, no other process and no network. Elsewhere it is a process with
limits, in a temporary folder.
"""

import contextlib
import ctypes
import functools
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from . import ONE_THREAD
from .diagnosis import NotGraded
from .folder import walk
from .launch import MEMORY
from .submission import Lost, Waits
from .worker import ARRAYS_LIMIT, LENGTHS, TEXT_LIMIT, pack, unpack

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PACKAGES = Path(np.__file__).parents[1]  # wherever NumPy is installed
PROGRAMS = ("launch.py", "worker.py")
USER = 1_000_000_000  # and more: numbers of users who do not exist
INSIDE = "/submission"  # the folder of a submission in the sandbox
PROCESSES, DISK = 64, 64 << 20  # of a submission: how many, and bytes of files
ALL, WALL = 50.0, 600.0  # seconds for a submission: of processor time, and of a clock
ENDED = 120.0  # seconds of a clock in which a killed process ends on any machine
WATCH = 0.2  # seconds from one look at the processes of a submission to the next
ASLEEP = 50  # looks in a row that find all of them asleep, after which they are not waited for


@functools.cache
def sandbox_starts():
    """Whether bwrap is installed and may do all that is asked of it here."""
    with contextlib.suppress(NotGraded):
        Child(True, Budget()).end()
        return True
    return False


def _sandbox():
    """The command that puts what follows it into a sandbox."""
    readable = ["/usr", "/bin", "/lib", "/lib32", "/lib64"]
    readable += [f"/etc/{name}" for name in ("alternatives", "fonts", "ld.so.cache", "localtime")]
    readable += [sys.prefix, sys.base_prefix, Path(sys.executable).resolve().parents[1], PACKAGES]
    readable += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    mounts = {str(path): ["--ro-bind-try", str(path)] for path in readable}
    if str(ROOT) not in mounts and any(ROOT.is_relative_to(path) for path in mounts):
        mounts[str(ROOT)] = ["--tmpfs"]  # hides this project
    options = []
    for path in sorted(mounts):  # the outer folder first, so that an inner one is not hidden
        for parent in list(Path(path).parents)[-2::-1]:  # bwrap lets only root into those it makes
            options += ["--dir", str(parent)]
        options += [*mounts[path], path]
    command = ["bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if os.getuid() == 0:  # root becomes another user in launch.py
        names = ("pid", "net", "ipc", "uts", "cgroup-try")
        command += [f"--unshare-{name}" for name in names]
        for right in ("SETUID", "SETGID", "DAC_OVERRIDE"):
            command += ["--cap-add", f"CAP_{right}"]
    else:
        command += ["--unshare-all"]
        help_text = subprocess.run(["bwrap", "--help"], capture_output=True, check=False).stdout
        if b"--disable-userns" in help_text:  # an older one does not know it
            command += ["--unshare-user", "--disable-userns"]
    for name in PROGRAMS:
        options += ["--ro-bind", str(HERE / name), f"/{name}"]
    command += [*options, "--proc", "/proc", "--dev", "/dev"]
    for path in ("/dev/shm", INSIDE):
        command += ["--perms", "1777", "--size", str(DISK), "--tmpfs", path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", INSIDE, "--"]


class Budget:
    """The time that all processes of one submission have together, with this one's for it.

    Processor time counts: it does not depend on what else the machine does. The clock only ends
    what sleeps, and what the machine gives too little processor time to.
    """

    def __init__(self, seconds=ALL):
        self.seconds, self.begin, self.until = seconds, time.process_time(), time.monotonic() + WALL
        self.ended = 0.0  # the processor time of the processes that have ended
        self.looks = self.asleep = 0

    def check(self, running=0.0):
        """Raises Lost or NotGraded where it is used up. running: seconds of a living process."""
        if self.ended + running + time.process_time() - self.begin > self.seconds:
            limit = f"more than {self.seconds:g} s of processor time"
            raise Lost(f"is not done: the submission takes too long in all, {limit}")
        if time.monotonic() > self.until and self.asleep > self.looks / 2:
            raise Lost("is not done: the submission waits too long in all")
        if time.monotonic() > self.until:
            raise NotGraded("the machine is too busy: it gives the submission too little time")


class Child:
    """A process that runs worker.py. Raises Lost when it is of no more use, NotGraded when the
    machine is to blame.

    Args:
        sandbox: whether it runs inside bwrap.
        budget: the Budget of the submission.
    """

    def __init__(self, sandbox, budget):
        budget.check()
        self.budget, self.number, self.limit, self.start = budget, 0, math.inf, 0.0
        self.seconds, self.used, self.asleep, self.watched = 0.0, {}, 0, time.monotonic()
        self.process = self.folder = None
        user, processes = USER + os.getpid(), PROCESSES
        if os.getuid() != 0:
            processes += _tasks(os.getuid())
        if sys.platform == "linux":  # a descendant that loses its parent becomes a child of ours
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        self.others = set(_family())
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WATCH)
        launch, worker = (str((Path("/") if sandbox else HERE) / name) for name in PROGRAMS)
        arguments = [launch, worker, PACKAGES, str(user), str(processes)]
        environment = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
        try:
            with theirs:
                if not sandbox:
                    self.folder = tempfile.mkdtemp(prefix="grading-")
                    if os.getuid() == 0:
                        os.chown(self.folder, user, user)
                environment |= ONE_THREAD | dict.fromkeys(("HOME", "TMPDIR"), self.folder or INSIDE)
                self.process = subprocess.Popen(
                    [*(_sandbox() if sandbox else ()), sys.executable, "-I", "-B", *arguments],
                    cwd=self.folder,
                    env=environment,
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._answer()
        except (OSError, Lost, NotGraded) as error:
            self.end()
            self.budget.check()  # a submission may use up its time as this process starts
            raise NotGraded(f"no process starts for the submission: {error}") from None

    def ask(self, operation, arrays, limit, **fields):
        """The answer to a request: lines and arrays. limit: seconds of processor time."""
        self.number, self.asleep = secrets.randbits(48), 0
        self.limit, self.start = limit, self.seconds
        request = pack(self.number, [repr((operation, fields))], arrays)
        self._transfer(self.socket.send, memoryview(request))
        return self._answer()

    def _answer(self):
        head, size = LENGTHS.unpack(self._receive(LENGTHS.size))
        if head > TEXT_LIMIT or size > ARRAYS_LIMIT:
            raise Lost("gives an answer that is too long")
        try:
            number, lines, arrays = unpack(self._receive(head), self._receive(size))
        except (ValueError, OverflowError):
            number = None
        if number != self.number or not lines:
            raise Lost("gives a malformed answer, or one out of turn")
        return lines, arrays

    def _receive(self, size):
        buffer = bytearray(size)
        self._transfer(self.socket.recv_into, memoryview(buffer))
        return buffer

    def _transfer(self, function, view):
        """Sends or receives all of `view`, and watches the process meanwhile."""
        while view:
            if time.monotonic() > self.watched + WATCH:
                self._watch()
                self.watched = time.monotonic()
            try:
                done = function(view)
            except TimeoutError:
                continue
            except OSError:
                done = 0
            if done == 0:
                raise Lost("ends the Python process")
            view = view[done:]

    def _look(self):
        """Adds up what the processes have used, and returns their memory and whether all sleep."""
        family, before = _family(self.others), self.seconds
        self.used |= {pid: used for pid, (_, used, _, _) in family.items()}
        # What has ended is known from the last look, or from the process that waited for it.
        with_ended = sum(used + waited for _, used, waited, _ in family.values())
        self.seconds = max(before, with_ended, sum(self.used.values()))
        idle = self.seconds == before and all(state in "STtZX" for *_, state in family.values())
        return sum(memory for memory, *_ in family.values()), idle

    def _watch(self):
        """Raises Lost where the submission takes more of the machine than it may."""
        memory, idle = self._look()
        self.asleep = self.asleep + 1 if idle else 0
        self.budget.looks, self.budget.asleep = self.budget.looks + 1, self.budget.asleep + idle
        if memory > 2 * MEMORY:
            raise Lost(f"takes more than {2 * MEMORY >> 30} GiB of memory")
        if self.folder and _size(self.folder) > DISK:
            raise Lost(f"writes more than {DISK >> 20} MiB, or too many folders")
        if self.asleep >= ASLEEP:
            raise Waits("waits, without using the processor: for input, or a lock?")
        # Before the budget: on a full machine the time of both may pass between two looks.
        if self.seconds - self.start > self.limit:
            raise Lost(f"takes more than {self.limit:g} s of processor time: an endless loop?")
        self.budget.check(self.seconds)

    def end(self):
        """Ends the child and all that it started."""
        self.socket.close()
        self._look()
        self.budget.ended += self.seconds
        until = time.monotonic() + ENDED
        while (family := set(_family(self.others))) and time.monotonic() < until:
            known = set()
            while family - known:  # stopped first, so that nothing is started meanwhile
                _signal(family - known, signal.SIGSTOP)
                known, family = known | family, set(_family(self.others))
            _signal(known, signal.SIGKILL)
            for pid in known:
                with contextlib.suppress(ChildProcessError):  # of another parent, or gone
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if self.process:
            self.process.poll()
        if self.folder:
            # Most leave nothing there, and where no process starts, rm does not either.
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)
                return
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, self.folder], stderr=subprocess.DEVNULL)


def _signal(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _family(without=()):
    """The descendants of this process: what _processes knows of each, by number.

    without: children of it that are left out, with all of theirs.
    """
    children = {}
    for pid, parent, *facts in _processes():
        children.setdefault(parent, []).append((pid, facts))
    found = {}
    waiting = [child for child in children.get(os.getpid(), ()) if child[0] not in without]
    while waiting:
        pid, found[pid] = waiting.pop()
        waiting += children.get(pid, ())
    return found


def _processes():
    """Every process of this machine: number, parent's number, bytes of memory, seconds of
    processor time, the seconds of the children that it has waited for, and a letter for its
    state."""
    if sys.platform == "linux":
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        for name in filter(str.isdecimal, os.listdir("/proc")):
            # It may have just ended.
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", 0) as file:
                state, *fields = file.read().rpartition(b")")[2].split()
                user, system, waited, more = map(int, fields[10:14])
                used, of_others = (user + system) / tick, (waited + more) / tick
                memory = int(fields[20]) * page
                yield int(name), int(fields[0]), memory, used, of_others, state.decode()
    else:
        command = ["ps", "-A", "-o", "pid=,ppid=,rss=,time=,state="]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ps:
            for pid, parent, size, used, state in map(str.split, ps.stdout):
                if int(pid) != ps.pid:
                    parts = enumerate(reversed(used.split(":")))
                    seconds = sum(60**i * float(part) for i, part in parts)
                    yield int(pid), int(parent), int(size) * 1024, seconds, 0.0, state[0]


def _tasks(user):
    """The number of processes and threads of a user, which the limit of processes counts."""
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            count += len(os.listdir(path / "task")) if path.stat().st_uid == user else 0
    return count


def _size(folder):
    """Bytes of the files in a folder; infinite where there are too many folders."""
    size, folders = 0, 0
    for _, entries in walk(folder, 1000, passed_over=()):
        folders += 1
        with contextlib.suppress(OSError):
            size += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return size if folders < 1000 else math.inf
