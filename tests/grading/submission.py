"""The two modules of a submission, and one way to use them whatever their style.

The assignment leaves some things open: weights may be stored (N, M) or (M, N), the bias (N,) or
(1, N), the classes may take arguments that other years of the course have. All of that is hidden
here, so that a check states only what must be true.
"""

import contextlib
import functools
import inspect
import os
import signal
import sys
import traceback
import types
import warnings

import numpy as np

from .diagnosis import Failure

JOURNAL_SIZE = 100  # bytes
ALPHA_NAMES = {"alpha", "a", "neg_slope", "negative_slope"}
OTHER_KEYS = {"weight": ("weights", "W", "w"), "bias": ("biases", "b")}


class Submission:
    """What stands in modules.py and mlp_numpy.py.

    Args:
        sources: the text of the two files by name; None for a file that is missing.

    Loading never raises: where a file does not import, `errors` has the sentence that says why,
    and every check that needs the file fails with it.
    """

    def __init__(self, sources):
        self.namespaces, self.errors = {}, {}
        before = {name: sys.modules.get(name) for name in ("modules", "mlp_numpy")}
        try:
            for name in before:
                sys.modules.pop(name, None)
            for name in before:
                self._load(name, sources[f"{name}.py"])
        finally:
            for name, module in before.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module

    def _load(self, name, source):
        file = f"{name}.py"
        if source is None:
            self.errors[name] = f"there is no {file}"
            return
        namespace = types.ModuleType(name)
        namespace.__file__ = file
        sys.modules[name] = namespace
        try:
            call(f"importing {file}", lambda: exec(compile(source, file, "exec"), vars(namespace)))
        except Failure as failure:
            sys.modules.pop(name)
            self.errors[name] = failure.sentence
        else:
            self.namespaces[name] = namespace

    def register(self):
        """Makes the modules importable for code that imports them only when it runs."""
        sys.modules.update(self.namespaces)

    def find(self, file, name):
        """The class of that name. Raises a Failure where there is none."""
        for needed in ("modules", file):  # the MLP is built of the modules
            if needed in self.errors:
                raise Failure(self.errors[needed])
        found = getattr(self.namespaces[file], name, None)
        if not callable(found):
            raise Failure(f"{file}.py has no class {name}")
        return found

    def linear(self, weight, bias):
        """A LinearModule that has the weight (N, M) and the bias (N,), seen as a Layer."""
        layer = self.fresh_linear(*weight.shape[::-1])
        layer.set(weight, bias)
        return layer

    def fresh_linear(self, in_features, out_features):
        """A LinearModule as its constructor leaves it, seen as a Layer."""
        found = self.find("modules", "LinearModule")
        module = _make("LinearModule", found, in_features, out_features)
        return Layer(module, in_features, out_features)

    def takes_alpha(self):
        parameters = _parameters(self.find("modules", "ELUModule"))
        return bool(parameters) and parameters[0].name in ALPHA_NAMES

    def elu(self, alpha=None):
        found = self.find("modules", "ELUModule")
        return Module("ELUModule", _make("ELUModule", found, *([] if alpha is None else [alpha])))

    def softmax(self):
        found = self.find("modules", "SoftMaxModule")
        return Module("SoftMaxModule", _make("SoftMaxModule", found))

    def cross_entropy(self):
        """A CrossEntropyModule that takes one-hot targets, whichever its own style."""
        found = self.find("modules", "CrossEntropyModule")
        return CrossEntropy(_make("CrossEntropyModule", found))

    def mlp(self, sizes):
        """An MLP of those sizes (n_inputs, hidden ..., n_classes), with its own weights.

        The sizes must all be different: a layer is recognised by the shape of its weight.
        """
        n_inputs, *n_hidden, n_classes = sizes
        mlp = _make("MLP", self.find("mlp_numpy", "MLP"), n_inputs, n_hidden, n_classes)
        return Network(mlp, sizes)


class Module:
    """A module of the submission. Results are copies; the submission's exceptions are Failures."""

    def __init__(self, name, module):
        self.name, self.module = name, module

    def forward(self, *args):
        return as_array(f"{self.name}.forward", self.call("forward", *args))

    def backward(self, *args):
        return as_array(f"{self.name}.backward", self.call("backward", *args))

    def call(self, method, *args, **errstate):
        if not callable(getattr(self.module, method, None)):
            raise Failure(f"{self.name} has no method {method}")
        return call(f"{self.name}.{method}", getattr(self.module, method), *args, **errstate)


