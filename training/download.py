"""Download an archive over an unreliable network, from a server that is not trusted."""

import hashlib
import sys
import tarfile
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException

from tqdm import tqdm

from training import files
from training.errors import RunError, Stopped, one_line

MAX_ARCHIVE, MAX_MEMBER = 2**29, 2**26  # bytes; CIFAR-10's has 170 MB, its largest file 31 MB
TIME_OUT = 12  # seconds of silence, after which a connection counts as dead
ATTEMPTS, PROGRESS = 4, 2**20  # gives up after 4 failures; one after 1 MiB more counts as the first
BACKOFF_SECONDS = 0.2  # doubled after each failure


def download(url, folder, md5, inside):
    """Download the archive at url and write the files in md5 (a dict of MD5 by name) into folder.
    In the archive they are in the folder `inside`.

    The download is kept in `<folder>.tar.part`, so the next call continues an interrupted one. The
    MD5 is that of each file, not of the archive, which a mirror may have repacked. A file is
    written only if its MD5 is right. Raises RunError if the download fails or a file is wrong.
    """
    made = not folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(folder.parent, wait=True):  # another process may be fetching it
            if not _complete(folder, md5):
                _fetch_and_unpack(url, folder, md5, inside)
    except KeyboardInterrupt as stop:
        raise Stopped("run the same command again to continue") from stop
    except OSError as error:
        raise RunError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    finally:
        if made:
            with suppress(OSError):  # not empty: then it stays
                folder.parent.rmdir()


def _fetch_and_unpack(url, folder, md5, inside):
    if not url.startswith(("https://", "http://")):
        raise RunError(f"the address {url!r} does not start with https:// or http://")
    part = folder.parent / f"{folder.name}.tar.part"
    continued = part.exists()
    if part.is_symlink():  # never write into a file elsewhere
        part.unlink()
    _fetch(url, part)
    try:
        contents = _unpack(part, inside, md5)
    except Exception as error:  # a damaged archive can raise almost anything
        part.unlink()
        if continued:  # the archive may have changed since the earlier call
            return _fetch_and_unpack(url, folder, md5, inside)
        raise RunError(f"what {url} sent is not CIFAR-10's archive: {error}") from error
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        with files.replacing(folder / name) as file:
            file.write(content)
    part.unlink()


def _complete(folder, md5):
    paths = [folder / name for name in md5]
    return all(path.is_file() and md5_of(path.read_bytes()) == md5[path.name] for path in paths)


def md5_of(raw):
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def _unpack(archive, inside, md5):
    """The contents of the files that md5 names, by name."""
    contents, wanted = {}, {f"{inside}/{name}": name for name in md5}
    with tarfile.open(archive) as tar:
        for member in tar:
            if not 0 <= member.size <= MAX_MEMBER or tar.offset > MAX_ARCHIVE:
                raise ValueError(f"its member {member.name} has {member.size} bytes")
            if (name := wanted.get(member.name.removeprefix("./"))) and member.isreg():
                contents[name] = tar.extractfile(member).read()
                if md5_of(contents[name]) != md5[name]:
                    raise ValueError(f"its {name} has the wrong MD5")
    if missing := [name for name in md5 if name not in contents]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return contents


def _fetch(url, part):
    """Download url to the file part, over as many connections as it takes."""
    print(f"downloading CIFAR-10 (170 MB) from {one_line(url)}", file=sys.stderr)
    longest = failures = 0
    while True:
        try:
            return _fetch_rest(url, part)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an invalid address
            status = getattr(error, "code", None)
            if status == 416:  # nothing beyond what is already here
                return
            size = _size(part)
            failures = 1 if size >= longest + PROGRESS else failures + 1
            longest = max(longest, size)
            refused = isinstance(error, ValueError) or (status and status < 500)
            if refused or failures == ATTEMPTS:
                reason = str(error if status else getattr(error, "reason", error)) or repr(error)
                raise RunError(f"cannot download CIFAR-10 from {url}: {reason}") from error
        time.sleep(BACKOFF_SECONDS * 2**failures)


def _fetch_rest(url, part):
    """One connection: append to the file part what it lacks."""
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    opener = urllib.request.build_opener(_NoWeakerRedirect)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIME_OUT) as response:
        if response.status != 206:  # a server that does not know Range starts from the beginning
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        bar = tqdm(desc="CIFAR-10", total=total, initial=start, unit="B", unit_scale=True,
                   disable=None)  # fmt: skip
        with bar, open(part, "ab" if start else "wb", 0) as file:
            while chunk := response.read1(2**16):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_ARCHIVE:
                    raise RunError(f"{url} sends far more than CIFAR-10's archive")
    if _size(part) < (total or 0):
        raise ConnectionError(f"the connection broke off at {_size(part)} of {total} bytes")


class _NoWeakerRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if newurl.startswith(("https://", f"{req.type}://")):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        fp.close()
        raise RunError(f"{req.full_url} redirects to {newurl}: refused, not https")


def _size(path):
    return path.stat().st_size if path.exists() else 0
