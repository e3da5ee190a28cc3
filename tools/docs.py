"""Build the site into `_docs/`: with Quarto where it is installed, else a plain HTML edition of every notebook.

The plain edition has the same pages in the same order, plus an API reference; it works without a network and without a
server, and needs nothing but the course's own packages. Quarto comes from https://quarto.org/docs/get-started/.

    python tools/docs.py                 Quarto if there is one, else the plain edition; then the site check
    python tools/docs.py --plain         the plain edition in any case
"""
from __future__ import annotations

import base64
import html
import json
import posixpath
import re
import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import unquote

import click
import nbformat
import yaml
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

sys.path.insert(0, str(Path(__file__).resolve().parent))
from api_pages import ApiPage, api_pages, papers_page  # noqa: E402  (the folder of this file is on the path now)
from check_site import report_of, site_problems, source_problems  # noqa: E402

COURSE = Path(__file__).resolve().parent.parent
TEMPLATES = COURSE / "tools/site"
PAPERS_TITLE = "From the papers to the code"
PAPERS_DESCRIPTION = ("Where each section and equation of the papers is built, tested and measured; made from the "
                      "sources that the docstrings name.")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


# ---------------------------------------------------------------- which pages there are


@dataclass
class Page:
    "One page of the site: where it comes from, where it goes, and what it says about itself."

    source: str  # path below nbs/, or "" for a generated page
    address: str  # path below the site
    section: str
    title: str = ""
    description: str = ""
    content: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)
    anchors: dict[str, str] = field(default_factory=dict)  # how JupyterLab names a heading -> how this page does

    @property
    def up(self) -> str:
        return "../" * self.address.count("/")


