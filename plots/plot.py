"""Draw the figures, except those on the best model, from the records in report/results.

python -m plots.plot
"""

import numpy as np

from plots import style
from report import records

STAIRCASE = {
    "default": "default\nrun",
    "combined-1-training": "AdamW, batch\nnorm, GELU,\ncosine, standard-\nised pixels",
    "combined-2-augmented": "flips and\nshifts",
    "combined-3-views": "mean over\nviews",
    "long-full-resolution": "wide, many\nepochs, more\naugmentation",
    "long": "half\nresolution,\nsame time",
    "best-cpu-validated": "ten times\nas many\nepochs",
}


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


def draw_staircase():
    """Question 2.1: the steps from the default run to the best network."""
    figure = style.new_figure(
        "From the default run to the best network: validation accuracy after each change",
        height=2.15,
    )
    axes = figure.subplots()
    for x, name in enumerate(STAIRCASE):
        runs = records.runs_of(name)
        values = [records.validation_accuracy(run) for run in runs]
        train = records.column(runs, "train_accuracy")[:, -1].mean()
        mean, single = np.mean(values), len(values) == 1
        axes.bar(x, mean, 0.7, color="white" if single else "C0", edgecolor="C0")
        axes.text(x, 0.02, f"{mean:.3f}", ha="center", color="C0" if single else "white")
        if not single:
            axes.errorbar(x, mean, np.std(values, ddof=1), color="black", capsize=3)
        axes.plot([x - 0.35, x + 0.35], [train, train], color="C1")
        axes.text(x, max(mean, train) + 0.02, f"{train:.2f}", ha="center", color="C1")
    axes.plot([], [], color="C1", label="training batches")
    axes.bar(0, 0, color="C0", label="validation images, three seeds")
    axes.bar(0, 0, color="white", edgecolor="C0", label="validation images, one seed")
    axes.set_xticks(range(len(STAIRCASE)), STAIRCASE.values())
    axes.set(ylabel="accuracy (fraction)", ylim=(0, 1.15))
    axes.legend(loc="upper left", ncols=3)
    style.save(figure, "staircase")


def draw_growth():
    """The time of a NumPy step against its width, depth and batch, and of an evaluation against
    the number of images, beside the bare matrix products of each."""
    growth = records.read("benchmark")["growth"]
    figure = style.new_figure("NumPy against its matrix products alone (medians)", height=3)
    axes = figure.subplots(2, 2, sharey=True)
    labels = {
        "width": "hidden units (one layer, batch 200)",
        "depth": "hidden layers (100 units, batch 200)",
        "batch": "batch size (100 hidden units)",
        "data": "images evaluated (100 hidden units)",
    }
    for panel, (name, label) in zip(axes.flat, labels.items(), strict=True):
        at = growth[name]["at"]
        panel.loglog(at, growth[name]["numpy"], "o-", ms=3, label="step or evaluation")
        panel.loglog(at, growth[name]["products"], "s--", ms=3, label="its products alone")
        panel.set_xlabel(label)
        panel.set_xticks(at, at)
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid()
    for panel in axes[:, 0]:
        panel.set_ylabel("time (milliseconds)")
    axes[0, 0].legend(loc="upper left")
    style.save(figure, "speed")


def draw_activations():
    """Question 2.2: Tanh and the ELU against the learning rate, and against saturation."""
    record = records.read("activations")
    depths = records.all_values(record, "depth")
    figure = style.new_figure(
        f"Tanh against ELU after {record['steps']} steps of SGD (means of the seeds)", height=1.9
    )
    *by_rate, by_saturation = figure.subplots(1, 3, sharey=True)
    for panel, (standardize, inputs) in zip(by_rate, style.INPUTS.items(), strict=True):
        panel.set(title=inputs, xlabel="learning rate", xscale="log")
        for activation, color in style.ACTIVATIONS.items():
            for depth, line in ((depths[0], "o-"), (depths[-1], "s--")):
                points = records.activation_points(record, activation, depth, standardize)
                label = f"{style.NAMES[activation]}, {depth} hidden"
                panel.plot(*zip(*points.items(), strict=True), line, color=color, ms=3, label=label)
                diverged = [rate for rate, mean in points.items() if mean is None]
                panel.plot(diverged, [0.03] * len(diverged), "x", color=color, ms=5)
    for run in record["runs"]:
        if run["val_accuracy"]:
            by_saturation.plot(
                run["saturated"][0], run["val_accuracy"], "o", ms=2.5,
                color=style.ACTIVATIONS[run["activation"]],
                mfc=None if run["standardize"] else "white",
            )  # fmt: skip
    by_saturation.set_title("did not diverge (hollow: pixels)")
    by_saturation.set_xlabel("saturated share of first layer")
    by_rate[0].set(ylabel="validation accuracy", ylim=(0, None))
    by_rate[1].legend(loc="lower center")
    for panel in (*by_rate, by_saturation):
        panel.grid()
    style.save(figure, "activations")


def main():
    draw_default_run()
    draw_staircase()
    draw_growth()
    draw_activations()


if __name__ == "__main__":
    main()
