"""Measure what the report says of the modules and of single small networks.

    python -m report.checks

The record is report/results/checks.json: the largest error of every gradient, the loss of networks
without hidden layers with and without the floor of the softmax, and how soon the default network
learns one batch by heart; besides, the scale of the pixels.
"""

import json
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

import cifar10_utils
from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule
from report import records
from train_mlp_numpy import make_mlp, train_step

SEEDS = 42, 1, 2
STEP = 1e-6  # of the central differences
LEARNED = 0.001  # a batch is learned by heart when its loss is below this
S, M, N, C = 20, 7, 6, 5  # samples, features, features, classes


# Gradients ----------------------------------------------------------------------------------------


def gradient_errors(rng):
    """By module and variable, the largest distance of the gradient from central differences and
    from PyTorch's, as a share of the largest gradient. All in float64. What comes after a module is
    the sum of its outputs with random weights."""
    linear, softmax, cross_entropy = LinearModule(M, N), SoftMaxModule(), CrossEntropyModule()
    linear.params["bias"][:] = rng.standard_normal((1, N))
    x, logits = rng.standard_normal((S, M)), rng.standard_normal((S, C))
    p, labels = softmax.forward(logits), rng.integers(0, C, S)
    loss = SimpleNamespace(  # as a module of one input
        forward=lambda p: cross_entropy.forward(p, labels),
        backward=lambda dout: dout * cross_entropy.backward(p, labels),
        params={}, grads={},
    )  # fmt: skip
    cases = {
        "LinearModule": (linear, F.linear, x),
        "ELUModule": (ELUModule(), F.elu, x),
        "SoftMaxModule": (softmax, lambda z: F.softmax(z, 1), logits),
        "CrossEntropyModule": (loss, lambda p: F.nll_loss(p.log(), torch.from_numpy(labels)), p),
    }
    return {name: errors(*case, rng) for name, case in cases.items()}


def errors(module, function, x, rng):
    """By variable, the errors of a module's gradients at the input x. function computes the same in
    PyTorch."""
    dout = rng.standard_normal(np.shape(module.forward(x)))
    arrays, ours = {"x": x, **module.params}, {"x": module.backward(dout), **module.grads}
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays.values()]
    theirs = torch.autograd.grad(function(*tensors), tensors, torch.tensor(dout))
    found = {}
    for (name, array), gradient in zip(arrays.items(), theirs, strict=True):
        numbers = central_differences(lambda: (module.forward(x) * dout).sum(), array)
        found[name] = {
            way: float(f"{abs(ours[name] - other).max() / abs(other).max():.1e}")
            for way, other in (("differences", numbers), ("pytorch", gradient.numpy()))
        }
    return found


def central_differences(loss, array):
    """The derivative of loss() by every entry of the array, which is put back."""
    numbers = np.empty_like(array)
    for i in np.ndindex(array.shape):
        middle = array[i]
        array[i] = middle + STEP
        above = loss()
        array[i] = middle - STEP
        numbers[i] = (above - loss()) / (2 * STEP)
        array[i] = middle
    return numbers


# Networks -----------------------------------------------------------------------------------------


def network(hidden, seed):
    return make_mlp(SimpleNamespace(dnn_hidden_units=hidden, seed=seed))


def without_hidden_layers(seed):
    """The default run without hidden layers: its test loss with and without the floor, and the
    share of the test images whose loss is the floor's."""
    data = cifar10_utils.get_cifar10(seed=seed)
    mlp = network([], seed)
    with np.errstate(over="ignore"):
        for _ in range(1400):
            train_step(mlp, *data.train.next_batch(200), learning_rate=1e-3)
    (linear, softmax), images = mlp.modules, data.test.images
    logits = linear.forward(images.reshape(len(images), -1)).astype(np.float64)
    true = np.arange(len(logits)), data.test.labels.argmax(axis=1)
    losses = -F.log_softmax(torch.from_numpy(logits), dim=1).numpy()[true]
    floored = -np.log(softmax.forward(logits.astype(np.float32))[true].astype(np.float64))
    return {
        "seed": seed,
        "loss": round(float(floored.mean()), 2),
        "loss_without_floor": round(float(losses.mean()), 1),
        "at_the_floor": round(float((floored > -np.log(2 * np.finfo(np.float32).tiny)).mean()), 3),
    }


def learned_by_heart(seed):
    """The first losses of the default network on one batch, and the steps until it is learned."""
    x, y = cifar10_utils.get_cifar10(seed=seed).train.next_batch(200)
    mlp, losses = network([100], seed), []
    while not losses or losses[-1] >= LEARNED:
        losses.append(float(train_step(mlp, x, y, learning_rate=1e-3)[0]))
    return {"seed": seed, "first_loss": round(losses[0], 6), "steps": len(losses) - 1,
            "last_loss": float(f"{losses[-1]:.3g}")}  # fmt: skip


def pixel_rms():
    """The root mean square of the training pixels minus the mean image."""
    data = cifar10_utils.get_cifar10().train
    squares = sum(float((x.astype(np.float64) ** 2).sum()) for x, _ in data.batches(500))
    return round((squares / data.num_examples / cifar10_utils.N_INPUTS) ** 0.5, 3)


def main():
    record = {
        "step": STEP,
        "learned": LEARNED,
        "pixel_rms": pixel_rms(),
        "gradients": gradient_errors(np.random.default_rng(11)),
        "without_hidden_layers": [without_hidden_layers(seed) for seed in SEEDS],
        "learned_by_heart": [learned_by_heart(seed) for seed in SEEDS],
    }
    records.write("checks", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
