"""Fetch CIFAR-10 over a network that may fail and from a server that may lie.

    python cifar10_utils.py [DIR]

The data is good where every file has its official MD5, whoever sent it.
"""

import argparse
import bz2
import fcntl
import gzip
import lzma
import os
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from tqdm import tqdm

import cifar10_utils
from cifar10_utils import (
    DEFAULT_DIR,
    FOLDER,
    DataError,
    md5_of,
    one_line,
    read_verified,
    resolve_folder,
)

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MAX_ARCHIVE = 512 * 2**20  # bytes, packed and unpacked; the official one has 170 and 186 MB
LONG_NAMES = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
CONNECT_SECONDS = 12  # for the first answer of a server, name look-up included
READ_SECONDS = 15  # of silence before a connection counts as dead
WINDOW_SECONDS, WINDOW_BYTES = 30, 30_000  # a connection slower than this counts as dead
ATTEMPTS, PROGRESS = 6, 2**20  # connections in a row that bring fewer bytes each
BACKOFF_SECONDS = 0.2  # doubled after each of them
FIRST_ATTEMPTS = 3  # while nothing has come in at all


class DownloadError(Exception):
    """The data could not be fetched."""


def download(data_dir=DEFAULT_DIR):
    """Fetch what data_dir lacks of CIFAR-10. Returns the folder of the files, all verified.

    The archive comes from CIFAR10_URL where that is set. It grows in `<folder>.tar.part`, so that
    the next call goes on where this one broke off. A file of the data set appears under its name
    once its MD5 is right. Raises DownloadError where the archive cannot be had or is wrong.
    """
    folder = resolve_folder(Path(data_dir))
    if _complete(folder):
        return folder
    url = os.environ.get("CIFAR10_URL", URL)
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"CIFAR10_URL is {url!r}, but must start with https:// or http://")
    made = not folder.parent.exists()
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # where another process is at it, wait for it
        if not _complete(folder):
            _download(url, folder)
    finally:
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty: then it stays
                folder.parent.rmdir()
    return folder


def _download(url, folder):
    part = folder.parent / f"{folder.name}.tar.part"
    continued = part.exists()
    _fetch(url, part)
    try:
        files = _unpack(part)
    except Exception as error:  # a damaged archive can raise almost anything
        part.unlink()
        if continued:  # the archive may have changed since the earlier call
            return _download(url, folder)
        raise DownloadError(f"what {url} sent is not CIFAR-10's archive: {error}") from error
    with _writing(folder):
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            with open(folder / f"{name}.part", "wb", opener=_open_no_link) as file:
                file.write(content)
            os.replace(folder / f"{name}.part", folder / name)
        part.unlink()


def _complete(folder):
    try:
        return all(
            (folder / name).is_file() and read_verified(folder / name, parse=bool)
            for name in cifar10_utils.MD5
        )
    except DataError:
        return False


def _fetch(url, part):
    """Download url to the file part, over as many connections as it takes."""
    print(f"downloading CIFAR-10 (170 MB) from {url}", file=sys.stderr)
    began, longest, failures = time.monotonic(), 0, 0
    while True:
        try:
            return _fetch_rest(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing beyond what is already here
                return None
            if error.code < 500:
                raise DownloadError(f"no CIFAR-10 from {url}: {error}") from error
            reason = error
        except ValueError as error:  # an address, of the mirror or a redirect, that is none
            raise DownloadError(f"no CIFAR-10 from {url}: {error}") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
        size = _size(part)
        failures = 1 if size >= longest + PROGRESS else failures + 1
        longest = max(longest, size)
        late = not size and time.monotonic() - began > CONNECT_SECONDS
        if late or failures == (ATTEMPTS if size else FIRST_ATTEMPTS):
            raise DownloadError(f"no CIFAR-10 from {url}: {str(reason) or type(reason).__name__}")
        time.sleep(BACKOFF_SECONDS * 2**failures)


def _fetch_rest(url, part):
    """One connection: append to the file part what it lacks."""
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _open(urllib.request.Request(url, headers=headers)) as response:
        if "html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{url} answers with a web page, not with CIFAR-10's archive")
        if response.status != 206:  # a server that does not know Range starts from the beginning
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(f"{url} answers with another part of the archive than asked for")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with _writing(part):
            mode = "ab" if start else "wb"
            file = open(part, mode, 0, opener=_open_no_link)  # noqa: SIM115 (closed below)
        bar = tqdm(desc="CIFAR-10", total=total, initial=start, unit="B", unit_scale=True,
                   disable=None)  # fmt: skip
        with file, bar:
            for chunk in _chunks(response):
                with _writing(part):
                    file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_ARCHIVE:
                    raise DownloadError(f"{url} sends far more than CIFAR-10's archive")
    if _size(part) < (total or 0):
        raise ConnectionError(f"the connection broke off at {_size(part)} of {total} bytes")


