"""Checks of behaviour: caches, shapes, stability, side effects, precision, NumPy only, loops.

Where it can be, a submission is compared with itself here, and not with the formulas: one mistake
should fail one row, and not all of them.
"""

import contextlib
import functools
from collections import Counter, namedtuple

import numpy as np

from . import reference
from .diagnosis import Failure, case, close, expect, largest_difference
from .network import ROWS, draw_layers
from .values import draw, draw_probabilities, draw_sizes, probe


class Kind(namedtuple("Kind", "name fresh parameters arguments")):
    """A kind of module: fresh() makes one, which has other parameters than these, if any.

    arguments: a function that draws those of forward and of backward for a number of samples.
    """

    def make(self):
        return self.reset(self.fresh())

    def reset(self, module):
        """The module with these parameters."""
        if self.parameters:
            module.set(self.parameters)
        return module


def _kinds(submission, rng):
    m, n, classes, *sizes = draw_sizes(rng, 3) + draw_sizes(rng, 4)
    linear = functools.partial(submission.fresh_linear, m, n)
    mlp = functools.partial(submission.mlp, sizes)

    def plain(n_in, n_out):
        return lambda samples: ([draw(rng, samples, n_in)], [draw(rng, samples, n_out)])

    def of_loss(samples):
        return 2 * (draw_probabilities(rng, samples, classes),)

    return [
        Kind("LinearModule", linear, draw_layers(rng, [m, n]), plain(m, n)),
        Kind("ELUModule", submission.elu, [], plain(m, m)),
        Kind("SoftMaxModule", submission.softmax, [], plain(classes, classes)),
        Kind("CrossEntropyModule", submission.cross_entropy, [], of_loss),
        Kind("MLP", mlp, draw_layers(rng, sizes), plain(sizes[0], sizes[-1])),
    ]


def every_module(check):
    """Makes a check of one kind of module into that of a row.

    A module that does not run at all fails in rows of its own, and must not hide here what the
    others do; nor must one that is not done yet, for which the row is not either.
    """

    @functools.wraps(check)
    def row(submission, rng):
        remarks, broken, kinds = [], {}, _kinds(submission, rng)
        for kind in kinds:
            try:  # before the check, after which a call that was lost in it is not tried again
                _run(kind.make(), *kind.arguments(9))  # 9: not as many as features
            except Failure as failure:
                broken[kind.name] = failure
            else:
                remarks += check(submission, rng, kind) or []
        not_done = [failure for failure in broken.values() if failure.cell != Failure.cell]
        if not_done or len(broken) == len(kinds):
            raise [*not_done, *broken.values()][0]
        if broken:
            remarks.append(f"not checked for {', '.join(broken)}: see above")
        return list(dict.fromkeys(remarks))

    return row


def _run(module, forward_args, backward_args, **how):
    """forward and backward. Returns all that came out, by name."""
    output = module.forward(*forward_args, **how)
    return {"output": output} | _backward(module, backward_args, **how)


def _backward(module, args, **how):
    dx = module.backward(*args, **how)
    return ({} if dx is None else {"input gradient": dx}) | _grads(module)


def _grads(module):
    """The gradients of all linear layers, by name."""
    results, grads = {}, module.grads()
    for i, (weight, bias) in enumerate(grads):
        suffix = f" of layer {i + 1}" if len(grads) > 1 else ""
        results |= {f"weight gradient{suffix}": weight, f"bias gradient{suffix}": bias}
    return results


def _same(got, expected, sentence):
    """Raises a Failure where a result is not the expected one; {} in sentence is its name."""
    for name, value in expected.items():
        if not (close(got[name], value, 1e-9) or np.array_equal(got[name], value, equal_nan=True)):
            raise Failure(sentence.format(name), *largest_difference(got[name], value))


def _same_again(kind, module, args):
    """The results of a module, which another one gives too."""
    results = _run(module, *args)
    sentence = f"{kind.name}: the {{}} is another every time: is something in it random?"
    with case(follows=ROWS[kind.name]):
        _same(_run(kind.make(), *args), results, sentence)
    return results


