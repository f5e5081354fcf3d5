"""Checks of values and gradients: each module by itself, against the formulas.

S is the number of samples, M and N are numbers of features, C is the number of classes. They are
drawn at random, and differ from each other in the first case, so that a transpose cannot pass
unseen. In others two of them are equal, where an orientation that is guessed from shapes goes
wrong, or one of them is as small or as large as it may be.
"""

import contextlib

import numpy as np

from . import reference
from .diagnosis import Failure, case, close, expect, weight_decay

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


def _linear_cases(submission, rng, uses=1):
    """Yields a phrase, a layer, x, dout, its parameters, and those of its use before, if any."""
    s, m, n = draw_sizes(rng, 3)
    many = draw_many(rng)
    for phrase, samples, fan_in, fan_out in (
        ("", s, m, n),
        (f" of a square layer ({m}, {m}: shapes do not show the orientation)", s, m, m),
        (f" of as many samples as units, {n},", n, m, n),
        (f" of as many samples as features, {m},", m, m, n),
        (" of one sample", 1, m, n),
        (" of one feature", s, 1, n),
        (" of one unit", s, m, 1),
        (f" of {many} samples", many, m, n),
        (f" of a layer ({PIXELS}, {CLASSES})", s, PIXELS, CLASSES),
    ):
        layer, before = submission.fresh_linear(fan_in, fan_out), None
        x, dout = draw(rng, samples, fan_in), draw(rng, samples, fan_out)
        for _ in range(uses):
            parameters = draw(rng, fan_out, fan_in), draw(rng, fan_out)
            layer.set([parameters])
            yield phrase, layer, x, dout, parameters, before or parameters
            before = parameters


COPIED = (
    "computed with the parameters of its first use, which have changed since: it keeps a copy, so "
    "that a network never learns"
)


def linear_forward(submission, rng):
    """Y = X W^T + b."""
    for phrase, layer, x, _, (weight, bias), before in _linear_cases(submission, rng, uses=2):
        product, old = x @ weight.T, x @ before[0].T
        hypotheses = [
            (product, "the bias is stored but never added"),
            (product - bias, "the bias is subtracted"),
            (product + 2 * bias, "the bias is added twice"),
            (-product + bias, "the product has the wrong sign"),
            (old + before[1], COPIED),
            (old + bias, COPIED),
            (product + before[1], COPIED),
        ]
        expect("the output" + phrase, layer.forward(x), product + bias, hypotheses)


def weight_gradient(submission, rng):
    """dL/dW, of shape (N, M)."""
    for phrase, layer, x, dout, (weight, _), _ in _linear_cases(submission, rng):
        layer.forward(x)
        layer.backward(dout)
        got, expected = layer.grad("weight"), dout.T @ x
        hypotheses = [
            (np.ones_like(dout).T @ x, "dout is left out"),
            *weight_decay(got, expected, weight),
        ]
        expect("the weight gradient" + phrase, got, expected, hypotheses, batch_factors(len(x)))


def bias_gradient(submission, rng):
    """dL/db, N values in the arrangement of the bias."""
    for phrase, layer, x, dout, (_, bias), _ in _linear_cases(submission, rng):
        layer.forward(x)
        layer.backward(dout)
        got, expected = layer.grad("bias"), dout.sum(axis=0)
        hypotheses = [
            (dout.sum(axis=1), "summed over the features (axis 1) instead of the samples (axis 0)"),
            (dout.sum(), "summed over samples and features: axis=0 missing"),
            (dout, "not summed over the samples"),
            (dout[0], "dout of the first sample only"),
            (np.full(len(bias), float(len(x))), "dout is left out"),
            (expected * bias, "multiplied by the bias, which is not part of its gradient"),
        ]
        expect("the bias gradient" + phrase, got, expected, hypotheses, batch_factors(len(x)))


def input_gradient(submission, rng):
    """dL/dX, (S, M)."""
    for phrase, layer, x, dout, (weight, _), before in _linear_cases(submission, rng, uses=2):
        layer.forward(x)
        got, expected = layer.backward(dout), dout @ weight
        if got is None:
            raise Failure("backward returns None: the input gradient is not returned")
        hypotheses = [
            (expected + x, "the input itself is added"),
            (np.ones_like(dout) @ weight, "dout is left out"),
            (dout, "dout is passed on unchanged: the weight is left out"),
            (dout @ before[0], COPIED),
        ]
        expect("the input gradient" + phrase, got, expected, hypotheses, batch_factors(len(x)))


