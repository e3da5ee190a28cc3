"""The rules of the house: how large things are, which module may import which, and that one linter is content."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from house import (
    MODULE_FILES,
    NAMES,
    NOTEBOOKS,
    PACKAGE,
    ROOT,
    code_cells,
    definitions,
    directive,
    exported_module,
    is_package,
    module_name,
    public_names,
    tree_of,
)
from xfer_course.registry import chapters

every_module = pytest.mark.parametrize("path", MODULE_FILES, ids=lambda path: module_name(path))


# --- sizes; every list of exceptions gives the present length and may only shrink

MODULE_LINES, DEFINITION_LINES, CELL_LINES = 400, 60, 40
LONG_MODULES: dict[str, int] = {}
LONG_DEFINITIONS: dict[str, int] = {}
LONG_CELLS: dict[str, int] = {
    "coop/coop 66a35332": 60,  # PromptLearner: half of it says what its nine arguments are
    "coop/tokenizer f5698e44": 51,  # Tokenizer
    "dann/dann de5e2e73": 51,  # DANN
    "dann/shallow d970c002": 53,  # ShallowDANN
    "foundations/claims 14185b44": 49,  # Claim: half of it says what its fields are
    "foundations/records ccc79469": 57,  # Record: the same
    "foundations/training 48b768d9": 61,  # fit: two thirds of it say what its arguments are
}


def held(lengths: dict[str, int], limit: int, exceptions: dict[str, int], most: int = 10) -> list[str]:
    "What is longer than the limit, or than its exception says; and exceptions that are no longer needed."
    long = [f"{name} has {n} lines" for name, n in lengths.items() if n > exceptions.get(name, limit)]
    idle = [f"{name} is an exception of {n} lines and has {lengths.get(name, 0)}: lower it, or take it out"
            for name, n in exceptions.items() if lengths.get(name, 0) < n or n <= limit]
    return long + idle + ([f"there are {len(exceptions)} exceptions"] if len(exceptions) > most else [])


def test_modules_are_short():
    lengths = {module_name(path): len(path.read_text("utf-8").splitlines()) for path in MODULE_FILES}
    assert held(lengths, MODULE_LINES, LONG_MODULES) == []
    assert median(lengths.values()) < 250


def test_definitions_are_short():
    lengths = {f"{module_name(path)}.{node.name}": node.end_lineno - node.lineno + 1
               for path in MODULE_FILES for node in definitions(tree_of(path))}
    assert held(lengths, DEFINITION_LINES, LONG_DEFINITIONS) == []


def exported_cells() -> Iterator[tuple[str, str]]:
    "(notebook and id, code without directives) of every cell that goes into a module."
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            if exported_module(path) and re.search(r"^#\|\s*export", cell.source, re.M):
                yield f"{NAMES[path]} {cell.id}", re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()


def test_exported_cells_are_short():
    lengths = {name: len(code.splitlines()) for name, code in exported_cells()}
    assert held(lengths, CELL_LINES, LONG_CELLS) == []
    assert median(lengths.values()) < 20


# --- refusals


def only_refuses(node: ast.stmt) -> bool:
    "A `raise`, an `assert`, or an `if` whose branches hold nothing else."
    if isinstance(node, ast.If):
        return all(only_refuses(inner) for inner in node.body + node.orelse)
    return isinstance(node, (ast.Raise, ast.Assert))


def refusing_lines(tree: ast.AST) -> set[int]:
    "The lines of the statements that can do nothing but refuse."
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and only_refuses(node):
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


def lines_of_code(tree: ast.AST) -> set[int]:
    "Lines that belong to a statement, without docstrings, comments and blank lines between statements."
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            inner = getattr(node, "body", None)
            last = node.end_lineno if not inner else max(inner[0].lineno - 1, node.lineno)
            found |= set(range(node.lineno, last + 1))
    return found


def test_little_of_the_code_only_refuses():
    "Below 12%, by the measure of other libraries: `raise`, `assert`, and `if` that hold nothing else."
    shares = {module_name(path): (len(refusing_lines(tree_of(path))), len(lines_of_code(tree_of(path))))
              for path in MODULE_FILES}
    refusing, lines = (sum(column) for column in zip(*shares.values(), strict=True))
    worst = sorted(shares, key=lambda name: -shares[name][0])[:5]
    assert refusing / lines < 0.12, f"{refusing} of {lines} lines; most in {', '.join(worst)}"


# --- imports

# From the ground up. A module imports modules of its own floor (without a circle) and of those below.
FLOORS = ("checks", "exercises", "intervals", "figures", "registry", "data", "training", "evaluation", "labs",
          "chapters", "atlas", "cli")
# Packages that only keep old names importable stand above everything that they re-export, and nothing imports them.
MOVED = {"xfer_course.pictures", "xfer_course.results", "xfer_course.alignment", "xfer_course.selection"}
# Imports inside a function that open a circle on purpose: a door from the lower module to the higher.
DOORS: set[tuple[str, str]] = {("xfer_course.clip.model", "xfer_course.clip.weights")}
FOUNDATIONS = set(FLOORS) - {"chapters", "atlas", "cli"}


@cache
def chapter_order() -> list[str]:
    return [chapter.name for chapter in chapters(ROOT) if chapter.name != "foundations"]


@cache
def chapter_of() -> dict[str, str]:
    """The package or module of the library → the chapter whose notebooks build it; the chapter *coop* builds two,
    `clip` and `coop`. Commands that a chapter's notebook builds stay on the floor of the command line."""
    return {package: path.parent.name for path in NOTEBOOKS
            if path.parent.name in chapter_order() and (module := exported_module(path))
            and (package := module.split(".")[0]) not in FLOORS}


