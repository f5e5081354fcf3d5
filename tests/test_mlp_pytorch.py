"""The PyTorch network: its layers, and equality with the NumPy one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlp_numpy
from mlp_pytorch import MLP
from modules import ELUModule
from train_mlp_numpy import train_step


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-13)


# Parity


@pytest.mark.parametrize("n_hidden", [[], [7], [7, 6], [4, 5, 6, 7]], ids=str)
@pytest.mark.parametrize("samples", [1, 2, 33])
@pytest.mark.parametrize("labels", ["one-hot", "soft"])
def test_ten_steps_equal_torchs_in_loss_accuracy_and_every_gradient(n_hidden, samples, labels):
    one, two = mlp_numpy.MLP(12, n_hidden, 5), MLP(12, n_hidden, 5, dtype=torch.float64)
    rng, optimizer = np.random.default_rng(2), torch.optim.SGD(two.parameters(), lr=0.1)
    for ours, theirs in zip(one.state_dict().values(), two.parameters(), strict=True):
        ours[:] = 0.5 * rng.standard_normal(ours.shape)
        theirs.data.copy_(torch.from_numpy(ours).view_as(theirs))
    for _ in range(10):
        x = rng.standard_normal((samples, 3, 2, 2))
        y = np.eye(5)[rng.integers(0, 5, samples)]
        y = rng.dirichlet(np.ones(5), samples) if labels == "soft" else y
        logits = two(torch.from_numpy(x))
        expected = F.cross_entropy(logits, torch.from_numpy(y))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert_close(one.forward(x), logits.softmax(dim=1))
        loss, accuracy = train_step(one, x, y, learning_rate=0.1)
        assert_close(loss, expected)
        assert accuracy == np.mean(logits.argmax(dim=1).numpy() == y.argmax(axis=1))
        gradients = [gradient for module in one.modules for gradient in module.grads.values()]
        pairs = zip(one.state_dict().values(), gradients, two.parameters(), strict=True)
        for ours, gradient, theirs in pairs:
            assert_close(ours.reshape(theirs.shape), theirs)
            assert_close(gradient.reshape(theirs.shape), theirs.grad)


def test_elu_at_zero_has_torchs_gradient():
    for alpha in (0.5, 1.0, 2.0):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        F.elu(x, alpha=alpha).backward()
        elu = ELUModule(alpha)
        elu.forward(np.zeros(1))
        assert elu.backward(np.ones(1)) == x.grad.item()


@pytest.mark.parametrize("n_hidden", [[], [100], [30, 20, 10]], ids=str)
def test_both_networks_draw_the_same_initial_weights(n_hidden):
    one = mlp_numpy.MLP(3072, n_hidden, 10, seed=3, input_scale=64, dtype=np.float32)
    two = MLP(3072, n_hidden, 10, seed=3, input_scale=64)
    for ours, theirs in zip(one.state_dict().values(), two.parameters(), strict=True):
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs.detach().numpy())


# The network


def test_the_network_has_the_layers_asked_for():
    mlp = MLP(6, [5, 4], 3, activation="gelu", normalization="layer", dropout=0.5)
    kinds = [nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout] * 2 + [nn.Linear]
    assert [type(layer) for layer in mlp.layers] == kinds
    assert [type(layer) for layer in MLP(6, [], 3, dropout=0.5).layers] == [nn.Linear]
    assert mlp.device == torch.device("cpu")
    assert MLP(6, [], 3)(torch.zeros(7, 3, 2)).shape == (7, 3)


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization_in_one_process_is_batchnorm1d(training):
    ours = MLP(6, [5], 3, normalization="batch").train(training).layers[1]
    theirs = nn.BatchNorm1d(5).train(training)
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


# The inputs


class Correlated:
    """Inputs x (N, n) that are correlated and differ in scale, and their statistics."""

    def __init__(self, n=6, samples=4000):
        rng = np.random.default_rng(0)
        mixed = rng.standard_normal((samples, n)) @ rng.standard_normal((n, n))
        self.x = torch.from_numpy(mixed * rng.uniform(20, 90, n))

    def second_moments(self, products):
        return self.x.T @ self.x / len(self.x) if products else self.x.square().mean(dim=0)


def seen_by_the_layers(x, **options):
    """What the first layer of an MLP of these options gets, after fit_inputs."""
    mlp, data = MLP(x.shape[1], [], 2, dtype=torch.float64, **options), Correlated()
    mlp.fit_inputs(data)
    seen = []
    mlp.linear_layers()[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mlp(data.x)
    return seen[0]


def test_standardized_inputs_have_unit_variance():
    x = Correlated().x
    seen = seen_by_the_layers(x, standardize=True)
    torch.testing.assert_close(seen, x / x.square().mean(dim=0).sqrt())


def test_whitened_inputs_are_uncorrelated_where_the_floor_is_low():
    x = Correlated().x
    seen = seen_by_the_layers(x, whiten=1e-5)
    torch.testing.assert_close(seen.T @ seen / len(x), torch.eye(6).double(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("floor", [0.01, 0.3, 10.0])
def test_whitening_is_zca_of_the_standardized_inputs_with_a_floor(floor):
    x = Correlated().x
    z = x / x.square().mean(dim=0).sqrt()
    covariance = (z.T @ z / len(z)).numpy()
    root = np.linalg.inv(square_root(covariance + floor * np.eye(6)))
    expected = z.numpy() @ root
    expected /= np.sqrt(np.mean(expected**2))  # unit variance as a whole
    seen = seen_by_the_layers(x, whiten=floor)
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-6, atol=1e-9)


def square_root(matrix):
    """The square root of a symmetric positive definite matrix, by Newton's iteration."""
    root, inverse = matrix, np.eye(len(matrix))
    for _ in range(60):
        root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
    return root


@pytest.mark.parametrize("options", [{"standardize": True}, {"whiten": 0.3}], ids=str)
def test_the_map_of_the_inputs_is_stored_with_the_weights_and_not_trained(options):
    fitted, rebuilt = (MLP(6, [4], 3, dtype=torch.float64, **options) for _ in range(2))
    fitted.fit_inputs(Correlated())
    x = Correlated().x[:7]
    fitted.layers[-1].weight.data.fill_(1.0)
    rebuilt.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(rebuilt(x), fitted(x), rtol=0, atol=0)
    assert len(list(fitted.parameters())) == 4


def test_plain_inputs_need_no_statistics():
    mlp = MLP(6, [4], 3)
    mlp.fit_inputs(None)
    assert len(mlp.state_dict()) == 4
