"""What the report measures: gradients, saturation, calibration, first layer; and the figures."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from common import batch_bytes, md5_of, refused, use_small_files, write_files

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from plots import plot_best_model, plot_learning_rates, style
from report import activations, best_model, checks, records
from training.data import get_synthetic


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn during a test, by the name under which they would be saved."""
    drawn = {}

    def keep(figure, name):
        figure.draw_without_rendering()
        drawn[name] = figure

    monkeypatch.setattr(style, "save", keep)
    return drawn


# Saturation


@pytest.mark.parametrize("activation, share", [("tanh", 2 / 4), ("elu", 1 / 4)])
def test_saturated_are_the_outputs_where_the_derivative_is_small(activation, share):
    mlp = MLP(1, [2], 2, activation=activation)
    with torch.no_grad():
        mlp.linear_layers()[0].weight.copy_(torch.tensor([[10.0], [0.5]]))
    # Inputs of the units: 10 and 0.5 for one image, -10 and -0.5 for the other.
    x = torch.tensor([[1.0], [-1.0]])
    assert activations.saturation(mlp, activation, x) == [share]


@pytest.mark.parametrize("activation", ["tanh", "elu"])
def test_the_derivative_follows_from_the_output(activation):
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()  # without a kink at 0
    out = {"tanh": torch.tanh, "elu": torch.nn.functional.elu}[activation](x)
    out.sum().backward()
    torch.testing.assert_close(activations.derivative(activation, out.detach()), x.grad)


@pytest.fixture(scope="module")
def synthetic():
    return get_synthetic(one_hot=False, validation_size=500)


@pytest.mark.parametrize(
    "standardize, rate, ends", [(False, 1e-3, True), (True, 1e-1, True), (False, 1e12, False)]
)
def test_a_measured_run_without_an_accuracy_is_one_that_diverged(
    standardize, rate, ends, synthetic, monkeypatch
):
    monkeypatch.setattr(activations, "STEPS", 4)
    measured = activations.train(synthetic, "elu", 2, standardize, rate, seed=1)
    assert (measured["val_accuracy"] is not None) == ends
    assert [len(measured[name]) for name in measured if name != "val_accuracy"] == [2] * ends


# Calibration


def test_the_temperature_is_the_one_worked_out_by_hand():
    # Three of four are right: the best probability is 3/4 = 1/(1 + exp(-1/T)), so T = 1/ln 3.
    logits = np.tile([2.0, 1.0], (4, 1))
    labels = np.array([0, 0, 1, 0])
    assert best_model.fit_temperature(logits, labels) == pytest.approx(1 / math.log(3), rel=1e-9)


def test_probabilities_at_a_temperature():
    p = best_model.probabilities(np.array([[1000.0, 1000 - 2 * math.log(3)]]), temperature=2)
    assert p == pytest.approx(np.array([[0.75, 0.25]]))


def test_the_calibration_is_the_one_worked_out_by_hand():
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.62, 0.38], [0.38, 0.62], [0.999, 0.001]])
    result = best_model.calibration(2 * np.log(p), np.array([0, 0, 0, 1, 0]), temperature=2)
    # In bin 9 both are right, in bin 13 one of two, in bin 14 the one.
    assert result["error"] == pytest.approx((2 * 0.38 + 0.8 + 0.001) / 5, abs=1e-4)
    expected = -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.62) + math.log(0.999)) / 5
    assert result["loss"] == pytest.approx(expected, abs=1e-4)


# Confusion


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    matrix = best_model.confusion_matrix(np.array([1, 1, 3, 0]), np.array([1, 2, 2, 0]))
    assert matrix.shape == (10, 10) and matrix.sum() == 4
    assert [matrix[0, 0], matrix[1, 1], matrix[2, 1], matrix[2, 3]] == [1, 1, 1, 1]


# The first layer


def test_neighbouring_weights_agree_or_not():
    rows, columns = np.mgrid[:32, :32]
    flat, board = np.ones((1, 3, 32, 32)), np.tile((-1.0) ** (rows + columns), (1, 3, 1, 1))
    noise = np.random.default_rng(0).standard_normal((50, 3, 32, 32))
    assert best_model.neighbour_similarity(flat) == 1
    assert best_model.neighbour_similarity(board) == -1
    assert abs(best_model.neighbour_similarity(noise)) < 0.01


def test_the_units_shown_go_from_the_largest_weights_to_the_smallest():
    weights = np.zeros((5, 3, 16, 16), np.float32)
    weights[:, 0, ::2] = np.array([0.5, 2, -1, 3, 0.1])[:, None, None]
    weights[:, 0, 1::2] = -weights[:, 0, ::2]
    shown = best_model.sample(weights, 3)
    assert shown.dtype == np.uint8 and shown.shape == (3, 3, 16, 16)
    # One channel of three is not 0, so its weights are the square root of 3 standard deviations.
    step = round(127 * 3**0.5 / 3)
    assert shown[:, 0, :2, 0].tolist() == [
        [128 + step, 128 - step], [128 + step, 128 - step], [128 - step, 128 + step],
    ]  # fmt: skip
    weights[0, 1, 0, 0] = 1000
    assert best_model.sample(weights, 1)[0, 1, 0, 0] == 255


