"""Numbers at the extremes: gradients against PyTorch's, and whole runs that end with finite results
or with the sentence about the loss, never with a warning (an error here).
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from common import batch_bytes, md5_of, outcome, rows_of
from torch.nn import functional as F

import cifar10_utils
from mlp_numpy import MLP
from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule

TINY = np.finfo(float).tiny
CASES = {  # scale of the inputs, the first weights, the second weights, the biases
    "plain": (1, 1, 1, 1),
    "tiny everything": (1e-12, 1e-12, 1e-12, 1e-12),
    "inputs of 1e30": (1e30, 1e-30, 1, 1),
    "inputs of 1e-30": (1e-30, 1e30, 1, 1),
    "deep in the ELU's flat part": (10, 6, 1, 1),
    "linear far out": (1e8, 1, 1e-8, 1),
    "saturated softmax": (1, 1, 40, 1),
    "softmax beyond what exp can hold": (1, 1, 600, 1),
    "huge biases": (1, 1, 1, 200),
    "one pixel's range": (255, 0.01, 3, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_loss_and_every_gradient_against_autograd(case):
    size, *weights, bias = CASES[case]
    rng, mlp, samples = np.random.default_rng(5), MLP(3, [4], 3), 4
    linears, tensors = mlp.modules[::2], []
    for linear, weight in zip(linears, weights, strict=True):
        linear.params["weight"] = weight * rng.standard_normal(linear.params["weight"].shape)
        linear.params["bias"] = bias * rng.standard_normal(linear.params["bias"].shape)
        tensors.append([torch.tensor(p, requires_grad=True) for p in linear.params.values()])
    x = size * rng.standard_normal((samples, 3))
    labels = rng.integers(0, 3, samples)
    cross_entropy = CrossEntropyModule()
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        probabilities = mlp.forward(x)
        loss = cross_entropy.forward(probabilities, labels)
        mlp.backward(cross_entropy.backward(probabilities, labels))
    (weight_1, bias_1), (weight_2, bias_2) = tensors
    hidden = F.elu(torch.from_numpy(x) @ weight_1.T + bias_1)
    logits = hidden @ weight_2.T + bias_2
    expected = F.cross_entropy(logits, torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(probabilities, logits.detach().softmax(dim=1), 1e-12, TINY)
    if probabilities[range(samples), labels].min() > TINY:  # else the loss is that of the floor
        assert loss == pytest.approx(expected.item(), rel=1e-13)
    for linear, pair in zip(linears, tensors, strict=True):
        for ours, theirs in zip(linear.grads.values(), pair, strict=True):
            scale = theirs.grad.abs().max()
            np.testing.assert_allclose(ours, theirs.grad, rtol=1e-12, atol=2e-14 * scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_stay_finite_and_silent_over_sixty_orders_of_magnitude(dtype):
    rng = np.random.default_rng(0)
    sizes = [0, 1e-30, 1e-7, 1, 1e7, 1e30]
    modules = [LinearModule(3, 3, dtype=dtype, rng=rng), ELUModule(), SoftMaxModule()]
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        for module, size, slope in itertools.product(modules, sizes, sizes[:-1]):
            x = (size * rng.standard_normal((4, 3))).astype(dtype)
            dout = (slope * rng.standard_normal((4, 3))).astype(dtype)
            out, dx = module.forward(x), module.backward(dout)
            assert np.isfinite(out).all() and np.isfinite(dx).all()
            assert all(np.isfinite(g).all() for g in module.grads.values())


# Whole runs ---------------------------------------------------------------------------------------


@pytest.fixture
def finite(trainer, data, tmp_path):
    """Trains with the flags given, asserts that all that was recorded is finite, and returns the
    rows of metrics.csv, where the run ended well."""
    number = itertools.count()

    def finite(*flags):
        folder = tmp_path / str(next(number))
        base = ["--data_dir", data, "--max_steps", "20", "--eval_freq", "5", "--batch_size", "5"]
        base.extend(["--dnn_hidden_units", "8,8", "--run_dir", str(folder)])
        status, said = outcome(trainer.main, [*base, *map(str, flags)])
        assert status == 0 or "try a smaller one" in said
        rows = rows_of(folder)
        values = [float(value) for row in rows for value in row.values()]
        assert np.isfinite(values).all()
        return rows if status == 0 else None

    finite.options = hasattr(trainer, "make_parser")
    return finite


def replace_data(data, monkeypatch, pixels=None, labels=None, n=10):
    """Puts other images into the files of the folder data."""
    monkeypatch.setattr(cifar10_utils, "IMAGES_PER_FILE", n)
    rng = np.random.default_rng(0)
    for name in cifar10_utils.MD5:
        if name != "batches.meta":
            images = rng.integers(0, 256, (n, 3072)) if pixels is None else pixels(name, n)
            numbers = rng.integers(0, 10, n) if labels is None else [labels] * n
            raw = batch_bytes(np.array(images, np.uint8), numbers)
            (Path(data) / name).write_bytes(raw)
            monkeypatch.setitem(cifar10_utils.MD5, name, md5_of(raw))


def test_any_learning_rate(finite):
    ended = [finite("--learning_rate", f"1e{i}") is not None for i in range(-12, 13, 2)]
    assert ended == sorted(ended, reverse=True)  # small rates end well, then large ones do not
    assert ended[4] and not ended[-1]
    for rate in ("1e-320", "1e38", "1e300", "1e308"):
        finite("--learning_rate", rate)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_any_learning_rate_of_adam(finite, optimizer):
    if finite.options:
        for rate in ("1e-12", "1e-3", "1e6", "1e12", "1e300"):
            finite("--learning_rate", rate, "--optimizer", optimizer)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_constant_images(finite, level, data, monkeypatch):
    replace_data(data, monkeypatch, pixels=lambda name, n: np.full((n, 3072), level))
    assert len({row["test_loss"] for row in finite()}) > 1  # the biases learn
    if finite.options:
        assert finite("--standardize")
        assert finite("--normalization", "batch")
        assert finite("--normalization", "layer")


def test_training_images_all_black_and_test_images_all_white(finite, data, monkeypatch):
    replace_data(
        data, monkeypatch, pixels=lambda name, n: np.full((n, 3072), 255 * (name == "test_batch"))
    )
    assert finite()
    if finite.options:
        assert finite("--standardize")
        finite("--normalization", "batch")


def test_one_class_only(finite, data, monkeypatch):
    replace_data(data, monkeypatch, labels=3)
    rows = finite("--learning_rate", "0.1")
    assert float(rows[-1]["test_accuracy"]) == 1
    finite("--learning_rate", "1e4")


def test_one_example(finite, data, monkeypatch):
    replace_data(data, monkeypatch, n=1)
    rows = finite("--batch_size", 1, "--validation_size", 4, "--learning_rate", "1")
    assert float(rows[-1]["train_loss"]) < 0.2  # from the biases alone: less its mean it is zero
    if finite.options:
        assert finite("--batch_size", 1, "--validation_size", 4, "--normalization", "layer")


def test_batches_of_one(finite):
    assert finite("--batch_size", 1)
    if finite.options:
        assert finite("--batch_size", 1, "--normalization", "layer", "--dropout", 0.9)


def test_options_at_their_ends(finite):
    if finite.options:
        assert finite("--dropout", 0.99)
        assert finite("--distortion", 1, "--shift", 31, "--flip")
        finite("--weight_decay", 1000, "--l1", 1000, "--momentum", 0.9999)


@pytest.mark.parametrize("size", [1e30, 3e38])
def test_inputs_of_any_size(finite, size, monkeypatch):
    split = cifar10_utils._split

    def shifted(*args):
        splits = split(*args)
        for data in (splits.train, splits.test):
            data.mean[:] = -size
        return splits

    monkeypatch.setattr(cifar10_utils, "_split", shifted)
    finite()
    finite("--learning_rate", "1e-30")
    finite("--dnn_hidden_units", "")
