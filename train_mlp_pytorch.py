"""Train the PyTorch MLP on CIFAR-10, on the CPU, on a GPU or in several processes (question 2.1).

    python train_mlp_pytorch.py --dnn_hidden_units 100
    python train_mlp_pytorch.py --use_gpu
    torchrun --nproc_per_node=2 train_mlp_pytorch.py

With the same flags it starts from the same weights and sees the same batches as train_mlp_numpy.py.
"""

import torch
from torch.nn import functional as F

import cifar10_utils
from mlp_pytorch import ACTIVATIONS, MLP, NORMALIZATIONS
from training import flags, processes
from training.augmentation import TestTimeAugmentation
from training.data_pytorch import load_tensors
from training.errors import exit_with_message
from training.optimization import make_optimizer
from training.run import Run

EVAL_BATCH = 500  # examples


def accuracy(logits, targets):
    """The fraction of samples whose largest logit is at the target: a tensor on their device.

    logits: (S, C). targets: (S,) int64, or (S, C), whose largest entry counts.
    """
    targets = targets.argmax(dim=1) if targets.ndim > 1 else targets
    return (logits.argmax(dim=1) == targets).double().mean()  # in float64, so that counts are exact


@torch.inference_mode()
def evaluate(mlp, batches):
    """The mean loss and the accuracy over all examples of the batches, pairs of x and y; None
    where there are none. Under torchrun each process has a share of the examples, and
    processes.all_reduce_sum adds up what they find."""
    mlp.eval()
    loss = correct = n = torch.zeros((), dtype=torch.float64, device=mlp.device)
    for x, y in batches:
        logits = mlp(x)
        # Not +=, which would change all three: at first they are one tensor.
        loss = loss + len(x) * F.cross_entropy(logits, y)
        correct = correct + len(x) * accuracy(logits, y)
        n = n + len(x)
    mlp.train()
    loss, correct, n = processes.all_reduce_sum(torch.stack([loss, correct, n])).tolist()
    return (loss / n, correct / n) if n else None


def train_step(mlp, x, y, optimizer, label_smoothing=0.0):
    """One step of the optimizer on a batch: x (S, ...) float, y (S,) int64 or (S, C) float.

    Returns the loss and the accuracy of the batch before the step, as tensors on their device.
    Afterwards the parameters' `grad` holds the gradients of that loss.
    """
    logits = mlp(x)
    loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), accuracy(logits, y)


def make_mlp(args):
    """The network of the flags, with its initial weights, on the CPU."""
    return MLP(
        cifar10_utils.N_INPUTS // (4 if args.half_resolution else 1),
        args.dnn_hidden_units,
        cifar10_utils.N_CLASSES,
        seed=args.seed,
        input_scale=1.0 if args.standardize or args.whiten else cifar10_utils.PIXEL_RMS,
        activation=args.activation,
        normalization=args.normalization,
        dropout=args.dropout,
        standardize=args.standardize,
        whiten=args.whiten,
        bfloat16=processes.precision(args) == "bfloat16",
    )


def make_parser():
    """The flags of both trainers, and those of the experiments of question 2.1."""
    parser = flags.make_parser("pytorch")
    flags.add_experiment_flags(parser, activations=ACTIVATIONS, normalizations=NORMALIZATIONS)
    return parser


def final_scores(mlp, data, shift):
    """The loss and the accuracy on the test set as `test`; with test-time augmentation, on views
    shifted by up to `shift` pixels, also on the validation split as `val`, and on the test set
    without it as `test_single_view`."""
    scores = {"test": evaluate(mlp, data.test.batches(EVAL_BATCH))}
    if shift:
        scores["test_single_view"] = scores["test"]
        for name, split in {"test": data.test, "val": data.validation}.items():
            if split:
                batches = split.batches(EVAL_BATCH, whole=True)
                scores[name] = evaluate(TestTimeAugmentation(mlp, shift), batches)
    return scores


@exit_with_message
def main(argv=None):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    args = flags.parse(make_parser(), argv)
    device = processes.join(args)
    run = Run(args, processes)
    if run.finished:
        return run.report()
    data = load_tensors(args, device)
    held_out = data.validation or (data.test.first(0) if args.test_at_end else data.test)
    clean = data.train.first(args.train_eval_size)
    mlp = make_mlp(args).to(device)
    mlp.fit_inputs(data.train)
    optimizer = make_optimizer(mlp, args, flags.total_steps(args, data.train.num_examples))
    with run.training(data, mlp, optimizer=optimizer):
        for x, y in run.batches(data.train):
            if run.step == 0:  # the first row: the first batch, before any training
                run.log(*evaluate(mlp, [(x, y)]))
            else:
                run.log(*train_step(mlp, x, y, optimizer, args.label_smoothing))
            if run.is_due:
                run.add_row(held_out=evaluate(mlp, held_out.batches(EVAL_BATCH)),
                            clean=evaluate(mlp, clean.batches(EVAL_BATCH)))  # fmt: skip
        run.restore_best()
        return run.finish(**final_scores(mlp, data, args.test_time_augmentation))


if __name__ == "__main__":
    processes.run_and_leave(main)
