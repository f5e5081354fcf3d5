"""Draw the training curves and the speed from the records in report/results.

    python plots/plot.py

The pictures (PNG) are for the README. The same figures as vector drawings without their titles go
to report/build, where the report takes them from. They are drawn at the size of the printed page.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "report" / "build"
TEXT_WIDTH = 16.6 / 2.54  # inches: a line of the report
PANELS = (("loss", "cross-entropy loss (nats)"), ("accuracy", "accuracy (fraction)"))
SMALL = 7  # points: the smallest text, as printed
STYLE = {
    **{"font.size": 7.5, "figure.titlesize": 8.5, "axes.titlesize": 7.5},
    **{"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL},
    **{"lines.linewidth": 1.2, "axes.linewidth": 0.6, "grid.linewidth": 0.6, "grid.alpha": 0.3},
    **{"xtick.major.width": 0.6, "ytick.major.width": 0.6, "patch.linewidth": 0.6},
    "axes.axisbelow": True,
}
matplotlib.rcParams.update(STYLE)


def read(name):
    return json.loads((ROOT / "report" / "results" / f"{name}.json").read_text())


def new_figure(title, width=TEXT_WIDTH, height=1.75):
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def loss_and_accuracy(title, xlabel="step"):
    figure = new_figure(title)
    axes = figure.subplots(1, 2)
    for panel, (_, label) in zip(axes, PANELS, strict=True):
        panel.set(xlabel=xlabel, ylabel=label)
        panel.grid()
    return figure, axes


def save(figure, name):
    # The title gets a strip of its own, so that all else is as large as without it.
    height = figure.get_figheight()
    figure.set_figheight(height + 0.2 * len(figure.get_suptitle().splitlines()))
    # Without the date and the version of matplotlib, the same records give the same file.
    figure.savefig(ROOT / "plots" / name, dpi=300, metadata={"Software": None})
    figure.suptitle("")
    figure.set_figheight(height)
    VECTORS.mkdir(exist_ok=True)
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType, which keeps the text searchable
        figure.savefig(
            (VECTORS / name).with_suffix(".pdf"),
            dpi=600,  # of images within the drawing
            metadata={"CreationDate": None, "Producer": None, "Creator": None},
        )


def draw_default_run():
    """Question 1.2: the default NumPy run, mean and range over the seeds."""
    runs = read("numpy-100")["runs"]
    figure, axes = loss_and_accuracy(
        f"NumPy MLP 3072-100-10 on CIFAR-10, default flags: mean and range of {len(runs)} seeds"
    )
    for panel, (quantity, _) in zip(axes, PANELS, strict=True):
        for color, split in (("C0", "train"), ("C1", "test")):
            values = np.array([run["history"][f"{split}_{quantity}"] for run in runs])
            steps = runs[0]["history"]["step"]
            panel.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
            panel.plot(steps, values.mean(0), color=color, label=split)
        panel.legend(loc="center right")
    save(figure, "numpy_default.png")


def draw_both_halves():
    """Question 2.1: the NumPy and the PyTorch run from one seed, one on the other."""
    seeds = {run["seed"]: run for run in read("numpy-100")["runs"]}
    theirs = read("pytorch-100")["runs"][0]
    ours = seeds[theirs["seed"]]
    steps = np.array(ours["history"]["step"])
    differences = [
        np.abs(np.array(ours["history"][name]) / np.array(theirs["history"][name]) - 1).max()
        for name in ("train_loss", "test_loss")
    ]
    figure, axes = loss_and_accuracy(
        "The default run in NumPy and in PyTorch, same seed: "
        f"losses differ by {max(differences):.1e} at most (relative)"
    )
    for panel, (quantity, _) in zip(axes, PANELS, strict=True):
        for color, split in (("C0", "train"), ("C1", "test")):
            name = f"{split}_{quantity}"
            panel.plot(steps, ours["history"][name], color=color)
            panel.plot(steps, theirs["history"][name], "kx", ms=4)
            # At the end training is ahead of the test set: its loss is lower, its accuracy higher.
            above = (split == "train") == (quantity == "accuracy")
            panel.annotate(split, (steps[-1], ours["history"][name][-1]), (5, 0), color=color,
                           textcoords="offset points", va="bottom" if above else "top")  # fmt: skip
        panel.plot([], [], "k", label="NumPy")
        panel.plot([], [], "kx", ms=4, label="PyTorch")
        panel.set_xlim(right=1.18 * steps[-1])
        panel.margins(y=0.12)
        panel.legend(loc="center right")
    save(figure, "numpy_and_pytorch.png")


def draw_growth():
    """The time of a NumPy step against its width, depth and batch, and of an evaluation against
    the number of images, beside the bare matrix products of each."""
    record = read("benchmark")
    figure = new_figure("NumPy against its matrix products alone (medians)", height=3)
    axes = figure.subplots(2, 2, sharey=True)
    labels = {
        "width": "hidden units (one layer, batch 200)",
        "depth": "hidden layers (100 units, batch 200)",
        "batch": "batch (100 hidden units)",
        "data": "images evaluated (100 hidden units)",
    }
    for panel, (name, label) in zip(axes.flat, labels.items(), strict=True):
        curves = record["growth"][name]
        panel.loglog(curves["at"], curves["numpy"], "o-", ms=3, label="all of it")
        panel.loglog(curves["at"], curves["products"], "s--", ms=3, label="products alone")
        panel.set_xlabel(label)
        panel.set_xticks(curves["at"], curves["at"])
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid()
    for panel in axes[:, 0]:
        panel.set_ylabel("time (milliseconds)")
    axes[0, 0].legend(loc="upper left")
    save(figure, "speed.png")


def main():
    draw_default_run()
    draw_both_halves()
    draw_growth()


if __name__ == "__main__":
    main()
