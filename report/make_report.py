"""Write what report.tex takes from the records in report/results: every number and every table.

    python -m report.make_report

`latexmk` in this folder calls it first. report/generated.tex is committed, so that a difference
between the records and the report can be seen. report/build/inputs.tex holds a digest of
everything the report is made from. The PDF contains it too, so one can check that it is up to date.
"""

import hashlib
import itertools
import math
from statistics import NormalDist

import numpy as np

import cifar10_utils
from report import comparisons, records
from report.comparisons import BASELINE, MODIFICATIONS, SINGLE, changes, compared, paired
from report.records import changed_flags, column, flags_of, matching, runs_of, validation_accuracy
from training.curves import layer_sizes

TEXT = records.ROOT / "report" / "report.tex"
GENERATED = records.ROOT / "report" / "generated.tex"

# The headings of other tables, by the experiment that the rows below are compared with.
HEADINGS = {
    "wide": "The recipe with the penalty in 25 epochs (the first row), and changes of it",
    "long": "The pixel recipe in 90 epochs (the first row), and changes of it",
    "third": "The whitened recipe (the first row), and changes of it",
    "best-cpu-validated": "The best network: the whitened recipe with L1 and wider layers",
    "short": "The best network in a third of its epochs (the first row), and changes of it",
}
# The numbers that the text asks for by experiment, as in \val{points cosine}.
NAMED = {
    "points": (
        *("batch-norm", "standardize", "layer-norm", "ema", "cosine", "test-time"),
        *("test-time-18-views", "flip", "mixup", "random-affine", "dropout", "l1-decay"),
        *("half-resolution", "whiten", "float32", "long-no-dropout", "long-flip-shift"),
        *("pixels-no-dropout", "pixels-flip-shift", "third-augmented"),
        *("third-l1-02", "third-l1-03", "best-cpu-validated"),
        *("best-cpu-150-views", "short-no-whitening", "short-no-label-smoothing"),
        *("short-dropout", "short-flip-shift", "short-affine"),
        *("full-flip-shift", "full-affine-l1-03", "full-affine", "full-epochs"),
    ),
    "validation of": (
        *("base", "standardize", "tanh", "tanh-standardized"),
        *("combined-1-training", "combined-3-views", "wide", "wide-without-dropout"),
        *("best-cpu-without-l1", "best-cpu-l1-validated", "pixels-validated", "third"),
        *("third-epochs", "best-cpu-validated", "short"),
    ),
    "single points": (
        *("third-l1-02", "third-l1-03", "short-flip-shift"),
        *("full-flip-shift", "full-affine-l1-03", "full-affine"),
    ),
    "test points": ("test-time",),
    "train of": (
        *("base", "combined-1-training", "combined-2-augmented"),
        *("third", "third-epochs", "third-l1-03"),
    ),
    "accuracies of": ("best-cpu-first", "best-cpu-l1"),
    "highest of": ("pixels", "third-l1-02"),
}
FLAG_COLUMNS = 4
LEFT_KINDS = 3  # of modifications, in the left half of their table
AT_CHANCE = 0.11  # accuracies below this


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
    spread = np.std(values, ddof=1)
    digits += spread < 0.5 * 10**-digits  # it would print as 0
    return rf"${np.mean(values):.{digits}f} \pm {spread:.{digits}f}$"


def over_runs(runs, name, digits=4):
    """The mean and the spread of one result of the runs."""
    return mean_and_spread([run[name] for run in runs], digits)


def each(runs, name):
    """One result of each run."""
    return " and ".join(fixed(run[name]) for run in runs)


def between(values, digits=0):
    """The range of some values."""
    return f"${min(values):.{digits}f}$ to ${max(values):.{digits}f}$"


def thousands(n):
    return rf"${n // 1000}\,{n % 1000:03}$"


def percent(share):
    return rf"${100 * share:.0f}\,\%$"


def typewriter(words):
    """Words in typewriter letters, without a line break inside of one."""
    text = ", ".join(word.replace(" ", "~") for word in words)
    return r"\texttt{" + text.replace("_", r"\_").replace("--", "-{}-").replace("&", r"\&") + "}"


def row(*cells):
    return " & ".join(cells) + r" \\"


