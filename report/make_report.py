"""Write what report.tex takes from the records in report/results: every number and every table.

    python -m report.make_report

`latexmk` in this folder calls it first. report/generated.tex is committed, so that a difference
between the records and the report can be seen. report/build/inputs.tex holds a digest of
everything the report is made from. The PDF contains it too, so one can check that it is up to date.
"""

import hashlib
import itertools
import math
import re

import numpy as np

import cifar10_utils
from report import records
from report.records import changed_flags, column, runs_of, validation_accuracy
from training.curves import layer_sizes

TEXT = records.ROOT / "report" / "report.tex"
GENERATED = records.ROOT / "report" / "generated.tex"

# Question 2.1: the baseline, and by kind the experiments that are compared with it. The table
# lists the flags that differ; last come the experiments combined-*, and long-*, compared with long.
BASELINE, LONG = "base", "long"
MODIFICATIONS = {
    "Optimisation": (
        *("learning-rate-low", "learning-rate-high", "batch-small", "batch-large"),
        *("steps-few", "steps-many", "sgd", "cosine"),
    ),
    "Width and depth": ("width-small", "width-large", "depth-one", "depth-four"),
    "Activation": ("relu", "gelu", "tanh"),
    "Normalisation": ("standardize", "batch-norm", "layer-norm"),
    "Regularisation of the weights": ("weight-decay", "adam", "l1"),
    "Regularisation by noise in the network": ("dropout",),
    "Regularisation by the data": ("flip", "shift", "flip-shift", "random-affine", "mixup"),
    "Regularisation by the targets": ("label-smoothing",),
    "Test-time averaging": ("test-time",),
}


# Text ---------------------------------------------------------------------------------------------


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


def accuracies(runs):
    """The test accuracy of each run."""
    return " and ".join(fixed(run["test_accuracy"]) for run in runs)


def test_accuracy(runs, digits=4):
    return mean_and_spread([run["test_accuracy"] for run in runs], digits)


def test_loss(runs):
    return mean_and_spread([run["test_loss"] for run in runs], 3)


def thousands(n):
    return rf"${n // 1000}\,{n % 1000:03}$"


def typewriter(words):
    """Words in typewriter letters, without a line break inside of one."""
    text = ", ".join(word.replace(" ", "~") for word in words)
    return r"\texttt{" + text.replace("_", r"\_").replace("--", "-{}-") + "}"


def row(*cells):
    return " & ".join(cells) + r" \\"


# Numbers ------------------------------------------------------------------------------------------


def values():
    """Every number in the text, by the name under which report.tex calls for it."""
    numbers = numpy_values() | agreement_values()
    numbers |= numeric_values() | activation_values() | modification_values()
    numbers |= best_values() | study_values() | tanh_and_elu_values()
    return numbers


def numpy_values():
    """Question 1.2: the runs at the default flags."""
    runs = runs_of("numpy-100")
    flags = runs[0]["flags"]
    accuracies = [run["test_accuracy"] for run in runs]
    n_train = cifar10_utils.IMAGES_PER_FILE * len(cifar10_utils.TRAIN_FILES)
    n_test = cifar10_utils.IMAGES_PER_FILE
    mean = np.mean(accuracies)
    last_changes = np.abs(np.diff(column(runs, "test_accuracy")[:, -6:]))
    return {
        "python version": runs[0]["versions"]["python"],
        "numpy version": runs[0]["versions"]["numpy"],
        "hidden units": ", ".join(map(str, flags["dnn_hidden_units"])),
        "learning rate": scientific(flags["learning_rate"], 0),
        "steps": str(flags["max_steps"]),
        "batch size": str(flags["batch_size"]),
        "eval freq": str(flags["eval_freq"]),
        "epochs": fixed(flags["max_steps"] * flags["batch_size"] / n_train, 1),
        "test images": thousands(n_test),
        "seeds": str(len(runs)),
        "accuracy": test_accuracy(runs),
        "lowest accuracy": fixed(min(accuracies)),
        "highest accuracy": fixed(max(accuracies)),
        "loss": test_loss(runs),
        "first loss": fixed(column(runs, "test_loss")[:, 0].mean(), 6),
        "last train loss": mean_and_spread(column(runs, "train_loss")[:, -1], 3),
        "last train accuracy": mean_and_spread(column(runs, "train_accuracy")[:, -1]),
        "change between evaluations": fixed(last_changes.mean()),
        "sampling error": fixed(math.sqrt(mean * (1 - mean) / n_test)),
        "pixel scale": f"{cifar10_utils.PIXEL_RMS:.0f}",
    }