@cache
def known_modules() -> frozenset[str]:
    return frozenset(map(module_name, MODULE_FILES))


def imports_of(path: Path) -> Iterator[tuple[str, str | None, bool]]:
    "(module, name or `None`, whether inside a function) of everything that a file imports from the library."
    package = module_name(path) if is_package(path) else module_name(path).rpartition(".")[0]
    inside = {id(node) for outer in definitions(tree_of(path)) for node in ast.walk(outer)}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "xfer_course":
                    yield alias.name, None, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            if origin.split(".")[0] == "xfer_course":
                for alias in node.names:
                    whole = f"{origin}.{alias.name}"
                    yield (whole, None, id(node) in inside) if whole in known_modules() else (
                        origin, alias.name, id(node) in inside)


@cache
def arrows() -> tuple[tuple[str, str, str | None, bool], ...]:
    """(importing module, imported module, name, whether inside a function);
    a name that a package re-exports counts as its module's."""
    defined = {(module_name(path), name) for path in MODULE_FILES for name in public_names(path)}
    origin: dict[tuple[str, str], str] = {}
    for path in filter(is_package, MODULE_FILES):
        origin |= {(module_name(path), name): module
                   for module, name, _ in imports_of(path) if name and (module, name) in defined}
    found = []
    for path in MODULE_FILES:
        for module, name, inside in imports_of(path):
            while name and (module, name) in origin and origin[module, name] != module:
                module = origin[module, name]
            found.append((module_name(path), module, name, inside))
    return tuple(found)


def floor(module: str) -> tuple[int, int]:
    "Place of a module on the floors, and of a chapter among the chapters."
    first = module.split(".")[1] if "." in module else ""
    if not first:
        return -1, 0  # `import xfer_course`: its version
    if first in chapter_of() or first not in FLOORS:
        return (FLOORS.index("chapters"),
                chapter_order().index(chapter_of()[first]) if first in chapter_of() else len(chapter_order()))
    return FLOORS.index(first), 0


def test_every_part_of_the_library_has_a_floor():
    parts = {name.split(".")[1] for name in known_modules() if "." in name}
    built_by_chapters = {module.split(".")[0] for path in NOTEBOOKS if path.parent.name in chapter_order()
                         and (module := exported_module(path))}
    moved = {name.split(".")[1] for name in MOVED}
    assert parts - set(FLOORS) - built_by_chapters - moved == set()


def test_no_import_runs_upward():
    "Chapters count by their order in the course: a chapter may import an earlier one."
    wrong = sorted({f"{of} imports {module}" for of, module, _, _ in arrows()
                    if of not in MOVED and (of, module) not in DOORS and not is_reexport(of, module)
                    and floor(module) > floor(of)})
    assert wrong == []


