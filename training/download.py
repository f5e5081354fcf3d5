"""Fetch CIFAR-10's archive over a network that may fail, and unpack it."""

import argparse
import os
import re
import shutil
import sys
import tarfile
import time
import urllib.request
from base64 import b64encode
from contextlib import suppress
from http.client import HTTPException, InvalidURL
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

import cifar10_utils
from training import files
from training.errors import RunError, UsageError, exit_with_message, file_errors, one_line

PACKED, UNPACKED = 170_498_071, 186_300_000  # bytes of the archive, and of the files in it
TIME_OUT = 12  # seconds of silence, after which a connection counts as dead
ATTEMPTS = 4  # without a byte more than before
BACKOFF_SECONDS = 0.2  # doubled after each failure


@exit_with_message
def main(argv=None):
    """The program `python cifar10_utils.py [DIR]`."""
    parser = argparse.ArgumentParser(description="Fetch CIFAR-10 (170 MB) and verify it.")
    default = cifar10_utils.DEFAULT_DIR
    parser.add_argument("dir", nargs="?", default=default, help=f"(default: {default})")
    print(f"CIFAR-10 is in {download(parser.parse_args(argv).dir)}")


def download(data_dir):
    """Put the files of CIFAR-10 into data_dir unless they are there. Returns their folder.

    They come from an archive that the user put there or beside it, or else from the network; the
    next call continues an interrupted download. Raises RunError if that fails, UsageError if
    data_dir is no folder or the user's archive is not CIFAR-10's.
    """
    with file_errors(UsageError, data_dir):
        folder = cifar10_utils.locate(data_dir)
        for path in (folder, folder.parent):
            if path.is_file():
                raise UsageError(f"{path} is a file, not the folder of CIFAR-10's files")
    with file_errors(RunError, folder), files.locked(folder.parent, wait=True):
        with suppress(OSError, ValueError):  # another process may have fetched it meanwhile
            return cifar10_utils.verify(folder)
        _unpack(_archive(folder), folder)
    return folder


def _archive(folder):
    """The path of the archive, which is fetched unless the user has done so."""
    part = folder.parent / f"{cifar10_utils.ARCHIVE}.part"
    by_hand = [place / cifar10_utils.ARCHIVE for place in (folder, *folder.parents[:2])]
    archive = next((path for path in by_hand if path.is_file()), part)
    needed = UNPACKED + (max(0, PACKED - _size(part)) if archive == part else 0)
    disk = shutil.disk_usage(folder.parent)
    if disk.free < needed and disk.total:  # some file systems know neither
        free = f"{disk.free / 1e6:.0f} MB are free"
        raise RunError(f"CIFAR-10 needs {needed / 1e6:.0f} MB in {folder.parent}, where {free}")
    if archive == part:
        _fetch(part)
    elif fault := _fault(archive):
        raise UsageError(f"{archive} is {fault}: fetch it again, or delete it to download it")
    return archive


def _unpack(archive, folder):
    """Puts the official files in the archive, and nothing else of it, into folder."""
    folder.mkdir(exist_ok=True)
    wanted = {f"{cifar10_utils.FOLDER}/{name}": folder / name for name in cifar10_utils.MD5}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and (path := wanted.get(member.name)):
                with files.replacing(path) as file:
                    shutil.copyfileobj(tar.extractfile(member), file)
    if archive.suffix == ".part":
        archive.unlink()


def _fault(archive):
    """What the file is if it is not the official archive; else None."""
    if cifar10_utils.md5_of(archive) != cifar10_utils.ARCHIVE_MD5:
        with open(archive, "rb") as file:
            what = "a web page" if _is_page(file.read(100)) else "truncated or altered"
        return f"{what}, not CIFAR-10's archive"


def _is_page(start):
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _fetch(part):
    """Download the archive to the file part, over as many connections as it takes."""
    kept = part.exists()
    if kept and not _fault(part):
        return
    url, login = _split_off_password(os.environ.get("CIFAR10_URL") or cifar10_utils.URL)
    print(one_line(f"downloading CIFAR-10 (170 MB) from {_shown(url)}"), file=sys.stderr)
    cannot = f"cannot download CIFAR-10 from {_shown(url)}"
    longest = failures = 0
    while True:
        try:
            _fetch_rest(url, login, part)
            break
        except (ValueError, InvalidURL) as error:  # which may quote a password
            raise RunError(f"{cannot}: not an address") from error
        except (OSError, HTTPException) as error:
            status = getattr(error, "code", 500)
            if status == 416:  # nothing beyond what is already here
                break
            failures = 1 if _size(part) > longest else failures + 1
            longest = max(longest, _size(part))
            if status < 500 or failures == ATTEMPTS:
                reason = str(error if hasattr(error, "code") else getattr(error, "reason", error))
                raise RunError(f"{cannot}: {reason or repr(error)}") from error
        time.sleep(BACKOFF_SECONDS * 2**failures)
    if fault := _fault(part):
        part.unlink()
        if kept:  # what was kept of an earlier download may be at fault
            return _fetch(part)
        raise RunError(f"what {_shown(url)} sent is {fault}")


def _split_off_password(address):
    """The address without its user and password, and the headers that hold these."""
    scheme, user, rest = re.fullmatch("(https?://)?(?:([^/]*)@)?(.*)", address, re.S).groups()
    if not scheme:
        raise RunError("CIFAR10_URL does not start with https:// or http://")
    login = {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"} if user else {}
    return scheme + rest, login


def _shown(url):
    return re.sub("//.*@", "//", url, flags=re.S)  # a password may hold a / or an @, unescaped


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect from http to http or https, and from https to https alone."""

    def redirect_request(self, request, response, code, message, headers, url):
        if urlsplit(url).scheme not in ("https", request.type):
            raise RunError(f"the server redirects to {_shown(url)}: refused, not https")
        return super().redirect_request(request, response, code, message, headers, url)


def _fetch_rest(url, login, part):
    """One connection: append to the file part what it lacks."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    for header in login.items():
        request.add_unredirected_header(*header)
    with urllib.request.build_opener(Redirects).open(request, timeout=TIME_OUT) as response:
        chunk = response.read1(2**16)
        if response.status != 206:  # a server that does not know Range starts from the beginning
            if _is_page(chunk):
                raise RunError(f"what {_shown(url)} sent is a web page, not CIFAR-10's archive")
            with file_errors(RunError, part):
                part.write_bytes(b"")
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with tqdm(desc="CIFAR-10", total=total, initial=start, unit="B", unit_scale=True,
                  disable=None) as bar:  # fmt: skip
            while chunk:
                with file_errors(RunError, part), open(part, "ab") as file:
                    file.write(chunk)
                bar.update(len(chunk))
                chunk = response.read1(2**16)
    if _size(part) < (total or 0):
        raise ConnectionError(f"the connection broke off at {_size(part)} of {total} bytes")


def _size(path):
    return path.stat().st_size if path.exists() else 0
