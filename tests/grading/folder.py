"""Finds and reads the files of a submission, whatever a student has handed in.

The files are a dict of functions by path: each opens one file, or raises an OSError whose text
ends the sentence '... is not read: '.
"""

import contextlib
import functools
import io
import os
import re
import stat
import zipfile
from collections import namedtuple

from . import notebook
from .worker import FILES

# Folders that are not the submission's own work.
PASSED_OVER = {".venv", "venv", "site-packages", ".ipynb_checkpoints", "__MACOSX", ".git"}
PASSED_OVER |= {"__pycache__", "node_modules"}
FILE_LIMIT, ALL_LIMIT = 1 << 20, 8 << 20  # bytes of one file, and of all that modules may import
ARCHIVES, ARCHIVES_LIMIT = 20, 256 << 20  # how many are opened in one submission; their bytes
PACKED = (".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")  # archives that are not opened

# What a file is called that stands for modules.py or mlp_numpy.py: `ann_123_modules.py`,
# `modules-1.py`, `modules (1).py`, `Modules.py`, `modules.py.txt`; but not `train_mlp_numpy.py`.
ROLE = re.compile(
    r"(?P<prefix>(?!\.)(?:.*(?<!train)(?<!test)(?<!tests)[\W_])?)(?P<role>modules|mlp_numpy)"
    r"[-_ ]*(?:copy|final|v)?[-_ ]*\(?\d*\)?\.py(?:\.txt)?",
    re.IGNORECASE | re.DOTALL,
)

# sources: bytes by path. errors: why a module was not read, by its name. place: the folder in
# which the two were found. note: which files were taken, where that is not plain.
Taken = namedtuple("Taken", "sources errors place note", defaults=({}, {}, "", ""))


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


def files_in(folder):
    """The files in a folder and below it. Raises an OSError where it cannot be listed."""
    os.scandir(folder).close()
    return {
        os.path.relpath(entry.path, folder): functools.partial(open_file, entry.path)
        for _, entries in walk(folder)
        for entry in entries
        if not entry.is_dir(follow_symlinks=False)
    }


LINK = "it is a link, and links are not followed"


def open_file(path):
    if os.path.islink(path):
        raise OSError(LINK)
    # O_NONBLOCK, for a pipe would keep us waiting.
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


def take(files):
    """What is graded of a submission's files: those of modules.py, of mlp_numpy.py, and of what
    they may import, if it is plain which files these are."""
    files, unopened = _unpack(files)
    matches = {path: ROLE.fullmatch(os.path.basename(path)) for path in sorted(files)}
    roles = {path: match["role"].lower() for path, match in matches.items() if match}
    both = {os.path.dirname(path) for path, role in roles.items() if role == "mlp_numpy"}
    # The most probable folder first: with both files, then the least deep.
    ranks = {
        os.path.dirname(path): (os.path.dirname(path) not in both, path.count("/"))
        for path, role in roles.items()
        if role == "modules"
    }
    if not ranks:
        return _take_notebook(files, unopened)
    place, *others = [folder for folder in ranks if ranks[folder] == min(ranks.values())]
    chosen, errors = {}, {}
    for role in FILES:
        every = [path for path in roles if roles[path] == role]
        paths = [path for path in every if os.path.dirname(path) in (place, *others)] or every
        if (exact := os.path.join(place, f"{role}.py")) in paths:
            paths = [exact, *(path for path in paths if os.path.dirname(path) in others)]
        if not paths:
            errors[role] = f"there is no {role}.py: found {listed(files, unopened)}"
        elif len({_read(files[path])[0] for path in paths} - {None}) > 1:
            errors[role] = f"it is not plain which is {role}.py: found {listed(paths)}"
        else:
            chosen[role] = paths[0]
    return _read_all(files, place, chosen, errors)