def batch_factors(samples):
    return (samples > 1) * [
        (1 / samples, "is 1/S of the right one: averaged over the batch instead of summed?"),
        (samples, "is S times the right one"),
        (samples**-2, "is 1/S² of the right one: averaged over the batch twice?"),
    ]


# The ELU module

# Both sides of 0, 0 itself, and far below, where a clipped input shows.
ELU_INPUT = [-2.0, 0.0, 1.5, -1e-3, 3.0, -4.0, 1e-3, 0.0, -1.0, 0.2, -9.0, -14.0, -25.0]


def _elu_cases(submission, rng):
    """Yields a phrase, an ELU, its alpha and x.

    The first entry is positive once and negative once: np.vectorize takes the dtype of all from it.
    """
    alphas = [(), (0.5,), (1.7,)] if has_alpha(submission) else [()]
    for args in alphas:
        alpha = args[0] if args else 1.0
        phrase = f" (alpha {alpha})" if len(alphas) > 1 else ""
        for first, second, shape in ((-0.5, 0.7, (3, 5)), (0.7, -0.5, (5, 3))):
            x = np.array([first, *rng.permutation([second, *ELU_INPUT])])
            yield phrase, submission.elu(*args), alpha, x.reshape(shape)
    many, few = draw_many(rng), draw_sizes(rng, 1)[0]
    for shape in ((many, 2), (2, many), (1, few), (few, 1)):
        yield f" of an array {shape}", submission.elu(), 1.0, 2 * draw(rng, *shape)


def has_alpha(submission):
    """Whether the ELU takes an alpha that has an effect, on the value or on the gradient."""
    x = np.array([ELU_INPUT])
    with contextlib.suppress(Failure):
        if submission.elu().takes_alpha:
            modules = submission.elu(0.5), submission.elu(1.7)
            values = [module.forward(x) for module in modules]
            slopes = [module.backward(np.ones_like(x)) for module in modules]
            return not (close(*values) and close(*slopes))
    return False


def elu_value(submission, rng):
    """Both sides of 0, 0 itself, and every alpha that can be chosen."""
    for phrase, module, alpha, x in _elu_cases(submission, rng):
        got, right = module.forward(x), reference.elu(x, alpha)
        hypotheses = _elu_mistakes(x, alpha, right, got, alpha, _other_functions(x, alpha))
        expect("the output" + phrase, got, right, hypotheses)


def elu_gradient(submission, rng):
    """The same for dL/dX; at 0 the slope is 1 or alpha."""
    for phrase, module, alpha, x in _elu_cases(submission, rng):
        # No entry near 0 that would hide a difference, and both signs for x of both signs and 0.
        signs = (-1.0) ** (np.argsort(np.argsort(x, axis=None)) + rng.integers(2))
        dout = signs.reshape(x.shape) * (draw(rng, *x.shape) + 3.0)
        module.forward(x)
        got, slope = module.backward(dout), reference.slope(reference.elu, x, alpha)
        if not close(got, np.where(x == 0, dout, dout * slope)):
            hypotheses = _slope_mistakes(x, alpha, slope, dout, got)
            expect("the gradient" + phrase, got, dout * slope, hypotheses)


def _slope_mistakes(x, alpha, slope, dout, got):
    if got.shape == x.shape:
        yield slope, "dout is left out"
        yield abs(dout) * slope, "the sign of dout is left out"
        others = _other_slopes(x, alpha, slope)
        mistakes = _elu_mistakes(x, alpha, slope, got / dout, 0, others)
        for value, sentence, *follows in mistakes:
            yield dout * value, sentence, *follows
            yield np.where(x == 0, got, value), f"dout is left out, and {sentence}"


