"""CIFAR-10: verify it, read it safely, and draw batches from it. Needs NumPy alone.

import cifar10_utils
cifar10 = cifar10_utils.get_cifar10("cifar10/cifar-10-batches-py")
x, y = cifar10["train"].next_batch(200)       # (200, 3, 32, 32) float32, (200, 10) float32
x, y = cifar10.test.images, cifar10.test.labels

python cifar10_utils.py [DIR]                 # fetches CIFAR-10 into DIR (170 MB)
"""

import os
import pickle
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from hashlib import file_digest, md5
from pathlib import Path

import numpy as np

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
FOLDER = "cifar-10-batches-py"  # in the archive
DEFAULT_DIR = f"cifar10/{FOLDER}"
MD5 = {  # of the official files in that folder
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
REMEDY = f"to download it, or unpack {ARCHIVE} if that is there: python cifar10_utils.py"
TRAIN_FILES = [name for name in MD5 if name.startswith("data_batch")]
IMAGES_PER_FILE = 10_000
SHAPE = (3, 32, 32)  # channels, rows, columns
N_INPUTS = 3 * 32 * 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_CLASSES = len(CLASSES)
PIXEL_RMS = 64.0  # root mean square of the training pixels minus their mean image
SPLIT_SEED = 10  # of the validation split: the same images whatever the seed of a run


class DataSet:
    """Images and labels, with batches drawn in a fresh order every epoch.

    Attributes:
        pixels: (N, 3, 32, 32) uint8, as stored.
        labels: (N, 10) float32 one-hot, or (N,) int64.
        mean: (3, 32, 32) float32, the mean training image.
        position: number of examples drawn so far. The order of an epoch depends only on the seed
            and the epoch's number, so setting `position` continues an earlier run.
    """

    def __init__(self, pixels, labels, mean, one_hot=True, seed=42):
        self.pixels, self.mean, self.seed = pixels, mean, seed
        self.labels = np.eye(N_CLASSES, dtype=np.float32)[labels] if one_hot else labels
        self.num_examples = len(pixels)
        self.position = 0

    @property
    def epochs_completed(self):
        return self.position // self.num_examples

    @cached_property
    def images(self):
        """(N, 3, 32, 32) float32 minus the mean: made at the first access, and kept (614 MB for
        50,000 examples). `next_batch` and `batches` do without it."""
        return self._as_float(self.pixels)

    def next_indices(self, batch_size):
        """Indices (batch_size,) of the next batch, which may span two epochs."""
        n = self.num_examples
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size {batch_size} is not from 1 to {n}")
        epoch, start = divmod(self.position, n)
        indices = epoch_order(n, self.seed, epoch)[start : start + batch_size].copy()
        if missing := batch_size - len(indices):
            indices = np.concatenate([indices, epoch_order(n, self.seed, epoch + 1)[:missing]])
        self.position += batch_size
        return indices

    def next_batch(self, batch_size):
        """Returns x (batch_size, 3, 32, 32) float32 and y, the labels of the same examples. Raises
        ValueError where batch_size is below 1 or above the number of examples."""
        indices = self.next_indices(batch_size)
        return self._as_float(self.pixels.take(indices, axis=0)), self.labels.take(indices, axis=0)

    def batches(self, batch_size):
        """All examples once, in their stored order; the last batch may be smaller."""
        for i in range(0, self.num_examples, batch_size):
            part = slice(i, i + batch_size)
            yield self._as_float(self.pixels[part]), self.labels[part]

    def _as_float(self, pixels):
        x = pixels.astype(np.float32)
        x -= self.mean  # in place: a third faster than pixels - mean
        return x


@lru_cache(maxsize=2)
def epoch_order(n, seed, epoch):
    """The indices of n examples in the random order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(n)


class Splits(dict):
    """The DataSets `train`, `validation` (None without one) and `test`, as items and as attributes.
    `name`: "cifar10" or "synthetic"."""

    def __init__(self, name, **splits):
        super().__init__(splits)
        vars(self).update(splits, name=name)


def get_cifar10(data_dir=DEFAULT_DIR, one_hot=True, validation_size=0, seed=42):
    """Read CIFAR-10, every file verified by its MD5. Never downloads.

    data_dir: the folder of the official files, or its parent. one_hot: labels (N, 10) float32; else
    (N,) int64. validation_size: training images to set apart for validation, always the same ones.
    seed: of the order of the batches. Raises FileNotFoundError if the data is missing, ValueError
    if it is not CIFAR-10 or validation_size leaves no training image."""
    folder = verify(data_dir)
    pixels = np.empty((len(TRAIN_FILES) * IMAGES_PER_FILE, *SHAPE), np.uint8)
    labels = np.empty(len(pixels), np.int64)
    for i, name in enumerate(TRAIN_FILES):
        part = slice(i * IMAGES_PER_FILE, (i + 1) * IMAGES_PER_FILE)
        pixels[part], labels[part] = parse_batch(folder / name)
    test = parse_batch(folder / "test_batch")
    return make_splits("cifar10", (pixels, labels), test, one_hot=one_hot,
                       validation_size=validation_size, seed=seed)  # fmt: skip


def make_splits(name, train, test, one_hot, validation_size, seed):
    """Splits of train and test, pairs of pixels and class numbers. The mean image is that of the
    training images that are left."""
    pixels, labels = train
    if not 0 <= validation_size < len(pixels):
        raise ValueError(f"validation_size {validation_size} is not from 0 to {len(pixels) - 1}")
    validation = None
    if validation_size:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(pixels))
        chosen, rest = np.sort(order[:validation_size]), np.sort(order[validation_size:])
        validation = pixels[chosen], labels[chosen]
        pixels, labels = pixels[rest], labels[rest]
    # Integers add up exactly, and in half the time of floats.
    mean = (pixels.sum(axis=0, dtype=np.uint32) / len(pixels)).astype(np.float32)
    parts = {"train": (pixels, labels), "validation": validation, "test": test}
    sets = {
        key: DataSet(*part, mean=mean, one_hot=one_hot, seed=seed) if part else None
        for key, part in parts.items()
    }
    return Splits(name, **sets)


def find_data(data_dir=DEFAULT_DIR):
    """The folder that holds the official files: data_dir or its subfolder cifar-10-batches-py."""
    folder = locate(data_dir)
    if missing := [name for name in MD5 if not (folder / name).is_file()]:
        tried = " or ".join(dict.fromkeys([str(data_dir), str(folder)]))
        some = len(missing) < len(MD5)
        what = f"{folder} lacks {', '.join(missing)}" if some else f"no CIFAR-10 in {tried}"
        raise FileNotFoundError(f"{what}; {REMEDY} {shlex.quote(Path(data_dir).as_posix())}")
    return folder


def locate(data_dir):
    """data_dir if it is named FOLDER or holds one of the official files, else data_dir/FOLDER."""
    data_dir = Path(os.path.expanduser(data_dir))
    here = data_dir.name == FOLDER or any((data_dir / name).exists() for name in MD5)
    return data_dir if here else data_dir / FOLDER


def verify(data_dir):
    """As find_data. Raises ValueError unless each file has the MD5 of the official one."""
    folder = find_data(data_dir)
    with ThreadPoolExecutor(2) as pool:
        sums = pool.map(md5_of, [folder / name for name in MD5])
    if wrong := [name for name, found in zip(MD5, sums, strict=True) if found != MD5[name]]:
        what = f"{folder / wrong[0]}: truncated or altered"
        raise ValueError(f"{what}; {REMEDY} {shlex.quote(folder.as_posix())}")
    return folder


def md5_of(path):
    with open(path, "rb") as file:  # in pieces, which takes 60 MB less than the whole at once
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def parse_batch(path):
    """The pixels (N, 3, 32, 32) uint8 and labels (N,) int64 of a batch file with the right MD5."""
    with open(path, "rb") as file:
        batch = BatchUnpickler(file, encoding="bytes").load()
    return batch[b"data"].reshape(-1, *SHAPE), np.array(batch[b"labels"], np.int64)


class BatchUnpickler(pickle.Unpickler):
    """Loads only the three names that the official files use, so a file cannot run code."""

    NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.NAMES:
            raise ValueError(f"refused: {module}.{name}, which the official files never use")
        return super().find_class(module.replace(".core.", "._core."), name)


def main(argv=None):
    from training.download import main  # here: nothing else in this file needs training/

    main(argv)


if __name__ == "__main__":
    main()