def _read_all(files, place, chosen, errors):
    sources, size = {}, 0
    for role, path in chosen.items():
        data, reason = _read(files[path])
        if data is None:
            errors[role] = f"{printable(os.path.relpath(path, place or '.'))} is not read: {reason}"
        else:
            sources[f"{role}.py"] = data
    start = f"{place}/" if place else ""
    # Beside ann_12_modules.py, what is imported as utils is ann_12_utils.py, or ann_13_utils.py.
    prefix = ROLE.fullmatch(os.path.basename(chosen.get("modules", "modules.py")))["prefix"]
    prefix = re.compile(r"\A" + re.sub(r"\d+", lambda _: r"\d+", re.escape(prefix)))
    for path in files:
        name = path.removeprefix(start)
        if path.startswith(start) and name.endswith(".py") and printable(name) == name:
            data, _ = _read(files[path]) if size <= ALL_LIMIT else (None, "")
            if data is not None and size + len(data) <= ALL_LIMIT:
                size += len(data)
                for own in (name, prefix.sub("", name, count=1) if "/" not in name else name):
                    sources.setdefault(own, data)
    could_be = {path for path in files if ROLE.fullmatch(os.path.basename(path))}
    plain = could_be <= {f"{role}.py" for role in FILES}
    note = "" if plain else f"taken: {listed(chosen.values())}"
    return Taken(sources, errors, place or ".", note)


def _take_notebook(files, unopened):
    """The two modules in the cells of a notebook, for there is no modules.py."""
    error = f"there is no modules.py: found {listed(files, unopened)}"
    paths = [path for path in files if path.endswith(".ipynb")]
    if len(paths) == 1:
        data, problem = _read(files[paths[0]])
        place, note = os.path.dirname(paths[0]) or ".", f"taken: the code of {listed(paths)}"
        try:
            if data is not None:
                return Taken(notebook.sources(data), {}, place, note)
        except ValueError as unclear:
            problem = unclear
        error = f"there is no modules.py, and {listed(paths)} does not do: {problem}"
    return Taken({}, {"modules": error})


def _unpack(files):
    """The files with those in archives among them, and why an archive was not opened, by path."""
    found, unopened, waiting = {}, {}, sorted(files.items())
    opened = size = 0
    while waiting:
        path, function = waiting.pop(0)
        if PASSED_OVER & set(path.split("/")[:-1]):
            continue
        found[path] = function
        if path.lower().endswith(PACKED):
            unopened[path] = "only zips are opened"
        if path.lower().endswith(".zip") and opened < ARCHIVES:
            opened += 1
            data, unopened[path] = _read(function, ARCHIVES_LIMIT - size)
            try:
                inside = zip_members(io.BytesIO(data)) if data is not None else None
            except OSError as error:
                inside, unopened[path] = None, str(error)
            if inside is not None:
                size += len(data)
                waiting += [(f"{path}/{name}", inside[name]) for name in sorted(inside)]
                del found[path]
    return found, unopened


def zip_members(file):
    """The files in a zip, as those in a folder. Links, and paths that lead out of it, are left out.
    Raises an OSError where it is not one."""
    found = {}
    with _readable():
        archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        parts = [part for part in info.filename.replace("\\", "/").split("/") if part != "."]
        if not {"", ".."} & set(parts) and not stat.S_ISLNK(info.external_attr >> 16):
            found["/".join(parts)] = lambda info=info: archive.open(info)
    return found


def _read(function, limit=FILE_LIMIT):
    """The bytes of a file, or None and why it was not read."""
    try:
        with _readable(), function() as file:
            data = file.read(limit + 1)
    except OSError as error:
        return None, str(error)
    return (data, "") if len(data) <= limit else (None, f"it has more than {limit >> 20} MiB")


@contextlib.contextmanager
def _readable():
    """Has whatever a stranger's bytes make a library raise be an OSError with a sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None
    except Exception as error:
        known = "password" in str(error)
        raise OSError("it needs a password" if known else "it is damaged") from None


def listed(paths, reasons=(), most=4):
    """The names of files in a sentence, with the reasons why some were not opened."""
    reasons, paths = dict(reasons), sorted(paths, key=lambda path: (path.count("/"), path))
    names = [printable(p) + (f" ({reasons[p]})" if p in reasons else "") for p in paths[:most]]
    more = [f"{len(paths) - most} more"] if len(paths) > most else []
    *first, last = [*names, *more] or ["no file"]
    return f"{', '.join(first)} and {last}" if first else last


def printable(name):
    """A file name as text that can be printed and written anywhere: the rest as escapes."""
    text = os.fsdecode(name).replace("\\", "\\\\").encode(errors="surrogateescape")
    text = text.decode(errors="backslashreplace")  # bytes that are not UTF-8
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
