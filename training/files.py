"""Atomic replacement of files, locks on folders, and checkpoints."""

import io
import os
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # on Windows nothing stops two runs from sharing a folder
    fcntl = None


@contextmanager
def replacing(path):
    """Opens a binary file that replaces path once the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a link to elsewhere: never write into it
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it is gone unless something failed
            temporary.unlink()


@contextmanager
def locked(folder, wait=False):
    """Locks folder, except on Windows. If another process holds the lock, waits for it or raises
    BlockingIOError."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def write_checkpoint(path, state):
    """Writes state, a dict of dicts: of strings, and of arrays (.npz) or tensors (.pt)."""
    content = io.BytesIO()  # torch.save to a file hides why it failed, as on a full disk
    if path.suffix == ".npz":
        np.savez(content, **{f"{part}/{k}": v for part in state for k, v in state[part].items()})
    else:
        import torch  # not at the top: the NumPy trainer runs without it

        torch.save(state, content)
    with replacing(path) as file:
        file.write(content.getbuffer())


def read_checkpoint(path):
    """What write_checkpoint wrote. Raises an exception for anything else; runs no code from it."""
    raw = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(raw) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} has the wrong checksum")
    raw.seek(0)
    if path.suffix != ".npz":
        import torch

        return torch.load(raw, map_location="cpu", weights_only=True)
    state = {}
    with np.load(raw, allow_pickle=False) as arrays:
        for key, value in arrays.items():
            part, name = key.split("/")
            state.setdefault(part, {})[name] = value
    return state


def load_weights(folder):
    """The weights that the finished run in folder was tested with, for load_state_dict()."""
    paths = [*Path(folder).glob("checkpoint.*")]
    if len(paths) != 1:
        raise FileNotFoundError(f"{folder} holds {len(paths)} checkpoints: give a run's folder")
    state = read_checkpoint(paths[0])
    return state.get("best") or state["network"]
