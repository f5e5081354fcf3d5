"""Question 2.2: Tanh, the ELU, their derivatives, and the layers that saturate in training."""

import numpy as np

from plots import style
from report import records

RATES = {False: 1e-2, True: 1e-1}  # the learning rate of the shown runs, by standardize
FUNCTIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
}


def draw():
    record = records.read("activations")
    figure = style.new_figure("Tanh and the ELU", height=1.65)
    function, derivative, *shares = figure.subplots(1, 4)
    x = np.linspace(-4, 4, 401)
    for activation, color in style.ACTIVATIONS.items():
        y, name = FUNCTIONS[activation](x), style.NAMES[activation]
        function.plot(x, y, color=color, label=name)
        derivative.plot(x, 1 - y**2 if activation == "tanh" else np.minimum(y, 0) + 1, color=color)
    derivative.axhline(record["threshold"], color="0.5", lw=0.8, ls=":")
    function.set(title="function\n", xlabel="input", ylim=(-1.3, 2.5))
    function.legend(loc="upper left")
    derivative.set(title="derivative\n", xlabel="input")
    for panel, (standardize, inputs) in zip(shares, style.INPUTS.items(), strict=True):
        for activation, color in style.ACTIVATIONS.items():
            for depth, marker in zip(records.all_values(record, "depth"), "os^D", strict=True):
                runs = records.matching(
                    record["runs"], activation=activation, depth=depth, standardize=standardize,
                    learning_rate=RATES[standardize],
                )  # fmt: skip
                if all("saturated" in run for run in runs):
                    share = np.mean([run["saturated"] for run in runs], axis=0)
                    panel.plot(range(1, depth + 1), share, marker + "-", color=color, ms=2.5,
                               lw=0.8)  # fmt: skip
        panel.set(title=f"{inputs},\nlearning rate {RATES[standardize]:g}", xlabel="hidden layer",
                  ylim=(-0.03, 1.03))  # fmt: skip
        panel.set_xticks(range(1, 9))
    shares[0].set_ylabel("saturated share")
    for panel in (function, derivative, *shares):
        panel.grid()
    style.save(figure, "activations")
