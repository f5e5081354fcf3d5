"""The grading part fails every wrong version in the right row, and passes every right one."""

import ast
import re

import pytest
from common import times
from mutants import wrong

from grading import network, runner
from grading.checks import ROWS
from grading.helpers import CAN_FAIL, RIGHT, failed, mutant, run_row, run_rows

OWN_ROWS = {name: set(rows) for name, rows in network.ROWS.items() if name != "MLP"}
# The rows with a remark, for each right version.
REMARKS = {"textbook": {"numerically stable"}, "later_years": OWN_ROWS["CrossEntropyModule"]}
REMARKS |= {variant.name: variant.rows for variant in wrong.VARIANTS}


def expect_right(style, **how):
    rows = run_rows(wrong.right_sources(style), **how)
    assert {name: row["diagnosis"] for name, row in rows.items() if not row["passed"]} == {}
    assert {name for name, row in rows.items() if row["remarks"]} == REMARKS[style]


@times(1, 100)
@pytest.mark.parametrize("style", REMARKS)
def test_right_version_passes(style, times):
    for seed in range(times):
        expect_right(style, seed=seed)


def test_loops_are_counted_in_each_module():
    remarks = run_row("no loops over samples", wrong.right_sources("loops"))["remarks"]
    for name in OWN_ROWS:
        assert f"{name} loops over samples in forward and backward" in remarks


# Several modules, each with rows of its own, or what the network cannot be composed of.
CHARGED_FOR_SEVERAL = {
    *("at most 128 samples", "loss and gradient summed", "targets transposed where S = C"),
    *("classes counted in the targets", "alpha exp(x) - 1", "products by torch"),
    *("parameters under another name", "parameters shared by the class"),
    *("layers reversed in place", "one hidden layer at least", "at most three hidden layers"),
    *("input gradient not returned", "squeezed output", "log softmax"),
    *("identity, fused with the loss", "weight copied in the first forward"),
    *("output of the ELU in one dimension", "weight that starts as a number"),
    *("leaky ReLU of another year", "sum of the softmax without keepdims"),
    *("bias for the inputs", "noise in the network"),
}


def expect_caught(mutant, skip=(), **how):
    """The rows that belong to the mutant fail, no other does, and the first says what is wrong.

    What follows from another row keeps its points: one mistake is charged once.
    """
    rows = run_rows(wrong.sources(mutant), only={row.name for row in ROWS} - set(skip), **how)
    assert {name for name, row in rows.items() if not row["passed"]} == mutant.rows
    first = next(row for row in rows.values() if not row["passed"])
    assert mutant.says in first["diagnosis"]
    assert {name for row in rows.values() for name in row["follows"]} <= mutant.rows
    for row in rows.values():
        assert len(set(row["follows"])) == len(row["follows"])
        assert not (row["diagnosis"] or "").startswith("the check raised")
    charged = [name for name in mutant.rows if not rows[name]["follows"]]
    assert len(charged) == 1 or charged and mutant.name in CHARGED_FOR_SEVERAL


def rows_of_unchanged_modules(mutant):
    """They ask for nothing else, as is shown below, and so pass as those of the right version."""
    changed, right = (
        re.split("^class ", sources["modules.py"], flags=re.MULTILINE)
        for sources in (wrong.sources(mutant), wrong.right_sources(mutant.base))
    )
    same = {text.partition(":")[0] for text in changed if text in right}
    # What stands before all classes may change any of them.
    return set().union(*(OWN_ROWS.get(n, ()) for n in same)) if changed[0] == right[0] else set()


@times(1, 100)
@pytest.mark.parametrize("mutant", wrong.WRONG, ids=lambda mutant: mutant.name)
def test_mutant_fails_in_its_rows(mutant, times):
    for seed in range(times):
        expect_caught(mutant, rows_of_unchanged_modules(mutant), seed=seed)


def test_verdicts_are_the_same_in_a_child_process():
    """For what only the child can see, and for what is imported in another way there."""
    expect_right("loops", start=runner.in_child)
    for name in ("slope by forward at other inputs", "products by torch"):
        expect_caught(mutant(name), start=runner.in_child)


def blank(text, keep=()):
    """The text with the bodies of all methods taken out, but for those of the classes to keep."""
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name not in keep:
            for method in node.body:
                method.body = ast.parse("raise NotImplementedError('question 1')").body
    return ast.unparse(tree)


@pytest.mark.parametrize("keep", [None, *OWN_ROWS])
def test_what_is_not_written_yet_is_not_done_and_does_not_fail(keep):
    rows = run_rows({name: blank(text, [keep]) for name, text in RIGHT.items()})
    done = OWN_ROWS.get(keep, set())
    assert {name for name, row in rows.items() if row["cell"] == "passed"} == done
    assert {row["cell"] for name, row in rows.items() if name not in done} == {"not done yet"}


def test_row_about_all_modules_judges_those_that_are_written():
    wrong_linear = wrong.sources(mutant("writes into x"))
    rows = run_rows({name: blank(text, ["LinearModule"]) for name, text in wrong_linear.items()})
    not_done = {name for name, row in rows.items() if row["cell"] == "not done yet"}
    assert failed(rows) == {"inputs left alone"} | not_done
    assert rows["inputs left alone"]["cell"] == "failed" and "stale caches" in not_done


def test_every_row_that_can_fail_is_the_first_to_fail_for_some_mutant():
    """So that no row is there for show."""
    order = [row.name for row in ROWS]
    assert {min(mutant.rows, key=order.index) for mutant in wrong.WRONG} == CAN_FAIL
