"""Compare the speed of both trainers with the alternatives and with their matrix products alone.

    python -m report.benchmark [SECTION ...]

The candidates of a comparison take turns for many rounds, so other work on the machine slows all of
them equally: the ratios, medians over the rounds, are more reliable than the times. The record is
report/results/benchmark.json; report/PERFORMANCE.md and plots/speed.png are made from it. If
sections are named, only these are measured again. All take about three minutes. `gpu` needs CUDA.
"""

import argparse
import copy
import functools
import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import cifar10_utils
import train_mlp_numpy
import train_mlp_pytorch
from mlp_pytorch import ACTIVATIONS, InputMap
from report import records
from training import flags
from training.data_pytorch import TensorData, load_tensors
from training.errors import UsageError, exit_with_message
from training.optimization import make_optimizer
from training.processes import keep_freed_memory, mean, precision

DATA = records.ROOT / cifar10_utils.DEFAULT_DIR
N_INPUTS, N_CLASSES = cifar10_utils.N_INPUTS, cifar10_utils.N_CLASSES
RATE = 1e-3  # the trainers' default
WIDE = ["--dnn_hidden_units", "2048", "--batch_size", "1024"]  # for several processes
GROWTH = {  # the hidden layers and the batch size behind each point of the figure
    "width": {n: ([n], 200) for n in (32, 64, 100, 256, 512, 1024, 2048)},
    "depth": {n: ([100] * n, 200) for n in (1, 2, 4, 8, 16)},
    "batch": {n: ([100], n) for n in (32, 64, 128, 256, 512, 1024, 2048, 4096)},
}
SPAWN = multiprocessing.get_context("spawn")  # a fresh process: it shares no memory with this one
DATA_SIZES = (1000, 2500, 5000, 10_000, 25_000, 50_000)


# The steps ----------------------------------------------------------------------------------------


def trainer_args(hidden, *others):
    """The flags of both trainers: the defaults, but for the hidden layers and others."""
    argv = ["--dnn_hidden_units", flags.flag_text(hidden), *others]
    return flags.parse(train_mlp_pytorch.make_parser(), argv)


def numpy_step(data, hidden, batch):
    """The step of train_mlp_numpy.py, from the batch to the update."""
    mlp = train_mlp_numpy.make_mlp(trainer_args(hidden))
    return lambda: train_mlp_numpy.train_step(mlp, *data.next_batch(batch), RATE)


def pytorch_step(args, tensors):
    """The step of train_mlp_pytorch.py, from the batch to the update, its network and optimizer."""
    mlp = train_mlp_pytorch.make_mlp(args)
    mlp.fit_inputs(tensors)
    optimizer = make_optimizer(mlp, args, 10**6)

    def step():
        x, y = tensors.next_batch(args.batch_size)
        scores = train_mlp_pytorch.train_step(mlp, x, y, optimizer, args.label_smoothing)
        mean(scores)  # as the trainer reads them

    return step, mlp, optimizer


def alone(mlp, x):
    """For each kind of layer a function that runs the layers of that kind forward and backward, on
    the inputs that they get from the batch x."""
    kinds, given = {}, {}
    for layer in mlp.layers:
        layer.register_forward_pre_hook(lambda layer, args: given.update({layer: args[0]}))
        kinds.setdefault(kind_of(layer), []).append(layer)
    mlp(x)
    given = {layer: x.detach().requires_grad_(x.requires_grad) for layer, x in given.items()}

    def run(layers):
        for layer in layers:
            with torch.autocast("cpu", torch.bfloat16, enabled=mlp.bfloat16):
                out = layer(given[layer])
            wanted = [t for t in (given[layer], *layer.parameters()) if t.requires_grad]
            if wanted:  # not for the map of the inputs, which is not trained
                torch.autograd.grad(out, wanted, torch.ones_like(out))

    return {kind: functools.partial(run, layers) for kind, layers in kinds.items()}


def kind_of(layer):
    if isinstance(layer, (nn.Linear, InputMap)):
        return "products"
    if isinstance(layer, nn.Dropout):
        return "dropout"
    return "activation" if type(layer) in ACTIVATIONS.values() else "normalization"


def products(hidden, batch):
    """The matrix products of that step and nothing else, without the last layer's small ones:
    outputs, gradients of the weights, and gradients of the inputs of all layers but the first."""
    rng = np.random.default_rng(0)
    layers = []
    for fan_in, fan_out in itertools.pairwise([N_INPUTS, *hidden]):
        weight = np.asfortranarray(rng.standard_normal((fan_out, fan_in), np.float32))
        x, dout = (rng.standard_normal((batch, n), np.float32) for n in (fan_in, fan_out))
        layers.append((x, weight, dout))

    def step():
        for i, (x, weight, dout) in enumerate(layers):
            x @ weight.T
            x.T @ dout
            if i:
                dout @ weight

    return step


