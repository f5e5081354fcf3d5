"""The grading part fails every wrong version in the right row, and passes every right one."""

import pytest
from common import times
from mutants import wrong

from grading import runner
from grading.checks import ROWS
from grading.helpers import CAN_FAIL, RIGHT, failed, mutant, run_rows

# The rows with a remark, for each style of a right version; PLAIN for those that are not listed.
PLAIN = {"numerically stable"}
EPSILON = {"cross-entropy value", "cross-entropy gradient"}
REMARKS = {
    "later_years": EPSILON,
    "loops": PLAIN | {"no loops over samples"},
    "transposed": PLAIN | EPSILON | {"shapes"},
}
for variant in wrong.VARIANTS:
    REMARKS[variant.name] = REMARKS.get(variant.base, PLAIN) | variant.rows
FOLDERS = {folder.name for folder in wrong.RIGHT.iterdir() if folder.is_dir()}
STYLES = sorted(FOLDERS | {variant.name for variant in wrong.VARIANTS})


def each(mutants):
    return pytest.mark.parametrize("mutant", mutants, ids=lambda mutant: mutant.name)


def expect_right(style, **how):
    rows = run_rows(wrong.right_sources(style), **how)
    assert {name: row["diagnosis"] for name, row in rows.items() if not row["passed"]} == {}
    assert {name for name, row in rows.items() if row["remarks"]} == REMARKS.get(style, PLAIN)


@times(1, 100)
@pytest.mark.parametrize("style", STYLES)
def test_right_version_passes(style, times):
    for seed in range(times):
        expect_right(style, seed=seed)


@pytest.mark.parametrize("style", STYLES[::8])
def test_right_version_passes_in_a_child_process(style):
    expect_right(style, start=runner.in_child)


def test_loops_are_counted_in_each_module():
    remarks = run_rows(wrong.right_sources("loops"))["no loops over samples"]["remarks"]
    for name in ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule"):
        assert f"{name} loops over samples in forward and backward" in remarks


def expect_caught(mutant, **how):
    """The rows that belong to the mutant fail, no other does, and the first says what is wrong.

    What follows from another row does so from one of them, and not all of them follow.
    """
    rows = run_rows(wrong.sources(mutant), **how)
    assert {name for name, row in rows.items() if not row["passed"]} == mutant.rows
    first = next(row for row in rows.values() if not row["passed"])
    assert mutant.says in first["diagnosis"]
    assert {name for row in rows.values() for name in row["follows"]} <= mutant.rows
    assert not all(rows[name]["follows"] for name in mutant.rows)


@times(1, 100)
@each(wrong.WRONG)
def test_mutant_fails_in_its_rows(mutant, times):
    for seed in range(times):
        expect_caught(mutant, seed=seed)


# Only a child process fills fresh memory with something else than zeros.
EMPTY = wrong.wrong(
    "weights from np.empty",
    {wrong.START},
    "not finite",
    wrong.INIT,
    "np.empty((out_features, in_features))",
)


@each([*wrong.WRONG[::20], mutant("slope by forward at other inputs"), EMPTY])
def test_mutant_fails_in_its_rows_in_a_child_process(mutant):
    expect_caught(mutant, start=runner.in_child)


def test_one_mistake_is_charged_once():
    """A wrong module makes the network wrong, which then keeps its points."""
    for name, charged in {
        "bias never added": {"linear forward"},
        "weight gradient transposed": {"weight gradient"},
        "weight gradient accumulated": {"stale caches"},
        "ReLU": {"ELU value"},
        "not normalised": {"softmax value"},
        "loss and gradient summed": {"cross-entropy value", "cross-entropy gradient"},
        "no ELU": {"network output"},
    }.items():
        rows = run_rows(wrong.sources(mutant(name)))
        assert {name for name in failed(rows) if not rows[name]["follows"]} == charged


def blank(text, keep=()):
    """The text with the bodies of all methods taken out, but for those of the classes to keep."""
    lines, kept = [], False
    for line in text.splitlines():
        if line.startswith("class "):
            kept = line[6:].rstrip(":") in keep
        if kept or not line.startswith("        "):
            lines.append(line)
        if not kept and line.startswith("    def "):
            lines.append("        raise NotImplementedError('question 1')")
    return "\n".join(lines)


@pytest.mark.parametrize("keep, done", [((), 0), (("LinearModule",), 4), (("ELUModule",), 2)])
def test_what_is_not_written_yet_is_not_done_and_does_not_fail(keep, done):
    sources = {name: blank(text, keep) for name, text in RIGHT.items()}
    cells = [row["cell"] for row in run_rows(sources).values()]
    assert cells.count("passed") == done and cells.count("not done yet") == len(ROWS) - done


def test_row_about_all_modules_judges_those_that_are_written():
    wrong_linear = wrong.sources(mutant("writes into x"))
    sources = {name: blank(text, ("LinearModule",)) for name, text in wrong_linear.items()}
    rows = run_rows(sources)
    assert failed(rows) == {"inputs left alone"} | {
        name for name, row in rows.items() if row["cell"] == "not done yet"
    }
    assert rows["inputs left alone"]["cell"] == "failed"
    assert rows["stale caches"]["cell"] == "not done yet"


def test_every_row_says_that_a_file_is_missing():
    rows = run_rows({"mlp_numpy.py": RIGHT["mlp_numpy.py"]})
    assert {row["diagnosis"] for row in rows.values()} == {"there is no modules.py"}
    rows = run_rows({"modules.py": RIGHT["modules.py"]})
    assert {name: rows[name]["diagnosis"] for name in failed(rows)} == dict.fromkeys(
        ("network output", "network gradient", "initialisation trains"), "there is no mlp_numpy.py"
    )


def test_every_row_that_can_fail_is_the_first_to_fail_for_some_mutant():
    """So that no row is there for show."""
    order = [row.name for row in ROWS]
    assert {min(mutant.rows, key=order.index) for mutant in wrong.WRONG} == CAN_FAIL
