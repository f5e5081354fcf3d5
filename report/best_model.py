"""Study a finished run of train_mlp_pytorch.py (question 2.1).

    python -m report.best_model RUN [--validated RUN] [--augmentation WITHOUT WITH]

The records are report/results/best_model.json and best_model.npz, for plots/plot_best_model.py: the
confusion matrix and the calibration, both on the test set, and the first layer's weights.

The temperature of the calibration is fitted on validation images, never on the test set. A RUN on
all training images has no validation images. --validated then names a run of the same recipe with
some: its temperature is used for RUN.

--augmentation names two runs with the same validation split, one without and one with augmentation,
to be compared with each other.
"""

import argparse
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import InputMap
from report import records
from training import flags
from training.augmentation import PIXEL, TestTimeAugmentation, affine_sample, downsample
from training.data_pytorch import load_tensors
from training.errors import UsageError, exit_with_message
from training.files import load_weights

BINS = 15  # of the confidence, equally wide
UNITS_SHOWN = 20  # of the first layer
MOST_MOVED = 8  # pixels to either side


# A finished run -----------------------------------------------------------------------------------


def load_run(folder, data_dir):
    """The run in a folder: its record with its history, its MLP with the weights that it was
    evaluated with, and its splits as TensorData."""
    record = records.read_finished(folder)
    args = flags.parse(trainer.make_parser(), [])
    synthetic = record["dataset"] == "synthetic"
    vars(args).update(record["flags"], synthetic=synthetic, use_gpu=False, data_dir=data_dir,
                      bfloat16=record.get("precision") == "bfloat16")  # fmt: skip
    splits = load_tensors(args, torch.device("cpu"))
    mlp = trainer.make_mlp(args)
    try:
        mlp.load_state_dict(load_weights(folder))
    except Exception as error:  # a damaged file can raise almost anything
        raise UsageError(f"no weights in {folder}: {error!r:.200}") from error
    return SimpleNamespace(folder=folder, record=record, args=args, mlp=mlp, **vars(splits))


@torch.inference_mode()
def predict_all(run, data):
    """The logits (N, C) of all images of a split and their labels (N,), as arrays."""
    shift = run.args.test_time_augmentation
    predict = (TestTimeAugmentation(run.mlp, shift) if shift else run.mlp).eval()
    batches = data.batches(trainer.EVAL_BATCH, whole=shift > 0)
    return torch.cat([predict(x) for x, _ in batches]).double().numpy(), data.labels.numpy()


# On the test set ----------------------------------------------------------------------------------


def confusion_matrix(predictions, labels):
    """(C, C) counts: rows are the true classes, columns the predicted ones."""
    matrix = np.zeros((cifar10_utils.N_CLASSES, cifar10_utils.N_CLASSES), int)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def probabilities(logits, temperature=1.0):
    """softmax(logits / temperature), (N, C)."""
    return torch.from_numpy(logits / temperature).softmax(dim=1).numpy()


def fit_temperature(logits, labels):
    """The temperature from 0.01 to 100 with the least cross entropy.

    In b = 1/temperature the cross entropy is convex. Its derivative, the mean over the examples of
    sum_c p_c z_c - z_y for logits z and label y, grows with b: its root is found by bisection.
    """
    at_label = logits[np.arange(len(labels)), labels]
    low, high = -2.0, 2.0  # of log10 b
    for _ in range(50):
        middle = (low + high) / 2
        expected = (probabilities(logits, 10**-middle) * logits).sum(axis=1)
        low, high = (low, middle) if np.mean(expected - at_label) >= 0 else (middle, high)
    return 10**-low


def calibration(logits, labels, temperature):
    """The cross entropy in nats, and the expected calibration error: the distance between
    confidence and accuracy, averaged over the examples in BINS bins of the confidence. `bins` has
    the mean confidence, the accuracy and the number of examples of each bin that is not empty."""
    p = probabilities(logits, temperature)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = np.stack([np.bincount(bins, w, BINS) for w in (confidence, right, np.ones(len(p)))])
    sums = sums[:, sums[2] > 0]
    return {
        "bins": np.stack([*sums[:2] / sums[2], sums[2]]).round(4).tolist(),
        "loss": round(float(-np.log(p[np.arange(len(labels)), labels]).mean()), 4),
        "error": round(float(np.abs(sums[0] - sums[1]).sum() / len(labels)), 4),
    }


# The first layer ----------------------------------------------------------------------------------


