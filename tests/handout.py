"""Write the assignment to hand out: this package with blanks where the student's work begins.

python tests/handout.py DIR
"""

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = ("__init__", "forward", "backward", "clear_cache")
STEP = ("accuracy", "evaluate", "train_step")
EMPTY = "params and grads are dicts here too, and empty."
# file, class ("" for none), the functions to write, their question, and what its docstring adds.
# Functions whose names begin with _ are left out of these files.
BLANKS = [
    ("modules.py", "LinearModule", METHODS, "1.1 a", ""),
    ("modules.py", "ELUModule", METHODS, "1.1 b", f"{EMPTY} `alpha` is kept as `self.alpha`."),
    ("modules.py", "SoftMaxModule", METHODS, "1.1 c", EMPTY),
    ("modules.py", "CrossEntropyModule", METHODS, "1.1 c", EMPTY),
    ("mlp_numpy.py", "MLP", METHODS, "1.2",
     "`self.modules` is the list of all modules in the order of forward; state_dict needs it."),
    ("train_mlp_numpy.py", "", STEP, "1.2", ""),
    ("mlp_pytorch.py", "MLP", ("__init__", "forward"), "2.1",
     "`self.layers` is an nn.Sequential of all layers, and `self.n_inputs` is n_inputs; the other\n"
     "    methods and the options of the trainer need them."),
    ("train_mlp_pytorch.py", "", STEP, "2.1", ""),
]  # fmt: skip
COPIED = ["cifar10_utils.py", "training/*.py", "requirements.txt", "pyproject.toml", "LICENSE"]
COPIED += [".gitignore", "tests/conftest.py", "tests/grade.py", "tests/README.md"]
COPIED += ["tests/grading/*.py"]
OF_THE_TESTS = re.compile(r"helpers\.py|test_(?!submission\.py)")
ANSWER = re.compile(r"dL/d|\b1\^T\b")  # the paragraph of a docstring that has it goes


def blank(text, rows):
    """The text of a file with its blanks. Raises a KeyError where a name does not exist."""
    tree, lines = ast.parse(text), text.splitlines()
    owners = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)} | {"": tree}
    notes, edits = {}, []  # an edit: the first line, the one after the last, and the lines instead
    for _, owner, names, question, note in rows:
        notes[owners[owner]] = note
        functions = {n.name: n for n in owners[owner].body if isinstance(n, ast.FunctionDef)}
        for name in names:
            node, what = functions[name], f"{owner}.{name}".lstrip(".")
            first = node.body[0].lineno - 1
            if ast.get_docstring(node) is not None:
                first = node.body[0].end_lineno
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            error = f'raise NotImplementedError("question {question}: {what}")'
            edits.append((first, node.end_lineno, [" " * (node.col_offset + 4) + error]))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and re.match("_(?!_)", node.name):
            empty = 2 if node in tree.body else 1  # lines before it
            edits.append((node.lineno - 1 - empty, node.end_lineno, []))
        elif isinstance(node, ast.Module | ast.ClassDef) and ast.get_docstring(node) is not None:
            first, end = node.body[0].lineno - 1, node.body[0].end_lineno
            docstring = _without_answers(lines[first:end], notes.get(node, ""))
            edits.append((first, end, docstring))
    for first, end, instead in sorted(edits, reverse=True):
        lines[first:end] = instead
    return "\n".join(lines).rstrip() + "\n"


def _without_answers(lines, note):
    text = "\n".join(line for line in lines if "report/" not in line).rstrip().removesuffix('"""')
    paragraphs = [part.rstrip() for part in text.split("\n\n")]
    kept = [part for part in paragraphs if not ANSWER.search(part)] + [f"    {note}"] * bool(note)
    indent = re.match(" *", lines[0])[0]
    return "\n\n".join(kept).splitlines() + [f'{indent}"""'] if len(lines) > 1 or note else lines


def files():
    """The bytes of all files of the handout, by path."""
    found = {path for pattern in COPIED for path in ROOT.glob(pattern)}
    found = {path for path in found if not OF_THE_TESTS.match(path.name)}
    result = {str(path.relative_to(ROOT)): path.read_bytes() for path in found}
    for name in dict.fromkeys(row[0] for row in BLANKS):
        text = (ROOT / name).read_text(encoding="utf-8")
        result[name] = blank(text, [row for row in BLANKS if row[0] == name]).encode()
    of_tests = "tests/README.md"  # without what it says about files that stay here
    result[of_tests] = result[of_tests].partition(b"\n## How good it is")[0]
    return result | {"README.md": Path(__file__).with_suffix(".md").read_bytes()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or an empty folder")
    folder = parser.parse_args(argv).folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} is there already, and is no empty folder")
        for name, data in files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
