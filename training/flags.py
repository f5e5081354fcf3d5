"""Every flag of both trainers, and the checks of their values."""

import argparse
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

import cifar10_utils
from training.argument_files import as_words, flag_text, with_files
from training.errors import UsageError
from training.folder import NOT_RECORDED, read_record
from training.history import FRAMEWORKS

MAX_STEPS = 1400  # unless --max_steps or --epochs says otherwise


class Parser(argparse.ArgumentParser):
    hint = "--help lists the flags"

    def error(self, message):
        raise UsageError(f"{message} ({self.hint})")


def number(kind, low, high):
    """The type of a flag that takes an int or a float from low to high."""

    def parse(text):
        with suppress(ValueError):
            plain = kind is float or (text.isascii() and text.isdigit())
            if plain and low <= kind(text) <= high:
                return kind(text)
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {name} from {low} to {high}")

    return parse


def folder_name(text):
    with suppress(ValueError):  # of a character that names cannot have here
        if text and b"\0" not in os.fsencode(text):
            return os.path.expanduser(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder")


def hidden_units(text):
    units = number(int, 1, 100_000)
    try:
        return tuple(units(part.strip()) for part in text.split(",")) if text.strip() else ()
    except argparse.ArgumentTypeError as error:
        message = f'{text!r}: {error}; write 100 or 100,50 or, for no hidden layer, ""'
        raise argparse.ArgumentTypeError(message) from None


COUNT = {"type": number(int, 1, 10**9), "metavar": "N"}
NON_NEGATIVE = {"type": number(int, 0, 10**9), "metavar": "N", "default": 0}
RATE = {"type": number(float, 1e-38, 1e38), "metavar": "X"}  # what float32 can hold
PROBABILITY = {"type": number(float, 0, 0.99), "metavar": "X", "default": 0.0}
FACTOR = {"type": number(float, 0, 1000), "metavar": "X", "default": 0.0}
FRACTION = {"type": number(float, 0, 1), "metavar": "X", "default": 0.0}
FOLDER = {"type": folder_name, "metavar": "DIR"}
ON = {"action": "store_true"}


# fmt: off
def make_parser(framework):
    """The flags that both trainers have. framework: a key of FRAMEWORKS."""
    parser = Parser(description=f"Train the {FRAMEWORKS[framework]} MLP on CIFAR-10.",
                    allow_abbrev=False,
                    epilog="@FILE reads further flags from a file, with comments after #.")
    parser.set_defaults(framework=framework)
    add = parser.add_argument_group("network and training").add_argument
    add("--dnn_hidden_units", type=hidden_units, default=(100,), metavar="N,N",
        help='units of each hidden layer, "" for none (default: 100)')
    add("--learning_rate", **RATE, default=1e-3, help="of gradient descent (default: 1e-3)")
    add("--max_steps", **COUNT, default=MAX_STEPS, help="steps to train for (default: 1400)")
    add("--batch_size", **COUNT, default=200, help="examples in a step (default: 200)")
    add("--eval_freq", **COUNT, default=100,
        help="steps between evaluations, each with a checkpoint (default: 100)")
    add("--seed", type=number(int, 0, 2**32 - 1), default=42, metavar="N",
        help="of the initial weights and the order of the examples (default: 42)")
    add = parser.add_argument_group("data and results").add_argument
    add("--validation_size", **NON_NEGATIVE,
        help="training images held out for validation; the test set is then used once, with the "
        "weights of best validation accuracy (default: 0)")
    add("--data_dir", **FOLDER, help="folder of CIFAR-10's files, or its parent "
        f"(default: {cifar10_utils.DEFAULT_DIR}, downloaded if missing)")
    add("--synthetic", **ON, help="train on generated data")
    add("--run_dir", **FOLDER,
        help="new or empty folder for the results (default: runs/<trainer>-<time>)")
    add("--resume", **ON,
        help="continue the run in --run_dir, with its flags; begin it if there is none")
    return parser


def add_experiment_flags(parser, activations, normalizations):
    """The flags of the PyTorch trainer alone: the modifications of question 2.1, and devices."""
    parser.set_defaults(max_steps=None)  # --epochs may replace it: see total_steps
    add = parser.add_argument_group("network of the experiments").add_argument
    add("--activation", choices=activations, default="elu", help="(default: elu)")
    add("--normalization", choices=normalizations, default="none", help="(default: none)")
    add("--standardize", **ON, help="divide inputs by their standard deviation in training images")
    add("--whiten", **FACTOR, help="make the inputs uncorrelated (ZCA), adding X to the variances, "
        "which are 1 on average; needs --half_resolution")
    add("--half_resolution", **ON, help="average each 2 x 2 pixels first: a quarter of the inputs")
    add = parser.add_argument_group("optimization").add_argument
    add("--optimizer", choices=("sgd", "momentum", "adam", "adamw"), default="sgd",
        help="momentum: SGD with momentum 0.9 (default: sgd)")
    add("--schedule", choices=("constant", "cosine"), default="constant",
        help="cosine: half a cosine from the learning rate to 0 (default: constant)")
    add("--warmup_steps", **NON_NEGATIVE, help="first steps, with a linearly rising learning rate")
    add("--epochs", **COUNT, help="passes over the training images, in place of --max_steps")
    add = parser.add_argument_group("regularization").add_argument
    add("--weight_decay", **FACTOR, help="of the weights, not of biases; decoupled in AdamW")
    add("--l1_decay", **FACTOR, help="L1 penalty, decoupled: X times the learning rate in a step")
    add("--dropout", **PROBABILITY, help="probability that a hidden unit is set to zero in a step")
    add("--label_smoothing", **PROBABILITY, help="share of the target spread over all classes")
    add("--flip", **ON, help="mirror training images at random")
    add("--shift", type=number(float, 0, 31), default=0.0, metavar="X",
        help="shift training images at random by up to X pixels")
    add("--random_affine", **FRACTION, help="strength of random rotations, zooms and shears")
    add("--color_jitter", **FRACTION, help="strength of random contrast, brightness and colour")
    add("--cutout", type=number(int, 0, 31), default=0, metavar="N",
        help="cover a square of N x N pixels, at a random place, with the mean image")
    add("--mixup", **FRACTION, help="blend images, and their labels, by shares from Beta(X, X)")
    add = parser.add_argument_group("evaluation").add_argument
    add("--test_time_augmentation", type=int, choices=(0, 2, 4), default=0, nargs="?", const=2,
        metavar="N", help="test at the end on views of each image, shifted by up to N pixels: 54 "
        "views for 2, which is the N of the flag alone, 150 for 4")
    add("--train_eval_size", **NON_NEGATIVE, help="unaugmented training images to evaluate on too")
    add("--test_at_end", **ON, help="read the test set once, after the last step")
    add = parser.add_argument_group("devices").add_argument
    add("--use_gpu", **ON, help="train on CUDA")
    add("--bfloat16", **ON, help="multiply matrices in bfloat16, where the processor can")
# fmt: on


def parse(parser, argv=None):
    """The flags in argv; with --resume those of the run in --run_dir. Raises UsageError where they
    are wrong."""
    if argv is None and "ipykernel" in sys.modules:
        parser.hint = 'in a notebook, write flags as a list: main(["--max_steps", "100"])'
    defaults = vars(parser.parse_args([]))
    given = _given(parser, defaults, with_files(sys.argv[1:] if argv is None else argv))
    earlier = _earlier(parser, defaults, given) if given.get("resume") else {}
    args = argparse.Namespace(**{**defaults, **earlier, **given})
    args.dnn_hidden_units = list(args.dnn_hidden_units)
    if args.framework == "pytorch":
        _check_experiment(args)
    if not getattr(args, "epochs", None):
        args.max_steps = args.max_steps or MAX_STEPS
    if args.synthetic and args.data_dir:
        raise UsageError("--synthetic and --data_dir contradict each other: drop one")
    return args


def _given(parser, defaults, words):
    """The flags among words, without the defaults."""
    flags = vars(parser.parse_args([*words], argparse.Namespace(**dict.fromkeys(defaults))))
    for name, value in flags.items():
        if value == []:  # Python 3.11 reads --flag=-- as an empty list
            raise UsageError(f"argument --{name}: '--' is no value")
    return {name: value for name, value in flags.items() if value is not None}


def _earlier(parser, defaults, given):
    """The flags of the run to be resumed, if there is one. Those given must not contradict them."""
    if "run_dir" not in given:
        raise UsageError("--resume needs --run_dir, the folder of the run to continue")
    folder = given["run_dir"]
    if not (record := read_record(Path(folder))):
        return {}
    where, recorded = f"the run in {folder}", record["flags"]
    if record["framework"] != defaults["framework"]:
        raise UsageError(f"{where} was made by train_mlp_{record['framework']}.py")
    if unknown := recorded.keys() - defaults.keys():
        what = f"is of an earlier version, which had --{min(unknown)}"
        raise UsageError(f"{where} {what}: continue it with that version")
    try:
        flags = _given(parser, defaults, as_words(recorded))
    except UsageError as error:
        raise UsageError(f"run.json in {folder} is damaged: {error}") from error
    for name in given.keys() - {*NOT_RECORDED}:
        if given[name] != (before := flags.get(name, defaults[name])):
            change = f"{flag_text(given[name])} now, but was {flag_text(before):.200} in {where}"
            raise UsageError(f"--{name} is {change}: leave it out")
    data_dir = record.get("data_dir")
    if not flags.get("synthetic") and isinstance(data_dir, str) and os.path.isdir(data_dir):
        flags["data_dir"] = data_dir
    if record["status"] == "completed":
        flags.pop("use_gpu", None)  # nothing is left to compute
    return flags


def _check_experiment(args):
    """Raises UsageError where flags of the experiments contradict each other."""
    for_hidden = args.dropout or args.normalization != "none" or args.activation != "elu"
    for wrong, message in (
        (args.epochs and args.max_steps, "--epochs and --max_steps: give one of them"),
        (args.whiten and not args.half_resolution, "--whiten needs --half_resolution: at full "
         "resolution its map has 9.4 million entries"),
        (for_hidden and not args.dnn_hidden_units,
         "--activation, --dropout and --normalization need a hidden layer"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(message)


def total_steps(args, n_examples):
    """--max_steps, or the number of steps that --epochs takes with n_examples."""
    steps = args.max_steps or math.ceil(args.epochs * n_examples / args.batch_size)
    if getattr(args, "warmup_steps", 0) >= steps:
        raise UsageError(f"--warmup_steps {args.warmup_steps} must be below the {steps} steps")
    return steps
