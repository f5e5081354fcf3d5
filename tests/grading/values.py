"""Checks of values and gradients: each module by itself, against the formulas.

S is the number of samples, M and N are numbers of features, C is the number of classes. They are
drawn at random, and differ from each other in the first case, so that a transpose cannot pass
unseen. In others two of them are equal, where an orientation that is guessed from shapes goes
wrong, or one of them is as small or as large as it may be.
"""

import numpy as np

from . import reference
from .diagnosis import Failure, case, close, expect, largest_difference, multiple

EPSILON = 1.5e-8  # the largest deviation of a probability that is only a remark
NEARLY = 1e-2  # what differs by less may be due to an epsilon, and is first asked for that
PIXELS, CLASSES = 3072, 10  # of CIFAR-10


def draw_sizes(rng, count):
    """Small numbers of samples, features or classes, all different."""
    return [int(size) for size in rng.choice(np.arange(3, 9), count, replace=False)]


def draw_many(rng):
    """A number of samples above any that a solution may work off in one piece."""
    return int(rng.integers(2049, 2100))


def draw(rng, *shape):
    """Values without outliers, so that no verdict depends on one."""
    return rng.uniform(-1.7, 1.7, shape)


# The linear module


def _linear_cases(submission, rng):
    """Layers with all parameters set. Yields a phrase, the layer, x, dout, weight and bias."""
    s, m, n = draw_sizes(rng, 3)
    for phrase, samples, fan_in, fan_out in (
        ("", s, m, n),
        (f" of a square layer ({m}, {m}: shapes do not show the orientation)", s, m, m),
        (f" of as many samples as units, {n},", n, m, n),
        (f" of as many samples as features, {m},", m, m, n),
        (f" of {m} samples of {m} features for {m} units", m, m, m),
        (" of one sample", 1, m, n),
        (" of one feature", s, 1, n),
        (" of one unit", s, m, 1),
        (f" of {(many := draw_many(rng))} samples", many, m, n),
        (f" of a layer ({PIXELS}, {CLASSES})", s, PIXELS, CLASSES),
    ):
        weight, bias = draw(rng, fan_out, fan_in), draw(rng, fan_out)
        layer = submission.linear(weight, bias)
        yield phrase, layer, draw(rng, samples, fan_in), draw(rng, samples, fan_out), weight, bias


DECAY = "{} times the weight itself is added: weight decay is no part of this gradient"
COPIED = (
    "with the parameters of its first use, which have changed since: it keeps a copy, so that a "
    "network never learns"
)


def linear_forward(submission, rng):
    """Y = X W^T + b."""
    for phrase, layer, x, _, weight, bias in _linear_cases(submission, rng):
        product = x @ weight.T
        hypotheses = [
            (product, "the bias is stored but never added"),
            (product - bias, "the bias is subtracted"),
            (product + 2 * bias, "the bias is added twice"),
            (-product + bias, "the product has the wrong sign"),
        ]
        what = "the output" + phrase
        expect(what, layer.forward(x), product + bias, hypotheses)
        changed, shifted = draw(rng, *weight.shape), draw(rng, *bias.shape)
        layer.set([(changed, shifted)])
        copied = [
            (w, f"computed {COPIED}")
            for w in (product + bias, product + shifted, x @ changed.T + bias)
        ]
        expect(what, layer.forward(x), x @ changed.T + shifted, copied)
    return []


def weight_gradient(submission, rng):
    """dL/dW, of shape (N, M)."""
    for phrase, layer, x, dout, weight, _ in _linear_cases(submission, rng):
        layer.forward(x)
        layer.backward(dout)
        expected, got = dout.T @ x, layer.grad("weight")
        hypotheses = [(np.ones_like(dout).T @ x, "dout is left out")]
        hypotheses += multiple(got, expected, weight, DECAY)
        what = "the weight gradient" + phrase
        expect(what, got, expected, hypotheses, batch_factors(len(x)))
    return []


