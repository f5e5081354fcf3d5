"""Checks of the whole network: what it computes, its gradients, and where it starts from."""

import contextlib
import functools

import numpy as np

from . import reference, values
from .diagnosis import Failure, case, expect
from .values import COPIED, batch_factors, draw, draw_sizes

TOLERANCE = 1e-5  # the errors of several layers add up
LOSS_TOLERANCE = 1e-4  # and an epsilon of 1e-8 is only a remark
# The rows from which a wrong network may follow. The loss is not a part of it.
MODULE_ROWS = ("linear", "weight", "bias", "input", "ELU", "softmax")  # how their names begin


def draw_layers(rng, sizes):
    """Parameters of a network: a list of (weight, bias)."""
    return [
        (draw(rng, fan_out, fan_in) / np.sqrt(fan_in), draw(rng, fan_out) / 3)
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def draw_network(submission, rng, sizes, samples):
    """An MLP with all parameters set, and x, dout and those parameters."""
    mlp, layers = submission.mlp(sizes), draw_layers(rng, sizes)
    mlp.set(layers)
    return mlp, draw(rng, samples, sizes[0]), draw(rng, samples, sizes[-1]), layers


def _networks(submission, rng):
    """Networks of all depths, each with a phrase for it, and other parameters of its shapes."""
    few, *sizes = draw_sizes(rng, 6)
    equal, many = sizes[1], int(rng.integers(129, 161))
    for layer_sizes, samples in (
        (sizes[:4], few),
        (sizes[:3], few),
        ([*sizes[:4], int(rng.integers(3, 9))], few),
        (sizes[:2], few),
        ([*sizes, int(rng.integers(3, 9))], few),
        ([sizes[0], equal, equal, equal, sizes[2]], few),
        ([sizes[0], equal, sizes[2], equal, sizes[3]], many),
        ([values.PIXELS, int(rng.integers(65, 80)), values.CLASSES], few),
    ):
        with case("" if layer_sizes[1:-1] else " without hidden layers"):
            network = draw_network(submission, rng, layer_sizes, samples)
        phrase = f" (layers of {layer_sizes}, {samples} samples)"
        yield phrase, network, draw_layers(rng, layer_sizes)


def _composed(submission, x, steps, dout=None):
    """What the submission's own modules give when they are put together as they should be.

    Yields the output, or with dout the gradients, and a sentence; nothing if they do not run.
    steps: the parameters of each step with the same modules, of which the last one counts.
    """
    with contextlib.suppress(Failure):
        linear = [submission.linear(weight, bias) for weight, bias in steps[0]]
        chain = [part for layer in linear for part in (layer, submission.elu())]
        chain[-1] = submission.softmax()
        for parameters in steps:
            for layer, (weight, bias) in zip(linear, parameters, strict=True):
                layer.set([(weight, bias)])
            result, back = x, dout
            for module in chain:
                result = module.forward(result)
            for module in reversed(chain) if dout is not None else ():
                back = module.backward(back)
        if dout is not None:
            result = [layer.grads()[0] for layer in linear]
        wrong = [name for name in submission.failed if name.startswith(MODULE_ROWS)]
        sentence = "are wrong only when they are used twice or several are in use"
        if wrong:
            sentence = f"the error follows from '{wrong[0]}'"
        yield result, f"the modules are composed correctly; {sentence}"


def _alternatives(layers):
    """Networks with a common mistake: arguments of reference.network, and a sentence."""
    elu, softmax = reference.elu, reference.softmax
    pairs = [
        ({"last": lambda x: x}, "the softmax at the end is missing"),
        ({"last": lambda x: softmax(elu(x))}, "there is an ELU before the softmax"),
        ({"last": lambda x: softmax(softmax(x))}, "softmax twice"),
        ({"last": elu}, "there is an ELU at the end instead of the softmax"),
        ({"hidden": lambda x: x}, "no ELU after the hidden layers"),
    ]
    pairs += [
        ({"hidden": lambda x, a=a: elu(x, a)}, f"its ELU has an alpha of {a:.4g}, and not 1")
        for a in (0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 1.5, 1.67, 1.6732632423543772, 1.7, 2.0)
    ]
    pairs += [({"skip": i}, f"no ELU after hidden layer {i + 1}") for i in range(len(layers) - 1)]
    return pairs


def network_output(submission, rng):
    """The probabilities of networks of several depths, and again after a change of parameters."""
    for phrase, (mlp, x, _, layers), changed in _networks(submission, rng):

        def hypotheses(x=x, layers=layers):
            yield from _composed(submission, x, [layers])
            for change, sentence in _alternatives(layers):
                yield reference.network(x, layers, **change), sentence
            by_size = {weight.shape: (weight, bias) for weight, bias in layers}
            shared = [by_size[weight.shape] for weight, _ in layers]
            yield reference.network(x, shared), "layers of equal size are one and the same object"

        what, before = "the output" + phrase, reference.network(x, layers)
        expect(what, mlp.forward(x), before, hypotheses(), tolerance=TOLERANCE)
        mlp.set(changed)
        copied = [(before, f"computed {COPIED}")]
        after = reference.network(x, changed)
        expect(what, mlp.forward(x), after, copied, tolerance=TOLERANCE)
    return []


def network_gradient(submission, rng):
    """Every gradient, for any dout, through the loss of the submission, with other parameters."""
    for phrase, (mlp, x, dout, layers), changed in _networks(submission, rng):
        mlp.forward(x)
        mlp.backward(dout)
        first = mlp.grads()

        def hypotheses(x=x, dout=dout, layers=layers):
            yield from _composed(submission, x, [layers], dout)
            for change, sentence in _alternatives(layers):
                yield reference.network_gradients(x, layers, dout, **change), f"as if {sentence}"

        right = reference.network_gradients(x, layers, dout)
        _expect_gradients(f"the gradient{phrase}", first, right, hypotheses, batch_factors(len(x)))
        _expect_loss_gradients(submission, phrase, mlp, first, x, layers)

        mlp.set(changed)
        mlp.forward(x)
        mlp.backward(dout)
        again = functools.partial(_composed, submission, x, [layers, changed], dout)
        what = f"the gradient{phrase}, in a step after a change of the parameters,"
        _expect_gradients(what, mlp.grads(), reference.network_gradients(x, changed, dout), again)
    return []


def _expect_loss_gradients(submission, phrase, mlp, first, x, layers):
    """Through the submission's own loss, where a wrong factor or sign may add to or cancel out.

    It is a second step. first: the gradients of the first.
    """
    # A likely class of each sample: other rows judge an epsilon. Never the last class: who counts
    # the classes in the targets is wrong without it.
    right = reference.network(x, layers)
    y = np.eye(right.shape[1])[right[:, :-1].argmax(axis=1)]
    loss = submission.cross_entropy()
    probabilities = mlp.forward(x)
    loss.forward(probabilities, y)
    mlp.backward(loss.backward(probabilities, y))
    expected = reference.network_gradients(x, layers, y=y)

    def hypotheses():
        yield (
            [(w + v, b + c) for (w, b), (v, c) in zip(expected, first, strict=True)],
            "what a second step gives is added to the gradient of the first: assign it, with =",
        )
        with contextlib.suppress(Failure):
            dout = submission.cross_entropy().backward(right, y)
            through_loss = reference.network_gradients(x, layers, dout)
            yield through_loss, "follows from 'cross-entropy gradient'"

    what = f"the gradient of the loss{phrase}"
    _expect_gradients(what, mlp.grads(), expected, hypotheses, (), LOSS_TOLERANCE)


def _expect_gradients(what, got, expected, hypotheses, factors=(), tolerance=TOLERANCE):
    """Compares all gradients. hypotheses: a function that yields gradients and a sentence."""
    for i, layer in enumerate(expected):
        for j, name in enumerate(("weight", "bias")):
            text = f"{what} with respect to the {name} of layer {i + 1} of {len(expected)}"
            mistakes = ((grads[i][j], sentence) for grads, sentence in hypotheses())
            expect(text, got[i][j], layer[j], mistakes, factors, tolerance)


RATES, STEPS = (1.0, 0.1, 0.01), 150


def initialisation(submission, rng):
    """Fails only what cannot train: values of any usual size are accepted."""
    layers = submission.mlp(draw_sizes(rng, 4)).params()
    for i, (weight, bias) in enumerate(layers):
        if not (np.all(np.isfinite(weight)) and np.all(np.isfinite(bias))):
            raise Failure(f"layer {i + 1} of {len(layers)} has an initial value that is not finite")
        if i < len(layers) - 1 and np.ptp(weight, axis=0).max() <= 1e-9 * np.abs(weight).max():
            start = f"at {weight.flat[0]:.3g}" if np.ptp(weight) == 0 else "with the same weights"
            raise Failure(
                f"all units of hidden layer {i + 1} start {start}: they stay alike, and the layer "
                "cannot learn"
            )
    _check_it_trains(submission, rng)
    return []


def _check_it_trains(submission, rng):
    """Gradient descent on a few samples of classes that are far apart.

    The formulas do it, with the submission's initial values: a wrong gradient has its own row.
    """
    classes, units, more = (int(rng.integers(*ends)) for ends in ((3, 6), (7, 12), (1, 4)))
    y = np.eye(classes)[np.arange(4 * classes) % classes]
    x = np.hstack([1.5 * y, np.zeros((len(y), more))]) + draw(rng, len(y), classes + more) / 5
    layers = [
        (weight, np.resize(bias, len(weight)))  # a bias may start as a single number
        for weight, bias in submission.mlp([x.shape[1], units, classes]).params()
    ]
    guess, losses = np.log(classes), []
    for rate in RATES:
        losses.append(reference.lowest_loss(x, y, layers, rate, STEPS, guess / 2))
        if losses[-1] < guess / 2:
            return
    sizes = [f"{np.abs(part).max():.1g}" for layer in layers for part in layer]
    raise Failure(
        f"{STEPS} steps of gradient descent bring the loss of {classes} well separated classes to "
        f"{min(losses):.3g} at best, where guessing gives {guess:.3g}: the largest "
        f"initial weight and bias of each layer are {', '.join(sizes)}"
    )
