"""Train the NumPy MLP on CIFAR-10 by mini-batch stochastic gradient descent (question 1.2).

python train_mlp_numpy.py --dnn_hidden_units 100
"""

import numpy as np

import cifar10_utils
from mlp_numpy import MLP
from modules import CrossEntropyModule
from training import flags
from training.data import load_data
from training.errors import exit_with_message
from training.run import Run

EVAL_BATCH = 250  # examples; their pixels as float32 stay in the processor's cache


def accuracy(probabilities, targets):
    """The fraction of samples whose largest probability is at the target.

    probabilities, targets: (S, C), the targets one-hot.
    """
    return np.mean(probabilities.argmax(axis=1) == targets.argmax(axis=1))


def evaluate(mlp, batches):
    """The mean loss and the accuracy over all examples of the batches, pairs of x and y."""
    cross_entropy = CrossEntropyModule()
    loss = correct = n = 0
    for x, y in batches:
        probabilities = mlp.forward(x)
        loss += len(x) * float(cross_entropy.forward(probabilities, y))
        correct += len(x) * accuracy(probabilities, y)
        n += len(x)
    mlp.clear_cache()
    return loss / n, correct / n


def train_step(mlp, x, y, learning_rate):
    """One step of gradient descent on a batch: x (S, ...) float, y (S, C) one-hot.

    Returns the loss and the accuracy of the batch before the step. Afterwards the modules' `grads`
    hold the gradients of that loss.
    """
    cross_entropy = CrossEntropyModule()
    probabilities = mlp.forward(x)
    loss = cross_entropy.forward(probabilities, y)
    mlp.backward(cross_entropy.backward(probabilities, y))
    for module in mlp.modules:
        for name, gradient in module.grads.items():
            module.params[name] -= learning_rate * gradient
    return loss, accuracy(probabilities, y)


def make_mlp(args):
    """The network of the flags, with its initial weights."""
    return MLP(
        cifar10_utils.N_INPUTS,
        args.dnn_hidden_units,
        cifar10_utils.N_CLASSES,
        dtype=np.float32,
        seed=args.seed,
        input_scale=cifar10_utils.PIXEL_RMS,
    )


@exit_with_message
def main(argv=None):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    args = flags.parse(flags.make_parser("numpy"), argv)
    run = Run(args)
    if run.finished:
        return run.report()
    data = load_data(args)
    held_out = data.validation or data.test
    mlp = make_mlp(args)
    with run.training(data, mlp):
        for x, y in run.batches(data.train):
            if run.step == 0:  # the first row: the first batch, before any training
                run.log(*evaluate(mlp, [(x, y)]))
            else:
                run.log(*train_step(mlp, x, y, args.learning_rate))
            if run.is_due:
                run.add_row(held_out=evaluate(mlp, held_out.batches(EVAL_BATCH)))
        run.restore_best()
        return run.finish(test=evaluate(mlp, data.test.batches(EVAL_BATCH)))


if __name__ == "__main__":
    main()
