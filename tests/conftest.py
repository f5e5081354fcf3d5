"""Options of the grading part: pytest tests --submission=DIR --report FILE.json"""

import signal
import types
from pathlib import Path

import pytest
from grading import runner

REPORT = pytest.StashKey[dict]()
FIGURES = pytest.StashKey[list]()


def pytest_addoption(parser, pluginmanager):
    _block_conftests(pluginmanager)
    group = parser.getgroup("grading")
    group.addoption(
        "--submission",
        metavar="DIR",
        help="run only the grading part, on DIR/modules.py and DIR/mlp_numpy.py",
    )
    group.addoption("--report", metavar="FILE.json", help="write the table of the grading part")


def _block_conftests(pluginmanager):
    """Keeps pytest from running the conftest.py of a submission.

    Until the options below are known, pytest takes DIR in `--submission DIR` (without =) for a
    folder of tests, and FILE likewise, and would load every conftest.py there. It loads none
    whose path is already the name of a plugin.
    """
    params = pluginmanager.get_plugin("pytestconfig").invocation_params
    for option, value in zip(params.args, params.args[1:], strict=False):
        if str(option) in ("--submission", "--report"):
            path = (params.dir / str(value)).absolute()
            for folder in {path, *path.parents, *path.glob("test*")} - set(Path(__file__).parents):
                name = str(folder / "conftest.py")
                if not pluginmanager.has_plugin(name):
                    pluginmanager.register(types.ModuleType("blocked_conftest"), name)


def pytest_configure(config):
    # A job that a shell starts with & ignores Ctrl-C, and so would every process of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    submission = config.getoption("submission")
    if submission is not None and not _absolute(config, submission).is_dir():
        raise pytest.UsageError(f"--submission={submission}: there is no such folder")
    report = config.getoption("report")
    if report is not None and not _absolute(config, report).parent.is_dir():
        raise pytest.UsageError(f"--report {report}: there is no such folder")


def _absolute(config, path):
    """A path as the person at the prompt means it."""
    return (config.invocation_params.dir / path).absolute()


def pytest_ignore_collect(collection_path, config):
    """With --submission, no other test file is so much as imported."""
    if config.getoption("submission") is not None and collection_path.suffix == ".py":
        return collection_path != Path(__file__).with_name("test_grading.py") or None
    return None


@pytest.fixture(scope="session")
def grading_report(request):
    """The report on the submission, or on this package's own modules without one."""
    config = request.config
    submission = config.getoption("submission")
    own = Path(__file__).parent.parent
    report = runner.grade(own if submission is None else _absolute(config, submission))
    if submission is not None:
        report["submission"] = submission
    config.stash[REPORT] = report
    return report


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)
    report = config.stash.get(REPORT, None)
    if report is None:
        return
    if path := config.getoption("report"):
        runner.save_json(report, _absolute(config, path))
    if config.getoption("submission") is not None:
        terminalreporter.section("grading report")
        for line in runner.table(report, terminalreporter._tw.fullwidth):
            terminalreporter.write_line(line)


@pytest.fixture
def record_figure(request):
    """A function that has a line printed after the tests."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture
def data(tmp_path_factory, monkeypatch):
    """A folder with fifty training and ten test images, which is taken for CIFAR-10's."""
    import common  # here, for grading needs nothing of this package

    import cifar10_utils

    folder = tmp_path_factory.mktemp("data") / cifar10_utils.FOLDER
    return str(common.write_files(folder, common.use_small_files(monkeypatch)))
