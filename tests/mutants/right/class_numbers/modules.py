"""A right solution whose loss takes class numbers instead of one-hot targets."""

import numpy as np


class Module:
    def __init__(self):
        self.cache = {}

    def clear_cache(self):
        self.cache = {}


class LinearModule(Module):
    def __init__(self, in_features, out_features, input_layer=False, std=0.01):
        super().__init__()
        self.params = {
            "weight": np.random.default_rng().normal(0, std, (out_features, in_features)),
            "bias": np.zeros(out_features),
        }
        self.grads = {key: np.zeros_like(value) for key, value in self.params.items()}

    def forward(self, x):
        self.cache["x"] = x
        return np.tensordot(x, self.params["weight"], axes=(1, 1)) + self.params["bias"]

    def backward(self, dout):
        self.grads["weight"] = np.tensordot(dout, self.cache["x"], axes=(0, 0))
        self.grads["bias"] = np.add.reduce(dout, axis=0)
        return np.tensordot(dout, self.params["weight"], axes=(1, 0))


class ELUModule(Module):
    def forward(self, x):
        negative = np.expm1(np.minimum(x, 0))
        self.cache["slope"] = np.where(x < 0, negative + 1, 1)
        return np.where(x < 0, negative, x)

    def backward(self, dout):
        return self.cache["slope"] * dout


class SoftMaxModule(Module):
    def forward(self, x):
        x = x - np.max(x, axis=1, keepdims=True)
        self.cache["log"] = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
        return np.exp(self.cache["log"])

    def backward(self, dout):
        y = np.exp(self.cache["log"])
        return y * (dout - np.einsum("sc,sc->s", y, dout)[:, None])


class CrossEntropyModule(Module):
    def forward(self, x, y):
        return -np.log(x[np.arange(y.shape[0]), y]).mean()

    def backward(self, x, y):
        dx = np.zeros_like(x)
        dx[np.arange(y.shape[0]), y] = -1 / x[np.arange(y.shape[0]), y] / y.shape[0]
        return dx
