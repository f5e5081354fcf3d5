"""The modules: values worked by hand, gradients against finite differences, and extremes."""

import numpy as np
import pytest
from common import numerical_gradient

from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def raise_on_overflow():
    """Overflow, division by zero and invalid operations fail; underflow to zero is right."""
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# Values


def test_linear_values_and_gradients():
    linear = LinearModule(3, 2)
    linear.params["weight"][:] = [[1, 2, 3], [4, 5, 6]]
    linear.params["bias"][:] = [[10, 20]]
    x = np.array([[1.0, 0, -1], [2, 2, 2]])
    np.testing.assert_array_equal(linear.forward(x), [[8, 18], [22, 50]])
    dx = linear.backward(np.array([[1.0, 2], [3, 4]]))
    np.testing.assert_array_equal(dx, [[9, 12, 15], [19, 26, 33]])
    np.testing.assert_array_equal(linear.grads["weight"], [[7, 6, 5], [10, 8, 6]])
    np.testing.assert_array_equal(linear.grads["bias"], [[4, 6]])


def test_elu_values():
    x = np.array([-np.log(2), -1e-20, 0, 0.5, 3])
    np.testing.assert_allclose(ELUModule().forward(x), [-0.5, -1e-20, 0, 0.5, 3], rtol=1e-15)
    np.testing.assert_allclose(ELUModule(alpha=3).forward(x)[0], -1.5, rtol=1e-15)
    np.testing.assert_array_equal(ELUModule(alpha=0).forward(x), np.maximum(x, 0))


def test_softmax_values():
    out = SoftMaxModule().forward(np.log([[1.0, 2, 5], [3, 3, 3]]))
    np.testing.assert_allclose(out, [[1 / 8, 2 / 8, 5 / 8], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-15)


def test_cross_entropy_values_and_gradients():
    x, y = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[1.0, 0, 0], [0, 1, 0]])
    cross_entropy = CrossEntropyModule()
    for targets in (y, np.array([0, 1])):
        loss = cross_entropy.forward(x, targets)
        assert loss == pytest.approx((np.log(2) + np.log(10)) / 2, rel=1e-15)
        np.testing.assert_allclose(cross_entropy.backward(x, targets), [[-1, 0, 0], [0, -5, 0]])


# Gradients

MODULES = {  # the number of input features, and what makes the module
    "linear": (4, lambda: LinearModule(4, 3)),
    "linear from one feature": (1, lambda: LinearModule(1, 3)),
    "linear to one feature": (5, lambda: LinearModule(5, 1)),
    **{f"elu of {alpha}": (5, lambda a=alpha: ELUModule(a)) for alpha in (1.0, 0, 0.3, 2.5)},
    "softmax": (4, SoftMaxModule),
    "softmax of two classes": (2, SoftMaxModule),
}


@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("name", MODULES)
def test_gradients_equal_finite_differences(name, samples, rng):
    """Those of sum(dout * forward(x)), for a random dout."""
    features, make = MODULES[name]
    module, x = make(), 2 * rng.standard_normal((samples, features))
    for value in module.params.values():
        value[:] = rng.standard_normal(value.shape)
    dout = rng.standard_normal(module.forward(x).shape)
    found = {"x": module.backward(dout), **module.grads}
    for key, value in {"x": x, **module.params}.items():
        expected = numerical_gradient(lambda: (dout * module.forward(x)).sum(), value)
        assert found[key].shape == value.shape
        np.testing.assert_allclose(found[key], expected, rtol=1e-7, atol=1e-8)


def test_cross_entropy_gradient_for_soft_targets(rng):
    x, y = rng.uniform(0.1, 0.9, (6, 4)), rng.dirichlet(np.ones(4), 6)
    cross_entropy = CrossEntropyModule()
    expected = numerical_gradient(lambda: cross_entropy.forward(x, y), x)
    np.testing.assert_allclose(cross_entropy.backward(x, y), expected, rtol=1e-6)


def test_linear_gradients_replace_those_of_the_call_before(rng):
    linear, dout = LinearModule(4, 3), rng.standard_normal((5, 3))
    linear.forward(rng.standard_normal((5, 4)))
    linear.backward(dout)
    first, kept = linear.grads["weight"], linear.grads["weight"].copy()
    linear.forward(np.zeros((5, 4)))
    linear.backward(dout)
    np.testing.assert_array_equal(linear.grads["weight"], 0)
    np.testing.assert_array_equal(first, kept)  # what was handed out stays as it was


def test_linear_input_layer_skips_the_input_gradient():
    linear = LinearModule(4, 3, input_layer=True)
    linear.forward(np.ones((5, 4)))
    assert linear.backward(np.ones((5, 3))) is None
    np.testing.assert_array_equal(linear.grads["weight"], 5)


