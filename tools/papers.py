"""The page from what a paper says to the code that builds it, made from the `Source:` sentences of the docstrings."""
from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from origins import Module, modules

TITLE = "From the papers to the code"
DESCRIPTION = ("Where each section and equation of the papers is built, tested and measured; made from the "
               "sources that the docstrings name.")
COLUMNS = ("in the paper", "built in", "function", "tests", "records")


def papers_page(root: Path, addresses: dict[str, str]) -> str:
    """The page as Markdown for Quarto; `addresses` says where the reference describes `package.name`.

    The rows are the sentences of the docstrings, so that the page cannot say what the code does not. They stand under
    the papers that the notebook of the module builds, else under the notebook's title. A test counts when its file
    names the function, a record when its lab imports it.
    """
    titles = {paper["id"]: paper["title"]
              for paper in json.loads((root / "data/atlas.json").read_text("utf-8"))["papers"]}
    tests = {path.name: path.read_text("utf-8") for path in sorted((root / "tests").glob("test_*.py"))}
    records = {path.stem.rpartition("-")[0] for path in (root / "data/results").glob("*.json")}
    sections: dict[str, list[str]] = {}
    for module in modules(root):
        heading = "; ".join(titles.get(paper, paper) for paper in module.notebook.papers) or module.notebook.title
        for name, line, source in _sources(module.text):
            public = name.partition(".")[0]
            place = next((addresses[at] for package in (module.name.rpartition(".")[0], module.name)
                          if (at := f"{package}.{public}") in addresses), None)
            cells = (source, f"[{module.notebook.name}]({module.cell_address(line)})",
                     f"[`{name}`]({place})" if place else f"`{name}`",
                     _tests_of(public, module, tests), _records_of(public, module, records))
            sections.setdefault(heading, []).append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    tables = [f"## {heading}\n\n{head}\n" + "\n".join(rows) for heading, rows in sections.items()]
    front = f"---\ntitle: {json.dumps(TITLE)}\ndescription: {json.dumps(DESCRIPTION)}\n---"
    return "\n\n".join([front, *tables]) + "\n"


def _sources(text: str) -> list[tuple[str, int, str]]:
    "(name, line, sentence) for every public definition and method whose docstring has a `Source:` sentence."
    tree, found = ast.parse(text), []
    public = {name for node in tree.body if isinstance(node, ast.Assign)
              and getattr(node.targets[0], "id", "") == "__all__" for name in ast.literal_eval(node.value)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public:
            members = ([n for n in node.body if isinstance(n, ast.FunctionDef)]
                       if isinstance(node, ast.ClassDef) else [])
            for name, part in [(node.name, node)] + [(f"{node.name}.{m.name}", m) for m in members]:
                docstring = " ".join((ast.get_docstring(part) or "").split())
                if sentence := re.search(r"Source: (.+?)\.(?= [A-Z]|$)", docstring):
                    found.append((name, node.lineno, sentence[1]))
    return found


def _tests_of(name: str, module: Module, tests: dict[str, str]) -> str:
    word = re.compile(rf"\b{re.escape(name)}\b")
    packages = module.packages.get(name, {module.name})
    found = [f"`{file}`" for file, text in tests.items() if word.search(text) and _imports_one(text, packages)]
    return ", ".join(found) or "in the notebook"


def _imports_one(text: str, packages: set[str]) -> bool:
    return any(re.search(rf"xfer_course(?:\.| import .*\b){re.escape(package)}\b", text) for package in packages)


def _records_of(name: str, module: Module, records: set[str]) -> str:
    found = [f"[{lab}]({lab}.html)" for lab in module.used_in.get(name, []) if lab.replace("/", "-") in records]
    return ", ".join(found) or "–"
