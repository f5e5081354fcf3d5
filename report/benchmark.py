"""Compare the speed of both trainers with the alternatives and with their matrix products alone.

    python -m report.benchmark [SECTION ...]

Candidates are timed in turn for many rounds, so other work on the machine slows all of them
equally: the ratios, medians over the rounds, are more reliable than the times. The record is
report/results/benchmark.json; report/PERFORMANCE.md and plots/speed.png are made from it. If
sections are named, only these are measured again. All take a few minutes. `gpu` needs CUDA.
"""

import argparse
import copy
import functools
import itertools
import json
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
from training.argument_files import as_words
from training.data_pytorch import TensorData, load_tensors
from training.errors import UsageError, exit_with_message
from training.optimization import make_optimizer
from training.processes import keep_freed_memory, mean, precision

DATA = records.ROOT / cifar10_utils.DEFAULT_DIR
RATE = 1e-3  # the trainers' default
BEST = f"@{records.EXPERIMENTS}/best-cpu.txt"
GROWTH = {  # the hidden layers and the batch size behind each point of the figure
    "width": {n: ([n], 200) for n in (32, 64, 100, 256, 512, 1024, 2048)},
    "depth": {n: ([100] * n, 200) for n in (1, 2, 4, 8, 16)},
    "batch": {n: ([100], n) for n in (32, 64, 128, 256, 512, 1024, 2048, 4096)},
}
DATA_SIZES = (1000, 2500, 5000, 10_000, 25_000, 50_000)
PROCESSES = {  # flags of the runs in one process and in two
    "default": ["--max_steps=300", "--eval_freq=300"],
    "wide": ["--dnn_hidden_units=2048", "--batch_size=1024", "--max_steps=16", "--eval_freq=16"],
}


# The steps ----------------------------------------------------------------------------------------


def trainer_args(*words, **asked):
    """The flags of both trainers: the defaults but for these."""
    return flags.parse(train_mlp_pytorch.make_parser(), [*words, *as_words(asked)])


def numpy_step(data, hidden, batch):
    """The step of train_mlp_numpy.py, from the batch to the update."""
    mlp = train_mlp_numpy.make_mlp(trainer_args(dnn_hidden_units=hidden))
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
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mlp.bfloat16)
    kinds, out = {}, x.flatten(start_dim=1)
    for layer in mlp.layers:
        given = out.detach().requires_grad_(out.requires_grad)
        kinds.setdefault(kind_of(layer), []).append((layer, given))
        with autocast:
            out = layer(given)

    def run(layers):
        for layer, given in layers:
            with autocast:
                out = layer(given)
            wanted = [t for t in (given, *layer.parameters()) if t.requires_grad]
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
    for fan_in, fan_out in itertools.pairwise([cifar10_utils.N_INPUTS, *hidden]):
        weight = rng.standard_normal((fan_out, fan_in), np.float32)
        x, dout = (rng.standard_normal((batch, n), np.float32) for n in (fan_in, fan_out))
        layers.append((x, weight, dout))

    def step():
        for i, (x, weight, dout) in enumerate(layers):
            x @ weight.T
            dout.T @ x
            if i:
                dout @ weight

    return step


def bare_step(data):
    """The default step of a hand-written PyTorch loop over float tensors that are in memory."""
    x, y = map(torch.from_numpy, data.next_batch(4000))
    batches = itertools.cycle(list(zip(x.flatten(1).split(200), y.split(200), strict=True)))
    mlp = train_mlp_pytorch.make_mlp(trainer_args())
    layers, parameters = mlp.layers, list(mlp.parameters())

    def step():
        x, y = next(batches)
        F.cross_entropy(layers(x), y).backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= RATE * parameter.grad
                parameter.grad = None

    return step


