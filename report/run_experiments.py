"""Run the experiments of the report that have no record yet, one after the other.

    python -m report.run_experiments [NAME ...]

An experiment is an argument file, report/experiments/NAME.txt: the flags of a trainer, below a
comment that names the trainer and the seeds. Its record, report/results/NAME.json, holds the means
over the seeds, and for every seed what run.json and metrics.csv held. The script can be stopped at
any moment; the same command then continues.
"""

import argparse
import json
import signal
import subprocess
import sys
from statistics import fmean

from report import records
from training.errors import RunError, Stopped, exit_with_message, on_signals


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


def train(name, seed):
    """Trains in runs/NAME/SEED, or continues there. Returns what the run recorded. Raises RunError
    if it fails, which the trainer has explained; Stopped if a signal ends it, with all saved."""
    folder = records.ROOT / "runs" / name / str(seed)
    command = [sys.executable, records.experiment(name)[0], f"@report/experiments/{name}.txt"]
    command += ["--seed", str(seed), "--run_dir", str(folder)]
    command += ["--resume"] if (folder / "run.json").exists() else []
    trainer = subprocess.Popen(command, cwd=records.ROOT)
    # A terminal sends Ctrl-C to the trainer too; SIGTERM may be for this process alone.
    with on_signals(lambda number, _: number == signal.SIGTERM and trainer.terminate()):
        status = trainer.wait()
    if status > 128:
        raise Stopped(status - 128)
    if status:
        raise RunError(f"{name}, seed {seed}")
    return records.read_finished(folder)


@exit_with_message
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    known = sorted(path.stem for path in records.EXPERIMENTS.glob("*.txt"))
    names = parser.parse_args(argv).names or known
    if unknown := set(names) - set(known):
        parser.error(f"no experiment {', '.join(unknown)} in report/experiments")
    failed = []
    for name in names:
        for seed in records.experiment(name)[1]:
            runs = records.runs_of(name)
            if records.matching(runs, seed=seed):
                continue
            print(f"{name}, seed {seed}", flush=True)
            try:
                runs.append(train(name, seed))
            except RunError as error:
                failed.append(str(error))
            else:
                records.write(name, json.dumps(summary(name, runs), indent=1) + "\n")
    if failed:
        raise RunError(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
