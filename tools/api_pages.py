"""The API reference of the plain edition: one page per module, read from the source without importing it."""
from __future__ import annotations

import ast
import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from xfer_course.registry import CourseNotebook, module_file, notebooks, pages, re_exports

Definition = ast.FunctionDef | ast.ClassDef


@dataclass
class ApiPage:
    "The reference of one module: its content as HTML, and the addresses of the names that other pages may link to."

    module: str
    description: str
    content: str
    symbols: dict[str, str] = field(default_factory=dict)


@dataclass
class _Module:
    name: str  # `dann.deep`
    text: str
    notebook: str  # path below nbs/
    used_in: dict[str, list[str]]  # public name -> notebooks that import it
    packages: dict[str, set[str]]  # public name -> where it can be imported from


def _modules(root: Path) -> list[tuple[CourseNotebook, _Module]]:
    "Every exported module with the notebook that builds it, in teaching order."
    again, used = re_exports(root), _imports_of_notebooks(root)
    found = []
    for notebook in notebooks(root) + pages(root):
        if notebook.module and module_file(notebook.module, root).is_file():
            packages: dict[str, set[str]] = {}
            for package, names in again.items():
                for name in names:
                    if _origin(package, name, again) == notebook.module:
                        packages.setdefault(name, {notebook.module}).add(package)
            text = module_file(notebook.module, root).read_text("utf-8")
            found.append((notebook, _Module(notebook.module, text, f"{notebook.name}.ipynb",
                                            used.get(notebook.module, {}), packages)))
    return found


def _origin(module: str, name: str, again: dict[str, dict[str, str]]) -> str:
    "The module that defines a name which others import from `module`."
    while name in again.get(module, {}):
        module = again[module][name]
    return module


def api_pages(root: Path, to_html: Callable[[str], str]) -> list[ApiPage]:
    "The pages of all exported modules, by name."
    pages = [_page(module, to_html) for _, module in sorted(_modules(root), key=lambda pair: pair[1].name)]
    counts: dict[str, int] = {}
    for page in pages:
        for name in page.symbols:
            counts[name] = counts.get(name, 0) + 1
    for page in pages:  # a name in two modules, or a plain word such as `fit`, is no link
        page.symbols = {
            n: a for n, a in page.symbols.items() if counts[n] == 1 and (re.search(r"[A-Z]", n) or "_" in n)}
    return pages


