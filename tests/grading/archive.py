"""Opens the zip archives that students hand in. Nothing in them is trusted, nor written anywhere
by its own name."""

import contextlib
import stat
import tempfile
import zipfile

LIMIT = 512 << 20  # bytes of the archives of a submission


def members(file):
    """The files in an archive: a dict of functions that open them, by path. Links, and paths that
    lead out of it, are left out."""
    found = {}
    with readable():
        archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        parts = [part for part in info.filename.replace("\\", "/").split("/") if part != "."]
        if not {"", ".."} & set(parts) and not stat.S_ISLNK(info.external_attr >> 16):
            found["/".join(parts)] = lambda info=info: archive.open(info)
    return found


def copied(function, limit):
    """A temporary file with the bytes of an archive, for those in an archive cannot be searched."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    with readable(), function() as file:
        while data := file.read(1 << 20):
            copy.write(data)
            if copy.tell() > limit:
                raise OSError(f"archives of more than {LIMIT >> 20} MiB are not opened")
    return copy


@contextlib.contextmanager
def readable():
    """Has whatever a stranger's bytes make the libraries raise be an OSError with a sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None
    except Exception as error:
        known = "password" in str(error)
        raise OSError("it needs a password" if known else "it is damaged") from None
