"""The API reference of the plain edition: one page per module, read from the source without importing it."""
from __future__ import annotations

import ast
import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

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
    name: str
    text: str
    notebook: str  # path below nbs/
    used_in: dict[str, list[str]]  # public name -> notebooks that import it


def api_pages(root: Path, to_html: Callable[[str], str]) -> list[ApiPage]:
    "The pages of all exported modules, those of the chapters after the foundations."
    used = _imports_of_notebooks(root)
    pages = []
    for path in sorted((root / "xfer_course").glob("*.py")):
        text = path.read_text("utf-8")
        found = re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)\.", text)
        if found and (root / "nbs" / found[1]).is_file():
            pages.append(_page(_Module(path.stem, text, found[1], used.get(path.stem, {})), to_html))
    counts: dict[str, int] = {}
    for page in pages:
        for name in page.symbols:
            counts[name] = counts.get(name, 0) + 1
    for page in pages:  # a name in two modules, or a plain word such as `fit`, is no link
        page.symbols = {n: a for n, a in page.symbols.items() if counts[n] == 1 and (re.search(r"[A-Z]", n) or "_" in n)}
    return pages


def _imports_of_notebooks(root: Path) -> dict[str, dict[str, list[str]]]:
    "module -> public name -> notebooks with `from xfer_course.module import name`."
    used: dict[str, dict[str, list[str]]] = {}
    for path in sorted((root / "nbs").glob("*/*.ipynb")):
        if path.parent.name.startswith((".", "_")):
            continue
        name = path.relative_to(root / "nbs").as_posix()
        cells = json.loads(path.read_text("utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        for module, one_line, in_brackets in re.findall(r"^from xfer_course\.(\w+) import (?:([^(\n]+)|\(([^)]+)\))", source, re.M):
            for word in re.findall(r"\w+", one_line or in_brackets):
                places = used.setdefault(module, {}).setdefault(word, [])
                if name not in places:
                    places.append(name)
    return used


def _page(module: _Module, to_html: Callable[[str], str]) -> ApiPage:
    tree = ast.parse(module.text)
    public = _public_names(tree)
    definitions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    constants = {t.id: node for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    parts = []
    for name in public:
        if name in definitions:
            parts.append(_entry(module, definitions[name], to_html))
        elif name in constants:
            parts.append(f'<h2 id="{name}" data-keep="">{name}</h2>\n{_code(ast.unparse(constants[name]))}')
    title = f"../{Path(module.notebook).with_suffix('.html').as_posix()}"
    first = f'<p>Exported from <a href="{title}">{module.notebook}</a>, where every piece is explained, built and tested.</p>'
    return ApiPage(module.name, ast.get_docstring(tree) or "", first + "\n".join(parts), {n: f"api/{module.name}.html#{n}" for n in public})


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
                parts += [f'<h3 id="{node.name}.{member.name}" data-keep="">{node.name}.{member.name}</h3>', _code(_signature(member)),
                          _docstring(member, to_html)]
    parts.append(_places(module, node))
    return "\n".join(parts)


def _signature(node: Definition) -> str:
    "The first line of a definition, one argument per line where it is long; a class shows its fields or its `__init__`."
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
            text.append(f"- `{name}`: {words}" if colon and re.fullmatch(r"[\w.*, `()|\[\]]+", name) else f"- {item[1]}")
        elif in_section and line.startswith("     "):
            text[-1] += " " + line.strip()
        else:
            in_section = in_section and not line.strip()
            text.append(line)
    return to_html("\n".join(text).replace("- ``", "- `").replace("``:", "`:"))


def _places(module: _Module, node: Definition) -> str:
    "Where a definition is built, where its source is, and which notebooks use it."
    built = _cell_link(module, node).replace('href="', 'href="../', 1)
    users = [f'<a href="../{Path(n).with_suffix(".html").as_posix()}">{n.removesuffix(".ipynb")}</a>' for n in module.used_in.get(node.name, [])]
    return f'<p class="from">Built in {built}' + (f"; used in {', '.join(users)}" if users else "") + ".</p>"


# ---------------------------------------------------------------- from the papers to the code


# The first author, as a docstring's `Source:` begins, and the heading of the paper's table.
PAPERS = {
    "Gidaris": "Unsupervised Representation Learning by Predicting Image Rotations",
    "Ganin": "Domain-Adversarial Training of Neural Networks",
    "Kusupati": "Matryoshka Representation Learning",
    "Radford": "Learning Transferable Visual Models From Natural Language Supervision",
    "Zhou": "Learning to Prompt for Vision-Language Models",
}


def papers_page(root: Path) -> str:
    """Tables from the sections of each paper to cell, function, tests and records, as HTML.

    The rows are the `Source:` sentences of the docstrings, so that the page cannot say what the code does not. A test counts
    when its file names the function, a record when its lab imports it.
    """
    tests = {path.name: path.read_text("utf-8") for path in sorted((root / "tests").glob("test_*.py"))}
    records = {path.name for path in (root / "data/results").glob("*.json")}
    used = _imports_of_notebooks(root)
    rows: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((root / "xfer_course").glob("*.py")):
        text = path.read_text("utf-8")
        edited = re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)\.", text)
        if not edited or not (root / "nbs" / edited[1]).is_file():
            continue
        module = _Module(path.stem, text, edited[1], used.get(path.stem, {}))
        for name, node, source in _sources(text):
            paper = next((title for surname, title in PAPERS.items() if source.startswith(surname)), None)
            place = re.search(r"\b(?:sections?|figures?|equations?|Algorithm|appendix|tables?)\b.*", source)
            if paper is None or place is None:
                continue
            place = place[0]
            cells = [_cell_link(module, node), f'<a href="api/{module.name}.html#{name.split(".")[0]}"><code>{name}</code></a>',
                     _tests_of(name, module, tests), _records_of(name, module, records)]
            row = f'<tr><th scope="row">{html.escape(place)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
            rows.setdefault(paper, []).append((place, row))
    parts = []
    for paper in [title for title in PAPERS.values() if title in rows]:
        found = rows[paper]
        head = "".join(f'<th scope="col">{word}</th>' for word in ("in the paper", "built in", "function", "tests", "records"))
        body = "".join(row for _, row in sorted(found, key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0])]))
        parts.append(f"<h2>{html.escape(paper)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "\n".join(parts)


def _sources(text: str) -> list[tuple[str, ast.AST, str]]:
    "(name, definition, sentence) for every public definition and method whose docstring has a `Source:` sentence."
    tree, found = ast.parse(text), []
    public = _public_names(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            members = [n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
            for name, part in [(node.name, node)] + [(f"{node.name}.{m.name}", m) for m in members]:
                docstring = " ".join((ast.get_docstring(part) or "").split())
                if sentence := re.search(r"Source: (.+?)\.(?= [A-Z]|$)", docstring):
                    found.append((name, node, sentence[1]))
    return found


def _cell_link(module: _Module, node: ast.AST) -> str:
    before = module.text.split("\n")[: node.lineno]
    cell = next((m[1] for line in reversed(before) if (m := re.match(r"# %% \.\./nbs/\S+ #(\w+)", line))), None)
    page = Path(module.notebook).with_suffix(".html").as_posix()
    return f'<a href="{page}{f"#cell-{cell}" if cell else ""}">{module.notebook.removesuffix(".ipynb")}</a>'


def _tests_of(name: str, module: _Module, tests: dict[str, str]) -> str:
    word = re.compile(rf"\b{re.escape(name.split('.')[0])}\b")
    found = [f"<code>{file}</code>" for file, text in tests.items() if word.search(text) and f"xfer_course.{module.name}" in text]
    return ", ".join(found) or "in the notebook"


def _records_of(name: str, module: _Module, records: set[str]) -> str:
    labs = [lab.removesuffix(".ipynb") for lab in module.used_in.get(name.split(".")[0], [])]
    found = [f'<a href="{lab}.html">{lab}</a>' for lab in labs if f"{lab.replace('/', '-')}-cpu.json" in records]
    return ", ".join(found) or "–"
