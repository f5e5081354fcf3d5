"""Question 2.1: the steps from the default run to the best network."""

import numpy as np

from plots import style
from report import records

STEPS = {  # what each experiment changes in the one above it
    "default": "the default run",
    "base": "baseline: AdamW, 256 and 128 units, 20 epochs",
    "standardize": "standardised pixels",
    "stacked-1-batch-norm": "batch normalisation",
    "stacked-2-cosine": "cosine schedule",
    "stacked-3-gelu": "GELU",
    "combined-1-training": "twice the learning rate",
    "combined-2-augmented": "flips and shifts",
    "combined-3-views": "test-time augmentation",
    "long-full-resolution": "wide, 63 epochs, stronger regularisation",
    "long": "half resolution, 90 epochs",
    "best-cpu-validated": "900 epochs",
}


def draw():
    figure = style.new_figure(
        "From the default run to the best network: validation accuracy after each change",
        height=1.95,
    )
    axes = figure.subplots()
    for y, name in enumerate(STEPS):
        runs = records.runs_of(name)
        values = [records.validation_accuracy(run) for run in runs]
        train = records.column(runs, "train_accuracy")[:, -1].mean()
        axes.plot(values, [y] * len(values), "|", color="C0", ms=7, mew=0.8)
        if len(values) > 1:
            axes.errorbar(np.mean(values), y, xerr=np.std(values, ddof=1), fmt="o", color="C0",
                          ms=3, capsize=2)  # fmt: skip
        else:
            axes.plot(values, [y], "o", mfc="white", color="C0", ms=4)
        text = f"{np.mean(values):.3f} (training {train:.2f})"
        axes.text(np.mean(values) + 0.012, y, text, va="center", size=style.SMALL)
    axes.set_yticks(range(len(STEPS)), STEPS.values())
    axes.invert_yaxis()
    axes.set(xlabel="validation accuracy at the last step", xlim=(0.465, 0.9))
    axes.grid(axis="x")
    style.save(figure, "staircase")