def _chunks(response):
    """What response holds, as it comes in; TimeoutError where that is hardly anything."""
    began, received = time.monotonic(), 0
    while chunk := response.read1(2**16):
        yield chunk
        received += len(chunk)
        if time.monotonic() - began > WINDOW_SECONDS:
            if received < WINDOW_BYTES:
                raise TimeoutError(f"only {received} bytes in {WINDOW_SECONDS} s")
            began, received = time.monotonic(), 0


def _open(request):
    """The response to request. In a thread, for no time-out of sockets covers the name look-up."""
    opener, answer = urllib.request.build_opener(_NoWeakerRedirect), []
    too_late = threading.Event()

    def connect():
        try:
            answer.append(opener.open(request, timeout=READ_SECONDS))
            if too_late.is_set():
                answer[0].close()
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not answer:
        too_late.set()
        raise TimeoutError(f"no answer within {CONNECT_SECONDS} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


class _NoWeakerRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect to what is less safe, and closes the answer, which urllib leaves open."""

    def http_error_302(self, req, fp, *details):
        try:
            return super().http_error_302(req, fp, *details)
        finally:
            fp.close()

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise DownloadError(f"{req.full_url} redirects to {newurl}: refused, not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _unpack(archive):
    """The verified content of every official file in archive, by name.

    tarfile's own loop would follow extended headers to sizes and sparse files far beyond what the
    archive holds; here they are skipped, for none of the names that count needs them.
    """
    files = {}
    with _decompressed(archive) as file:
        while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if not 0 <= member.size <= cifar10_utils.MAX_FILE or file.tell() > MAX_ARCHIVE:
                raise DataError(
                    f"its member {member.name} has {member.size} bytes at {file.tell()}"
                )
            blocks = -(-member.size // tarfile.BLOCKSIZE)
            content = file.read(blocks * tarfile.BLOCKSIZE)[: member.size]
            parts = PurePosixPath(member.name).parts
            if member.type in LONG_NAMES or (member.isdir() and parts in ((), (FOLDER,))):
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or parts[:-1] != (FOLDER,):
                raise DataError(f"it holds {member.name}, which is no file of CIFAR-10")
            if parts[-1] in cifar10_utils.MD5:
                if md5_of(content) != cifar10_utils.MD5[parts[-1]]:
                    raise DataError(f"its {parts[-1]} has the wrong MD5, {md5_of(content)}")
                files[parts[-1]] = content
    if missing := [name for name in cifar10_utils.MD5 if name not in files]:
        raise DataError(f"it lacks {', '.join(missing)}")
    return files


def _decompressed(archive):
    """The file archive, opened to read what was compressed, if it was."""
    for opener in (gzip.open, bz2.open, lzma.open):
        with suppress(OSError, EOFError, lzma.LZMAError), opener(archive) as file:
            file.read(1)
            return opener(archive)
    return open(archive, "rb")


def _open_no_link(path, flags):
    """For open(): fails where path is a link, which may lead to a file of somebody else."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _size(path):
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror}") from error


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Download CIFAR-10 (170 MB) and verify it. CIFAR10_URL names a mirror.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", nargs="?", default=DEFAULT_DIR, help="default: %(default)s")
    try:
        print(f"CIFAR-10 is in {download(parser.parse_args(argv).dir)}")
    except (DownloadError, OSError) as error:
        sys.exit(one_line(f"{parser.prog}: error: {error}"))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
