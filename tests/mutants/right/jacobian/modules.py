"""A right solution with the Jacobian of the softmax written out, of shape (S, C, C)."""

import numpy as np


class LinearModule:
    def __init__(self, in_features, out_features):
        weight = np.random.default_rng().normal(0, 1 / np.sqrt(in_features), (1, 1))
        weight = weight + np.random.default_rng().normal(0, 0.05, (out_features, in_features))
        self.params = dict(weight=weight, bias=np.full((1, out_features), 0.01))
        self.grads = dict(weight=None, bias=None)

    def forward(self, x):
        self.x = x
        return np.add(np.matmul(x, np.transpose(self.params["weight"])), self.params["bias"])

    def backward(self, dout):
        self.grads["weight"] = np.transpose(np.matmul(np.transpose(self.x), dout))
        self.grads["bias"] = np.ones((1, len(dout))) @ dout
        return np.matmul(dout, self.params["weight"])


class ELUModule:
    def forward(self, x):
        self.positive = x > 0
        self.negative = np.logical_not(self.positive)
        self.exp = np.exp(np.where(self.positive, 0, x))
        return self.positive * x + self.negative * (self.exp - 1)

    def backward(self, dout):
        derivative = np.zeros_like(dout)
        derivative[self.positive] = 1
        derivative[self.negative] = self.exp[self.negative]
        return np.multiply(dout, derivative)


class SoftMaxModule:
    def forward(self, x):
        exp = np.exp((x.T - x.max(axis=1)).T)
        self.out = (exp.T / exp.sum(axis=1)).T
        return self.out

    def backward(self, dout):
        y = self.out
        jacobian = y[:, :, None] * np.eye(y.shape[1])[None] - y[:, :, None] * y[:, None, :]
        return (dout[:, None, :] @ jacobian)[:, 0, :]


class CrossEntropyModule:
    def forward(self, x, y):
        right = x[np.arange(len(x)), y.argmax(axis=1)]
        return np.mean(-np.log(np.maximum(right, 1e-8)))

    def backward(self, x, y):
        dx = np.zeros_like(x)
        rows, columns = np.arange(len(x)), y.argmax(axis=1)
        dx[rows, columns] = -1 / np.maximum(x[rows, columns], 1e-8)
        return dx / len(x)
