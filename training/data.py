"""The data that the flags ask for."""

import sys
from contextlib import suppress

import numpy as np

import cifar10_utils
from training.download import download
from training.errors import RunError, UsageError, one_line


def load_data(args, on_main_process=lambda action: action(), one_hot=True):
    """The splits that the flags ask for, synthetic ones if CIFAR-10 is not available.
    on_main_process calls a function in one process only, and returns its result in all."""
    options = {"one_hot": one_hot, "validation_size": args.validation_size, "seed": args.seed}
    try:
        if args.synthetic or not (folder := args.data_dir or on_main_process(_default_data)):
            splits = get_synthetic(**options)
        else:
            splits = cifar10_utils.get_cifar10(folder, **options)
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    if args.batch_size > (n := splits.train.num_examples):
        raise UsageError(f"--batch_size {args.batch_size} exceeds the {n} training examples")
    return splits


def _default_data():
    """The folder of CIFAR-10, fetched if it is missing; None if that fails."""
    with suppress(FileNotFoundError):
        return cifar10_utils.find_data()
    try:
        return download(cifar10_utils.DEFAULT_DIR)
    except RunError as error:
        print(one_line(f"{error}; to try again: python cifar10_utils.py"), file=sys.stderr)


def get_synthetic(one_hot=True, validation_size=0, seed=42):
    """A generated stand-in for CIFAR-10: same shapes, same numbers of images.

    Each class is a mixture of six Gaussians in six dimensions. An image is a sum of six patterns,
    weighted by the coordinates of a point drawn from its class, plus noise. A linear model reaches
    an accuracy of about 0.25, a network with 100 hidden units more than 0.9."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6 * cifar10_utils.N_CLASSES, 6))
    patterns = rng.uniform(-30, 30, (6, cifar10_utils.N_INPUTS)).astype(np.float32)

    def draw(n):
        cloud = rng.integers(0, len(centres), n)
        points = (centres[cloud] + 0.3 * rng.standard_normal((n, 6))).astype(np.float32)
        pixels = np.empty((n, cifar10_utils.N_INPUTS), np.uint8)
        for i in range(0, n, 50):  # too few for BLAS to start threads
            block = points[i : i + 50] @ patterns + 96
            noise = np.frombuffer(rng.bytes(block.size), np.uint8).reshape(block.shape) >> 2
            pixels[i : i + 50] = (block + noise).clip(0, 255)
        return pixels.reshape(-1, *cifar10_utils.SHAPE), cloud % cifar10_utils.N_CLASSES

    return cifar10_utils.make_splits("synthetic", draw(50_000), draw(10_000), one_hot=one_hot,
                                     validation_size=validation_size, seed=seed)  # fmt: skip
