"""The part of the grader that touches a submission: it loads, makes, calls, and sends arrays.

launch.py runs it alone in a process of its own, without the rest of the grader. Each request that
comes over the socket gets one answer: lines of text and arrays as they are. Nothing is judged here
and no expected value stands here, so that a submission that changes this process can do no more
than send other arrays, as its own methods can.
"""

import builtins
import collections
import contextlib
import functools
import gc
import importlib.util
import inspect
import math
import os
import socket
import struct
import sys
import traceback
import types
import warnings
from pathlib import Path

import numpy as np

LENGTHS = struct.Struct("<II")  # of the text and of the arrays, in bytes
TEXT_LIMIT, ARRAYS_LIMIT = 1 << 16, 16 << 20  # bytes
DTYPES = {np.dtype(code).str for code in "bBhHiIlLqQefd"}

FILES = ("modules", "mlp_numpy")
# What a submission imports of other packages is a stand-in: of these, and of any installed one.
STAND_INS = ("torch", "jax", "autograd", "tensorflow", "sympy", "scipy", "sklearn", "numba")
# Of these too where they are not installed, so that the verdict is the same on every machine.
NOT_NEEDED = ("cifar10_utils", "cv2", "IPython", "pandas", "PIL", "seaborn", "torchvision")
SHOWING = ("cifar10_utils", "IPython", "seaborn")  # of which no call computes anything
OTHERS = ("matplotlib", "tqdm")  # that draw, and compute nothing
# What lies in FOLDER is the submission's. The tests of the mutants have no process for it.
ALONE = __name__ == "worker"
FOLDER = os.getcwd() if ALONE else "/submission"
CAUGHT = BaseException if ALONE else (Exception, SystemExit)
IMPORT = builtins.__import__


class Fault(Exception):
    """What went wrong with the submission, as a sentence."""


# Messages


def pack(number, lines, arrays):
    """The bytes of a message: lines of text, and arrays."""
    forms = [" ".join([a.dtype.str, *map(str, a.shape)]) for a in arrays]
    lines = [" ".join(line.splitlines()) for line in lines]
    text = "\n".join([str(number), str(len(arrays)), *forms, *lines]).encode(errors="replace")
    parts = [a.tobytes() for a in arrays]
    return b"".join([LENGTHS.pack(len(text), sum(map(len, parts))), text, *parts])


def unpack(text, data):
    """The number, lines and arrays of a message. Raises a ValueError where it is out of form."""
    number, count, *lines = bytes(text).decode().split("\n")
    count, arrays, start = int(count), [], 0
    if not 0 <= count <= len(lines):
        raise ValueError("arrays without a form")
    for form in lines[:count]:
        name, *shape = form.split(" ")
        shape = tuple(map(int, shape))
        if name not in DTYPES or min(shape, default=0) < 0 or len(shape) > 32:
            raise ValueError(f"out of form: {form}")
        flat = np.frombuffer(data, name, math.prod(shape), start)
        arrays.append(flat.reshape(shape).copy())
        start += flat.nbytes
    if start != len(data):
        raise ValueError("bytes without an array")
    return int(number), lines[count:], arrays


def as_array(what, value):
    """A result as an array of real numbers. Raises a Fault where it is none."""
    if isinstance(value, StandIn):
        raise Fault(f"{what} gives a stand-in for {value.__name__}, and not what NumPy computes")
    if type(value) is not np.ndarray:
        kind = type(value).__name__
        try:
            value = call(what, np.array, value)
        except Fault:
            raise Fault(f"{what} gives a {kind} that is no array of numbers") from None
    if value.dtype.kind not in "fiub":
        raise Fault(f"{what} gives {type(value).__name__} of {value.dtype}, not real numbers")
    native = value.dtype.newbyteorder("=")
    return value.astype(native if native.str in DTYPES else "f8")  # a copy; longdouble and bool


# Requests


