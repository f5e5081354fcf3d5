"""Question 2.2: the accuracy of Tanh and the ELU against the learning rate, by depth."""

from plots import style
from report import records

INPUTS = {False: "raw", True: "standardised"}  # pixels
DIVERGED = 0.175  # where the cross of a network that diverged stands


def draw():
    record = records.read("activations")
    depths = records.all_values(record, "depth")
    figure = style.new_figure(
        f"Tanh against ELU after {record['steps']} steps of SGD, by hidden layers", height=1.45
    )
    panels = figure.subplots(2, len(depths), sharey=True)
    for row, standardize in zip(panels, INPUTS, strict=True):
        for panel, depth in zip(row, depths, strict=True):
            panel.set(xscale="log", ylim=(0.15, 0.52))
            for activation, line in style.ACTIVATIONS.items():
                found = records.by_rate(record, "val_accuracy", activation, depth, standardize)
                means = [None if values is None else values.mean() for values in found.values()]
                panel.plot(found.keys(), means, **line, marker="o", ms=3)
                diverged = [rate for rate, values in found.items() if values is None]
                panel.plot(diverged, [DIVERGED] * len(diverged), "x", color=line["color"], ms=5)
        row[0].set_ylabel(INPUTS[standardize])
    figure.supylabel("validation accuracy", size=7.5)
    for panel in panels[-1]:
        panel.set_xlabel("learning rate")
    for panel, depth in zip(panels[0], depths, strict=True):
        panel.set_title("1 hidden layer" if depth == 1 else f"{depth} hidden layers")
    for activation, x, y in (("elu", 1e-4, 0.41), ("tanh", 2e-2, 0.39)):  # beside the first points
        color = style.ACTIVATIONS[activation]["color"]
        panels[0, 0].text(x, y, style.NAMES[activation], color=color, size=style.SMALL)
    style.save(figure, "learning_rates")
