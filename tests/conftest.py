"""Options of the grading part: pytest tests --submission=DIR [--report FILE.json]
[--gradescope FILE] [--weights FILE] [--seed N]"""

import importlib
import os
import signal
import threading
import types
from pathlib import Path

import pytest
from grading import feedback, runner
from grading.folder import printable

REPORT, WEIGHTS = pytest.StashKey[dict](), pytest.StashKey[dict]()
FILES = {"--report": runner.save_json, "--gradescope": runner.save_gradescope}


def pytest_addoption(parser, pluginmanager):
    _block_conftests(pluginmanager)
    group = parser.getgroup("grading")
    group.addoption(
        "--submission",
        metavar="DIR",
        help="run only the grading part, on DIR/modules.py and DIR/mlp_numpy.py",
    )
    group.addoption("--report", metavar="FILE.json", help="write the table of the grading part")
    group.addoption("--gradescope", metavar="FILE", help="write it as Gradescope's results.json")
    group.addoption("--weights", metavar="FILE", help="points of the rows: a CSV row,points")
    group.addoption("--seed", type=int, help="of the random sizes and numbers")


def _block_conftests(pluginmanager):
    """Keeps pytest from running the conftest.py of a submission.

    Until the options below are known, pytest takes DIR in `--submission DIR` (without =) for a
    folder of tests, and FILE likewise, and would load every conftest.py there. It loads none
    whose path is already the name of a plugin.
    """
    params = pluginmanager.get_plugin("pytestconfig").invocation_params
    for option, value in zip(params.args, params.args[1:], strict=False):
        if str(option) in ("--submission", "--weights", *FILES):
            path = (params.dir / str(value)).absolute()
            for folder in {path, *path.parents, *path.glob("test*")} - set(Path(__file__).parents):
                name = str(folder / "conftest.py")
                if not pluginmanager.has_plugin(name):
                    pluginmanager.register(types.ModuleType("blocked_conftest"), name)


def pytest_configure(config):
    submission = config.getoption("submission")
    if submission is None and threading.current_thread() is threading.main_thread():
        # A job that a shell starts with & ignores Ctrl-C, and so would every process of the tests.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["OMP_NUM_THREADS"] = "1"  # a core is for one process of the tests
    if any(config.getoption(option) is not None for option in ("--submission", *FILES)):
        config.option.dist = "no"  # the report is made in this process
    if submission is not None and os.name != "posix":
        raise pytest.UsageError("grading needs Linux or macOS")
    if submission is not None and not _absolute(config, submission).is_dir():
        raise pytest.UsageError(f"--submission={submission}: there is no such folder")
    for option in FILES:
        path = config.getoption(option)
        if path is not None and not _absolute(config, path).parent.is_dir():
            raise pytest.UsageError(f"{option} {path}: there is no such folder")
    if (config.getoption("seed") or 0) < 0:
        raise pytest.UsageError("--seed must be 0 or more")
    weights = config.getoption("weights")
    try:
        path = weights and _absolute(config, weights)
        config.stash[WEIGHTS] = feedback.read_weights(path) if path else {}
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--weights={weights}: {error}") from None


def _absolute(config, path):
    """A path as the person at the prompt means it."""
    return (config.invocation_params.dir / path).absolute()


def pytest_ignore_collect(collection_path, config):
    """With --submission, no other test file is so much as imported."""
    grading = Path(__file__).with_name("grading")
    if config.getoption("submission") is not None and collection_path.suffix == ".py":
        return collection_path != grading / "test_submission.py" or None
    return (collection_path == grading and os.name != "posix") or None


@pytest.fixture(scope="session")
def grading_report(request):
    """The report on the submission, or on this package's own modules without one."""
    config = request.config
    submission = config.getoption("submission")
    seed = config.getoption("seed")
    if submission is None:
        report = runner.grade(Path(__file__).parent.parent, seed or 0)
    else:
        report = runner.grade(_absolute(config, submission), seed)
        report["submission"] = printable(submission)
    rows = (i for i in request.session.items if "grading_report" in getattr(i, "fixturenames", ()))
    report = runner.chosen(report, {item.callspec.params["name"] for item in rows})  # those of -k
    report = feedback.with_points(report, config.stash[WEIGHTS])
    config.stash[REPORT] = report
    return report


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash.get(REPORT, None)
    if report is None:
        return
    for option, save in FILES.items():
        if path := config.getoption(option):
            save(report, _absolute(config, path))
    if config.getoption("submission") is not None:
        terminalreporter.section("grading report")
        for line in runner.table(report, terminalreporter._tw.fullwidth):
            terminalreporter.write_line(line)


# The rest of the tests ----------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """On two cores where pytest-xdist is installed and nothing else is asked for."""
    alone = hasattr(config, "workerinput") or config.option.usepdb
    if not alone and config.getoption("numprocesses", 0) is None and not config.option.tx:
        config.option.numprocesses, config.option.dist = 2, "worksteal"


@pytest.fixture
def data(tmp_path_factory, monkeypatch):
    """A folder with fifty training and ten test images, which is taken for CIFAR-10's."""
    import common  # here, for grading needs nothing of this package

    import cifar10_utils

    folder = tmp_path_factory.mktemp("data") / cifar10_utils.FOLDER
    return str(common.write_files(folder, common.use_small_files(monkeypatch)))


@pytest.fixture
def no_curves(monkeypatch):
    """Runs draw no curves.png, which takes longer than all the rest of a small run."""
    monkeypatch.setattr("training.folder.draw_curves", lambda *_: None)


@pytest.fixture(params=["numpy", "pytorch"])
def trainer(request, no_curves):
    if request.param == "pytorch":
        pytest.importorskip("torch")
    return importlib.import_module(f"train_mlp_{request.param}")


@pytest.fixture
def run(trainer, data, tmp_path):
    """A function that trains a small network into the folder `name`, which it returns. run.argv
    gives the flags with which it does."""

    def argv(name, *flags, steps=12):
        argv = ["--data_dir", data, "--dnn_hidden_units", "8", "--max_steps", steps]
        argv += ["--batch_size", "20", "--eval_freq", "5", "--run_dir", tmp_path / name, *flags]
        return [str(flag) for flag in argv]

    def run(name, *flags, **options):
        run.history = trainer.main(argv(name, *flags, **options))
        return tmp_path / name

    run.argv = argv
    run.trainer, run.folder = trainer, tmp_path
    run.framework = trainer.__name__.removeprefix("train_mlp_")
    return run
