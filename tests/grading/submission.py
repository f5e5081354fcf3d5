"""A submission as the checks see it: modules to make, arrays to send and arrays that come back.

The submission itself runs in a child process (process.py). None of its own objects comes here, and
all that comes is judged here: the keys of params and grads, shapes and dtypes, what was written to.
What goes wrong is a Failure with a sentence.

The assignment leaves some things open: weights may be stored (N, M) or (M, N), the bias (N,) or
(1, N), targets may be one-hot or class numbers, the classes may take arguments that other years of
the course have. All of that is hidden here, so that a check states only what must be true.
"""

import collections
import contextlib
import functools
import itertools

import numpy as np

from .diagnosis import Failure, NotGraded, as_failure
from .worker import FILES

CALL, IMPORT = 2.0, 20.0  # seconds of processor time for one call, and for importing a module
ROOM = 4096  # entries of a result beyond sixteen for each that is expected
KEYS = {"weight": ("weight", "weights", "W", "w"), "bias": ("bias", "biases", "b")}
ALPHA_NAMES = {"alpha", "a", "neg_slope", "negative_slope"}


class Lost(Exception):
    """The process of a submission has ended or is of no more use; says what it did."""


class Waits(Lost):
    """It did nothing for too long."""


class Again(Exception):
    """A check has to begin again, with a new process: the last one waited, once."""


