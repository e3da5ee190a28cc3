"""What must hold for the notebooks and for the pages made of them; every problem is a sentence that names its file.

    python tools/check_site.py           the notebooks, and the site in `_docs` where it has been built
"""
from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import yaml

# ---------------------------------------------------------------- the notebooks


def notebooks(root: Path) -> list[Path]:
    "Every notebook of the course."
    return sorted(p for p in (root / "nbs").rglob("*.ipynb")
                  if not any(part.startswith(("_", ".")) for part in p.relative_to(root).parts))


def source_problems(root: Path) -> list[str]:
    "Problems of the notebooks, the records, the atlas and the sidebar."
    problems = sidebar_problems(root) + _atlas_problems(root)
    for path in notebooks(root):
        name, notebook = path.relative_to(root).as_posix(), nbformat.read(path, as_version=4)
        problems += [f"{name}: {sentence}" for sentence in _notebook_problems(root, path, notebook)]
    return problems


def sidebar_problems(root: Path) -> list[str]:
    "Notebooks that the sidebar does not list, and places in it that lead nowhere."
    listed = set(
        _sidebar_names(yaml.safe_load((root / "nbs/sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"]))
    there = {p.relative_to(root / "nbs").as_posix() for p in notebooks(root)}
    return [f"nbs/{name}: not in nbs/sidebar.yml" for name in sorted(there - listed)] + [
        f"nbs/sidebar.yml: names {name}, which is not there" for name in sorted(listed - there)
        if not (root / "nbs" / name).is_file()]


def _sidebar_names(contents: list) -> list[str]:
    return [name for entry in contents
            for name in (_sidebar_names(entry["contents"]) if isinstance(entry, dict) else [entry])]


def _atlas_problems(root: Path) -> list[str]:
    path = root / "data/atlas.json"
    if not path.is_file():
        return ["data/atlas.json: missing"]
    papers = json.loads(path.read_text("utf-8"))["papers"]
    needed = ("title", "family", "sentence")
    return [f"data/atlas.json: paper {paper.get('id') or paper.get('title')!r} has no {key}" for paper in papers
            for key in needed if not paper.get(key)]


def _notebook_problems(root: Path, path: Path, notebook) -> list[str]:
    problems = []
    first = notebook.cells[0].source if notebook.cells else ""
    if not re.match(r"# \S", first):
        problems.append("has no title (`# ...` in the first cell)")
    if not re.search(r"^> \S", first, re.M):
        problems.append("has no description (`> ...` below the title)")
    for cell in notebook.cells:
        start = cell.source.strip().splitlines()[0] if cell.source.strip() else "(empty cell)"
        for output in cell.get("outputs", []):
            if ("image/png" in output.get("data", {})
                    and not output.get("metadata", {}).get("image/png", {}).get("alt", "").strip()):
                problems.append(f"an image without alt text, made by the cell {start!r}")
            if output.output_type == "error":
                problems.append(f"an error in the output of the cell {start!r}")
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            problems.append(f"an image without alt text in {start!r}")
    if any("parameters" in c.metadata.get("tags", []) for c in notebook.cells):
        record = path.relative_to(root / "nbs").with_suffix("").as_posix().replace("/", "-") + "-*.json"
        if not any((root / "data/results").glob(record)):
            problems.append(f"its result has no record (data/results/{record})")
    for exercise in exercises(notebook):
        if not exercise.solution:
            problems.append(f"exercise {exercise.name!r} has no solution")
        if not exercise.check and notebook.metadata.get("xfer", {}).get("kind") == "paper":
            problems.append(f"exercise {exercise.name!r} has no check")
    return problems


def self_test(notebook) -> int:
    "The number of questions with folded answers below the heading `Test yourself`."
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    _, heading, below = text.partition("\n## Test yourself\n")
    return re.split(r"^## ", below, flags=re.M)[0].count("<details>") if heading else 0


def flipbooks(notebook) -> int:
    "The number of sliders among the outputs that need no kernel."
    pages = ["".join(output.get("data", {}).get("text/html", "")) for cell in notebook.cells
             for output in cell.get("outputs", [])]
    return sum('<div class="flipbook">' in page for page in pages)


@dataclass
class Exercise:
    "One exercise: its first words, and whether a check and a folded solution follow before the next."

    name: str
    check: bool = False
    solution: bool = False


def exercises(notebook) -> list[Exercise]:
    """The exercises of a notebook: paragraphs that open with a bold number below a heading `Exercises` or `Try it`,
    or in bold below a heading `Exercise`, and headings of the third level that begin with `Try it:`.

    A check is a call of a function whose name starts with `check`. In a notebook that rebuilds a paper every exercise
    needs one; in a lab an exercise may be an experiment of the reader's own, whose outcome no function knows.
    """
    found, inside, alone, short = [], False, False, False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if found and (inside or short) and re.search(r"^\s*check\w*\(|^\s*def check", cell.source, re.M):
                found[-1].check = True
            continue
        for block in re.split(r"\n(?=\s*(?:#|\*\*\d|<details))|\n\n", cell.source):
            if heading := re.match(r"\s*##\s+(.*)", block):
                inside = bool(re.match(r"Exercises?\b|Try it", heading[1]))
                alone = heading[1].startswith("Exercise") and not heading[1].startswith("Exercises")
            if level := re.match(r"\s*(##+)\s+(.*)", block):
                short = level[1] == "###" and level[2].startswith("Try it:")
            if short and level:
                found.append(Exercise(level[2].splitlines()[0].removeprefix("Try it:").strip()[:60]))
            if inside and (number := re.match(r"\s*\*\*.*" if alone else r"\s*\*\*\d+\.\s*(.*)", block)):
                found.append(Exercise(re.sub(r"[*`]", "", number[0]).strip()[:60]))
            if (inside or short) and found and re.search(r"<summary>\s*Solution", block):
                found[-1].solution = True
    return found


# ---------------------------------------------------------------- the pages


@dataclass
class _PageFacts:
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    images: list[dict[str, str | None]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    tables_without_header: int = 0
    title: str = ""
    description: str = ""
    words: list[str] = field(default_factory=list)
    directives: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    "Collects what the checks need from one page."

    def __init__(self):
        super().__init__()
        self.facts, self.tables, self.inside = _PageFacts(), [], Counter()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.inside[tag] += 1
        if "id" in values:
            self.facts.ids.add(values["id"])
        for key in ("href", "src"):
            if values.get(key) and not (tag == "link" and "preconnect" in values.get("rel", "")):
                self.facts.links.append(values[key])
        if tag == "img":
            self.facts.images.append(values)
        if tag == "meta" and values.get("name") == "description":
            self.facts.description = values.get("content") or ""
        if re.fullmatch(r"h[1-6]", tag):
            self.facts.headings.append(int(tag[1]))
        if tag == "span" and (values.get("class") or "").startswith("math "):
            self.facts.directives.append("a formula that is no MathML")
        if tag == "table":
            self.tables.append(False)
        if tag == "th" and self.tables:
            self.tables[-1] = True

    def handle_endtag(self, tag):
        self.inside[tag] -= 1
        if tag == "table" and self.tables and not self.tables.pop():
            self.facts.tables_without_header += 1

    def handle_data(self, data):
        if self.inside["title"] > 0:
            self.facts.title += data
        if self.inside["script"] <= 0 and self.inside["style"] <= 0:
            self.facts.directives += re.findall(r"^\s*#\|.*", data, re.M)
            if "Traceback (most recent call last)" in data:
                self.facts.directives.append("a traceback")


def read_site(out: Path) -> dict[Path, _PageFacts]:
    "The facts of every page of a built site."
    pages = {}
    for path in sorted(out.rglob("*.html")):
        reader = _Reader()
        reader.feed(path.read_text("utf-8"))
        pages[path.resolve()] = reader.facts
    return pages


def site_problems(out: Path, pages: dict[Path, _PageFacts] | None = None) -> list[str]:
    """Dead internal links, missing images, images without alt text, raw directives, tracebacks, missing titles,
    headings out of order; `pages` are what `read_site` has found there, if it was asked already."""
    pages = read_site(out) if pages is None else pages
    if not pages:
        return [f"{out}: holds no page"]
    problems = []
    for path, facts in pages.items():
        name = path.relative_to(out.resolve()).as_posix()
        problems += [f"{name}: {what}" for what in _page_problems(facts)]
        for link in sorted(set(facts.links)):
            if sentence := _link_problem(link, path, out.resolve(), pages):
                problems.append(f"{name}: {sentence}")
    return problems


def _page_problems(facts: _PageFacts) -> list[str]:
    problems = [f"raw directive or traceback on the page: {text.strip()!r}" for text in facts.directives]
    problems += [f"image without alt text: {image.get('src', '')[:60]}" for image in facts.images
                 if not _is_described(image)]
    if not facts.title.strip():
        problems.append("no title")
    if not facts.description.strip():
        problems.append("no description")
    if facts.headings.count(1) != 1:
        problems.append(f"{facts.headings.count(1)} headings of level 1, not one")
    for above, below in zip(facts.headings, facts.headings[1:]):
        if below > above + 1:
            problems.append(f"a heading of level {below} follows one of level {above}")
    if facts.tables_without_header:
        problems.append(f"{facts.tables_without_header} tables without header cells")
    return problems


def _is_described(image: dict[str, str | None]) -> bool:
    "nbconvert fills in a sentence of its own where Markdown has no alt text: that is no description."
    alt = (image.get("alt") or "").strip()
    return bool(alt) and not alt.startswith("No description has been provided")


def _link_problem(link: str, path: Path, out: Path, pages: dict[Path, _PageFacts]) -> str | None:
    if re.match(r"^(?:[a-z][a-z0-9+.-]*:|//)", link):
        return None  # elsewhere, or inline data
    place, _, anchor = link.partition("#")
    target = (path.parent / unquote(place.partition("?")[0])).resolve() if place else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(out):
        return f"link {link!r} leaves the site"
    if not target.is_file():
        return f"dead link {link!r}"
    if anchor and target in pages and unquote(anchor) not in pages[target].ids:
        return f"link {link!r}: there is no such place on that page"
    return None


def count_site(root: Path, pages: dict[Path, _PageFacts]) -> dict[str, int]:
    "How many of what the pages of a site and its notebooks hold."
    links = [link for facts in pages.values() for link in facts.links]
    read = [nbformat.read(path, as_version=4) for path in notebooks(root)]
    done = [exercise for notebook in read for exercise in exercises(notebook)]
    return {
        "pages": len(pages), "links": len(links),
        "internal links": sum(not re.match(r"^(?:[a-z]+:|//)", link) for link in links),
        "images": sum(len(facts.images) for facts in pages.values()),
        "images with alt text": sum(_is_described(i) for facts in pages.values() for i in facts.images),
        "exercises": len(done), "exercises with a check": sum(e.check for e in done),
        "exercises with a solution": sum(e.solution for e in done),
        "questions in self-tests": sum(map(self_test, read)), "sliders without a kernel": sum(map(flipbooks, read)),
    }


def report_of(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    problems = source_problems(root) + (site_problems(root / "_docs") if (root / "_docs").is_dir() else [])
    print("\n".join(problems) or "no problem found")
    raise SystemExit(bool(problems))
