"""What the report measures: gradients, saturation, calibration, first layer; and the figures."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from common import ROOT, batch_bytes, md5_of, refused, use_small_files, write_files

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from plots import __main__ as plots
from plots import plot_best_model, style
from report import activations, best_model, checks, records

# Tanh and the ELU


@pytest.mark.parametrize("name", ["tanh", "elu"])
def test_saturated_are_the_outputs_where_the_derivative_is_small(name):
    mlp = MLP(4, [50, 30], 2, activation=name).double()
    inputs, shares = 5 * torch.randn(20, 4, dtype=torch.float64), []
    out = inputs
    for linear in mlp.linear_layers()[:-1]:
        x = linear(out).detach().requires_grad_()
        out = {"tanh": torch.tanh, "elu": torch.nn.functional.elu}[name](x)
        (derivative,) = torch.autograd.grad(out.sum(), x)
        shares.append((derivative < 0.05).double().mean().item())
    assert activations.saturation(mlp, name, inputs) == pytest.approx(shares)
    assert 0.05 < shares[0] < 0.95


@pytest.mark.parametrize(
    "standardize, rate, ends", [(False, 1e-3, True), (True, 1e-1, True), (False, 1e12, False)]
)
def test_a_measured_run_without_an_accuracy_is_one_that_diverged(
    standardize, rate, ends, monkeypatch
):
    rng = np.random.default_rng(0)
    train, test = ((rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n))
                   for n in (300, 1))  # fmt: skip
    data = cifar10_utils.make_splits("synthetic", train, test, False, 60, seed=1)
    monkeypatch.setattr(activations, "STEPS", 4)
    measured = activations.train(
        data, 2, activation="elu", standardize=standardize, learning_rate=rate, seed=1
    )
    assert (measured["val_accuracy"] is not None) == ends
    assert [len(measured[name]) for name in measured if name != "val_accuracy"] == [2] * ends


def test_what_happens_to_a_gradient_at_the_start():
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    for name in ("elu", "tanh"):
        # The root of E[h'(Z)^2] for each of ten layers, with the variance that each layer gets.
        assert 0.2 < activations.at_start(x, name, seed=1)["gradient"] < 0.4


# Gradients


def test_the_gradients_that_are_checked_are_right():
    found = checks.gradient_errors(np.random.default_rng(3))
    assert [len(gradients) for gradients in found.values()] == [3, 1, 1, 1]
    for gradients in found.values():
        for errors in gradients.values():
            assert errors["differences"] < 1e-7 and errors["pytorch"] < 1e-14


def test_a_wrong_gradient_has_an_error(monkeypatch):
    monkeypatch.setattr(checks.ELUModule, "backward", lambda self, dout: dout)
    error = checks.gradient_errors(np.random.default_rng(3))["ELUModule"]["x"]
    assert min(error.values()) > 0.1


# The best model


def test_the_temperature_is_the_one_worked_out_by_hand():
    # Three of four are right: the best probability is 3/4 = 1/(1 + exp(-1/T)), so T = 1/ln 3.
    logits, labels = np.tile([2.0, 1.0], (4, 1)), np.array([0, 0, 1, 0])
    assert best_model.fit_temperature(logits, labels) == pytest.approx(1 / math.log(3), rel=1e-9)


def test_the_calibration_is_the_one_worked_out_by_hand():
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.62, 0.38], [0.38, 0.62], [0.999, 0.001]])
    result = best_model.calibration(2 * np.log(p), np.array([0, 0, 0, 1, 0]), temperature=2)
    # In bin 9 both are right, in bin 13 one of two, in bin 14 the one.
    assert result["error"] == pytest.approx((2 * 0.38 + 0.8 + 0.001) / 5, abs=1e-4)
    assert result["bins"] == [[0.62, 0.9, 0.999], [1, 0.5, 1], [2, 2, 1]]
    expected = -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.62) + math.log(0.999)) / 5
    assert result["loss"] == pytest.approx(expected, abs=1e-4)


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    matrix = best_model.confusion_matrix(np.array([1, 1, 3, 0]), np.array([1, 2, 2, 0]))
    assert matrix.shape == (10, 10) and matrix.sum() == 4
    assert [matrix[0, 0], matrix[1, 1], matrix[2, 1], matrix[2, 3]] == [1, 1, 1, 1]


def test_neighbouring_weights_agree_or_not():
    rows, columns = np.mgrid[:32, :32]
    flat, board = np.ones((1, 3, 32, 32)), np.tile((-1.0) ** (rows + columns), (1, 3, 1, 1))
    noise = np.random.default_rng(0).standard_normal((50, 3, 32, 32))
    assert best_model.neighbour_similarity(flat) == 1
    assert best_model.neighbour_similarity(board) == -1
    assert abs(best_model.neighbour_similarity(noise)) < 0.01


def test_small_weights_are_below_a_tenth_of_the_root_mean_square():
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    normal = best_model.small_weights(weight)
    weight[:150] = 0
    assert normal == pytest.approx(0.08, abs=0.005)
    assert best_model.small_weights(weight) == pytest.approx(0.5 + 0.056 / 2, abs=0.005)


def test_the_units_shown_go_from_the_largest_weights_to_the_smallest():
    weights = np.zeros((5, 3, 16, 16), np.float32)
    weights[:, 0, ::2] = np.array([0.5, 2, -1, 3, 0.1])[:, None, None]
    weights[:, 0, 1::2] = -weights[:, 0, ::2]
    shown = best_model.sample(weights, 3)
    # One channel of three is not 0, so its weights are the square root of 3 standard deviations.
    step = round(127 * 3**0.5 / 3)
    assert (shown[:, 0, 0, 0].astype(int) - 128).tolist() == [step, step, -step]
    assert (shown[:, 0, 1, 0].astype(int) - 128).tolist() == [-step, -step, step]
    weights[0, 1, 0, 0] = 1000
    assert best_model.sample(weights, 1)[0, 1, 0, 0] == 255


@pytest.mark.parametrize("right", [-31, -2, 0, 5])
def test_moved_images_are_mean_coloured_at_the_edge(right):
    x = torch.arange(2 * 3 * 32 * 32.0).reshape(2, 3, 32, 32) + 1
    expected = torch.zeros_like(x)
    expected[..., max(right, 0) : 32 + min(right, 0)] = x[..., max(-right, 0) : 32 - max(right, 0)]
    assert torch.equal(best_model.moved(x, right), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with CIFAR-10 of 50 training and 10 test images, two finished runs on it, one with a
    validation split and one on all training images, and the records of a study of the second."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        files = use_small_files(monkeypatch)
        pixels = np.random.default_rng(1).integers(0, 256, (10, 3072), np.uint8)
        files["test_batch"] = batch_bytes(pixels, range(10))  # of every class one image
        monkeypatch.setitem(cifar10_utils.MD5, "test_batch", md5_of(files["test_batch"]))
        monkeypatch.setattr("training.folder.draw_curves", lambda *_: None)
        write_files(folder / cifar10_utils.FOLDER, files)
        flags = ["--data_dir", str(folder), "--dnn_hidden_units", "40,6", "--batch_size", "10"]
        flags += ["--max_steps", "6", "--eval_freq", "2", "--normalization", "batch", "--flip"]
        flags += ["--standardize", "--half_resolution", "--train_eval_size", "20", "--bfloat16"]
        flags += ["--test_at_end", "--test_time_augmentation"]
        for name, size, rate in (("validated", "10", "0.01"), ("final", "0", "0.02")):
            trainer.main([*flags, "--validation_size", size, "--learning_rate", rate,
                          "--run_dir", str(folder / name)])  # fmt: skip
        validated = str(folder / "validated")
        with monkeypatch.context() as results:
            results.setattr(records, "RESULTS", folder)
            best_model.main([str(folder / "final"), "--validated", validated, "--augmentation",
                             validated, validated, "--data_dir", str(folder)])  # fmt: skip
        yield folder


@pytest.fixture
def record(folder):
    return json.loads((folder / "best_model.json").read_text())


def test_the_study_finds_the_accuracy_that_the_run_recorded(record, folder):
    final = json.loads((folder / "final" / "run.json").read_text())
    assert record["test_accuracy"] == pytest.approx(final["test_accuracy"])
    assert record["calibration"]["before"]["loss"] == pytest.approx(final["test_loss"], abs=1e-3)
    assert np.trace(record["confusion"]) == round(10 * final["test_accuracy"])
    assert record["differing_flags"] == ["learning_rate"]
    assert record["validated"]["flags"]["validation_size"] == 10
    without = record["augmentation"]["without"]
    validated = best_model.load_run(folder / "validated", folder)
    _, unmoved = trainer.evaluate(validated.mlp, validated.validation.batches(10))
    assert without["moved"][without["moved_by"].index(0)] == pytest.approx(unmoved)
    pictures = np.load(folder / "best_model.npz")
    assert [(name, len(pictures[name])) for name in pictures] == [("run", 20)]


def test_what_cannot_be_studied_is_refused(folder, tmp_path):
    data = ["--data_dir", str(folder)]
    final = str(folder / "final")
    assert "has no validation split" in refused(best_model.main, [final, *data])
    assert "no finished run" in refused(best_model.main, [str(tmp_path), *data])
    shutil.copytree(final, tmp_path / "failed")
    file = tmp_path / "failed" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "failed"}))
    assert "no finished run" in refused(best_model.main, [str(file.parent), *data])


# Figures


@pytest.fixture(scope="module")
def figures():
    """Every figure of the records, by the name under which it is saved."""
    drawn = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(style, "save", lambda figure, name: drawn.update({name: figure}))
        plots.draw()
    return drawn


def test_every_figure_has_its_picture(figures):
    pictures = [path.stem for path in (ROOT / "plots").glob("*.png")]
    assert sorted(pictures) == sorted(figures)


def test_the_figure_of_the_learning_rates_has_every_run(figures):
    record = records.read("activations")
    cases = itertools.product(activations.RATES, activations.DEPTHS)
    for panel, (inputs, depth) in zip(figures["learning_rates"].axes, cases, strict=True):
        _, crosses, tanh, none = panel.lines
        runs = records.matching(record["runs"], activation="tanh", depth=depth, standardize=inputs)
        mean = np.mean([run["val_accuracy"] for run in runs])
        assert tanh.get_ydata().mean() == pytest.approx(mean) and not len(none.get_xdata())
        assert len(crosses.get_xdata()) > 0  # the ELU diverges at the highest rate
    n_rates = sum(map(len, activations.RATES.values()))
    assert len(record["runs"]) == 2 * n_rates * len(activations.DEPTHS) * len(activations.SEEDS)


def test_the_figures_on_the_best_model_are_drawn_from_its_record(record, folder, monkeypatch):
    drawn = {}
    monkeypatch.setattr(style, "save", lambda figure, name: drawn.update({name: figure}))
    plot_best_model.draw_confusion(record)
    plot_best_model.draw_calibration(record["calibration"])
    plot_best_model.draw_augmentation(record["augmentation"])
    order = [record["classes"].index(name) for name in plot_best_model.ORDER]
    shown = [int(text.get_text()) for text in drawn["best_model_confusion"].axes[0].texts]
    assert shown == np.array(record["confusion"])[np.ix_(order, order)].ravel().tolist()
    for line, when in zip(drawn["best_model_calibration"].axes[0].lines[1:], ("before", "after"),
                          strict=True):  # fmt: skip
        bins = record["calibration"][when]["bins"]
        assert line.get_xydata().T.tolist() == bins[:2]
        assert sum(bins[2]) == 10  # test images
    for line in drawn["best_model_augmentation"].axes[0].lines:
        assert line.get_ydata().tolist() == record["augmentation"]["without"]["moved"]


def test_tiles_stand_in_rows():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 3, 2, 2), np.uint8)
    grid = plot_best_model.tile(pictures, 2)
    assert grid.shape == (8, 8, 3)
    assert grid[1::4, 1::4, 0].tolist() == [[0, 1], [2, 3]]
    assert (grid[0] == 255).all() and (grid[:, 3:5] == 255).all()
