"""The report says what the records and the code say, and its PDF is made from what lies here."""

import inspect
import itertools
import re
import zlib

import pytest
from common import ROOT

import modules
from report import comparisons, make_report, records

FOLDER = ROOT / "report"
TEX = (FOLDER / "report.tex").read_text()
PDF = (FOLDER / "report.pdf").read_bytes()
BUILD = "run `latexmk` in the folder report"
_, _, BODY = TEX.partition(r"\begin{document}")

# Numbers that no record of ours can hold, with where they come from.
QUOTED = {
    "2021": "the assignment's date",
    "2019": "the year of a paper that Neyshabur, 2020, quotes",
    "0.48": "the assignment, question 1.2",
    "0.52": "the assignment, question 2.1",
    **dict.fromkeys(("70.25", "74.84"), "Mocanu et al., 2018"),
    **dict.fromkeys(("58.1", "72.77", "78.63", "85.19"), "Neyshabur, 2020"),
    "78.6": "Lin, Memisevic and Konda, 2015",
    "150": "training/augmentation.py: the views of an image, shifted by up to 4 pixels",
    "256": "Neyshabur, 2020: millions of parameters",
    **dict.fromkeys(("400", "4000"), "Neyshabur, 2020: epochs"),
}


@pytest.fixture(scope="module")
def pdf_objects():
    """The PDF with what its compressed streams hold."""
    text = PDF
    for start in re.finditer(rb"/FlateDecode.*?stream\r?\n", PDF, re.S):
        text += zlib.decompressobj().decompress(PDF[start.end() :])
    return text


def test_the_numbers_of_the_report_are_those_of_the_records():
    assert make_report.GENERATED.read_text() == make_report.generated(), BUILD


def test_the_pdf_is_made_from_this_text_and_these_records(pdf_objects):
    assert re.findall(rb"/Inputs ?\((\w+)\)", pdf_objects) == [make_report.digest().encode()], (
        f"report.tex, a record or a figure has changed since report.pdf was made: {BUILD}"
    )


def test_every_number_that_is_made_is_printed():
    """The other way round, TeX stops at a number that is not made."""
    assert set(make_report.values()) <= set(
        re.findall(r"\\val\{([^}]+)\}", BODY.replace("\n", " "))
    )


def test_no_number_is_typed():
    """Decimals and whole numbers of three digits and more; of the names of questions, no."""
    text = re.sub(r"\\begin\{(thebibliography|tikzpicture)\}.*?\\end\{\1\}", "", BODY, flags=re.S)
    text = re.sub(r"\\(cite|ref|eqref|label|numpyline)\{[^}]*\}|[Qq]uestion \d\.\d", "", text)
    text = re.sub(r"[\d.]+(\\linewidth|mm|pt)|\\renewcommand\S+", "", text)
    assert set(re.findall(r"\d+\.\d+|\d{3,}", text)) == set(QUOTED)


def test_every_record_is_in_the_report_or_in_the_readme():
    """A result that did not please is reported too."""
    tables = comparisons.MODIFICATIONS | make_report.other_experiments()
    listed = {name for names in tables.values() for name in names}
    scripts = [*FOLDER.glob("*.py"), *(ROOT / "plots").glob("*.py")]
    text = "".join(path.read_text() for path in scripts)
    for path in (FOLDER / "results").glob("*.json"):
        assert path.stem in listed or f'"{path.stem}"' in text, f"{path.name} is in no table"


def test_the_digest_follows_the_text_the_records_and_the_figures(tmp_path, monkeypatch):
    (tmp_path / "plots").mkdir()
    names = "report.tex", "generated.tex", "plots/style.py", "plots/a.png", "a.json", "a.npz"
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(make_report, "TEXT", tmp_path / "report.tex")
    monkeypatch.setattr(make_report, "GENERATED", tmp_path / "generated.tex")
    before = make_report.digest()
    for name in names:
        (tmp_path / name).write_text("changed")
        after = make_report.digest()
        assert (after != before) == (not name.endswith(".py")), name
        before = after


