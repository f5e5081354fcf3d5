"""Checks of values and gradients: each module by itself, against the formulas.

S is the number of samples, M and N are numbers of features, C is the number of classes; in one
check they differ, so that a transpose cannot pass unseen.
"""

import numpy as np

from . import reference
from .diagnosis import TOLERANCE, Failure, close, expect

S, M, N, C = 5, 4, 3, 4
EPSILON = 1.5e-8  # the largest deviation of a probability that is only a remark
NEARLY = 1e-2  # what differs by less may be due to an epsilon, and is first asked for that


# The linear module


def draw_linear(submission, rng, samples=S):
    """A layer with all parameters set, and x, dout, weight, bias."""
    weight, bias = rng.normal(size=(N, M)), rng.normal(size=N)
    layer = submission.linear(weight, bias)
    return layer, rng.normal(size=(samples, M)), rng.normal(size=(samples, N)), weight, bias


def linear_forward(submission, rng):
    """Y = X W^T + b."""
    layer, x, _, weight, bias = draw_linear(submission, rng)
    product = x @ weight.T
    expect(
        "the output",
        layer.forward(x.copy()),
        product + bias,
        [
            (product, "the bias is stored but never added"),
            (product - bias, "the bias is subtracted"),
            (product + 2 * bias, "the bias is added twice"),
            (-product + bias, "the product has the wrong sign"),
        ],
    )
    return []


def _linear_backward(submission, rng):
    layer, x, dout, weight, bias = draw_linear(submission, rng)
    layer.forward(x.copy())
    return layer, x, dout, weight, bias, layer.backward(dout.copy())


def weight_gradient(submission, rng):
    """dL/dW, of shape (N, M)."""
    layer, x, dout, weight, bias, _ = _linear_backward(submission, rng)
    expected = reference.gradient(lambda w: reference.linear(x, w, bias), weight, dout)
    expect(
        "the weight gradient",
        layer.weight_grad(),
        expected,
        [
            (expected + weight, "the weight itself is added: weight decay belongs elsewhere"),
            (np.ones_like(dout).T @ x, "dout is left out"),
        ],
        batch_factors(),
    )
    return []


def bias_gradient(submission, rng):
    """dL/db, N values in the arrangement of the bias."""
    layer, _, dout, weight, bias, _ = _linear_backward(submission, rng)
    expect(
        "the bias gradient",
        layer.bias_grad(),
        dout.sum(axis=0),
        [
            (dout.sum(axis=1), "summed over the features (axis 1) instead of the samples (axis 0)"),
            (dout.mean(axis=1), "averaged over the features instead of summed over the samples"),
            (np.full(N, dout.sum()), "summed over samples and features: axis=0 missing"),
            (np.array(dout.sum()), "summed over samples and features: axis=0 missing"),
            (dout, "not summed over the samples"),
            (dout[0], "dout of the first sample only"),
            (dout[-1], "dout of the last sample only"),
            (np.full(N, float(S)), "dout is left out"),
            (np.ones(N), "set to one: dout is left out"),
            (dout.sum(axis=0) * bias, "multiplied by the bias, which its derivative is not"),
        ],
        batch_factors(),
    )
    return []


def input_gradient(submission, rng):
    """dL/dX, (S, M)."""
    layer, x, dout, weight, bias, dx = _linear_backward(submission, rng)
    if dx is None:
        raise Failure("backward returns None: the input gradient is not returned")
    expect(
        "the input gradient",
        dx,
        reference.gradient(lambda x: reference.linear(x, weight, bias), x, dout),
        [
            (dout @ weight + x, "the input itself is added"),
            (np.ones_like(dout) @ weight, "dout is left out"),
            (dout, "dout is handed on: the weight is left out"),
        ],
        batch_factors(),
    )
    return []


def batch_factors(samples=S):
    return [
        (1 / samples, "is 1/S of the right one: averaged over the batch instead of summed?"),
        (-1 / samples, "is -1/S of the right one: averaged instead of summed, and a wrong sign?"),
        (samples, "is S times the right one: summed twice?"),
        (2, "is twice the right one: added to itself?"),
    ]


# The ELU module

ELU_INPUT = np.array([[-2.0, -0.5, 0.0, 0.7], [1.5, -1e-3, 3.0, -4.0], [1e-3, 0.0, -1.0, 0.2]])


def _alphas(submission):
    """What to construct the ELU with, and the alpha that it then has."""
    return [(None, 1.0)] + ([(0.5, 0.5), (1.7, 1.7)] if submission.takes_alpha() else [])


