"""Starts worker.py in a process that may do little.

    python -I -B launch.py WORKER PACKAGES USER PROCESSES

NumPy is in the folder PACKAGES. Root has no limit of processes, so root becomes the USER, who has
nothing else.
"""

import contextlib
import ctypes
import os
import signal
import struct
import sys
import types

MEMORY, FILE_SIZE = 2 << 30, 64 << 20  # bytes
SECONDS = 120  # of processor time of one process: a net under the grader's own limits
READ_ALL = 1 << 1  # CAP_DAC_OVERRIDE, which the root of a container has too


def main(worker, packages, user, processes):
    import resource  # here, for only Unix has it

    root = os.getuid() == 0 and sys.platform == "linux"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: no sudo
        refuse_calls()
    if root:
        with contextlib.suppress(OSError):  # where this root has one user only, under whom it runs
            become(int(user))
    die_with_parent()  # not sooner: to become another user undoes it
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NPROC: int(processes),
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # where the system does not have it
            resource.setrlimit(kind, (limit, limit))
    sys.path.append(packages)
    del sys.argv[1:]  # which a submission may read
    if root:
        open_hidden_folders()
    with open(worker, encoding="utf-8") as file:
        code = compile(file.read(), worker, "exec")
    space = {"__name__": "worker", "__file__": worker}
    exec(code, space)  # imports NumPy
    if root:
        set_rights(0)
    sys.modules["__main__"] = types.ModuleType("__main__")
    space["main"]()


def become(user):
    """Turns root into another user, who keeps only the right to read any file."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    set_rights(READ_ALL)


def set_rights(rights):
    """Leaves this process these rights at most, or none where it does not have them."""
    version_and_process = (ctypes.c_uint32 * 2)(0x20080522, 0)
    for left in (rights, 0):
        words = (ctypes.c_uint32 * 6)(left, left, 0)
        if ctypes.CDLL(None).capset(version_and_process, words) == 0:
            return
    raise SystemExit("root keeps its rights")


def open_hidden_folders():
    """Has Python's folders found through open descriptors, where only root can get at them.

    So what is imported later is found when the right to read any file is gone.
    """
    packages = [vars(module).get("__path__") for module in sys.modules.values()]
    for paths in [sys.path, *(found for found in packages if isinstance(found, list))]:
        for i, path in enumerate(paths):
            parents = [path[:at] for at in range(1, len(path)) if path[at] == os.sep]
            if os.path.isdir(path) and not all(os.stat(p).st_mode & 1 for p in [path, *parents]):
                paths[i] = f"/proc/self/fd/{os.open(path, os.O_RDONLY | os.O_DIRECTORY)}"


# An architecture's number, and those of clone, clone3 and setsid, and of unshare, setns,
# memfd_create, memfd_secret, shmget, msgget and semget.
CALLS = {
    "x86_64": (0xC000003E, 56, 435, 112, (272, 308, 319, 447, 29, 68, 64)),
    "aarch64": (0xC00000B7, 220, 435, 157, (97, 268, 279, 447, 194, 186, 190)),
}
NEW_USER = 0x10000000  # the flag of clone that makes a user namespace


def refuse_calls():
    """Has the system refuse user namespaces, and memory that belongs to no process (seccomp).

    A new session is not made, but seems to be: Linux shares the processor out among sessions, so
    that many of them would leave the grader next to nothing of it.
    """
    if (machine := os.uname().machine) not in CALLS:
        return
    architecture, clone, clone3, setsid, refused = CALLS[machine]
    permit, done = 0x7FFF0000, 0x50000  # the latter without doing it
    no, absent = done | 1, done | 38  # EPERM, ENOSYS
    load, equal, at_least, any_of, give = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, no), (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, no)]  # of x86's other interface
    for number, answer in [*((n, no) for n in refused), (clone3, absent), (setsid, done)]:
        program += [(equal, 0, 1, number), (give, 0, 0, answer)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_of, 0, 1, NEW_USER), (give, 0, 0, no)]
    program += [(give, 0, 0, permit)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    whole = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    ctypes.CDLL(None).prctl(22, 2, whole)  # PR_SET_SECCOMP


def die_with_parent():
    """Has this process end with the one that started it, where the system knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    finally:
        # Not an ordinary exit: threads and exit handlers of the submission must not run on.
        os._exit(0)
