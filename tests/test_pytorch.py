"""The PyTorch half: parity with the NumPy half, the options of the experiments, devices."""

import itertools
import json

import numpy as np
import pytest
import torch
from test_training import refused
from torch import nn

import mlp_numpy
import train_mlp_numpy
import train_mlp_pytorch as trainer
from augmentation import distort, mix, move, views
from mlp_pytorch import MLP, Dropout
from modules import CrossEntropyModule, ELUModule, LinearModule, SoftMaxModule
from optimization import follow, make_optimizer, shrink, start_step
from processes import Processes

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def twins(n_hidden, n_inputs=12, n_classes=5):
    """The NumPy and the PyTorch network with the same random parameters, in float64."""
    one = mlp_numpy.MLP(n_inputs, n_hidden, n_classes)
    two = MLP(n_inputs, n_hidden, n_classes, dtype=torch.float64)
    rng = np.random.default_rng(1)
    linears = [module for module in one.modules if module.params]
    with torch.no_grad():
        for module, linear in zip(linears, two.linear_layers(), strict=True):
            for value in module.params.values():
                value[:] = 0.5 * rng.standard_normal(value.shape)
            linear.weight.copy_(torch.from_numpy(module.params["weight"]))
            linear.bias.copy_(torch.from_numpy(module.params["bias"][0]))
    return one, two, linears


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-13)


# Parity


@pytest.mark.parametrize("n_hidden", [[], [7], [7, 6], [4, 5, 6, 7]], ids=str)
@pytest.mark.parametrize("samples", [1, 2, 33])
@pytest.mark.parametrize("labels", ["one-hot", "integer", "soft"])
def test_output_loss_and_every_gradient_equal_autograds_through_ten_steps(
    n_hidden, samples, labels
):
    one, two, linears = twins(n_hidden)
    rng = np.random.default_rng(2)
    optimizer = torch.optim.SGD(two.parameters(), lr=0.1)
    cross_entropy = CrossEntropyModule()
    for _ in range(10):
        x = rng.standard_normal((samples, 3, 2, 2))
        numbers = rng.integers(0, 5, samples)
        y = {
            "integer": numbers,
            "one-hot": np.eye(5)[numbers],
            "soft": rng.dirichlet(np.ones(5), samples),
        }[labels]
        probabilities = one.forward(x)
        loss = cross_entropy.forward(probabilities, y)
        one.backward(cross_entropy.backward(probabilities, y))
        logits = two(torch.from_numpy(x))
        expected = nn.functional.cross_entropy(logits, torch.from_numpy(y))
        optimizer.zero_grad()
        expected.backward()
        assert_close(probabilities, logits.softmax(dim=1))
        assert_close(loss, expected)
        for module, linear in zip(linears, two.linear_layers(), strict=True):
            assert_close(module.grads["weight"], linear.weight.grad)
            assert_close(module.grads["bias"][0], linear.bias.grad)
            for name, gradient in module.grads.items():
                module.params[name] -= 0.1 * gradient
        optimizer.step()


