"""Question 2.1: what changes of a wide network's recipe change, at each length."""

import textwrap

from plots import style
from plots.plot_modifications import label
from report import comparisons


def draw():
    shown = comparisons.families()
    rows = list(dict.fromkeys(
        row(name) for names in reversed(shown.values()) for name in names
    ))  # fmt: skip
    figure = style.new_figure("Changes of a recipe: differences in validation accuracy", height=2.3)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True)
    for panel, (recipe, names) in zip(panels, shown.items(), strict=True):
        panel.axvline(0, color="0.6", lw=0.6)
        for name in names:
            values = comparisons.paired(name)
            error = comparisons.standard_error(values) if len(values) > 1 else None
            panel.errorbar(values.mean(), rows.index(row(name)), xerr=error, fmt="o", ms=3.5,
                           color="C0", mfc="C0" if error else "white", capsize=1.5)  # fmt: skip
        panel.set_yticks(range(len(rows)), rows)
        panel.set(
            title=f"{recipe}\n{comparisons.epochs(recipe)} epochs", xlabel="percentage points"
        )
        panel.grid()
    panels[0].invert_yaxis()
    style.save(figure, "ablations")


def row(name):
    """A change without the number of epochs, which gives it the time of the others."""
    words = (word for word in label(name).split(", ") if not word.startswith("epochs"))
    return textwrap.fill(", ".join(words), 75)