def _elu_mistakes(x, alpha, right, got, offset, others):
    """What the right value or slope, below 0 alpha * exp(x) - offset, may have become.

    others: more mistakes. What is wrong elsewhere may be on either side at 0.
    """
    if got.shape == x.shape:
        lowest, one = np.argmin(x), np.argmin(np.abs(x + 1))
        low, own = np.log((got.flat[lowest] + offset) / alpha), got.flat[one] / right.flat[one]
        mistakes = [
            (right, "wrong at x = 0 only"),
            *others,
            (np.maximum(right, got.flat[lowest]), f"the input is clipped at {low:.3g}"),
            (
                np.where(x > 0, right, own * right),
                f"that of the ELU with an alpha of {own * alpha:.3g}",
                "ELU value",
            ),
        ]
        if x.flat[0] > 0:  # and a case before it began below 0
            mistakes.insert(1, (np.where(x > 0, right, np.trunc(right)), CAST))
        for value, *sentence in mistakes:
            yield np.where(x == 0, got, value), *sentence


CAST = "cast to int below 0: np.vectorize takes the dtype of all entries from the first"


def _other_slopes(x, alpha, slope):
    """What is taken for the slope, and a sentence."""
    out, exp = reference.elu(x, alpha), np.exp(x)
    for above, below, sentence in (
        (1, out, "the output instead of its derivative"),
        (1, x + alpha, "takes x + alpha for the output + alpha below 0"),
        (1, out + 1, "takes the output + 1 for the output + alpha"),
        (1, 1, "1 everywhere: dout is passed on unchanged"),
        (x, slope, "x instead of 1 above 0"),
        (0, slope, "0 instead of 1 above 0"),
        (exp, exp, "exp(x) above 0 too, where the slope is 1"),
    ):
        yield np.where(x > 0, above, below), sentence
    of_output = "exp of the output instead of exp of the input"  # which forward may overwrite
    yield np.where(x > 0, 1, np.exp(out)), of_output, "inputs left alone"
    for function, sentence in _other_functions(x + 1j * reference.STEP, alpha):
        sentence = f"the derivative of another function: {sentence}"
        yield function.imag / reference.STEP, sentence, "ELU value"


def _other_functions(x, alpha):
    """What other functions than the ELU give, and a sentence. x may be complex."""
    above = x.real > 0
    exp = np.exp(np.where(above, 0, x))
    for below, sentence in (
        (exp - 1, "alpha is left out"),
        (0 * x, "that is a ReLU"),
        (0.01 * x, "that is a leaky ReLU"),
        (alpha * exp, "the 1 is not subtracted from the exp"),
        (exp - alpha, "that is exp(x) - alpha"),
        (alpha * exp - 1, "alpha exp(x) - 1: the 1 lacks alpha"),
        (alpha * (1 - exp), "the exp branch has the wrong sign"),
    ):
        yield np.where(above, x, below), sentence
    for instead in (alpha * (np.exp(x) - 1), 0 * x):  # 0 where the exp is clipped
        yield np.where(above, instead, x), "the two branches are exchanged"
    yield np.tanh(x), "that is tanh"
    yield x, "the input is passed on unchanged"


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


def softmax_value(submission, rng):
    """Probabilities (S, C), and how close to 0 and 1 they can come."""

    def effective(probabilities):
        return submission.softmax().forward(np.log(probe(probabilities)[0]))[:, -1]

    for phrase, *sizes in _size_cases(rng):
        x = draw_logits(rng, *sizes)
        got, expected = submission.softmax().forward(x), reference.softmax(x)
        mistakes = _or_epsilon(_softmax_mistakes(x, expected), got, expected, effective)
        expect("the output" + phrase, got, expected, mistakes)
    return _check_epsilon(effective)


def _softmax_mistakes(x, expected):
    def normalised(values, axis=1):
        return values / values.sum(axis=axis, keepdims=True)

    exp, shifted = np.exp(x), np.exp(x - x.max(axis=1, keepdims=True))
    by_column = normalised(np.exp(x - x.max(axis=0)))
    samples = "normalised over the samples (axis 0), not the classes"
    batch = "normalised over the whole batch: axis=1 missing"
    return [
        (normalised(exp, axis=0), samples),
        (normalised(shifted, axis=0), samples),
        (by_column, "the maximum of each column is subtracted, not that of each row"),
        (normalised(exp, axis=None), batch),
        (normalised(shifted, axis=None), batch),
        (exp, "not normalised"),
        (shifted, "not normalised"),
        (np.log(expected), "that is the logarithm of the softmax"),
        (1 / (1 + np.exp(-x)), "that is a sigmoid"),
        (x, "the input is passed on unchanged: softmax inside the cross entropy?"),
        (1 - expected, "that is 1 - softmax"),
        (np.eye(x.shape[1])[x.argmax(axis=1)], "that is the arg max"),
        (normalised(x), "the exp is left out"),
        (normalised(np.exp(-x)), "exp(-x) instead of exp(x)"),
        (normalised(2**x), "2^x for exp(x)"),
        (reference.softmax(expected), "softmax is applied twice"),
    ]


