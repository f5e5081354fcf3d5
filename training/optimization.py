"""The optimizers of the PyTorch trainer, with their schedule and penalties."""

import math

import torch

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class PlainSGD:
    """Gradient descent and nothing else. Making a torch.optim optimizer imports torch._dynamo:
    with torch.optim.SGD the default job takes 1.16 times as long (medians of three)."""

    def __init__(self, parameters, lr):
        self.param_groups = [{"params": list(parameters), "lr": lr}]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """There is nothing to load."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                # torch rejects a rate above the dtype's maximum; the loss check stops the run.
                rate = min(group["lr"], torch.finfo(parameter.dtype).max)
                parameter.sub_(parameter.grad, alpha=rate)


class Optimizer:
    """The optimizer of the flags, with the schedule of its learning rate and the L1 penalty."""

    def __init__(self, mlp, args, steps):
        self.args, self.total = args, steps
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

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)