class Layer(Module):
    """A linear module, seen with the weight (N, M) and the bias (N,).

    `remarks` are about the style of its parameters, `faults` what breaks the contract without
    making the numbers wrong.
    """

    def __init__(self, module, in_features, out_features):
        super().__init__("LinearModule", module)
        self.remarks, self.faults = [], []
        params = self._dict("params")
        self.keys = {name: self._key("params", params, name) for name in OTHER_KEYS}
        weight, bias = (np.shape(params[self.keys[name]]) for name in OTHER_KEYS)
        if weight not in ((out_features, in_features), (in_features, out_features)):
            raise Failure(
                f"the weight of LinearModule({in_features}, {out_features}) has the shape "
                f"{weight}, and should have {(out_features, in_features)}"
            )
        self.transposed = weight != (out_features, in_features)
        if self.transposed:
            self.remarks.append("the weight is stored (in, out): the assignment has (out, in)")
        if bias not in ((out_features,), (1, out_features), (out_features, 1)):
            raise Failure(f"the bias of {out_features} units has the shape {bias}")
        if bias == (out_features, 1) != (1, 1):
            self.remarks.append("the bias is a column: the assignment has a row")

    def _dict(self, name):
        found = getattr(self.module, name, None)
        if not isinstance(found, dict):
            raise Failure(f"LinearModule has no dict {name}")
        return found

    def _key(self, dict_name, found, name):
        for key in (name, *OTHER_KEYS[name]):
            if found.get(key) is not None:
                if key != name:
                    self.faults.append(f"{dict_name} has the key '{key}' for '{name}'")
                return key
        raise Failure(f"{dict_name} of LinearModule has no entry '{name}'")

    def set(self, weight, bias):
        """weight: (N, M), bias: (N,)."""
        for name, value in (("weight", weight.T if self.transposed else weight), ("bias", bias)):
            params, key = self._dict("params"), self.keys[name]
            value = value.reshape(np.shape(params[key]))
            try:
                # In place, as trainers update them: a submission may hold a second reference.
                params[key][...] = value
            except (TypeError, ValueError):
                params[key] = value.copy()
            if np.asarray(params[key]).dtype != value.dtype:
                params[key] = value.copy()

    def backward(self, dout):
        """Returns dx, or None as the first layer of a network may."""
        dx = self.call("backward", dout)
        return None if dx is None else as_array("LinearModule.backward", dx)

    def param(self, name):
        """A parameter as it is stored."""
        return np.array(self._dict("params")[self.keys[name]])

    def raw_grad(self, name):
        """A gradient as it is stored."""
        grads = self._dict("grads")
        return as_array(f"grads['{name}']", grads[self._key("grads", grads, name)])

    def weight_grad(self):
        """Returns (N, M)."""
        grad = self.raw_grad("weight")
        return grad.T if self.transposed else grad

    def bias_grad(self):
        """Returns (N,) where there are N values, in whatever arrangement."""
        grad = self.raw_grad("bias")
        return grad.ravel() if grad.size == self.param("bias").size else grad.squeeze()


class CrossEntropy(Module):
    """A loss module that takes one-hot targets y (S, C), or (S,) class numbers underneath."""

    def __init__(self, module):
        super().__init__("CrossEntropyModule", module)
        self.integer = False
        x, y = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]), np.eye(3)[[2, 0]]
        try:
            self.call("forward", x, y)
        except Failure:
            try:
                self.call("forward", x, y.argmax(axis=1))
                self.integer = True
            except Failure:
                pass  # the checks say what is wrong, with the targets that the assignment has

    def _targets(self, y):
        return y.argmax(axis=1) if self.integer else y

    def forward(self, x, y):
        return super().forward(x, self._targets(y))

    def backward(self, x, y):
        return super().backward(x, self._targets(y))


