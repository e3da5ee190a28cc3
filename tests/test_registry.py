"""The registry: what is generated from it is current, and a new paper is files in its folder and nothing else."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT
from xfer_course.registry import (
    chapters,
    front_matter_problems,
    generated_files,
    notebooks,
    pages,
    papers,
    public_functions,
    select_notebooks,
)


def test_front_matter_is_complete():
    assert front_matter_problems(ROOT) == []


def test_generated_files_are_current():
    for path, text in generated_files(ROOT).items():
        assert path.read_text("utf-8") == text, f"{path.name} is not what the notebooks say: run `make notebooks`"


@pytest.mark.slow
def test_readme_is_current():
    from xfer_course.cli.readme import with_chapters
    from xfer_course.labs import load_records

    text = (ROOT / "README.md").read_text("utf-8")
    assert with_chapters(text, load_records(), ROOT) == text, "stale: run `make readme`"
    assert len(text.encode()) <= 8000


def test_registry_needs_no_torch():
    code = "import sys\nfrom xfer_course.registry import notebooks\nassert notebooks() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_paper_notebook_exports_a_module_and_every_chapter_has_an_entrance():
    assert all(notebook.module for notebook in notebooks(ROOT) if notebook.kind == "paper")
    assert all(chapter.first.kind == "paper" for chapter in chapters(ROOT) if chapter.papers)
    assert {n.chapter for n in pages(ROOT)} == {""} and not any(n.papers for n in pages(ROOT))


def test_public_functions_are_those_of_the_chapters():
    shown = [name.shown for name in public_functions(ROOT)]
    assert len(shown) == len(set(shown)) and "dann.DANN" in shown
    assert {name.notebook.chapter for name in public_functions(ROOT)} == {c.name for c in chapters(ROOT) if c.papers}


@pytest.mark.parametrize("target, sentence", [
    ("dann/digit", r"a target must be a chapter or a notebook \(such as dann/"),
    ("cats", "a target must be a chapter or a notebook .*, got 'cats'"),
    ("toy/method", "each paper of toy has its own now: toy/shrink"),
])
def test_a_wrong_target_is_answered_with_what_there_is(new_paper, target, sentence):
    with pytest.raises(ValueError, match=sentence):
        select_notebooks((target,), notebooks(new_paper))


def test_a_mistake_in_the_front_matter_is_named(new_paper, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(new_paper, copy)
    path = copy / "nbs/toy/shrink.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["xfer"] |= {"kind": "lab", "level": "hard", "papers": ["no-such-paper"], "order": None,
                                  "needs": {}, "chapter": "dann"}
    nbformat.write(notebook, path)
    found = " ".join(_problems_of_toy(copy))
    for word in ("kind", "order", "level", "needs", "papers", "chapter"):
        assert f"nbs/toy/shrink.ipynb: {word} must" in found, word


def _problems_of_toy(root: Path) -> list[str]:
    from xfer_course import registry

    known = {"2d-matryoshka"}
    notebook = registry.read_notebook(root / "nbs/toy/shrink.ipynb", root)
    return [f"nbs/toy/shrink.ipynb: {sentence}" for sentence in registry._mistakes(notebook, known)]


# ---------------------------------------------------------------- a new paper, in a copy of the checkout

PAPER = "2d-matryoshka"  # in the atlas, and planned
MODULE = ('#| export\ndef shrink(x: float) -> float:\n    """Half of a number.\n\n    Source: Toy and Doll (2031), '
          'equation (7).\n    """\n    return x / 2')


def toy_notebook(path: Path, title: str, cells: list[str], front: dict, parameters: bool = False) -> None:
    made = [nbformat.v4.new_markdown_cell(f"# {title}\n\n> A notebook of a new paper."),
            *map(nbformat.v4.new_code_cell, cells)]
    if parameters:
        made[1].metadata["tags"] = ["parameters"]
    needs = {"data": "none", "device": "cpu", "minutes": 1}
    metadata = {"xfer": {"chapter": "toy", "papers": [PAPER], "needs": needs, "level": "middle", **front}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=metadata), path)


