"""The picture of a run: curves.png."""

FRAMEWORKS = {"numpy": "NumPy", "pytorch": "PyTorch"}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "synthetic data, NOT CIFAR-10"}


def draw_curves(record, history, file):
    """Loss and accuracy of a run against its steps, as a PNG: see run.json and metrics.csv."""
    # Here and not at the top: it costs a third of a second, which only the end of a run needs.
    from matplotlib.figure import Figure

    units = "-".join(map(str, ["3072", *record["flags"]["dnn_hidden_units"], "10"]))
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(
        f"{FRAMEWORKS[record['framework']]} MLP {units} on {DATASETS[record['dataset']]}: "
        f"test accuracy {record['test_accuracy']:.4f}",
        color="red" if record["dataset"] == "synthetic" else "black",
    )
    split = "val" if "val_loss" in history else "test"
    steps, accuracies = history["step"], history[f"{split}_accuracy"]
    best = steps[accuracies.index(max(accuracies))]
    for axes, quantity, label in zip(
        figure.subplots(1, 2),
        ("loss", "accuracy"),
        ("cross-entropy loss (nats)", "accuracy (fraction)"),
        strict=True,
    ):
        train, held_out = history[f"train_{quantity}"], history[f"{split}_{quantity}"]
        axes.plot(steps, train, color="C0", label="train (mean since the point before)")
        axes.plot(steps, held_out, color="C1", label="validation" if split == "val" else "test")
        if split == "val":
            axes.plot(best, record[f"test_{quantity}"], "*", color="C3", markersize=11,
                      label="test, weights of this step")  # fmt: skip
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, format="png", dpi=150)
