"""Finds and reads the files of a submission in a stranger's folder, whatever is in there."""

import os
import stat

from .worker import FILES

# Folders that are not the submission's own work.
PASSED_OVER = {".venv", "venv", "site-packages", ".ipynb_checkpoints", "__MACOSX", ".git"}
PASSED_OVER |= {"__pycache__", "node_modules"}
FILE_LIMIT, ALL_LIMIT = 1 << 20, 8 << 20  # bytes of one file, and of all that modules may import


def walk(folder, limit=5000, passed_over=PASSED_OVER):
    """Pairs of a folder and its entries in order, the shallowest first, `limit` folders at most.

    Links are not followed, and what cannot be read is left out. (os.walk recurses, which fails for
    a deep folder.)
    """
    waiting = [os.fspath(folder)]
    while waiting and limit:
        path = waiting.pop(0)
        limit -= 1
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        yield path, entries
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        waiting += [entry.path for entry in folders if entry.name not in passed_over]


def places(folder):
    """The folders with a modules.py, the most probable one first: with an mlp_numpy.py too,
    then the least deep."""
    found = []
    for path, entries in walk(folder):
        names = {entry.name for entry in entries}
        if "modules.py" in names:
            found.append(("mlp_numpy.py" not in names, path.count(os.sep), path))
    return [path for _, _, path in sorted(found)]


def read(folder):
    """The Python files in a folder and below it, and why a module was not read.

    Returns a dict of bytes by path, and a dict of sentences by the name of the module.
    """
    sources, errors, size = {}, {}, 0
    for _, entries in walk(folder):
        for entry in entries:
            name = os.path.relpath(entry.path, folder)
            if not name.endswith(".py") or printable(name) != name:
                continue
            module = name.removesuffix(".py")
            try:
                data = _read_file(entry.path)
                if module in FILES or size + len(data) <= ALL_LIMIT:
                    sources[name] = data
                    size += len(data)
            except OSError as error:
                if module in FILES:
                    errors[module] = f"{name} is not read: {error.strerror or error}"
    return sources, errors


def _read_file(path):
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError("it is a link, and links are not followed")
    # O_NONBLOCK, for a pipe would keep us waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise OSError(f"it has more than {FILE_LIMIT >> 20} MiB")
    return data


def printable(name):
    """A file name as text that can be printed and written anywhere: the rest as escapes."""
    text = os.fsdecode(name).replace("\\", "\\\\").encode(errors="surrogateescape")
    text = text.decode(errors="backslashreplace")  # bytes that are not UTF-8
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
