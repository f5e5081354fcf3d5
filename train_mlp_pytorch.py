"""Train the PyTorch MLP on CIFAR-10, on the CPU, on a GPU or in several processes (question 2.1).

    python train_mlp_pytorch.py --dnn_hidden_units 100
    python train_mlp_pytorch.py --use_gpu
    torchrun --nproc_per_node=2 train_mlp_pytorch.py

With the same flags it starts from the same weights and sees the same batches as train_mlp_numpy.py.
"""

import sys

import numpy as np
import torch
from torch.nn import functional as F

import cifar10_utils
from mlp_pytorch import ACTIVATIONS, MLP, NORMALIZATIONS
from training import flags, processes
from training.augmentation import TestTimeAugmentation
from training.data_pytorch import load_tensors
from training.errors import command
from training.optimization import make_optimizer
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
def evaluate(mlp, batches):
    """The mean loss and the accuracy over all examples of some batches (x, y)."""
    mlp.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=mlp.device)
    for x, y in batches:
        logits = mlp(x)
        sums[0] += F.cross_entropy(logits, y, reduction="sum")
        sums[1] += len(y) * accuracy(logits, y)
        sums[2] += len(y)
    mlp.train()
    loss, correct, n = processes.all_reduce_sum(sums).tolist()
    return loss / n, correct / n


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
    return MLP(cifar10_utils.N_INPUTS // (4 if args.half_resolution else 1),
               args.dnn_hidden_units, cifar10_utils.N_CLASSES, seed=args.seed,
               input_scale=1.0 if args.standardize or args.whiten else cifar10_utils.PIXEL_RMS,
               activation=args.activation, normalization=args.normalization,
               dropout=args.dropout, standardize=args.standardize, whiten=args.whiten,
               bfloat16=args.bfloat16 and has_bfloat16(args.use_gpu))  # fmt: skip


def make_parser():
    """The flags of both trainers, and those of the experiments of question 2.1."""
    parser = flags.make_parser(__doc__.splitlines()[0])
    flags.add_experiment_flags(parser, list(ACTIVATIONS), list(NORMALIZATIONS))
    return parser


def train(args, group):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    versions = {"numpy": np.__version__, "torch": torch.__version__}
    run = Run(args, "pytorch", versions, group)
    if run.finished:
        return run.report()
    device = torch.device("cuda" if args.use_gpu else "cpu")
    data = load_tensors(args, device)
    mlp = make_mlp(args).to(device)
    steps = flags.total_steps(args, data.train.num_examples)
    run.record["precision"] = "bfloat16" if mlp.bfloat16 else "float32"
    if args.bfloat16 and not mlp.bfloat16 and run.writes:
        print("no bfloat16 instructions here: matrices are multiplied in float32", file=sys.stderr)
    mlp.fit_inputs(data.train)
    optimizer = make_optimizer(mlp, args, steps)
    in_rows = [data.clean] if data.clean else []
    if data.validation or not args.test_at_end:
        in_rows.append(data.validation or data.test)
    with run.open(data.name, steps, mlp, optimizer=optimizer):
        if run.is_new:
            run.tally(*evaluate(mlp, [data.train.next_batch(args.batch_size)]))
            run.add_row(*(n for part in in_rows for n in evaluate(mlp, part.batches(EVAL_BATCH))))
        data.train.position = run.step * args.batch_size
        for _ in run.steps():
            x, y = data.train.next_batch(args.batch_size)
            result = train_step(mlp, x, y, optimizer, args.label_smoothing)
            run.tally(*group.means(result))
            if run.is_due():
                run.add_row(
                    *(n for part in in_rows for n in evaluate(mlp, part.batches(EVAL_BATCH)))
                )
        run.restore_best()
        if args.test_time_augmentation:
            batches = data.test.batches(EVAL_BATCH, size=32)
            return run.finish(*evaluate(TestTimeAugmentation(mlp), batches))
        return run.finish(*evaluate(mlp, data.test.batches(EVAL_BATCH)))


@command
def main(argv=None):
    """Checks the flags and trains. Returns the history."""
    args, group = flags.parse(make_parser(), argv), Processes()
    flags.check_experiment(args, group, torch.cuda.device_count())
    with group.start(args.use_gpu):
        return train(args, group)


if __name__ == "__main__":
    run_and_leave(main)