class Session:
    """The modules of a submission, and what was made of them, by number.

    Each public method but `answer` is an operation. It gets the arrays of a request, and returns
    lines and pairs of a name and a result, or None.
    """

    def __init__(self):
        self.namespaces, self.objects, self.imported, self.called = {}, [], set(), set()

    def answer(self, operation, arrays, fields):
        """What a request asks for, as lines, of which the first says if it failed, and arrays."""
        try:
            lines, given = getattr(self, operation)(arrays, **fields) or ((), ())
            results, room = [], ARRAYS_LIMIT
            for what, value in given:
                results.append(as_array(what, value))
                room -= results[-1].nbytes
                if room < 0:
                    says = f"{what} gives an array of the shape {results[-1].shape}"
                    raise Fault(f"{says}: more arrays than can be sent")
            return ["answer", *lines], results
        except Fault as fault:
            return ["failure", str(fault)], []
        except CAUGHT as error:  # of a property, say
            return ["failure", f"the submission {describe(error)}"], []

    def load(self, arrays, name, names):
        """Imports modules.py or mlp_numpy.py, after it has written the submission's files."""
        for path, data in zip(names, arrays, strict=True):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data.tobytes())
        self.namespaces[name] = call(f"importing {name}.py", importlib.import_module, name)

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        """`import`, with stand-ins for what the submission itself imports of other packages."""
        package = name.partition(".")[0]
        if level or not _own((globals or {}).get("__file__")) or not _of_others(package):
            return IMPORT(name, globals, locals, fromlist, level)
        self.imported.add(package)
        called = set() if package in SHOWING else self.called
        return stand_in(name if fromlist else package, called)

    def facts(self, arrays):
        """The stand-ins that were imported so far, and what of them was called."""
        imported, called = sorted(self.imported)[:20], sorted(self.called)[:20]
        return [str(len(imported)), *imported, *called], ()

    def draw(self, arrays):
        """A random number of NumPy's global state, which shows whether a submission seeds it."""
        return (), [("a random number", np.random.random_sample())]  # noqa: NPY002

    def make(self, arrays, kind, args):
        """An instance; arguments that only another year of the course has get a neutral value.

        The answer: its number, whether it has a method clear_cache, whether it changed its
        arguments, and the name of the first of them, if there is one.
        """
        file, parameters = "mlp_numpy" if kind == "MLP" else "modules", ()
        found = getattr(self.namespaces.get(file), kind, None)
        if not callable(found):
            raise Fault(f"{file}.py has no class {kind}")
        with contextlib.suppress(TypeError, ValueError):  # of a built-in base, say
            parameters = inspect.signature(found).parameters.values()
        by_position = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [p for p in parameters if p.kind in by_position]
        needed = [p.name for p in parameters[len(args) :] if p.default is p.empty]
        args = [*args, *(name != "input_layer" and 1.0 for name in needed)]
        before = str(args)
        instance = call(f"{kind}({', '.join(map(str, args))})", found, *args)
        owners = [p for p in _parts(instance) if isinstance(_attribute(p, "params"), dict)]
        calls = collections.deque(maxlen=8)  # what they gave and were given
        made = types.SimpleNamespace(kind=kind, instance=instance, owners=owners, calls=calls)
        self.objects.append(made)
        clears, changes = callable(_attribute(instance, "clear_cache")), str(args) != before
        facts = len(self.objects) - 1, clears, changes, *(p.name for p in parameters[:1])
        return map(str, facts), ()

    def _call(self, id, method, args, **settings):
        made = self.objects[id]
        function = getattr(made.instance, method, None)
        if not callable(function):
            raise Fault(f"{made.kind} has no method {method}")
        return call(f"{made.kind}.{method}", function, *args, **settings)

    def call(self, arrays, id, method, wanted, strided, settings):
        """Calls a method. Sends its result, if it is wanted and not None."""
        args, made = [_strided(a) for a in arrays] if strided else arrays, self.objects[id]
        value = self._call(id, method, args, **settings)
        given = [(f"{made.kind}.{method}", value)] if wanted and value is not None else []
        made.calls.append([*given, *(("an argument", a) for a in args)])
        return (), given

    def kept(self, arrays, id):
        """What the last calls have given and were given, as it is now."""
        return (), [pair for results in self.objects[id].calls for pair in results]

    def read(self, arrays, id, name):
        """What is in params or grads of all owners. A line is the number of an owner, and a key."""
        lines, values = [], []
        for i, owner in enumerate(self.objects[id].owners[:64]):
            found = _attribute(owner, name)
            for key in list(found)[:16] if isinstance(found, dict) else ():
                value = found[key]
                numbers = isinstance(value, StandIn) or np.asarray(value).dtype.kind in "fiubc"
                if isinstance(key, str) and numbers:
                    lines.append(f"{i} {key[:40]}")
                    values.append((f"{name}['{key[:40]}']", value))
        return lines, values

    def write(self, arrays, id, entries):
        """Sets parameters, in place where there is an array of that form already.

        So do trainers, and a submission may hold a second reference. entries: owner and key.
        """
        for (i, key), value in zip(entries, arrays, strict=True):
            params = self.objects[id].owners[i].params
            old = params.get(key)
            if type(old) is np.ndarray and (old.shape, old.dtype) == (value.shape, value.dtype):
                old[...] = value
            else:
                params[key] = value.copy()

    # What only this process can see

    def counted(self, arrays, id, method):
        """How many Python instructions a call executes: a measure of loops that no load changes."""
        count = 0

        def trace(frame, event, _):
            nonlocal count
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            count += event == "opcode"
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            with np.printoptions(threshold=1, edgeitems=1):  # to print arrays is no loop
                self._call(id, method, arrays)
        finally:
            sys.settrace(before)
        return [str(count)], ()

    def differences(self, arrays, id, split):
        """The function of which backward takes a derivative by differences, if there is one.

        Two kinds of calls count: of the submission's own functions, and of ufuncs and np.gradient
        by its own code.
        """
        calls, numbers = [], (np.ndarray, float, complex, np.inexact)
        gradient = np.gradient

        def note(function, name, values):
            if len(calls) < 4000:
                places = {k: np.array(v) for k, v in values.items() if isinstance(v, numbers)}
                calls.append((method == "backward", function, name, places))

        def profile(frame, event, _):
            code = frame.f_code
            if event == "call" and _own(code.co_filename):
                names = code.co_varnames[: code.co_argcount]
                values = {name: frame.f_locals.get(name) for name in names}
                params = _attribute(values.get("self"), "params")
                note(code, code.co_name, values | (params if isinstance(params, dict) else {}))

        spaces = [np, *self.namespaces.values()]
        spaces += [m for m in list(sys.modules.values()) if _own(getattr(m, "__file__", None))]
        with contextlib.ExitStack() as stack:
            stack.callback(sys.setprofile, sys.getprofile())
            for space, name, value in [(s, *item) for s in spaces for item in vars(s).items()]:
                if isinstance(value, np.ufunc) or value is gradient:
                    stack.callback(setattr, space, name, value)
                    setattr(space, name, Watched(value, note))
            sys.setprofile(profile)
            for method, args in (("forward", arrays[:split]), ("backward", arrays[split:])):
                self._call(id, method, args)
        return _differing(calls), ()


