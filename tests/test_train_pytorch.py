"""What the PyTorch trainer stands on: optimizers, batches, augmentation."""

import copy
import itertools

import numpy as np
import pytest

import cifar10_utils

pytest.importorskip("torch")
import torch
from torch import nn

import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from training import augmentation
from training.augmentation import Augmentation, affine_sample, color_jitter, cutout, mixup
from training.data_pytorch import TensorData
from training.optimization import make_optimizer


def options(*flags):
    return trainer.make_parser().parse_args(list(map(str, flags)))


def optimizer_of(mlp, *flags, total_steps=10):
    return make_optimizer(mlp, options(*flags), total_steps)


def step_with_gradients_of(value, mlp, optimizer):
    for parameter in mlp.parameters():
        parameter.grad = torch.full_like(parameter, value)
    optimizer.step()


def learning_rates(*flags):
    mlp, rates = MLP(4, [], 2), []
    optimizer = optimizer_of(mlp, "--learning_rate", 2, *flags)
    for _ in range(10):
        before = mlp.layers[0].bias[0].item()
        step_with_gradients_of(1.0, mlp, optimizer)
        rates.append(before - mlp.layers[0].bias[0].item())
    return rates


def test_schedules():
    np.testing.assert_allclose(learning_rates(), [2.0] * 10, rtol=1e-5)
    warmed = learning_rates("--warmup_steps", "4")
    np.testing.assert_allclose(warmed, [0.5, 1, 1.5, 2] + [2] * 6, rtol=1e-5)
    cosine = learning_rates("--schedule", "cosine", "--warmup_steps", "2")
    np.testing.assert_allclose(cosine[:3] + [cosine[6]], [1, 2, 2, 1], rtol=1e-5)
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:]))


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_an_optimizer_goes_on_from_its_state_alone(kind):
    flags = ["--optimizer", kind, "--schedule", "cosine", "--warmup_steps", 2, "--l1", 0.1]
    flags += ["--weight_decay", 0.1]
    one, two = MLP(4, [3], 2), MLP(4, [3], 2)
    first, second = optimizer_of(one, *flags), optimizer_of(two, *flags)
    for step in range(8):
        step_with_gradients_of(0.1 * step, one, first)
        if step == 3:
            two.load_state_dict(one.state_dict())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        elif step > 3:
            step_with_gradients_of(0.1 * step, two, second)
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_weight_decay_spares_biases_and_norms():
    mlp = MLP(4, [3], 2, normalization="batch")
    matrices, others = optimizer_of(mlp, "--weight_decay", 0.1).param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 2)
    assert (others["weight_decay"], len(others["params"])) == (0, 4)


def test_l1_moves_the_weights_towards_zero_and_spares_biases():
    mlp = MLP(4, [3], 2)
    optimizer = optimizer_of(mlp, "--l1", 0.1, "--learning_rate", 0.5)
    before = {name: parameter.detach().clone() for name, parameter in mlp.named_parameters()}
    step_with_gradients_of(0.0, mlp, optimizer)
    for name, parameter in mlp.named_parameters():
        start = before[name]
        towards_zero = start - 0.05 * start.sign() if name.endswith("weight") else start
        torch.testing.assert_close(parameter.detach(), towards_zero)


# Data


