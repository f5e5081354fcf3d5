"""Fetching CIFAR-10 from a server on loopback that is slow, dying, lying or old-fashioned; or from
an archive that the user fetched."""

import http.client
import http.server
import os
import re
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from common import (
    archive_of,
    failed,
    limit_on_files,
    listing,
    md5_of,
    outcome,
    refused,
    use_small_files,
    write_files,
)

import cifar10_utils
import train_mlp_numpy
from cifar10_utils import ARCHIVE, FOLDER
from training import download, files
from training.download import download as get
from training.errors import RunError

PART = f"{ARCHIVE}.part"
PAGE = b"\n<!DOCTYPE html><title>Sorry</title>"
ANSWERS = {  # in place of the archive
    "reset": b"",
    "refuse": b"HTTP/1.1 503 Sorry\r\n\r\n",
    "gone": b"HTTP/1.1 404 \x1b[2J\x07\rgone\r\n\r\n",
    "page": b"HTTP/1.1 200 OK\r\n\r\n" + PAGE,
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.archive`; `server.plan` has what to do with the first requests instead."""

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        server, archive = self.server, self.server.archive
        server.requests.append(self.headers)
        act = server.plan.pop(0) if server.plan else "serve"
        asked = "" if "no range" in act else self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        if act in ANSWERS:
            self.wfile.write(ANSWERS[act])
        elif act.startswith("redirect "):
            self.reply(302, {"Location": act.split()[1]})
        elif act == "silent":
            server.closing.wait()
        elif start >= len(archive):
            self.reply(416)
        else:
            body = archive[start:]
            length = {} if act == "no length" else {"Content-Length": str(len(body))}
            sent = len(body) // 3 if "break" in act or act == "stall" else len(body)
            self.reply(206 if asked else 200, length, body[:sent])
            if act == "stall":
                server.closing.wait()

    def reply(self, status, headers=(), body=b""):
        self.send_response(status)
        for header in dict(headers).items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    """A server with an archive of small files, which the code takes for the official one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.archive, server.plan, server.requests = archive_of(use_small_files(monkeypatch)), [], []
    server.closing, server.handle_error = threading.Event(), print
    monkeypatch.setenv("CIFAR10_URL", f"http://127.0.0.1:{server.server_port}/a")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def follow(server, plan, monkeypatch):
    server.plan += plan
    if "silent" in plan or "stall" in plan:
        monkeypatch.setattr(download, "TIME_OUT", 0.3)


def assert_complete(folder, beside=()):
    """The official files are there, sound, and nothing else is."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(cifar10_utils.MD5)
    assert {p.name for p in folder.parent.iterdir()} == {folder.name, *beside}
    cifar10_utils.get_cifar10(folder)


# A network that fails -----------------------------------------------------------------------------


SURVIVED = ["no length", "redirect /b", "bad chunks,reset,refuse", "silent", "stall",
            "break,break,break,break,break", "no range break,no range"]  # fmt: skip


@pytest.mark.parametrize("plan", SURVIVED)
def test_a_download_survives(server, plan, tmp_path, monkeypatch):
    follow(server, plan.split(","), monkeypatch)
    assert get(tmp_path / "cifar10") == tmp_path / "cifar10" / FOLDER
    assert_complete(tmp_path / "cifar10" / FOLDER)
    assert server.plan == []


@pytest.mark.parametrize(
    "left, ranges",
    [
        (lambda archive: archive[:7000], ["bytes=7000-"]),
        (lambda archive: archive, []),
        (lambda archive: bytes(7000), ["bytes=7000-", None]),  # of another archive
        (lambda archive: 10**6 * b"x", ["bytes=1000000-", None]),  # answered with 416
    ],
    ids=["a part", "all", "another", "too much"],
)
def test_what_a_broken_download_left_is_used(server, left, ranges, tmp_path):
    (tmp_path / PART).write_bytes(left(server.archive))
    assert_complete(get(tmp_path))
    assert [headers["Range"] for headers in server.requests] == ranges


@pytest.mark.parametrize(
    "plan, complaint",
    [
        (["refuse"] * 4, "503"),
        (["reset"] * 4, "cannot download CIFAR-10 from http://127.0.0.1"),
        (["silent"] * 4, "timed out"),
        (["gone"], "404"),
        (["page"], "/a sent is a web page, not CIFAR-10's archive"),
        (["redirect file:///etc/passwd"], "not allowed"),
        (["redirect ftp://127.0.0.1/c"], "redirects to ftp://127.0.0.1/c: refused"),
    ],
    ids=str,
)
def test_a_download_that_cannot_be_right_ends_with_a_line(
    server, plan, complaint, tmp_path, monkeypatch
):
    follow(server, plan, monkeypatch)
    (tmp_path / PART).write_bytes(server.archive[:7000])
    assert complaint in failed(cifar10_utils.main, [str(tmp_path)])
    assert listing(tmp_path) == {Path(PART): server.archive[:7000]}  # what was there is not lost


class InTheClear(http.client.HTTPConnection):
    """What stands for https here, for there is no certificate."""

    def __init__(self, host, timeout, **_):
        super().__init__(host, timeout=timeout)


def test_https_may_not_be_redirected_to_http(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http.client, "HTTPSConnection", InTheClear)
    host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("CIFAR10_URL", f"https://{host}/a")
    server.plan += [f"redirect {to}" for to in (f"https://{host}/b", f"http://{host}/c", "https:")]
    line = failed(cifar10_utils.main, [str(tmp_path)])
    assert f"redirects to http://{host}/c: refused" in line
    assert server.plan.pop() == "redirect https:"  # nothing was asked for in the clear
    assert listing(tmp_path) == {}
    server.plan += [f"redirect https://{host}/b"]
    assert_complete(get(tmp_path))


@pytest.mark.parametrize("user", ["", "me:s3cret@", "me:s3/c@ret@"])
@pytest.mark.parametrize(
    "address", ["http://{}a b/x", "http://{}127.0.0.1:9/\n\x1b", "ftp://{}a/x"]
)
def test_an_address_that_cannot_be_right(server, address, user, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", address.format(user))
    line = failed(cifar10_utils.main, [str(tmp_path / "new" / "deeper")])
    assert "cannot download CIFAR-10 from http://" in line or "not start with https://" in line
    assert "s3" not in line and "ret" not in line and list(tmp_path.iterdir()) == []


def test_a_password_goes_to_the_mirror_alone(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR10_URL", os.environ["CIFAR10_URL"].replace("//", "//me:s%40cret@"))
    server.plan += ["break", "redirect /b"]
    get(tmp_path)
    assert re.fullmatch("downloading CIFAR-10 .* from http://127.*/a\n", capsys.readouterr().err)
    sent = [headers["Authorization"] for headers in server.requests]
    assert sent == ["Basic bWU6c0BjcmV0"] * 2 + [None]  # me:s@cret; not where it redirects to


# What comes out of the archive --------------------------------------------------------------------


def test_an_archive_with_one_wrong_byte_is_not_opened(server, tmp_path, monkeypatch):
    server.archive = server.archive[:-9] + b"x" + server.archive[-8:]
    monkeypatch.setattr(tarfile, "open", None)
    with pytest.raises(RunError, match="sent is truncated or altered, not CIFAR-10's archive"):
        get(tmp_path)
    assert listing(tmp_path) == {}


def test_only_the_official_files_leave_an_archive(server, tmp_path, monkeypatch):
    wanted = use_small_files(monkeypatch)
    others = [f"../{FOLDER}/data_batch_1", "/tmp/data_batch_1", "../data_batch_1", "deeper/x", "x"]
    server.archive = archive_of(wanted | {name: b"evil" for name in others}, "w:gz")
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", md5_of(server.archive))
    get(tmp_path / "in")
    assert listing(tmp_path) == {Path("in", FOLDER, name): wanted[name] for name in wanted}


def test_sound_data_is_not_fetched_again_and_damaged_data_is_mended(server, tmp_path, monkeypatch):
    folder = write_files(tmp_path / "in" / "mine", use_small_files(monkeypatch))
    assert get(folder) == folder and server.requests == []
    (folder / "data_batch_2").write_bytes(b"damaged")
    (folder / "test_batch").unlink()
    assert get(folder) == folder and len(server.requests) == 1
    assert_complete(folder)


@pytest.mark.skipif(files.fcntl is None, reason="there is no lock on a folder there")
def test_two_downloads_at_once_wait_for_each_other(server, tmp_path):
    threads = [threading.Thread(target=get, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_complete(tmp_path / FOLDER)
    assert len(server.requests) == 1


# An archive that the user fetched -----------------------------------------------------------------


def train(*flags):
    train_mlp_numpy.main(["--max_steps", "1", "--batch_size", "9", "--run_dir", "run", *flags])


@pytest.fixture(params=[train, lambda: cifar10_utils.main([])], ids=["trainer", "command"])
def program(request, server, tmp_path, monkeypatch, no_curves):
    """What fetches CIFAR-10 into the default folder, which is in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.mark.parametrize("place", ["cifar10", f"cifar10/{FOLDER}", "."])
def test_it_is_taken_and_stays(program, server, place, tmp_path):
    write_files(tmp_path / place, {ARCHIVE: server.archive})
    assert outcome(program) == (0, "") and server.requests == []
    assert (tmp_path / place / ARCHIVE).read_bytes() == server.archive
    assert cifar10_utils.get_cifar10().test.num_examples == 10


@pytest.mark.parametrize("content, what", [(b"\x1f", "truncated or altered"), (PAGE, "a web page")])
def test_a_broken_one_is_called_that_and_stays(program, server, content, what, tmp_path):
    write_files(tmp_path / "cifar10", {ARCHIVE: content})
    line = f"{Path('cifar10', ARCHIVE)} is {what}, not CIFAR-10's archive: fetch it again"
    assert line in refused(program) and server.requests == []
    assert listing(tmp_path) == {Path("cifar10", ARCHIVE): content}


def test_with_a_folder_given_the_error_names_the_command(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "my data", {ARCHIVE: server.archive})
    command = "unpack cifar-10-python.tar.gz if that is there: python cifar10_utils.py 'my data'"
    assert command in refused(train, "--data_dir", "my data")
    assert [path.name for path in tmp_path.iterdir()] == ["my data"]  # and no run
    cifar10_utils.main(["my data"])
    assert_complete(tmp_path / "my data" / FOLDER, beside=[ARCHIVE])


def test_a_folder_that_cannot_be_used_is_refused(server, tmp_path):
    for end, parent in ((refused, tmp_path), (failed, tmp_path / "new")):
        name = str(parent / (300 * "a"))
        assert name in end(cifar10_utils.main, [name])
    assert list(tmp_path.iterdir()) == []


# The machine --------------------------------------------------------------------------------------


def test_space_is_looked_at_first(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(total=10**9, free=3 * 10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    line = failed(cifar10_utils.main, [str(tmp_path)])
    assert f"CIFAR-10 needs 357 MB in {tmp_path}, where 300 MB are free" in line
    (tmp_path / ARCHIVE).write_bytes(server.archive)  # then only the files need space
    assert outcome(cifar10_utils.main, [str(tmp_path)]) == (0, "") and server.requests == []


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_network(server, tmp_path, monkeypatch):
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(Path, "write_bytes", refuse)
    line = failed(cifar10_utils.main, [str(tmp_path)])
    assert f"cannot use {tmp_path / PART}: Permission" in line and len(server.requests) == 1


def test_a_full_disk_is_no_fault_of_the_network(server, tmp_path):
    with limit_on_files(5000):
        line = failed(cifar10_utils.main, [str(tmp_path)])
    assert f"cannot use {tmp_path / PART}: File too large" in line and len(server.requests) == 1
