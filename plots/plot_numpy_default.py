"""Question 1.2: the default NumPy run, a line for each seed."""

from plots import style
from report import records


def draw():
    runs = records.runs_of("numpy-100")
    figure, panels = style.loss_and_accuracy(
        f"NumPy MLP 3072-100-10 on CIFAR-10, default flags: {len(runs)} seeds"
    )
    for quantity, panel in panels.items():
        for line, split in (("C0-", "train"), ("C1--", "test")):
            for i, run in enumerate(runs):
                history = run["history"]
                panel.plot(history["step"], history[f"{split}_{quantity}"], line, lw=0.6,
                           label=None if i else split)  # fmt: skip
        panel.legend(loc="center right")
    style.save(figure, "numpy_default")
