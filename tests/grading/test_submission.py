"""The grading part: one test for each row of the table.

It checks this package's own modules, or with --submission=DIR somebody else's; see tests/README.md.
"""

import pytest

from grading import runner
from grading.checks import EFFICIENCY, FAILED, ROWS

# So that -k question_1_2 chooses the rows of a question.
IDS = [f"question_{row.question.replace('.', '_').replace(' ', '_')}-{row.name}" for row in ROWS]


@pytest.mark.parametrize("name", [row.name for row in ROWS], ids=IDS)
def test_row(request, grading_report, name):
    (row,) = (row for row in grading_report["rows"] if row["row"] == name)
    if row["passed"]:
        return
    if row["cell"] == FAILED or request.config.getoption("submission") is None:
        pytest.fail(runner.explanation(row), pytrace=False)
    # The exit status is 1, but nothing says FAILED.
    request.session.testsfailed += row["kind"] != EFFICIENCY
    pytest.skip(f"{row['cell']}: {runner.explanation(row)}")
