"""Draw the comparison of Tanh and ELU from the record of report/activations.py.

python plots/plot_activations.py
"""

import matplotlib
import numpy as np
import plot
from matplotlib.figure import Figure

COLORS = {"tanh": "C3", "elu": "C0"}
NAMES = {"tanh": "Tanh", "elu": "ELU"}
INPUTS = {False: "pixels", True: "standardised pixels"}
SHOWN = (False, 1e-3), (False, 1e-2), (True, 1e-1)  # of the settings, by layer


def read():
    return plot.read("activations")


def select(record, activation, depth, setting):
    """The runs of all seeds; a setting is the flag --standardize and the learning rate."""
    return [
        run for run in record["runs"]
        if (run["activation"], run["depth"], setting_of(run)) == (activation, depth, setting)
    ]  # fmt: skip


def setting_of(run):
    return run["standardize"], run["learning_rate"]


def title_of(setting):
    standardize, rate = setting
    return f"{INPUTS[standardize]}\nrate {rate:g}"


def completed(record, runs):
    """The runs that did not diverge: those that reached the last step of the record."""
    last = max(run["step"][-1] for run in record["runs"])
    return [run for run in runs if run["step"][-1] == last]


def draw_accuracy(record):
    """Validation accuracy at the end against the depth, for every setting."""
    settings = sorted({setting_of(run) for run in record["runs"]})
    depths = sorted({run["depth"] for run in record["runs"]})
    seeds = len({run["seed"] for run in record["runs"]})
    last = max(run["step"][-1] for run in record["runs"])
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    figure.suptitle(
        f"Tanh against ELU after {last} steps of SGD: mean and range of {seeds} seeds",
        fontsize="medium",
    )
    axes = figure.subplots(1, len(settings), sharey=True)
    for panel, setting in zip(axes, settings, strict=True):
        for activation, color in COLORS.items():
            points = []
            for x, depth in enumerate(depths):
                runs = select(record, activation, depth, setting)
                ends = [run["val_accuracy"][-1] for run in completed(record, runs)]
                if ends:
                    points.append((x, np.mean(ends), min(ends), max(ends)))
                if len(ends) < len(runs):
                    panel.plot(x, 0.02, "x", color=color, ms=6, mew=2)
                    panel.annotate(f"{len(runs) - len(ends)}/{len(runs)}", (x, 0.035),
                                   fontsize="small", color=color, ha="center")  # fmt: skip
            x, mean, low, high = np.transpose(points)
            panel.errorbar(x, mean, (mean - low, high - mean), fmt="o-", color=color, capsize=3,
                           label=NAMES[activation])  # fmt: skip
        panel.plot([], [], "kx", ms=6, mew=2, label="diverged")
        panel.set_xticks(range(len(depths)), depths)
        panel.set(xlabel="hidden layers", xlim=(-0.5, len(depths) - 0.5))
        panel.set_title(title_of(setting), fontsize="small")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy (fraction)")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="lower left", fontsize="small")
    plot.save(figure, "activations_accuracy.png")


def draw_layers(record, quantity, label, title, name, logarithmic=False):
    """A quantity by layer over training, in the deepest networks: a row for Tanh and one for ELU, a
    column for each setting."""
    depth = max(run["depth"] for run in record["runs"])
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, depth))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    figure.suptitle(f"{title}, {depth} hidden layers", fontsize="medium")
    axes = figure.subplots(2, len(SHOWN), sharex=True, sharey=True)
    for row, activation in zip(axes, COLORS, strict=True):
        for panel, setting in zip(row, SHOWN, strict=True):
            runs = completed(record, select(record, activation, depth, setting))
            panel.grid(alpha=0.3)
            if logarithmic:
                # The last layer starts at zero, so that the gradients below it are zero too.
                panel.set_yscale("log", nonpositive="mask")
            mean = np.mean([run[quantity] for run in runs], axis=0)
            for layer, color in enumerate(colors):
                panel.plot(runs[0]["step"], mean[:, layer], color=color, label=layer + 1)
        row[0].set_ylabel(f"{NAMES[activation]}\n{label}")
    for panel, setting in zip(axes[0], SHOWN, strict=True):
        panel.set_title(title_of(setting), fontsize="small")
    for panel in axes[-1]:
        panel.set_xlabel("step")
    if not logarithmic:
        axes[0, 0].set_ylim(0, 1)
    lines = axes[0, 0].get_legend_handles_labels()
    figure.legend(*lines, title="layer", loc="outside right center")
    plot.save(figure, name)


def main():
    record = read()
    draw_accuracy(record)
    draw_layers(record, "saturated", "saturated (share)", "Units with a derivative below "
                f"{record['threshold']} (share of units and images)",
                "activations_saturation.png")  # fmt: skip
    draw_layers(record, "gradient", "norm of $dL/dz$", "Gradient at the inputs of the units "
                "(root mean square over images)",
                "activations_gradient.png", logarithmic=True)  # fmt: skip


if __name__ == "__main__":
    main()
