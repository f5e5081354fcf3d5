"""The two trainers: that both train alike, and what a run leaves behind.

Runs are made in this process, on a data folder of fifty training and ten test images.
"""

import importlib
import os
import re

import numpy as np
import pytest
from common import interrupted, listing, record_of, rows_of

from cifar10_utils import get_cifar10
from training.files import load_weights


def test_both_trainers_draw_the_same_curves(data, tmp_path, no_curves):
    """From the same flags: the same weights, batches and steps, up to the rounding of float32."""
    pytest.importorskip("torch")
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
    x, y = test_set.images, test_set.labels
    if run.framework == "pytorch":
        torch = importlib.import_module("torch")
        x, y = torch.from_numpy(x), torch.from_numpy(y)
    loss, accuracy = run.trainer.evaluate(mlp, [(x, y)])
    record = record_of(folder)
    assert loss == pytest.approx(record["test_loss"], rel=1e-5)
    assert accuracy == record["test_accuracy"]


def test_evaluation_averages_over_samples_and_keeps_no_caches(run):
    """Also over batches of unequal sizes."""
    mlp = run.trainer.MLP(4, [3], 2, seed=1)
    rng = np.random.default_rng(0)
    x, y = (
        rng.standard_normal((7, 4), np.float32),
        np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 0, 0, 1]],
    )
    weights = [value for name, value in mlp.state_dict().items() if "weight" in name]
    if run.framework == "pytorch":
        torch = importlib.import_module("torch")
        x, y = torch.from_numpy(x), torch.from_numpy(y)
    weights[-1][:] = x[:2, :3]  # the last layer starts at zero
    whole = run.trainer.evaluate(mlp, [(x, y)])
    parts = run.trainer.evaluate(mlp, [(x[:1], y[:1]), (x[1:], y[1:])])
    assert parts == pytest.approx(whole, rel=1e-6)
    if run.framework == "numpy":
        with pytest.raises(RuntimeError, match="call forward first"):
            mlp.backward(y)


# Pictures of several runs


def test_the_curves_of_several_runs_are_compared(run, monkeypatch):
    compare = importlib.import_module("plots.compare").main
    one, other = str(run("a")), str(run("b", "--validation_size", 5, "--learning_rate", 0.01))
    monkeypatch.chdir(run.folder)
    compare([one, other, str(interrupted(run, "c"))])
    assert (run.folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    compare([one, "--out", "x.png"])
    assert (run.folder / "x.png").exists()
    strange = run("d") / "metrics.csv"
    strange.write_text("a,b\n1,2\n")
    out = ("nowhere/x.png", "x.pdf", "a")
    for argv in ([], ["nowhere"], [str(run.folder)], [str(strange.parent)],
                 *([one, "--out", name] for name in out)):  # fmt: skip
        before = listing(run.folder)
        with pytest.raises(SystemExit) as end:
            compare(argv)
        assert end.value.code == 2 and listing(run.folder) == before


def test_a_comparison_names_synthetic_data():
    labels = importlib.import_module("plots.compare").labels
    flags = {"seed": 1, "synthetic": False}  # as where CIFAR-10 could not be downloaded
    record = {"framework": "numpy", "flags": flags}
    runs = {name: ({**record, "dataset": name}, {}) for name in ("cifar10", "synthetic")}
    assert labels(runs) == {"cifar10": "data cifar10", "synthetic": "data synthetic"}
    assert labels({"a": runs["synthetic"]}) == {"a": "data synthetic"}
