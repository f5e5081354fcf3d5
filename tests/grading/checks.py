"""The checks: one function for each row of the table.

A check takes a Submission and a random generator, raises a Failure where something is wrong, and
returns a list of remarks (style, efficiency) otherwise. Checks of values compare with the formulas
of reference.py; checks of behaviour (stale caches, shapes, ...) compare a submission with itself,
so that one mistake fails one row and not all of them.

S is the number of samples, M and N are numbers of features, C is the number of classes; they
differ in every check, so that a transpose cannot pass unseen.
"""

import contextlib
import sys
import warnings
from collections import Counter, namedtuple

import numpy as np

from . import reference
from .diagnosis import TOLERANCE, Failure, close, expect, largest_difference
from .submission import describe

S, M, N, C = 5, 4, 3, 3
SIZES = (7, 6, 5, 4)  # n_inputs, two hidden layers, n_classes: all different
EPSILON = 1.5e-8  # the largest deviation of a probability that is only a remark

CORRECTNESS, ROBUSTNESS, EFFICIENCY = "correctness", "robustness", "efficiency"
Row = namedtuple("Row", "name kind check")


# The linear module


def _linear(submission, rng, samples=S):
    """A layer with all parameters set, and x, dout, weight, bias."""
    weight, bias = rng.normal(size=(N, M)), rng.normal(size=N)
    layer = submission.linear(weight, bias)
    return layer, rng.normal(size=(samples, M)), rng.normal(size=(samples, N)), weight, bias


def linear_forward(submission, rng):
    layer, x, _, weight, bias = _linear(submission, rng)
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
    layer, x, dout, weight, bias = _linear(submission, rng)
    layer.forward(x.copy())
    return layer, x, dout, weight, bias, layer.backward(dout.copy())


def weight_gradient(submission, rng):
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
        _batch_factors(),
    )
    return []


def bias_gradient(submission, rng):
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
        _batch_factors(),
    )
    return []


def input_gradient(submission, rng):
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
        _batch_factors(),
    )
    return []


def _batch_factors(samples=S):
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


def _softmax_input(rng, samples=S):
    return 2 * rng.normal(size=(samples, C + 1)) - 1


def softmax_value(submission, rng):
    x = _softmax_input(rng)
    exp, by_column = np.exp(x), np.exp(x - x.max(axis=0))
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    got = submission.softmax().forward(x.copy())
    expected = reference.softmax(x)
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
            (expected**2, "normalised twice?"),
        ],
    )
    return []


def softmax_gradient(submission, rng):
    x = _softmax_input(rng)
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
        _batch_factors(),
    )
    return []


# The cross-entropy module


def _probabilities(rng, samples=S, classes=C + 1):
    """Probabilities away from 0, and one-hot targets with every class among them."""
    x = rng.uniform(0.1, 1.0, size=(samples, classes))
    y = np.eye(classes)[(np.arange(samples) * 3 + 1) % classes]
    return x / x.sum(axis=1, keepdims=True), y


# Of the right class: far below and just above any epsilon that is only a remark, and up to 1.
PROBES = np.array([3e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.3, 0.9, 1 - 1e-7])


def _probe(probability):
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
    module = submission.cross_entropy()
    x, y = _probabilities(rng)
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
    # An epsilon is judged below; here it only has to stay out of the way.
    if got.size == 1:
        got = got.reshape(())
    expect("the loss", got, np.array(expected), hypotheses, factors, tolerance=1e-2)

    def effective(probability):
        return np.exp(-np.sum(submission.cross_entropy().forward(*_probe(probability))))

    remarks = _check_epsilon(effective)
    if module.integer:
        remarks.append("takes class numbers only: this assignment's targets are one-hot")
    return remarks


