"""Checks of the whole network: what it computes, its gradients, and where it starts from."""

import contextlib
import functools

import numpy as np

from . import reference, values
from .diagnosis import Failure, case, close, expect, weight_decay
from .values import COPIED, batch_factors, draw, draw_many, draw_sizes

TOLERANCE = 1e-5  # the errors of several layers add up
LOSS_TOLERANCE = 1e-4  # and an epsilon of 1e-8 is only a remark
# The rows about each module: where what is wrong there may be why others fail.
ROWS = {
    "LinearModule": ["linear forward", "weight gradient", "bias gradient", "input gradient"],
    "ELUModule": ["ELU value", "ELU gradient"],
    "SoftMaxModule": ["softmax value", "softmax gradient"],
    "CrossEntropyModule": ["cross-entropy value", "cross-entropy gradient"],
    "MLP": ["network output", "network gradient"],
}
MODULE_ROWS = ROWS["LinearModule"] + ROWS["ELUModule"] + ROWS["SoftMaxModule"]
STATE_ROWS = ["stale caches", "inputs left alone"]


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
    # Classes of different means: sums over many samples do not vanish by chance.
    dout = draw(rng, samples, sizes[-1]) + np.arange(sizes[-1])
    return mlp, draw(rng, samples, sizes[0]), dout, layers


def _networks(submission, rng):
    """Networks of all depths, each with a phrase for it, and other parameters of its shapes.

    The hidden layers of the first are of one size: see ONE_ACTIVATION.
    """
    few, a, b, c, d = draw_sizes(rng, 5)
    for sizes, samples in (
        ([a, b, b, a], b),
        ([a, b], a),
        ([a, a, b, a, c], c),
        ([a, b, c, c], 1),
        ([a, b, 2], draw_many(rng)),
        ([a, c, c, c, d, b], few),
        ([values.PIXELS, int(rng.integers(65, 80)), values.CLASSES], few),
    ):
        with case("" if sizes[1:-1] else " without hidden layers"):
            network = draw_network(submission, rng, sizes, samples)
        yield f" (layers of {sizes}, {samples} samples)", network, draw_layers(rng, sizes)


def own_alpha(submission, rng):
    """The alpha of the network's ELU by what it computes, and the one that is right for it.

    The logits of a network with one hidden layer are linear in it. Another than 1 is right where
    ELUModule takes an alpha.
    """
    mlp, x, _, layers = draw_network(submission, rng, draw_sizes(rng, 3), 8)
    got = mlp.forward(x)
    outputs = [reference.network(x, layers, _elu(alpha)) for alpha in (0.0, 1.0)]
    if got.shape == outputs[0].shape:
        own, zero, one = (np.log(out / out[:, :1]) for out in (got, *outputs))
        alpha = np.sum((own - zero) * (one - zero)) / np.sum((one - zero) ** 2)
        fits = close(got, reference.network(x, layers, _elu(alpha)), TOLERANCE)
        if fits and alpha > TOLERANCE and abs(alpha - 1) > TOLERANCE:
            return alpha, alpha if values.has_alpha(submission) else 1.0
    return 1.0, 1.0


def _elu(alpha):
    return functools.partial(reference.elu, alpha=alpha)


def _composed(submission, alpha, x, steps, dout=None):
    """What the submission's own modules give when they are put together as they should be.

    Yields the output, or with dout the gradients, and a sentence; nothing if they do not run.
    steps: the parameters of each step with the same modules, of which the last one counts.
    """
    with contextlib.suppress(Failure):
        linear = [submission.linear(*pair) for pair in steps[0]]
        own = [] if alpha == 1 else [alpha]
        chain = [part for layer in linear for part in (layer, submission.elu(*own))]
        chain[-1] = submission.softmax()
        for parameters in steps:
            for layer, pair in zip(linear, parameters, strict=True):
                layer.set([pair])
            result, back = x, dout
            for module in chain:
                result = module.forward(result)
            for module in reversed(chain) if dout is not None else ():
                back = module.backward(back)
        if dout is not None:
            result = [layer.grads()[0] for layer in linear]
        wrong = [name for name in submission.failed if name in MODULE_ROWS]
        why = "they are wrong only when they are used twice or several are in use"
        why = f"the error follows from '{wrong[0]}'" if wrong else why
        yield result, f"the modules are composed correctly; {why}", *MODULE_ROWS, *STATE_ROWS