def some_split(n=60, seed=3):
    """A DataSet whose pixels differ everywhere."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (n, 3, 32, 32), np.uint8)
    mean = pixels.mean(axis=0, dtype=np.float32)
    return cifar10_utils.DataSet(pixels, rng.integers(0, 10, n), mean, one_hot=False, seed=seed)


@pytest.mark.parametrize("asked", [None, Augmentation()], ids=str)
def test_without_augmentation_batches_are_the_data_sets_own(asked, monkeypatch):
    def refuse(*_):
        raise AssertionError("sampled, though nothing was asked for")

    monkeypatch.setattr("training.augmentation.affine_sample", refuse)
    tensors, split = TensorData(some_split(), "cpu", asked), some_split()
    for _ in range(4):
        x, y = tensors.next_batch(25)
        expected_x, expected_y = split.next_batch(25)
        np.testing.assert_array_equal(x.numpy(), expected_x)
        np.testing.assert_array_equal(y.numpy(), expected_y)
    pairs = zip(tensors.batches(25), split.batches(25), strict=True)
    assert all(
        (x.numpy() == images).all() and (y.numpy() == z).all() for (x, y), (images, z) in pairs
    )


def test_half_resolution_is_the_mean_of_two_by_two_pixels():
    full, half = (TensorData(some_split(), "cpu", half_resolution=half) for half in (False, True))
    for (x, y), (small, labels) in (
        (full.next_batch(20), half.next_batch(20)),
        (next(full.batches(20)), next(half.batches(20))),
    ):
        blocks = x.view(20, 3, 16, 2, 16, 2).mean(dim=(3, 5))
        torch.testing.assert_close(small, blocks)
        assert torch.equal(y, labels)
    whole = next(half.batches(20, half_resolution=False))[0]
    torch.testing.assert_close(whole, next(full.batches(20))[0], rtol=0, atol=0)


EVERYTHING = Augmentation(
    flip=True, shift=3.0, random_affine=0.1, color_jitter=0.2, cutout=8, mixup=0.4
)


def test_augmentation_depends_on_the_seed_and_the_position_alone():
    data = TensorData(some_split(), "cpu", EVERYTHING, half_resolution=True)
    batches = [data.next_batch(20) for _ in range(5)]
    torch.rand(3)
    data.position = 3 * 20
    again = data.next_batch(20)
    assert all(torch.equal(a, b) for a, b in zip(again, batches[3], strict=True))
    other = TensorData(some_split(seed=4), "cpu", EVERYTHING, half_resolution=True)
    other.position = 60
    assert not torch.equal(other.next_batch(20)[0], batches[3][0])
    assert not torch.equal(batches[0][0], batches[3][0])  # the same images in another epoch


def test_the_statistics_of_the_inputs_are_those_of_augmented_training_images():
    jittered = TensorData(some_split(2000), "cpu", Augmentation(color_jitter=0.5), True)
    torch.rand(3)
    products = jittered.second_moments(products=True)
    torch.testing.assert_close(
        products.diagonal(), jittered.second_moments(products=False), rtol=1e-5, atol=0
    )
    assert torch.equal(products, jittered.second_moments(products=True))
    assert jittered.position == 0
    plain = TensorData(some_split(2000), "cpu", None, True)
    x = torch.cat([x for x, _ in plain.batches(77)]).double().flatten(start_dim=1)
    torch.testing.assert_close(
        plain.second_moments(products=True), x.T @ x / 2000, rtol=1e-4, atol=1
    )
    # The contrast adds a quarter; brightness and colour add (r / 2)^2 each.
    added = products.diagonal().mean() - 1.25 * x.square().mean()
    assert added == pytest.approx(cifar10_utils.PIXEL_RMS**2 / 2, rel=0.15)


# Augmentation


def some_images(n):
    torch.manual_seed(0)
    return torch.randint(1, 256, (n, 3, 32, 32)).float()


def moved(x, augmentation, size=32):
    return affine_sample(x, augmentation.random_maps(len(x), x.device), size)


def map_of(a=1.0, b=0.0, right=0.0, c=0.0, d=1.0, down=0.0):
    """The map that reads (a x + b y + right, c x + d y + down), lengths in pixels."""
    return torch.tensor([[a, b, right / 16], [c, d, down / 16]])


def test_the_identity_and_whole_pixels_are_exact():
    x = some_images(5)
    assert torch.equal(affine_sample(x, map_of().expand(5, 2, 3), 32), x)
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    for right, down in itertools.product((-4, -1, 3), repeat=2):
        shifted = affine_sample(x, map_of(right=right, down=down).expand(5, 2, 3), 32)
        window = padded[:, :, 4 + down : 36 + down, 4 + right : 36 + right]
        assert torch.equal(shifted, window)
        half = affine_sample(x, map_of(right=right, down=down).expand(5, 2, 3), 16)
        torch.testing.assert_close(half, nn.functional.avg_pool2d(window, 2), rtol=1e-6, atol=1e-4)


def test_every_image_is_sampled_as_torchs_affine_grid_samples_it():
    x = some_images(20)
    maps = torch.eye(2, 3) + 0.2 * torch.randn(20, 2, 3)
    for size in (32, 16):
        grid = nn.functional.affine_grid(maps, [20, 3, size, size], align_corners=False)
        expected = nn.functional.grid_sample(x, grid, align_corners=False)
        torch.testing.assert_close(affine_sample(x, maps, size), expected, rtol=1e-4, atol=0.02)


def test_flip_mirrors_about_half_of_the_images():
    x = some_images(200)
    out = moved(x, Augmentation(flip=True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shift_moves_each_image_by_its_own_real_number_of_pixels():
    torch.manual_seed(0)
    maps = Augmentation(shift=2.5).random_maps(4000, "cpu")
    assert torch.equal(maps[:, :, :2], torch.eye(2).expand(4000, 2, 2))
    pixels = 16 * maps[:, :, 2]
    assert pixels.min() >= -2.5 and pixels.max() <= 2.5
    torch.testing.assert_close(pixels.mean(dim=0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(pixels.std(dim=0), torch.full((2,), 2.5 / 3**0.5), atol=0.05, rtol=0)
    assert abs((pixels[:, 0] * pixels[:, 1]).mean()) < 0.2  # independent of each other


def test_random_affine_is_a_linear_map_about_the_middle():
    torch.manual_seed(0)
    place = torch.arange(32.0) - 15.5
    ramps = torch.stack([place.expand(32, 32), place[:, None].expand(32, 32)])[None]
    seen = moved(ramps.repeat(2000, 1, 1, 1), Augmentation(random_affine=0.1))[:, :, 12:20, 12:20]
    middle = place[12:20].expand(8, 8)
    slopes = [(seen * m).sum(dim=(2, 3)) / (middle**2).sum() for m in (middle, middle.T)]
    maps = torch.stack(slopes, dim=2)  # (S, 2, 2), one for each image
    torch.testing.assert_close(maps.mean(dim=0), torch.eye(2), atol=0.01, rtol=0)
    torch.testing.assert_close(maps.std(dim=0), torch.full((2, 2), 0.1), atol=0.01, rtol=0)
    back = maps @ torch.stack([middle, middle.T]).flatten(start_dim=1)
    torch.testing.assert_close(seen.flatten(start_dim=2), back, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [32, 16])
def test_cutout_covers_one_square_of_each_image(side):
    torch.manual_seed(0)
    covered = cutout(torch.ones(2000, 3, side, side), 8) == 0
    assert (covered == covered[:, :1]).all()
    rows, columns = covered[:, 0].any(dim=2), covered[:, 0].any(dim=1)
    assert (covered[:, 0] == rows[:, :, None] & columns[:, None, :]).all()
    whole = 8 * side // 32  # 8 pixels of 32
    for sides in (rows, columns):
        sizes = sides.sum(dim=1)
        assert (sizes.min(), sizes.max()) == (whole // 2, whole)  # half of it may lie outside
        assert (sides.diff(dim=1).sum(dim=1) <= 2).all()  # one piece
        assert sides.any(dim=0).all()
    assert len(covered.unique(dim=0)) > side**2 // 4


def test_color_jitter_changes_contrast_brightness_and_colors_of_each_image():
    r = cifar10_utils.PIXEL_RMS
    x = r * torch.randn(1, 3, 32, 32).expand(4000, -1, -1, -1)
    torch.manual_seed(0)
    y = color_jitter(x, 0.1)
    contrast = y.std(dim=(2, 3)) / x.std(dim=(2, 3))
    torch.testing.assert_close(contrast, contrast[:, :1].expand(-1, 3))
    offset = (y.mean(dim=(2, 3)) - contrast * x.mean(dim=(2, 3))) / r
    expected = {"contrast": 0.1, "all colors": 0.1 * (1 + 1 / 3) ** 0.5, "one color": 0.1}
    found = {
        "contrast": contrast[:, 0].std().item(),
        "all colors": offset.mean(dim=1).std().item(),
        "one color": (offset[:, 0] - offset[:, 1]).std().item() / 2**0.5,
    }
    assert found == pytest.approx(expected, rel=0.05)


def test_mixup_blends_each_image_and_its_target_with_another_one_alike():
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(100)
    images = nn.functional.one_hot(labels, 10).float().view(-1, 10, 1, 1)
    x, targets = mixup(images, labels, 0.4)
    torch.testing.assert_close(x.view(-1, 10), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(1000))
    shares = targets[range(1000), labels]
    lowest = shares.min()
    assert ((shares - lowest).abs() < 1e-5).sum() > 800  # one share for the batch
    torch.testing.assert_close(shares.max(), torch.tensor(1.0))  # one in ten meets its own class


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_shares_of_mixup_follow_the_beta_distribution(alpha):
    torch.manual_seed(0)
    x, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    blended = [mixup(x, labels, alpha)[0] for _ in range(4000)]
    shares = np.array([both[0].item() for both in blended if 0 < both[0] < 1])
    shares = np.concatenate([shares, 1 - shares])
    assert len(shares) > 3000  # half of the permutations of two leave them where they are
    assert shares.std() == pytest.approx(0.5 / (2 * alpha + 1) ** 0.5, rel=0.05)


def test_accuracy_goes_by_the_largest_share_of_mixed_labels():
    logits = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 0.0]])
    assert trainer.accuracy(logits, torch.tensor([1, 2])) == 0.5
    assert trainer.accuracy(logits, torch.tensor([[0.3, 0.6, 0.1], [0.4, 0.0, 0.6]])) == 0.5


@pytest.mark.parametrize("size", [32, 16])
def test_the_views_of_an_image_are_its_moves_at_three_zooms_and_their_mirror_images(size):
    x = some_images(3)
    found = torch.stack(list(augmentation.tta_views(x, size)))
    assert found.shape == (150, 3, 3, size, size) and len(found.unique(dim=0)) == 150
    assert torch.equal(found[::2].flip(4), found[1::2])
    larger, same, smaller = found[::2].unflatten(0, (3, 25))

    def resized(image):
        return nn.functional.avg_pool2d(image, 32 // size) if size < 32 else image

    torch.testing.assert_close(same[12], resized(x))
    up_and_left = nn.functional.pad(x[:, :, 4:, 4:], (0, 4, 0, 4))
    torch.testing.assert_close(same[24], resized(up_and_left))
    square = torch.zeros(3, 3, 32, 32)
    square[:, :, 8:24, 8:24] = 1
    views = torch.stack(list(augmentation.tta_views(square, size)))[::2].unflatten(0, (3, 25))
    sides = [zoomed[12, 0, 0].sum().sqrt().item() for zoomed in views]
    half = size / 2
    assert sides == pytest.approx([half / 0.85, half, half / 1.15], rel=0.04)


def test_test_time_augmentation_averages_the_probabilities_over_the_views():
    mlp = MLP(768, [], 10, input_scale=64)
    mlp.layers[0].weight.data.copy_(torch.randn(10, 768) / 1000)
    x = some_images(3)
    with torch.no_grad():
        views = [mlp(view).softmax(dim=1) for view in augmentation.tta_views(x, 16)]
        found = augmentation.TestTimeAugmentation(mlp)(x).softmax(dim=1)
    torch.testing.assert_close(found, torch.stack(views).mean(dim=0))
