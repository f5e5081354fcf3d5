"""Draw the training curves and the speed from the records in report/results.

python -m plots.plot
"""

import numpy as np

from plots import style
from report import records


def draw_default_run():
    """Question 1.2: the default NumPy run, mean and range over the seeds."""
    runs = records.runs_of("numpy-100")
    figure, panels = style.loss_and_accuracy(
        f"NumPy MLP 3072-100-10 on CIFAR-10, default flags: mean and range of {len(runs)} seeds"
    )
    steps = runs[0]["history"]["step"]
    for quantity, panel in panels.items():
        for color, split in (("C0", "train"), ("C1", "test")):
            values = records.column(runs, f"{split}_{quantity}")
            panel.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
            panel.plot(steps, values.mean(0), color=color, label=split)
        panel.legend(loc="center right")
    style.save(figure, "numpy_default")


def draw_both_halves():
    """Question 2.1: the NumPy and the PyTorch run of one seed in the same panels."""
    theirs = records.runs_of("pytorch-100")[0]
    ours = records.with_seed(records.runs_of("numpy-100"), theirs["seed"])["history"]
    theirs = theirs["history"]
    steps = np.array(ours["step"])
    difference = max(np.abs(np.array(ours[name]) / np.array(theirs[name]) - 1).max()
                     for name in ("train_loss", "test_loss"))  # fmt: skip
    figure, panels = style.loss_and_accuracy(
        "The default run in NumPy and in PyTorch, same seed: "
        f"losses differ by {difference:.1e} at most (relative)"
    )
    for quantity, panel in panels.items():
        for color, split in (("C0", "train"), ("C1", "test")):
            name = f"{split}_{quantity}"
            panel.plot(steps, ours[name], color=color)
            panel.plot(steps, theirs[name], "kx", ms=4)
            # At the end, training has the lower loss and the higher accuracy.
            above = (split == "train") == (quantity == "accuracy")
            panel.annotate(split, (steps[-1], ours[name][-1]), (5, 0), color=color,
                           textcoords="offset points", va="bottom" if above else "top")  # fmt: skip
        panel.plot([], [], "k", label="NumPy")
        panel.plot([], [], "kx", ms=4, label="PyTorch")
        panel.set_xlim(right=1.18 * steps[-1])
        panel.margins(y=0.12)
        panel.legend(loc="center right")
    style.save(figure, "numpy_and_pytorch")


def draw_growth():
    """The time of a NumPy step against its width, depth and batch, and of an evaluation against
    the number of images, beside the bare matrix products of each."""
    growth = records.read("benchmark")["growth"]
    figure = style.new_figure("NumPy against its matrix products alone (medians)", height=3)
    axes = figure.subplots(2, 2, sharey=True)
    labels = {
        "width": "hidden units (one layer, batch 200)",
        "depth": "hidden layers (100 units, batch 200)",
        "batch": "batch (100 hidden units)",
        "data": "images evaluated (100 hidden units)",
    }
    for panel, (name, label) in zip(axes.flat, labels.items(), strict=True):
        at = growth[name]["at"]
        panel.loglog(at, growth[name]["numpy"], "o-", ms=3, label="all of it")
        panel.loglog(at, growth[name]["products"], "s--", ms=3, label="products alone")
        panel.set_xlabel(label)
        panel.set_xticks(at, at)
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid()
    for panel in axes[:, 0]:
        panel.set_ylabel("time (milliseconds)")
    axes[0, 0].legend(loc="upper left")
    style.save(figure, "speed")


def main():
    draw_default_run()
    draw_both_halves()
    draw_growth()


if __name__ == "__main__":
    main()
