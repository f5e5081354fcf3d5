"""A file is there whole or not at all; locks on folders; checkpoints."""

import csv
import io
import os
import pickle
import sys
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from training.errors import OUT_OF_MEMORY, RunError, UsageError, file_errors

try:
    import fcntl
except ImportError:  # on Windows nothing stops two runs from sharing a folder
    fcntl = None

DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, csv.Error,
          zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)  # fmt: skip


@contextmanager
def reading(path):
    """Turns into a UsageError what a damaged file raises in the block, and an OSError."""
    try:
        with file_errors(UsageError, path):
            yield
    except DAMAGE as error:
        if OUT_OF_MEMORY.search(str(error)) or "CUDA error" in str(error):
            raise
        raise UsageError(f"{path} is damaged ({error!r:.200}): begin a new run") from error


@contextmanager
def replacing(path):
    """Opens a binary file that replaces path once the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a link to elsewhere: never write into it
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:  # whose file name is that of the temporary file
        raise RunError(f"cannot use {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is gone unless something failed
            temporary.unlink()


@contextmanager
def locked(folder, wait=False):
    """Makes folder, and locks it where the system and the file system can. If another process holds
    the lock, waits for it or raises UsageError. Removes what it made if that is still empty."""
    made, lock = [path for path in (folder, *folder.parents) if not path.exists()], None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl:
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UsageError(f"another run is under way in {folder}") from error
            except OSError:
                print(f"{folder} has no lock: start one run there at a time", file=sys.stderr)
        yield
    finally:
        if lock is not None:
            os.close(lock)
        for path in made:
            with suppress(OSError):  # it is not empty, or could not be made
                path.rmdir()


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
    """What write_checkpoint wrote. Raises one of DAMAGE for anything else; runs no code from it."""
    raw = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(raw) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} has the wrong checksum")
    raw.seek(0)
    if path.suffix != ".npz":
        import torch

        state = torch.load(raw, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(v, dict) for v in state.values()):
            raise ValueError("it is not that of a run")
        return state
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
