"""The data of train_mlp_pytorch.py: kept in bytes on the device, made into floats by batch."""

import numpy as np
import torch

from augmentation import distort, mix, move

AHEAD = 50  # batches whose indices go to the device at once


class TensorData:
    """A DataSet as tensors on a device: the pixels stay uint8 and become float there, by batch.

    next_batch gives this process's share of the batch that DataSet.next_batch would give.
    """

    def __init__(self, dataset, device, processes, args, scale=None):
        self.dataset, self.processes, self.args = dataset, processes, args
        self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self.labels = torch.from_numpy(dataset.labels).to(device)
        self.mean = torch.from_numpy(dataset.mean).to(device)
        self.fill = self.mean.mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
        self.scale = None if scale is None else torch.from_numpy(scale).to(device)
        self._ahead = iter(())

    def next_batch(self, batch_size):
        """Returns x (S, 3, 32, 32) float32 and y (S,) int64, with --mixup (S, 10) float32."""
        indices = next(self._ahead, None)
        if indices is None:  # many at once: a device would wait for each
            ahead = [self.dataset.next_indices(batch_size) for _ in range(AHEAD)]
            share = np.array_split(np.stack(ahead), self.processes.size, axis=1)
            share = torch.from_numpy(share[self.processes.rank]).to(self.pixels.device)
            self._ahead = iter(share)
            indices = next(self._ahead)
        pixels = move(self.pixels.index_select(0, indices), self.fill, self.args)
        x = self._as_float(pixels)
        if self.args.distortion:
            x = distort(x, self.args.distortion)
        y = self.labels[indices]
        return mix(x, y, self.args.mixup) if self.args.mixup else (x, y)

    def seek(self, position):
        """Goes on after so many examples of the whole batches."""
        self.dataset.position, self._ahead = position, iter(())

    def batches(self, batch_size):
        """This process's share of all examples."""
        stride = self.processes.size * batch_size
        for i in range(self.processes.rank * batch_size, len(self.labels), stride):
            part = slice(i, i + batch_size)
            yield self._as_float(self.pixels[part]), self.labels[part]

    def _as_float(self, pixels):
        x = pixels.float().sub_(self.mean)
        return x if self.scale is None else x.mul_(self.scale)


def pixel_std(dataset):
    """(3, 32, 32) float32: the standard deviation of every pixel, at least 1."""
    squares = sum((x.astype(np.float64) ** 2).sum(axis=0) for x, _ in dataset.batches(500))
    return np.maximum(np.sqrt(squares / dataset.num_examples), 1).astype(np.float32)
