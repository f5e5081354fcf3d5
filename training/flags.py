"""Every flag of both trainers, and the checks of their values."""

import argparse
import math
import os
from contextlib import suppress

import cifar10_utils
from training.errors import UsageError

MAX_STEPS = 1400  # unless --max_steps or --epochs says otherwise


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message} (--help lists the flags)")

    def print_help(self, file=None):
        if os.environ.get("RANK", "0") == "0":  # once under torchrun
            super().print_help(file)


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


def folder(text):
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder")
    return text


def hidden_units(text):
    units = number(int, 1, 100_000)
    try:
        return tuple(units(part.strip()) for part in text.split(",")) if text.strip() else ()
    except argparse.ArgumentTypeError as error:
        message = f'{text!r}: {error}; write 100 or 100,50 or, for no hidden layer, ""'
        raise argparse.ArgumentTypeError(message) from None


COUNT, SIZE = number(int, 1, 10**9), number(int, 0, 10**9)
SHARE, FACTOR = number(float, 0, 0.99), number(float, 0, 1000)
DECAY, RATE = number(float, 0, 0.9999), number(float, math.ulp(0), 1e308)


# fmt: off
def make_parser(description):
    """The flags that both trainers have."""
    parser = Parser(description=description, allow_abbrev=False, fromfile_prefix_chars="@",
                    epilog="@FILE reads further flags from a file, with comments after #.")
    parser.convert_arg_line_to_args = lambda line: line.partition("#")[0].split()
    add = parser.add_argument_group("network and training").add_argument
    add("--dnn_hidden_units", type=hidden_units, default=(100,), metavar="N,N",
        help='units of each hidden layer, "" for none (default: 100)')
    add("--learning_rate", type=RATE, default=1e-3, metavar="X",
        help="of gradient descent (default: 1e-3)")
    add("--max_steps", type=COUNT, default=MAX_STEPS, metavar="N",
        help="steps to train for (default: 1400)")
    add("--batch_size", type=COUNT, default=200, metavar="N",
        help="examples in a step (default: 200)")
    add("--eval_freq", type=COUNT, default=100, metavar="N",
        help="steps from one evaluation and checkpoint to the next (default: 100)")
    add("--seed", type=number(int, 0, 2**32 - 1), default=42, metavar="N",
        help="of the initial weights and the order of the examples (default: 42)")
    add = parser.add_argument_group("data and results").add_argument
    add("--validation_size", type=SIZE, default=0, metavar="N", help="training images to evaluate "
        "on; the test set is then read once, with the weights that did best on them (default: 0)")
    add("--data_dir", type=folder, metavar="DIR", help="folder of CIFAR-10's files, or its parent "
        f"(default: {cifar10_utils.DEFAULT_DIR}, downloaded if missing)")
    add("--synthetic", action="store_true", help="train on generated data")
    add("--run_dir", type=folder, metavar="DIR",
        help="new folder for the results (default: runs/<trainer>-<time>)")
    add("--resume", action="store_true", help="go on with the run in --run_dir")
    return parser


