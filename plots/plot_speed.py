"""The time of a NumPy step against its width, depth and batch, and of an evaluation against the
number of images, beside the bare matrix products of each."""

from plots import style
from report import records

LABELS = {
    "width": "hidden units (one layer, batch 200)",
    "depth": "hidden layers (100 units, batch 200)",
    "batch": "batch size (100 hidden units)",
    "data": "images evaluated (100 hidden units)",
}


def draw():
    growth = records.read("benchmark")["growth"]
    figure = style.new_figure("NumPy against its matrix products alone (medians)", height=3)
    axes = figure.subplots(2, 2, sharey=True)
    for panel, (name, label) in zip(axes.flat, LABELS.items(), strict=True):
        at = growth[name]["at"]
        panel.loglog(at, growth[name]["numpy"], "o-", ms=3, label="step or evaluation")
        panel.loglog(at, growth[name]["products"], "s--", ms=3, label="its products alone")
        panel.set_xlabel(label)
        panel.set_xticks(at, at)
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_formatter("{x:g}")
    for panel in axes[:, 0]:
        panel.set_ylabel("time (milliseconds)")
    axes[0, 0].legend(loc="upper left")
    style.save(figure, "speed")
