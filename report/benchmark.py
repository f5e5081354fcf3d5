"""Time the training steps of both trainers and their whole default runs.

    python report/benchmark.py

Everything is measured in turn, many times over, so that what disturbs the machine disturbs all
alike: believe the ratios. The record is report/results/benchmark.json (times in milliseconds).
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cifar10_utils  # noqa: E402
import mlp_pytorch  # noqa: E402
import train_mlp_pytorch  # noqa: E402
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


def make_pytorch_step(data):
    """The step of train_mlp_pytorch.py at its default flags."""
    args = train_mlp_pytorch.make_parser().parse_args([])
    processes = train_mlp_pytorch.Processes()
    tensors = train_mlp_pytorch.TensorData(data, "cpu", processes, args)
    mlp = mlp_pytorch.MLP(3072, [HIDDEN], 10, input_scale=cifar10_utils.PIXEL_RMS)
    optimizer = train_mlp_pytorch.make_optimizer(mlp, args)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def step():
        train_mlp_pytorch.start_step(optimizer, args, 1, processes)
        x, y = tensors.next_batch(BATCH)
        loss = cross_entropy(train_mlp_pytorch.predict(mlp, x, args), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_bare_step(data):
    """An eager loop over float tensors that are in memory already, updates written by hand."""
    x, y = data.next_batch(BATCH * 20)
    batches = list(zip(torch.from_numpy(x.reshape(len(x), -1)).split(BATCH),
                       torch.from_numpy(y).split(BATCH), strict=True))  # fmt: skip
    mlp = mlp_pytorch.MLP(3072, [HIDDEN], 10, input_scale=cifar10_utils.PIXEL_RMS)
    layers, parameters = mlp.layers, list(mlp.parameters())
    numbers = itertools.cycle(range(len(batches)))

    def step():
        x, y = batches[next(numbers)]
        loss = torch.nn.functional.cross_entropy(layers(x), y)
        loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None

    return step


class SingleImages(torch.utils.data.Dataset):
    """The idiom of the public template: one image at a time becomes a float tensor between 0 and 1
    and is then normalised by channel, with the operations of torchvision's ToTensor and Normalize
    (less the detour over PIL, so this is the faster for it)."""

    def __init__(self, data):
        self.images = np.ascontiguousarray(data.pixels.transpose(0, 2, 3, 1))
        self.labels = data.labels.tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(np.array(self.images[i], copy=True))
        image = image.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean = torch.as_tensor((0.49, 0.48, 0.45)).view(-1, 1, 1)
        std = torch.as_tensor((0.25, 0.24, 0.26)).view(-1, 1, 1)
        if (std == 0).any():
            raise ValueError("a standard deviation of zero")
        return image.clone().sub_(mean).div_(std), self.labels[i]


def template_job():
    """The default job, evaluations included, in the idiom of the public template."""
    data = cifar10_utils.get_cifar10(ROOT / cifar10_utils.DEFAULT_DIR, one_hot=False)
    train = torch.utils.data.DataLoader(SingleImages(data.train), BATCH, shuffle=True)
    test = torch.utils.data.DataLoader(SingleImages(data.test), BATCH)
    mlp = mlp_pytorch.MLP(3072, [HIDDEN], 10)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=1e-3)
    step = 0
    while True:
        for x, y in train:
            if step % 100 == 0:
                with torch.no_grad():
                    for images, _ in test:
                        mlp(images)
            if step == 1400:
                return
            torch.nn.functional.cross_entropy(mlp(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1


def time_template_job():
    """Seconds of that job, from the start of its process to its end."""
    began = time.perf_counter()
    code = "import benchmark; benchmark.template_job()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    return time.perf_counter() - began


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


def time_default_run(trainer):
    """Seconds of a default run from the start of its process to its end, and its own record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / trainer, "--run_dir", f"{folder}/run"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        wall = time.perf_counter() - began
        record = json.loads(Path(folder, "run", "run.json").read_text())
    return {"wall_seconds": wall, **{k: record[k] for k in ("train_seconds", "peak_rss_mb")}}


def median_run(runs):
    middle = sorted(runs, key=lambda run: run["wall_seconds"])[len(runs) // 2]
    return {name: round(value, 2) for name, value in middle.items()}


def main():
    data = cifar10_utils.get_cifar10(ROOT / cifar10_utils.DEFAULT_DIR)
    numbered = cifar10_utils.get_cifar10(ROOT / cifar10_utils.DEFAULT_DIR, one_hot=False)
    times = measure({
        "numpy step": make_step(data.train),
        "products": make_products(),
        "pytorch step": make_pytorch_step(numbered.train),
        "bare pytorch step": make_bare_step(numbered.train),
    })  # fmt: skip
    runs = {"numpy": [], "pytorch": []}
    template = []
    for _ in range(3):
        for framework, done in runs.items():
            done.append(time_default_run(f"train_mlp_{framework}.py"))
        template.append(time_template_job())

    def ratios(one, other):
        return {"best": round(min(times[one]) / min(times[other]), 3),
                "median": round(median(times[one]) / median(times[other]), 3)}  # fmt: skip

    record = {
        "cores": os.cpu_count(),
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
        "milliseconds": {name: summary(values) for name, values in times.items()},
        "numpy step to products": ratios("numpy step", "products"),
        "numpy step to pytorch step": ratios("numpy step", "pytorch step"),
        "pytorch step to bare pytorch step": ratios("pytorch step", "bare pytorch step"),
        "default_run": {framework: median_run(done) for framework, done in runs.items()},
        "template_job_seconds": round(median(template), 2),
    }
    target = ROOT / "report" / "results" / "benchmark.json"
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
