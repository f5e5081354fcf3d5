"""Numbers at the extremes: gradients against PyTorch's, and whole runs that end with finite results
or with the sentence about the loss, never with a warning (an error here).
"""

import itertools

import numpy as np
import pytest
import torch
from common import outcome, rows_of
from torch.nn import functional as F

from mlp_numpy import MLP
from modules import CrossEntropyModule

TINY = np.finfo(float).tiny
CASES = {  # scale of the inputs, the first weights, the second weights, the biases
    "plain": (1, 1, 1, 1),
    "tiny everything": (1e-12, 1e-12, 1e-12, 1e-12),
    "inputs of 1e30": (1e30, 1e-30, 1, 1),
    "inputs of 1e-30": (1e-30, 1e30, 1, 1),
    "deep in the ELU's flat part": (10, 6, 1, 1),
    "linear far out": (1e8, 1, 1e-8, 1),
    "saturated softmax": (1, 1, 40, 1),
    "softmax beyond what exp can hold": (1, 1, 600, 1),
    "huge biases": (1, 1, 1, 200),
    "one pixel's range": (255, 0.01, 3, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_loss_and_every_gradient_against_autograd(case):
    size, *weights, bias = CASES[case]
    rng, mlp, samples = np.random.default_rng(5), MLP(3, [4], 3), 4
    linears, tensors = mlp.modules[::2], []
    for linear, weight in zip(linears, weights, strict=True):
        linear.params["weight"] = weight * rng.standard_normal(linear.params["weight"].shape)
        linear.params["bias"] = bias * rng.standard_normal(linear.params["bias"].shape)
        tensors.append([torch.tensor(p, requires_grad=True) for p in linear.params.values()])
    x = size * rng.standard_normal((samples, 3))
    labels = rng.integers(0, 3, samples)
    cross_entropy = CrossEntropyModule()
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        probabilities = mlp.forward(x)
        loss = cross_entropy.forward(probabilities, labels)
        mlp.backward(cross_entropy.backward(probabilities, labels))
    (weight_1, bias_1), (weight_2, bias_2) = tensors
    hidden = F.elu(torch.from_numpy(x) @ weight_1.T + bias_1)
    logits = hidden @ weight_2.T + bias_2
    expected = F.cross_entropy(logits, torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(probabilities, logits.detach().softmax(dim=1), 1e-12, TINY)
    if probabilities[range(samples), labels].min() > TINY:  # else the loss is that of the floor
        assert loss == pytest.approx(expected.item(), rel=1e-13)
    for linear, pair in zip(linears, tensors, strict=True):
        for ours, theirs in zip(linear.grads.values(), pair, strict=True):
            scale = theirs.grad.abs().max()
            np.testing.assert_allclose(ours, theirs.grad, rtol=1e-12, atol=2e-14 * scale)


# Whole runs ---------------------------------------------------------------------------------------


@pytest.fixture
def finite(trainer, data, tmp_path):
    """Trains with the flags given, asserts that all that was recorded is finite, and returns the
    rows of metrics.csv, where the run ended well."""
    number = itertools.count()

    def finite(*flags):
        folder = tmp_path / str(next(number))
        base = ["--data_dir", data, "--max_steps", "20", "--eval_freq", "5", "--batch_size", "5"]
        base.extend(["--dnn_hidden_units", "8,8", "--run_dir", str(folder)])
        status, said = outcome(trainer.main, [*base, *map(str, flags)])
        assert status == 0 or "try a smaller one" in said
        rows = rows_of(folder)
        values = [float(value) for row in rows for value in row.values()]
        assert np.isfinite(values).all()
        return rows if status == 0 else None

    finite.options = hasattr(trainer, "make_parser")
    return finite


def test_any_learning_rate(finite):
    ended = [finite("--learning_rate", f"1e{i}") is not None for i in range(-12, 13, 2)]
    assert ended == sorted(ended, reverse=True)  # small rates end well, then large ones do not
    assert ended[4] and not ended[-1]
    for rate in ("1e-38", "1e38"):
        finite("--learning_rate", rate)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_any_learning_rate_of_adam(finite, optimizer):
    if finite.options:
        for rate in ("1e-12", "1e-3", "1e6", "1e12", "1e38"):
            finite("--learning_rate", rate, "--optimizer", optimizer)


def test_one_example(finite):
    flags = ["--batch_size", 1, "--validation_size", 49, "--learning_rate", "1"]
    rows = finite(*flags)
    assert float(rows[-1]["train_loss"]) < 0.2  # from the biases alone: less its mean it is zero
    if finite.options:
        assert finite(*flags, "--normalization", "layer")
        assert finite(*flags, "--standardize")  # every standard deviation is 0


def test_batches_of_one(finite):
    assert finite("--batch_size", 1)
    if finite.options:
        assert finite("--batch_size", 1, "--normalization", "layer", "--dropout", 0.9)


def test_options_at_their_ends(finite):
    if finite.options:
        assert finite("--dropout", 0.99)
        assert finite("--distortion", 1, "--shift", 31, "--flip")
        finite("--weight_decay", 1000, "--l1", 1000, "--momentum", 0.9999)
