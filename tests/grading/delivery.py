"""What a learning platform delivers, a folder or a zip, and the submissions in it."""

import functools
import os
import re
from collections import defaultdict
from pathlib import Path

from .folder import PASSED_OVER, ROLE, files_in, listed, open_file, zip_members

# Loose files that may be all that somebody has handed in; others say nothing about whose they are.
WORK = (".py", ".py.txt", ".ipynb", ".rar", ".7z", ".tar", ".gz", ".tgz")


class Delivery:
    """The submissions by name: every folder, every archive, and loose files with a common prefix.

    strays: the entries that belong to none. Raises an OSError where there are no submissions.
    """

    def __init__(self, path):
        self.path, self.root, self.is_zip = Path(path), "", not os.path.isdir(path)
        entries = self._zip_entries() if self.is_zip else self._folder_entries()
        self.entries, self.strays = _submissions(entries)
        if not self.entries:
            raise OSError(f"{path} has no submissions: found {listed(entries)}")

    def _folder_entries(self):
        # Links to folders too: they are refused, and the line says so.
        return {entry.name: entry.is_dir() for entry in os.scandir(self.path)}

    def _zip_entries(self):
        try:
            paths = [p for p in zip_members(self.path) if p.split("/")[0] not in PASSED_OVER]
        except OSError as error:
            raise OSError(f"{self.path} is not read: {error}") from None
        tops = _tops(paths)
        if len(tops) == 1 and all(tops.values()):  # one folder around all of them, perhaps
            (root,) = tops
            inside = _tops([path.removeprefix(f"{root}/") for path in paths])
            if len(_submissions(inside)[0]) > 1 and not _is_one(inside):
                self.root, tops = f"{root}/", inside
        return tops

    def files(self, name):
        """The files of a submission, as folder.py has them."""
        entries = self.entries[name]
        parts = self._in_zip(entries) if self.is_zip else self._in_folder(entries)
        # A folder that is all of a submission is no part of the paths in it.
        return {
            (path if path and len(entries) == 1 else f"{entry}/{path}".rstrip("/")): function
            for entry, files in parts
            for path, function in files.items()
        }

    def _in_folder(self, entries):
        for entry in entries:
            path = self.path / entry
            if path.is_symlink():
                raise OSError("it is a link, and links are not followed")
            yield (
                entry,
                files_in(path) if path.is_dir() else {"": functools.partial(open_file, path)},
            )

    def _in_zip(self, entries):
        opened = {
            path.removeprefix(self.root): file for path, file in zip_members(self.path).items()
        }
        for entry in entries:
            inside = [path for path in opened if f"{path}/".startswith(f"{entry}/")]
            yield entry, {path.removeprefix(entry).lstrip("/"): opened[path] for path in inside}


def _tops(paths):
    """The first names of paths, and whether each is a folder."""
    tops = {}
    for path in paths:
        top, slash, _ = path.partition("/")
        tops[top] = bool(slash)
    return tops


def _submissions(entries):
    """The entries of each submission by its name, and those that belong to none."""
    found, strays = defaultdict(list), []
    loose = sorted(name for name, is_folder in entries.items() if not is_folder)
    prefixes = _prefixes(loose)
    own = _is_one(loose)
    for name in sorted(entries):
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        stem = re.sub(r"(\.tar|\.py)?\.\w+$", "", name)
        if name in PASSED_OVER or (name.startswith(".") and not entries[name]):
            continue
        if entries[name]:
            found[name].append(name)
        elif prefix:
            found[prefix.rstrip("_- ")].append(name)
        elif name.lower().endswith(".zip") or (name.lower().endswith(WORK) and not own):
            found[stem].append(name)
        else:
            strays.append(name)
    return dict(found), strays


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
