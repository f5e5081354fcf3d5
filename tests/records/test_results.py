"""What README and figures say is what the records in report/results say."""

import json
import re

import numpy as np
import pytest
from common import ended, failed, posix

pytest.importorskip("torch")
import train_mlp_pytorch
from report import comparisons, records, run_experiments, tables
from training import flags
from training.folder import NOT_RECORDED

RECORDS = sorted(records.RESULTS.glob("*.json"))
ARGUMENTS = {path.stem: path.read_text() for path in records.EXPERIMENTS.glob("*.txt")}
EXPERIMENTS = sorted(ARGUMENTS)


def test_the_tables_of_the_readme_are_those_of_the_records():
    for page in tables.PAGES:
        assert tables.filled(page) == page.read_text(encoding="utf-8")


def test_every_experiment_is_recorded_for_every_seed():
    assert EXPERIMENTS
    for name in EXPERIMENTS:
        _, seeds = records.experiment(name)
        runs = records.runs_of(name)
        assert [run["seed"] for run in runs] == seeds, name
        assert records.read(name) == run_experiments.summary(name, runs)
        for run in runs:
            assert (run["status"], run["dataset"]) == ("completed", "cifar10")


def test_a_record_has_the_flags_of_its_experiment():
    parsers = {"numpy": flags.make_parser("numpy"), "pytorch": train_mlp_pytorch.make_parser()}
    for name in EXPERIMENTS:
        for run in records.runs_of(name):
            argv = [f"@{records.EXPERIMENTS}/{name}.txt", "--seed", str(run["seed"])]
            asked = vars(flags.parse(parsers[run["framework"]], argv))
            asked = {k: v for k, v in asked.items() if k not in NOT_RECORDED}
            assert not records.differing(run["flags"], asked), name


TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

told, folder = [], Path(sys.argv[sys.argv.index("--run_dir") + 1])
signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
run = "/".join(folder.parts[-2:])
ends = json.loads(Path("ends.json").read_text())
end = ends.pop(run, 0)
Path("ends.json").write_text(json.dumps(ends))
with open("asked", "a") as asked:
    print(run, file=asked)
if end > 128:
    os.kill(os.getppid(), end - 128)
    while end == 143 and not told:
        time.sleep(0.01)
    time.sleep(0.5)  # it saves what it has, which takes a while
    print("saved", file=open("saved", "a"))
if end:
    sys.exit(end)
folder.mkdir(parents=True)
record = {"framework": "numpy", "dataset": "cifar10", "status": "completed", "flags": {},
          "seed": int(folder.name), "data_dir": None, "steps": 1, "train_seconds": 1.0,
          "test_loss": 1.0, "test_accuracy": int(folder.name) / 10}
(folder / "run.json").write_text(json.dumps(record))
(folder / "metrics.csv").write_text("step")
"""


@posix
def test_experiments_go_on_where_they_stopped_and_after_one_that_fails(tmp_path, monkeypatch):
    for name in ("ROOT", "EXPERIMENTS", "RESULTS"):
        monkeypatch.setattr(records, name, tmp_path)
    (tmp_path / "train.py").write_text(TRAINER)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("# trainer: train.py\n# seeds: 1 2\n")
    (tmp_path / "ends.json").write_text('{"a/1": 130, "a/2": 143, "b/1": 1}')
    again = "stopped: run the same command again to continue"
    for status in (130, 143):
        assert again in ended(status, run_experiments.main, [])
    assert (tmp_path / "saved").read_text() == 2 * "saved\n"
    assert "failed: b, seed 1" in failed(run_experiments.main, [])
    run_experiments.main([])
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["a/1", "a/1", "a/2", "a/2", "b/1", "b/2", "b/1"]
    assert json.loads((tmp_path / "a.json").read_text())["test_accuracy"] == pytest.approx(0.15)
    assert json.loads((tmp_path / "b.json").read_text())["seeds"] == [2, 1]


def test_the_two_halves_follow_the_same_curve():
    for run in records.runs_of("pytorch-100"):
        (ours,) = records.matching(records.runs_of("numpy-100"), seed=run["seed"])
        for name, values in run["history"].items():
            tolerance = {"rel": 2e-3} if name.endswith("loss") else {"abs": 3e-3}
            assert ours["history"][name] == pytest.approx(values, **tolerance)


def test_a_record_without_an_experiment_names_the_commit_that_can_run_it():
    parser = train_mlp_pytorch.make_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    marked = 0
    for path in RECORDS:
        record = json.loads(path.read_text())
        if "command" in record and path.stem not in EXPERIMENTS:
            marked += 1
            assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
            assert records.runs_of(record["compared_with"])
            assert set(record["flag_since_removed"].split(", ")).isdisjoint(known), path.stem
    assert marked


def test_what_counts_grows_with_the_spread_and_with_the_number_of_comparisons():
    def differences(n):
        """Of n changes without any effect, from the same three runs."""
        runs = rng.standard_normal((n + 1, 3))
        return [*(runs[1:] - runs[0])]

    rng = np.random.default_rng(0)
    few, many = (comparisons.what_counts(differences(n)) for n in (40, 4000))
    samples = differences(40)
    line = comparisons.what_counts(samples)
    assert comparisons.what_counts([2 * sample for sample in samples]) == pytest.approx(2 * line)
    # z of 0.05 / 4000 is 4.37. The standard error is (2 / 3)^0.5.
    assert few < many == pytest.approx(4.37 * (2 / 3) ** 0.5, rel=0.03)
    found = [differences(37) for _ in range(1000)]
    wrong = [max(abs(d.mean()) for d in ds) > comparisons.what_counts(ds) for ds in found]
    assert np.mean(wrong) < 0.05


def test_differences_are_of_the_same_seed_at_the_last_step():
    def run(seed, *accuracies):
        return {"seed": seed, "history": {"val_accuracy": accuracies}}

    others = [run(1, 0.2), run(2, 0.45)]
    found = comparisons.differences([run(2, 0.9, 0.5), run(1, 0.3)], others)
    assert found == pytest.approx([5, 10])
    views = run(1, 0.3, 0.6, 0.4) | {"val_accuracy": 0.75}  # averaged, with the best weights
    assert comparisons.differences([views], others) == pytest.approx([15])
    assert comparisons.differences([views | {"val_accuracy": 0.8}], [views]) == pytest.approx([5])


def test_records_name_no_path_of_a_machine():
    for path in RECORDS:
        assert not re.search(r"[\" =]/|data_dir", path.read_text()), path
