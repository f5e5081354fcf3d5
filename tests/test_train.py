"""The two trainers: that both train alike, and what a run leaves behind.

Runs are made in this process, on a data folder of fifty training and ten test images.
"""

import importlib
import os
import re
from importlib.util import find_spec

import numpy as np
import pytest
from common import interrupted, listing, needs_torch, outcome, record_of, rows_of

from cifar10_utils import get_cifar10
from training.files import load_weights


@needs_torch
def test_both_trainers_draw_the_same_curves(data, tmp_path, no_curves):
    """From the same flags: the same weights, batches and steps, up to the rounding of float32."""
    flags = ["--data_dir", data, "--max_steps", "50", "--batch_size", "20", "--eval_freq", "1"]
    flags += ["--dnn_hidden_units", "20,15", "--validation_size", "10"]
    mains = [importlib.import_module(f"train_mlp_{name}").main for name in ("numpy", "pytorch")]
    one, two = (main([*flags, "--run_dir", f"{tmp_path}/{main.__module__}"]) for main in mains)
    assert one["train_loss"][-1] < one["train_loss"][0] - 0.1
    for column in one:
        np.testing.assert_allclose(one[column], two[column], rtol=1e-4, atol=1e-7)


def test_the_files_of_a_run(run, capsys):
    folder = run("a")
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split(".")[0] for name in names] == ["checkpoint", "curves", "metrics", "run"]
    record = record_of(folder)
    assert record["status"] == "completed" and record["dataset"] == "cifar10"
    assert record["seed"] == 42 and record["flags"]["batch_size"] == 20 and record["steps"] == 12
    assert (record["processes"], record["precision"]) == (1, "float32")
    assert record["versions"]["numpy"] == np.__version__
    assert record["train_seconds"] > 0
    assert os.name != "posix" or 30 < record["peak_rss_mb"] < 50_000
    rows = rows_of(folder)
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 12]
    assert float(rows[-1]["test_accuracy"]) == record["test_accuracy"]
    assert float(rows[-1]["test_loss"]) == record["test_loss"]
    assert float(rows[0]["test_loss"]) == pytest.approx(np.log(10), rel=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert str(folder) in lines[-2]
    pattern = r"test accuracy (\d\.\d{4}) \(cifar10, 12 steps, \d+\.\d s\)"
    assert re.fullmatch(pattern, lines[-1])[1] == f"{record['test_accuracy']:.4f}"
    before = listing(folder)
    run("a", "--resume")  # prints them again, and changes nothing
    assert capsys.readouterr().out.splitlines() == lines[-2:] and listing(folder) == before


def test_train_columns_are_means_since_the_row_before(run):
    every = rows_of(run("a", "--eval_freq", "1"))
    some = rows_of(run("b"))
    for name in ("train_loss", "train_accuracy"):
        values = [float(row[name]) for row in every]
        means = [values[0], np.mean(values[1:6]), np.mean(values[6:11]), np.mean(values[11:13])]
        np.testing.assert_allclose([float(row[name]) for row in some], means)
    first = [float(row["train_loss"]) for row in every[:2]]  # both: first batch, first weights
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert some[-1]["test_loss"] == every[-1]["test_loss"]  # evaluation does not disturb training


def test_the_same_seed_gives_the_same_file_and_another_does_not(run):
    one, same, other = (
        (run(name, "--seed", seed) / "metrics.csv").read_bytes()
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert one == same != other


def test_the_default_run_folder(trainer, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        trainer.main(["--data_dir", data, "--max_steps", "1", "--batch_size", "50"])
    name = trainer.__name__.removeprefix("train_mlp_") + r"-\d{8}-\d{6}-\d{6}"
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2 and all(re.fullmatch(name, found) for found in names)


def test_the_best_weights_on_validation_are_restored(run, monkeypatch):
    """The accuracies on validation are dictated: step 2 is best, so its weights must be tested."""
    seen, accuracies = [], iter([0.5, 0.1, 0.2, 0.9, 0.3, 0.9])  # the first: of the first batch

    def evaluate(network, batches, *_):
        weights = {name: value + 0 for name, value in network.state_dict().items()}
        if n := sum(len(x) for x, _ in batches):
            seen.append((n, weights))
            return 1.0, next(accuracies, 0.5)

    monkeypatch.setattr(run.trainer, "evaluate", evaluate)
    run("a", "--validation_size", 20, "--eval_freq", 1, "--batch_size", 10, steps=4)
    columns = ["step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert list(run.history) == columns
    assert [n for n, _ in seen] == [10] + [20] * 5 + [10]  # the test set once, at the end
    equal = [all((w[k] == seen[-1][1][k]).all() for k in w) for _, w in seen[1:]]
    assert equal == [False, False, True, False, False, True]


@pytest.mark.parametrize("size", [0, 20])
def test_the_weights_of_a_finished_run_are_those_it_was_tested_with(size, run, data):
    folder = run("a", "--learning_rate", 0.01, "--validation_size", size, "--eval_freq", 1)
    mlp = importlib.import_module(f"mlp_{run.framework}").MLP(3072, [8], 10)
    mlp.load_state_dict(load_weights(folder))
    test_set = get_cifar10(data, validation_size=size).test
    batch = tensors(run, test_set.images, test_set.labels)
    loss, accuracy = run.trainer.evaluate(mlp, [batch])
    record = record_of(folder)
    assert loss == pytest.approx(record["test_loss"], rel=1e-5)
    assert accuracy == record["test_accuracy"]


def test_evaluation_averages_over_samples_and_keeps_no_caches(run):
    """Also over batches of unequal sizes."""
    mlp, rng = run.trainer.MLP(4, [3], 2), np.random.default_rng(0)
    x = rng.standard_normal((7, 4), np.float32)
    y = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 0, 0, 1]]
    x, y = tensors(run, x, y)
    list(mlp.state_dict().values())[-2][:] = x[:2, :3]  # the last layer starts at zero
    whole = run.trainer.evaluate(mlp, [(x, y)])
    parts = run.trainer.evaluate(mlp, [(x[:1], y[:1]), (x[1:], y[1:])])
    assert parts == pytest.approx(whole, rel=1e-6)
    if run.framework == "numpy":
        with pytest.raises(RuntimeError, match="call forward first"):
            mlp.backward(y)


def tensors(run, *arrays):
    """The arrays as run's trainer takes them."""
    return (
        map(importlib.import_module("torch").from_numpy, arrays)
        if run.framework == "pytorch"
        else arrays
    )


# Runs at the extremes end well, or with the sentence about the loss; a warning is an error here


def rows(run, name, *flags):
    """The rows of a run, all finite; None where the loss became too large."""
    folder = run.folder / name
    status, said = outcome(run, name, "--dnn_hidden_units", "8,8", "--batch_size", 5, *flags)
    assert status == 0 or "try a smaller one" in said
    assert np.isfinite([float(value) for row in rows_of(folder) for value in row.values()]).all()
    return rows_of(folder) if status == 0 else None


def test_any_learning_rate(run):
    rates = ["1e-38", "1e-12", "1e-6", "1e-3", "1", "1e3", "1e6", "1e12", "1e38"]
    ended = [rows(run, rate, "--learning_rate", rate) is not None for rate in rates]
    assert ended == sorted(ended, reverse=True)  # small rates end well, then large ones do not
    assert ended[3] and not ended[-2]


def test_one_example_and_options_at_their_ends(run):
    flags = ["--batch_size", 1, "--validation_size", 49, "--learning_rate", 1, "--max_steps", 20]
    last = rows(run, "one", *flags)[-1]
    assert float(last["train_loss"]) < 0.2  # from the biases alone: less its mean it is zero
    for options in (
        ["--normalization", "layer", "--dropout", 0.99],
        ["--standardize"],  # every standard deviation is 0
        ["--random_affine", 1, "--shift", 31, "--flip", "--mixup", 1],
        ["--optimizer", "adam", "--weight_decay", 1000, "--l1", 1000],
    ):
        if run.framework == "pytorch":
            assert rows(run, options[0], *flags, *options)


# Pictures of several runs


@pytest.mark.parametrize("trainer", ["numpy"], indirect=True)
def test_the_curves_of_several_runs_are_compared(run, data, monkeypatch):
    """Of both trainers, finished or not, with columns of the validation or the test set."""
    compare = importlib.import_module("plots.compare").main
    one, other = run("a"), run("b", "--validation_size", 5)
    runs = [one, other, interrupted(run, "c")]
    if find_spec("torch"):
        main = importlib.import_module("train_mlp_pytorch").main
        flags = ["--data_dir", data, "--max_steps", "1", "--batch_size", "20", "--run_dir"]
        main([*flags, str(run.folder / "pytorch")])
        runs.append(run.folder / "pytorch")
    monkeypatch.chdir(run.folder)
    compare(list(map(str, runs)))
    assert (run.folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    (other / "metrics.csv").write_text("a,b\n1,2\n")
    before = listing(run.folder)
    for argv in ([], ["nowhere"], [run.folder], [other], [one, "--out", "nowhere/x.png"],
                 [one, "--out", "x.pdf"], [one, "--out", "a"]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            compare(list(map(str, argv)))
        assert end.value.code == 2 and listing(run.folder) == before


def test_the_legend_of_a_comparison_names_what_differs_and_synthetic_data():
    labels = importlib.import_module("plots.compare").labels
    flags = {"seed": 1, "synthetic": False}  # as where CIFAR-10 could not be downloaded
    record = {"framework": "numpy", "dataset": "cifar10", "flags": flags}
    other = {"framework": "pytorch", "dataset": "cifar10", "flags": {**flags, "seed": 2}}
    invented = {**record, "dataset": "synthetic"}
    for runs, expected in (
        ([record, other], ["trainer NumPy, seed 1", "trainer PyTorch, seed 2"]),
        ([record, invented], ["data cifar10", "data synthetic"]),
        ([invented], ["data synthetic"]),
    ):
        runs = {str(i): (record, {}) for i, record in enumerate(runs)}
        assert list(labels(runs).values()) == expected
