"""The part of the grader that touches a submission: it loads, makes, calls, and sends arrays.

launch.py runs it alone in a process of its own, without the rest of the grader. Each request that
comes over the socket gets one answer: lines of text and arrays as they are. Nothing is judged here
and no expected value stands here, so that a submission that changes this process can do no more
than send other arrays. For each step of a request, main() makes the functions below anew: what the
submission patches in one of them is gone before the answer is packed.

The tests of the mutants use a Session in their own process.
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
from numpy import array, dtype, errstate, frombuffer, ndarray

LENGTHS = struct.Struct("<II")  # of the text and of the arrays, in bytes
TEXT_LIMIT, ARRAYS_LIMIT = 1 << 16, 32 << 20  # bytes
DTYPES = {dtype(code).str for code in "?bBhHiIlLqQefd"}

FILES = ("modules", "mlp_numpy")
SOURCES = tuple(f"{name}.py" for name in FILES)
# What a submission imports of other packages is a stand-in: of these, and of any installed one.
STAND_INS = ("torch", "jax", "autograd", "tensorflow", "sympy", "scipy", "sklearn", "numba")
OTHERS = ("matplotlib", "tqdm")  # that draw, and compute nothing
# What lies in FOLDER is the submission's, where it has a process of its own.
FOLDER = os.getcwd() if __name__ == "worker" else None
CAUGHT = BaseException if FOLDER else (Exception, SystemExit)
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
        flat = frombuffer(data, name, math.prod(shape), start)
        arrays.append(flat.reshape(shape).copy())
        start += flat.nbytes
    if start != len(data):
        raise ValueError("bytes without an array")
    return int(number), lines[count:], arrays


def as_array(what, value):
    """A result as an array of real numbers. Raises a Fault where it is none."""
    if isinstance(value, StandIn):
        raise Fault(f"{what} gives {value!r}, and not what NumPy computes")
    if type(value) is not ndarray:
        value = call(what, array, value)
    if value.dtype.kind not in "fiub":
        raise Fault(f"{what} gives {type(value).__name__} of {value.dtype}, not real numbers")
    if value.nbytes > ARRAYS_LIMIT // 2:
        raise Fault(f"{what} gives an array of the shape {value.shape}")
    native = value.dtype.newbyteorder("=")
    return value.astype(native if native.str in DTYPES else "f8")  # a copy; longdouble too


def as_arrays(lines, values):
    """The answer that `run` gives, with arrays. values: pairs of a name and a result."""
    try:
        results = [as_array(what, value) for what, value in values]
        if sum(result.nbytes for result in results) > ARRAYS_LIMIT:
            raise Fault("the submission gives more arrays than can be sent")
        return ["answer", *lines], results
    except Fault as fault:
        return ["failure", str(fault)], []
    except CAUGHT as error:
        return ["failure", f"the submission {describe(error)}"], []


# Requests


class Session:
    """The modules of a submission, and what was made of them, by number."""

    def __init__(self):
        self.sources, self.namespaces, self.objects = {}, {}, []
        self.imported, self.called = set(), set()


def run(session, operation, arrays, fields):
    """Does what a request asks for. Returns lines, and pairs of a name and a result."""
    operations = {
        "files": files,
        "load": load,
        "facts": facts,
        "draw": draw,
        "signature": signature,
        "make": make,
        "call": call_method,
        "kept": kept,
        "read": read,
        "write": write,
        "counted": counted,
        "differences": differences,
    }
    try:
        return operations[operation](session, arrays, **fields)
    except Fault as fault:
        return ["failure", str(fault)], None
    except CAUGHT as error:  # of a property, say
        return ["failure", f"the submission {describe(error)}"], None


def files(session, arrays, names):
    """Takes the files of the submission, which are on disk where it has a process of its own."""
    session.sources = dict(zip(names, arrays, strict=True))
    if FOLDER:
        for path, data in session.sources.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data.tobytes())
        sys.path.insert(0, FOLDER)
        builtins.__import__ = functools.partial(_import, session)
        sys.modules.update(dict.fromkeys(STAND_INS))  # no other way to import them either
        np.empty, np.empty_like = map(_unset, (np.empty, np.empty_like))
    return [], []


def load(session, arrays, name):
    """Imports modules.py or mlp_numpy.py."""
    what, file, module = f"importing {name}.py", f"{name}.py", types.ModuleType(name)
    if FOLDER:
        module = call(what, importlib.import_module, name)
    else:
        imports, source = functools.partial(_import, session), session.sources[file].tobytes()
        module.__file__, module.__builtins__ = file, {**vars(builtins), "__import__": imports}
        call(what, lambda: exec(compile(source, file, "exec"), vars(module)))
    session.namespaces[name] = module
    return [], []


def _unset(function):
    """np.empty with what fresh memory may hold: something else than the zeros of a lucky day."""

    @functools.wraps(function)
    def unset(*args, **kwargs):
        result = function(*args, **kwargs)
        if result.dtype.kind in "fc":
            result.fill(math.nan)
        return result

    return unset


def _import(session, name, globals=None, locals=None, fromlist=(), level=0):
    """`import`, with stand-ins for what the submission itself imports of other packages."""
    if name in session.namespaces and level == 0 and not FOLDER:
        return session.namespaces[name]
    package, file = name.partition(".")[0], (globals or {}).get("__file__")
    if level or not _own(file) or not _of_others(package):
        return IMPORT(name, globals, locals, fromlist, level)
    session.imported.add(package)
    return StandIn(name if fromlist else package, session.called)


def _of_others(package):
    """Whether a package is neither the submission's nor NumPy nor of the standard library."""
    if package in sys.stdlib_module_names or package in ("numpy", *OTHERS):
        return False
    if package in STAND_INS:
        return True
    found = None
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(package)
    places = [found.origin, *(found.submodule_search_locations or ())] if found else []
    return any(places) and not any(map(_own, places))


