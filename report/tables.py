"""Write the tables of the README from the records in report/results.

    python report/tables.py

A table stands between two comments of the README that bear its name; the text around is left alone.
"""

import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "report" / "results"
NUMPY_RUNS = (
    ('""', "numpy-none"),
    ("100", "numpy-100"),
    ("100,100", "numpy-100-100"),
    ("200,200,200", "numpy-200-200-200"),
)  # --dnn_hidden_units and the name of the record


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def accuracy_table():
    """Test accuracy of the NumPy networks at the default flags, over the seeds."""
    lines = ["| `--dnn_hidden_units` | test accuracy | seeds |", "|---|---|---|"]
    for units, name in NUMPY_RUNS:
        values = [run["test_accuracy"] for run in read(name)["runs"]]
        spread = np.std(values, ddof=1)
        lines.append(f"| `{units}` | {np.mean(values):.4f} ± {spread:.4f} | {len(values)} |")
    return "\n".join(lines)


def speed_text():
    """How long the default runs take, and how near a step is to its matrix products."""
    record = read("benchmark")
    lines = ["| default run | start to end | training steps | peak memory |", "|---|---|---|---|"]
    for name, run in record["default_run"].items():
        lines.append(
            f"| `train_mlp_{name}.py` | {run['wall_seconds']:.1f} s | {run['train_seconds']:.1f} s "
            f"| {run['peak_rss_mb']:.0f} MB |"
        )
    products = record["numpy step to products"]
    bare = record["pytorch step to bare pytorch step"]["median"]
    return "\n".join(lines) + (
        f"\n\nOn {record['cores']} cores. A NumPy step takes {products['median']:.2f} times its "
        f"two large matrix products (median; best of both {products['best']:.2f}), so that "
        f"{1 / products['median']:.0%} of it are those, and "
        f"{record['numpy step to pytorch step']['median']:.2f} times a PyTorch step. A PyTorch "
        f"step takes {bare:.2f} times a bare loop over "
        "float tensors in memory. The same job as a `DataLoader` over single images takes "
        f"{record['template_job_seconds']:.1f} s from start to end."
    )


def best_text():
    """The best network: its accuracy, what it took, the command."""
    record = read("best-cpu")
    flags = record["runs"][0]["flags"]
    layers = ", ".join(map(str, flags["dnn_hidden_units"]))
    accuracies = ", ".join(f"{run['test_accuracy']:.4f}" for run in record["runs"])
    return (
        f"A network with hidden layers of {layers} units reaches a test accuracy of {accuracies} "
        f"(the test set was read once, at the end) after {record['train_seconds'] / 60:.0f} "
        f"minutes of training steps ({flags['epochs']} epochs) on the CPU:\n\n"
        f"```\n{record['command']}\n```"
    )


TABLES = {"accuracy": accuracy_table, "speed": speed_text, "best": best_text}


def filled(text):
    """text with every table made anew."""
    for name, make in TABLES.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"README.md has no place for the table {name}")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
