"""Flags as words on a command line, and the files of flags that @FILE names."""

import os
import re
from pathlib import Path

from training.errors import UsageError

# A comment, a word whose parts may be quoted, or a quote that is not closed.
WORD = re.compile(r"""#.*|(?:"[^"]*"|'[^']*'|[^\s"'])+|["'].*""")
QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)


def as_words(flags):
    """Flags as one would type them, without those that are off."""
    return [
        f"--{name}" if value is True else f"--{name}={flag_text(value)}"
        for name, value in flags.items()
        if value is not None and value is not False
    ]


def flag_text(value):
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def with_files(words, folder="."):
    """words, and for every @FILE the words in FILE, whose own @FILE is relative to it."""
    for word in map(str, words):
        if not word.startswith("@"):
            yield word
            continue
        path = Path(folder, os.path.expanduser(word[1:]))
        try:
            yield from with_files(_words_in(path.read_text("utf-8-sig")), path.parent)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the flags in {path}: {error}") from error
        except RecursionError:
            raise UsageError(f"{path} reads itself") from None


def _words_in(text):
    """The words of text as a shell reads them, but for the backslash, which means itself."""
    words = [word for word in WORD.findall(text) if not word.startswith("#")]
    for word in words:
        if word[0] in "\"'" and word.count(word[0]) == 1:
            raise ValueError(f"{word:.50} begins a quote that is not closed")
    return [QUOTED.sub(r"\2", word) for word in words]
