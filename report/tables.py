"""Write the tables of README.md and report/PERFORMANCE.md from the records in report/results.

    python -m report.tables

Each table is between two comments with its name; the rest of the page stays unchanged.
"""

import textwrap

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
    "rest": "the rest (loss, copies between layers, what takes another time alone)",
    "step": "the whole step",
}


def markdown(*rows):
    """A table; the first row is its head."""
    head, *others = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def accuracy_table():
    """Test accuracy of the NumPy networks at the default flags, over the seeds."""
    rows = [("`--dnn_hidden_units`", "test accuracy", "seeds")]
    for name in records.NUMPY_RUNS:
        units = flag_text(records.flags_of(name)["dnn_hidden_units"]) or '""'
        values = [run["test_accuracy"] for run in records.runs_of(name)]
        accuracy = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
        rows.append((f"`{units}`", accuracy, len(values)))
    return markdown(*rows)


def last_line():
    """The last line that the first command of the README prints."""
    (run,) = records.matching(records.runs_of("numpy-100"), seed=42)
    return (
        f"```\ntest accuracy {run['test_accuracy']:.4f} ({run['dataset']}, {run['steps']} steps, "
        f"{run['train_seconds']:.1f} s)\n```"
    )


def step_table():
    """The time of the default step, of the alternatives and of the matrix products alone."""
    record = records.read("benchmark")["default_step"]
    times, ratios = record["milliseconds"], record["ratios"]
    rows = [("a default step", "best, ms", "median, ms", "NumPy / this")]
    for name, label in STEPS.items():
        ratio = ratios.get(f"numpy to {name}")
        ratio = f"{ratio['best']:.2f} (best), {ratio['median']:.2f} (median)" if ratio else ""
        time = times[name]
        rows.append((label, f"{time['best']:.2f}", f"{time['median']:.2f}", ratio))
    bare = ratios["pytorch to pytorch bare"]
    return markdown(*rows) + (
        f"\n\nThe PyTorch trainer's step takes {bare['best']:.2f} (best) and {bare['median']:.2f} "
        "(median) times as long as the bare loop's."
    )


def best_step_table():
    """Where the step of the best network spends its time."""
    record = records.read("benchmark").get("best_step")
    if not record:
        return "Not measured yet: `python -m report.benchmark best_step`."
    times = record["milliseconds"]
    return markdown(
        (f"part of a step ({record['precision']})", "ms", "share"),
        *((label, f"{times[name]:.1f}", f"{times[name] / times['step']:.0%}")
          for name, label in PARTS.items() if name in times),
    )  # fmt: skip


def job_table():
    """What whole runs take: time, memory, and a second process."""
    record = records.read("benchmark")
    rows = [("default run", "start to end", "training steps", "peak memory")]
    for name, run in record["default_run"].items():
        times = f"{run['wall_seconds']:.1f} s", f"{run['train_seconds']:.1f} s"
        rows.append((f"`train_mlp_{name}.py`", *times, f"{run['peak_rss_mb']:.0f} MB"))
    machine = record["machine"]
    threads = machine["threads"]
    two = " and ".join(
        f"{run['efficiency']:.0%} ({name} network)" for name, run in record["processes"].items()
    )
    return markdown(*rows) + (
        f"\n\nOn {machine['cores']} cores with {machine['vectors']} instructions, with "
        f"{threads['numpy']} threads in NumPy and {threads['torch']} in PyTorch.\n\n"
        f"With one thread each, two processes have a parallel efficiency of {two}: the step time "
        "of one process, divided by twice that of two."
    )


def best_text():
    """The best network: its accuracy, its training time, the command."""
    record = records.read("best-cpu")
    runs = record["runs"]
    layers = ", ".join(map(str, runs[0]["flags"]["dnn_hidden_units"]))
    accuracies, single_views = (
        ", ".join(f"{run[name]:.4f}" for run in runs)
        for name in ("test_accuracy", "test_single_view_accuracy")
    )
    text = (
        f"The best network, with hidden layers of {layers} units, reaches a test accuracy of "
        f"{accuracies} (one for each seed; probabilities averaged over 54 views of an image; "
        f"single views {single_views}) after {record['train_seconds'] / 60:.0f} minutes on one CPU "
        "core with bfloat16 instructions:"
    )
    return f"{textwrap.fill(text, 100)}\n\n```\n{records.command(record)}\n```"


PAGES = {
    records.ROOT / "README.md": {
        "last line": last_line,
        "accuracy": accuracy_table,
        "best": best_text,
    },
    records.ROOT / "report" / "PERFORMANCE.md": {
        "job": job_table,
        "step": step_table,
        "best step": best_step_table,
    },
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
