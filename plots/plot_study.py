"""Draw the figures on the best model from the records of report/study.py.

python -m plots.plot_study
"""

import numpy as np
from matplotlib.patches import Rectangle

from plots import style
from report import records
from training.curves import layer_sizes

# Vehicles beside vehicles and animals beside animals, so that the matrix falls into two blocks.
ORDER = (
    *("airplane", "ship", "automobile", "truck"),
    *("horse", "deer", "bird", "frog", "cat", "dog"),
)
VEHICLES = 4
TRAINING_IMAGES = 50_000
CURVES = {  # colour and label of a column of metrics.csv
    "train": ("C0", "training, augmented"),
    "clean": ("C2", "training, unaugmented"),
    "val": ("C1", "validation"),
}
AUGMENTATION = {"without": "C7", "with": "C2"}


def draw_curves(record):
    """Loss and accuracy over training: of the run with validation images as lines; of the run on
    all images dotted, with its test accuracy as a star."""
    run, validated = record["run"], record["validated"] or record["run"]
    title = f"MLP {layer_sizes(run['flags'])}: test accuracy {run['test_accuracy']:.4f}"
    figure, panels = style.loss_and_accuracy(title, xlabel="epoch")
    for quantity, panel in panels.items():
        for split, (color, label) in CURVES.items():
            for one, line in ((run, ":"), (validated, "-")):
                if values := one["history"].get(f"{split}_{quantity}"):
                    shown = label if one is validated else None
                    panel.plot(epochs(one)[1:], values[1:], line, color=color, label=shown)
        panel.plot(epochs(run)[-1], run[f"test_{quantity}"], "*", color="C3", ms=9,
                   mec="white", mew=0.5, zorder=3, label="test (run on all images)")  # fmt: skip
    figure.set_figheight(2.0)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4)
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
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
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
    style.save(figure, "study_confusion")


def tile(pictures, columns):
    """pictures (n, 3, 32, 32) uint8 as one image (rows, columns, 3), with white lines between."""
    n, _, height, width = pictures.shape
    padded = np.full((n, height + 2, width + 2, 3), 255, np.uint8)
    padded[:, 1:-1, 1:-1] = pictures.transpose(0, 2, 3, 1)
    grid = padded.reshape(n // columns, columns, height + 2, width + 2, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * (width + 2), 3)


def draw_first_layer(record, pictures):
    shown, units = len(pictures["run"]), record["run"]["flags"]["dnn_hidden_units"][0]
    figure = style.new_figure(
        f"First layer: {shown} of {units} units,\nfrom large weights to small ones",
        0.43 * style.TEXT_WIDTH, 1.78,
    )  # fmt: skip
    axes = figure.subplots()
    axes.imshow(tile(pictures["run"], 8), interpolation="nearest")
    axes.axis("off")
    style.save(figure, "study_first_layer")


def draw_augmentation(record):
    """The accuracy of two runs, without and with augmentation, on moved images."""
    figure = style.new_figure("What augmentation teaches", 0.43 * style.TEXT_WIDTH, 1.3)
    panel = figure.subplots()
    for name, color in AUGMENTATION.items():
        run = record["augmentation"][name]
        panel.plot(run["moved_by"], run["moved"], "o-", color=color, ms=2, label=name)
    panel.set(xlabel="shift to the right (pixels)", ylabel="accuracy")
    panel.grid()
    panel.legend(title="augmentation", loc="lower center")
    style.save(figure, "study_augmentation")


def main():
    record = records.read("study")
    pictures = np.load(records.RESULTS / "study.npz")
    draw_curves(record)
    draw_confusion(record)
    draw_first_layer(record, pictures)
    if record["augmentation"]:
        draw_augmentation(record)


if __name__ == "__main__":
    main()
