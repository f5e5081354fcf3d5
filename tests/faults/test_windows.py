"""The trainers and the download without what only Unix has, as on Windows.

Each test runs a program that first removes those parts, on any system.
"""

import functools
import http.server
import os
import subprocess
import sys
import threading

import pytest
from common import ROOT, TRAINERS, archive_of, use_small_files

from cifar10_utils import FOLDER

# What the standard library and PyTorch look up in os when they are imported on Unix is there until
# then; our modules are imported afterwards.
WITHOUT_UNIX = """
import http.client, os, shutil, signal, sys, tempfile, urllib.request
import numpy, tqdm
if {torch}:
    import torch
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # so that importing it raises ImportError
for name in ("O_NOFOLLOW", "O_DIRECTORY", "getuid", "geteuid", "fork", "killpg", "setsid", "pread",
             "pwrite", "mkfifo", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)
"""
TRAIN = """
import functools
import cifar10_utils, train_mlp_{framework} as trainer
from training.run import Run

import training.data
training.data.get_synthetic = functools.cache(training.data.get_synthetic)

def status(*flags):
    try:
        trainer.main(["--synthetic", "--max_steps", "2", "--run_dir", sys.argv[1], *flags])
        return 0
    except SystemExit as exit:
        return exit.code

def interrupt(*_, **__):
    raise KeyboardInterrupt

finish, Run.finish = Run.finish, interrupt
assert status() == 130
Run.finish = finish
assert status() == 2  # there is something in the folder
assert status("--resume") == 0
assert sorted(os.listdir(sys.argv[1])) == [*{files}]
assert status("--resume") == 0
"""
DOWNLOAD = """
import pytest
import cifar10_utils, common

files = common.use_small_files(pytest.MonkeyPatch())
cifar10_utils.main([sys.argv[1]])
assert cifar10_utils.get_cifar10(sys.argv[1]).train.num_examples == 50
"""


def run_without_unix(program, folder, torch=False, **environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_UNIX.format(torch=torch) + program, folder],
        env={**os.environ, "PYTHONPATH": path, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("framework", TRAINERS)
def test_a_run_ends_is_stopped_and_goes_on(framework, tmp_path):
    torch = framework == "pytorch"
    ending = "pt" if torch else "npz"
    names = [f"checkpoint.{ending}", "curves.png", "metrics.csv", "run.json"]
    program = TRAIN.format(framework=framework, files=names)
    done = run_without_unix(program, tmp_path / "run", torch)
    assert "the last checkpoint is saved; to continue: the same flags with --resume" in done.stderr
    assert done.stdout.count("test accuracy") == 2
    assert "SYNTHETIC DATA" in done.stderr and "Traceback" not in done.stderr


def test_cifar10_is_downloaded(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "archive").write_bytes(archive_of(use_small_files(monkeypatch)))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "server")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/archive"
        done = run_without_unix(DOWNLOAD, tmp_path / "data", CIFAR10_URL=url)
        server.shutdown()
    assert done.stdout == f"CIFAR-10 is in {tmp_path / 'data' / FOLDER}\n"