def is_reexport(of: str, module: str) -> bool:
    "Whether a package's own file imports one of its modules."
    return module.startswith(of + ".")


def test_imports_form_no_circle():
    graph: dict[str, set[str]] = {}
    for of, module, _, _ in arrows():
        if (of, module) not in DOORS and of != module:
            graph.setdefault(of, set()).add(module)
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, "a circle: " + " → ".join([*way[way.index(module):], module])
        if module not in done:
            for following in sorted(graph.get(module, ())):
                walk(following, (*way, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_nothing_imports_a_package_that_only_keeps_old_names():
    assert sorted({f"{of} imports {module}" for of, module, _, _ in arrows() if module in MOVED}) == []


def test_no_private_name_is_imported_across_modules():
    "Neither `from .deep import _weights` nor `deep._weights` of an imported module."
    wrong = [f"{of} imports {module}.{name}"
             for of, module, name, _ in arrows() if name and name.startswith("_") and not name.startswith("__")]
    for path in MODULE_FILES:
        bound = {module.rpartition(".")[2]: module for module, name, _ in imports_of(path) if name is None}
        for node in ast.walk(tree_of(path)):
            if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound
                    and re.match(r"_[^_]", node.attr)):
                wrong.append(f"{module_name(path)} uses {bound[node.value.id]}.{node.attr}")
    assert wrong == []


def test_foundations_import_no_chapter():
    wrong = {f"{of} imports {module}" for of, module, _, _ in arrows()
             if of.split(".")[1:2] and of.split(".")[1] in FOUNDATIONS and floor(module)[0] >= FLOORS.index("chapters")}
    assert sorted(wrong) == []


def test_nothing_imports_a_lab():
    "A lab exports no module, so there is nothing to import; and no notebook runs or imports another."
    labs = [path for path in NOTEBOOKS if exported_module(path)
            and any("parameters" in c.metadata.get("tags", []) for c in code_cells(path))]
    assert labs == []


@pytest.mark.parametrize("path", [path for path in MODULE_FILES if is_package(path) and path.parent != PACKAGE],
                         ids=lambda path: path.parent.name)
def test_a_package_re_exports_exactly_what_its_modules_offer(path):
    "Packages of moved names re-export from elsewhere: for them every name must be one that some module offers."
    offered = {name: module_name(module) for module in sorted(path.parent.glob("*.py")) if not is_package(module)
               for name in public_names(module)}
    imported = {name: module for module, name, _ in imports_of(path) if name}
    stated = public_names(path)
    assert ast.get_docstring(tree_of(path)), "a package says in a sentence what it holds"
    assert len(stated) == len(set(stated)) and set(stated) <= set(imported), (
        "`__all__` names what is imported, each once")
    if offered:
        assert set(offered) <= set(stated), "names that the package does not pass on"
        foreign = {name for name in stated if name not in offered
                   and f"xfer_course.{path.parent.name}" == imported[name].rpartition(".")[0]}
        assert foreign == set(), "names that no module offers"
    others = [node for node in tree_of(path).body if not isinstance(node, (ast.ImportFrom, ast.Expr, ast.Assign))]
    assert others == [], "a package's own file holds imports and `__all__`, nothing else"


@every_module
def test_no_module_uses_patch_or_star_imports(path):
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)), (
            f"line {node.lineno}: import *")
        decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
        assert not any(re.fullmatch(r"(\w+\.)?patch(_to)?(\(.*\))?", each) for each in decorators), (
            f"line {node.lineno}: @patch")


# --- the linter


def test_ruff_has_no_complaint():
    done = subprocess.run([Path(sys.executable).with_name("ruff"), "check", "--output-format", "concise"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_directives_stand_at_the_top_of_their_cell():
    "nbdev reads `#|` lines only above the code; further down they would be a comment that does nothing."
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            body = re.sub(r"\A(?:#\|.*\n?|\s*\n)*", "", cell.source)
            assert directive(cell, "export") is None or not re.search(r"^#\|", body, re.M), (
                f"{NAMES[path]}: {cell.source[:80]}")
