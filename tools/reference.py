"""The API reference as pages for Quarto: one per package that users import from, read by quartodoc from the source.

Nothing is imported: griffe reads the files. Which pages there are, and what stands on them, comes from the registry.
"""
from __future__ import annotations

import ast
import json
import logging
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from griffe import Alias, Object
from origins import Module, modules
from quartodoc import Builder, blueprint, collect
from reference_renderer import ReferenceRenderer

from xfer_course.registry import PublicName, public_names, re_exports

FOLDER = "api"
LONGEST_VALUE = 400  # characters of a constant that a page shows


@lru_cache(maxsize=1)
def packages(root: Path) -> dict[str, list[PublicName]]:
    "Package or plain module -> its own public names, in the order of its `__all__`."
    found: dict[str, list[PublicName]] = {}
    for name in public_names(root):
        found.setdefault(name.package, []).append(name)
    for package, names in found.items():
        order = {name: place for place, name in enumerate(_all_of(_source(root, package)))}
        names.sort(key=lambda public: order.get(public.name, len(order)))
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def addresses(root: Path) -> dict[str, str]:
    "`package.name` -> the place of its entry, from the root of the site."
    return {name.shown: f"{FOLDER}/{package}.html#xfer_course.{name.shown}"
            for package, names in packages(root).items() for name in names}


def symbols(root: Path) -> dict[str, str]:
    """What inline code may be a link to: full names, and bare ones that no other package has.

    A plain word such as `fit` is no link, and `mnist_m` in the text is more often the lab than the function.
    """
    found = addresses(root)
    bare = Counter(shown.rpartition(".")[2] for shown in found)
    notebooks = {path.stem for path in (root / "nbs").rglob("*.ipynb")}
    short = {name: address for shown, address in found.items() if bare[name := shown.rpartition(".")[2]] == 1
             and re.search(r"[A-Z_]", name) and name not in notebooks}
    return short | found | {f"xfer_course.{shown}": address for shown, address in found.items()}


def write_reference(root: Path, out: Path) -> list[str]:
    "Write the pages below a folder; returns their names, `api/dann.qmd`."
    by_package = packages(root)
    contents = [{"kind": "page", "path": package,
                 "contents": [name.shown for name in names if name.kind != "constant"]}
                for package, names in by_package.items()]
    places = _Places(root)
    renderer = ReferenceRenderer(places.of_object)
    builder = Builder.from_quarto_config({"quartodoc": {
        "package": "xfer_course", "dir": FOLDER, "parser": "google", "sections": [{"contents": contents}]}})
    _quiet_griffe()
    before = os.getcwd()
    os.chdir(root)  # griffe finds the package in the working folder
    try:
        made, _ = collect(blueprint(builder.layout, parser="google"), base_dir=FOLDER)
        entries = {doc.obj.path: renderer.render(doc) for page in made for doc in page.contents}
    finally:
        os.chdir(before)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for package, names in by_package.items():
        text = "\n\n".join(entries.get(f"xfer_course.{name.shown}") or _constant(name, places) for name in names)
        whole = _head(root, package) + text + _elsewhere(root, package)
        (out / FOLDER / f"{package}.qmd").write_text(whole + "\n", "utf-8")
    return [f"{FOLDER}/{package}.qmd" for package in by_package]


def _quiet_griffe() -> None:
    "Arguments that a docstring names together (`model, optimizer: ...`) are no mistake of ours."
    logging.getLogger("griffe").setLevel(logging.ERROR)


def _source(root: Path, package: str) -> str:
    place = root / "xfer_course" / package.replace(".", "/")
    return (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8")


def _all_of(text: str) -> list[str]:
    assigned = (node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)
                and getattr(node.targets[0], "id", "") == "__all__")
    return [name for value in assigned for name in ast.literal_eval(value)]


def _head(root: Path, package: str) -> str:
    "Front matter and the docstring of the package; its first paragraph is the description."
    docstring = ast.get_docstring(ast.parse(_source(root, package))) or ""
    first, _, rest = docstring.partition("\n\n")
    front = {"title": f"xfer_course.{package}", "description": " ".join(first.split()),
             "toc-depth": 2, "body-classes": "reference"}
    lines = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items())
    return f"---\n{lines}\n---\n\n" + (f"{rest}\n\n" if rest else "")


def _elsewhere(root: Path, package: str) -> str:
    "What the package also offers, but another page describes."
    again, known = re_exports(root), addresses(root)
    described = {(name.module, name.name): known[name.shown] for names in packages(root).values() for name in names}
    links = []
    for name in _all_of(_source(root, package)):
        target, module = None, package
        while name in again.get(module, {}):
            module = again[module][name]
            target = described.get((module, name), target)
        if target and not target.startswith(f"{FOLDER}/{package}.html"):
            links.append(f"[`{name}`](../{target})")
    return f"\n\n## Described elsewhere\n\nAlso importable from here: {', '.join(links)}." if links else ""


def _constant(name: PublicName, places: _Places) -> str:
    "A constant with its value, where that is short; quartodoc does not know those that are assigned together."
    text = places.modules[name.module].text
    node = next(node for node in ast.parse(text).body if isinstance(node, ast.Assign | ast.AnnAssign)
                and name.name in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)
                                  and isinstance(n.ctx, ast.Store)})
    value = ast.get_source_segment(text, node) or ""
    shown = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]} ..."
    return (f"## {name.name} {{#xfer_course.{name.shown} .doc-heading}}\n\n```python\n{shown}\n```\n\n"
            + places.of_line(name.module, name.name, node.lineno))


class _Places:
    "Where a public name is built, and which notebooks use it."

    def __init__(self, root: Path):
        self.modules: dict[str, Module] = {module.name: module for module in modules(root)}

    def of_object(self, obj: Object | Alias) -> str:
        "The line below a function or class; a method stands in its class's cell."
        if obj.parent is not None and obj.parent.is_class:
            return ""
        obj = getattr(obj, "final_target", obj)
        return self.of_line(obj.module.path.removeprefix("xfer_course."), obj.name, obj.lineno)

    def of_line(self, module_name: str, name: str, line: int) -> str:
        module = self.modules[module_name]
        built = f"Built in [{module.notebook.name}](../{module.cell_address(line)})"
        users = [f"[{user}](../{user}.html)" for user in module.used_in.get(name, []) if user != module.notebook.name]
        return f"::: {{.from}}\n{built}{' · used in ' + ', '.join(users) if users else ''}\n:::"
