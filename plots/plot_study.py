"""Draw the figures on the best model from the records of report/study.py.

python plots/plot_study.py
"""

import json

import numpy as np
import plot
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

RESULTS = plot.ROOT / "report" / "results"
# Vehicles beside vehicles and animals beside animals, so that the matrix falls into two blocks.
ORDER = (
    *("airplane", "ship", "automobile", "truck"),
    *("horse", "deer", "bird", "frog", "cat", "dog"),
)
VEHICLES = 4
SPLITS = {"train": "training", "val": "validation"}
TRAIN, VALIDATION, TEST = "C0", "C1", "C3"
WITHOUT, WITH = "C7", "C2"  # augmentation


def name_of(run):
    return "MLP " + "-".join(map(str, ["3072", *run["flags"]["dnn_hidden_units"], "10"]))


def draw_curves(record):
    """Loss and accuracy over training: train and validation as lines, the test set as a point."""
    run, validated = record["run"], record["validated"] or record["run"]
    figure, axes = plot.new_figure(f"{name_of(run)}: test accuracy {run['test_accuracy']:.4f}")
    for panel, (quantity, _) in zip(axes, plot.PANELS, strict=True):
        history = validated["history"]
        for color, split, label in (
            (TRAIN, "train", "training batches"),
            (VALIDATION, "val", "validation"),
        ):
            panel.plot(history["step"][1:], history[f"{split}_{quantity}"][1:], color, label=label)
        panel.plot(tested_at(run), run[f"test_{quantity}"], "*", color=TEST, ms=12, label="test")
        panel.legend(fontsize="small")
    plot.save(figure, "study_curves.png")


def tested_at(run):
    """The step of the weights that the test set was evaluated with."""
    history = run["history"]
    if "val_accuracy" in history:
        return history["step"][int(np.argmax(history["val_accuracy"]))]
    return run["steps"]


def draw_confusion(record):
    order = [record["classes"].index(name) for name in ORDER]
    matrix = np.array(record["confusion"])[np.ix_(order, order)]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(6.2, 5), layout="constrained")
    figure.suptitle(
        f"Confusion matrix on the test set: {record['test_accuracy']:.1%} of the images are on the "
        "diagonal",
        fontsize="medium",
    )
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    for (row, column), count in np.ndenumerate(matrix):
        dark = image.norm(shares[row, column]) > 0.55
        axes.text(column, row, count, color="white" if dark else "black", ha="center", va="center",
                  weight="bold" if row == column else "normal")  # fmt: skip
    for start, size in ((0, VEHICLES), (VEHICLES, len(ORDER) - VEHICLES)):
        corner = start - 0.5, start - 0.5
        axes.add_patch(Rectangle(corner, size, size, fill=False, color="C1", lw=1.5))
    axes.set_xticks(range(len(ORDER)), ORDER, rotation=35, ha="right")
    axes.set_yticks(range(len(ORDER)), ORDER)
    axes.set(xlabel="prediction", ylabel="class")
    figure.colorbar(image, label="share of the images of the class", ticks=[0, 0.05, 0.2, 0.5, 1])
    plot.save(figure, "study_confusion.png")


def draw_class_accuracy(record):
    """Accuracy by class, with the class that its images are most often taken for."""
    names, matrix = record["classes"], np.array(record["confusion"])
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(record["class_accuracy"])
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    figure.suptitle("Accuracy by class on the test set", fontsize="medium")
    axes = figure.subplots()
    for row, i in enumerate(order):
        value, other = record["class_accuracy"][i], mistakes[i].argmax()
        axes.barh(row, value, color="C0" if names[i] in ORDER[:VEHICLES] else "C2", height=0.7)
        axes.text(value - 0.01, row, f"{value:.3f}", ha="right", va="center", color="white")
        axes.text(value + 0.01, row,
                  f"taken for {names[other]}: {mistakes[i, other]} of {matrix[i].sum()}",
                  va="center", fontsize="small", bbox={"color": "white", "pad": 0})  # fmt: skip
    axes.axvline(record["test_accuracy"], color="black", ls="--", lw=1, zorder=0)
    axes.text(record["test_accuracy"], len(names) - 0.4, f"all {record['test_accuracy']:.3f}",
              ha="center", va="bottom", fontsize="small",
              bbox={"color": "white", "pad": 0})  # fmt: skip
    axes.set_yticks(range(len(names)), [names[i] for i in order])
    axes.set(xlim=(0, 1.15), ylim=(-0.6, len(names) + 0.3), xlabel="accuracy (fraction)")
    axes.spines[["top", "right"]].set_visible(False)
    plot.save(figure, "study_classes.png")


