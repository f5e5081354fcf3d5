"""The records in report/results: reading and writing them, and comparing the runs they hold."""

import json
import re
from pathlib import Path

import numpy as np

from training import files
from training.argument_files import flag_text
from training.errors import UsageError
from training.folder import read_record
from training.history import read_history

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "report" / "experiments"
RESULTS = ROOT / "report" / "results"
BUILD = ROOT / "report" / "build"  # generated files that the report includes; not in git
NUMPY_RUNS = "numpy-none", "numpy-100", "numpy-100-100", "numpy-200-200-200"
OF_A_RUN = "validation_size", "eval_freq", "train_eval_size", "clean_images", "test_at_end"
NO_RECIPE = "seed", "use_gpu", "checkpoint_freq", *OF_A_RUN  # may differ within a recipe


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


def experiment(name):
    """The trainer and the seeds that the head of an experiment's argument file names."""
    text = (EXPERIMENTS / f"{name}.txt").read_text()
    head = dict(re.findall(r"^# (trainer|seeds): (.*)$", text, re.M))
    return head["trainer"], [int(seed) for seed in head["seeds"].split()]


def missing_seeds(name):
    """The seeds of an experiment without a run on record: none when the record is complete."""
    done = [run["seed"] for run in runs_of(name)]
    return [seed for seed in experiment(name)[1] if seed not in done]


def read_finished(folder):
    """The finished run in a folder: what run.json holds, with metrics.csv as its `history`."""
    record = read_record(Path(folder))
    if not record or record["status"] != "completed":
        status = record and record["status"]
        raise UsageError(f"{folder} holds no finished run: its status is {status}")
    return {**record, "history": read_history(Path(folder) / "metrics.csv")}


# Runs ---------------------------------------------------------------------------------------------


def column(runs, name):
    """One column of the histories: an array (runs, rows)."""
    return np.array([run["history"][name] for run in runs])


def with_seed(runs, seed):
    """The run with this seed."""
    return next(run for run in runs if run["seed"] == seed)


def validation_accuracy(run):
    """The accuracy at the last step. The best of a run would favour runs with more evaluations."""
    return run["history"]["val_accuracy"][-1]


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


# The comparison of Tanh and ELU: report/activations.py --------------------------------------------


def matching(runs, **values):
    """The runs whose entries have these values."""
    return [run for run in runs if values.items() <= run.items()]


def all_values(record, name):
    """The values that an entry has in the runs of a record, sorted."""
    return sorted({run[name] for run in record["runs"]})


def activation_points(record, activation, depth, standardize):
    """The mean accuracy over the seeds by learning rate; None where a run diverged."""
    runs = matching(record["runs"], activation=activation, depth=depth, standardize=standardize)
    points = {}
    for rate in sorted({run["learning_rate"] for run in runs}):
        values = [run["val_accuracy"] for run in matching(runs, learning_rate=rate)]
        points[rate] = None if None in values else np.mean(values)
    return points