def facts(session, arrays):
    """The stand-ins that were imported so far, and what of them was called."""
    imported, called = sorted(session.imported)[:20], sorted(session.called)[:20]
    return [str(len(imported)), *imported, *called], []


def draw(session, arrays):
    """A random number of NumPy's global state, which shows whether a submission sets the seed."""
    return [], [("a random number", np.random.random_sample())]  # noqa: NPY002


def find(session, name):
    """The class of that name. Raises a Fault where there is none."""
    file = "mlp_numpy" if name == "MLP" else "modules"
    found = getattr(session.namespaces.get(file), name, None)
    if not callable(found):
        raise Fault(f"{file}.py has no class {name}")
    return found


def signature(session, arrays, kind):
    """The parameters of a class, without self and those of variable number."""
    try:
        parameters = inspect.signature(find(session, kind)).parameters.values()
    except (TypeError, ValueError):
        return [], []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [f"{p.name} {'needed' if p.default is p.empty else ''}" for p in named], []


def make(session, arrays, kind, args):
    """An instance. The answer: whether it has a method clear_cache, and changed its arguments."""
    before = str(args)
    instance = call(f"{kind}({', '.join(map(str, args))})", find(session, kind), *args)
    owners = [p for p in _parts(instance) if isinstance(getattr(p, "params", None), dict)]
    calls = collections.deque(maxlen=8)  # and what they gave and were given
    session.objects.append(
        types.SimpleNamespace(kind=kind, instance=instance, owners=owners, calls=calls)
    )
    return [str(callable(getattr(instance, "clear_cache", None))), str(str(args) != before)], []


def call_method(session, arrays, id, method, wanted, strided, settings):
    """Calls a method. Sends its result, if it is wanted and not None, and the arguments."""
    thing = session.objects[id]
    args = [_strided(a) for a in arrays] if strided else arrays
    value = _call(thing, method, args, **settings)
    results = [(f"{thing.kind}.{method}", value)] if wanted and value is not None else []
    results += [("an argument", a) for a in args]
    thing.calls.append(results)
    return [str(len(results) - len(args))], results