def _imports_of_notebooks(root: Path) -> dict[str, dict[str, list[str]]]:
    "module -> public name -> notebooks that import it, from the module itself or from a package that re-exports it."
    again = re_exports(root)
    used: dict[str, dict[str, list[str]]] = {}
    for path in sorted((root / "nbs").glob("*/*.ipynb")):
        if path.parent.name.startswith((".", "_")):
            continue
        name = path.relative_to(root / "nbs").as_posix()
        cells = json.loads(path.read_text("utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        for module, one_line, in_brackets in re.findall(
                r"^from xfer_course\.([\w.]+) import (?:([^(\n]+)|\(([^)]+)\))", source, re.M):
            for word in re.findall(r"\w+", one_line or in_brackets):
                places = used.setdefault(_origin(module, word, again), {}).setdefault(word, [])
                if name not in places:
                    places.append(name)
    return used


def _page(module: _Module, to_html: Callable[[str], str]) -> ApiPage:
    tree = ast.parse(module.text)
    public = _public_names(tree)
    definitions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    constants = {
        name.id: node
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    parts = []
    for name in public:
        if name in definitions:
            parts.append(_entry(module, definitions[name], to_html))
        elif name in constants:
            parts.append(f'<h2 id="{name}" data-keep="">{name}</h2>\n{_code(ast.unparse(constants[name]))}')
    title = f"../{Path(module.notebook).with_suffix('.html').as_posix()}"
    first = (f'<p>Exported from <a href="{title}">{module.notebook}</a>, where every piece is explained, built and '
             'tested.</p>')
    return ApiPage(module.name, ast.get_docstring(tree) or "", first + "\n".join(parts),
                   {n: f"api/{module.name}.html#{n}" for n in public})


def _public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_")]
    return []


def _entry(module: _Module, node: Definition, to_html: Callable[[str], str]) -> str:
    "Heading, signature, docstring, members and places of one function or class."
    parts = [f'<h2 id="{node.name}" data-keep="">{node.name}</h2>', _code(_signature(node)), _docstring(node, to_html)]
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_") and ast.get_docstring(member):
                parts += [f'<h3 id="{node.name}.{member.name}" data-keep="">{node.name}.{member.name}</h3>',
                          _code(_signature(member)), _docstring(member, to_html)]
    parts.append(_places(module, node))
    return "\n".join(parts)


def _signature(node: Definition) -> str:
    """The first line of a definition, one argument per line where it is long;
    a class shows its fields or its `__init__`."""
    if isinstance(node, ast.ClassDef):
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
        start = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if start is not None:
            return f"class {node.name}{bases}\n{_signature(start).replace('__init__', node.name, 1)}"
        return "\n    ".join([f"class {node.name}{bases}" + (":" if fields else ""), *fields])
    arguments = node.args
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    text = re.sub(r"^(?:self|cls)(?:, |$)", "", ast.unparse(arguments))
    if node.name == "__init__":
        returns = ""
    line = f"{node.name}({text}){returns}"
    if len(line) <= 100:
        return line
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return f"{node.name}(\n" + "".join(f"    {piece.strip()},\n" for piece in pieces) + f"){returns}"


def _code(text: str) -> str:
    return f'<div class="signature"><pre>{html.escape(text)}</pre></div>'


def _docstring(node: Definition, to_html: Callable[[str], str]) -> str:
    "A docstring as HTML: `Args:`, `Returns:`, `Raises:` and the like become lists."
    lines = (ast.get_docstring(node) or "").splitlines()
    text, in_section = [], False
    for line in lines:
        if re.match(r"^[A-Z]\w*:$", line):
            text += ["", f"**{line[:-1]}**", ""]
            in_section = True
        elif in_section and (item := re.match(r"^    (\S.*)$", line)):
            name, colon, words = item[1].partition(": ")
            text.append(f"- `{name}`: {words}" if colon and re.fullmatch(r"[\w.*, `()|\[\]]+", name)
                        else f"- {item[1]}")
        elif in_section and line.startswith("     "):
            text[-1] += " " + line.strip()
        else:
            in_section = in_section and not line.strip()
            text.append(line)
    return to_html("\n".join(text).replace("- ``", "- `").replace("``:", "`:"))


def _places(module: _Module, node: Definition) -> str:
    "Where a definition is built, where its source is, and which notebooks use it."
    built = _cell_link(module, node).replace('href="', 'href="../', 1)
    users = [f'<a href="../{Path(n).with_suffix(".html").as_posix()}">{n.removesuffix(".ipynb")}</a>'
             for n in module.used_in.get(node.name, [])]
    return f'<p class="from">Built in {built}' + (f"; used in {', '.join(users)}" if users else "") + ".</p>"


# ---------------------------------------------------------------- from the papers to the code


def papers_page(root: Path) -> str:
    """Tables from what a docstring names as its source to cell, function, tests and records, as HTML.

    The rows are the `Source:` sentences of the docstrings, so that the page cannot say what the code does not. They
    stand under the papers that the notebook of the module builds, else under the notebook's title. A test counts when
    its file names the function, a record when its lab imports it.
    """
    titles = {paper["id"]: paper["title"]
              for paper in json.loads((root / "data/atlas.json").read_text("utf-8"))["papers"]}
    tests = {path.name: path.read_text("utf-8") for path in sorted((root / "tests").glob("test_*.py"))}
    records = {path.stem.rpartition("-")[0] for path in (root / "data/results").glob("*.json")}
    sections: dict[str, list[str]] = {}
    for notebook, module in _modules(root):
        heading = "; ".join(titles.get(paper, paper) for paper in notebook.papers) or notebook.title
        for name, node, source in _sources(module.text):
            cells = [_cell_link(module, node),
                     f'<a href="api/{module.name}.html#{name.split(".")[0]}"><code>{name}</code></a>',
                     _tests_of(name, module, tests), _records_of(name, module, records)]
            row = (f'<tr><th scope="row">{html.escape(source)}</th>'
                   + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
            sections.setdefault(heading, []).append(row)
    head = "".join(f'<th scope="col">{word}</th>'
                   for word in ("in the paper", "built in", "function", "tests", "records"))
    return "\n".join(
        f"<h2>{html.escape(heading)}</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
                     for heading, rows in sections.items())


def _sources(text: str) -> list[tuple[str, ast.AST, str]]:
    "(name, definition, sentence) for every public definition and method whose docstring has a `Source:` sentence."
    tree, found = ast.parse(text), []
    public = _public_names(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            members = ([n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)]
                       if isinstance(node, ast.ClassDef) else [])
            for name, part in [(node.name, node)] + [(f"{node.name}.{m.name}", m) for m in members]:
                docstring = " ".join((ast.get_docstring(part) or "").split())
                if sentence := re.search(r"Source: (.+?)\.(?= [A-Z]|$)", docstring):
                    found.append((name, node, sentence[1]))
    return found


def _cell_link(module: _Module, node: ast.AST) -> str:
    before = module.text.split("\n")[: node.lineno]
    cell = next((m[1] for line in reversed(before) if (m := re.match(r"# %% (?:\.\./)+nbs/\S+ #(\w+)", line))), None)
    page = Path(module.notebook).with_suffix(".html").as_posix()
    return f'<a href="{page}{f"#cell-{cell}" if cell else ""}">{module.notebook.removesuffix(".ipynb")}</a>'


def _tests_of(name: str, module: _Module, tests: dict[str, str]) -> str:
    word = re.compile(rf"\b{re.escape(name.split('.')[0])}\b")
    packages = module.packages.get(name.split(".")[0], {module.name})
    found = [f"<code>{file}</code>"
             for file, text in tests.items() if word.search(text) and _imports_one(text, packages)]
    return ", ".join(found) or "in the notebook"


def _imports_one(text: str, packages: set[str]) -> bool:
    return any(re.search(rf"xfer_course(?:\.| import .*\b){re.escape(package)}\b", text) for package in packages)


def _records_of(name: str, module: _Module, records: set[str]) -> str:
    labs = [lab.removesuffix(".ipynb") for lab in module.used_in.get(name.split(".")[0], [])]
    found = [f'<a href="{lab}.html">{lab}</a>' for lab in labs if lab.replace("/", "-") in records]
    return ", ".join(found) or "–"
