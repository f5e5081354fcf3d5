"""Wrong flags: each is refused in one line with status 2, before anything is written."""

import os
import shlex

import pytest
from common import record_of, refused, results

from training.argument_files import with_files

BOTH = {  # what is named, and where
    "''": ["--learning_rate=", "--run_dir=", "--data_dir="],
    "'x'": ["--batch_size x", "--learning_rate x", "--dnn_hidden_units 100,x"],
    "'-1'": ["--seed -1", "--learning_rate -1", "--dnn_hidden_units=-1", "--validation_size -1"],
    "'0'": ["--max_steps 0", "--eval_freq 0", "--batch_size 0", "--learning_rate 0"],
    "'1.5'": ["--seed 1.5", "--batch_size 1.5", "--dnn_hidden_units 1.5"],
    "'nan'": ["--learning_rate nan"],
    r"'\ud800'": ["--run_dir \ud800"] if os.name == "posix" else [],  # which cannot encode it
    "'4294967296'": ["--seed 4294967296"],
    "--seed: '--' is no value": ["--seed=--"],
    "batch_size 51": ["--batch_size 51"],
    "31 exceeds the 30": ["--batch_size 31 --validation_size 20"],
    "50 is not from 0 to 49": ["--validation_size 50"],
    "--learning-rate": ["--learning-rate 1"],
    "--learn": ["--learn 1"],  # no abbreviations
    "stray": ["stray"],
    "missing.txt": ["@missing.txt"],
    "--data_dir": ["--synthetic"],  # and --data_dir
    "--run_dir": ["--resume"],
    300 * "a": ["--run_dir " + 300 * "a"],
}
PYTORCH = {
    "'-0.5'": ["--random_affine -0.5"],
    "'1'": ["--label_smoothing 1", "--dropout 1"],
    "'sigmoid'": ["--activation sigmoid"],
    "hidden layer": ["--dnn_hidden_units= --dropout 0.1", "--dnn_hidden_units= --activation relu"],
    "--whiten needs --half_resolution": ["--whiten 0.3"],
    "--epochs and --max_steps": ["--epochs 3 --max_steps 1400"],
    "more than one example": ["--normalization batch --batch_size 1"],
    "must be below the 10 steps": ["--warmup_steps 10 --max_steps 10"],
    "must be below the 5 steps": ["--warmup_steps 9 --epochs 1"],
}


def test_wrong_flags_are_refused_and_nothing_is_written(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = [*BOTH.items(), *(PYTORCH.items() if run.framework == "pytorch" else [])]
    for named, flags in ((named, flags) for named, several in table for flags in several):
        argv = ["--data_dir", data, "--batch_size", "10", *shlex.split(flags)]
        assert named in refused(run.trainer.main, argv), flags
        assert list(tmp_path.iterdir()) == [], flags


# Flags that are right in unusual ways -------------------------------------------------------------


def test_paths_may_begin_with_a_tilde(run, data, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    whole = results(run("whole"))
    (tmp_path / "data").symlink_to(data, target_is_directory=True)
    run("a", "--data_dir", "~/data", "--run_dir", "~/runs/b")
    assert results(tmp_path / "runs" / "b") == whole
    assert run.trainer.main(["--resume", "--run_dir", "~/runs/b"]) == run.history
    argv = ["--resume", "--run_dir", tmp_path / "runs" / "b", "--max_steps", 12]  # no strings
    assert run.trainer.main(argv) == run.history


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
    for content, complaint in (
        (b'it"s" -x=\'a b', ": 'a b begins a quote"),
        (b"@loop", "itself"),
        (b"\xff", "read"),
    ):
        (tmp_path / "loop").write_bytes(content)
        line = refused(run, "y", f"@{tmp_path}/loop")
        assert str(tmp_path / "loop") in line and complaint in line
    assert not (tmp_path / "y").exists()


def test_quotes_in_an_argument_file_may_span_lines(tmp_path):
    (tmp_path / "file").write_text("\"a\n#b\" c'd\ne' # it's a comment\nf")
    assert [*with_files([f"@{tmp_path}/file"])] == ["a\n#b", "cd\ne", "f"]


def test_help_lists_the_flags(trainer, capsys):
    with pytest.raises(SystemExit) as end:
        trainer.main(["--help"])
    assert not end.value.code and "--dnn_hidden_units" in capsys.readouterr().out