def _alternatives(layers, alpha):
    """Networks with a common mistake: arguments of reference.network, and a sentence."""
    elu, softmax = reference.elu, reference.softmax
    yield {"last": lambda x: x}, "the softmax at the end is missing"
    yield {"last": lambda x: softmax(elu(x))}, "there is an ELU before the softmax"
    yield {"last": lambda x: softmax(softmax(x))}, "softmax twice"
    yield {"last": elu}, "there is an ELU at the end instead of the softmax"
    for i in range(len(layers) - 1):
        yield {"skip": i}, f"no ELU after hidden layer {i + 1}"
    yield {"hidden": lambda x: x}, "no ELU after the hidden layers"
    yield {"hidden": _elu(alpha)}, f"its ELU has an alpha of {alpha:.4g}, and not 1"
    by_size = {weight.shape: (weight, bias) for weight, bias in layers}
    shared = [by_size[weight.shape] for weight, _ in layers]
    yield {"layers": shared}, "layers of equal size are one and the same object"


def network_output(submission, rng):
    """The probabilities of networks of several depths, and again after a change of parameters."""
    alpha, right = own_alpha(submission, rng)

    def mistakes(x, layers):
        yield from _composed(submission, right, x, [layers])
        for change, sentence in _alternatives(layers, alpha):
            yield reference.network(x, **{"layers": layers, **change}), sentence

    for phrase, (mlp, x, _, layers), changed in _networks(submission, rng):
        first, second = (reference.network(x, each, _elu(right)) for each in (layers, changed))
        with case(phrase):
            expect("the output", mlp.forward(x), first, mistakes(x, layers), tolerance=TOLERANCE)
            mlp.set(changed)
            copied = [(first, COPIED, "linear forward")]
            expect("the output", mlp.forward(x), second, copied, tolerance=TOLERANCE)
    if right != 1:
        return [f"its ELU has an alpha of {alpha:.4g}: the assignment has 1"]


ONE_ACTIVATION = "one ELUModule is used for several layers, and keeps the input of the last only"


def network_gradient(submission, rng):
    """Every gradient for any dout, and then through the submission's loss with other parameters."""
    alpha, own = own_alpha(submission, rng)
    right = functools.partial(reference.network_gradients, hidden=_elu(own))

    def mistakes(x, layers, dout):
        yield from _composed(submission, own, x, [layers], dout)
        for change, sentence in _alternatives(layers, alpha):
            grads = reference.network_gradients(x, **{"layers": layers, "dout": dout, **change})
            yield grads, f"as if {sentence}", "network output"
        if len({len(weight) for weight, _ in layers[:-1]}) == 1:
            yield right(x, layers, dout, one=True), ONE_ACTIVATION

    def mistakes_of_loss(x, steps, dout, expected, first):
        if dout.shape == (len(x), len(steps[1][-1][1])):
            sentence = "follows from 'cross-entropy gradient'"
            yield right(x, steps[1], dout), sentence, "cross-entropy gradient"
        pairs = zip(expected, first, strict=True)
        added = [(weight + dw, bias + db) for (weight, bias), (dw, db) in pairs]
        yield added, "is added to the one of the first step: assign it, with ="
        yield from _composed(submission, own, x, steps, dout)

    for phrase, (mlp, x, dout, layers), changed in _networks(submission, rng):
        with case(phrase):
            mlp.forward(x)
            mlp.backward(dout)
        first, expected = mlp.grads(), right(x, layers, dout)
        hypotheses, factors = mistakes(x, layers, dout), batch_factors(len(x))
        _expect_gradients(f"the gradient{phrase}", first, expected, layers, hypotheses, factors)
        follows = [*STATE_ROWS, "network output", *ROWS["CrossEntropyModule"]]
        with case(f" in a second step{phrase}", follows=follows):
            mlp.set(changed)
            loss, out = submission.cross_entropy(), mlp.forward(x)
            # A likely class of each sample: other rows judge an epsilon. Never the last class: who
            # counts the classes in the targets is wrong without it.
            likely = reference.network(x, changed, _elu(own))[:, :-1].argmax(axis=1)
            y = np.eye(len(changed[-1][0]))[likely]
            loss.forward(out, y)
            dout = loss.backward(out, y)
            mlp.backward(dout)
            expected = right(x, changed, y=y)
            hypotheses = mistakes_of_loss(x, [layers, changed], dout, expected, first)
            what, got, close_to = "the gradient of the loss", mlp.grads(), LOSS_TOLERANCE
            _expect_gradients(what, got, expected, changed, hypotheses, tolerance=close_to)


