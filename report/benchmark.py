"""Time both trainers beside what else one could use, and beside their matrix products.

    python report/benchmark.py [SECTION ...]

What is compared is measured in turn, many times over, so that what disturbs the machine disturbs
all alike: believe the ratios, each of which is the median of those of the single rounds. About six
minutes. The record is report/results/benchmark.json; README and plots/speed.png are made from it.
Given names of sections, it measures these anew and leaves the others as they are.
scikit-learn and a C++ compiler (for torch.compile) are used where they are installed.
"""

import argparse
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

try:
    from sklearn.neural_network import MLPClassifier
except ImportError:
    MLPClassifier = None

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cifar10_utils  # noqa: E402
import mlp_pytorch  # noqa: E402
import train_mlp_numpy  # noqa: E402
import train_mlp_pytorch  # noqa: E402
import training  # noqa: E402
from mlp_numpy import MLP  # noqa: E402
from modules import CrossEntropyModule  # noqa: E402
from optimization import make_optimizer  # noqa: E402
from processes import Processes  # noqa: E402

DATA = ROOT / cifar10_utils.DEFAULT_DIR
N_INPUTS, N_CLASSES, SCALE = 3072, cifar10_utils.N_CLASSES, cifar10_utils.PIXEL_RMS
RATE = 1e-3
WIDE = ["--dnn_hidden_units", "2048", "--batch_size", "1024"]  # for several processes
GROWTH = {  # the hidden layers and the batch size behind each point of the figure
    "width": {n: ([n], 200) for n in (32, 64, 100, 256, 512, 1024, 2048)},
    "depth": {n: ([100] * n, 200) for n in (1, 2, 4, 8, 16)},
    "batch": {n: ([100], n) for n in (32, 64, 128, 256, 512, 1024, 2048, 4096)},
}
DATA_SIZES = (1000, 2500, 5000, 10_000, 25_000, 50_000)


# The steps ----------------------------------------------------------------------------------------


def numpy_step(data, hidden, batch):
    """The step of train_mlp_numpy.py, from the batch to the update."""
    mlp = MLP(N_INPUTS, hidden, N_CLASSES, dtype=np.float32, input_scale=SCALE)
    cross_entropy = CrossEntropyModule()
    x = np.empty((batch, *cifar10_utils.SHAPE), np.float32)

    def step():
        _, y = data.next_batch(batch, out=x)
        probabilities = mlp.forward(x)
        cross_entropy.forward(probabilities, y)
        train_mlp_numpy.accuracy(probabilities, y)
        mlp.backward(RATE * cross_entropy.backward(probabilities, y))
        for module in mlp.modules:
            for name, gradient in module.grads.items():
                module.params[name] -= gradient

    return step


def products(hidden, batch, order="C"):
    """The matrix products of that step and nothing else, without the last layer's small ones:
    outputs, gradients of the weights, and of the inputs behind the first layer.

    order: of the weights in memory, "C" by rows as one would write it, "F" as the trainer's.
    """
    rng = np.random.default_rng(0)
    layers = []
    for fan_in, fan_out in itertools.pairwise([N_INPUTS, *hidden]):
        weight = np.array(rng.standard_normal((fan_out, fan_in), np.float32), order=order)
        x, dout = (rng.standard_normal((batch, n), np.float32) for n in (fan_in, fan_out))
        layers.append((x, weight, dout, np.empty_like(weight)))

    def step():
        for i, (x, weight, dout, gradient) in enumerate(layers):
            x @ weight.T
            np.matmul(dout.T, x, out=gradient)
            if i:
                dout @ weight

    return step


def products_and_passes(data):
    """The two large products, and the passes over memory without which nothing is learned: a batch
    is gathered, converted and centred, and the large weights are updated."""
    multiply = products([100], 200, order="F")
    x = np.empty((200, *cifar10_utils.SHAPE), np.float32)
    weight, gradient = (np.zeros((100, N_INPUTS), np.float32, order="F") for _ in range(2))

    def step():
        nonlocal weight
        data.next_batch(200, out=x)
        multiply()
        weight -= gradient

    return step


