"""Fetching CIFAR-10 from a server on loopback that is slow, dying, lying or old-fashioned."""

import http.server
import io
import socket
import sys
import tarfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from common import archive_of, failed, listing, use_small_files, write_files

import cifar10_utils
from cifar10_utils import FOLDER
from cifar10_utils import download as get
from training import download, files
from training.errors import RunError


class Server(http.server.ThreadingHTTPServer):
    """Serves `archive`; `plan` holds what to do with the first requests, one word each."""

    daemon_threads = True

    def __init__(self, archive):
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive, self.plan, self.ranges = archive, [], []
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"

    def handle_error(self, *_):
        """A client that hangs up is no news."""


RAW = {
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
    "rude": b"HTTP/1.1 404 \x1b[2J\x07\rgone\r\n\r\n",
}
OTHERWISE = {  # status, body and headers
    "refuse": (503, b""),
    "gone": (404, b""),
    "html": (200, b"<html>Sorry</html>", {"Content-Type": "text/html"}),
    "bad chunks": (200, b"zz\r\n", {"Transfer-Encoding": "chunked"}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        server, archive = self.server, self.server.archive
        act = server.plan.pop(0) if server.plan else "serve"
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if act in RAW:
            return self.wfile.write(RAW[act])
        if act in OTHERWISE:
            return self.reply(*OTHERWISE[act])
        if act.startswith("redirect "):
            return self.reply(302, b"", {"Location": act.split()[1]})
        if act == "reset":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if act == "silent":
            return server.closing.wait(20)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(archive):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(archive)}"})
        if not asked or act.startswith("no range"):
            body, status, headers = archive, 200, {}
        else:
            begin = start + (5 if act == "shifted" else 0)
            headers = {"Content-Range": f"bytes {begin}-{len(archive) - 1}/{len(archive)}"}
            body, status = archive[begin:], 206
        lengths = {"too long": 99999999, "no": ""}
        if act.endswith(" length"):
            headers["Content-Length"] = str(lengths[act.removesuffix(" length")])
        broken = act in ("break", "no range, break", "stall")
        sent = max(1, len(body) // 3) if broken else None
        self.reply(status, body, headers, sent)
        if act == "stall":
            server.closing.wait(20)

    def reply(self, status, body, headers=None, sent=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])


@pytest.fixture
def server(monkeypatch):
    """A server with a small archive, whose sums the code takes for the official ones."""
    server = Server(archive_of(use_small_files(monkeypatch)))
    monkeypatch.setenv("CIFAR10_URL", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, value in {"TIME_OUT": 0.3, "PROGRESS": 1000, "BACKOFF_SECONDS": 0.001}.items():
        monkeypatch.setattr(download, name, value)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def assert_complete(folder):
    """The official files are there, sound, and nothing else is."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(cifar10_utils.MD5)
    assert list(folder.parent.iterdir()) == [folder]
    cifar10_utils.get_cifar10(folder)


@pytest.mark.parametrize(
    "plan, requests",
    [
        ([], 1),
        (["no length"], 1),
        (["too long length"], 2),
        (["garbage", "bad chunks"], 3),
        (["refuse"], 2),
        (["reset"], 2),
        (["silent"], 2),
        (["break"], 2),
        (["break"] * 5, 6),
        (["stall", "stall"], 3),
        (["no range, break", "no range"], 2),
        (["break", "no range"], 2),
        (["break", "reset", "refuse", "break"], 5),
    ],
    ids=str,
)
def test_a_download_survives(server, plan, requests, tmp_path):
    server.plan += plan
    folder = get(tmp_path / "cifar10")
    assert folder == tmp_path / "cifar10" / FOLDER
    assert_complete(folder)
    assert len(server.ranges) == requests


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.plan += ["break", "break"]
    get(tmp_path)
    third = len(server.archive) // 3
    rest = len(server.archive) - third
    assert server.ranges == [None, f"bytes={third}-", f"bytes={third + rest // 3}-"]


def test_a_killed_download_goes_on_at_the_next_call(server, tmp_path):
    part = tmp_path / f"{FOLDER}.tar.part"
    part.write_bytes(server.archive[:7000])
    assert_complete(get(tmp_path))
    assert server.ranges == ["bytes=7000-"]


def test_a_download_that_was_complete_but_not_unpacked(server, tmp_path):
    (tmp_path / f"{FOLDER}.tar.part").write_bytes(server.archive)
    assert_complete(get(tmp_path))
    assert server.ranges == [f"bytes={len(server.archive)}-"]


def test_an_archive_that_changed_between_two_calls_is_fetched_anew(server, tmp_path):
    (tmp_path / f"{FOLDER}.tar.part").write_bytes(bytes(7000))
    assert_complete(get(tmp_path))
    assert server.ranges == ["bytes=7000-", None]


@pytest.mark.parametrize(
    "plan, complaint",
    [
        (["refuse"] * 4, "503"),
        (["reset"] * 4, "cannot download CIFAR-10 from http://127.0.0.1"),
        (["gone"], "404"),
        (["html"], "not CIFAR-10's archive"),
        (["break", "shifted"], "not CIFAR-10's archive"),
        (["silent"] * 4, "timed out"),
        (["garbage"] * 4, "SSH-2.0-OpenSSH"),
        (["bad chunks"] * 4, "IncompleteRead"),
        (["redirect /cifar-10-python.tar.gz"] * 20, "infinite loop"),
        (["redirect http://[bad/x"], "Invalid IPv6 URL|does not appear to be"),
        (["redirect ftp://127.0.0.1/x"], "redirects to ftp://127.0.0.1/x: refused"),
        (["redirect file:///etc/passwd"], "file:///etc/passwd. is not allowed"),
    ],
    ids=str,
)
def test_a_download_that_cannot_be_right_ends_with_a_sentence(server, plan, complaint, tmp_path):
    server.plan += plan
    began = time.monotonic()
    with pytest.raises(RunError, match=complaint):
        get(tmp_path / "cifar10")
    assert time.monotonic() - began < 20
    assert not (tmp_path / "cifar10" / FOLDER).exists()
    server.plan.clear()
    assert_complete(get(tmp_path / "cifar10"))  # and nothing wrong was kept


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://a b/",
        "http://" + "a" * 70,
        "http://127.0.0.1:9/x",
        "http://127.0.0.1:9/\n\u00e9\x1b",
    ],
)
def test_a_mirror_of_an_impossible_address(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", url)
    line = failed(cifar10_utils.main, [str(tmp_path / "new")])
    assert "cannot download CIFAR-10 from http" in line
    assert list(tmp_path.iterdir()) == []


def test_what_a_server_says_cannot_steer_the_terminal(server, tmp_path):
    server.plan.append("rude")
    assert "404" in failed(cifar10_utils.main, [str(tmp_path)])


def test_an_endless_archive_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE", 5000)
    with pytest.raises(RunError, match="far more"):
        get(tmp_path)


def test_https_may_not_be_redirected_to_http():
    handler = download._NoWeakerRedirect()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(RunError, match="redirects to http://example.org/b: refused"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/b")
    assert handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/b")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_mirror_may_have_packed_it_anew(server, mode, tmp_path, monkeypatch):
    server.archive = archive_of(use_small_files(monkeypatch), mode)
    assert_complete(get(tmp_path))


@pytest.mark.parametrize(
    "folder", ["/tmp", "..", f"{FOLDER}/../..", f"{FOLDER}/deeper", "elsewhere", f"/{FOLDER}"]
)
def test_an_archive_with_files_elsewhere_is_refused(server, folder, tmp_path, monkeypatch):
    server.archive = archive_of(use_small_files(monkeypatch), folder=folder)
    with pytest.raises(RunError, match="lacks data_batch_1, .*batches.meta"):
        get(tmp_path / "in" / "cifar10")
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "FIFOTYPE", "DIRTYPE"])
def test_an_archive_with_links_and_devices_is_refused(server, kind, tmp_path, monkeypatch):
    fields = {"type": getattr(tarfile, kind), "linkname": "/etc/passwd"}
    server.archive = archive_of(use_small_files(monkeypatch), **fields)
    with pytest.raises(RunError, match="not CIFAR-10's archive"):
        get(tmp_path)
    assert listing(tmp_path) == {}


def test_an_archive_that_lacks_a_file_is_refused(server, tmp_path, monkeypatch):
    files = use_small_files(monkeypatch)
    del files["test_batch"]
    server.archive = archive_of(files)
    with pytest.raises(RunError, match="lacks test_batch"):
        get(tmp_path)
    assert listing(tmp_path) == {}


def test_sound_data_is_not_fetched_again_and_damaged_data_is_mended(server, tmp_path, monkeypatch):
    folder = write_files(tmp_path / FOLDER, use_small_files(monkeypatch))
    assert get(tmp_path) == folder and server.ranges == []
    (folder / "data_batch_2").write_bytes(b"damaged")
    assert get(tmp_path) == folder and server.ranges == [None]
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
@pytest.mark.parametrize("name", [f"{FOLDER}.tar.part", f"{FOLDER}/.data_batch_3.tmp"])
def test_a_link_is_not_written_through(server, name, tmp_path):
    (tmp_path / "mine").write_text("my work")
    (tmp_path / "data" / FOLDER).mkdir(parents=True)
    (tmp_path / "data" / name).symlink_to(tmp_path / "mine")
    assert_complete(get(tmp_path / "data"))
    assert (tmp_path / "mine").read_text() == "my work"


def test_a_folder_of_another_name_is_completed_in_place(server, tmp_path, monkeypatch):
    files = use_small_files(monkeypatch)
    folder = write_files(tmp_path / "data" / "mine", dict(list(files.items())[:3]))
    assert get(folder) == folder
    assert_complete(folder)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "nonsense", ""])
def test_a_mirror_must_be_http(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", url)
    with pytest.raises(RunError, match="does not start with https:// or http://"):
        get(tmp_path)


def test_a_target_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((RunError, OSError), match="file"):
        get(tmp_path / "file" / "cifar10")
    assert listing(tmp_path) == {Path("file"): b"in the way"}


def test_the_command(server, tmp_path):
    assert cifar10_utils.main([str(tmp_path)]) is None
    assert_complete(tmp_path / FOLDER)
    server.archive = b""
    (tmp_path / FOLDER / "test_batch").unlink()
    assert "not CIFAR-10's archive" in failed(cifar10_utils.main, [str(tmp_path)])
