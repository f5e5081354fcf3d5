"""The options of the PyTorch trainer: experiments, augmentation, devices."""

import itertools
import json
import os

import numpy as np
import pytest
import torch
from common import failed, record_of
from torch import nn

import train_mlp_pytorch as trainer
from mlp_pytorch import MLP
from training.augmentation import distort, flip_and_shift, local_fields, mixup, views
from training.data_pytorch import TensorData
from training.errors import RunError
from training.optimization import Optimizer, l1_proximal_step, update_ema
from training.run import Run

pytestmark = pytest.mark.usefixtures("no_curves")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def history_of(data, folder, *flags):
    return trainer.main(
        ["--data_dir", data, "--dnn_hidden_units", "8", "--max_steps", "6", "--batch_size", "10"]
        + ["--eval_freq", "2", "--run_dir", str(folder), *map(str, flags)]
    )


OPTIONS = [
    ["--activation", "tanh"],
    ["--activation", "relu"],
    ["--activation", "gelu"],
    ["--momentum", 0.9],
    ["--optimizer", "adam"],
    ["--optimizer", "adamw"],
    ["--optimizer", "adamw", "--weight_decay", 100],
    ["--weight_decay", 1],
    ["--l1", 0.1],
    ["--first_layer_l1", 0.1],
    ["--dropout", 0.5],
    ["--normalization", "batch"],
    ["--normalization", "layer"],
    ["--standardize"],
    ["--schedule", "cosine"],
    ["--warmup_steps", 3],
    ["--label_smoothing", 0.1],
    ["--flip"],
    ["--shift", 4],
    ["--distortion", 0.1],
    ["--mixup", 0.4],
    ["--bfloat16"],
    ["--ema", 0.5],
    ["--test_time_averaging"],
    ["--local_fields"],
]


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
    line = "no bfloat16 instructions here: --bfloat16 multiplies in float32\n"
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


def test_a_run_goes_on_from_a_checkpoint_between_evaluations(data, tmp_path, monkeypatch):
    whole = history_of(data, tmp_path / "whole", "--eval_freq", 6)
    flags = ["--eval_freq", 6, "--checkpoint_freq", 2]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Run, "steps", stopping_after(5))
        history_of(data, tmp_path / "again", *flags)
    with monkeypatch.context() as patch:
        taken = []
        patch.setattr(Optimizer, "set_learning_rate", lambda self, step: taken.append(step))
        again = history_of(data, tmp_path / "again", *flags, "--resume")
    assert taken == [5, 6]
    assert again == whole


def test_epochs_stand_for_steps(data, tmp_path):
    flags = ["--data_dir", data, "--epochs", "3", "--batch_size", "20", "--run_dir"]
    assert trainer.main([*flags, str(tmp_path / "a")])["step"] == [0, 8]  # 150 / 20, rounded up


def options(*flags):
    return trainer.make_parser().parse_args(list(map(str, flags)))


def optimizer_of(mlp, *flags):
    return Optimizer(mlp, options(*flags), steps=10)


def learning_rates(*flags):
    optimizer = optimizer_of(MLP(4, [], 2), "--learning_rate", 2, *flags)
    rates = []
    for step in range(1, 11):
        optimizer.set_learning_rate(step)
        rates += {group["lr"] for group in optimizer.optimizer.param_groups}
    return rates


def test_schedules():
    assert learning_rates() == [2.0] * 10
    np.testing.assert_allclose(learning_rates("--warmup_steps", "4"), [0.5, 1, 1.5, 2] + [2] * 6)
    cosine = learning_rates("--schedule", "cosine", "--warmup_steps", "2")
    assert cosine[:3] == [1, 2, 2] and cosine[6] == pytest.approx(1)
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:]))


def test_weight_decay_spares_biases_and_norms():
    optimizer = optimizer_of(MLP(4, [3], 2, normalization="batch"), "--weight_decay", 0.1)
    matrices, others = optimizer.optimizer.param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 2)
    assert (others["weight_decay"], len(others["params"])) == (0, 4)


def some_pixels(n):
    return torch.randint(1, 256, (n, 3, 32, 32), dtype=torch.uint8)


def moved(pixels, *flags, fill=0, seed=0):
    torch.manual_seed(seed)
    fill = torch.full((3, 1, 1), fill, dtype=torch.uint8)
    args = options(*flags)
    return flip_and_shift(pixels, fill, args.flip, args.shift)


