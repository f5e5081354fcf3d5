"""Checks of behaviour: caches, shapes, stability, side effects, precision, NumPy only, loops.

Where it can be, a submission is compared with itself here, and not with the formulas: one mistake
should fail one row, and not all of them.
"""

import functools
from collections import Counter

import numpy as np

from . import reference
from .diagnosis import Failure, case, close, expect, largest_difference
from .network import MODULE_ROWS, draw_layers
from .values import draw, draw_logits, draw_probabilities, draw_sizes, probe

# The rows about the values of a module: what is wrong there may be why it fails here.
ROWS = {
    "LinearModule": MODULE_ROWS[:4],
    "ELUModule": MODULE_ROWS[4:6],
    "SoftMaxModule": MODULE_ROWS[6:],
    "CrossEntropyModule": ["cross-entropy value", "cross-entropy gradient"],
    "MLP": ["network output", "network gradient"],
}


def _kinds(submission, rng):
    """Every kind of module that runs at all, and why the others do not, by name.

    A kind is a function that makes one, always with the same parameters, and one that draws the
    arguments of forward and of backward for a number of samples.
    """
    m, n, classes, *sizes = draw_sizes(rng, 3) + draw_sizes(rng, 4)
    weight, bias = draw(rng, n, m), draw(rng, n)
    layers = draw_layers(rng, sizes)

    def mlp():
        network = submission.mlp(sizes)
        network.set(layers)
        return network

    def plain(n_in, n_out):
        return lambda s: ((draw(rng, s, n_in),), (draw(rng, s, n_out),))

    def loss_arguments(s):
        return 2 * (draw_probabilities(rng, s, classes),)

    kinds = {
        "LinearModule": (lambda: submission.linear(weight, bias), plain(m, n)),
        "ELUModule": (submission.elu, plain(m, m)),
        "SoftMaxModule": (submission.softmax, plain(classes, classes)),
        "CrossEntropyModule": (submission.cross_entropy, loss_arguments),
        "MLP": (mlp, plain(sizes[0], sizes[-1])),
    }
    failures = {}
    for name, (make, draw_arguments) in kinds.items():
        try:
            _run(make(), *draw_arguments(5))
        except Failure as failure:
            failures[name] = failure
    return {name: kind for name, kind in kinds.items() if name not in failures}, failures


def every_module(check):
    """Makes a check of those modules that run into a row.

    A module that does not run fails in rows of its own, and must not hide here what the others do;
    nor must one that is not done yet, for which the row is not either.
    """

    @functools.wraps(check)
    def row(submission, rng):
        kinds, failures = _kinds(submission, rng)
        remarks = (kinds and check(submission, rng, kinds)) or []
        not_done = [failure for failure in failures.values() if failure.cell != Failure.cell]
        if not_done or not kinds:
            raise (not_done or list(failures.values()))[0]
        return remarks + ([f"not checked for {', '.join(failures)}: see above"] * bool(failures))

    return row


def _run(module, forward_args, backward_args, **how):
    """forward and backward. Returns all that came out, by name."""
    return _forward(module, forward_args, **how) | _backward(module, backward_args, **how)


def _forward(module, args, **how):
    return {"output": module.forward(*args, **how)}


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


@every_module
def stale_caches(submission, rng, kinds):
    """Nothing of an earlier step, or of another instance, in a result."""
    for name, (make, arguments) in kinds.items():
        samples, fewer = sorted(draw_sizes(rng, 2), reverse=True)
        last = arguments(samples)
        expected = _run(make(), *last)
        # Steps of this size of batch, perhaps another batch before the last step, or steps of it.
        for size, evaluated in ((samples, 0), (samples, fewer), (fewer, 0)):
            used, parameters = make(), make().params()
            for _ in range(rng.integers(1, 4)):
                earlier = arguments(size)
                _run(used, *earlier)
            if evaluated:
                _forward(used, arguments(evaluated)[0])
            if parameters:
                used.set(parameters)  # an update inside backward has a row of its own
            sentence = f"{name}: in a second step, the {{}} still depends on the first"
            with case(f" in a step of {samples} samples after one of {evaluated or size}"):
                _same(_run(used, *last), expected, sentence)
        if name == "LinearModule":
            weight, bias = parameters[0]
            used.set(parameters)
            submission.linear(-weight, -bias)
            sentence = f"{name}: a second one changes the {{}} of the first: shared parameters?"
            _same(_run(used, *last), expected, sentence)
        _check_two_in_use(name, make, earlier, last)
        if used.clears_cache:
            if parameters:
                used.set(parameters)
            used.clear_cache()
            with case(" after clear_cache()"):
                _same(_run(used, *last), expected, f"{name}: the {{}} is wrong")
    return []


