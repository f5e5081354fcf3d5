"""Draw the picture of the grading table in tests/README.md.

python -m plots.draw_grading_table            draws grading_table.png from grading_report.json
python -m plots.draw_grading_table --record   grades the example anew, then draws
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from tests.grading import runner
from tests.mutants import wrong

REPORT = Path(__file__).with_name("grading_report.json")
MISTAKES = ("bias gradient averaged", "no maximum subtracted")
COLOURS = {"passed": "#1a7f37", "remark": "#9a6700", "FAILED": "#cf222e"}
VERDICT = re.compile(r"  \S.*?  +(passed|remark|FAILED)")
WIDTH = 104  # characters
CHARACTER, LINE = 0.0718, 0.17  # inches


def record():
    """Writes the report on the textbook version with two mistakes."""
    mutants = [mutant for mutant in wrong.WRONG if mutant.name in MISTAKES]
    changes = [change for mutant in mutants for change in mutant.changes]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in wrong.sources(mutants[0]._replace(changes=changes)).items():
            Path(folder, name).write_text(text)
        report = runner.grade(folder, seed=0)
    runner.save_json(report | {"submission": "example"}, REPORT)


def draw():
    """Draws the report line by line, the verdicts in colour."""
    lines = runner.table(json.loads(REPORT.read_text()), WIDTH)
    height = LINE * (len(lines) + 1)
    figure = Figure(figsize=(CHARACTER * (WIDTH + 2), height))
    font = {"family": "DejaVu Sans Mono", "size": 8.5, "va": "baseline"}
    for i, line in enumerate(lines):
        y = 1 - (i + 1.1) * LINE / height
        if found := VERDICT.match(line):
            start, end = found.span(1)
            word = " " * start + line[start:end]
            figure.text(0.01, y, word, color=COLOURS[found[1]], weight="bold", **font)
            line = line[:start] + " " * (end - start) + line[end:]
        figure.text(0.01, y, line, color="#1f2328", **font)
    figure.savefig(REPORT.with_name("grading_table.png"), dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    if "--record" in sys.argv[1:]:
        record()
    draw()
