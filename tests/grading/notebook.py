"""The two modules out of the cells of a Jupyter notebook."""

import ast
import builtins
import json
import re
from collections import Counter

CLASSES = ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule", "MLP")
IMPORT = ast.Import | ast.ImportFrom
# Functions that a constant may call: they neither train nor read a file.
QUICK = {"array", "dict", "finfo", "float", "float32", "float64", "iinfo", "int", "len", "list"}
QUICK |= {"default_rng", "RandomState", "log", "range", "sqrt", "tuple"}
COMMAND = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)  # IPython's own


def sources(data):
    """The text of the files by name. Raises a ValueError where it is not plain what they are."""
    try:
        cells = [cell for cell in json.loads(data)["cells"] if cell["cell_type"] == "code"]
        modules = _definitions(["".join(cell["source"]) for cell in cells])
    except (KeyError, TypeError, RecursionError, MemoryError):
        raise ValueError("it is no notebook of a known format") from None
    return {
        "modules.py": modules.encode(errors="replace"),
        "mlp_numpy.py": b"from modules import MLP\n",
    }


def _definitions(texts):
    """The classes and functions of the cells, and the imports and constants that these need."""
    nodes = []
    for text in texts:
        try:
            nodes += ast.parse(COMMAND.sub("", text)).body
        except SyntaxError:
            continue
    defined = [node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    count = Counter(node.name for node in defined)
    for name in CLASSES:
        if count[name] != 1:
            raise ValueError(f"it defines {name} {count[name]} times")
    known, can_run = {*dir(builtins), *count}, []
    for node in nodes:
        if node in defined:
            can_run.append(node)
        elif isinstance(node, IMPORT) or _is_constant(node, known):
            known |= _made(node)
            can_run.append(node)
        else:  # a cell that tries the classes out, say, and all that is computed from its results
            known -= _made(node)
    needed, kept = set().union(*map(_names, defined)), []
    for node in reversed(can_run):
        if node in defined or needed & _made(node):
            needed |= _names(node)
            kept.append(node)
    return "\n\n".join(map(ast.unparse, reversed(kept)))


def _is_constant(node, known):
    """Whether a node gives names to values, of which all names and functions are known."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    if isinstance(node.value, ast.Lambda):
        return True
    calls = [ast.unparse(n.func).rpartition(".")[2] for n in ast.walk(node) if hasattr(n, "func")]
    free = _names(node) - _names(node.value, ast.Store)  # without those of a comprehension
    return free <= known and QUICK.issuperset(calls)


def _names(node, kind=ast.Load):
    """The names that are read in a node, or with ast.Store those that are made."""
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, kind)}


def _made(node):
    """The names that a node makes."""
    if isinstance(node, ast.ImportFrom) and node.module in ("modules", "mlp_numpy"):
        return set()  # the classes are cells here
    if isinstance(node, IMPORT):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return _names(node, ast.Store)
