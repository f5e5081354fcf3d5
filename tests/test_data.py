"""Data: batches, splits, the synthetic set, and reading files that may be damaged or hostile."""

import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import N, batch_bytes, listing, little_memory, use_small_files, write_files

import cifar10_utils
from cifar10_utils import DataError, DataSet, get_cifar10, parse_batch


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


def test_a_batch_may_be_written_into_an_array_of_the_caller():
    out = np.full((4, 3, 32, 32), np.nan, np.float32)
    x, y = data_set(10).next_batch(4, out=out)
    assert x is out
    expected, labels = data_set(10).next_batch(4)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_size_out_of_range_changes_nothing(batch_size):
    data = data_set(10)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, .* 1 to 10"):
        data.next_batch(batch_size)
    assert data.position == 0


def test_batches_for_evaluation_cover_everything_in_order():
    batches = list(data_set(10).batches(4))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert [n for x, _ in batches for n in numbers(x)] == list(range(10))
    assert np.concatenate([y for _, y in batches]).argmax(1).tolist() == list(range(10))


# Splits


@pytest.fixture
def small(tmp_path, monkeypatch):
    return write_files(tmp_path / "cifar10" / cifar10_utils.FOLDER, use_small_files(monkeypatch))


def test_splits_as_items_and_as_attributes(small):
    cifar10 = get_cifar10(small)
    assert cifar10["train"] is cifar10.train and cifar10["test"] is cifar10.test
    assert cifar10.validation is cifar10["validation"] is None
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (5 * N, N)
    with pytest.raises(KeyError):
        cifar10["name"]
    with pytest.raises(AttributeError):
        _ = cifar10.trian


def test_pixels_and_labels_are_those_of_the_files(small):
    cifar10 = get_cifar10(small, one_hot=False)
    for i, name in enumerate(["data_batch_1", "data_batch_2"]):
        batch = pickle.loads((small / name).read_bytes(), encoding="bytes")
        part = slice(i * N, (i + 1) * N)
        np.testing.assert_array_equal(
            cifar10.train.pixels[part].reshape(N, -1), np.frombuffer(batch[b"data"], np.uint8)
            .reshape(N, -1))  # fmt: skip
        np.testing.assert_array_equal(cifar10.train.labels[part], batch[b"labels"])


def test_the_mean_is_that_of_the_training_split_alone(small):
    cifar10 = get_cifar10(small, validation_size=20)
    expected = cifar10.train.pixels.mean(axis=0, dtype=np.float64)
    for split in (cifar10.train, cifar10.validation, cifar10.test):
        np.testing.assert_allclose(split.mean, expected, rtol=1e-6)
        np.testing.assert_allclose(split.images, split.pixels - split.mean)
    np.testing.assert_allclose(cifar10.train.images.mean(axis=0), 0, atol=1e-4)


def test_the_validation_split_is_drawn_at_random_and_always_the_same(small):
    whole = get_cifar10(small, one_hot=False).train
    one = get_cifar10(small, validation_size=20, seed=1, one_hot=False)
    two = get_cifar10(small, validation_size=20, seed=2, one_hot=False)
    np.testing.assert_array_equal(one.validation.pixels, two.validation.pixels)
    both = np.concatenate([one.train.pixels, one.validation.pixels])
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.pixels))
    assert not np.array_equal(one.validation.pixels, whole.pixels[:20])
    labels = {bytes(p): label for p, label in zip(whole.pixels, whole.labels, strict=True)}
    assert [labels[bytes(p)] for p in one.validation.pixels] == one.validation.labels.tolist()


@pytest.mark.parametrize("size", [-1, 5 * N])
def test_a_validation_size_out_of_range_is_refused(small, size):
    with pytest.raises(ValueError, match=f"validation_size is {size}"):
        get_cifar10(small, validation_size=size)


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


def test_the_folder_or_its_parent_will_do(small):
    for folder in (small, small.parent, str(small)):
        assert get_cifar10(folder).train.num_examples == 5 * N


def test_missing_data_names_the_paths_and_the_command_and_makes_nothing(tmp_path):
    target = tmp_path / "typo"
    with pytest.raises(FileNotFoundError) as error:
        get_cifar10(target)
    for part in (str(target), str(target / cifar10_utils.FOLDER), "python cifar10_utils.py"):
        assert part in str(error.value)
    assert not target.exists()


def test_a_missing_file_is_named(small):
    (small / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="lacks data_batch_3;"):
        get_cifar10(small)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        get_cifar10(tmp_path / "file")


