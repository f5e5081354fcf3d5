"""A plain right solution, as a student would write it; most mutants are this with one mistake."""

import numpy as np


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
        b = np.max(x, axis=1, keepdims=True)
        exp = np.exp(x - b)
        self.out = exp / np.sum(exp, axis=1, keepdims=True)
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
        out = np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1)
        return out

    def backward(self, dout):
        slope = np.where(self.x >= 0, 1.0, np.exp(np.minimum(self.x, 0)))
        dx = dout * slope
        return dx