def kept(session, arrays, id):
    """What the last calls have given and were given, as it is now."""
    return [], [pair for results in session.objects[id].calls for pair in results]


def read(session, arrays, id, name):
    """What is in params or grads of every owner. A line is the number of an owner, and a key."""
    lines, values = [], []
    for i, owner in enumerate(session.objects[id].owners[:64]):
        found = getattr(owner, name, None)
        for key in list(found)[:16] if isinstance(found, dict) else ():
            if isinstance(key, str) and found[key] is not None:
                lines.append(f"{i} {key[:40]}")
                values.append((f"{name}['{key[:40]}']", found[key]))
    return lines, values


def write(session, arrays, id, entries):
    """Sets parameters, in place where there is an array of that form already.

    So do trainers, and a submission may hold a second reference. entries: owner and key of each.
    """
    for (i, key), value in zip(entries, arrays, strict=True):
        params = session.objects[id].owners[i].params
        old = params.get(key)
        if type(old) is ndarray and (old.shape, old.dtype) == (value.shape, value.dtype):
            old[...] = value
        else:
            params[key] = value.copy()
    return [], []


# What only this process can see


def counted(session, arrays, id, method):
    """How many Python instructions a call executes: a measure of loops that no clock disturbs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _call(session.objects[id], method, arrays)
    finally:
        sys.settrace(before)
    return [str(count)], []


def differences(session, arrays, id, split):
    """The function of which backward takes a derivative by differences, if there is one.

    Two kinds of calls count: of the submission's own functions, and of ufuncs by its own code.
    """
    calls, before = [], sys.getprofile()

    def note(function, name, values):
        numbers = (ndarray, float, complex, np.floating, np.complexfloating)
        if len(calls) < 4000:
            places = {k: np.array(v) for k, v in values.items() if isinstance(v, numbers)}
            calls.append((len(inside), function, name, places))

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and _own(code.co_filename):
            names = code.co_varnames[: code.co_argcount]
            values = {name: frame.f_locals.get(name) for name in names}
            params = getattr(values.get("self"), "params", None)
            note(code, code.co_name, values | (params if isinstance(params, dict) else {}))
        elif (
            event == "call" and code.co_name == "gradient" and _own(frame.f_back.f_code.co_filename)
        ):
            note(code, "np.gradient", {"": 1j})

    inside, spaces = [], [np, *session.namespaces.values()]
    spaces += [m for m in list(sys.modules.values()) if _own(getattr(m, "__file__", None))]
    with contextlib.ExitStack() as stack:
        stack.callback(sys.setprofile, before)
        for space in map(vars, spaces):
            ufuncs = {name: value for name, value in space.items() if isinstance(value, np.ufunc)}
            stack.callback(space.update, ufuncs)
            space.update({name: Watched(value, note) for name, value in ufuncs.items()})
        sys.setprofile(profile)
        _call(session.objects[id], "forward", arrays[:split])
        inside.append("backward")
        _call(session.objects[id], "backward", arrays[split:])
    return _differing(calls), []


class Watched:
    """A ufunc that tells of the calls that the submission's own code makes."""

    def __init__(self, ufunc, note):
        self._ufunc, self._note = ufunc, note

    def __call__(self, *args, **kwargs):
        if _own(sys._getframe(1).f_code.co_filename):
            self._note(self._ufunc, self._ufunc.__name__, dict(enumerate(args)))
        return self._ufunc(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._ufunc, name)


