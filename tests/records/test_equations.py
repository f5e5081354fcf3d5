"""Every closed form of the report, by its label: against complex steps and against autograd.

A case has the right side as printed, the function that the left side differentiates, its variables
by name (the derivative is with respect to the first), and the value of the right side. The function
is written once, for NumPy (with complex numbers, too) and for PyTorch, which come in as xp.
"""

import math
import re
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import modules
from mlp_numpy import MLP

REPORT = (Path(modules.__file__).parent / "report" / "report.tex").read_text()
STEP = 1e-30  # of the complex steps: nothing is subtracted, so it costs no digits
TINY = np.finfo(np.float64).tiny
RNG = np.random.default_rng(11)
n = RNG.standard_normal
Case = namedtuple("Case", "tex function variables value")


def loss(xp, Y, A):
    """Stands for all that comes after a module: a scalar that depends on all elements of Y
    jointly."""
    return (A * xp.sin(Y)).sum() + Y.sum() ** 2 / 7


def gradient(Y, A):
    """G, the gradient that a module is given."""
    return A * np.cos(Y) + 2 * Y.sum() / 7


def softmax(xp, X):
    E = xp.exp(X)
    return E / E.sum(1)[:, None]


def linear(xp, X, W, b, A):
    return loss(xp, X @ W.T + b, A)


def linear_variables(first):
    """The variables of linear, the first one first."""
    arrays = {"X": n((5, 4)), "W": n((3, 4)), "b": n((1, 3)), "A": n((5, 3))}
    return {first: arrays.pop(first), **arrays}


def elu(xp, x, alpha):
    return xp.where(x.real > 0, x, alpha * (xp.exp(x) - 1))


def square_log(xp, X):
    return xp.log(1 + X**2)


def gram_derivative(Q, I):  # noqa: E741
    terms = I[:, None, None, :] * Q.T[None, :, :, None]
    return terms + terms.swapaxes(0, 1)


def softmax_jacobian(X):
    Y, samples, classes = softmax(np, X), np.eye(len(X)), np.eye(X.shape[1])
    same = np.einsum("ip,ij,jq->ijpq", samples, Y, classes)
    return same - np.einsum("ip,ij,iq->ijpq", samples, Y, Y)


def softmax_gradient(X, A):
    Y, ones = softmax(np, X), np.ones((X.shape[1], 1))
    G = gradient(Y, A)
    return Y * (G - (G * Y) @ ones @ ones.T)


def floored_gradient(X, T):
    P = modules.SoftMaxModule().forward(X)
    assert (P[T == 1] == TINY).sum() > 5  # most targets underflow
    return (np.maximum(P, TINY) - T) / len(X)


def log_softmax_loss(xp, X, T):
    Z = X - xp.amax(X.real, 1)[:, None]
    return -(T * (Z - xp.log(xp.exp(Z).sum(1))[:, None])).sum() / len(X)


# fmt: off
CASES = {
    "eq:example1": Case(r"\mat{a}", lambda xp, x, a: x @ a, {"x": n(5), "a": n(5)}, lambda x, a: a),
    "eq:example2": Case(
        r"\mat{b}\,\mat{c}\T", lambda xp, X, b, c: b @ X @ c,
        {"X": n((3, 4)), "b": n(3), "c": n(4)}, lambda X, b, c: b[:, None] * c),
    "eq:example3": Case(
        r"\delta_{in}\, Q_{mj} + \delta_{jn}\, Q_{mi}", lambda xp, Q, I: Q.T @ Q,  # noqa: E741
        {"Q": n((4, 3)), "I": np.eye(3)}, gram_derivative),
    "eq:exercise1": Case(
        r"(\mat{B} + \mat{B}\T)\,\mat{x}", lambda xp, x, B: x @ B @ x,
        {"x": n(5), "B": n((5, 5))}, lambda x, B: B @ x + B.T @ x),
    "eq:exercise2": Case(
        r"\mat{V}\T\mat{W}\T = (\mat{W}\mat{V})\T", lambda xp, X, V, W: xp.trace(V @ X @ W),
        {"X": n((3, 4)), "V": n((2, 3)), "W": n((4, 2))}, lambda X, V, W: (W @ V).T),
    "eq:weight": Case(
        r"\mat{G}\T\,\mat{X}", linear, linear_variables("W"),
        lambda X, W, b, A: gradient(X @ W.T + b, A).T @ X),
    "eq:bias": Case(
        r"\ones\T\,\mat{G}, \qquad \ones \in \R^{S}", linear, linear_variables("b"),
        lambda X, W, b, A: np.ones((1, 5)) @ gradient(X @ W.T + b, A)),
    "eq:input": Case(
        r"\mat{G}\,\mat{W}", linear, linear_variables("X"),
        lambda X, W, b, A: gradient(X @ W.T + b, A) @ W),
    "eq:activation": Case(
        r"\mat{G} \had h'(\mat{X})", lambda xp, X, A: loss(xp, square_log(xp, X), A),
        {"X": n((5, 3)), "A": n((5, 3))},
        lambda X, A: gradient(square_log(np, X), A) * 2 * X / (1 + X**2)),
    "eq:elu-slope": Case(
        r"\begin{cases} 1 & x > 0 \\ \alpha e^x & \text{elsewhere} \end{cases}", elu,
        {"x": n(20), "alpha": np.array(0.7)},
        lambda x, alpha: np.diag(np.where(x > 0, 1, alpha * np.exp(x)))),
    "eq:tanh-slope": Case(
        r"1 - \tanh^2 x", lambda xp, x: xp.tanh(x), {"x": n(20)},
        lambda x: np.diag(1 - np.tanh(x) ** 2)),
    "eq:softmax-jacobian": Case(
        r"\delta_{ip}\, Y_{ij} \left( \delta_{jq} - Y_{iq} \right)", softmax, {"X": n((3, 4))},
        softmax_jacobian),
    "eq:softmax": Case(
        r"\mat{Y} \had \left( \mat{G} - (\mat{G}\had\mat{Y})\,\ones\,\ones\T \right), "
        r"\qquad \ones \in \R^{C}", lambda xp, X, A: loss(xp, softmax(xp, X), A),
        {"X": n((5, 4)), "A": n((5, 4))}, softmax_gradient),
    "eq:cross-entropy": Case(
        r"-\frac{1}{S}\; \mat{T} \oslash \mat{X}",
        lambda xp, X, T: -(T * xp.log(X)).sum() / len(X),
        {"X": softmax(np, n((5, 4))), "T": softmax(np, n((5, 4)))}, lambda X, T: -T / X / 5),
    "eq:composed": Case(
        r"\frac{1}{S} \left( \mat{P} - \mat{T} \right)",
        lambda xp, X, T: -(T * xp.log(softmax(xp, X))).sum() / len(X),
        {"X": n((5, 4)), "T": softmax(np, n((5, 4)))}, lambda X, T: (softmax(np, X) - T) / 5),
    "eq:shift": Case(  # the right side is the left one at m = 0, and does not depend on m
        r"\softmax(\mat{Z}), \qquad \mat{m} \in \R^{S},\ \ones \in \R^{C}",
        lambda xp, m, X: softmax(xp, X - m[:, None]),
        {"m": n(5), "X": n((5, 4))}, lambda m, X: np.zeros((5, 4, 5))),
    "eq:floored": Case(
        r"\frac{1}{S} \left( \floored{\mat{P}} - \mat{T} \right)", log_softmax_loss,
        {"X": 1000 * n((20, 4)), "T": np.eye(4)[RNG.integers(0, 4, 20)]}, floored_gradient),
}
# fmt: on


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