def bias_gradient(submission, rng):
    """dL/db, N values in the arrangement of the bias."""
    for phrase, layer, x, dout, _, bias in _linear_cases(submission, rng):
        layer.forward(x)
        layer.backward(dout)
        hypotheses = [
            (dout.sum(axis=1), "summed over the features (axis 1) instead of the samples (axis 0)"),
            (np.array(dout.sum()), "summed over samples and features: axis=0 missing"),
            (dout, "not summed over the samples"),
            (dout[0], "dout of the first sample only"),
            (np.full(len(bias), float(len(x))), "dout is left out"),
            (dout.sum(axis=0) * bias, "multiplied by the bias, which is not part of its gradient"),
        ]
        what = "the bias gradient" + phrase
        expect(what, layer.grad("bias"), dout.sum(axis=0), hypotheses, batch_factors(len(x)))
    return []


def input_gradient(submission, rng):
    """dL/dX, (S, M)."""
    for phrase, layer, x, dout, weight, bias in _linear_cases(submission, rng):
        layer.forward(x)
        dx = layer.backward(dout)
        if dx is None:
            raise Failure("backward returns None: the input gradient is not returned")
        expected = dout @ weight
        hypotheses = [
            (expected + x, "the input itself is added"),
            (np.ones_like(dout) @ weight, "dout is left out"),
            (dout, "dout is passed on unchanged: the weight is left out"),
        ]
        what = "the input gradient" + phrase
        expect(what, dx, expected, hypotheses, batch_factors(len(x)))
        changed = draw(rng, *weight.shape)
        layer.set([(changed, bias)])
        layer.forward(x)
        copied = [(expected, f"computed {COPIED}")]
        expect(what, layer.backward(dout), dout @ changed, copied)
    return []


def batch_factors(samples):
    return (samples > 1) * [
        (1 / samples, "is 1/S of the right one: averaged over the batch instead of summed?"),
        (samples, "is S times the right one"),
        (samples**-2, "is 1/S² of the right one: averaged over the batch twice?"),
    ]


# The ELU module

# Both sides of 0, 0 itself, and far below, where a clipped input shows.
ELU_INPUT = [-2.0, -0.5, 0.0, 0.7, 1.5, -1e-3, 3.0, -4.0, 1e-3, 0.0, -1.0, 0.2, -9.0, -14.0, -25.0]


def _elu_cases(submission, rng):
    """Yields a phrase, what to construct the ELU with, the alpha that it then has, and x.

    The first entry is positive once and negative once: np.vectorize takes the dtype of all from it.
    """
    alphas = [(None, 1.0)] + ([(0.5, 0.5), (1.7, 1.7)] if has_alpha(submission) else [])
    for argument, alpha in alphas:
        phrase = f" (alpha {alpha})" if len(alphas) > 1 else ""
        for first in (-0.5, 0.7):
            rest = rng.permutation([value for value in ELU_INPUT if value != first])
            shape = [(3, 5), (5, 3)][rng.integers(2)]
            yield phrase, argument, alpha, np.append(first, rest).reshape(shape)
    many, few = draw_many(rng), draw_sizes(rng, 1)[0]
    for shape in ((many, 2), (2, many), (1, few), (few, 1)):
        yield f" of an array {shape}", None, 1.0, 2 * draw(rng, *shape)


def has_alpha(submission):
    """Whether the ELU takes an alpha that has an effect, on the value or on the gradient."""
    if not submission.elu().takes_alpha:
        return False
    x = np.array([ELU_INPUT])
    modules = submission.elu(0.5), submission.elu(1.7)
    values = [module.forward(x) for module in modules]
    slopes = [module.backward(np.ones_like(x)) for module in modules]
    return not (close(*values) and close(*slopes))


