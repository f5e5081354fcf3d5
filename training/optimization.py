"""The optimizers of the PyTorch trainer, with their schedule and penalties."""

import math

import torch

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class PlainSGD:
    """Gradient descent and nothing else. Making a torch.optim optimizer imports torch._dynamo:
    with torch.optim.SGD the default run takes 1.16 times as long (medians of three)."""

    def __init__(self, parameters, lr):
        self.param_groups = [{"params": list(parameters), "lr": lr}]

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        for parameter in group["params"]:
            parameter.sub_(parameter.grad, alpha=group["lr"])

    def zero_grad(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """There is nothing to load."""


def make_optimizer(mlp, args):
    """The optimizer of the flags. Its penalties apply to the linear layers' weights alone."""
    matrices = [p for p in mlp.parameters() if p.ndim > 1]
    if args.optimizer == "sgd" and not (args.momentum or args.weight_decay or args.l1):
        return PlainSGD(mlp.parameters(), args.learning_rate)
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": [p for p in mlp.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    momentum = {"momentum": args.momentum} if args.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[args.optimizer](groups, lr=args.learning_rate, fused=True, **momentum)
    if args.l1:
        optimizer.register_step_pre_hook(lambda *_: add_l1_gradient(matrices, args.l1))
    return optimizer


@torch.no_grad()
def add_l1_gradient(matrices, factor):
    for matrix in matrices:
        matrix.grad.add_(matrix.sign(), alpha=factor)


def set_learning_rate(optimizer, args, step, steps):
    """A linear rise over the warm-up, then constant or half a cosine to 0 after the last step."""
    rate, warmup = args.learning_rate, args.warmup_steps
    if step <= warmup:
        rate *= step / warmup
    elif args.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup))) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate
