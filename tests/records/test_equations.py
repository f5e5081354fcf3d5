"""Every closed form of the report, by its label: against complex steps and against autograd.

A case holds the function that the left side of the equation differentiates, its variables by name
(the derivative is with respect to the first), and the value of the right side. The function is
written once, for NumPy (with complex numbers, too) and for PyTorch, which come in as xp.
"""

import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

import modules

REPORT = (Path(modules.__file__).parent / "report" / "report.tex").read_text()
STEP = 1e-30  # of the complex steps: nothing is subtracted, so it costs no digits
CASES = {}


Case = namedtuple("Case", "function variables value")


def closed_form(label, tex):
    """Registers what makes the case of an equation, and the right side as the report prints it."""

    def register(make):
        assert label not in CASES
        CASES[label] = make, tex
        return make

    return register


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def by_complex_steps(function, variables):
    """The derivative of function with respect to its first variable: the shape of one, then of
    the other. Exact to rounding for an analytic function (Squire and Trapp, 1998)."""
    name, at = next(iter(variables.items()))
    columns = []
    for i in np.ndindex(at.shape):
        moved = at.astype(np.complex128)
        moved[i] += 1j * STEP
        columns.append(np.imag(function(np, **variables | {name: moved})) / STEP)
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *at.shape)


def by_autograd(function, variables):
    """The same by PyTorch, in float64."""
    tensors = {name: torch.from_numpy(value) for name, value in variables.items()}
    name, at = next(iter(tensors.items()))
    return torch.autograd.functional.jacobian(
        lambda moved: function(torch, **tensors | {name: moved}), at
    ).numpy()


def loss(xp, Y, A):
    """Stands for all that comes after a module: a scalar that depends on all elements of Y
    jointly."""
    return (A * xp.sin(Y)).sum() + Y.sum() ** 2 / 7


def loss_gradient(Y, A):
    """G, the gradient that a module is given."""
    return A * np.cos(Y) + 2 * Y.sum() / 7


def softmax(xp, X):
    E = xp.exp(X)
    return E / E.sum(1)[:, None]


def one_hot(rng, S, C):
    return np.eye(C)[rng.integers(0, C, S)]


# Examples and exercises


@closed_form("eq:example1", r"\mat{a}")
def dot_product(rng):
    x, a = rng.standard_normal((2, 5))
    return Case(lambda xp, x, a: x @ a, {"x": x, "a": a}, a)


@closed_form("eq:example2", r"\mat{b}\,\mat{c}\T")
def bilinear_form(rng):
    X, b, c = (rng.standard_normal(shape) for shape in ((3, 4), 3, 4))
    return Case(lambda xp, X, b, c: b @ X @ c, {"X": X, "b": b, "c": c}, b[:, None] * c)


@closed_form("eq:example3", r"\delta_{in}\, Q_{mj} + \delta_{jn}\, Q_{mi}")
def gram_matrix(rng):
    Q, I = rng.standard_normal((4, 3)), np.eye(3)  # noqa: E741
    value = np.empty((3, 3, 4, 3))
    for i, j, m, n in np.ndindex(value.shape):
        value[i, j, m, n] = (i == n) * Q[m, j] + (j == n) * Q[m, i]
    return Case(lambda xp, Q, I: Q.T @ Q, {"Q": Q, "I": I}, value)  # noqa: E741


@closed_form("eq:exercise1", r"(\mat{B} + \mat{B}\T)\,\mat{x}")
def quadratic_form(rng):
    x, B = rng.standard_normal(5), rng.standard_normal((5, 5))
    return Case(lambda xp, x, B: x @ B @ x, {"x": x, "B": B}, B @ x + B.T @ x)


@closed_form("eq:exercise2", r"\mat{V}\T\mat{W}\T = (\mat{W}\mat{V})\T")
def trace_of_a_product(rng):
    X, V, W = (rng.standard_normal(shape) for shape in ((3, 4), (2, 3), (4, 2)))
    return Case(lambda xp, X, V, W: xp.trace(V @ X @ W), {"X": X, "V": V, "W": W}, (W @ V).T)


# Question 1.1 a


def linear_case(rng, by):
    """The loss after a linear module of 4 to 3 features, as a function of one of its arguments."""
    arrays = {
        "X": rng.standard_normal((5, 4)),
        "W": rng.standard_normal((3, 4)),
        "b": rng.standard_normal((1, 3)),
    }
    A = rng.standard_normal((5, 3))
    G = loss_gradient(arrays["X"] @ arrays["W"].T + arrays["b"], A)

    def function(xp, X, W, b, A):
        return loss(xp, X @ W.T + b, A)

    return function, {by: arrays.pop(by), **arrays, "A": A}, G


@closed_form("eq:weight", r"\mat{G}\T\,\mat{X}")
def weight_gradient(rng):
    function, variables, G = linear_case(rng, "W")
    return Case(function, variables, G.T @ variables["X"])


@closed_form("eq:bias", r"\ones\T\,\mat{G}, \qquad \ones \in \R^{S}")
def bias_gradient(rng):
    function, variables, G = linear_case(rng, "b")
    return Case(function, variables, np.ones((1, 5)) @ G)


@closed_form("eq:input", r"\mat{G}\,\mat{W}")
def input_gradient(rng):
    function, variables, G = linear_case(rng, "X")
    return Case(function, variables, G @ variables["W"])


# Question 1.1 b and 2.2


def elu(xp, x, alpha):
    return xp.where(x.real > 0, x, alpha * (xp.exp(x) - 1))


@closed_form("eq:activation", r"\mat{G} \had h'(\mat{X})")
def activation_gradient(rng):
    X, A = rng.standard_normal((2, 5, 3))
    h, slope = np.log(1 + X**2), 2 * X / (1 + X**2)
    return Case(
        lambda xp, X, A: loss(xp, xp.log(1 + X**2), A),
        {"X": X, "A": A},
        loss_gradient(h, A) * slope,
    )


@closed_form(
    "eq:elu-slope", r"\begin{cases} 1 & h(x) > 0 \\ h(x) + \alpha & \text{elsewhere} \end{cases}"
)
def elu_slope(rng):
    x, alpha = rng.standard_normal(20), np.array(0.7)
    h = elu(np, x, alpha)
    return Case(elu, {"x": x, "alpha": alpha}, np.diag(np.where(h > 0, 1, h + alpha)))


@closed_form("eq:tanh-slope", r"1 - \tanh^2 x")
def tanh_slope(rng):
    x = rng.standard_normal(20)
    return Case(lambda xp, x: xp.tanh(x), {"x": x}, np.diag(1 - np.tanh(x) ** 2))


# Question 1.1 c


@closed_form("eq:softmax-jacobian", r"\delta_{ip}\, Y_{ij} \left( \delta_{jq} - Y_{iq} \right)")
def softmax_jacobian(rng):
    X = rng.standard_normal((3, 4))
    Y = softmax(np, X)
    value = np.empty((3, 4, 3, 4))
    for i, j, p, q in np.ndindex(value.shape):
        value[i, j, p, q] = (i == p) * Y[i, j] * ((j == q) - Y[i, q])
    return Case(softmax, {"X": X}, value)


@closed_form(
    "eq:softmax",
    r"\mat{Y} \had \left( \mat{G} - (\mat{G}\had\mat{Y})\,\ones\,\ones\T \right), "
    r"\qquad \ones \in \R^{C}",
)
def softmax_gradient(rng):
    X, A = rng.standard_normal((2, 5, 4))
    Y, ones = softmax(np, X), np.ones((4, 1))
    G = loss_gradient(Y, A)
    return Case(
        lambda xp, X, A: loss(xp, softmax(xp, X), A),
        {"X": X, "A": A},
        Y * (G - (G * Y) @ ones @ ones.T),
    )


