"""What the figures have in common: sizes, colours, and how a figure is saved.

A figure is drawn at the size of the printed page. The picture (PNG) is for plots/ and for
Markdown pages. The same figure as a vector drawing without its title goes to report/build.
"""

import matplotlib
from matplotlib.figure import Figure

from report import records

TEXT_WIDTH = 17 / 2.54  # inches: a line of the report
ACTIVATIONS = {  # lines and open markers, for print without colour
    "elu": {"color": "C0"},
    "tanh": {"color": "C3", "ls": "--", "mfc": "white"},
}
NAMES = {"elu": "ELU", "tanh": "Tanh"}
LABELS = {"loss": "loss (nats)", "accuracy": "accuracy"}
SMALL = 7  # points: the smallest text, as printed
SETTINGS = {
    **{"font.size": 7.5, "figure.titlesize": 8.5, "axes.titlesize": 7.5},
    **{"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL},
    **{"lines.linewidth": 1.2, "axes.linewidth": 0.6, "grid.linewidth": 0.6, "grid.alpha": 0.3},
    **{"xtick.major.width": 0.6, "ytick.major.width": 0.6, "patch.linewidth": 0.6},
    **{"axes.grid": True, "axes.axisbelow": True},
    **{"pdf.fonttype": 42},  # TrueType, whose text can be searched
}
matplotlib.rcParams.update(SETTINGS)


def new_figure(title, width=TEXT_WIDTH, height=1.6):
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def loss_and_accuracy(title, xlabel="step"):
    """A figure of two panels, and the panels by quantity."""
    figure = new_figure(title)
    panels = dict(zip(LABELS, figure.subplots(1, 2), strict=True))
    for quantity, panel in panels.items():
        panel.set(xlabel=xlabel, ylabel=LABELS[quantity])
    return figure, panels


def dot(panel, values, y, spread, filled, marker="o", color="C0"):
    """The mean of some values, and unless it is None their spread."""
    panel.errorbar(values.mean(), y, xerr=spread, fmt=marker, ms=3, color=color, capsize=1.5,
                   mfc=color if filled else "white")  # fmt: skip


def save(figure, name):
    # The title gets a strip of its own, so that everything else keeps its size.
    height = figure.get_figheight()
    figure.set_figheight(height + 0.2 * len(figure.get_suptitle().splitlines()))
    # Without the date and the version of matplotlib, the same records give the same file.
    picture = records.ROOT / "plots" / f"{name}.png"
    figure.savefig(picture, dpi=300, metadata={"Software": None})
    figure.suptitle("")
    figure.set_figheight(height)
    records.BUILD.mkdir(exist_ok=True)
    nothing = {"CreationDate": None, "Producer": None, "Creator": None}
    # dpi: of images within the drawing.
    figure.savefig(records.BUILD / f"{name}.pdf", dpi=600, metadata=nothing)
