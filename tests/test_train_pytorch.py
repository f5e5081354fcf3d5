"""The options of the PyTorch trainer: experiments, augmentation, devices."""

import itertools
import json
import os

import numpy as np
import pytest
import torch
from common import Killed, failed, record_of
from torch import nn

import cifar10_utils
import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from training.augmentation import cutout, distort, flip_and_shift, mixup, recolour, views
from training.data_pytorch import TensorData
from training.errors import RunError
from training.files import load_weights
from training.optimization import make_optimizer, set_learning_rate
from training.processes import Processes
from training.run import Run

pytestmark = pytest.mark.usefixtures("no_curves")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def history_of(data, folder, *flags):
    return trainer.main(
        ["--data_dir", data, "--dnn_hidden_units", "8", "--max_steps", "6", "--batch_size", "10"]
        + ["--eval_freq", "2", "--run_dir", str(folder), *map(str, flags)]
    )


OPTIONS = [
    ["--activation", "tanh"], ["--activation", "relu"], ["--activation", "gelu"],
    ["--momentum", 0.9], ["--optimizer", "adam"], ["--optimizer", "adamw"],
    ["--optimizer", "adamw", "--weight_decay", 100], ["--weight_decay", 1], ["--l1", 0.1],
    ["--dropout", 0.5], ["--normalization", "batch"], ["--normalization", "layer"],
    ["--standardize"], ["--schedule", "cosine"], ["--warmup_steps", 3], ["--label_smoothing", 0.1],
    ["--flip"], ["--shift", 4], ["--distortion", 0.1], ["--cutout", 8], ["--recolour", 0.1],
    ["--mixup", 0.4], ["--half_resolution"], ["--bfloat16"], ["--test_time_averaging"],
    ["--clean_images", 30], ["--test_at_end"],
]  # fmt: skip


