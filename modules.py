"""The layers of a multi-layer perceptron, written by hand in NumPy.

Every module has the same two methods. `forward` computes the output and keeps what the gradient
will need; `backward` takes the gradient of the loss with respect to that output, `dout`, and
returns the gradient with respect to the input, `dx`. The cross entropy, where backpropagation
begins, keeps nothing: its `backward` is given the input and the targets again. A module with
parameters holds them in the dict `params` and leaves their gradients in the dict `grads`. A
gradient has the shape of its parameter or input, and replaces the gradient of the previous call.

S is the number of samples in a batch, M and N are numbers of features, C is the number of classes.
A module computes in the dtype of its input and parameters, and never writes into `x` or `dout`.
The derivations are in report/report.pdf under the number of the question that each class names.
"""

import numpy as np


class LinearModule:
    """Y = X W^T + B, where each of the S rows of B is the bias b (question 1.1 a).

    dL/dW = (dL/dY)^T X,    dL/db = 1^T dL/dY,    dL/dX = dL/dY W

    1 is the vector of S ones, so 1^T G is the sum of the rows of G.

    Args:
        in_features: M, the number of input features of a sample.
        out_features: N, the number of output features of a sample.
        input_layer: True for the first layer of a network: backward then returns None instead of
            the gradient with respect to the data, which is not needed.
        dtype: of the parameters; float64 for finite differences, float32 for training.
        rng: the source of the random weights: a numpy.random.Generator, or NumPy's global state.

    params and grads have the entries `weight` (N, M) and `bias` (1, N). Weights start from
    N(0, 1/M), which preserves the mean square of the inputs (LeCun et al., *Efficient
    BackProp*, 1998); the bias starts at zero.
    """

    def __init__(
        self, in_features, out_features, input_layer=False, dtype=np.float64, rng=np.random
    ):
        weight = rng.standard_normal((out_features, in_features)) / np.sqrt(in_features)
        self.params = {
            "weight": weight.astype(dtype),
            "bias": np.zeros((1, out_features), dtype),
        }
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.input_layer = input_layer
        self.clear_cache()

    def __repr__(self):
        out_features, in_features = self.params["weight"].shape
        return f"LinearModule({in_features}, {out_features})"

    def forward(self, x):
        """x: (S, M) float. Returns (S, N)."""
        self.x = x
        return x @ self.params["weight"].T + self.params["bias"]

    def backward(self, dout):
        """dout: (S, N) float. Returns dx (S, M), or None in an input layer; sets `grads`."""
        x = _cached(self.x)
        self.grads["weight"] = dout.T @ x
        self.grads["bias"] = dout.sum(axis=0, keepdims=True)
        return None if self.input_layer else dout @ self.params["weight"]

    def clear_cache(self):
        self.x = None


class ELUModule:
    """Y = h(X), with h(x) = x where x > 0, alpha (exp(x) - 1) elsewhere (question 1.1 b; Clevert
    et al., 2016).

    dL/dX = dL/dY * h'(X), element by element, with h'(x) = 1 where x > 0, alpha exp(x) elsewhere

    Args:
        alpha: the output tends to -alpha as x falls; 1 in the assignment.
    """

    def __init__(self, alpha=1.0):
        if not 0 <= alpha < np.inf:
            raise ValueError(f"alpha is {alpha}, but must be finite and not negative")
        self.alpha = alpha
        self.params, self.grads = {}, {}
        self.clear_cache()

    def __repr__(self):
        return f"ELUModule(alpha={self.alpha})"

    def forward(self, x):
        """x: float of any shape. Returns the same shape."""
        self.x = x
        # Clipping its input keeps the exponential from overflowing; expm1(x) keeps the digits of
        # exp(x) - 1 near 0.
        return np.maximum(x, 0) + self.alpha * np.expm1(np.minimum(x, 0))

    def backward(self, dout):
        """dout: the shape of x. Returns dx, the same shape."""
        x = _cached(self.x)
        # From x and not from the output: out + alpha loses its digits as out tends to -alpha.
        return dout * np.where(x > 0, 1, self.alpha * np.exp(np.minimum(x, 0)))

    def clear_cache(self):
        self.x = None


class SoftMaxModule:
    """Y_ij = exp(X_ij) / sum_k exp(X_ik) (question 1.1 c i).

    dL/dX = Y * (dL/dY - (dL/dY * Y) 1 1^T), where * is element by element and 1 the vector of C
    ones: G 1 1^T puts the sum of each row of G in every entry of that row.
    """

    def __init__(self):
        self.params, self.grads = {}, {}
        self.clear_cache()

    def __repr__(self):
        return "SoftMaxModule()"

    def forward(self, x):
        """x: (S, C) float, the logits. Returns (S, C), rows of probabilities."""
        # The largest exponent of each row is 0: no overflow, and no row of zeros.
        exp = np.exp(x - x.max(axis=1, keepdims=True))
        # The floor is needed here too, not only in the cross entropy: if the probability of the
        # right class underflows, backward still gives that class's logit its gradient, -1/S.
        self.out = _floor(exp / exp.sum(axis=1, keepdims=True))
        return self.out

    def backward(self, dout):
        """dout: (S, C) float. Returns dx (S, C)."""
        out = _cached(self.out)
        return out * (dout - (dout * out).sum(axis=1, keepdims=True))

    def clear_cache(self):
        self.out = None


class CrossEntropyModule:
    """L = -1/S sum_ik T_ik log(X_ik), in nats, the mean over the batch (question 1.1 c ii).

    dL/dX = -1/S T / X, element by element

    x: (S, C) float, probabilities. y: the targets T, (S, C) with rows that sum to 1 (one-hot, say),
    or (S,) integer class numbers from 0 to C - 1. Other shapes and class numbers raise ValueError.
    """

    def __init__(self):
        self.params, self.grads = {}, {}

    def __repr__(self):
        return "CrossEntropyModule()"

    def forward(self, x, y):
        """Returns the loss, a scalar."""
        return -(_targets(x, y) * np.log(_floor(x))).sum() / len(x)

    def backward(self, x, y):
        """Returns dx (S, C)."""
        return -_targets(x, y) / _floor(x) / len(x)

    def clear_cache(self):
        """Nothing is cached."""


def _floor(x):
    """x, but at least the smallest normal number of its dtype."""
    return np.maximum(x, np.finfo(x.dtype).tiny)


def _targets(x, y):
    """The targets y as a matrix of the shape (S, C) and the dtype of x."""
    samples, classes = x.shape
    if y.shape == (samples,) and np.issubdtype(y.dtype, np.integer):
        if y.size and not 0 <= y.min() <= y.max() < classes:
            raise ValueError(f"class numbers must be from 0 to {classes - 1}")
        return np.eye(classes, dtype=x.dtype)[y]
    if y.shape != x.shape:
        raise ValueError(f"targets are {y.dtype} {y.shape}, but must be {x.shape} or int (S,)")
    return y.astype(x.dtype, copy=False)


def _cached(value):
    if value is None:
        raise RuntimeError("backward needs values that forward stores: call forward first")
    return value