def cross_entropy_gradient(submission, rng):
    module = submission.cross_entropy()
    x, y = _probabilities(rng)
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
    expect("the gradient", got, expected, hypotheses, factors, tolerance=1e-2)

    def effective(probability):
        module = submission.cross_entropy()
        module.forward(*_probe(probability))
        return -1 / module.backward(*_probe(probability))[0, 1]

    return _check_epsilon(effective)


# The network


def _layers(rng, sizes):
    return [
        (rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in), rng.normal(size=fan_out))
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def _network(submission, rng, sizes, samples=S):
    """An MLP with all parameters set, and x, dout and those parameters."""
    mlp, layers = submission.mlp(sizes), _layers(rng, sizes)
    mlp.set(layers)
    dout = rng.normal(size=(samples, sizes[-1]))
    return mlp, rng.normal(size=(samples, sizes[0])), dout, layers


def _networks(submission, rng):
    """Networks with two, one, three and no hidden layers, each with a phrase for it."""
    for sizes in (SIZES, (7, 5, 3), (6, 5, 4, 3, 2), (6, 4)):
        hidden = list(sizes[1:-1])
        try:
            yield f" (hidden layers {hidden})", _network(submission, rng, sizes)
        except Failure as failure:
            if hidden:
                raise
            raise Failure(f"without hidden layers: {failure.sentence}") from None


def _composed(submission, x, layers, dout):
    """What the submission's own modules give when they are put together as they should be."""
    chain = []
    for i, (weight, bias) in enumerate(layers):
        chain += [submission.linear(weight, bias)]
        chain += [submission.elu() if i < len(layers) - 1 else submission.softmax()]
    out = x.copy()
    for module in chain:
        out = module.forward(out)
    dout = dout.copy()
    for module in reversed(chain):
        dout = module.backward(dout)
    return out, [(layer.weight_grad(), layer.bias_grad()) for layer in chain[::2]]


AS_COMPOSED = "follows from a row above: the modules are put together rightly, but one is wrong"


def _alternatives(layers):
    """Networks with a common mistake: pairs of a function of (x, layers) and a sentence."""

    def build(hidden, last=reference.softmax, skip=None):
        def output(x, layers):
            for i, (weight, bias) in enumerate(layers):
                x = reference.linear(x, weight, bias)
                if i < len(layers) - 1 and i != skip:
                    x = hidden(x)
            return last(x)

        return output

    elu = reference.elu
    pairs = [
        (build(elu, last=lambda x: x), "the softmax at the end is missing"),
        (build(elu, last=lambda x: reference.softmax(elu(x))), "an ELU stands before the softmax"),
        (build(elu, last=lambda x: reference.softmax(reference.softmax(x))), "softmax twice"),
        (build(elu, last=elu), "an ELU stands at the end instead of the softmax"),
        (build(lambda x: x), "no ELU after the hidden layers"),
        (build(lambda x: np.where(x.real > 0, x, 0)), "ReLU for ELU"),
        (build(np.tanh), "tanh for ELU"),
        (build(lambda x: elu(elu(x))), "the ELU is applied twice"),
    ]
    pairs += [
        (build(elu, skip=i), f"no ELU after hidden layer {i + 1}") for i in range(len(layers) - 1)
    ]
    return pairs


def network_output(submission, rng):
    for phrase, (mlp, x, dout, layers) in _networks(submission, rng):
        got = mlp.forward(x.copy())

        def hypotheses(x=x, dout=dout, layers=layers):
            with contextlib.suppress(Failure):
                yield _composed(submission, x, layers, dout)[0], AS_COMPOSED
            for output, text in _alternatives(layers):
                yield output(x, layers), text

        expect("the output" + phrase, got, reference.network(x, layers), hypotheses())
    return []


def network_gradient(submission, rng):
    for phrase, (mlp, x, dout, layers) in _networks(submission, rng):
        mlp.forward(x.copy())
        mlp.backward(dout.copy())
        _expect_gradients(submission, phrase, mlp, x, layers, dout)

        if len(layers) == len(SIZES) - 1:
            _expect_loss_gradients(submission, phrase, mlp, x, layers)
    return []


