"""The training columns of metrics.csv: means over the batches between two rows."""

import math

from training.errors import RunError

FLUSH_EVERY = 50  # steps; each flush waits for the GPU


class Meter:
    """Adds up the loss and the accuracy of batches, and ends a run whose loss is not finite."""

    def __init__(self, learning_rate):
        self.learning_rate = learning_rate
        self.sums = [0.0, 0.0, 0]  # of loss, accuracy and batches
        self._pending = []

    def add(self, step, loss, accuracy):
        """loss, accuracy: numbers, or one-element tensors that a GPU may not have computed yet."""
        self._pending.append((step, loss, accuracy))
        if len(self._pending) == FLUSH_EVERY:
            self.flush()

    def flush(self):
        """Adds the pending batches to the sums."""
        for step, *pair in self._pending:
            loss, accuracy = map(float, pair)
            self.require_finite(step, loss)
            self.sums = [self.sums[0] + loss, self.sums[1] + accuracy, self.sums[2] + 1]
        self._pending = []

    def take_means(self):
        """Returns the mean loss and accuracy, and starts again from zero."""
        self.flush()
        (loss, accuracy, batches), self.sums = self.sums, [0.0, 0.0, 0]
        return loss / batches, accuracy / batches

    def require_finite(self, step, loss):
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step} with --learning_rate {self.learning_rate}: "
                "try a smaller one"
            )
