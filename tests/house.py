"""The committed notebooks and modules as tests look at them: each file read and parsed once in a process."""
from __future__ import annotations

import ast
import re
import resource
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "xfer_course"


def is_hidden(path: Path) -> bool:
    "Whether a file lies in a folder that nbdev passes over: `_proc`, `.ipynb_checkpoints`."
    return any(part.startswith(("_", ".")) for part in path.parts[:-1])


NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not is_hidden(path.relative_to(NBS)))
NAMES = {path: path.relative_to(NBS).with_suffix("").as_posix() for path in NOTEBOOKS}
MODULE_FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py")


@cache
def read(path: Path) -> nbformat.NotebookNode:
    "A notebook, shared by all tests of this process: whoever changes it takes a copy (`copy.deepcopy`)."
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def directive(cell, name: str) -> str | None:
    "What follows `#| name` in a cell; an empty text where nothing does, `None` where it has no such line."
    found = re.search(rf"^#\|\s*{name}\b:?[ \t]*(.*)$", cell.source, re.M)
    return found and found[1].strip()


@cache
def exported_module(path: Path) -> str | None:
    "The module that a notebook exports (`dann.deep`), or `None`."
    return next(filter(None, (directive(cell, "default_exp") for cell in code_cells(path))), None)


def parameter_cells(path: Path) -> list:
    return [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]


def is_lab(path: Path) -> bool:
    "An experiment: a notebook of a chapter that papermill can run with other parameters."
    return path.parent != NBS and bool(parameter_cells(path))


LABS = [path for path in NOTEBOOKS if is_lab(path)]
LESSONS = [path for path in NOTEBOOKS if not is_lab(path)]


def module_name(path: Path) -> str:
    "`xfer_course/dann/deep.py` → `xfer_course.dann.deep`; a package's `__init__.py` → the package."
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


@cache
def tree_of(path: Path) -> ast.Module:
    "The syntax tree of a file of Python, shared by all tests of this process."
    return ast.parse(path.read_text("utf-8"))


def public_names(path: Path) -> list[str]:
    "`__all__` of a file, read and not run."
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


def starts_taken(work: Callable[[int], float], start: Callable[..., float], cap: float) -> float:
    """CPU time of `work` in starts (the fixture): that of a second run where the first is above the cap, if it is less.

    What else a machine computes slows a run down and never speeds it up, so the lesser of two is nearer to the truth.
    """
    first = work(0) / start()
    return first if first <= cap else min(first, work(1) / start(now=True))


def cpu_seconds_of_children() -> float:
    "What the processes that this one started, and theirs, have used, as far as they have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
