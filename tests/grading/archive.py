"""Opens the archives that students hand in, zip and tar. Nothing in them is trusted or unpacked
to the disk by its own name."""

import contextlib
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
MEMBERS = 100_000  # files in an archive
ARCHIVE_LIMIT, TAR_LIMIT = 512 << 20, 2 << 30  # bytes of an archive in another; of an unpacked tar
MEMORY = 1 << 30  # bytes that opening one may take: its headers may claim any size


def is_archive(name):
    return name.lower().endswith(SUFFIXES)


def members(file):
    """The files in an archive: a dict of functions that open them, by path.

    Links and paths that lead out of the archive are left out. Raises an OSError whose text ends
    the sentence '... is not read: '.
    """
    found = {}
    with _guarded():
        for name, function in _zipped(file) if zipfile.is_zipfile(file) else _tarred(file):
            parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
            if not {"", ".."} & set(parts):
                found["/".join(parts)] = function
            if len(found) > MEMBERS:
                raise OSError(f"it has more than {MEMBERS} files")
    return found


def _zipped(file):
    archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
            yield info.filename, lambda info=info: archive.open(info)


def _tarred(file):
    file.seek(0)
    archive = tarfile.open(fileobj=file)  # noqa: SIM115
    for info in archive:
        if info.offset_data + info.size > TAR_LIMIT:
            raise OSError(f"it unpacks to more than {TAR_LIMIT >> 30} GiB")
        if info.isreg():
            yield info.name, lambda info=info: archive.extractfile(info)


def read(function, limit):
    """The bytes of a member. Raises an OSError, also where they are more than the limit."""
    with _guarded(), function() as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"it has more than {limit >> 20} MiB")
    return data


def copied(function):
    """A temporary file with the bytes of a member, which is an archive itself."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    with _guarded(), function() as file:
        while data := file.read(1 << 20):
            copy.write(data)
            if copy.tell() > ARCHIVE_LIMIT:
                raise OSError(f"it has more than {ARCHIVE_LIMIT >> 20} MiB")
    return copy


@contextlib.contextmanager
def _guarded():
    """Bounds the memory of what stands in the block, and has it raise nothing but OSError."""
    try:
        with _memory_limit():
            yield
    except OSError:
        raise
    except RuntimeError as error:
        known = "password" in str(error)
        raise OSError("it needs a password" if known else "it is damaged") from None
    except Exception:  # whatever a stranger's bytes make the libraries raise
        raise OSError("it is damaged, or of an unknown kind") from None


@contextlib.contextmanager
def _memory_limit():
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError, ValueError):  # only Linux has all of this
            import resource

            pages = int(Path("/proc/self/statm").read_text().split()[0])
            old = resource.getrlimit(resource.RLIMIT_AS)
            new = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (new, old[1]))
            stack.callback(resource.setrlimit, resource.RLIMIT_AS, old)
        yield
