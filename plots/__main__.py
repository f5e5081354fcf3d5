"""Draw the figures of the report from the records: all, or those of the scripts that are named.

python -m plots [NAME ...], such as: python -m plots staircase
"""

import importlib
import sys
from pathlib import Path


def draw(names=()):
    for path in sorted(Path(__file__).parent.glob("plot_*.py")):
        if not names or path.stem.removeprefix("plot_") in names:
            importlib.import_module(f"plots.{path.stem}").draw()


if __name__ == "__main__":
    draw(sys.argv[1:])
