"""The layout: six files at the root, no import cycles, two trainers with the same functions."""

import ast
import graphlib
import subprocess
import sys

import pytest
from common import ROOT, TRAINERS

CARD = [
    *("cifar10_utils.py", "mlp_numpy.py", "mlp_pytorch.py", "modules.py"),
    *("train_mlp_numpy.py", "train_mlp_pytorch.py"),
]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
    for path in [*ROOT.glob("*.py"), *ROOT.glob("training/*.py")]
}


def imports_of(tree):
    """The names of the modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(FILES)
            names |= inside or {node.module or ""}
    return names


IMPORTS = {name: imports_of(tree) for name, tree in FILES.items()}


def test_the_root_has_the_six_files_of_the_card():
    assert sorted(path.name for path in ROOT.glob("*.py")) == CARD


def test_no_import_cycles():
    graph = {name: names & set(FILES) for name, names in IMPORTS.items()}
    graph["cifar10_utils"] = set()  # only its main imports training/
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_what_is_imported_by_whom():
    assert IMPORTS["modules"] == {"numpy"}
    assert IMPORTS["mlp_numpy"] == {"itertools", "numpy", "modules"}
    trainers = {f"train_mlp_{name}" for name in TRAINERS}
    for name, names in IMPORTS.items():
        if name not in trainers:
            assert not names & trainers, f"{name} imports a trainer"
        if name.startswith("training."):
            assert not names & {"modules", "mlp_numpy", "mlp_pytorch"}, f"{name} imports a network"
    assert IMPORTS["cifar10_utils"] & set(FILES) == {"training.download"}


def test_the_numpy_trainer_loads_neither_torch_nor_matplotlib():
    loaded = "import sys, train_mlp_numpy; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=True)


def functions_of(name):
    return [node for node in FILES[name].body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("framework", TRAINERS)
def test_the_trainers_are_twins(framework):
    names = [node.name for node in functions_of(f"train_mlp_{framework}")]
    shared = ["accuracy", "evaluate", "train_step", "make_mlp", "main"]
    assert [name for name in names if name in shared] == shared
    assert framework == "pytorch" or names == shared
    assert names[:4] == shared[:4] and names[-1] == "main"


@pytest.mark.parametrize("framework", TRAINERS)
def test_no_function_stands_inside_a_function_of_a_trainer(framework):
    for function in functions_of(f"train_mlp_{framework}"):
        inside = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef | ast.Lambda)]
        assert inside == [function]
