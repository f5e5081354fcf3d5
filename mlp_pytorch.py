"""The multi-layer perceptron of mlp_numpy.py as a PyTorch module (question 2.1)."""

import itertools

import torch
from torch import nn

import mlp_numpy

ACTIVATIONS = {"elu": nn.ELU, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
# In a single process nn.SyncBatchNorm is nn.BatchNorm1d.
NORMALIZATIONS = {"none": None, "batch": nn.SyncBatchNorm, "layer": nn.LayerNorm}


class InputMap(nn.Module):
    """A linear map of the inputs x (S, n): `fit` computes it from training images, and training
    leaves it alone. It divides each input by its standard deviation; with a floor above 0 it then
    whitens them (ZCA), to x (C + floor I)^(-1/2) scaled to a mean variance of 1, where C is their
    covariance. The floor limits how far the directions of least variance are amplified."""

    def __init__(self, n, floor, dtype):
        super().__init__()
        self.floor = floor
        self.register_buffer("map", (torch.eye(n) if floor else torch.ones(n)).to(dtype))

    def fit(self, data):
        """data has second_moments(), as TensorData."""
        moments = data.second_moments(products=self.floor > 0).cpu()
        # At least 1, so that a pixel that hardly varies is not blown up.
        std = (moments.diagonal() if self.floor else moments).sqrt().clamp(min=1)
        fitted = 1 / std
        if self.floor:
            values, vectors = torch.linalg.eigh(moments / torch.outer(std, std))
            values.clamp_(min=1e-6)  # so that no floor, however low, gives huge factors
            root = (vectors * (values + self.floor).rsqrt()) @ vectors.T
            variance = (values / (values + self.floor)).mean()  # of x root, where x is standardised
            fitted = root / std[:, None] / variance.sqrt()
        self.map.copy_(fitted)

    def forward(self, x):
        return x @ self.map if self.floor else x * self.map


class MLP(nn.Module):
    """Linear layers with an activation after each but the last. Returns logits, because PyTorch's
    cross entropy includes the softmax.

    Args:
        n_inputs, n_hidden, n_classes, dtype, seed, input_scale: as in mlp_numpy.MLP, whose initial
            weights are copied.
        activation: a key of ACTIVATIONS.
        normalization: a key of NORMALIZATIONS; it stands between a linear layer and its activation.
        dropout: probability that a hidden unit is set to zero in a training step.
        standardize, whiten: begin with an InputMap, whose floor is whiten.
        bfloat16: multiply matrices in bfloat16; parameters and logits stay float32.
    """

    def __init__(
        self, n_inputs, n_hidden, n_classes, dtype=torch.float32, seed=42, input_scale=1.0,
        activation="elu", normalization="none", dropout=0.0, standardize=False, whiten=0.0,
        bfloat16=False,
    ):  # fmt: skip
        super().__init__()
        self.n_inputs, self.bfloat16 = n_inputs, bfloat16
        layers = [InputMap(n_inputs, whiten, dtype)] if standardize or whiten else []
        for fan_in, fan_out in itertools.pairwise([n_inputs, *n_hidden]):
            layers += [nn.Linear(fan_in, fan_out, dtype=dtype), ACTIVATIONS[activation]()]
            if NORMALIZATIONS[normalization]:
                layers.insert(-1, NORMALIZATIONS[normalization](fan_out, dtype=dtype))
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear([n_inputs, *n_hidden][-1], n_classes, dtype=dtype))
        self.layers = nn.Sequential(*layers)
        twin = mlp_numpy.MLP(n_inputs, n_hidden, n_classes, seed=seed, input_scale=input_scale)
        parameters = [p for linear in self.linear_layers() for p in linear.parameters()]
        with torch.no_grad():
            for parameter, value in zip(parameters, twin.state_dict().values(), strict=True):
                parameter.copy_(torch.from_numpy(value).view_as(parameter))

    def linear_layers(self):
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def fit_inputs(self, data):
        """Fits the map of standardize or whiten, if there is one, to training images."""
        if isinstance(self.layers[0], InputMap):
            self.layers[0].fit(data)

    def forward(self, x):
        """x: (S, n_inputs) float, or (S, ...) with n_inputs values per sample. Returns the logits
        (S, n_classes)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.layers(x.flatten(start_dim=1))
        return logits.float() if self.bfloat16 else logits

    @property
    def device(self):
        """Where the parameters are."""
        return next(self.parameters()).device
