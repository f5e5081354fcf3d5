"""Question 2.1: loss and accuracy of the best network in the runs with validation images."""

import numpy as np

from plots import style
from report import records
from training.curves import layer_sizes

CURVES = {  # colour, line and label of a column of metrics.csv
    "train": ("C0", "-", "training, augmented"),
    "clean": ("C2", ":", "training, unaugmented"),
    "val": ("C1", "--", "validation"),
}


def draw():
    runs, best = records.runs_of("best-cpu-validated"), records.runs_of("best-cpu")
    flags = runs[0]["flags"]
    epochs = np.array(runs[0]["history"]["step"]) / runs[0]["steps"] * flags["epochs"]
    figure, panels = style.loss_and_accuracy(
        f"MLP {layer_sizes(flags)}: training with validation images", xlabel="epoch"
    )
    hidden = ["_"] * (len(runs) - 1)  # in the legend
    for quantity, panel in panels.items():
        for split, (color, line, label) in CURVES.items():
            curves = records.column(runs, f"{split}_{quantity}").T
            panel.plot(epochs, curves, line, color=color, lw=0.8, label=[label, *hidden])
        stars = [run[f"test_single_view_{quantity}"] for run in best]
        panel.plot([epochs[-1]] * len(best), stars, "*", color="C3", ms=9, mec="white", mew=0.5,
                   zorder=3, label="test, trained on all images")  # fmt: skip
    figure.set_figheight(1.5)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    style.save(figure, "best_model_curves")
