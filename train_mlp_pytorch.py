"""Train the PyTorch MLP on CIFAR-10, on the CPU, on a GPU or in several processes (question 2.1).

    python train_mlp_pytorch.py --dnn_hidden_units 100
    python train_mlp_pytorch.py --use_gpu
    torchrun --nproc_per_node=2 train_mlp_pytorch.py

With the same flags it starts from the same weights and sees the same batches as train_mlp_numpy.py.
"""

import argparse
import copy
import ctypes
import math
import os
import sys
from contextlib import suppress

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import cifar10_utils
import training
from augmentation import views
from checkpoint import get_weights, load_checkpoint, save_checkpoint
from mlp_pytorch import ACTIVATIONS, MLP, NORMALIZATIONS
from optimization import follow, make_optimizer, shrink, start_step
from processes import Processes, run_and_leave
from tensor_data import TensorData, pixel_std

EVAL_BATCH = 500  # examples
FLUSH_EVERY = 50  # steps whose losses are fetched at once where fetching makes a device wait


def make_parser():
    """The flags of both trainers and those of the experiments of question 2.1."""
    parser = training.make_parser(__doc__.splitlines()[0])
    parser.set_defaults(max_steps=None)
    fraction, number = training.number_between(0, 1), training.number_between(0, 1000)
    decay, share = training.number_between(0, 0.9999), training.number_between(0, 0.99)
    for name, kind, default, text in (
        ("momentum", decay, 0.0, "of SGD"),
        ("weight_decay", number, 0.0, "of the weights, not the biases; decoupled in AdamW"),
        ("l1", number, 0.0, "factor of the sum of the weights' absolute values in the loss"),
        ("first_layer_l1", number, 0.0, "L1 penalty of the first layer alone, apart from the loss"),
        ("dropout", share, 0.0, "probability of a hidden unit to be zero in a step"),
        ("label_smoothing", share, 0.0, "share of the target spread over all classes"),
        ("warmup_steps", training.whole_number(0), 0, "steps of a linear rise of the rate"),
        ("shift", training.whole_number(0, 31), 0, "most pixels to move a training image by"),
        ("distortion", fraction, 0.0, "strength of random turns, zooms and shears"),
        ("mixup", fraction, 0.0, "largest share of another image blended into a training image"),
        ("ema", decay, 0.0, "decay of an average of the weights, evaluated in their place"),
        ("epochs", training.whole_number(1), None, "passes over the data, in place of --max_steps"),
        ("checkpoint_freq", training.whole_number(1), None, "steps between further checkpoints"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=training.with_default(
            text, default))  # fmt: skip
    for name, choices in (
        ("activation", list(ACTIVATIONS)),
        ("optimizer", ["sgd", "adam", "adamw"]),
        ("normalization", list(NORMALIZATIONS)),
        ("schedule", ["constant", "cosine"]),
    ):
        text = training.with_default("|".join(choices), choices[0])
        parser.add_argument(f"--{name}", choices=choices, default=choices[0], help=text)
    for name, text in (
        ("use_gpu", "train on CUDA"),
        ("standardize", "divide each pixel by its standard deviation over the training images"),
        ("flip", "mirror training images at random"),
        ("test_time_averaging", "evaluate on the mean over 18 moved and mirrored views"),
        ("local_fields", "begin with smooth local patterns as the weights of the first layer"),
        ("bfloat16", "multiply matrices in bfloat16, where there are instructions for it"),
        ("deterministic", "let CUDA use deterministic algorithms only"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def check_args(args, processes):
    """Raises UsageError where flags contradict each other or the machine."""
    for wrong, message in (
        (args.momentum and args.optimizer != "sgd", "--momentum goes with --optimizer sgd only"),
        (args.epochs and args.max_steps, "--epochs and --max_steps: give one of them"),
        (not args.dnn_hidden_units and (args.dropout or args.normalization != "none" or
         args.local_fields or args.first_layer_l1 or args.activation != "elu"),
         "--activation, --dropout, --normalization, --local_fields and --first_layer_l1 need a "
         "hidden layer"),
        (args.deterministic and not args.use_gpu, "--deterministic needs --use_gpu"),
        (args.use_gpu and torch.cuda.device_count() < processes.local_size,
         f"--use_gpu needs {processes.local_size} CUDA device(s), but there are "
         f"{torch.cuda.device_count()}: leave it out to train on the CPU"),
        (args.normalization == "batch" and processes.size > 1 and not args.use_gpu,
         "--normalization batch needs --use_gpu with several processes: use layer"),
        (args.normalization == "batch" and args.batch_size == processes.size,
         "--normalization batch needs more than one example in a batch"),
        (args.batch_size % processes.size,
         f"--batch_size {args.batch_size} does not divide into {processes.size} equal shares"),
    ):  # fmt: skip
        if wrong:
            raise training.UsageError(message)


def receptive_fields(n_units, seed, smoothness=1.0, width=4.0):
    """(n_units, 3 * 32 * 32): a pattern for each unit to begin with, of norm 1: random numbers,
    smoothed by a Gaussian, under a Gaussian window at a random place (standard deviations in
    pixels)."""
    channels, size, _ = cifar10_utils.SHAPE
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(size, dtype=torch.float32)
    blur = torch.exp(-((place[:, None] - place) ** 2) / (2 * smoothness**2))
    centres = size * torch.rand(2, n_units, 1, generator=generator)
    down, right = torch.exp(-((place - centres) ** 2) / (2 * width**2))
    noise = torch.randn(n_units, channels, size, size, generator=generator)
    fields = (blur @ noise @ blur) * down[:, None, :, None] * right[:, None, None, :]
    return F.normalize(fields.flatten(start_dim=1))


def make_mlp(args):
    """The network of the flags, with its initial weights."""
    input_scale = 1.0 if args.standardize else cifar10_utils.PIXEL_RMS
    mlp = MLP(
        cifar10_utils.N_INPUTS,
        args.dnn_hidden_units,
        cifar10_utils.N_CLASSES,
        seed=args.seed,
        input_scale=input_scale,
        activation=args.activation,
        normalization=args.normalization,
        dropout=args.dropout,
    )
    if args.local_fields:
        first = mlp.linear_layers()[0]
        fields = receptive_fields(first.out_features, args.seed) / input_scale
        first.weight.data.copy_(fields)
    return mlp


def multiplies_bfloat16(device):
    """Whether the device has instructions for it. A CPU without them takes 8 times as long as in
    float32 at best, and hundreds of times at worst."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found[name] is True for name in found if name.endswith("bf16"))


def predict(network, x, args):
    """The logits: float32 also where the products are in bfloat16."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=args.bfloat16):
        logits = network(x)
    return logits.float() if args.bfloat16 else logits


def l1_norm(mlp):
    return sum(layer.weight.abs().sum() for layer in mlp.linear_layers())


def accuracy(logits, labels):
    """The fraction of samples whose largest logit is at the label, or at the largest share of the
    labels where these are mixed: a tensor, on their device."""
    labels = labels.argmax(dim=1) if labels.ndim > 1 else labels
    return (logits.argmax(dim=1) == labels).float().mean()


def predict_evaluated(mlp, x, args):
    """The logits that evaluation goes by: with --test_time_averaging the logarithm of the views'
    summed probabilities."""
    if not args.test_time_averaging:
        return predict(mlp, x, args)
    logits = torch.stack([predict(mlp, view, args) for view in views(x)])
    return logits.log_softmax(dim=2).logsumexp(dim=0)


@torch.inference_mode()
def evaluate(mlp, data):
    """The mean loss and the accuracy over all examples of a data set."""
    mlp.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=data.labels.device)
    for x, y in data.batches(EVAL_BATCH):
        logits = predict_evaluated(mlp, x, data.args)
        sums[0] += F.cross_entropy(logits, y, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == y).sum()
    mlp.train()
    return (data.processes.total(sums) / data.dataset.num_examples).tolist()


def load_data(args, processes):
    """The splits, loaded (and fetched, where need be) by the first process before the others."""
    loaded = []

    def load():
        loaded.append(training.load_data(args, one_hot=False))
        return loaded[0].name

    name = processes.share(load)
    if name == "synthetic":
        args = argparse.Namespace(**vars(args) | {"synthetic": True})
    splits = loaded[0] if loaded else training.load_data(args, one_hot=False)
    if splits.name != name:  # on another machine, which could not fetch it
        sys.stderr = sys.__stderr__
        raise training.UsageError(f"process {processes.rank} finds no {name}: give --data_dir")
    return splits


def set_steps(args, n_examples):
    """Makes --max_steps of --epochs."""
    if args.epochs:
        args.max_steps = math.ceil(args.epochs * n_examples / args.batch_size)
    if args.warmup_steps >= args.max_steps:
        raise training.UsageError(
            f"--warmup_steps {args.warmup_steps} leaves no step of {args.max_steps}"
        )


def keep_freed_memory():
    """Lets the C library keep what freed tensors took for the next ones. By default it gives large
    ones back to the system and has them zeroed anew in every step, which takes a quarter of a step
    of a wide network in bfloat16."""
    with suppress(AttributeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(-3, 2**30) or mallopt(-3, 2**25):  # M_MMAP_THRESHOLD; the old ones' most is less
            mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


@training.command
def main(argv=None):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    processes = Processes()
    if processes.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    args = training.parse_args(make_parser(), argv)
    check_args(args, processes)
    keep_freed_memory()
    if not args.epochs:
        args.max_steps = args.max_steps or training.MAX_STEPS
    processes.start(args.use_gpu)
    with processes.explained():
        history = train(args, processes)
    processes.end()
    return history


def train(args, processes):
    device = torch.device("cuda" if args.use_gpu else "cpu")
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    waits = args.use_gpu or processes.size > 1  # where to read a loss is to wait for others

    def to_floats(pairs):
        values = torch.stack([torch.stack(pair) for pair in pairs])
        return (processes.total(values) / processes.size).tolist()

    run = training.Run(
        args,
        "pytorch",
        {"numpy": np.__version__, "torch": torch.__version__},
        writes=processes.rank == 0,
        to_floats=to_floats,
        flush_every=FLUSH_EVERY if waits else 1,
    )
    if processes.share(run.is_finished):
        return run.report()
    if args.bfloat16 and not multiplies_bfloat16(device):
        print("no bfloat16 instructions here: --bfloat16 multiplies in float32", file=sys.stderr)
        args.bfloat16 = False
    run.record["precision"] = "bfloat16" if args.bfloat16 else "float32"
    data = load_data(args, processes)
    set_steps(args, data.train.num_examples)
    scale = 1 / pixel_std(data.train) if args.standardize else None
    mlp = make_mlp(args).to(device)
    cross_entropy = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    optimizer = make_optimizer(mlp, args)
    parts = {"mlp": mlp, "optimizer": optimizer}
    average = None
    if args.ema:
        average = parts["average"] = copy.deepcopy(mlp)
    best = load_checkpoint(run, parts, processes)
    network = processes.parallel(mlp)
    evaluated = average or mlp
    training_set, held_out = (
        TensorData(split, device, processes, args, scale)
        for split in (data.train, data.validation or data.test)
    )
    test_set = held_out
    if data.validation:
        test_set = TensorData(data.test, device, processes, args, scale)

    def add_row():
        if run.add_row(*evaluate(evaluated, held_out)) and data.validation:
            best.update(get_weights(evaluated))
        save()

    def save():
        save_checkpoint(run, parts, best)

    processes.share(lambda: run.claim(data.name))
    with run.open(), processes.explained():
        if not run.history["step"]:
            start_step(optimizer, args, 1, processes)
            x, y = training_set.next_batch(args.batch_size)
            with torch.no_grad():
                # A copy, for in training mode batch normalisation remembers what it has seen.
                logits = predict(copy.deepcopy(mlp), x, args)
            run.tally(cross_entropy(logits, y), accuracy(logits, y))
            add_row()
        training_set.seek(run.step * args.batch_size)
        for step in run.steps(save):
            with run.timed():
                start_step(optimizer, args, step, processes)
                x, y = training_set.next_batch(args.batch_size)
                logits = predict(network, x, args)
                loss = cross_entropy(logits, y)
                (loss + args.l1 * l1_norm(mlp) if args.l1 else loss).backward()
                optimizer.step()
                if args.first_layer_l1:
                    shrink(mlp.linear_layers()[0], args.first_layer_l1, optimizer)
                optimizer.zero_grad()
                if average:
                    follow(average, mlp, args.ema)
                run.tally(loss.detach(), accuracy(logits, y))
            if run.is_due(step):
                add_row()
            elif args.checkpoint_freq and step % args.checkpoint_freq == 0:
                save()
        if best:
            evaluated.load_state_dict(best)
        return run.finish(*evaluate(evaluated, test_set))


if __name__ == "__main__":
    run_and_leave(main)