def straightforward_step(data):
    """The default step as one writes it first: float64 weights, an array for every result, the
    whole Jacobian of the softmax, the gradient of the data too. The images are float32 already."""
    rng = np.random.default_rng(0)
    images, targets = data.next_batch(4000)
    batches = itertools.cycle([(images[i : i + 200].reshape(200, -1), targets[i : i + 200])
                               for i in range(0, 4000, 200)])  # fmt: skip
    w1, w2 = (1e-4 * rng.standard_normal(shape) for shape in ((100, N_INPUTS), (N_CLASSES, 100)))
    b1, b2 = np.zeros((1, 100)), np.zeros((1, N_CLASSES))

    def step():
        nonlocal w1, w2, b1, b2
        x, y = next(batches)
        hidden = x @ w1.T + b1
        out = np.where(hidden > 0, hidden, np.exp(hidden) - 1)
        logits = out @ w2.T + b2
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = exp / exp.sum(axis=1, keepdims=True)
        -np.mean(np.sum(y * np.log(p), axis=1))
        jacobian = p[:, :, None] * np.eye(N_CLASSES) - p[:, :, None] * p[:, None, :]
        dlogits = np.einsum("ij,ijk->ik", -y / p / len(x), jacobian)
        dhidden = (dlogits @ w2) * np.where(hidden > 0, 1, np.exp(hidden))
        dhidden @ w1
        w1 = w1 - RATE * (dhidden.T @ x)
        b1 = b1 - RATE * dhidden.sum(axis=0, keepdims=True)
        w2 = w2 - RATE * (dlogits.T @ out)
        b2 = b2 - RATE * dlogits.sum(axis=0, keepdims=True)

    return step


def pytorch_step(data, hidden, batch):
    """The step of train_mlp_pytorch.py, from the batch to the update."""
    units = ",".join(map(str, hidden))
    args = train_mlp_pytorch.make_parser().parse_args(["--dnn_hidden_units", units])
    processes = Processes()
    tensors = train_mlp_pytorch.TensorData(data, "cpu", processes, args)
    mlp = train_mlp_pytorch.make_mlp(args)
    optimizer = make_optimizer(mlp, args)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def step():
        train_mlp_pytorch.start_step(optimizer, args, 1, processes)
        x, y = tensors.next_batch(batch)
        logits = train_mlp_pytorch.predict(mlp, x, args)
        loss = cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach()), float(train_mlp_pytorch.accuracy(logits, y))

    return step


