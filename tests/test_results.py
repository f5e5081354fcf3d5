"""What README and figures say is what the records in report/results say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import cifar10_utils

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
