"""CIFAR-10: fetch it, verify it, read it safely, and draw batches from it.

    import cifar10_utils
    cifar10 = cifar10_utils.get_cifar10("cifar10/cifar-10-batches-py")
    x, y = cifar10["train"].next_batch(200)       # (200, 3, 32, 32) float32, (200, 10) float32
    x, y = cifar10.test.images, cifar10.test.labels

    python cifar10_utils.py [DIR]                 # downloads CIFAR-10 into DIR (170 MB)

The environment variable CIFAR10_URL names a mirror of the archive. `get_synthetic` makes a set of
the same shape out of nothing, for a machine that has neither the data nor a network.
"""

import argparse
import bz2
import fcntl
import gzip
import hashlib
import io
import lzma
import os
import pickle
import shlex
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

FOLDER = "cifar-10-batches-py"
DEFAULT_DIR = f"cifar10/{FOLDER}"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = {  # of the official files; those that torchvision checks
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
TRAIN_FILES = [name for name in MD5 if name.startswith("data_batch")]
IMAGES_PER_FILE = 10_000
SHAPE = (3, 32, 32)  # channels, rows, columns
N_INPUTS = 3 * 32 * 32
N_CLASSES = 10
PIXEL_RMS = 64.0  # root mean square of the training pixels less their mean image
SPLIT_SEED = 10  # of the validation split: the same images whatever the seed of a run

MAX_FILE = 64 * 2**20  # bytes; the largest official file has 31 MB
MAX_ARCHIVE = 512 * 2**20  # bytes, packed and unpacked; the official one has 170 and 186 MB
LONG_NAMES = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
CONNECT_SECONDS = 12  # for the first answer of a server, name look-up included
READ_SECONDS = 15  # of silence before a connection counts as dead
WINDOW_SECONDS, WINDOW_BYTES = 30, 30_000  # a connection slower than this counts as dead
ATTEMPTS, PROGRESS = 6, 2**20  # connections in a row that bring fewer bytes each
BACKOFF_SECONDS = 0.2  # doubled after each of them
FIRST_ATTEMPTS = 3  # while nothing has come in at all


class DataError(ValueError):
    """The data is there, but is not what it should be."""


class DownloadError(Exception):
    """The data could not be fetched."""


class DataSet:
    """Images and labels, with batches drawn in a fresh order every epoch.

    Attributes:
        pixels: (N, 3, 32, 32) uint8, as stored.
        labels: (N, 10) float32 one-hot, or (N,) int64.
        mean: (3, 32, 32) float32, the mean training image.
        position: number of examples drawn so far. The order of an epoch depends on the seed and
            the number of the epoch alone, so that setting `position` continues an earlier run.
    """

    def __init__(self, pixels, labels, mean, one_hot=True, seed=42):
        self.pixels = pixels.reshape(-1, *SHAPE)
        self.labels = np.eye(N_CLASSES, dtype=np.float32)[labels] if one_hot else labels
        self.mean = mean
        self.seed = seed
        self.position = 0
        self._epoch, self._order = None, None

    @property
    def num_examples(self):
        return len(self.pixels)

    @property
    def epochs_completed(self):
        return self.position // self.num_examples

    @property
    def images(self):
        """(N, 3, 32, 32) float32 less the mean, made anew at each access (614 MB for 50,000)."""
        return self._as_float(self.pixels)

    def next_indices(self, batch_size):
        """Indices (batch_size,) of the next batch, which may span two epochs."""
        if not 1 <= batch_size <= self.num_examples:
            raise ValueError(
                f"batch_size is {batch_size}, but must be from 1 to {self.num_examples}, "
                "the number of examples"
            )
        start = self.position % self.num_examples
        indices = self._epoch_order(self.epochs_completed)[start : start + batch_size]
        missing = batch_size - len(indices)
        if missing:
            following = self._epoch_order(self.epochs_completed + 1)[:missing]
            indices = np.concatenate([indices, following])
        self.position += batch_size
        return indices

    def next_batch(self, batch_size, out=None):
        """Returns x (batch_size, 3, 32, 32) float32 and y, the labels of the same examples.

        out: an array of the shape and dtype of x to write x into; a new one unless given. Raises
        ValueError where batch_size is below 1 or above the number of examples.
        """
        indices = self.next_indices(batch_size)
        x = self._as_float(self.pixels.take(indices, axis=0), out)
        return x, self.labels.take(indices, axis=0)

    def batches(self, batch_size):
        """All examples once, in their stored order; the last batch may be smaller."""
        for i in range(0, self.num_examples, batch_size):
            part = slice(i, i + batch_size)
            yield self._as_float(self.pixels[part]), self.labels[part]

    def _as_float(self, pixels, out=None):
        x = np.empty(pixels.shape, np.float32) if out is None else out
        x[:] = pixels  # and then in place: a third faster than pixels - mean
        x -= self.mean
        return x

    def _epoch_order(self, epoch):
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._epoch, self._order = epoch, rng.permutation(self.num_examples)
        return self._order


@dataclass(frozen=True)
class Splits:
    """The three splits, as attributes and as items; `validation` is None where there is none."""

    train: DataSet
    validation: DataSet | None
    test: DataSet
    name: str  # "cifar10" or "synthetic"

    def __getitem__(self, split):
        if split not in ("train", "validation", "test"):
            raise KeyError(split)
        return getattr(self, split)


def get_cifar10(data_dir=DEFAULT_DIR, one_hot=True, validation_size=0, seed=42):
    """Read CIFAR-10, every file verified by its MD5. Never downloads.

    Args:
        data_dir: the folder of the official files, or its parent.
        one_hot: labels (N, 10) float32; else (N,) int64.
        validation_size: training images to set apart for validation, always the same ones.
        seed: of the order of the batches.

    Raises FileNotFoundError where the data is not there, DataError (a ValueError) where it is not
    CIFAR-10, ValueError where validation_size leaves no training image.
    """
    folder = find_data(data_dir)
    train_pixels = np.empty((len(TRAIN_FILES) * IMAGES_PER_FILE, *SHAPE), np.uint8)
    train_labels = np.empty(len(train_pixels), np.int64)
    for i, name in enumerate(TRAIN_FILES):
        part = slice(i * IMAGES_PER_FILE, (i + 1) * IMAGES_PER_FILE)
        train_pixels[part], train_labels[part] = _read(folder / name)
    _read(folder / "batches.meta", parse=len)
    test_pixels, test_labels = _read(folder / "test_batch")
    test = test_pixels.copy(), test_labels  # those in the file's bytes cannot be written to
    return _split("cifar10", (train_pixels, train_labels), test, one_hot, validation_size, seed)


def get_synthetic(one_hot=True, validation_size=0, seed=42):
    """A generated stand-in for CIFAR-10: same shapes, same numbers of images, 0.5 s.

    Each class is six clouds of points in a space of six dimensions, and an image is a point drawn
    as a sum of six colour waves, plus noise. The clouds of the classes lie between each other: a
    linear model finds about 0.27 of them, one hidden layer of 100 units more than 0.9.
    """
    rng = np.random.default_rng(0)
    waves, clouds = 6, 6
    centres = rng.standard_normal((clouds * N_CLASSES, waves))
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]] / SHAPE[1]
    frequency = rng.uniform(-2, 2, (2, waves, 1, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (waves, 1, 1, 1))
    wave = np.cos(2 * np.pi * (frequency[0] * rows + frequency[1] * columns) + phase)
    colour = rng.uniform(-1, 1, (waves, SHAPE[0], 1, 1))
    basis = (40 * colour * wave).reshape(waves, -1).astype(np.float32)

    def draw(n):
        cloud = rng.integers(0, len(centres), n)
        points = centres[cloud] + 0.3 * rng.standard_normal((n, waves))
        noise = rng.bit_generator.random_raw(n * basis.shape[1] // 8).view(np.uint8)
        pixels = noise.reshape(n, -1)
        pixels >>= 2
        for i in range(0, n, 500):
            block = points[i : i + 500].astype(np.float32) @ basis + pixels[i : i + 500] + 96
            pixels[i : i + 500] = block.clip(0, 255)
        return pixels.reshape(-1, *SHAPE), cloud % N_CLASSES

    train, test = draw(len(TRAIN_FILES) * 10_000), draw(10_000)
    return _split("synthetic", train, test, one_hot, validation_size, seed)


def _split(name, train, test, one_hot, validation_size, seed):
    pixels, labels = train
    if not 0 <= validation_size < len(pixels):
        raise ValueError(
            f"validation_size is {validation_size}, but must be from 0 to {len(pixels) - 1}"
        )
    held_out = None
    if validation_size:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(pixels))
        chosen, rest = np.sort(order[:validation_size]), np.sort(order[validation_size:])
        held_out = pixels[chosen], labels[chosen]
        pixels, labels = pixels[rest], labels[rest]
    mean = pixels.mean(axis=0, dtype=np.float64).astype(np.float32)
    validation = DataSet(*held_out, mean, one_hot, seed) if held_out else None
    return Splits(
        DataSet(pixels, labels, mean, one_hot, seed),
        validation,
        DataSet(*test, mean, one_hot, seed),
        name,
    )


# Reading ------------------------------------------------------------------------------------------


def find_data(data_dir=DEFAULT_DIR):
    """The folder that holds the official files: data_dir or its subfolder cifar-10-batches-py."""
    folder = _resolve(Path(data_dir))
    missing = [name for name in MD5 if not (folder / name).is_file()]
    if len(missing) == len(MD5):
        tried = dict.fromkeys([str(data_dir), str(folder)])
        raise FileNotFoundError(
            f"no CIFAR-10 in {' or '.join(tried)}; to download it: {_remedy(data_dir)}"
        )
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; to fetch what is missing: {_remedy(data_dir)}"
        )
    return folder


