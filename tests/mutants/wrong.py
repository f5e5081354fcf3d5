"""Wrong versions: each is a right version with one realistic mistake.

A mutant names the rows of the table that it must fail, all of them and no other, and a piece of
the diagnosis in the first of them. Where a module is wrong, the network that is built of it is
wrong too, and its row says that it follows from another. Right versions that differ from the
textbook's in one thing are in a table of the same form, with the rows that make a remark.
"""

from collections import namedtuple
from pathlib import Path

RIGHT = Path(__file__).parent / "right"

Mutant = namedtuple("Mutant", "name rows says changes base")


def right_sources(style):
    """The text of the files of a right version."""
    for variant in VARIANTS:
        if variant.name == style:
            return sources(variant)
    return {file.name: file.read_text() for file in (RIGHT / style).glob("*.py")}


def sources(mutant):
    """The text of the files of a mutant."""
    result = right_sources(mutant.base)
    for old, new in zip(mutant.changes[::2], mutant.changes[1::2], strict=True):
        found = [file for file in result if old in result[file]]
        if len(found) != 1:
            raise ValueError(f"{mutant.name}: {old!r} stands in {found} of {mutant.base}")
        result[found[0]] = result[found[0]].replace(old, new)
    return result


def wrong(name, rows, says, *changes, base="textbook"):
    """A mutant. `changes` are old and new pieces of text in turn."""
    return Mutant(name, rows, says, changes, base)


# The rows, by the letters that the list below uses.
F, W, B, X = "linear forward", "weight gradient", "bias gradient", "input gradient"
EV, EG, SV, SG = "ELU value", "ELU gradient", "softmax value", "softmax gradient"
CV, CG = "cross-entropy value", "cross-entropy gradient"
NO, NG = "network output", "network gradient"
CACHES, SHAPES, START = "stale caches", "shapes", "initialisation trains"
NUMPY, LOOPS = "NumPy only", "no loops over samples"
STABLE, INPUTS, FLOAT64 = "numerically stable", "inputs left alone", "float64 kept"

# The lines of the textbook version that mutants change.
INIT = "np.random.default_rng().normal(0, 0.0001, (out_features, in_features))"
KEEP = "self.x = x\n        out = x @"
OUT = 'out = x @ self.params["weight"].T + self.params["bias"]'
DW = 'self.grads["weight"] = dout.T @ self.x'
DB = 'self.grads["bias"] = np.sum(dout, axis=0, keepdims=True)'
DX = 'dx = dout @ self.params["weight"]'
MAX = "b = np.max(x, axis=1, keepdims=True)"
SOFTMAX = "self.out = exp / np.sum(exp, axis=1, keepdims=True)"
SOFTMAX_DX = "dx = self.out * (dout - total)"
LOSS = "out = -np.sum(y * np.log(x)) / x.shape[0]"
LOSS_DX = "dx = -(y / x) / x.shape[0]"
ELU = "out = np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1)"
SLOPE = "slope = np.where(self.x >= 0, 1.0, np.exp(np.minimum(self.x, 0)))"
ELU_DX = "dx = dout * slope"
APPEND_ELU = "            self.layers.append(ELUModule())\n"
APPEND_LAST = "        self.layers.append(LinearModule(size, n_classes))\n"
APPEND_SOFTMAX = "        self.layers.append(SoftMaxModule())\n"
IMPORT = "import numpy as np\n"
ELU_CLASS = "class ELUModule:\n"
ADD_HIDDEN = "self.layers.append(LinearModule(size, units))"
BACK = "for layer in reversed(self.layers):\n            dout = layer.backward(dout)"

# fmt: off
# A table: one mutant after another, with the name, the rows, the diagnosis and the changes.

