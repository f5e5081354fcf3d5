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
from report import comparisons, records
from report.comparisons import BASELINE, MODIFICATIONS, SINGLE, children, compared, paired
from report.records import changed_flags, column, runs_of, validation_accuracy
from training.curves import layer_sizes

TEXT = records.ROOT / "report" / "report.tex"
GENERATED = records.ROOT / "report" / "generated.tex"

# The headings of other tables, by the experiment that the rows below are compared with.
HEADINGS = {
    "wide": "The recipe with the penalty in 25 epochs (the first row), and without its parts",
    "long": "The best network's recipe in a tenth of its time (the first row), and changes of it",
    "third": "The recipe with whitened inputs in a third of its time (the first row), and changes",
}
# The numbers that the text asks for by experiment, as in \val{points cosine}.
NAMED = {
    "points": (
        *("batch-norm", "standardize", "layer-norm", "ema", "cosine", "test-time"),
        *("test-time-18-views", "flip", "mixup", "distortion", "dropout"),
    ),
    "validation of": (
        *("base", "standardize", "tanh", "tanh-standardized"),
        *("combined-1-training", "combined-3-views", "wide", "wide-without-dropout"),
        *("best-cpu-without-l1", "best-cpu-l1-validated", "best-cpu-validated"),
    ),
    "train of": ("base", "combined-1-training", "combined-2-augmented"),
    "accuracies of": ("best-cpu-first", "best-cpu-l1", "best-cpu-control"),
}


FLAG_COLUMNS = 4


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


def between(values, digits):
    """The range of some values."""
    return f"${min(values):.{digits}f}$ to ${max(values):.{digits}f}$"


def thousands(n):
    return rf"${n // 1000}\,{n % 1000:03}$"


def typewriter(words):
    """Words in typewriter letters, without a line break inside of one."""
    text = ", ".join(word.replace(" ", "~") for word in words)
    return r"\texttt{" + text.replace("_", r"\_").replace("--", "-{}-").replace("&", r"\&") + "}"


def percent(share):
    return rf"${100 * share:.0f}\,\%$"


def row(*cells):
    return " & ".join(cells) + r" \\"


# Numbers ------------------------------------------------------------------------------------------


def values():
    """Every number in the text, by the name under which report.tex calls for it."""
    numbers = numpy_values() | agreement_values() | checked_values()
    numbers |= numeric_values() | activation_values() | modification_values()
    numbers |= best_values() | best_model_values() | tanh_and_elu_values()
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