def test_tiles_stand_in_rows():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 3, 2, 2), np.uint8)
    grid = plot_best_model.tile(pictures, 2)
    assert grid.shape == (8, 8, 3)
    assert grid[1::4, 1::4, 0].tolist() == [[0, 1], [2, 3]]
    assert (grid[0] == 255).all() and (grid[:, 3:5] == 255).all()


# Augmentation


@pytest.mark.parametrize("right", [-31, -2, 0, 1, 5])
def test_moved_images_are_mean_coloured_at_the_edge(right):
    x = torch.arange(2 * 3 * 32 * 32.0).reshape(2, 3, 32, 32) + 1
    out = best_model.moved(x, right)
    for column in range(32):
        source = column - right
        expected = x[..., source] if 0 <= source < 32 else torch.zeros(2, 3, 32)
        assert torch.equal(out[..., column], expected)


# A run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with CIFAR-10 of 50 training and 10 test images, and two finished runs on it: one
    with a validation split, one on all training images."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        files = use_small_files(monkeypatch)
        pixels = np.random.default_rng(1).integers(0, 256, (10, 3072), np.uint8)
        files["test_batch"] = batch_bytes(pixels, range(10))  # of every class one image
        monkeypatch.setitem(cifar10_utils.MD5, "test_batch", md5_of(files["test_batch"]))
        write_files(folder / cifar10_utils.FOLDER, files)
        flags = ["--data_dir", str(folder), "--dnn_hidden_units", "40,6", "--batch_size", "10"]
        flags += ["--max_steps", "6", "--eval_freq", "2", "--normalization", "batch", "--flip"]
        flags += ["--standardize", "--half_resolution", "--train_eval_size", "20", "--bfloat16"]
        flags += ["--test_at_end", "--test_time_augmentation"]
        for name, size, rate in (("validated", "10", "0.01"), ("final", "0", "0.02")):
            trainer.main([*flags, "--validation_size", size, "--learning_rate", rate,
                          "--run_dir", str(folder / name)])  # fmt: skip
        yield folder


@pytest.fixture(scope="module")
def record(folder):
    """The record of a study of the final run."""
    validated = str(folder / "validated")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(records, "RESULTS", folder)
        argv = ["--validated", validated, "--augmentation", validated, validated]
        best_model.main([str(folder / "final"), *argv, "--data_dir", str(folder)])
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


def test_a_temperature_needs_a_validation_split(folder):
    argv = [str(folder / "final"), "--data_dir", str(folder)]
    assert "has no validation split" in refused(best_model.main, argv)


def test_a_folder_without_a_finished_run_is_refused(folder, tmp_path):
    argv = [str(tmp_path), "--data_dir", str(folder)]
    assert "no finished run" in refused(best_model.main, argv)
    unfinished = json.loads((folder / "final" / "run.json").read_text()) | {"status": "failed"}
    (tmp_path / "run.json").write_text(json.dumps(unfinished))
    (tmp_path / "metrics.csv").write_bytes((folder / "final" / "metrics.csv").read_bytes())
    assert "no finished run" in refused(best_model.main, argv)


# Figures


def test_the_figures_on_the_best_model_are_drawn_from_its_records(
    record, folder, figures, monkeypatch
):
    for name in ("best-cpu", "best-cpu-validated"):
        shutil.copy(records.RESULTS / f"{name}.json", folder)
    monkeypatch.setattr(records, "RESULTS", folder)
    plot_best_model.draw()
    names = "augmentation", "calibration", "confusion", "curves", "first_layer"
    assert sorted(figures) == [f"best_model_{name}" for name in names]
    order = [best_model.CLASSES.index(name) for name in plot_best_model.ORDER]
    shown = [int(text.get_text()) for text in figures["best_model_confusion"].axes[0].texts]
    assert shown == np.array(record["confusion"])[np.ix_(order, order)].ravel().tolist()
    diagonal, before, after = figures["best_model_calibration"].axes[0].lines
    for line, when in ((before, "before"), (after, "after")):
        bins = record["calibration"][when]["bins"]
        assert line.get_xydata().T.tolist() == bins[:2]
        assert sum(bins[2]) == 10  # test images


def test_the_figure_of_the_learning_rates_is_drawn_from_its_record(figures):
    record = records.read("activations")
    plot_learning_rates.draw()
    panels = figures["learning_rates"].axes
    for panel, (inputs, depth) in zip(
        panels, itertools.product(activations.RATES, activations.DEPTHS), strict=True
    ):
        elu, crosses, tanh, none = panel.lines
        points = records.activation_points(record, "tanh", depth, inputs)
        assert tanh.get_ydata().tolist() == list(points.values()) and not len(none.get_xdata())
        assert len(crosses.get_xdata()) > 0  # the ELU diverges at the highest rate
    n_rates = sum(map(len, activations.RATES.values()))
    assert len(record["runs"]) == 2 * n_rates * len(activations.DEPTHS) * len(activations.SEEDS)


# Checks


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


def test_what_happens_to_a_gradient_at_the_start():
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    for name in ("elu", "tanh"):
        start = activations.at_start(x, name, seed=1)
        assert 0.2 < start["gradient"] < 0.4  # the root of E[h'(Z)^2] for each of ten layers
        assert len(start["saturated"]) == activations.START_DEPTH
