"""The data of the PyTorch trainer: uint8 on the device, converted to float32 batch by batch."""

import copy

import numpy as np
import torch
from torch.nn import functional as F

import cifar10_utils
from training import processes
from training.augmentation import Augmentation, affine_sample
from training.data import load_data

STATISTICS_BATCH = 500  # examples


class TensorData:
    """A DataSet as tensors on a device.

    next_batch and batches return this process's share of the DataSet's batches. augmentation: what
    next_batch changes at random, an Augmentation, or None. half_resolution: average each block of
    2 x 2 pixels, which leaves images of 16 x 16.
    """

    def __init__(self, dataset, device, augmentation=None, half_resolution=False):
        self.dataset, self.augmentation = dataset, augmentation or Augmentation()
        self.half_resolution = half_resolution
        self.size = cifar10_utils.SHAPE[-1] // (2 if half_resolution else 1)  # of an image's side
        self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self.labels = torch.from_numpy(dataset.labels).to(device)
        self.mean = torch.from_numpy(dataset.mean).to(device)
        self.num_examples = dataset.num_examples

    @property
    def position(self):
        """The number of examples drawn so far by all processes."""
        return self.dataset.position

    @position.setter
    def position(self, position):
        self.dataset.position = position

    def next_batch(self, batch_size):
        """Returns x (S, 3, size, size) float32 and y (S,) int64, with --mixup (S, 10) float32.
        Seeds PyTorch's generators with the position first, so a resumed run needs no state of
        theirs."""
        processes.seed_step(self.dataset.seed, self.position)
        indices = np.array_split(self.dataset.next_indices(batch_size), processes.size())
        indices = torch.from_numpy(indices[processes.rank()]).to(self.pixels.device)
        return self._augmented(self.pixels.index_select(0, indices), self.labels[indices])

    def batches(self, batch_size, augmented=False, half_resolution=None):
        """This process's share of all examples, as stored or augmented. half_resolution=False: at
        full resolution, whatever the data set's is, for test-time augmentation."""
        halve = self.half_resolution if half_resolution is None else half_resolution
        stride = processes.size() * batch_size
        for i in range(processes.rank() * batch_size, self.num_examples, stride):
            pixels, y = self.pixels[i : i + batch_size], self.labels[i : i + batch_size]
            if augmented:
                processes.seed_step(self.dataset.seed, i)
                yield self._augmented(pixels, y)
            else:
                x = self._as_float(pixels)
                yield F.avg_pool2d(x, 2) if halve else x, y

    def second_moments(self, products):
        """The mean square (n,) of each of the network's n inputs over the training images,
        augmented, or with products=True the mean products (n, n) of each two; float64."""
        n = self.pixels.shape[1] * self.size**2
        sums = torch.zeros((n, n) if products else n, dtype=torch.float64).to(self.mean.device)
        for x, _ in self.batches(STATISTICS_BATCH, augmented=True):
            x = x.flatten(start_dim=1)
            sums += x.T @ x if products else x.square().sum(dim=0)
        return processes.all_reduce_sum(sums) / self.num_examples

    def first(self, n):
        """The first n examples, for evaluation alone."""
        part = copy.copy(self)
        part.pixels, part.labels = self.pixels[:n], self.labels[:n]
        part.num_examples = len(part.pixels)
        return part

    def _augmented(self, pixels, labels):
        x = self._as_float(pixels)
        if self.augmentation.moves:
            maps = self.augmentation.random_maps(len(x), x.device)
            x = affine_sample(x, maps, self.size)
        elif self.half_resolution:
            x = F.avg_pool2d(x, 2)
        return self.augmentation.recolor(x, labels)

    def _as_float(self, pixels):
        return pixels.float().sub_(self.mean)


def load_tensors(args, device):
    """The splits that the flags ask for as TensorData, the training images augmented; and `clean`,
    the first --train_eval_size training images, or None."""
    splits = load_data(args, processes.on_main_process, one_hot=False)
    tensors = {
        name: splits[name] and TensorData(splits[name], device, None, args.half_resolution)
        for name in ("train", "validation", "test")
    }
    tensors["train"].augmentation = Augmentation.of(args)
    clean = tensors["train"].first(args.train_eval_size) if args.train_eval_size else None
    return cifar10_utils.Splits(name=splits.name, clean=clean, **tensors)