# Numbers ------------------------------------------------------------------------------------------


def values():
    """Every number in the text, by the name under which report.tex calls for it."""
    numbers = numpy_values() | agreement_values() | checked_values()
    numbers |= exact_values() | modification_values()
    numbers |= best_values() | best_model_values() | tanh_and_elu_values()
    return numbers


def numpy_values():
    """Question 1.2: the runs at the default flags."""
    runs, flags = runs_of("numpy-100"), flags_of("numpy-100")
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
        "accuracy": mean_and_spread(accuracies),
        "lowest accuracy": fixed(min(accuracies)),
        "highest accuracy": fixed(max(accuracies)),
        "loss": over_runs(runs, "test_loss", 3),
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
        "learned steps": between([run["steps"] for run in heart]),
        "learned seeds": str(len(heart)),
        "pixel rms": fixed(record["pixel_rms"], 2),
        "at the floor": between([100 * run["at_the_floor"] for run in none]) + r"\,\%",
        "loss with floor": between([run["loss"] for run in none]),
        "loss without floor": between([run["loss_without_floor"] for run in none]),
        "slow rate": scientific(slow[0]["flags"]["learning_rate"], 0),
        "slow loss": over_runs(slow, "test_loss", 3),
        "slow accuracy": over_runs(slow, "test_accuracy", 3),
    }


def agreement_values():
    """Question 2.1: the largest distances between NumPy and PyTorch curves of the same seed."""
    theirs = runs_of("pytorch-100")
    seeds = [run["seed"] for run in theirs]
    ours = [run for seed in seeds for run in matching(runs_of("numpy-100"), seed=seed)]
    loss, accuracy = (
        [(np.abs(column(ours, name) - column(theirs, name)), column(theirs, name))
         for name in (f"train_{quantity}", f"test_{quantity}")]
        for quantity in ("loss", "accuracy")
    )  # fmt: skip
    return {
        "torch version": theirs[0]["versions"]["torch"].partition("+")[0],
        "agreement seeds": str(len(theirs)),
        "loss distance": scientific(max((distance / value).max() for distance, value in loss)),
        "accuracy distance": fixed(  # a bound, so it is rounded up
            math.ceil(1e4 * max(distance.max() for distance, _ in accuracy)) / 1e4
        ),
        "pytorch accuracy": over_runs(theirs, "test_accuracy"),
        "numpy accuracy same seeds": over_runs(ours, "test_accuracy"),
    }


def exact_values():
    """The floor of the softmax, and moments of activations of a standard normal Z."""
    # E[exp(k Z) where Z < 0], for k = 1 and 2.
    once, twice = (math.exp(k**2 / 2) * NormalDist().cdf(-k) for k in (1, 2))
    relu = 1 / math.sqrt(2 * math.pi)  # E[max(Z, 0)]
    square = 1 / 2 + twice - 2 * once + 1 / 2
    numbers = {
        "log classes": fixed(math.log(cifar10_utils.N_CLASSES), 6),
        "elu mean": fixed(relu + once - 1 / 2, 2),
        "relu mean": fixed(relu, 2),
        "elu square": fixed(square, 3),
        "elu gain": f"{1 / square:.2f}",
    }
    for name, dtype in (("single", np.float32), ("double", np.float64)):
        tiny = float(np.finfo(dtype).tiny)
        numbers[f"{name} floor"] = scientific(tiny)
        numbers[f"{name} largest loss"] = fixed(-math.log(tiny), 1)
    return numbers


def modification_values():
    """Question 2.1: what counts as a difference, and the numbers that the text names."""
    singles = [paired(name) for name in SINGLE]
    line = comparisons.what_counts(singles)
    return {
        "validation images": thousands(flags_of(BASELINE)["validation_size"]),
        "single modifications": str(len(SINGLE)),
        "what counts": fixed(line, 1),
        "wide changes": str(len(comparisons.families()["wide"])),
        "gaining": str(sum(values.mean() > line for values in singles)),
        "losing": str(sum(values.mean() < -line for values in singles)),
        **{f"{kind} {name}": NUMBERS[kind](name) for kind in NAMED for name in NAMED[kind]},
    }


