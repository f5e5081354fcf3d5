"""The options of the PyTorch trainer, each in a whole run."""

import itertools
import json
import os

import numpy as np
import pytest
from common import ended, failed, interrupted, record_of, results, rows_of

import cifar10_utils
from training.files import load_weights, read_checkpoint, write_checkpoint
from training.folder import load_flags

pytest.importorskip("torch")
import torch

import train_mlp_pytorch
from training import augmentation
from training.data_pytorch import TensorData

OPTIONS = [  # each is tried alone, and with all of its list in one run
    ["--activation tanh", "--optimizer momentum", "--weight_decay 1", "--l1_decay 0.1",
     "--dropout 0.5", "--standardize", "--schedule cosine", "--warmup_steps 3",
     "--label_smoothing 0.1", "--shift 4", "--random_affine 0.1"],
    ["--activation relu", "--optimizer adam", "--normalization batch", "--half_resolution",
     "--half_resolution --whiten 0.3", "--flip", "--mixup 0.4", "--train_eval_size 30",
     "--test_time_augmentation"],
    ["--activation gelu", "--optimizer adamw --weight_decay 1", "--normalization layer",
     "--cutout 8", "--color_jitter 0.1", "--bfloat16", "--test_at_end"],
]  # fmt: skip


@pytest.fixture
def trainer(no_curves):
    """That of this file: `run` makes PyTorch's runs only."""
    return train_mlp_pytorch


@pytest.fixture
def has_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def test_every_option_changes_the_run_in_its_own_way(run, has_bfloat16):
    def numbers(option):
        folder = run(option or "plain", "--learning_rate", 0.01, *option.split(), steps=5)
        return (folder / "metrics.csv").read_bytes(), record_of(folder)["test_loss"]

    found = {option: numbers(option) for option in ["", *itertools.chain(*OPTIONS)]}
    assert [option for option in found if [*found.values()].count(found[option]) > 1] == []


@pytest.mark.parametrize("options", OPTIONS)
def test_with_every_option_a_run_resumes_exactly(options, run, has_bfloat16):
    flags = " ".join(options).split()
    whole = results(run("whole", *flags))
    interrupted(run, "again", *flags)
    assert results(run("again", "--resume")) == whole


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_for_processors_that_have_it(has, run, monkeypatch):
    found = {"avx512_bf16": has, "avx2": True, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    plain = rows_of(run("plain"))
    said = ended(0, run, "flag", "--bfloat16")
    folder = run.folder / "flag"
    assert (rows_of(folder) == plain) == ("float32" in said) == (not has)
    assert record_of(folder)["precision"] == ("bfloat16" if has else "float32")


def test_at_end_the_test_set_is_read_once_and_the_rows_before_are_empty(run, monkeypatch):
    run("plain")
    plain, read, batches = run.history, [], TensorData.batches
    monkeypatch.setattr(
        TensorData, "batches", lambda self, n: read.append(self.num_examples) or batches(self, n)
    )
    folder = run("flag", "--test_at_end")
    assert [n for n in read if n] == [10]
    expected = {name: [None] * 3 + plain[name][-1:] for name in ("test_loss", "test_accuracy")}
    assert run.history == plain | expected
    assert [row["test_loss"] for row in rows_of(folder)][:3] == ["", "", ""]
    run("flag", "--resume")
    assert run.history == plain | expected


def test_the_training_images_of_an_evaluation_are_not_augmented(run, data):
    flags = ["--flip", "--shift", 4, "--dropout", 0.5, "--validation_size", 15]
    run("plain", *flags)
    plain = run.history
    folder = run("clean", *flags, "--train_eval_size", 20)
    assert list(run.history)[3:5] == ["clean_loss", "clean_accuracy"]
    assert {name: run.history[name] for name in plain} == plain
    split = cifar10_utils.get_cifar10(data, one_hot=False, validation_size=15).train
    mlp = train_mlp_pytorch.make_mlp(load_flags(folder))
    mlp.load_state_dict(load_weights(folder))
    best = np.argmax(run.history["val_accuracy"])
    found = run.history["clean_loss"][best], run.history["clean_accuracy"][best]
    few = TensorData(split, "cpu").first(20)
    assert found == train_mlp_pytorch.evaluate(mlp, few.batches(500))


def test_each_split_is_used_for_what_it_is_there_for(run, data):
    flags = ["--half_resolution", "--standardize", "--test_time_augmentation"]
    folder = run("a", *flags, "--validation_size", 15)
    splits = cifar10_utils.get_cifar10(data, one_hot=False, validation_size=15)
    train, val, test = (TensorData(split, "cpu", None, True) for split in splits.values())
    mlp = train_mlp_pytorch.make_mlp(load_flags(folder))
    mlp.load_state_dict(load_weights(folder))
    found = train.second_moments(products=False).rsqrt().float()
    torch.testing.assert_close(mlp.layers[0].map, found)
    for name, split in {"val": val, "test": test}.items():
        views = split.batches(500, whole=True)
        loss, _ = train_mlp_pytorch.evaluate(augmentation.TestTimeAugmentation(mlp, 2), views)
        assert record_of(folder)[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)


def test_epochs_stand_for_steps_in_the_schedule_too(data, tmp_path, no_curves):
    flags = ["--data_dir", data, "--epochs", "3", "--batch_size", "20", "--schedule", "cosine"]
    history = train_mlp_pytorch.main([*flags, "--run_dir", str(tmp_path)])
    assert history["step"] == [0, 8]  # 150 / 20, rounded up
    groups = read_checkpoint(tmp_path / "checkpoint.pt")["optimizer"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(1e-3 * (1 + np.cos(np.pi * 7 / 8)) / 2)


def test_a_run_begun_before_a_flag_existed_goes_on(run):
    whole, folder = results(run("whole")), interrupted(run, "a")
    record, state = record_of(folder), read_checkpoint(folder / "checkpoint.pt")
    progress = json.loads(state["run"]["progress"])
    del record["flags"]["mixup"], progress["flags"]["mixup"]
    (folder / "run.json").write_text(json.dumps(record))
    write_checkpoint(folder / "checkpoint.pt", state | {"run": {"progress": json.dumps(progress)}})
    assert results(run("a", "--resume")) == whole


def test_running_out_of_memory_on_the_cpu_ends_in_a_sentence(run, monkeypatch):
    monkeypatch.setattr(train_mlp_pytorch, "evaluate", lambda *_: torch.empty(2**50))
    assert "fewer hidden units" in failed(run, "a")
    assert record_of(run.folder / "a")["status"] == "failed"


# Devices


def test_a_finished_run_of_a_gpu_is_shown_without_one(run, monkeypatch, capsys):
    folder = run("a")
    record = record_of(folder)
    record["flags"]["use_gpu"] = True
    (folder / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    capsys.readouterr()
    run("a", "--resume")
    assert f"test accuracy {record['test_accuracy']:.4f}" in capsys.readouterr().out
    assert record_of(folder) == record


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_curve_on_a_gpu_is_the_cpus(run):
    run("cpu")
    cpu = run.history
    try:
        run("gpu", "--use_gpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.cuda.max_memory_allocated() > 0
    for column in cpu:
        np.testing.assert_allclose(cpu[column], run.history[column], rtol=2e-3, atol=0.003)


def test_a_gpu_computes_deterministically(run, monkeypatch):
    """The setting is read back where training begins; the CPU stands in for the GPU."""

    def stop(*_, **__):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise KeyboardInterrupt

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(train_mlp_pytorch, "load_tensors", stop)
    try:
        ended(130, run, "a", "--use_gpu")
    finally:
        torch.use_deterministic_algorithms(False)
