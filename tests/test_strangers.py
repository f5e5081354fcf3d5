"""Files from strangers: batches, checkpoints, records and archives altered in every way, and put in
below the checksums. Each is loaded right or refused in one line; none of their code runs, nothing
is written elsewhere, and no forged length is believed.

The ordinary suite alters some of each kind, `-m slow` thousands.
"""

import collections
import functools
import gzip
import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from common import archive_of, attempt, little_memory, use_small_files
from test_data import good_batch
from test_training import TRAINERS, Killed

import cifar10_utils
import fetch
import training


def times(some, many):
    """Runs a test with some alterations, and with many where slow tests are asked for."""
    return pytest.mark.parametrize("times", [some, pytest.param(many, marks=pytest.mark.slow)])


# What must not happen -----------------------------------------------------------------------------

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.symlink"}
CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod", "os.truncate", "os.link"}
watched = {"folder": None, "seen": []}


def audit(event, args):
    if watched["folder"] is None:
        return
    if event in FORBIDDEN or event.startswith("socket."):
        watched["seen"].append((event, args))
    elif event in CHANGES or (event == "open" and args[2] & WRITES):
        path = os.path.realpath(args[0]) if isinstance(args[0], str | bytes | Path) else "?"
        if not os.fsdecode(path).startswith((watched["folder"], os.devnull)):
            watched["seen"].append((event, args))


sys.addaudithook(audit)  # for good, but it looks only while a folder is watched


@contextmanager
def nothing_outside(folder):
    """Fails where a process is started, a socket opened or a file changed outside folder."""
    watched.update(folder=os.path.realpath(folder), seen=[])
    try:
        yield
    finally:
        watched["folder"] = None
    assert watched["seen"] == []


def test_the_watch_sees_what_happens(tmp_path):
    for act in (
        lambda: os.mkdir(tmp_path / "b" / "x"),
        lambda: open(tmp_path / "c", "w").close(),
        lambda: os.system("true"),
    ):
        (tmp_path / "b").mkdir(exist_ok=True)
        with pytest.raises(AssertionError), nothing_outside(tmp_path / "a"):
            act()
        with nothing_outside(tmp_path):
            (tmp_path / "d").write_text("fine")


# How to alter a file ------------------------------------------------------------------------------

EVIL = [  # pieces of pickles that call something, or ask for a lot
    b"cos\nmkdir\n(S'ran'\ntR",
    b"cposix\nsystem\n(S'touch ran'\ntR",
    b"(S'ran'\nios\nmkdir\n",
    b'c__builtin__\neval\n(S\'open("ran","w")\'\ntR',
    b"\x8c\x05posix\x8c\x05mkdir\x93\x8c\x03ran\x85R",
    b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x04\x85R",
    b"c__builtin__\nexec\n(S'import os; os.mkdir(\"ran\")'\ntR",
    b"ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x04\x85R",
    b"ctorch.storage\nUntypedStorage\n\x8a\x05\x00\x00\x00\x00\x04\x85R",
    b"cnumpy\nmemmap\n(S'ran'\nS'w+'\ntR",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR",
    b"T\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"r\xff\xff\xff\x7f",
]
OPCODES = [
    getattr(pickle, name) for name in dir(pickle)
    if name.isupper() and isinstance(getattr(pickle, name), bytes)
    and len(getattr(pickle, name)) == 1
]  # fmt: skip
NUMBERS = [b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 8, b"\0\0\0\x80", b"\xff\xff", b"\x7f"]


def altered(raw, rng, other=b""):
    """raw with bits flipped, parts cut, moved, doubled, taken from other, or numbers put in."""
    out = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        size = len(out)
        end = min(size, rng.choice([700, 700, size]))
        i = rng.randrange(end + 1)
        i = size - i if rng.random() < 0.5 else i
        length = rng.choice([1, 4, 50, 5000])
        piece = {
            "flip": lambda at=i: bytes(b ^ 1 << rng.randrange(8) for b in out[at : at + 1]),
            "cut": lambda: b"",
            "random": lambda n=length: rng.randbytes(n),
            "again": lambda at=i, n=length: out[at : at + n] * 2,
            "other": lambda n=length: other[rng.randrange(len(other) + 1) :][:n],
            "evil": lambda: rng.choice(EVIL),
            "opcode": lambda: rng.choice(OPCODES),
            "number": lambda: rng.choice(NUMBERS),
        }
        kind = rng.choice(list(piece))
        insert = kind in ("evil", "other", "random") and rng.random() < 0.5
        gone = 0 if insert else 1 if kind == "flip" else length if kind in ("cut", "again") else 4
        out[i : i + gone] = piece[kind]()
        if rng.random() < 0.1:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