class Network(Module):
    """An MLP, and its linear layers from the first to the last."""

    def __init__(self, mlp, sizes):
        super().__init__("MLP", mlp)
        owners = [part for part in _parts(mlp) if _has_weight(part)]
        self.layers = [
            self._layer(owners, fan_in, fan_out)
            for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
        ]

    @staticmethod
    def _layer(owners, fan_in, fan_out):
        for owner in owners:
            try:
                return Layer(owner, fan_in, fan_out)
            except Failure:
                continue
        raise Failure(f"the MLP has no linear layer from {fan_in} to {fan_out} features")

    def set(self, layers):
        """layers: a list of (weight, bias)."""
        for layer, (weight, bias) in zip(self.layers, layers, strict=True):
            layer.set(weight, bias)

    def backward(self, dout):
        self.call("backward", dout)  # whether it returns anything is left open

    def grads(self):
        """A list of (weight, bias)."""
        return [(layer.weight_grad(), layer.bias_grad()) for layer in self.layers]


class OutOfTime(BaseException):
    """No Exception, so that a submission's `except Exception` does not swallow it."""


class Clock:
    """The time limit of every call into a submission; none before `start`.

    What took too long once is not waited for again, so that the rows that need it fail at once,
    and the others are checked. In the same way `fatal` has, by call, what an earlier process did
    not survive. The name of the call in progress stands in a file, for whoever finds this process
    dead.
    """

    def __init__(self):
        self.limit, self.journal, self.fatal = None, None, {}
        self.caught = (Exception, SystemExit)

    def start(self, limit, journal, fatal):
        """For the main thread of a process with no other use for SIGALRM.

        limit: seconds. journal: a file descriptor. fatal: sentences by the name of a call.
        """
        self.limit, self.journal, self.fatal = limit, journal, dict(fatal)
        self.caught = BaseException  # nobody presses Ctrl-C in a process of its own
        signal.signal(signal.SIGALRM, self._ring)

    @staticmethod
    def _ring(*_):
        raise OutOfTime

    @contextlib.contextmanager
    def running(self, what):
        """Raises a Failure when the block has not ended in time."""
        if self.limit is None:
            yield
            return
        if what in self.fatal:
            raise Failure(self.fatal[what])
        self._write(what)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            yield
        except OutOfTime:
            self.fatal[what] = f"{what} takes more than {self.limit:g} s: an endless loop?"
            raise Failure(self.fatal[what]) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._write("")

    def _write(self, what):
        os.pwrite(self.journal, what.encode()[:JOURNAL_SIZE].ljust(JOURNAL_SIZE), 0)


CLOCK = Clock()


def call(what, function, *args, **errstate):
    """function(*args), safe from what it does to warnings and NumPy's error settings."""
    settings = np.errstate(**{"all": "ignore", **errstate})
    try:
        with settings, warnings.catch_warnings(), CLOCK.running(what):
            warnings.simplefilter("ignore")
            return function(*args)
    except Failure:
        raise
    except CLOCK.caught as error:
        raise Failure(f"{what} {describe(error)}") from None


def describe(error):
    """What was raised and where in the submission, safe to print."""
    text = " ".join(str(error).split())[:200]
    text = "".join(c if c.isprintable() else "?" for c in text)
    lines = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in ("modules.py", "mlp_numpy.py")
    ]
    return f"raised {type(error).__name__}: {text}" + (lines[-1] if lines else "")


def as_array(what, value):
    """A float copy of what a module returned. Raises a Failure where it is no array of numbers."""
    if value is None:
        raise Failure(f"{what} gives None instead of an array")
    array = call(what, np.array, value)
    if array.dtype.kind not in "fiub":
        raise Failure(f"{what} gives {type(value).__name__} of {array.dtype}, not real numbers")
    return array


@functools.lru_cache(maxsize=16)
def _parameters(function):
    """The parameters of a class, without self and those of variable number."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _make(name, cls, *args):
    """An instance; arguments that only another year of the course has get a neutral value."""
    missing = [p for p in _parameters(cls)[len(args) :] if p.default is p.empty]
    extra = [False if p.name == "input_layer" else 1.0 for p in missing]
    return call(f"{name}({', '.join(map(str, args))})", cls, *args, *extra)


def _has_weight(part):
    params = getattr(part, "params", None)
    return isinstance(params, dict) and any(
        params.get(key) is not None for key in ("weight", *OTHER_KEYS["weight"])
    )


def _parts(value, seen=None):
    """All objects inside an object, through its attributes, lists, tuples and dicts."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, (str, bytes, np.ndarray, type, types.ModuleType)):
        return
    seen.add(id(value))
    yield value
    inner = []
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, (list, tuple)):
        inner = list(value)
    elif hasattr(value, "__dict__"):
        inner = list(vars(value).values())
    for part in inner:
        yield from _parts(part, seen)