def bare_step(data):
    """The default step of a hand-written PyTorch loop over float tensors that are in memory."""
    x, y = data.next_batch(4000)
    x = torch.from_numpy(x.reshape(len(x), -1))
    pairs = zip(x.split(200), torch.from_numpy(y).split(200), strict=True)
    batches = itertools.cycle(list(pairs))
    mlp = train_mlp_pytorch.make_mlp(trainer_args([100]))
    layers, parameters = mlp.layers, list(mlp.parameters())

    def step():
        x, y = next(batches)
        F.cross_entropy(layers(x), y).backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= RATE * parameter.grad
                parameter.grad = None

    return step


# Measuring ----------------------------------------------------------------------------------------


def one_round(candidates, turn=0.06):
    """The median time of a call in milliseconds, by name. Each candidate gets about `turn`
    seconds; its first three calls are a warm-up and do not count."""
    medians = {}
    for name, call in candidates.items():
        times, began = [], time.perf_counter()
        while len(times) < 4 or time.perf_counter() - began < turn:
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
        medians[name] = float(np.median(times[3:]))
    return medians


def measure(candidates, seconds, elsewhere=None):
    """Medians by name: arrays (rounds,).

    elsewhere: a connection to a process that runs a round of other candidates on request. A
    library's threads keep spinning for a while after its last product, so two libraries in one
    process would slow each other down.
    """
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        medians = one_round(candidates)
        if elsewhere:
            time.sleep(0.1)
            elsewhere.send(True)
            medians |= elsewhere.recv()
        rounds.append(medians)
    return {name: np.array([medians[name] for medians in rounds]) for name in rounds[0]}


def serve_pytorch(connection):
    """Does a round of PyTorch's candidates at each request, in a process of its own."""
    data = cifar10_utils.get_cifar10(DATA, one_hot=False).train
    ours, _, _ = pytorch_step(trainer_args([100]), TensorData(data, "cpu"))
    candidates = {"pytorch bare": bare_step(data), "pytorch": ours}
    asked = True
    while asked:
        connection.send(one_round(candidates))
        asked = connection.recv()


def summary(values):
    """Best and median."""
    return {"best": round(float(values.min()), 3), "median": round(float(np.median(values)), 3)}


def comparison(times, pairs):
    """The times and, for each pair, the ratio of the best times and the median ratio."""
    ratios = {}
    for one, other in pairs:
        ratio = summary(times[one] / times[other])
        ratio["best"] = round(float(times[one].min() / times[other].min()), 3)
        ratios[f"{one} to {other}"] = ratio
    return {"milliseconds": {name: summary(values) for name, values in times.items()},
            "ratios": ratios}  # fmt: skip


@functools.cache
def load(one_hot=True):
    return cifar10_utils.get_cifar10(DATA, one_hot=one_hot)


def default_step():
    """The default step beside its alternatives."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=serve_pytorch, args=(theirs,))
    process.start()
    ours.recv()  # it is ready
    candidates = {"products": products([100], 200), "numpy": numpy_step(load().train, [100], 200)}
    times = measure(candidates, 40, ours)
    ours.send(False)
    process.join()
    pairs = [("numpy", other) for other in times if other != "numpy"]
    return comparison(times, [*pairs, ("pytorch", "pytorch bare")])


def best_step():
    """The step of the best network on the CPU, and each of its parts alone; `rest` is what these
    leave of it."""
    argv = [f"@{records.EXPERIMENTS}/whitened.txt", "--data_dir", str(DATA)]
    args = flags.parse(train_mlp_pytorch.make_parser(), argv)
    keep_freed_memory()
    tensors = load_tensors(args, torch.device("cpu")).train
    step, mlp, optimizer = pytorch_step(args, tensors)
    step()  # its gradients stay, for the optimizer alone
    x, _ = tensors.next_batch(args.batch_size)
    parts = {"augmentation": lambda: tensors.next_batch(args.batch_size),
             "optimizer": optimizer.step, **alone(copy.deepcopy(mlp), x)}  # fmt: skip
    times = measure({"step": step, **parts}, 60)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    medians["rest"] = medians["step"] - sum(medians[part] for part in parts)
    rounded = {name: round(median, 2) for name, median in medians.items()}
    return {"precision": precision(args), "milliseconds": rounded}


def evaluation_times(data):
    """Evaluating all of data, beside the products of the large layer on as many batches."""
    mlp = train_mlp_numpy.make_mlp(trainer_args([100]))
    batch = train_mlp_numpy.EVAL_BATCH
    x = np.zeros((batch, N_INPUTS), np.float32)
    weight = np.zeros((100, N_INPUTS), np.float32)

    def bare():
        for _ in range(data.num_examples // batch):
            x @ weight.T

    return measure(
        {"products": bare, "numpy": lambda: train_mlp_numpy.evaluate(mlp, data.batches(batch))}, 1
    )


def growth():
    """Milliseconds of a NumPy step and its products against width, depth and batch, and of an
    evaluation and its products against the number of examples."""
    data, labels = load().train, load(one_hot=False).train.labels
    points = {
        name: {
            n: measure({"products": products(*case), "numpy": numpy_step(data, *case)}, 1)
            for n, case in cases.items()
        }
        for name, cases in GROWTH.items()
    }
    points["data"] = {
        n: evaluation_times(cifar10_utils.DataSet(data.pixels[:n], labels[:n], data.mean))
        for n in DATA_SIZES
    }
    return {
        name: {"at": list(cases)}
        | {who: [round(float(np.median(times[who])), 4) for times in cases.values()]
           for who in ("products", "numpy")}
        for name, cases in points.items()
    }  # fmt: skip


# Whole runs ---------------------------------------------------------------------------------------


def trainer_run(trainer, *argv, launcher=(), **environment):
    """Seconds of a trainer's run from start to end, and what it recorded itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, trainer, "--data_dir", DATA]
        began = time.perf_counter()
        subprocess.run([*command, "--run_dir", f"{folder}/run", *argv], cwd=records.ROOT,
                       check=True, capture_output=True, env=os.environ | environment)  # fmt: skip
        wall = time.perf_counter() - began
        record = records.read_finished(Path(folder, "run"))
    return {"wall_seconds": round(wall, 2), "train_seconds": round(record["train_seconds"], 2),
            "peak_rss_mb": record["peak_rss_mb"], "steps": record["steps"]}  # fmt: skip


