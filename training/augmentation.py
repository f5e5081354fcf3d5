"""Augmented images, and the views of test-time augmentation."""

import dataclasses
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

import cifar10_utils

PIXEL = 2 / cifar10_utils.SHAPE[-1]  # the width of a pixel, where that of an image is 2
ZOOMS = 0.85, 1.0, 1.15  # of the views


def centers(size, device):
    """(size,): the positions of the pixels of an image from -1 to 1, the middle at 0."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def affine_sample(x, maps, size):
    """Images (S, C, size, size): each pixel, at position p, is read from x (S, C, H, W) at the
    position A p + t, where maps (S, 2, 3) holds A and t for every image. Between pixels it is
    interpolated linearly; outside x it is 0."""
    columns = centers(size, x.device).expand(size, size)
    points = torch.stack([columns, columns.T, torch.ones_like(columns)]).flatten(start_dim=1)
    # One product for all images, where F.affine_grid makes one for each.
    grid = (maps.flatten(end_dim=1) @ points).view(len(maps), 2, size, size)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=False)


def downsample(x, size):
    """Images (S, C, size, size): x, or the means of its blocks of 2 x 2 pixels."""
    return x if x.shape[-1] == size else F.avg_pool2d(x, 2)


@dataclasses.dataclass
class Augmentation:
    """Random changes to a batch of training images; each field is the flag of that name."""

    flip: bool = False
    shift: float = 0.0
    random_affine: float = 0.0
    color_jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0

    def __call__(self, x, labels, size):
        """x (S, 3, 32, 32), pixels minus their mean, and labels (S,). Returns x (S, 3, size, size)
        and the labels, with mixup as targets (S, 10)."""
        if self.flip or self.shift or self.random_affine:
            x = affine_sample(x, self.random_maps(len(x), x.device), size)
        else:
            x = downsample(x, size)
        if self.color_jitter:
            x = color_jitter(x, self.color_jitter)
        if self.cutout:
            x = cutout(x, self.cutout)
        return mixup(x, labels, self.mixup) if self.mixup else (x, labels)

    def random_maps(self, n, device):
        """Maps (n, 2, 3) for affine_sample: the identity plus normal noise of standard deviation
        random_affine (it rotates, zooms, stretches and shears), mirrored with probability 1/2 if
        flip, and shifted both ways by up to `shift` pixels, uniformly."""
        noise = torch.randn(n, 2, 2, device=device)
        linear = torch.eye(2, device=device) + self.random_affine * noise
        if self.flip:
            linear[:, :, 0] *= 1 - 2 * torch.randint(2, (n, 1), device=device)
        offset = self.shift * PIXEL * (2 * torch.rand(n, 2, 1, device=device) - 1)
        return torch.cat([linear, offset], dim=2)


def color_jitter(x, strength):
    """Random contrast, brightness and colour: x (S, 3, H, W), pixels minus their mean, becomes
    (1 + a) x + r (b + c), with a and b for each image and c for each of its channels, all normal
    with standard deviation strength; r is the root mean square of the pixels."""
    noise = strength * torch.randn(5, len(x), 1, 1, device=x.device)
    contrast, brightness, colors = noise[0, :, None], noise[1, :, None], noise[2:].transpose(0, 1)
    return torch.addcmul(cifar10_utils.PIXEL_RMS * (brightness + colors), x, 1 + contrast)


def cutout(x, size):
    """x (S, 3, H, W) with a square in each image set to 0, the mean of the training images: `size`
    pixels wide, of the 32 of a whole image. The centre is uniform, so part may lie outside."""
    place = centers(x.shape[-1], x.device)
    centre = 2 * torch.rand(2, len(x), 1, device=x.device) - 1
    down, right = ((place - centre).abs() < size * PIXEL / 2).float()
    return x * (1 - down[:, None, :, None] * right[:, None, None, :])


def mixup(x, labels, alpha):
    """Mixup as in Zhang et al. (2018): x (S, ...) and labels (S,), each image blended with a random
    one of the batch. The shares are s and 1 - s, where s is drawn from Beta(alpha, alpha) once for
    the batch. Returns the images and their targets (S, 10), blended likewise."""
    concentration = torch.tensor(alpha, device=x.device)
    share = torch.distributions.Beta(concentration, concentration).sample()
    other = torch.randperm(len(x), device=x.device)
    targets = F.one_hot(labels, cifar10_utils.N_CLASSES).to(x.dtype)
    return torch.lerp(x[other], x, share), torch.lerp(targets[other], targets, share)


def tta_views(x, size, shift):
    """Views (S, 3, size, size) of x (S, 3, 32, 32): at three zooms, each shifted by 0, 2, ... up to
    `shift` pixels to either side and up or down, and the mirror images of these: 54 for a shift of
    2, 150 for 4."""
    shifts = range(-shift, shift + 1, 2)
    for zoom, down, right in itertools.product(ZOOMS, shifts, shifts):
        maps = torch.tensor([[zoom, 0, right * PIXEL], [0, zoom, down * PIXEL]], device=x.device)
        view = affine_sample(x, maps.expand(len(x), 2, 3), size)
        yield view
        yield view.flip(3)


class TestTimeAugmentation(nn.Module):
    """An MLP that predicts with test-time augmentation, by the views that tta_views makes."""

    def __init__(self, mlp, shift):
        super().__init__()
        self.mlp, self.shift, self.device = mlp, shift, mlp.device

    def forward(self, x):
        """x: (S, 3, 32, 32). Returns logits (S, C), whose softmax is the mean of the MLP's
        probabilities over the views of x."""
        size = math.isqrt(self.mlp.n_inputs // x.shape[1])
        logits = torch.stack([self.mlp(view) for view in tta_views(x, size, self.shift)])
        return logits.log_softmax(dim=2).logsumexp(dim=0)
