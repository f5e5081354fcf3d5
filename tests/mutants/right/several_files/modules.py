"""A right solution in more files than the two."""

import numpy as np
from utils import exp_below_zero, softmax


class LinearModule:
    def __init__(self, in_features, out_features):
        self.params = {
            "weight": np.random.default_rng().normal(0, 0.0001, (out_features, in_features)),
            "bias": np.zeros((1, out_features)),
        }
        self.grads = {
            "weight": np.zeros((out_features, in_features)),
            "bias": np.zeros((1, out_features)),
        }

    def forward(self, x):
        self.x = x
        out = x @ self.params["weight"].T + self.params["bias"]
        return out

    def backward(self, dout):
        self.grads["weight"] = dout.T @ self.x
        self.grads["bias"] = np.sum(dout, axis=0, keepdims=True)
        dx = dout @ self.params["weight"]
        return dx


class SoftMaxModule:
    def forward(self, x):
        self.out = softmax(x)
        return self.out

    def backward(self, dout):
        total = np.sum(dout * self.out, axis=1, keepdims=True)
        dx = self.out * (dout - total)
        return dx


class CrossEntropyModule:
    def forward(self, x, y):
        out = -np.sum(y * np.log(x)) / x.shape[0]
        return out

    def backward(self, x, y):
        dx = -(y / x) / x.shape[0]
        return dx


class ELUModule:
    def forward(self, x):
        self.x = x
        out = np.where(x >= 0, x, exp_below_zero(x) - 1)
        return out

    def backward(self, dout):
        slope = np.where(self.x >= 0, 1.0, exp_below_zero(self.x))
        dx = dout * slope
        return dx