def _check_two_in_use(name, make, first, last):
    """Two instances in turn must not know of each other."""
    alone = [_run(make(), *arguments) for arguments in (first, last)]
    one, two = make(), make()
    outputs = [_forward(one, first[0]), _forward(two, last[0])]
    sentence = (
        f"{name}: the {{}} is wrong when another {name} is in use: do they share their state?"
    )
    _same(outputs[0] | _backward(one, first[1]), alone[0], sentence)
    kept = _grads(one)
    _same(outputs[1] | _backward(two, last[1]), alone[1], sentence)
    _same(_grads(one), kept, sentence)


@every_module
def shapes(submission, rng, kinds):
    """Keys and shapes of the gradients, and independence of the memory order.

    The rows about values compare the shapes of all results.
    """
    samples, m, n = draw_sizes(rng, 3)
    remarks = []
    if "LinearModule" in kinds:
        layer = submission.linear(draw(rng, n, m), draw(rng, n))
        layer.forward(draw(rng, samples, m))
        layer.backward(draw(rng, samples, n))
        remarks = sorted(layer.remarks)
        for name in ("weight", "bias"):
            grad, param = layer.stored("grads", name).shape, layer.stored("params", name).shape
            if grad != param and not (name in layer.scalars and np.prod(grad) == np.prod(param)):
                sentence = f"grads['{name}'] has the shape {grad}, and params['{name}'] {param}"
                if grad != param[1:]:  # with which params -= rate * grads still works
                    sentence += ": a gradient has the shape of its parameter"
                    raise Failure(sentence, follows=[f"{name} gradient"])
                remarks.append(sentence)
        if layer.faults:
            raise Failure("; ".join(sorted(layer.faults)))
    for name, (make, arguments) in kinds.items():
        args = arguments(samples)
        sentence = f"{name}: the {{}} is wrong for arrays that are not contiguous in memory"
        _same(_run(make(), *args, strided=True), _run(make(), *args), sentence)
    return remarks


@every_module
def numerically_stable(submission, rng, kinds):
    """Finite values and gradients at +-1000."""
    remarks = []
    if "SoftMaxModule" in kinds:
        with case(follows=ROWS["SoftMaxModule"]):
            _stable_softmax(submission, rng)
    if "ELUModule" in kinds:
        with case(follows=ROWS["ELUModule"]):
            remarks += _stable_elu(submission)
    if "CrossEntropyModule" in kinds:
        loss = submission.cross_entropy()
        x, y = probe(1e-30)
        with case(follows=ROWS["CrossEntropyModule"]):
            _expect_finite("the loss at a probability of 1e-30", loss.forward(x, y), x)
            _expect_finite("its gradient", loss.backward(x, y), x)
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
    # A row by itself has the maximum of the batch.
    alone = np.all(np.isfinite([module.forward(row) for row in x[:, None]]))
    _expect_finite("the softmax", module.forward(x), x, OF_EACH_ROW if alone else SUBTRACT)
    dx = module.backward(draw(rng, *x.shape))
    _expect_finite("the gradient of the softmax", dx, x, SUBTRACT)
    x = draw_logits(rng, *draw_sizes(rng, 2))
    plain = submission.softmax().forward(x)
    for shift in (1000.0, -1000.0) if close(plain, reference.softmax(x)) else ():
        got = submission.softmax().forward(x + shift)
        expect(f"the softmax of logits about {shift:.0f}", got, plain)


SUBTRACT = "subtract the maximum of each row before the exp?"
OF_EACH_ROW = "is the maximum that is subtracted that of each row, and not of the batch?"


