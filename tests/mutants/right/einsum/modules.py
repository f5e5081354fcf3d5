"""A right solution in Einstein notation."""

import numpy as np


class LinearModule:
    def __init__(self, in_features, out_features):
        weight = np.random.default_rng().uniform(-0.05, 0.05, (out_features, in_features))
        self.params = {"weight": weight, "bias": np.zeros((1, out_features))}
        self.grads = {"weight": np.zeros_like(weight), "bias": np.zeros((1, out_features))}

    def forward(self, x):
        self.x = x
        return np.einsum("sm,nm->sn", x, self.params["weight"]) + self.params["bias"]

    def backward(self, dout):
        self.grads["weight"] = np.einsum("sn,sm->nm", dout, self.x)
        self.grads["bias"] = np.einsum("sn->n", dout)[None]
        return np.einsum("sn,nm->sm", dout, self.params["weight"])


class ELUModule:
    def forward(self, x):
        self.exp = np.exp(np.clip(x, None, 0.0))
        return np.maximum(x, 0.0) + self.exp - 1.0

    def backward(self, dout):
        return np.einsum("sm,sm->sm", dout, self.exp)  # exp of the clipped input is 1 above 0


class SoftMaxModule:
    def forward(self, x):
        exp = np.exp(x - x.max(1, keepdims=True))
        self.y = np.einsum("sc,s->sc", exp, 1 / np.einsum("sc->s", exp))
        return self.y

    def backward(self, dout):
        dot = np.einsum("sc,sc->s", dout, self.y)
        return np.einsum("sc,sc->sc", self.y, dout) - np.einsum("sc,s->sc", self.y, dot)


class CrossEntropyModule:
    def forward(self, x, y):
        return -np.einsum("sc,sc->", y, np.log(x + 1e-10)) / len(x)

    def backward(self, x, y):
        return -np.einsum("sc,sc->sc", y, 1 / (x + 1e-10)) / len(x)