@pytest.mark.parametrize("derivative", [by_complex_steps, by_autograd])
@pytest.mark.parametrize("label", CASES)
def test_closed_form(label, derivative):
    case = CASES[label]
    numbers, value = derivative(case.function, case.variables), case.value(**case.variables)
    assert numbers.shape == value.shape
    np.testing.assert_allclose(numbers, value, rtol=1e-12, atol=1e-14)


def test_the_shifted_softmax_is_the_softmax():
    m, X = CASES["eq:shift"].variables.values()
    np.testing.assert_allclose(softmax(np, X - m[:, None]), softmax(np, X), rtol=1e-13)


def test_every_numbered_equation_has_its_case_with_the_right_side_as_printed():
    bodies = re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.S)
    labelled = [re.fullmatch(r"\s*\\label\{(eq:[^}]+)\}(.*)", body, re.S) for body in bodies]
    printed = {match[1]: " ".join(match[2].split()).rstrip(".,") for match in labelled}
    assert sorted(printed) == sorted(CASES)
    for label, case in CASES.items():
        assert printed[label].endswith(f"= {case.tex}"), label


NUMPY_LINES = dict(re.findall(r"\\numpyline\{(eq:[^}]+)\}\{(.+?)\}\n", REPORT))


def test_numpy_lines():
    assert list(NUMPY_LINES) == [label for label in CASES if label.startswith("eq:ex")]
    for label, line in NUMPY_LINES.items():
        case = CASES[label]
        value = eval(line, {"np": np}, case.variables)
        np.testing.assert_allclose(value, case.value(**case.variables), rtol=1e-13, atol=1e-15)


def matrix(values):
    """A matrix of fractions as the report prints it."""

    def entry(value):
        fraction = Fraction(value).limit_denominator(16)
        assert float(fraction) == pytest.approx(value, rel=1e-12, abs=1e-12)
        sign, size = "-" if value < 0 else "", abs(fraction)
        whole = size.denominator == 1
        return sign + (f"{size}" if whole else rf"\frac{{{size.numerator}}}{{{size.denominator}}}")

    rows = (" & ".join(map(entry, row)) for row in np.atleast_2d(values))
    return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"


def test_the_pencil_example_is_what_the_modules_compute():
    mlp, cross_entropy = MLP(2, [2], 2), modules.CrossEntropyModule()
    first, _, second, softmax = mlp.modules
    first.params["weight"][:] = [[-1, 1], [1, -1 / 2]]
    first.params["bias"][:] = [0, -math.log(4)]
    second.params["weight"][:] = [[3, 4], [-3, -4]]
    second.params["bias"][:] = [0, math.log(3)]
    x, targets = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])
    p = mlp.forward(x)
    assert cross_entropy.forward(p, targets) == pytest.approx(math.log(4))
    dp = cross_entropy.backward(p, targets)
    dz = softmax.backward(dp)
    mlp.backward(dp)
    shown = {
        "P": p, "H": second.x, r"\grad{P}": dp, r"\grad{Z}": dz, r"\grad{H}": second.backward(dz),
        r"\grad{A}": first.grads["bias"], r"\pd{L}{\mat{W}_1}": first.grads["weight"],
        r"\pd{L}{\mat{b}_1}": first.grads["bias"], r"\pd{L}{\mat{W}_2}": second.grads["weight"],
        r"\pd{L}{\mat{b}_2}": second.grads["bias"],
    }  # fmt: skip
    _, _, text = REPORT.partition(r"\subsection{One backward pass with a pencil}")
    text = re.sub(r"&?\\stackrel\{\\eqref\{.*?\}\}\{=\}", "=", " ".join(text.split()))
    for name, value in shown.items():
        left = rf"\mat{{{name}}}" if len(name) == 1 else name
        assert f"{left} = {matrix(value)}" in text, name