NASTY = [
    *(None, True, -1, 0, 1, 2, 7, 2**31, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "1", "\x1b[2J\n", "9" * 5000, [], {}, [[]], [1], {"x": 1}),
    *("cifar10", "synthetic", "completed", "running", "numpy", "pytorch"),
]


def altered_tree(tree, rng):
    """JSON with a value replaced, left out or doubled."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return rng.choice(NASTY)
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    if rng.random() < 0.15:
        del tree[key]
    elif isinstance(tree, list) and rng.random() < 0.2:
        tree.insert(key, tree[key])
    else:
        tree[key] = altered_tree(tree[key], rng)
    return tree


def altered_json(raw, rng, other=b""):
    if rng.random() < 0.4:
        return altered(raw, rng, other)
    return json.dumps(altered_tree(json.loads(raw), rng)).encode()


CELLS = ["", "nan", "inf", "1e999", "x", "1,2", '"', '"' + "x" * 200_000, "\0", "-1", "9" * 5000,
         "0.5", "1_0", " 1", "\n", "\x1b[2J"]  # fmt: skip


def altered_table(raw, rng, other=b""):
    if rng.random() < 0.4:
        return altered(raw, rng, other)
    rows = [line.split(",") for line in raw.decode().split("\n")]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(CELLS)
    if rng.random() < 0.3:
        rows.insert(rng.randrange(len(rows)), rng.choice(rows))
    if rng.random() < 0.3:
        del rows[rng.randrange(len(rows))]
    return "\n".join(",".join(row) for row in rows).encode()


HEADERS = [
    (b"'<f4'", [b"'<f8'", b"'>f4'", b"'|O' ", b"'<U9'", b"'<i4'", b"'<f2'", b"[('a','<f4')]"]),
    (b"(8, 3072)", [b"(8000000000, 3072)", b"(-1, 3072)", b"(3072, 8)", b"(8, 3071)", b"8"]),
    (b"True", [b"False", b"1**9", b"x"]),
    (b"NUMPY\x01\x00", [b"NUMPY\x02\x00", b"NUMPY\x03\x00", b"NUMPY\xff\x00"]),
]


def altered_zip(raw, rng, other=b""):
    """A checkpoint altered as a whole; or in a member, and its checksum made right again."""
    if rng.random() < 0.3:
        return altered(raw, rng, other)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    if rng.random() < 0.5:  # where all the structure is
        name = next((n for n in members if n.endswith("data.pkl")), name)
    content = members[name]
    if name == "run.npy" and rng.random() < 0.8:
        state = json.dumps(altered_tree(json.loads(str(np.load(io.BytesIO(content)))), rng))
        buffer = io.BytesIO()
        np.save(buffer, np.array(state))
        members[name] = buffer.getvalue()
    elif name.endswith(".npy") and rng.random() < 0.6:
        old, new = rng.choice(HEADERS)
        members[name] = content.replace(old, rng.choice(new), 1)
    elif name.endswith("data.pkl") and rng.random() < 0.4:
        found = [i for i in range(len(content) - 2) if content[i] in b"KMJ"]
        at = rng.choice(found)
        number = pickle.BININT + struct.pack("<i", rng.choice([-1, 0, 1, 7, 2**20, 2**31 - 1]))
        members[name] = content[:at] + number + content[at + {75: 2, 77: 3, 74: 5}[content[at]] :]
    else:
        members[name] = altered(content, rng, rng.choice(list(members.values())))
    if rng.random() < 0.1:
        del members[rng.choice(list(members))]
    if rng.random() < 0.1:
        members[rng.choice([*members, "../out", "/tmp/out"])] = rng.choice([b"", content])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([0, 0, 0, 8, 12, 14])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Batches ------------------------------------------------------------------------------------------


@times(200, 10_000)
def test_altered_batches(times, tmp_path, monkeypatch, record_figure):
    monkeypatch.chdir(tmp_path)
    raw, outcome = good_batch(), collections.Counter()
    with nothing_outside("/nowhere"), little_memory():
        for i in range(times):
            rng = random.Random(i)
            other = pickle.dumps([b"data", {"x": 2**70, "y": 1.5}], rng.randrange(6))
            try:
                pixels, labels = cifar10_utils.parse_batch(altered(raw, rng, other))
            except cifar10_utils.DataError as error:
                assert "MemoryError" not in str(error), i
                outcome["refused"] += 1
            else:
                assert pixels.dtype == np.uint8 and pixels.shape == (len(labels), 3, 32, 32), i
                assert labels.dtype == np.int64 and set(labels) <= set(range(10)), i
                outcome["loaded"] += 1
    record_figure(f"{times} altered batches: {dict(outcome)}")
    assert min(outcome["refused"], outcome["loaded"]) > times // 50
    assert list(tmp_path.iterdir()) == []


# Checkpoints and records --------------------------------------------------------------------------


FLAGS = ["--dnn_hidden_units", "8", "--max_steps", "12", "--batch_size", "20", "--eval_freq", "5"]
OPTIONS = {
    "numpy": ["--validation_size", "15"],
    "pytorch": ["--validation_size", "15", "--optimizer", "adamw", "--ema", "0.9"],
}


@pytest.fixture(params=TRAINERS)
def runs(request, data, tmp_path, monkeypatch):
    """Two runs of a trainer, one that was killed after step 10 and one to the end, and a function
    that resumes a folder."""
    monkeypatch.setattr(training, "draw_curves", lambda *_: None)
    load = functools.cache(cifar10_utils.get_cifar10)

    def load_again(*args, **options):
        splits = load(*args, **options)
        splits.train.position = 0
        return splits

    monkeypatch.setattr(cifar10_utils, "get_cifar10", load_again)
    monkeypatch.chdir(tmp_path)
    trainer = TRAINERS[request.param]
    flags = ["--data_dir", data, *FLAGS, *OPTIONS[request.param], "--run_dir"]
    tally = training.Run.tally

    def killed(self, *args):
        if self.step == 11:
            raise Killed
        tally(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.Run, "tally", killed)
        trainer.main([*flags, "killed"])
    trainer.main([*flags, "whole"])
    return lambda folder: attempt(trainer.main, [*flags, str(folder), "--resume"])


@times(40, 1000)
@pytest.mark.parametrize("kind", ["checkpoint", "run.json", "metrics.csv"])
def test_altered_checkpoints_and_records(runs, kind, times, request, tmp_path, record_figure):
    alter = {"checkpoint": altered_zip, "run.json": altered_json, "metrics.csv": altered_table}
    whole, outcome = (tmp_path / "whole" / "metrics.csv").read_bytes(), collections.Counter()
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
            path.write_bytes(alter[kind](raw, rng, other) if i else raw)  # the first as it was
            with nothing_outside(folder):
                try:
                    status, line = runs(folder)
                except BaseException as error:
                    error.add_note(f"alteration {i} of {kind}")
                    raise
            same = (folder / "metrics.csv").read_bytes() == whole
            outcome["loaded" if status == 0 else "refused" if status == 2 else "not finite"] += 1
            assert i or status == 0
            if status == 0 and (kind == "run.json" or not i):
                assert same, i
            shutil.rmtree(folder)
    (tmp_path / "in").rmdir()
    record_figure(f"{times} altered {path.name}: {dict(outcome)}")
    assert min(outcome["refused"], outcome["loaded"]) > times // 50
    assert sorted(tmp_path.iterdir()) == outside


def forge_state(checkpoint, change):
    """Changes the run's state in a checkpoint by change(step, sums, history) -> the same."""
    tree = load(checkpoint)
    step, seconds, sums, history = json.loads(str(tree["run"]))
    step, sums, history = change(step, sums, history)
    tree["run"] = json.dumps([step, seconds, sums, history])
    save(checkpoint, tree)


