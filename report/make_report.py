"""Write what report.tex takes from the records in report/results: every number and every table.

    python report/make_report.py

`latexmk` in this folder calls it first. report/generated.tex is committed, so that a difference
between the records and the report can be seen; report/build/inputs.tex holds a digest of all that
the report is made from, which the PDF carries along, so that an old PDF can be told from a new one.
"""

import hashlib
import math
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "report")]

import tables  # noqa: E402

import cifar10_utils  # noqa: E402

GENERATED = ROOT / "report" / "generated.tex"
BUILD = ROOT / "report" / "build"

# Question 2.1: the record that all others are compared with, and the modifications by type, each
# with its record. Question 2.2: Tanh against ELU, likewise. A name is that of a file in results.
BASELINE = None
MODIFICATIONS = {
    # "Regularisation by noise": {"dropout-0.3": "dropout of 0.3 after each hidden layer"},
}
TANH_AND_ELU = {
    # "1 hidden layer": {"tanh-1": "Tanh", "elu-1": "ELU"},
}


def fixed(value, digits=4):
    return f"${value:.{digits}f}$"


def scientific(value, digits=1):
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    factor = "" if mantissa == "1" else rf"{mantissa}\cdot "
    return f"${factor}10^{{{int(exponent)}}}$"


def mean_and_spread(values, digits=4):
    """The mean and, of more than one value, the standard deviation."""
    if len(values) == 1:
        return fixed(values[0], digits)
    return rf"${np.mean(values):.{digits}f} \pm {np.std(values, ddof=1):.{digits}f}$"


def runs_of(name):
    return tables.read(name)["runs"]


def column(runs, name):
    """One column of the histories: (runs, rows)."""
    return np.array([run["history"][name] for run in runs])


def values():
    """Every number in the text, by the name under which report.tex calls for it."""
    return {
        **numpy_values(),
        **agreement_values(),
        **benchmark_values(),
        **numeric_values(),
        **activation_values(),
    }


def numpy_values():
    """Question 1.2: the runs at the default flags."""
    runs = runs_of("numpy-100")
    flags = runs[0]["flags"]
    test, train = column(runs, "test_accuracy"), column(runs, "train_accuracy")
    accuracies = [run["test_accuracy"] for run in runs]
    n_train = cifar10_utils.IMAGES_PER_FILE * len(cifar10_utils.TRAIN_FILES)
    n_test = cifar10_utils.IMAGES_PER_FILE
    mean = np.mean(accuracies)
    return {
        "python version": runs[0]["versions"]["python"],
        "numpy version": runs[0]["versions"]["numpy"],
        "hidden units": ", ".join(map(str, flags["dnn_hidden_units"])),
        "learning rate": scientific(flags["learning_rate"], 0),
        "steps": str(flags["max_steps"]),
        "batch size": str(flags["batch_size"]),
        "eval freq": str(flags["eval_freq"]),
        "epochs": fixed(flags["max_steps"] * flags["batch_size"] / n_train, 1),
        "test images": rf"${n_test // 1000}\,{n_test % 1000:03}$",
        "seeds": str(len(runs)),
        "accuracy": mean_and_spread(accuracies),
        "lowest accuracy": fixed(min(accuracies)),
        "highest accuracy": fixed(max(accuracies)),
        "loss": mean_and_spread([run["test_loss"] for run in runs], 3),
        "first loss": fixed(column(runs, "test_loss")[:, 0].mean(), 6),
        "last train loss": mean_and_spread(column(runs, "train_loss")[:, -1], 3),
        "last train accuracy": mean_and_spread(train[:, -1]),
        "change between evaluations": fixed(np.abs(np.diff(test[:, -6:])).mean()),
        "sampling error": fixed(math.sqrt(mean * (1 - mean) / n_test)),
        "pixel scale": f"{cifar10_utils.PIXEL_RMS:.0f}",
    }


def agreement_values():
    """Question 2.1: how near the curves of the two halves are, seed by seed."""
    ours = {run["seed"]: run for run in runs_of("numpy-100")}
    theirs = runs_of("pytorch-100")
    pairs = [ours[run["seed"]] for run in theirs], theirs

    def distance(name, relative):
        one, other = (column(runs, name) for runs in pairs)
        return np.abs((one - other) / (other if relative else 1)).max()

    return {
        "torch version": theirs[0]["versions"]["torch"].partition("+")[0],
        "agreement seeds": str(len(theirs)),
        "loss distance": scientific(
            max(distance(name, relative=True) for name in ("train_loss", "test_loss"))
        ),
        "accuracy distance": fixed(
            max(distance(name, relative=False) for name in ("train_accuracy", "test_accuracy"))
        ),
        "pytorch accuracy": mean_and_spread([run["test_accuracy"] for run in theirs]),
        "numpy accuracy same seeds": mean_and_spread([run["test_accuracy"] for run in pairs[0]]),
    }


