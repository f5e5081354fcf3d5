"""The two modules out of the cells of a Jupyter notebook."""

import ast
import json
import re
from collections import Counter

CLASSES = ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule", "MLP")
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
    """The classes and functions of the cells, and the imports and constants that these name."""
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
    used = {n.id for node in defined for n in ast.walk(node) if isinstance(n, ast.Name)}
    return "\n\n".join(ast.unparse(node) for node in nodes if node in defined or used & _made(node))


def _made(node):
    """The names that an import or a constant makes."""
    if isinstance(node, ast.ImportFrom) and node.module in ("modules", "mlp_numpy"):
        return set()  # the classes are cells here
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign) and not any(isinstance(n, ast.Call) for n in ast.walk(node)):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()