def agreement_values():
    """Question 2.1: the largest distances between NumPy and PyTorch curves of the same seed."""
    theirs = runs_of("pytorch-100")
    ours = [records.with_seed(runs_of("numpy-100"), run["seed"]) for run in theirs]

    def distances(quantity):
        for name in (f"train_{quantity}", f"test_{quantity}"):
            yield np.abs(column(ours, name) - column(theirs, name)), column(theirs, name)

    loss = max((distance / value).max() for distance, value in distances("loss"))
    return {
        "torch version": theirs[0]["versions"]["torch"].partition("+")[0],
        "agreement seeds": str(len(theirs)),
        "loss distance": scientific(loss),
        "accuracy distance": fixed(max(distance.max() for distance, _ in distances("accuracy"))),
        "pytorch accuracy": test_accuracy(theirs),
        "numpy accuracy same seeds": test_accuracy(ours),
    }


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

    numbers = {
        "elu mean": fixed(expected(np.where(z > 0, z, np.expm1(z))), 2),
        "relu mean": fixed(expected(np.maximum(z, 0)), 2),
    }
    for name, slope in (("tanh", 1 - np.tanh(z) ** 2), ("elu", np.exp(np.minimum(z, 0)))):
        numbers[f"{name} ten layers"] = fixed(math.sqrt(expected(slope**2)) ** 10, 2)
    return numbers


def modification_values():
    """Question 2.1: the gains by the modifications that the text names."""
    numbers, text = {}, TEXT.read_text().replace("\n", " ")
    for kind, number in NAMED.items():
        for name in re.findall(rf"\\val\{{({kind} [\w-]+)\}}", text):
            numbers[name] = number(name.split()[-1])
    flags = runs_of(BASELINE)[0]["flags"]
    numbers["validation images"] = thousands(flags["validation_size"])
    names = [path.stem for path in records.EXPERIMENTS.glob(f"{LONG}*.txt")]
    times = [run["train_seconds"] / 60 for name in names for run in runs_of(name)]
    numbers["long minutes"] = f"{min(times):.1f} to {max(times):.1f}"
    return numbers


def best_values():
    """Question 2.1: the best model, trained on all training images."""
    record = records.read("best-cpu")
    runs, flags = record["runs"], record["runs"][0]["flags"]
    (validated,) = runs_of("best-cpu-validated")
    layers = layer_sizes(flags)
    sizes = map(int, layers.split("-"))
    return {
        "best layers": layers,
        "best weights": fixed(sum(n * m for n, m in itertools.pairwise(sizes)) / 1e6, 1),
        "best accuracy": accuracies(runs),
        "best seeds": "one seed" if len(runs) == 1 else f"{len(runs)} seeds",
        "best minutes": f"{record['train_seconds'] / 60:.0f}",
        "best epochs": str(flags["epochs"]),
        "best flags": typewriter(changed_flags(flags, runs_of("pytorch-100")[0]["flags"])),
        "best command": typewriter([record["command"]]).replace("~", " "),
        "validated validation": fixed(validation_accuracy(validated), 3),
        "validated train": fixed(validated["history"]["train_accuracy"][-1], 3),
        "validated clean": fixed(validated["history"]["clean_accuracy"][-1], 3),
    }


