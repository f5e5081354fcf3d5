"""Wrong flags, and command lines that nobody would think of: each runs or is refused in one line
with status 2, before anything is written."""

import functools
import os
import random
import shutil

import pytest
import torch
from common import outcome, refused, times

import cifar10_utils
import train_mlp_pytorch
from training.flags import make_parser
from training.run import Run

# Wrong flags


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--learning-rate", "0.1"], "--learning-rate"),
        (["--learn", "0.1"], "--learn"),
        (["--nonsense"], "--nonsense"),
        (["stray"], "stray"),
        (["@missing.txt"], "missing.txt"),
        (["@\0"], "unreadable argument file"),
        *(([f"--{n}=--"], f"--{n}: '--' is no") for n in ("seed", "dnn_hidden_units", "run_dir")),
        *(
            (["--dnn_hidden_units", u], u)
            for u in ("100,x", "0", "-5", "100,,5", "1e3", ",", "5.0")
        ),
        (["--dnn_hidden_units", "999999999"], "999999999"),
        *(([f"--learning_rate={r}"], r) for r in ("-1", "0", "nan", "inf", "-inf", "x", "")),
        *((["--batch_size", b], b) for b in ("0", "2.5", "-1", "x")),
        (["--batch_size", "51"], "51 is above 50"),
        (["--batch_size", "31", "--validation_size", "20"], "31 is above 30"),
        *((["--seed", s], s) for s in ("-1", "1.5", "4294967296")),
        *((["--max_steps", s], s) for s in ("0", "-3", "1e3")),
        *((["--eval_freq", s], s) for s in ("0", "-3", "1.0")),
        *((["--validation_size", s], s) for s in ("-1", "50", "51", "x")),
        (["--synthetic"], "--data_dir"),
        (["--run_dir", ""], "is not the name of a folder"),
        (["--data_dir", ""], "is not the name of a folder"),
        (["--run_dir", "new/" + 300 * "a"], "name too long" if os.name == "posix" else "--run_dir"),
        (["--resume"], "--run_dir"),
    ],
    ids=str,
)
def test_bad_flags_are_refused_and_nothing_is_written(
    trainer, flags, named, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert named in refused(trainer.main, ["--data_dir", data, "--batch_size", "10", *flags])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--whiten", "0.3"], "--whiten needs --half_resolution"),
        (["--epochs", "3", "--max_steps", "1400"], "--epochs and --max_steps"),
        (["--normalization", "batch", "--batch_size", "1"], "more than one example"),
        (["--random_affine", "-0.5"], "'-0.5'"),
        (["--warmup_steps", "10", "--max_steps", "10"], "must be below the 10 steps"),
        (["--warmup_steps", "9", "--epochs", "1"], "must be below the 5 steps"),
        (["--dropout", "0.1", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--activation", "relu", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--normalization", "batch", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--dropout", "0.999"], "'0.999'"),
        (["--optimizer", "rmsprop"], "'rmsprop'"),
        (["--label_smoothing", "1"], "'1'"),
        (["--weight_decay", "inf"], "'inf'"),
        (["--l1", "nan"], "'nan'"),
        (["--shift", "32"], "'32'"),
        (["--activation", "sigmoid"], "'sigmoid'"),
        (["--activation=--"], "'--' is no value"),
        (["--schedule", "linear"], "'linear'"),
        (["--epochs", "0"], "'0'"),
    ],
    ids=str,
)
def test_contradictory_and_bad_options_are_refused(flags, named, data, tmp_path):
    argv = ["--data_dir", data, "--batch_size", "10", "--run_dir", str(tmp_path / "a"), *flags]
    assert named in refused(train_mlp_pytorch.main, argv)
    assert list(tmp_path.iterdir()) == []


def test_batch_norm_with_several_cpu_processes_is_refused(data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["--data_dir", data, "--batch_size", "10", "--normalization", "batch"]
    assert "--normalization batch needs --use_gpu" in refused(train_mlp_pytorch.main, argv)
    argv = ["--data_dir", data, "--batch_size", "5"]
    assert "--batch_size 5 does not divide into 2" in refused(train_mlp_pytorch.main, argv)


@pytest.mark.parametrize("needed, there", [(1, 0), (2, 1)])
def test_every_process_of_a_machine_needs_its_own_device(needed, there, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(needed))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    line = refused(train_mlp_pytorch.main, ["--use_gpu"])
    assert f"--use_gpu needs {needed} CUDA device(s), but there are {there}" in line


# Any command line


NUMBERS = ["0", "1", "2", "3", "10", "20", "0.1", "0.9", "1000"]
GOOD = {
    "--dnn_hidden_units": ["", " ", "8", "8,5", " 3 , 4 ", "1,1,1,1"],
    "--learning_rate": ["1e-3", "1e-12", "1e12", "1e38", "1e-38", "0.5", "1"],
    "--max_steps": ["1", "2", "4"],
    "--batch_size": ["1", "2", "3", "10", "20", "50"],
    "--eval_freq": ["1", "2", "3", "10", "1000000000"],
    "--seed": ["0", "7", "4294967295"],
    "--validation_size": ["0", "1", "40", "49"],
    "--data_dir": ["data", "data/cifar-10-batches-py", "./data/"],
    "--run_dir": ["new", "new/deeper", "./a b", "r\N{SNOWMAN}n", "new\nline", "-", "empty"],
}
ODD = ["0", "-0", "-1", "51", "1e3", "2.5", "nan", "inf", "-inf", "1_0", " 7 ", "+5", "٣", "0x10",
       "1e999", "9" * 5000, "1000000001", "", "\N{SUPERSCRIPT TWO}", "missing", "full", "file",
       "file/x", "\0", "a" * 300, "/proc/x", "~", ".", "..", "\udcff", "\x1b[2J", "@", "--", "%s",
       "{}", "8,,5", ",", "8;5"]  # fmt: skip
SMALL = ["--data_dir", "data", "--max_steps", "2", "--batch_size", "10"]


def values_of_flags(trainer):
    """Every flag of a trainer, with values that it may take; an empty list if it takes none."""
    parser = getattr(trainer, "make_parser", lambda: make_parser(""))()
    actions = {action.option_strings[-1]: action for action in parser._actions}
    del actions["--help"]
    return {
        name: GOOD.get(name) or action.choices or (NUMBERS if action.nargs is None else [])
        for name, action in actions.items()
    }


def command_line(values, rng):
    """Any command line, mostly with nothing wrong but the combination."""

    def any_flag():
        return rng.choice([*values, *2 * list(GOOD)])

    def written(flag, value):
        return rng.choice([[f"{flag}={value}"], [flag, value]])

    def good():
        flag = any_flag()
        return written(flag, rng.choice([*values[flag]])) if values[flag] else [flag]

    def odd():
        text = "".join(rng.choices("-=,@.09eE_ \n\0é", k=rng.randrange(9)))
        return rng.choice([rng.choice(ODD), text])

    def wrong():
        return rng.choice([
            written(any_flag(), odd()), [odd()], ["@" + odd()], [rng.choice([*values])[:-1]],
            [rng.choice(["--learning-rate=1", "--no-resume", "-h1", "--Seed", "@flags", "@wrong"])],
        ])  # fmt: skip

    pieces = [rng.choice([SMALL, SMALL, SMALL, []])]
    pieces += [good() for _ in range(rng.randrange(6))]
    pieces += [wrong() for _ in range(rng.choice([0, 0, 0, 0, 1, 2]))]
    return sum(pieces, [])


@pytest.fixture
def place(data, tmp_path, monkeypatch, no_curves):
    """A folder to work in with data, and odd things in the way; and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.data._default_data", lambda: False)
    synthetic = functools.partial(cifar10_utils.get_cifar10, data)
    monkeypatch.setattr(cifar10_utils, "get_synthetic", lambda **options: cifar10_utils.Splits(
        **vars(synthetic(**options)) | {"name": "synthetic"}))  # fmt: skip
    # Runs are long where no flag says otherwise; what they do does not depend on that.
    steps = Run.steps

    def few_steps(self):
        for step in steps(self):
            yield step
            if step == 8:
                self.step = self.total

    monkeypatch.setattr(Run, "steps", few_steps)
    shutil.copytree(data, tmp_path / "data" / cifar10_utils.FOLDER)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("my work")
    (tmp_path / "file").write_text("my work")
    (tmp_path / "flags").write_text("--seed 3 # a comment\n\n--eval_freq=2\n")
    (tmp_path / "wrong").write_bytes(b"--seed \xff\xfe\0 @wrong")
    return tmp_path


@times(50, 1500)
def test_any_command_line_runs_or_is_refused_in_one_line(trainer, times, place):
    values, outcomes = values_of_flags(trainer), []
    for i in range(times):
        argv = command_line(values, random.Random(i))
        before = {path for path in place.iterdir() if path.name != "runs"}
        try:
            status, said = outcome(trainer.main, argv)
            outcomes.append(status)
            assert ("the loss is" in said) == (status == 1)
            if status == 2:
                assert {path for path in place.iterdir() if path.name != "runs"} == before
        except BaseException as error:
            error.add_note(f"with the flags {argv}")
            raise
    assert min(outcomes.count(0), outcomes.count(2)) > times // 10
    assert (place / "full" / "mine").read_text() == (place / "file").read_text() == "my work"
