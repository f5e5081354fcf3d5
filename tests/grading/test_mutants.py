"""The grading part fails every wrong version in the right row, and passes every right one."""

from pathlib import Path

import pytest
from common import times
from mutants import course_style, wrong

from grading import runner
from grading.checks import ROWS
from grading.helpers import CAN_FAIL, RIGHT, failed, mutant, run_rows
from grading.submission import Submission

# The rows with a remark, for each style of a right version; PLAIN for those that are not listed.
PLAIN = {"stale caches", "numerically stable"}
EPSILON = {"cross-entropy value", "cross-entropy gradient"}
REMARKS = {
    "later_years": EPSILON,
    "jacobian": EPSILON | {"stale caches"},
    "loops": PLAIN | {"no loops over samples"},
    "transposed": PLAIN | EPSILON | {"shapes"},
    "class numbers": PLAIN | {"cross-entropy value"},
    "torch imported, not used": PLAIN | {"NumPy only"},
}
FOLDERS = {folder.name for folder in wrong.RIGHT.iterdir() if folder.is_dir()}
STYLES = sorted(FOLDERS | set(wrong.VARIANTS))


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
    (remark,) = run_rows(wrong.right_sources("loops"))["no loops over samples"]["remarks"]
    for name in ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule"):
        assert f"samples in {name}.forward" in remark
        assert f"samples in {name}.backward" in remark


def test_loop_over_units_is_a_remark():
    modules = RIGHT["modules.py"].replace(
        wrong.DB,
        "columns = [dout[:, n].sum() for n in range(dout.shape[1])]\n"
        '        self.grads["bias"] = np.array([columns])',
    )
    row = run_rows(RIGHT | {"modules.py": modules})["no loops over samples"]
    assert row["remarks"] == ["loops in Python over features in LinearModule.backward"]


def expect_caught(mutant, **how):
    """The rows that belong to the mutant fail, no other does, and the first says what is wrong."""
    result = run_rows(wrong.sources(mutant), **how)
    assert {name for name, row in result.items() if not row["passed"]} == mutant.fails
    first = next(row for row in result.values() if not row["passed"])
    assert mutant.says in first["diagnosis"]
    for row in result.values():
        for name in result:
            if f"follows from '{name}'" in (row["diagnosis"] or ""):
                assert name in mutant.fails


@times(1, 100)
@each(wrong.WRONG)
def test_mutant_fails_in_its_rows(mutant, times):
    for seed in range(times):
        expect_caught(mutant, seed=seed)


@each([*wrong.WRONG[::20], mutant("slope by forward at other inputs")])
def test_mutant_fails_in_its_rows_in_a_child_process(mutant):
    expect_caught(mutant, start=runner.in_child)


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
    assert {min(mutant.fails, key=order.index) for mutant in wrong.WRONG} == CAN_FAIL


def test_course_style_of_test_catches_few_mutants():
    caught = {
        mutant.name
        for mutant in wrong.WRONG
        if not course_style.passes(modules(wrong.sources(mutant)), elu_arguments(mutant.base))
    }
    # Known of the published tests: see what is caught, and what is not.
    assert "weight gradient averaged" in caught and "epsilon 1e-6 added" in caught
    assert not caught & {
        "bias gradient averaged",
        "bias gradient zero",
        "loss and gradient summed",
        "no maximum subtracted",
        "weights zero",
    }
    figure = (
        f"tests in the course's style catch {len(caught)} of the {len(wrong.WRONG)} mutants, "
        f"the grading part all {len(wrong.WRONG)}"
    )
    page = Path(__file__).parent.with_name("README.md").read_text(encoding="utf-8")
    assert figure in " ".join(page.split())


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"class numbers"}))
def test_course_style_of_test_passes_right_versions(style):
    """Or its figure would mean nothing. (Class numbers as targets it does not know.)"""
    assert course_style.passes(modules(wrong.right_sources(style)), elu_arguments(style))


def modules(sources):
    return Submission(sources).process.session.namespaces["modules"]


def elu_arguments(style):
    return (1.0,) if style == "later_years" else ()