@every_module
def stale_caches(submission, rng, kind):
    """Nothing of an earlier step, or of another instance, in a result."""
    samples, fewer = sorted(draw_sizes(rng, 2), reverse=True)
    last, other = kind.arguments(samples), kind.arguments(fewer)
    expected = _same_again(kind, kind.make(), last)
    used, name = kind.make(), kind.name

    def step(args):
        results = _run(used, *args)
        kind.reset(used)  # an update inside backward has a row of its own
        return results

    sentence = f"{name}: in a second step, the {{}} still depends on the first"
    step(other)
    with case(f" in a step of {samples} samples after one of {fewer}"):
        step(kind.arguments(samples))
    with case(f" in a step of {samples} samples after one of {samples}"):
        _same(step(last), expected, sentence)
    step(other)
    with case(f" in a step of {samples} samples after one of {fewer}"):
        _same(step(last), expected, sentence)
    with case(f" in a step of {samples} samples after {fewer} were evaluated"):
        used.forward(*other[0])
        _same(step(last), expected, sentence)
    if used.clears_cache:
        with case(" after clear_cache()"):
            used.clear_cache()
            _same(_run(used, *last), expected, f"{name}: the {{}} is wrong")

    with case(f" while another {name} is in use: do they share their state?"):
        one, two = kind.make(), kind.make()
        two.set([(-weight, -bias) for weight, bias in kind.parameters])
        results = {"output": one.forward(*last[0])}
        two.forward(*other[0])
        results |= _backward(one, last[1])
        _backward(two, other[1])
        _same(results | _grads(one), expected, f"{name}: the {{}} is wrong")


@every_module
def shapes(submission, rng, kind):
    """Keys and shapes of the gradients, and independence of the memory order.

    The rows about values compare the shapes of all results.
    """
    args, module = kind.arguments(9), kind.make()  # 9: not as many as features
    expected = _same_again(kind, module, args)
    remarks = _stored_shapes(module) if kind.name == "LinearModule" else []
    sentence = f"{kind.name}: the {{}} is wrong for arrays that are not contiguous in memory"
    _same(_run(kind.make(), *args, strided=True), expected, sentence)
    return remarks


def _stored_shapes(module):
    (layer,) = module.layers
    remarks = sorted(layer.remarks)
    for name in ("weight", "bias"):
        grad, param = module.stored("grads", name).shape, module.stored("params", name).shape
        if grad != param and not (name in layer.scalars and np.prod(grad) == np.prod(param)):
            sentence = f"grads['{name}'] has the shape {grad}, and params['{name}'] {param}"
            if grad != param[1:]:  # with which params -= rate * grads still works
                sentence += ": a gradient has the shape of its parameter"
                raise Failure(sentence, follows=[f"{name} gradient"])
            remarks.append(sentence)
    if module.faults:
        raise Failure("; ".join(sorted(module.faults)))
    return remarks


@every_module
def numerically_stable(submission, rng, kind):
    """Finite at +-1000, and right there where it is right at ordinary inputs."""
    with case(follows=ROWS[kind.name]):
        return STABLE[kind.name](kind) if kind.name in STABLE else []


# Rows of one magnitude and of several: the maximum has to be that of each row.
EXTREME_LOGITS = np.array(
    [
        [1000, 999, 998.5, -1000],
        [-1000, -1001, -999, -998],
        [1000, 0, -1000, 1],
        [-1000] * 3 + [1000],
    ]
)
SUBTRACT = "subtract the maximum of each row before the exp?"
OF_EACH_ROW = "is the maximum that is subtracted that of each row, and not of the batch?"


def _stable_softmax(kind):
    x, ordinary = EXTREME_LOGITS, EXTREME_LOGITS / 1000
    # A row by itself has the maximum of the batch.
    alone = np.all(np.isfinite([kind.make().forward(row) for row in x[:, None]]))
    results = _run(kind.make(), [x], [ordinary])
    _expect_finite("the softmax", results, x, OF_EACH_ROW if alone else SUBTRACT)
    if close(kind.make().forward(ordinary), reference.softmax(ordinary)):
        expect("the softmax at +-1000", results["output"], reference.softmax(x))


