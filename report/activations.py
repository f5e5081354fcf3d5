"""Measure Tanh against ELU at the end of training (question 2.2).

    python -m report.activations

Every network is trained with plain SGD on CIFAR-10 without 5,000 validation images, which are used
for all measurements; the test set is not used. The record is report/results/activations.json. The
script can be stopped at any time; the same command then continues.
"""

import functools
import itertools
import json
import math

import torch

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import ACTIVATIONS, MLP
from report import records
from training import flags
from training.argument_files import as_words
from training.data_pytorch import TensorData
from training.optimization import make_optimizer

SEEDS = 42, 1, 2
DEPTHS = 1, 2, 4, 8  # hidden layers
RATES = {  # learning rates, without and with the flag --standardize
    False: (1e-4, 1e-3, 1e-2, 1e-1),
    True: (1e-2, 1e-1, 1.0),
}
START_DEPTH = 10  # hidden layers, for at_start()
UNITS = 100  # of a hidden layer, the trainers' default
STEPS = 700
VALIDATION, PROBE = 5000, 1000  # images for the accuracy; for saturation(), the first 1000 of them
SATURATED = 0.05  # a unit is saturated for an image if its activation's derivative is below this


def derivative(activation, out):
    """The derivative of an activation, as a function of its output: a tensor like out."""
    return {"tanh": 1 - out**2, "elu": out.clamp(max=0) + 1}[activation]


@torch.inference_mode()
def saturation(mlp, activation, x):
    """For each hidden layer, the share of the outputs, over units and images, whose derivative is
    below SATURATED."""
    shares, out = [], x.flatten(start_dim=1)
    for layer in mlp.layers:
        out = layer(out)
        if isinstance(layer, ACTIVATIONS[activation]):
            shares.append((derivative(activation, out) < SATURATED).float().mean().item())
    return shares


@functools.lru_cache(maxsize=1)
def load(seed):
    return cifar10_utils.get_cifar10(one_hot=False, validation_size=VALIDATION, seed=seed)


def train(data, depth, **asked):
    """Trains one network; asked: some of its flags. Returns its validation accuracy and the
    saturation of its layers; if its loss is not finite, only the accuracy, which is then None."""
    words = as_words(asked | {"dnn_hidden_units": [UNITS] * depth})
    args = flags.parse(trainer.make_parser(), words)
    training_set, validation = (TensorData(split, "cpu") for split in (data.train, data.validation))
    training_set.position = 0
    mlp = trainer.make_mlp(args)
    mlp.fit_inputs(training_set)
    optimizer = make_optimizer(mlp, args, STEPS)
    for _ in range(STEPS):
        loss, _ = trainer.train_step(mlp, *training_set.next_batch(args.batch_size), optimizer)
        if not math.isfinite(loss):
            return {"val_accuracy": None}
    _, accuracy = trainer.evaluate(mlp, validation.batches(trainer.EVAL_BATCH))
    shares = saturation(mlp, args.activation, next(validation.batches(PROBE))[0])
    return {"val_accuracy": round(accuracy, 4), "saturated": [float(f"{v:.4g}") for v in shares]}


def at_start(x, activation, seed):
    """What the initial weights of a network of START_DEPTH hidden layers do to a random gradient
    at its last hidden layer, for inputs x (S, n): the root mean square where it reaches the first
    layer over that at the start."""
    mlp = MLP(x.shape[1], [UNITS] * START_DEPTH, 10, activation=activation, seed=seed)
    inputs = mlp.layers[0](x).detach().requires_grad_()
    out = mlp.layers[1:-1](inputs)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    out.backward(gradient)
    ratio = inputs.grad.square().mean().sqrt() / gradient.square().mean().sqrt()
    return {"activation": activation, "seed": seed, "gradient": round(ratio.item(), 4)}


def save(record):
    text = json.dumps(record).replace('{"seed"', '\n{"seed"')  # a line for each run
    records.write("activations", text + "\n")


def main():
    torch.set_num_threads(1)
    record = records.read("activations", {"runs": []})
    record |= {"steps": STEPS, "units": UNITS, "threshold": SATURATED}
    record["versions"] = {"torch": torch.__version__}
    x = torch.from_numpy(load(SEEDS[0]).validation.images[:PROBE]).flatten(start_dim=1)
    cases = itertools.product(("elu", "tanh"), SEEDS)
    record["start"] = [at_start(x / x.std(dim=0), *case) for case in cases]
    save(record)
    inputs = [(standardize, rate) for standardize in RATES for rate in RATES[standardize]]
    cases = itertools.product(SEEDS, DEPTHS, inputs, ("elu", "tanh"))
    for seed, depth, (standardize, rate), activation in cases:
        run = {"seed": seed, "depth": depth, "standardize": standardize,
               "learning_rate": rate, "activation": activation}  # fmt: skip
        if not records.matching(record["runs"], **run):
            run |= train(load(seed), **run)
            print(run, flush=True)
            record["runs"].append(run)
            save(record)


if __name__ == "__main__":
    main()
