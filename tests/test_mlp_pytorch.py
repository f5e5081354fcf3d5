"""The PyTorch network: its layers, and equality with the NumPy one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlp_numpy
from mlp_pytorch import MLP, Dropout
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
    kinds = [nn.Linear, nn.LayerNorm, nn.GELU, Dropout] * 2 + [nn.Linear]
    assert [type(layer) for layer in mlp.layers] == kinds
    assert [type(layer) for layer in MLP(6, [], 3, dropout=0.5).layers] == [nn.Linear]
    assert mlp.device == torch.device("cpu")
    assert MLP(6, [], 3)(torch.zeros(7, 3, 2)).shape == (7, 3)


def test_dropout_keeps_its_share_of_units_and_their_mean():
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    x = torch.ones(1003, 301, requires_grad=True)
    out = dropout(x)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    for share in ((out > 0).float().mean(dim=d) for d in (0, 1)):
        assert abs(share.mean() - 0.75) < 0.005
        assert share.std() < 0.03
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())
    assert dropout.eval()(x) is x


def test_half_resolution_is_a_first_layer_with_one_weight_for_each_two_by_two_pixels():
    half = MLP(3072, [7], 10, half_resolution=True)
    full = MLP(3072, [7], 10)
    state = half.state_dict()
    weight = state["layers.0.weight"].view(7, 3, 16, 16) / 4
    weight = weight.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).flatten(start_dim=1)
    full.load_state_dict(state | {"layers.0.weight": weight, "layers.2.weight": torch.ones(10, 7)})
    half.load_state_dict(state | {"layers.2.weight": torch.ones(10, 7)})
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32))
    torch.testing.assert_close(half(x), full(x))