def elu_value(submission, rng):
    """Both sides of 0, 0 itself, and every alpha that can be chosen."""
    for phrase, argument, alpha, x in _elu_cases(submission, rng):
        got, what = submission.elu(argument).forward(x), "the output" + phrase
        expect(what, got, reference.elu(x, alpha), _elu_mistakes(x, alpha, got))
    if submission.elu().takes_alpha and not has_alpha(submission):
        return ["alpha is an argument of ELUModule, but has no effect"]
    return []


def elu_gradient(submission, rng):
    """The same for dL/dX."""
    for phrase, argument, alpha, x in _elu_cases(submission, rng):
        # No entry near 0 that would hide a difference, and both signs for x of both signs and 0.
        signs = (-1.0) ** (np.argsort(np.argsort(x, axis=None)) + rng.integers(2))
        dout = signs.reshape(x.shape) * (draw(rng, *x.shape) + 3.0)
        module, what = submission.elu(argument), "the gradient" + phrase
        out = module.forward(x)
        got = module.backward(dout)
        expected = reference.elementwise_gradient(lambda x, a=alpha: reference.elu(x, a), x, dout)
        at_zero = x == 0
        if got.shape == x.shape and np.any(at_zero):
            if close(got[at_zero], dout[at_zero]):
                expected[at_zero] = dout[at_zero]  # the slope at 0 is 1 or alpha: both are right
            elif close(got[~at_zero], expected[~at_zero]) and not close(got, expected):
                slope = (got / dout)[at_zero][0]
                raise Failure(
                    f"{what} is wrong at x = 0 only, where the slope is {slope:.3g} and not 1",
                    *largest_difference(got, expected),
                )
        mistakes = list(_slope_mistakes(x, alpha, out, got / dout if got.shape == x.shape else x))
        hypotheses = [
            (expected / dout, "dout is left out"),
            (abs(dout) * expected / dout, "the sign of dout is left out"),
        ]
        for slope, sentence in mistakes:  # a derivative may be right for the function of its value
            hypotheses.append((dout * slope, sentence, *["ELU value"] * ("LU" in sentence)))
        hypotheses += [(slope, f"dout is left out, and {text}") for slope, text in mistakes]
        expect(what, got, expected, hypotheses)
    return []


def _own_alpha(x, got, factor):
    """The alpha that makes `got` alpha times `factor` at one entry below 0."""
    index = np.unravel_index(np.argmin(np.abs(x + 1)), x.shape)
    return got[index] / factor[index]


CAST = "cast to int below 0: np.vectorize takes the dtype of all entries from the first"


def _elu_mistakes(x, alpha, got):
    exp = np.exp(np.minimum(x, 0))
    if x.flat[0] > 0:  # and a case before it began below 0
        yield np.where(x > 0, x, np.trunc(alpha * (exp - 1))), CAST
    for positive in (x > 0, x >= 0):
        yield np.where(positive, x, exp - 1), "alpha is left out"
        yield np.where(positive, x, 0), "that is a ReLU"
        yield np.where(positive, x, alpha * exp), "the 1 is not subtracted from the exp"
        yield np.where(positive, x, exp - alpha), "that is exp(x) - alpha"
        yield (
            np.where(positive, x, alpha * exp - 1),
            "alpha exp(x) - 1: the 1 lacks alpha",
        )
        yield np.where(positive, x, 1 - exp), "the exp branch has the wrong sign"
        yield np.where(positive, np.expm1(x), x), "the two branches are exchanged"
    yield np.where(x > 0, x, alpha * x), "the branch below 0 is linear: a leaky ReLU"
    yield np.where(x > 0, x, 0.01 * x), "that is a leaky ReLU"
    yield np.tanh(x), "that is tanh"
    yield x, "the input is passed on unchanged"
    if got.shape == x.shape:
        own = _own_alpha(x, got, exp - 1)
        yield reference.elu(x, own), f"that is the ELU with an alpha of {own:.3g}"
        low = np.log1p(got.flat[np.argmin(x)] / alpha)
        clipped = np.where(x > 0, x, alpha * np.expm1(np.maximum(x, low)))
        yield clipped, f"its input is clipped at {low:.3g}"