def as_function(module):
    """A NumPy module as a torch function, so that torch can check its gradient."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(module.forward(x.detach().numpy()))

        @staticmethod
        def backward(ctx, dout):
            return torch.from_numpy(module.backward(dout.numpy()))

    return Function.apply


@pytest.mark.parametrize(
    "module, reference",
    [
        (ELUModule(), nn.functional.elu),
        (ELUModule(0.5), lambda x: nn.functional.elu(x, alpha=0.5)),
        (SoftMaxModule(), lambda x: x.softmax(dim=1)),
        (LinearModule(4, 4), None),
    ],
    ids=repr,
)
def test_gradcheck_accepts_the_modules(module, reference):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 4))).requires_grad_()
    assert torch.autograd.gradcheck(as_function(module), x)
    if reference:
        assert_close(module.forward(x.detach().numpy()), reference(x))
        dout = torch.arange(20.0, dtype=torch.float64).reshape(5, 4)
        (expected,) = torch.autograd.grad(reference(x), x, dout)
        assert_close(module.backward(dout.numpy()), expected)


def test_gradcheck_accepts_the_cross_entropy():
    module = CrossEntropyModule()
    y = np.eye(4)[[0, 3, 1, 1, 2]]

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.tensor(module.forward(x.detach().numpy(), y))

        @staticmethod
        def backward(ctx, dout):
            (x,) = ctx.saved_tensors
            return dout * torch.from_numpy(module.backward(x.numpy(), y))

    x = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 1, (5, 4))).requires_grad_()
    assert torch.autograd.gradcheck(Function.apply, x)
    loss = nn.functional.nll_loss(x.log(), torch.from_numpy(y.argmax(axis=1)))
    assert_close(module.forward(x.detach().numpy(), y), loss)
    (expected,) = torch.autograd.grad(loss, x)
    assert_close(module.backward(x.detach().numpy(), y), expected)


def test_elu_at_zero_has_torchs_gradient():
    for alpha in (0.5, 1.0, 2.0):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        nn.functional.elu(x, alpha=alpha).backward()
        elu = ELUModule(alpha)
        elu.forward(np.zeros(1))
        assert elu.backward(np.ones(1)) == x.grad.item()


@pytest.mark.parametrize("n_hidden", [[], [100], [30, 20, 10]], ids=str)
def test_both_networks_draw_the_same_initial_weights(n_hidden):
    one = mlp_numpy.MLP(3072, n_hidden, 10, seed=3, input_scale=64, dtype=np.float32)
    two = MLP(3072, n_hidden, 10, seed=3, input_scale=64)
    linears = [module for module in one.modules if module.params]
    for module, linear in zip(linears, two.linear_layers(), strict=True):
        np.testing.assert_array_equal(module.params["weight"], linear.weight.detach().numpy())
        np.testing.assert_array_equal(module.params["bias"][0], linear.bias.detach().numpy())


def test_both_trainers_agree_in_float64_over_fifty_steps(data, monkeypatch, tmp_path):
    """The trainers themselves, with the networks in float64: every loss to 1e-9."""
    monkeypatch.setattr(
        train_mlp_numpy, "MLP", lambda *a, dtype, **k: mlp_numpy.MLP(*a, dtype=np.float64, **k)
    )
    monkeypatch.setattr(trainer, "MLP", lambda *a, **k: MLP(*a, dtype=torch.float64, **k))
    as_float = trainer.TensorData._as_float
    monkeypatch.setattr(trainer.TensorData, "_as_float", lambda *a: as_float(*a).double())
    flags = ["--data_dir", data, "--max_steps", "50", "--batch_size", "20", "--eval_freq", "1"]
    flags += ["--dnn_hidden_units", "20,15"]
    one, two = (
        main([*flags, "--run_dir", str(tmp_path / name)])
        for name, main in (("numpy", train_mlp_numpy.main), ("pytorch", trainer.main))
    )
    assert one["train_loss"][-1] < one["train_loss"][0] - 0.1
    for column in one:
        np.testing.assert_allclose(one[column], two[column], rtol=1e-9, atol=1e-7)
    for column in ("train_loss", "test_loss"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-9)


# The network


def test_the_network_has_the_layers_asked_for():
    mlp = MLP(6, [5, 4], 3, activation="gelu", normalization="layer", dropout=0.5)
    kinds = [nn.Linear, nn.LayerNorm, nn.GELU, Dropout] * 2 + [nn.Linear]
    assert [type(layer) for layer in mlp.layers] == kinds
    assert [type(layer) for layer in MLP(6, [], 3, dropout=0.5).layers] == [nn.Linear]
    assert mlp.device == torch.device("cpu")
    assert MLP(6, [], 3)(torch.zeros(7, 3, 2)).shape == (7, 3)


def test_dropout_keeps_its_share_of_units_and_their_mean():
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    x = torch.ones(1003, 301, requires_grad=True)
    out = dropout(x)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    for share in ((out > 0).float().mean(dim=d) for d in (0, 1)):
        assert abs(share.mean() - 0.75) < 0.005
        assert share.std() < 0.03
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())
    assert dropout.eval()(x) is x


# The trainer's options


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(trainer.training, "draw_curves", lambda *_: None)


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
    monkeypatch.setattr(trainer, "multiplies_bfloat16", lambda device: True)
    plain = history_of(data, tmp_path / "plain", "--learning_rate", 0.01)
    whole = history_of(data, tmp_path / "whole", "--learning_rate", 0.01, *flags)
    assert whole != plain
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(trainer.training.Run, "steps", stopping_after(4))
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
    record = json.loads((tmp_path / "flag" / "run.json").read_text())
    assert record["precision"] == ("bfloat16" if has else "float32")
    assert record["flags"]["bfloat16"]


def stopping_after(last, steps=trainer.training.Run.steps):
    def stopping(self, save):
        for step in steps(self, save):
            yield step
            if step == last:
                raise trainer.training.RunError("stopped by the test")

    return stopping


def test_a_run_goes_on_from_a_checkpoint_between_evaluations(data, tmp_path, monkeypatch):
    whole = history_of(data, tmp_path / "whole", "--eval_freq", 6)
    flags = ["--eval_freq", 6, "--checkpoint_freq", 2]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(trainer.training.Run, "steps", stopping_after(5))
        history_of(data, tmp_path / "again", *flags)
    with monkeypatch.context() as patch:
        taken = []
        patch.setattr(trainer, "start_step", lambda *args: taken.append(args[2]))
        again = history_of(data, tmp_path / "again", *flags, "--resume")
    assert taken == [5, 6]
    assert again == whole


def test_epochs_stand_for_steps(data, tmp_path):
    flags = ["--data_dir", data, "--epochs", "3", "--batch_size", "20", "--run_dir"]
    assert trainer.main([*flags, str(tmp_path / "a")])["step"] == [0, 8]  # 150 / 20, rounded up


def learning_rates(*flags):
    args = trainer.make_parser().parse_args(["--learning_rate", "2", "--max_steps", "10", *flags])
    optimizer = make_optimizer(MLP(4, [], 2), args)
    rates = []
    for step in range(1, 11):
        start_step(optimizer, args, step, Processes())
        rates += {group["lr"] for group in optimizer.param_groups}
    return rates


def test_schedules():
    assert learning_rates() == [2.0] * 10
    np.testing.assert_allclose(learning_rates("--warmup_steps", "4"), [0.5, 1, 1.5, 2] + [2] * 6)
    cosine = learning_rates("--schedule", "cosine", "--warmup_steps", "2")
    assert cosine[:3] == [1, 2, 2] and cosine[6] == pytest.approx(1)
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:]))


def test_weight_decay_spares_biases_and_norms():
    args = trainer.make_parser().parse_args(["--weight_decay", "0.1"])
    matrices, others = make_optimizer(MLP(4, [3], 2, normalization="batch"), args).param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 2)
    assert (others["weight_decay"], len(others["params"])) == (0, 4)


def some_pixels(n):
    return torch.randint(1, 256, (n, 3, 32, 32), dtype=torch.uint8)


def moved(pixels, *flags, fill=0, seed=0):
    torch.manual_seed(seed)
    fill = torch.full((3, 1, 1), fill, dtype=torch.uint8)
    return move(pixels, fill, trainer.make_parser().parse_args(list(map(str, flags))))


def test_first_layer_l1_brings_small_weights_to_zero_and_all_nearer():
    args = trainer.make_parser().parse_args(["--learning_rate", "0.01"])
    layer, strength = nn.Linear(3072, 100), 0.1
    before = layer.weight.detach().clone()
    shrink(layer, strength, make_optimizer(layer, args))
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
    x, targets = mix(nn.functional.one_hot(labels, 10).float().view(-1, 10, 1, 1), labels, 0.4)
    torch.testing.assert_close(x.view(-1, 10), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(1000))
    share = 1 - targets[range(1000), labels]
    assert share.max() < 0.4 and (targets.argmax(dim=1) == labels).all()
    assert share.mean() == pytest.approx(0.9 * 0.2, abs=0.01)  # one in ten meets its own class
    torch.testing.assert_close(mix(x, labels, 0.0)[0], x)


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


def test_receptive_fields_are_local_smooth_and_of_norm_one():
    fields = trainer.receptive_fields(300, seed=1)
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
    assert torch.equal(fields, trainer.receptive_fields(300, seed=1))
    assert not torch.equal(fields, trainer.receptive_fields(300, seed=2))


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
        patch.setattr(trainer.training.Run, "steps", stopping_after(4))
        history_of(data, tmp_path / "again")
    path = tmp_path / "again" / "run.json"
    record = json.loads(path.read_text())
    del record["flags"]["mixup"]
    path.write_text(json.dumps(record))
    assert history_of(data, tmp_path / "again", "--resume") == whole


def test_running_out_of_memory_on_the_cpu_ends_in_a_sentence(data, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr(trainer, "predict", full)
    with pytest.raises(SystemExit) as exit:
        history_of(data, tmp_path / "a")
    assert exit.value.code == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("fewer hidden units or smaller batches")
    )
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "failed"


def test_every_process_of_a_machine_needs_its_own_device(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    args = trainer.make_parser().parse_args(["--use_gpu"])
    with pytest.raises(trainer.training.UsageError, match="needs 2 CUDA .* there are 1"):
        trainer.check_args(args, Processes())


def test_a_process_without_the_data_of_the_first_is_refused(monkeypatch, data):
    processes = Processes()
    monkeypatch.setattr(processes, "share", lambda load: "cifar10")
    args = trainer.make_parser().parse_args(["--synthetic"])
    with pytest.raises(trainer.training.UsageError, match="process 0 finds no cifar10"):
        trainer.load_data(args, processes)


def test_the_average_of_the_weights_is_what_is_evaluated(data, tmp_path):
    still = history_of(data, tmp_path / "a", "--ema", 0.9999, "--learning_rate", 0.01)
    moving = history_of(data, tmp_path / "b", "--learning_rate", 0.01)
    assert still["train_loss"] == moving["train_loss"]
    assert np.ptp(moving["test_loss"]) > 20 * np.ptp(still["test_loss"]) > 0


def test_an_average_follows_the_weights_and_takes_over_the_statistics():
    average, mlp = (MLP(6, [5], 3, seed=seed, normalization="batch") for seed in (1, 2))
    mlp(torch.randn(7, 6))
    before = [value.clone() for value in average.parameters()]
    follow(average, mlp, 0.75)
    for mean, value, old in zip(average.parameters(), mlp.parameters(), before, strict=True):
        torch.testing.assert_close(mean, 0.75 * old + 0.25 * value)
    for mean, value in zip(average.buffers(), mlp.buffers(), strict=True):
        assert torch.equal(mean, value)


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--momentum", "0.9", "--optimizer", "adam"], "--momentum goes with --optimizer sgd"),
        (["--epochs", "3", "--max_steps", "1400"], "--epochs and --max_steps"),
        (["--normalization", "batch", "--batch_size", "1"], "more than one example"),
        (["--distortion", "-0.5"], "'-0.5'"),
        (["--warmup_steps", "10", "--max_steps", "10"], "--warmup_steps 10 leaves no step of 10"),
        (["--warmup_steps", "9", "--epochs", "1"], "--warmup_steps 9 leaves no step of 5"),
        (["--dropout", "0.1", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--local_fields", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--first_layer_l1", "1", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--activation", "relu", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--normalization", "batch", "--dnn_hidden_units", ""], "need a hidden layer"),
        (["--deterministic"], "--deterministic needs --use_gpu"),
        (["--dropout", "0.999"], "'0.999'"),  # a multiple of 1/256: this would drop all units
        (["--momentum", "-0.1"], "'-0.1'"),
        (["--momentum", "1"], "'1'"),
        (["--label_smoothing", "1"], "'1'"),
        (["--ema", "1"], "'1'"),
        (["--weight_decay", "inf"], "'inf'"),
        (["--ema", "nan"], "'nan'"),
        (["--shift", "32"], "'32'"),
        (["--activation", "sigmoid"], "'sigmoid'"),
        (["--activation=--"], "'--' is no value"),
        (["--schedule", "linear"], "'linear'"),
        (["--epochs", "0"], "'0'"),
    ],
    ids=str,
)
def test_contradictory_and_bad_options_are_refused(flags, named, data, tmp_path, capsys):
    argv = ["--data_dir", data, "--batch_size", "10", "--run_dir", str(tmp_path / "a"), *flags]
    assert named in refused(trainer.main, argv, capsys)
    assert list(tmp_path.iterdir()) == []


def test_batch_norm_with_several_cpu_processes_is_refused(data, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["--data_dir", data, "--batch_size", "10", "--normalization", "batch"]
    assert "--normalization batch needs --use_gpu" in refused(trainer.main, argv, capsys)
    argv = ["--data_dir", data, "--batch_size", "5"]
    assert "--batch_size 5 does not divide into 2" in refused(trainer.main, argv, capsys)


# Devices


def test_use_gpu_without_one_is_refused(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    argv = ["--data_dir", data, "--batch_size", "10", "--run_dir", str(tmp_path / "a"), "--use_gpu"]
    assert "--use_gpu needs 1 CUDA device(s), but there are 0" in refused(
        trainer.main, argv, capsys
    )
    assert list(tmp_path.iterdir()) == []


@needs_gpu
def test_on_a_gpu_everything_is_there_and_the_curve_is_the_cpus(data, tmp_path, monkeypatch):
    devices = set()
    next_batch = trainer.TensorData.next_batch

    def watched(self, batch_size):
        x, y = next_batch(self, batch_size)
        devices.update(t.device.type for t in (x, y, self.pixels, self.labels))
        assert self.pixels.dtype == torch.uint8
        return x, y

    monkeypatch.setattr(trainer.TensorData, "next_batch", watched)
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

    def stop(*_):
        assert torch.are_deterministic_algorithms_enabled()
        assert trainer.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
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