def load(checkpoint):
    if checkpoint.suffix == ".pt":
        return torch.load(checkpoint, weights_only=True)
    with np.load(checkpoint) as arrays:
        return {key: arrays[key] for key in arrays}


def save(checkpoint, tree):
    if checkpoint.suffix == ".pt":
        content = io.BytesIO()  # which names the members otherwise than a path would
        torch.save(tree, content)
        checkpoint.write_bytes(content.getvalue())
    else:
        np.savez(checkpoint, **tree)


STATES = [
    lambda step, sums, history: (2.5, sums, history),
    lambda step, sums, history: (True, sums, history),
    lambda step, sums, history: (5, sums, history),
    lambda step, sums, history: (13, sums, history),
    lambda step, sums, history: (step, [0.0, 0.0, -1], history),
    lambda step, sums, history: (step, [0.0, 0.0, 11], history),
    lambda step, sums, history: (step, [float("inf"), 0.0, 1], history),
    lambda step, sums, history: (step, sums, history | {"step": [0.0, 5, 10]}),
    lambda step, sums, history: (step, sums, history | {"step": [0, 5, 10, 12]}),
    lambda step, sums, history: (step, sums, history | {"val_loss": [1, 2, float("nan")]}),
    lambda step, sums, history: (step, sums, history | {"val_loss": [1, 2]}),
    lambda step, sums, history: (step, sums, history | {"val_loss": ["1", "2", "3"]}),
    lambda step, sums, history: (step, sums, {"step": history["step"]}),
]


def test_checkpoints_with_a_state_that_no_run_has(runs, tmp_path):
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    raw = checkpoint.read_bytes()
    for i, change in enumerate(STATES):
        checkpoint.write_bytes(raw)
        forge_state(checkpoint, change)
        status, line = runs("killed")
        assert status == 2 and "is damaged" in line, i
    checkpoint.write_bytes(raw)
    forge_state(checkpoint, lambda *state: state)
    assert runs("killed") == (0, "")


def entry(tree):
    return tree["optimizer"]["state"][0]


TREES = [
    lambda tree: entry(tree).update(exp_avg=torch.zeros(2)),
    lambda tree: entry(tree).update(exp_avg=entry(tree)["exp_avg"].double()),
    lambda tree: entry(tree).update(exp_avg="x"),
    lambda tree: entry(tree).pop("exp_avg_sq"),
    lambda tree: tree["optimizer"]["state"].clear(),
    lambda tree: tree["optimizer"]["state"].update({9: entry(tree)}),
    lambda tree: tree["best"].popitem(),
    lambda tree: tree["best"].update({key: torch.zeros(2) for key in tree["best"]}),
    lambda tree: tree["mlp"].update({key: value.half() for key, value in tree["mlp"].items()}),
    lambda tree: tree["mlp"].update(more=torch.zeros(2)),
    lambda tree: tree.pop("average"),
]


@pytest.mark.parametrize("runs", ["pytorch"], indirect=True)
def test_checkpoints_with_tensors_that_no_run_has(runs, tmp_path):
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    raw = checkpoint.read_bytes()
    for i, change in enumerate(TREES):
        checkpoint.write_bytes(raw)
        tree = load(checkpoint)
        change(tree)
        save(checkpoint, tree)
        status, line = runs("killed")
        assert status == 2 and "is damaged" in line, i
    checkpoint.write_bytes(raw)
    tree = load(checkpoint)
    for group in tree["optimizer"]["param_groups"]:  # of which the flags alone decide
        group.update(betas="x", eps=1e9, weight_decay=None)
    for key, value in entry(tree).items():  # laid out in memory as no optimizer could write
        entry(tree)[key] = value[0].expand_as(value) if value.ndim else value
    save(checkpoint, tree)
    assert runs("killed") == (0, "")


def rezip(path, changes, method=zipfile.ZIP_STORED):
    """Replaces members of a zip file by changes(name, content)."""
    with zipfile.ZipFile(path) as archive:
        members = {name: changes(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def asks_for(size):
    """Changes to a checkpoint that make naive readers allocate size bytes, and more."""
    length = b"\x8a\x05" + size.to_bytes(5, "little")
    for call in (b"__builtin__\nbytearray", b"torch\nUntypedStorage", b"torch\nFloatTensor"):
        forged = b"\x80\x02}q\x00U\x03mlpc" + call + b"\n" + length + b"\x85Rs."
        yield "data.pkl", lambda raw, forged=forged: forged
    for new in (b"(%d,)" % size, b"(%d, 1)" % size, b"(-1,)"):
        yield "now.0.weight.npy", lambda raw, new=new: raw.replace(b"(8, 3072)", new)
    yield "now.0.weight.npy", lambda raw: raw.replace(b"'<f4'", b"'|O' ")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_checkpoints_that_ask_for_memory(runs, method, tmp_path):
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    raw, tried = checkpoint.read_bytes(), 0
    for end, change in asks_for(2**36):
        if any(name.endswith(end) for name in zipfile.ZipFile(checkpoint).namelist()):
            tried += 1
            checkpoint.write_bytes(raw)
            rezip(checkpoint, lambda name, content, end=end, change=change:
                  change(content) if name.endswith(end) else content, method)  # fmt: skip
            with little_memory():
                status, line = runs("killed")
            assert status == 2 and "is damaged" in line
    assert tried >= 3
    checkpoint.write_bytes(raw)
    (first, *_) = (name for name in zipfile.ZipFile(checkpoint).namelist() if "0" in name)
    rezip(checkpoint, lambda name, content: bytes(2**25) if name == first else content, 8)
    with little_memory():
        assert "its members are packed" in runs("killed")[1]
    for both in (False, True):
        checkpoint.write_bytes(raw)
        with zipfile.ZipFile(checkpoint, "a") as archive:
            archive.comment = b"so that the directory is written anew"
            archive.getinfo(first).compress_size = 2**31 - 1
            archive.getinfo(first).file_size = 2**31 - 1 if both else len(archive.read(first))
        with little_memory():
            assert "its members are" in runs("killed")[1]


@pytest.mark.parametrize("runs", ["pytorch"], indirect=True)
@pytest.mark.parametrize(
    "name", ["x/data.pkl", "archive/DATA.PKL", "archive/constants.pkl", "../x"]
)
def test_a_checkpoint_with_more_members_than_torch_writes(runs, name, tmp_path):
    """torch.load takes for the pickle the one beside the first member, whatever its name."""
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    with zipfile.ZipFile(checkpoint) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for member in [(name, b"\x80\x02}."), *members]:
            archive.writestr(*member)
    assert "no member of a checkpoint" in runs("killed")[1]


@pytest.mark.parametrize(
    "name, old, new, complaint",
    [
        ("run.json", '"steps": 12', '"steps": 1' + 400 * "0", "OverflowError"),
        ("run.json", '"steps": 12', '"steps": 999999999999999', "not that of this run"),
        ("run.json", '"steps": 12', '"steps": "12"', "place of a finite number"),
        ("run.json", '"test_loss": 2', '"test_loss": NaN, "x": 2', "place of a finite number"),
        ("run.json", '"cifar10"', '"\\u001b[2J\\n"', "unknown framework or dataset"),
        ("run.json", '"cifar10"', "[]", "unknown framework or dataset"),
        ("run.json", '"framework": "', '"framework": "\\n', "unknown framework or dataset"),
        ("run.json", '"seed": 42,\n  "val', '"seed": "\\n\\u001b",\n  "val', "--seed is 42 now"),
        ("run.json", '"seed": 42,\n  "val', f'"seed": "{9 * "x" * 999}",\n  "val', "--seed is 42"),
        ("metrics.csv", "\n5,", "\n\n5,", "IndexError"),
        ("metrics.csv", "\n5,", "\n" + 200_000 * "5" + ",", "field larger than"),
        ("metrics.csv", "\n5,", "\n5.0,", "ValueError"),
        ("metrics.csv", "\n5,", "\n6,", "other steps"),
        ("metrics.csv", "\n5,", "\n5,nan,", "ValueError"),
        ("metrics.csv", "train_loss", "train_lass", "not that of this run"),
    ],
    ids=str,
)
def test_records_that_no_run_has(runs, name, old, new, complaint, tmp_path):
    path = tmp_path / "whole" / name
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    status, line = runs("whole")
    assert status == 2 and complaint in line and len(line) < 1000


def test_every_flipped_bit_of_a_checkpoint_is_found_or_does_no_harm(runs, tmp_path):
    whole = (tmp_path / "whole" / "metrics.csv").read_bytes()
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    raw = checkpoint.read_bytes()
    statuses = []
    for i in range(0, len(raw), len(raw) // 60):
        folder = tmp_path / "flipped"
        shutil.copytree(tmp_path / "killed", folder)
        flipped = raw[:i] + bytes([raw[i] ^ 1 << i % 8]) + raw[i + 1 :]
        (folder / checkpoint.name).write_bytes(flipped)
        status, line = runs(folder)
        statuses.append(status)
        assert "is damaged" in line if status else (folder / "metrics.csv").read_bytes() == whole
        shutil.rmtree(folder)
    assert statuses.count(2) > 50


def test_a_device_a_pipe_and_a_link_in_the_folder(runs, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("my work")
    (checkpoint,) = (tmp_path / "killed").glob("checkpoint.*")
    for name in ("run.json", "metrics.csv", checkpoint.name):
        for kind in ("device", "pipe", "folder"):
            source = "killed" if name == checkpoint.name else "whole"
            folder = tmp_path / "odd"
            shutil.copytree(tmp_path / source, folder)
            (folder / name).unlink()
            if kind == "device":
                (folder / name).symlink_to("/dev/zero")
            elif kind == "pipe":
                os.mkfifo(folder / name)
            else:
                (folder / name).mkdir()
            status, line = runs(folder)
            assert status == 2 and "no plain file" in line, (name, kind)
            shutil.rmtree(folder)
    folder = tmp_path / "killed"
    for name in ("run.json", "metrics.csv", checkpoint.name, "curves.png"):
        (folder / f".{name}.tmp").symlink_to(mine)
    assert runs(folder)[0] == 0
    assert mine.read_text() == "my work"


# Archives -----------------------------------------------------------------------------------------


def member(name, content=b"", size=None, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content) if size is None else size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.GNU_FORMAT) + content + padding


def pax(**fields):
    records = "".join(f"{len(line) + len(str(len(line) + 3)) + 1} {line}" for line in
                      (f"{key}={value}\n" for key, value in fields.items()))  # fmt: skip
    return member("pax", records.encode(), kind=tarfile.XHDTYPE)


NAME = f"{cifar10_utils.FOLDER}/data_batch_1"
BOMBS = {
    "pax size": lambda: pax(size=10**10) + member(NAME, b"x") + bytes(2**27),
    "sparse": lambda: (
        member(NAME, kind=tarfile.GNUTYPE_SPARSE)[:483] + b"77777777777\0" + bytes(17)
    ),
    "large member": lambda: member(NAME, size=2**40),
    "negative member": lambda: member(NAME, size=-512),
    "many members": lambda: b"".join(
        member(f"{cifar10_utils.FOLDER}/{i}", bytes(2**22)) for i in range(18)
    ),
    "long names": lambda: b"".join(
        member("x", bytes(2**22), kind=tarfile.GNUTYPE_LONGNAME) for _ in range(40)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_that_would_unpack_to_far_more_is_refused(bomb, tmp_path, monkeypatch):
    raw = BOMBS[bomb]()
    if bomb == "sparse":  # a header of the right sum
        raw = raw[:148] + b"        " + raw[156:]
        raw = raw[:148] + b"%06o\0 " % sum(raw[:512]) + raw[156:]
    (tmp_path / "archive").write_bytes(gzip.compress(raw, 1))
    monkeypatch.setattr(fetch, "MAX_ARCHIVE", 2**26)
    with little_memory(80), pytest.raises(cifar10_utils.DataError):
        fetch._unpack(tmp_path / "archive")


@times(100, 3000)
def test_altered_archives(times, tmp_path, monkeypatch, record_figure):
    files, outcome = use_small_files(monkeypatch), collections.Counter()
    modes = ["w", "w:gz", "w:xz", "w:bz2"]
    raws = {mode: archive_of(files, mode) for mode in modes}
    path = tmp_path / "archive"
    monkeypatch.chdir(tmp_path)
    with nothing_outside("/nowhere"), little_memory():
        for i in range(times):
            rng = random.Random(i)
            raw = raws["w"]
            if rng.random() < 0.5:
                raw = altered(raws["w"], rng, raws["w"][: rng.randrange(2000)])
                raw = gzip.compress(raw, 1) if rng.random() < 0.5 else raw
            else:
                raw = altered(raws[rng.choice(modes)], rng)
            watched["folder"] = None
            path.write_bytes(raw)
            watched["folder"] = "/nowhere"
            try:
                assert fetch._unpack(path) == files, i
                outcome["loaded"] += 1
            except Exception as error:
                assert not isinstance(error, AssertionError | MemoryError), i
                outcome["refused"] += 1
    record_figure(f"{times} altered archives: {dict(outcome)}")
    assert min(outcome["refused"], outcome["loaded"]) > times // 50