def _slope_mistakes(x, alpha, out, got):
    exp = np.exp(np.minimum(x, 0))
    if x.flat[0] > 0:
        yield np.where(x > 0, 1, np.trunc(alpha * exp)), CAST
        yield np.where(x >= 0, 1, np.trunc(alpha * exp)), CAST
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
    yield np.ones_like(x), "1 everywhere: dout is passed on unchanged"
    own = _own_alpha(x, got, exp)
    yield np.where(x > 0, 1, own * exp), f"that of the ELU with an alpha of {own:.3g}"
    yield np.where(x >= 0, 1, own * exp), f"that of the ELU with an alpha of {own:.3g}"
    low = np.log(got.flat[np.argmin(x)] / alpha)
    clipped = alpha * np.exp(np.clip(x, low, 0))
    yield np.where(x > 0, 1, clipped), f"the input is clipped at {low:.3g}"


# The softmax module


def draw_logits(rng, samples, classes):
    return 2 * draw(rng, samples, classes) - 1


def _size_cases(rng):
    """Yields a phrase and numbers of samples and of classes."""
    few, several = draw_sizes(rng, 2)
    yield "", few, several
    more = int(rng.integers(257, 320)), CLASSES
    for samples, classes in ((few, few), (1, several), more, (draw_many(rng), 2)):
        count = "one sample" if samples == 1 else f"{samples} samples"
        yield f" of {count} and {classes} classes", samples, classes


def _logit_cases(rng):
    """Yields a phrase and logits."""
    for phrase, samples, classes in _size_cases(rng):
        yield phrase, draw_logits(rng, samples, classes)


def softmax_value(submission, rng):
    """Probabilities (S, C), and how close to 0 and 1 they can come."""

    def effective(probability):
        logits = np.log(probe(probability)[0])
        return submission.softmax().forward(logits)[0, -1]

    for phrase, x in _logit_cases(rng):
        got, expected = submission.softmax().forward(x), reference.softmax(x)
        mistakes = _softmax_mistakes(x, expected)
        if not phrase and _nearly(got, expected, mistakes):
            _check_epsilon(effective)
        expect("the output" + phrase, got, expected, mistakes)
    return _check_epsilon(effective)


def _softmax_mistakes(x, expected):
    exp, by_column = np.exp(x), np.exp(x - x.max(axis=0))
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return [
        (exp / exp.sum(axis=0), "normalised over the samples (axis 0), not the classes"),
        (shifted / shifted.sum(axis=0), "normalised over the samples (axis 0), not the classes"),
        (
            by_column / by_column.sum(axis=1, keepdims=True),
            "the maximum of each column is subtracted, not that of each row",
        ),
        (exp / exp.sum(), "normalised over the whole batch: axis=1 missing"),
        (exp, "not normalised"),
        (shifted, "not normalised"),
        (np.log(expected), "that is the logarithm of the softmax"),
        (1 / (1 + np.exp(-x)), "that is a sigmoid"),
        (x, "the input is passed on unchanged: softmax inside the cross entropy?"),
        (1 - expected, "that is 1 - softmax"),
        (np.eye(x.shape[1])[x.argmax(axis=1)], "that is the arg max"),
        (x / x.sum(axis=1, keepdims=True), "the exp is left out"),
        (np.exp(-x) / np.exp(-x).sum(axis=1, keepdims=True), "exp(-x) instead of exp(x)"),
        (2**x / (2**x).sum(axis=1, keepdims=True), "2^x for exp(x)"),
        (reference.softmax(expected), "softmax is applied twice"),
    ]


OWN_OUTPUT = "follows from 'softmax value': right for its output"
JACOBIAN = "the Jacobian is taken for y (I - y), with y² off its diagonal instead of y_i y_j"


