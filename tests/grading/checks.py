"""The rows of the table, and how one is made.

A check takes a Submission and a random generator, raises a Failure where something is wrong, and
returns a list of remarks (style, efficiency) otherwise.
"""

import warnings
from collections import namedtuple

import numpy as np

from .behaviour import (
    float64_kept,
    inputs_left_alone,
    no_loops,
    numerically_stable,
    shapes,
    stale_caches,
)
from .diagnosis import Failure
from .network import initialisation, network_gradient, network_output
from .submission import describe
from .values import (
    bias_gradient,
    cross_entropy_gradient,
    cross_entropy_value,
    elu_gradient,
    elu_value,
    input_gradient,
    linear_forward,
    softmax_gradient,
    softmax_value,
    weight_gradient,
)

CORRECTNESS, ROBUSTNESS, EFFICIENCY = "correctness", "robustness", "efficiency"
Row = namedtuple("Row", "name kind check")

ROWS = [
    Row("linear forward", CORRECTNESS, linear_forward),
    Row("weight gradient", CORRECTNESS, weight_gradient),
    Row("bias gradient", CORRECTNESS, bias_gradient),
    Row("input gradient", CORRECTNESS, input_gradient),
    Row("ELU value", CORRECTNESS, elu_value),
    Row("ELU gradient", CORRECTNESS, elu_gradient),
    Row("softmax value", CORRECTNESS, softmax_value),
    Row("softmax gradient", CORRECTNESS, softmax_gradient),
    Row("cross-entropy value", CORRECTNESS, cross_entropy_value),
    Row("cross-entropy gradient", CORRECTNESS, cross_entropy_gradient),
    Row("network output", CORRECTNESS, network_output),
    Row("network gradient", CORRECTNESS, network_gradient),
    Row("stale caches", CORRECTNESS, stale_caches),
    Row("shapes", CORRECTNESS, shapes),
    Row("initialisation trains", CORRECTNESS, initialisation),
    Row("numerically stable", ROBUSTNESS, numerically_stable),
    Row("inputs left alone", ROBUSTNESS, inputs_left_alone),
    Row("float64 kept", ROBUSTNESS, float64_kept),
    Row("no loops over samples", EFFICIENCY, no_loops),
]


def run(row, submission, seed=0):
    """One row of the report, a dict: name, kind, passed, and what there is to say.

    The seed changes the numbers that are drawn, never the verdict.
    """
    rng = np.random.default_rng([seed, [r.name for r in ROWS].index(row.name)])
    result = {
        "row": row.name,
        "kind": row.kind,
        "passed": True,
        "remarks": [],
        "diagnosis": None,
        "got": None,
        "expected": None,
        "index": None,
    }
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result["remarks"] = row.check(submission, rng)
    except Exception as error:
        failure = error if isinstance(error, Failure) else Failure(f"the check {describe(error)}")
        result |= {
            "diagnosis": failure.sentence,
            "got": failure.got,
            "expected": failure.expected,
            "index": failure.index,
        }
        result["passed"] = row.kind == EFFICIENCY
        if result["passed"]:
            result["remarks"] = [f"could not be checked: {failure.sentence}"]
    return result
