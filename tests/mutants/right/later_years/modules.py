"""A right solution to the template of later years: alpha, input_layer, clear_cache, caches of
outputs, a clip against log(0)."""

import numpy as np

EPSILON = 1e-12


class LinearModule:
    def __init__(self, in_features, out_features, input_layer=False):
        deviation = np.sqrt((1 if input_layer else 2) / in_features)
        weight = np.random.default_rng().normal(0, deviation, (out_features, in_features))
        self.params = {"weight": weight, "bias": np.zeros(out_features)}
        self.grads = {"weight": np.zeros_like(weight), "bias": np.zeros(out_features)}
        self.cache = None

    def forward(self, x):
        self.cache = x.copy()
        return np.dot(x, self.params["weight"].T) + self.params["bias"]

    def backward(self, dout):
        np.matmul(dout.T, self.cache, out=self.grads["weight"])
        np.sum(dout, axis=0, out=self.grads["bias"])
        return np.dot(dout, self.params["weight"])

    def clear_cache(self):
        self.cache = None


class ELUModule:
    def __init__(self, alpha):
        self.alpha = alpha
        self.cache = None

    def forward(self, x):
        out = x.copy()
        negative = x <= 0
        out[negative] = self.alpha * np.expm1(x[negative])
        self.cache = out
        return out

    def backward(self, dout):
        out = self.cache
        return dout * ((out > 0) + (out <= 0) * (out + self.alpha))

    def clear_cache(self):
        self.cache = None


class SoftMaxModule:
    def __init__(self):
        self.cache = None

    def forward(self, x):
        shifted = x - x.max(axis=-1)[:, np.newaxis]
        log_sum = np.log(np.exp(shifted).sum(axis=-1))[:, np.newaxis]
        self.cache = np.exp(shifted - log_sum)
        return self.cache

    def backward(self, dout):
        y = self.cache
        return y * dout - y * (y * dout).sum(axis=-1)[:, np.newaxis]

    def clear_cache(self):
        self.cache = None


class CrossEntropyModule:
    def forward(self, x, y):
        x = np.clip(x, EPSILON, 1 - EPSILON)
        return np.mean(-np.sum(y * np.log(x), axis=1))

    def backward(self, x, y):
        x = np.clip(x, EPSILON, 1 - EPSILON)
        return -y / (x * len(y))

    def clear_cache(self):
        pass