def _expect_loss_gradients(submission, phrase, mlp, x, layers):
    """Through the submission's own loss, where a wrong factor or sign may add to or cancel out."""
    n_classes = len(layers[-1][1])
    y = np.eye(n_classes)[np.arange(S) % n_classes]
    loss = submission.cross_entropy()
    probabilities = mlp.forward(x.copy())
    loss.forward(probabilities.copy(), y.copy())
    mlp.backward(loss.backward(probabilities.copy(), y.copy()))

    def hypotheses(layer, part):
        with contextlib.suppress(Failure):
            dout = submission.cross_entropy().backward(reference.network(x, layers), y.copy())
            through_loss = reference.network_gradients(x, layers, dout)
            yield through_loss[layer][part], "follows from the cross-entropy gradient above"

    expected = reference.network_gradients(x, layers, y=y)
    for i, (got, want) in enumerate(zip(mlp.grads(), expected, strict=True)):
        for j, name in enumerate(("weight", "bias")):
            what = f"the gradient of the loss by the {name} of layer {i + 1}{phrase}"
            expect(what, got[j], want[j], hypotheses(i, j), tolerance=1e-4)


def _expect_gradients(submission, phrase, mlp, x, layers, dout):
    def hypotheses(layer, part):
        with contextlib.suppress(Failure):
            yield _composed(submission, x, layers, dout)[1][layer][part], AS_COMPOSED
        for output, text in _alternatives(layers):
            mistaken = reference.network_gradients(x, layers, dout, output=output)
            yield mistaken[layer][part], f"as if {text}"

    expected = reference.network_gradients(x, layers, dout)
    for i, (got, want) in enumerate(zip(mlp.grads(), expected, strict=True)):
        for j, name in enumerate(("weight", "bias")):
            what = f"the gradient by the {name} of layer {i + 1} of {len(layers)}{phrase}"
            expect(what, got[j], want[j], hypotheses(i, j), _batch_factors())


# Behaviour: a submission compared with itself


def _kinds(submission, rng):
    """Every kind of module that runs at all, and a remark about those that do not.

    By name: a function that makes one, always with the same parameters, and one that draws the
    arguments of forward and of backward for S samples. A module that does not run fails in rows
    of its own, and must not hide here what the others do.
    """
    weight, bias = rng.normal(size=(N, M)), rng.normal(size=N)
    layers = _layers(rng, SIZES)

    def mlp():
        network = submission.mlp(SIZES)
        network.set(layers)
        return network

    def plain(n_in, n_out):
        return lambda s: ((rng.normal(size=(s, n_in)),), (rng.normal(size=(s, n_out)),))

    def loss_arguments(s):
        pair = _probabilities(rng, s)
        return pair, tuple(array.copy() for array in pair)

    kinds = {
        "LinearModule": (lambda: submission.linear(weight, bias), plain(M, N)),
        "ELUModule": (submission.elu, plain(M, M)),
        "SoftMaxModule": (submission.softmax, plain(C + 1, C + 1)),
        "CrossEntropyModule": (submission.cross_entropy, loss_arguments),
        "MLP": (mlp, plain(SIZES[0], SIZES[-1])),
    }
    failures = {}
    for name, (make, draw) in kinds.items():
        try:
            _run(make(), *draw(S))
        except Failure as failure:
            failures[name] = failure
    if len(failures) == len(kinds):
        raise failures["LinearModule"]
    working = {name: kind for name, kind in kinds.items() if name not in failures}
    return working, [f"not checked for {', '.join(failures)}: see above"] if failures else []


def _run(module, forward_args, backward_args):
    """forward and backward on copies. Returns all that came out, by name."""
    return _forward(module, forward_args) | _backward(module, backward_args)


def _forward(module, args):
    return {"output": module.forward(*(a.copy() for a in args))}


