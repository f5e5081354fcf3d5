"""Question 2.1: what changes of a wide network's recipe change, at each length."""

import textwrap

import numpy as np

from plots import style
from report import comparisons
from report.records import flags_of, runs_of, validation_accuracy


def row(name):
    """A change without the number of epochs, which gives it the time of the others."""
    changes = (flag for flag in comparisons.changes(name) if not flag.startswith("epochs "))
    return textwrap.fill(", ".join(changes), 75)


def draw():
    shown = comparisons.families()
    rows = list(dict.fromkeys(row(name) for names in reversed(shown.values()) for name in names))
    title = "Changes of a recipe: differences in validation accuracy"
    figure = style.new_figure(title, height=0.69 + 0.115 * len(rows))
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True)
    for panel, (recipe, names) in zip(panels, shown.items(), strict=True):
        panel.axvline(0, color="0.6", lw=0.6)
        if len(runs := runs_of(recipe)) > 2:  # twice the spread of a difference of two runs
            noise = 200 * np.sqrt(2) * np.std([*map(validation_accuracy, runs)], ddof=1)
            panel.axvspan(-noise, noise, color="0.92", lw=0)
        for name in names:
            values = comparisons.paired(name)
            error = comparisons.standard_error(values)
            style.dot(panel, values, rows.index(row(name)), error, filled=error is not None)
        panel.set_yticks(range(len(rows)), rows)
        panel.set_title(f"{textwrap.fill(recipe, 12)}\n{flags_of(recipe)['epochs']} epochs")
    panels[0].invert_yaxis()
    panels[0].margins(x=0.1)
    panels[len(panels) // 2].set_xlabel("percentage points")
    style.save(figure, "ablations")
