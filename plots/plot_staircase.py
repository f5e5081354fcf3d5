"""Question 2.1: the steps from the default run to the best network."""

import numpy as np

from plots import style
from report import records

STEPS = {  # the main changes of each experiment from the one above it
    "default": "the default run",
    "base": "baseline: AdamW, 256 and 128 units, 20 epochs",
    "standardize": "standardised pixels",
    "stacked-1-batch-norm": "batch normalisation",
    "stacked-2-cosine": "cosine schedule",
    "stacked-3-gelu": "GELU",
    "combined-1-training": "twice the learning rate",
    "combined-2-augmented": "flips and shifts",
    "combined-3-views": "test-time augmentation",
    "long": "half resolution, wide, 90 epochs, stronger regularisation",
    "pixels-validated": "900 epochs",
    "third": "whitened inputs, higher rate, no dropout, 300 epochs",
    "third-l1-03": "L1 penalty",
    "best-cpu-validated": "wider layers, 54 views, not 150",
}


def draw():
    figure = style.new_figure(
        "From the default run to the best network: validation accuracy after each change",
        height=1.9,
    )
    axes = figure.subplots()
    for y, name in enumerate(STEPS):
        runs = records.runs_of(name)
        values = np.array([records.validation_accuracy(run) for run in runs])
        train = records.column(runs, "train_accuracy")[:, -1].mean()
        axes.plot(values, [y] * len(values), "|", color="C0", ms=7, mew=0.8)
        spread = np.std(values, ddof=1) if len(values) > 1 else None
        style.dot(axes, values, y, spread, filled=spread is not None)
        text = f"{values.mean():.3f} (training {train:.2f})"
        right = values.mean() + max(spread or 0, 0.006) + 0.006
        axes.text(right, y, text, va="center", size=style.SMALL)
    axes.set_yticks(range(len(STEPS)), STEPS.values())
    axes.invert_yaxis()
    axes.set(xlabel="validation accuracy", xlim=(0.465, 0.97))
    axes.grid(False, axis="y")
    style.save(figure, "staircase")
