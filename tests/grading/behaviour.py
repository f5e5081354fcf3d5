"""Checks of behaviour: caches, shapes, numerical stability, side effects, precision, loops.

Where it can be, a submission is compared with itself here, and not with the formulas: one mistake
should fail one row, and not all of them.
"""

import sys
from collections import Counter

import numpy as np

from . import reference
from .diagnosis import Failure, close, expect, largest_difference
from .network import SIZES, draw_layers, draw_network
from .values import C, M, N, S, draw_linear, draw_logits, draw_probabilities, probe


def _kinds(submission, rng):
    """Every kind of module that runs at all, and a remark about those that do not.

    By name: a function that makes one, always with the same parameters, and one that draws the
    arguments of forward and of backward for S samples. A module that does not run fails in rows
    of its own, and must not hide here what the others do.
    """
    weight, bias = rng.normal(size=(N, M)), rng.normal(size=N)
    layers = draw_layers(rng, SIZES)

    def mlp():
        network = submission.mlp(SIZES)
        network.set(layers)
        return network

    def plain(n_in, n_out):
        return lambda s: ((rng.normal(size=(s, n_in)),), (rng.normal(size=(s, n_out)),))

    def loss_arguments(s):
        pair = draw_probabilities(rng, s)
        return pair, tuple(array.copy() for array in pair)

    kinds = {
        "LinearModule": (lambda: submission.linear(weight, bias), plain(M, N)),
        "ELUModule": (submission.elu, plain(M, M)),
        "SoftMaxModule": (submission.softmax, plain(C, C)),
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
    return ({} if dx is None else {"input gradient": dx}) | _grads(module)


def _grads(module):
    """The gradients of all linear layers, by name."""
    results, layers = {}, _linear_layers(module)
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
    """Nothing of an earlier step, or of another instance, in a result."""
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
    sentence = (
        f"{name}: the {{}} is wrong when another {name} is in use: do they share their state?"
    )
    _same(_backward(one, first[1]), expected[0], sentence)
    kept = _grads(one)
    _same(_backward(two, last[1]), expected[1], sentence)
    _same(_grads(one), kept, sentence)


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
    """Shapes of all results, at the edges too, and independence of the memory order."""
    kinds, remarks = _kinds(submission, rng)
    if "LinearModule" in kinds:
        remarks += _linear_shapes(submission, rng)
    for name in ("ELUModule", "SoftMaxModule"):
        for shape in ((S, M), (1, M), (S, 1), (S, S)) if name in kinds else ():
            module, what = kinds[name][0](), f"{name} on {shape}"
            _expect_shape(f"{what}: the output", module.forward(rng.normal(size=shape)), shape)
            _expect_shape(f"{what}: the gradient", module.backward(np.ones(shape)), shape)
    for samples in (S, 1) if "CrossEntropyModule" in kinds else ():
        module, (x, y) = submission.cross_entropy(), draw_probabilities(rng, samples)
        loss = module.forward(x, y)
        if loss.size != 1:
            raise Failure(
                f"the loss of {samples} sample(s) has the shape {loss.shape}: not a number"
            )
        _expect_shape("the gradient of the loss", module.backward(x, y), x.shape)
    if "MLP" in kinds:
        mlp, x, dout, _ = draw_network(submission, rng, SIZES, samples=1)
        _expect_shape("MLP with 1 sample: the output", mlp.forward(x), dout.shape)
        mlp.backward(dout)
    for name, (make, draw) in kinds.items():
        _check_strided(name, make, *draw(S))
    return remarks


def _linear_shapes(submission, rng):
    layer, x, dout, _, _ = draw_linear(submission, rng)
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


def numerically_stable(submission, rng):
    """Finite values and gradients at +-1000."""
    kinds, remarks = _kinds(submission, rng)
    if "SoftMaxModule" in kinds:
        _stable_softmax(submission, rng)
    if "ELUModule" in kinds:
        remarks += _stable_elu(submission)
    if "CrossEntropyModule" in kinds:
        loss = submission.cross_entropy()
        x, y = probe(1e-30)
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
    x = draw_logits(rng)
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
    *layers, (weight, bias) = draw_layers(rng, SIZES)
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
    """Neither arguments nor parameters are written to."""
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
    """No result is rounded to float32, openly or on the way."""
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
            if value.dtype.kind != "f" or value.dtype.itemsize < 8:
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
                depends = np.abs(value - far[part]) > 1e-6  # more than rounding
                lost[part] += np.count_nonzero(depends & (value == near[part]))
                total[part] += np.count_nonzero(depends)
        for part in total:
            if lost[part] > total[part] / 2:
                raise Failure(
                    f"{name}: the {part} is computed in float32 or rounded: a change of "
                    f"1 in 1e11 of {which} has no effect on it"
                )


def no_loops(submission, rng):
    """Only remarks: instructions must not grow with the number of samples or features."""
    kinds, remarks = _kinds(submission, rng)
    loops = []
    for name, (make, draw) in kinds.items():
        if name == "MLP" and loops:
            continue  # it would repeat what its modules do
        sizes = (make, draw(4)), (make, draw(64))
        loops += _growing(name, "samples", *sizes)
        if name == "LinearModule":
            loops += _growing(
                name, "features", *(_wide_linear(submission, rng, n) for n in (4, 64))
            )
    return remarks + ([f"loops in Python over {'; '.join(loops)}"] if loops else [])


def _wide_linear(submission, rng, n):
    weight, bias = rng.normal(size=(n + 1, n)), rng.normal(size=n + 1)
    arguments = (rng.normal(size=(S, n)),), (rng.normal(size=(S, n + 1)),)
    return lambda: submission.linear(weight, bias), arguments


def _growing(name, what, small, large):
    """The methods that execute more Python instructions for larger arguments."""
    counts = []
    for make, (forward_args, backward_args) in (small, large):
        module = make()
        forward = _instructions(module.forward, *forward_args)
        counts.append((forward, _instructions(module.backward, *backward_args)))
    # At least two instructions for each of the 60 more samples or features.
    return [
        f"{what} in {name}.{method}"
        for method, few, many in zip(("forward", "backward"), *counts, strict=True)
        if many - few > 2 * 60
    ]


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
