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


def twins(n_inputs, n_hidden, n_classes):
    """Both networks in float64, with the same normal parameters."""
    one, rng = mlp_numpy.MLP(n_inputs, n_hidden, n_classes), np.random.default_rng(2)
    two = MLP(n_inputs, n_hidden, n_classes, dtype=torch.float64)
    for ours, theirs in zip(one.state_dict().values(), two.parameters(), strict=True):
        ours[:] = 0.5 * rng.standard_normal(ours.shape)
        theirs.data.copy_(torch.from_numpy(ours).view_as(theirs))
    return one, two


def assert_equal(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-10, atol=1e-13)


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
        loss, accuracy = train_step(one, x, y, learning_rate=0.1)
        logits = two(torch.from_numpy(x))
        expected = F.cross_entropy(logits, torch.from_numpy(y))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-10)
        assert accuracy == np.mean(logits.argmax(dim=1).numpy() == y.argmax(axis=1))
        gradients = [gradient for module in one.modules for gradient in module.grads.values()]
        values = one.state_dict().values()
        for gradient, value, theirs in zip(gradients, values, two.parameters(), strict=True):
            assert_equal(gradient, theirs.grad)
            assert_equal(value, theirs)


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