WRONG = [
    # Linear
    wrong("bias never added", {F, NO, NG}, "never added", ' + self.params["bias"]', ""),
    wrong("weight gradient transposed", {W, NG, SHAPES}, "transpose", DW,
          'self.grads["weight"] = self.x.T @ dout'),
    wrong("a little weight decay inside", {W, NG}, "0.001 times the parameter", DW,
          DW + ' + 1e-3 * self.params["weight"]'),
    wrong("weight gradient accumulated", {NG, CACHES}, "", DW, DW.replace(" = ", " += ")),
    wrong("bias gradient averaged", {B, NG}, "1/S of the right one", DB, DB.replace("sum", "mean")),
    wrong("bias gradient zero", {B, NG}, "zero", DB, ""),
    wrong("bias gradient over axis 1", {B, NG, SHAPES}, "axis 1", DB,
          DB.replace("0", "1") + ".T"),
    wrong("bias gradient not summed", {B, NG, SHAPES}, "not summed", DB,
          'self.grads["bias"] = dout'),
    wrong("input gradient of the wrong sign", {X, NG}, "sign", "dx = dout @", "dx = -dout @"),
    wrong("input gradient not returned", {X, NG}, "None", DX + "\n        return dx", DX),
    wrong("update inside backward", {INPUTS}, "the trainer's part", DX,
          DX + '; self.params["weight"] *= 0.9'),
    wrong("squeezed output", {F, NO, NG}, "of one sample", OUT,
          OUT + "; out = np.squeeze(out)"),
    wrong("writes into x", {INPUTS}, "writes into x", KEEP,
          "x *= 2.0; x /= 3.0; x *= 1.5; " + KEEP),
    wrong("writes into dout", {INPUTS}, "writes into dout", DX, DX + "; dout *= 0"),
    wrong("key weights", {SHAPES}, "'weights' instead of 'weight'", '"weight"', '"weights"'),
    wrong("gradient under another key", {W, NG}, "zero", 'self.grads["weight"]',
          'self.grads["weights"]'),
    wrong("weight that starts as a number", {F, W, B, X, NO, NG, START}, "has the shape ()", INIT,
          "np.float64(0)"),
    wrong("bias for the inputs", {F, W, B, X, NO, NG, START}, "and should have (1, ",
          '"bias": np.zeros((1, out_features)),\n        }\n        self.grads',
          '"bias": np.zeros((1, in_features)),\n        }\n        self.grads'),
    wrong("bias gradient of truth values", {B, NG}, "entries", DB, DB + " > 0"),
    # State
    wrong("gradients shared by the class", {NG, CACHES}, "", "class LinearModule:\n",
          "class LinearModule:\n    grads = {}\n\n", "        self.grads = {\n",
          "        unused = {\n"),
    wrong("layers reversed in place", {NG, CACHES, INPUTS}, "", "in reversed(self.layers):",
          "in self.layers.reverse() or self.layers:"),
    wrong("parameters shared by the class", {NO, NG, CACHES, START}, "",
          "class LinearModule:\n", "class LinearModule:\n    shared = {}\n\n", "self.grads = {",
          "self.shared.update(self.params); self.params = self.shared\n        self.grads = {"),
    wrong("cache of the class", {NG, CACHES}, "", KEEP, "LinearModule.x = x\n        out = x @"),
    wrong("loss gradient takes S from its last call", {CACHES}, "samples after one of", LOSS_DX,
          "n = getattr(self, 'n', len(x)); self.n = len(x)\n        dx = -(y / x) / n"),
    wrong("clear_cache clears the parameters", {CACHES}, "after clear_cache()",
          "class LinearModule:\n", "class LinearModule:\n    def clear_cache(self):\n"
          "        self.params['weight'][:] = 0\n\n"),
    wrong("one ELU for all layers", {NG}, "one ELUModule is used", "self.layers = []",
          "self.layers = []\n        elu = ELUModule()", "append(ELUModule())", "append(elu)"),
    # ELU
    wrong("ReLU", {EV, EG, NO, NG}, "ReLU", ELU, "out = np.maximum(x, 0)", SLOPE,
          "slope = self.x > 0"),
    wrong("exp without minus 1", {EV, NO, NG}, "1 is not subtracted", "(x, 0)) - 1", "(x, 0))"),
    wrong("branches exchanged", {EV, NO, NG, STABLE}, "exchanged", ELU,
          "out = np.where(x < 0, x, np.exp(x) - 1)"),
    wrong("branches exchanged, exp clipped", {EV, NO, NG}, "exchanged", ELU,
          "out = np.where(x < 0, x, np.exp(np.minimum(x, 0)) - 1)"),
    wrong("slope 0 at 0", {EG}, "x = 0", SLOPE, SLOPE + " * (self.x != 0)"),
    wrong("slope exp above 0 too", {EG, NG, STABLE}, "above 0 too", SLOPE,
          "slope = np.exp(self.x)"),
    wrong("slope of the output", {EG, NG}, "exp of the output",
          "self.x = x\n        out = np.where", "out = np.where", "- 1)\n        return out",
          "- 1)\n        self.x = out\n        return out"),
    wrong("ELU in place", {EG, NG, INPUTS}, "exp of the output", ELU,
          "x[x < 0] = np.exp(x[x < 0]) - 1; out = x"),
    wrong("output of the ELU in one dimension", {EV, NO, NG}, "has the shape", ELU,
          ELU + "; out = out.ravel()"),
    wrong("masked ELU overflows", {STABLE}, "", SLOPE,
          "slope = (self.x >= 0) + (self.x < 0) * np.exp(self.x)"),
    wrong("ELU float32", {FLOAT64}, "float32", ELU, "x = x.astype(np.float32); " + ELU),
    wrong("alpha left out of the slope", {EG}, "output + alpha", "(out <= 0) * (out + self.alpha)",
          "(out <= 0) * (out + 1)", base="later_years"),
    # Softmax
    wrong("no maximum subtracted", {STABLE}, "subtract the maximum", MAX, "b = 0"),
    wrong("global maximum subtracted", {STABLE}, "not of the batch", MAX, "b = np.max(x)"),
    wrong("maximum over the samples", {SV, SG, NO, NG, STABLE}, "maximum of each column", MAX,
          "b = np.max(x, axis=0)"),
    wrong("logits clipped", {STABLE}, "", "np.exp(x - b)", "np.exp(np.clip(x, -50, 50))"),
    wrong("sum of the softmax without keepdims", {SV, SG, NO, NG}, "broadcast", SOFTMAX,
          SOFTMAX.replace(", keepdims=True", "")),
    wrong("softmax over the whole batch", {SV, SG, NO, NG}, "axis=1 missing", SOFTMAX,
          "self.out = exp / np.sum(exp)"),
    wrong("not normalised", {SV, SG, NO, NG}, "not normalised", SOFTMAX, "self.out = exp"),
    wrong("log softmax", {SV, NO, NG, STABLE}, "logarithm", SOFTMAX + "\n        return self.out",
          SOFTMAX + "\n        return np.log(self.out)"),
    wrong("identity, fused with the loss", {SV, NO, NG}, "passed on", "return self.out\n",
          "return x\n"),
    wrong("epsilon 1e-4 in the sum", {SV, SG, NO, NG}, "epsilon", SOFTMAX,
          SOFTMAX + "; self.out = exp / (np.sum(exp, axis=1, keepdims=True) + 1e-4)"),
    wrong("softmax gradient without the sum", {SG, NG}, "sum over the classes is missing",
          SOFTMAX_DX, "dx = self.out * dout"),
    wrong("diagonal of the Jacobian", {SG, NG}, "only the diagonal", SOFTMAX_DX,
          "dx = self.out * (1 - self.out) * dout"),
    # Cross entropy
    wrong("loss and gradient summed", {CV, CG, NG}, "summed", LOSS, "out = -np.sum(y * np.log(x))",
          LOSS_DX, "dx = -y / x"),
    wrong("loss for each sample", {CV}, "one loss for each sample", LOSS,
          "out = -np.sum(y * np.log(x), axis=1)"),
    wrong("loss by //", {CV}, "// instead of /", LOSS, LOSS.replace("/", "//")),
    wrong("loss without minus", {CV}, "minus", "out = -np", "out = np"),
    wrong("log2", {CV}, "bits", "np.log(x)", "np.log2(x)"),
    wrong("binary cross entropy", {CV}, "binary", "y * np.log(x)",
          "y * np.log(x) + (1 - y) * np.log(1 - x)"),
    wrong("fused loss gradient", {CG, NG}, "fused", LOSS_DX, "dx = (x - y) / x.shape[0]"),
    wrong("softmax inside the loss gradient", {CG, NG}, "softmax is applied inside", LOSS_DX,
          "p = np.exp(x) / np.exp(x).sum(1, keepdims=True); dx = (p - y) / x.shape[0]"),
    wrong("loss gradient summed over the classes", {CG, NG}, "has the shape", LOSS_DX,
          LOSS_DX + "; dx = dx.sum(axis=1)"),
    wrong("loss gradient a number", {CG, NG}, "has the shape ()", LOSS_DX,
          LOSS_DX + "; dx = dx.sum()"),
    wrong("loss with softmax inside", {CV}, "softmax is applied inside", LOSS,
          "x = np.exp(x) / np.exp(x).sum(1, keepdims=True); " + LOSS),
    wrong("epsilon 1e-7 added", {CV}, "epsilon", "np.log(x)", "np.log(x + 1e-7)"),
    wrong("epsilon 1e-6 in the gradient", {CG}, "epsilon", "(y / x)", "(y / (x + 1e-6))"),
    wrong("clipped at 1 - 1e-6", {CV}, "clip", "np.log(x)", "np.log(np.minimum(x, 1 - 1e-6))"),
    wrong("loss writes the floor into x", {INPUTS}, "writes into x", LOSS,
          "x[x < 1e-12] = 1e-12; " + LOSS),
    # Network
    wrong("no softmax", {NO, NG}, "at the end is missing (layers of", APPEND_SOFTMAX, ""),
    wrong("output of the network in one dimension", {NO, NG}, "has the shape",
          "            out = layer.forward(out)\n        return out",
          "            out = layer.forward(out)\n        return out.ravel()"),
    wrong("ELU before the softmax", {NO, NG}, "ELU before", APPEND_SOFTMAX,
          "        self.layers.append(ELUModule())\n" + APPEND_SOFTMAX),
    wrong("noise in the network", {NO, NG, CACHES, SHAPES}, "", "= layer.forward(out)\n",
          "= layer.forward(out)\n            out = out + np.random.normal(0, 0.1, out.shape)\n",
          "from modules", "import numpy as np\nfrom modules"),
    wrong("one hidden layer at least", {NO, NG}, "without hidden layers", "for units in n_hidden:",
          "for units in n_hidden or [10]:"),
    wrong("backward skips the softmax", {NG}, "softmax", "in reversed(self.layers)",
          "in reversed(self.layers[:-1])"),
    wrong("backward skips the first layer", {NG}, "zero", BACK,
          BACK.replace("self.layers", "self.layers[1:]")),
    wrong("weight decay in the network", {NG}, "0.01 times the parameter", BACK,
          BACK + "\n        for layer in self.layers[::2]:\n"
          "            for key in layer.params:\n"
          "                layer.grads[key] = layer.grads[key] + 0.01 * layer.params[key]"),
    wrong("logits clipped in the network", {STABLE}, "MLP with biases", "layer.forward(out)",
          "layer.forward(out.clip(-50, 50))"),
    wrong("inputs float32", {FLOAT64}, "MLP", "out = x\n", "out = x.astype('float32')\n"),
    wrong("weights zero", {START}, "start at 0", INIT, "np.zeros((out_features, in_features))"),
    wrong("weights nan", {START}, "not finite", INIT, "np.sqrt(" + INIT + ")"),
    wrong("weights float32", {FLOAT64}, "float32", INIT, INIT + ".astype(np.float32)"),
    wrong("weights float32 in forward", {FLOAT64}, "float32", OUT,
          OUT.replace('"].T', '"].T.astype(np.float32)')),
    # What is kept from the first use
    wrong("weight copied in the first forward", {F, NO, NG}, "keeps a copy", OUT,
          'self.W = getattr(self, "W", self.params["weight"].copy())\n'
          '        out = x @ self.W.T + self.params["bias"]'),
    wrong("weight copied in the first backward", {X, NG}, "keeps a copy", DX,
          'self.W = getattr(self, "W", self.params["weight"].copy()); dx = dout @ self.W'),
    wrong("linear keeps its first input while the shape stays", {NG, CACHES}, "", KEEP,
          'if getattr(self, "x", None) is None or self.x.shape != x.shape:\n            ' + KEEP),
    wrong("loss gradient ignores its arguments", {CG}, "ignores its arguments", LOSS,
          "self.x, self.y = x, y\n        " + LOSS, LOSS_DX,
          LOSS_DX.replace("x", "self.x").replace("y", "self.y").replace("dself.x", "dx")),
    # Square layers
    wrong("orientation of the weight guessed in backward", {X, NG}, "square", DX,
          'W = self.params["weight"]\n'
          "        dx = dout @ (W.T if dout.shape[1] == W.shape[1] else W)"),
    wrong("layers shared by size", {NO, NG, START}, "one and the same", "self.layers = []",
          "self.layers, known = [], {}", ADD_HIDDEN,
          "self.layers.append(known.setdefault((size, units), LinearModule(size, units)))"),
    # Sizes of a real training
    wrong("at most 128 samples", {F, W, EV, CV, NO, NG}, "samples", OUT, OUT + "; out[128:] = 0",
          DW, DW.replace("dout.T @ self.x", "dout[:128].T @ self.x[:128]"),
          ELU, ELU + "; out[128:] = 0", LOSS, LOSS.replace("x.shape[0]", "min(len(x), 128)")),
    wrong("at most 1000 features in the weight gradient", {W, NG}, "3072", DW,
          DW + '; self.grads["weight"][:, 1000:] = 0'),
    wrong("at most 9 classes in the softmax", {SV, SG, NO, NG}, "10 classes", SOFTMAX,
          SOFTMAX.replace("np.sum(exp,", "np.sum(exp[:, :9],")),
    wrong("at most three hidden layers", {NO, NG}, "attribute of self", "for units in n_hidden:",
          "for units in n_hidden[:3]:"),
    # Where two sizes are equal, or one is as small as can be
    wrong("gradient of a hidden layer of the inputs' size left out", {NG}, "",
          "in_features, out_features):\n", "in_features, out_features, skip=False):\n"
          "        self.skip = skip\n", "return dx\n\n\nclass SoftMaxModule",
          "return None if self.skip else dx\n\n\nclass SoftMaxModule",
          ADD_HIDDEN, "self.layers.append(LinearModule(size, units, size == n_inputs))"),
    wrong("orientation of the bias guessed", {F, NO, NG}, "as many samples as units", OUT,
          'bias = self.params["bias"]\n        out = x @ self.params["weight"].T\n'
          "        out = out + (bias.T if len(x) == bias.size else bias)"),
    wrong("bias gradient of a squeezed dout", {B, NG}, "of one sample", DB,
          'self.grads["bias"] = 0 * self.params["bias"] + np.squeeze(dout).sum(axis=0)'),
    wrong("a sigmoid for two classes", {SV, SG, NO, NG}, "2 classes: that is a sigmoid", SOFTMAX,
          SOFTMAX + "\n        if x.shape[1] == 2:\n            self.out = 1 / (1 + np.exp(-x))"),
    wrong("axis of the softmax guessed", {SV, SG, NO, NG}, "axis 0", SOFTMAX,
          SOFTMAX.replace("axis=1", "axis=int(len(x) != x.shape[1])")),
    wrong("targets transposed where S = C", {CV, CG, NG}, "", LOSS,
          "y = y.T if len(y) == y.shape[1] else y\n        " + LOSS, LOSS_DX,
          "y = y.T if len(y) == y.shape[1] else y\n        " + LOSS_DX),
    wrong("no ELU where units and classes are as many", {NO, NG}, "no ELU after hidden layer 2",
          APPEND_ELU, "            if units != n_classes:\n    " + APPEND_ELU),
    wrong("no ELU where inputs and classes are as many", {NO, NG}, "no ELU after the hidden layers",
          APPEND_ELU, "            if n_inputs != n_classes:\n    " + APPEND_ELU),
    wrong("a batch in pieces", {NG}, "samples", "    def forward(self, x):\n        out = x\n",
          "    def forward(self, x):\n        if len(x) > 1000:\n            return np.concatenate("
          "[self.forward(x[:1000]), self.forward(x[1000:])])\n        out = x\n",
          "from modules", "import numpy as np\nfrom modules"),
    # What was given or returned is looked at again later
    wrong("ones of the first batch", {CACHES}, "samples after one of", DB,
          'self.ones = getattr(self, "ones", np.ones((1, len(dout))))\n'
          '        self.grads["bias"] = self.ones @ dout'),
    wrong("one buffer for all outputs", {INPUTS}, "what forward returned", OUT,
          'if np.shape(getattr(self, "out", 0)) != (len(x), len(self.params["weight"])):\n'
          '            self.out = np.empty((len(x), len(self.params["weight"])))\n'
          '        out = np.matmul(x, self.params["weight"].T, out=self.out)\n'
          '        out += self.params["bias"]'),
    wrong("softmax gradient in place", {INPUTS}, "what forward returned", SOFTMAX_DX,
          "self.out *= dout - total; dx = self.out"),
    wrong("backward writes into forward's x", {INPUTS}, "writes into x of forward", DX,
          DX + "; self.x *= 0"),
    wrong("changes the list n_hidden", {INPUTS}, "n_hidden", APPEND_LAST,
          APPEND_LAST + "        n_hidden.append(n_classes)\n"),
    wrong("loss gradient takes S from forward", {CG}, "takes their number", LOSS,
          "self.S = len(x); " + LOSS, LOSS_DX, "dx = -(y / x) / self.S"),
    wrong("parameters under another name", {F, W, B, X, NO, NG, START}, "no dict params",
          "self.params", "self.parameters"),
    wrong("leaky ReLU of another year", {EV, EG, NO, NG, START}, "has no class ELUModule",
          ELU_CLASS, "class LeakyReLUModule:\n    def __init__(self, neg_slope): pass\n\n",
          "import ELUModule", "import LeakyReLUModule", "n_classes):", "n_classes, neg_slope):",
          "(ELUModule())", "(LeakyReLUModule(neg_slope))"),
    # Numbers
    wrong("the sign of dout left out", {EG, NG}, "sign of dout", ELU_DX, "dx = abs(dout) * slope"),
    wrong("alpha exp(x) - 1", {EV, EG}, "lacks alpha", "self.alpha * np.expm1(x[negative])",
          "self.alpha * np.exp(x[negative]) - 1", base="later_years"),
    wrong("Jacobian y (I - y)", {SG, NG}, "y (I - y)", SOFTMAX_DX,
          "dx = self.out * dout - self.out**2 * dout.sum(axis=1, keepdims=True)"),
    wrong("slope cast to int", {EG, NG}, "cast to int", SLOPE,
          "slope = np.vectorize(lambda v: 1 if v > 0 else np.exp(v))(self.x)"),
    wrong("ELU clipped at -7", {EV, STABLE}, "clipped at -7", ELU,
          ELU.replace("minimum(x, 0)", "clip(x, -7, 0)")),
    wrong("classes counted in the targets", {CV, CG, NG}, "without the last class",
          "-np.log(x[np.arange(y.shape[0]), y]).mean()",
          "-(np.eye(y.max() + 1)[y] * np.log(x)).sum() / len(y)", base="class numbers"),
    wrong("alpha 0.3", {EV, EG, NO, NG}, "alpha of 0.3", ELU,
          "out = np.where(x >= 0, x, 0.3 * np.exp(np.minimum(x, 0)) - 0.3)", SLOPE,
          "slope = np.where(self.x >= 0, 1.0, 0.3 * np.exp(np.minimum(self.x, 0)))"),
    wrong("alpha 0.5 in the network", {NO, NG}, "alpha of 0.5", "(ELUModule())",
          "(ELUModule(0.5))", ELU_CLASS,
          ELU_CLASS + "    def __init__(self, low=1.0):\n        self.low = low\n\n",
          "np.exp(np.minimum(x, 0)) - 1", "self.low * np.expm1(np.minimum(x, 0))",
          SLOPE, SLOPE.replace("1.0, ", "1.0, self.low * ")),
    # Initial weights
    wrong("weights of size 1e-300", {START}, "e-300", INIT, INIT + " * 1e-296"),
    wrong("units alike", {START}, "the same weights", INIT,
          "np.ones((out_features, 1)) * np.random.default_rng().normal(0, 0.1, in_features)"),
    wrong("seed in a constructor", {START}, "seed in a constructor", INIT,
          INIT.replace("default_rng()", "seed(0) or np.random")),
    wrong("seed in forward", {START}, "MLP.forward sets NumPy's seed", KEEP,
          "np.random.seed(0); " + KEEP),
    # Not NumPy
    wrong("slope by forward at other inputs", {NUMPY}, "forward at inputs slightly", SLOPE,
          "x = self.x\n        slope = (self.forward(x + 1e-6) - self.forward(x - 1e-6)) / 2e-6\n"
          "        self.x = x"),
    wrong("products by torch", {F, W, B, X, NO, NG, NUMPY}, "", IMPORT, IMPORT + "import torch\n",
          OUT, OUT.replace("x @", "torch.tensor(x).numpy() @")),
]