JACOBIAN = "the Jacobian is taken for y (I - y), with y² off its diagonal instead of y_i y_j"


def softmax_gradient(submission, rng):
    """dL/dX for any dout, (S, C)."""
    for phrase, *sizes in _size_cases(rng):
        x, dout = draw_logits(rng, *sizes), draw(rng, *sizes)
        module, y = submission.softmax(), reference.softmax(x)
        own = module.forward(x)
        got, expected = module.backward(dout), reference.gradient(reference.softmax, x, dout)
        hypotheses = _softmax_gradient_mistakes(y, dout)
        if own.shape == y.shape and not close(own, y):
            of_own = own * (dout - (dout * own).sum(axis=1, keepdims=True))
            sentence = "follows from 'softmax value': right for its output"
            hypotheses.insert(0, (of_own, sentence, "softmax value"))
        expect("the gradient" + phrase, got, expected, hypotheses, batch_factors(len(x)))


def _softmax_gradient_mistakes(y, dout):
    def total(values):
        return values.sum(axis=1, keepdims=True)

    return [
        (y * dout, "the sum over the classes is missing"),
        (y * (1 - y) * dout, "only the diagonal of the Jacobian, y (1 - y)"),
        (dout - total(dout * y), "the factor y in front is missing"),
        (y * (dout - (dout * y).sum(axis=0)), "the sum runs over the samples, not the classes"),
        (y * (dout - (dout * y).sum()), "the sum runs over the whole batch: axis=1 missing"),
        (y * (dout - total(dout)), "the factor y in the sum is missing"),
        (y * (dout + total(dout * y)), "the sum has the wrong sign"),
        (-y * total(dout * y), "the diagonal of the Jacobian is missing"),
        (dout, "dout is passed on unchanged: softmax backward inside the cross entropy?"),
        (y, "the output instead of a gradient"),
        (y * (1 - y), "only the diagonal of the Jacobian, and dout is left out"),
        (y * dout - y**2 * total(dout), JACOBIAN),
        (y * dout - total(y**2 * dout), JACOBIAN),
        (y * (dout - (dout * y).mean(axis=1, keepdims=True)), "mean over classes, not sum"),
    ]


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
    for phrase, *sizes in _size_cases(rng):
        yield phrase, *draw_probabilities(rng, *sizes)
    sizes = draw_sizes(rng, 2)
    yield " of a batch without the last class", *draw_probabilities(rng, *sizes, last=False)


# Of the right class: far below and just above any epsilon that is only a remark, and up to 1.
PROBES = np.array([3e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.3, 0.9, 1 - 1e-7])


def probe(probabilities):
    """Samples of four classes whose right class, the last, has these probabilities."""
    x = np.outer(1 - probabilities, np.full(4, 1 / 3))
    x[:, -1] = probabilities
    return x, np.eye(4)[[-1] * len(x)]


def _or_epsilon(mistakes, got, expected, effective):
    """The mistakes; where it is none of these, an epsilon may be why values differ by so little."""
    yield from mistakes
    if close(got, expected, NEARLY):
        _check_epsilon(effective)


def _check_epsilon(effective):
    """Judges an epsilon or a clip by the probabilities that the formula must have used.

    effective: function from those of the right class to those that the result belongs to.
    """
    *used, floor = effective(np.append(PROBES, 1e-20))
    # Rounding in single precision is another row's concern.
    allowed = EPSILON + 3e-7 * (1 - np.log(PROBES)) * PROBES
    for probability, found, most in zip(PROBES, used, allowed, strict=True):
        if not abs(found - probability) <= most:
            raise Failure(
                f"an epsilon or a clip of about {abs(found - probability):.1g}? The right class "
                f"has the probability {probability:.8g}, and the value is that of {found:.8g}",
                float(found),
                float(probability),
            )
    if np.isfinite(floor) and floor > 1e-19:
        return [f"adds or clips at an epsilon of about {floor:.1g}"]