def parse_batch(raw):
    """The pixels (N, 3, 32, 32) uint8 and labels (N,) int64 in the bytes of a batch file.

    Raises DataError for anything but what the official files hold.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(raw), encoding="bytes").load()
        pixels, labels = batch[b"data"].pixels(), batch[b"labels"]
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"not a CIFAR-10 batch ({type(error).__name__})") from error
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DataError(f"not a CIFAR-10 batch (no list of {len(pixels)} labels)")
    if not all(type(label) is int and 0 <= label < N_CLASSES for label in labels):
        raise DataError(f"not a CIFAR-10 batch (labels beyond 0 to {N_CLASSES - 1})")
    return pixels, np.array(labels, np.int64)


class _Pickled:
    """What a pickled numpy array and its dtype become: what they say is kept, not obeyed."""

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state

    def pixels(self):
        _, shape, dtype, fortran_order, content = self.state
        n = len(content) // N_INPUTS
        if dtype.args != (b"u1", 0, 1) or fortran_order or shape != (n, N_INPUTS):
            raise DataError("not a CIFAR-10 batch (its pixels are not rows of 3072 bytes)")
        return np.frombuffer(content, np.uint8).reshape(n, *SHAPE)


class _BatchUnpickler(pickle._Unpickler):
    """Python's own unpickler, reduced to the opcodes and names in the official files.

    Its C twin would allocate what a forged header asks for; this one only what the file holds.
    """

    NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
    OPCODES = (
        *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.BINPUT, pickle.LONG_BINPUT),
        *(pickle.EMPTY_DICT, pickle.SETITEMS, pickle.EMPTY_LIST, pickle.APPENDS),
        *(pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE),
        *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.NEWFALSE),
        *(pickle.SHORT_BINSTRING, pickle.BINSTRING),
        *(pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
    )
    dispatch = {opcode[0]: pickle._Unpickler.dispatch[opcode[0]] for opcode in OPCODES}

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.NAMES:
            raise DataError(f"refused, for it asks for {module}.{name}, which no batch needs")
        return _Pickled


def _read(path, parse=parse_batch):
    """What parse makes of the bytes of an official file, once its MD5 is found right."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise DataError("far larger than the official file")
        raw = path.read_bytes()
        if _md5(raw) != MD5[path.name]:
            raise DataError(f"truncated or altered: its MD5 is {_md5(raw)}, not {MD5[path.name]}")
        return parse(raw)
    except DataError as error:
        raise DataError(f"{path}: {error}; to fetch it anew: {_remedy(path.parent)}") from error


