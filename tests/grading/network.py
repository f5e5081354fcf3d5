"""Checks of the whole network: what it computes, its gradients, and where it starts from."""

import contextlib

import numpy as np

from . import reference
from .diagnosis import Failure, expect
from .values import S, batch_factors

SIZES = (7, 6, 5, 4)  # n_inputs, two hidden layers, n_classes: all different
TOLERANCE = 1e-5  # the errors of several layers add up
LOSS_TOLERANCE = 1e-4  # and an epsilon of 1e-8 is only a remark


def draw_layers(rng, sizes):
    """Parameters of a network: a list of (weight, bias)."""
    return [
        (rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in), rng.normal(size=fan_out))
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def draw_network(submission, rng, sizes, samples=S):
    """An MLP with all parameters set, and x, dout and those parameters."""
    mlp, layers = submission.mlp(sizes), draw_layers(rng, sizes)
    mlp.set(layers)
    dout = rng.normal(size=(samples, sizes[-1]))
    return mlp, rng.normal(size=(samples, sizes[0])), dout, layers


def _networks(submission, rng):
    """Networks with two, one, three and no hidden layers, each with a phrase for it."""
    for sizes in (SIZES, (7, 5, 3), (6, 5, 4, 3, 2), (6, 4)):
        hidden = list(sizes[1:-1])
        try:
            yield f" (hidden layers {hidden})", draw_network(submission, rng, sizes)
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
    """The probabilities of networks of several depths."""
    for phrase, (mlp, x, dout, layers) in _networks(submission, rng):
        got = mlp.forward(x.copy())

        def hypotheses(x=x, dout=dout, layers=layers):
            with contextlib.suppress(Failure):
                yield _composed(submission, x, layers, dout)[0], AS_COMPOSED
            for output, text in _alternatives(layers):
                yield output(x, layers), text

        expect(
            "the output" + phrase,
            got,
            reference.network(x, layers),
            hypotheses(),
            tolerance=TOLERANCE,
        )
    return []


def network_gradient(submission, rng):
    """Every gradient, for any dout and through the loss of the submission."""
    for phrase, (mlp, x, dout, layers) in _networks(submission, rng):
        mlp.forward(x.copy())
        mlp.backward(dout.copy())
        _expect_gradients(submission, phrase, mlp, x, layers, dout)

        if len(layers) == len(SIZES) - 1:
            _expect_loss_gradients(submission, phrase, mlp, x, layers)
    return []


def _expect_loss_gradients(submission, phrase, mlp, x, layers):
    """Through the submission's own loss, where a wrong factor or sign may add to or cancel out."""
    # The likeliest class of each sample, far from where an epsilon shows: other rows judge that.
    right = reference.network(x, layers)
    y = np.eye(right.shape[1])[right.argmax(axis=1)]
    loss = submission.cross_entropy()
    probabilities = mlp.forward(x.copy())
    loss.forward(probabilities.copy(), y.copy())
    mlp.backward(loss.backward(probabilities.copy(), y.copy()))

    def hypotheses(layer, part):
        with contextlib.suppress(Failure):
            dout = submission.cross_entropy().backward(right.copy(), y.copy())
            through_loss = reference.network_gradients(x, layers, dout)
            yield through_loss[layer][part], "follows from the cross-entropy gradient above"

    expected = reference.network_gradients(x, layers, y=y)
    for i, (got, want) in enumerate(zip(mlp.grads(), expected, strict=True)):
        for j, name in enumerate(("weight", "bias")):
            what = f"the gradient of the loss by the {name} of layer {i + 1}{phrase}"
            expect(what, got[j], want[j], hypotheses(i, j), tolerance=LOSS_TOLERANCE)


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
            expect(what, got[j], want[j], hypotheses(i, j), batch_factors(), TOLERANCE)


def initialisation(submission, rng):
    """Fails only what cannot train; any scale of the weights is accepted."""
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
