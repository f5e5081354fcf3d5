"""Fetching CIFAR-10 from a server on loopback that is slow, dying, lying or old-fashioned; and
taking an archive that the user fetched."""

import collections
import http.server
import io
import re
import socket
import sys
import tarfile
import threading
import urllib.request
from pathlib import Path

import pytest
from common import (
    archive_of,
    failed,
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
from training.errors import RunError


class Server(http.server.ThreadingHTTPServer):
    """Serves `archive`; `plan` holds what to do with the first requests, one word each."""

    daemon_threads = True

    def __init__(self, archive):
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive, self.plan, self.requests = archive, [], []
        self.closing = threading.Event()

    @property
    def ranges(self):
        return [headers["Range"] for headers in self.requests]

    def handle_error(self, *_):
        """A client that hangs up is no news."""


PAGE = b"\n<!DOCTYPE html><title>Sorry</title>"
OTHERWISE = {  # status, body and headers
    "refuse": (503, b""),
    "gone": (404, b""),
    "page": (200, PAGE, {"Content-Type": "text/html"}),
    "bad chunks": (200, b"zz\r\n", {"Transfer-Encoding": "chunked"}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        server, archive = self.server, self.server.archive
        act = server.plan.pop(0) if server.plan else "serve"
        server.requests.append(self.headers)
        asked = self.headers["Range"]
        if act == "rude":
            return self.wfile.write(b"HTTP/1.1 404 \x1b[2J\x07\rgone\r\n\r\n")
        if act in OTHERWISE:
            return self.reply(*OTHERWISE[act])
        if act.startswith("redirect "):
            return self.reply(302, b"", {"Location": act.split()[1]})
        if act == "reset":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if act == "silent":
            return server.closing.wait()
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(archive):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(archive)}"})
        body, status = (archive[start:], 206) if "no range" not in act else (archive, 200)
        headers = {"Content-Length": None} if act == "no length" else {}
        self.reply(status if asked else 200, body, headers, sent="break" in act or act == "stall")
        if act == "stall":
            server.closing.wait()

    def reply(self, status, body, headers=None, sent=False):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: max(1, len(body) // 3)] if sent else body)


@pytest.fixture
def archive(monkeypatch):
    """An archive of small files, which the code takes for the official one."""
    archive = archive_of(use_small_files(monkeypatch))
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", md5_of(archive))
    return archive


@pytest.fixture
def server(archive, monkeypatch):
    server = Server(archive)
    monkeypatch.setenv("CIFAR10_URL", f"http://127.0.0.1:{server.server_port}/a")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, value in {"TIME_OUT": 0.3, "PROGRESS": 1000, "BACKOFF_SECONDS": 0.001}.items():
        monkeypatch.setattr(download, name, value)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def get(folder):
    return download.download(cifar10_utils, folder)


def assert_complete(folder, beside=()):
    """The official files are there, sound, and nothing else is."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(cifar10_utils.MD5)
    assert {p.name for p in folder.parent.iterdir()} == {folder.name, *beside}
    cifar10_utils.get_cifar10(folder)


# A network that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan, requests",
    [
        ([], 1),
        (["no length"], 1),
        (["bad chunks"], 2),
        (["refuse"], 2),
        (["reset"], 2),
        (["silent"], 2),
        (["break"] * 5, 6),
        (["stall", "stall"], 3),
        (["no range, break", "no range"], 2),
        (["break", "reset", "refuse", "break"], 5),
        (["redirect /elsewhere"], 2),
    ],
    ids=str,
)
def test_a_download_survives(server, plan, requests, tmp_path):
    server.plan += plan
    assert get(tmp_path / "cifar10") == tmp_path / "cifar10" / FOLDER
    assert_complete(tmp_path / "cifar10" / FOLDER)
    assert len(server.requests) == requests


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.plan += ["break", "break"]
    get(tmp_path)
    third = len(server.archive) // 3
    rest = len(server.archive) - third
    assert server.ranges == [None, f"bytes={third}-", f"bytes={third + rest // 3}-"]


@pytest.mark.parametrize(
    "keep, ranges",
    [
        (lambda archive: archive[:7000], ["bytes=7000-"]),
        (lambda archive: archive, []),
        (lambda archive: bytes(7000), ["bytes=7000-", None]),  # of another archive
        (lambda archive: archive + b"more", ["bytes={beyond}-", None]),  # answered by 416
    ],
    ids=["part", "all", "wrong", "too much"],
)
def test_what_a_killed_download_left_is_used(server, keep, ranges, tmp_path):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(keep(server.archive))
    assert_complete(get(tmp_path))
    assert server.ranges == [r and r.format(beyond=len(server.archive) + 4) for r in ranges]


@pytest.mark.parametrize(
    "plan, complaint",
    [
        (["refuse"] * 4, "503"),
        (["reset"] * 4, "cannot download CIFAR-10 from http://127.0.0.1"),
        (["gone"], "404"),
        (["page"], "/a sent is a web page, not CIFAR-10's archive"),
        (["silent"] * 4, "timed out"),
        (["bad chunks"] * 4, "IncompleteRead"),
        (["redirect /a"] * 20, "infinite loop"),
        (["redirect http://[bad/x"], "not an address"),
        (["redirect ftp://me:secret@127.0.0.1/x"], "redirects to ftp://127.0.0.1/x: refused"),
        (["redirect file:///etc/passwd"], "file:///etc/passwd. is not allowed"),
    ],
    ids=str,
)
def test_a_download_that_cannot_be_right_ends_with_a_sentence(server, plan, complaint, tmp_path):
    server.plan += plan
    (tmp_path / f"{ARCHIVE}.part").write_bytes(server.archive[:7000])
    with pytest.raises(RunError, match=complaint):
        get(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{ARCHIVE}.part"]
    server.plan.clear()
    assert_complete(get(tmp_path))
    assert server.ranges[-1] == "bytes=7000-"  # what was there is not lost


def test_https_may_not_be_redirected_to_http():
    handler = download._NoWeakerRedirect()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(RunError, match="redirects to http://example.org/b: refused"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/b")
    assert handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/b")


def test_what_a_server_says_cannot_steer_the_terminal(server, tmp_path):
    server.plan.append("rude")
    assert "404" in failed(cifar10_utils.main, [str(tmp_path)])


def test_an_endless_archive_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE", 5000)
    with pytest.raises(RunError, match="far more"):
        get(tmp_path)


# Its address --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["[", "a b", "a" * 70, "127.0.0.1:9", "127.0.0.1:9/\n\u00e9\x1b"])
@pytest.mark.parametrize("user", ["", "me:s3cret@", "me:s3/c@ret@"])
def test_a_mirror_of_an_impossible_address(server, user, host, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", f"http://{user}{host}/x")
    line = failed(cifar10_utils.main, [str(tmp_path / "new")])
    assert "cannot download CIFAR-10 from http://" in line
    assert "s3" not in line and "ret@" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "me:secret@host"])
def test_a_mirror_must_be_http(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", url)
    line = failed(cifar10_utils.main, [str(tmp_path)])
    assert "CIFAR10_URL does not start with https:// or http://" in line


def test_a_password_goes_to_the_mirror_alone(server, tmp_path, monkeypatch, capsys):
    address = cifar10_utils.os.environ["CIFAR10_URL"].replace("//", "//me:s%40cret@")
    monkeypatch.setenv("CIFAR10_URL", address)
    server.plan += ["break", "redirect /elsewhere"]
    get(tmp_path)
    said = capsys.readouterr()
    assert "/a" in said.err and "cret" not in said.err + said.out
    sent = [headers["Authorization"] for headers in server.requests]
    assert sent == ["Basic bWU6c0BjcmV0"] * 2 + [None]  # me:s@cret; not where it redirects to


# What comes out of the archive --------------------------------------------------------------------


def test_an_archive_with_one_wrong_byte_is_not_opened(server, tmp_path, monkeypatch):
    server.archive = server.archive[:-9] + bytes([server.archive[-9] ^ 1]) + server.archive[-8:]
    monkeypatch.setattr(tarfile, "open", None)
    with pytest.raises(RunError, match="sent is truncated or altered, not CIFAR-10's archive"):
        get(tmp_path)
    assert listing(tmp_path) == {}


def test_only_the_official_files_leave_an_archive(server, tmp_path, monkeypatch):
    wanted = use_small_files(monkeypatch)
    with tarfile.open(fileobj=(raw := io.BytesIO()), mode="w") as tar:
        for folder in ("..", "/tmp", f"{FOLDER}/..", f"{FOLDER}/deeper", FOLDER):
            tar.addfile(tarfile.TarInfo(f"{folder}/data_batch_1"))
        for name, content in wanted.items():
            link, member = tarfile.TarInfo(f"{FOLDER}/{name}"), tarfile.TarInfo(f"{FOLDER}/{name}")
            link.type, link.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", len(content)
            tar.addfile(member, io.BytesIO(content))
            tar.addfile(link)
    server.archive = raw.getvalue()
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", md5_of(server.archive))
    assert_complete(get(tmp_path / "in"))
    assert listing(tmp_path) == {Path("in", FOLDER, name): raw for name, raw in wanted.items()}


def test_sound_data_is_not_fetched_again_and_damaged_data_is_mended(server, tmp_path, monkeypatch):
    folder = write_files(tmp_path / FOLDER, use_small_files(monkeypatch))
    assert get(tmp_path) == folder and server.ranges == []
    (folder / "data_batch_2").write_bytes(b"damaged")
    assert get(tmp_path) == folder and server.ranges == [None]
    assert_complete(folder)


def test_a_folder_of_another_name_is_completed_in_place(server, tmp_path, monkeypatch):
    some = dict(list(use_small_files(monkeypatch).items())[:3])
    folder = write_files(tmp_path / "data" / "mine", some)
    assert get(folder) == folder
    assert_complete(folder)


@pytest.mark.skipif(files.fcntl is None, reason="there is no lock on a folder there")
def test_two_downloads_at_once_wait_for_each_other(server, tmp_path):
    threads = [threading.Thread(target=get, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_complete(tmp_path / FOLDER)
    assert server.ranges == [None]


@pytest.mark.skipif(sys.platform == "win32", reason="links are for administrators there")
@pytest.mark.parametrize("name", [f"{ARCHIVE}.part", f"{FOLDER}/.data_batch_3.tmp"])
def test_a_link_is_not_written_through(server, name, tmp_path):
    (tmp_path / "mine").write_text("my work")
    (tmp_path / "data" / FOLDER).mkdir(parents=True)
    (tmp_path / "data" / name).symlink_to(tmp_path / "mine")
    assert_complete(get(tmp_path / "data"))
    assert (tmp_path / "mine").read_text() == "my work"


# An archive that the user fetched -----------------------------------------------------------------


def train(*flags):
    train_mlp_numpy.main(["--max_steps", "1", "--batch_size", "9", "--run_dir", "run", *flags])


PROGRAMS = {"command": lambda: cifar10_utils.main([]), "trainer": train}


@pytest.fixture(params=PROGRAMS)
def program(request, server, tmp_path, monkeypatch, no_curves):
    """What fetches data into the default folder, which is in tmp_path."""
    monkeypatch.chdir(tmp_path)
    server.plan += ["gone"] * 9
    return PROGRAMS[request.param]


@pytest.mark.parametrize("place", ["cifar10", f"cifar10/{FOLDER}", "."])
def test_it_is_taken_and_stays(program, server, place, tmp_path):
    write_files(tmp_path / place, {ARCHIVE: server.archive})
    assert outcome(program) == (0, "")
    assert server.ranges == []
    assert (tmp_path / place / ARCHIVE).read_bytes() == server.archive
    assert cifar10_utils.get_cifar10(tmp_path / "cifar10").test.num_examples == 10


@pytest.mark.parametrize(
    "content, what", [(b"\x1f\x8b", "truncated or altered"), (PAGE, "a web page")]
)
def test_a_broken_one_is_called_that_and_stays(program, server, content, what, tmp_path):
    write_files(tmp_path / "cifar10", {ARCHIVE: content})
    line = refused(program)
    assert f"{Path('cifar10', ARCHIVE)} is {what}, not CIFAR-10's archive: fetch it again" in line
    assert server.ranges == [] and listing(tmp_path) == {Path("cifar10", ARCHIVE): content}


def test_with_a_folder_given_the_error_names_the_command(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "my data", {ARCHIVE: archive})
    command = "python cifar10_utils.py 'my data'"
    assert command in refused(train, "--data_dir", "my data")
    with pytest.raises(FileNotFoundError, match=command):
        cifar10_utils.get_cifar10("my data")
    cifar10_utils.main(["my data"])
    assert_complete(tmp_path / "my data" / FOLDER, beside=[ARCHIVE])


# The machine --------------------------------------------------------------------------------------


def test_space_is_looked_at_first(server, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 0, 3 * 10**8))
    assert "needs 357 MB in" in failed(cifar10_utils.main, [str(tmp_path)])
    assert server.ranges == []
    (tmp_path / ARCHIVE).write_bytes(server.archive)  # then only the files need space
    assert outcome(cifar10_utils.main, [str(tmp_path)]) == (0, "")


def test_a_full_disk_is_no_fault_of_the_network(server, tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(RunError, match=f"cannot use .*{re.escape(ARCHIVE)}.part: File too"):
            get(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert server.ranges == [None]


def test_a_target_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for program, folder in ((failed, "file/cifar10"), (refused, "file")):
        assert str(tmp_path / "file") in program(cifar10_utils.main, [str(tmp_path / folder)])
    assert listing(tmp_path) == {Path("file"): b"in the way"}


class DeadTerminal(io.StringIO):
    def isatty(self):
        return True

    def write(self, *_):
        raise OSError(5, "Input/output error")

    flush = write


@pytest.mark.parametrize("stream", [None, DeadTerminal(), io.StringIO()])
def test_a_download_needs_no_terminal(server, stream, tmp_path, monkeypatch):
    if type(stream) is io.StringIO:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    server.plan.append("break")
    assert_complete(get(tmp_path))
    assert len(server.requests) == 2