def first_weights(mlp):
    """(units, 3, side, side) float32: the weights of the first layer, as factors of the pixels."""
    weight = mlp.linear_layers()[0].weight.detach()
    if isinstance(mlp.layers[0], InputMap):
        fitted = mlp.layers[0].map
        weight = weight @ fitted.T if fitted.ndim == 2 else weight * fitted
    weight = weight.numpy()
    side = math.isqrt(weight.shape[1] // 3)
    return weight.reshape(len(weight), 3, side, side)


def sample(weights, n):
    """n units, evenly spaced in the order of decreasing weight norm, from the half with the larger
    weights, as bytes: 128 means 0; 1 and 255 mean minus and plus three standard deviations of a
    unit's weights. Larger weights are clipped."""
    norms = np.sqrt((weights**2).sum(axis=(1, 2, 3)))
    places = np.linspace(0, (len(weights) - 1) // 2, n).round().astype(int)
    chosen = weights[np.argsort(-norms, kind="stable")[places]]
    scaled = chosen / (3 * chosen.std(axis=(1, 2, 3), keepdims=True))
    return np.round(128 + 127 * scaled.clip(-1, 1)).astype(np.uint8)


def small_weights(weight):
    """The share of a layer's weights below a tenth of their root mean square: 0.08 of weights that
    are normally distributed."""
    return round((weight.abs() < weight.square().mean().sqrt() / 10).double().mean().item(), 4)


def neighbour_similarity(weights):
    """The cosine similarity of a unit's weights and those of the adjacent pixels, as the median
    over the units: about 0 for noise, 1 for equal weights."""
    w = torch.from_numpy(weights).double()

    def similarity(one, other):
        return F.cosine_similarity(one.flatten(1), other.flatten(1))

    across, down = similarity(w[..., 1:], w[..., :-1]), similarity(w[:, :, 1:], w[:, :, :-1])
    return round(((across + down) / 2).quantile(0.5).item(), 4)


# Augmentation -------------------------------------------------------------------------------------


def moved(x, right):
    """Images x (S, 3, 32, 32) moved by `right` pixels, to the left if negative, on 0."""
    maps = torch.eye(2, 3)
    maps[0, 2] = -right * PIXEL
    return affine_sample(x, maps.expand(len(x), 2, 3), x.shape[-1])


def moved_accuracy(run, distance):
    """The accuracy of a run on its moved validation images, each seen once and not in views."""
    data = run.validation
    batches = data.batches(trainer.EVAL_BATCH, whole=True)
    there = ((downsample(moved(x, distance), data.size), y) for x, y in batches)
    return round(trainer.evaluate(run.mlp, there)[1], 4)


def what_was_learned(run):
    """What two runs with and without augmentation are compared in."""
    distances = range(-MOST_MOVED, MOST_MOVED + 1)
    return {
        "run": run.record,
        "moved_by": list(distances),
        "moved": [moved_accuracy(run, distance) for distance in distances],
        "neighbour_similarity": neighbour_similarity(first_weights(run.mlp)),
    }


# The study ----------------------------------------------------------------------------------------


def study(run, validated, pair):
    """The record of a run; validated is one of the same recipe with a validation split, pair may
    hold one without augmentation and one with it."""
    logits, labels = predict_all(run, run.test)
    matrix = confusion_matrix(logits.argmax(axis=1), labels)
    temperature = fit_temperature(*predict_all(validated, validated.validation))
    recipes = run.record["flags"], validated.record["flags"]
    return {
        "classes": cifar10_utils.CLASSES,
        "run": run.record,
        "validated": validated.record,
        "differing_flags": sorted(records.differing_recipe(*recipes)),
        "test_accuracy": round(matrix.trace() / matrix.sum(), 4),
        "confusion": matrix.tolist(),
        "class_accuracy": (matrix.diagonal() / matrix.sum(axis=1)).round(4).tolist(),
        "small_weights": small_weights(run.mlp.linear_layers()[0].weight),
        "temperature": round(temperature, 4),
        "calibration": {
            "before": calibration(logits, labels, 1.0),
            "after": calibration(logits, labels, temperature),
        },
        "augmentation": dict(zip(("without", "with"), map(what_was_learned, pair), strict=False)),
    }


@exit_with_message
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("run", type=Path, help="folder of the run to study")
    add("--validated", type=Path, metavar="RUN", help="run of the same recipe with validation")
    add("--augmentation", type=Path, nargs=2, metavar=("WITHOUT", "WITH"), help="runs to compare")
    add("--data_dir", default=cifar10_utils.DEFAULT_DIR, help="folder of CIFAR-10's files")
    options = parser.parse_args(argv)
    folders = [options.run, options.validated or options.run, *(options.augmentation or ())]
    run, validated, *pair = (load_run(folder, options.data_dir) for folder in folders)
    for other in (validated, *pair):
        if not other.validation:
            raise UsageError(f"{other.folder} has no validation split: give --validated")
    record = study(run, validated, pair)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items()]
    records.write("best_model", "{\n" + ",\n".join(lines) + "\n}\n")
    units = sample(first_weights(run.mlp), UNITS_SHOWN)
    np.savez_compressed(records.RESULTS / "best_model.npz", run=units)
    before, after = (record["calibration"][when]["error"] for when in ("before", "after"))
    print(
        f"test accuracy {record['test_accuracy']} (recorded: {run.record['test_accuracy']:.4f}), "
        f"calibration error {before}, at temperature {record['temperature']} {after}; flags that "
        f"differ between the recipes: {', '.join(record['differing_flags']) or 'none'}"
    )


if __name__ == "__main__":
    main()
