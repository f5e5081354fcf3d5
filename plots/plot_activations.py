"""Draw the comparison of Tanh and ELU from the record of report/activations.py.

python plots/plot_activations.py
"""

import json

import matplotlib
import numpy as np
import plot
from matplotlib.figure import Figure

COLORS = {"tanh": "C3", "elu": "C0"}
NAMES = {"tanh": "Tanh", "elu": "ELU"}


def read():
    return json.loads((plot.ROOT / "report" / "results" / "activations.json").read_text())


def select(record, **wanted):
    return [run for run in record["runs"] if all(run[k] == v for k, v in wanted.items())]


def values_of(record, name):
    return sorted({run[name] for run in record["runs"]})


def completed(record, runs):
    """The runs that did not diverge: those that reached the last step of the record."""
    last = max(run["step"][-1] for run in record["runs"])
    return [run for run in runs if run["step"][-1] == last]


def draw_accuracy(record):
    """Validation accuracy at the end against the depth, for every learning rate."""
    rates, depths = values_of(record, "learning_rate"), values_of(record, "depth")
    seeds = len(values_of(record, "seed"))
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    figure.suptitle(
        f"Tanh against ELU after {record['runs'][0]['step'][-1]} steps of SGD: mean and range of "
        f"{seeds} seeds",
        fontsize="medium",
    )
    axes = figure.subplots(1, len(rates), sharey=True)
    for panel, rate in zip(axes, rates, strict=True):
        for activation, color in COLORS.items():
            points = []
            for x, depth in enumerate(depths):
                runs = select(record, activation=activation, learning_rate=rate, depth=depth)
                ends = [run["val_accuracy"][-1] for run in completed(record, runs)]
                if ends:
                    points.append((x, np.mean(ends), min(ends), max(ends)))
                if len(ends) < len(runs):
                    panel.plot(x, 0.03, "x", color=color, ms=8, mew=2)
                    panel.annotate(f"{len(runs) - len(ends)} of {len(runs)}\ndiverged", (x, 0.05),
                                   fontsize="x-small", color=color, ha="center")  # fmt: skip
            x, mean, low, high = np.transpose(points)
            panel.errorbar(x, mean, (mean - low, high - mean), fmt="o-", color=color, capsize=3,
                           label=NAMES[activation])  # fmt: skip
        panel.set_xticks(range(len(depths)), depths)
        panel.set(title=f"learning rate {rate:g}", xlabel="hidden layers",
                  xlim=(-0.5, len(depths) - 0.5), ylim=(0, None))  # fmt: skip
        panel.title.set_fontsize("small")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy (fraction)")
    axes[-1].legend(loc="lower right", fontsize="small")
    plot.save(figure, "activations_accuracy.png")


def draw_layers(record, quantity, label, title, name, **scale):
    """A quantity by layer over training: a row for Tanh and one for ELU, a column for each learning
    rate, in the deepest networks."""
    depth = max(values_of(record, "depth"))
    rates = values_of(record, "learning_rate")
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, depth))
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    figure.suptitle(f"{title}, {depth} hidden layers", fontsize="medium")
    axes = figure.subplots(2, len(rates), sharex=True, sharey=True)
    for row, activation in zip(axes, COLORS, strict=True):
        for panel, rate in zip(row, rates, strict=True):
            runs = completed(
                record, select(record, activation=activation, learning_rate=rate, depth=depth)
            )
            panel.set_title(f"{NAMES[activation]}, learning rate {rate:g}", fontsize="small")
            panel.grid(alpha=0.3)
            if not runs:
                continue
            mean = np.mean([run[quantity] for run in runs], axis=0)
            for layer, color in enumerate(colors):
                panel.plot(runs[0]["step"], np.where(mean[:, layer] > 0, mean[:, layer], np.nan),
                           color=color, label=layer + 1)  # fmt: skip
        row[0].set_ylabel(label)
    for panel in axes[-1]:
        panel.set_xlabel("step")
    axes[0, 0].set(**scale)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), title="layer", loc="outside right center"
    )
    plot.save(figure, name)


def main():
    record = read()
    draw_accuracy(record)
    draw_layers(record, "saturated", "saturated (share)", "Units with a derivative below "
                f"{record['threshold']} (share of units and images)",
                "activations_saturation.png", ylim=(0, 1))  # fmt: skip
    draw_layers(record, "gradient", "norm of $dL/dz$", "Gradient at the inputs of the units "
                "(root mean square over images)",
                "activations_gradient.png", yscale="log")  # fmt: skip


if __name__ == "__main__":
    main()
