"""The programs from end to end, in processes of their own, on generated and on real data."""

import importlib
import re
import sys

import numpy as np
import pytest
from common import REAL, needs_real, python_path, record_of, rows_of, train

NUMPY = "train_mlp_numpy.py"


def test_without_torch_data_and_network_it_learns_synthetic_data_and_says_so(tmp_path):
    """After the download was tried, without the waits between its attempts."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep = id")
    nowhere = {"CIFAR10_URL": "http://127.0.0.1:9/x", **python_path(tmp_path)}
    out, err = train(NUMPY, "--max_steps", 300, "--eval_freq", 300, cwd=tmp_path, **nowhere)
    assert "cannot download CIFAR-10 from http://127.0.0.1:9/x: [Errno" in "".join(err)
    assert sum("SYNTHETIC DATA, not CIFAR-10" in line for line in err) == 2  # start and end
    assert re.fullmatch(r"test accuracy 0\.[89]\d* \(synthetic, 300 steps, \d+\.\d s\)", out[-1])
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"numpy-\d{8}-\d{6}-\d{6}", folder.name)
    assert record_of(folder)["dataset"] == "synthetic"
    assert not any("step/s" in line for line in err)  # no progress bar where there is no terminal
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {"runs", "sitecustomize.py", "torch.py"}


def test_the_data_module_refuses_a_file_for_a_folder(tmp_path):
    (tmp_path / "mine").write_text("my work")
    out, (line,) = train("cifar10_utils.py", tmp_path / "mine", status=2)
    assert out == [] and line.startswith("cifar10_utils.py: error: ") and "is a file" in line


@needs_real
def test_on_cifar10_the_trainers_learn_and_follow_the_same_curve(tmp_path, no_curves):
    flags = ["--data_dir", REAL, "--max_steps", 300]
    out, _ = train(NUMPY, *flags, "--run_dir", tmp_path / "numpy")
    record = record_of(tmp_path / "numpy")
    assert 0.38 < record["test_accuracy"] < 0.46
    assert out[-1].startswith(f"test accuracy {record['test_accuracy']:.4f} (cifar10, 300 steps, ")
    if sys.platform == "linux":
        assert record["peak_rss_mb"] < 350
    pytest.importorskip("torch")
    main = importlib.import_module("train_mlp_pytorch").main
    theirs = main([*map(str, flags), "--run_dir", str(tmp_path / "pytorch")])
    ours = rows_of(tmp_path / "numpy")
    assert [int(row["step"]) for row in ours] == [0, 100, 200, 300]
    for name, column in theirs.items():
        np.testing.assert_allclose([float(row[name]) for row in ours], column, atol=2e-3)


@pytest.mark.slow
@needs_real
@pytest.mark.parametrize("units, n, least", [("100", 5, 0.475), ("100,100", 3, 0.48),
                                             ("200,200,200", 3, 0.48)])  # fmt: skip
def test_mean_accuracy_over_seeds(units, n, least, tmp_path):
    accuracies = []
    for seed in [42, 1, 2, 3, 4][:n]:
        flags = ["--dnn_hidden_units", units, "--seed", seed, "--data_dir", REAL]
        train(NUMPY, *flags, "--run_dir", tmp_path / str(seed))
        accuracies.append(record_of(tmp_path / str(seed))["test_accuracy"])
    assert np.mean(accuracies) >= least
