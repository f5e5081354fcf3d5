"""Question 2.1: published test accuracies of fully connected networks, and ours, by parameters."""

import numpy as np

from plots import style
from report import records

PUBLISHED = (  # test accuracy in %, weights in millions, what, and how far below the square
    (70.25, 20.3, "Mocanu 2018, dense", 5),
    (72.77, 256, "400 epochs", 3),
    (78.63, 256, "4,000 epochs", -1),
    (85.19, 256, "4,000, penalty", 3),
    (85.19, 256, "Neyshabur 2020:", -6),
)
OTHERS = (  # test accuracy in %, where the label stands, what: of unknown size
    (58.1, 60, "Neyshabur 2019"),
    (74.84, 500, "Mocanu, sparse"),
    (78.6, 0.11, "Lin 2015"),
)
OURS = {  # what, and where the label stands, in points from the star
    "numpy-100": ("default", (6, -3)),
    "combined-3-views": ("small", (6, -9)),
    "best-cpu": ("best", (-41, 2)),
}


def draw():
    figure = style.new_figure(
        "Test accuracy of fully connected networks", 0.46 * style.TEXT_WIDTH, 1.85
    )
    axes = figure.subplots()
    axes.grid(False)
    for accuracy, x, what in OTHERS:
        axes.axhline(accuracy, color="0.75", lw=0.7, ls="--", zorder=0)
        axes.text(x, accuracy + 0.4, what, color="0.4", size=style.SMALL)
    for accuracy, weights, what, below in PUBLISHED:
        axes.plot(weights, accuracy, "s", color="C7", ms=4)
        axes.annotate(what, (weights, accuracy), (5, -below), textcoords="offset points",
                      size=style.SMALL)  # fmt: skip
    for name, (what, place) in OURS.items():
        runs = records.runs_of(name)
        accuracy = 100 * np.mean([run["test_accuracy"] for run in runs])
        at = records.n_weights(runs[0]["flags"]), accuracy
        axes.plot(*at, "*", color="C3", ms=8)
        if name == "best-cpu":
            single = 100 * np.mean([run["test_single_view_accuracy"] for run in runs])
            axes.plot(at[0], single, "*", color="C3", mfc="white", ms=8)
        axes.annotate(f"ours, {what}", at, place, textcoords="offset points", color="C3",
                      size=style.SMALL)  # fmt: skip
    axes.set(xscale="log", xlabel="weights (millions)", ylabel="test accuracy (%)",
             xlim=(0.1, 5e4), ylim=(46, 92))  # fmt: skip
    style.save(figure, "published")