def sidebar_entries(root: Path) -> list[tuple[str, str]]:
    "(section, notebook) pairs in the order of `nbs/sidebar.yml`; the section is empty for pages outside of one."
    contents = yaml.safe_load((root / "nbs/sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"]
    entries = []
    for entry in contents:
        inside = entry["contents"] if isinstance(entry, dict) else [entry]
        entries += [(entry["section"] if isinstance(entry, dict) else "", name) for name in inside]
    return entries


def notebooks_of(root: Path) -> list[str]:
    "Every notebook of the course, as a path below nbs/."
    found = (p.relative_to(root / "nbs") for p in (root / "nbs").rglob("*.ipynb"))
    return sorted(p.as_posix() for p in found if not any(part.startswith(("_", ".")) for part in p.parts))


def pages_of(root: Path) -> list[Page]:
    "The sidebar's pages in its order; a notebook that it does not name follows the last one of its own folder."
    entries = [(section, name) for section, name in sidebar_entries(root) if (root / "nbs" / name).is_file()]
    for name in notebooks_of(root):
        if name not in [known for _, known in entries]:
            folder = Path(name).parent
            places = [i for i, (_, known) in enumerate(entries) if Path(known).parent == folder]
            at = places[-1] if places else len(entries) - 1
            entries.insert(at + 1, (entries[at][0] if places else "", name))
    return [Page(name, Path(name).with_suffix(".html").as_posix(), section) for section, name in entries]


# ---------------------------------------------------------------- from notebook to HTML


@lru_cache(maxsize=None)
def mathml(formula: str, display: str) -> str:
    "A formula as MathML; its TeX stays beside it for search and for those who copy it."
    try:
        converted = convert(formula.strip(), display=display)
    except Exception as error:
        raise ValueError(
            f"the formula {formula.strip()!r} cannot be converted to MathML ({type(error).__name__})") from error
    return converted.replace("<math ", f'<math alttext="{html.escape(formula.strip())}" ', 1)


class _MathMLRenderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return mathml(body, "block")


def markdown_to_html(source: str) -> str:
    return MarkdownWithMath(
        renderer=_MathMLRenderer(escape=False, attachments={}, exclude_anchor_links=True)).render(source)


class _PageExporter(HTMLExporter):
    "nbconvert with our cell template and with formulas as MathML."

    @pass_context
    def markdown2html(self, context, source):
        return markdown_to_html(source)


def directives(source: str) -> dict[str, str]:
    "The `#| name: value` lines of a cell; a directive without a value has the value 'true'."
    found = re.findall(r"^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)$", source, re.M)
    return {name: (value.strip() or "true") for name, value in found}


def for_readers(notebook):
    "The notebook as a page shows it: directives honoured and removed, no standard error, no live widget."
    shown = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            shown.append(cell)
            continue
        said = directives(cell.source)
        if said.get("hide") == "true" or said.get("include") == "false" or "default_exp" in said:
            continue
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n")
        hidden = said.get("echo") == "false" or said.get("hide_input") == "true" or cell.source.startswith("show_doc(")
        cell.metadata["transient"] = {"remove_source": hidden or not cell.source}
        dropped = said.get("output") == "false" or said.get("hide_output") == "true"
        cell.outputs = [] if dropped else [o for o in cell.outputs if o.get("name") != "stderr"
                                           and WIDGET_VIEW not in o.get("data", {})]
        shown.append(cell)
    notebook.cells = shown
    return notebook


def split_opening(notebook) -> tuple[str, str]:
    "Title and description from the first cell (`# Title`, then `> description`); what follows them stays in the cell."
    first = notebook.cells[0]
    found = re.match(r"# (?P<title>.+?)\n+> (?P<description>.+?)(?:\n\s*\n|\Z)", first.source + "\n\n", re.S)
    if not found:
        return first.source.splitlines()[0].lstrip("# "), ""
    first.source = first.source[found.end():]
    return found["title"], " ".join(found["description"].replace("\n>", " ").split())


@lru_cache(maxsize=1)
def page_exporter() -> _PageExporter:
    return _PageExporter(extra_template_basedirs=[str(TEMPLATES)], template_file=str(TEMPLATES / "cells.html.j2"))


def render_notebook(root: Path, page: Page, settings: dict[str, str]) -> None:
    "Fill in title, description, content and links of a page from its notebook."
    notebook = for_readers(nbformat.read(root / "nbs" / page.source, as_version=4))
    page.title, page.description = split_opening(notebook)
    try:
        page.content, _ = page_exporter().from_notebook_node(notebook)
    except Exception as error:  # a formula that cannot be converted, say: name the file
        raise RuntimeError(f"nbs/{page.source}: {error}") from error
    page.links = page_links(page.source, settings)
    if (root / "nbs/troubleshooting.ipynb").is_file():
        page.links.append(("What Colab needs first", f"{page.up}troubleshooting.html#in-colab"))


def page_links(source: str, settings: dict[str, str]) -> list[tuple[str, str]]:
    "Where the notebook of a page can be run and read: words and addresses."
    at = f"{settings['branch']}/nbs/{source}"
    colab = "https://colab.research.google.com/github/" + settings["git_url"].removeprefix("https://github.com/")
    return [("Open in Colab", f"{colab}/blob/{at}"), ("Notebook", f"{settings['git_url']}/blob/{at}")]


def slug(text: str, taken: set[str]) -> str:
    "An anchor as Quarto makes it: lower case, hyphens for blanks, no punctuation; numbered where it is taken."
    plain = re.sub(r"[^\w\s.-]", "", text.lower()).strip()
    base = re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", plain)) or "section"
    name, number = base, 1
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    return name


def finish_content(page: Page, root: Path, out: Path, settings: dict[str, str],
                   symbols: dict[str, str]) -> tuple[list[tuple[int, str, str]], list[dict[str, str]]]:
    """Mend links, name headings, put pictures into files, give tables their headers.

    Returns the list of headings (level, anchor, words) and the entries for the search.
    """
    soup = BeautifulSoup(page.content, "html.parser")
    contents, taken = [], set()
    for heading in soup.find_all(re.compile(r"^h[1-6]$")):
        words, given = _plain(heading), heading.get("id", "")
        heading["id"] = given if heading.attrs.pop("data-keep", None) is not None else slug(words, taken)
        page.anchors[words.replace(" ", "-")] = heading["id"]
        if heading.name in ("h2", "h3"):
            contents.append((int(heading.name[1]), heading["id"], words))
    for link in soup.find_all("a", href=True):
        link["href"] = site_link(link["href"], page, root, settings)
    for number, image in enumerate(soup.find_all("img")):
        store_image(image, f"{Path(page.address).with_suffix('').as_posix().replace('/', '-')}-{number}", page, out)
    for table in soup.find_all("table"):
        mend_table(table, soup)
    for formula in soup.find_all("math"):
        block = formula.get("display") == "block"
        # wider than a phone: browsers do not break formulas, so let them scroll
        if block or len(formula.get("alttext", "")) > 40:
            formula.wrap(soup.new_tag("span", attrs={"class": "formula block" if block else "formula"}))
    for code in soup.find_all("code"):
        target = symbols.get(code.get_text().removesuffix("()"))
        if (target and code.find_parent(["a", "pre", "h1", "h2", "h3", "h4", "summary"]) is None
                and not target.startswith(page.address)):
            code.wrap(soup.new_tag("a", attrs={"href": page.up + target}))
    page.content = str(soup)
    return contents, search_entries(page, soup)


def mend_table(table, soup) -> None:
    "Scopes for the header cells; where the first row is empty, the first column holds the headers."
    table.attrs.pop("border", None)
    for cell in table.find_all("th"):
        cell.attrs.setdefault("scope", "col" if cell.find_parent("thead") else "row")
    if table.thead and not table.thead.get_text(strip=True):
        table.thead.decompose()
        for row in table.find_all("tr"):
            if first := row.find("td"):
                first.name, first["scope"] = "th", "row"
    for cell in table.find_all("th"):
        if not cell.get_text(strip=True):
            cell.name = "td"
            cell.attrs.pop("scope", None)
        elif (formula := cell.find("math")) is not None and formula.get_text() == cell.get_text():
            formula["aria-hidden"] = "true"  # a header needs words; these are read out, the formula is seen
            words = soup.new_tag("span", attrs={"class": "unseen"})
            words.string = _plain(cell)
            cell.append(words)
    if max((len(first.get_text()) for row in table.find_all("tr") if (first := row.find(["td", "th"]))),
           default=0) > 40:
        # a first column that must not become one word wide
        table["class"] = [*table.get_attribute_list("class", []), "sentences"]
    table.wrap(soup.new_tag("div", attrs={"class": "table"}))


def _plain(tag) -> str:
    "The words of a tag, with the letters of its formulas."
    if tag.find("math") is None:
        return re.sub(r"\s+", " ", tag.get_text("", strip=False)).strip()
    copy = BeautifulSoup(str(tag), "html.parser")
    for formula in copy.find_all("math"):
        formula.replace_with(formula.get_text("", strip=True))
    return re.sub(r"\s+", " ", copy.get_text("", strip=False)).strip()


def site_link(target: str, page: Page, root: Path, settings: dict[str, str]) -> str:
    """A notebook's link as a link of the site: notebooks become pages, other files of the course their
    place in the repository."""
    if re.match(r"^(?:[a-z]+:|#|//)", target) or not page.source:
        return target
    path, hash_, anchor = target.partition("#")
    place = (root / "nbs" / page.source).parent / path
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".html" + hash_ + anchor
    if place.exists() and not place.resolve().is_relative_to(root / "nbs"):
        kind = "tree" if place.is_dir() else "blob"
        inside = place.resolve().relative_to(root).as_posix()
        return f"{settings['git_url']}/{kind}/{settings['branch']}/{inside}{hash_}{anchor}"
    return target


def store_image(image, name: str, page: Page, out: Path) -> None:
    """Write an inline PNG into a file of its own and give the tag its size, so that the page
    does not jump while loading."""
    found = re.match(r"data:image/png;base64,(.+)", image.get("src", ""), re.S)
    if not found:
        return
    content = base64.b64decode(found[1])
    path = out / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    width, height = struct.unpack(">II", content[16:24])
    image.attrs.update(src=f"{page.up}images/{name}.png", width=str(width), height=str(height), loading="lazy")


# ---------------------------------------------------------------- the search index


def search_entries(page: Page, soup) -> list[dict[str, str]]:
    "One entry per section: its heading, its page, its address and its words. Uses the soup up."
    for formula in soup.find_all("math"):
        formula.replace_with(formula.get("alttext", ""))
    for left_out in soup.find_all(["style", "script"]):
        left_out.decompose()
    entries = [{"heading": page.title, "page": page.title, "address": page.address, "text": [page.description]}]
    for piece in soup.find_all(["h2", "h3", "p", "li", "pre", "td", "th", "summary"]):
        if piece.name in ("h2", "h3"):
            words = _plain(piece)
            entries.append({"heading": words, "page": page.title,
                            "address": f"{page.address}#{piece['id']}", "text": []})
        elif not piece.find(["p", "li", "td"]):
            entries[-1]["text"].append(piece.get_text("" if piece.name == "pre" else " ", strip=True))
    return [{**entry, "text": re.sub(r"\s+", " ", " ".join(entry["text"]))} for entry in entries]


# ---------------------------------------------------------------- the whole


def read_settings(root: Path) -> dict[str, str]:
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def api_page_of(api: ApiPage) -> Page:
    return Page("", f"api/{api.module}.html", "API reference", f"xfer_course.{api.module}",
                api.description, api.content)


def build_plain(root: Path, out: Path) -> int:
    "Write the plain edition into a folder; returns the number of pages."
    settings = read_settings(root)
    out.mkdir(parents=True, exist_ok=True)
    reference = api_pages(root, markdown_to_html)
    pages = pages_of(root)
    if table := papers_page(root):
        pages.append(Page("", "papers.html", "API reference", PAPERS_TITLE, PAPERS_DESCRIPTION, table))
    pages += [api_page_of(api) for api in reference]
    # `mnist_m` in the text is more often the lab than the function
    notebooks = {Path(page.source).stem for page in pages}
    symbols = {name: address for api in reference for name, address in api.symbols.items() if name not in notebooks}
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(partial(make_page, root=root, out=out, settings=settings, symbols=symbols), pages))
    pages = [page for page, _, _ in made]
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False).get_template("page.html.j2")
    sidebar: list[tuple[str, list[Page]]] = []
    for page in pages:
        if not sidebar or sidebar[-1][0] != page.section:
            sidebar.append((page.section, []))
        sidebar[-1][1].append(page)
    anchors = {page.address: page.anchors for page in pages}
    for number, (page, contents, _) in enumerate(made):
        picture = re.search(r'src="(?:\.\./)*(images/[^"]+)"', page.content) or home_picture(pages)
        text = template.render(
            title=page.title, description=_plain(BeautifulSoup(markdown_to_html(page.description), "html.parser")),
            lead=_inline(page.description),
            content=page.content, links=page.links, contents=contents, sidebar=sidebar, here=page.address, up=page.up,
            site=settings["title"],
            before=pages[number - 1] if number else None, after=pages[number + 1] if number + 1 < len(pages) else None,
            picture=picture[1] if picture else None, address=settings["doc_host"] + settings["doc_baseurl"],
            copyright=settings["copyright"], repository=settings["git_url"],
        )
        target = out / page.address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_anchors(text, page, anchors), "utf-8")
    assets = out / "assets"
    assets.mkdir(exist_ok=True)
    for name in ("site.css", "site.js"):
        shutil.copy(TEMPLATES / name, assets / name)
    index = [entry for _, _, entries in made for entry in entries]
    (assets / "search-index.js").write_text(f"window.searchIndex = {json.dumps(index, ensure_ascii=False)};\n", "utf-8")
    return len(pages)