@pytest.mark.parametrize("flags", OPTIONS, ids=lambda flags: " ".join(map(str, flags)))
def test_every_option_changes_the_run_and_resumes_exactly(flags, data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "has_bfloat16", lambda use_gpu: True)
    plain = history_of(data, tmp_path / "plain", "--learning_rate", 0.01)
    whole = history_of(data, tmp_path / "whole", "--learning_rate", 0.01, *flags)
    assert whole != plain
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Run, "steps", stopping_after(4))
        history_of(data, tmp_path / "again", "--learning_rate", 0.01, *flags)
    history_of(data, tmp_path / "again", "--learning_rate", 0.01, *flags, "--resume")
    files = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_for_processors_that_have_it(has, data, tmp_path, monkeypatch, capsys):
    found = {"avx512_bf16": has, "avx2": True, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    plain = history_of(data, tmp_path / "plain")
    assert (history_of(data, tmp_path / "flag", "--bfloat16") == plain) == (not has)
    line = "no bfloat16 instructions here: matrices are multiplied in float32\n"
    assert (line in capsys.readouterr().err) == (not has)
    record = record_of(tmp_path / "flag")
    assert record["precision"] == ("bfloat16" if has else "float32")
    assert record["flags"]["bfloat16"]


def stopping_after(last, steps=Run.steps):
    def stopping(self):
        for step in steps(self):
            yield step
            if step == last:
                raise RunError("stopped by the test")

    return stopping


def test_at_end_the_test_set_is_read_once_and_the_rows_before_are_empty(
    data, tmp_path, monkeypatch
):
    plain = history_of(data, tmp_path / "plain")
    read, batches = [], TensorData.batches
    with monkeypatch.context() as patch:
        patch.setattr(TensorData, "batches", lambda self, n: read.append(self) or batches(self, n))
        history = history_of(data, tmp_path / "flag", "--test_at_end")
    assert len(read) == 1
    assert history == plain | {
        name: [None, None, None, plain[name][-1]] for name in ("test_loss", "test_accuracy")
    }
    rows = (tmp_path / "flag" / "metrics.csv").read_text().splitlines()
    assert [row.endswith(",,") for row in rows[1:]] == [True, True, True, False]
    assert rows[-1].split(",")[-2] == repr(plain["test_loss"][-1])
    assert history_of(data, tmp_path / "flag", "--test_at_end", "--resume") == history


def test_clean_images_are_training_images_that_nothing_alters(data, tmp_path):
    flags = ["--flip", "--shift", 4, "--dropout", 0.5, "--validation_size", 15]
    plain = history_of(data, tmp_path / "plain", *flags)
    history = history_of(data, tmp_path / "clean", *flags, "--clean_images", 20)
    assert list(history) == [
        *("step", "train_loss", "train_accuracy", "clean_loss", "clean_accuracy"),
        *("val_loss", "val_accuracy"),
    ]
    assert {name: history[name] for name in plain} == plain
    split = cifar10_utils.get_cifar10(data, one_hot=False, validation_size=15)
    few = cifar10_utils.DataSet(split.train.pixels[:20], split.train.labels[:20], split.train.mean,
                                one_hot=False)  # fmt: skip
    args = options("--dropout", 0.5)
    args.dnn_hidden_units = [8]
    mlp = trainer.make_mlp(args)
    mlp.load_state_dict(load_weights(tmp_path / "clean"))
    expected = trainer.evaluate(mlp, TensorData(few, "cpu", Processes(), args))
    best = np.argmax(history["val_accuracy"])
    assert (history["clean_loss"][best], history["clean_accuracy"][best]) == tuple(expected)


def test_epochs_stand_for_steps(data, tmp_path):
    flags = ["--data_dir", data, "--epochs", "3", "--batch_size", "20", "--run_dir"]
    assert trainer.main([*flags, str(tmp_path / "a")])["step"] == [0, 8]  # 150 / 20, rounded up


def options(*flags):
    return trainer.make_parser().parse_args(list(map(str, flags)))


def learning_rates(*flags):
    args, rates = options("--learning_rate", 2, *flags), []
    optimizer = make_optimizer(MLP(4, [], 2), args)
    for step in range(1, 11):
        set_learning_rate(optimizer, args, step, 10)
        rates += {group["lr"] for group in optimizer.param_groups}
    return rates


def test_schedules():
    assert learning_rates() == [2.0] * 10
    np.testing.assert_allclose(learning_rates("--warmup_steps", "4"), [0.5, 1, 1.5, 2] + [2] * 6)
    cosine = learning_rates("--schedule", "cosine", "--warmup_steps", "2")
    assert cosine[:3] == [1, 2, 2] and cosine[6] == pytest.approx(1)
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:]))


def test_weight_decay_spares_biases_and_norms():
    mlp = MLP(4, [3], 2, normalization="batch")
    matrices, others = make_optimizer(mlp, options("--weight_decay", 0.1)).param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 2)
    assert (others["weight_decay"], len(others["params"])) == (0, 4)


def test_l1_moves_the_weights_towards_zero_and_spares_biases():
    mlp = MLP(4, [3], 2)
    optimizer = make_optimizer(mlp, options("--l1", 0.1, "--learning_rate", 0.5))
    before = {name: parameter.detach().clone() for name, parameter in mlp.named_parameters()}
    for parameter in mlp.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in mlp.named_parameters():
        start = before[name]
        towards_zero = start - 0.05 * start.sign() if name.endswith("weight") else start
        torch.testing.assert_close(parameter.detach(), towards_zero)


def some_pixels(n):
    torch.manual_seed(0)
    return torch.randint(1, 256, (n, 3, 32, 32), dtype=torch.uint8)


