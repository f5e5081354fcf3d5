"""Write what report.tex takes from the records in report/results: every number and every table.

    python -m report.make_report

`latexmk` in this folder calls it first. report/generated.tex is committed, so that a difference
between the records and the report can be seen. report/build/inputs.tex holds a digest of all that
the report is made from; the PDF carries it too, which shows whether the PDF is up to date.
"""

import hashlib
import itertools
import math
import re

import numpy as np

import cifar10_utils
from report import records
from report.records import changed_flags, column, runs_of, validation_accuracy

TEXT = records.ROOT / "report" / "report.tex"
GENERATED = records.ROOT / "report" / "generated.tex"

# Question 2.1: the record that the others are compared with, and these by kind. The table says
# by which flags they differ; those combined-* come last.
BASELINE = "base"
MODIFICATIONS = {
    "Optimisation": (
        *("learning-rate-low", "learning-rate-high", "batch-small", "batch-large"),
        *("steps-few", "steps-many", "sgd", "cosine"),
    ),
    "Width and depth": ("width-small", "width-large", "depth-one", "depth-four"),
    "Activation": ("relu", "gelu", "tanh"),
    "Inputs and units": ("standardize", "local-fields", "batch-norm", "layer-norm"),
    "Regularisation of the weights": ("weight-decay", "adam", "l1", "first-layer-l1"),
    "Regularisation by noise in the network": ("dropout",),
    "Regularisation by the data": ("flip", "shift", "flip-shift", "distortion", "mixup"),
    "Regularisation by the targets": ("label-smoothing",),
    "Averaging": ("ema", "test-time"),
}
# The recipe of the best network for few epochs, and the same without one part or with another.
WIDE = (
    *("wide", "wide-l1-none", "wide-l1-weak", "wide-l1-strong", "wide-without-fields"),
    *("wide-without-dropout", "wide-without-distortion"),
)
MOVED = 4  # pixels by which images are moved, for the effect of augmentation
COMPARED = {  # question 2.2: the settings in the table, by what the inputs are
    "less their mean": {"standardize": False, "learning_rate": 1e-3},
    "standardised": {"standardize": True, "learning_rate": 1e-1},
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


def test_accuracy(runs, digits=4):
    return mean_and_spread([run["test_accuracy"] for run in runs], digits)


def test_loss(runs):
    return mean_and_spread([run["test_loss"] for run in runs], 3)


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
        "test images": rf"${n_test // 1000}\,{n_test % 1000:03}$",
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
    """Question 2.1: the largest distances between the curves of the two halves, seed by seed."""
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
        factor = expected(slope**2)
        numbers[f"{name} factor"] = fixed(factor, 2)
        numbers[f"{name} ten layers"] = fixed(math.sqrt(factor) ** 10, 2)
    numbers["tanh slope at two"] = fixed(1 - math.tanh(2) ** 2, 2)
    numbers["elu slope at minus two"] = fixed(math.exp(-2), 2)
    return numbers


def modification_values():
    """Question 2.1: the gains by the modifications that the text names."""
    numbers = {}
    for kind, before in (("points", BASELINE), ("wide points", WIDE[0])):
        for name in re.findall(rf"\\val\{{{kind} ([\w-]+)\}}", TEXT.read_text()):
            numbers[f"{kind} {name}"] = points(name, before)
    numbers["views after schedule"] = points("combined-5-views", "combined-4-smoothing")
    numbers["wide epochs"] = str(runs_of("wide")[0]["flags"]["epochs"])
    return numbers


def muon_factor(rows, columns, batch):
    """Multiplications that orthogonalise the gradient of a layer, over those of its step: five
    iterations of three products each, X X^T, its square, and that times X."""
    iteration = 2 * rows**2 * columns + rows**3
    return 5 * iteration / (2 * batch * rows * columns)


def best_values():
    """Question 2.1: the best model, trained on all training images."""
    record = records.read("best-cpu")
    runs, flags = record["runs"], record["runs"][0]["flags"]
    first, baseline = runs_of("best-cpu-first")[0], runs_of(BASELINE)[0]["flags"]
    slowest, step = (
        f"{1000 * run['train_seconds'] / run['steps']:.0f}" for run in (first, runs[0])
    )
    sizes = [cifar10_utils.N_INPUTS, *flags["dnn_hidden_units"], cifar10_utils.N_CLASSES]
    weights = sum(n * m for n, m in itertools.pairwise(sizes))
    return {
        "best layers": "-".join(map(str, sizes)),
        "best weights": fixed(weights / 1e6, 1),
        "best accuracy": test_accuracy(runs),
        "best seeds": "one seed" if len(runs) == 1 else f"{len(runs)} seeds",
        "best minutes": f"{record['train_seconds'] / 60:.0f}",
        "best strength": f"${flags['first_layer_l1']:g}$",
        "best epochs": str(flags["epochs"]),
        "times longer": f"{flags['epochs'] / baseline['epochs']:.0f}",
        "times wider": f"{flags['dnn_hidden_units'][0] / baseline['dnn_hidden_units'][0]:.0f}",
        "first accuracy": fixed(first["test_accuracy"]),
        "slowest step": slowest,
        "best step": step,
        "muon factor": f"{muon_factor(sizes[1], sizes[0], flags['batch_size']):.0f}",
        "best flags": typewriter(changed_flags(flags, runs_of("pytorch-100")[0]["flags"])),
        "best command": typewriter([record["command"]]).replace("~", " "),
        **long_run_values("validated", "best-cpu-validated"),
        **long_run_values("plain", "best-cpu-without-l1"),
    }


def long_run_values(name, experiment):
    """A run with validation images, of one seed."""
    (run,) = runs_of(experiment)
    return {
        f"{name} epochs": str(run["flags"]["epochs"]),
        f"{name} train": fixed(run["history"]["train_accuracy"][-1], 3),
        f"{name} validation": fixed(validation_accuracy(run), 3),
        f"{name} accuracy": fixed(run["test_accuracy"], 3),
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
        "study accuracy": fixed(record["test_accuracy"]),
        "study train accuracy": fixed(record["train_accuracy"], 3),
        "worst class": classes[order[0]],
        "worst class accuracy": fixed(record["class_accuracy"][order[0]], 3),
        "best class": classes[order[-1]],
        "best class accuracy": fixed(record["class_accuracy"][order[-1]], 3),
        "confused classes": f"{classes[first]} and {classes[second]}",
        "confused images": str(pairs.max()),
        "wrong images": str(mistakes.sum()),
        "temperature": fixed(record["temperature"], 2),
        "mistakes certainty": fixed(record["mistakes"][-1]["probability"], 2),
        "mistakes listed": str(len(record["mistakes"])),
        "first layer pixels": fixed(record["first_layer"]["effective_pixels"], 0),
    }
    for when, result in record["calibration"].items():
        numbers[f"error {when}"] = fixed(result["error"], 3)
        numbers[f"loss {when}"] = fixed(result["loss"], 3)
    for name, run in record["augmentation"].items():
        numbers[f"train {name}"] = fixed(run["train_accuracy"], 3)
        numbers[f"validation {name}"] = fixed(run["val_accuracy"], 3)
        numbers[f"moved {name}"] = fixed(run["moved"][run["moved_by"].index(MOVED)], 3)
        numbers[f"neighbours {name}"] = fixed(run["first_layer"]["neighbour_correlation"], 2)
    numbers["moved"] = str(MOVED)
    return numbers


def tanh_and_elu_values():
    """Question 2.2: the measured comparison."""
    record = records.read("activations")
    depths = records.all_values(record, "depth")
    numbers = {
        "measured steps": str(records.last_step(record)),
        "measured seeds": str(len(records.all_values(record, "seed"))),
        "measured units": str(record["units"]),
        "threshold": fixed(record["threshold"], 2),
        "deep": str(depths[-1]),
    }
    ahead = {}  # by how much the ELU is ahead at the end, for every depth
    for inputs, setting in COMPARED.items():
        pairs = [tanh_and_elu_runs(record, depth, setting) for depth in depths]
        means = np.array([[last_accuracy(runs).mean() for runs in pair] for pair in pairs])
        ahead[inputs] = means[:, 1] - means[:, 0]
    taken_away = 100 * (1 - ahead["standardised"] / ahead["less their mean"])
    numbers["least taken away"] = f"${taken_away.min():.0f}\\,\\%$"
    numbers["most taken away"] = f"${taken_away.max():.0f}\\,\\%$"
    for activation in ("tanh", "elu"):
        runs = records.matching(record["runs"], activation=activation)
        numbers[f"{activation} runs"] = str(len(runs))
        completed = records.not_diverged(record, runs)
        numbers[f"{activation} diverged"] = str(len(runs) - len(completed))
    return numbers


def tanh_and_elu_runs(record, depth, setting):
    """The runs of a setting that did not diverge: with Tanh, and with the ELU."""
    completed = records.not_diverged(record, record["runs"])
    return [
        records.matching(completed, activation=activation, depth=depth, **setting)
        for activation in ("tanh", "elu")
    ]


def last_accuracy(runs):
    return np.array([run["val_accuracy"][-1] for run in runs])


def points(name, before):
    """The difference in validation accuracy, in percentage points."""
    means = [np.mean([validation_accuracy(run) for run in runs_of(n)]) for n in (name, before)]
    return f"{100 * (means[0] - means[1]):+.1f}"


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
    combined = sorted(path.stem for path in records.RESULTS.glob("combined-*.json"))
    return MODIFICATIONS | {"Combined": combined}


def modifications_table():
    """Question 2.1: the rows of the table, under a heading for each kind of modification."""
    rows = [modification_row(BASELINE, "the baseline")]
    for heading, names in modifications().items():
        rows += [r"\addlinespace[2pt]", rf"\multicolumn{{6}}{{@{{}}l}}{{\emph{{{heading}}}}} \\"]
        rows += [modification_row(name, change(name)) for name in names]
    return "\n".join(rows)


def change(name):
    """What an experiment adds to the one that its argument file begins with."""
    text = (records.EXPERIMENTS / f"{name}.txt").read_text()
    before = re.search(r"^@report/experiments/(.+)\.txt$", text, re.M)[1]
    flags = changed_flags(runs_of(name)[0]["flags"], runs_of(before)[0]["flags"])
    if not name.startswith("combined-"):
        return typewriter(flags)
    short, *start = (n.removeprefix("combined-") for n in (name, before) if n != BASELINE)
    return rf"{short}: " + typewriter([*start, *flags])


def modification_row(name, label, before=BASELINE):
    runs = runs_of(name)
    return row(
        label,
        fixed(column(runs, "train_accuracy")[:, -1].mean(), 3),
        mean_and_spread([validation_accuracy(run) for run in runs], 3),
        "" if name == before else f"${points(name, before)}$",
        test_accuracy(runs, 3),
        str(len(runs)),
    )


def wide_table():
    """Question 2.1: the rows of the table over the parts of the best recipe."""
    flags = runs_of(WIDE[0])[0]["flags"]
    rows = [modification_row(WIDE[0], "the recipe", WIDE[0])]
    for name in WIDE[1:]:
        changes = changed_flags(runs_of(name)[0]["flags"], flags)
        rows.append(modification_row(name, typewriter(changes), WIDE[0]))
    return "\n".join(text.rpartition(" & ")[0] + r" \\" for text in rows)  # all of one seed


def baseline_flags():
    flags, defaults = (runs_of(name)[0]["flags"] for name in (BASELINE, "pytorch-100"))
    return typewriter(changed_flags(flags, defaults))


def tanh_and_elu_table():
    """Question 2.2: the rows of the table: accuracy, and saturation of the first layer."""
    record = records.read("activations")
    depths = records.all_values(record, "depth")
    rows = []
    for inputs, setting in COMPARED.items():
        for depth in (depths[0], depths[-1]):
            pair = tanh_and_elu_runs(record, depth, setting)
            cells = [inputs, f"${setting['learning_rate']:g}$", str(depth)]
            cells += [mean_and_spread(last_accuracy(runs), 3) for runs in pair]
            cells += [fixed(np.mean([run["saturated"][-1][0] for run in r]), 2) for r in pair]
            rows.append(row(*cells))
    return "\n".join(rows)


# Files --------------------------------------------------------------------------------------------


def generated():
    """The text of generated.tex."""
    lines = ["% Made from report/results by make_report.py: change nothing here."]
    lines += [rf"\setval{{{name}}}{{{value}}}" for name, value in values().items()]
    for name, rows in (
        ("NumpyTable", numpy_table()),
        ("ModificationsTable", modifications_table()),
        ("WideTable", wide_table()),
        ("BaselineFlags", baseline_flags()),
        ("TanhAndEluTable", tanh_and_elu_table()),
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
