"""The layout: six files at the root, no import cycles, two trainers that are twins."""

import ast
import difflib
import graphlib
import subprocess
import sys

from common import ROOT

FRAMEWORKS = ("numpy", "pytorch")
CARD = [
    *("cifar10_utils", "mlp_numpy", "mlp_pytorch", "modules", "train_mlp_numpy"),
    "train_mlp_pytorch",
]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
    for path in [*ROOT.glob("*.py"), *ROOT.glob("training/*.py")]
}


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


IMPORTS = {name: imports_of([tree]) for name, tree in FILES.items()}
TRAINERS = {f"train_mlp_{name}" for name in FRAMEWORKS}


def test_the_root_has_the_six_files_of_the_card():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == CARD


def test_imports_go_one_way():
    """From the trainers to training/ to the data, and to the networks; nothing at the root but a
    trainer needs training/; modules.py and mlp_numpy.py need NumPy alone."""
    outside_functions = {
        name: imports_of(node for node in tree.body if not isinstance(node, ast.FunctionDef))
        for name, tree in FILES.items()
    }
    graph = {name: names & set(FILES) for name, names in outside_functions.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    standard = sys.stdlib_module_names
    for name, allowed in (("modules", {"numpy"}), ("mlp_numpy", {"numpy", "modules"})):
        assert IMPORTS[name] - standard <= allowed
    assert outside_functions["cifar10_utils"] - standard == {"numpy"}
    for name, names in IMPORTS.items():
        assert name in TRAINERS or not names & TRAINERS, f"{name} imports a trainer"
        networks = names & {"modules", "mlp_numpy", "mlp_pytorch"}
        assert not (name.startswith("training.") and networks), f"{name} imports a network"


def test_nothing_rests_on_docstrings_or_asserts():
    """Which python -OO takes away."""
    for tree in FILES.values():
        nodes = list(ast.walk(tree))
        assert not [node for node in nodes if isinstance(node, ast.Assert)]
        assert "__doc__" not in {getattr(n, "attr", None) or getattr(n, "id", None) for n in nodes}


def test_the_numpy_trainer_loads_neither_torch_nor_matplotlib():
    loaded = "import sys, train_mlp_numpy; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=True)


def test_the_trainers_are_twins():
    shared = ["accuracy", "evaluate", "train_step", "make_mlp", "main"]
    for name in TRAINERS:
        functions = [node for node in FILES[name].body if isinstance(node, ast.FunctionDef)]
        names = [node.name for node in functions]
        assert names[:4] == shared[:4] and [n for n in names if n in shared] == shared
        assert name == "train_mlp_pytorch" or names == shared
        for function in functions:
            inside = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef | ast.Lambda)]
            assert inside == [function]  # none stands inside another


def test_diff_between_the_mains_is_short():
    mains = [
        ast.get_source_segment((ROOT / f"{name}.py").read_text(), node).splitlines()
        for name in sorted(TRAINERS)
        for node in FILES[name].body
        if getattr(node, "name", None) == "main"
    ]
    marked = [line for line in difflib.ndiff(*mains) if line[0] in "+-"]
    assert 0 < len(marked) <= 30
