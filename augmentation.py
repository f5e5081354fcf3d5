"""Changed images for train_mlp_pytorch.py: mirrored, moved, distorted and blended ones to train on,
and the views that test-time averaging takes the mean over."""

import itertools

import torch
from torch.nn import functional as F

import cifar10_utils


def move(pixels, fill, args):
    """pixels (S, 3, 32, 32) mirrored and moved at random; fill (3, 1, 1), the mean colour, comes in
    at the edges. Still in bytes, of which there are four times fewer to move."""
    n, size, device = len(pixels), pixels.shape[-1], pixels.device
    if args.flip:
        mirrored = torch.rand(n, 1, 1, 1, device=device) < 0.5
        pixels = torch.where(mirrored, pixels.flip(3), pixels)
    if args.shift:
        most = args.shift
        down, right = torch.randint(0, 2 * most + 1, (2, n), device=device)
        padded = fill.expand(n, -1, size + 2 * most, size + 2 * most).clone()
        padded[:, :, most:-most, most:-most] = pixels
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (S, 3, down, right, 32, 32)
        pixels = windows[torch.arange(n, device=device), :, down, right]
    return pixels


def distort(x, strength):
    """x (S, 3, 32, 32), each image seen through its own linear map of the plane: the identity plus
    normal numbers of that standard deviation, which turns, zooms, stretches and shears."""
    noise = strength * torch.randn(len(x), 2, 2, device=x.device)
    maps = F.pad(torch.eye(2, device=x.device) + noise, (0, 1))
    grid = F.affine_grid(maps, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def mix(x, labels, most):
    """x (S, ...) and labels (S,), each image blended with a random one of the batch, whose share is
    drawn evenly from 0 to most. Returns the images and their targets (S, 10), blended alike."""
    share = most * torch.rand(len(x), device=x.device)
    other = torch.randperm(len(x), device=x.device)
    targets = F.one_hot(labels, cifar10_utils.N_CLASSES).float()
    across = share.view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x, x[other], across), torch.lerp(targets, targets[other], share[:, None])


def views(x, step=2):
    """x (S, 3, 32, 32), its copies moved by step pixels in eight directions, and the mirror images
    of these nine."""
    size, padded = x.shape[-1], F.pad(x, (step,) * 4)
    for down, right in itertools.product((0, step, 2 * step), repeat=2):
        view = padded[:, :, down : down + size, right : right + size]
        yield view
        yield view.flip(3)
