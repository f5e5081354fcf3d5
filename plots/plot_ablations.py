"""Question 2.1: what changes of a wide network's recipe change, at each length."""

import numpy as np
from matplotlib.ticker import MultipleLocator

from plots import style
from report import comparisons
from report.records import flags_of, runs_of, single_view_accuracy, validation_accuracy

RECIPES = {  # experiments, by the name of their recipe in the report
    "long": "pixels",
    "short": "best network",
    "third": "whitened, best",
    "pixels-validated": "pixels",
}
RENAMED = {"distortion": "random_affine", "recolour": "color_jitter"}  # flags, since they ran
ACCURACIES = (  # as asked for; of single views, where it is averaged over views
    (validation_accuracy, "o", "C0"),
    (single_view_accuracy, "^", "C1"),
)


def row(name):
    """A change by the present names of its flags, without the number of epochs, which gives it the
    time of the others."""
    flags = (flag.split() for flag in comparisons.changes_but_epochs(name))
    changes = (" ".join(RENAMED.get(word, word) for word in words) for words in flags)
    return ", ".join(sorted(changes))


def draw():
    families = comparisons.families()
    shown = {recipe: families[recipe] for recipe in RECIPES}
    _, *others = shown.values()  # what the first recipe alone has is in the report's table
    rows = list(dict.fromkeys(row(name) for names in reversed(others) for name in names))
    title = "Changes of a recipe: differences in validation accuracy"
    figure = style.new_figure(title, height=0.75 + 0.093 * len(rows))
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True)
    for panel, (recipe, names) in zip(panels, shown.items(), strict=True):
        panel.axvline(0, color="0.6", lw=0.6)
        single = any(len(runs_of(name)) == 1 for name in names)
        if single and len(runs := runs_of(recipe)) > 2:  # twice the spread of a difference
            noise = 200 * np.sqrt(2) * np.std([*map(validation_accuracy, runs)], ddof=1)
            panel.axvspan(-noise, noise, color="0.92", lw=0)
        for name in filter(lambda name: row(name) in rows, names):
            averaged = "val_accuracy" in runs_of(name)[0]
            for accuracy, *look in ACCURACIES[: 1 + averaged]:
                values = comparisons.paired(name, accuracy)
                error = comparisons.standard_error(values)
                style.dot(panel, values, rows.index(row(name)), error, error is not None, *look)
        panel.set_yticks(range(len(rows)), rows)
        panel.set_title(f"{RECIPES[recipe]}\n{flags_of(recipe)['epochs']} epochs")
    panels[0].invert_yaxis()
    panels[0].margins(x=0.1)
    panels[0].xaxis.set_major_locator(MultipleLocator(5))
    panels[1].set_xlabel("percentage points")
    style.save(figure, "ablations")
