"""The right values: the formulas of the assignment, written once more in float64.

The derivatives of ELU, softmax and cross entropy are taken by a complex step,
f'(x) = Im f(x + ih) / h, which has no cancellation and is therefore exact to the last digits
(Squire and Trapp, 1998). So no gradient formula here can share a mistake with the submission's,
except the linear module's three products. This package's modules agree with those, and other tests
compare these modules with PyTorch.

S is the number of samples, M is a number of features, C is the number of classes.
"""

import numpy as np

STEP = 1e-30  # nothing is subtracted, so it can be so small that its square vanishes
FLOOR = np.finfo(float).tiny  # of a probability that underflows to 0


def elu(x, alpha=1.0):
    """x: any shape. Returns the same shape."""
    positive = x.real > 0
    return np.where(positive, x, alpha * np.expm1(np.where(positive, 0, x)))


def softmax(x):
    """x: (S, C). Returns the probabilities (S, C)."""
    exp = np.exp(x - x.real.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def cross_entropy(x, y):
    """x: probabilities (S, C), y: one-hot targets (S, C). Returns the mean loss in nats."""
    return -(y * np.log(x)).sum() / len(x)


def cross_entropy_gradient(x, y):
    """Returns dL/dX (S, C)."""
    step = STEP * x  # far smaller than any probability
    return -(y * np.log(x + 1j * step)).imag / step / len(x)


def gradient(function, x, dout=1.0):
    """The gradient of (dout * function(x)).sum() with respect to x, where rows are independent.

    x: (S, M). function: its row i depends on row i of x alone. Returns (S, M).
    """
    result = np.empty(x.shape)
    for j in range(x.shape[1]):
        point = x.astype(complex)
        point[:, j] += 1j * STEP
        result[:, j] = np.sum(dout * function(point), axis=1).imag / STEP
    return result


def slope(function, x, *args):
    """The derivative of function(x, *args), each entry of which depends on one entry of x alone."""
    return function(x + 1j * STEP, *args).imag / STEP


def network(x, layers, hidden=elu, last=softmax, skip=None):
    """The output of a network (S, C).

    x: (S, n_inputs), layers: a list of (weight, bias). hidden, last: what follows the hidden
    layers and the last one; nothing follows the hidden layer number `skip`.
    """
    return _forward(x, layers, hidden, last, skip)[-1]


def _forward(x, layers, hidden, last, skip):
    """The inputs of all layers, the results of all layers, and the output."""
    inputs, results, end = [], [], len(layers) - 1
    for i, (weight, bias) in enumerate(layers):
        inputs.append(x)
        results.append(x @ weight.T + bias)
        x = results[i] if i in (skip, end) else hidden(results[i])
    return inputs, results, last(x)


def network_gradients(x, layers, dout=None, y=None, hidden=elu, last=softmax, skip=None, one=False):
    """The gradients (weight, bias) of every layer.

    They are those of (dout * output).sum() or, where targets y are given, those of the loss.
    one: as if all hidden layers had the slopes of the last one.
    """
    inputs, results, out = _forward(x, layers, hidden, last, skip)
    dout = dout if y is None else cross_entropy_gradient(np.maximum(out, FLOOR), y)
    grads, dout = [], gradient(last, results[-1], dout)
    for i in reversed(range(len(layers))):
        grads.insert(0, (dout.T @ inputs[i], dout.sum(axis=0)))
        dout = dout @ layers[i][0]
        if i - 1 not in (skip, -1):
            dout = dout * slope(hidden, results[-2 if one else i - 1])
    return grads


def descend(x, y, layers, rate, steps, enough):
    """The lowest loss that gradient descent reaches, at most `steps` steps and not far below
    `enough`, and its last parameters."""
    losses = []
    for _ in range(steps):
        losses.append(cross_entropy(np.maximum(network(x, layers), FLOOR), y))
        if losses[-1] < enough:
            break
        grads = network_gradients(x, layers, y=y)
        layers = [
            (w - rate * dw, b - rate * db) for (w, b), (dw, db) in zip(layers, grads, strict=True)
        ]
    return np.nanmin([np.inf, *losses]), layers
