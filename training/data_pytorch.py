"""The data of the PyTorch trainer: uint8 on the device, converted to float32 batch by batch."""

import copy

import numpy as np
import torch

import cifar10_utils
from training import augmentation


class TensorData:
    """A DataSet as tensors on a device.

    next_batch and batches return this process's share of the DataSet's batches. scale: (3, 32, 32)
    float32, by which the pixels minus their mean are multiplied; None for 1.
    """

    def __init__(self, dataset, device, processes, args, scale=None):
        self.dataset, self.processes, self.args = dataset, processes, args
        self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self.labels = torch.from_numpy(dataset.labels).to(device)
        self.mean = torch.from_numpy(dataset.mean).to(device)
        self.fill = self.mean.mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
        self.scale = None if scale is None else torch.from_numpy(scale).to(device)
        self.num_examples = dataset.num_examples

    def next_batch(self, batch_size):
        """Returns x (S, 3, 32, 32) float32 and y (S,) int64, with --mixup (S, 10) float32."""
        indices = self.dataset.next_indices(batch_size)
        indices = np.array_split(indices, self.processes.size)[self.processes.rank]
        indices = torch.from_numpy(indices).to(self.pixels.device)
        pixels, y = self.pixels.index_select(0, indices), self.labels[indices]
        pixels = augmentation.flip_and_shift(pixels, self.fill, self.args.flip, self.args.shift)
        x = self._as_float(pixels)
        if self.args.distortion:
            x = augmentation.distort(x, self.args.distortion)
        if self.args.recolour:
            unit = cifar10_utils.PIXEL_RMS if self.scale is None else 1
            x = augmentation.recolour(x, self.args.recolour, unit)
        if self.args.cutout:
            x = augmentation.cutout(x, self.args.cutout)
        return augmentation.mixup(x, y, self.args.mixup) if self.args.mixup else (x, y)

    def batches(self, batch_size):
        """This process's share of all examples."""
        stride = self.processes.size * batch_size
        for i in range(self.processes.rank * batch_size, len(self.labels), stride):
            part = slice(i, i + batch_size)
            yield self._as_float(self.pixels[part]), self.labels[part]

    def first(self, n):
        """The first n examples, for evaluation alone."""
        part = copy.copy(self)
        part.pixels, part.labels = self.pixels[:n], self.labels[:n]
        part.num_examples = len(part.pixels)
        return part

    def _as_float(self, pixels):
        x = pixels.float().sub_(self.mean)
        return x if self.scale is None else x.mul_(self.scale)


def pixel_std(dataset):
    """(3, 32, 32) float32: the standard deviation of every pixel, at least 1."""
    squares = sum((x.astype(np.float64) ** 2).sum(axis=0) for x, _ in dataset.batches(500))
    return np.maximum(np.sqrt(squares / dataset.num_examples), 1).astype(np.float32)
