"""The data that the flags ask for."""

from contextlib import suppress

import cifar10_utils
from training.download import download, tell
from training.errors import RunError, UsageError


def load_data(args, on_main_process, one_hot=True):
    """The splits that the flags ask for, synthetic ones if CIFAR-10 is not available.
    on_main_process calls a function in one process only, and returns its result in all."""
    options = {"one_hot": one_hot, "validation_size": args.validation_size, "seed": args.seed}
    try:
        if args.synthetic or not (folder := args.data_dir or on_main_process(_default_data)):
            splits = cifar10_utils.get_synthetic(**options)
        else:
            splits = cifar10_utils.get_cifar10(folder, **options)
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    if args.batch_size > (n := splits.train.num_examples):
        raise UsageError(f"--batch_size {args.batch_size} is above {n}, the training examples")
    return splits


def _default_data():
    """The folder of CIFAR-10, fetched if it is missing; None if that fails."""
    with suppress(FileNotFoundError):
        return cifar10_utils.find_data()
    try:
        return download(cifar10_utils, cifar10_utils.DEFAULT_DIR)
    except RunError as error:
        tell(f"{error}; to try again: python cifar10_utils.py")