def test_flip_mirrors_about_half_of_the_images():
    x = some_pixels(200)
    out = flip_and_shift(x, None, True, 0)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shift_moves_each_image_by_its_own_few_pixels_and_fills_the_edges():
    x = some_pixels(200)
    out = flip_and_shift(x, torch.full((3, 1, 1), 7, dtype=torch.uint8), False, 2)
    padded = nn.functional.pad(x, (2, 2, 2, 2), value=7)
    moves = [(dy, dx) for dy in range(5) for dx in range(5)]
    windows = torch.stack([padded[:, :, dy : 32 + dy, dx : 32 + dx] for dy, dx in moves])
    found = (windows == out).flatten(start_dim=2).all(dim=2)  # (25, 200)
    assert (found.sum(dim=0) == 1).all()
    assert found.any(dim=1).all()


def test_distortion_is_a_linear_map_about_the_middle():
    torch.manual_seed(0)
    x = torch.rand(50, 3, 32, 32)
    torch.testing.assert_close(distort(x, 0.0), x, atol=1e-4, rtol=0)
    place = torch.arange(32.0) - 15.5
    ramps = torch.stack([place.expand(32, 32), place[:, None].expand(32, 32)])[None]
    seen = distort(ramps.repeat(2000, 1, 1, 1), 0.1)[:, :, 12:20, 12:20]
    middle = place[12:20].expand(8, 8)
    slopes = [(seen * m).sum(dim=(2, 3)) / (middle**2).sum() for m in (middle, middle.T)]
    maps = torch.stack(slopes, dim=2)  # (S, 2, 2), one for each image
    torch.testing.assert_close(maps.mean(dim=0), torch.eye(2), atol=0.01, rtol=0)
    torch.testing.assert_close(maps.std(dim=0), torch.full((2, 2), 0.1), atol=0.01, rtol=0)
    back = maps @ torch.stack([middle, middle.T]).flatten(start_dim=1)
    torch.testing.assert_close(seen.flatten(start_dim=2), back, atol=1e-3, rtol=0)


def test_cutout_covers_one_square_of_each_image():
    torch.manual_seed(0)
    covered = cutout(torch.ones(2000, 3, 32, 32), 8) == 0
    assert (covered == covered[:, :1]).all()
    rows, columns = covered[:, 0].any(dim=2), covered[:, 0].any(dim=1)
    assert (covered[:, 0] == rows[:, :, None] & columns[:, None, :]).all()
    for sides in (rows, columns):
        sizes = sides.sum(dim=1)
        assert (sizes.min(), sizes.max()) == (4, 8)  # at an edge, half of it lies outside
        assert (sides.diff(dim=1).sum(dim=1) <= 2).all()  # one piece
        assert sides.any(dim=0).all()
    assert len(covered.unique(dim=0)) > 800


def test_recolour_changes_contrast_brightness_and_colours_of_each_image():
    x = torch.randn(1, 3, 32, 32).expand(4000, -1, -1, -1)
    torch.manual_seed(0)
    y = recolour(x, 0.1, 1)
    contrast = y.std(dim=(2, 3)) / x.std(dim=(2, 3))
    torch.testing.assert_close(contrast, contrast[:, :1].expand(-1, 3))
    moved = y.mean(dim=(2, 3)) - contrast * x.mean(dim=(2, 3))
    expected = {"contrast": 0.1, "all colours": 0.1 * (1 + 1 / 3) ** 0.5, "one colour": 0.1}
    found = {
        "contrast": contrast[:, 0].std().item(),
        "all colours": moved.mean(dim=1).std().item(),
        "one colour": (moved[:, 0] - moved[:, 1]).std().item() / 2**0.5,
    }
    assert found == pytest.approx(expected, rel=0.05)
    torch.manual_seed(0)
    moved_more = recolour(x, 0.1, 64).mean(dim=(2, 3)) - contrast * x.mean(dim=(2, 3))
    torch.testing.assert_close(moved_more, 64 * moved, rtol=1e-3, atol=1e-3)


