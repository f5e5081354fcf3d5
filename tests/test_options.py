"""The options of the PyTorch trainer, each in a whole run."""

import json
import os

import numpy as np
import pytest
from common import Killed, ended, failed, interrupted, record_of, results

import cifar10_utils
from training.files import load_weights

pytest.importorskip("torch")
import torch

import train_mlp_pytorch
from training.data_pytorch import TensorData

OPTIONS = [
    "--activation tanh", "--activation relu", "--activation gelu", "--optimizer momentum",
    "--optimizer adam", "--optimizer adamw", "--optimizer adamw --weight_decay 100",
    "--weight_decay 1", "--l1 0.1", "--dropout 0.5", "--normalization batch",
    "--normalization layer", "--standardize", "--half_resolution",
    "--half_resolution --whiten 0.3 --flip", "--schedule cosine", "--warmup_steps 3",
    "--label_smoothing 0.1", "--flip", "--shift 4", "--random_affine 0.1", "--cutout 8",
    "--color_jitter 0.1", "--mixup 0.4", "--bfloat16", "--test_time_augmentation",
    "--train_eval_size 30", "--test_at_end",
]  # fmt: skip


@pytest.fixture
def trainer(no_curves):
    """That of this file: `run` makes PyTorch's runs only."""
    return train_mlp_pytorch


def numbers(folder):
    return (folder / "metrics.csv").read_bytes(), record_of(folder)["test_loss"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_run_and_resumes_exactly(option, run, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    flags = ["--learning_rate", 0.01, *option.split()]
    whole, plain = run("whole", *flags), run("plain", *flags[:2])
    assert numbers(whole) != numbers(plain)
    interrupted(run, "again", *flags)
    assert results(run("again", "--resume")) == results(whole)


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_for_processors_that_have_it(has, run, monkeypatch):
    found = {"avx512_bf16": has, "avx2": True, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    run("plain")
    plain = run.history
    said = ended(0, run, "flag", "--bfloat16")
    assert (run.history == plain) == ("float32" in said) == (not has)
    record = record_of(run.folder / "flag")
    assert record["precision"] == ("bfloat16" if has else "float32")
    assert record["flags"]["bfloat16"]


def test_at_end_the_test_set_is_read_once_and_the_rows_before_are_empty(run, monkeypatch):
    run("plain")
    plain, read, batches = run.history, [], TensorData.batches
    monkeypatch.setattr(
        TensorData, "batches", lambda self, n: read.append(self.num_examples) or batches(self, n)
    )
    run("flag", "--test_at_end")
    assert [n for n in read if n] == [10]
    columns = ("test_loss", "test_accuracy")
    assert run.history == plain | {name: [None] * 3 + plain[name][-1:] for name in columns}
    rows = (run.folder / "flag" / "metrics.csv").read_text().splitlines()
    assert [row.endswith(",,") for row in rows[1:]] == [True, True, True, False]
    history = run.history
    run("flag", "--resume")
    assert run.history == history


def test_the_training_images_of_an_evaluation_are_not_augmented(run, data):
    flags = ["--flip", "--shift", 4, "--dropout", 0.5, "--validation_size", 15]
    run("plain", *flags)
    plain = run.history
    folder = run("clean", *flags, "--train_eval_size", 20)
    assert list(run.history)[3:5] == ["clean_loss", "clean_accuracy"]
    assert {name: run.history[name] for name in plain} == plain
    split = cifar10_utils.get_cifar10(data, one_hot=False, validation_size=15).train
    few = cifar10_utils.DataSet(split.pixels[:20], split.labels[:20], split.mean, one_hot=False)
    mlp = train_mlp_pytorch.MLP(3072, [8], 10, dropout=0.5)
    mlp.load_state_dict(load_weights(folder))
    best = np.argmax(run.history["val_accuracy"])
    found = [run.history[name][best] for name in ("clean_loss", "clean_accuracy")]
    assert found == list(train_mlp_pytorch.evaluate(mlp, TensorData(few, "cpu").batches(500)))


def test_epochs_stand_for_steps(data, tmp_path, no_curves):
    flags = ["--data_dir", data, "--epochs", "3", "--batch_size", "20", "--run_dir"]
    history = train_mlp_pytorch.main([*flags, str(tmp_path / "a")])
    assert history["step"] == [0, 8]  # 150 / 20, rounded up


def test_a_run_begun_before_a_flag_existed_goes_on(run):
    whole, path = results(run("whole")), interrupted(run, "a") / "run.json"
    record = json.loads(path.read_text())
    del record["flags"]["mixup"]
    path.write_text(json.dumps(record))
    assert results(run("a", "--resume")) == whole


def test_running_out_of_memory_on_the_cpu_ends_in_a_sentence(run, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr(train_mlp_pytorch, "evaluate", full)
    assert "fewer hidden units" in failed(run, "a")
    assert record_of(run.folder / "a")["status"] == "failed"


# Devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_everything_is_there_and_the_curve_is_the_cpus(run, monkeypatch):
    devices, next_batch = set(), TensorData.next_batch

    def watched(self, batch_size):
        x, y = next_batch(self, batch_size)
        devices.update(t.device.type for t in (x, y, self.pixels, self.labels))
        assert self.pixels.dtype == torch.uint8
        return x, y

    monkeypatch.setattr(TensorData, "next_batch", watched)
    run("cpu")
    cpu = run.history
    devices.clear()
    try:
        run("gpu", "--use_gpu")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert devices == {"cuda"}
    for column in cpu:
        np.testing.assert_allclose(cpu[column], run.history[column], rtol=2e-3, atol=0.003)


def test_a_gpu_computes_deterministically(run, monkeypatch):
    """The setting is read back where training begins; the CPU stands in for the GPU."""

    def stop(*_, **__):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise Killed

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(train_mlp_pytorch, "load_tensors", stop)
    try:
        with pytest.raises(Killed):
            run("a", "--use_gpu")
    finally:
        torch.use_deterministic_algorithms(False)
