"""Draw the comparison of Tanh and ELU from the record of report/activations.py.

python -m plots.plot_activations
"""

import matplotlib
import numpy as np
from matplotlib.ticker import MultipleLocator

from plots import style
from report import records

COLORS = {"tanh": "C3", "elu": "C0"}
NAMES = {"tanh": "Tanh", "elu": "ELU"}
INPUTS = {False: "pixels", True: "standardised pixels"}
SHOWN = (False, 1e-3), (False, 1e-2), (True, 1e-1)  # by layer: --standardize and learning rate


def select(record, activation, depth, setting):
    """The runs of all seeds; a setting is the flag --standardize and the learning rate."""
    standardize, rate = setting
    return records.matching(record["runs"], activation=activation, depth=depth,
                            standardize=standardize, learning_rate=rate)  # fmt: skip


def title_of(setting, separator="\n"):
    standardize, rate = setting
    return f"{INPUTS[standardize]}{separator}rate {rate:g}"


def mean_and_range(values):
    """The mean, and the distances from it down to the least and up to the greatest."""
    mean = np.mean(values)
    return mean, mean - min(values), max(values) - mean


def draw_accuracy(record):
    """Validation accuracy at the end against the depth, for every setting. Where some of the runs
    diverged, the mean of the others stands alone."""
    settings = sorted({(run["standardize"], run["learning_rate"]) for run in record["runs"]})
    depths, seeds = (records.all_values(record, name) for name in ("depth", "seed"))
    figure = style.new_figure(
        f"Tanh against ELU after {records.last_step(record)} steps of SGD: "
        f"mean and range of {len(seeds)} seeds",
        height=1.95,
    )
    axes = figure.subplots(1, len(settings), sharey=True)
    for panel, setting in zip(axes, settings, strict=True):
        for activation, color in COLORS.items():
            joined = np.full((3, len(depths)), np.nan)  # not a number: a gap in the line
            style_of_bars = {"color": color, "ms": 4, "capsize": 2}
            for x, depth in enumerate(depths):
                runs = select(record, activation, depth, setting)
                ends = [run["val_accuracy"][-1] for run in records.not_diverged(record, runs)]
                if len(ends) == len(runs):
                    joined[:, x] = mean_and_range(ends)
                    continue
                panel.plot(x, 0.02, "x", color=color, ms=5, mew=1.5)
                panel.annotate(f"{len(runs) - len(ends)}/{len(runs)}", (x, 0.045),
                               size=style.SMALL, color=color, ha="center")  # fmt: skip
                if ends:
                    mean, *bar = mean_and_range(ends)
                    panel.errorbar(x, mean, np.transpose([bar]), fmt="o", mfc="white",
                                   **style_of_bars)  # fmt: skip
            mean, *bar = joined
            panel.errorbar(range(len(depths)), mean, bar, fmt="o-", label=NAMES[activation],
                           **style_of_bars)  # fmt: skip
        panel.plot([], [], "ko", mfc="white", ms=4, label="fewer seeds")
        panel.plot([], [], "kx", ms=5, mew=1.5, label="diverged")
        panel.set_xticks(range(len(depths)), depths)
        panel.set(xlabel="hidden layers", xlim=(-0.5, len(depths) - 0.5))
        panel.set_title(title_of(setting))
        panel.grid()
    axes[0].set(ylabel="validation accuracy\n(fraction)", ylim=(0, None))
    axes[0].yaxis.set_major_locator(MultipleLocator(0.1))
    axes[-1].legend(loc="lower center", reverse=True)
    style.save(figure, "activations_accuracy")


def draw_layers(record):
    """Saturation and gradients by layer over training, in the deepest networks: a column for Tanh
    and one for ELU in each setting."""
    depth = records.all_values(record, "depth")[-1]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, depth))
    title = f"Units whose derivative is small, and gradients at their inputs, {depth} hidden layers"
    figure = style.new_figure(title, height=2.8)
    axes = figure.subplots(2, 2 * len(SHOWN), sharex=True, sharey="row")
    columns = [(setting, activation) for setting in SHOWN for activation in COLORS]
    for column, (setting, activation) in zip(axes.T, columns, strict=True):
        runs = records.not_diverged(record, select(record, activation, depth, setting))
        for panel, quantity in zip(column, ("saturated", "gradient"), strict=True):
            mean = np.mean([run[quantity] for run in runs], axis=0)
            for layer, color in enumerate(colors):
                panel.plot(runs[0]["step"], mean[:, layer], color=color, label=layer + 1)
            panel.grid()
        column[0].set_title("\n" + NAMES[activation])
        column[1].set_xlabel("step")
    for panel, setting in zip(axes[0, ::2], SHOWN, strict=True):
        # Over the middle of two panels, a line above their names, which keep the place free.
        heading = panel.annotate(title_of(setting, ", "), (1.09, 1), (0, 16), ha="center",
                                 xycoords="axes fraction", textcoords="offset points")  # fmt: skip
        heading.set_in_layout(False)
    saturated, gradient = axes[:, 0]
    label = f"share of units with\nderivative < {record['threshold']}"
    saturated.set(ylim=(0, 1), ylabel=label)
    # The last layer starts at zero, so the gradients below it do too.
    gradient.set_yscale("log", nonpositive="mask")
    gradient.yaxis.set_major_formatter("{x:g}")
    gradient.set(xticks=(0, 300, 600), ylabel="norm of $dL/dz$")
    lines, labels = saturated.get_legend_handles_labels()
    figure.legend(lines, labels, title="layer", loc="outside right center", handlelength=1)
    style.save(figure, "activations_layers")


def main():
    record = records.read("activations")
    draw_accuracy(record)
    draw_layers(record)


if __name__ == "__main__":
    main()