# Right versions that differ in one thing that the assignment leaves open.
VARIANTS = [
    wrong("loops", {LOOPS, STABLE}, "", OUT,
          'out = np.array([self.params["weight"] @ row + self.params["bias"][0] for row in x])',
          DW, 'self.grads["weight"] = sum(np.outer(d, row) for d, row in zip(dout, self.x))',
          DX, 'dx = np.array([d @ self.params["weight"] for d in dout])', SOFTMAX,
          "self.out = np.zeros(x.shape)\n        for i, row in enumerate(exp):\n"
          "            self.out[i] = row / row.sum()", SOFTMAX_DX,
          "dx = np.array([d @ (np.diag(y) - np.outer(y, y)) for d, y in zip(dout, self.out)])",
          LOSS, "out = -sum(np.log(np.maximum(p, 1e-30)) @ t for p, t in zip(x, y)) / len(x)",
          LOSS_DX, "dx = np.stack([-t / np.maximum(p, 1e-30) / len(x) for p, t in zip(x, y)])",
          ELU, "out = np.array([np.where(r >= 0, r, np.exp(np.minimum(r, 0)) - 1) for r in x])",
          SLOPE, "slope = np.array([np.exp(np.minimum(row, 0)) for row in self.x])"),
    wrong("transposed", {SHAPES, STABLE}, "", INIT,
          "np.random.default_rng().normal(0, 0.05, (in_features, out_features))",
          "np.zeros((out_features, in_features))", "np.zeros((in_features, out_features))",
          '["weight"].T', '["weight"]', DX, DX + ".T",
          DW, 'self.grads["weight"] = self.x.T @ dout'),
    wrong("epsilon 1e-8", {CV, CG}, "", "np.log(x)", "np.log(x + 1e-8)", "y / x",
          "y / (x + 1e-8)", "np.exp(np.minimum(x, 0)) - 1", "np.expm1(np.minimum(x, 0))"),
    wrong("overflows where it is not used", {STABLE}, "", "np.minimum(x, 0)", "x",
          SLOPE, "slope = np.where(self.x > 0, 1.0, np.exp(self.x))"),
    wrong("loss asserts probabilities", {STABLE}, "", LOSS,
          "assert np.allclose(x.sum(axis=1), 1) and np.all(x >= 0)\n        " + LOSS),
    wrong("class numbers", {STABLE}, "", LOSS, "out = -np.log(x[np.arange(y.shape[0]), y]).mean()",
          LOSS_DX, "dx = np.zeros_like(x)\n"
          "        dx[np.arange(y.shape[0]), y] = -1 / x[np.arange(y.shape[0]), y] / y.shape[0]"),
    wrong("printing", {STABLE}, "", ELU_DX, ELU_DX + "\n        print(self.x, dx, str(dout))"),
    wrong("parameters kept twice", {STABLE}, "", "self.grads = {",
          "self.weight, self.bias = self.params.values()\n        self.grads = {",
          OUT, "out = x @ self.weight.T + self.bias", DX, "dx = dout @ self.weight"),
    wrong("bias starts as a scalar", {STABLE}, "",
          '"bias": np.zeros((1, out_features)),\n        }\n        self.grads',
          '"bias": 0.0,\n        }\n        self.grads'),
    wrong("bias gradient (N,)", {SHAPES, STABLE}, "", DB, DB.replace(", keepdims=True", "")),
    wrong("softmax of two classes at least", {STABLE}, "", MAX, "assert x.shape[1] > 1; " + MAX),
    wrong("alpha of the MLP", {NO, CV, CG}, "", "alpha=1.0", "alpha=0.5", base="later_years"),
    wrong("slots", {STABLE}, "", "class MLP:\n", 'class MLP:\n    __slots__ = ("layers",)\n\n'),
    wrong("array of layers", {STABLE}, "", "from modules", "import numpy as np\nfrom modules",
          APPEND_SOFTMAX, APPEND_SOFTMAX + "        self.layers = np.array(self.layers, object)\n"),
    wrong("forward computed again in backward", {STABLE}, "", "slope = np",
          "self.forward(self.x)\n        slope = np"),
    wrong("weights N(0, 1)", {STABLE}, "", INIT, INIT + " * 1e4"),
    wrong("weights uniform in (0, 1)", {STABLE}, "", INIT,
          INIT.replace("normal(0, 0.0001", "uniform(0, 1")),
    wrong("last layer zero", {STABLE}, "", APPEND_SOFTMAX,
          "        self.layers[-1].params['weight'][:] = 0\n" + APPEND_SOFTMAX),
    wrong("first layer zero", {STABLE}, "", APPEND_SOFTMAX,
          "        self.layers[0].params['weight'][:] = 0\n" + APPEND_SOFTMAX),
]
# fmt: on
