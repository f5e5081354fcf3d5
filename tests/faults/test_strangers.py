"""Files from strangers: batches, checkpoints and records, altered in every way. Each is
loaded right or refused in one line; none of their code runs, and nothing is written elsewhere.

The ordinary suite alters some of each kind, `-m slow` thousands.
"""

import collections
import functools
import importlib
import os
import random
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from common import TRAINERS, Killed, listing, outcome, refused, times

import cifar10_utils
from cifar10_utils import parse_batch
from training.files import read_checkpoint, write_checkpoint
from training.run import Run

resource = pytest.importorskip("resource", reason="limits of memory are those of Unix")


@contextmanager
def little_memory(mb=300):
    """Limits this process, on Linux, to mb MB more than it has now."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + mb * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# How to alter a file ------------------------------------------------------------------------------


def altered(raw, rng, other=b""):
    """raw with a bit flipped, pieces cut, doubled or taken from other: once or more
    often, mostly near the beginning or the end."""
    out = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        i = rng.randrange(min(len(out), rng.choice([700, 700, 10**9])) + 1)
        i, n = rng.choice([i, len(out) - i]), rng.choice([1, 4, 50, 5000])
        flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in out[i : i + 1])
        taken = other[rng.randrange(len(other) + 1) :][:n]
        gone, piece = rng.choice([
            (1, flipped), (n, b""), (n, out[i : i + n] * 2), (4, rng.randbytes(n)), (0, taken),
            (4, taken), (rng.choice([0, len(out)]), b""),
        ])  # fmt: skip
        out[i : i + gone] = piece
    return bytes(out)


NASTY = ["null", "true", "-1", "0", "1", "7", "2147483648", "1" + 400 * "0", "0.5", "5.0", "1e308",
         "1_0", "NaN", "nan", "Infinity", "1e999", "[]", "[[]]", "{}", "", '"', '""', '"x"', "x",
         "1,2", "\0", "\n", '"\\u001b[2J"', '"' + 200_000 * "x", 5000 * "9", '"completed"',
         '"running"', '"cifar10"', '"synthetic"', '"numpy"', '"pytorch"']  # fmt: skip


def altered_text(raw, rng, other=b""):
    """JSON or a table with another word in the place of one or more."""
    if rng.random() < 0.3:
        return altered(raw, rng, other)
    text = raw.decode()
    for _ in range(rng.choice([1, 1, 2])):
        word = rng.choice(list(re.finditer(r'"[^"]*"|[-+.\w]+', text)))
        text = text[: word.start()] + rng.choice(NASTY) + text[word.end() :]
    return text.encode()


# Data ---------------------------------------------------------------------------------------------


SPOILT = {  # what is done to a folder of data, and what is then said
    "no CIFAR-10 in": lambda folder: [path.unlink() for path in folder.iterdir()],
    "lacks test_batch": lambda folder: (folder / "test_batch").unlink(),
    "data_batch_2: truncated or altered": lambda folder: os.truncate(folder / "data_batch_2", 1000),
    "test_batch: truncated or altered": lambda folder: (folder / "test_batch").write_bytes(
        (folder / "data_batch_5").read_bytes()
    ),
    "batches.meta: truncated or altered": lambda folder: (folder / "batches.meta").write_text("x"),
}


@pytest.mark.parametrize("said", SPOILT)
def test_bad_data_is_refused_and_nothing_is_written(trainer, said, data, tmp_path):
    SPOILT[said](Path(data))
    assert said in refused(trainer.main, ["--data_dir", data, "--run_dir", str(tmp_path / "a")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "old, new",
    [
        (b"numpy\nndarray", b"posix\nsystem"),
        (b"numpy\ndtype", b"builtins\neval"),
        (b"numpy\ndtype", b"numpy\nmemmap"),
        (b"numpy\ndtype", b"numpy.dtype\nnewbyteorder"),
    ],
)
def test_parse_batch_refuses_other_names_than_the_official_ones(old, new, data, tmp_path):
    raw = (Path(data) / "data_batch_1").read_bytes()
    assert old in raw
    (tmp_path / "batch").write_bytes(new.join(raw.rsplit(old, 1)))
    with pytest.raises(ValueError, match=f"refused: {new.decode().replace(chr(10), '.')}, "):
        parse_batch(tmp_path / "batch")


# Checkpoints and records --------------------------------------------------------------------------


SMALL = ["--dnn_hidden_units", "8", "--max_steps", "12", "--batch_size", "20", "--eval_freq", "5"]
OPTIONS = {
    "numpy": ["--validation_size", "15"],
    "pytorch": ["--validation_size", "15", "--optimizer", "adamw"],
}


@pytest.fixture(params=TRAINERS)
def runs(request, data, tmp_path, monkeypatch, no_curves):
    """Two runs of a trainer, one that was killed after step 10 and one to the end, and a function
    that resumes a folder."""
    load = functools.cache(cifar10_utils.get_cifar10)

    def load_again(*args, **options):
        splits = load(*args, **options)
        splits.train.position = 0
        return splits

    monkeypatch.setattr(cifar10_utils, "get_cifar10", load_again)
    monkeypatch.chdir(tmp_path)
    trainer = importlib.import_module(f"train_mlp_{request.param}")
    flags = ["--data_dir", data, *SMALL, *OPTIONS[request.param], "--run_dir"]
    tally = Run.tally

    def killed(self, *args):
        if self.step == 11:
            raise Killed
        tally(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "tally", killed)
        trainer.main([*flags, "killed"])
    trainer.main([*flags, "whole"])
    return lambda folder: outcome(trainer.main, [*flags, str(folder), "--resume"])


@times(40, 1000)
@pytest.mark.parametrize("kind", ["checkpoint", "run.json", "metrics.csv"])
def test_altered_checkpoints_and_records(runs, kind, times, tmp_path):
    alter = altered if kind == "checkpoint" else altered_text
    whole, found = (tmp_path / "whole" / "metrics.csv").read_bytes(), collections.Counter()
    folder, outside = tmp_path / "in" / "run", sorted(tmp_path.iterdir())
    with little_memory():
        for i in range(times):
            rng = random.Random(i)
            source = tmp_path / "killed"
            if kind == "metrics.csv" or (kind == "run.json" and rng.random() < 0.5):
                source = tmp_path / "whole"
            shutil.copytree(source, folder)
            (path,) = folder.glob(f"{kind}*")
            other = next((tmp_path / "whole").glob(f"{kind}*")).read_bytes()
            raw = path.read_bytes()
            path.write_bytes(alter(raw, rng, other) if i else raw)  # the first as it was
            try:
                status, line = runs(folder)
            except BaseException as error:
                error.add_note(f"alteration {i} of {kind}")
                raise
            assert "alloc" not in line and "MemoryError" not in line, i
            same = (folder / "metrics.csv").read_bytes() == whole
            found["loaded" if status == 0 else "refused" if status == 2 else "not finite"] += 1
            assert i or status == 0
            if status == 0 and (kind == "run.json" or not i):
                assert same, i
            shutil.rmtree(folder)
    (tmp_path / "in").rmdir()
    assert min(found["refused"], found["loaded"]) > times // 50
    assert sorted(tmp_path.iterdir()) == outside


def forge(checkpoint, change):
    """Changes what a checkpoint holds by change(state)."""
    state = read_checkpoint(checkpoint)
    change(state)
    write_checkpoint(checkpoint, state)


TENSORS = [
    lambda state: state["optimizer"].clear(),
    lambda state: state["optimizer"].update(param_groups=[]),
    lambda state: state["best"].update({key: torch.zeros(2) for key in state["best"]}),
    lambda state: state["network"].update(more=torch.zeros(2)),
]
ARRAYS = [
    lambda state: state["network"].update({"modules.0.weight": np.zeros((3072, 8), np.float32)}),
    lambda state: state["network"].update({"modules.0.bias": np.zeros(8, np.float32)}),
    lambda state: state["network"].update(more=np.zeros(2)),
]
EITHER = [lambda state: state["best"].popitem(), lambda state: state.pop("network")]


def test_checkpoints_that_no_run_writes_are_refused(runs, tmp_path):
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    raw = checkpoint.read_bytes()
    values = TENSORS if checkpoint.suffix == ".pt" else ARRAYS
    for i, change in enumerate([*EITHER, *values]):
        checkpoint.write_bytes(raw)
        forge(checkpoint, change)
        status, line = runs("killed")
        assert status == 2 and "is damaged" in line, i


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_checkpoint_does_not_run(runs, tmp_path):
    """In the pickle that is all of a .pt, or in an array of objects of a .npz."""
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    evil = Evil() if checkpoint.suffix == ".pt" else np.array(Evil(), object)
    forge(checkpoint, lambda state: state["network"].update(evil=evil))
    status, line = runs("killed")
    assert status == 2 and "is damaged" in line
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "name, old, new, complaint",
    [
        ("run.json", '"steps": 12', '"steps": 999999999999999', "not that of this run"),
        ("run.json", '"steps": 12', '"steps": "12"', "not that of this run"),
        ("run.json", '"steps": 12', '"steps":', "run.json or metrics.csv in"),
        ("run.json", '"test_loss": 2', '"test_loss": NaN, "x": 2', "not a finite number"),
        ("run.json", '"cifar10"', '"\\u001b[2J\\n"', "unknown framework or dataset"),
        ("run.json", '"cifar10"', "[]", "unknown framework or dataset"),
        ("run.json", '"framework": "', '"framework": "\\n', "unknown framework or dataset"),
        ("run.json", '"seed": 42,\n  "val', '"seed": "\\n\\u001b",\n  "val', "--seed is 42 now"),
        ("run.json", '"seed": 42,\n  "val', f'"seed": "{9 * "x" * 999}",\n  "val', "--seed is 42"),
        ("metrics.csv", "\n5,", "\n\n5,", "IndexError"),
        ("metrics.csv", "\n5,", "\n" + 200_000 * "5" + ",", "field larger than"),
        ("metrics.csv", "\n5,", "\n5.0,", "ValueError"),
        ("metrics.csv", "\n12,", "\n11,", "not that of this run"),
        ("metrics.csv", "\n5,", "\n5,nan,", "ValueError"),
        ("metrics.csv", "\n0,", "\n0,,", "ValueError"),
        ("metrics.csv", "train_loss", "train_lass", "not that of this run"),
    ],
    ids=str,
)
def test_records_that_no_run_has(runs, name, old, new, complaint, tmp_path):
    path = tmp_path / "whole" / name
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    before = listing(tmp_path)
    status, line = runs("whole")
    assert status == 2 and complaint in line and len(line) < 1000
    assert listing(tmp_path) == before
