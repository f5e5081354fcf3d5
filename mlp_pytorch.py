"""The multi-layer perceptron of mlp_numpy.py as a PyTorch module (question 2.1)."""

import itertools

import torch
from torch import nn

import mlp_numpy

ACTIVATIONS = {"elu": nn.ELU, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
# In a single process nn.SyncBatchNorm is nn.BatchNorm1d.
NORMALIZATIONS = {"none": None, "batch": nn.SyncBatchNorm, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """Linear layers with an activation after each but the last. Returns logits, because PyTorch's
    cross entropy includes the softmax.

    Args:
        n_inputs, n_hidden, n_classes, dtype, seed, input_scale: as in mlp_numpy.MLP, whose initial
            weights are copied.
        activation: a key of ACTIVATIONS.
        normalization: a key of NORMALIZATIONS; it stands between a linear layer and its activation.
        dropout: probability that a hidden unit is set to zero in a training step.
        standardize: divide every input by its standard deviation.
        whiten: standardize, then make the inputs uncorrelated by x (C + whiten I)^(-1/2), where C
            is their covariance (ZCA; the floor `whiten` limits what noise is amplified); 0: do not.
        bfloat16: multiply matrices in bfloat16; parameters and logits stay float32.
    """

    def __init__(
        self, n_inputs, n_hidden, n_classes, dtype=torch.float32, seed=42, input_scale=1.0,
        activation="elu", normalization="none", dropout=0.0, standardize=False, whiten=0.0,
        bfloat16=False,
    ):  # fmt: skip
        super().__init__()
        self.n_inputs, self.whiten, self.bfloat16 = n_inputs, whiten, bfloat16
        identity = torch.eye(n_inputs, dtype=dtype) if whiten else torch.ones(n_inputs, dtype=dtype)
        self.register_buffer("input_map", identity if standardize or whiten else None)
        layers = []
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
        """Sets input_map, for standardize and whiten, from data.second_moments()."""
        if self.input_map is None:
            return
        moments = data.second_moments(products=bool(self.whiten)).cpu()
        std = (moments.diagonal() if self.whiten else moments).sqrt().clamp(min=1)
        input_map = 1 / std
        if self.whiten:
            values, vectors = torch.linalg.eigh(moments / torch.outer(std, std))
            values.clamp_(min=1e-6)  # so that no floor, however low, gives huge factors
            shrunk = (vectors * (values + self.whiten).rsqrt()) @ vectors.T
            variance = (values / (values + self.whiten)).mean()  # of the inputs after shrunk
            input_map = shrunk / std[:, None] / variance.sqrt()
        self.input_map.copy_(input_map)

    def forward(self, x):
        """x: (S, n_inputs) float, or (S, ...) with n_inputs values per sample. Returns the logits
        (S, n_classes)."""
        x = x.flatten(start_dim=1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            if self.input_map is not None:
                x = x @ self.input_map if self.whiten else x * self.input_map
            logits = self.layers(x)
        return logits.float() if self.bfloat16 else logits

    @property
    def device(self):
        """Where the parameters are."""
        return next(self.parameters()).device
