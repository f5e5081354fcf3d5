"""Every closed form of the report, by its label: against complex steps and against autograd.

A case has the right side as printed, the function that the left side differentiates, its variables
by name (the derivative is with respect to the first), and the value of the right side.
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
from torch import exp, eye, log, ones, sin, where

import modules
from mlp_numpy import MLP

REPORT = (Path(modules.__file__).parent / "report" / "report.tex").read_text()
STEP = 1e-30  # of the complex steps: nothing is subtracted, so it costs no digits
GENERATOR = torch.Generator().manual_seed(11)
Case = namedtuple("Case", "tex function variables value")


def n(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def loss(Y, A):
    """Stands for all that comes after a module: a scalar that depends on all elements of Y
    jointly."""
    return (A * sin(Y)).sum() + Y.sum() ** 2 / 7


def gradient(Y, A):
    """G, the gradient that a module is given."""
    return A * torch.cos(Y) + 2 * Y.sum() / 7


def softmax(X):
    return exp(X) / exp(X).sum(1, keepdim=True)


def linear(X, W, b, A):
    return loss(X @ W.T + b, A)


def linear_variables(first):
    """The variables of linear, the first one first."""
    arrays = {"X": n(5, 4), "W": n(3, 4), "b": n(1, 3), "A": n(5, 3)}
    return {first: arrays.pop(first), **arrays}


def softmax_jacobian(X):
    Y, samples, classes = softmax(X), eye(len(X)).double(), eye(X.shape[1]).double()
    same = torch.einsum("ip,ij,jq->ijpq", samples, Y, classes)
    return same - torch.einsum("ip,ij,iq->ijpq", samples, Y, Y)


def softmax_gradient(X, A):
    Y, column = softmax(X), ones(X.shape[1], 1).double()
    G = gradient(Y, A)
    return Y * (G - (G * Y) @ column @ column.T)


def cross_entropy(X, T):
    return -(T * log(X)).sum() / len(X)


def log_softmax_loss(X, T):
    Z = X - X.real.amax(1, keepdim=True)
    return -(T * (Z - log(exp(Z).sum(1, keepdim=True)))).sum() / len(X)


def floored_gradient(X, T):
    P = torch.from_numpy(modules.SoftMaxModule().forward(X.numpy()))
    assert (P[T == 1] == np.finfo(np.float64).tiny).sum() > 5  # most targets underflow
    return (P - T) / len(X)


# fmt: off
CASES = {
    "eq:example1": Case(r"\mat{a}", lambda x, a: x @ a, {"x": n(5), "a": n(5)}, lambda x, a: a),
    "eq:example2": Case(
        r"\mat{b}\,\mat{c}\T", lambda X, b, c: b @ X @ c.to(X.dtype),
        {"X": n(3, 4), "b": n(3), "c": n(4)}, lambda X, b, c: b[:, None] * c),
    "eq:example3": Case(
        r"\delta_{in}\, Q_{mj} + \delta_{jn}\, Q_{mi}", lambda Q, I: Q.T @ Q,  # noqa: E741
        {"Q": n(4, 3), "I": eye(3).double()},
        lambda Q, I: torch.einsum("in,mj->ijmn", I, Q) + torch.einsum("jn,mi->ijmn", I, Q)),  # noqa: E741
    "eq:exercise1": Case(
        r"(\mat{B} + \mat{B}\T)\,\mat{x}", lambda x, B: (x[:, None] * B * x).sum(),
        {"x": n(5), "B": n(5, 5)}, lambda x, B: B @ x + B.T @ x),
    "eq:exercise2": Case(
        r"\mat{V}\T\mat{W}\T = (\mat{W}\mat{V})\T", lambda X, V, W: (V @ X @ W).trace(),
        {"X": n(3, 4), "V": n(2, 3), "W": n(4, 2)}, lambda X, V, W: (W @ V).T),
    "eq:weight": Case(
        r"\mat{G}\T\,\mat{X}", linear, linear_variables("W"),
        lambda X, W, b, A: gradient(X @ W.T + b, A).T @ X),
    "eq:bias": Case(
        r"\ones\T\,\mat{G}, \qquad \ones \in \R^{S}", linear, linear_variables("b"),
        lambda X, W, b, A: ones(1, 5).double() @ gradient(X @ W.T + b, A)),
    "eq:input": Case(
        r"\mat{G}\,\mat{W}", linear, linear_variables("X"),
        lambda X, W, b, A: gradient(X @ W.T + b, A) @ W),
    "eq:activation": Case(
        r"\mat{G} \had h'(\mat{X})", lambda X, A: loss(log(1 + X**2), A),
        {"X": n(5, 3), "A": n(5, 3)},
        lambda X, A: gradient(log(1 + X**2), A) * 2 * X / (1 + X**2)),
    "eq:elu-slope": Case(
        r"\begin{cases} 1 & x > 0 \\ \alpha e^x & \text{elsewhere} \end{cases}",
        lambda x, alpha: where(x.real > 0, x, alpha * (exp(x) - 1)),
        {"x": n(20), "alpha": torch.tensor(0.7).double()},
        lambda x, alpha: where(x > 0, 1, alpha * exp(x)).diag()),
    "eq:tanh-slope": Case(
        r"1 - \tanh^2 x", lambda x: x.tanh(), {"x": n(20)}, lambda x: (1 - x.tanh() ** 2).diag()),
    "eq:softmax-jacobian": Case(
        r"\delta_{ip}\, Y_{ij} \left( \delta_{jq} - Y_{iq} \right)", softmax, {"X": n(3, 4)},
        softmax_jacobian),
    "eq:softmax": Case(
        r"\mat{Y} \had \left( \mat{G} - (\mat{G}\had\mat{Y})\,\ones\,\ones\T \right), "
        r"\qquad \ones \in \R^{C}", lambda X, A: loss(softmax(X), A),
        {"X": n(5, 4), "A": n(5, 4)}, softmax_gradient),
    "eq:cross-entropy": Case(
        r"-\frac{1}{S}\; \mat{T} \oslash \mat{X}", cross_entropy,
        {"X": softmax(n(5, 4)), "T": softmax(n(5, 4))}, lambda X, T: -T / X / 5),
    "eq:composed": Case(
        r"\frac{1}{S} \left( \mat{P} - \mat{T} \right)",
        lambda X, T: cross_entropy(softmax(X), T),
        {"X": n(5, 4), "T": softmax(n(5, 4))}, lambda X, T: (softmax(X) - T) / 5),
    "eq:shift": Case(  # the right side is the left one at m = 0, and does not depend on m
        r"\softmax(\mat{Z}), \qquad \mat{m} \in \R^{S},\ \ones \in \R^{C}",
        lambda m, X: softmax(X - m[:, None]),
        {"m": n(5), "X": n(5, 4)}, lambda m, X: torch.zeros(5, 4, 5).double()),
    "eq:floored": Case(
        r"\frac{1}{S} \left( \floored{\mat{P}} - \mat{T} \right)", log_softmax_loss,
        {"X": 1000 * n(20, 4), "T": eye(4)[torch.randint(4, (20,), generator=GENERATOR)].double()},
        floored_gradient),
}
# fmt: on


def by_complex_steps(function, variables):
    """The derivative of function with respect to its first variable: the shape of one, then of
    the other. Exact to rounding for an analytic function (Squire and Trapp, 1998)."""
    (name, at), *others = variables.items()
    others = {name: value.to(torch.complex128) for name, value in others}
    columns = []
    for i in np.ndindex(at.shape):
        moved = at.to(torch.complex128)
        moved[i] += 1j * STEP
        columns.append(function(**{name: moved}, **others).imag / STEP)
    return torch.stack(columns, dim=-1).reshape(*columns[0].shape, *at.shape)


def by_autograd(function, variables):
    (name, at), *others = variables.items()
    return torch.autograd.functional.jacobian(lambda x: function(**{name: x}, **dict(others)), at)


@pytest.mark.parametrize("derivative", [by_complex_steps, by_autograd])
@pytest.mark.parametrize("label", CASES)
def test_closed_form(label, derivative):
    case = CASES[label]
    numbers, value = derivative(case.function, case.variables), case.value(**case.variables)
    torch.testing.assert_close(numbers, value, rtol=1e-12, atol=1e-14)


def test_the_shifted_softmax_is_the_softmax():
    m, X = CASES["eq:shift"].variables.values()
    torch.testing.assert_close(softmax(X - m[:, None]), softmax(X), rtol=1e-13, atol=0)


def test_every_numbered_equation_has_its_case_with_the_right_side_as_printed():
    bodies = re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.S)
    labelled = [re.fullmatch(r"\s*\\label\{(eq:[^}]+)\}(.*)", body, re.S) for body in bodies]
    printed = {match[1]: " ".join(match[2].split()).rstrip(".,") for match in labelled}
    assert sorted(printed) == sorted(CASES)
    for label, case in CASES.items():
        assert printed[label].endswith(f"= {case.tex}"), label


def test_numpy_lines():
    lines = dict(re.findall(r"\\numpyline\{(eq:[^}]+)\}\{(.+?)\}\n", REPORT))
    assert list(lines) == [label for label in CASES if label.startswith("eq:ex")]
    for label, line in lines.items():
        case = CASES[label]
        value = eval(line, {"np": np}, {name: v.numpy() for name, v in case.variables.items()})
        expected = case.value(**case.variables).numpy()
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15)


def matrix(values):
    """A matrix of fractions as the report prints it."""

    def entry(value):
        fraction = Fraction(value).limit_denominator(16)
        assert float(fraction) == pytest.approx(value, rel=1e-12, abs=1e-12)
        above, below = abs(fraction).as_integer_ratio()
        size = str(above) if below == 1 else rf"\frac{{{above}}}{{{below}}}"
        return "-" * (fraction < 0) + size

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
