"""Fetching CIFAR-10 from a server on loopback that is slow, dying, lying or old-fashioned."""

import http.server
import io
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import archive_of, listing, use_small_files, write_files

import cifar10_utils
import fetch
from cifar10_utils import FOLDER
from fetch import DownloadError, download


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


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        server = self.server
        act = server.plan.pop(0) if server.plan else "serve"
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if act == "refuse":
            return self.send_error(503)
        if act == "gone":
            return self.send_error(404)
        if act == "reset":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if act == "silent":
            return server.closing.wait(20)
        if act == "html":
            return self.reply(200, b"<html>Sorry</html>", {"Content-Type": "text/html"})
        if act == "html in disguise":
            return self.reply(200, b"<html>Sorry</html>")
        if act == "wrong bytes":
            return self.reply(200, server.archive[:-2000] + bytes(2000))
        if act == "slow headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not server.closing.wait(0.05):
                self.wfile.write(b"X: y\r\n")
            return None
        if act == "endless header":
            return self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + bytes(2**17))
        if act == "garbage":
            return self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        if act == "rude":
            return self.wfile.write(b"HTTP/1.1 404 \x1b[2J\x07\rgone\r\n\r\n")
        if act == "bad chunks":
            return self.reply(200, b"zz\r\n", {"Transfer-Encoding": "chunked"})
        if act.startswith("redirect "):
            return self.reply(302, b"", {"Location": act.split()[1]})
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(server.archive):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(server.archive)}"})
        if not asked or act in ("no range", "no range, break"):
            body, status, headers = server.archive, 200, {}
        else:
            body, status = server.archive[start:], 206
            begin = start + (5 if act == "shifted" else 0)
            last = len(server.archive) - 1
            headers = {"Content-Range": f"bytes {begin}-{last}/{len(server.archive)}"}
        if act in ("break", "no range, break"):
            return self.reply(status, body, headers, sent=max(1, len(body) // 3))
        if act == "stall":
            self.reply(status, body, headers, sent=len(body) // 3)
            return server.closing.wait(20)
        if act == "trickle":
            self.reply(status, body, headers, sent=10)
            while not server.closing.wait(0.05):
                self.wfile.write(b"x")
            return None
        if act == "break and change":
            self.reply(status, body, headers, sent=len(body) // 3)
            server.archive = server.changed
            return None
        if act == "too long a length":
            return self.reply(status, body, {**headers, "Content-Length": "99999999"})
        if act == "too short a length":
            return self.reply(status, body, {**headers, "Content-Length": str(len(body) // 2)})
        if act == "no length":
            return self.reply(status, body, {**headers, "Content-Length": ""})
        return self.reply(status, body, headers)

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
    with serving(archive_of(use_small_files(monkeypatch))) as server:
        monkeypatch.setenv("CIFAR10_URL", server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        for name, value in {
            "CONNECT_SECONDS": 1,
            "READ_SECONDS": 0.5,
            "WINDOW_SECONDS": 0.3,
            "PROGRESS": 1000,
            "BACKOFF_SECONDS": 0.001,
        }.items():
            monkeypatch.setattr(fetch, name, value)
        yield server


@contextmanager
def serving(archive):
    server = Server(archive)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
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
        (["too long a length"], 2),
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
    folder = download(tmp_path / "cifar10")
    assert folder == tmp_path / "cifar10" / FOLDER
    assert_complete(folder)
    assert len(server.ranges) == requests


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.plan += ["break", "break"]
    download(tmp_path)
    third = len(server.archive) // 3
    rest = len(server.archive) - third
    assert server.ranges == [None, f"bytes={third}-", f"bytes={third + rest // 3}-"]


def test_a_killed_download_goes_on_at_the_next_call(server, tmp_path):
    part = tmp_path / f"{FOLDER}.tar.part"
    part.write_bytes(server.archive[:7000])
    assert_complete(download(tmp_path))
    assert server.ranges == ["bytes=7000-"]


def test_a_download_that_was_complete_but_not_unpacked(server, tmp_path):
    (tmp_path / f"{FOLDER}.tar.part").write_bytes(server.archive)
    assert_complete(download(tmp_path))
    assert server.ranges == [f"bytes={len(server.archive)}-"]


def test_an_archive_that_changed_between_two_calls_is_fetched_anew(server, tmp_path):
    (tmp_path / f"{FOLDER}.tar.part").write_bytes(bytes(7000))
    assert_complete(download(tmp_path))
    assert server.ranges == ["bytes=7000-", None]


@pytest.mark.parametrize(
    "plan, complaint",
    [
        (["refuse"] * 3, "503"),
        (["reset"] * 3, "no CIFAR-10 from http://127.0.0.1"),
        (["gone"], "404"),
        (["html"], "answers with a web page"),
        (["html in disguise"], "not CIFAR-10's archive"),
        (["wrong bytes"], "not CIFAR-10's archive"),
        (["too short a length"], "not CIFAR-10's archive"),
        (["break", "shifted"], "another part of the archive"),
        (["trickle"] * 6, "only .* bytes in"),
        (["silent"] * 3, "no answer within 1 s|timed out"),
        (["slow headers"] * 3, "no answer within 1 s"),
        (["endless header"] * 3, "more than 65536 bytes"),
        (["garbage"] * 3, "SSH-2.0-OpenSSH"),
        (["bad chunks"] * 3, "IncompleteRead"),
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
    with pytest.raises(DownloadError, match=complaint):
        download(tmp_path / "cifar10")
    assert time.monotonic() - began < 20
    assert not (tmp_path / "cifar10" / FOLDER).exists()
    server.plan.clear()
    assert_complete(download(tmp_path / "cifar10"))  # and nothing wrong was kept


@pytest.mark.parametrize("size", ["same", "longer", "shorter"])
def test_an_archive_that_changes_between_two_ranges(server, size, tmp_path, monkeypatch):
    files = use_small_files(monkeypatch)
    server.changed = {
        "same": bytes(reversed(server.archive)),
        "longer": archive_of(files, "w"),
        "shorter": archive_of(files, "w:xz"),
    }[size]
    server.plan.append("break and change")
    began = time.monotonic()
    with pytest.raises(DownloadError, match="not CIFAR-10's archive|another part"):
        download(tmp_path)
    assert time.monotonic() - began < 20
    assert listing(tmp_path) == {}
    server.archive = archive_of(files)
    assert_complete(download(tmp_path))


@pytest.mark.parametrize(
    "url",
    ["http://", "http://[", "http://a b/", "http://" + "a" * 70, "http://127.0.0.1:x/", "http://:1"]
    + [
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:9/\n\u00e9\x1b",
        "https://\u2100/",
        "http://%zz/",
    ],
)
def test_a_mirror_of_an_impossible_address(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", url)
    with pytest.raises(SystemExit) as exit:
        fetch.main([str(tmp_path / "new")])
    assert "no CIFAR-10 from http" in exit.value.code and exit.value.code.isprintable()
    assert list(tmp_path.iterdir()) == []


def test_what_a_server_says_cannot_steer_the_terminal(server, tmp_path):
    server.plan.append("rude")
    with pytest.raises(SystemExit) as exit:
        fetch.main([str(tmp_path)])
    assert "404" in exit.value.code and exit.value.code.isprintable()


def test_an_endless_archive_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_ARCHIVE", 5000)
    with pytest.raises(DownloadError, match="far more"):
        download(tmp_path)


def test_https_may_not_be_redirected_to_http():
    handler = fetch._NoWeakerRedirect()
    request = fetch.urllib.request.Request("https://example.org/a")
    with pytest.raises(DownloadError, match="redirects to http://example.org/b: refused"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/b")
    assert handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/b")


def test_a_redirect_is_followed(server, tmp_path):
    with serving(server.archive) as other:
        server.plan.append(f"redirect {other.url}")
        assert_complete(download(tmp_path))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_mirror_may_have_packed_it_anew(server, mode, tmp_path, monkeypatch):
    server.archive = archive_of(use_small_files(monkeypatch), mode)
    assert_complete(download(tmp_path))


@pytest.mark.parametrize(
    "folder", ["/tmp", "..", f"{FOLDER}/../..", f"{FOLDER}/deeper", "elsewhere", f"/{FOLDER}"]
)
def test_an_archive_with_files_elsewhere_is_refused(server, folder, tmp_path, monkeypatch):
    server.archive = archive_of(use_small_files(monkeypatch), folder=folder)
    with pytest.raises(DownloadError, match="no file of CIFAR-10"):
        download(tmp_path / "in" / "cifar10")
    assert not [p for p in listing(tmp_path) if p.suffix != ".part"]


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "FIFOTYPE", "DIRTYPE"])
def test_an_archive_with_links_and_devices_is_refused(server, kind, tmp_path, monkeypatch):
    tarfile = fetch.tarfile

    def odd(member, plain=tarfile.TarFile.addfile):
        member.type, member.linkname = getattr(tarfile, kind), "/etc/passwd"
        return member

    files = use_small_files(monkeypatch)
    add = tarfile.TarFile.addfile
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", lambda tar, m, f: add(tar, odd(m)))
        server.archive = archive_of(files)
    with pytest.raises(DownloadError, match="no file of CIFAR-10"):
        download(tmp_path)
    assert listing(tmp_path) == {}


def test_an_archive_with_a_giant_member_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "MAX_FILE", 20_000)
    with pytest.raises(DownloadError, match="has .* bytes"):
        download(tmp_path)


def test_an_archive_that_lacks_a_file_is_refused(server, tmp_path, monkeypatch):
    files = use_small_files(monkeypatch)
    del files["test_batch"]
    server.archive = archive_of(files)
    with pytest.raises(DownloadError, match="lacks test_batch"):
        download(tmp_path)
    assert listing(tmp_path) == {}


def test_sound_data_is_not_fetched_again_and_damaged_data_is_mended(server, tmp_path, monkeypatch):
    folder = write_files(tmp_path / FOLDER, use_small_files(monkeypatch))
    assert download(tmp_path) == folder and server.ranges == []
    (folder / "data_batch_2").write_bytes(b"damaged")
    assert download(tmp_path) == folder and server.ranges == [None]
    assert_complete(folder)


def test_two_downloads_at_once_wait_for_each_other(server, tmp_path):
    threads = [threading.Thread(target=download, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_complete(tmp_path / FOLDER)
    assert server.ranges == [None]


@pytest.mark.parametrize("name", [f"{FOLDER}.tar.part", f"{FOLDER}/data_batch_3.part"])
def test_a_link_is_not_written_through(server, name, tmp_path):
    (tmp_path / "mine").write_text("my work")
    (tmp_path / "data" / FOLDER).mkdir(parents=True)
    (tmp_path / "data" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(DownloadError, match="cannot write .*: Too many levels of symbolic links"):
        download(tmp_path / "data")
    assert (tmp_path / "mine").read_text() == "my work"


def test_a_folder_of_another_name_is_completed_in_place(server, tmp_path, monkeypatch):
    files = use_small_files(monkeypatch)
    folder = write_files(tmp_path / "data" / "mine", dict(list(files.items())[:3]))
    assert download(folder) == folder
    assert_complete(folder)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "nonsense", ""])
def test_a_mirror_must_be_http(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_URL", url)
    with pytest.raises(DownloadError, match="must start with https:// or http://"):
        download(tmp_path)


def test_a_target_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((DownloadError, OSError), match="file"):
        download(tmp_path / "file" / "cifar10")
    assert listing(tmp_path) == {Path("file"): b"in the way"}


def test_the_command(server, tmp_path):
    assert fetch.main([str(tmp_path)]) is None
    assert_complete(tmp_path / FOLDER)
    server.archive = b""
    (tmp_path / FOLDER / "test_batch").unlink()
    with pytest.raises(SystemExit, match="not CIFAR-10's archive"):
        fetch.main([str(tmp_path)])


def test_the_command_without_a_network(tmp_path):
    root = Path(cifar10_utils.__file__).parent
    done = subprocess.run(
        [sys.executable, root / "cifar10_utils.py", tmp_path / "new"],
        env={"CIFAR10_URL": "http://127.0.0.1:9/x", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert "no CIFAR-10 from http://127.0.0.1:9/x" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