def default_run():
    """The default run of each trainer: the faster of two runs, the trainers taking turns."""
    names = "numpy", "pytorch"
    runs = [{name: trainer_run(f"train_mlp_{name}.py") for name in names} for _ in range(2)]
    return {name: min((run[name] for run in runs), key=lambda run: run["wall_seconds"])
            for name in names}  # fmt: skip


def processes():
    """Milliseconds of a step in one process and in two, and the parallel efficiency of two."""
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = {}
    for name, argv in (
        ("default", ["--max_steps", "300", "--eval_freq", "300"]),
        ("wide", [*WIDE, "--max_steps", "16", "--eval_freq", "16"]),
    ):
        runs = {
            "one process, one thread": ([], {"OMP_NUM_THREADS": "1"}),
            "one process, all threads": ([], {}),
            "two processes, one thread each": (two, {"OMP_NUM_THREADS": "1"}),
        }
        steps = {}
        for kind, (launcher, environment) in runs.items():
            run = trainer_run("train_mlp_pytorch.py", *argv, launcher=launcher, **environment)
            steps[kind] = round(1000 * run["train_seconds"] / run["steps"], 3)
        one, _, both = steps.values()
        result[name] = {"milliseconds": steps, "efficiency": round(one / both / 2, 3)}
    return result


def gpu():
    """Whole runs on CUDA: the default one, a wide one, and the widest layers in bfloat16 with their
    rate of arithmetic."""
    batch, width = 4096, 4096
    jobs = {
        "default": [],
        "wide": ["--dnn_hidden_units", "2048,1024,512", "--batch_size", "1024"],
        "widest": ["--dnn_hidden_units", f"{width},{width},{width}", "--batch_size", f"{batch}",
                   "--bfloat16", "--max_steps", "500", "--eval_freq", "500"],
    }  # fmt: skip
    runs = {name: trainer_run("train_mlp_pytorch.py", "--use_gpu", *argv)
            for name, argv in jobs.items()}  # fmt: skip
    for run in runs.values():
        run["steps_per_second"] = round(run["steps"] / run["train_seconds"], 1)
    # Forward, gradients of the weights and, in all layers but the first, of the inputs.
    products = 2 * batch * (2 * N_INPUTS * width + 3 * (2 * width**2 + width * N_CLASSES))
    rate = products * runs["widest"]["steps_per_second"]
    return {"device": torch.cuda.get_device_name(), **runs, "tflops": round(rate / 1e12, 1)}


def machine():
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    threads = next((os.environ[name] for name in variables if name in os.environ), os.cpu_count())
    versions = {"python": platform.python_version(), "numpy": np.__version__,
                "torch": torch.__version__}  # fmt: skip
    return {"cores": os.cpu_count(), "vectors": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": precision(trainer_args([], "--bfloat16")) == "bfloat16",
            "versions": versions,
            "threads": {"numpy": int(threads), "torch": torch.get_num_threads()}}  # fmt: skip


SECTIONS = {
    section.__name__: section
    for section in (machine, default_step, best_step, growth, default_run, processes, gpu)
}


@exit_with_message
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)} (default: all)")
    names = parser.parse_args(argv).sections
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}: see --help")
    if "gpu" in names and not torch.cuda.is_available():
        raise UsageError("the section gpu needs a CUDA device, and there is none")
    everywhere = [name for name in SECTIONS if name != "gpu" or torch.cuda.is_available()]
    record = records.read("benchmark", {})
    for name in names or everywhere:
        record[name] = SECTIONS[name]()
        print(f"{name}: {json.dumps(record[name])}", flush=True)
        records.write("benchmark", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