def _stable_elu(submission):
    x = np.array([[1000.0, -1000.0, 88.8, -88.8], [710.0, -710.0, 1.0, -1.0]])
    ones = np.ones_like(x)
    module = submission.elu()
    out = module.forward(x)
    dx = module.backward(ones)
    _expect_finite("the ELU", out, x, "does exp overflow for large x, where it is not used?")
    _expect_finite("the gradient of the ELU", dx, x, "an overflow of the exp times 0?")

    # What is wrong at ordinary inputs too is not a matter of stability.
    module, ordinary = submission.elu(), x[1:, 2:]
    value_right = close(module.forward(ordinary), reference.elu(ordinary))
    slope = np.where(x > 0, 1, np.exp(np.minimum(x, 0)))
    slope_right = close(module.backward(ones[1:, 2:]), slope[1:, 2:])
    for side in (x > 0, x < 0):  # each by its own scale
        if value_right:
            expect("the ELU at +-1000", out[side], reference.elu(x)[side])
        if slope_right:
            expect("the gradient of the ELU at +-1000", dx[side], slope[side])

    remarks = []
    module = submission.elu()
    try:
        module.forward(x, over="raise", invalid="raise")
        module.backward(ones, over="raise", invalid="raise")
    except Failure:
        remarks.append("the ELU overflows on the way to a right result: exp of large x")
    small = np.array([[-1e-10]])
    if value_right and not close(submission.elu().forward(small), small):
        remarks.append("exp(x) - 1 loses its digits near 0: expm1 keeps them")
    return remarks


def _floor(submission):
    """A remark where a probability that underflows to 0 makes the loss infinite."""
    softmax, loss, y = submission.softmax(), submission.cross_entropy(), np.eye(4)[[1, 0, 2, 3]]
    try:
        out = softmax.forward(EXTREME_LOGITS)
        _expect_finite("the loss", loss.forward(out, y), out)
        _expect_finite("its gradient", softmax.backward(loss.backward(out, y)), out)
    except Failure:
        return ["no floor: loss or gradient not finite where a probability underflows to 0"]
    return []


def _stable_network(submission, rng):
    samples, *sizes = draw_sizes(rng, 5)
    *layers, (weight, bias) = draw_layers(rng, sizes)
    for scale in (1000.0, -1000.0):
        mlp, x = submission.mlp(sizes), draw(rng, samples, sizes[0])
        mlp.set([*layers, (weight, bias + scale)])
        what = f"the network with logits about {scale:.0f}: the"
        _expect_finite(f"{what} output", mlp.forward(x), x, SUBTRACT)
        mlp.backward(draw(rng, samples, sizes[-1]))
        for grad in sum(mlp.grads(), ()):
            _expect_finite(f"{what} gradient", grad, x, SUBTRACT)


def _expect_finite(what, got, x, reason="a division by 0?"):
    bad = got[~np.isfinite(got)]
    if bad.size:
        raise Failure(
            f"{what} is {bad[0]} in {bad.size} of {got.size} entries at inputs "
            f"from {x.min():.4g} to {x.max():.4g}: {reason}",
            float(bad[0]),
        )


@every_module
def inputs_left_alone(submission, rng, kinds):
    """Neither arguments nor parameters nor earlier results are written to."""
    for name, (make, arguments) in kinds.items():
        module, samples = make(), int(rng.integers(30, 60))
        if module.changes_list:
            raise Failure("MLP changes the list n_hidden, which belongs to its caller")
        parameters = sum(module.params(), ())
        for _ in range(2):
            forward_args, backward_args = arguments(samples)
            if name == "CrossEntropyModule":
                # A probability of 0 too, which a submission may wish to replace.
                x, y = forward_args  # and those of backward
                x[0, np.flatnonzero(y[0] == 0)[0]] = 0.0
                x[0] /= x[0].sum()
            for method, args in (("forward", forward_args), ("backward", backward_args)):
                getattr(module, method)(*args)
                for what in module.changed():
                    raise Failure(
                        f"{name}.{method} writes into {what}, which belongs to its caller"
                    )
        if not all(map(np.array_equal, parameters, sum(module.params(), ()))):
            sentence = f"{name}: forward or backward changes the parameters"
            raise Failure(f"{sentence}: the update is the trainer's part")