def _backward(module, args):
    dx = module.backward(*(a.copy() for a in args))
    results = {} if dx is None else {"input gradient": dx}
    layers = _linear_layers(module)
    for i, layer in enumerate(layers):
        suffix = f" of layer {i + 1}" if len(layers) > 1 else ""
        results[f"weight gradient{suffix}"] = layer.weight_grad()
        results[f"bias gradient{suffix}"] = layer.bias_grad()
    return results


def _same(got, expected, sentence):
    """Raises a Failure where a result is not the expected one; {} in sentence is its name."""
    for name, value in expected.items():
        if not (close(got[name], value, 1e-9) or np.array_equal(got[name], value, equal_nan=True)):
            raise Failure(sentence.format(name), *largest_difference(got[name], value))


def stale_caches(submission, rng):
    kinds, remarks = _kinds(submission, rng)
    lacking = []
    for name, (make, draw) in kinds.items():
        first, other, last = draw(S), draw(2), draw(S)
        expected = _run(make(), *last)
        _check_second_step(name, make(), first, other, last, expected)
        if name == "LinearModule":
            _check_own_params(submission, rng)
        _check_two_in_use(name, make, first, last)
        used = make()
        _run(used, *first)
        if hasattr(used.module, "clear_cache"):
            used.call("clear_cache")
            _same(_run(used, *last), expected, f"{name}: the {{}} is wrong after clear_cache()")
        else:
            lacking.append(name)
    return remarks + ([f"no clear_cache: {', '.join(lacking)}"] if lacking else [])


def _check_second_step(name, module, first, other, last, expected):
    """A step, an evaluation of another batch, and a step that must know nothing of them."""
    before = _run(module, *first)
    _forward(module, other[0])
    got = _run(module, *last)
    for part, value in expected.items():
        added = value + before[part]
        if "gradient" in part and close(got[part], added) and not close(got[part], value):
            raise Failure(
                f"{name}: the {part} of a second step is added to that of the first: "
                "assign it, with = for +=",
                *largest_difference(got[part], value),
            )
    sentence = "the {} of a second step is not its own: something of the first is kept"
    _same(got, expected, f"{name}: {sentence}")


def _check_two_in_use(name, make, first, last):
    """Two instances in turn must not know of each other."""
    expected = []
    for forward_args, backward_args in (first, last):
        alone = make()
        _forward(alone, forward_args)
        expected.append(_backward(alone, backward_args))
    one, two = make(), make()
    _forward(one, first[0])
    _forward(two, last[0])
    for module, (_, backward_args), right in ((one, first, expected[0]), (two, last, expected[1])):
        _same(
            _backward(module, backward_args),
            right,
            f"{name}: the {{}} is wrong when another {name} is in use: do they share their state?",
        )


def _check_own_params(submission, rng):
    """Two linear modules must not share their parameters."""
    weight, bias = rng.normal(size=(N, M)), rng.normal(size=N)
    layer = submission.linear(weight, bias)
    before = layer.param("weight"), layer.param("bias")
    submission.linear(rng.normal(size=(N, M)), rng.normal(size=N))
    if not (close(layer.param("weight"), before[0]) and close(layer.param("bias"), before[1])):
        raise Failure(
            "LinearModule: a second one overwrites the parameters of the first: they "
            "are shared by the class"
        )