def checked_values():
    """Questions 1.1 and 1.2: what report/checks.py found."""
    record, slow = records.read("checks"), runs_of("numpy-none-slow")
    none, heart = record["without_hidden_layers"], record["learned_by_heart"]
    return {
        "difference step": scientific(record["step"], 0),
        "learned": f"{record['learned']:g}",
        "learned steps": between([run["steps"] for run in heart], 0),
        "learned seeds": str(len(heart)),
        "pixel rms": fixed(record["pixel_rms"], 2),
        "at the floor": between([100 * run["at_the_floor"] for run in none], 0) + r"\,\%",
        "loss without floor": between([run["loss_without_floor"] for run in none], 0),
        "slow rate": scientific(slow[0]["flags"]["learning_rate"], 0),
        "slow loss": test_loss(slow),
        "slow accuracy": test_accuracy(slow, 3),
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
    """Questions 1.2 and 2.2: moments of h(Z) for a standard normal Z, by quadrature."""
    z = np.linspace(-12, 12, 240_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    def expected(values):
        return float(np.trapezoid(values * density, z))

    elu = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    square = expected(elu**2)
    return {
        "elu mean": fixed(expected(elu), 2),
        "relu mean": fixed(expected(np.maximum(z, 0)), 2),
        "elu square": fixed(square, 3),
        "elu gain": f"{1 / square:.2f}",
    }


def modification_values():
    """Question 2.1: what counts as a difference, and the numbers that the text names."""
    singles = [paired(name) for name in SINGLE]
    numbers = {
        "validation images": thousands(runs_of(BASELINE)[0]["flags"]["validation_size"]),
        "single modifications": str(len(SINGLE)),
        "what counts": fixed(comparisons.what_counts(singles), 1),
        "wide changes": str(len(children("wide"))),
        "spread of long": fixed(
            np.std([validation_accuracy(r) for r in runs_of("long")], ddof=1), 3
        ),
        "counting": str(sum(abs(d.mean()) > comparisons.what_counts(singles) for d in singles)),
    }
    for kind, names in NAMED.items():
        numbers |= {f"{kind} {name}": NUMBERS[kind](name) for name in names}
    return numbers


def best_values():
    """Question 2.1: the best model, trained on all training images."""
    record = records.read("best-cpu")
    commit = record.get("commit")
    checkout = f"git checkout {commit[:7]} && " if commit else ""
    runs, flags = record["runs"], record["runs"][0]["flags"]
    (validated,) = runs_of("best-cpu-validated")
    layers = layer_sizes(flags)
    sizes = map(int, layers.split("-"))
    return {
        "best layers": layers,
        "best weights": fixed(sum(n * m for n, m in itertools.pairwise(sizes)) / 1e6, 1),
        "best accuracy": accuracies(runs),
        "best single view": single_view(runs),
        "best seeds": "one seed" if len(runs) == 1 else f"{len(runs)} seeds",
        "best minutes": f"{record['train_seconds'] / 60:.0f}",
        "best epochs": str(flags["epochs"]),
        "best command": typewriter([checkout + record["command"]]).replace("~", " "),
        "validated validation": fixed(validation_accuracy(validated), 3),
        "validated train": fixed(validated["history"]["train_accuracy"][-1], 3),
        "validated clean": fixed(validated["history"]["clean_accuracy"][-1], 3),
    }


def single_view(runs):
    """The accuracies of single views, of runs that recorded them."""
    scores = [run.get("test_single_view_accuracy") for run in runs]
    return "" if None in scores else "; single views: " + " and ".join(map(fixed, scores))


def best_model_values():
    """Question 2.1: what report/best_model.py found on the best model."""
    record = records.read("best_model")
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
        numbers[f"neighbours {name} augmentation"] = fixed(run["neighbour_similarity"], 2)
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
        for depth, name in ((depths[0], "shallow"), (depths[-1], "deep")):
            best = mean_and_spread(best_rate(record, activation, depth, standardize=False), 3)
            numbers[f"{activation} pixels {name}"] = best
    for depth in depths:
        tanh, elu = (np.mean(best_rate(record, name, depth, True)) for name in ("tanh", "elu"))
        numbers[f"gap {depth}"] = fixed(elu - tanh, 3)
    elu, tanh = (records.activation_points(record, name, depths[0], True)[1e-2]
                 for name in ("elu", "tanh"))  # fmt: skip
    numbers["elu ahead standardised rate 1"] = fixed(elu - tanh, 3)
    numbers["saturated standardised rate 1"] = percent(saturated(record, depths[0], True, 1e-2)[0])
    first, *later = saturated(record, depths[-1], True, 1e-1)
    numbers |= {"first saturated": percent(first), "later saturated": percent(max(later))}
    for i, rate in enumerate((1e-3, 1e-2), 1):
        numbers[f"raw rate {i}"] = scientific(rate, 0)
        numbers[f"raw saturated {i}"] = percent(saturated(record, depths[0], False, rate)[0])
    for name in ("elu", "tanh"):
        start = records.matching(record["start"], activation=name)
        numbers[f"start {name}"] = fixed(np.mean([run["gradient"] for run in start]), 2)
    return numbers


def saturated(record, depth, standardize, rate):
    """The share of saturated outputs in each layer of the Tanh networks, over the seeds."""
    runs = records.matching(record["runs"], activation="tanh", depth=depth,
                            standardize=standardize, learning_rate=rate)  # fmt: skip
    return np.mean([run["saturated"] for run in runs], axis=0)


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


def points(name):
    """The mean difference and, of more than one seed, its standard error, in percentage points."""
    values = paired(name)
    error = rf" \pm {comparisons.standard_error(values):.1f}" if len(values) > 1 else ""
    return f"${values.mean():+z.1f}{error}$"


# How a number that the text asks for by experiment is made.
NUMBERS = {
    "points": points,
    "validation of": lambda name: validation(runs_of(name), 3),
    "train of": lambda name: fixed(train_accuracy(runs_of(name)), 3),
    "accuracies of": lambda name: accuracies(runs_of(name)),
}


# Tables -------------------------------------------------------------------------------------------


def numpy_table():
    """Question 1.2: the rows of the table over the hidden layers."""
    rows = []
    none, *others = records.NUMPY_RUNS
    for name in (none, "numpy-none-slow", *others):
        runs = runs_of(name)
        units = ", ".join(map(str, runs[0]["flags"]["dnn_hidden_units"]))
        train = mean_and_spread(column(runs, "train_accuracy")[:, -1])
        cells = train, test_accuracy(runs), test_loss(runs), str(len(runs))
        if name == "numpy-none-slow":
            units = f"none, learning rate {scientific(runs[0]['flags']['learning_rate'], 0)}"
        rows.append(row(units or "none", *cells))
    return "\n".join(rows)


def checks_table():
    """Question 1.1: the rows of the table of gradient checks."""
    names = {"x": r"$\mat{X}$", "weight": r"$\mat{W}$", "bias": r"$\mat{b}$"}
    return "\n".join(
        row(rf"\texttt{{{module}}}", names[name], *map(scientific, found.values()))
        for module, gradients in records.read("checks")["gradients"].items()
        for name, found in gradients.items()
    )


def best_flags():
    """Question 2.1: the flags of the best network, column by column."""
    flags, defaults = (runs_of(name)[0]["flags"] for name in ("best-cpu", "pytorch-100"))
    cells = [typewriter([flag]) for flag in changed_flags(flags, defaults)]
    height = math.ceil(len(cells) / FLAG_COLUMNS)
    return "\n".join(row(*cells[i::height]) for i in range(height))


def wide_experiments():
    """The experiments with wide networks, by heading: full length first, then with each shortened
    recipe its changes."""
    shortened = {name: changes for name, changes in comparisons.families().items()
                 if name in HEADINGS}  # fmt: skip
    tables = {HEADINGS[name]: [name, *changes] for name, changes in shortened.items()}
    listed = {*SINGLE, *combinations(), *itertools.chain(*tables.values())}
    others = sorted(set(compared()) - listed, key=lambda name: (comparisons.depth(name), name))
    return {"Full length, in the order of the work": others} | tables


def combinations():
    """The experiments that combine modifications of the baseline, in the order of their names."""
    return [name for kind in ("tanh-", "stacked", "combined")
            for name in compared() if name.startswith(kind)]  # fmt: skip


def modifications_table():
    """The rows with the baseline's single modifications, by kind, and their combinations."""
    tables = MODIFICATIONS | {"Combined": combinations()}
    return modification_row(BASELINE, "baseline: " + baseline_flags()) + "\n" + table(tables)


def table(tables):
    """Rows of experiments, under a heading for each kind."""
    rows = []
    for heading, names in tables.items():
        rows += [r"\addlinespace[2pt]", rf"\multicolumn{{6}}{{@{{}}l}}{{\emph{{{heading}}}}} \\"]
        rows += [modification_row(name, change(name)) for name in names]
    return "\n".join(rows)


def change(name):
    """What an experiment changes in the one that it is compared with."""
    before = comparisons.compared_with(name)
    flags = changed_flags(runs_of(name)[0]["flags"], runs_of(before)[0]["flags"])
    text = typewriter(flags) if flags else "all training images"
    text += " (18 views)" if name == "test-time-18-views" else ""
    if before in (BASELINE, *HEADINGS):
        return text + dagger(name)
    return rf"{name} = {before}, " + text + dagger(name)


def dagger(name):
    return r"\,\smash{$^\dagger$}" if "flag_since_removed" in records.read(name) else ""


def modification_row(name, label):
    runs = runs_of(name)
    validated = "val_accuracy" in runs[0]["history"]
    compare = name not in (BASELINE, *HEADINGS) and validated
    compare = compare and "val_accuracy" in runs_of(comparisons.compared_with(name))[0]["history"]
    return row(
        label,
        fixed(train_accuracy(runs), 3),
        validation(runs, 3) if validated else "",
        points(name) if compare else "",
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
        ("WideTable", table(wide_experiments())),
        ("BestFlags", best_flags()),
        ("ChecksTable", checks_table()),
    ):
        lines.append(rf"\newcommand*{{\{name}}}{{" + f"%\n{rows}%\n}}")
    return "\n".join(lines) + "\n"


def digest():
    """SHA-256 of what the PDF shows: its text, the generated numbers, its figures, the records."""
    names = re.findall(r"\\includegraphics(?:\[.*?\])?\{(\w+)\}", TEXT.read_text())
    pictures = [records.ROOT / "plots" / f"{name}.png" for name in names]
    paths = [TEXT, GENERATED, *(path for path in pictures if path.exists())]
    paths += sorted(p for p in records.RESULTS.iterdir() if p.suffix in (".json", ".npz"))
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in paths)
    return hashlib.sha256(b"".join(digests)).hexdigest()


if __name__ == "__main__":
    GENERATED.write_text(generated())
    records.BUILD.mkdir(exist_ok=True)
    (records.BUILD / "inputs.tex").write_text(rf"\newcommand{{\Inputs}}{{{digest()}}}" + "\n")