@every_module
def float64_kept(submission, rng, kinds):
    """No result is rounded to float32, openly or on the way."""
    samples, *sizes = draw_sizes(rng, 5)
    for name, (make, arguments) in kinds.items():
        if name in ("LinearModule", "MLP"):
            new = submission.mlp(sizes) if name == "MLP" else submission.fresh_linear(*sizes[:2])
            for layer in new.params():
                for part, value in zip(("weight", "bias"), layer, strict=True):
                    if value.dtype != np.float64 and part not in new.scalars:
                        raise Failure(
                            f"{name}: params['{part}'] starts as {value.dtype}, not float64"
                        )
        for part, value in _run(make(), *arguments(samples)).items():
            if value.dtype.kind != "f" or value.dtype.itemsize < 8:
                raise Failure(f"{name}: the {part} is {value.dtype} for float64 inputs")
        if _differences(name, make, arguments):
            continue  # that costs digits, and fails the row 'NumPy only'
        # A loss is a single number, which may change by chance: the majority of five decides.
        batches = 5 if name == "CrossEntropyModule" else 1
        with case(follows=ROWS[name]):
            _check_precision(name, make, [arguments(samples) for _ in range(batches)])


def _check_precision(name, make, batches):
    """A change of the inputs that float32 cannot hold must change the results.

    Each result is asked for by itself, with x, dout and the weight changed in turn.
    """
    loss = name == "CrossEntropyModule"

    def nudged(array, by):
        # Times 1 + by, so that no sign changes; but a row of probabilities must remain one.
        return array + by * (np.roll(array, 1, axis=1) - array if loss else array)

    def run(which, by, forward_args, backward_args):
        module = make()
        if which == "weight":
            module.set([(nudged(weight, by), bias) for weight, bias in module.params()])
        x, dout = forward_args[0], backward_args[0]
        if which == "x":
            x = nudged(x, by)
        if which == "dout" or which == "x" and loss:
            dout = nudged(dout, by)
        return _run(module, (x, *forward_args[1:]), (dout, *backward_args[1:]))

    for which in ("x", "dout", "weight"):
        lost, total = Counter(), Counter()
        for batch in batches:
            plain, near, far = (run(which, by, *batch) for by in (0, 1e-11, 0.01))
            for part, value in plain.items():
                if not value.shape == near[part].shape == far[part].shape:
                    raise Failure(f"{name}: the {part} changes its shape with the values")
                depends = np.abs(value - far[part]) > 1e-6  # more than rounding
                lost[part] += np.count_nonzero(depends & (value == near[part]))
                total[part] += np.count_nonzero(depends)
        for part in total:
            if lost[part] > total[part] / 2:
                raise Failure(
                    f"{name}: the {part} is computed in float32 or rounded: a change of "
                    f"1 in 1e11 of {which} has no effect on it"
                )


def _differences(name, make, arguments):
    """The function of which backward takes a derivative by differences, or None.

    Enough samples that two arrays are not alike by chance; of probabilities, which are close
    together, so few that single numbers are not.
    """
    return make().differences(*arguments(4 if name == "CrossEntropyModule" else 20))


@every_module
def numpy_only(submission, rng, kinds):
    """No other package computes, and no derivative is a difference of function values."""
    for name, (make, arguments) in kinds.items():
        function = _differences(name, make, arguments)
        if function:
            raise Failure(
                f"{name}.backward calls {function} at inputs slightly different from forward's: "
                "a finite difference or a complex step, not the formula"
            )
    facts = submission.facts()
    if facts["called"]:
        raise Failure(f"calls {', '.join(facts['called'])}: only NumPy may compute")
    if facts["imported"]:
        return [f"imports {', '.join(facts['imported'])}, and does not use it"]


@every_module
def no_loops(submission, rng, kinds):
    """Only remarks: instructions must not grow with the number of samples or features."""
    loops = []
    for name, (make, arguments) in kinds.items():
        if name == "MLP" and loops:
            continue  # it would repeat what its modules do
        loops += _growing(name, make, arguments(4), arguments(64))
    return [f"loops in Python over {'; '.join(loops)}"] if loops else []


def _growing(name, make, *sizes):
    """The methods that execute more Python instructions for more samples."""
    counts = []
    for forward_args, backward_args in sizes:
        module = make()
        forward = module.counted("forward", *forward_args)
        counts.append((forward, module.counted("backward", *backward_args)))
    # At least two instructions for each of the 60 more samples.
    return [
        f"samples in {name}.{method}"
        for method, few, many in zip(("forward", "backward"), *counts, strict=True)
        if many - few > 2 * 60
    ]