def _ignores_alpha(submission):
    """Whether alpha is an argument without any effect, in the value or in the gradient."""
    modules = submission.elu(0.5), submission.elu(1.7)
    values = [module.forward(ELU_INPUT.copy()) for module in modules]
    slopes = [module.backward(np.ones_like(ELU_INPUT)) for module in modules]
    return close(*values) and close(*slopes)


def elu_value(submission, rng):
    """Both sides of 0, 0 itself, and every alpha that can be chosen."""
    remarks = []
    alphas = _alphas(submission)
    if len(alphas) > 1 and _ignores_alpha(submission):
        alphas, remarks = alphas[:1], ["alpha is an argument of ELUModule, but has no effect"]
    x = ELU_INPUT + 0.0
    for argument, alpha in alphas:
        what = f"the output (alpha {alpha})" if len(alphas) > 1 else "the output"
        expect(
            what,
            submission.elu(argument).forward(x.copy()),
            reference.elu(x, alpha),
            _elu_mistakes(x, alpha),
        )
    return remarks


def elu_gradient(submission, rng):
    """The same for dL/dX."""
    x = ELU_INPUT + 0.0
    dout = rng.normal(size=x.shape) + 3.0  # no entry near 0 that would hide a difference
    alphas = _alphas(submission)
    if len(alphas) > 1 and _ignores_alpha(submission):
        alphas = alphas[:1]
    for argument, alpha in alphas:
        what = f"the gradient (alpha {alpha})" if len(alphas) > 1 else "the gradient"
        module = submission.elu(argument)
        out = module.forward(x.copy())
        got = module.backward(dout.copy())
        expected = reference.gradient(lambda x, a=alpha: reference.elu(x, a), x, dout)
        at_zero = x == 0
        if got.shape == x.shape and close(got[at_zero], dout[at_zero]):
            expected[at_zero] = dout[at_zero]  # the slope at 0 is 1 or alpha: both are right
        mistakes = list(_slope_mistakes(x, alpha, out))
        hypotheses = [(expected / dout, "dout is left out")]
        hypotheses += [(dout * slope, sentence) for slope, sentence in mistakes]
        hypotheses += [(slope, f"dout is left out, and {text}") for slope, text in mistakes]
        wrong_at_zero = np.abs(got - expected) > TOLERANCE if got.shape == x.shape else ~at_zero
        if np.any(wrong_at_zero) and not np.any(wrong_at_zero & ~at_zero):
            slope = (got / dout)[at_zero][0]
            sentence = f"{what} is wrong at x = 0 only, where the slope is {slope:.3g} and not 1"
            raise Failure(sentence, float(got[0, 2]), float(expected[0, 2]), [0, 2])
        expect(what, got, expected, hypotheses)
    return []


def _elu_mistakes(x, alpha):
    exp = np.exp(np.minimum(x, 0))
    for positive in (x > 0, x >= 0):
        yield np.where(positive, x, exp - 1), "alpha is left out"
        yield np.where(positive, x, 0), "that is a ReLU"
        yield np.where(positive, x, alpha * exp), "the 1 is not subtracted from the exp"
        yield np.where(positive, x, exp - alpha), "that is exp(x) - alpha"
        yield np.where(positive, x, 1 - exp), "the exp branch has the wrong sign"
        yield np.where(positive, np.expm1(x), x), "the two branches are exchanged"
    yield np.where(x > 0, x, alpha * x), "the branch below 0 is linear: a leaky ReLU"
    yield np.where(x > 0, x, 0.01 * x), "that is a leaky ReLU"
    yield np.tanh(x), "that is tanh"
    yield x, "the input is handed on"


def _slope_mistakes(x, alpha, out):
    exp = np.exp(np.minimum(x, 0))
    for positive in (x > 0, x >= 0):
        yield np.where(positive, 1, exp), "alpha is left out"
        yield np.where(positive, 1, 0), "0 below 0: that is the derivative of a ReLU"
        yield np.where(positive, 1, 0.01), "that is the derivative of a leaky ReLU"
        yield np.where(positive, 1, alpha * (exp - 1)), "the output instead of its derivative"
        yield np.where(positive, 1, x + alpha), "takes x + alpha for the output + alpha below 0"
        yield np.where(positive, 1, np.exp(out)), "exp of the output instead of exp of the input"
        yield np.where(positive, 1, out + 1), "takes the output + 1 for the output + alpha"
        yield np.where(positive, 1, -alpha * exp), "the branch below 0 has the wrong sign"
        yield np.where(positive, np.exp(x), 1), "the two branches are exchanged"
        yield np.where(positive, x, alpha * exp), "x instead of 1 above 0"
        yield np.where(positive, 0, alpha * exp), "0 instead of 1 above 0"
    yield np.exp(x), "exp(x) above 0 too, where the slope is 1"
    yield alpha * np.exp(x), "exp(x) above 0 too, where the slope is 1"
    yield np.ones_like(x), "1 everywhere: dout is handed on"


