"""The trainers and the download without what only Unix has, as on Windows.

One program removes those parts first, and then does what a person does there.
"""

import functools
import http.server
import os
import subprocess
import sys
import threading
from importlib.util import find_spec

from common import HANG, ROOT, archive_of, use_small_files

# What the standard library and PyTorch look up in os when they are imported on Unix is there until
# then; our modules are imported afterwards.
PROGRAM = """
import http.client, importlib, os, shutil, signal, sys, tempfile, urllib.request
from importlib.util import find_spec
import numpy, tqdm
if find_spec("torch"):
    import torch._dynamo
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # so that importing it raises ImportError
for name in ("O_NOFOLLOW", "O_DIRECTORY", "geteuid", "fork", "killpg", "setsid", "pread",
             "pwrite", "mkfifo", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP

import cifar10_utils, common, pytest

common.use_small_files(pytest.MonkeyPatch())
cifar10_utils.main([sys.argv[1]])
assert cifar10_utils.get_cifar10(sys.argv[1]).train.num_examples == 50

def interrupt(*_, **__):
    raise KeyboardInterrupt

def status(trainer, name, *flags):
    base = ["--data_dir", sys.argv[1], "--batch_size", "20", "--max_steps", "3", "--run_dir"]
    try:
        trainer.main([*base, os.path.join(sys.argv[1], name), *flags])
        return 0
    except SystemExit as end:
        return end.code

for name in sys.argv[2:]:
    trainer = importlib.import_module(f"train_mlp_{name}")
    step, trainer.train_step = trainer.train_step, interrupt
    assert status(trainer, name) == 130
    trainer.train_step = step
    assert status(trainer, name) == 2  # there is something in the folder
    assert status(trainer, name, "--resume") == 0
    assert status(trainer, name, "--resume") == 0
    print(sorted(os.listdir(os.path.join(sys.argv[1], name))))
"""


def test_without_unix(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "server")
    archive = archive_of(use_small_files(monkeypatch))
    (tmp_path / "server" / "archive").write_bytes(archive)
    names = ["numpy", "pytorch"] if find_spec("torch") else ["numpy"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        variables = {
            "CIFAR10_URL": f"http://127.0.0.1:{server.server_port}/archive",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "no_proxy": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, tmp_path / "data", *names],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=HANG,
        )
        server.shutdown()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("test accuracy") == 2 * len(names)
    for name, ending in (("numpy", "npz"), ("pytorch", "pt")):
        files = ["curves.png", "metrics.csv", "run.json"]
        assert (name not in names) or str([f"checkpoint.{ending}", *files]) in done.stdout
