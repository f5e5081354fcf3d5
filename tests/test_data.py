"""Data: batches, splits, the synthetic set, and files that are missing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from common import REAL, N, needs_real

import cifar10_utils
from cifar10_utils import DataSet, get_cifar10


def data_set(n, seed=0, one_hot=True):
    """n examples whose first pixel is their number."""
    pixels = np.zeros((n, 3, 32, 32), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(n)
    mean = np.full((3, 32, 32), 0.5, np.float32)
    return DataSet(pixels, np.arange(n) % 10, mean, one_hot, seed)


def numbers(x):
    return (x[:, 0, 0, 0] + 0.5).astype(int).tolist()


# Batches


def test_a_batch_has_the_shapes_of_the_assignment():
    x, y = data_set(50).next_batch(20)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((20, 3, 32, 32), "float32", (20, 10), "float32")
    assert numbers(x) == [10 * (n // 10) + c for n, c in zip(numbers(x), y.argmax(1), strict=True)]
    assert x[0, 1, 0, 0] == -0.5  # less the mean
    _, y = data_set(50, one_hot=False).next_batch(20)
    assert (y.shape, y.dtype) == ((20,), "int64")


@pytest.mark.parametrize("batch_size", [1, 3, 10, 7])
def test_every_epoch_visits_every_example_once_in_a_fresh_order(batch_size):
    data = data_set(10)
    seen = [n for _ in range(30) for n in numbers(data.next_batch(batch_size)[0])]
    epochs = [seen[i : i + 10] for i in range(0, len(seen) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert epochs[0] != list(range(10))


def test_epochs_are_counted_when_complete():
    data = data_set(10)
    counts = []
    for _ in range(6):
        data.next_batch(4)
        counts.append(data.epochs_completed)
    assert counts == [0, 0, 1, 1, 2, 2]
    assert data.num_examples == 10


def test_the_seed_and_the_position_decide_the_order():
    one, same, other = data_set(50, seed=1), data_set(50, seed=1), data_set(50, seed=2)
    first = [one.next_indices(20).tolist() for _ in range(8)]
    assert first == [same.next_indices(20).tolist() for _ in range(8)]
    assert first != [other.next_indices(20).tolist() for _ in range(8)]
    one.position = 60
    assert [one.next_indices(20).tolist() for _ in range(5)] == first[3:]


def test_returned_arrays_are_never_overwritten():
    data = data_set(10)
    x, y = data.next_batch(10)
    before = x.copy(), y.copy()
    for _ in range(3):
        data.next_batch(10)[0][:] = 77
    data.images[:] = 77
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert numbers(data.images) == list(range(10))


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_size_out_of_range_changes_nothing(batch_size):
    data = data_set(10)
    with pytest.raises(ValueError, match=f"batch_size {batch_size} is not from 1 to 10"):
        data.next_batch(batch_size)
    assert data.position == 0


def test_batches_for_evaluation_cover_everything_in_order():
    batches = list(data_set(10).batches(4))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert [n for x, _ in batches for n in numbers(x)] == list(range(10))
    assert np.concatenate([y for _, y in batches]).argmax(1).tolist() == list(range(10))


# Splits


def test_splits_as_items_and_as_attributes(data):
    cifar10 = get_cifar10(data)
    assert cifar10["train"] is cifar10.train and cifar10["test"] is cifar10.test
    assert cifar10.validation is cifar10["validation"] is None
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (5 * N, N)


def test_pixels_and_labels_are_those_of_the_files(data):
    cifar10 = get_cifar10(data, one_hot=False)
    for i, name in enumerate(["data_batch_1", "data_batch_2"]):
        batch = pickle.loads((Path(data) / name).read_bytes(), encoding="bytes")
        part = slice(i * N, (i + 1) * N)
        np.testing.assert_array_equal(cifar10.train.pixels[part].reshape(N, -1), batch[b"data"])
        np.testing.assert_array_equal(cifar10.train.labels[part], batch[b"labels"])


def test_the_mean_is_that_of_the_training_split_alone(data):
    cifar10 = get_cifar10(data, validation_size=20)
    expected = cifar10.train.pixels.mean(axis=0, dtype=np.float64)
    for split in (cifar10.train, cifar10.validation, cifar10.test):
        np.testing.assert_allclose(split.mean, expected, rtol=1e-6)
        np.testing.assert_allclose(split.images, split.pixels - split.mean)
    np.testing.assert_allclose(cifar10.train.images.mean(axis=0), 0, atol=1e-4)


def test_the_validation_split_is_drawn_at_random_and_always_the_same(data):
    whole = get_cifar10(data, one_hot=False).train
    one = get_cifar10(data, validation_size=20, seed=1, one_hot=False)
    two = get_cifar10(data, validation_size=20, seed=2, one_hot=False)
    np.testing.assert_array_equal(one.validation.pixels, two.validation.pixels)
    both = np.concatenate([one.train.pixels, one.validation.pixels])
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.pixels))
    assert not np.array_equal(one.validation.pixels, whole.pixels[:20])
    labels = {bytes(p): label for p, label in zip(whole.pixels, whole.labels, strict=True)}
    assert [labels[bytes(p)] for p in one.validation.pixels] == one.validation.labels.tolist()


@pytest.mark.parametrize("size", [-1, 5 * N])
def test_a_validation_size_out_of_range_is_refused(data, size):
    with pytest.raises(ValueError, match=f"validation_size {size} is not from 0 to {5 * N - 1}"):
        get_cifar10(data, validation_size=size)


# The synthetic set


def test_the_synthetic_set_has_the_shape_of_cifar10():
    data = cifar10_utils.get_synthetic(validation_size=5000)
    assert data.name == "synthetic"
    assert [data[s].num_examples for s in ("train", "validation", "test")] == [45000, 5000, 10000]
    assert data.train.pixels.dtype == np.uint8 and data.train.pixels.shape[1:] == (3, 32, 32)
    counts = data.test.labels.sum(axis=0)
    assert counts.min() > 900 and counts.max() < 1100
    x, _ = data.train.next_batch(1000)
    assert 30 < np.sqrt((x**2).mean()) < 80  # about the scale of CIFAR-10's


# Files that are missing


def test_the_folder_or_its_parent_will_do(data):
    for folder in (data, Path(data), Path(data).parent):
        assert get_cifar10(folder).train.num_examples == 5 * N


def test_missing_data_names_the_paths_and_the_command_and_makes_nothing(tmp_path):
    target = tmp_path / "typo"
    with pytest.raises(FileNotFoundError) as error:
        get_cifar10(target)
    for part in (str(target), str(target / cifar10_utils.FOLDER), "python cifar10_utils.py"):
        assert part in str(error.value)
    assert not target.exists()


# Real data, where it is


@needs_real
def test_real_cifar10():
    cifar10 = get_cifar10(REAL)
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (50_000, 10_000)
    np.testing.assert_array_equal(cifar10.train.labels.sum(axis=0), 5000)
    np.testing.assert_array_equal(cifar10.test.labels.sum(axis=0), 1000)
    x, _ = cifar10.train.next_batch(5000)
    assert np.sqrt((x**2).mean()) == pytest.approx(cifar10_utils.PIXEL_RMS, rel=0.02)
    assert x.mean() == pytest.approx(0, abs=1)
