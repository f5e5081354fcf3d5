"""The two trainers: that both train alike, and what a run leaves behind.

Runs are made in this process, on a data folder of fifty training and ten test images.
"""

import importlib
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from common import interrupted, listing, needs_torch, outcome, record_of, rows_of

from cifar10_utils import get_cifar10
from training.files import load_weights
from training.folder import load_flags


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


@pytest.mark.parametrize("size", [0, 20])
def test_a_finished_run_leaves_the_weights_it_was_tested_with(size, run, data):
    """With a validation set those that were best on it, not the last ones."""
    flags = ["--learning_rate", 0.005, "--seed", 3, "--eval_freq", 1]
    folder = run("a", "--validation_size", size, *flags)
    mlp = run.trainer.make_mlp(load_flags(folder))
    mlp.load_state_dict(load_weights(folder))

    def scores(split):
        batch = split.images, split.labels
        if run.framework == "pytorch":
            batch = map(importlib.import_module("torch").from_numpy, batch)
        return run.trainer.evaluate(mlp, [batch])

    record, cifar10 = record_of(folder), get_cifar10(data, validation_size=size)
    tested = record["test_loss"], record["test_accuracy"]
    assert tested == pytest.approx(scores(cifar10.test), rel=1e-5)
    if size:
        names = ["step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
        assert list(run.history) == names
        best = np.argmax(run.history["val_accuracy"])
        assert 0 < best < 12  # neither the first weights nor the last
        found = run.history["val_loss"][best], run.history["val_accuracy"][best]
        assert found == pytest.approx(scores(cifar10.validation), rel=1e-5)


def test_evaluation_averages_over_samples_and_keeps_no_caches(run):
    """Also over batches of unequal sizes."""
    mlp, rng = run.trainer.MLP(4, [3], 2), np.random.default_rng(0)
    x = rng.standard_normal((7, 4), np.float32)
    y = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 0, 0, 1]]
    if run.framework == "pytorch":
        x, y = map(importlib.import_module("torch").from_numpy, (x, y))
    [*mlp.state_dict().values()][-2][:] = x[:2, :3]  # the last layer starts at zero
    whole = run.trainer.evaluate(mlp, [(x, y)])
    parts = run.trainer.evaluate(mlp, [(x[:1], y[:1]), (x[1:], y[1:])])
    assert parts == pytest.approx(whole, rel=1e-6)
    if run.framework == "numpy":
        with pytest.raises(RuntimeError, match="call forward first"):
            mlp.backward(y)


def test_scores_may_be_scalars_of_numpy_and_tensors(run, monkeypatch):
    """As an evaluate returns them that somebody else wrote; JSON knows neither."""
    run("whole")
    whole, evaluate = run.history, run.trainer.evaluate
    scalar = np.float32 if run.framework == "numpy" else importlib.import_module("torch").tensor

    def evaluated(*arguments):
        scores = evaluate(*arguments)
        return scores and tuple(map(scalar, scores))

    monkeypatch.setattr(run.trainer, "evaluate", evaluated)
    run("a")
    for name, column in whole.items():
        assert run.history[name] == pytest.approx(column, rel=1e-6)


ENDS = [  # of options of the PyTorch trainer
    ["--normalization", "layer", "--dropout", 0.99],
    ["--standardize"],  # every standard deviation is 0
    ["--random_affine", 1, "--shift", 31, "--flip", "--mixup", 1],
    ["--optimizer", "adam", "--weight_decay", 1000, "--l1_decay", 1000],
]


def test_extremes_end_well_or_with_the_sentence_about_the_loss(run):
    """And with finite rows, and no warning, which is an error here."""

    def ends_well(*flags):
        name = str(flags)
        status, said = outcome(run, name, "--dnn_hidden_units", "8,8", "--batch_size", 5, *flags)
        assert status == 0 or "try a smaller one" in said
        cells = [float(cell) for row in rows_of(run.folder / name) for cell in row.values()]
        assert np.isfinite(cells).all()
        return status == 0

    rates = ["1e-38", "1e-12", "1e-6", "1e-3", "1", "1e3", "1e6", "1e12", "1e38"]
    ended = [ends_well("--learning_rate", rate) for rate in rates]
    assert ended == sorted(ended, reverse=True)  # small rates end well, then large ones do not
    assert ended[3] and not ended[-2]
    one_example = ["--batch_size", 1, "--validation_size", 49, "--learning_rate", 1]
    assert ends_well(*one_example)
    assert run.history["train_loss"][-1] < 0.5  # from the biases alone: less its mean it is zero
    for options in ENDS if run.framework == "pytorch" else []:
        assert ends_well(*one_example, *options)


# Pictures of several runs


@pytest.mark.parametrize("trainer", ["numpy"], indirect=True)
def test_the_curves_of_several_runs_are_compared(run, data, monkeypatch):
    """Of both trainers, finished or not, with columns of the validation or the test set."""
    compare = importlib.import_module("plots.compare").main
    one, other = run("a"), run("b", "--validation_size", 5)
    runs = [one, other, interrupted(run, "$_$")]
    if find_spec("torch"):
        main = importlib.import_module("train_mlp_pytorch").main
        flags = ["--data_dir", data, "--max_steps", "1", "--batch_size", "20", "--run_dir"]
        main([*flags, str(run.folder / "pytorch")])
        runs.append(run.folder / "pytorch")
    runs += [Path(one, *i * ["..", "a"]) for i in range(1, 9)]  # so that the legend is long
    monkeypatch.chdir(run.folder)
    (one / "metrics.csv").write_text((one / "metrics.csv").read_text(), "utf-8-sig")  # as Excel
    compare(list(map(str, runs)))
    assert (run.folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    (other / "metrics.csv").write_text("a,b\n1,2\n")
    before = listing(run.folder)
    for argv in ([], ["nowhere"], [run.folder], [other], [one, "--out", "nowhere/x.png"],
                 [one, "--out", "x.pdf"], [one, "--out", "a"],
                 [one, "--out", 300 * "a" + "/x.png"], ["~nobody"]):  # fmt: skip
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
        ([record], ["run 0"]),
    ):
        runs = {Path(f"run {i}"): (record, {}) for i, record in enumerate(runs)}
        assert list(labels(runs).values()) == expected