def cross_entropy_value(submission, rng):
    """The mean loss, and whether an epsilon falsifies it."""

    def effective(probabilities):
        batches = [probe(np.array([probability])) for probability in probabilities]
        losses = [np.sum(submission.cross_entropy().forward(*batch)) for batch in batches]
        return np.exp(np.negative(losses))

    for phrase, x, y in _target_cases(rng):
        mistakes, factors = _loss_mistakes(x, y), _loss_factors(*x.shape)
        with case(phrase):
            got, expected = submission.cross_entropy().forward(x, y), reference.cross_entropy(x, y)
            got = got.reshape(()) if got.size == 1 else got
            mistakes = _or_epsilon(mistakes, got, expected, effective)
            expect("the loss", got, expected, mistakes, factors)
    return _check_epsilon(effective)


def _loss_mistakes(x, y):
    samples, log, likelihood = len(x), np.log(x), (y * x).sum(axis=1)
    return [
        (-(y * log + (1 - y) * np.log(1 - x)).sum() / samples, "that is the binary cross entropy"),
        (-(y * log).sum(axis=1), "one loss for each sample: the mean over the batch is missing"),
        (reference.cross_entropy(reference.softmax(x), y), "softmax is applied inside once more"),
        (-log.sum() / samples, "the targets are left out"),
        (np.floor(reference.cross_entropy(x, y)), "rounded down: // instead of /"),
        (-likelihood.mean(), "the logarithm is left out"),
        (np.mean((x - y) ** 2), "that is the squared error"),
        (-np.log(likelihood.mean()), "the logarithm of the mean, not the mean of the logarithms"),
    ]


def _loss_factors(samples, classes):
    return [
        (samples, "is S times the right one: summed over the batch, without the 1/S of the mean?"),
        (1 / samples, "is 1/S of the right one: averaged over the batch twice?"),
        (1 / classes, "is 1/C of the right one: averaged over the classes too?"),
        (samples / classes, "is S/C of the right one: divided by the classes, not the samples?"),
        (1 / np.log(2), "is in bits: log2 instead of log"),
        (1 / np.log(10), "is the one with log10 instead of log"),
    ]


def cross_entropy_gradient(submission, rng):
    """dL/dX, (S, C), and whether an epsilon falsifies it."""

    def effective(probabilities):
        module, batch = submission.cross_entropy(), probe(probabilities)
        module.forward(*batch)
        return -1 / len(probabilities) / module.backward(*batch)[:, -1]

    cases = [(phrase, (x, y), x, y) for phrase, x, y in _target_cases(rng)]
    _, _, x, y = cases[0]  # backward is given them: those of forward, if any, may be others
    cases += [
        (" after a forward of others: it ignores its arguments", (x[::-1], y[::-1]), x, y),
        (" after a forward of fewer: it takes their number from there", (x[:-1], y[:-1]), x, y),
        (" without a forward: all that it needs is in its arguments", (), x, y),
    ]
    for phrase, earlier, x, y in cases:
        module, expected = submission.cross_entropy(), reference.cross_entropy_gradient(x, y)
        mistakes, factors = _loss_gradient_mistakes(x, y), _loss_factors(*x.shape)
        with case(phrase):
            if earlier:
                module.forward(*earlier)
            got = module.backward(x, y)
            mistakes = _or_epsilon(mistakes, got, expected, effective)
            expect("the gradient", got, expected, mistakes, factors)
    return _check_epsilon(effective)


def _loss_gradient_mistakes(x, y):
    samples = len(x)
    fused = "fused: (x - y) is the gradient of softmax and cross entropy together"
    inside = "softmax is applied inside once more"
    return [
        ((x - y) / samples, fused),
        (x - y, f"{fused}, and the 1/S is missing"),
        ((reference.softmax(x) - y) / samples, f"{inside}: that is the gradient for logits"),
        ((x - y) / (x * (1 - x)) / samples, "that of the binary cross entropy"),
        (-y / samples, "the division by x is missing"),
        (-y * x / samples, "multiplied by x instead of divided"),
        (-1 / x / samples, "the targets are left out"),
    ]
