"""Draw the curves of several runs, finished or not, into one picture.

python -m plots.compare RUN [RUN ...] [--out FILE.png]
"""

import argparse
import os
import textwrap
from pathlib import Path

from training.argument_files import flag_text
from training.curves import SPLITS
from training.errors import RunError, UsageError, exit_with_message, file_errors
from training.files import reading, replacing
from training.folder import METRICS, read_record
from training.history import FRAMEWORKS, QUANTITIES, read_history


def expanded(text):
    return Path(os.path.expanduser(text))


def read_run(path):
    """The record of the run in the folder path, and the columns of its metrics.csv."""
    record = read_record(path)
    if record is None or not (path / METRICS).exists():
        raise UsageError(f"{path} holds no curves of a run")
    with reading(path / METRICS):
        columns = read_history(path / METRICS)
        if "step" not in columns:
            raise ValueError("it has no column step")
        return record, columns


def labels(runs):
    """A name for each run, by path: the flags in which it differs from the others, which are
    compared where both trainers have them; and the path where nothing else tells runs apart."""
    rows = {
        path: {
            "trainer": FRAMEWORKS[record["framework"]],
            "data": record["dataset"],
            **{k: v for k, v in record["flags"].items() if k not in ("synthetic", "eval_freq")},
        }
        for path, (record, _) in runs.items()
    }
    values = {(name, flag_text(value)) for row in rows.values() for name, value in row.items()}
    different = [name for name, _ in values]  # once for each value
    names = {
        path: ", ".join(
            f"{name} {flag_text(value) or 'none'}"
            for name, value in row.items()
            if different.count(name) > 1 or (name, value) == ("data", "synthetic")
        )
        or path.resolve().name
        for path, row in rows.items()
    }
    twice = {name for name in names.values() if [*names.values()].count(name) > 1}
    return {
        path: textwrap.fill(f"{path}: {name}".strip(": ") if name in twice else name, 130)
        for path, name in names.items()
    }


def draw(runs):
    """The figure: a colour for each run, solid on the held-out set and dashed in training."""
    from matplotlib.figure import Figure  # here: a broken matplotlib is told in one line

    names = labels(runs)
    lines = sum(len(name.splitlines()) for name in names.values())
    figure = Figure(figsize=(10, 4.5 + 0.22 * lines), layout="constrained")
    for axes, (quantity, title) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        for i, (path, label) in enumerate(names.items()):
            columns = runs[path][1]
            for split, style in {"train": "--", "val": ".-", "test": ".-"}.items():
                points = zip(columns["step"], columns.get(f"{split}_{quantity}", []), strict=False)
                if points := [(step, value) for step, value in points if value is not None]:
                    # Matplotlib hides a name that begins with _, and reads mathematics between $.
                    name = f"{SPLITS[split]}: {label}".replace("$", r"\$")
                    axes.plot(*zip(*points, strict=True), style, color=f"C{i}",
                              label=None if split == "train" else name)  # fmt: skip
        axes.set(xlabel="step", ylabel=title)
        axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", title="dashed: training batches")
    return figure


@exit_with_message
def main(argv=None):
    parser = argparse.ArgumentParser(description="Draw the curves of several runs.")
    parser.add_argument("runs", nargs="+", type=expanded, metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", type=expanded, default=Path("compare.png"), metavar="FILE.png")
    args = parser.parse_args(argv)
    with file_errors(UsageError, args.out):
        if args.out.suffix != ".png" or args.out.is_dir() or not args.out.parent.is_dir():
            what = "is not the name of a .png file in a folder that exists"
            raise UsageError(f"--out {args.out} {what}")
    runs = {path: read_run(path) for path in args.runs}
    try:
        figure = draw(runs)
    except (ImportError, ValueError) as error:
        raise RunError(f"matplotlib cannot draw: {error}") from error
    with replacing(args.out) as file:
        figure.savefig(file, format="png", dpi=150)
    print(f"the curves are in {args.out}")


if __name__ == "__main__":
    main()
