"""Train the NumPy MLP on CIFAR-10 by mini-batch stochastic gradient descent (question 1.2).

python train_mlp_numpy.py --dnn_hidden_units 100
"""

import io

import numpy as np

import cifar10_utils
import training
from mlp_numpy import MLP
from modules import CrossEntropyModule

CHECKPOINT = "checkpoint.npz"
EVAL_BATCH = 250  # examples; their pixels as float32 stay in the processor's cache


def accuracy(probabilities, targets):
    """The fraction of samples whose largest probability is at the target.

    probabilities, targets: (S, C), the targets one-hot.
    """
    return np.mean(probabilities.argmax(axis=1) == targets.argmax(axis=1))


def evaluate(mlp, dataset):
    """The mean loss and the accuracy over all examples of a data set."""
    cross_entropy = CrossEntropyModule()
    loss = correct = 0.0
    for x, y in dataset.batches(EVAL_BATCH):
        probabilities = mlp.forward(x)
        loss += len(x) * float(cross_entropy.forward(probabilities, y))
        correct += len(x) * accuracy(probabilities, y)
    mlp.clear_cache()
    return loss / dataset.num_examples, correct / dataset.num_examples


def get_weights(mlp):
    """Copies of the parameters, by layer and name."""
    return {
        f"{i}.{name}": value.copy()
        for i, module in enumerate(mlp.modules)
        for name, value in module.params.items()
    }


def set_weights(mlp, weights):
    """Writes what get_weights gave into the parameters. Raises ValueError where it does not fit."""
    for key, value in get_weights(mlp).items():
        if (weights[key].shape, weights[key].dtype) != (value.shape, value.dtype):
            raise ValueError(f"{key} is {weights[key].dtype} {weights[key].shape}")
        i, name = key.split(".")
        mlp.modules[int(i)].params[name][:] = weights[key]


def save_checkpoint(run, mlp, best):
    arrays = {f"now.{key}": value for key, value in get_weights(mlp).items()}
    arrays |= {f"best.{key}": value for key, value in best.items()}
    with run.writing(CHECKPOINT, "wb") as file:
        np.savez(file, run=run.state(), **arrays)


def load_checkpoint(run, mlp):
    """Takes up the checkpoint of the run, if it has one. Returns the best weights so far."""
    path = run.path / CHECKPOINT
    if not path.exists():
        return {}
    try:
        members = training.read_zip(path)
        arrays = {key.removesuffix(".npy"): as_array(raw) for key, raw in members.items()}
        now, best = (
            {key.removeprefix(kind): arrays[key] for key in arrays if key.startswith(kind)}
            for kind in ("now.", "best.")
        )
        for weights in filter(None, (best, now)):
            set_weights(mlp, weights)
        run.restore(str(arrays["run"]))
    except Exception as error:  # a damaged file can raise almost anything
        raise training.UsageError(f"{path} is damaged ({error!r:.200}): begin a new run") from error
    return best


def as_array(raw):
    """The array in the bytes of an .npy file. numpy.load would allocate what a forged header asks
    for; this is the bytes themselves, and ValueError where they are too few or hold objects."""
    file = io.BytesIO(raw)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another format than that of the checkpoint")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    array = np.frombuffer(raw, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")


@training.command
def main(argv=None):
    """Trains as the flags say. Returns the history, the columns of metrics.csv as lists."""
    args = training.parse_args(training.make_parser(__doc__.splitlines()[0]), argv)
    run = training.Run(args, "numpy", {"numpy": np.__version__})
    if run.is_finished():
        return run.report()
    data = training.load_data(args)
    mlp = MLP(
        cifar10_utils.N_INPUTS,
        args.dnn_hidden_units,
        cifar10_utils.N_CLASSES,
        dtype=np.float32,
        seed=args.seed,
        input_scale=cifar10_utils.PIXEL_RMS,
    )
    cross_entropy = CrossEntropyModule()
    best = load_checkpoint(run, mlp)
    # The same memory for every batch: it stays in the cache, which saves a twentieth of the step.
    x = np.empty((args.batch_size, *cifar10_utils.SHAPE), np.float32)

    def add_row():
        if run.add_row(*evaluate(mlp, data.validation or data.test)) and data.validation:
            best.update(get_weights(mlp))
        save()

    def save():
        save_checkpoint(run, mlp, best)

    run.claim(data.name)
    with run.open(), np.errstate(over="ignore", invalid="ignore"):
        if not run.history["step"]:
            x, y = data.train.next_batch(args.batch_size)
            probabilities = mlp.forward(x)
            run.tally(cross_entropy.forward(probabilities, y), accuracy(probabilities, y))
            add_row()
        data.train.position = run.step * args.batch_size
        for step in run.steps(save):
            with run.timed():
                x, y = data.train.next_batch(args.batch_size, out=x)
                probabilities = mlp.forward(x)
                loss = cross_entropy.forward(probabilities, y)
                # The gradient is scaled here, where it is small: one pass less, 3 % of a step.
                mlp.backward(args.learning_rate * cross_entropy.backward(probabilities, y))
                for module in mlp.modules:
                    for name, gradient in module.grads.items():
                        module.params[name] -= gradient
                run.tally(loss, accuracy(probabilities, y))
            if run.is_due(step):
                add_row()
        if best:
            set_weights(mlp, best)
        return run.finish(*evaluate(mlp, data.test))


if __name__ == "__main__":
    main()
