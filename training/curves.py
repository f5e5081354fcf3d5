"""The picture of a run: curves.png."""

import cifar10_utils
from training.history import DATASETS, FRAMEWORKS, QUANTITIES

SPLITS = {"train": "train (mean since the previous point)", "clean": "train, unaugmented images",
          "val": "validation", "test": "test"}  # fmt: skip


def layer_sizes(flags):
    """The inputs of a network and the units of its layers, as 3072-100-10."""
    inputs = cifar10_utils.N_INPUTS // (4 if flags.get("half_resolution") else 1)
    return "-".join(map(str, [inputs, *flags["dnn_hidden_units"], cifar10_utils.N_CLASSES]))


def draw_curves(record, history, file):
    """Loss and accuracy of a run against its steps, as a PNG. record and history are what run.json
    and metrics.csv hold."""
    # Here and not at the top: it costs a third of a second, which only the end of a run needs.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(
        f"{FRAMEWORKS[record['framework']]} MLP {layer_sizes(record['flags'])} "
        f"on {DATASETS[record['dataset']]}: test accuracy {record['test_accuracy']:.4f}",
        color="red" if record["dataset"] == "synthetic" else "black",
    )
    for axes, (quantity, label) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        for color, (split, name) in enumerate(SPLITS.items()):
            if values := history.get(f"{split}_{quantity}"):
                axes.plot(history["step"], values, f".-C{color}", label=name)
        if accuracies := history.get("val_accuracy"):
            best = history["step"][accuracies.index(max(accuracies))]
            test = record[f"test_{quantity}"]
            axes.plot(best, test, "*C3", markersize=11, label="test, weights of this step")
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")  # by default too, but then matplotlib warns where it is slow
    figure.savefig(file, format="png", dpi=150)
