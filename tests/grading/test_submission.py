"""The grading part: one test for each row of the table.

It checks this package's own modules, or with --submission=DIR somebody else's; see tests/README.md.
"""

import pytest

from grading import runner
from grading.checks import ROWS


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_row(grading_report, name):
    (row,) = (row for row in grading_report["rows"] if row["row"] == name)
    if not row["passed"]:
        pytest.fail(runner.explanation(row), pytrace=False)