def make_page(page: Page, root: Path, out: Path, settings: dict[str, str], symbols: dict[str, str]):
    "Render and finish one page, in a process of its own: the page, its headings and its entries for the search."
    if page.source:
        render_notebook(root, page, settings)
    return page, *finish_content(page, root, out, settings, symbols)


def home_picture(pages: list[Page]) -> re.Match | None:
    "The first picture of the first page: the preview of a page that has none of its own."
    return re.search(r'src="(?:\.\./)*(images/[^"]+)"', pages[0].content)


def with_anchors(text: str, page: Page, anchors: dict[str, dict[str, str]]) -> str:
    """The page with links to headings by JupyterLab's names (`#How-it-works`) turned into those of
    the site (`#how-it-works`)."""

    def renamed(link: re.Match) -> str:
        place = (posixpath.normpath(posixpath.join(posixpath.dirname(page.address), link[1])) if link[1]
                 else page.address)
        return f'href="{link[1]}#{anchors.get(place, {}).get(unquote(link[2]), link[2])}"'

    return re.sub(r'href="([^"#:]*)#([^"]+)"', renamed, text)


# ---------------------------------------------------------------- Quarto's edition


def build_quarto(root: Path, out: Path) -> None:
    """Render the site with nbdev and Quarto into a folder.

    These are the steps of `nbdev_docs`, less the one that writes README.md from the home page, plus what the plain
    edition has as well: links to Colab, a preview picture per page, and the page from the papers to the code.
    """
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    processed = proc_nbs(force=True)
    complete_quarto_sources(root, processed)
    subprocess.run(["quarto", "render", "--no-cache"], cwd=processed, check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(processed / out.name, out)


def complete_quarto_sources(root: Path, processed: Path) -> None:
    "Add to the notebooks that nbdev has prepared for Quarto what the plain edition adds while it renders."
    settings = read_settings(root)
    for name in notebooks_of(root):
        path, up = processed / name, "../" * name.count("/")
        if not path.is_file():
            continue
        notebook = nbformat.read(path, as_version=4)
        links = [f"[{words}]({target})" for words, target in page_links(name, settings)]
        if (root / "nbs/troubleshooting.ipynb").is_file():
            links.append(f"[What Colab needs first]({up}troubleshooting.ipynb#in-colab)")
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(" · ".join(links)))
        if picture := first_picture(notebook):
            stored = processed / "images" / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
            stored.parent.mkdir(exist_ok=True)
            stored.write_bytes(picture)
            front = notebook.cells[0]
            front.source = re.sub(r"\n---\s*$", f"\nimage: {up}images/{stored.name}\n---", front.source)
        nbformat.write(notebook, path)
    if table := papers_page(root):
        (processed / "papers.qmd").write_text(f'---\ntitle: "{PAPERS_TITLE}"\ndescription: '
                                              f'"{PAPERS_DESCRIPTION}"\n---\n\n{quarto_links(table)}\n', "utf-8")
        sidebar = yaml.safe_load((processed / "sidebar.yml").read_text("utf-8"))
        sidebar["website"]["sidebar"]["contents"].append("papers.qmd")
        (processed / "sidebar.yml").write_text(yaml.safe_dump(sidebar, sort_keys=False, allow_unicode=True), "utf-8")


