"""The optimizer of train_mlp_pytorch.py, what follows its steps, and what a step begins with: its
learning rate and its random numbers."""

import math

import torch
from torch.nn import functional as F


class PlainSGD:
    """Gradient descent and nothing else, with what the trainer needs of a torch.optim optimizer.

    Making a torch.optim optimizer imports torch._dynamo, which takes a tenth of the default job,
    and its step does more than subtract, which takes a twentieth of each step.
    """

    def __init__(self, parameters, rate):
        self.param_groups = [{"params": list(parameters), "lr": rate}]

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                # torch refuses a number that the dtype cannot hold; the loss will tell.
                rate = min(group["lr"], torch.finfo(parameter.dtype).max)
                parameter.sub_(parameter.grad, alpha=rate)

    def zero_grad(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self):
        return {"state": {}}

    def load_state_dict(self, state):
        """Nothing is kept from step to step."""


def make_optimizer(mlp, args):
    """The optimizer of the flags; weight decay is for matrices, not for biases and norms."""
    if args.optimizer == "sgd" and not (args.momentum or args.weight_decay):
        return PlainSGD(mlp.parameters(), args.learning_rate)
    matrices = [p for p in mlp.parameters() if p.ndim > 1]
    others = [p for p in mlp.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others}]
    options = {"lr": args.learning_rate, "weight_decay": 0.0, "fused": True}
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=args.momentum, **options)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer](groups, **options)


@torch.no_grad()
def shrink(layer, strength, optimizer):
    """L1 regularisation of a layer's weights apart from the loss, as AdamW's decay is of the
    squares: moves each by the rate times the strength towards 0, and no further than 0 (a step of
    the proximal gradient method; Beck and Teboulle, 2009)."""
    rate = optimizer.param_groups[0]["lr"]
    layer.weight.copy_(F.softshrink(layer.weight, rate * strength))


@torch.no_grad()
def follow(average, mlp, decay):
    """Moves a running average of the weights towards those of mlp (Polyak and Juditsky, 1992). The
    statistics of a batch normalisation are averages already, and taken over."""
    for mean, value in zip(average.parameters(), mlp.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for mean, value in zip(average.buffers(), mlp.buffers(), strict=True):
        mean.copy_(value)


def start_step(optimizer, args, step, processes):
    """Sets the learning rate of a step: a linear rise over the warm-up, then constant or half a
    cosine to 0. And the random numbers: those of a step follow from its number, so that a run that
    is continued needs no state of a generator."""
    if args.dropout or args.flip or args.shift or args.distortion or args.mixup:
        number = (args.seed * 10**9 + step) * processes.size + processes.rank
        torch.manual_seed(number % 2**63)
    rate = args.learning_rate
    if step <= args.warmup_steps:
        rate *= step / args.warmup_steps
    elif args.schedule == "cosine":
        done = (step - 1 - args.warmup_steps) / (args.max_steps - args.warmup_steps)
        rate *= (1 + math.cos(math.pi * done)) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate
