"""Files from strangers: batches, checkpoints, records and archives altered in every way, and put in
below the checksums. Each is loaded right or refused in one line; none of their code runs, nothing
is written elsewhere, and no forged length is believed.

The ordinary suite alters some of each kind, `-m slow` ten thousand.
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
from common import archive_of, attempt, little_memory, use_small_files
from test_data import good_batch
from test_training import TRAINERS, Killed

import cifar10_utils
import training

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


MANY = [60, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", MANY)
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


@pytest.mark.parametrize("times", MANY)
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
            path.write_bytes(alter[kind](raw, rng, other))
            with nothing_outside(folder):
                try:
                    status, line = runs(folder)
                except BaseException as error:
                    error.add_note(f"alteration {i} of {kind}")
                    raise
            same = (folder / "metrics.csv").read_bytes() == whole
            outcome["loaded" if status == 0 else "refused" if status == 2 else "not finite"] += 1
            if kind == "run.json" and status == 0:
                assert same, i
            shutil.rmtree(folder)
    (tmp_path / "in").rmdir()
    record_figure(f"{times} altered {path.name}: {dict(outcome)}")
    assert min(outcome["refused"], outcome["loaded"]) > times // 50
    assert sorted(tmp_path.iterdir()) == outside


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
    "pax size": pax(size=10**10) + member(NAME, b"x") + bytes(2**27),
    "sparse": member(NAME, kind=tarfile.GNUTYPE_SPARSE)[:483] + b"77777777777\0" + bytes(17),
    "large member": member(NAME, size=2**40),
    "negative member": member(NAME, size=-512),
    "many members": b"".join(
        member(f"{cifar10_utils.FOLDER}/{i}", bytes(2**25)) for i in range(18)
    ),
    "long names": b"".join(
        member("x", bytes(2**24), kind=tarfile.GNUTYPE_LONGNAME) for _ in range(40)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_that_would_unpack_to_far_more_is_refused(bomb, tmp_path, monkeypatch):
    raw = BOMBS[bomb]
    if bomb == "sparse":  # a header of the right sum
        raw = raw[:148] + b"        " + raw[156:]
        raw = raw[:148] + b"%06o\0 " % sum(raw[:512]) + raw[156:]
    (tmp_path / "archive").write_bytes(gzip.compress(raw, 1))
    monkeypatch.setattr(cifar10_utils, "MAX_ARCHIVE", 2**28)
    with little_memory(), pytest.raises(cifar10_utils.DataError):
        cifar10_utils._unpack(tmp_path / "archive")


@pytest.mark.parametrize("times", MANY)
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
                assert cifar10_utils._unpack(path) == files, i
                outcome["loaded"] += 1
            except Exception as error:
                assert not isinstance(error, AssertionError | MemoryError), i
                outcome["refused"] += 1
    record_figure(f"{times} altered archives: {dict(outcome)}")
    assert min(outcome["refused"], outcome["loaded"]) > times // 50