def study_values():
    """Question 2.1: what report/study.py found on the best model."""
    record = records.read("study")
    classes, confusion = record["classes"], np.array(record["confusion"])
    order = np.argsort(record["class_accuracy"])
    mistakes = confusion - np.diag(confusion.diagonal())
    pairs = np.triu(mistakes + mistakes.T)
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    numbers = {
        "worst class": classes[order[0]],
        "worst class accuracy": fixed(record["class_accuracy"][order[0]], 3),
        "best class": classes[order[-1]],
        "best class accuracy": fixed(record["class_accuracy"][order[-1]], 3),
        "confused classes": f"{classes[first]} and {classes[second]}",
        "confused images": str(pairs.max()),
        "wrong images": str(mistakes.sum()),
        "temperature": fixed(record["temperature"], 2),
    }
    distance = numbers["moved pixels"] = 4
    for name, run in record["augmentation"].items():
        at = dict(zip(run["moved_by"], run["moved"], strict=True))
        numbers[f"unmoved {name} augmentation"] = fixed(at[0], 3)
        numbers[f"moved {name} augmentation"] = fixed((at[-distance] + at[distance]) / 2, 3)
        numbers[f"neighbours {name} augmentation"] = fixed(run["neighbour_correlation"], 2)
    for when, result in record["calibration"].items():
        numbers[f"error {when}"] = fixed(result["error"], 3)
        numbers[f"loss {when}"] = fixed(result["loss"], 3)
    return numbers


def tanh_and_elu_values():
    """Question 2.2: the measured comparison."""
    record = records.read("activations")
    depths = records.all_values(record, "depth")
    numbers = {
        "measured steps": str(record["steps"]),
        "measured seeds": str(len(records.all_values(record, "seed"))),
        "measured units": str(record["units"]),
        "threshold": fixed(record["threshold"], 2),
        "deep": str(depths[-1]),
    }
    for activation in ("tanh", "elu"):
        runs = records.matching(record["runs"], activation=activation)
        numbers[f"{activation} runs"] = str(len(runs))
        diverged = records.matching(runs, val_accuracy=None)
        numbers[f"{activation} diverged"] = str(len(diverged))
        for standardize, inputs in ((False, "pixels"), (True, "standardised")):
            for depth, name in ((depths[0], "shallow"), (depths[-1], "deep")):
                best = mean_and_spread(best_rate(record, activation, depth, standardize), 3)
                numbers[f"{activation} {inputs} {name}"] = best
    tanh, elu = (records.activation_points(record, activation, depths[0], standardize=True)
                 for activation in ("tanh", "elu"))  # fmt: skip
    for i, rate in enumerate((1e-2, 1e-1), 1):
        runs = records.matching(record["runs"], activation="tanh", depth=depths[0],
                                standardize=True, learning_rate=rate)  # fmt: skip
        share = np.mean([run["saturated"][0] for run in runs])
        numbers[f"saturated standardised rate {i}"] = fixed(share, 2)
        numbers[f"elu ahead standardised rate {i}"] = fixed(elu[rate] - tanh[rate], 3)
    for name in ("tanh", "standardize", "tanh-standardized"):
        numbers[f"validation {name}"] = validation(runs_of(name), 3)
    return numbers


def best_rate(record, activation, depth, standardize):
    """The accuracies of the seeds at the learning rate that suits the network best."""
    points = records.activation_points(record, activation, depth, standardize)
    best = max((rate for rate, mean in points.items() if mean), key=points.get)
    runs = records.matching(record["runs"], activation=activation, depth=depth,
                            standardize=standardize, learning_rate=best)  # fmt: skip
    return [run["val_accuracy"] for run in runs]


def validation(runs, digits):
    return mean_and_spread([validation_accuracy(run) for run in runs], digits)


def train_accuracy(runs):
    """The mean accuracy on the training batches before the last evaluation."""
    return column(runs, "train_accuracy")[:, -1].mean()


def reference(name):
    """The experiment that another is compared with."""
    return LONG if name.startswith(LONG) else BASELINE


def points(name):
    """The difference in validation accuracy from the reference, in percentage points."""
    ours, theirs = (
        np.mean([validation_accuracy(run) for run in runs_of(n)]) for n in (name, reference(name))
    )
    return f"{100 * (ours - theirs):+z.1f}"


# The numbers that the text asks for by experiment, as in \val{validation of base}.
NAMED = {
    "points": points,
    "validation of": lambda name: validation(runs_of(name), 3),
    "train of": lambda name: fixed(train_accuracy(runs_of(name)), 3),
    "loss of": lambda name: mean_and_spread(column(runs_of(name), "val_loss")[:, -1], 3),
    "accuracies of": lambda name: accuracies(runs_of(name)),
}


