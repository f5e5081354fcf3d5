"""Numbers at the extremes: gradients against PyTorch's, and whole runs that end with finite results
or with the sentence about the loss, never with a warning (an error here).
"""

import numpy as np
import pytest
from common import outcome, rows_of

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
    torch = pytest.importorskip("torch")
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
    hidden = torch.nn.functional.elu(torch.from_numpy(x) @ weight_1.T + bias_1)
    logits = hidden @ weight_2.T + bias_2
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(probabilities, logits.detach().softmax(dim=1), 1e-12, TINY)
    if probabilities[range(samples), labels].min() > TINY:  # else the loss is that of the floor
        assert loss == pytest.approx(expected.item(), rel=1e-13)
    for linear, pair in zip(linears, tensors, strict=True):
        for ours, theirs in zip(linear.grads.values(), pair, strict=True):
            scale = theirs.grad.abs().max()
            np.testing.assert_allclose(ours, theirs.grad, rtol=1e-12, atol=2e-14 * scale)


# Whole runs ---------------------------------------------------------------------------------------


def rows(run, name, *flags):
    """The rows of a run, all finite; None where the loss became too large."""
    folder = run.folder / name
    status, said = outcome(run, name, "--dnn_hidden_units", "8,8", "--batch_size", 5, *flags)
    assert status == 0 or "try a smaller one" in said
    assert np.isfinite([float(value) for row in rows_of(folder) for value in row.values()]).all()
    return rows_of(folder) if status == 0 else None


def test_any_learning_rate(run):
    rates = ["1e-38", "1e-12", "1e-6", "1e-3", "1", "1e3", "1e6", "1e12", "1e38"]
    ended = [rows(run, rate, "--learning_rate", rate) is not None for rate in rates]
    assert ended == sorted(ended, reverse=True)  # small rates end well, then large ones do not
    assert ended[3] and not ended[-2]


def test_one_example_and_options_at_their_ends(run):
    flags = ["--batch_size", 1, "--validation_size", 49, "--learning_rate", 1, "--max_steps", 20]
    last = rows(run, "one", *flags)[-1]
    assert float(last["train_loss"]) < 0.2  # from the biases alone: less its mean it is zero
    for options in (
        ["--normalization", "layer", "--dropout", 0.99],
        ["--standardize"],  # every standard deviation is 0
        ["--random_affine", 1, "--shift", 31, "--flip", "--mixup", 1],
        ["--optimizer", "adam", "--weight_decay", 1000, "--l1", 1000],
    ):
        if run.framework == "pytorch":
            assert rows(run, options[0], *flags, *options)