def benchmark_values():
    record = tables.read("benchmark")
    numbers = {"cores": str(record["cores"])}
    for framework, run in record["default_run"].items():
        numbers[f"{framework} wall"] = fixed(run["wall_seconds"], 1)
        numbers[f"{framework} training"] = fixed(run["train_seconds"], 1)
        numbers[f"{framework} memory"] = f"{run['peak_rss_mb']:.0f}"
    numbers["step to products"] = fixed(record["numpy step to products"]["median"], 2)
    numbers["step to pytorch"] = fixed(record["numpy step to pytorch step"]["median"], 2)
    return numbers


def numeric_values():
    """Question 1.1: the floor of the softmax, in both precisions."""
    numbers = {"log classes": fixed(math.log(cifar10_utils.N_CLASSES), 6)}
    for name, dtype in (("single", np.float32), ("double", np.float64)):
        tiny = float(np.finfo(dtype).tiny)
        numbers[f"{name} floor"] = scientific(tiny)
        numbers[f"{name} largest loss"] = fixed(-math.log(tiny), 1)
    return numbers


def activation_values():
    """Question 2.2: moments of h(Z) and h'(Z) for a standard normal Z, by quadrature."""
    z = np.linspace(-12, 12, 240_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    def expected(values):
        return float(np.trapezoid(values * density, z))

    # abs, because the odd tanh gives a zero with the sign of its rounding error
    numbers = {
        "tanh mean": fixed(abs(expected(np.tanh(z))), 2),
        "elu mean": fixed(expected(np.where(z > 0, z, np.expm1(z))), 2),
        "relu mean": fixed(expected(np.maximum(z, 0)), 2),
    }
    for name, slope in (("tanh", 1 - np.tanh(z) ** 2), ("elu", np.exp(np.minimum(z, 0)))):
        factor = expected(slope**2)
        numbers[f"{name} factor"] = fixed(factor, 2)
        numbers[f"{name} ten layers"] = fixed(math.sqrt(factor) ** 10, 2)
    numbers["tanh slope at two"] = fixed(1 - math.tanh(2) ** 2, 2)
    numbers["elu slope at minus two"] = fixed(math.exp(-2), 2)
    return numbers


def numpy_table():
    """Question 1.2: the rows of the table over the hidden layers."""
    rows = []
    for units, name in tables.NUMPY_RUNS:
        runs = runs_of(name)
        cells = (
            "none" if units == '""' else units.replace(",", ", "),
            mean_and_spread(column(runs, "train_accuracy")[:, -1]),
            mean_and_spread([run["test_accuracy"] for run in runs]),
            mean_and_spread([run["test_loss"] for run in runs], 3),
            str(len(runs)),
        )
        rows.append(" & ".join(cells) + r" \\")
    return "\n".join(rows)


def validation_accuracy(run):
    """Of the weights that a run ended with: the best on the validation split."""
    return max(run["history"]["val_accuracy"])


def record_table(groups, baseline=None):
    """The rows of a table of runs with a validation split, under a heading for each group."""
    rows = []
    if baseline:
        rows += [record_row(baseline, "the baseline", None), r"\midrule"]
    for heading, entries in groups.items():
        rows.append(rf"\multicolumn{{6}}{{@{{}}l}}{{\emph{{{heading}}}}} \\")
        rows += [record_row(name, text, baseline) for name, text in entries.items()]
        rows.append(r"\addlinespace")
    return "\n".join(rows)


def record_row(name, text, baseline):
    runs = runs_of(name)
    accuracies = [validation_accuracy(run) for run in runs]
    difference = ""
    if baseline:
        before = np.mean([validation_accuracy(run) for run in runs_of(baseline)])
        difference = f"${100 * (np.mean(accuracies) - before):+.1f}$"
    cells = (
        text,
        fixed(column(runs, "train_accuracy")[:, -1].mean(), 3),
        mean_and_spread(accuracies, 3),
        difference,
        mean_and_spread([run["test_accuracy"] for run in runs], 3),
        str(len(runs)),
    )
    return " & ".join(cells) + r" \\"


def generated():
    """The text of generated.tex."""
    lines = ["% Made from report/results by make_report.py: change nothing here."]
    lines += [rf"\setval{{{name}}}{{{value}}}" for name, value in values().items()]
    for name, rows in (
        ("NumpyTable", numpy_table()),
        ("ModificationsTable", record_table(MODIFICATIONS, BASELINE)),
        ("TanhAndEluTable", record_table(TANH_AND_ELU)),
    ):
        lines.append(rf"\newcommand*{{\{name}}}{{" + (f"%\n{rows}\n" if rows else "") + "}")
    return "\n".join(lines) + "\n"


def digest():
    """SHA-256 of all that the PDF is made from: its text, the records and what draws them."""
    paths = [ROOT / "report" / "report.tex", Path(__file__).resolve(), ROOT / "plots" / "plot.py"]
    pictures = re.findall(r"\\includegraphics\S*\{(\.\./\S+)\}", paths[0].read_text())
    paths += [ROOT / "report" / picture for picture in pictures]
    paths += sorted(tables.RESULTS.glob("*.json"))
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


if __name__ == "__main__":
    GENERATED.write_text(generated())
    BUILD.mkdir(exist_ok=True)
    (BUILD / "inputs.tex").write_text(rf"\newcommand{{\Inputs}}{{{digest()}}}" + "\n")
