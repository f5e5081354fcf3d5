"""The optimizers of the PyTorch trainer, with their schedule and penalties."""

import functools
import math

import torch

from training import processes

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, fused=True),
}


def make_optimizer(mlp, args, total_steps):
    """The optimizer of the flags, whose penalties apply to the linear layers' weights alone. Its
    state_dict() is all that a checkpoint needs of it."""
    matrices = [p for p in mlp.parameters() if p.ndim > 1]
    if not matrices:
        raise ValueError("the network has no weights: PyTorch does not see layers in a plain list")
    vectors = [p for p in mlp.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay, "steps": 0},
        {"params": vectors, "weight_decay": 0.0, "steps": 0},
    ]
    optimizer = OPTIMIZERS[args.optimizer](groups, lr=args.learning_rate)
    optimizer.register_step_pre_hook(functools.partial(prepare_step, args, total_steps))
    return optimizer


@torch.no_grad()
def prepare_step(args, total_steps, optimizer, *_):
    """Called by the optimizer before each step: averages the gradients over the processes, sets
    the learning rate and takes the L1 penalty's step, after which small weights are 0."""
    processes.average_gradients(optimizer)
    for group in optimizer.param_groups:
        group["steps"] += 1  # in the group, because state_dict() holds it there
        group["lr"] = learning_rate(args, group["steps"], total_steps)
    if args.l1_decay:
        matrices, _ = optimizer.param_groups
        for matrix in matrices["params"]:  # in place, which F.softshrink cannot
            torch.ops.aten.softshrink.out(matrix, args.l1_decay * matrices["lr"], out=matrix)


def learning_rate(args, step, total_steps):
    """A linear rise over the warm-up, then constant or half a cosine to 0 after the last step."""
    rate, warmup = args.learning_rate, args.warmup_steps
    if step <= warmup:
        return rate * step / warmup
    if args.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * (step - 1 - warmup) / (total_steps - warmup))) / 2
    return rate