def draw_calibration(record):
    """Accuracy against confidence, and how many images have it, before and after."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    figure.suptitle(
        "Calibration on the test set before and after temperature scaling (fitted on validation)",
        fontsize="medium",
    )
    axes = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True, sharey="row")
    after = f"at temperature {record['temperature']:.2f}"
    for column, (when, title) in enumerate((("before", "as trained"), ("after", after))):
        result = record["calibration"][when]
        bins = {name: np.array(values, float) for name, values in result["bins"].items()}
        width = 1 / len(bins["count"])
        centres = width * (np.arange(len(bins["count"])) + 0.5)
        top, bottom = axes[:, column]
        top.bar(centres, bins["accuracy"], 0.94 * width, color="C0", label="accuracy")
        distance = bins["confidence"] - bins["accuracy"]
        top.bar(centres, distance, 0.94 * width, bins["accuracy"], color="none", edgecolor="C3",
                hatch="//", label="distance to the confidence")  # fmt: skip
        top.plot([0, 1], [0, 1], color="black", ls="--", lw=1)
        top.set_title(
            f"{title}: calibration error {result['error']:.3f}, loss {result['loss']:.3f}",
            fontsize="small",
        )
        top.grid(alpha=0.3)
        bottom.bar(centres, bins["count"] / bins["count"].sum(), 0.94 * width, color="C7")
        bottom.set(xlim=(0, 1), xlabel="confidence (probability of the predicted class)")
    axes[0, 0].legend(fontsize="small", loc="upper left")
    axes[0, 0].set(ylabel="accuracy (fraction)", ylim=(0, 1))
    axes[1, 0].set(ylabel="share of images")
    plot.save(figure, "study_calibration.png")


def tile(pictures, columns):
    """pictures (n, 3, 32, 32) uint8 as one image (rows, columns, 3), with white lines between."""
    n, _, height, width = pictures.shape
    padded = np.full((n, height + 2, width + 2, 3), 255, np.uint8)
    padded[:, 1:-1, 1:-1] = pictures.transpose(0, 2, 3, 1)
    grid = padded.reshape(n // columns, columns, height + 2, width + 2, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * (width + 2), 3)


def show_units(axes, pictures, columns):
    axes.imshow(tile(pictures, columns), interpolation="nearest")
    axes.axis("off")


def draw_first_layer(record, pictures):
    shown, units = len(pictures["run"]), record["run"]["flags"]["dnn_hidden_units"][0]
    figure = Figure(figsize=(7.5, 4.9), layout="constrained")
    figure.suptitle(
        f"First layer: {shown} of {units} units, from large weights to small ones; grey is 0",
        fontsize="medium",
    )
    show_units(figure.subplots(), pictures["run"], 8)
    plot.save(figure, "study_first_layer.png")


def draw_augmentation(record, pictures):
    """Two runs, without and with augmentation: the first layers, the gap between training and
    validation, and the accuracy on moved images."""
    runs = record["augmentation"]
    figure = Figure(figsize=(7.5, 6.4), layout="constrained")
    figure.suptitle("What the network learns without and with augmentation", fontsize="medium")
    axes = figure.subplots(2, 2, height_ratios=(4, 3))
    gap, shift = axes[1]
    for column, (name, color) in enumerate((("without", WITHOUT), ("with", WITH))):
        run = runs[name]
        show_units(axes[0, column], pictures[name], 5)
        structure, start = run["first_layer"], run["first_layer_at_start"]
        axes[0, column].set_title(
            f"{name}: correlation of neighbouring weights\n"
            f"{start['neighbour_correlation']:z.2f} at the start, then "
            f"{structure['neighbour_correlation']:.2f}",
            fontsize="small",
        )
        for x, split, alpha in ((0, "train", 1), (1, "val", 0.6)):
            value = run[f"{split}_accuracy"]
            gap.bar(3 * column + x, value, 0.9, color=color, alpha=alpha)
            gap.text(3 * column + x, value, f"{SPLITS[split]}\n{value:.3f}", fontsize="small",
                     ha="center", va="bottom")  # fmt: skip
        shift.plot(run["moved_by"], run["moved"], "o-", color=color, ms=3, label=name)
        shift.plot([], [], " ", label=f"  mirrored: {run['mirrored']:.3f}")
    gap.set_xticks((0.5, 3.5), ("without", "with"))
    gap.set(ylabel="accuracy (fraction)", ylim=(0, 1.18))
    shift.set(xlabel="validation images moved to the right (pixels)", ylabel="accuracy (fraction)",
              ylim=(0, None))  # fmt: skip
    shift.grid(alpha=0.3)
    shift.legend(fontsize="small", ncols=2, loc="lower center")
    plot.save(figure, "study_augmentation.png")


def main():
    if not (RESULTS / "study.json").exists():
        print("nothing to draw: report/study.py has not been run yet")
        return
    record = json.loads((RESULTS / "study.json").read_text())
    pictures = np.load(RESULTS / "study.npz")
    draw_curves(record)
    draw_confusion(record)
    draw_class_accuracy(record)
    draw_calibration(record)
    draw_first_layer(record, pictures)
    if record["augmentation"]:
        draw_augmentation(record, pictures)


if __name__ == "__main__":
    main()
