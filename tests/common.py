"""Small stand-ins for CIFAR-10's official files, for the tests of what reads and fetches them."""

import contextlib
import hashlib
import io
import pickle
import resource
import struct
import sys
import tarfile

import numpy as np

import cifar10_utils
import training

N = 10  # images in a small batch file


def text(value):
    return pickle.SHORT_BINSTRING + bytes([len(value)]) + value


def batch_bytes(pixels, labels):
    """A batch file as Python 2 wrote the official ones, opcode by opcode."""
    n, size = pixels.shape
    numbers = b"".join(pickle.BININT1 + bytes([label]) for label in labels)
    names = b"".join(
        text(b"image_%d.png" % i) + pickle.LONG_BINPUT + struct.pack("<I", 300 + i)
        for i in range(n)
    )
    shape = pickle.BININT2 + struct.pack("<H", n) + pickle.BININT2 + struct.pack("<H", size)
    minus_one = pickle.BININT + struct.pack("<i", -1)
    return b"".join(
        [
            *(pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.BINPUT, b"\x01", pickle.MARK),
            *(text(b"batch_label"), text(b"training batch 1 of 5")),
            *(text(b"labels"), pickle.EMPTY_LIST, pickle.MARK, numbers, pickle.APPENDS),
            *(text(b"data"), pickle.GLOBAL, b"numpy.core.multiarray\n_reconstruct\n"),
            *(pickle.GLOBAL, b"numpy\nndarray\n", pickle.BININT1, b"\0", pickle.TUPLE1),
            *(text(b"b"), pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, pickle.BININT1, b"\x01", shape, pickle.TUPLE2),
            *(pickle.GLOBAL, b"numpy\ndtype\n", text(b"u1")),
            *(pickle.BININT1, b"\0", pickle.BININT1, b"\x01", pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, pickle.BININT1, b"\x03", text(b"|"), pickle.NONE * 3, minus_one * 2),
            *(pickle.BININT1, b"\0", pickle.TUPLE, pickle.BUILD, pickle.NEWFALSE),
            *(pickle.BINSTRING, struct.pack("<i", pixels.size), pixels.tobytes()),
            *(pickle.TUPLE, pickle.BUILD),
            *(text(b"filenames"), pickle.EMPTY_LIST, pickle.MARK, names, pickle.APPENDS),
            *(pickle.SETITEMS, pickle.STOP),
        ]
    )


def small_files():
    """Content of the seven official files with N images in each batch, by name."""
    rng = np.random.default_rng(0)
    files = {
        name: batch_bytes(rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N))
        for name in cifar10_utils.MD5
    }
    return files | {"batches.meta": b"label names"}


def use_small_files(monkeypatch):
    """Lets cifar10_utils take the small files for the official ones. Returns them."""
    files = small_files()
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cifar10_utils, "MD5", sums)
    monkeypatch.setattr(cifar10_utils, "IMAGES_PER_FILE", N)
    return files


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def archive_of(files, mode="w:gz", folder=cifar10_utils.FOLDER):
    """The bytes of a tar archive with the files in folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in {**files, "readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def listing(folder):
    """Every file below folder with its content."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def attempt(main, argv):
    """The exit status of main(argv) and what it says of an error.

    Asserts what is promised of every run: it ends well or with one line on stderr, which the usage
    may precede; status 1 is for a loss that is not finite alone. Any exception but SystemExit is
    the caller's.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main(argv)
        except SystemExit as exit:
            status = exit.code or 0
        else:
            status = 0
    said = "".join(err.getvalue().split(training.SYNTHETIC_WARNING + "\n"))
    if status == 0:
        return status, said
    assert status in (1, 2), said
    usage, _, line = said.removesuffix("\n").rpartition("\n")
    assert not usage or usage.startswith("usage: "), said
    assert ": error: " in line and line.isprintable(), said
    assert ("the loss is" in line) == (status == 1), said
    assert "alloc" not in line and "MemoryError" not in line, said
    return status, line


@contextlib.contextmanager
def little_memory(mb=300):
    """Lets this process, on Linux, take so many MB more than it has now."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + mb * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
