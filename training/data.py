"""The data that the flags ask for."""

import sys
from contextlib import suppress

import cifar10_utils
from training.errors import RunError, UsageError, one_line


def load_data(args, from_first, one_hot=True):
    """The splits that the flags ask for, synthetic ones if CIFAR-10 is not available.
    from_first is Run.from_first: only one process downloads."""
    options = {"one_hot": one_hot, "validation_size": args.validation_size, "seed": args.seed}
    try:
        if args.synthetic or not (folder := args.data_dir or from_first(_fetch_default_data)):
            splits = cifar10_utils.get_synthetic(**options)
        else:
            splits = cifar10_utils.get_cifar10(folder, **options)
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    if args.batch_size > splits.train.num_examples:
        raise UsageError(
            f"--batch_size {args.batch_size} is above {splits.train.num_examples}, "
            "the number of training examples"
        )
    return splits


def _fetch_default_data():
    """The folder of CIFAR-10, downloaded if it is missing; None if that fails."""
    with suppress(FileNotFoundError):
        return cifar10_utils.find_data()
    try:
        return cifar10_utils.download()
    except RunError as error:
        print(one_line(f"{error}; to try again: python cifar10_utils.py"), file=sys.stderr)
