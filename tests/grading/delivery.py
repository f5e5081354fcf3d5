"""What a learning platform delivers, a folder or a zip, and the submissions in it."""

import os
import re
from collections import defaultdict
from functools import partial

from .folder import LINK, PACKED, PASSED_OVER, ROLE, files_in, listed, open_file, zip_members

# Loose files that may be all that somebody has handed in; others say nothing about whose they are.
WORK = (".py", ".py.txt", ".ipynb", *PACKED)


def submissions(path):
    """Functions that give the files of each submission by its name, as folder.py has them; and the
    entries that belong to none. Raises an OSError where there are no submissions.

    A submission is a folder, an archive, or loose files with a common prefix.
    """
    entries = _in_folder(path) if os.path.isdir(path) else _in_zip(path)
    found, strays = _grouped(entries)
    if not found:
        raise OSError(f"{path} has no submissions: found {listed(entries)}")
    return {name: partial(_files, entries, names) for name, names in found.items()}, strays


def _files(entries, names):
    # A folder that is all of a submission is no part of the paths in it.
    return {
        (path if path and len(names) == 1 else f"{name}/{path}".rstrip("/")): function
        for name in names
        for path, function in entries[name][1]().items()
    }


# Entries are pairs by name: whether it is a folder, and a function that gives its files by their
# paths in it; that of a file is empty.


def _in_folder(path):
    return {entry.name: (entry.is_dir(), partial(_entry, entry)) for entry in os.scandir(path)}


def _entry(entry):
    if entry.is_symlink():
        raise OSError(LINK)
    return files_in(entry.path) if entry.is_dir() else {"": partial(open_file, entry.path)}


def _in_zip(path):
    try:
        files = zip_members(path)
    except OSError as error:
        raise OSError(f"{path} is not read: {error}") from None
    files = {name: files[name] for name in files if name.split("/")[0] not in PASSED_OVER}
    entries = _by_first_name(files)
    if len(entries) == 1 and all(is_folder for is_folder, _ in entries.values()):
        inside = _by_first_name({name.partition("/")[2]: files[name] for name in files})
        if len(_grouped(inside)[0]) > 1 and not _is_one(inside):  # one folder around all of them
            return inside
    return entries


def _by_first_name(files):
    entries = defaultdict(dict)
    for path, function in files.items():
        first, _, rest = path.partition("/")
        entries[first][rest] = function
    return {first: ("" not in inner, inner.copy) for first, inner in entries.items()}


def _grouped(entries):
    """The names of the entries of each submission, and of those that belong to none."""
    found, strays = defaultdict(list), []
    loose = sorted(name for name, (is_folder, _) in entries.items() if not is_folder)
    prefixes, own = _prefixes(loose), _is_one(loose)
    for name in sorted(entries):
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if name in PASSED_OVER or (name.startswith(".") and name in loose):
            continue
        if name not in loose:
            found[name].append(name)
        elif prefix:
            found[prefix.rstrip("_- ")].append(name)
        elif name.lower().endswith(".zip") or (name.lower().endswith(WORK) and not own):
            found[re.sub(r"(\.tar|\.py)?\.\w+$", "", name)].append(name)
        else:
            strays.append(name)
    return found, strays


def _is_one(names):
    """Whether a modules.py or mlp_numpy.py is directly among these: they are one submission's."""
    return any((match := ROLE.fullmatch(name)) and not match["prefix"] for name in names)


def _prefixes(names):
    """What the loose files of one submission begin with, the longest first."""
    groups = defaultdict(list)
    for name in names:
        if (match := ROLE.fullmatch(name)) and match["prefix"]:
            groups[match["prefix"]].append(match["role"].lower())
    # Canvas numbers the person and then each file: ann_12_345_modules.py, ann_12_346_mlp_numpy.py.
    shorter = defaultdict(list)
    for prefix, roles in groups.items():
        found = re.fullmatch(r"(.*[\W_]\d+[\W_])\d+[\W_]", prefix, re.DOTALL)
        if found and len(roles) == 1:
            shorter[found[1]] += roles
    good = [prefix for prefix, roles in shorter.items() if len(roles) == 2 == len(set(roles))]
    return sorted([*good, *(p for p in groups if not p.startswith(tuple(good)))], key=len)[::-1]