# Files that are wrong


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_an_altered_or_truncated_file_is_refused_by_its_sum(small, name):
    whole = (small / name).read_bytes()
    for wrong in (whole[:-1], whole[:-5] + b"x" + whole[-4:], b""):
        (small / name).write_bytes(wrong)
        with pytest.raises(DataError, match=f"{name}: truncated or altered: its MD5 is"):
            get_cifar10(small)


def test_a_giant_file_is_refused_unread(small, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "MAX_FILE", 1000)
    with pytest.raises(DataError, match="data_batch_1: far larger"):
        get_cifar10(small)


def good_batch():
    rng = np.random.default_rng(1)
    return batch_bytes(rng.integers(0, 256, (N, 3072), np.uint8), range(N))


def test_parse_batch_reads_a_batch():
    pixels, labels = parse_batch(good_batch())
    assert (pixels.shape, pixels.dtype, labels.shape) == ((N, 3, 32, 32), np.uint8, (N,))


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        (b"numpy\nndarray", b"posix\nsystem", "asks for posix.system"),
        (b"numpy\ndtype", b"builtins\neval", "asks for builtins.eval"),
        (b"numpy\ndtype", b"numpy\nmemmap", "asks for numpy.memmap"),
        (b"numpy\ndtype", b"numpy.dtype\nnewbyteorder", "asks for numpy.dtype.newbyteorder"),
        (b"U\x02u1", b"U\x02f4", "rows of 3072 bytes"),
        (b"U\x02u1", b"U\x02O8", "rows of 3072 bytes"),
        (b"M\x00\x0c", b"M\xff\xff", "rows of 3072 bytes"),
        (b"U\x04data", b"U\x04dada", "KeyError"),
        (pickle.STOP, b"", "EOFError"),
        (b"\x89T", b"\x88T", "KeyError"),  # NEWTRUE, which no official file has
        (b"K\x09e", b"K\x0ae", "labels beyond"),
        (b"K\x09e", b"e", "no list of 10 labels"),
    ],
)
def test_parse_batch_refuses_what_is_no_batch(old, new, complaint):
    raw = good_batch()
    assert old in raw
    with pytest.raises(DataError, match=complaint):
        parse_batch(new.join(raw.rsplit(old, 1)))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol):
    marker = str(tmp_path / "ran")
    with pytest.raises(DataError):
        parse_batch(pickle.dumps({b"data": Evil(marker), b"labels": []}, protocol))
    assert not os.path.exists(marker)


@pytest.mark.parametrize("size", [2**31 - 1, 2**32 - 1, 10**10])
@pytest.mark.parametrize("opcode", ["BYTEARRAY8", "BINSTRING", "BINBYTES8", "LONG_BINPUT", "FRAME"])
def test_a_forged_length_allocates_nothing(opcode, size):
    width = 8 if opcode in ("BYTEARRAY8", "BINBYTES8", "FRAME") else 4
    raw = b"\x80\x04" + getattr(pickle, opcode) + size.to_bytes(8, "little")[:width] + b"."
    with little_memory(), pytest.raises(DataError) as error:
        parse_batch(raw)
    assert "MemoryError" not in str(error.value)


# Real data, where it is


REAL = Path(cifar10_utils.__file__).parent / cifar10_utils.DEFAULT_DIR
needs_real = pytest.mark.skipif(not REAL.exists(), reason="CIFAR-10 is not in cifar10/")


@needs_real
def test_real_cifar10():
    cifar10 = get_cifar10(REAL)
    assert (cifar10.train.num_examples, cifar10.test.num_examples) == (50_000, 10_000)
    np.testing.assert_array_equal(cifar10.train.labels.sum(axis=0), 5000)
    np.testing.assert_array_equal(cifar10.test.labels.sum(axis=0), 1000)
    x, _ = cifar10.train.next_batch(5000)
    assert np.sqrt((x**2).mean()) == pytest.approx(cifar10_utils.PIXEL_RMS, rel=0.02)
    assert x.mean() == pytest.approx(0, abs=1)


@needs_real
def test_one_flipped_bit_in_real_data_is_found(tmp_path):
    shutil.copytree(REAL, tmp_path / "data")
    with open(tmp_path / "data" / "data_batch_4", "r+b") as file:
        file.seek(12_345_678)
        byte = file.read(1)[0]
        file.seek(12_345_678)
        file.write(bytes([byte ^ 1]))
    before = listing(tmp_path)
    with pytest.raises(DataError, match=re.escape("data_batch_4: truncated or altered")):
        get_cifar10(tmp_path / "data")
    assert listing(tmp_path) == before
