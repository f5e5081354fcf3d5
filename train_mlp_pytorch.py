"""Train the PyTorch MLP on CIFAR-10, on the CPU, on a GPU or in several processes (question 2.1).

    python train_mlp_pytorch.py --dnn_hidden_units 100
    python train_mlp_pytorch.py --use_gpu
    torchrun --nproc_per_node=2 train_mlp_pytorch.py

With the same flags it starts from the same weights and sees the same batches as train_mlp_numpy.py.
"""

import copy
import sys

import numpy as np
import torch
from torch.nn import functional as F

import cifar10_utils
from mlp_pytorch import ACTIVATIONS, MLP, NORMALIZATIONS
from training import flags
from training.augmentation import average_over_views
from training.data import load_data
from training.data_pytorch import TensorData, pixel_std
from training.errors import command
from training.optimization import PlainSGD, make_optimizer, set_learning_rate
from training.processes import Processes, has_bfloat16, run_and_leave
from training.run import Run

EVAL_BATCH = 500  # examples


def accuracy(logits, labels):
    """The fraction of samples whose largest logit is at the label: a tensor on their device.

    logits: (S, C). labels: (S,) int64, or targets (S, C), whose largest entry marks the label.
    """
    labels = labels.argmax(dim=1) if labels.ndim > 1 else labels
    return (logits.argmax(dim=1) == labels).float().mean()


@torch.inference_mode()
def evaluate(mlp, data, test_time_averaging=False):
    """The mean loss and the accuracy over all examples of a data set."""
    mlp.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=mlp.device)
    for x, y in data.batches(EVAL_BATCH):
        logits = average_over_views(mlp, x) if test_time_averaging else mlp(x)
        sums[0] += F.cross_entropy(logits, y, reduction="sum")
        sums[1] += (logits.argmax(dim=1) == y).sum()
    mlp.train()
    return (data.processes.total(sums) / data.num_examples).tolist()


def train_step(mlp, x, y, optimizer, label_smoothing=0.0):
    """One step of the optimizer on a batch: x (S, ...) float, y (S,) int64 or (S, C) float.

    Returns the loss and the accuracy of the batch before the step, as tensors on their device.
    """
    logits = mlp(x)
    loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), accuracy(logits, y)


def make_mlp(args):
    """The network of the flags, with its initial weights, on the CPU."""
    input_scale = 1.0 if args.standardize else cifar10_utils.PIXEL_RMS
    return MLP(cifar10_utils.N_INPUTS, args.dnn_hidden_units, cifar10_utils.N_CLASSES,
               seed=args.seed, input_scale=input_scale, activation=args.activation,
               normalization=args.normalization, dropout=args.dropout,
               half_resolution=args.half_resolution,
               bfloat16=args.bfloat16 and has_bfloat16(args.use_gpu))  # fmt: skip


def make_parser():
    """The flags of both trainers, and those of the experiments of question 2.1."""
    parser = flags.make_parser(__doc__.splitlines()[0])
    flags.add_experiment_flags(parser, list(ACTIVATIONS), list(NORMALIZATIONS))
    return parser


def scores(mlp, sets, args):
    """The mean loss and the accuracy on each of the sets, one after the other."""
    return [number for data in sets for number in evaluate(mlp, data, args.test_time_averaging)]


def train(args, processes):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    versions = {"numpy": np.__version__, "torch": torch.__version__}
    run = Run(args, "pytorch", versions, processes)
    if run.finished:
        return run.report()
    data = load_data(args, run.from_first, one_hot=False)
    steps = flags.total_steps(args, data.train.num_examples)
    mlp = make_mlp(args).to("cuda" if args.use_gpu else "cpu")
    run.record["precision"] = "bfloat16" if mlp.bfloat16 else "float32"
    if args.bfloat16 and not mlp.bfloat16 and run.writes:
        print("no bfloat16 instructions here: matrices are multiplied in float32", file=sys.stderr)
    optimizer = make_optimizer(mlp, args)
    network = processes.parallel(mlp)
    scale = 1 / pixel_std(data.train) if args.standardize else None
    training_set, held_out, test_set = (
        TensorData(split, mlp.device, processes, args, scale)
        for split in (data.train, data.validation or data.test, data.test)
    )
    in_rows = [training_set.first(args.clean_images)] if args.clean_images else []
    if data.validation or not args.test_at_end:
        in_rows.append(held_out)
    with run.open(data.name, steps, mlp, optimizer=optimizer):
        if run.is_new:
            processes.seed(args.seed, 1)
            x, y = training_set.next_batch(args.batch_size)
            # A copy, as batch normalisation updates statistics; the optimizer has no parameters.
            start = train_step(copy.deepcopy(mlp), x, y, PlainSGD([], 0), args.label_smoothing)
            run.tally(*processes.means(start))
            run.add_row(*scores(mlp, in_rows, args))
        data.train.position = run.step * args.batch_size
        for step in run.steps():
            processes.seed(args.seed, step)
            set_learning_rate(optimizer, args, step, steps)
            x, y = training_set.next_batch(args.batch_size)
            result = train_step(network, x, y, optimizer, args.label_smoothing)
            run.tally(*processes.means(result))
            if run.is_due():
                run.add_row(*scores(mlp, in_rows, args))
        run.restore_best()
        return run.finish(*scores(mlp, [test_set], args))


@command
def main(argv=None):
    """Checks the flags and trains. Returns the history."""
    args, processes = flags.parse(make_parser(), argv), Processes()
    flags.check_experiment(args, processes, torch.cuda.device_count())
    with processes.start(args.use_gpu):
        return train(args, processes)


if __name__ == "__main__":
    run_and_leave(main)
