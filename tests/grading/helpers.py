"""What the tests of the grader share: submissions to write, and questions to a report."""

import builtins
import contextlib
import textwrap
import types

import numpy as np
import pytest
from mutants import wrong

from grading import checks, worker
from grading.checks import EFFICIENCY, ROWS
from grading.diagnosis import Failure
from grading.process import sandbox_starts
from grading.submission import Submission

RIGHT = wrong.right_sources("textbook")
CAN_FAIL = {row.name for row in ROWS if row.kind != EFFICIENCY}
needs_bwrap = pytest.mark.skipif(not sandbox_starts(), reason="bwrap does not start here")
WAYS = [pytest.param(False, id="plain"), pytest.param(True, marks=needs_bwrap, id="bwrap")]
both_ways = pytest.mark.parametrize("sandbox", WAYS)


def mutant(name):
    return next(mutant for mutant in wrong.WRONG if mutant.name == name)


def write(folder, sources):
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in sources.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return folder


def on_top(code, sources=RIGHT):
    """A submission whose modules.py begins with that code."""
    return sources | {"modules.py": f"{code}\n{sources['modules.py']}"}


def with_elu(*bodies):
    """A right submission but for the ELU: forward runs one of those pieces of code.

    The first entry of x is the number of the piece, where there are several.
    """
    acts = "".join(
        f"def act{number}(self, x):\n{textwrap.indent(body, '    ')}\n\n"
        for number, body in enumerate(bodies)
    )
    act = "act0" if len(bodies) == 1 else "globals()[f'act{int(x.flat[0])}']"
    forward = f"self.x = x\n        {wrong.ELU}"
    modules = RIGHT["modules.py"].replace(forward, f"return {act}(self, x)")
    return on_top(acts, RIGHT | {"modules.py": modules})


def failure_of_act(submission, number=0, limit=None):
    """The sentence on a call of the ELU of with_elu, which has `limit` seconds."""
    submission.call_limit = limit or submission.call_limit

    def act(submission, rng):
        submission.elu().forward(np.full((2, 2), float(number)))

    with pytest.raises(Failure) as failure:
        submission.run(act, np.random.default_rng())
    sentence = failure.value.sentence
    assert len(sentence) < 500 and sentence.isprintable()
    return sentence


class Inside(worker.Session):
    """A submission in this process, which is quick to start: two modules that are not on disk."""

    def ask(self, operation, arrays, limit, **fields):
        return self.answer(operation, [array.copy() for array in arrays], fields)

    def load(self, arrays, name, names):
        self.sources = getattr(self, "sources", None) or dict(zip(names, arrays, strict=True))
        source, file = self.sources[f"{name}.py"].tobytes(), f"{worker.FOLDER}/{name}.py"
        module = types.ModuleType(name)
        module.__file__ = file
        module.__builtins__ = {**vars(builtins), "__import__": self._import}
        code = worker.call(f"importing {name}.py", compile, source, file, "exec")
        worker.call(f"importing {name}.py", exec, code, vars(module))
        self.namespaces[name] = module

    def _import(self, name, *rest):
        return self.namespaces.get(name) or super()._import(name, *rest)


def in_this_process(sources):
    return contextlib.nullcontext(Submission(sources, Inside))


def run_rows(sources, seed=0, start=in_this_process, only=()):
    """The rows of the table by name, or only these, without a report around them."""
    rows = [row for row in ROWS if not only or row.name in only]
    with start(sources) as submission:
        return {row["row"]: row for row in checks.run_all(submission, seed, rows)}


def run_row(name, sources, **how):
    return run_rows(sources, only={name}, **how)[name]


def failed(report):
    """The names of the rows that fail, of a report that has all rows or of such rows by name."""
    rows = report["rows"] if "rows" in report else report.values()
    assert [row["row"] for row in rows] == [row.name for row in ROWS]
    return {row["row"] for row in rows if not row["passed"]}


def listing(folder):
    return {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}
