"""Draw the training curves and the speed from the records in report/results.

    python plots/plot.py

The pictures (PNG) are for the README. The same figures as vector drawings without their titles go
to report/build, where the report takes them from.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "report" / "build"
PANELS = (("loss", "cross-entropy loss (nats)"), ("accuracy", "accuracy (fraction)"))


def read(name):
    return json.loads((ROOT / "report" / "results" / f"{name}.json").read_text())


def new_figure(title):
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots(1, 2)
    for panel, (_, label) in zip(axes, PANELS, strict=True):
        panel.set(xlabel="step", ylabel=label)
        panel.grid(alpha=0.3)
    return figure, axes


def save(figure, name):
    # Without the date and the version of matplotlib, the same records give the same file.
    figure.savefig(ROOT / "plots" / name, dpi=160, metadata={"Software": None})
    figure.suptitle("")
    VECTORS.mkdir(exist_ok=True)
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType, which keeps the text searchable
        figure.savefig(
            (VECTORS / name).with_suffix(".pdf"),
            metadata={"CreationDate": None, "Producer": None, "Creator": None},
        )


def draw_default_run():
    """Question 1.2: the default NumPy run, mean and range over the seeds."""
    runs = read("numpy-100")["runs"]
    figure, axes = new_figure(
        f"NumPy MLP 3072-100-10 on CIFAR-10, default flags: mean and range of {len(runs)} seeds"
    )
    for panel, (quantity, _) in zip(axes, PANELS, strict=True):
        for color, split in (("C0", "train"), ("C1", "test")):
            values = np.array([run["history"][f"{split}_{quantity}"] for run in runs])
            steps = runs[0]["history"]["step"]
            panel.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
            panel.plot(steps, values.mean(0), color=color, label=split)
        panel.legend()
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
    figure, axes = new_figure(
        "The default run in NumPy and in PyTorch, same seed: "
        f"losses differ by {max(differences):.1e} at most (relative)"
    )
    for panel, (quantity, _) in zip(axes, PANELS, strict=True):
        for color, split in (("C0", "train"), ("C1", "test")):
            name = f"{split}_{quantity}"
            panel.plot(steps, ours["history"][name], color=color, label=f"{split}, NumPy")
            panel.plot(steps, theirs["history"][name], "kx", ms=5, label=f"{split}, PyTorch")
        panel.legend()
    save(figure, "numpy_and_pytorch.png")


def draw_growth():
    """The time of a NumPy step against its width, depth and batch, and of an evaluation against
    the number of images, beside the bare matrix products of each."""
    record = read("benchmark")
    figure = Figure(figsize=(10, 3), layout="constrained")
    figure.suptitle("NumPy against its matrix products alone (medians)", fontsize="medium")
    panels = figure.subplots(1, 4, sharey=True)
    labels = {
        "width": "hidden units (one layer, batch 200)",
        "depth": "hidden layers (100 units, batch 200)",
        "batch": "batch (100 hidden units)",
        "data": "images evaluated (100 hidden units)",
    }
    for panel, (name, label) in zip(panels, labels.items(), strict=True):
        curves = record["growth"][name]
        panel.loglog(curves["at"], curves["numpy"], "o-", ms=3, label="all of it")
        panel.loglog(curves["at"], curves["products"], "s--", ms=3, label="products alone")
        panel.set_xlabel(label, fontsize="small")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("time (milliseconds)")
    panels[0].legend(fontsize="small")
    save(figure, "speed.png")


def main():
    draw_default_run()
    draw_both_halves()
    draw_growth()


if __name__ == "__main__":
    main()
