"""The optimizers of the PyTorch trainer, with their schedule, penalties and running average."""

import copy
import math

import torch
from torch.nn import functional as F

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class PlainSGD:
    """Gradient descent and nothing else. Making a torch.optim optimizer imports torch._dynamo:
    with torch.optim.SGD the default job takes 1.16 times as long (medians of three)."""

    state = {}

    def __init__(self, parameters, lr):
        self.param_groups = [{"params": list(parameters), "lr": lr}]

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                # torch refuses a number that the dtype cannot hold; the loss will tell.
                rate = min(group["lr"], torch.finfo(parameter.dtype).max)
                parameter.sub_(parameter.grad, alpha=rate)


class Optimizer:
    """The optimizer of the flags, with the schedule of its learning rate, the L1 penalties, and the
    running average of the weights.

    Attributes:
        average: the network to evaluate: with --ema the running average, else mlp itself.
    """

    def __init__(self, mlp, args, steps):
        self.mlp, self.args, self.total = mlp, args, steps
        self.average = copy.deepcopy(mlp) if args.ema else mlp
        self.parameters = list(mlp.parameters())
        self.matrices = [p for p in self.parameters if p.ndim > 1]
        if args.optimizer == "sgd" and not (args.momentum or args.weight_decay):
            self.optimizer = PlainSGD(self.parameters, args.learning_rate)
            return
        groups = [
            {"params": self.matrices, "weight_decay": args.weight_decay},
            {"params": [p for p in self.parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        momentum = {"momentum": args.momentum} if args.optimizer == "sgd" else {}
        self.optimizer = OPTIMIZERS[args.optimizer](
            groups, lr=args.learning_rate, fused=True, **momentum
        )
        names = ("step", "exp_avg", "exp_avg_sq")
        if args.optimizer == "sgd":
            names = ("momentum_buffer",) if args.momentum else ()
        for p in self.parameters:  # created now, so that a checkpoint can be checked against it
            self.optimizer.state[p] = {
                name: torch.zeros((), device=p.device) if name == "step" else torch.zeros_like(p)
                for name in names
            }

    def set_learning_rate(self, step):
        """A linear rise over the warm-up, then constant or half a cosine to 0."""
        rate, warmup = self.args.learning_rate, self.args.warmup_steps
        if step <= warmup:
            rate *= step / warmup
        elif self.args.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * (step - 1 - warmup) / (self.total - warmup))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self):
        """Updates the weights and discards the gradients."""
        if self.args.l1:
            for matrix in self.matrices:
                matrix.grad.add_(matrix.sign(), alpha=self.args.l1)
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.args.first_layer_l1:
            strength = self.optimizer.param_groups[0]["lr"] * self.args.first_layer_l1
            l1_proximal_step(self.matrices[0], strength)
        if self.args.ema:
            update_ema(self.average, self.mlp, self.args.ema)

    def state_dict(self):
        """The optimizer's memory, by parameter number and name. The flags set the rest."""
        return {i: dict(self.optimizer.state.get(p, {})) for i, p in enumerate(self.parameters)}

    def load_state_dict(self, state):
        for i, held in self.state_dict().items():
            for name in held:
                held[name].copy_(state[i][name])


@torch.no_grad()
def l1_proximal_step(weight, strength):
    """Moves each weight by strength towards 0, and no further than 0: L1 regularisation apart from
    the loss (a step of the proximal gradient method; Beck and Teboulle, 2009)."""
    weight.copy_(F.softshrink(weight, strength))


@torch.no_grad()
def update_ema(average, mlp, decay):
    """Moves a running average of the weights towards those of mlp (Polyak and Juditsky, 1992). The
    statistics of batch normalisation are averages already, and copied."""
    for mean, value in zip(average.parameters(), mlp.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for mean, value in zip(average.buffers(), mlp.buffers(), strict=True):
        mean.copy_(value)