def test_first_layer_l1_brings_small_weights_to_zero_and_all_nearer():
    layer = nn.Linear(3072, 100)
    before = layer.weight.detach().clone()
    l1_proximal_step(layer.weight, 0.001)
    near = before.abs() <= 0.001
    assert 0 < near.sum() < near.numel()
    assert not layer.weight[near].any()
    assert torch.allclose(layer.weight[~near], (before - 0.001 * before.sign())[~near])


def test_flip_mirrors_about_half_of_the_images():
    x = some_pixels(200)
    out = moved(x, "--flip")
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shift_moves_each_image_by_its_own_few_pixels_and_fills_the_edges():
    x = some_pixels(200)
    out = moved(x, "--shift", 2, fill=7)
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


def test_the_views_of_an_image_are_its_moves_and_their_mirror_images():
    x = torch.rand(5, 3, 32, 32)
    found = list(views(x))
    assert len(found) == 18 and len({view[0].numpy().tobytes() for view in found}) == 18
    assert sum(torch.equal(view, x) for view in found) == 1
    for view, mirrored in zip(found[::2], found[1::2], strict=True):
        assert torch.equal(view.flip(3), mirrored)
    down_and_right = found[0]
    assert torch.equal(down_and_right[:, :, 2:, 2:], x[:, :, :-2, :-2])
    assert not down_and_right[:, :, :2].any() and not down_and_right[:, :, :, :2].any()


def test_local_fields_are_local_smooth_and_of_norm_one():
    fields = local_fields(300, seed=1)
    torch.testing.assert_close(fields.norm(dim=1), torch.ones(300))
    energy = (fields**2).view(300, 3, 32, 32).sum(dim=1)
    place = torch.arange(32.0)
    middle = (energy.sum(dim=2) @ place)[:, None]
    spread = (energy.sum(dim=2) * (place - middle) ** 2).sum(dim=1).sqrt()
    assert spread.median() < 4
    assert middle.min() < 4 and middle.max() > 27
    patterns = fields.view(900, 32, 32)
    neighbours = (patterns[:, 1:] * patterns[:, :-1]).sum() / (patterns[:, 1:] ** 2).sum()
    assert 0.6 < neighbours < 1
    assert torch.equal(fields, local_fields(300, seed=1))
    assert not torch.equal(fields, local_fields(300, seed=2))


def test_evaluation_is_neither_augmented_nor_dropped_out(data, tmp_path, monkeypatch):
    seen = []
    evaluate = trainer.evaluate

    def twice(*args):
        seen.append((evaluate(*args), evaluate(*args)))
        return seen[-1][0]

    monkeypatch.setattr(trainer, "evaluate", twice)
    history_of(data, tmp_path / "a", "--dropout", 0.5, "--flip", "--shift", 8)
    assert all(a == b for a, b in seen)


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


def test_the_average_of_the_weights_is_what_is_evaluated(data, tmp_path):
    still = history_of(data, tmp_path / "a", "--ema", 0.9999, "--learning_rate", 0.01)
    moving = history_of(data, tmp_path / "b", "--learning_rate", 0.01)
    assert still["train_loss"] == moving["train_loss"]
    assert np.ptp(moving["test_loss"]) > 20 * np.ptp(still["test_loss"]) > 0


def test_an_average_follows_the_weights_and_takes_over_the_statistics():
    average, mlp = (MLP(6, [5], 3, seed=seed, normalization="batch") for seed in (1, 2))
    mlp(torch.randn(7, 6))
    before = [value.clone() for value in average.parameters()]
    update_ema(average, mlp, 0.75)
    for mean, value, old in zip(average.parameters(), mlp.parameters(), before, strict=True):
        torch.testing.assert_close(mean, 0.75 * old + 0.25 * value)
    for mean, value in zip(average.buffers(), mlp.buffers(), strict=True):
        assert torch.equal(mean, value)


# Devices


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
        gpu = history_of(data, tmp_path / "gpu", "--use_gpu", "--deterministic")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert devices == {"cuda"}
    for column in cpu:
        np.testing.assert_allclose(cpu[column], gpu[column], rtol=2e-3, atol=0.003)


def test_deterministic_is_switched_on(data, tmp_path, monkeypatch):
    """The setting is read back where training begins; the CPU stands in for the GPU."""

    class Reached(Exception):
        pass

    def stop(*_, **__):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise Reached

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(trainer, "load_data", stop)
    try:
        with pytest.raises(Reached):
            history_of(data, tmp_path / "a", "--use_gpu", "--deterministic")
    finally:
        torch.use_deterministic_algorithms(False)
