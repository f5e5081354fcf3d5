"""The rows of the table, and how one is made.

A check takes a Submission and a random generator. It raises a Failure where something is wrong;
otherwise it returns a list of remarks (style, efficiency), if there are any. A row counts to a
question of the assignment; one about all modules counts to the last.
"""

import warnings
from collections import namedtuple

import numpy as np

from . import behaviour, network, values
from .diagnosis import Failure
from .worker import describe

CORRECTNESS, ROBUSTNESS, EFFICIENCY = "correctness", "robustness", "efficiency"
PASSED, REMARK, FAILED = "passed", "remark", Failure.cell
LINEAR, ELU, LOSS, NETWORK = "1.1 a", "1.1 b", "1.1 c", "1.2"  # the assignment's questions
Row = namedtuple("Row", "name question kind check")

ROWS = [
    Row("linear forward", LINEAR, CORRECTNESS, values.linear_forward),
    Row("weight gradient", LINEAR, CORRECTNESS, values.weight_gradient),
    Row("bias gradient", LINEAR, CORRECTNESS, values.bias_gradient),
    Row("input gradient", LINEAR, CORRECTNESS, values.input_gradient),
    Row("ELU value", ELU, CORRECTNESS, values.elu_value),
    Row("ELU gradient", ELU, CORRECTNESS, values.elu_gradient),
    Row("softmax value", LOSS, CORRECTNESS, values.softmax_value),
    Row("softmax gradient", LOSS, CORRECTNESS, values.softmax_gradient),
    Row("cross-entropy value", LOSS, CORRECTNESS, values.cross_entropy_value),
    Row("cross-entropy gradient", LOSS, CORRECTNESS, values.cross_entropy_gradient),
    Row("network output", NETWORK, CORRECTNESS, network.network_output),
    Row("network gradient", NETWORK, CORRECTNESS, network.network_gradient),
    Row("stale caches", NETWORK, CORRECTNESS, behaviour.stale_caches),
    Row("shapes", NETWORK, CORRECTNESS, behaviour.shapes),
    Row("initialisation trains", NETWORK, CORRECTNESS, network.initialisation),
    Row("NumPy only", NETWORK, CORRECTNESS, behaviour.numpy_only),
    Row("numerically stable", NETWORK, ROBUSTNESS, behaviour.numerically_stable),
    Row("inputs left alone", NETWORK, ROBUSTNESS, behaviour.inputs_left_alone),
    Row("float64 kept", NETWORK, ROBUSTNESS, behaviour.float64_kept),
    Row("no loops over samples", NETWORK, EFFICIENCY, behaviour.no_loops),
]


def run_all(submission, seed=0, rows=ROWS):
    """These rows of the report. The seed changes the numbers and sizes that are drawn."""
    rows = [run(row, submission, seed) for row in rows]
    failed = {row["row"] for row in rows if row["cell"] == FAILED}
    for row in rows:
        follows = dict.fromkeys(row["follows"])
        row["follows"] = [name for name in follows if name in failed - {row["row"]}]
    return rows


def run(row, submission, seed):
    """One row of the report, a dict: its name, question, kind and cell, and what there is to say.

    follows: the rows whose mistake explains this one's failure, so that it is charged once.
    """
    rng = np.random.default_rng([seed, ROWS.index(row)])
    remarks, failure = [], Failure(None)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            remarks = submission.run(row.check, rng) or []
        cell = REMARK if remarks else PASSED
    except Exception as error:
        failure = error if isinstance(error, Failure) else Failure(f"the check {describe(error)}")
        cell = failure.cell
        if row.kind == EFFICIENCY and cell == FAILED:
            cell, remarks = REMARK, [f"could not be checked: {failure.sentence}"]
        if cell == FAILED:
            submission.failed.append(row.name)
    return {
        "row": row.name,
        "question": row.question,
        "kind": row.kind,
        "cell": cell,
        "passed": cell in (PASSED, REMARK),
        "remarks": remarks,
        "diagnosis": failure.sentence,
        "follows": failure.follows,
        "got": failure.got,
        "expected": failure.expected,
        "index": failure.index,
    }
