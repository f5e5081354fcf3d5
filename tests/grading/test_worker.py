"""What the checks ask of the submission's process, and what it answers."""

import numpy as np
import pytest
from common import times
from mutants import wrong

from grading import runner
from grading.diagnosis import Failure
from grading.helpers import RIGHT, failed, on_top, run_row, run_rows, with_elu
from grading.worker import LENGTHS, pack, unpack

WIDE = np.arange(24.0).reshape(4, 6)
ARRAYS = [
    WIDE,
    np.asfortranarray(WIDE),
    WIDE[:, ::2],
    np.array(2.5),
    np.zeros((0, 3)),
    np.arange(3, dtype=np.int16),
    np.array([np.nan, -np.inf, -0.0], dtype=np.float32),
]


def test_arrays_and_lines_arrive_as_they_were_sent():
    message = pack(3, ["a line", "", "more\nand more"], ARRAYS)
    head, _ = LENGTHS.unpack(message[: LENGTHS.size])
    text = message[LENGTHS.size :][:head]
    number, lines, got = unpack(text, message[LENGTHS.size + head :])
    assert (number, lines) == (3, ["a line", "", "more and more"])
    for copy, array in zip(got, ARRAYS, strict=True):
        assert copy.dtype == array.dtype and copy.shape == array.shape
        assert copy.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "form", ["<f8 999999 999999", "<f8 -1 -1", "<f8 x", "|O 1", "<f4 1", "<f8" + 40 * " 1", ""]
)
def test_arrays_out_of_form_are_refused(form):
    """Eight bytes that claim to be something else."""
    with pytest.raises(ValueError):
        unpack(f"2\n1\n{form}".encode(), bytes(8))


def test_results_are_numbers_of_any_kind():
    kinds = {
        "return np.float32(x)": np.float32,
        "return np.longdouble(x)": np.float64,
        "return x.astype('>f8')": np.float64,
        "return x > 0": np.float64,
        "return [[int(v) for v in row] for row in x]": np.int64,
        "return float(x.sum())": np.float64,
    }
    with runner.in_child(with_elu(*kinds)) as submission:
        for number, expected in enumerate(kinds.values()):
            got = submission.elu().forward(np.full((2, 2), float(number)))
            assert got.dtype == expected


def test_arguments_lie_in_memory_as_asked():
    flags = "np.array([[x.flags.c_contiguous, x.flags.f_contiguous]])"
    body = f"assert (x == np.arange(6.0).reshape(2, 3)).all()\nreturn {flags}"
    x = np.arange(6.0).reshape(2, 3)
    with runner.in_child(with_elu(body)) as submission:
        elu = submission.elu()
        assert elu.forward(x).tolist() == [[True, False]]
        assert elu.forward(x, strided=True).tolist() == [[False, False]]


# The layers of a network, however it holds them

NETWORK = """
from modules import ELUModule, LinearModule, SoftMaxModule

class MLP:
    def __init__(self, n_inputs, n_hidden, n_classes):
        sizes = [n_inputs, *n_hidden, n_classes]
        self.softmax = SoftMaxModule()
        self.elus = [ELUModule() for _ in n_hidden]
        layers = [LinearModule(*size) for size in zip(sizes, sizes[1:])]
{hold}

    def apply(self, layer, x):
        layer.x = x
        return x @ layer.params["weight"].T + layer.params["bias"]

    def forward(self, x):
        *layers, last = {get}
        for layer, elu in zip(layers, self.elus):
            x = elu.forward(self.apply(layer, x))
        return self.softmax.forward(self.apply(last, x))

    def backward(self, dout):
        dout = self.softmax.backward(dout)
        layers = {get}
        for i in reversed(range(len(layers))):
            if i < len(self.elus):
                dout = self.elus[i].backward(dout)
            dout = layers[i].backward(dout)
"""
HOLDS = {
    "attributes": (
        "for i, layer in enumerate(layers): setattr(self, f'fc{i}', layer)",
        "[getattr(self, f'fc{i}') for i in range(len(self.elus) + 1)]",
    ),
    "a dict": (
        "self.layers = {-i: layer for i, layer in reversed(list(enumerate(layers)))}",
        "[self.layers[-i] for i in range(len(self.layers))]",
    ),
    "attributes that are keys": (
        "self.net = type('Net', (dict,), {'__getattr__': dict.__getitem__})(layers=layers)",
        "self.net.layers",
    ),
    "a closure": ("self.get = lambda: layers", "self.get()"),
    "a dict params of other things": (
        "self.params = {'layers': layers, 'activation': 'elu', 'sizes': sizes}",
        "self.params['layers']",
    ),
}


@pytest.mark.parametrize(("hold", "get"), HOLDS.values(), ids=HOLDS)
def test_network_may_hold_its_layers_in_any_way(hold, get):
    """And use their parameters instead of their forward."""
    code = NETWORK.format(hold=" " * 8 + hold, get=get)
    rows = run_rows(RIGHT | {"mlp_numpy.py": code})
    assert not failed(rows), [row["diagnosis"] for row in rows.values()]


# NumPy only, as mutants of which one row is asked

