"""The data of the PyTorch trainer: uint8 on the device, converted to float32 batch by batch."""

import copy
import dataclasses

import numpy as np
import torch

from cifar10_utils import SHAPE, DataSet, Splits
from training import processes
from training.augmentation import Augmentation, downsample
from training.data import load_data


class TensorData(DataSet):
    """A DataSet as tensors on a device.

    next_batch and batches return this process's share of the DataSet's batches. augmentation: what
    next_batch changes at random, an Augmentation, or None. half_resolution: average each block of
    2 x 2 pixels, so that the side of an image has size = 16 pixels, not 32; `images` stay whole.
    """

    def __init__(self, dataset, device, augmentation=None, half_resolution=False):
        arrays = dataset.pixels, dataset.labels, dataset.mean
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
        super().__init__(*tensors, one_hot=False, seed=dataset.seed)
        self.augmentation = augmentation or Augmentation()
        self.size = SHAPE[-1] // (2 if half_resolution else 1)

    def next_batch(self, batch_size):
        """Returns x (S, 3, size, size) float32 and y (S,) int64, with mixup (S, 10) float32. First
        it seeds PyTorch's generators with the position, so that a resumed run repeats the step."""
        processes.seed_step(self.seed, self.position)
        shares = np.array_split(self.next_indices(batch_size), processes.size())
        indices = torch.from_numpy(shares[processes.rank()]).to(self.pixels.device)
        x = self._as_float(self.pixels.index_select(0, indices))
        return self.augmentation(x, self.labels[indices], self.size)

    def batches(self, batch_size, whole=False):
        """This process's share of all examples, not augmented. whole: at full resolution, for
        test-time augmentation."""
        for x, y in self._stored(batch_size):
            yield downsample(x, SHAPE[-1] if whole else self.size), y

    def second_moments(self, products):
        """The mean square (n,) of each of the network's n inputs over the training images,
        augmented; or with products=True the mean product (n, n) of each pair; float64."""
        n = self.pixels.shape[1] * self.size**2
        sums = torch.zeros((n, n) if products else n, dtype=torch.float64, device=self.mean.device)
        for i, (x, y) in enumerate(self._stored(500)):
            processes.seed_step(self.seed, i)
            x = self.augmentation(x, y, self.size)[0].flatten(start_dim=1)
            sums += x.T @ x if products else x.square().sum(dim=0)
        return processes.all_reduce_sum(sums) / self.num_examples

    def first(self, n):
        """The first n examples, for evaluation alone."""
        part = copy.copy(self)
        vars(part).pop("images", None)  # those of all examples, if they were made
        part.pixels, part.labels = self.pixels[:n], self.labels[:n]
        part.num_examples = len(part.pixels)
        return part

    def _stored(self, batch_size):
        stride = processes.size() * batch_size
        for i in range(processes.rank() * batch_size, self.num_examples, stride):
            part = slice(i, i + batch_size)
            yield self._as_float(self.pixels[part]), self.labels[part]

    def _as_float(self, pixels):
        return pixels.float().sub_(self.mean)


def load_tensors(args, device):
    """The splits that the flags ask for, as TensorData."""
    splits = load_data(args, processes.on_main_process, one_hot=False)
    augmentation = Augmentation(*(getattr(args, f.name) for f in dataclasses.fields(Augmentation)))
    options = {"augmentation": augmentation, "half_resolution": args.half_resolution}
    tensors = {k: TensorData(v, device, **options) if v else None for k, v in splits.items()}
    return Splits(splits.name, **tensors)