class Submission:
    """The classes of modules.py and mlp_numpy.py.

    Args:
        sources: each file by its name, the two and those that they import: bytes or text.
        connect: a function that starts a child process.
        errors: sentences about modules that could not be read, by name.
        call_limit, import_limit: seconds for a call, and for importing a module.

    Making one never raises: where a file does not import, `errors` has the sentence that says why,
    and every check that needs the file fails with it.
    """

    def __init__(self, sources, connect, errors=(), call_limit=CALL, import_limit=IMPORT):
        self.sources, self.connect, self.errors = sources, connect, dict(errors)
        self.call_limit, self.import_limit = call_limit, import_limit
        self.process, self.generation, self.not_graded = None, 0, ""
        # What takes too long or ends the process is not tried again: the rows that need it fail
        # at once, and the others are checked. What waits is tried twice.
        self.fatal, self.waited = {}, set()
        self.failed = []  # the rows that have failed so far, by name
        with contextlib.suppress(Failure):
            self._start()

    def run(self, check, rng):
        """The remarks of a check, which begins again where the process waited for nothing."""
        while True:
            state = rng.bit_generator.state
            try:
                return check(self, rng)
            except Again:
                rng.bit_generator.state = state

    def _start(self):
        """Starts a process, where there is none, that has imported what can be imported."""
        while self.process is None and "modules" not in self.errors:
            if self.not_graded:
                raise NotGraded(self.not_graded)
            try:
                self.process = self.connect()
            except Lost as lost:
                raise Failure(f"this row {lost}") from None
            except NotGraded as failure:
                self.not_graded = failure.sentence
                raise
            self.generation += 1
            with contextlib.suppress(Again):  # in a new process
                for name in FILES:
                    if self.process is not None and name not in self.errors:
                        self._load(name)

    def _load(self, name):
        """Has a module imported, or notes why it cannot be. All files go with the first."""
        files = self.sources if name == FILES[0] else {}
        texts = (text.encode() if isinstance(text, str) else text for text in files.values())
        texts = [np.frombuffer(text, np.uint8) for text in texts]
        fields = {"name": name, "names": list(files)}
        try:
            self.ask(f"importing {name}.py", "load", texts, self.import_limit, **fields)
        except NotGraded:
            raise
        except Failure as failure:
            self.errors[name] = failure.sentence.replace(
                "an endless loop", "an endless loop, or does it train as it is imported"
            )

    def ask(self, what, operation, arrays=(), limit=None, **fields):
        """The answer to a request: lines and arrays. `what` names it in sentences."""
        if what in self.fatal:
            raise Failure(self.fatal[what])
        if self.process is None:
            raise Failure("the process of the submission has ended")
        try:
            limit = limit or self.call_limit
            (kind, *lines), results = self.process.ask(operation, arrays, limit, **fields)
        except NotGraded:
            self.close()
            raise
        except Lost as lost:
            self.close()
            if isinstance(lost, Waits) and what not in self.waited:
                self.waited.add(what)
                raise Again(what) from None
            self.fatal[what] = f"{what} {lost}"
            raise Failure(self.fatal[what]) from None
        if kind == "failure":
            raise as_failure(clean(" ".join(lines)))
        return lines, results

    def close(self):
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.end()
        self.process = None

    def facts(self):
        """The stand-ins that were imported so far, and what of them was called."""
        (count, *names), _ = self.ask("looking back", "facts")
        names = list(map(clean, names))
        return {"imported": names[: int(count)], "called": names[int(count) :]}

    def draw(self):
        """A random number of NumPy's global state there."""
        return float(self.ask("drawing a number", "draw")[1][0].sum())

    def _make(self, name, *args):
        """An instance of the class of that name."""
        self._start()
        for file in FILES if name == "MLP" else FILES[:1]:
            if file in self.errors:
                raise as_failure(self.errors[file])
        lines, _ = self.ask(f"making {name}", "make", kind=name, args=args)
        return Module(self, name, *lines)

    def linear(self, weight, bias):
        """A LinearModule that has the weight (N, M) and the bias (N,)."""
        layer = self.fresh_linear(*weight.shape[::-1])
        layer.set([(weight, bias)])
        return layer

    def fresh_linear(self, in_features, out_features):
        """A LinearModule as its constructor leaves it."""
        module = self._make("LinearModule", in_features, out_features)
        params = module.read("params").get(0, {})
        # A square weight does not show how it is stored: a layer of other sizes does.
        transposed = in_features == out_features and self.stored_in_out
        module.layers = [Layer(0, params, in_features, out_features, transposed)]
        return module

    @functools.cached_property
    def stored_in_out(self):
        """Whether a LinearModule stores its weight (in, out)."""
        with contextlib.suppress(Failure):
            return self.fresh_linear(2, 3).layers[0].transposed
        return False

    def elu(self, alpha=None):
        return self._make("ELUModule", *([] if alpha is None else [alpha]))

    def softmax(self):
        return self._make("SoftMaxModule")

    def cross_entropy(self):
        """A CrossEntropyModule that takes one-hot targets, whichever its own style."""
        module = self._make("CrossEntropyModule")
        module.integer = self._takes_class_numbers
        return module

    @functools.cached_property
    def _takes_class_numbers(self):
        """Whether a loss cannot do with one-hot targets, but with class numbers."""
        x, y = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]), np.eye(3)[[2, 0]]
        for targets, answer in ((y, False), (y.argmax(axis=1), True)):
            with contextlib.suppress(Failure):
                self._make("CrossEntropyModule").forward(x, targets)
                return answer
        return False  # the checks say what is wrong, with the targets that the assignment has

    def mlp(self, sizes):
        """An MLP of those sizes (n_inputs, hidden ..., n_classes), with its own weights."""
        sizes = list(map(int, sizes))
        self._make("ELUModule")  # where there is none, the MLP is that of another year
        network = self._make("MLP", sizes[0], sizes[1:-1], sizes[-1])
        self._find_layers(network, sizes)
        _put_in_order(network, np.ones((2, sizes[0])))
        return network

    def _find_layers(self, network, sizes):
        """A linear layer for each pair of sizes, from the first to the last."""
        owners, stored = network.read("params"), self.stored_in_out
        for shape in itertools.pairwise(sizes):
            fits = []
            for owner, params in owners.items():
                with contextlib.suppress(Failure):
                    fits.append(Layer(owner, params, *shape, stored))
            if not fits:
                self.fresh_linear(*shape)  # where the reason is LinearModule's, it says so
                made = f"MLP({sizes[0]}, {sizes[1:-1]}, {sizes[-1]})"
                needs = "linear layer from {} to {} features".format(*shape)
                raise Failure(f"{made} has no {needs} in an attribute of self")
            # As LinearModule stores it, and not yet taken, if there is such a one.
            fits.sort(key=lambda layer: layer.transposed != stored)
            taken = {layer.owner for layer in network.layers}
            free = [layer for layer in fits if layer.owner not in taken]
            network.layers.append((free or fits)[0])


