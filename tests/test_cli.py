"""The programs end to end, each in a process of its own, on generated and on real data."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_data import REAL, needs_real

ROOT = Path(__file__).parent.parent
NUMPY = "train_mlp_numpy.py"
PYTORCH = "train_mlp_pytorch.py"
TRAINERS = [NUMPY, PYTORCH]


def command(script, *flags):
    return [sys.executable, ROOT / script, *map(str, flags)]


def start(script, *flags, cwd=None, **environment):
    return subprocess.Popen(
        command(script, *flags),
        cwd=cwd,
        env={**os.environ, "no_proxy": "127.0.0.1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(script, *flags, status=0, **options):
    """Runs a trainer to its end. Returns the lines on stdout and on stderr."""
    process = start(script, *flags, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err and "Warning" not in err
    return out.splitlines(), err.splitlines()


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("script", TRAINERS)
def test_synthetic_data_is_learned_and_named_everywhere(script, tmp_path):
    out, err = train(script, "--synthetic", "--max_steps", 300, "--run_dir", tmp_path / "a")
    assert re.fullmatch(r"test accuracy 0\.[89]\d* \(synthetic, 300 steps, \d+\.\d s\)", out[-1])
    assert sum("SYNTHETIC DATA, not CIFAR-10" in line for line in err) == 2  # start and end
    assert record_of(tmp_path / "a")["dataset"] == "synthetic"
    assert not any("step/s" in line for line in err)  # no progress bar where there is no terminal


def test_a_linear_model_learns_the_synthetic_set_poorly(tmp_path):
    flags = ["--synthetic", "--max_steps", 300, "--dnn_hidden_units", ""]
    train(NUMPY, *flags, "--run_dir", tmp_path / "a")
    assert 0.15 < record_of(tmp_path / "a")["test_accuracy"] < 0.4


def test_without_data_and_network_it_says_so_and_falls_back(tmp_path):
    began = time.monotonic()
    out, err = train(NUMPY, "--max_steps", 1, cwd=tmp_path, CIFAR10_URL="http://127.0.0.1:9/x")
    assert time.monotonic() - began < 60
    assert "no CIFAR-10 from http://127.0.0.1:9/x" in "".join(err)
    assert "(synthetic, 1 steps" in out[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("script", TRAINERS)
def test_bad_input_is_one_line_and_status_2(script, tmp_path):
    for flags, named in (
        (["--dnn_hidden_units", "100,x"], "'100,x'"),
        (["--data_dir", tmp_path / "typo"], "typo"),
        (["--learning-rate", "1"], "--learning-rate"),
    ):
        out, err = train(script, *flags, "--run_dir", tmp_path / "a", status=2)
        assert out == [] and named in err[-1] and f"{script}: error: " in err[-1]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", TRAINERS)
def test_ctrl_c(script, tmp_path):
    flags = ["--synthetic", "--max_steps", 10**6, "--run_dir", tmp_path / "a"]
    process = start(script, *flags)
    wait_for(lambda: len(rows_of(tmp_path / "a")) > 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert re.search(r"step \d+ of 1000000 is saved", err.splitlines()[-1])
    assert "Traceback" not in err
    assert record_of(tmp_path / "a")["status"] == "interrupted"


def wait_for(condition):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize("framework", ["numpy", "pytorch"])
@pytest.mark.parametrize("kills", [4, pytest.param(150, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_the_same(framework, kills, tmp_path, record_figure):
    """Also where three runs want the same folder at once: one has it, the others say so."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "killing.py", framework, tmp_path, str(kills), "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report.pop("failures") == []
    assert sum(report["killed"].values()) >= kills
    assert report["races"] > 0
    record_figure(f"{framework}: {report}")


def test_the_numpy_half_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    train(NUMPY, "--synthetic", "--max_steps", 1, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    loaded = "import sys, train_mlp_numpy; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=True)


def test_the_help_names_every_flag():
    out, _ = train(PYTORCH, "--help")
    readme = (ROOT / "README.md").read_text()
    flags = {
        flag
        for line in out
        for flag in re.findall(r"--[a-z_0-9]+", line)
        if line.startswith("  --")
    }
    assert len(flags) >= 30
    assert [flag for flag in sorted(flags) if f"`{flag}`" not in readme] == []


def test_the_readme_commands_exist():
    """Each python command of the README is accepted: it prints its help when asked."""
    readme = (ROOT / "README.md").read_text()
    scripts = set(re.findall(r"^(?:.* && )?python ([\w/]+\.py)", readme, re.M))
    assert NUMPY in scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script
    for line in re.findall(r"^(?:.* && )?python (train_mlp_\w+\.py.*)$", readme, re.M):
        script, *flags = shlex.split(line, comments=True)
        train(script, *flags, "--help")


# Real data, where it is


@needs_real
@pytest.mark.parametrize("script", TRAINERS)
def test_the_default_run_on_cifar10(script, tmp_path):
    out, _ = train(script, "--data_dir", REAL, "--run_dir", tmp_path / "a")
    record = record_of(tmp_path / "a")
    assert 0.455 < record["test_accuracy"] < 0.53
    assert out[-1].startswith(f"test accuracy {record['test_accuracy']:.4f} (cifar10, 1400 steps, ")
    if script == NUMPY:
        assert record["peak_rss_mb"] < 350


@pytest.mark.slow
@needs_real
@pytest.mark.parametrize(
    "units, seeds, least",
    [
        ("100", [42, 1, 2, 3, 4], 0.475),
        ("100,100", [42, 1, 2], 0.48),
        ("200,200,200", [42, 1, 2], 0.48),
    ],
)
def test_mean_accuracy_over_seeds(units, seeds, least, tmp_path):
    accuracies = []
    for seed in seeds:
        flags = ["--dnn_hidden_units", units, "--seed", seed, "--data_dir", REAL]
        train(NUMPY, *flags, "--run_dir", tmp_path / str(seed))
        accuracies.append(record_of(tmp_path / str(seed))["test_accuracy"])
    assert np.mean(accuracies) >= least