def softmax_gradient(submission, rng):
    """dL/dX for any dout, (S, C)."""
    for phrase, x in _logit_cases(rng):
        dout = draw(rng, *x.shape)
        module = submission.softmax()
        own = module.forward(x)
        y = reference.softmax(x)
        row_sum = (dout * y).sum(axis=1, keepdims=True)
        hypotheses = [
            (y * dout, "the sum over the classes is missing"),
            (y * (1 - y) * dout, "only the diagonal of the Jacobian, y (1 - y)"),
            (dout - row_sum, "the factor y in front is missing"),
            (y * (dout - (dout * y).sum(axis=0)), "the sum runs over the samples, not the classes"),
            (y * (dout - (dout * y).sum()), "the sum runs over the whole batch: axis=1 missing"),
            (y * (dout - dout.sum(axis=1, keepdims=True)), "the factor y in the sum is missing"),
            (y * (dout + row_sum), "the sum has the wrong sign"),
            (-y * row_sum, "the diagonal of the Jacobian is missing"),
            (dout, "dout is passed on unchanged: softmax backward inside the cross entropy?"),
            (y, "the output instead of a gradient"),
            (y * (1 - y), "only the diagonal of the Jacobian, and dout is left out"),
            (y * dout - y**2 * dout.sum(axis=1, keepdims=True), JACOBIAN),
            (y * dout - (y**2 * dout).sum(axis=1, keepdims=True), JACOBIAN),
            (y * (dout - (dout * y).mean(axis=1, keepdims=True)), "mean over classes, not sum"),
        ]
        if own.shape == y.shape and not close(own, y):
            of_own = own * (dout - (dout * own).sum(axis=1, keepdims=True))
            hypotheses.insert(0, (of_own, OWN_OUTPUT, "softmax value"))
        expect(
            "the gradient" + phrase,
            module.backward(dout),
            reference.gradient(reference.softmax, x, dout),
            hypotheses,
            batch_factors(len(x)),
        )
    return []


# The cross-entropy module


def draw_probabilities(rng, samples, classes, last=True):
    """Probabilities away from 0, and one-hot targets: the last class first, or not at all."""
    x = rng.uniform(0.1, 1.0, size=(samples, classes))
    order = np.arange(samples)
    # A class twice, so that no transpose of square targets is the same.
    numbers = -1 - order - (order > 1) if last else order % (classes - 1)
    return x / x.sum(axis=1, keepdims=True), np.eye(classes)[numbers % classes]


def _target_cases(rng):
    """Yields a phrase, probabilities and targets."""
    for phrase, samples, classes in _size_cases(rng):
        yield phrase, *draw_probabilities(rng, samples, classes)
        if not phrase:
            absent = " of a batch without the last class"
            yield absent, *draw_probabilities(rng, samples, classes, False)


# Of the right class: far below and just above any epsilon that is only a remark, and up to 1.
PROBES = np.array([3e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.3, 0.9, 1 - 1e-7])


def probe(probability):
    """One sample of four classes whose right class, the last, has that probability."""
    x = np.full((1, 4), (1 - probability) / 3)
    x[0, -1] = probability
    return x, np.eye(4)[[-1]]


def _nearly(got, expected, mistakes):
    """Whether values differ by so little that an epsilon may be why, and no known mistake is."""
    known = any(close(got, np.asarray(values)) for values, *_ in [(expected,), *mistakes])
    return close(got, expected, NEARLY) and not known


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

    def effective(probability):
        return np.exp(-np.sum(submission.cross_entropy().forward(*probe(probability))))

    for phrase, x, y in _target_cases(rng):
        module, expected = submission.cross_entropy(), reference.cross_entropy(x, y)
        with case(phrase):
            got = module.forward(x, y)
        if got.size == 1:
            got = got.reshape(())
        mistakes, factors = _loss_mistakes(x, y)
        if not phrase and _nearly(got, expected, mistakes):
            _check_epsilon(effective)
        expect("the loss" + phrase, got, np.array(expected), mistakes, factors)
    return _check_epsilon(effective)


