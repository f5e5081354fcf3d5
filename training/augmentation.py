"""Augmented images, the views of test-time averaging, and initial patterns for the first layer."""

import itertools

import torch
from torch.nn import functional as F

import cifar10_utils


def flip_and_shift(pixels, fill, flip, shift):
    """pixels (S, 3, 32, 32) uint8, each mirrored with probability 1/2 if flip, and shifted at
    random by up to shift pixels; fill (3, 1, 1) is the colour of the new edges."""
    n, size, device = len(pixels), pixels.shape[-1], pixels.device
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, device=device) < 0.5
        pixels = torch.where(mirrored, pixels.flip(3), pixels)
    if shift:
        down, right = torch.randint(0, 2 * shift + 1, (2, n), device=device)
        padded = fill.expand(n, -1, size + 2 * shift, size + 2 * shift).clone()
        padded[:, :, shift:-shift, shift:-shift] = pixels
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (S, 3, down, right, 32, 32)
        pixels = windows[torch.arange(n, device=device), :, down, right]
    return pixels


def distort(x, strength):
    """x (S, 3, 32, 32), each image under its own random linear map: the identity plus normal noise
    of standard deviation strength, which turns, zooms, stretches and shears."""
    noise = strength * torch.randn(len(x), 2, 2, device=x.device)
    maps = F.pad(torch.eye(2, device=x.device) + noise, (0, 1))
    grid = F.affine_grid(maps, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def mixup(x, labels, largest):
    """x (S, ...) and labels (S,), each image blended with a random one of the batch, whose share is
    uniform from 0 to largest. Returns the images and their targets (S, 10), blended alike."""
    share = largest * torch.rand(len(x), device=x.device)
    other = torch.randperm(len(x), device=x.device)
    targets = F.one_hot(labels, cifar10_utils.N_CLASSES).float()
    across = share.view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x, x[other], across), torch.lerp(targets, targets[other], share[:, None])


def views(x, step=2):
    """x (S, 3, 32, 32), its copies shifted by step pixels in eight directions, and the mirror
    images of these nine."""
    size, padded = x.shape[-1], F.pad(x, (step,) * 4)
    for down, right in itertools.product((0, step, 2 * step), repeat=2):
        view = padded[:, :, down : down + size, right : right + size]
        yield view
        yield view.flip(3)


def average_over_views(mlp, x):
    """(S, C): the logarithm of mlp's probabilities, summed over the views of x."""
    logits = torch.stack([mlp(view) for view in views(x)])
    return logits.log_softmax(dim=2).logsumexp(dim=0)


def local_fields(n_units, seed, smoothness=1.0, width=4.0):
    """(n_units, 3 * 32 * 32): a pattern for each unit, of norm 1: random numbers, smoothed by a
    Gaussian, under a Gaussian window at a random place (standard deviations in pixels)."""
    channels, size, _ = cifar10_utils.SHAPE
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(size, dtype=torch.float32)
    blur = torch.exp(-((place[:, None] - place) ** 2) / (2 * smoothness**2))
    centres = size * torch.rand(2, n_units, 1, generator=generator)
    down, right = torch.exp(-((place - centres) ** 2) / (2 * width**2))
    noise = torch.randn(n_units, channels, size, size, generator=generator)
    fields = (blur @ noise @ blur) * down[:, None, :, None] * right[:, None, None, :]
    return F.normalize(fields.flatten(start_dim=1))