def shapes(submission, rng):
    kinds, remarks = _kinds(submission, rng)
    if "LinearModule" in kinds:
        remarks += _linear_shapes(submission, rng)
    for name in ("ELUModule", "SoftMaxModule"):
        for shape in ((S, M), (1, M), (S, 1), (S, S)) if name in kinds else ():
            module, what = kinds[name][0](), f"{name} on {shape}"
            _expect_shape(f"{what}: the output", module.forward(rng.normal(size=shape)), shape)
            _expect_shape(f"{what}: the gradient", module.backward(np.ones(shape)), shape)
    for samples in (S, 1) if "CrossEntropyModule" in kinds else ():
        module, (x, y) = submission.cross_entropy(), _probabilities(rng, samples)
        loss = module.forward(x, y)
        if loss.size != 1:
            raise Failure(
                f"the loss of {samples} sample(s) has the shape {loss.shape}: not a number"
            )
        _expect_shape("the gradient of the loss", module.backward(x, y), x.shape)
    if "MLP" in kinds:
        mlp, x, dout, _ = _network(submission, rng, SIZES, samples=1)
        _expect_shape("MLP with 1 sample: the output", mlp.forward(x), dout.shape)
        mlp.backward(dout)
    for name, (make, draw) in kinds.items():
        _check_strided(name, make, *draw(S))
    return remarks


def _linear_shapes(submission, rng):
    layer, x, dout, _, _ = _linear(submission, rng)
    layer.forward(x)
    layer.backward(dout)
    for name in ("weight", "bias"):
        grad, param = layer.raw_grad(name), layer.param(name)
        if grad.shape != param.shape:
            raise Failure(
                f"grads['{name}'] has the shape {grad.shape}, and params['{name}'] {param.shape}: "
                "a gradient has the shape of what it differentiates"
            )
    if layer.faults:
        raise Failure("; ".join(sorted(set(layer.faults))))
    remarks = layer.remarks
    for s, m, n in ((1, M, N), (S, M, 1), (S, 1, N), (1, 1, 1)):
        layer = submission.linear(rng.normal(size=(n, m)), rng.normal(size=n))
        what = f"LinearModule({m}, {n}) with {s} sample(s): the"
        _expect_shape(f"{what} output", layer.forward(rng.normal(size=(s, m))), (s, n))
        dx = layer.backward(rng.normal(size=(s, n)))
        if dx is not None:
            _expect_shape(f"{what} input gradient", dx, (s, m))
        _expect_shape(f"{what} weight gradient", layer.weight_grad(), (n, m))
        _expect_shape(f"{what} bias gradient", layer.bias_grad(), (n,))
    return remarks


def _check_strided(name, make, forward_args, backward_args):
    """The memory order of the inputs must not matter."""
    expected = _run(make(), forward_args, backward_args)
    module = make()
    # Not _run: a copy would be contiguous again.
    got = {"output": module.forward(*map(_strided, forward_args))}
    dx = module.backward(*map(_strided, backward_args))
    got |= {} if dx is None else {"input gradient": dx}
    _same(
        got,
        {part: expected[part] for part in got},
        f"{name}: the {{}} is wrong for arrays that are not contiguous in memory",
    )


def _strided(array):
    """The same values as a view of every second column of a Fortran-ordered array."""
    wide = np.zeros((array.shape[0], 2 * array.shape[1]), order="F")
    wide[:, ::2] = array
    return wide[:, ::2]


def _expect_shape(what, got, shape):
    if got.shape != shape:
        raise Failure(f"{what} has the shape {got.shape}, and should have {shape}")
    if not np.all(np.isfinite(got)):
        raise Failure(f"{what} is not finite")


def initialisation(submission, rng):
    mlp = submission.mlp(SIZES)
    for i, layer in enumerate(mlp.layers):
        weight, bias = layer.param("weight"), layer.param("bias")
        if not (np.all(np.isfinite(weight)) and np.all(np.isfinite(bias))):
            raise Failure(f"layer {i + 1} of {len(mlp.layers)} starts with a value not finite")
        hidden = i < len(mlp.layers) - 1
        if hidden and np.ptp(weight) <= 1e-9 * np.max(np.abs(weight)):
            raise Failure(
                f"all weights of hidden layer {i + 1} start at {weight.flat[0]:.3g}: its units "
                "stay alike, and the layer cannot learn",
            )
    return []


