"""Question 2.1: what each modification of the baseline changes, and the line of what counts."""

import numpy as np

from plots import style
from report import comparisons, records


def label(name):
    """The flags that an experiment changes, as one would type them."""
    flags, before = (
        records.runs_of(n)[0]["flags"] for n in (name, comparisons.compared_with(name))
    )
    text = ", ".join(records.changed_flags(flags, before))
    return f"{text} (18 views)" if name == "test-time-18-views" else text


def draw():
    differences = {name: comparisons.paired(name) for name in comparisons.SINGLE}
    line = comparisons.what_counts(list(differences.values()))
    order = sorted(differences, key=lambda name: -differences[name].mean())
    figure = style.new_figure("Differences in validation accuracy from the baseline", height=2.25)
    panels = figure.subplots(1, 2, sharex=True)
    for panel, names in zip(panels, np.array_split(order, 2), strict=True):
        panel.axvspan(-line, line, color="0.92", lw=0)
        panel.axvline(0, color="0.6", lw=0.6)
        for y, name in enumerate(names):
            values = differences[name]
            counts = abs(values.mean()) > line
            panel.errorbar(values.mean(), y, xerr=comparisons.standard_error(values), fmt="o", ms=3,
                           color="C0", mfc="C0" if counts else "white", capsize=1.5)  # fmt: skip
        panel.set_yticks(range(len(names)), map(label, names))
        panel.invert_yaxis()
        panel.set_xlabel("percentage points")
        panel.grid(axis="x")
    style.save(figure, "modifications")
