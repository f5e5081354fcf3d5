"""What README and figures say is what the records in report/results say."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cifar10_utils
import train_mlp_pytorch
import training

ROOT = Path(cifar10_utils.__file__).parent
RESULTS = ROOT / "report" / "results"
RECORDS = sorted(RESULTS.glob("*.json"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_readme_are_those_of_the_records():
    text = (ROOT / "README.md").read_text()
    assert load(ROOT / "report" / "tables.py").filled(text) == text


def test_every_experiment_is_recorded_for_every_seed():
    runner = load(ROOT / "report" / "run_experiments.py")
    experiments = sorted(runner.EXPERIMENTS.glob("*.txt"))
    assert experiments
    for path in experiments:
        _, seeds = runner.read_experiment(path)
        target = runner.RESULTS / f"{path.stem}.json"
        runs = runner.read_runs(target)
        assert [run["seed"] for run in runs] == seeds, path.name
        assert json.loads(target.read_text()) == runner.summary(path.stem, runs)
        for run in runs:
            assert (run["status"], run["dataset"]) == ("completed", "cifar10")


def test_a_record_has_the_flags_of_its_experiment(monkeypatch):
    monkeypatch.chdir(ROOT)  # argument files name each other from there
    runner = load(ROOT / "report" / "run_experiments.py")
    parsers = {"numpy": training.make_parser("x"), "pytorch": train_mlp_pytorch.make_parser()}
    for path in runner.EXPERIMENTS.glob("*.txt"):
        for run in runner.read_runs(runner.RESULTS / f"{path.stem}.json"):
            args = parsers[run["framework"]].parse_args([f"@{path}", "--seed", str(run["seed"])])
            flags = {k: v for k, v in vars(args).items() if k not in training.NOT_IN_RECORD}
            assert set(run["flags"]) <= set(flags), path.name
            if not flags.get("epochs"):
                flags["max_steps"] = flags["max_steps"] or training.MAX_STEPS
            for name, value in flags.items():  # a record from before a flag lacks it: it was off
                assert (run["flags"].get(name) or None) == (value or None), (path.name, name)


def test_experiments_go_on_where_they_stopped_and_after_one_that_fails(tmp_path, monkeypatch):
    runner = load(ROOT / "report" / "run_experiments.py")
    for name in ("EXPERIMENTS", "RESULTS"):
        monkeypatch.setattr(runner, name, tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_experiments.py"])
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("# trainer: train_mlp_numpy.py\n# seeds: 1 2\n")
    ends = {("a", 2): KeyboardInterrupt, ("b", 1): subprocess.CalledProcessError(1, "x")}
    asked = []

    def train(trainer, arguments, seed, folder):
        asked.append((arguments.stem, seed))
        if asked[-1] in ends:
            raise ends.pop(asked[-1])
        return {"framework": "numpy", "dataset": "cifar10", "seed": seed, "flags": {},
                "test_accuracy": seed / 10, "train_seconds": 1.0}  # fmt: skip

    monkeypatch.setattr(runner, "train", train)
    with pytest.raises(KeyboardInterrupt):
        runner.main()
    with pytest.raises(SystemExit, match="failed: b, seed 1"):
        runner.main()
    runner.main()
    assert asked == [("a", 1), ("a", 2), ("a", 2), ("b", 1), ("b", 2), ("b", 1)]
    assert json.loads((tmp_path / "a.json").read_text())["test_accuracy"] == pytest.approx(0.15)
    assert json.loads((tmp_path / "b.json").read_text())["seeds"] == [2, 1]


def test_the_two_halves_follow_the_same_curve():
    runs = [
        {run["seed"]: run["history"] for run in json.loads(path.read_text())["runs"]}
        for path in (RESULTS / "numpy-100.json", RESULTS / "pytorch-100.json")
    ]
    for seed, theirs in runs[1].items():
        ours = runs[0][seed]
        for name in ("train_loss", "test_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3)
        for name in ("train_accuracy", "test_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=3e-3)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_records_name_no_path_of_a_machine(path):
    assert not re.search(r"[\" =]/", path.read_text())


def test_the_figures_are_drawn_from_the_records(tmp_path, monkeypatch):
    plot = load(ROOT / "plots" / "plot.py")
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, name: drawn.append(name))
    plot.main()
    assert drawn
    for name in drawn:
        assert (ROOT / "plots" / name).is_file()