def numerically_stable(submission, rng):
    kinds, remarks = _kinds(submission, rng)
    if "SoftMaxModule" in kinds:
        _stable_softmax(submission, rng)
    if "ELUModule" in kinds:
        remarks += _stable_elu(submission)
    if "CrossEntropyModule" in kinds:
        loss = submission.cross_entropy()
        x, y = _probe(1e-30)
        _expect_finite("the loss at a probability of 1e-30", loss.forward(x.copy(), y), x)
        _expect_finite("its gradient", loss.backward(x.copy(), y), x)
        if "SoftMaxModule" in kinds:
            remarks += _floor(submission)
    if "MLP" in kinds:
        _stable_network(submission, rng)
    return remarks


# Rows of one magnitude and of several: the maximum has to be that of each row.
EXTREME_LOGITS = np.array(
    [
        [1000.0, 999.0, 998.5, -1000.0],
        [-1000.0, -1001.0, -999.0, -998.0],
        [1000.0, 0.0, -1000.0, 1.0],
        [-1000.0, -1000.0, -1000.0, 1000.0],
    ]
)


def _stable_softmax(submission, rng):
    module, x = submission.softmax(), EXTREME_LOGITS
    _expect_finite("the softmax", module.forward(x.copy()), x, SUBTRACT)
    dx = module.backward(rng.normal(size=x.shape))
    _expect_finite("the gradient of the softmax", dx, x, SUBTRACT)
    x = _softmax_input(rng)
    plain = submission.softmax().forward(x.copy())
    for shift in (1000.0, -1000.0) if close(plain, reference.softmax(x)) else ():
        got = submission.softmax().forward(x + shift)
        expect(f"the softmax of logits about {shift:.0f}", got, plain)


SUBTRACT = "subtract the maximum of each row before the exp?"


def _stable_elu(submission):
    x = np.array([[1000.0, -1000.0, 88.8, -88.8], [710.0, -710.0, 1.0, -1.0]])
    ones = np.ones_like(x)
    module = submission.elu()
    out = module.forward(x.copy())
    dx = module.backward(ones.copy())
    _expect_finite("the ELU", out, x, "an overflow of the exp that nothing needs?")
    _expect_finite("the gradient of the ELU", dx, x, "an overflow of the exp times 0?")

    # What is wrong at ordinary inputs too is not a matter of stability.
    module, ordinary = submission.elu(), x[1:, 2:]
    value_right = close(module.forward(ordinary.copy()), reference.elu(ordinary))
    slope = np.where(x > 0, 1, np.exp(np.minimum(x, 0)))
    if value_right:
        expect("the ELU at +-1000", out, reference.elu(x))
    if close(module.backward(ones[1:, 2:].copy()), slope[1:, 2:]):
        expect("the gradient of the ELU at +-1000", dx, slope)

    remarks = []
    module = submission.elu()
    try:
        module.call("forward", x.copy(), over="raise", invalid="raise")
        module.call("backward", ones.copy(), over="raise", invalid="raise")
    except Failure:
        remarks.append("the ELU overflows on the way to a right result: exp of large x")
    small = np.array([[-1e-10]])
    if value_right and not close(submission.elu().forward(small.copy()), small):
        remarks.append("exp(x) - 1 loses its digits near 0: expm1 keeps them")
    return remarks


def _floor(submission):
    """A remark where a probability that underflows to 0 makes the loss infinite."""
    softmax, loss, y = submission.softmax(), submission.cross_entropy(), np.eye(4)[[1, 0, 2, 3]]
    try:
        out = softmax.forward(EXTREME_LOGITS.copy())
        _expect_finite("the loss", loss.forward(out.copy(), y), out)
        _expect_finite("its gradient", softmax.backward(loss.backward(out.copy(), y)), out)
    except Failure:
        return ["no floor: loss or gradient not finite where a probability underflows to 0"]
    return []


