"""Draw the picture of the grading table in tests/README.md.

python plots/draw_grading_table.py            draws grading_table.png from grading_report.json
python plots/draw_grading_table.py --record   grades the example anew, then draws
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from grading import runner  # noqa: E402
from mutants import wrong  # noqa: E402

REPORT = HERE / "grading_report.json"
PICTURE = HERE / "grading_table.png"
MISTAKES = ("bias gradient averaged", "no maximum subtracted")
COLOURS = {"passed": "#1a7f37", "remark": "#9a6700", "FAILED": "#cf222e"}
VERDICT = re.compile(r"  \S.*?  +(passed|remark|FAILED)")
WIDTH = 104  # characters
CHARACTER, LINE = 0.0718, 0.17  # inches


def record():
    """Writes the report on the textbook version with two mistakes."""
    mutants = [mutant for mutant in wrong.WRONG if mutant.name in MISTAKES]
    changes = [change for mutant in mutants for change in mutant.changes]
    sources = wrong.sources(mutants[0]._replace(changes=changes))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in sources.items():
            Path(folder, name).write_text(text)
        report = runner.grade(folder)
    runner.save_json(report | {"submission": "example"}, REPORT)


def draw():
    """Draws the report line by line, the verdicts in colour."""
    report = json.loads(REPORT.read_text())
    lines = runner.table(report, WIDTH)
    height = LINE * (len(lines) + 1)
    figure = Figure(figsize=(CHARACTER * (WIDTH + 2), height))
    style = {"family": "DejaVu Sans Mono", "size": 8.5, "va": "baseline"}
    for i, line in enumerate(lines):
        y = 1 - (i + 1.1) * LINE / height
        found = VERDICT.match(line)
        if found:
            start, end = found.span(1)
            word = " " * start + line[start:end]
            figure.text(0.01, y, word, color=COLOURS[found[1]], weight="bold", **style)
            line = line[:start] + " " * (end - start) + line[end:]
        figure.text(0.01, y, line, color="#1f2328", **style)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    if "--record" in sys.argv[1:]:
        record()
    draw()
