"""Question 2.1: what each modification of the baseline changes, and the line of what counts."""

import numpy as np

from plots import style
from report import comparisons
from report.comparisons import standard_error


def draw():
    differences = {name: comparisons.paired(name) for name in comparisons.SINGLE}
    line = comparisons.what_counts(list(differences.values()))
    order = sorted(differences, key=lambda name: -differences[name].mean())
    figure = style.new_figure("Differences in validation accuracy from the baseline", height=2.45)
    panels = figure.subplots(1, 2, sharex=True)
    for panel, names in zip(panels, np.array_split(order, 2), strict=True):
        panel.axvspan(-line, line, color="0.92", lw=0)
        panel.axvline(0, color="0.6", lw=0.6)
        for y, name in enumerate(names):
            values = differences[name]
            style.dot(panel, values, y, standard_error(values), abs(values.mean()) > line)
        labels = [", ".join(comparisons.changes(name)) for name in names]
        panel.set_yticks(range(len(names)), labels)
        panel.invert_yaxis()
        panel.set_xlabel("percentage points")
        panel.grid(False, axis="y")
    style.save(figure, "modifications")
