"""The multi-layer perceptron of mlp_numpy.py as a PyTorch module (question 2.1)."""

import itertools

import torch
from torch import nn

import mlp_numpy

ACTIVATIONS = {"elu": nn.ELU, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
NORMALIZATIONS = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Dropout(nn.Module):
    """nn.Dropout with 8 random bits a unit, drawn 64 at a time; p is rounded to 1/256. With
    nn.Dropout, which draws a number a unit, a step of best-cpu.txt takes 1.29 times as long."""

    def __init__(self, p):
        super().__init__()
        self.p = round(256 * p) / 256

    def forward(self, x):
        if not self.training or not self.p:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()]
        kept = bits.view_as(x) >= 256 * self.p
        return x * (kept / (1 - self.p)).to(x.dtype)


class MLP(nn.Module):
    """Linear layers with an activation after each but the last. Returns logits, because PyTorch's
    cross entropy includes the softmax.

    Args:
        n_inputs, n_hidden, n_classes, dtype, seed, input_scale: as in mlp_numpy.MLP, whose initial
            weights are copied.
        activation: a key of ACTIVATIONS.
        normalization: a key of NORMALIZATIONS; it stands between a linear layer and its activation.
        dropout: probability that a hidden unit is set to zero in a training step.
        half_resolution: replace each block of 2 x 2 pixels by its mean, so the first layer has
            n_inputs/4 inputs; x must then be (S, channels, rows, columns).
        bfloat16: multiply matrices in bfloat16; parameters and logits stay float32.
    """

    def __init__(
        self, n_inputs, n_hidden, n_classes, dtype=torch.float32, seed=42, input_scale=1.0,
        activation="elu", normalization="none", dropout=0.0, half_resolution=False, bfloat16=False,
    ):  # fmt: skip
        super().__init__()
        self.bfloat16 = bfloat16
        self.pool = nn.AvgPool2d(2) if half_resolution else nn.Identity()
        n_inputs //= 4 if half_resolution else 1
        layers = []
        for fan_in, fan_out in itertools.pairwise([n_inputs, *n_hidden]):
            layers += [nn.Linear(fan_in, fan_out, dtype=dtype), ACTIVATIONS[activation]()]
            if NORMALIZATIONS[normalization]:
                layers.insert(-1, NORMALIZATIONS[normalization](fan_out, dtype=dtype))
            if dropout:
                layers.append(Dropout(dropout))
        layers.append(nn.Linear([n_inputs, *n_hidden][-1], n_classes, dtype=dtype))
        self.layers = nn.Sequential(*layers)
        twin = mlp_numpy.MLP(n_inputs, n_hidden, n_classes, seed=seed, input_scale=input_scale)
        parameters = [p for linear in self.linear_layers() for p in linear.parameters()]
        with torch.no_grad():
            for parameter, value in zip(parameters, twin.state_dict().values(), strict=True):
                parameter.copy_(torch.from_numpy(value).view_as(parameter))

    def linear_layers(self):
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x):
        """x: (S, n_inputs) float, or (S, ...) with n_inputs values per sample. Returns the logits
        (S, n_classes)."""
        x = self.pool(x).flatten(start_dim=1)
        if not self.bfloat16:
            return self.layers(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.layers(x).float()

    @property
    def device(self):
        """Where the parameters are."""
        return next(self.parameters()).device