# The softmax module


def draw_logits(rng, samples=S):
    return 2 * rng.normal(size=(samples, C)) - 1


def softmax_value(submission, rng):
    """Probabilities (S, C), and how close to 0 and 1 they can come."""
    x = draw_logits(rng)
    exp, by_column = np.exp(x), np.exp(x - x.max(axis=0))
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    got = submission.softmax().forward(x.copy())
    expected = reference.softmax(x)

    def effective(probability):
        return submission.softmax().forward(np.log(probe(probability)[0]))[0, 1]

    remarks = _check_epsilon(effective) if close(got, expected, NEARLY) else []
    expect(
        "the output",
        got,
        expected,
        [
            (exp / exp.sum(axis=0), "normalised over the samples (axis 0), not the classes"),
            (
                shifted / shifted.sum(axis=0),
                "normalised over the samples (axis 0), not the classes",
            ),
            (
                by_column / by_column.sum(axis=1, keepdims=True),
                "the maximum of each column is subtracted, not that of each row",
            ),
            (exp / exp.sum(), "normalised over the whole batch: axis=1 missing"),
            (exp, "not normalised"),
            (shifted, "not normalised"),
            (np.log(expected), "that is the logarithm of the softmax"),
            (1 / (1 + np.exp(-x)), "that is a sigmoid"),
            (x, "the input is handed on: softmax inside the cross entropy?"),
            (1 - expected, "that is 1 - softmax"),
            (np.eye(x.shape[1])[x.argmax(axis=1)], "that is the arg max"),
            (x / x.sum(axis=1, keepdims=True), "the exp is left out"),
            (np.exp(-x) / np.exp(-x).sum(axis=1, keepdims=True), "exp(-x) for exp(x)"),
            (2**x / (2**x).sum(axis=1, keepdims=True), "2^x for exp(x)"),
            (reference.softmax(expected), "softmax is applied twice"),
        ],
    )
    return remarks


def softmax_gradient(submission, rng):
    """dL/dX for any dout, (S, C)."""
    x = draw_logits(rng)
    dout = rng.normal(size=x.shape)
    module = submission.softmax()
    own = module.forward(x.copy())
    y = reference.softmax(x)
    own_gradient = own * (dout - (dout * own).sum(axis=1, keepdims=True))
    row_sum = (dout * y).sum(axis=1, keepdims=True)
    expect(
        "the gradient",
        module.backward(dout.copy()),
        reference.gradient(reference.softmax, x, dout),
        [
            (own_gradient, "follows from a row above: right for the wrong output there"),
            (y * dout, "the sum over the classes is missing"),
            (y * (1 - y) * dout, "only the diagonal of the Jacobian, y (1 - y)"),
            (dout - row_sum, "the factor y in front is missing"),
            (y * (dout - (dout * y).sum(axis=0)), "the sum runs over the samples, not the classes"),
            (y * (dout - (dout * y).sum()), "the sum runs over the whole batch: axis=1 missing"),
            (y * (dout - dout.sum(axis=1, keepdims=True)), "the factor y in the sum is missing"),
            (y * (dout + row_sum), "the sum has the wrong sign"),
            (-y * row_sum, "the diagonal of the Jacobian is missing"),
            (dout, "dout is handed on: softmax backward inside the cross entropy?"),
            (y, "the output instead of a gradient"),
            (y * (1 - y), "only the diagonal of the Jacobian, and dout is left out"),
            (y * (dout - (dout * y).mean(axis=1, keepdims=True)), "mean for sum over the classes"),
        ],
        batch_factors(),
    )
    return []


# The cross-entropy module


def draw_probabilities(rng, samples=S, classes=C):
    """Probabilities away from 0, and one-hot targets with every class among them."""
    x = rng.uniform(0.1, 1.0, size=(samples, classes))
    y = np.eye(classes)[(np.arange(samples) * 3 + 1) % classes]
    return x / x.sum(axis=1, keepdims=True), y


# Of the right class: far below and just above any epsilon that is only a remark, and up to 1.
PROBES = np.array([3e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.3, 0.9, 1 - 1e-7])


def probe(probability):
    """One sample of four classes whose right class, the second, has that probability."""
    x = np.full((1, 4), (1 - probability) / 3)
    x[0, 1] = probability
    return x, np.eye(4)[[1]]


