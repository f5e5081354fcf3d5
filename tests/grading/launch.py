"""Starts worker.py in a process that may do little.

    python -I -B launch.py WORKER PACKAGES SANDBOX USER PROCESSES

NumPy is in the folder PACKAGES. Root has no limit of processes, so root becomes the USER, who has
nothing else.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys

MEMORY, FILE_SIZE = 2 << 30, 64 << 20  # bytes
READ_ALL = 1 << 2  # CAP_DAC_READ_SEARCH


def main(worker, packages, sandbox, user, processes):
    import resource  # here, for only Unix has it

    die_with_parent()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: no sudo
    if os.getuid() == 0 and sys.platform == "linux":
        with contextlib.suppress(OSError):  # where this root has one user only, under whom it runs
            become(int(user), 0 if sandbox == "True" else READ_ALL)
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NPROC: int(processes),
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # where the system does not have it
            resource.setrlimit(kind, (limit, limit))
    sys.path.append(packages)
    runpy.run_path(worker, run_name="__main__")


def become(user, rights):
    """Turns root into another user, who keeps only these rights."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    version_and_process = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(version_and_process, (ctypes.c_uint32 * 6)(rights, rights, 0)):
        raise SystemExit("root keeps its rights")
    die_with_parent()  # which the change has undone


def die_with_parent():
    """Has this process end with the one that started it, where the system knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main(*sys.argv[1:])
