"""The grading part fails every wrong version in the right row, and passes every right one."""

from pathlib import Path

import pytest
from grading import checks
from grading.submission import Submission
from mutants import course_style, wrong

SEEDS = 100

# The rows with a remark, for each style of a right version.
REMARKS = {
    "textbook": {"stale caches", "numerically stable"},
    "later_years": {"cross-entropy value", "cross-entropy gradient"},
    "einsum": {"cross-entropy value", "cross-entropy gradient", "stale caches"},
    "jacobian": {"cross-entropy value", "cross-entropy gradient", "stale caches"},
    "loops": {"stale caches", "numerically stable", "no loops over samples"},
    "transposed": {
        "cross-entropy value",
        "cross-entropy gradient",
        "stale caches",
        "shapes",
        "numerically stable",
    },
    "float64_inside": {"stale caches", "numerically stable"},
    "class_numbers": {"cross-entropy value", "stale caches", "numerically stable"},
}


def report(sources, seed=0):
    """The rows of the table by name."""
    submission = Submission(sources)
    return {row.name: checks.run(row, submission, seed) for row in checks.ROWS}


def failed(rows):
    return {name for name, row in rows.items() if not row["passed"]}


def by_name(mutants):
    return [pytest.param(mutant, id=mutant.name) for mutant in mutants]


@pytest.mark.parametrize("style", REMARKS)
def test_right_version_passes(style):
    rows = report(wrong.right_sources(style))
    assert {name: row["diagnosis"] for name, row in rows.items() if not row["passed"]} == {}
    assert {name for name, row in rows.items() if row["remarks"]} == REMARKS[style]


def test_every_right_version_is_tested():
    assert {folder.name for folder in wrong.RIGHT.iterdir() if folder.is_dir()} == set(REMARKS)


def test_loops_are_counted_in_each_module():
    (remark,) = report(wrong.right_sources("loops"))["no loops over samples"]["remarks"]
    for name in ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule"):
        assert f"samples in {name}.forward" in remark
        assert f"samples in {name}.backward" in remark


def test_loop_over_units_is_a_remark():
    sources = wrong.right_sources("textbook")
    sources["modules.py"] = sources["modules.py"].replace(
        wrong.DB,
        "columns = [dout[:, n].sum() for n in range(dout.shape[1])]\n"
        '        self.grads["bias"] = np.array([columns])',
    )
    row = report(sources)["no loops over samples"]
    assert row["remarks"] == ["loops in Python over features in LinearModule.backward"]


@pytest.mark.parametrize("mutant", by_name(wrong.WRONG))
def test_mutant_fails_in_its_rows(mutant):
    rows = report(wrong.sources(mutant))
    assert failed(rows) == mutant.fails
    first = next(row for row in rows.values() if not row["passed"])
    assert mutant.says in first["diagnosis"]


def test_mutants_have_different_names():
    names = [mutant.name for mutant in wrong.WRONG]
    assert len(set(names)) == len(names) >= 40


def test_every_row_that_can_fail_is_the_first_to_fail_for_some_mutant():
    """So that no row is there for show."""
    order = [row.name for row in checks.ROWS]
    first = {min(mutant.fails, key=order.index) for mutant in wrong.WRONG}
    can_fail = {row.name for row in checks.ROWS if row.kind != checks.EFFICIENCY}
    assert first == can_fail


def test_course_style_of_test_catches_few_mutants(record_figure):
    modules = {
        mutant.name: Submission(wrong.sources(mutant)).namespaces["modules"]
        for mutant in wrong.WRONG
    }
    caught = {
        mutant.name
        for mutant in wrong.WRONG
        if not course_style.passes(modules[mutant.name], elu_arguments(mutant.base))
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
    record_figure(figure)
    page = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    assert figure in " ".join(page.split())


@pytest.mark.parametrize("style", sorted(set(REMARKS) - {"class_numbers"}))
def test_course_style_of_test_passes_right_versions(style):
    """Or its figure would mean nothing. (Class numbers as targets it does not know.)"""
    modules = Submission(wrong.right_sources(style)).namespaces["modules"]
    assert course_style.passes(modules, elu_arguments(style))


def elu_arguments(style):
    return (1.0,) if style == "later_years" else ()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", by_name(wrong.WRONG))
def test_mutant_fails_in_the_same_rows_for_every_seed(mutant):
    sources = wrong.sources(mutant)
    assert {frozenset(failed(report(sources, seed))) for seed in range(SEEDS)} == {
        frozenset(mutant.fails)
    }


@pytest.mark.slow
@pytest.mark.parametrize("style", REMARKS)
def test_right_version_gets_the_same_verdicts_for_every_seed(style):
    sources = wrong.right_sources(style)
    verdicts = set()
    for seed in range(SEEDS):
        rows = report(sources, seed)
        assert not failed(rows)
        verdicts.add(frozenset(name for name, row in rows.items() if row["remarks"]))
    assert verdicts == {frozenset(REMARKS[style])}
