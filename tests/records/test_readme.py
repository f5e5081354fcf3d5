"""What the README shows can be typed: its commands, its flags, and its lines of Python."""

import importlib
import re
import shlex
import shutil

import pytest
from common import ROOT

import cifar10_utils
import train_mlp_numpy
import train_mlp_pytorch
from training import flags

README = (ROOT / "README.md").read_text()
PARSERS = {
    "train_mlp_numpy.py": lambda: flags.make_parser("numpy"),
    "train_mlp_pytorch.py": train_mlp_pytorch.make_parser,
}
COMMANDS = re.findall(  # of this commit
    r"^(?:pip install .* && )?(?:python|torchrun [-\w=]+) (train_mlp_\w+\.py.*)$", README, re.M
)


def test_every_flag_of_both_trainers_is_explained_with_its_default():
    rows = re.findall(r"^\| `(--\w+)` \| (?:`(.*)`)? ?\|", README, re.M)
    explained = dict(rows)
    args = vars(flags.make_parser("numpy").parse_args([]))
    assert args.pop("framework") == "numpy"
    assert list(explained) == [f"--{name}" for name in args]
    for name, value in args.items():
        if value and name != "dnn_hidden_units":
            assert float(explained[f"--{name}"]) == value
    assert explained["--dnn_hidden_units"] == ",".join(map(str, args["dnn_hidden_units"]))


def test_the_help_explains_the_others():
    assert "`python train_mlp_pytorch.py --help`" in README
    actions = train_mlp_pytorch.make_parser()._actions
    assert len(actions) >= 30 and all(action.help for action in actions)


def test_the_scripts_exist():
    scripts = set(re.findall(r"^(?:.* && )?python ([\w/]+\.py)", README, re.M))
    assert "train_mlp_numpy.py" in scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script
    for module in set(re.findall(r"python -m ((?:report|plots)\.\w+)", README)):
        assert importlib.util.find_spec(module), module
    for path in set(re.findall(r"\btests/[\w/.]+", README)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_of_a_command_are_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)  # from where argument files are named
    script, *argv = shlex.split(command, comments=True)
    flags.parse(PARSERS[script](), argv)


BLOCKS = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "load_weights" in b]


def test_weights_are_loaded_in_numpy_and_in_pytorch():
    trainers = [re.search(r"from train_mlp_(\w+) import make_mlp", block)[1] for block in BLOCKS]
    assert trainers == ["numpy", "pytorch"]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_lines_that_load_weights_and_classify_an_image(
    block, data, tmp_path, no_curves, monkeypatch, capsys
):
    """As they stand, in a folder with data and a run of the name that they give."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path / cifar10_utils.DEFAULT_DIR)
    trainer = train_mlp_pytorch if "train_mlp_pytorch" in block else train_mlp_numpy
    run_dir = re.search(r'load_weights\("(.+?)"\)', block)[1]
    trainer.main(["--max_steps", "1", "--batch_size", "20", "--run_dir", run_dir])
    capsys.readouterr()
    exec(block, {})
    assert capsys.readouterr().out.strip() in cifar10_utils.CLASSES