def _stable_network(submission, rng):
    *layers, (weight, bias) = _layers(rng, SIZES)
    for scale in (1000.0, -1000.0):
        mlp, x = submission.mlp(SIZES), rng.normal(size=(S, SIZES[0]))
        mlp.set([*layers, (weight, bias + scale)])
        what = f"the network with logits about {scale:.0f}: the"
        _expect_finite(f"{what} output", mlp.forward(x.copy()), x, SUBTRACT)
        mlp.backward(rng.normal(size=(S, SIZES[-1])))
        for grads in mlp.grads():
            for grad in grads:
                _expect_finite(f"{what} gradient", grad, x, SUBTRACT)


def _expect_finite(what, got, x, reason="a division by 0?"):
    bad = ~np.isfinite(got)
    if np.any(bad):
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise Failure(
            f"{what} is {got[index]} in {np.count_nonzero(bad)} of {got.size} entries at inputs "
            f"from {x.min():.4g} to {x.max():.4g}: {reason}",
            float(got[index]),
            None,
            list(index),
        )


def inputs_left_alone(submission, rng):
    kinds, remarks = _kinds(submission, rng)
    for name, (make, draw) in kinds.items():
        module, (forward_args, backward_args) = make(), draw(S)
        if name == "CrossEntropyModule":
            # A probability of 0 too, which a submission may wish to replace.
            wrong_class = np.flatnonzero(forward_args[1][0] == 0)[0]
            forward_args[0][0, wrong_class] = backward_args[0][0, wrong_class] = 0.0
        layers = _linear_layers(module)
        params = [layer.param(part) for layer in layers for part in ("weight", "bias")]
        for method, args in (("forward", forward_args), ("backward", backward_args)):
            before = [a.copy() for a in args]
            getattr(module, method)(*args)
            names = ("x" if method == "forward" or len(args) == 2 else "dout", "y")
            for argument, was, now in zip(names, before, args, strict=False):
                if not np.array_equal(was, now):
                    raise Failure(
                        f"{name}.{method} writes into {argument}, which belongs to its caller",
                        *largest_difference(now, was),
                    )
        after = [layer.param(part) for layer in layers for part in ("weight", "bias")]
        if not all(map(np.array_equal, params, after)):
            raise Failure(f"{name}: forward or backward changes the parameters")
    return remarks


def _linear_layers(module):
    """The linear layers of a network, of a linear module, or of a module without any."""
    return getattr(module, "layers", [module] if hasattr(module, "weight_grad") else [])


def float64_kept(submission, rng):
    kinds, remarks = _kinds(submission, rng)
    fresh = {
        "LinearModule": lambda: [submission.fresh_linear(M, N)],
        "MLP": lambda: submission.mlp(SIZES).layers,
    }
    for name, (make, draw) in kinds.items():
        for layer in fresh[name]() if name in fresh else ():
            for part in ("weight", "bias"):
                if layer.param(part).dtype != np.float64:
                    dtype = layer.param(part).dtype
                    raise Failure(f"{name}: params['{part}'] starts as {dtype}, not float64")
        for part, value in _run(make(), *draw(S)).items():
            if value.dtype != np.float64:
                raise Failure(f"{name}: the {part} is {value.dtype} for float64 inputs")
        # A loss is a single number, which may change by chance: the majority of five decides.
        _check_precision(
            name, make, [draw(S) for _ in range(5 if name == "CrossEntropyModule" else 1)]
        )
    return remarks