def _check_epsilon(effective):
    """Judges an epsilon or a clip by the probability that the formula must have used.

    effective: function from a probe to the probability that the value belongs to.
    """
    for probability in PROBES:
        used = effective(probability)
        # Rounding in single precision is another row's concern.
        allowed = EPSILON + 3e-7 * (1 - np.log(probability)) * probability
        if not abs(used - probability) <= allowed:
            size = abs(used - probability)
            raise Failure(
                f"an epsilon or a clip of about {size:.1g}? The right class has the "
                f"probability {probability:.8g}, and the value is that of {used:.8g}",
                float(used),
                float(probability),
            )
    floor = effective(1e-20)
    if np.isfinite(floor) and floor > 1e-19:
        return [f"adds or clips at an epsilon of about {floor:.1g}"]
    return []


def cross_entropy_value(submission, rng):
    """The mean loss, and whether an epsilon falsifies it."""
    module = submission.cross_entropy()
    x, y = draw_probabilities(rng)
    log = np.log(x)
    expected = reference.cross_entropy(x, y)
    got = module.forward(x.copy(), y.copy())
    hypotheses = [
        (-(y * log + (1 - y) * np.log(1 - x)).sum() / S, "that is the binary cross entropy"),
        (-(y * log).sum(axis=1), "one loss for each sample: the mean over the batch is missing"),
        (-(y * np.log(reference.softmax(x))).sum() / S, "softmax is applied inside once more"),
        (-log.sum() / S, "the targets are left out"),
        (-(y * x).sum() / S, "the logarithm is left out"),
        (np.mean((x - y) ** 2), "that is the squared error"),
        (-np.log((y * x).sum() / S), "the logarithm of the mean, not the mean of the logarithms"),
    ]
    factors = [
        (S, "is S times the right one: summed over the batch instead of averaged?"),
        (-S, "is -S times the right one: summed, and the minus is missing"),
        (1 / S, "is 1/S of the right one: averaged twice?"),
        (1 / x.shape[1], "is 1/C of the right one: averaged over the classes too?"),
        (S / x.shape[1], "is S/C of the right one: averaged over the classes, not the samples?"),
        (1 / np.log(2), "is in bits: log2 for log"),
        (1 / np.log(10), "is the one with log10 for log"),
        (-1, "has the wrong sign: the minus is missing"),
    ]
    if got.size == 1:
        got = got.reshape(())

    def effective(probability):
        return np.exp(-np.sum(submission.cross_entropy().forward(*probe(probability))))

    remarks = _check_epsilon(effective) if close(got, expected, NEARLY) else []
    expect("the loss", got, np.array(expected), hypotheses, factors)
    if module.integer:
        remarks.append("takes class numbers only: this assignment's targets are one-hot")
    return remarks


def cross_entropy_gradient(submission, rng):
    """dL/dX, (S, C), and whether an epsilon falsifies it."""
    module = submission.cross_entropy()
    x, y = draw_probabilities(rng)
    module.forward(x.copy(), y.copy())
    expected = reference.gradient(lambda x: reference.cross_entropy(x, y), x)
    factors = [
        (S, "is S times the right one: the 1/S of the mean is missing"),
        (-S, "has the wrong sign, and the 1/S of the mean is missing"),
        (1 / S, "is 1/S of the right one: divided by S twice?"),
        (1 / x.shape[1], "is 1/C of the right one: averaged over the classes too?"),
        (S / x.shape[1], "is S/C of the right one: divided by the classes, not the samples?"),
        (-1, "has the wrong sign: the minus is missing"),
    ]
    hypotheses = []
    for scale, suffix in ((1 / S, ""), (1.0, ", and the 1/S is missing")):
        hypotheses += [
            (
                scale * (x - y),
                "fused with the softmax: (x - y) is not the derivative by x" + suffix,
            ),
            (scale * (x - y) / (x * (1 - x)), "that of the binary cross entropy" + suffix),
            (-scale * y, "the division by x is missing" + suffix),
            (-scale * y * x, "multiplied by x instead of divided" + suffix),
            (-scale / x, "the targets are left out" + suffix),
            (-scale * y * np.log(x), "the loss instead of its derivative" + suffix),
            (-scale * x / np.where(y == 0, np.inf, y), "x / y for y / x" + suffix),
        ]
    got = module.backward(x.copy(), y.copy())

    def effective(probability):
        module = submission.cross_entropy()
        module.forward(*probe(probability))
        return -1 / module.backward(*probe(probability))[0, 1]

    remarks = _check_epsilon(effective) if close(got, expected, NEARLY) else []
    expect("the gradient", got, expected, hypotheses, factors)
    return remarks
