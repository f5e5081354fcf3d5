"""Files from strangers: none of their code runs, and each is refused in one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from common import interrupted, refused

from cifar10_utils import parse_batch
from training.files import read_checkpoint, write_checkpoint

SPOILT = {  # what is done to a folder of data, and what is then said
    "no CIFAR-10 in": lambda folder: [path.unlink() for path in folder.iterdir()],
    "lacks test_batch": lambda folder: (folder / "test_batch").unlink(),
    "data_batch_2: truncated or altered": lambda folder: os.truncate(folder / "data_batch_2", 1000),
    "batches.meta: truncated or altered": lambda folder: (folder / "batches.meta").write_text("x"),
}


@pytest.mark.parametrize("said", SPOILT)
def test_bad_data_is_refused_and_nothing_is_written(run, said, data):
    SPOILT[said](Path(data))
    assert said in refused(run, "a")
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "numpy.memmap"])
def test_a_batch_with_other_names_than_the_official_ones_is_refused(name, data, tmp_path):
    before, official, after = (Path(data) / "data_batch_1").read_bytes().rpartition(b"numpy\ndtype")
    assert official
    (tmp_path / "batch").write_bytes(before + name.replace(".", "\n").encode() + after)
    with pytest.raises(ValueError, match=f"refused: {name}, "):
        parse_batch(tmp_path / "batch")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def change_progress(state, **changes):
    state["run"]["progress"] = json.dumps(json.loads(str(state["run"]["progress"])) | changes)


FORGED = {  # how the parts of a checkpoint are changed
    "another shape": lambda state, name: state["network"].update(
        {name: state["network"][name][:1]}
    ),
    "no network": lambda state, name: state.pop("network"),
    "no optimizer": lambda state, name: state.update(optimizer={"param_groups": []}),
    "another progress": lambda state, name: state.update(run={"progress": "[]"}),
    "another step": lambda state, name: change_progress(state, step="x"),
    "other columns": lambda state, name: change_progress(state, history=[]),
    # in the pickle that is all of a .pt, or in an array of objects of a .npz
    "code": lambda state, name: state["network"].update(evil=np.array(Evil(), object)),
    "code for torch": lambda state, name: state["network"].update(evil=Evil()),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_checkpoint_that_no_run_writes_is_refused(run, kind, monkeypatch):
    monkeypatch.chdir(run.folder)
    (checkpoint,) = interrupted(run, "a").glob("checkpoint.*")
    state = read_checkpoint(checkpoint)
    if ("torch" in kind or "optimizer" in kind) and run.framework == "numpy":
        pytest.skip("only PyTorch's checkpoints hold that")
    FORGED[kind](state, next(iter(state["network"])))
    write_checkpoint(checkpoint, state)
    assert f"{checkpoint.name} is damaged" in refused(run, "a", "--resume")
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [[], {"run": 5}], ids=str)
def test_what_torch_saved_of_something_else_is_refused(run, content):
    if run.framework == "numpy":
        pytest.skip("only PyTorch's checkpoints hold that")
    import torch

    (checkpoint,) = interrupted(run, "a").glob("checkpoint.*")
    torch.save(content, checkpoint)
    before = checkpoint.read_bytes()
    assert f"{checkpoint.name} is damaged" in refused(run, "a", "--resume")
    assert checkpoint.read_bytes() == before