def _check_precision(name, make, batches):
    """A change of the inputs that float32 cannot hold must change the results.

    Each result is asked for by itself, with x, dout and the weight changed in turn.
    """

    def run(which, factor, forward_args, backward_args):
        module = make()
        if which == "weight":
            for layer in _linear_layers(module):
                weight = layer.param("weight")
                layer.set(factor * (weight.T if layer.transposed else weight), layer.param("bias"))
        x, dout = forward_args[0], backward_args[0]
        if which == "x":
            x = factor * x
        if which == "dout" or which == "x" and len(backward_args) == 2:
            dout = factor * dout
        return _run(module, (x, *forward_args[1:]), (dout, *backward_args[1:]))

    for which in ("x", "dout", "weight"):
        lost, total = Counter(), Counter()
        for batch in batches:
            plain, near, far = (run(which, factor, *batch) for factor in (1, 1 + 1e-11, 1.01))
            for part, value in plain.items():
                depends = value != far[part]
                lost[part] += np.count_nonzero(depends & (value == near[part]))
                total[part] += np.count_nonzero(depends)
        for part in total:
            if lost[part] > total[part] / 2:
                raise Failure(
                    f"{name}: the {part} is computed in float32 or rounded: a change of "
                    f"1 in 1e11 of {which} has no effect on it"
                )


def no_loops(submission, rng):
    few, many = 4, 64
    kinds, remarks = _kinds(submission, rng)
    loops = []
    for name, (make, draw) in kinds.items():
        if name == "MLP" and loops:
            continue  # it would repeat what its modules do
        for method in ("forward", "backward"):
            counts = []
            for forward_args, backward_args in (draw(few), draw(many)):
                module = make()
                if method == "backward":
                    _forward(module, forward_args)
                args = forward_args if method == "forward" else backward_args
                counts.append(_instructions(getattr(module, method), *args))
            if counts[1] - counts[0] > 2 * (many - few):
                loops.append(f"{name}.{method}")
    if loops:
        remarks.append(f"loops over the samples in Python: {', '.join(loops)}")
    return remarks


def _instructions(function, *args):
    """How many Python instructions a call executes: a measure of loops that no clock disturbs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return count


ROWS = [
    Row("linear forward", CORRECTNESS, linear_forward),
    Row("weight gradient", CORRECTNESS, weight_gradient),
    Row("bias gradient", CORRECTNESS, bias_gradient),
    Row("input gradient", CORRECTNESS, input_gradient),
    Row("ELU value", CORRECTNESS, elu_value),
    Row("ELU gradient", CORRECTNESS, elu_gradient),
    Row("softmax value", CORRECTNESS, softmax_value),
    Row("softmax gradient", CORRECTNESS, softmax_gradient),
    Row("cross-entropy value", CORRECTNESS, cross_entropy_value),
    Row("cross-entropy gradient", CORRECTNESS, cross_entropy_gradient),
    Row("network output", CORRECTNESS, network_output),
    Row("network gradient", CORRECTNESS, network_gradient),
    Row("stale caches", CORRECTNESS, stale_caches),
    Row("shapes", CORRECTNESS, shapes),
    Row("initialisation trains", CORRECTNESS, initialisation),
    Row("numerically stable", ROBUSTNESS, numerically_stable),
    Row("inputs left alone", ROBUSTNESS, inputs_left_alone),
    Row("float64 kept", ROBUSTNESS, float64_kept),
    Row("no loops over samples", EFFICIENCY, no_loops),
]


def run(row, submission, seed=0):
    """One row of the report, a dict: name, kind, passed, and what there is to say.

    The seed changes the numbers that are drawn, never the verdict.
    """
    rng = np.random.default_rng([seed, [r.name for r in ROWS].index(row.name)])
    result = {
        "row": row.name,
        "kind": row.kind,
        "passed": True,
        "remarks": [],
        "diagnosis": None,
        "got": None,
        "expected": None,
        "index": None,
    }
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result["remarks"] = row.check(submission, rng)
    except Exception as error:
        failure = error if isinstance(error, Failure) else Failure(f"the check {describe(error)}")
        result |= {
            "diagnosis": failure.sentence,
            "got": failure.got,
            "expected": failure.expected,
            "index": failure.index,
        }
        result["passed"] = row.kind == EFFICIENCY
        if result["passed"]:
            result["remarks"] = [f"could not be checked: {failure.sentence}"]
    return result
