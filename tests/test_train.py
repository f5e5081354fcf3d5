"""The two trainers: that both train alike, and what a run leaves behind.

Runs are made in this process, on a data folder of fifty training and ten test images.
"""

import os
import re

import numpy as np
import pytest
import torch
from common import listing, record_of, rows_of

import mlp_numpy
import mlp_pytorch
import train_mlp_numpy
import train_mlp_pytorch
from cifar10_utils import get_cifar10
from training import flags as every_flag
from training.curves import draw_curves
from training.data_pytorch import TensorData
from training.files import load_weights


def parsed(*argv):
    """The flags of both trainers."""
    return every_flag.parse(train_mlp_pytorch.make_parser(), argv)


# Both trainers


def test_both_trainers_agree_in_float64_over_fifty_steps(data, monkeypatch, tmp_path, no_curves):
    """The trainers themselves, with the networks in float64: every loss to 1e-9."""
    monkeypatch.setattr(
        train_mlp_numpy, "MLP", lambda *a, dtype, **k: mlp_numpy.MLP(*a, dtype=np.float64, **k)
    )
    monkeypatch.setattr(
        train_mlp_pytorch, "MLP", lambda *a, **k: mlp_pytorch.MLP(*a, dtype=torch.float64, **k)
    )
    as_float = TensorData._as_float
    monkeypatch.setattr(TensorData, "_as_float", lambda *a: as_float(*a).double())
    flags = ["--data_dir", data, "--max_steps", "50", "--batch_size", "20", "--eval_freq", "1"]
    flags += ["--dnn_hidden_units", "20,15"]
    one, two = (
        main([*flags, "--run_dir", str(tmp_path / name)])
        for name, main in (("numpy", train_mlp_numpy.main), ("pytorch", train_mlp_pytorch.main))
    )
    assert one["train_loss"][-1] < one["train_loss"][0] - 0.1
    for column in one:
        np.testing.assert_allclose(one[column], two[column], rtol=1e-9, atol=1e-7)
    for column in ("train_loss", "test_loss"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-9)


# What a run leaves


def test_the_files_of_a_run(run, capsys, monkeypatch):
    monkeypatch.setattr("training.folder.draw_curves", draw_curves)
    folder = run("a")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["run.json", "metrics.csv", "curves.png", next(folder.glob("checkpoint.*")).name]
    )
    record = record_of(folder)
    assert record["status"] == "completed" and record["dataset"] == "cifar10"
    assert record["seed"] == 42 and record["flags"]["batch_size"] == 20 and record["steps"] == 12
    assert record["versions"]["numpy"] == np.__version__
    assert 0 < record["train_seconds"] < 5
    assert 30 < record["peak_rss_mb"] < 5000 if os.name == "posix" else "peak_rss_mb" in record
    rows = rows_of(folder)
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 12]
    assert float(rows[-1]["test_accuracy"]) == record["test_accuracy"]
    assert float(rows[-1]["test_loss"]) == record["test_loss"]
    assert float(rows[0]["test_loss"]) == pytest.approx(np.log(10), rel=1e-6)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.splitlines()[-1]
    pattern = r"test accuracy \d\.\d{4} \(cifar10, 12 steps, \d+\.\d s\)"
    assert re.fullmatch(pattern, last) and f"{record['test_accuracy']:.4f}" in last


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
    first, same = run("a", "--seed", "5"), run("b", "--seed", "5")
    other = run("c", "--seed", "6")
    assert (first / "metrics.csv").read_bytes() == (same / "metrics.csv").read_bytes()
    assert (first / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes()


def test_the_default_run_folder(trainer, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer.main(["--data_dir", data, "--max_steps", "1", "--batch_size", "50"])
    trainer.main(["--data_dir", data, "--max_steps", "1", "--batch_size", "50"])
    kind = trainer.__name__.removeprefix("train_mlp_")
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2 and all(
        re.fullmatch(rf"{kind}-\d{{8}}-\d{{6}}-\d{{6}}", n) for n in names
    )


def test_the_best_weights_on_validation_are_restored(trainer, data, tmp_path, monkeypatch):
    """The accuracies on validation are dictated: step 2 is best, so its weights must be tested."""
    seen = []
    accuracies = iter([0.5, 0.1, 0.2, 0.9, 0.3, 0.9])  # the first: of the first training batch

    def evaluate(network, batches, *_):
        weights = {name: value + 0 for name, value in network.state_dict().items()}
        seen.append((sum(len(x) for x, _ in batches), weights))
        return (1.0, next(accuracies, 0.5)) if seen[-1][0] else None

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    history = trainer.main(
        ["--data_dir", data, "--validation_size", "20", "--max_steps", "4", "--eval_freq", "1"]
        + ["--batch_size", "10", "--run_dir", str(tmp_path / "a")]
    )
    assert [*history] == ["step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    seen = [(n, weights) for n, weights in seen[1:] if n]
    assert [n for n, _ in seen] == [20] * 5 + [10]  # the test set once, at the end
    equal = [all((w[k] == seen[-1][1][k]).all() for k in w) for _, w in seen]
    assert equal == [False, False, True, False, False, True]


@pytest.mark.parametrize("flags", [[], ["--validation_size", "20", "--eval_freq", "1"]], ids=str)
def test_the_weights_of_a_finished_run_are_those_it_was_tested_with(flags, run, trainer, data):
    folder = run("a", "--learning_rate", "0.05", *flags)
    args = parsed("--dnn_hidden_units", "8")
    mlp = trainer.make_mlp(args)
    mlp.load_state_dict(load_weights(folder))
    test_set = get_cifar10(data, one_hot=trainer is train_mlp_numpy).test
    if trainer is train_mlp_pytorch:
        test_set = TensorData(test_set, "cpu")
    loss, accuracy = trainer.evaluate(mlp, test_set.batches(10))
    record = record_of(folder)
    assert (loss, accuracy) == (pytest.approx(record["test_loss"]), record["test_accuracy"])


def test_an_argument_file(trainer, data, tmp_path):
    (tmp_path / "flags.txt").write_text("# a comment\n--max_steps 2  # another\n--batch_size=50\n")
    run = str(tmp_path / "a")
    history = trainer.main([f"@{tmp_path}/flags.txt", "--data_dir", data, "--run_dir", run])
    assert history["step"] == [0, 2]


def test_a_finished_run_prints_its_line_again(run, capsys):
    folder = run("a")
    last = capsys.readouterr().out.splitlines()[-2:]
    before = listing(folder)
    run("a", "--resume")
    assert capsys.readouterr().out.splitlines() == last
    assert listing(folder) == before