@pytest.fixture(scope="module")
def new_paper(tmp_path_factory) -> Path:
    "A copy of the course with one more paper: files in its folders, exported by nbdev."
    root = tmp_path_factory.mktemp("course") / "course"
    left_out = shutil.ignore_patterns("__pycache__", ".*", "_proc", "_docs", "partial", "checkpoints",
                                      "*.ipynb_checkpoints")
    for folder in ("nbs", "xfer_course", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=left_out)
    (root / "data/results").mkdir(parents=True)
    for name in ("settings.ini", "README.md", "data/atlas.json", "data/built.json", "data/manifest.json"):
        shutil.copy(ROOT / name, root / name)
    (root / "nbs/toy").mkdir()
    (root / "nbs/toy/chapter.json").write_text(
        json.dumps({"title": "Toys", "short": "Toy", "question": "how small can a toy be?", "order": 45}))
    toy_notebook(root / "nbs/toy/shrink.ipynb", "Shrinking", ["#| default_exp toy.shrinking", MODULE],
                 {"kind": "paper", "order": 10})
    toy_notebook(root / "nbs/toy/halves.ipynb", "Halves",
                 ["profile = 'cpu'\nseeds = [0]\ndevice = 'auto'\nout = None"], {"kind": "lab", "order": 20},
                 parameters=True)
    (root / "xfer_course/toy").mkdir()
    (root / "xfer_course/toy/__init__.py").write_text(
        '"""Toys."""\nfrom .shrinking import shrink\n\n__all__ = ["shrink"]\n')
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("IN_TEST", None)  # nbdev_export does nothing under it
    command = [Path(sys.executable).with_name("nbdev_export"), "--path", "nbs/toy"]
    subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    return root


# Runs in the copy: generates what is generated, and says what each list holds.
REPORT = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tools")
import nbformat
from click.testing import CliRunner
from papers import papers_page
from reference import addresses
from xfer_course.atlas import papers
from xfer_course.cli import main
from xfer_course.cli.readme import with_chapters
from xfer_course.registry import generated_files, public_functions
for path, text in generated_files().items():
    path.write_text(text, "utf-8")
shell, home = {"__name__": "cards"}, nbformat.read("nbs/index.ipynb", as_version=4)
for cell in home.cells:
    words = ("import html", "def first_picture", "def card(")
    if cell.cell_type == "code" and any(word in cell.source for word in words):
        exec(cell.source, shell)
built = next(p for p in papers() if p.id == "2d-matryoshka")
print("RESULT" + json.dumps({
    "sidebar": Path("nbs/sidebar.yml").read_text("utf-8"), "list": CliRunner().invoke(main, ["list"]).output,
    "README": with_chapters(Path("README.md").read_text("utf-8"), []), "atlas": [built.chapter, *built.implemented_by],
    "papers": papers_page(Path.cwd(), addresses(Path.cwd())), "cards": shell["cards"],
    "drawn": [name.shown for name in public_functions()]}))
"""


@pytest.fixture(scope="module")
def lists(new_paper) -> dict:
    done = subprocess.run([sys.executable, "-c", REPORT], cwd=new_paper,
                          env={**os.environ, "PYTHONPATH": str(new_paper)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


@pytest.mark.slow
@pytest.mark.parametrize("where, what", [
    ("sidebar", '- section: "Toy: how small can a toy be?"\n        contents:\n          - toy/shrink.ipynb\n          '
                '- toy/halves.ipynb\n'),
    ("list", "toy/halves"), ("README", "| [Toys](nbs/toy/shrink.ipynb) | how small can a toy be? |"),
    ("papers", "Toy and Doll (2031), equation (7)"),
    ("papers", "[`shrink`](api/toy.html#xfer_course.toy.shrink)"), ("cards", '<a href="toy/shrink.ipynb">Toy</a>'),
    ("cards", "How small can a toy be?"),
])
def test_a_new_paper_is_found(lists, where, what):
    assert what in lists[where]


@pytest.mark.slow
def test_a_new_paper_is_in_the_atlas_and_in_the_fuzzing(lists):
    assert lists["atlas"] == ["toy/shrink", "toy.shrink"] and "toy.shrink" in lists["drawn"]
    assert PAPER not in papers(ROOT) or not any(n.module for n in papers(ROOT)[PAPER]), (
        "the test needs a paper that is not built yet")
