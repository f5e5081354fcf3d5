"""Question 2.1: which experiments are compared with which, and what counts as a difference."""

import functools
import itertools
import math
import re
from statistics import NormalDist

import numpy as np

from report import records
from report.records import flags_of, runs_of

# The baseline and, by kind, the experiments that change one thing of it.
BASELINE = "base"
KINDS = {
    "Optimisation": (
        *("learning-rate-low", "learning-rate-high", "batch-small", "batch-large"),
        *("steps-few", "steps-many", "sgd", "cosine", "ema", "float32"),
    ),
    "Width and depth": ("width-small", "width-large", "depth-one", "depth-four"),
    "Activation": ("relu", "gelu", "tanh"),
    "Inputs and normalisation": (
        *("standardize", "half-resolution", "whiten", "batch-norm", "layer-norm"),
    ),
    "Initial weights, and penalties on the weights": (
        *("local-fields", "weight-decay", "adam", "l1", "l1-decay", "first-layer-l1"),
    ),
    "Regularisation by noise, by the data, by the targets": (
        *("dropout", "flip", "shift", "flip-shift", "distortion", "random-affine", "mixup"),
        "label-smoothing",
    ),
    "Test-time augmentation": ("test-time", "test-time-18-views"),
}
MODIFICATIONS = {  # of those, what is recorded
    kind: [name for name in names if runs_of(name)] for kind, names in KINDS.items()
}
SINGLE = [*itertools.chain(*MODIFICATIONS.values())]
VIEWS = {"test-time-18-views": " (18 views)"}  # where the flag alone says something else
OTHER_VIEWS = {"pixels-validated"}  # averaged over 150, what it is compared with over 18 alone
FAMILY = 3  # changes of a recipe that are shown together


@functools.cache
def compared():
    """By name the experiment that another is compared with, where both have a record. It is named
    at the head of an argument file, or is the one that the file begins with; the record of an
    experiment whose flag is gone names it itself."""
    found = {}
    for path in records.EXPERIMENTS.glob("*.txt"):
        text = path.read_text()
        for pattern in (r"^@(.+)\.txt$", r"^# compared with: (.+)$"):
            if match := re.search(pattern, text, re.M):
                found[path.stem] = match[1]
    for path in records.RESULTS.glob("*.json"):
        record = records.read(path.stem)
        if "flag_since_removed" in record:
            found[path.stem] = record["compared_with"]
    return {name: found[name] for name in sorted(found) if runs_of(name) and runs_of(found[name])}


def changes(name):
    """The flags that an experiment changes in the one that it is compared with."""
    changed = records.changed_flags(flags_of(name), flags_of(compared()[name]))
    return [flag + VIEWS.get(name, "") for flag in changed]


def changes_but_epochs(name):
    return [flag for flag in changes(name) if not flag.startswith("epochs ")]


def depth(name):
    """How many comparisons lead back from an experiment."""
    return 1 + depth(compared()[name]) if name in compared() else 0


def recipe(name):
    """Where the chain of comparisons from an experiment back reaches one that itself changed the
    number of epochs, or that is compared with nothing."""
    before = compared()[name]
    begins = before not in compared() or changes(before) != changes_but_epochs(before)
    return before if begins else recipe(before)


def families():
    """The changes of each recipe, but for the baseline, that has FAMILY or more with validation
    images: the shorter runs first. Left out are changes of the number of epochs alone, and runs of
    more than 1.5 times the epochs, whose gain may be that of the time."""
    found = {}
    for name, before in compared().items():
        validated = "val_accuracy" in runs_of(name)[0]["history"]
        longer = flags_of(name)["epochs"] > 1.5 * flags_of(before)["epochs"]
        if validated and changes_but_epochs(name) and not longer:
            found.setdefault(recipe(name), []).append(name)
    large = {name: names for name, names in found.items() if len(names) >= FAMILY}
    del large[BASELINE]
    return dict(sorted(large.items(), key=lambda item: flags_of(item[0])["epochs"]))


# Differences --------------------------------------------------------------------------------------


def paired(name, accuracy=records.validation_accuracy):
    """The differences from the experiment that this one is compared with, one for every seed: of
    single views where both are averages, over different views, and something else differs too."""
    runs, others = runs_of(name), runs_of(compared()[name])
    views = {run["flags"].get("test_time_augmentation") for run in runs + others}
    if len(views) > 1 and len(changes(name)) > 1 and "val_accuracy" in others[0]:
        accuracy = records.single_view_accuracy
    return differences(runs, others, accuracy)


def differences(runs, others, accuracy=records.validation_accuracy):
    """The difference in validation accuracy for every seed that both have, in percentage points.
    Where it is averaged over views in the runs alone, it is compared with a single view of the same
    weights."""
    found = []
    for run in runs:
        for other in records.matching(others, seed=run["seed"]):
            before = accuracy(other)
            if "val_accuracy" in run and "val_accuracy" not in other:
                before = records.single_view_accuracy(run)
            found.append(100 * (accuracy(run) - before))
    return np.array(found)


def standard_error(values):
    """Of their mean; None of a single value."""
    return np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None


def what_counts(samples):
    """The smallest mean difference that counts: at the level of 5 % for all changes together
    (Bonferroni), by a t-test. samples: for each change its differences from the same runs, by seed.

    The variance is what changes and seeds leave unexplained in all runs. The mean variance of the
    samples has far fewer degrees of freedom than it seems: all hold the noise of the same runs.
    """
    table = np.array([np.zeros_like(samples[0]), *samples])
    noise = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    freedom = (len(table) - 1) * (table.shape[1] - 1)
    error = math.sqrt(2 / table.shape[1] * (noise**2).sum() / freedom)
    z = NormalDist().inv_cdf(1 - 0.05 / 2 / len(samples))
    return error * (z + (z**3 + z) / (4 * freedom))  # the t quantile, of many degrees of freedom