def _differing(calls):
    """The name of a function that backward calls at complex numbers or a little beside others.

    calls: whether in backward, the function, its name, and its arguments by place. An array is
    compared with the arrays of the same place. A single number may be near another one by chance:
    only if many numbers of a place are, they have been moved.
    """
    arrays, numbers = collections.defaultdict(list), collections.defaultdict(list)
    for backward, function, name, places in calls:
        for place, value in places.items():
            known = arrays if value.ndim else numbers
            if backward and value.dtype.kind == "c":
                return [name]
            if (
                backward
                and value.size > 1
                and any(_beside(value, o) for o in arrays[function, place])
            ):
                return [name]
            known[function, place].append(
                value if value.ndim else (backward, name, float(value.real))
            )
    for found in numbers.values():
        values = np.array([value for *_, value in found])
        apart = abs(values[:, None] - values)
        near = np.tril((apart > 1e-12) & (apart < 1e-3)).any(axis=1)
        late = np.array([backward for backward, *_ in found], dtype=bool)
        if len(set(values[late])) > 3 and near[late].mean() > 0.4:
            return [found[-1][1]]
    return []


def _beside(value, old):
    """Whether an array is almost an older one, and yet not the same."""
    if value.shape != old.shape or value.dtype != old.dtype or value.dtype.kind != "f":
        return False
    return 1e-12 < np.max(np.abs(value - old)) < 0.1


class StandIn:
    """What a submission gets for another package, or for anything inside it.

    It can be imported, subclassed and asked for with isinstance; what is called is written down.
    """

    def __init__(self, name, called):
        self._name, self._called = name, called

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(f"{self._name}.{name}", self._called)

    def __call__(self, *args, **kwargs):
        self._called.add(self._name[:80])
        return StandIn(f"{self._name}()", self._called)

    def __repr__(self):
        return f"a stand-in for {self._name}"

    def __mro_entries__(self, bases):
        return (object,) if not any(isinstance(base, type) for base in bases) else ()

    def __instancecheck__(self, value):
        return False

    def __or__(self, other):
        return self

    __ror__ = __or__
    __subclasscheck__ = __instancecheck__


# Around a call


def _call(thing, method, args, **settings):
    function = getattr(thing.instance, method, None)
    if not callable(function):
        raise Fault(f"{thing.kind} has no method {method}")
    return call(f"{thing.kind}.{method}", function, *args, **settings)


def call(what, function, *args, **settings):
    """function(*args), safe from what it does to warnings and NumPy's error settings."""
    try:
        with errstate(**{"all": "ignore", **settings}), warnings.catch_warnings(action="ignore"):
            return function(*args)
    except Fault:
        raise
    except CAUGHT as error:
        raise Fault(f"{what} {describe(error)}") from None


def _own(file):
    """Whether a file, by the name that Python knows it by, is the submission's."""
    return file in SOURCES or (FOLDER and str(file).startswith(FOLDER + os.sep))


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
        elif isinstance(value, ndarray):
            waiting += value.flat if value.dtype == object else ()
        else:
            waiting += gc.get_referents(value)


def main():
    """Answers requests until there are no more."""
    connection = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # All that is used below, as it is before the submission runs.
    session, getpid, evaluate, lengths = Session(), os.getpid, eval, LENGTHS
    receive, send, function, wait = (
        connection.recv,
        connection.sendall,
        types.FunctionType,
        socket.MSG_WAITALL,
    )
    first, process = {**globals(), "__builtins__": dict(vars(builtins))}, getpid()
    forms = {n: (f.__code__, f.__defaults__) for n, f in first.items() if type(f) is function}

    def fresh(name):
        space = first.copy()
        for other, (code, defaults) in forms.items():
            space[other] = function(code, space, other, defaults)
        return space[name]

    send(pack(0, ["ready"], []))
    while head := receive(lengths.size, wait):
        size, more = lengths.unpack(head)
        text, data = receive(size, wait), receive(more, wait) if more else b""
        number, lines, arrays = fresh("unpack")(text, data)
        operation, fields = evaluate(lines[0])
        lines, values = fresh("run")(session, operation, arrays, fields)
        if values is not None:
            lines, values = fresh("as_arrays")(lines, values)
        if getpid() != process:
            break  # a copy of this process that the submission made with fork
        send(fresh("pack")(number, lines, values or []))
