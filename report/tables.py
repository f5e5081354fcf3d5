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


def last_line():
    """What the first command of the README ends with."""
    run = next(run for run in read("numpy-100")["runs"] if run["seed"] == 42)
    return (
        f"```\ntest accuracy {run['test_accuracy']:.4f} ({run['dataset']}, {run['steps']} steps, "
        f"{run['train_seconds']:.1f} s)\n```"
    )


def step_table():
    """The default step beside all that does the same, and how near larger steps are to theirs."""
    record = read("benchmark")
    step = record["default_step"]
    lines = ["| a default step | best, ms | median, ms | `train_mlp_numpy.py` takes |",
             "|---|---|---|---|"]  # fmt: skip
    for name, label in (
        ("numpy", "`train_mlp_numpy.py`"),
        ("products", "its two large matrix products alone"),
        ("products, weights by columns", "the same, weights in the order of the trainer's"),
        ("products and passes", "these and the passes over the data and the weights"),
        ("pytorch", "`train_mlp_pytorch.py`"),
        ("pytorch bare", "bare PyTorch loop, batches ready as float"),
        ("pytorch bare, compiled", "the same with `torch.compile`"),
        ("scikit-learn", "scikit-learn's `MLPClassifier`, a batch ready as float"),
        ("numpy straightforward", "straightforward NumPy, float64 weights"),
    ):
        if times := step["milliseconds"].get(name):
            ratio = step["ratios"].get(f"numpy to {name}")
            ratio = f"{ratio['best']:.2f}, {ratio['median']:.2f} times that" if ratio else ""
            lines.append(f"| {label} | {times['best']:.2f} | {times['median']:.2f} | {ratio} |")
    bare = step["ratios"]["pytorch to pytorch bare"]["median"]
    fastest = step["milliseconds"]["products, weights by columns"]["median"]
    shares = [
        f"{fastest / step['milliseconds'][name]['median']:.2f} of {label}"
        for name, label in (
            ("pytorch bare", "the bare PyTorch loop's whole step"),
            ("numpy straightforward", "the straightforward one"),
        )
    ]
    lines.append(
        f"\nThe PyTorch trainer's step takes {bare:.2f} times the bare loop's. The two products "
        f"alone, at their fastest, take {' and '.join(shares)}: no step is faster than that.\n"
    )
    lines.append("| hidden units | batch | NumPy, ms | to its products | to bare PyTorch |")
    lines.append("|---|---|---|---|---|")
    for row in record["shapes"]:
        hidden, ratios = ",".join(map(str, row["hidden"])), row["ratios"]
        lines.append(
            f"| `{hidden}` | {row['batch']} | {row['milliseconds']['numpy']['median']:.1f} "
            f"| {ratios['numpy to products']['median']:.2f} "
            f"| {ratios['numpy to pytorch bare']['median']:.2f} |"
        )
    return "\n".join(lines)


def job_table():
    """What whole jobs take: time, start-up, memory, evaluation, and a second process."""
    record = read("benchmark")
    lines = ["| default job | start to end | training steps | peak memory |", "|---|---|---|---|"]
    runs = record["default_run"]
    for name in ("numpy", "pytorch"):
        run = runs[name]
        lines.append(
            f"| `train_mlp_{name}.py` | {run['wall_seconds']:.1f} s | {run['train_seconds']:.1f} s "
            f"| {run['peak_rss_mb']:.0f} MB |"
        )
    lines.append(
        f"| `DataLoader` over single images | {runs['template']['wall_seconds']:.1f} s | | |"
    )
    machine, start = record["machine"], record["start_up"]
    threads = machine["threads"]
    evaluation = record["evaluation"]["ratios"]["numpy to products"]["median"]
    two = " and ".join(
        f"{run['efficiency']:.0%} ({name} network)" for name, run in record["processes"].items()
    )
    return "\n".join(lines) + (
        f"\n\nOn {machine['cores']} cores with {machine['vectors']} instructions, with "
        f"{threads['numpy']} threads in NumPy and {threads['torch']} in PyTorch. "
        f"`train_mlp_numpy.py` begins its first step {start['first step']['median']:.1f} s after "
        f"its start, of which reading and hashing the files takes "
        f"{start['read and hash']['median']:.1f} s. Evaluation takes {evaluation:.2f} times its "
        f"products. A pixel more takes {record['memory']['bytes_per_pixel']:.2f} bytes "
        f"of memory. Two processes of one thread each reach {two} of twice the speed of one."
    )


def best_text():
    """The best network: its accuracy, what it took, the command."""
    record = read("best-cpu")
    flags = record["runs"][0]["flags"]
    layers = ", ".join(map(str, flags["dnn_hidden_units"]))
    accuracies = ", ".join(f"{run['test_accuracy']:.4f}" for run in record["runs"])
    in_float32 = min(
        run["train_seconds"] / run["steps"]
        for path in RESULTS.glob("wide*.json")
        for run in read(path.stem)["runs"]
        if all(run["flags"][name] == flags[name] for name in ("dropout", "distortion"))
    )
    return (
        f"A network with hidden layers of {layers} units reaches a test accuracy of {accuracies} "
        f"({flags['epochs']} epochs of all training images; the test set had no part in it until "
        f"the end). This took {record['train_seconds'] / 60:.0f} minutes of training steps on two "
        f"cores with instructions for bfloat16, and would take "
        f"{in_float32 * record['runs'][0]['steps'] / 60:.0f} on two without, in float32 (by the "
        f"time of a step in `wide*.json`):\n\n```\n{record['command']}\n```"
    )


TABLES = {
    "last line": last_line,
    "accuracy": accuracy_table,
    "step": step_table,
    "job": job_table,
    "best": best_text,
}


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