def _put_in_order(network, x):
    """Puts layers of equal size in the order in which the network computes with them.

    A layer whose weight is zero hides all that comes before it.
    """
    layers, rng = network.layers, np.random.default_rng(0)
    pairs = itertools.combinations(range(len(layers)), 2)
    alike = [(i, j) for i, j in pairs if layers[i].shapes == layers[j].shapes]
    initial = network.params() if alike else []
    values = [[rng.uniform(-1, 1, part.shape) for part in pair] for pair in initial]

    def hides(one, other):
        """Whether the weight of the other does not matter while this one's is zero."""
        outputs = []
        for sign in (1, -1):
            new = list(values)
            new[one] = 0 * values[one][0], values[one][1]
            new[other] = sign * values[other][0], sign * values[other][1]
            network.set(new)
            outputs.append(network.forward(x))
        return np.array_equal(*outputs)

    for i, j in alike:
        with contextlib.suppress(Failure):
            if hides(i, j) and not hides(j, i):
                layers[i], layers[j] = layers[j], layers[i]
    if alike:
        network.set(initial)


class Module:
    """A module of the submission, which is elsewhere.

    clears_cache: whether it has that method. changes_list: whether its constructor changes the list
    that it is given. takes_alpha: whether the first parameter of its constructor is an alpha.
    integer: whether its own targets are class numbers. layers: its linear layers, from the first to
    the last. faults: wrong keys, which do not make the numbers wrong.
    """

    integer = False

    def __init__(self, submission, name, number, clears_cache, changes_list, parameter=""):
        self.submission, self.name, self.process = submission, name, submission.process
        self.clears_cache, self.changes_list = clears_cache == "True", changes_list == "True"
        self.id, self.takes_alpha = int(number), parameter in ALPHA_NAMES
        self.layers, self.faults, self.calls = [], set(), collections.deque(maxlen=8)

    def ask(self, what, operation, arrays=(), **fields):
        if self.submission.process is not self.process:
            raise Failure(f"{self.name} has gone with its process")
        return self.submission.ask(f"{self.name}.{what}", operation, arrays, id=self.id, **fields)

    def forward(self, *args, **how):
        return self._call("forward", args, **how)

    def backward(self, *args, **how):
        """Returns None where nothing has to be returned: what MLP.backward returns is left open,
        and the first layer of a network may return None."""
        return self._call("backward", args, **how)

    def clear_cache(self):
        self._call("clear_cache", ())

    def _sent(self, args):
        return [args[0], args[1].argmax(axis=1)] if self.integer and len(args) == 2 else list(args)

    def _call(self, method, args, strided=False, **settings):
        """strided: whether the arguments lie there as every second column of a larger array."""
        args, what = self._sent(args), f"{self.name}.{method}"
        wanted = method == "forward" or (method == "backward" and self.name != "MLP")
        fields = {"method": method, "wanted": wanted, "strided": strided, "settings": settings}
        _, results = self.ask(method, "call", args, **fields)
        rows = np.prod(args[0].shape[:1]) if args else 0  # dout may be a number
        size = sum(array.size for array in args)
        size += rows * sum(sum(layer.weight_shape) for layer in self.layers)
        for result in results:
            _expect_size(f"{what} gives an array of the shape {result.shape}", result, size)
        first = "dout" if method == "backward" and len(args) == 1 else "x"
        names = [f"what {method} returned"] * len(results)
        names += [f"{name} of {method}" for name in (first, "y")[: len(args)]]
        self.calls.append(list(zip(names, [*results, *args], strict=True)))
        if wanted and not results and (method, self.name) != ("backward", "LinearModule"):
            raise Failure(f"{what} gives None instead of an array")
        return results[0] if results else None

    def changed(self):
        """The names of the arrays that its last calls were given or gave, and that a later call
        has changed."""
        _, now = self.ask("results", "kept")
        before = [pair for call in self.calls for pair in call]
        return [
            name
            for (name, was), array in zip(before, now, strict=False)
            if not np.array_equal(was, array, equal_nan=True)
        ]

    def counted(self, method, *args):
        """How many Python instructions a call executes."""
        (count,), _ = self.ask(method, "counted", self._sent(args), method=method)
        return int(count)

    def differences(self, forward_args, backward_args):
        """The function of which backward takes a derivative by differences, or None."""
        arrays = [*self._sent(forward_args), *self._sent(backward_args)]
        found, _ = self.ask("backward", "differences", arrays, split=len(forward_args))
        return clean(found[0]) if found else None

    def read(self, name):
        """params or grads of every object inside it that has them: arrays by the number of the
        object, and by key."""
        lines, arrays = self.ask(name, "read", name=name)
        found = {}
        for line, array in zip(lines, arrays, strict=False):
            number, key = line.split(" ", 1)
            found.setdefault(int(number), {})[key] = array
        return found

    def set(self, values):
        """values: a list of (weight (N, M), bias (N,)). Written in place, as trainers do."""
        entries, arrays = [], []
        for layer, pair in zip(self.layers, values, strict=True):
            for part, value in zip(KEYS, pair, strict=True):
                value = value.T if part == "weight" and layer.transposed else value
                entries.append((layer.owner, layer.keys[part]))
                # A bias may start as a single number.
                arrays.append(np.resize(value, layer.shapes[part]))
        self.ask("params", "write", arrays, entries=entries)

    def params(self):
        """The parameters of each linear layer, a list of (weight (N, M), bias (N,))."""
        return self._pairs("params")

    def grads(self):
        """The gradients, likewise."""
        return self._pairs("grads")

    def _pairs(self, name):
        found = self.read(name) if self.layers else {}
        return [
            tuple(layer.seen(part, self._entry(found, layer, name, part)) for part in KEYS)
            for layer in self.layers
        ]

    def grad(self, part):
        """One gradient of a linear module: 'weight', (N, M), or 'bias', (N,)."""
        return self.layers[0].seen(part, self.stored("grads", part))

    def stored(self, name, part):
        """An entry of params or grads in the shape that it really has."""
        return self._entry(self.read(name), self.layers[0], name, part)

    def _entry(self, found, layer, name, part):
        entries, shape = found.get(layer.owner, {}), layer.shapes[part]
        key = _key(name, entries, part)
        if key != part:
            self.faults.add(f"{name} has the key '{key}' instead of '{part}'")
        array = entries[key]
        if name == "params" and array.shape != shape and part not in layer.scalars:
            raise Failure(f"params['{part}'] changes its shape from {shape} to {array.shape}")
        says = f"{name}['{part}'] has the shape {array.shape}, and should have {shape}"
        _expect_size(says, array, np.prod(layer.weight_shape))
        return array


