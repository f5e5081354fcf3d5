"""Write the tables of README.md and report/PERFORMANCE.md from the records in report/results.

    python -m report.tables

Each table is between two comments with its name; the rest of the page stays unchanged.
"""

import numpy as np

from report import records
from training.argument_files import flag_text

STEPS = {  # the candidates of the benchmark's default step, and their labels in PERFORMANCE.md
    "numpy": "`train_mlp_numpy.py`",
    "products": "its two large matrix products alone",
    "pytorch": "`train_mlp_pytorch.py`",
    "pytorch bare": "bare PyTorch loop, batches already float32",
}
PARTS = {  # of the best network's step, and their labels in PERFORMANCE.md
    "products": "linear layers and whitening",
    "augmentation": "drawing and augmenting the batch",
    "dropout": "dropout",
    "activation": "activations",
    "normalization": "normalisation",
    "optimizer": "optimizer",
    "rest": "the rest (loss, copies between layers, what runs faster alone)",
    "step": "the whole step",
}


def accuracy_table():
    """Test accuracy of the NumPy networks at the default flags, over the seeds."""
    lines = ["| `--dnn_hidden_units` | test accuracy | seeds |", "|---|---|---|"]
    for name in records.NUMPY_RUNS:
        runs = records.runs_of(name)
        units = flag_text(runs[0]["flags"]["dnn_hidden_units"]) or '""'
        values = [run["test_accuracy"] for run in runs]
        spread = np.std(values, ddof=1)
        lines.append(f"| `{units}` | {np.mean(values):.4f} ± {spread:.4f} | {len(values)} |")
    return "\n".join(lines)


def last_line():
    """The last line that the first command of the README prints."""
    run = records.with_seed(records.runs_of("numpy-100"), 42)
    return (
        f"```\ntest accuracy {run['test_accuracy']:.4f} ({run['dataset']}, {run['steps']} steps, "
        f"{run['train_seconds']:.1f} s)\n```"
    )


def step_table():
    """The time of the default step, of the alternatives and of the matrix products alone."""
    record = records.read("benchmark")
    times, ratios = (record["default_step"][name] for name in ("milliseconds", "ratios"))
    lines = ["| a default step | best, ms | median, ms | NumPy's time over this one |",
             "|---|---|---|---|"]  # fmt: skip
    for name, label in STEPS.items():
        ratio = ratios.get(f"numpy to {name}")
        ratio = f"{ratio['best']:.2f} (best), {ratio['median']:.2f} (median)" if ratio else ""
        best, median = times[name]["best"], times[name]["median"]
        lines.append(f"| {label} | {best:.2f} | {median:.2f} | {ratio} |")
    bare = ratios["pytorch to pytorch bare"]
    lines.append(
        f"\nThe PyTorch trainer's step takes {bare['best']:.2f} (best) and {bare['median']:.2f} "
        "(median) times as long as the bare loop's."
    )
    return "\n".join(lines)


def best_step_table():
    """Where the step of the best network spends its time."""
    record = records.read("benchmark")["best_step"]
    times = record["milliseconds"]
    lines = [f"| part of a step ({record['precision']}) | ms | share |", "|---|---|---|"]
    lines += [
        f"| {label} | {times[name]:.1f} | {times[name] / times['step']:.0%} |"
        for name, label in PARTS.items()
        if name in times
    ]
    return "\n".join(lines)


def job_table():
    """What whole runs take: time, memory, and a second process."""
    record = records.read("benchmark")
    lines = ["| default run | start to end | training steps | peak memory |", "|---|---|---|---|"]
    for name, run in record["default_run"].items():
        lines.append(
            f"| `train_mlp_{name}.py` | {run['wall_seconds']:.1f} s | {run['train_seconds']:.1f} s "
            f"| {run['peak_rss_mb']:.0f} MB |"
        )
    machine = record["machine"]
    threads = machine["threads"]
    two = " and ".join(
        f"{run['efficiency']:.0%} ({name} network)" for name, run in record["processes"].items()
    )
    return "\n".join(lines) + (
        f"\n\nOn {machine['cores']} cores with {machine['vectors']} instructions, with "
        f"{threads['numpy']} threads in NumPy and {threads['torch']} in PyTorch.\n\n"
        f"With one thread each, two processes have a parallel efficiency of {two}: the step time "
        "of one process, divided by twice that of two. The wide network is "
        "`--dnn_hidden_units 2048 --batch_size 1024`."
    )


def best_text():
    """The best network: its accuracy, its training time, the command."""
    record = records.read("best-cpu")
    layers = ", ".join(map(str, record["runs"][0]["flags"]["dnn_hidden_units"]))
    minutes = record["train_seconds"] / 60
    accuracies = " and ".join(f"{run['test_accuracy']:.4f}" for run in record["runs"])
    return (
        f"The best network of the report, with hidden layers of {layers} units, reaches test\n"
        f"accuracies of {accuracies} (two seeds; probabilities averaged over 150 views) after\n"
        f"{minutes:.0f} minutes of training on two shared CPU cores with bfloat16 support. Its\n"
        f"flags have changed since, so its command is for commit `{record['commit'][:7]}`:\n\n"
        f"```\ngit checkout {record['commit'][:7]} && {record['command']}\n```"
    )


PAGES = {
    records.ROOT / "README.md": {
        "last line": last_line,
        "accuracy": accuracy_table,
        "best": best_text,
    },
    records.ROOT / "report" / "PERFORMANCE.md": {"job": job_table, "step": step_table},
}


def filled(page):
    """The text of a page with every table made anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in PAGES[page].items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"{page.name} has no place for the table {name}")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page), encoding="utf-8")
