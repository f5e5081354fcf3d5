"""A submission as the checks see it: modules to make, arrays to send and arrays that come back.

The submission itself runs in a child process (process.py), or in this one for the tests of the
mutants. None of its own objects comes here; what goes wrong is a Failure with a sentence.
"""

import numpy as np

from .diagnosis import Failure, as_failure
from .worker import FILES, SOURCES, Session

CALL, IMPORT = 2.0, 20.0  # seconds for one call, and for importing one of the two modules


class Lost(Exception):
    """The process of a submission has ended or is of no more use; says what it did."""


class Inside:
    """No process but this one, for the tests of the mutants."""

    def __init__(self):
        self.session = Session()

    def ask(self, operation, arrays, limit, **fields):
        return self.session.answer(operation, [array.copy() for array in arrays], **fields)

    def end(self):
        pass


class Submission:
    """The classes of modules.py and mlp_numpy.py.

    Args:
        sources: the text of every file by its name, the two and those that they import.
        connect: a function that starts a child process; without it, the submission runs in this
            one, and only the two modules are there.
        errors: sentences about modules that could not be read, by name.
        call_limit, import_limit: seconds for a call, and for importing a module.

    Making one never raises: where a file does not import, `errors` has the sentence that says why,
    and every check that needs the file fails with it.
    """

    def __init__(self, sources, connect=Inside, errors=(), call_limit=CALL, import_limit=IMPORT):
        self.sources = {
            name: text.encode() if isinstance(text, str) else text for name, text in sources.items()
        }
        self.connect, self.errors = connect, dict(errors)
        self.call_limit, self.import_limit = call_limit, import_limit
        self.process, self.generation = None, 0
        # What takes too long or ends the process is not tried again: the rows that need it fail
        # at once, and the others are checked.
        self.fatal = {}
        self.failed = []  # the rows that have failed so far, by name
        for name in FILES:
            if f"{name}.py" not in self.sources:
                self.errors.setdefault(name, f"there is no {name}.py")
        self._start()

    def _start(self):
        """Starts a process, where there is none, that has imported what can be imported."""
        while self.process is None and "modules" not in self.errors:
            self.process, self.generation = self.connect(), self.generation + 1
            others = [name for name in self.sources if name not in SOURCES]
            self._try("modules", "starting the process", "files", others, names=others)
            for name, file in zip(FILES, SOURCES, strict=True):
                self._try(name, f"importing {file}", "load", [file], name=name)

    def _try(self, module, what, operation, files, **fields):
        """Asks for what a module needs, unless it has failed before."""
        if self.process is not None and module not in self.errors:
            texts = [np.frombuffer(self.sources[file], np.uint8) for file in files]
            try:
                self.ask(what, operation, texts, self.import_limit, **fields)
            except Failure as failure:
                self.errors[module] = failure.sentence

    def ask(self, what, operation, arrays=(), limit=None, **fields):
        """The answer to a request, a dict and a list of arrays. `what` names it in sentences."""
        if what in self.fatal:
            raise Failure(self.fatal[what])
        if self.process is None:
            raise Failure("the process of the submission has ended")
        try:
            reply, results = self.process.ask(operation, arrays, limit or self.call_limit, **fields)
        except Lost as lost:
            self.close()
            self.fatal[what] = f"{what} {lost}"
            raise Failure(self.fatal[what]) from None
        if "failure" in reply:
            raise as_failure(clean(reply["failure"]))
        return reply, results

    def close(self):
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.end()
        self.process = None

    def facts(self):
        """The stand-ins that were imported so far, and what of them was called."""
        reply, _ = self.ask("looking back", "facts")
        return {kind: list(map(clean, reply[kind])) for kind in ("imported", "called")}

    def draw(self):
        """A random number of NumPy's global state there."""
        return float(self.ask("drawing a number", "draw")[1][0].sum())

    def _make(self, name, *args):
        self._start()
        for file in FILES if name == "MLP" else FILES[:1]:
            if file in self.errors:
                raise as_failure(self.errors[file])
        return Module(self, name, self.ask(f"making {name}", "make", kind=name, args=args)[0])

    def linear(self, weight, bias):
        """A LinearModule that has the weight (N, M) and the bias (N,)."""
        layer = self.fresh_linear(*weight.shape[::-1])
        layer.set([(weight, bias)])
        return layer

    def fresh_linear(self, in_features, out_features):
        """A LinearModule as its constructor leaves it."""
        return self._make("LinearModule", in_features, out_features)

    def elu(self, alpha=None):
        return self._make("ELUModule", *([] if alpha is None else [alpha]))

    def softmax(self):
        return self._make("SoftMaxModule")

    def cross_entropy(self):
        """A CrossEntropyModule that takes one-hot targets, whichever its own style."""
        return self._make("CrossEntropyModule")

    def mlp(self, sizes):
        """An MLP of those sizes (n_inputs, hidden ..., n_classes), with its own weights."""
        return self._make("MLP", *map(int, sizes))