# What the text says in words of the modifications: whether their difference counts.
COUNTS = {
    True: (
        *("batch-norm", "standardize", "layer-norm", "ema", "test-time-18-views", "cosine"),
        *("flip", "mixup", "random-affine", "whiten", "dropout", "l1-decay"),
    ),
    False: ("gelu", "relu", "weight-decay", "adam", "l1", "first-layer-l1", "float32"),
}


def test_what_the_text_says_in_words_is_what_the_records_say():
    line = comparisons.what_counts([comparisons.paired(name) for name in comparisons.SINGLE])
    for counts, names in COUNTS.items():
        for name in names:
            assert (abs(comparisons.paired(name).mean()) > line) == counts, name
    assert comparisons.paired("dropout").mean() < 0
    for name in ("shift", "flip-shift", "dropout"):
        assert records.column(records.runs_of(name), "train_accuracy")[:, -1].mean() < 0.5
    # Of the changes of the whitened recipe L1 improves it, by single views even more; the others do
    # not, or no more than epochs do.
    for name in comparisons.families()["third"]:
        gain = comparisons.paired(name)
        single = comparisons.paired(name, records.single_view_accuracy)
        if name.startswith("third"):  # not of the best network, which has other views too
            assert (single > gain > 0.5) if "l1" in name else gain < 0.5, name
    assert comparisons.paired("third-wider") <= comparisons.paired("third-epochs")
    # Flips and shifts alone: better in a tenth or a third of the time, worse at full length.
    for short, full in (("long", "pixels"), ("short", "full")):
        gain = comparisons.paired(f"{short}-flip-shift").mean()
        assert gain > 0 > comparisons.paired(f"{full}-flip-shift").mean()
    for name in ("full-affine-l1-03", "full-affine"):
        assert comparisons.paired(name) < 0
    # With twice the penalty, near chance in between.
    (run,) = records.runs_of("full-affine")
    assert min(run["history"]["val_accuracy"][1:]) < 0.2


def test_every_method_of_the_modules_has_its_line_as_it_stands_there():
    quotes = re.findall(r"\\code\{(\w+)\.(\w+)\}\{(.*?)\} \\\\", TEX)
    names = [name for name, value in vars(modules).items() if hasattr(value, "backward")]
    for key in itertools.product(names, ("forward", "backward")):
        assert key in [(name, method) for name, method, _ in quotes]
    for name, method, line in quotes:
        source = inspect.getsource(getattr(getattr(modules, name), method))
        assert line.replace(r"\_", "_") in [code.strip() for code in source.splitlines()]


def test_every_answer_has_its_heading():
    for heading in (
        *("Example 1", "Example 2", "Example 3", "Exercise 1", "Exercise 2"),
        *("Question 1.1 a)", "Question 1.1 b)", "Question 1.1 c) i.", "Question 1.1 c) ii."),
        *("Question 1.2", "Question 2.1", "Question 2.2", "Limits"),
    ):
        assert re.search(r"section\{" + re.escape(heading) + r"(?![.\w])", TEX), heading


def test_what_is_cited_is_listed_and_the_other_way_round():
    cited = {key for keys in re.findall(r"\\cite\{([^}]+)\}", TEX) for key in keys.split(",")}
    assert re.findall(r"\\bibitem\{([^}]+)\}", TEX) == sorted(cited)


def test_every_figure_and_table_is_referred_to():
    labels = set(re.findall(r"\\label\{((?:fig|tab):[^}]+)\}", TEX))
    assert labels <= set(re.findall(r"\\ref\{([^}]+)\}", TEX))


def test_the_pdf_has_the_asked_length_and_no_date(pdf_objects):
    assert 12 <= len(re.findall(rb"/Type ?/Page\b", pdf_objects)) <= 14
    assert len(PDF) < 2**20
    assert b"/CreationDate" not in pdf_objects and b"/ModDate" not in pdf_objects
