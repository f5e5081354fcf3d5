"""Augmented images, and the views of test-time averaging."""

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
    """x (S, 3, 32, 32), each image transformed by its own random linear map: the identity plus
    normal noise of standard deviation strength. It rotates, zooms, stretches and shears."""
    noise = strength * torch.randn(len(x), 2, 2, device=x.device)
    return _transform(x, torch.eye(2, device=x.device) + noise)


def _transform(x, maps):
    """x (S, 3, 32, 32), each pixel read from its position mapped by the linear maps (S, 2, 2)."""
    grid = F.affine_grid(F.pad(maps, (0, 1)), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def cutout(x, size):
    """x (S, 3, 32, 32) with a square of size pixels in each image set to zero, which is the mean of
    the training images. The centre is a random pixel, so part of the square may lie outside."""
    place = torch.arange(x.shape[-1], device=x.device)
    first = torch.randint(x.shape[-1], (2, len(x), 1), device=x.device) - size // 2
    down, right = (place >= first) & (place < first + size)
    return x.masked_fill((down[:, :, None] & right[:, None, :])[:, None], 0)


def recolour(x, strength, unit):
    """Random contrast, brightness and colour: x (S, 3, 32, 32) becomes (1 + a) x + unit (b + c),
    with a and b for each image and c for each of its channels, all normal with standard deviation
    strength. unit is the standard deviation of the pixels."""
    noise = strength * torch.randn(5, len(x), 1, 1, device=x.device)
    contrast, brightness, colours = noise[0, :, None], noise[1, :, None], noise[2:].transpose(0, 1)
    return x * (1 + contrast) + unit * (brightness + colours)


def mixup(x, labels, largest):
    """x (S, ...) and labels (S,), each image blended with a random one of the batch, whose share is
    uniform from 0 to largest. Returns the images and their targets (S, 10), blended likewise."""
    share = largest * torch.rand(len(x), device=x.device)
    other = torch.randperm(len(x), device=x.device)
    targets = F.one_hot(labels, cifar10_utils.N_CLASSES).float()
    across = share.view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x, x[other], across), torch.lerp(targets, targets[other], share[:, None])


def views(x):
    """x (S, 3, 32, 32) at three sizes, each shifted by 0, 2 or 4 pixels to either side and up or
    down, and the mirror images of these 75."""
    size = x.shape[-1]
    for zoom in (0.85, 1.0, 1.15):
        maps = zoom * torch.eye(2, device=x.device)
        padded = F.pad(_transform(x, maps.expand(len(x), 2, 2)), (4, 4, 4, 4))
        for down, right in itertools.product((0, 2, 4, 6, 8), repeat=2):
            view = padded[:, :, down : down + size, right : right + size]
            yield view
            yield view.flip(3)


def average_over_views(mlp, x):
    """Logits (S, C), whose softmax is the mean of mlp's probabilities over the views of x."""
    logits = torch.stack([mlp(view) for view in views(x)])
    return logits.log_softmax(dim=2).logsumexp(dim=0)
