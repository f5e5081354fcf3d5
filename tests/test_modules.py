"""The modules: values worked by hand, gradients against finite differences, and extremes."""

import numpy as np
import pytest
from common import numerical_gradient

from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule

TINY = np.finfo(np.float64).tiny


@pytest.fixture(autouse=True)
def raise_on_overflow():
    """Overflow, division by zero and invalid operations fail; underflow to zero is right."""
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def assert_input_gradient(module, x, rng):
    """backward against differences of sum(dout * forward(x)), for a random dout."""
    dout = rng.standard_normal(module.forward(x).shape)
    dx = module.backward(dout)
    expected = numerical_gradient(lambda: (dout * module.forward(x)).sum(), x)
    assert dx.shape == x.shape
    np.testing.assert_allclose(dx, expected, rtol=1e-7, atol=1e-8)


# Linear


def test_linear_values():
    linear = LinearModule(3, 2)
    linear.params["weight"][:] = [[1, 2, 3], [4, 5, 6]]
    linear.params["bias"][:] = [[10, 20]]
    x = np.array([[1.0, 0, -1], [2, 2, 2]])
    np.testing.assert_array_equal(linear.forward(x), [[8, 18], [22, 50]])
    dx = linear.backward(np.array([[1.0, 2], [3, 4]]))
    np.testing.assert_array_equal(dx, [[9, 12, 15], [19, 26, 33]])
    np.testing.assert_array_equal(linear.grads["weight"], [[7, 6, 5], [10, 8, 6]])
    np.testing.assert_array_equal(linear.grads["bias"], [[4, 6]])


@pytest.mark.parametrize("samples, m, n", [(1, 1, 1), (1, 5, 3), (4, 1, 3), (6, 5, 1), (7, 4, 3)])
def test_linear_gradients(samples, m, n, rng):
    linear = LinearModule(m, n, rng=rng)
    linear.params["bias"][:] = rng.standard_normal((1, n))
    x, dout = rng.standard_normal((samples, m)), rng.standard_normal((samples, n))
    assert_input_gradient(linear, x, rng)
    linear.forward(x)
    linear.backward(dout)
    for name, shape in (("weight", (n, m)), ("bias", (1, n))):
        value = linear.params[name]
        expected = numerical_gradient(lambda: (dout * linear.forward(x)).sum(), value)
        assert linear.grads[name].shape == value.shape == shape
        np.testing.assert_allclose(linear.grads[name], expected, rtol=1e-7, atol=1e-8)


def test_linear_gradients_replace_those_of_the_call_before(rng):
    linear = LinearModule(4, 3, rng=rng)
    dout = rng.standard_normal((5, 3))
    linear.forward(rng.standard_normal((5, 4)))
    linear.backward(dout)
    first = dict(linear.grads)
    kept = {name: value.copy() for name, value in first.items()}
    linear.forward(np.zeros((5, 4)))
    linear.backward(dout)
    np.testing.assert_array_equal(linear.grads["weight"], 0)
    for name in kept:  # what was handed out earlier stays as it was
        np.testing.assert_array_equal(first[name], kept[name])


def test_linear_input_layer_skips_the_input_gradient():
    linear = LinearModule(4, 3, input_layer=True)
    linear.forward(np.ones((5, 4)))
    assert linear.backward(np.ones((5, 3))) is None


def test_linear_weights_start_from_a_normal_of_variance_one_over_fan_in():
    linear = LinearModule(400, 300, rng=np.random.default_rng(0))
    assert linear.params["weight"].std() == pytest.approx(1 / 20, rel=0.01)
    assert abs(linear.params["weight"].mean()) < 1e-3
    assert np.abs(linear.params["weight"]).max() > 3.5 / 20  # not uniform
    assert not linear.params["bias"].any()


def test_linear_takes_the_dtype_of_replaced_parameters():
    linear = LinearModule(4, 3, dtype=np.float32)
    linear.params = {"weight": np.full((3, 4), 0.1), "bias": np.zeros((1, 3))}
    assert linear.forward(np.ones((2, 4)))[0, 0] == pytest.approx(0.4, rel=1e-14)


# ELU


def test_elu_values():
    x = np.array([-np.log(2), -1e-20, 0, 0.5, 3])
    np.testing.assert_allclose(ELUModule().forward(x), [-0.5, -1e-20, 0, 0.5, 3], rtol=1e-15)
    np.testing.assert_allclose(ELUModule(alpha=3).forward(x)[0], -1.5, rtol=1e-15)
    np.testing.assert_array_equal(ELUModule(alpha=0).forward(x), np.maximum(x, 0))


