"""Data: batches, splits, the synthetic set, and files that are missing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from common import REAL, N, needs_real

import cifar10_utils
from cifar10_utils import DataSet, get_cifar10
from training.data import get_synthetic


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
    assert [n % 10 for n in numbers(x)] == y.argmax(axis=1).tolist()
    assert x[0, 1, 0, 0] == -0.5  # less the mean
    _, y = data_set(50, one_hot=False).next_batch(20)
    assert (y.shape, y.dtype) == ((20,), "int64")


@pytest.mark.parametrize("batch_size", [1, 3, 10, 7])
def test_every_epoch_visits_every_example_once_in_a_fresh_order(batch_size):
    data, seen = data_set(10), []
    for _ in range(30):
        seen += numbers(data.next_batch(batch_size)[0])
        assert data.epochs_completed == len(seen) // 10
    epochs = [seen[i : i + 10] for i in range(0, len(seen) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert epochs[0] != list(range(10))


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
    assert data.images is data.images  # converted once, however often a loop asks for them
    for array in (data.images, data.next_batch(10)[0], data.next_indices(10)):
        array[:] = 77
    assert (x == before[0]).all() and (y == before[1]).all()
    data.position -= 10  # the order of this epoch is kept, for other data sets too
    assert sorted(numbers(data.next_batch(10)[0])) == list(range(10))


def test_sizes_out_of_range_are_refused_and_change_nothing(data):
    ten = data_set(10)
    for size in (0, -1, 11):
        with pytest.raises(ValueError, match=f"batch_size {size} is not from 1 to 10"):
            ten.next_batch(size)
    assert ten.position == 0
    for size in (-1, 5 * N):
        with pytest.raises(
            ValueError, match=f"validation_size {size} is not from 0 to {5 * N - 1}"
        ):
            get_cifar10(data, validation_size=size)


def test_batches_for_evaluation_cover_everything_in_order():
    batches = list(data_set(10).batches(4))
    assert [numbers(x) for x, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [n for _, y in batches for n in y.argmax(axis=1)] == list(range(10))


# Splits


def test_splits_as_items_and_as_attributes_hold_what_is_in_the_files(data):
    cifar10 = get_cifar10(Path(data).parent, one_hot=False)  # the parent will do too
    assert cifar10["train"] is cifar10.train and cifar10["test"] is cifar10.test
    assert cifar10.validation is cifar10["validation"] is None
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (5 * N, N)
    assert list(cifar10.keys()) == ["train", "validation", "test"]
    assert "train" in cifar10 and "name" not in cifar10
    batch = pickle.loads(Path(data, "data_batch_2").read_bytes(), encoding="bytes")
    np.testing.assert_array_equal(cifar10.train.pixels[N : 2 * N].reshape(N, -1), batch[b"data"])
    np.testing.assert_array_equal(cifar10.train.labels[N : 2 * N], batch[b"labels"])


def test_the_mean_is_that_of_the_training_split_alone(data):
    cifar10 = get_cifar10(data, validation_size=20)
    expected = cifar10.train.pixels.mean(axis=0, dtype=np.float64)
    for split in (cifar10.train, cifar10.validation, cifar10.test):
        np.testing.assert_allclose(split.images, split.pixels - expected, atol=1e-4)


def test_the_validation_split_is_drawn_at_random_and_always_the_same(data):
    whole = get_cifar10(data, one_hot=False).train
    one, two = (get_cifar10(data, False, validation_size=20, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(one.validation.pixels, two.validation.pixels)
    assert not np.array_equal(one.validation.pixels, whole.pixels[:20])

    def examples(*splits):
        pairs = (zip(split.pixels, split.labels, strict=True) for split in splits)
        return sorted((bytes(pixels), label) for pair in pairs for pixels, label in pair)

    assert examples(one.train, one.validation) == examples(whole)


def test_the_synthetic_set_has_the_shape_of_cifar10():
    data = get_synthetic(validation_size=5000)
    sizes = [data[s].num_examples for s in ("train", "validation", "test")]
    assert sizes == [45000, 5000, 10000]
    assert data.train.pixels.dtype == np.uint8 and data.train.pixels.shape[1:] == (3, 32, 32)
    counts = data.test.labels.sum(axis=0)
    assert counts.min() > 900 and counts.max() < 1100
    x, _ = data.train.next_batch(1000)
    assert 30 < np.sqrt((x**2).mean()) < 80  # about the scale of CIFAR-10's


# Files that are missing


@pytest.mark.parametrize("lacking", [[], ["data_batch_3", "test_batch"]])
def test_missing_data_names_the_paths_and_the_command_and_makes_nothing(lacking, data, tmp_path):
    target = Path(data).parent if lacking else tmp_path / "typo"
    for name in lacking:
        Path(data, name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        get_cifar10(target)
    for part in (target / cifar10_utils.FOLDER, f"python cifar10_utils.py {target}", *lacking):
        assert str(part) in str(error.value)
    assert "data_batch_1" not in str(error.value) and not (tmp_path / "typo").exists()


# Real data, where it is


@needs_real
def test_real_cifar10():
    cifar10 = get_cifar10(REAL)
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (50_000, 10_000)
    np.testing.assert_array_equal(cifar10.train.labels.sum(axis=0), 5000)
    np.testing.assert_array_equal(cifar10.test.labels.sum(axis=0), 1000)
    names = pickle.loads((REAL / "batches.meta").read_bytes(), encoding="bytes")[b"label_names"]
    assert tuple(name.decode() for name in names) == cifar10_utils.CLASSES
    x, _ = cifar10.train.next_batch(5000)
    assert np.sqrt((x**2).mean()) == pytest.approx(cifar10_utils.PIXEL_RMS, rel=0.02)
    assert x.mean() == pytest.approx(0, abs=1)
