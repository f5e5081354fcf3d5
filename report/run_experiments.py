"""Run the experiments of the report that have no record yet, one after the other.

    python report/run_experiments.py [NAME ...]

An experiment is an argument file, report/experiments/NAME.txt: the flags of a trainer, under a
comment that names the trainer and the seeds. Its record is report/results/NAME.json: the means over
the seeds, and for every seed what run.json and metrics.csv held. Stopped at any moment, the same
command goes on from there.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "report" / "experiments"
RESULTS = ROOT / "report" / "results"


def read_experiment(path):
    """The trainer and the seeds that the head of an argument file names."""
    head = dict(re.findall(r"^# (trainer|seeds): (.*)$", path.read_text(), re.M))
    return head["trainer"], [int(seed) for seed in head["seeds"].split()]


def read_runs(path):
    """The runs in a record, as far as there is one."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def summary(name, runs):
    """The record of an experiment."""
    trainer, seed = f"train_mlp_{runs[0]['framework']}.py", runs[0]["seed"]
    return {
        "command": f"python {trainer} @report/experiments/{name}.txt --seed {seed}",
        "dataset": runs[0]["dataset"],
        "device": "cuda" if runs[0]["flags"].get("use_gpu") else "cpu",
        "seeds": [run["seed"] for run in runs],
        **{key: fmean(run[key] for run in runs) for key in ("test_accuracy", "train_seconds")},
        "runs": runs,
    }


def train(trainer, arguments, seed, folder):
    """Trains, or goes on training, in folder. Returns what the run recorded."""
    command = [sys.executable, trainer, f"@{arguments.relative_to(ROOT)}", "--seed", str(seed)]
    command += ["--run_dir", str(folder), *(["--resume"] if folder.exists() else [])]
    subprocess.run(command, cwd=ROOT, check=True)
    return read_run(folder)


def read_run(folder):
    """What run.json and metrics.csv of a run hold."""
    with open(folder / "metrics.csv", newline="") as file:
        columns = zip(*csv.reader(file), strict=True)
        history = {name: [float(value) for value in column] for name, *column in columns}
    return {**json.loads((folder / "run.json").read_text()), "history": history}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="experiments to run (default: all)")
    names = parser.parse_args().names
    if missing := [name for name in names if not (EXPERIMENTS / f"{name}.txt").exists()]:
        parser.error(f"no experiment {', '.join(missing)} in report/experiments")
    failed = []
    for path in sorted(EXPERIMENTS.glob("*.txt")):
        if names and path.stem not in names:
            continue
        trainer, seeds = read_experiment(path)
        target = RESULTS / f"{path.stem}.json"
        runs = read_runs(target)
        for seed in seeds:
            if seed in [run["seed"] for run in runs]:
                continue
            print(f"{path.stem}, seed {seed}", flush=True)
            try:
                runs.append(train(trainer, path, seed, ROOT / "runs" / path.stem / str(seed)))
            except subprocess.CalledProcessError:  # it has said why
                failed.append(f"{path.stem}, seed {seed}")
                continue
            temporary = target.with_suffix(".tmp")
            temporary.write_text(json.dumps(summary(path.stem, runs), indent=1) + "\n")
            os.replace(temporary, target)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
