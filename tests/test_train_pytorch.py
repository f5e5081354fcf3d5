"""What the PyTorch trainer stands on: optimizers, batches, augmentation."""

import copy
import itertools

import numpy as np
import pytest

import cifar10_utils

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional as F

import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from training import augmentation
from training.augmentation import Augmentation, affine_sample, color_jitter, cutout, mixup
from training.data_pytorch import TensorData
from training.optimization import make_optimizer


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Optimizers


def step_with_gradients_of(value, mlp, optimizer):
    for parameter in mlp.parameters():
        parameter.grad = torch.full_like(parameter, value)
    optimizer.step()


def optimizer_of(mlp, *flags):
    args = trainer.make_parser().parse_args(list(map(str, flags)))
    return make_optimizer(mlp, args, total_steps=10)


def test_schedules():
    def learning_rates(*flags):
        """Those of ten steps, seen in what a gradient of 1 does to a parameter."""
        mlp = MLP(4, [], 2)
        optimizer, values = optimizer_of(mlp, "--learning_rate", 2, *flags), [0]
        for _ in range(10):
            step_with_gradients_of(1.0, mlp, optimizer)
            values.append(mlp.layers[0].bias[0].item())
        return [before - after for before, after in itertools.pairwise(values)]

    np.testing.assert_allclose(learning_rates(), [2.0] * 10, rtol=1e-5)
    warmed = learning_rates("--warmup_steps", "4")
    np.testing.assert_allclose(warmed, [0.5, 1, 1.5, 2] + [2] * 6, rtol=1e-5)
    cosine = learning_rates("--schedule", "cosine", "--warmup_steps", "2")
    np.testing.assert_allclose(cosine[:3] + [cosine[6]], [1, 2, 2, 1], rtol=1e-5)
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:]))


PENALTIES = {  # flags, and what a step of rate 0.5 without a gradient leaves of a weight w
    "--weight_decay 0.1": lambda w: w - 0.5 * 0.1 * w,
    "--weight_decay 0.1 --optimizer adam": lambda w: w - 0.5 * w.sign(),
    "--weight_decay 0.1 --optimizer adamw": lambda w: w - 0.5 * 0.1 * w,
    "--l1_decay 0.1": lambda w: w.sign() * (w.abs() - 0.5 * 0.1).clamp(min=0),
}


@pytest.mark.parametrize("flags", PENALTIES)
def test_penalties_move_the_weights_and_spare_biases_and_norms(flags):
    mlp = MLP(4, [3], 2, normalization="batch")
    for parameter in mlp.parameters():
        parameter.data.normal_()
    optimizer = optimizer_of(mlp, "--learning_rate", 0.5, *flags.split())
    before = [parameter.detach().clone() for parameter in mlp.parameters()]
    step_with_gradients_of(0.0, mlp, optimizer)
    for w, parameter in zip(before, mlp.parameters(), strict=True):
        expected = PENALTIES[flags](w) if w.ndim == 2 else w
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_whose_layers_are_in_a_plain_list_is_refused():
    mlp = nn.Module()
    mlp.layers = [nn.Linear(3, 2)]
    with pytest.raises(ValueError, match="in a plain list"):
        optimizer_of(mlp)


# Batches


