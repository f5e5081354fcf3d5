"""What goes back to a student with the verdicts: points, where to look, and no path of the grader's
machine."""

import csv
import math
import re

from . import network
from .checks import EFFICIENCY, FAILED, PASSED, ROWS

LOOK_AT = {
    "stale caches": "what forward stores, and whether backward assigns to grads or adds to it",
    "shapes": "axis and keepdims of each sum, and the shapes of params and grads",
    "initialisation trains": "the initial weights, in LinearModule.__init__ and MLP.__init__",
    "NumPy only": "the imports, and how backward finds the slopes",
    "numerically stable": "the arguments of exp and log",
    "inputs left alone": "changes in place (+=, out=) to arguments and parameters",
    "float64 kept": "dtype and astype",
}
PATH = re.compile(r"(?<![\w.])(?:/[^\s/'\"<>:;,]+)+/(?=[^\s/])")  # all of a path but the last name
# A diagnosis that says by itself where to look.
NO = r"(class|dict|entry|linear layer|method)"
PLACED = re.compile(rf"line \d+\)|^importing|has no {NO}|there is no |is not (plain|read)")


def read_weights(path):
    """The points of rows by their names, from a CSV `row,points`. Raises a ValueError or OSError
    with a sentence."""
    weights, names = {}, [row.name for row in ROWS]
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            head, *lines = [line for line in csv.reader(file) if line]
        except (ValueError, csv.Error):  # empty, not UTF-8, or no CSV
            head, lines = None, []
    if head != ["row", "points"]:
        raise ValueError(f"{path} is no file of weights: its first line must be row,points")
    for name, *rest in lines:
        try:
            (points,) = map(float, rest)
        except ValueError:
            points = -1
        if name not in names:
            raise ValueError(f"{path}: there is no row {name!r}; the rows are {', '.join(names)}")
        if name in weights or not 0 <= points < math.inf:
            raise ValueError(f"{path}: {name} needs one number of points, 0 or more")
        weights[name] = points
    return weights


def with_points(report, weights):
    """The report with points. A row has one unless the weights say otherwise, and none where it
    can only make remarks."""
    rows, said = [], set()
    for row in report["rows"]:
        # Where another row has said the same, such as that a file is not imported, nothing ran.
        checked = row["diagnosis"] not in said
        said |= {row["diagnosis"]} - {None}
        out_of = weights.get(row["row"], float(row["kind"] != EFFICIENCY))
        points = round(out_of * _share(row, checked), 2)
        rows.append(row | {"points": points, "out of": out_of, "advice": _advice(row, checked)})
    total = {key: round(sum(row[key] for row in rows), 2) for key in ("points", "out of")}
    return report | total | {"rows": rows}


def _share(row, checked):
    """How much of its points a row earns. One mistake is charged once: a row that fails only
    because of others keeps its points. What is not checked earns nothing."""
    if row["kind"] == EFFICIENCY:
        return row["cell"] == PASSED
    if not row["passed"]:
        return checked and bool(row["follows"])
    for remark in row["remarks"]:
        if remark.startswith("not checked for "):
            return 1 - (remark.count(", ") + 1) / len(network.ROWS)
    return 1


def _advice(row, checked):
    """Where a student looks for what a row says."""
    if row["cell"] != FAILED or not checked:
        return ""
    if row["follows"]:
        return f"Mend {' and '.join(map(repr, row['follows']))} first: this row keeps its points."
    if PLACED.search(row["diagnosis"]):
        return ""
    method = "backward" if row["row"].endswith("gradient") else "forward"
    own = [f"{name}.{method}" for name, rows in network.ROWS.items() if row["row"] in rows]
    return f"Look at {LOOK_AT.get(row['row']) or own[0]}."


def without_paths(value):
    """A report without the paths of this machine: of each, the last name stays."""
    if isinstance(value, str):
        return PATH.sub("", value)
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    return [without_paths(inner) for inner in value] if isinstance(value, list) else value
