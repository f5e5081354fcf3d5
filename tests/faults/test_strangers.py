"""Files from strangers: none of their code runs, and each is refused in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from common import outcome, refused

from cifar10_utils import parse_batch
from training.files import read_checkpoint, write_checkpoint

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
def test_bad_data_is_refused_and_nothing_is_written(run, said, data):
    SPOILT[said](Path(data))
    assert said in refused(run, "a")
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    "old, new",
    [
        (b"numpy\nndarray", b"posix\nsystem"),
        (b"numpy\ndtype", b"builtins\neval"),
        (b"numpy\ndtype", b"numpy\nmemmap"),
        (b"numpy\ndtype", b"numpy.dtype\nnewbyteorder"),
    ],
)
def test_a_batch_with_other_names_than_the_official_ones_is_refused(old, new, data, tmp_path):
    raw = (Path(data) / "data_batch_1").read_bytes()
    assert old in raw
    (tmp_path / "batch").write_bytes(new.join(raw.rsplit(old, 1)))
    with pytest.raises(ValueError, match=f"refused: {new.decode().replace(chr(10), '.')}, "):
        parse_batch(tmp_path / "batch")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def forged(state, kind):
    """A checkpoint's content as no run writes it."""
    name, value = next(iter(state["network"].items()))
    if kind == "code":  # in the pickle that is all of a .pt, or in an array of objects of a .npz
        state["network"]["evil"] = np.array(Evil(), object) if type(value) is np.ndarray else Evil()
    elif kind == "no network":
        del state["network"]
    elif kind == "no best weights":
        state["best"].popitem()
    elif kind == "another shape":
        state["network"][name] = value[:1]
    elif kind == "one name more":
        state["network"]["more"] = value
    elif kind == "no optimizer":
        state["optimizer"] = {"param_groups": []}
    return state


@pytest.mark.parametrize(
    "kind",
    ["code", "no network", "no best weights", "another shape", "one name more", "no optimizer"],
)
def test_a_checkpoint_that_no_run_writes_is_damaged(run, kind, monkeypatch):
    if kind == "no optimizer" and run.framework == "numpy":
        pytest.skip("the NumPy trainer has none")
    monkeypatch.chdir(run.folder)
    flags = ["--validation_size", "15"]
    folder = run("a", *flags)
    (folder / "run.json").write_text(
        (folder / "run.json").read_text().replace('"completed"', '"interrupted"')
    )
    (checkpoint,) = folder.glob("checkpoint.*")
    write_checkpoint(checkpoint, forged(read_checkpoint(checkpoint), kind))
    status, line = outcome(run, "a", *flags, "--resume")
    assert status == 2 and f"{checkpoint} is damaged" in line
    assert not Path("ran").exists()
