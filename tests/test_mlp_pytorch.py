"""The PyTorch network: equality with the NumPy one, its layers, and the map of its inputs."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional as F

import mlp_numpy
from mlp_pytorch import MLP
from train_mlp_numpy import train_step

TINY = np.finfo(float).tiny


def twins(n_inputs, n_hidden, n_classes, *scales):
    """Both networks in float64, with the same normal parameters. scales: the standard deviation of
    each, 0.5 unless given."""
    one, rng = mlp_numpy.MLP(n_inputs, n_hidden, n_classes), np.random.default_rng(2)
    two = MLP(n_inputs, n_hidden, n_classes, dtype=torch.float64)
    scales = scales or [0.5] * len(one.state_dict())
    for ours, theirs, scale in zip(
        one.state_dict().values(), two.parameters(), scales, strict=True
    ):
        ours[:] = scale * rng.standard_normal(ours.shape)
        theirs.data.copy_(torch.from_numpy(ours).view_as(theirs))
    return one, two


def assert_same_step(one, two, x, y, rtol, atol, learning_rate=0.0):
    """The loss, the accuracy and every gradient. atol: as a part of a parameter's largest one."""
    loss, accuracy = train_step(one, x, y, learning_rate)
    logits = two(torch.from_numpy(x))
    losses = F.cross_entropy(logits, torch.from_numpy(y), reduction="none")
    two.zero_grad()
    losses.mean().backward()
    floored = losses.clamp(max=-np.log(TINY))  # our probabilities are at least TINY
    assert loss == pytest.approx(floored.mean().item(), rel=rtol)
    assert accuracy == np.mean(logits.argmax(dim=1).numpy() == y.argmax(axis=1))
    gradients = [gradient for module in one.modules for gradient in module.grads.values()]
    for ours, theirs in zip(gradients, two.parameters(), strict=True):
        expected = theirs.grad.numpy()
        smallest = atol * np.abs(expected).max()
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol, smallest)


# Parity


@pytest.mark.parametrize("n_hidden", [[], [7], [7, 6], [4, 5, 6, 7]], ids=str)
@pytest.mark.parametrize("samples, labels", [(1, "one-hot"), (33, "one-hot"), (33, "soft")])
def test_ten_steps_equal_torchs_in_loss_accuracy_and_every_gradient(n_hidden, samples, labels):
    one, two = twins(12, n_hidden, 5)
    rng, optimizer = np.random.default_rng(2), torch.optim.SGD(two.parameters(), lr=0.1)
    for _ in range(10):
        x = rng.standard_normal((samples, 3, 2, 2))
        y = np.eye(5)[rng.integers(0, 5, samples)]
        y = rng.dirichlet(np.ones(5), samples) if labels == "soft" else y
        assert_same_step(one, two, x, y, 1e-10, 1e-12, learning_rate=0.1)
        optimizer.step()
        for ours, theirs in zip(one.state_dict().values(), two.parameters(), strict=True):
            theirs = theirs.detach().numpy()
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-10, atol=1e-13)


EXTREMES = {  # scale of the inputs, the first weight and bias, the second weight and bias
    "tiny everything": (1e-12, 1e-12, 1e-12, 1e-12, 1e-12),
    "inputs of 1e30": (1e30, 1e-30, 1, 1, 1),
    "inputs of 1e-30": (1e-30, 1e30, 1, 1, 1),
    "deep in the ELU's flat part": (10, 6, 1, 1, 1),
    "linear far out": (1e8, 1, 1, 1e-8, 1),
    "saturated softmax": (1, 1, 1, 40, 1),
    "softmax beyond what exp can hold": (1, 1, 1, 600, 1),
    "huge biases": (1, 1, 200, 1, 200),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_the_loss_and_every_gradient_at_extremes(case):
    size, *scales = EXTREMES[case]
    rng, (one, two) = np.random.default_rng(5), twins(3, [4], 3, *scales)
    x, y = size * rng.standard_normal((4, 3)), np.eye(3)[rng.integers(0, 3, 4)]
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        assert_same_step(one, two, x, y, 1e-12, 2e-14)


@pytest.mark.parametrize("n_hidden", [[], [100], [30, 20, 10]], ids=str)
def test_both_networks_draw_the_same_initial_weights(n_hidden):
    one = mlp_numpy.MLP(3072, n_hidden, 10, seed=3, input_scale=64, dtype=np.float32)
    two = MLP(3072, n_hidden, 10, seed=3, input_scale=64)
    for ours, theirs in zip(one.state_dict().values(), two.parameters(), strict=True):
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs.detach().numpy())


def test_the_network_has_the_layers_asked_for():
    mlp = MLP(6, [5, 4], 3, activation="gelu", normalization="layer", dropout=0.5)
    kinds = [nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout] * 2 + [nn.Linear]
    assert [type(layer) for layer in mlp.layers] == kinds
    assert [type(layer) for layer in MLP(6, [], 3, dropout=0.5).layers] == [nn.Linear]
    assert mlp.device == torch.device("cpu")


# The map of the inputs


class Correlated:
    """Inputs x (N, 6) that are correlated and differ in scale, and their statistics."""

    def __init__(self, samples=4000):
        rng = np.random.default_rng(0)
        mixed = rng.standard_normal((samples, 6)) @ rng.standard_normal((6, 6))
        self.x = torch.from_numpy(mixed * rng.uniform(20, 90, 6))

    def second_moments(self, products):
        return self.x.T @ self.x / len(self.x) if products else self.x.square().mean(dim=0)


@pytest.mark.parametrize("floor", [0, 1e-5, 0.01, 0.3, 10.0])
def test_inputs_are_standardized_and_with_a_floor_whitened(floor):
    """By ZCA: the inverse root of the covariance of the standardised inputs plus the floor."""
    data = Correlated()
    mlp = MLP(6, [], 2, dtype=torch.float64, standardize=True, whiten=floor)
    mlp.fit_inputs(data)
    expected = data.x / data.x.square().mean(dim=0).sqrt()
    if floor:
        covariance = expected.T @ expected / len(expected)
        values, vectors = torch.linalg.eigh(covariance + floor * torch.eye(6).double())
        expected = expected @ (vectors / values.sqrt()) @ vectors.T
        expected /= expected.square().mean().sqrt()  # unit variance as a whole
    torch.testing.assert_close(mlp.layers[0](data.x), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{"standardize": True}, {"whiten": 0.3}], ids=str)
def test_the_map_of_the_inputs_is_stored_with_the_weights_and_not_trained(options):
    fitted, rebuilt = (MLP(6, [4], 3, dtype=torch.float64, **options) for _ in range(2))
    fitted.fit_inputs(Correlated())
    x = Correlated().x[:7]
    fitted.layers[-1].weight.data.fill_(1.0)
    rebuilt.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(rebuilt(x), fitted(x), rtol=0, atol=0)
    assert len(list(fitted.parameters())) == 4
