"""The rows of the table, and how one is made.

A check takes a Submission and a random generator, raises a Failure where something is wrong, and
returns a list of remarks (style, efficiency) otherwise.
"""

import warnings
from collections import namedtuple

import numpy as np

from . import behaviour, network, values
from .diagnosis import Failure
from .worker import describe

CORRECTNESS, ROBUSTNESS, EFFICIENCY = "correctness", "robustness", "efficiency"
Row = namedtuple("Row", "name kind check")

ROWS = [
    Row("linear forward", CORRECTNESS, values.linear_forward),
    Row("weight gradient", CORRECTNESS, values.weight_gradient),
    Row("bias gradient", CORRECTNESS, values.bias_gradient),
    Row("input gradient", CORRECTNESS, values.input_gradient),
    Row("ELU value", CORRECTNESS, values.elu_value),
    Row("ELU gradient", CORRECTNESS, values.elu_gradient),
    Row("softmax value", CORRECTNESS, values.softmax_value),
    Row("softmax gradient", CORRECTNESS, values.softmax_gradient),
    Row("cross-entropy value", CORRECTNESS, values.cross_entropy_value),
    Row("cross-entropy gradient", CORRECTNESS, values.cross_entropy_gradient),
    Row("network output", CORRECTNESS, network.network_output),
    Row("network gradient", CORRECTNESS, network.network_gradient),
    Row("stale caches", CORRECTNESS, behaviour.stale_caches),
    Row("shapes", CORRECTNESS, behaviour.shapes),
    Row("initialisation trains", CORRECTNESS, network.initialisation),
    Row("NumPy only", CORRECTNESS, behaviour.numpy_only),
    Row("numerically stable", ROBUSTNESS, behaviour.numerically_stable),
    Row("inputs left alone", ROBUSTNESS, behaviour.inputs_left_alone),
    Row("float64 kept", ROBUSTNESS, behaviour.float64_kept),
    Row("no loops over samples", EFFICIENCY, behaviour.no_loops),
]


def run(row, submission, seed=0):
    """One row of the report, a dict: name, kind, passed, and what there is to say.

    The seed changes the numbers and sizes that are drawn.
    """
    rng = np.random.default_rng([seed, ROWS.index(row)])
    remarks, failure = [], Failure(None)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            remarks = submission.run(row.check, rng)
    except Exception as error:
        submission.failed.append(row.name)
        failure = error if isinstance(error, Failure) else Failure(f"the check {describe(error)}")
        if row.kind == EFFICIENCY:
            remarks = [f"could not be checked: {failure.sentence}"]
    return {
        "row": row.name,
        "kind": row.kind,
        "passed": row.kind == EFFICIENCY or failure.sentence is None,
        "remarks": remarks,
        "diagnosis": failure.sentence,
        "got": failure.got,
        "expected": failure.expected,
        "index": failure.index,
    }
