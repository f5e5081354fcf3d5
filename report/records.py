"""The records in report/results: reading and writing them, and comparing the runs they hold."""

import itertools
import json
import re
from pathlib import Path

import numpy as np

from training import files
from training.argument_files import flag_text
from training.curves import layer_sizes
from training.errors import UsageError
from training.folder import read_record
from training.history import read_history

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "report" / "experiments"
RESULTS = ROOT / "report" / "results"
BUILD = ROOT / "report" / "build"  # generated files that the report includes; not in git
NUMPY_RUNS = "numpy-none", "numpy-100", "numpy-100-100", "numpy-200-200-200"
NO_RECIPE = (  # flags that may differ within a recipe
    *("seed", "use_gpu", "validation_size", "eval_freq", "test_at_end"),
    *("train_eval_size", "clean_images", "checkpoint_freq"),
)


def read(name, missing=None):
    """The content of NAME.json. If it does not exist: missing, or an error if that is None."""
    path = RESULTS / f"{name}.json"
    if missing is not None and not path.exists():
        return missing
    return json.loads(path.read_text())


def write(name, text):
    """Makes text the record NAME.json."""
    with files.replacing(RESULTS / f"{name}.json") as file:
        file.write(text.encode())


def runs_of(name):
    """The runs of an experiment, one for each seed recorded so far."""
    return read(name, {"runs": []})["runs"]


def flags_of(name):
    """The flags of an experiment's first run."""
    return runs_of(name)[0]["flags"]


def experiment(name):
    """The trainer and the seeds that the head of an experiment's argument file names."""
    text = (EXPERIMENTS / f"{name}.txt").read_text()
    head = dict(re.findall(r"^# (trainer|seeds): (.*)$", text, re.M))
    return head["trainer"], [int(seed) for seed in head["seeds"].split()]


def command(record):
    """What trains an experiment again, at the commit whose flags it has."""
    commit = record.get("commit", "")[:7]
    return f"git checkout {commit} && {record['command']}" if commit else record["command"]


def read_finished(folder):
    """The finished run in a folder: what run.json holds but for the place of the data, with
    metrics.csv as its `history`."""
    record = read_record(Path(folder))
    if not record or record["status"] != "completed":
        status = record and record["status"]
        raise UsageError(f"{folder} holds no finished run: its status is {status}")
    del record["data_dir"]
    return {**record, "history": read_history(Path(folder) / "metrics.csv")}


# Runs ---------------------------------------------------------------------------------------------


def column(runs, name):
    """One column of the histories: an array (runs, rows)."""
    return np.array([run["history"][name] for run in runs])


def matching(runs, **values):
    """The runs whose entries have these values."""
    return [run for run in runs if values.items() <= run.items()]


def validation_accuracy(run):
    """The accuracy at the last step: the best of a run would favour runs with more evaluations.
    Averaged over views it is measured once, with the weights that were best."""
    return run.get("val_accuracy", run["history"]["val_accuracy"][-1])


def single_view_accuracy(run):
    """The validation accuracy of single views, with the weights that were best."""
    return max(run["history"]["val_accuracy"])


def n_weights(flags):
    """The number of weights of a run's network, in millions."""
    sizes = map(int, layer_sizes(flags).split("-"))
    return sum(n * m for n, m in itertools.pairwise(sizes)) / 1e6


def differing(one, other):
    """The names of the flags whose values differ. A flag that is missing is off."""
    return [name for name in one | other if (one.get(name) or None) != (other.get(name) or None)]


def differing_recipe(flags, others):
    """The names of the flags in which two recipes differ."""
    return [name for name in differing(flags, others) if name not in NO_RECIPE]


def changed_flags(flags, before):
    """The flags in which a recipe differs from before, roughly as typed on a command line."""
    changes = []
    for name in differing_recipe(flags, before):
        value = flags.get(name)
        if isinstance(value, bool):
            changes.append(name if value else f"no {name}")
        elif value is not None:  # --max_steps is None beside --epochs
            text = f"{value:g}" if isinstance(value, float) else flag_text(value)
            changes.append(f"{name} {text}")
    return changes


# The comparison of Tanh and the ELU: report/activations.py ----------------------------------------


def all_values(record, name):
    """The values that an entry has in the runs of a record, sorted."""
    return sorted({run[name] for run in record["runs"]})


def by_rate(record, name, activation, depth, standardize):
    """One entry of the runs with these values, by learning rate: an array, in which the seeds come
    first, or None where a run diverged."""
    runs = matching(record["runs"], activation=activation, depth=depth, standardize=standardize)
    found = {}
    for run in runs:
        found.setdefault(run["learning_rate"], []).append(run.get(name))
    return {rate: None if None in entries else np.array(entries)
            for rate, entries in sorted(found.items())}  # fmt: skip
