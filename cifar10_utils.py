"""CIFAR-10: verify it, read it safely, and draw batches from it.

    import cifar10_utils
    cifar10 = cifar10_utils.get_cifar10("cifar10/cifar-10-batches-py")
    x, y = cifar10["train"].next_batch(200)       # (200, 3, 32, 32) float32, (200, 10) float32
    x, y = cifar10.test.images, cifar10.test.labels

    python cifar10_utils.py [DIR]                 # downloads CIFAR-10 into DIR (170 MB)

The last line is the work of fetch.py. `get_synthetic` makes a set of
the same shape out of nothing, for a machine that has neither the data nor a network.
"""

import hashlib
import io
import pickle
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = "cifar-10-batches-py"
DEFAULT_DIR = f"cifar10/{FOLDER}"
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


class DataError(ValueError):
    """The data is there, but is not what it should be."""


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
        train_pixels[part], train_labels[part] = read_verified(folder / name)
    read_verified(folder / "batches.meta", parse=len)
    test_pixels, test_labels = read_verified(folder / "test_batch")
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
    # Integers add up exactly, and in half the time of floats.
    mean = (pixels.sum(axis=0, dtype=np.uint32) / len(pixels)).astype(np.float32)
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
    folder = resolve_folder(Path(data_dir))
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
    # No opcode of these reads the memo: leaving it empty saves a quarter of the time.
    dispatch[pickle.BINPUT[0]] = lambda self: self.read(1)
    dispatch[pickle.LONG_BINPUT[0]] = lambda self: self.read(4)

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.NAMES:
            raise DataError(f"refused, for it asks for {module}.{name}, which no batch needs")
        return _Pickled


def read_verified(path, parse=parse_batch):
    """What parse makes of the bytes of an official file, once its MD5 is found right."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise DataError("far larger than the official file")
        raw = path.read_bytes()
        if md5_of(raw) != MD5[path.name]:
            raise DataError(f"truncated or altered: its MD5 is {md5_of(raw)}, not {MD5[path.name]}")
        return parse(raw)
    except DataError as error:
        raise DataError(f"{path}: {error}; to fetch it anew: {_remedy(path.parent)}") from error


def one_line(message):
    """message, with what would break the line or steer the terminal written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))


def md5_of(raw):
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def resolve_folder(data_dir):
    """data_dir where it is named like the folder or holds one of its files, else the subfolder."""
    if data_dir.exists() and not data_dir.is_dir():
        raise NotADirectoryError(f"{data_dir} is a file, not the folder of CIFAR-10's files")
    here = data_dir.name == FOLDER or any((data_dir / name).exists() for name in MD5)
    return data_dir if here else data_dir / FOLDER


def _remedy(data_dir):
    return f"python cifar10_utils.py {shlex.quote(str(data_dir))}"


if __name__ == "__main__":
    from fetch import main  # it needs this module in its turn

    main()
