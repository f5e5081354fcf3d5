"""Question 2.1: confusion, first layer, shifts and calibration, from the record best_model."""

import numpy as np
from matplotlib.patches import Rectangle

from plots import style
from report import records

# Vehicles beside vehicles and animals beside animals, so that the matrix falls into two blocks.
ORDER = (
    *("airplane", "ship", "automobile", "truck"),
    *("horse", "deer", "bird", "frog", "cat", "dog"),
)
VEHICLES = 4
SHOWN = 10  # units of the first layer
PAIR = (  # the looks of two lines, which print without colour can tell apart
    {"ls": "--", "marker": "o", "ms": 2.5, "color": "C7", "mfc": "white"},
    {"ls": "-", "marker": "o", "ms": 2.5, "color": "C2"},
)

BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}  # of a panel


def draw_confusion(record):
    order = [record["classes"].index(name) for name in ORDER]
    matrix = np.array(record["confusion"])[np.ix_(order, order)]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    figure = style.new_figure(
        "Confusion matrix on the test set:\n"
        f"{record['test_accuracy']:.1%} of the images are on the diagonal",
        0.55 * style.TEXT_WIDTH, 2.6,
    )  # fmt: skip
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        dark = image.norm(shares[row, column]) > 0.55
        axes.text(column, row, count, color="white" if dark else "black", ha="center", va="center",
                  size=style.SMALL)  # fmt: skip
    for start, size in ((0, VEHICLES), (VEHICLES, len(ORDER) - VEHICLES)):
        corner = start - 0.5, start - 0.5
        axes.add_patch(Rectangle(corner, size, size, fill=False, color="C1", lw=1.2, zorder=3,
                                 clip_on=False))  # fmt: skip
    axes.set_xticks(range(len(ORDER)), ORDER, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(ORDER)), ORDER)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="true class")
    figure.colorbar(image, label="share of the images of the class", aspect=30, pad=0.03)
    style.save(figure, "best_model_confusion")


def tile(pictures, columns):
    """pictures (n, 3, height, width) uint8 as one image (rows, columns, 3), with white lines
    between."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)
    n, _, height, width = padded.shape
    grid = padded.reshape(n // columns, columns, 3, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(-1, columns * width, 3)


def small_panel(title, height):
    figure = style.new_figure(title, 0.43 * style.TEXT_WIDTH, height)
    return figure, figure.subplots()


def draw_first_layer(pictures):
    figure, panel = small_panel("First layer", 1.0)
    panel.imshow(tile(pictures["run"][:SHOWN], 5), interpolation="nearest")
    panel.axis("off")
    style.save(figure, "best_model_first_layer")


def draw_calibration(results):
    """The reliability diagram on the test set, before and after the temperature."""
    figure, panel = small_panel("Calibration", 0.95)
    panel.plot([0, 1], [0, 1], ":", color="0.6", lw=0.8)
    for (when, result), look in zip(results.items(), PAIR, strict=True):
        confidence, accuracy, _ = result["bins"]
        panel.plot(confidence, accuracy, **look, label=when)
    panel.set(xlabel="confidence", ylabel="accuracy", yticks=(0, 0.5, 1))
    panel.legend(title="temperature", **BESIDE)
    style.save(figure, "best_model_calibration")


def draw_augmentation(runs):
    """The accuracy of two runs, without and with augmentation, on moved images."""
    figure, panel = small_panel("What flips and shifts teach", 0.95)
    for (name, run), look in zip(runs.items(), PAIR, strict=True):
        panel.plot(run["moved_by"], run["moved"], **look, label=name)
    panel.set(xlabel="shift to the right (pixels)", ylabel="accuracy", xticks=range(-8, 9, 4))
    panel.legend(title="flips, shifts", **BESIDE)
    style.save(figure, "best_model_augmentation")


def draw():
    record = records.read("best_model")
    draw_confusion(record)
    draw_first_layer(np.load(records.RESULTS / "best_model.npz"))
    draw_augmentation(record["augmentation"])
    draw_calibration(record["calibration"])