class Watched:
    """A function of NumPy that tells of the calls that the submission's own code makes."""

    def __init__(self, function, note):
        self._function, self._note = function, note

    def __call__(self, *args, **kwargs):
        if _own(sys._getframe(1).f_code.co_filename):
            self._note(self._function, f"np.{self._function.__name__}", dict(enumerate(args)))
        return self._function(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._function, name)


def _differing(calls):
    """The name of a function that backward calls at complex numbers or a little beside others.

    calls: whether in backward, the function, its name, and its arguments by place. What is in the
    same place and has the same form is compared. Single numbers and rows may be near one another
    by chance: only if many of a place are, they have been moved.
    """
    alike = collections.defaultdict(list)
    for backward, function, name, places in calls:
        for place, value in places.items():
            if backward and (value.dtype.kind == "c" or name == "np.gradient"):
                return [name]
            if value.dtype.kind == "f" and value.size:
                form = name, function, place, value.dtype, value.shape
                alike[form].append((backward, value.ravel()))
    for (name, *_), found in alike.items():
        late, values = map(np.array, zip(*found, strict=True))
        few, near = values.shape[1] < 12, []  # one number, or a row
        for i in np.flatnonzero(late):
            apart = abs(values[:i] - values[i]).max(axis=1)
            near.append(np.any((apart > 1e-12) & (apart < (1e-3 if few else 0.1))))
        if any(near) and (not few or len(set(values[late].flat)) > 3 and np.mean(near) > 0.4):
            return [name]
    return []


