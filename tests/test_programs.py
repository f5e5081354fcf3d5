"""The programs from end to end, each in a process of its own, on generated and on real data."""

import re
import sys

import numpy as np
import pytest
from common import REAL, needs_real, needs_torch, record_of, train

NUMPY = "train_mlp_numpy.py"
SCRIPTS = [NUMPY, pytest.param("train_mlp_pytorch.py", marks=needs_torch)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_synthetic_data_is_learned_and_named_everywhere(script, tmp_path):
    flags = ["--synthetic", "--max_steps", 300, "--eval_freq", 300, "--run_dir", tmp_path / "a"]
    out, err = train(script, *flags)
    assert re.fullmatch(r"test accuracy 0\.[89]\d* \(synthetic, 300 steps, \d+\.\d s\)", out[-1])
    assert sum("SYNTHETIC DATA, not CIFAR-10" in line for line in err) == 2  # start and end
    assert record_of(tmp_path / "a")["dataset"] == "synthetic"
    assert not any("step/s" in line for line in err)  # no progress bar where there is no terminal


def test_without_torch_data_and_network_it_falls_back_and_says_so(tmp_path):
    """After the download was tried, without the waits between its attempts."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep = id")
    nowhere = {"CIFAR10_URL": "http://127.0.0.1:9/x", "PYTHONPATH": str(tmp_path)}
    out, err = train(NUMPY, "--max_steps", 1, cwd=tmp_path, **nowhere)
    assert "cannot download CIFAR-10 from http://127.0.0.1:9/x" in "".join(err)
    assert "(synthetic, 1 steps" in out[-1]
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {"runs", "sitecustomize.py", "torch.py"}


def test_the_data_module_refuses_a_file_for_a_folder(tmp_path):
    (tmp_path / "mine").write_text("my work")
    out, (line,) = train("cifar10_utils.py", tmp_path / "mine", status=2)
    assert out == [] and line.startswith("cifar10_utils.py: error: ") and "is a file" in line


# Real data, where it is


@needs_real
def test_the_default_run_on_cifar10(tmp_path):
    out, _ = train(NUMPY, "--data_dir", REAL, "--run_dir", tmp_path / "a")
    record = record_of(tmp_path / "a")
    assert 0.455 < record["test_accuracy"] < 0.53
    assert out[-1].startswith(f"test accuracy {record['test_accuracy']:.4f} (cifar10, 1400 steps, ")
    if sys.platform == "linux":
        assert record["peak_rss_mb"] < 350


@needs_real
@needs_torch
def test_the_trainers_follow_the_same_curve_on_cifar10(tmp_path):
    ours, theirs = (
        train(script, "--data_dir", REAL, "--max_steps", 300, "--run_dir", tmp_path / script)[0]
        for script in (NUMPY, "train_mlp_pytorch.py")
    )
    numbers = [
        np.array([re.findall(r"\d+\.\d+", line) for line in out[:-2]], float)
        for out in (ours, theirs)
    ]
    assert len(numbers[0]) == 4 and numbers[0][-1, 3] > 0.38
    np.testing.assert_allclose(*numbers, atol=2e-3)


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
