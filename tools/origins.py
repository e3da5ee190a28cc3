"""Where the pieces of the library come from and who uses them, read from sources without importing them."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from xfer_course.registry import CourseNotebook, module_file, notebooks, pages, re_exports


@dataclass(frozen=True)
class Module:
    "An exported module, and the notebooks and packages that know its names."

    name: str  # `dann.deep`
    text: str
    notebook: CourseNotebook
    used_in: dict[str, list[str]]  # public name -> notebooks that import it, as `dann/moons`
    packages: dict[str, set[str]]  # public name -> where it can be imported from

    def cell_of(self, line: int) -> str | None:
        "The id of the notebook cell that a line of the module was exported from."
        before = self.text.split("\n")[:line]
        return next((m[1] for text in reversed(before) if (m := re.match(r"# %% (?:\.\./)+nbs/\S+ #([\w-]+)", text))),
                    None)

    def cell_address(self, line: int) -> str:
        "Page and anchor of that cell, from the root of the site."
        cell = self.cell_of(line)
        return f"{self.notebook.name}.html" + (f"#{cell}" if cell else "")


def modules(root: Path) -> list[Module]:
    "Every exported module with the notebook that builds it, in teaching order."
    again, used = re_exports(root), imports_of_notebooks(root)
    found = []
    for notebook in notebooks(root) + pages(root):
        if not notebook.module or not module_file(notebook.module, root).is_file():
            continue
        packages: dict[str, set[str]] = {}
        for package, names in again.items():
            for name in names:
                if origin(package, name, again) == notebook.module:
                    packages.setdefault(name, {notebook.module}).add(package)
        text = module_file(notebook.module, root).read_text("utf-8")
        found.append(Module(notebook.module, text, notebook, used.get(notebook.module, {}), packages))
    return found


def origin(module: str, name: str, again: dict[str, dict[str, str]]) -> str:
    "The module that defines a name which others import from `module`."
    while name in again.get(module, {}):
        module = again[module][name]
    return module


def imports_of_notebooks(root: Path) -> dict[str, dict[str, list[str]]]:
    "module -> public name -> notebooks that import it, from the module itself or from a package that re-exports it."
    again = re_exports(root)
    used: dict[str, dict[str, list[str]]] = {}
    for path in sorted((root / "nbs").glob("*/*.ipynb")):
        if path.parent.name.startswith((".", "_")):
            continue
        name = path.relative_to(root / "nbs").with_suffix("").as_posix()
        cells = json.loads(path.read_text("utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        for module, one_line, in_brackets in re.findall(
                r"^from xfer_course\.([\w.]+) import (?:([^(\n]+)|\(([^)]+)\))", source, re.M):
            for word in re.findall(r"\w+", one_line or in_brackets):
                places = used.setdefault(origin(module, word, again), {}).setdefault(word, [])
                if name not in places:
                    places.append(name)
    return used