class StandIn(type):
    """The type of what a submission gets for another package, or for anything inside it.

    Each is a class, so that it can be a base of another one, or be asked for with isinstance.
    """

    def __new__(cls, name, bases, space):
        """A class of the submission that has a stand-in as a base."""
        return type(name, tuple(b for b in bases if not isinstance(b, StandIn)), space)

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(f"{cls.__name__}.{name}", cls._called)

    def __call__(cls, *args, **kwargs):
        cls._called.add(cls.__name__[:80])
        return stand_in(f"{cls.__name__}()", cls._called)


def stand_in(name, called):
    """A stand-in, which adds its name to `called` when it is called."""
    return type.__new__(StandIn, name, (), {"_called": called})


def _of_others(package):
    """Whether a package is neither the submission's nor NumPy nor of the standard library."""
    if package in sys.stdlib_module_names or package in ("numpy", *OTHERS):
        return False
    try:
        found = importlib.util.find_spec(package)
    except ValueError:  # a module that the submission has made
        return False
    if found is None:
        return package in (*STAND_INS, *NOT_NEEDED)
    return not any(map(_own, [found.origin, *(found.submodule_search_locations or ())]))


def _unset(function):
    """np.empty with what fresh memory may hold: something else than the zeros of a lucky day."""

    @functools.wraps(function)
    def unset(*args, **kwargs):
        result = function(*args, **kwargs)
        if result.dtype.kind in "fc":
            result.fill(math.nan)
        return result

    return unset


# Around a call


def call(what, function, *args, **settings):
    """function(*args), safe from what it does to warnings and NumPy's error settings."""
    try:
        with np.errstate(**{"all": "ignore", **settings}), warnings.catch_warnings(action="ignore"):
            return function(*args)
    except CAUGHT as error:
        raise Fault(f"{what} {describe(error)}") from None


def _own(file):
    """Whether a file, by the name that Python knows it by, is the submission's."""
    return str(file).startswith(FOLDER + os.sep)


def describe(error):
    """What was raised and where in the submission, safe to print."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:
        text = "an error that cannot be printed"
    text = "".join(c if c.isprintable() else "?" for c in text)
    lines = [
        f" ({frame.filename.removeprefix(f'{FOLDER}{os.sep}')}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if _own(frame.filename)
    ]
    return f"raised {type(error).__name__}: {text}" + (lines[-1] if lines else "")


def _strided(a):
    """The same values as a view of every second column of an array in Fortran's order."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype, order="F")
    wide[..., ::2] = a
    return wide[..., ::2]


def _attribute(value, name):
    """An attribute, or None. A dict whose keys are its attributes may raise a KeyError."""
    with contextlib.suppress(KeyError):
        return getattr(value, name, None)


def _parts(value):
    """An object and all objects inside it, through attributes, containers and closures."""
    seen, waiting = set(), collections.deque([value])
    while waiting and len(seen) < 100_000:
        value = waiting.popleft()
        if id(value) in seen or isinstance(value, (type, types.ModuleType)):
            continue  # they lead to everything else
        seen.add(id(value))
        yield value
        if isinstance(value, types.FunctionType):
            waiting += value.__closure__ or ()
        elif isinstance(value, np.ndarray):
            waiting += value.flat if value.dtype == object else ()
        else:
            waiting += gc.get_referents(value)


def main():
    """Answers requests until there are no more."""
    connection, process, session = socket.socket(fileno=os.dup(0)), os.getpid(), Session()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.insert(0, FOLDER)
    builtins.__import__ = session._import
    sys.modules.update(dict.fromkeys(STAND_INS))  # no other way to import them either
    np.empty, np.empty_like = map(_unset, (np.empty, np.empty_like))
    connection.sendall(pack(0, ["ready"], []))
    while head := connection.recv(LENGTHS.size, socket.MSG_WAITALL):
        text, data = (
            connection.recv(size, socket.MSG_WAITALL) if size else b""
            for size in LENGTHS.unpack(head)
        )
        number, (request,), arrays = unpack(text, data)
        operation, fields = eval(request)
        lines, results = session.answer(operation, arrays, fields)
        if os.getpid() != process:
            break  # a copy of this process that the submission made with fork
        connection.sendall(pack(number, lines, results))
