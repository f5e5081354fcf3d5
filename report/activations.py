"""Measure Tanh against ELU over training: saturation and gradients by layer (question 2.2).

    python report/activations.py

Every network is trained with plain SGD on CIFAR-10 less 5,000 validation images, on which all is
measured; the test set is not touched. The record is report/results/activations.json. Stopped at any
moment, the same command goes on from there.
"""

import functools
import itertools
import json
import math
import os
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cifar10_utils  # noqa: E402
import train_mlp_pytorch  # noqa: E402
from mlp_pytorch import ACTIVATIONS  # noqa: E402
from optimization import make_optimizer  # noqa: E402
from processes import Processes  # noqa: E402

TARGET = ROOT / "report" / "results" / "activations.json"
SEEDS = 42, 1, 2
DEPTHS = 1, 2, 4, 8  # hidden layers
RATES = (  # learning rates with the flag --standardize; 1e-3 without it is the trainers' default
    *((False, 1e-4), (False, 1e-3), (False, 1e-2)),
    *((True, 1e-2), (True, 1e-1)),
)
UNITS = 100  # of a hidden layer, their default too
MEASURED = 0, 10, 30, 100, 200, 300, 400, 500, 600, 700  # steps; training ends at the last
VALIDATION, PROBE = 5000, 1000  # images for the accuracy; the first of them for all else
SATURATED = 0.05  # a unit is saturated for an image where its activation's derivative is below
DIGITS = 4  # of a recorded number


def derivative(activation, out):
    """The derivative of an activation, a tensor like its output out."""
    return {"tanh": 1 - out**2, "elu": out.clamp(max=0) + 1}[activation]


def measure(mlp, activation, x, y):
    """What happens in the hidden layers of an MLP, by layer: a dict of lists of floats.

    saturated: the share of the outputs, over units and images, whose derivative is below SATURATED.
    gradient: root mean square over the images of the norm of dL/dz, z being the inputs of the
        layer's activation and L the loss of the image.
    weight_gradient: the norm of the gradient of the mean loss with respect to the layer's weights.
    """
    inputs, outputs, out = [], [], x.flatten(start_dim=1)
    for layer in mlp.layers:
        before, out = out, layer(out)
        if isinstance(layer, ACTIVATIONS[activation]):
            before.retain_grad()
            inputs.append(before)
            outputs.append(out.detach())
    F.cross_entropy(out, y).backward()
    *hidden, _ = mlp.linear_layers()
    measures = {
        "saturated": [derivative(activation, out) < SATURATED for out in outputs],
        # The loss is the mean over the images: each has 1/S of the gradient of its own.
        "gradient": [(len(y) * z.grad).norm(dim=1) ** 2 for z in inputs],
        "weight_gradient": [layer.weight.grad.norm() for layer in hidden],
    }
    mlp.zero_grad()
    means = {name: [v.float().mean().item() for v in values] for name, values in measures.items()}
    means["gradient"] = [value**0.5 for value in means["gradient"]]
    return means


@functools.lru_cache(maxsize=1)
def load(seed):
    return cifar10_utils.get_cifar10(
        ROOT / cifar10_utils.DEFAULT_DIR, one_hot=False, validation_size=VALIDATION, seed=seed
    )


pixel_std = functools.lru_cache(maxsize=1)(train_mlp_pytorch.pixel_std)


def train(data, activation, depth, standardize, learning_rate, seed):
    """Trains one network, until it is through or its loss is not finite any more. Returns what was
    measured: by name, a list with a value for every step in MEASURED that was reached."""
    flags = ["--activation", activation, "--learning_rate", str(learning_rate)]
    flags += ["--dnn_hidden_units", ",".join([str(UNITS)] * depth), "--seed", str(seed)]
    flags += ["--max_steps", str(MEASURED[-1]), *(["--standardize"] if standardize else [])]
    args = train_mlp_pytorch.make_parser().parse_args(flags)
    scale = 1 / pixel_std(data.train) if standardize else None
    processes = Processes()
    training_set, validation = (
        train_mlp_pytorch.TensorData(split, "cpu", processes, args, scale)
        for split in (data.train, data.validation)
    )
    training_set.seek(0)
    mlp = train_mlp_pytorch.make_mlp(args)
    optimizer = make_optimizer(mlp, args)
    probe = next(validation.batches(PROBE))
    rows = []
    for step in range(args.max_steps + 1):
        if step in MEASURED:
            loss, accuracy = train_mlp_pytorch.evaluate(mlp, validation)
            if not math.isfinite(loss):
                break
            measures = measure(mlp, activation, *probe)
            rows.append({"step": step, "val_loss": loss, "val_accuracy": accuracy} | measures)
        train_mlp_pytorch.start_step(optimizer, args, step + 1, processes)
        x, y = training_set.next_batch(args.batch_size)
        F.cross_entropy(mlp(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: [rounded(row[name]) for row in rows] for name in rows[0]}


def rounded(value):
    """A number, or a list of them, with few digits."""
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def main():
    torch.set_num_threads(1)
    record = json.loads(TARGET.read_text()) if TARGET.exists() else {
        "threshold": SATURATED,
        "units": UNITS,
        "versions": {"torch": torch.__version__},
        "runs": [],
    }  # fmt: skip
    names = "seed", "depth", "standardize", "learning_rate", "activation"
    done = [tuple(run[name] for name in names) for run in record["runs"]]
    for seed, depth, rate, activation in itertools.product(SEEDS, DEPTHS, RATES, ("elu", "tanh")):
        if (seed, depth, *rate, activation) in done:
            continue
        run = dict(zip(names, (seed, depth, *rate, activation), strict=True))
        measured = train(load(run["seed"]), **run)
        print(run, f"validation accuracy {measured['val_accuracy'][-1]}", flush=True)
        record["runs"].append(run | measured)
        temporary = TARGET.with_suffix(".tmp")
        temporary.write_text(json.dumps(record).replace('{"seed"', '\n{"seed"') + "\n")
        os.replace(temporary, TARGET)


if __name__ == "__main__":
    main()
