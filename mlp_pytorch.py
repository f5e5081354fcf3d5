"""The multi-layer perceptron of mlp_numpy.py as a PyTorch module (question 2.1)."""

import itertools

import torch
from torch import nn

import mlp_numpy

ACTIVATIONS = {"elu": nn.ELU, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
NORMALIZATIONS = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Dropout(nn.Module):
    """nn.Dropout with 8 random bits a unit, drawn 64 at a time: on a CPU, where random numbers are
    drawn one after the other, that takes a fifth of the time. So p is a multiple of 1/256."""

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
    """Linear layers with an activation after each but the last. Gives logits, not probabilities:
    nn.CrossEntropyLoss holds the softmax.

    Args:
        n_inputs: features of a sample.
        n_hidden: list of the numbers of units of the hidden layers; an empty one makes the network
            a multinomial logistic regression.
        n_classes: number of classes C.
        dtype: of the parameters.
        seed: of the initial weights, which are those of mlp_numpy.MLP with the same arguments.
        input_scale: root mean square of the inputs.
        activation: a key of ACTIVATIONS.
        normalization: a key of NORMALIZATIONS; it stands between a linear layer and its activation.
        dropout: probability of a hidden unit to be zero in a training step.
    """

    def __init__(
        self,
        n_inputs,
        n_hidden,
        n_classes,
        dtype=torch.float32,
        seed=42,
        input_scale=1.0,
        activation="elu",
        normalization="none",
        dropout=0.0,
    ):
        super().__init__()
        layers = []
        for fan_in, fan_out in itertools.pairwise([n_inputs, *n_hidden]):
            layers.append(nn.Linear(fan_in, fan_out, dtype=dtype))
            if NORMALIZATIONS[normalization]:
                layers.append(NORMALIZATIONS[normalization](fan_out, dtype=dtype))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(Dropout(dropout))
        layers.append(nn.Linear([n_inputs, *n_hidden][-1], n_classes, dtype=dtype))
        self.layers = nn.Sequential(*layers)
        twin = mlp_numpy.MLP(n_inputs, n_hidden, n_classes, seed=seed, input_scale=input_scale)
        sources = [module.params for module in twin.modules if module.params]
        with torch.no_grad():
            for linear, params in zip(self.linear_layers(), sources, strict=True):
                linear.weight.copy_(torch.from_numpy(params["weight"]))
                linear.bias.copy_(torch.from_numpy(params["bias"][0]))

    def linear_layers(self):
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x):
        """x: (S, n_inputs) float, or (S, ...) with as many values a sample. Returns the logits
        (S, n_classes)."""
        return self.layers(x.flatten(start_dim=1))

    @property
    def device(self):
        """Where the parameters are."""
        return next(self.parameters()).device