def bare_step(data, hidden, batch, compiled=False):
    """A hand-written PyTorch loop over float tensors that are in memory already."""
    x, y = data.next_batch(max(batch, 4096) // batch * batch)
    x = torch.from_numpy(x.reshape(len(x), -1))
    pairs = zip(x.split(batch), torch.from_numpy(y).split(batch), strict=True)
    batches = itertools.cycle(list(pairs))
    mlp = mlp_pytorch.MLP(N_INPUTS, hidden, N_CLASSES, input_scale=SCALE)
    layers, parameters = mlp.layers, list(mlp.parameters())

    def loss_of(x, y):
        return F.cross_entropy(layers(x), y)

    if compiled:
        loss_of = torch.compile(loss_of)

    def step():
        x, y = next(batches)
        loss_of(x, y).backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= RATE * parameter.grad
                parameter.grad = None

    return step


def sklearn_step(data):
    """One call of partial_fit on a batch that is in memory already, without momentum."""
    x, y = data.next_batch(200)
    x = x.reshape(len(x), -1) / np.float32(SCALE)
    model = MLPClassifier([100], solver="sgd", batch_size=200, momentum=0, alpha=0)
    return lambda: model.partial_fit(x, y, classes=range(N_CLASSES))


# Measuring ----------------------------------------------------------------------------------------


def one_round(candidates, turn=0.06):
    """The median of the milliseconds of a call, by name. Each candidate has its turn: three calls
    to get warm, then calls for so many seconds."""
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

    elsewhere: a connection to a process that does a round of others at each request. The threads of
    a library go on spinning for a while after its last product, and two libraries in one process
    would be in each other's way.
    """
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        medians = one_round(candidates)
        if elsewhere:
            time.sleep(0.1)
            elsewhere.send("round")
            medians |= elsewhere.recv()
        rounds.append(medians)
    return {name: np.array([medians[name] for medians in rounds]) for name in rounds[0]}


def serve_pytorch(connection, hidden, batch, everything):
    """Does a round of PyTorch's candidates at each request, in a process of its own."""
    data = cifar10_utils.get_cifar10(DATA, one_hot=False).train
    candidates = {"pytorch bare": bare_step(data, hidden, batch)}
    if everything:
        candidates["pytorch"] = pytorch_step(data, hidden, batch)
        if shutil.which("c++"):
            candidates["pytorch bare, compiled"] = bare_step(data, hidden, batch, compiled=True)
            candidates["pytorch bare, compiled"]()
    while True:
        connection.send(one_round(candidates))
        connection.recv()


def measure_with_pytorch(candidates, seconds, hidden, batch, everything=False):
    """measure() with PyTorch's steps among the candidates."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_pytorch, args=(theirs, hidden, batch, everything))
    process.start()
    ours.recv()  # it is ready
    times = measure(candidates, seconds, ours)
    process.kill()
    process.join()
    return times


def summary(values, digits=3):
    """Best, median and distance of the quartiles."""
    best, low, middle, high = np.percentile(values, [0, 25, 50, 75])
    numbers = {"best": best, "median": middle, "quartiles": high - low}
    return {name: round(float(value), digits) for name, value in numbers.items()}


def comparison(times, pairs):
    """The times, and for each pair of names the ratio: of the bests, and the rounds' median."""
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
    """The default step beside all that does the same."""
    train = load().train
    candidates = {
        "products": products([100], 200),
        "products, weights by columns": products([100], 200, order="F"),
        "products and passes": products_and_passes(train),
        "numpy": numpy_step(train, [100], 200),
        "numpy straightforward": straightforward_step(train),
    }
    if MLPClassifier:
        candidates["scikit-learn"] = sklearn_step(load(one_hot=False).train)
    times = measure_with_pytorch(candidates, 40, [100], 200, everything=True)
    pairs = [("numpy", other) for other in times if other != "numpy"]
    pairs += [("pytorch", other) for other in times if other.startswith("pytorch bare")]
    return comparison(times, pairs)


def shapes():
    """NumPy, its products and bare PyTorch for wider, deeper and larger steps."""
    rows = []
    for hidden, batch in (([100], 512), ([512], 512), ([2048], 512), ([512, 512], 512)):
        candidates = {
            "products": products(hidden, batch),
            "numpy": numpy_step(load().train, hidden, batch),
        }
        times = measure_with_pytorch(candidates, 8, hidden, batch)
        pairs = [("numpy", "products"), ("numpy", "pytorch bare")]
        rows.append({"hidden": hidden, "batch": batch, **comparison(times, pairs)})
    return rows


def evaluation_times(data, seconds):
    """Evaluating all of data, beside the products of the large layer on as many batches."""
    mlp = MLP(N_INPUTS, [100], N_CLASSES, dtype=np.float32, input_scale=SCALE)
    batch = train_mlp_numpy.EVAL_BATCH
    x = np.zeros((batch, N_INPUTS), np.float32)
    weight = np.zeros((100, N_INPUTS), np.float32)

    def bare():
        for _ in range(data.num_examples // batch):
            x @ weight.T

    return measure(
        {"products": bare, "numpy": lambda: train_mlp_numpy.evaluate(mlp, data)}, seconds
    )


def evaluation():
    """Evaluating the test set beside its products."""
    return comparison(evaluation_times(load().test, 6), [("numpy", "products")])


def growth():
    """Milliseconds of a NumPy step and its products against width, depth and batch, and of an
    evaluation and its products against the number of examples."""
    data = load(one_hot=False).train
    points = {}
    for name, cases in GROWTH.items():
        points[name] = {
            n: measure({"products": products(*case), "numpy": numpy_step(load().train, *case)}, 1)
            for n, case in cases.items()
        }
    points["data"] = {
        n: evaluation_times(cifar10_utils.DataSet(data.pixels[:n], data.labels[:n], data.mean), 1)
        for n in DATA_SIZES
    }
    return {
        name: {"at": list(cases)}
        | {who: [round(float(np.median(times[who])), 4) for times in cases.values()]
           for who in ("products", "numpy")}
        for name, cases in points.items()
    }  # fmt: skip


# Whole runs ---------------------------------------------------------------------------------------


def timed_run(command, **environment):
    """Seconds of a command from the start of its process to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT / "report", check=True,
                   capture_output=True, env=os.environ | environment)  # fmt: skip
    return time.perf_counter() - began


def trainer_run(trainer, *flags, launcher=(), **environment):
    """Seconds of a trainer's run from start to end, and what it recorded itself."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data_dir", DATA, "--run_dir", f"{folder}/run", *flags]
        wall = timed_run([*launcher, ROOT / trainer, *flags], **environment)
        record = json.loads(Path(folder, "run", "run.json").read_text())
    return {"wall_seconds": round(wall, 2), "train_seconds": round(record["train_seconds"], 2),
            "peak_rss_mb": record["peak_rss_mb"], "steps": record["steps"]}  # fmt: skip


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
    data = cifar10_utils.get_cifar10(DATA, one_hot=False)
    train = torch.utils.data.DataLoader(SingleImages(data.train), 200, shuffle=True)
    test = torch.utils.data.DataLoader(SingleImages(data.test), 200)
    mlp = mlp_pytorch.MLP(N_INPUTS, [100], N_CLASSES)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=RATE)
    step = 0
    while True:
        for x, y in train:
            if step % 100 == 0:
                with torch.no_grad():
                    for images, _ in test:
                        mlp(images)
            if step == 1400:
                return
            F.cross_entropy(mlp(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1


def default_run():
    """The default jobs of both trainers and the template's, each the faster of two in turn."""
    jobs = {
        "numpy": lambda: trainer_run("train_mlp_numpy.py"),
        "pytorch": lambda: trainer_run("train_mlp_pytorch.py"),
        "template": lambda: {"wall_seconds": round(timed_run(
            ["-c", "import benchmark; benchmark.template_job()"]), 2)},
    }  # fmt: skip
    runs = [{name: job() for name, job in jobs.items()} for _ in range(2)]
    return {name: min((run[name] for run in runs), key=lambda run: run["wall_seconds"])
            for name in jobs}  # fmt: skip


def start_up():
    """Seconds from the start of the NumPy trainer's process to its first step, evaluation before
    it included, and of reading and hashing the files in turn with it."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import training, train_mlp_numpy;"
        "training.Run.steps = lambda run, save: os._exit(0); train_mlp_numpy.main(sys.argv[1:])"
    )

    def read_and_hash():
        for name in cifar10_utils.MD5:
            hashlib.md5((DATA / name).read_bytes(), usedforsecurity=False)

    def first_step():
        with tempfile.TemporaryDirectory() as folder:
            timed_run(["-c", code, "--data_dir", DATA, "--run_dir", f"{folder}/run"])

    times = measure({"read and hash": read_and_hash, "first step": first_step}, 12)
    seconds = {name: values / 1000 for name, values in times.items()}
    return {name: summary(values) for name, values in seconds.items()} | {
        "difference": summary(seconds["first step"] - seconds["read and hash"])
    }


def memory_job(n):
    """Prints the peak memory (MB) of a process that draws a batch of n examples and evaluates."""
    pixels, labels = np.ones((n, N_INPUTS), np.uint8), np.zeros(n, np.int64)
    data = cifar10_utils.DataSet(pixels, labels, np.zeros(cifar10_utils.SHAPE, np.float32))
    data.next_batch(200)
    train_mlp_numpy.evaluate(MLP(N_INPUTS, [100], N_CLASSES, dtype=np.float32), data)
    print(training.peak_rss_mb())


def memory():
    """Peak memory against the number of examples, and the bytes for one more pixel."""
    examples, peaks = [25_000, 50_000, 100_000, 200_000], []
    for n in examples:
        job = [sys.executable, "-c", f"import benchmark; benchmark.memory_job({n})"]
        done = subprocess.run(job, cwd=ROOT / "report", check=True, capture_output=True)
        peaks.append(round(float(done.stdout), 1))
    slope, _ = np.polyfit(examples, peaks, 1)
    return {"examples": examples, "peak_mb": peaks, "bytes_per_pixel": round(slope * 1e6 / 3072, 3)}


def processes():
    """Milliseconds of a step in one process and in two, and how much of two is used."""
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = {}
    for name, flags in (
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
            run = trainer_run("train_mlp_pytorch.py", *flags, launcher=launcher, **environment)
            steps[kind] = round(1000 * run["train_seconds"] / run["steps"], 3)
        one, _, both = steps.values()
        result[name] = {"milliseconds": steps, "efficiency": round(one / both / 2, 3)}
    return result


def gpu():
    """Whole jobs on CUDA, where there is a device: the default one, a wide one, and the widest
    layers in bfloat16 with their rate of arithmetic."""
    if not torch.cuda.is_available():
        return None
    batch, width = 4096, 4096
    jobs = {
        "default": [],
        "wide": ["--dnn_hidden_units", "2048,1024,512", "--batch_size", "1024"],
        "widest": ["--dnn_hidden_units", f"{width},{width},{width}", "--batch_size", f"{batch}",
                   "--bfloat16", "--max_steps", "500", "--eval_freq", "500"],
    }  # fmt: skip
    runs = {name: trainer_run("train_mlp_pytorch.py", "--use_gpu", *flags)
            for name, flags in jobs.items()}  # fmt: skip
    for run in runs.values():
        run["steps_per_second"] = round(run["steps"] / run["train_seconds"], 1)
    # Forward, gradient of the weights and, behind the first layer, of the inputs.
    products = 2 * batch * (2 * N_INPUTS * width + 3 * (2 * width**2 + width * N_CLASSES))
    rate = products * runs["widest"]["steps_per_second"]
    return {"device": torch.cuda.get_device_name(), **runs, "tflops": round(rate / 1e12, 1)}


def machine():
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    threads = next((os.environ[name] for name in variables if name in os.environ), os.cpu_count())
    versions = {"python": platform.python_version(), "numpy": np.__version__,
                "torch": torch.__version__}  # fmt: skip
    return {"cores": os.cpu_count(), "vectors": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": train_mlp_pytorch.multiplies_bfloat16(torch.device("cpu")),
            "versions": versions,
            "threads": {"numpy": int(threads), "torch": torch.get_num_threads()}}  # fmt: skip


SECTIONS = {
    section.__name__: section
    for section in (machine, default_step, shapes, evaluation, growth, start_up, default_run,
                    memory, processes, gpu)
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)} (default: all)")
    names = parser.parse_args().sections or list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}: see --help")
    target = ROOT / "report" / "results" / "benchmark.json"
    record = json.loads(target.read_text()) if target.exists() else {}
    for name in names:
        record[name] = SECTIONS[name]()
        print(f"{name}: {json.dumps(record[name])}", flush=True)
        target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
