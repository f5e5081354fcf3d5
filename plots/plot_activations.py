"""Question 2.2: Tanh, the ELU, their derivatives, and the layers that saturate in training."""

import numpy as np

from plots import style
from report import records

RATES = {False: 1e-2, True: 1e-1}  # the learning rate of the shown runs, by standardize
INPUTS = {False: "raw pixels", True: "standardised pixels"}


def draw():
    record = records.read("activations")
    figure = style.new_figure("Tanh and the ELU", height=1.5)
    function, derivative, *shares = figure.subplots(1, 4)
    x = np.linspace(-4, 4, 401)
    tanh, elu = np.tanh(x), np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    for name, y, slope in (("elu", elu, np.minimum(elu, 0) + 1), ("tanh", tanh, 1 - tanh**2)):
        function.plot(x, y, **style.ACTIVATIONS[name], label=style.NAMES[name])
        derivative.plot(x, slope, **style.ACTIVATIONS[name])
    derivative.axhline(record["threshold"], color="0.5", lw=0.8, ls=":")
    function.set(title="function\n", xlabel="input", ylim=(-1.3, 2.5))
    function.legend(loc="upper left")
    derivative.set(title="derivative\n", xlabel="input")
    for panel, (standardize, rate) in zip(shares, RATES.items(), strict=True):
        for activation, line in style.ACTIVATIONS.items():
            for depth, marker in zip(records.all_values(record, "depth"), "os^D", strict=True):
                share = records.by_rate(record, "saturated", activation, depth, standardize)[rate]
                if share is not None:
                    panel.plot(range(1, depth + 1), share.mean(axis=0), **line, marker=marker,
                               ms=2.5, lw=0.8)  # fmt: skip
        panel.set(title=f"{INPUTS[standardize]},\nlearning rate {rate:g}", xlabel="hidden layer",
                  ylim=(-0.03, 1.03), xticks=range(1, 9))  # fmt: skip
    shares[0].set_ylabel("saturated share")
    style.save(figure, "activations")