def _expect_gradients(what, got, expected, layers, hypotheses, factors=(), tolerance=TOLERANCE):
    """Compares all gradients, of these layers. hypotheses: gradients, each with a sentence."""
    for i, layer in enumerate(expected):
        for j, name in enumerate(("weight", "bias")):
            if not close(got[i][j], layer[j], tolerance):
                text = f"{what} with respect to the {name} of layer {i + 1} of {len(expected)}"
                mistakes = [(grads[i][j], *sentence) for grads, *sentence in hypotheses]
                mistakes += weight_decay(got[i][j], layer[j], layers[i][j])
                expect(text, got[i][j], layer[j], mistakes, factors, tolerance)


RATES, STEPS = (1.0, 0.1, 0.01), 150


def initialisation(submission, rng):
    """Fails only what cannot train, and what starts alike: any usual size of values is accepted."""
    m, n, classes = draw_sizes(rng, 3)
    mlp, loss = submission.mlp([m, n, n, n, classes]), submission.cross_entropy()
    layers = mlp.params()
    for i, layer in enumerate(layers):
        if not all(np.all(np.isfinite(part)) for part in layer):
            raise Failure(f"layer {i + 1} of {len(layers)} has an initial value that is not finite")
    _check_it_trains(submission, rng)
    one, other = layers[1][0], layers[2][0]
    if np.ptp(one) and np.array_equal(one, other):
        sentence = "layers of equal size start with the same weights: a seed in a constructor?"
        raise Failure(sentence, follows=["network output"])
    x, dout, batch = draw(rng, 3, m), draw(rng, 3, classes), values.draw_probabilities(rng, 3, 4)
    for name, call in (
        ("MLP.forward", lambda: mlp.forward(x)),
        ("MLP.backward", lambda: mlp.backward(dout)),
        ("CrossEntropyModule.forward", lambda: loss.forward(*batch)),
        ("CrossEntropyModule.backward", lambda: loss.backward(*batch)),
    ):
        if _sets_seed(submission, call):
            raise Failure(f"{name} {SETS_SEED}")
    if _sets_seed(submission, lambda: submission.mlp([m, classes])):
        return [f"MLP {SETS_SEED}"]


SETS_SEED = "sets NumPy's seed: what is drawn after it is the same every time"


def _sets_seed(submission, call):
    drawn = set()
    for _ in range(2):
        with contextlib.suppress(Failure):  # which fails in a row of its own
            call()
        drawn.add(submission.draw())
    return len(drawn) == 1


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
    guess, losses, start = np.log(classes), [], layers[0][0]
    for rate in RATES:
        loss, ((weight, _), _) = reference.descend(x, y, layers, rate, STEPS, guess / 2)
        losses.append(loss)
        alike = np.ptp(weight, axis=0).max() <= TOLERANCE * np.abs(weight).max()
        if loss < guess / 2 and not alike:
            return
    if alike:
        how = f"at {start.flat[0]:.3g}" if np.ptp(start) == 0 else "with the same weights"
        raise Failure(f"all units of the hidden layer start {how}, and stay alike in training")
    sizes = [f"{np.abs(part).max():.1g}" for layer in layers for part in layer]
    raise Failure(
        f"{STEPS} steps of gradient descent bring the loss of {classes} well separated classes to "
        f"{min(losses):.3g} at best, where guessing gives {guess:.3g}: the largest "
        f"initial weight and bias of each layer are {', '.join(sizes)}"
    )
