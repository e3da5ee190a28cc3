"""The hash of an experiment: it sees what can move a number, and nothing else."""
from __future__ import annotations

import json
import re
import subprocess

import pytest

from conftest import ROOT
from xfer_course.labs import code_hash, experiment_of, lab_notebook, load_records, read_commit, read_tree

COLOUR, TITLE = "#0072B2", "Label accuracy on the target domain"


def changed(edits: dict[str, tuple[str, str]]):
    "A reader of the working copy in which some files have a text replaced; the text must be there."
    read = read_tree(ROOT)

    def reader(path: str):
        content = read(path)
        if path in edits:
            old, new = edits[path]
            assert re.search(old, content.decode()), f"{path} has no {old!r}"
            return re.sub(old, new.replace("\\", "\\\\"), content.decode(), count=1).encode()
        return content

    return reader


def digits(edits=None) -> str:
    return experiment_of("dann/digits", "cpu", changed(edits or {})).hash


@pytest.mark.parametrize("name, path, old, new", [
    ("colour of the palette", "xfer_course/figures.py", "#[0-9A-F]{6}", "#123456"),
    ("title of a figure", "nbs/dann/digits.ipynb", "Label accuracy on the target domain", "Another title"),
    ("words of a claim", "nbs/dann/digits.ipynb", "DANN beats the control", "DANN is above the control"),
    ("bound of a claim", "nbs/dann/digits.ipynb", "at_least=0.0", "at_least=0.01"),
    ("sentence of a refusal", "xfer_course/checks/values.py", "must be a whole number", "has to be a whole number"),
    ("checkpoint", "xfer_course/training/checkpoint.py", "os.fsync", "os.fdatasync"),
    ("number of decimals", "xfer_course/labs/claims.py", r":\.3f", ":.4f"),
    ("line of a claim's mean", "xfer_course/intervals.py", "confidence", "sure"),
    ("gpu profile", "nbs/dann/digits.ipynb", "images=20000", "images=20001"),
    ("panel of a training run", "xfer_course/figures.py", "learning rate", "rate"),
    ("docstring", "xfer_course/dann/deep.py", '"""[^"]+"""', '"""Says something else."""'),
])
def test_what_cannot_move_a_number_makes_no_lab_stale(name, path, old, new):
    assert digits({path: (old, new)}) == digits()


@pytest.mark.parametrize("name, path, old, new", [
    ("loss", "xfer_course/dann/deep.py", "cross_entropy", "mse_loss"),
    ("schedule", "xfer_course/dann/deep.py", "2 / \\(1", "3 / (1"),
    ("data", "xfer_course/data/generated.py", r"def blend\(([^)]*)\)([^:]*):\n",
     "def blend(digits, patches):\n    digits = digits * 2\n"),
    ("loop", "xfer_course/training/devices.py", r"optimizer\.zero_grad\(\)", "optimizer.zero_grad(set_to_none=False)"),
    ("arm", "nbs/dann/digits.ipynb", "nn.GroupNorm\\(8", "nn.GroupNorm(4"),
    ("size of the profile", "nbs/dann/digits.ipynb", r'\\"cpu\\": Setting\(FEW, images=\d+',
     '\\"cpu\\": Setting(FEW, images=17'),
    ("default of a setting", "nbs/dann/digits.ipynb", "learning_rate: float = 0.001", "learning_rate: float = 0.002"),
])
def test_what_can_move_a_number_makes_the_lab_stale(name, path, old, new):
    assert digits({path: (old, new)}) != digits()


TOY = json.dumps({
    "cells": [{"cell_type": "code", "metadata": {},
               "source": "from xfer_course.toy import double\ndef experiment(seed):\n    return {'x': "
                         "double(seed)}\nruns = run_grid(experiment, [dict(seed=0)])"}]})


def toy(files: dict[str, str]) -> str:
    content = {"nbs/toy/lab.ipynb": TOY, **files}
    return experiment_of("toy/lab", "cpu", lambda path: content[path].encode() if path in content else None).hash


