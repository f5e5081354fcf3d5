"""What the README shows can be typed: its commands, its flags, and its lines of Python."""

import importlib.util
import re
import shlex
import shutil

import pytest
from common import ROOT

import cifar10_utils

pytest.importorskip("torch")
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
BLOCKS = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "load_weights" in b]


def test_every_flag_of_both_trainers_is_explained_with_its_default():
    explained = dict(re.findall(r"^\| `--(\w+)` \| (?:`(.*)`)? ?\|", README, re.M))
    defaults = vars(flags.make_parser("numpy").parse_args([]))
    assert [*explained] == [name for name in defaults if name != "framework"]
    for name, value in explained.items():
        if defaults[name] and name != "dnn_hidden_units":
            assert float(value) == defaults[name]
    assert explained["dnn_hidden_units"] == ",".join(map(str, defaults["dnn_hidden_units"]))


def test_the_help_explains_the_others():
    assert all(action.help for action in train_mlp_pytorch.make_parser()._actions)


def test_what_is_named_exists():
    for path in re.findall(r"[\w/]+\.(?:py|md|pdf|png)\b", README):
        if not path.startswith("DIR/") and path not in ("curves.png", "compare.png"):
            assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m ((?:report|plots)\.\w+)", README):
        assert importlib.util.find_spec(module), module


def test_the_flags_of_the_commands_are_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)  # from where argument files are named
    scripts = set()
    for command in COMMANDS:
        script, *argv = shlex.split(command, comments=True)
        flags.parse(PARSERS[script](), argv)
        scripts.add(script)
    assert scripts == set(PARSERS)


@pytest.mark.parametrize("framework", ["numpy", "pytorch"])
def test_the_lines_that_load_weights_and_classify_an_image(
    framework, data, tmp_path, no_curves, monkeypatch, capsys
):
    """As they stand, in a folder with data and a run of the name that they give."""
    (block,) = (block for block in BLOCKS if f"from train_mlp_{framework} import" in block)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path / cifar10_utils.DEFAULT_DIR)
    trainer = importlib.import_module(f"train_mlp_{framework}")
    run_dir = re.search(r'load_weights\("(.+?)"\)', block)[1]
    trainer.main(["--max_steps", "1", "--batch_size", "20", "--run_dir", run_dir])
    capsys.readouterr()
    exec(block, {})
    assert capsys.readouterr().out.strip() in cifar10_utils.CLASSES
