"""Wrong flags: each is refused in one line with status 2, before anything is written."""

import os

import pytest
from common import record_of, refused, results

from training.argument_files import with_files

VALUES = {  # of flags of both trainers; each is repeated in the message
    "dnn_hidden_units": ["100,x", "0", "-5", "100,,5", "1e3", ",", "5.0", "999999999"],
    "learning_rate": ["-1", "0", "nan", "inf", "-inf", "x", ""],
    "batch_size": ["0", "2.5", "-1", "x", "51"],
    "seed": ["-1", "1.5", "4294967296", "\N{SUPERSCRIPT TWO}", "1_0"],
    "max_steps": ["0", "-3", "1e3"],
    "eval_freq": ["0", "-3", "1.0"],
    "validation_size": ["-1", "50", "51", "x"],
}
BOTH = [
    *(([f"--{name}={value}"], value) for name, values in VALUES.items() for value in values),
    *(([f"--{name}=--"], f"--{name}: '--' is no") for name in (*VALUES, "run_dir")),
    *(([wrong], wrong) for wrong in ("--learning-rate=1", "--learn=1", "--nonsense", "stray")),
    (["@missing.txt"], "missing.txt"),
    (["@\0"], "cannot read the flags"),
    (["--batch_size", "31", "--validation_size", "20"], "31 is above 30"),
    (["--synthetic"], "--data_dir"),
    (["--run_dir", ""], "is not the name of a folder"),
    (["--data_dir", ""], "is not the name of a folder"),
    (["--run_dir", 300 * "a"], "name too long" if os.name == "posix" else "--run_dir"),
    (["--resume"], "--run_dir"),
]
PYTORCH = [
    *(([flag, value], repr(value)) for flag, value in (
        ("--random_affine", "-0.5"), ("--dropout", "0.999"), ("--label_smoothing", "1"),
        ("--weight_decay", "inf"), ("--l1", "nan"), ("--shift", "32"), ("--epochs", "0"),
        ("--activation", "sigmoid"), ("--optimizer", "rmsprop"), ("--schedule", "linear"))),
    *(([*flags, "--dnn_hidden_units", ""], "hidden layer") for flags in (
        ["--dropout", "0.1"], ["--activation", "relu"], ["--normalization", "batch"])),
    (["--whiten", "0.3"], "--whiten needs --half_resolution"),
    (["--epochs", "3", "--max_steps", "1400"], "--epochs and --max_steps"),
    (["--normalization", "batch", "--batch_size", "1"], "more than one example"),
    (["--warmup_steps", "10", "--max_steps", "10"], "must be below the 10 steps"),
    (["--warmup_steps", "9", "--epochs", "1"], "must be below the 5 steps"),
    (["--activation=--"], "'--' is no value"),
]  # fmt: skip


def test_wrong_flags_are_refused_and_nothing_is_written(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, named in BOTH + (PYTORCH if run.framework == "pytorch" else []):
        argv = ["--data_dir", data, "--batch_size", "10", *flags]
        assert named in refused(run.trainer.main, argv), flags
        assert list(tmp_path.iterdir()) == [], flags


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--normalization", "batch"], "--normalization batch needs --use_gpu"),
        (["--batch_size", "5"], "--batch_size 5 does not divide into 2"),
        (["--use_gpu"], "--use_gpu needs 2 CUDA device(s), but there are 1"),
    ],
)
def test_flags_that_several_processes_cannot_have(flags, named, data, monkeypatch):
    torch = pytest.importorskip("torch")
    import train_mlp_pytorch

    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**names, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    argv = ["--data_dir", data, "--batch_size", "10", *flags]
    assert named in refused(train_mlp_pytorch.main, argv)


# Flags that are right in unusual ways -------------------------------------------------------------


def test_paths_may_begin_with_a_tilde(run, data, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    whole = results(run("whole"))
    (tmp_path / "data").symlink_to(data, target_is_directory=True)
    run("a", "--data_dir", "~/data", "--run_dir", "~/runs/b")
    assert results(tmp_path / "runs" / "b") == whole
    assert run.trainer.main(["--resume", "--run_dir", "~/runs/b"]) == run.history


def test_an_argument_file_is_read_much_as_a_shell_reads_it(run, tmp_path):
    """A # begins a comment at the start of a word only, and a backslash means itself."""
    (tmp_path / "flags").mkdir()
    (tmp_path / "flags" / "outer.txt").write_bytes(
        b'\xef\xbb\xbf# a comment\r\n--dnn_hidden_units ""  # none\r\n@"in ner.txt"\r\n--seed=7\r\n'
    )
    (tmp_path / "flags" / "in ner.txt").write_text(f"--run_dir {tmp_path}/a\\b#c")
    run("x", f"@{tmp_path}/flags/outer.txt")
    record = record_of(tmp_path / "a\\b#c")
    assert record["flags"]["dnn_hidden_units"] == [] and record["seed"] == 7
    for content, complaint in ((b"--run_dir 'a", "quote"), (b"@loop", "itself"), (b"\xff", "read")):
        (tmp_path / "loop").write_bytes(content)
        line = refused(run, "y", f"@{tmp_path}/loop")
        assert str(tmp_path / "loop") in line and complaint in line
    assert not (tmp_path / "y").exists()


def test_quotes_in_an_argument_file_may_span_lines(tmp_path):
    (tmp_path / "file").write_text("\"a\n#b\" c'd\ne' # it's a comment\nf")
    assert [*with_files([f"@{tmp_path}/file"])] == ["a\n#b", "cd\ne", "f"]


def test_help_lists_every_flag(trainer, capsys):
    with pytest.raises(SystemExit) as end:
        trainer.main(["--help"])
    assert not end.value.code and "--dnn_hidden_units" in capsys.readouterr().out