def one_line(message):
    """message, with what would break the line or steer the terminal written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))


def _md5(raw):
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def _resolve(data_dir):
    """data_dir where it is named like the folder or holds one of its files, else the subfolder."""
    if data_dir.exists() and not data_dir.is_dir():
        raise NotADirectoryError(f"{data_dir} is a file, not the folder of CIFAR-10's files")
    here = data_dir.name == FOLDER or any((data_dir / name).exists() for name in MD5)
    return data_dir if here else data_dir / FOLDER


def _remedy(data_dir):
    return f"python cifar10_utils.py {shlex.quote(str(data_dir))}"


# Fetching -----------------------------------------------------------------------------------------


def download(data_dir=DEFAULT_DIR):
    """Fetch what data_dir lacks of CIFAR-10. Returns the folder of the files, all verified.

    The archive comes from CIFAR10_URL where that is set. It grows in `<folder>.tar.part`, so that
    the next call goes on where this one broke off. A file of the data set appears under its name
    once its MD5 is right. Raises DownloadError where the archive cannot be had or is wrong.
    """
    folder = _resolve(Path(data_dir))
    if _complete(folder):
        return folder
    url = os.environ.get("CIFAR10_URL", URL)
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"CIFAR10_URL is {url!r}, but must start with https:// or http://")
    made = not folder.parent.exists()
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # where another process is at it, wait for it
        if not _complete(folder):
            _download(url, folder)
    finally:
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty: then it stays
                folder.parent.rmdir()
    return folder


def _download(url, folder):
    part = folder.parent / f"{folder.name}.tar.part"
    continued = part.exists()
    _fetch(url, part)
    try:
        files = _unpack(part)
    except Exception as error:  # a damaged archive can raise almost anything
        part.unlink()
        if continued:  # the archive may have changed since the earlier call
            return _download(url, folder)
        raise DownloadError(f"what {url} sent is not CIFAR-10's archive: {error}") from error
    with _writing(folder):
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            with open(folder / f"{name}.part", "wb", opener=_open_no_link) as file:
                file.write(content)
            os.replace(folder / f"{name}.part", folder / name)
        part.unlink()


def _complete(folder):
    try:
        return all((folder / name).is_file() and _read(folder / name, parse=bool) for name in MD5)
    except DataError:
        return False


def _fetch(url, part):
    """Download url to the file part, over as many connections as it takes."""
    print(f"downloading CIFAR-10 (170 MB) from {url}", file=sys.stderr)
    began, longest, failures = time.monotonic(), 0, 0
    while True:
        try:
            return _fetch_rest(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing beyond what is already here
                return None
            if error.code < 500:
                raise DownloadError(f"no CIFAR-10 from {url}: {error}") from error
            reason = error
        except ValueError as error:  # an address, of the mirror or a redirect, that is none
            raise DownloadError(f"no CIFAR-10 from {url}: {error}") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
        size = _size(part)
        failures = 1 if size >= longest + PROGRESS else failures + 1
        longest = max(longest, size)
        late = not size and time.monotonic() - began > CONNECT_SECONDS
        if late or failures == (ATTEMPTS if size else FIRST_ATTEMPTS):
            raise DownloadError(f"no CIFAR-10 from {url}: {str(reason) or type(reason).__name__}")
        time.sleep(BACKOFF_SECONDS * 2**failures)


def _fetch_rest(url, part):
    """One connection: append to the file part what it lacks."""
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _open(urllib.request.Request(url, headers=headers)) as response:
        if "html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{url} answers with a web page, not with CIFAR-10's archive")
        if response.status != 206:  # a server that does not know Range starts from the beginning
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(f"{url} answers with another part of the archive than asked for")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with _writing(part):
            mode = "ab" if start else "wb"
            file = open(part, mode, 0, opener=_open_no_link)  # noqa: SIM115 (closed below)
        bar = tqdm(desc="CIFAR-10", total=total, initial=start, unit="B", unit_scale=True,
                   disable=None)  # fmt: skip
        with file, bar:
            for chunk in _chunks(response):
                with _writing(part):
                    file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_ARCHIVE:
                    raise DownloadError(f"{url} sends far more than CIFAR-10's archive")
    if _size(part) < (total or 0):
        raise ConnectionError(f"the connection broke off at {_size(part)} of {total} bytes")


def _chunks(response):
    """What response holds, as it comes in; TimeoutError where that is hardly anything."""
    began, received = time.monotonic(), 0
    while chunk := response.read1(2**16):
        yield chunk
        received += len(chunk)
        if time.monotonic() - began > WINDOW_SECONDS:
            if received < WINDOW_BYTES:
                raise TimeoutError(f"only {received} bytes in {WINDOW_SECONDS} s")
            began, received = time.monotonic(), 0


def _open(request):
    """The response to request. In a thread, for no time-out of sockets covers the name look-up."""
    opener, answer = urllib.request.build_opener(_NoWeakerRedirect), []
    too_late = threading.Event()

    def connect():
        try:
            answer.append(opener.open(request, timeout=READ_SECONDS))
            if too_late.is_set():
                answer[0].close()
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not answer:
        too_late.set()
        raise TimeoutError(f"no answer within {CONNECT_SECONDS} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


class _NoWeakerRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect to what is less safe, and closes the answer, which urllib leaves open."""

    def http_error_302(self, req, fp, *details):
        try:
            return super().http_error_302(req, fp, *details)
        finally:
            fp.close()

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise DownloadError(f"{req.full_url} redirects to {newurl}: refused, not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _unpack(archive):
    """The verified content of every official file in archive, by name.

    tarfile's own loop would follow extended headers to sizes and sparse files far beyond what the
    archive holds; here they are skipped, for none of the names that count needs them.
    """
    files = {}
    with _decompressed(archive) as file:
        while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if not 0 <= member.size <= MAX_FILE or file.tell() > MAX_ARCHIVE:
                raise DataError(
                    f"its member {member.name} has {member.size} bytes at {file.tell()}"
                )
            blocks = -(-member.size // tarfile.BLOCKSIZE)
            content = file.read(blocks * tarfile.BLOCKSIZE)[: member.size]
            parts = PurePosixPath(member.name).parts
            if member.type in LONG_NAMES or (member.isdir() and parts in ((), (FOLDER,))):
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or parts[:-1] != (FOLDER,):
                raise DataError(f"it holds {member.name}, which is no file of CIFAR-10")
            if parts[-1] in MD5:
                if _md5(content) != MD5[parts[-1]]:
                    raise DataError(f"its {parts[-1]} has the wrong MD5, {_md5(content)}")
                files[parts[-1]] = content
    if missing := [name for name in MD5 if name not in files]:
        raise DataError(f"it lacks {', '.join(missing)}")
    return files


def _decompressed(archive):
    """The file archive, opened to read what was compressed, if it was."""
    for opener in (gzip.open, bz2.open, lzma.open):
        with suppress(OSError, EOFError, lzma.LZMAError), opener(archive) as file:
            file.read(1)
            return opener(archive)
    return open(archive, "rb")


def _open_no_link(path, flags):
    """For open(): fails where path is a link, which may lead to a file of somebody else."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _size(path):
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror}") from error


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Download CIFAR-10 (170 MB) and verify it. CIFAR10_URL names a mirror.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", nargs="?", default=DEFAULT_DIR, help="default: %(default)s")
    try:
        print(f"CIFAR-10 is in {download(parser.parse_args(argv).dir)}")
    except (DownloadError, OSError) as error:
        sys.exit(one_line(f"{parser.prog}: error: {error}"))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
