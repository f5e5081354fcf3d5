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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .folder import walk
from .launch import MEMORY
from .submission import Lost
from .worker import ARRAYS_LIMIT, HEADER_LIMIT, LENGTHS, pack, unpack

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PACKAGES = Path(np.__file__).parents[1]  # wherever NumPy is installed
PROGRAMS = ("launch.py", "worker.py")
USER = 1_000_000_000  # and more: numbers of users who do not exist
INSIDE = "/submission"  # the folder of a submission in the sandbox
PROCESSES, DISK = 64, 64 << 20  # of a submission: how many, and bytes of files
WATCH = 0.2  # seconds from one look at the processes of a submission to the next


@functools.lru_cache(maxsize=1)
def sandbox_starts():
    """Whether bwrap is installed and may do all that is asked of it here."""
    if shutil.which("bwrap") is None:
        return False
    with contextlib.suppress(OSError, Lost), contextlib.ExitStack() as stack:
        child = Child(True, time.monotonic() + 10)
        stack.callback(child.end)
        child.ask("facts", [], 10)
        return True
    return False


def _sandbox():
    """The command that puts what follows it into a sandbox."""
    readable = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/alternatives"]
    readable += ["/etc/fonts", "/etc/ld.so.cache", "/etc/localtime", sys.prefix, sys.base_prefix]
    readable += [Path(sys.executable).resolve().parents[1], PACKAGES]
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
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-all"]
    for name in PROGRAMS:
        options += ["--ro-bind", str(HERE / name), f"/{name}"]
    command += [*options, "--proc", "/proc", "--dev", "/dev"]
    for path in ("/dev/shm", INSIDE):
        command += ["--perms", "1777", "--size", str(DISK), "--tmpfs", path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", INSIDE, "--"]


def _environment(home):
    """One thread, and nothing of the grader's own settings."""
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return keep | threads | {"HOME": home, "TMPDIR": home}


class Child:
    """A process that runs worker.py. Raises Lost when it is of no more use.

    Args:
        sandbox: whether it runs inside bwrap.
        deadline: the time, on time.monotonic's clock, at which all must be over.
    """

    def __init__(self, sandbox, deadline):
        self.deadline, self.number = deadline, 0
        self.folder = None if sandbox else tempfile.mkdtemp(prefix="grading-")
        user, processes = USER + os.getpid(), PROCESSES
        if os.getuid() != 0:
            processes += _tasks(os.getuid())
        elif self.folder:
            os.chown(self.folder, user, user)
        if sys.platform == "linux":  # a descendant that loses its parent becomes a child of ours
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        self.others = set(_family())
        self.socket, theirs = socket.socketpair()
        start, place = (_sandbox(), Path("/")) if sandbox else ([], HERE)
        launch, worker = (str(place / name) for name in PROGRAMS)
        arguments = [launch, worker, PACKAGES, str(sandbox), str(user), str(processes)]
        with theirs:
            self.process = subprocess.Popen(
                [*start, sys.executable, "-I", "-B", *arguments],
                cwd=self.folder,
                env=_environment(self.folder or INSIDE),
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.watched = time.monotonic()

    def ask(self, operation, arrays, limit, **fields):
        """The answer to a request, a dict and a list of arrays."""
        self.number += 1
        until = min(time.monotonic() + limit, self.deadline)
        late = f"takes more than {limit:g} s: an endless loop?"
        if until == self.deadline:
            late = "is not done: the submission takes too long in all"
        request = {"operation": operation, "number": self.number, **fields}
        self._transfer(self.socket.send, memoryview(pack(request, arrays)), until, late)
        head, size = LENGTHS.unpack(self._receive(LENGTHS.size, until, late))
        if head > HEADER_LIMIT or size > ARRAYS_LIMIT:
            raise Lost("gives an answer that is too long")
        text, data = self._receive(head, until, late), self._receive(size, until, late)
        try:
            reply, results = unpack(text, data)
        except ValueError:
            raise Lost("gives a malformed answer") from None
        if reply.get("number") != self.number:
            raise Lost("gives an answer out of turn")
        return reply, results

    def _receive(self, size, until, late):
        buffer = bytearray(size)
        self._transfer(self.socket.recv_into, memoryview(buffer), until, late)
        return buffer

    def _transfer(self, function, view, until, late):
        """Sends or receives all of `view`, and watches the process meanwhile."""
        while view:
            now = time.monotonic()
            if now > self.watched + WATCH:
                self._watch()
                self.watched = now = time.monotonic()
            if now >= until:
                raise Lost(late)
            self.socket.settimeout(min(until - now, WATCH))
            try:
                done = function(view)
            except TimeoutError:
                continue
            except OSError:
                done = 0
            if done == 0:
                raise Lost("ends the Python process")
            view = view[done:]

    def _watch(self):
        """Raises Lost where the submission takes more of the machine than it may."""
        if sum(_family(self.others).values()) > 2 * MEMORY:
            raise Lost(f"takes more than {2 * MEMORY >> 30} GiB of memory")
        if self.folder and _size(self.folder) > DISK:
            raise Lost(f"writes more than {DISK >> 20} MiB, or too many folders")

    def end(self):
        """Ends the child and all that it started."""
        self.socket.close()
        until = time.monotonic() + 5
        while (family := set(_family(self.others))) and time.monotonic() < until:
            known = set()
            while family - known:  # stopped first, so that nothing is started meanwhile
                _signal(family - known, signal.SIGSTOP)
                known, family = known | family, set(_family(self.others))
            _signal(known, signal.SIGKILL)
            for pid in known - {self.process.pid}:
                with contextlib.suppress(ChildProcessError):  # of another parent, or gone
                    os.waitpid(pid, os.WNOHANG)
            self.process.poll()
        if self.folder:
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, self.folder], stderr=subprocess.DEVNULL)


def _signal(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _family(without=()):
    """The descendants of this process, with the memory of each in bytes.

    without: children of it that are left out, with all of theirs.
    """
    children = {}
    for pid, parent, size in _processes():
        children.setdefault(parent, []).append((pid, size))
    found = {}
    waiting = [child for child in children.get(os.getpid(), ()) if child[0] not in without]
    while waiting:
        pid, found[pid] = waiting.pop()
        waiting += children.get(pid, ())
    return found


def _processes():
    """(number, parent's number, bytes of memory) of every process of this machine."""
    if sys.platform == "linux":
        page = os.sysconf("SC_PAGE_SIZE")
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has just ended
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                yield int(name), int(fields[1]), int(fields[21]) * page
    else:
        command = ["ps", "-A", "-o", "pid=,ppid=,rss="]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ps:
            for pid, parent, size in (map(int, line.split()) for line in ps.stdout):
                if pid != ps.pid:
                    yield pid, parent, size * 1024


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
