"""Measure Tanh against ELU over training: saturation and gradients by layer (question 2.2).

    python -m report.activations

Every network is trained with plain SGD on CIFAR-10 less 5,000 validation images, on which all is
measured; the test set is not used. The record is report/results/activations.json. It can be stopped
at any moment; the same command then continues.
"""

import functools
import itertools
import json
import math

import torch
from torch.nn import functional as F

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import ACTIVATIONS
from report import records
from training import data_pytorch, flags
from training.optimization import Optimizer
from training.processes import Processes

SEEDS = 42, 1, 2
DEPTHS = 1, 2, 4, 8  # hidden layers
RATES = (  # learning rates with the flag --standardize; 1e-3 without it is the trainers' default
    *((False, 1e-4), (False, 1e-3), (False, 1e-2)),
    *((True, 1e-2), (True, 1e-1)),
)
UNITS = 100  # of a hidden layer, the trainers' default
MEASURED = 0, 10, 30, 100, 200, 300, 400, 500, 600, 700  # steps; training ends at the last
VALIDATION, PROBE = 5000, 1000  # images for the accuracy; the first of them for all else
SATURATED = 0.05  # a unit is saturated for an image where its activation's derivative is below
DIGITS = 4  # of a recorded number


def derivative(activation, out):
    """The derivative of an activation, as a function of its output: a tensor like out."""
    return {"tanh": 1 - out**2, "elu": out.clamp(max=0) + 1}[activation]


def measure(mlp, activation, x, y):
    """What happens in the hidden layers of an MLP, by layer: a dict of lists of floats.

    saturated: the share of the outputs, over units and images, whose derivative is below SATURATED.
    gradient: root mean square over the images of the norm of dL/dz, where z is the input of the
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
        # The loss is a mean over the images, so each z.grad is 1/S of that image's own gradient.
        "gradient": [(len(y) * z.grad).norm(dim=1) ** 2 for z in inputs],
        "weight_gradient": [layer.weight.grad.norm() for layer in hidden],
    }
    mlp.zero_grad()
    means = {name: [v.float().mean().item() for v in values] for name, values in measures.items()}
    means["gradient"] = [value**0.5 for value in means["gradient"]]
    return means


@functools.lru_cache(maxsize=1)
def load(seed):
    return cifar10_utils.get_cifar10(one_hot=False, validation_size=VALIDATION, seed=seed)


pixel_std = functools.lru_cache(maxsize=1)(data_pytorch.pixel_std)


def train(data, activation, depth, standardize, learning_rate, seed):
    """Trains one network, to the end or until its loss is not finite. Returns what was measured: by
    name, a list with a value for every step in MEASURED that was reached."""
    argv = ["--activation", activation, "--learning_rate", str(learning_rate)]
    argv += ["--dnn_hidden_units", ",".join([str(UNITS)] * depth), "--seed", str(seed)]
    argv += ["--max_steps", str(MEASURED[-1]), *(["--standardize"] if standardize else [])]
    args, processes = flags.parse(trainer.make_parser(), argv), Processes()
    scale = 1 / pixel_std(data.train) if standardize else None
    training_set, validation = (
        data_pytorch.TensorData(split, "cpu", processes, args, scale)
        for split in (data.train, data.validation)
    )
    data.train.position = 0
    mlp = trainer.make_mlp(args)
    optimizer = Optimizer(mlp, args, args.max_steps)
    probe = next(validation.batches(PROBE))
    rows = []
    for step in range(args.max_steps + 1):
        if step in MEASURED:
            loss, accuracy = trainer.evaluate(mlp, validation)
            if not math.isfinite(loss):
                break
            measures = measure(mlp, activation, *probe)
            rows.append({"step": step, "val_loss": loss, "val_accuracy": accuracy} | measures)
        trainer.train_step(mlp, *training_set.next_batch(args.batch_size), optimizer)
    return {name: [rounded(row[name]) for row in rows] for name in rows[0]}


def rounded(value):
    """A number, or a list of them, with few digits."""
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def main():
    torch.set_num_threads(1)
    record = records.read("activations", {
        "threshold": SATURATED,
        "units": UNITS,
        "versions": {"torch": torch.__version__},
        "runs": [],
    })  # fmt: skip
    cases = itertools.product(SEEDS, DEPTHS, RATES, ("elu", "tanh"))
    for seed, depth, (standardize, rate), activation in cases:
        run = {"seed": seed, "depth": depth, "standardize": standardize,
               "learning_rate": rate, "activation": activation}  # fmt: skip
        if records.matching(record["runs"], **run):
            continue
        measured = train(load(seed), **run)
        print(run, f"validation accuracy {measured['val_accuracy'][-1]}", flush=True)
        record["runs"].append(run | measured)
        text = json.dumps(record).replace('{"seed"', '\n{"seed"')  # a line for each run
        records.write("activations", text + "\n")


if __name__ == "__main__":
    main()
