"""The assignment to hand out: the package with blanks, and nothing of the solution in them."""

import ast
import re
import subprocess
import sys
import tokenize

import handout
import pytest
from common import HANG, ROOT

FILES = handout.files()
BLANKED = sorted({row[0] for row in handout.BLANKS})
# What is left in a docstring or comment must not look like a derivative.
FORMULA = re.compile(r"dL|\bd[xXWbY]\w* ?=|h'\(|\bG\b|expm1|grads\[|report/")


def functions(tree):
    """The functions of a file by class, "" for none, and name."""
    owners = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)} | {"": tree}
    return {
        (owner, node.name): node
        for owner, outer in owners.items()
        for node in outer.body
        if isinstance(node, ast.FunctionDef)
    }


def plain(tree):
    """The text of a tree without docstrings."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def filled(name, owners=None):
    """A file of the handout with the blanks of these classes (None: all) filled by the package."""
    solution, tree = ast.parse((ROOT / name).read_text()), ast.parse(FILES[name])
    theirs = functions(tree)
    for (owner, function), node in functions(solution).items():
        if (owner, function) not in theirs:
            assert owner == "" and function.startswith("_")
            tree.body.append(node)
        elif owners is None or owner in owners:
            theirs[owner, function].body = node.body
    return tree


@pytest.mark.parametrize("name", BLANKED)
def test_blanks_name_their_question_and_no_formula_is_left(name):
    text = FILES[name].decode()
    blanks = functions(ast.parse(text))
    for _, owner, names, question, _ in (row for row in handout.BLANKS if row[0] == name):
        for function in names:
            (statement,) = [n for n in blanks[owner, function].body if not isinstance(n, ast.Expr)]
            message = f"raise NotImplementedError('question {question}: "
            assert ast.unparse(statement).startswith(message)
    tokens = list(tokenize.generate_tokens(iter(text.splitlines(True)).__next__))
    prose = [t.string for t in tokens if t.type in (tokenize.STRING, tokenize.COMMENT)]
    assert not [words for words in prose if FORMULA.search(words)]
    assert not re.search(r"\b_[a-z]\w*", text)


@pytest.mark.parametrize("name", BLANKED)
def test_filled_with_the_solution_it_is_the_package_again(name):
    assert plain(filled(name)) == plain(ast.parse((ROOT / name).read_text()))


def test_no_page_speaks_of_tests_that_are_not_handed_out():
    for name in ("README.md", "tests/README.md"):
        paths = set(re.findall(r"tests/[\w/.]*\w", FILES[name].decode())) - {"tests/handout.py"}
        assert paths and not [path for path in paths if path not in FILES]
        assert "-m slow" not in FILES[name].decode()


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=HANG
    )


def test_rows_are_not_done_yet_until_their_part_is_written(tmp_path):
    assert python(ROOT, "tests/handout.py", tmp_path).returncode == 0
    check = ("-m", "pytest", "tests", "--submission=.", "-p", "no:randomly")
    assert python(tmp_path, "train_mlp_numpy.py", "--help").returncode == 0
    bare = python(tmp_path, *check)
    assert bare.returncode == 1 and "FAILED" not in bare.stdout
    assert "20 not done yet" in bare.stdout and "question 1.1 c: SoftMaxModule" in bare.stdout
    (tmp_path / "modules.py").write_text(ast.unparse(filled("modules.py", ["LinearModule"])))
    linear = python(tmp_path, *check, "-k", "question_1_1_a")
    assert linear.returncode == 0 and "4 passed" in linear.stdout


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(SystemExit) as end:
            handout.main([str(path)])
        assert end.value.code == 2
        assert "is no empty folder" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