def _loss_mistakes(x, y):
    """Hypotheses and factors."""
    (samples, classes), log = x.shape, np.log(x)
    hypotheses = [
        (-(y * log + (1 - y) * np.log(1 - x)).sum() / samples, "that is the binary cross entropy"),
        (-(y * log).sum(axis=1), "one loss for each sample: the mean over the batch is missing"),
        (
            -(y * np.log(reference.softmax(x))).sum() / samples,
            "softmax is applied inside once more",
        ),
        (-log.sum() / samples, "the targets are left out"),
        (-(y * x).sum() / samples, "the logarithm is left out"),
        (np.mean((x - y) ** 2), "that is the squared error"),
        (
            -np.log((y * x).sum() / samples),
            "the logarithm of the mean, not the mean of the logarithms",
        ),
    ]
    factors = [
        (samples, "is S times the right one: summed over the batch instead of averaged?"),
        (1 / samples, "is 1/S of the right one: averaged over the batch twice?"),
        (1 / classes, "is 1/C of the right one: averaged over the classes too?"),
        (samples / classes, "is S/C of the right one: averaged over the classes, not the samples?"),
        (1 / np.log(2), "is in bits: log2 instead of log"),
        (1 / np.log(10), "is the one with log10 instead of log"),
    ]
    return hypotheses, factors


def cross_entropy_gradient(submission, rng):
    """dL/dX, (S, C), and whether an epsilon falsifies it."""

    def effective(probability):
        module = submission.cross_entropy()
        module.forward(*probe(probability))
        return -1 / module.backward(*probe(probability))[0, -1]

    for phrase, x, y in _target_cases(rng):
        module, expected = submission.cross_entropy(), reference.cross_entropy_gradient(x, y)
        with case(phrase):
            module.forward(x, y)
            got = module.backward(x, y)
        mistakes, factors = _loss_gradient_mistakes(x, y)
        if not phrase and _nearly(got, expected, mistakes):
            _check_epsilon(effective)
        expect("the gradient" + phrase, got, expected, mistakes, factors)
        if not phrase:
            _check_arguments_used(submission, x, y)
    return _check_epsilon(effective)


def _check_arguments_used(submission, x, y):
    """backward is given x and y: those of forward, if any, are not to be used instead."""
    for earlier, sentence in (
        ((x[::-1], y[::-1]), "after a forward of others: it ignores its arguments"),
        ((x[:-1], y[:-1]), "after a forward of fewer samples: it takes their number from there"),
        (None, "without a forward: all that it needs is in its arguments"),
    ):
        module = submission.cross_entropy()
        if earlier:
            module.forward(*earlier)
        with case(f" {sentence}"):
            expect("the gradient", module.backward(x, y), reference.cross_entropy_gradient(x, y))


def _loss_gradient_mistakes(x, y):
    """Hypotheses and factors."""
    samples, classes = x.shape
    fused = "fused: (x - y) is the gradient of softmax and cross entropy together"
    hypotheses = [
        ((x - y) / samples, fused),
        (x - y, f"{fused}, and the 1/S is missing"),
        ((x - y) / (x * (1 - x)) / samples, "that of the binary cross entropy"),
        (-y / samples, "the division by x is missing"),
        (-y * x / samples, "multiplied by x instead of divided"),
        (-1 / x / samples, "the targets are left out"),
    ]
    factors = [
        (samples, "is S times the right one: the 1/S of the mean is missing"),
        (1 / samples, "is 1/S of the right one: the 1/S of the mean is there twice"),
        (1 / classes, "is 1/C of the right one: averaged over the classes too?"),
        (samples / classes, "is S/C of the right one: divided by the classes, not the samples?"),
    ]
    return hypotheses, factors
