"""The network composed of the modules: gradients, initial weights, sizes, and its state."""

import numpy as np
import pytest
from common import numerical_gradient

from mlp_numpy import MLP
from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule


def randomised(n_hidden):
    """A network with no zero among its parameters, which would hide errors."""
    mlp, rng = MLP(6, n_hidden, 4), np.random.default_rng(1)
    for value in mlp.state_dict().values():
        value[:] = rng.standard_normal(value.shape)
    return mlp


@pytest.mark.parametrize("n_hidden", [[], [5], [5, 4], [3, 4, 5, 6]], ids=str)
@pytest.mark.parametrize("samples", [1, 7])
def test_every_gradient_of_the_network(n_hidden, samples):
    mlp, cross_entropy, rng = randomised(n_hidden), CrossEntropyModule(), np.random.default_rng(3)
    x, y = rng.standard_normal((samples, 6)), np.eye(4)[rng.integers(0, 4, samples)]

    def loss():
        return cross_entropy.forward(mlp.forward(x), y)

    mlp.backward(cross_entropy.backward(mlp.forward(x), y))
    kinds = [LinearModule, ELUModule] * len(n_hidden) + [LinearModule, SoftMaxModule]
    assert [type(module) for module in mlp.modules] == kinds
    for module in mlp.modules:
        for name, value in module.params.items():
            expected = numerical_gradient(loss, value)
            np.testing.assert_allclose(module.grads[name], expected, rtol=1e-6, atol=1e-8)


def test_initial_weights():
    """They keep the mean square of the inputs, and every class starts at the same probability."""
    mlp = MLP(3072, [400, 300], 10, seed=3, input_scale=64)
    first, second, last = (m.params["weight"] for m in mlp.modules if m.params)
    assert first.std() == pytest.approx(1 / np.sqrt(3072) / 64, rel=0.01)
    assert second.std() == pytest.approx(1 / np.sqrt(400), rel=0.01)
    assert not last.any()
    x = 64 * np.random.default_rng(0).standard_normal((50, 3072))
    np.testing.assert_allclose(mlp.forward(x), 0.1)
    one, other = (MLP(6, [5], 3, seed=seed).modules[0].params["weight"] for seed in (1, 2))
    assert (one != other).all()


def test_clear_cache_reaches_every_module():
    mlp = MLP(6, [5], 4)
    out = mlp.forward(np.ones((3, 6)))
    mlp.clear_cache()
    CrossEntropyModule().clear_cache()  # which has nothing to clear
    for module in mlp.modules:
        with pytest.raises(RuntimeError, match="call forward first"):
            module.backward(out)


def test_sizes_below_one_are_refused():
    for sizes in ((0, [5], 4), (6, [5, 0], 4), (6, [-1], 4), (6, [], 0)):
        with pytest.raises(ValueError, match="at least 1"):
            MLP(*sizes)


# State


def test_a_state_names_the_parameters_and_is_copied_when_loaded():
    mlp = MLP(6, [5], 4, dtype=np.float32)
    parameters = mlp.state_dict()
    assert {name: value.shape for name, value in parameters.items()} == {
        "modules.0.weight": (5, 6), "modules.0.bias": (1, 5),
        "modules.2.weight": (4, 5), "modules.2.bias": (1, 4),
    }  # fmt: skip
    assert parameters["modules.2.bias"] is mlp.modules[2].params["bias"]
    state = {name: np.full(value.shape, 0.1) for name, value in parameters.items()}
    mlp.load_state_dict(state)
    for name, value in mlp.state_dict().items():
        assert value is parameters[name] and value.dtype == np.float32
        state[name][:] = 7
        np.testing.assert_array_equal(value, np.float32(0.1))


WRONG_STATES = {
    "a name missing": lambda state: state.pop("modules.2.bias"),
    "a name more": lambda state: state.update({"modules.4.bias": np.zeros((1, 4))}),
    "a shape that would broadcast": lambda state: state.update({"modules.2.bias": np.zeros(4)}),
}


@pytest.mark.parametrize("wrong", WRONG_STATES)
def test_a_state_of_another_network_is_refused_and_changes_nothing(wrong):
    mlp = randomised([5])
    before = {name: value.copy() for name, value in mlp.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    WRONG_STATES[wrong](state)
    with pytest.raises(ValueError, match="do not fit this network"):
        mlp.load_state_dict(state)
    for name, value in mlp.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
