"""Draw every figure of the report from the records: python -m plots"""

import importlib
from pathlib import Path


def draw():
    for path in sorted(Path(__file__).parent.glob("plot_*.py")):
        importlib.import_module(f"plots.{path.stem}").draw()


if __name__ == "__main__":
    draw()