def add_experiment_flags(parser, activations, normalizations):
    """The flags of the PyTorch trainer alone: the modifications of question 2.1, and devices."""
    parser.set_defaults(max_steps=None)  # --epochs may stand in its place: see total_steps
    add = parser.add_argument_group("network of the experiments").add_argument
    add("--activation", choices=activations, default="elu", metavar="NAME",
        help="elu (default), tanh, relu or gelu")
    add("--normalization", choices=normalizations, default="none", metavar="NAME",
        help="none (default), batch or layer, before each activation")
    add("--standardize", action="store_true",
        help="divide each pixel by its standard deviation over the training images")
    add("--local_fields", action="store_true",
        help="begin with smooth local patterns as the weights of the first layer")
    add = parser.add_argument_group("optimization").add_argument
    add("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd", metavar="NAME",
        help="sgd (default), adam or adamw")
    add("--momentum", type=DECAY, default=0.0, metavar="X", help="of SGD")
    add("--schedule", choices=("constant", "cosine"), default="constant", metavar="NAME",
        help="constant (default) or cosine: half a cosine from the learning rate to 0")
    add("--warmup_steps", type=SIZE, default=0, metavar="N",
        help="steps of a linear rise of the learning rate")
    add("--epochs", type=COUNT, metavar="N",
        help="passes over the training images, in place of --max_steps")
    add("--ema", type=DECAY, default=0.0, metavar="X",
        help="decay of a moving average of the weights, which is evaluated in their place")
    add = parser.add_argument_group("regularization").add_argument
    add("--weight_decay", type=FACTOR, default=0.0, metavar="X",
        help="of the weights, not of biases and norms; decoupled in AdamW")
    add("--l1", type=FACTOR, default=0.0, metavar="X",
        help="factor of the sum of the weights' absolute values in the loss")
    add("--first_layer_l1", type=FACTOR, default=0.0, metavar="X",
        help="shrink the first layer's weights after each step, by this times the learning rate")
    add("--dropout", type=SHARE, default=0.0, metavar="P",
        help="probability that a hidden unit is set to zero in a step")
    add("--label_smoothing", type=SHARE, default=0.0, metavar="X",
        help="share of the target that is spread over all classes")
    add("--flip", action="store_true", help="mirror training images at random")
    add("--shift", type=number(int, 0, 31), default=0, metavar="N",
        help="shift training images at random by up to N pixels")
    add("--distortion", type=number(float, 0, 1), default=0.0, metavar="X",
        help="strength of random turns, zooms and shears of training images")
    add("--mixup", type=number(float, 0, 1), default=0.0, metavar="X",
        help="largest share of another image blended into a training image, labels alike")
    add("--test_time_averaging", action="store_true",
        help="evaluate on the mean over 18 moved and mirrored views of an image")
    add = parser.add_argument_group("devices").add_argument
    add("--use_gpu", action="store_true", help="train on CUDA")
    add("--deterministic", action="store_true", help="let CUDA use deterministic algorithms only")
    add("--bfloat16", action="store_true",
        help="multiply matrices in bfloat16, where there are instructions for it")
    add("--checkpoint_freq", type=COUNT, metavar="N", help="steps between further checkpoints")
# fmt: on


def parse(parser, argv=None):
    """The flags in argv. Raises UsageError where they are wrong."""
    try:
        args = parser.parse_args(argv)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"unreadable argument file: {error}") from error
    for name, value in vars(args).items():
        if value == []:  # so Python 3.11 takes --flag=--
            raise UsageError(f"argument --{name}: '--' is no value")
    args.dnn_hidden_units = list(args.dnn_hidden_units)
    if not getattr(args, "epochs", None):
        args.max_steps = args.max_steps or MAX_STEPS
    if args.resume and not args.run_dir:
        raise UsageError("--resume needs --run_dir, the folder of the run to go on with")
    if args.synthetic and args.data_dir:
        raise UsageError("--synthetic and --data_dir contradict each other: drop one")
    return args


def check_experiment(args, processes, n_gpus):
    """Raises UsageError where flags contradict each other or the machine."""
    batch_norm = args.normalization == "batch"
    for_hidden = (args.dropout, args.local_fields, args.first_layer_l1)
    for_hidden += (args.normalization != "none", args.activation != "elu")
    for wrong, message in (
        (args.momentum and args.optimizer != "sgd", "--momentum goes with --optimizer sgd only"),
        (args.epochs and args.max_steps, "--epochs and --max_steps: give one of them"),
        (any(for_hidden) and not args.dnn_hidden_units, "--activation, --dropout, --normalization, "
         "--local_fields and --first_layer_l1 need a hidden layer"),
        (args.deterministic and not args.use_gpu, "--deterministic needs --use_gpu"),
        (args.use_gpu and n_gpus < processes.local_size, f"--use_gpu needs {processes.local_size} "
         f"CUDA device(s), but there are {n_gpus}: leave it out to train on the CPU"),
        (batch_norm and processes.size > 1 and not args.use_gpu,
         "--normalization batch needs --use_gpu with several processes: use layer"),
        (batch_norm and args.batch_size == processes.size,
         "--normalization batch needs more than one example in a batch"),
        (args.batch_size % processes.size,
         f"--batch_size {args.batch_size} does not divide into {processes.size} equal shares"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(message)


def total_steps(args, n_examples):
    """--max_steps, or the steps that --epochs over so many examples take."""
    steps = args.max_steps or math.ceil(args.epochs * n_examples / args.batch_size)
    if args.warmup_steps >= steps:
        raise UsageError(f"--warmup_steps {args.warmup_steps} leaves no step of {steps}")
    return steps


def differing(one, other):
    """The names of the flags whose values differ. A flag that is missing is off."""
    return [name for name in one | other if (one.get(name) or None) != (other.get(name) or None)]


def flag_text(value):
    """The value of a flag as one would type it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