class Layer:
    """A linear layer, seen with the weight (N, M) and the bias (N,).

    owner: the number of the object that has its parameters. keys, shapes: of its parameters, as
    they are stored. scalars: those that start as a single number. remarks: about their style.
    """

    def __init__(self, owner, params, in_features, out_features, stored_in_out):
        self.owner, self.remarks = owner, []
        self.weight_shape = right = out_features, in_features
        self.keys = {part: _key("params", params, part) for part in KEYS}
        stored = {part: params[key].shape for part, key in self.keys.items()}
        self.scalars = [] if stored["bias"] else ["bias"]
        weight, bias = stored["weight"], stored["bias"] or (out_features,)
        self.shapes = {"weight": weight, "bias": bias}
        if weight not in (right, right[::-1]):
            raise Failure(
                f"the weight of LinearModule({in_features}, {out_features}) has the shape "
                f"{weight}, and should have {right}"
            )
        self.transposed = stored_in_out if in_features == out_features else weight != right
        if self.transposed:
            self.remarks.append("the weight is stored (in, out): the assignment has (out, in)")
        if bias not in ((out_features,), (1, out_features), (out_features, 1)):
            raise Failure(
                f"the bias of LinearModule({in_features}, {out_features}) has the shape {bias}, "
                f"and should have {(1, out_features)}"
            )
        if bias == (out_features, 1) != (1, 1):
            self.remarks.append("the bias is a column: the assignment has a row")

    def seen(self, part, array):
        """A parameter or a gradient as the checks see it."""
        if part == "bias":
            return array.ravel() if array.size == self.weight_shape[0] else array.squeeze()
        return array.T if self.transposed else array


def _key(name, found, part):
    """The key of a parameter or a gradient in params or grads."""
    if not found:
        raise Failure(f"LinearModule has no dict {name} with numbers in it")
    for key in KEYS[part]:
        if key in found:
            return key
    raise Failure(f"{name} of LinearModule has no entry '{part}'")


def _expect_size(sentence, array, size):
    """Nothing much larger than what is expected reaches the checks."""
    if array.size > ROOM + 16 * size or array.ndim > 4:
        raise Failure(sentence)


def clean(text, limit=400):
    """Text of a submission, safe to print."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:limit])