SCALAR = wrong.IMPORT + "\ndef act(v):\n    return v if v > 0 else np.exp(v) - 1\n\n"
SAFE = wrong.IMPORT + "\ndef safe(p, eps):\n    return np.maximum(p, eps)\n\n"
SMOOTH = "np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1)"
CENTRAL = "(f(self.x + 1e-5) - f(self.x - 1e-5)) / 2e-5"
# fmt: off
WAYS = [
    wrong.wrong("new arrays", set(), "", wrong.ELU_DX,
                "dx = np.zeros_like(dout) + dout * slope * np.ones_like(self.x)"),
    wrong.wrong("where in a vectorised function", set(), "", wrong.ELU,
                "f = np.vectorize(lambda v: np.where(v > 0, v, np.exp(v) - 1).item())\n"
                "        out = f(x)", wrong.SLOPE,
                "f = np.vectorize(lambda v: np.where(v > 0, 1.0, np.exp(v)).item())\n"
                "        slope = f(self.x)"),
    wrong.wrong("other clips", set(), "", "np.log(x)", "np.log(np.clip(x, 1e-12, 1.0))",
                "y / x", "y / np.clip(x, 1e-10, 1.0)"),
    wrong.wrong("a scalar helper in both passes", set(), "", wrong.IMPORT, SCALAR, wrong.ELU,
                "out = np.array([[act(v) for v in row] for row in x])", wrong.SLOPE,
                "slope = np.array([[1. if v > 0 else act(v) + 1 for v in row] for row in self.x])"),
    wrong.wrong("an epsilon of its own in each of two helpers", set(), "", wrong.IMPORT, SAFE,
                "np.log(x)", "np.log(safe(x, 1e-15))", "y / x", "y / safe(x, 1e-14)"),
    wrong.wrong("drawing", set(), "", wrong.IMPORT,
                wrong.IMPORT + "import matplotlib\nmatplotlib.use('Agg')\n"),
    wrong.wrong("a ufunc", {wrong.NUMPY}, "expm1", wrong.SLOPE,
                "step = np.expm1(self.x + 1e-6) - np.expm1(self.x)\n"
                "        slope = np.where(self.x > 0, 1.0, step / 1e-6)"),
    wrong.wrong("one number after another", {wrong.NUMPY}, "act", wrong.IMPORT, SCALAR, wrong.SLOPE,
                "f = np.vectorize(act, otypes=[float])\n        slope = " + CENTRAL),
    wrong.wrong("one row after another", {wrong.NUMPY}, "", 
                "slope = np.array([np.exp(np.minimum(row, 0)) for row in self.x])",
                "f = lambda z: " + SMOOTH + "\n        slope = np.array(["
                + CENTRAL.replace("self.x", "row") + " for row in self.x])", base="loops"),
    wrong.wrong("a complex step", {wrong.NUMPY}, "exp", wrong.SLOPE,
                "slope = (self.x > 0) + np.exp((self.x <= 0) * self.x + 1e-20j).imag / 1e-20"),
    wrong.wrong("NumPy's own differences", {wrong.NUMPY}, "np.gradient", wrong.SLOPE,
                "z = self.x + np.array([-1e-5, 0, 1e-5])[:, None, None]\n"
                f"        slope = np.gradient({SMOOTH}, 1e-5, axis=0)[1]"),
    wrong.wrong("weights moved in place", {wrong.NUMPY}, "forward", wrong.DW,
                "w, f = self.params['weight'], self.forward\n"
                "        for i in np.ndindex(w.shape):\n"
                "            w[i] += 1e-6\n"
                "            up = np.sum(dout * f(self.x))\n"
                "            w[i] -= 1e-6\n"
                "            self.grads['weight'][i] = (up - np.sum(dout * f(self.x))) / 1e-6"),
    wrong.wrong("an installed package", {wrong.NUMPY}, "pytest", wrong.IMPORT,
                wrong.IMPORT + "import pytest\npytest.f()\n"),
]
# fmt: on


@times(4, 100)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_only_differences_and_other_packages_are_not_numpy_only(way, times):
    for seed in range(times):
        row = run_row("NumPy only", wrong.sources(way), seed=seed)
        assert row["passed"] == (not way.rows), row["diagnosis"]
        assert way.says in (row["diagnosis"] or "")


def test_an_import_that_computes_nothing_is_a_remark_whether_the_package_is_installed_or_not():
    sources = on_top("import cifar10_utils, pandas as pd\nfrom seaborn import set; set()")
    row = run_row("NumPy only", sources, start=runner.in_child)
    assert row["remarks"] == ["imports cifar10_utils, pandas, seaborn: NumPy is enough"]


def test_a_module_is_gone_with_its_process_and_the_next_one_works():
    sources = with_elu("import os; os._exit(0)")
    with runner.in_child(sources) as submission:
        layer, elu = submission.fresh_linear(3, 2), submission.elu()
        with pytest.raises(Failure, match="ELUModule.forward ends the Python process"):
            elu.forward(np.ones((2, 2)))
        with pytest.raises(Failure, match="gone with its process"):
            layer.forward(np.ones((2, 3)))
        assert submission.fresh_linear(3, 2).forward(np.ones((2, 3))).shape == (2, 2)
        with pytest.raises(Failure, match="ELUModule.forward ends the Python process"):
            submission.elu().forward(np.ones((2, 2)))  # at once: it is not called again