def _stable_elu(kind):
    x = np.array([[1000.0, 88.8, 710.0, 1.0], [-1000.0, -88.8, -710.0, -1.0]])
    dout, small, remarks = np.ones_like(x), np.array([[-1e-13]]), []
    results = _run(kind.make(), [x], [dout])
    _expect_finite("the ELU", results, x, "does exp overflow for large x, where it is not used?")
    right = {"output": reference.elu(x), "input gradient": reference.slope(reference.elu, x)}
    for part, values in right.items():
        got, (above, below) = results[part], values
        if got.shape == x.shape and close(got[:, 3], values[:, 3]):  # at +-1
            expect(f"the {part} of the ELU up to 1000", got[0], above)
            expect(f"the {part} of the ELU down to -1000", got[1], below)
    try:
        _run(kind.make(), [x], [dout], over="raise", invalid="raise")
    except Failure:
        remarks.append("the ELU overflows on the way to a right result: exp of large x")
    out = kind.make().forward(small)
    if close(out, small, 1e-2) and not close(out, small):
        remarks.append("exp(x) - 1 loses its digits near 0: expm1 keeps them")
    return remarks


def _stable_loss(kind):
    small, finite = probe(np.array([1e-30])), False
    results = _run(kind.make(), small, small)
    _expect_finite("the loss at a probability of 1e-30", results, small[0], "a division by 0?")
    zero = reference.softmax(EXTREME_LOGITS), np.eye(4)[[1, 0, 2, 3]]
    with contextlib.suppress(Failure):  # it may refuse a probability of 0
        results = _run(kind.make(), zero, zero)
        finite = all(np.all(np.isfinite(value)) for value in results.values())
    _run(kind.make(), small, small)  # fails if that one has hung or ended the process
    if not finite:
        return [f"{kind.name} has no floor of its own: not finite where a probability is 0"]


def _stable_network(kind):
    *layers, (weight, bias) = kind.parameters
    for scale in (1000.0, -1000.0):
        module, ((x,), dout) = kind.make(), kind.arguments(4)
        right = reference.network(x, kind.parameters)  # which depends on differences of logits
        ordinary = close(module.forward(x), right)
        module.set([*layers, (weight, bias + scale)])
        results, what = _run(module, [x], dout), f"MLP with biases about {scale:.0f} at the end"
        _expect_finite(what, results, x, SUBTRACT)
        if ordinary:
            expect(f"{what}: the output", results["output"], right)


STABLE = {
    "ELUModule": _stable_elu,
    "SoftMaxModule": _stable_softmax,
    "CrossEntropyModule": _stable_loss,
    "MLP": _stable_network,
}


def _expect_finite(what, results, x, reason):
    for part, value in results.items():
        bad = value[~np.isfinite(value)]
        if bad.size:
            raise Failure(
                f"{what}: the {part} is {bad[0]} in {bad.size} of {value.size} entries at inputs "
                f"from {x.min():.4g} to {x.max():.4g}: {reason}",
                float(bad[0]),
            )


@every_module
def inputs_left_alone(submission, rng, kind):
    """Neither arguments nor parameters nor earlier results are written to."""
    module, samples = kind.make(), int(rng.integers(30, 60))
    if module.changes_list:
        raise Failure("MLP changes the list n_hidden, which belongs to its caller")
    for _ in range(2):
        forward_args, backward_args = kind.arguments(samples)
        if kind.name == "CrossEntropyModule":
            # A probability of 0 too, which a submission may wish to replace.
            x, y = forward_args  # and those of backward
            x[0, np.flatnonzero(y[0] == 0)[0]] = 0.0
            x[0] /= x[0].sum()
        for method, args in (("forward", forward_args), ("backward", backward_args)):
            getattr(module, method)(*args)
            for what in module.changed():
                sentence = f"{kind.name}.{method} writes into {what}"
                raise Failure(f"{sentence}, which belongs to its caller")
    if not all(map(np.array_equal, sum(kind.parameters, ()), sum(module.params(), ()))):
        sentence = f"{kind.name}: forward or backward changes the parameters"
        raise Failure(f"{sentence}: the update is the trainer's part")


