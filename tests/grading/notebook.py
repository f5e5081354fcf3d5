"""The two modules out of the cells of a Jupyter notebook."""

import ast
import json
import re
from collections import Counter

CLASSES = ("LinearModule", "ELUModule", "SoftMaxModule", "CrossEntropyModule", "MLP")
WRITTEN = re.compile(r"\s*%%writefile\s+(?:\./)?([\w-]+\.py)\s*\n")  # a cell that is a file
COMMAND = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)  # IPython's own


def sources(data):
    """The text of the files by name. Raises a ValueError where it is not plain what they are."""
    try:
        cells = [cell for cell in json.loads(data)["cells"] if cell["cell_type"] == "code"]
        texts = ["".join(cell["source"]) for cell in cells]
        files = {found[1]: text[found.end() :] for text in texts if (found := WRITTEN.match(text))}
        if "modules.py" not in files:
            files = {"modules.py": _definitions(texts), "mlp_numpy.py": "from modules import *\n"}
    except (KeyError, TypeError, RecursionError, MemoryError):
        raise ValueError("it is no notebook of this format") from None
    return {name: text.encode(errors="replace") for name, text in files.items()}


def _definitions(texts):
    """The classes, functions, constants and needed imports of the cells, without what they run."""
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
    names = {n.id for node in defined for n in ast.walk(node) if isinstance(n, ast.Name)}
    return "\n\n".join(ast.unparse(node) for node in nodes if node in defined or _needed(node, names))


def _needed(node, names):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any((a.asname or a.name.partition(".")[0]) in names for a in node.names)
    if isinstance(node, ast.Assign):
        constant = all(not isinstance(n, ast.Call) for n in ast.walk(node.value))
        return constant and any(isinstance(t, ast.Name) and t.id in names for t in node.targets)
    return False