def test_a_function_that_moves_to_another_module_changes_nothing():
    flat = toy({"xfer_course/toy.py": "factor = 2\ndef double(x):\n    return factor * x\n"})
    package = toy({"xfer_course/toy/__init__.py": "from .inner import double\n",
                   "xfer_course/toy/inner.py": "from ..constants import factor\ndef double(x):\n    return "
                                               "factor * x\n",
                   "xfer_course/constants.py": "factor = 2\n"})
    assert flat == package


PLAIN = "def double(x):\n    return 2 * x\n"


@pytest.mark.parametrize("check", [
    "if x < 0:\n        raise ValueError(x)", "_check_sign(x)",
    "for each in [x]:\n        if each < 0:\n            raise ValueError(each)",
    "checks.whole('x', x)", "x = checks.whole('x', x)", '"""Words."""', "# a remark",
])
def test_checks_and_words_change_nothing(check):
    assert (toy({"xfer_course/toy.py": f"def double(x: int) -> int:\n    {check}\n    return 2 * x\n"})
            == toy({"xfer_course/toy.py": PLAIN}))


@pytest.mark.parametrize("effect", [
    "if x < 0:\n        x = 0", "if (x := -x) < 0:\n        raise ValueError(x)", "x = _check_sign(x)",
    "if x < 0:\n        raise ValueError(x)\n    else:\n        x = 1",
    "for each in [x]:\n        x += 1", "x = checks.whole('x', 2 * x)",
])
def test_effects_count(effect):
    assert (toy({"xfer_course/toy.py": f"def double(x):\n    {effect}\n    return 2 * x\n"})
            != toy({"xfer_course/toy.py": PLAIN}))


CHECKED = "from xfer_course.checks import whole\ndef double(x):\n    a, b = %s\n    return a * b\n"


@pytest.mark.parametrize("one, other", [
    ("def double(x):\n    return checks.whole('x', x) * 2\n",
     "def double(x):\n    return checks.whole('n', x, 3) * 2\n"),
    (CHECKED % "whole('a', x), whole('b', 2)", CHECKED % "whole('x', x), whole('two', 2, 1)"),
    ("def double(x):\n    return [a * b for a, b in zip([x], [2], strict=True)]\n",
     "def double(x):\n    return [a * b for a, b in zip([x], [2])]\n"),
])
def test_a_check_is_its_argument_wherever_it_stands(one, other):
    assert toy({"xfer_course/toy.py": one}) == toy({"xfer_course/toy.py": other})


BEFORE_AND_AFTER = {
    "import from elsewhere": ("from math import %s as f\ndef double(x):\n    return f(x)\n", "sin", "cos"),
    "module from elsewhere": ("import %s as m\ndef double(x):\n    return m.sqrt(x)\n", "math", "cmath"),
    "setting of a library": ("import torch\ntorch.set_num_threads(%s)\ndef double(x):\n    return torch.sum(x)\n",
                             1, 4),
    "list that grows": ("factors = []\nfactors.append(%s)\ndef double(x):\n    return factors[0] * x\n", 1, 2),
    "list filled in a loop": ("factors = []\nfor i in range(%s):\n    factors.append(i)\n"
                              "def double(x):\n    return len(factors) * x\n", 1, 2),
    "dict that is filled": ("factors = {}\nfactors.update(a=%s)\ndef double(x):\n    return factors['a'] * x\n", 1, 2),
    "attribute from outside": ("class A:\n    f = 1\nsetattr(A, 'f', %s)\ndef double(x):\n    return A.f * x\n", 1, 2),
    "branch of a try": ("try:\n    factor = fast()\nexcept NameError:\n    factor = %s\n"
                        "def double(x):\n    return factor * x\n", 1, 2),
    "with and while": ("with context(%s) as factor:\n    pass\ndef double(x):\n    return factor * x\n", 1, 2),
    "walrus": ("if (factor := %s):\n    pass\ndef double(x):\n    return factor * x\n", 1, 2),
    "exception that steers": ("def double(x):\n    if x > %s:\n        raise StopIteration\n    return x\n", 1, 2),
    "modulo at the start of a line": ("def double(x):\n    return (x\n%% %s)\n", 1, 2),
}