@every_module
def float64_kept(submission, rng, kind):
    """No result is rounded to float32, openly or on the way."""
    (samples,), new, name = draw_sizes(rng, 1), kind.fresh(), kind.name
    for layer, pair in zip(new.layers, new.params(), strict=True):
        for part, value in zip(("weight", "bias"), pair, strict=True):
            if value.dtype != np.float64 and part not in layer.scalars:
                raise Failure(f"{name}: params['{part}'] starts as {value.dtype}, not float64")
    if not _differences(kind):  # which cost digits, and fail the row 'NumPy only'
        with case(follows=ROWS[name]):
            _check_precision(kind, samples)


def _check_precision(kind, samples):
    """A change of the inputs that float32 cannot hold must change the results.

    Each result is asked for by itself, with x, dout and the weight changed in turn.
    """
    loss = kind.name == "CrossEntropyModule"  # which takes x in backward too

    def nudged(array, by):
        # Times 1 + by, so that no sign changes; but a row of probabilities must remain one.
        return array + by * (np.roll(array, 1, axis=1) - array if loss else array)

    def run(forward_args, backward_args, which, by):
        module, (x, *others), (dout, *more) = kind.make(), forward_args, backward_args
        if which == "weight":
            module.set([(nudged(weight, by), bias) for weight, bias in kind.parameters])
        if which == "x":
            x = nudged(x, by)
        if which == "dout" or (which == "x" and loss):
            dout = nudged(dout, by)
        return _run(module, (x, *others), (dout, *more))

    lost, total = Counter(), Counter()
    for _ in range(3 if loss else 1):  # a single number may change by chance: the majority decides
        batch = kind.arguments(samples)
        plain = run(*batch, "", 0)
        for which in ["x"] + ["dout"] * (not loss) + ["weight"] * bool(kind.parameters):
            near, far = (run(*batch, which, by) for by in (1e-11, 0.01))
            for part, value in plain.items():
                if not value.shape == near[part].shape == far[part].shape:
                    raise Failure(f"{kind.name}: the {part} changes its shape with the values")
                depends = np.abs(value - far[part]) > 1e-6  # more than rounding
                lost[part, which] += np.count_nonzero(depends & (value == near[part]))
                total[part, which] += np.count_nonzero(depends)
    for part, which in total:
        if lost[part, which] > total[part, which] / 2:
            raise Failure(
                f"{kind.name}: the {part} is computed in float32 or rounded: a change of "
                f"1 in 1e11 of {which} has no effect on it"
            )


def _differences(kind):
    """The function of which backward takes a derivative by differences, or None.

    Enough samples that two arrays are not alike by chance; of probabilities, which are close
    together, so few that single numbers are not.
    """
    return kind.make().differences(*kind.arguments(4 if kind.name == "CrossEntropyModule" else 20))


@every_module
def numpy_only(submission, rng, kind):
    """No other package computes, and no derivative is a difference of function values."""
    function, facts = _differences(kind), submission.facts()
    if function:
        raise Failure(
            f"{kind.name}.backward calls {function} at inputs slightly different from forward's: "
            "a finite difference or a complex step, not the formula"
        )
    if facts["called"]:
        raise Failure(f"calls {', '.join(facts['called'])}: only NumPy may compute")
    if facts["imported"]:
        return [f"imports {', '.join(facts['imported'])}: NumPy is enough"]


@every_module
def no_loops(submission, rng, kind):
    """Only remarks: instructions must not grow with the number of samples."""
    counts = []
    for samples in (4, 64):
        module, (forward_args, backward_args) = kind.make(), kind.arguments(samples)
        forward = module.counted("forward", *forward_args)
        counts.append((forward, module.counted("backward", *backward_args)))
    loops = [
        method
        for method, few, many in zip(("forward", "backward"), *counts, strict=True)
        if many - few > 2 * 60  # at least two instructions for each of the 60 more samples
    ]
    if loops:
        return [f"{kind.name} loops over samples in {' and '.join(loops)}"]