# Tables -------------------------------------------------------------------------------------------


def numpy_table():
    """Question 1.2: the rows of the table over the hidden layers."""
    rows = []
    for runs in map(runs_of, records.NUMPY_RUNS):
        units = ", ".join(map(str, runs[0]["flags"]["dnn_hidden_units"]))
        train = mean_and_spread(column(runs, "train_accuracy")[:, -1])
        cells = train, test_accuracy(runs), test_loss(runs), str(len(runs))
        rows.append(row(units or "none", *cells))
    return "\n".join(rows)


def modifications():
    """The records of the table, by their kind."""
    ablations = "Ablations of the best network's recipe, in a tenth of its time"
    late = {"Combined": "combined-*", ablations: f"{LONG}*"}
    return MODIFICATIONS | {
        heading: sorted(path.stem for path in records.RESULTS.glob(f"{names}.json"))
        for heading, names in late.items()
    }


def modifications_table():
    """Question 2.1: the rows of the table, under a heading for each kind of modification."""
    rows = [modification_row(BASELINE, "the baseline")]
    for heading, names in modifications().items():
        rows += [r"\addlinespace[2pt]", rf"\multicolumn{{6}}{{@{{}}l}}{{\emph{{{heading}}}}} \\"]
        rows += [modification_row(name, change(name)) for name in names]
    return "\n".join(rows)


def change(name):
    """What an experiment changes in its reference, or adds to the combination it begins with."""
    before = {LONG: "best-cpu-validated"}.get(name, reference(name))
    if name.startswith("combined-"):
        text = (records.EXPERIMENTS / f"{name}.txt").read_text()
        before = re.search(r"^@report/experiments/(.+)\.txt$", text, re.M)[1]
    flags = changed_flags(runs_of(name)[0]["flags"], runs_of(before)[0]["flags"])
    if name == LONG:
        return "the best network's recipe with " + typewriter(flags)
    if not name.startswith("combined-"):
        return typewriter(flags)
    short, *start = (n.removeprefix("combined-") for n in (name, before) if n != BASELINE)
    return rf"{short}: " + typewriter([*start, *flags])


def modification_row(name, label):
    runs = runs_of(name)
    return row(
        label,
        fixed(train_accuracy(runs), 3),
        validation(runs, 3),
        "" if name == reference(name) else f"${points(name)}$",
        test_accuracy(runs, 3),
        str(len(runs)),
    )


def baseline_flags():
    flags, defaults = (runs_of(name)[0]["flags"] for name in (BASELINE, "pytorch-100"))
    return typewriter(changed_flags(flags, defaults))


# Files --------------------------------------------------------------------------------------------


def generated():
    """The text of generated.tex."""
    lines = ["% Made from report/results by make_report.py: change nothing here."]
    lines += [rf"\setval{{{name}}}{{{value}}}" for name, value in values().items()]
    for name, rows in (
        ("NumpyTable", numpy_table()),
        ("ModificationsTable", modifications_table()),
        ("BaselineFlags", baseline_flags()),
    ):
        lines.append(rf"\newcommand*{{\{name}}}{{" + f"%\n{rows}%\n}}")
    return "\n".join(lines) + "\n"


def digest():
    """SHA-256 of all that the PDF is made from: its text, the records, and what draws them."""
    paths = [
        TEXT,
        records.ROOT / "plots" / "style.py",
        *sorted(records.ROOT.glob("plots/plot*.py")),
    ]
    paths += sorted(p for p in records.RESULTS.iterdir() if p.suffix in (".json", ".npz"))
    contents = [generated().encode(), *(path.read_bytes() for path in paths)]
    return hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents)).hexdigest()


if __name__ == "__main__":
    GENERATED.write_text(generated())
    records.BUILD.mkdir(exist_ok=True)
    (records.BUILD / "inputs.tex").write_text(rf"\newcommand{{\Inputs}}{{{digest()}}}" + "\n")
