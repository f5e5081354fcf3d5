"""Command lines that nobody would think of: each runs or is refused in one line with status 2."""

import pytest
from common import attempt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training import TRAINERS

import cifar10_utils
import training

COUNTS = ["1", "2", "3", "10", "20", "50"]
RATES = ["1e-3", "1e-12", "1e12", "1e38", "1e300", "1e-320", "0.5", "1"]
ODD_NUMBERS = ["0", "-0", "-1", "51", "1e3", "2.5", "nan", "inf", "-inf", "1_0", " 7 ", "+5", "٣",
               "0x10", "1e999", "9" * 5000, "1000000001", "", "\N{SUPERSCRIPT TWO}"]  # fmt: skip
GOOD = {
    "--dnn_hidden_units": ["", " ", "8", "8,5", " 3 , 4 ", "1,1,1,1"],
    "--learning_rate": RATES,
    "--max_steps": ["1", "2", "4"],
    "--batch_size": COUNTS,
    "--eval_freq": [*COUNTS, "1000000000"],
    "--seed": ["0", "7", "4294967295"],
    "--validation_size": ["0", "1", "40", "49"],
    "--data_dir": ["data", "data/cifar-10-batches-py", "./data/"],
    "--run_dir": ["new", "new/deeper", "./a b", "r\N{SNOWMAN}n", "new\nline", "-", "empty"],
    "--synthetic": [],
    "--resume": [],
}
ODD_TEXTS = ["", "missing", "full", "file", "file/x", "\0", "a" * 300, "/proc/x", "~", ".", "..",
             "\udcff", "\x1b[2J", "@", "-1", "--", "%s", "{}", "8,,5", ",", "8;5"]  # fmt: skip
SMALL = ["--data_dir", "data", "--max_steps", "2", "--batch_size", "10"]
OPTIONS = {
    "--momentum": ["0", "0.9", "0.9999"],
    "--weight_decay": ["0", "1", "1000"],
    "--l1": ["0", "1", "1000"],
    "--first_layer_l1": ["0", "1", "1000"],
    "--dropout": ["0", "0.5", "0.99"],
    "--label_smoothing": ["0", "0.1", "0.99"],
    "--warmup_steps": ["0", "1", "3"],
    "--shift": ["0", "1", "31"],
    "--distortion": ["0", "0.1", "1"],
    "--mixup": ["0", "0.4", "1"],
    "--checkpoint_freq": ["1", "3"],
    "--ema": ["0", "0.9", "0.9999"],
    "--epochs": ["1", "2"],
    "--activation": ["elu", "tanh", "relu", "gelu"],
    "--optimizer": ["sgd", "adam", "adamw"],
    "--normalization": ["none", "batch", "layer"],
    "--schedule": ["constant", "cosine"],
    "--use_gpu": [],
    "--standardize": [],
    "--flip": [],
    "--test_time_averaging": [],
    "--bfloat16": [],
    "--local_fields": [],
    "--deterministic": [],
}


def command_lines(framework):
    flags = GOOD | (OPTIONS if framework == "pytorch" else {})
    odd = st.sampled_from(ODD_NUMBERS + ODD_TEXTS) | st.text(max_size=8)

    def values(flag):
        return st.sampled_from(flags[flag]) if flags[flag] else st.none()

    def written(flag, value, equals):
        if value is None:
            return [flag]
        return [f"{flag}={value}"] if equals else [flag, value]

    def flag_with(value):
        return st.sampled_from(list(flags)).flatmap(
            lambda flag: st.builds(written, st.just(flag), value(flag), st.booleans())
        )

    good = flag_with(values)
    wrong = st.one_of(
        flag_with(lambda flag: odd),
        odd.map(lambda text: [text]),
        odd.map(lambda text: ["@" + text]),
        st.sampled_from(list(flags)).map(lambda flag: [flag[:-1]]),
        st.sampled_from(["--learning-rate=1", "--no-resume", "-h1", "--Seed", "@flags", "@wrong"]
                        ).map(lambda text: [text]),
    )  # fmt: skip
    return st.builds(
        lambda start, some, others: [*start, *sum(some + others, [])],
        st.sampled_from([SMALL, SMALL, SMALL, []]),
        st.lists(good, max_size=6),
        st.one_of(st.just([]), st.just([]), st.lists(wrong, max_size=2)),
    )


@pytest.fixture
def place(data, tmp_path, monkeypatch):
    """A folder to work in with data, odd things in the way, a finished run; and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_fetch_default_data", lambda: False)
    monkeypatch.setattr(training, "draw_curves", lambda *_: None)
    monkeypatch.setattr(cifar10_utils, "get_synthetic", lambda **options: cifar10_utils._split(
        "synthetic", *[(part.pixels, part.labels) for part in
                       (cifar10_utils.get_cifar10(data, one_hot=False).train,
                        cifar10_utils.get_cifar10(data, one_hot=False).test)],
        options["one_hot"], options["validation_size"], options["seed"]))  # fmt: skip
    # Runs are long where no flag says otherwise; what they do does not depend on that.
    steps = training.Run.steps

    def few_steps(self, save):
        for step in steps(self, save):
            yield step
            if step == 8:
                self.step = self.args.max_steps

    monkeypatch.setattr(training.Run, "steps", few_steps)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / cifar10_utils.FOLDER).symlink_to(data)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("my work")
    (tmp_path / "file").write_text("my work")
    (tmp_path / "flags").write_text("--seed 3 # a comment\n\n--eval_freq=2\n")
    (tmp_path / "wrong").write_bytes(b"--seed \xff\xfe\0 @wrong")
    return tmp_path


@pytest.mark.parametrize("framework", TRAINERS)
@pytest.mark.parametrize("examples", [50, pytest.param(1500, marks=pytest.mark.slow)])
def test_any_command_line_runs_or_is_refused_in_one_line(framework, examples, place, record_figure):
    main, outcomes = TRAINERS[framework].main, []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(framework))
    def check(argv):
        before = {path for path in place.iterdir() if path.name != "runs"}
        status, _ = attempt(main, argv)
        outcomes.append(status)
        if status == 2:
            assert {path for path in place.iterdir() if path.name != "runs"} == before

    check()
    record_figure(
        f"{len(outcomes)} command lines for {framework}: {outcomes.count(0)} ran, "
        f"{outcomes.count(1)} ended with a loss that is not finite, {outcomes.count(2)} refused"
    )
    assert min(outcomes.count(0), outcomes.count(2)) > examples // 10
    assert (place / "full" / "mine").read_text() == (place / "file").read_text() == "my work"
