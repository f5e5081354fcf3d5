"""What learning platforms deliver, and what students make of two files."""

import json
import os
import zipfile

import pytest

from grading import folder
from grading.delivery import submissions
from grading.helpers import RIGHT, failed, run_rows, write
from grading.notebook import CLASSES, sources

MODULES, MLP = RIGHT["modules.py"], RIGHT["mlp_numpy.py"]
CELLS = ["%matplotlib inline\n!pip install x\nfrom google.colab import drive", MODULES, MLP]


def notebook(*cells):
    kinds = [{"cell_type": "code", "source": text.splitlines(True)} for text in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": ["# A"]}, *kinds]})


def pack(path, files, links=()):
    path.parent.mkdir(exist_ok=True, parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            file.writestr(info, "/etc/passwd")
    return path


PLAIN = {"modules.py": MODULES, "mlp_numpy.py": MLP}
NOT_OWN = (".venv/lib", "venv", "site-packages", ".ipynb_checkpoints", "__MACOSX", ".git")


def at(start, files=PLAIN):
    return {f"{start}{name}": text for name, text in files.items()}


# The files of a folder SUBMISSIONS, the name of the submission in it, and where its files were.
# fmt: off
TAKEN = {
    "folder": (at("ann/"), "ann", "."),
    "very deep": (at("ann/" + 900 * "d/"), "ann", "/".join(900 * "d")),
    "flat": (at("Ann B_123_"), "Ann B_123", "."),
    "Canvas": ({"ann_1_23_modules-1.py": MODULES, "ann_1_24_mlp_numpy-2.py": MLP}, "ann_1", "."),
    "browser": ({"ann/modules (1).py": MODULES, "ann/mlp_numpy (2).py": MLP}, "ann", "."),
    "capital": ({"ann/Modules.py": MODULES, "ann/MLP_numpy.py": MLP}, "ann", "."),
    "text": ({"ann/modules.py.txt": MODULES, "ann/mlp_numpy.py.txt": MLP}, "ann", "."),
    "apart": ({"ann/a/modules.py": MODULES, "ann/b/mlp_numpy.py": MLP}, "ann", "a"),
    "twice the same": (at("ann/a/") | at("ann/b/"), "ann", "a"),
    "exact": (at("ann/") | {"ann/modules (1).py": ""}, "ann", "."),
    "backups": (at("ann/") | {"ann/old/modules.py": ""}, "ann", "."),
    # The place with both files is taken, then the less deep one.
    "places": (at("ann/new/") | at("ann/new/old/", dict.fromkeys(PLAIN, ""))
               | {"ann/modules.py": ""}, "ann", "new"),
    "not own": (at("ann/week 1/code/") | {f"ann/{place}/{name}": "" for place in NOT_OWN
                                        for name in PLAIN}, "ann", "week 1/code"),
    "notebook": ({"ann/lab.ipynb": notebook(*CELLS)}, "ann", "."),
    "written by a notebook": ({"ann.ipynb": notebook(
        *(f"%%writefile {name}\n{text}" for name, text in PLAIN.items()))}, "ann", "."),
}
# fmt: on


@pytest.mark.parametrize("way", TAKEN)
@pytest.mark.parametrize("packed", ["folder", "zip of all", "zip of all in a folder", "zip each"])
def test_what_is_plain_is_taken(tmp_path, way, packed):
    files, name, place = TAKEN[way]
    if packed == "folder":
        path = write(tmp_path / "all", files)
    elif packed == "zip each":
        path, place, name = tmp_path / "all", f"ann.zip/{place}".removesuffix("/."), "ann"
        pack(path / "ann.zip", {file.removeprefix("ann/"): text for file, text in files.items()})
    else:
        around = "" if packed == "zip of all" else "export/"
        all_files = {around + name: text for name, text in (files | {"zoe/x": ""}).items()}
        path = pack(tmp_path / "all.zip", all_files)
    found, _ = submissions(path)
    assert set(found) - {"zoe"} == {name}
    taken = folder.take(found[name]())
    assert taken.errors == {} and taken.place == place
    assert {"modules.py", "mlp_numpy.py"} <= set(taken.sources)
    if "notebook" in way:
        defined = taken.sources["modules.py"].decode()
        assert all(f"class {name}" in defined for name in CLASSES) and "colab" not in defined
    else:
        assert taken.sources["modules.py"].decode() == MODULES
        assert taken.sources["mlp_numpy.py"].decode() == MLP
    assert bool(taken.note) == (way != "folder" or place != ".")


# A right solution, its constants in cells of their own, and cells that try it out.
ALSO = """
rng, SIZE = np.random.default_rng(0), 0.0001
TINY: float = np.finfo(float).tiny
HALF = [0.5 * n for n in (1, 2)]
FLOOR = HALF[1] * TINY
floored = lambda x: np.maximum(x, FLOOR)
"""
TRIED = """
x = 5
x = rng.normal(size=(4, 3))
layer = LinearModule(3, 2)
out = layer.forward(x)
dx = out * 2
total = x[0]
for slope in range(10**12):
    b = layer.forward(x)
exp = b + slope
"""


def test_a_notebook_runs_with_its_constants_and_without_the_cells_that_try_it_out():
    ours = MODULES.removeprefix(MODULES.partition("class ")[0])
    ours = ours.replace("np.random.default_rng().normal(0, 0.0001", "rng.normal(0, SIZE")
    cells = "import numpy as np", ALSO, ours.replace("np.log(x)", "np.log(floored(x))"), MLP, TRIED
    assert failed(run_rows(sources(notebook(*cells)))) == set()


UNCLEAR = {
    "none": ({"report.pdf": "", "code.rar": ""}, "found code.rar (only zips are opened)"),
    "two": ({"modules (1).py": "1", "modules (2).py": "2"}, "found modules (1).py and modules (2)"),
    "equal": ({"a/modules.py": "1", "b/modules.py": "2"}, "found a/modules.py and b/modules.py"),
    "trainer": ({"train_modules.py": ""}, "there is no modules.py: found train_modules.py"),
    "two MLPs": ({"a.ipynb": notebook(*CELLS, MLP)}, "it defines MLP 2 times"),
    "no notebook": ({"a.ipynb": "{}"}, "it is no notebook of a known format"),
    "no zip": ({"a.zip": "PK"}, "found a.zip (it is damaged)"),
}


@pytest.mark.parametrize("way", UNCLEAR)
def test_what_is_not_plain_is_said_in_one_sentence(tmp_path, way):
    files, sentence = UNCLEAR[way]
    assert sentence in folder.take(folder.files_in(write(tmp_path, files))).errors["modules"]


def test_nothing_in_an_archive_leads_out_of_it_or_costs_more_than_its_limits(tmp_path, monkeypatch):
    bad = {"../modules.py": MODULES, "/modules.py": MODULES, "a\\..\\..\\modules.py": MODULES}
    pack(tmp_path / "paths" / "a.zip", bad, links=["modules.py"])
    pack(tmp_path / "large" / "a.zip", {"modules.py": "x" * (folder.FILE_LIMIT + 1)})
    inner = PLAIN
    for depth in range(folder.ARCHIVES + 1):
        inner = {"a.zip": pack(tmp_path / "deep" / f"{depth}.zip", inner).read_bytes()}
    paths, large = (folder.take(folder.files_in(tmp_path / n)) for n in ("paths", "large"))
    assert paths.errors["modules"] == "there is no modules.py: found no file"
    assert large.errors["modules"] == "modules.py is not read: it has more than 1 MiB"
    top = {"all.zip": folder.files_in(tmp_path / "deep")[f"{folder.ARCHIVES}.zip"]}
    assert "there is no modules.py" in folder.take(top).errors["modules"]
    monkeypatch.setattr(folder, "ARCHIVES_LIMIT", 1 << 20)
    pack(tmp_path / "bomb" / "a.zip", {"b.zip": b"\0" * (2 << 20)} | PLAIN)
    taken = folder.take(folder.files_in(tmp_path / "bomb"))
    assert taken.sources["modules.py"].decode() == MODULES  # what can be read is
    assert os.listdir(tmp_path / "bomb") == ["a.zip"]


def test_files_of_several_people_are_kept_apart(tmp_path):
    names = ["s_1_modules.py", "s_1_mlp_numpy.py", "s_2_modules.py", "s_3_mlp_numpy.py"]
    names += ["s_1_utils.py", "ann_5_61_modules.py", "ann_6_62_mlp_numpy.py", "x.rar", "a.txt"]
    found, strays = submissions(write(tmp_path, dict.fromkeys(names, "")))
    assert set(found) == {"s_1", "s_2", "s_3", "ann_5_61", "ann_6_62", "x"}
    assert strays == ["a.txt"]
    assert "utils.py" in folder.take(found["s_1"]()).sources
