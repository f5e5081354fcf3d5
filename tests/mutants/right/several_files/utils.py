"""What modules.py imports of this package's own."""

import numpy as np


def exp_below_zero(x):
    return np.exp(np.minimum(x, 0))


def softmax(x):
    exp = np.exp(x - np.max(x, axis=1, keepdims=True))
    return exp / np.sum(exp, axis=1, keepdims=True)