@closed_form("eq:cross-entropy", r"-\frac{1}{S}\; \mat{T} \oslash \mat{X}")
def cross_entropy_gradient(rng):
    X, T = softmax(np, rng.standard_normal((5, 4))), softmax(np, rng.standard_normal((5, 4)))
    return Case(lambda xp, X, T: -(T * xp.log(X)).sum() / len(X), {"X": X, "T": T}, -T / X / 5)


@closed_form("eq:composed", r"\frac{1}{S} \left( \mat{P} - \mat{T} \right)")
def composed_gradient(rng):
    X, T = rng.standard_normal((5, 4)), softmax(np, rng.standard_normal((5, 4)))
    return Case(
        lambda xp, X, T: -(T * xp.log(softmax(xp, X))).sum() / len(X),
        {"X": X, "T": T},
        (softmax(np, X) - T) / 5,
    )


@closed_form("eq:shift", r"\softmax(\mat{Z}), \qquad \mat{m} \in \R^{S},\ \ones \in \R^{C}")
def shifted_softmax(rng):
    # The right side is the left one at m = 0, and does not depend on m.
    m, X = rng.standard_normal(5), rng.standard_normal((5, 4))
    np.testing.assert_allclose(softmax(np, X - m[:, None]), softmax(np, X), rtol=1e-13)
    return Case(lambda xp, m, X: softmax(xp, X - m[:, None]), {"m": m, "X": X}, np.zeros((5, 4, 5)))


@closed_form("eq:floored", r"\frac{1}{S} \left( \floored{\mat{P}} - \mat{T} \right)")
def floored_gradient(rng):
    # Logits so far apart that the probability of most targets underflows to 0.
    X, T = 1000 * rng.standard_normal((20, 4)), one_hot(rng, 20, 4)
    Y = modules.SoftMaxModule().forward(X)
    tiny = np.finfo(np.float64).tiny
    assert (Y[T == 1] == tiny).sum() > 5

    def log_softmax_loss(xp, X, T):
        Z = X - xp.amax(X.real, 1)[:, None]
        return -(T * (Z - xp.log(xp.exp(Z).sum(1))[:, None])).sum() / len(X)

    return Case(log_softmax_loss, {"X": X, "T": T}, (np.maximum(Y, tiny) - T) / 20)


# The tests


@pytest.mark.parametrize("derivative", [by_complex_steps, by_autograd])
@pytest.mark.parametrize("label", CASES)
def test_closed_form(label, derivative, rng):
    case = CASES[label][0](rng)
    numbers = derivative(case.function, case.variables)
    assert numbers.shape == case.value.shape
    np.testing.assert_allclose(numbers, case.value, rtol=1e-12, atol=1e-14)


def equations():
    """The text of every numbered equation of the report, by its label."""
    bodies = re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.S)
    labelled = [re.fullmatch(r"\s*\\label\{(eq:[^}]+)\}(.*)", body, re.S) for body in bodies]
    assert all(labelled), "a numbered equation has no label that begins with eq:"
    return {match[1]: " ".join(match[2].split()).rstrip(".,") for match in labelled}


def test_every_labelled_equation_is_tested():
    labels = re.findall(r"\\label\{(eq:[^}]*)\}", REPORT)
    assert sorted(labels) == sorted(CASES)


@pytest.mark.parametrize("label", CASES)
def test_the_report_prints_the_right_side_that_is_tested(label):
    assert equations()[label].endswith(f"= {CASES[label][1]}")


NUMPY_LINES = re.findall(r"\\numpyline\{(eq:[^}]+)\}\{(.+?)\}\n", REPORT)


def test_examples_and_exercises_have_their_numpy_line():
    labels = [label for label, _ in NUMPY_LINES]
    assert labels == [f"eq:example{i}" for i in (1, 2, 3)] + [f"eq:exercise{i}" for i in (1, 2)]


@pytest.mark.parametrize("label, line", NUMPY_LINES)
def test_numpy_line(label, line, rng):
    case = CASES[label][0](rng)
    value = eval(line, {"np": np}, case.variables)
    np.testing.assert_allclose(value, case.value, rtol=1e-13, atol=1e-15)
