"""The layout: six files at the root, imports that go one way, two trainers that are twins."""

import ast
import difflib
import graphlib
import sys

from common import ROOT

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
    for path in [*ROOT.glob("*.py"), *ROOT.glob("training/*.py")]
}
TRAINERS = ["train_mlp_numpy", "train_mlp_pytorch"]
CARD = ["cifar10_utils", "mlp_numpy", "mlp_pytorch", "modules", *TRAINERS]


def imports_of(nodes):
    """The modules that are imported in the nodes: files of ours, and packages by their name."""
    names = []
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in FILES else node.module for name in inside]
    return {name if name in FILES else name.partition(".")[0] for name in names}


def test_the_root_has_the_six_files_of_the_card():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == CARD


def test_imports_go_one_way():
    """From the trainers to training/ to the data, and to the networks; nothing at the root but a
    trainer needs training/; modules.py and mlp_numpy.py need NumPy alone."""
    everywhere = {name: imports_of([tree]) for name, tree in FILES.items()}
    at_start = {
        name: imports_of(node for node in tree.body if not isinstance(node, ast.FunctionDef))
        for name, tree in FILES.items()
    }
    graph = {name: names & set(FILES) for name, names in at_start.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    standard = sys.stdlib_module_names
    assert everywhere["modules"] - standard == {"numpy"}
    assert everywhere["mlp_numpy"] - standard == {"numpy", "modules"}
    assert at_start["cifar10_utils"] - standard == {"numpy"}
    for name, names in everywhere.items():
        if name not in TRAINERS:
            assert not names & {*TRAINERS}, f"{name} imports a trainer"
        if name in CARD and name not in (*TRAINERS, "cifar10_utils"):
            assert not any(n.startswith("training") for n in names), f"{name} needs training/"
        if name.startswith("training."):
            assert not names & {"modules", "mlp_numpy", "mlp_pytorch"}, f"{name} imports a network"


def test_the_trainers_are_twins():
    """The same functions in the same order, none inside another; their mains differ by little."""
    shared = ["accuracy", "evaluate", "train_step", "make_mlp", "main"]
    mains = []
    for name in TRAINERS:
        functions = [node for node in FILES[name].body if isinstance(node, ast.FunctionDef)]
        names = [node.name for node in functions]
        assert names[:4] == shared[:4] and [n for n in names if n in shared] == shared
        for function in functions:
            inside = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef | ast.Lambda)]
            assert inside == [function]
        text = (ROOT / f"{name}.py").read_text()
        mains.append(ast.get_source_segment(text, functions[names.index("main")]).splitlines())
    marked = [line for line in difflib.ndiff(*mains) if line[0] in "+-"]
    assert 0 < len(marked) <= 30