def first_picture(notebook) -> bytes | None:
    "The first PNG among the outputs of a notebook."
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return next((base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})), None)


def quarto_links(table: str) -> str:
    "The links of the papers' page for Quarto's edition, where the reference stands on the notebooks' own pages."
    from xfer_course._modidx import d

    places = {name: place for names in d["syms"].values() for name, (place, _) in names.items()}

    def to_notebook(link: re.Match) -> str:
        return f'href="{places[f"xfer_course.{link[1]}.{link[2]}"]}"'

    table = re.sub(r'href="api/([\w.]+?)\.html#([\w.]+)"', to_notebook, table)
    return re.sub(r'(href="[^"#]+)#cell-\w+"', r'\1"', table).replace("<table>", '<table class="table">')


def _inline(description: str) -> str:
    return re.sub(r"^<p>|</p>$", "", markdown_to_html(description).strip())


@click.command()
@click.option("--plain", is_flag=True, help="Build the plain edition even where Quarto is installed.")
def main(plain: bool) -> None:
    root = COURSE
    out = root / "_docs"
    started = time.perf_counter()
    if shutil.which("quarto") and not plain:
        build_quarto(root, out)
    else:
        if not plain:
            click.echo(
                "quarto is not installed (https://quarto.org/docs/get-started/); building the plain edition instead")
        shutil.rmtree(out, ignore_errors=True)
        number = build_plain(root, out)
        click.echo(f"{number} pages in {out}; start with index.html")
    click.echo(f"built in {time.perf_counter() - started:.0f} s; {report_of(root, out)}")
    problems = source_problems(root) + site_problems(out)
    for problem in problems:
        click.echo(problem, err=True)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
