"""A multi-layer perceptron composed of the modules of modules.py (question 1.2)."""

import itertools

import numpy as np

from modules import ELUModule, LinearModule, SoftMaxModule


class MLP:
    """Linear layers with an ELU after each but the last, and a softmax at the end.

    Args:
        n_inputs: features of a sample.
        n_hidden: list of the numbers of units of the hidden layers; an empty one makes the network
            a multinomial logistic regression.
        n_classes: number of classes C.
        dtype: of the parameters; float64 for finite differences, float32 for training.
        seed: of the initial weights.
        input_scale: root mean square of the inputs (about 64 for CIFAR-10's pixels minus their
            mean), by which the first layer's weights are divided.

    The initial weights: N(0, 1/fan_in) in the hidden layers, so that each preserves the mean square
    of its inputs; zero in the last layer, so that every class starts at probability 1/C.
    """

    def __init__(self, n_inputs, n_hidden, n_classes, dtype=np.float64, seed=42, input_scale=1.0):
        sizes = [n_inputs, *n_hidden, n_classes]
        if min(sizes) < 1:
            raise ValueError(f"layer sizes {sizes}: each must be at least 1")
        rng = np.random.default_rng(seed)
        linears = [
            LinearModule(fan_in, fan_out, input_layer=i == 0, dtype=dtype, rng=rng)
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
        ]
        linears[0].params["weight"] /= input_scale
        linears[-1].params["weight"][:] = 0
        self.modules = []
        for linear in linears[:-1]:
            self.modules += [linear, ELUModule()]
        self.modules += [linears[-1], SoftMaxModule()]

    def __repr__(self):
        return "MLP(\n" + "".join(f"  {module!r}\n" for module in self.modules) + ")"

    def forward(self, x):
        """x: (S, n_inputs) float, or (S, ...) with n_inputs values per sample. Returns the
        probabilities (S, n_classes)."""
        out = x.reshape(len(x), -1)
        for module in self.modules:
            out = module.forward(out)
        return out

    def backward(self, dout):
        """dout: (S, n_classes), the gradient of the loss with respect to the probabilities.
        Sets `grads` of every linear module."""
        for module in reversed(self.modules):
            dout = module.backward(dout)

    def state_dict(self):
        """The parameters by name, such as `modules.0.weight`: the arrays themselves, no copies."""
        return {
            f"modules.{i}.{name}": value
            for i, module in enumerate(self.modules)
            for name, value in module.params.items()
        }

    def load_state_dict(self, state):
        """Copies the values of state into the parameters. Raises ValueError, and changes nothing,
        unless the names and shapes are those of state_dict()."""
        own = self.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
            raise ValueError(f"these weights do not fit this network:\n{self!r}")
        for name, value in own.items():
            value[:] = state[name]

    def clear_cache(self):
        """Frees what forward kept for backward."""
        for module in self.modules:
            module.clear_cache()