def test_mixup_blends_each_image_and_its_target_with_another_one_alike():
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(100)
    x, targets = mixup(nn.functional.one_hot(labels, 10).float().view(-1, 10, 1, 1), labels, 0.4)
    torch.testing.assert_close(x.view(-1, 10), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(1000))
    share = 1 - targets[range(1000), labels]
    assert share.max() < 0.4 and (targets.argmax(dim=1) == labels).all()
    assert share.mean() == pytest.approx(0.9 * 0.2, abs=0.01)  # one in ten meets its own class
    torch.testing.assert_close(mixup(x, labels, 0.0)[0], x)


def test_accuracy_goes_by_the_largest_share_of_mixed_labels():
    logits = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 0.0]])
    assert trainer.accuracy(logits, torch.tensor([1, 2])) == 0.5
    assert trainer.accuracy(logits, torch.tensor([[0.3, 0.6, 0.1], [0.4, 0.0, 0.6]])) == 0.5


def test_the_views_of_an_image_are_its_moves_at_three_sizes_and_their_mirror_images():
    x = torch.rand(5, 3, 32, 32)
    found = torch.stack(list(views(x)))
    assert len(found) == len(found.unique(dim=0)) == 150
    torch.testing.assert_close(found[::2].flip(4), found[1::2])
    larger, same, smaller = found[::2].unflatten(0, (3, 25))
    torch.testing.assert_close(same[12], x, atol=1e-4, rtol=0)
    up_and_left = same[24]
    torch.testing.assert_close(up_and_left[:, :, :-4, :-4], x[:, :, 4:, 4:], atol=1e-4, rtol=0)
    assert not up_and_left[:, :, -4:].any() and not up_and_left[:, :, :, -4:].any()
    square = torch.zeros(5, 3, 32, 32)
    square[:, :, 8:24, 8:24] = 1
    larger, same, smaller = torch.stack(list(views(square)))[::2].unflatten(0, (3, 25))
    sides = [zoomed[12, 0, 0].sum().sqrt().item() for zoomed in (larger, same, smaller)]
    assert sides == pytest.approx([16 / 0.85, 16, 16 / 1.15], rel=0.01)


def test_a_run_begun_before_a_flag_existed_goes_on(data, tmp_path, monkeypatch):
    whole = history_of(data, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Run, "steps", stopping_after(4))
        history_of(data, tmp_path / "again")
    path = tmp_path / "again" / "run.json"
    record = json.loads(path.read_text())
    del record["flags"]["mixup"]
    path.write_text(json.dumps(record))
    assert history_of(data, tmp_path / "again", "--resume") == whole


def test_running_out_of_memory_on_the_cpu_ends_in_a_sentence(data, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr(trainer, "evaluate", full)
    line = failed(history_of, data, tmp_path / "a")
    assert line.endswith("fewer hidden units or smaller batches")
    assert record_of(tmp_path / "a")["status"] == "failed"


@needs_gpu
def test_on_a_gpu_everything_is_there_and_the_curve_is_the_cpus(data, tmp_path, monkeypatch):
    devices = set()
    next_batch = TensorData.next_batch

    def watched(self, batch_size):
        x, y = next_batch(self, batch_size)
        devices.update(t.device.type for t in (x, y, self.pixels, self.labels))
        assert self.pixels.dtype == torch.uint8
        return x, y

    monkeypatch.setattr(TensorData, "next_batch", watched)
    cpu = history_of(data, tmp_path / "cpu")
    devices.clear()
    try:
        gpu = history_of(data, tmp_path / "gpu", "--use_gpu")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert devices == {"cuda"}
    for column in cpu:
        np.testing.assert_allclose(cpu[column], gpu[column], rtol=2e-3, atol=0.003)


def test_a_gpu_computes_deterministically(data, tmp_path, monkeypatch):
    """The setting is read back where training begins; the CPU stands in for the GPU."""

    def stop(*_, **__):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise Killed

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(trainer, "load_data", stop)
    try:
        with pytest.raises(Killed):
            history_of(data, tmp_path / "a", "--use_gpu")
    finally:
        torch.use_deterministic_algorithms(False)
