"""Draw the figures on the best model from the records of report/study.py.

python -m plots.plot_study
"""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

from plots import style
from report import records

# Vehicles beside vehicles and animals beside animals, so that the matrix falls into two blocks.
ORDER = (
    *("airplane", "ship", "automobile", "truck"),
    *("horse", "deer", "bird", "frog", "cat", "dog"),
)
VEHICLES = 4
TRAINING_IMAGES = 50_000
KINDS = {"vehicles": "C0", "animals": "C2"}
WITHOUT, WITH = "C7", "C2"  # augmentation


def name_of(run):
    return "MLP " + "-".join(map(str, ["3072", *run["flags"]["dnn_hidden_units"], "10"]))


def draw_curves(record):
    """Loss and accuracy over training: train and validation as lines, the test set as a point."""
    run, validated = record["run"], record["validated"] or record["run"]
    title = f"{name_of(run)}: test accuracy {run['test_accuracy']:.4f}"
    figure, panels = style.loss_and_accuracy(title, xlabel="epoch")
    tested = "test" if run["flags"]["validation_size"] else "test (run on all images)"
    at, history = epochs(validated)[1:], validated["history"]
    # The weights that the test set was evaluated with: the best on validation, or the last.
    best = np.argmax(run["history"].get("val_accuracy", run["history"]["step"]))
    for quantity, panel in panels.items():
        panel.plot(at, history[f"train_{quantity}"][1:], "C0", label="training batches (augmented)")
        panel.plot(at, history[f"val_{quantity}"][1:], "C1", label="validation")
        panel.plot(epochs(run)[best], run[f"test_{quantity}"], "*", color="C3", ms=9,
                   mec="white", mew=0.5, zorder=3, label=tested)  # fmt: skip
        panel.legend()
    style.save(figure, "study_curves")


def epochs(run):
    """The rows of a run's history, in passes over its training images."""
    flags = run["flags"]
    n_train = TRAINING_IMAGES - flags["validation_size"]
    return np.array(run["history"]["step"]) * flags["batch_size"] / n_train


def draw_confusion(record):
    order = [record["classes"].index(name) for name in ORDER]
    matrix = np.array(record["confusion"])[np.ix_(order, order)]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    figure = style.new_figure(
        "Confusion matrix on the test set:\n"
        f"{record['test_accuracy']:.1%} of the images are on the diagonal",
        0.55 * style.TEXT_WIDTH, 2.83,
    )  # fmt: skip
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
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
    axes.set(xlabel="prediction", ylabel="class")
    figure.colorbar(image, label="share of the images of the class", ticks=[0, 0.05, 0.2, 0.5, 1],
                    format="{x:g}", aspect=30, pad=0.03)  # fmt: skip
    style.save(figure, "study_confusion")


def draw_class_accuracy(record):
    """Accuracy by class, with the class that its images are most often taken for."""
    names, matrix = record["classes"], np.array(record["confusion"])
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(record["class_accuracy"])
    figure = style.new_figure(
        "Accuracy by class on the test set, and what its images are most often taken for",
        height=2.6,
    )
    axes = figure.subplots()
    for row, i in enumerate(order):
        value, other = record["class_accuracy"][i], mistakes[i].argmax()
        kind = "vehicles" if names[i] in ORDER[:VEHICLES] else "animals"
        axes.barh(row, value, color=KINDS[kind], height=0.75)
        axes.text(value + 0.01, row, f"{value:.3f}", va="center")
        axes.text(0.01, row,
                  f"taken for {names[other]}: {mistakes[i, other]} of {matrix[i].sum()}",
                  va="center", color="white")  # fmt: skip
    axes.axvline(record["test_accuracy"], color="black", ls="--", lw=1,
                 label=f"all: {record['test_accuracy']:.3f}")  # fmt: skip
    for kind, color in KINDS.items():
        axes.bar(0, 0, color=color, label=kind)
    axes.set_yticks(range(len(names)), [names[i] for i in order])
    axes.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), xlabel="accuracy (fraction)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    style.save(figure, "study_classes")


def draw_calibration(record):
    """Accuracy against confidence, and how many images have it, before and after."""
    figure = style.new_figure(
        "Calibration on the test set before and after temperature scaling (fitted on validation)",
        height=3.8,
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
            f"{title}: calibration error {result['error']:.3f}, loss {result['loss']:.3f}"
        )
        top.grid()
        bottom.bar(centres, bins["count"] / bins["count"].sum(), 0.94 * width, color="C7")
        bottom.set(xlim=(0, 1), xlabel="confidence (probability of the predicted class)")
    axes[0, 0].legend(loc="upper left")
    axes[0, 0].set(ylabel="accuracy (fraction)", ylim=(0, 1))
    axes[1, 0].set(ylabel="share of images")
    style.save(figure, "study_calibration")


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
    figure = style.new_figure(
        f"First layer: {shown} of {units} units,\nfrom large weights to small ones; grey is 0",
        0.43 * style.TEXT_WIDTH, 1.78,
    )  # fmt: skip
    show_units(figure.subplots(), pictures["run"], 8)
    style.save(figure, "study_first_layer")


def draw_augmentation(record, pictures):
    """Two runs, without and with augmentation: the first layers, the gap between training and
    validation, and the accuracy on moved images."""
    runs = record["augmentation"]
    title = f"{name_of(runs['with']['run'])}, one seed, without and with augmentation"
    figure = style.new_figure(title)
    *layers, gap, shift = figure.subplots(1, 4, width_ratios=(4, 4, 4.2, 3.6))
    for i, (panel, name, color) in enumerate(
        zip(layers, ("without", "with"), (WITHOUT, WITH), strict=True)
    ):
        run = runs[name]
        show_units(panel, pictures[name], 5)
        structure, start = run["first_layer"], run["first_layer_at_start"]
        panel.set_title(f"{name} augmentation", color=color)
        panel.text(
            0.5, -0.04, "first layer: neighbouring\n"
            f"weights correlate {start['neighbour_correlation']:z.2f} at\n"
            f"the start, {structure['neighbour_correlation']:.2f} at the end",
            transform=panel.transAxes, ha="center", va="top", size=style.SMALL,
        )  # fmt: skip
        values = run["train_accuracy"], run["val_accuracy"]
        bars = gap.bar(np.arange(2) + 0.42 * (i - 0.5), values, 0.4, color=color)
        gap.bar_label(bars, fmt="%.3f", size=style.SMALL)
        shift.plot(run["moved_by"], run["moved"], "o-", color=color, ms=2, label=name)
    gap.set_xticks((0, 1), ("training\nimages as\nthey are", "validation\nimages"))
    gap.set(ylabel="accuracy (fraction)", ylim=(0, 1), title="training and validation")
    shift.set(xlabel="moved to the right\n(pixels)", title="validation images")
    shift.sharey(gap)
    shift.tick_params(labelleft=False)
    shift.grid()
    shift.legend(loc="upper center")
    style.save(figure, "study_augmentation")


def main():
    record = records.read("study")
    pictures = np.load(records.RESULTS / "study.npz")
    draw_curves(record)
    draw_confusion(record)
    draw_class_accuracy(record)
    draw_calibration(record)
    draw_first_layer(record, pictures)
    if record["augmentation"]:
        draw_augmentation(record, pictures)


if __name__ == "__main__":
    main()
