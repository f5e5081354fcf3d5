"""Compares numbers, and says in one sentence what is probably wrong with those that differ.

A diagnosis comes from the numbers, not from the code: each common mistake predicts certain
numbers, and the first prediction that matches is named.
"""

import contextlib

import numpy as np

# Between the errors of single precision (a row of its own, 'float64 kept') and real mistakes.
TOLERANCE = 1e-6


class Failure(Exception):
    """A check that failed: what is probably wrong, and the two numbers that differ most, if any.

    follows: the rows that would explain it, should they fail too.
    """

    cell = "failed"

    def __init__(self, sentence, got=None, expected=None, index=None, follows=()):
        super().__init__(sentence)
        self.sentence, self.got, self.expected, self.index = sentence, got, expected, index
        self.follows = list(follows)


class NotDone(Failure):
    """A part of the assignment that is still to be written."""

    cell = "not done yet"


class NotGraded(Failure):
    """The grader could not do its work: this says nothing about the submission."""

    cell = "not graded"


def as_failure(sentence):
    """A Failure with the sentence that the submission's process gives."""
    kind = NotDone if "raised NotImplementedError" in sentence else Failure
    return kind(sentence)


@contextlib.contextmanager
def case(phrase="", follows=()):
    """Adds to a failure in the block its case, as ' of a square layer', and rows to follow."""
    try:
        yield
    except Failure as failure:
        failure.sentence += phrase if phrase.startswith(" (") else f",{phrase}" if phrase else ""
        failure.follows += follows
        raise


def close(got, expected, tolerance=TOLERANCE):
    """Whether two arrays are equal in shape, and in value relative to the largest entry."""
    if np.shape(got) != np.shape(expected):
        return False
    scale = np.max(np.abs(expected), initial=0.0)
    return bool(np.all(np.abs(got - expected) <= tolerance * scale + 1e-300))


def expect(what, got, expected, hypotheses=(), factors=(), tolerance=TOLERANCE):
    """Raises a Failure with a diagnosis where `got` is not `expected`.

    hypotheses: tuples (values, sentence, rows ...): what a certain mistake would have given, and
    the rows that it then follows from.
    factors: pairs (factor, sentence): what it means if all is a constant multiple.
    """
    if close(got, expected, tolerance):
        return
    numbers = largest_difference(got, expected)
    for values, sentence, *follows in hypotheses:
        if close(got, values):
            raise Failure(f"{what}: {sentence}", *numbers, follows)
    raise Failure(f"{what} {_explain(got, expected, factors)}", *numbers)


def _explain(got, expected, factors):
    """What is wrong with numbers that no hypothesis gives."""
    if close(got, expected.T):
        return "is transposed"
    if got.shape != expected.shape:
        return f"has the shape {got.shape}, and should have {expected.shape}"
    if not np.all(np.isfinite(got)):
        return "is not finite"
    if not np.any(got):
        return "is zero everywhere: not computed, or not assigned?"
    ratio = np.sum(got * expected) / np.sum(expected * expected)
    if close(got, ratio * expected):
        for factor, sentence in (*factors, (2, "is twice the right one"), (1, "")):
            if np.isclose(abs(ratio), abs(factor), rtol=TOLERANCE):
                wrong = "has the wrong sign: a minus is missing or too many" if ratio < 0 else ""
                return " and ".join(filter(None, [sentence, wrong]))
        return f"is {ratio:.6g} times the right one"
    differs = np.abs(got - expected) > TOLERANCE * np.max(np.abs(expected))
    for name, axis in (("row(s)", 0), ("column(s)", 1)) if got.ndim == 2 else ():
        found, count = np.flatnonzero(differs.any(axis=1 - axis)), got.shape[axis]
        if len(found) < count:
            numbers = ", ".join(map(str, found[:5])) + ", ..." * (len(found) > 5)
            return f"is wrong in {name} {numbers} of {count} only"
    return f"is wrong in {np.count_nonzero(differs)} of {differs.size} entries"


def weight_decay(got, expected, parameter):
    """A hypothesis: a multiple of the parameter is added to its gradient."""
    if np.shape(got) == np.shape(expected):
        share = np.sum((got - expected) * parameter) / np.sum(parameter * parameter)
        sentence = f"{share:.3g} times the parameter itself is added"
        yield expected + share * parameter, f"{sentence}: weight decay is no part of this gradient"


def largest_difference(got, expected):
    """(got, expected, index) at the entry that differs most; three times None without such."""
    if np.shape(got) != np.shape(expected) or np.size(got) == 0:
        return None, None, None
    difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
    index = np.unravel_index(np.argmax(difference), np.shape(got))
    return float(got[index]), float(expected[index]), [int(i) for i in index]