# Extremes


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 0, 2.5])
def test_elu_at_extreme_inputs(alpha, dtype):
    """The slope keeps its digits where the output has none left that tell it from -alpha. At 0,
    where both slopes are right, it is alpha, as in PyTorch."""
    elu = ELUModule(alpha)
    x = np.array([-np.inf, -1e30, -1000, -50, -20, -15, 0, 15, 89, 1000, 1e30, np.inf], dtype)
    out, dx = elu.forward(x), elu.backward(np.ones_like(x))
    exact = alpha * np.exp(np.minimum(x, 0, dtype=np.float64))
    np.testing.assert_allclose(out, np.where(x < 0, exact - alpha, x), rtol=1e-6)
    np.testing.assert_allclose(dx, np.where(x <= 0, exact, 1), rtol=1e-6, atol=0)


def test_cross_entropy_of_certain_predictions_is_finite():
    x, y = np.array([[1.0, 0], [1, 0]]), np.array([[1.0, 0], [0, 1]])
    cross_entropy = CrossEntropyModule()
    assert cross_entropy.forward(x[:1], y[:1]) == 0
    assert cross_entropy.forward(x[1:], y[1:]) == pytest.approx(-np.log(np.finfo(float).tiny))
    assert np.isfinite(cross_entropy.backward(x, y)).all()


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-15), (np.float32, 1e-7)])
def test_the_composed_gradient_is_y_minus_t_over_s_on_saturated_rows_too(dtype, tolerance):
    logits = np.array([[1000, -1000, 0], [-1000, 1000, 0], [3, 1, -2], [0, 0, 1000]], dtype)
    labels = np.array([1, 1, 0, 0])
    softmax, cross_entropy = SoftMaxModule(), CrossEntropyModule()
    out = softmax.forward(logits)
    for targets in (labels, np.eye(3)[labels]):  # one-hot in float64, whatever dtype is
        loss = cross_entropy.forward(out, targets)
        dx = softmax.backward(cross_entropy.backward(out, targets))
        np.testing.assert_allclose(dx, (out - np.eye(3)[labels]) / 4, atol=tolerance)
        assert np.isfinite(loss) and loss.dtype == dx.dtype == dtype


# Arguments


@BOTH
@pytest.mark.parametrize("kind", [LinearModule, ELUModule, SoftMaxModule])
def test_inputs_are_left_alone_and_keep_their_dtype(kind, dtype, rng):
    module = kind(3, 3, dtype=dtype) if kind is LinearModule else kind()
    x, dout = rng.standard_normal((2, 4, 3)).astype(dtype)
    x.flags.writeable = dout.flags.writeable = False
    out, dx = module.forward(x), module.backward(dout)
    assert {a.dtype for a in (out, dx, *module.grads.values())} == {np.dtype(dtype)}
    assert not np.shares_memory(out, x) and not np.shares_memory(dx, dout)


WRONG_TARGETS = [
    *(np.ones((4, 1)), np.ones((4, 2)), np.ones((1, 3)), np.ones((3, 4)), np.ones((4, 3, 1))),
    *([0, 1, 2], [[0], [1], [2], [0]], 1, [0, 1, 2, 3], [0, -1, 2, 1]),
]


@pytest.mark.parametrize("y", WRONG_TARGETS, ids=str)
def test_cross_entropy_refuses_targets_of_another_form_and_of_no_class(y):
    """A column would broadcast to all pairs of samples, and -1 count as the last class."""
    cross_entropy, x = CrossEntropyModule(), np.full((4, 3), 1 / 3)
    for method in (cross_entropy.forward, cross_entropy.backward):
        with pytest.raises(ValueError):
            method(x, np.array(y))


@pytest.mark.parametrize("alpha", [-1, np.nan, np.inf])
def test_elu_refuses_an_unusable_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        ELUModule(alpha)


# Parameters


def test_a_bare_linear_module_draws_from_numpys_global_state():
    """As the course's own tests expect, which seed it: float64, normal, of variance 1 / fan_in."""
    weights = []
    for seed in (3, 3, 4):
        np.random.seed(seed)  # noqa: NPY002
        linear = LinearModule(400, 300)
        weights.append(linear.params["weight"])
    np.testing.assert_array_equal(weights[0], weights[1])
    weight, bias = weights[2], linear.params["bias"]
    assert (weight != weights[0]).all()
    assert weight.std() == pytest.approx(1 / 20, rel=0.01) and abs(weight.mean()) < 1e-3
    assert np.abs(weight).max() > 3.5 / 20  # not uniform
    assert (weight.shape, weight.dtype, weight.flags.c_contiguous) == ((300, 400), float, True)
    assert (bias.shape, bias.dtype) == ((1, 300), float) and not bias.any()


def test_linear_takes_the_dtype_of_replaced_parameters():
    linear = LinearModule(4, 3, dtype=np.float32)
    linear.params = {"weight": np.full((3, 4), 0.1), "bias": np.zeros((1, 3))}
    assert linear.forward(np.ones((2, 4)))[0, 0] == pytest.approx(0.4, rel=1e-14)
