"""The curves of a run: rows of losses and accuracies, and metrics.csv, which holds them."""

import csv
import io

FRAMEWORKS = {"numpy": "NumPy", "pytorch": "PyTorch"}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "synthetic data, NOT CIFAR-10"}
QUANTITIES = {"loss": "cross-entropy loss (nats)", "accuracy": "accuracy (fraction)"}


class History:
    """`columns` are those of metrics.csv: lists by name, one entry for each row.

    A row holds the means over the training batches since the row before (`train_`), and scores on
    the validation or test set (`val_` or `test_`) and on unaugmented training images (`clean_`).
    """

    def __init__(self, flags):
        self.held_out = "val" if flags["validation_size"] else "test"
        clean = ["clean"] if flags.get("train_eval_size") else []
        splits = ["train", *clean, self.held_out]
        names = [f"{split}_{quantity}" for split in splits for quantity in QUANTITIES]
        self.columns = {name: [] for name in ["step", *names]}
        self.sums = [0.0, 0.0, 0]  # of loss, accuracy and batches since the last row

    def log(self, loss, accuracy):
        """Adds a training batch to the next row."""
        self.sums = [self.sums[0] + loss, self.sums[1] + accuracy, self.sums[2] + 1]

    def add_row(self, step, **scores):
        """Adds a row. scores: (loss, accuracy) by split; a split left out leaves its cells empty.
        Returns the row as a dict."""
        loss, accuracy, batches = self.sums
        self.sums = [0.0, 0.0, 0]
        row = {"step": step}
        for split, values in {"train": (loss / batches, accuracy / batches), **scores}.items():
            for name, value in zip(QUANTITIES, values, strict=True):
                row[f"{split}_{name}"] = value
        for name, column in self.columns.items():
            column.append(row.get(name))
        return row


def as_csv(columns):
    """The columns, lists by name, as the bytes of metrics.csv."""
    table = io.StringIO()
    rows = zip(*columns.values(), strict=True)
    csv.writer(table, lineterminator="\n").writerows([columns, *rows])
    return table.getvalue().encode()


def read_history(path):
    """The columns of the metrics.csv at path, as lists of numbers; None for an empty cell.
    A spreadsheet that saves the file begins it with a byte-order mark."""
    names, *rows = csv.reader(path.read_text("utf-8-sig").splitlines())
    table = [[int(row[0]), *(float(cell) if cell else None for cell in row[1:])] for row in rows]
    columns = zip(*table, strict=True) if table else [()] * len(names)
    return dict(zip(names, map(list, columns), strict=True))