def evaluation(data):
    """The evaluation of all of data, and the products of the large layer on as many batches."""
    mlp, batch = train_mlp_numpy.make_mlp(trainer_args()), train_mlp_numpy.EVAL_BATCH
    x, weight = (np.zeros((n, cifar10_utils.N_INPUTS), np.float32) for n in (batch, 100))

    def bare():
        for _ in range(data.num_examples // batch):
            x @ weight.T

    return {"products": bare, "numpy": lambda: train_mlp_numpy.evaluate(mlp, data.batches(batch))}


# Measuring ----------------------------------------------------------------------------------------


def measure(candidates, seconds):
    """The median time of a call in milliseconds, by name: arrays (rounds,)."""
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        rounds.append([turn(call) for call in candidates.values()])
    return dict(zip(candidates, np.array(rounds).T, strict=True))


def turn(call):
    """The median time of the calls in about 60 milliseconds; the first three are a warm-up."""
    time.sleep(0.1)  # for a while after its last product, the threads of a library spin
    times, began = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < 0.06:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return np.median(times[3:])


def best_and_median(values, best):
    return {"best": round(float(best), 3), "median": round(float(np.median(values)), 3)}


@functools.cache
def load(one_hot=True):
    return cifar10_utils.get_cifar10(DATA, one_hot=one_hot).train


def default_step():
    """The default step beside its alternatives: the times, the ratios of the best times, and the
    median ratios."""
    ours, _, _ = pytorch_step(trainer_args(), TensorData(load(one_hot=False), "cpu"))
    times = measure({
        "products": products([100], 200), "numpy": numpy_step(load(), [100], 200),
        "pytorch bare": bare_step(load(one_hot=False)), "pytorch": ours,
    }, 60)  # fmt: skip
    pairs = [("numpy", other) for other in times if other != "numpy"]
    return {
        "milliseconds": {name: best_and_median(t, t.min()) for name, t in times.items()},
        "ratios": {
            f"{one} to {other}": best_and_median(
                times[one] / times[other], times[one].min() / times[other].min()
            )
            for one, other in [*pairs, ("pytorch", "pytorch bare")]
        },
    }


def growth():
    """Milliseconds of a NumPy step and its products against width, depth and batch, and of an
    evaluation and its products against the number of examples."""
    data, labels = load(), load(one_hot=False).labels
    points = {
        name: {n: {"products": products(*case), "numpy": numpy_step(data, *case)}
               for n, case in cases.items()}
        for name, cases in GROWTH.items()
    }  # fmt: skip
    points["data"] = {n: evaluation(cifar10_utils.DataSet(data.pixels[:n], labels[:n], data.mean))
                      for n in DATA_SIZES}  # fmt: skip
    found = {}
    for name, cases in points.items():
        times = [measure(candidates, 2) for candidates in cases.values()]
        found[name] = {"at": list(cases)} | {
            who: [round(float(np.median(t[who])), 4) for t in times] for who in times[0]
        }
    return found


def best_step():
    """The step of the best network on the CPU, and each of its parts alone; `rest` is what these
    leave of it."""
    args = trainer_args(BEST, data_dir=DATA)
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
    recorded = {name: record[name] for name in ("peak_rss_mb", "steps", "test_accuracy")}
    seconds = {"wall_seconds": wall, "train_seconds": record["train_seconds"]}
    return {name: round(value, 2) for name, value in seconds.items()} | recorded


def default_run():
    """The default run of each trainer: the faster of two runs, timed in turn."""
    names = "numpy", "pytorch"
    runs = [{name: trainer_run(f"train_mlp_{name}.py") for name in names} for _ in range(2)]
    return {name: min((run[name] for run in runs), key=lambda run: run["wall_seconds"])
            for name in names}  # fmt: skip


def processes():
    """Milliseconds of a step in one process and in two, and the parallel efficiency of two."""
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    kinds = {
        "one process, one thread": {"OMP_NUM_THREADS": "1"},
        "one process, all threads": {},
        "two processes, one thread each": {"OMP_NUM_THREADS": "1", "launcher": two},
    }
    result = {}
    for name, argv in PROCESSES.items():
        runs = {kind: trainer_run("train_mlp_pytorch.py", *argv, **how)
                for kind, how in kinds.items()}  # fmt: skip
        steps = {kind: round(1000 * run["train_seconds"] / run["steps"], 3)
                 for kind, run in runs.items()}  # fmt: skip
        one, _, both = steps.values()
        result[name] = {"milliseconds": steps, "efficiency": round(one / both / 2, 3)}
    return result


def gpu():
    """The default run and the best network's on CUDA."""
    runs = {name: trainer_run("train_mlp_pytorch.py", "--use_gpu", *argv)
            for name, argv in {"default": [], "best": [BEST]}.items()}  # fmt: skip
    return {"device": torch.cuda.get_device_name(), **runs}


def machine():
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    threads = next((os.environ[name] for name in variables if name in os.environ), os.cpu_count())
    return {
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": precision(trainer_args(bfloat16=True)) == "bfloat16",
        "versions": {"python": platform.python_version(), "numpy": np.__version__,
                     "torch": torch.__version__},
        "threads": {"numpy": int(threads), "torch": torch.get_num_threads()},
    }  # fmt: skip


SECTIONS = {  # best_step comes after the others that measure here: it changes how memory is freed
    section.__name__: section
    for section in (machine, default_step, growth, best_step, default_run, processes, gpu)
}


@exit_with_message
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    names = parser.parse_args(argv).sections
    if unknown := set(names) - set(SECTIONS):
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