def best_values():
    """Question 2.1: the best model, trained on all training images."""
    record = records.read("best-cpu")
    runs, flags = record["runs"], flags_of("best-cpu")
    validated = runs_of("best-cpu-validated")
    return {
        "best layers": layer_sizes(flags),
        "best weights": fixed(records.n_weights(flags), 1),
        "best accuracy": over_runs(runs, "test_accuracy"),
        "best single view": over_runs(runs, "test_single_view_accuracy"),
        "best seeds": str(len(runs)),
        "best minutes": between([run["train_seconds"] / 60 for run in runs]),
        "best epochs": str(flags["epochs"]),
        "short epochs": str(flags_of("short")["epochs"]),
        "pixel epochs": str(flags_of("pixels-validated")["epochs"]),
        "whitening floor": fixed(flags_of("third")["whiten"], 1),
        "best command": typewriter([records.command(record)]).replace("~", " "),
        "clean images": thousands(validated[0]["flags"]["train_eval_size"]),
        "validated validation": last_accuracy(validated, "val"),
        "validated train": last_accuracy(validated, "train"),
        "validated clean": last_accuracy(validated, "clean"),
    }


def best_model_values():
    """Question 2.1: what report/best_model.py found on the best model."""
    record = records.read("best_model")
    classes, confusion = record["classes"], np.array(record["confusion"])
    worst, *_, best = np.argsort(record["class_accuracy"])
    mistakes = confusion - np.diag(confusion.diagonal())
    pairs = np.triu(mistakes + mistakes.T)
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    numbers = {
        "worst class": classes[worst],
        "worst class accuracy": fixed(record["class_accuracy"][worst], 3),
        "best class": classes[best],
        "best class accuracy": fixed(record["class_accuracy"][best], 3),
        "confused classes": f"{classes[first]} and {classes[second]}",
        "confused images": str(pairs.max()),
        "wrong images": str(mistakes.sum()),
        "small weights": percent(record["small_weights"]),
        "small normal": percent(2 * NormalDist().cdf(0.1) - 1),
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
    deep = depths[-1]
    numbers = {
        "measured steps": str(record["steps"]),
        "measured seeds": str(len(records.all_values(record, "seed"))),
        "measured units": str(record["units"]),
        "threshold": fixed(record["threshold"], 2),
        "deep": str(deep),
    }

    def best(*case):
        """The accuracies of the seeds at the learning rate that suits the network best."""
        accuracies = records.by_rate(record, "val_accuracy", *case).values()
        return max((values for values in accuracies if values is not None), key=np.mean)

    def saturated(depth, standardize, rate):
        """The share of saturated outputs in each layer of the Tanh networks."""
        shares = records.by_rate(record, "saturated", "tanh", depth, standardize)
        return shares[rate].mean(axis=0)

    for name in ("tanh", "elu"):
        runs = matching(record["runs"], activation=name)
        start = [run["gradient"] for run in matching(record["start"], activation=name)]
        numbers |= {
            f"{name} runs": str(len(runs)),
            f"{name} diverged": str(len(matching(runs, val_accuracy=None))),
            f"{name} pixels shallow": mean_and_spread(best(name, 1, False), 3),
            f"{name} pixels deep": mean_and_spread(best(name, deep, False), 3),
            f"start {name}": mean_and_spread(start, 2),
        }
    gaps = {depth: best("elu", depth, True) - best("tanh", depth, True) for depth in depths}
    numbers |= {f"gap {depth}": fixed(gap.mean(), 3) for depth, gap in gaps.items()}
    shares = records.by_rate(record, "saturated", "elu", deep, False)[1e-2].mean(axis=0)
    elus = matching(record["runs"], activation="elu")
    elu, tanh = (records.by_rate(record, "val_accuracy", name, 1, True)[1e-2].mean()
                 for name in ("elu", "tanh"))  # fmt: skip
    first, *later = saturated(deep, True, 1e-1)
    numbers |= {
        "elu ahead standardised rate 1": fixed(elu - tanh, 3),
        "saturated standardised rate 1": percent(saturated(1, True, 1e-2)[0]),
        "first saturated": percent(first),
        "later saturated": percent(max(later)),
        "gap error": fixed(max(map(comparisons.standard_error, gaps.values())), 3),
        "elu saturated": between(100 * shares) + r"\,\%",
        "elu at chance": str(sum(0 < (run["val_accuracy"] or 0) < AT_CHANCE for run in elus)),
    }
    for i, rate in enumerate((1e-3, 1e-2), 1):
        numbers[f"raw rate {i}"] = scientific(rate, 0)
        numbers[f"raw saturated {i}"] = percent(saturated(1, False, rate)[0])
    return numbers


def last_accuracy(runs, split="train"):
    """The mean accuracy of the last evaluation: on the training batches, of those before it."""
    return fixed(column(runs, f"{split}_accuracy")[:, -1].mean(), 3)


def validation(runs):
    return mean_and_spread([validation_accuracy(run) for run in runs], 3)


def points(values):
    """The mean of differences in percentage points and, of more than one, its standard error."""
    error = comparisons.standard_error(values)
    return f"${np.mean(values):+z.1f}" + (rf" \pm {error:.1f}$" if error else "$")


def views_on_test(run):
    """What views change in test accuracy by the same weights, in percentage points."""
    return 100 * (run["test_accuracy"] - run["test_single_view_accuracy"])


# How a number that the text asks for by experiment is made.
NUMBERS = {
    "points": lambda name: points(paired(name)),
    "single points": lambda name: points(paired(name, records.single_view_accuracy)),
    "test points": lambda name: points([*map(views_on_test, runs_of(name))]),
    "validation of": lambda name: validation(runs_of(name)),
    "train of": lambda name: last_accuracy(runs_of(name)),
    "accuracies of": lambda name: each(runs_of(name), "test_accuracy"),
    "highest of": lambda name: fixed(max(run["test_accuracy"] for run in runs_of(name))),
}


# Tables -------------------------------------------------------------------------------------------


def numpy_table():
    """Question 1.2: the rows of the table over the hidden layers."""
    rows = []
    none, *others = records.NUMPY_RUNS
    for name in (none, "numpy-none-slow", *others):
        runs, flags = runs_of(name), flags_of(name)
        units = ", ".join(map(str, flags["dnn_hidden_units"])) or "none"
        if name == "numpy-none-slow":
            units += f", learning rate {scientific(flags['learning_rate'], 0)}"
        train = mean_and_spread(column(runs, "train_accuracy")[:, -1])
        scores = over_runs(runs, "test_accuracy"), over_runs(runs, "test_loss", 3)
        rows.append(row(units, train, *scores, str(len(runs))))
    return "\n".join(rows)


def checks_table():
    """Question 1.1: the rows of the table of gradient checks."""
    names = {"x": r"$\mat{X}$", "weight": r"$\mat{W}$", "bias": r"$\mat{b}$"}
    return "\n".join(
        row(rf"\texttt{{{module}}}", names[name], *map(scientific, found.values()))
        for module, gradients in records.read("checks")["gradients"].items()
        for name, found in gradients.items()
    )


def changes_from_default(name):
    return changed_flags(flags_of(name), flags_of("pytorch-100"))


def best_flags():
    """Question 2.1: the flags of the best network, column by column."""
    cells = [typewriter([flag]) for flag in changes_from_default("best-cpu")]
    height = math.ceil(len(cells) / FLAG_COLUMNS)
    return "\n".join(row(*cells[i::height]) for i in range(height))


def other_experiments():
    """The combinations of modifications, and the experiments with wide networks, by heading: full
    length first, then with each other recipe what is compared with it."""
    combined = [name for kind in ("tanh-", "stacked", "combined")
                for name in compared() if name.startswith(kind)]  # fmt: skip
    others = {
        heading: [name, *(n for n in compared() if compared()[n] == name and n not in HEADINGS)]
        for name, heading in HEADINGS.items()
    }
    listed = {*SINGLE, *combined, *itertools.chain(*others.values())}
    rest = sorted(compared().keys() - listed, key=lambda name: (comparisons.depth(name), name))
    return {"Modifications of the baseline, combined": combined, "300 to 900 epochs": rest} | others


def other_table():
    """Question 2.1: the rows of the table of other experiments than single modifications."""
    rows = []
    for heading, names in other_experiments().items():
        rows += [r"\addlinespace[1pt]", spanning(6, rf"\emph{{{heading}}}") + r" \\*"]
        for name in names:
            test = over_runs(runs_of(name), "test_accuracy", 3)
            rows.append(row(change(name), *results(name), test, str(len(runs_of(name)))))
    return "\n".join(rows)


def modifications_table():
    """Question 2.1: the baseline, and below, in two columns, its single modifications by kind."""
    kinds, half, columns = [*MODIFICATIONS.items()], 4, []
    for side in (kinds[:LEFT_KINDS], kinds[LEFT_KINDS:]):
        columns.append([])
        for kind, names in side:
            columns[-1].append(spanning(half, rf"\emph{{{kind}}}"))
            columns[-1] += [" & ".join([change(name), *results(name)]) for name in names]
    baseline = "baseline: " + typewriter(changes_from_default(BASELINE))
    lines = itertools.zip_longest(*columns, fillvalue=spanning(half, ""))
    return "\n".join([row(spanning(half + 1, baseline), *results(BASELINE)),
                      *itertools.starmap(row, lines)])  # fmt: skip


def spanning(columns, text):
    """A cell over several columns."""
    return rf"\multicolumn{{{columns}}}{{@{{}}l}}{{{text}}}"


def change(name):
    """What an experiment changes in the one that it is compared with, or in the default run."""
    if name == "third":  # it is compared with nothing, and has many flags
        flags = {"l1_decay": 0.0, **flags_of(name)}  # the flag is younger than the record
        but_for = typewriter(changed_flags(flags, flags_of("best-cpu")))
        return rf"third: Table~\ref{{tab:flags}} but for {but_for}"
    if name not in compared():
        return f"{name}: {typewriter(changes_from_default(name))}"
    before, flags = compared()[name], changes(name)
    removed = "flag_since_removed" in records.read(name)
    validated = "with" if flags_of(name)["validation_size"] else "without"
    return (
        ("" if before in (BASELINE, *HEADINGS) else f"{name} = {before}, ")
        + (typewriter(flags) if flags else f"{validated} validation images")
        + (r"\,{\tiny$\dagger$}" if removed else "")
    )


def results(name):
    """Training and validation accuracy, and the difference from what an experiment changes."""
    runs = runs_of(name)
    validated = [n for n in (name, compared().get(name))
                 if n and "val_accuracy" in runs_of(n)[0]["history"]]  # fmt: skip
    views = [records.single_view_accuracy(run) for run in runs if "val_accuracy" in run]
    single = rf"\,({fixed(np.mean(views), 3)})" if views else ""  # by the same weights
    comparable = len(validated) == 2 and name not in comparisons.OTHER_VIEWS
    return (
        last_accuracy(runs),
        validation(runs) + single if name in validated else "",
        points(paired(name)) if comparable else "",
    )


# Files --------------------------------------------------------------------------------------------


def generated():
    """The text of generated.tex."""
    tables = {
        "NumpyTable": numpy_table(),
        "ModificationsTable": modifications_table(),
        "OtherTable": other_table(),
        "BestFlags": best_flags(),
        "ChecksTable": checks_table(),
    }
    return "\n".join([
        "% Made from report/results by make_report.py: change nothing here.",
        *(rf"\setval{{{name}}}{{{value}}}" for name, value in values().items()),
        *(rf"\newcommand*{{\{name}}}{{" + f"%\n{rows}%\n}}" for name, rows in tables.items()),
    ]) + "\n"  # fmt: skip


def digest():
    """SHA-256 of what the PDF shows: its text, the generated numbers, the figures, the records."""
    pictures = sorted((records.ROOT / "plots").glob("*.png"))
    paths = [TEXT, GENERATED, *pictures, *sorted(records.RESULTS.glob("*.[jn]*"))]
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in paths)
    return hashlib.sha256(b"".join(digests)).hexdigest()


if __name__ == "__main__":
    GENERATED.write_text(generated())
    records.BUILD.mkdir(exist_ok=True)
    (records.BUILD / "inputs.tex").write_text(rf"\newcommand{{\Inputs}}{{{digest()}}}" + "\n")