def some_data(*options, n=60, seed=3):
    """A DataSet whose pixels differ everywhere, and its TensorData of these options."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (n, 3, 32, 32), np.uint8)
    mean = pixels.mean(axis=0, dtype=np.float32)
    split = cifar10_utils.DataSet(pixels, rng.integers(0, 10, n), mean, one_hot=False, seed=seed)
    return split, TensorData(split, "cpu", *options)


def test_without_augmentation_batches_are_the_data_sets_own():
    (split, _), (_, tensors) = some_data(), some_data(Augmentation())
    batches = [(split.next_batch(25), tensors.next_batch(25)) for _ in range(4)]
    batches += zip(split.batches(25), tensors.batches(25), strict=True)
    for ours, theirs in batches:
        np.testing.assert_array_equal(ours[0], theirs[0].numpy())
        np.testing.assert_array_equal(ours[1], theirs[1].numpy())


def test_half_resolution_is_the_mean_of_two_by_two_pixels():
    (_, full), (_, half) = some_data(), some_data(None, True)
    for (x, y), (small, labels) in (
        (full.next_batch(20), half.next_batch(20)),
        (next(full.batches(20)), next(half.batches(20))),
    ):
        torch.testing.assert_close(small, x.view(20, 3, 16, 2, 16, 2).mean(dim=(3, 5)))
        assert torch.equal(y, labels)
    whole = next(half.batches(20, whole=True))[0]  # for test-time augmentation
    assert torch.equal(whole, next(full.batches(20))[0])


def test_the_first_images_are_the_first_ones():
    _, tensors = some_data()
    assert torch.equal(tensors.first(20).images, tensors.images[:20])
    assert torch.equal(tensors.first(20).images, tensors.images[:20])  # which are kept now


def test_augmentation_depends_on_the_seed_and_the_position_alone():
    everything = Augmentation(True, 3.0, 0.1, color_jitter=0.2, cutout=8, mixup=0.4)
    data, other = (some_data(everything, True, seed=seed)[1] for seed in (3, 4))
    first, *_, fourth = [data.next_batch(20) for _ in range(4)]
    torch.rand(3)
    data.position = other.position = 3 * 20
    assert all(torch.equal(a, b) for a, b in zip(data.next_batch(20), fourth, strict=True))
    assert not torch.equal(other.next_batch(20)[0], fourth[0])
    assert not torch.equal(first[0], fourth[0])  # the same images in another epoch


def test_the_statistics_of_the_inputs_are_those_of_augmented_training_images():
    (_, jittered), (_, plain) = (
        some_data(augmented, True, n=1000) for augmented in (Augmentation(color_jitter=0.5), None)
    )
    products, squares = jittered.second_moments(products=True), jittered.second_moments(False)
    torch.testing.assert_close(products.diagonal(), squares, rtol=1e-5, atol=0)
    assert torch.equal(squares, jittered.second_moments(False)) and jittered.position == 0
    x = torch.cat([x for x, _ in plain.batches(77)]).double().flatten(start_dim=1)
    expected = x.T @ x / len(x)
    torch.testing.assert_close(plain.second_moments(True), expected, rtol=1e-4, atol=1)
    # The contrast adds a quarter; brightness and colour add (r / 2)^2 each.
    added = squares.mean() - 1.25 * x.square().mean()
    assert added == pytest.approx(cifar10_utils.PIXEL_RMS**2 / 2, rel=0.15)


# Augmentation


def some_images(n):
    return torch.randint(1, 256, (n, 3, 32, 32)).float()


def test_every_image_is_sampled_as_torchs_affine_grid_samples_it():
    x = some_images(20)
    maps = torch.eye(2, 3) + 0.2 * torch.randn(20, 2, 3)
    for size in (32, 16):
        grid = F.affine_grid(maps, [20, 3, size, size], align_corners=False)
        expected = F.grid_sample(x, grid, align_corners=False)
        torch.testing.assert_close(affine_sample(x, maps, size), expected, rtol=1e-4, atol=0.02)


def test_random_maps_mirror_half_of_the_images_and_move_each_by_its_own():
    plain = Augmentation(random_affine=0.1, shift=2.5).random_maps(4000, "cpu")
    deviation = torch.tensor([[0.1, 0.1, 2.5 / 16 / 3**0.5]] * 2)  # half an image is 16 pixels
    torch.testing.assert_close(plain.mean(dim=0), torch.eye(2, 3), atol=0.01, rtol=0)
    torch.testing.assert_close(plain.std(dim=0), deviation, atol=0, rtol=0.05)
    assert 2.45 < 16 * plain[:, :, 2].abs().max() <= 2.5
    independent = plain.flatten(start_dim=1).T.corrcoef()
    torch.testing.assert_close(independent, torch.eye(6), atol=0.06, rtol=0)
    x = some_images(200)
    out = affine_sample(x, Augmentation(flip=True).random_maps(200, "cpu"), 32)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    assert 70 < sum(mirrored) < 130
    assert mirrored == [not torch.equal(a, b) for a, b in zip(out, x, strict=True)]


@pytest.mark.parametrize("side", [32, 16])
def test_cutout_covers_one_square_of_each_image(side):
    covered = cutout(torch.ones(2000, 3, side, side), 8) == 0
    rows, columns = covered.any(dim=3), covered.any(dim=2)
    assert torch.equal(covered, (rows[:, :1, :, None] & columns[:, :1, None]).expand_as(covered))
    whole = 8 * side // 32  # 8 pixels of 32
    for sides in (rows[:, 0], columns[:, 0]):
        sizes = sides.sum(dim=1)
        assert (sizes.min(), sizes.max()) == (whole // 2, whole)  # half of it may lie outside
        assert (sides.diff(dim=1).sum(dim=1) <= 2).all()  # one piece
        assert sides.any(dim=0).all()
    assert len(covered.unique(dim=0)) > side**2 // 4


def test_color_jitter_changes_contrast_brightness_and_colors_of_each_image():
    zeros, outs = torch.zeros(4000, 3, 1, 1), []
    for x in (zeros, zeros + 1):
        torch.manual_seed(0)
        outs.append(color_jitter(x, 0.1).view(4000, 3))
    contrast, offset = outs[1] - outs[0], outs[0] / cifar10_utils.PIXEL_RMS
    torch.testing.assert_close(contrast, contrast[:, :1].expand(-1, 3))
    assert contrast.mean() == pytest.approx(1, abs=0.01)
    assert contrast.std() == pytest.approx(0.1, rel=0.05)
    expected = 0.01 * (torch.ones(3, 3) + torch.eye(3))  # the brightness is that of all colours
    torch.testing.assert_close(offset.T.cov(), expected, rtol=0.1, atol=0)


def test_mixup_blends_each_image_and_its_target_with_another_one_alike():
    labels = torch.arange(10).repeat(100)
    images = F.one_hot(labels, 10).float().view(-1, 10, 1, 1)
    x, targets = mixup(images, labels, 0.4)
    torch.testing.assert_close(x.view(-1, 10), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(1000))
    shares = targets[range(1000), labels]
    assert ((shares - shares.min()).abs() < 1e-5).sum() > 800  # one share for the batch
    torch.testing.assert_close(shares.max(), torch.tensor(1.0))  # one in ten meets its own class


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_shares_of_mixup_follow_the_beta_distribution(alpha):
    labels = torch.arange(10)
    targets = [mixup(labels.float(), labels, alpha)[1] for _ in range(700)]
    shares = torch.stack(targets).diagonal(dim1=1, dim2=2).min(dim=1).values  # 1 if it meets itself
    deviation = (shares - 0.5).square().mean().sqrt().item()
    assert deviation == pytest.approx(0.5 / (2 * alpha + 1) ** 0.5, rel=0.05)


def test_accuracy_goes_by_the_largest_share_of_mixed_labels():
    logits = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 0.0]])
    for targets in ([1, 2], [[0.3, 0.6, 0.1], [0.4, 0.0, 0.6]]):
        assert trainer.accuracy(logits, torch.tensor(targets)) == 0.5


# Evaluation


@pytest.mark.parametrize("views", [False, True])
def test_an_evaluation_drops_no_units_and_leaves_the_norms_as_they_are(views):
    mlp = MLP(3072, [6], 10, input_scale=64, normalization="batch", dropout=0.5)
    mlp.layers[-1].weight.data.normal_()
    before = copy.deepcopy(mlp.state_dict())
    network = augmentation.TestTimeAugmentation(mlp, 2) if views else mlp
    batch = some_images(12), torch.arange(12) % 10
    assert trainer.evaluate(network, [batch]) == trainer.evaluate(network, [batch])
    assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())
    assert mlp.training


# Test-time augmentation


@pytest.mark.parametrize(("size", "shift"), [(32, 4), (16, 4), (16, 2)])
def test_the_views_of_an_image_are_its_moves_at_three_zooms_and_their_mirror_images(size, shift):
    square = torch.zeros(3, 3, 32, 32)
    square[:, :, 8:24, 8:24] = 1
    x = some_images(3)
    found, squares = (torch.stack([*augmentation.tta_views(y, size, shift)]) for y in (x, square))
    moves = (shift + 1) ** 2  # at each zoom
    assert found.shape == (6 * moves, 3, 3, size, size) == found.unique(dim=0).shape
    assert torch.equal(found[::2].flip(4), found[1::2])
    resize = nn.AvgPool2d(32 // size)
    middle = moves // 2
    torch.testing.assert_close(found[::2][moves + middle], resize(x))
    up_and_left = F.pad(x[:, :, shift:, shift:], (0, shift, 0, shift))
    torch.testing.assert_close(found[::2][2 * moves - 1], resize(up_and_left))
    sides = [squares[::2][moves * zoom + middle, 0, 0].sum().sqrt().item() for zoom in range(3)]
    assert sides == pytest.approx([size / 2 / zoom for zoom in (0.85, 1, 1.15)], rel=0.04)


def test_test_time_augmentation_averages_the_probabilities_over_the_views():
    mlp, x = MLP(768, [], 10, input_scale=64), some_images(3)
    mlp.layers[0].weight.data.copy_(torch.randn(10, 768) / 1000)
    with torch.no_grad():
        views = [mlp(view).softmax(dim=1) for view in augmentation.tta_views(x, 16, 4)]
        found = augmentation.TestTimeAugmentation(mlp, 4)(x).softmax(dim=1)
    torch.testing.assert_close(found, torch.stack(views).mean(dim=0))
