"""What the checks ask of the submission's process, and what it answers."""

import contextlib

import numpy as np
import pytest

from grading import runner
from grading.diagnosis import Failure
from grading.helpers import failure_of_act, in_this_process, with_elu
from grading.worker import LENGTHS, pack, unpack

WIDE = np.arange(24.0).reshape(4, 6)


@pytest.fixture(params=["one process", "child"])
def start(request):
    """A function from sources to a Submission, in this process or in a child."""
    with contextlib.ExitStack() as stack:
        begin = in_this_process if request.param == "one process" else runner.in_child
        yield lambda sources: stack.enter_context(begin(sources))


@pytest.mark.parametrize(
    "array",
    [
        WIDE,
        np.asfortranarray(WIDE),
        WIDE[:, ::2],
        WIDE[::2],
        np.array(2.5),
        np.zeros((0, 3)),
        np.array([[True, False]]),
        np.arange(3, dtype=np.int16),
        np.array([np.nan, -np.inf, -0.0], dtype=np.float32),
    ],
)
def test_arrays_arrive_as_they_were_sent(array):
    message = pack({"number": 3}, [array, array])
    head, size = LENGTHS.unpack(message[: LENGTHS.size])
    text = message[LENGTHS.size :][:head]
    header, (got, again) = unpack(text, message[LENGTHS.size + head :])
    assert header == {"number": 3} and size == 2 * array.nbytes
    for copy in (got, again):
        assert copy.dtype == array.dtype and copy.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "form",
    [
        '["float64", [999999, 999999]]',
        '["float64", [-1, -1]]',
        '["float64", [NaN]]',
        '["object", [1]]',
        '["float32", [1]]',
        "7",
    ],
)
def test_arrays_out_of_form_are_refused(form):
    """Eight bytes that claim to be something else."""
    with pytest.raises(ValueError, match="out of form"):
        unpack(f'{{"number": 2, "arrays": [{form}]}}'.encode(), bytes(8))


def test_results_are_numbers_of_any_kind(start):
    kinds = {
        "return np.float32(x)": np.float32,
        "return np.longdouble(x)": np.float64,
        "return x.astype('>f8')": np.float64,
        "return x > 0": bool,
        "return [[int(v) for v in row] for row in x]": np.int64,
        "return float(x.sum())": np.float64,
        "return x + 1j": None,
    }
    submission = start(with_elu(*kinds))
    for number, expected in enumerate(kinds.values()):
        if expected:
            got = submission.elu().forward(np.full((2, 2), float(number)))
            assert got.dtype == expected
    assert "not real numbers" in failure_of_act(submission, number)


def test_arguments_lie_in_memory_as_asked(start):
    flags = "np.array([[x.flags.c_contiguous, x.flags.f_contiguous]])"
    body = f"assert (x == np.arange(6.0).reshape(2, 3)).all()\nreturn {flags}"
    elu, x = start(with_elu(body)).elu(), np.arange(6.0).reshape(2, 3)
    assert elu.forward(x).tolist() == [[True, False]]
    assert elu.forward(x, strided=True).tolist() == [[False, False]]


def test_a_module_is_gone_with_its_process_and_the_next_one_works():
    sources = with_elu("import os; os._exit(0)")
    with runner.in_child(sources) as submission:
        layer, elu = submission.fresh_linear(3, 2), submission.elu()
        with pytest.raises(Failure, match="ELUModule.forward ends the Python process"):
            elu.forward(np.ones((2, 2)))
        with pytest.raises(Failure, match="gone with its process"):
            layer.forward(np.ones((2, 3)))
        assert submission.fresh_linear(3, 2).forward(np.ones((2, 3))).shape == (2, 2)
        with pytest.raises(Failure, match="ELUModule.forward ends the Python process"):
            submission.elu().forward(np.ones((2, 2)))  # at once: it is not called again