@pytest.mark.parametrize("text, one, other", BEFORE_AND_AFTER.values(), ids=BEFORE_AND_AFTER)
def test_what_a_definition_stands_on_counts(text, one, other):
    assert toy({"xfer_course/toy.py": text % one}) != toy({"xfer_course/toy.py": text % other})


def test_a_loop_that_reports_is_no_part_of_the_grid():
    cell = "for seed in range(%s):\n    print(seed)\nruns = run_grid(len, [dict(seed=seed) for seed in (0, 1)])"
    labs = [json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": cell % n}]}) for n in (1, 2)]
    assert toy({"nbs/toy/lab.ipynb": labs[0]}) == toy({"nbs/toy/lab.ipynb": labs[1]})


def test_a_line_that_begins_with_a_modulo_hides_no_cell():
    cell = "def experiment(seed):\n    return {'x': (seed\n%% %s)}\nruns = run_grid(experiment, [dict(seed=0)])"
    labs = [json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": cell % n}]}) for n in (1, 2)]
    assert toy({"nbs/toy/lab.ipynb": labs[0]}) != toy({"nbs/toy/lab.ipynb": labs[1]})


def test_a_local_name_is_no_reference():
    other = "def photos():\n    return %d\ndef double(x):\n    photos = 2\n    return photos * x\n"
    assert toy({"xfer_course/toy.py": other % 1}) == toy({"xfer_course/toy.py": other % 2})


def test_what_a_function_imports_for_itself_counts():
    module = "def double(x):\n    from %s import inner\n    return inner.factor() * x\n"
    for path in ("xfer_course", "."):
        versions = [toy({"xfer_course/toy.py": module % path,
                         "xfer_course/inner.py": f"def factor():\n    return {number}\n"}) for number in (1, 2)]
        assert versions[0] != versions[1]


def test_shipped_weights_count():
    module = "def double(x):\n    return load(shipped('checkpoints/tiny.safetensors')) * x\n"
    first, second = (toy({"xfer_course/toy.py": module, "data/checkpoints/tiny.safetensors": content})
                     for content in ("a", "b"))
    assert first != second


def test_the_labs_on_the_tiny_clip_see_its_weights():
    for lab in ("coop/few_shot", "coop/robustness", "coop/ablations"):
        assert "tiny_clip.safetensors" in experiment_of(lab).inputs


def test_an_experiment_names_the_data_that_its_readers_ask_for():
    assert experiment_of("dann/usps_mnist").data_sets == ("mnist", "usps")
    assert experiment_of("dann/mnist_m").data_sets == ("mnist", "bsds500", "mnist_m")
    assert experiment_of("dann/moons").data_sets == ()


def test_the_page_sees_its_report_and_ignores_remarks(tmp_path):
    path = lab_notebook("dann/moons")
    notebook = json.loads(path.read_text("utf-8"))
    cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")

    def hashed(text: str) -> str:
        changed = {**notebook, "cells": [{**c, "source": text + "".join(c["source"])} if c is cell else c
                                         for c in notebook["cells"]]}
        (tmp_path / "copy.ipynb").write_text(json.dumps(changed))
        return code_hash(tmp_path / "copy.ipynb")

    assert hashed("# a remark\n") == code_hash(path) != hashed("x = 1\n")


def _has_history(commit: str) -> bool:
    return subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"],
                          capture_output=True).returncode == 0


@pytest.mark.parametrize("record", load_records(), ids=lambda r: r.file_name)
def test_measured_names_a_commit_that_holds_this_experiment(record):
    commit = record.measured["commit"]
    assert commit, "the record was measured with changes that were not committed"
    if not _has_history(commit):
        pytest.skip(f"commit {commit} is not in this clone's history")
    assert experiment_of(record.lab, record.profile, read_commit(ROOT, commit)).hash == record.measured["experiment"]