@pytest.mark.parametrize("alpha", [1.0, 0, 0.3, 2.5])
def test_elu_gradient(alpha, rng):
    assert_input_gradient(ELUModule(alpha), 2 * rng.standard_normal((6, 5)), rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elu_at_extreme_inputs(dtype):
    elu = ELUModule()
    x = np.array([-1e30, -1000, -89, 0, 89, 1000, 1e30], dtype)
    np.testing.assert_array_equal(elu.forward(x), np.where(x < 0, dtype(-1), x))
    dx = elu.backward(np.ones_like(x))
    np.testing.assert_array_equal(dx, [0, 0, 0, 1, 1, 1, 1])
    assert dx.dtype == elu.forward(x).dtype == dtype


@pytest.mark.parametrize("alpha", [-1, np.nan, np.inf])
def test_elu_refuses_an_unusable_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        ELUModule(alpha)


# Softmax


def test_softmax_values():
    out = SoftMaxModule().forward(np.log([[1.0, 2, 5], [3, 3, 3]]))
    np.testing.assert_allclose(out, [[1 / 8, 2 / 8, 5 / 8], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-15)


@pytest.mark.parametrize("samples, classes", [(1, 2), (1, 10), (6, 4)])
def test_softmax_gradient(samples, classes, rng):
    assert_input_gradient(SoftMaxModule(), rng.standard_normal((samples, classes)), rng)


# Cross entropy


def test_cross_entropy_values():
    x, y = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[1.0, 0, 0], [0, 1, 0]])
    cross_entropy = CrossEntropyModule()
    assert cross_entropy.forward(x, y) == pytest.approx((np.log(2) + np.log(10)) / 2, rel=1e-15)
    np.testing.assert_allclose(cross_entropy.backward(x, y), [[-1, 0, 0], [0, -5, 0]])


def test_cross_entropy_gradient_for_soft_targets(rng):
    x, y = rng.uniform(0.1, 0.9, (6, 4)), rng.dirichlet(np.ones(4), 6)
    cross_entropy = CrossEntropyModule()
    expected = numerical_gradient(lambda: cross_entropy.forward(x, y), x)
    np.testing.assert_allclose(cross_entropy.backward(x, y), expected, rtol=1e-6)


def test_cross_entropy_of_certain_predictions_is_finite():
    x, y = np.array([[1.0, 0], [1, 0]]), np.array([[1.0, 0], [0, 1]])
    cross_entropy = CrossEntropyModule()
    assert cross_entropy.forward(x[:1], y[:1]) == 0
    assert cross_entropy.forward(x[1:], y[1:]) == pytest.approx(-np.log(TINY))
    assert np.isfinite(cross_entropy.backward(x, y)).all()


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-15), (np.float32, 1e-7)])
def test_the_composed_gradient_is_y_minus_t_over_s_on_saturated_rows_too(dtype, tolerance):
    logits = np.array([[1000, -1000, 0], [-1000, 1000, 0], [3, 1, -2], [0, 0, 1000]], dtype)
    labels = np.array([1, 1, 0, 0])
    softmax, cross_entropy = SoftMaxModule(), CrossEntropyModule()
    out = softmax.forward(logits)
    assert np.isfinite(cross_entropy.forward(out, labels))
    dx = softmax.backward(cross_entropy.backward(out, labels))
    expected = (out - np.eye(3, dtype=dtype)[labels]) / 4
    np.testing.assert_allclose(dx, expected, atol=tolerance)
    assert dx.dtype == dtype


# All of them


ALL = [LinearModule(3, 3), ELUModule(), SoftMaxModule()]


@pytest.mark.parametrize("module", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inputs_are_left_alone_and_read_only_ones_do(module, dtype, rng):
    module = LinearModule(3, 3, dtype=dtype) if isinstance(module, LinearModule) else module
    x, dout = rng.standard_normal((2, 4, 3)).astype(dtype)
    before = x.copy(), dout.copy()
    x.flags.writeable = dout.flags.writeable = False
    out, dx = module.forward(x), module.backward(dout)
    assert out.dtype == dx.dtype == dtype
    assert not np.shares_memory(out, x) and not np.shares_memory(dx, dout)
    np.testing.assert_array_equal((x, dout), before)


def test_cross_entropy_has_the_protocol_of_the_others():
    cross_entropy = CrossEntropyModule()
    cross_entropy.clear_cache()
    assert cross_entropy.params == cross_entropy.grads == {}


def test_a_bare_linear_module_draws_from_numpys_global_state():
    """As the course's own tests expect, which seed it."""
    weights = []
    for seed in (3, 3, 4):
        np.random.seed(seed)  # noqa: NPY002
        weights.append(LinearModule(5, 4).params["weight"])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()
