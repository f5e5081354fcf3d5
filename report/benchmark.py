"""Time a training step against the matrix products in it, and the whole default run.

    python report/benchmark.py

Everything is measured in turn, many times over, so that what disturbs the machine disturbs all
alike: believe the ratios. The record is report/results/benchmark.json (times in milliseconds).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cifar10_utils  # noqa: E402
from mlp_numpy import MLP  # noqa: E402
from modules import CrossEntropyModule  # noqa: E402

ROUNDS, STEPS = 15, 40
BATCH, HIDDEN = 200, 100


def make_step(data):
    """The step of train_mlp_numpy.py at its default flags: batch to update."""
    mlp = MLP(3072, [HIDDEN], 10, dtype=np.float32, input_scale=cifar10_utils.PIXEL_RMS)
    cross_entropy = CrossEntropyModule()
    x = np.empty((BATCH, *cifar10_utils.SHAPE), np.float32)

    def step():
        _, y = data.next_batch(BATCH, out=x)
        probabilities = mlp.forward(x)
        cross_entropy.forward(probabilities, y)
        mlp.backward(cross_entropy.backward(probabilities, y))
        for module in mlp.modules:
            for name, gradient in module.grads.items():
                gradient *= 1e-3
                module.params[name] -= gradient

    return step


def make_products():
    """The two large products of that step, bare: forward and weight gradient."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, 3072), np.float32)
    weight = rng.standard_normal((HIDDEN, 3072), np.float32)
    dout = rng.standard_normal((BATCH, HIDDEN), np.float32)

    def products():
        x @ weight.T
        dout.T @ x

    return products


def measure(candidates):
    """Milliseconds of every call, by name, measured in turn."""
    times = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, call in candidates.items():
            call()
            for _ in range(STEPS):
                began = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def summary(times):
    low, middle, high = np.percentile(times, [25, 50, 75])
    return {k: round(float(v), 4) for k, v in
            {"best": min(times), "median": middle, "quartiles": high - low}.items()}  # fmt: skip


def time_default_run():
    """Seconds of a default run from the start of its process to its end, and its own record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "train_mlp_numpy.py", "--run_dir", f"{folder}/run"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        wall = time.perf_counter() - began
        record = json.loads(Path(folder, "run", "run.json").read_text())
    return {"wall_seconds": wall, **{k: record[k] for k in ("train_seconds", "peak_rss_mb")}}


def main():
    data = cifar10_utils.get_cifar10(ROOT / cifar10_utils.DEFAULT_DIR).train
    times = measure({"numpy step": make_step(data), "products": make_products()})
    runs = [time_default_run() for _ in range(5)]
    middle = sorted(runs, key=lambda run: run["wall_seconds"])[len(runs) // 2]
    record = {
        "cores": os.cpu_count(),
        "numpy": np.__version__,
        "times": {name: summary(values) for name, values in times.items()},
        "ratio_best": round(min(times["numpy step"]) / min(times["products"]), 3),
        "ratio_median": round(median(times["numpy step"]) / median(times["products"]), 3),
        "default_run": {name: round(value, 2) for name, value in middle.items()},
    }
    target = ROOT / "report" / "results" / "benchmark.json"
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