class Module:
    """A module of the submission, which is elsewhere.

    integer: whether its own targets are class numbers. takes_alpha: whether the first argument of
    its constructor is an alpha. clears_cache: whether it has that method. remarks, scalars, faults:
    see Layer in worker.py.
    """

    def __init__(self, submission, name, reply):
        self.submission, self.name, self.id = submission, name, reply["id"]
        self.generation = submission.generation
        for flag in ("integer", "takes_alpha", "clears_cache", "changes_list"):
            setattr(self, flag, reply[flag] is True)
        for texts in ("remarks", "scalars", "faults"):
            setattr(self, texts, set(map(clean, reply[texts])))

    def ask(self, what, operation, arrays=(), **fields):
        if self.generation != self.submission.generation or self.submission.process is None:
            raise Failure(f"{self.name} has gone with its process")
        return self.submission.ask(f"{self.name}.{what}", operation, arrays, id=self.id, **fields)

    def forward(self, *args, **how):
        return self._call("forward", args, **how)

    def backward(self, *args, **how):
        """Returns None where nothing has to be returned."""
        return self._call("backward", args, **how)

    def clear_cache(self):
        self._call("clear_cache", ())

    def again(self):
        """The arguments and results of all calls with `keep` so far, as they are there now."""
        return self.ask("kept", "again")[1]

    def _call(self, method, args, strided=False, keep=False, **errstate):
        """strided: whether the arguments lie there as every second column of a larger array."""
        fields = {"method": method, "strided": strided, "keep": keep, "errstate": errstate}
        reply, results = self.ask(method, "call", args, **fields)
        self.written = reply["written"]  # the numbers of the arguments that it wrote to
        return results[0] if results else None

    def counted(self, method, *args):
        """How many Python instructions a call executes."""
        return int(self.ask(method, "counted", args, method=method)[0]["count"])

    def differences(self, forward_args, backward_args):
        """The function that backward calls to take a derivative by differences, or None."""
        arrays = [*forward_args, *backward_args]
        reply, _ = self.ask("backward", "differences", arrays, split=len(forward_args))
        return reply["function"] and clean(reply["function"])

    def set(self, layers):
        """layers: a list of (weight (N, M), bias (N,)). Written in place, as trainers do."""
        self.ask("params", "set", [np.asarray(part) for layer in layers for part in layer])

    def params(self):
        """The parameters of each linear layer, a list of (weight (N, M), bias (N,))."""
        arrays = self._read("params", ["weight", "bias"])
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def grads(self):
        """The gradients, likewise."""
        arrays = self._read("grads", ["weight", "bias"])
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def grad(self, part):
        """One gradient of a linear module: 'weight', (N, M), or 'bias', (N,)."""
        return self._read("grads", [part])[0]

    def stored(self, name, part):
        """An entry of params or grads in the shape that it really has."""
        return self._read(name, [part], stored=True)[0]

    def _read(self, name, parts, stored=False):
        reply, arrays = self.ask(name, "read", name=name, parts=parts, stored=stored)
        self.faults |= set(map(clean, reply["faults"]))
        return arrays


def clean(text, limit=400):
    """Text of a submission, safe to print."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:limit])
