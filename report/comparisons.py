"""Question 2.1: which experiments are compared with which, and what counts as a difference."""

import functools
import itertools
import math
import re
from statistics import NormalDist

import numpy as np

from report import records
from report.records import runs_of

# The baseline and, by kind, the experiments that change one thing of it.
BASELINE = "base"
KINDS = {
    "Optimisation": (
        *("learning-rate-low", "learning-rate-high", "batch-small", "batch-large"),
        *("steps-few", "steps-many", "sgd", "cosine", "ema"),
    ),
    "Width and depth": ("width-small", "width-large", "depth-one", "depth-four"),
    "Activation": ("relu", "gelu", "tanh"),
    "Inputs and normalisation": (
        *("standardize", "half-resolution", "whiten", "batch-norm", "layer-norm"),
    ),
    "Initial weights, and penalties on the weights": (
        *("local-fields", "weight-decay", "adam", "l1", "first-layer-l1"),
    ),
    "Regularisation by noise, by the data, by the targets": (
        *("dropout", "flip", "shift", "flip-shift", "distortion", "random-affine", "mixup"),
        "label-smoothing",
    ),
    "Test-time augmentation": ("test-time", "test-time-18-views"),
}
FAMILY = 3  # changes of a recipe that are shown together
MODIFICATIONS = {  # of those, what is recorded
    kind: tuple(name for name in names if runs_of(name)) for kind, names in KINDS.items()
}
SINGLE = tuple(itertools.chain(*MODIFICATIONS.values()))


def compared_with(name):
    """The experiment that another is compared with, or None: the one named at the head of its
    argument file, or else the one that the file begins with. The record of an experiment whose
    flag is gone names it itself."""
    record = records.read(name, {})
    if "flag_since_removed" in record:
        return record["compared_with"]
    text = (records.EXPERIMENTS / f"{name}.txt").read_text()
    found = re.search(r"^# compared with: (.+)$", text, re.M)
    found = found or re.search(r"^@(.+)\.txt$", text, re.M)
    return found and found[1]


def children(name):
    """The experiments that are compared with this one, in the order of their names."""
    return [other for other in compared() if compared_with(other) == name]


@functools.cache
def compared():
    """Every experiment with a record that is compared with another."""
    names = {path.stem for path in records.EXPERIMENTS.glob("*.txt") if runs_of(path.stem)}
    names |= {path.stem for path in records.RESULTS.glob("*.json")
              if "flag_since_removed" in records.read(path.stem)}  # fmt: skip
    return sorted(name for name in names if compared_with(name))


def depth(name):
    """How many comparisons lead back from an experiment."""
    before = compared_with(name)
    return 1 + depth(before) if before else 0


def families():
    """The changes of each recipe, but for the baseline, that has FAMILY or more: the shorter runs
    first. A recipe that differs in its number of epochs alone is not a change."""
    names = {compared_with(name) for name in compared()} - {BASELINE}
    changes = {name: [child for child in children(name) if changes_more_than_length(child)]
               for name in names}  # fmt: skip
    found = {name: names for name, names in changes.items() if len(names) >= FAMILY}
    return dict(sorted(found.items(), key=lambda item: epochs(item[0])))


def changes_more_than_length(name):
    flags, before = (runs_of(n)[0]["flags"] for n in (name, compared_with(name)))
    return bool(set(records.differing_recipe(flags, before)) - {"epochs"})


def epochs(name):
    return runs_of(name)[0]["flags"]["epochs"]


# Differences --------------------------------------------------------------------------------------


def paired(name):
    """The differences from the experiment that this one is compared with, one for every seed."""
    return differences(runs_of(name), runs_of(compared_with(name)))


def differences(runs, others):
    """The difference in validation accuracy for every seed that both have, in percentage points."""
    theirs = {run["seed"]: records.validation_accuracy(run) for run in others}
    return np.array([100 * (records.validation_accuracy(run) - theirs[run["seed"]])
                     for run in runs if run["seed"] in theirs])  # fmt: skip


def standard_error(values):
    return np.std(values, ddof=1) / math.sqrt(len(values))


def what_counts(samples):
    """Of samples of differences, all of one size, the smallest mean that counts: different from 0
    at the level of 5 % for all of them together (Bonferroni), by a t-test whose variance is the
    mean of theirs."""
    freedom = sum(len(sample) - 1 for sample in samples)
    error = math.sqrt(np.mean([standard_error(sample) ** 2 for sample in samples]))
    z = NormalDist().inv_cdf(1 - 0.05 / 2 / len(samples))
    return error * (z + (z**3 + z) / (4 * freedom))  # the t quantile, of many degrees of freedom
