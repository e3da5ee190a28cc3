"""Build the site into `_docs/`: notebooks prepared by nbdev, the API reference by quartodoc, rendered by Quarto.

    python tools/docs.py                 needs Quarto: on the path, or named by XFER_QUARTO
"""
from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import nbformat

COURSE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(COURSE), str(COURSE / "tools")]  # processes that prepare notebooks import `tools.site_procs`

from check_site import (  # noqa: E402  (the path is set now)
    count_site,
    read_site,
    report_of,
    sidebar_problems,
    site_problems,
    source_problems,
)
from papers import papers_page  # noqa: E402
from reference import addresses, symbols, write_reference  # noqa: E402
from site_navigation import take_sidebar  # noqa: E402
from site_pages import finish_site  # noqa: E402

NO_QUARTO = "make docs needs Quarto, which https://quarto.org/docs/get-started/ has for every system"
PAGES = (".ipynb", ".qmd")
REFERENCE_SECTION = "The library, package by package"


def quarto_program() -> str | None:
    "Quarto: what XFER_QUARTO names, else what is on the path."
    return os.environ.get("XFER_QUARTO") or shutil.which("quarto")


def read_settings(root: Path) -> dict[str, str]:
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def notebooks_of(root: Path) -> list[str]:
    "Every notebook of the course, as a path below nbs/."
    found = (p.relative_to(root / "nbs") for p in (root / "nbs").rglob("*.ipynb"))
    return sorted(p.as_posix() for p in found if not any(part.startswith(("_", ".")) for part in p.parts))


# ---------------------------------------------------------------- what Quarto renders


def prepare(root: Path) -> tuple[Path, list]:
    "Write everything that Quarto needs into a folder of its own, `_proc`; returns it, and the contents of the sidebar."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    shutil.rmtree(root / "_proc", ignore_errors=True)  # what was deleted from the course is no page
    refresh_quarto_yml()
    processed = Path(proc_nbs(force=True))
    complete_notebooks(root, processed)
    reference = write_reference(root, processed)
    (processed / "papers.qmd").write_text(papers_page(root, addresses(root)), "utf-8")
    (processed / "symbols.json").write_text(json.dumps(symbols(root)), "utf-8")
    return processed, extended(take_sidebar(processed), ["papers.qmd", *reference])


def complete_notebooks(root: Path, processed: Path) -> None:
    "Add to every prepared notebook where it can be run, and the picture that stands for it in previews."
    settings = read_settings(root)
    for name in notebooks_of(root):
        path, up = processed / name, "../" * name.count("/")
        notebook = nbformat.read(path, as_version=4)
        links = " · ".join(f"[{words}]({target})" for words, target in page_links(name, settings, up))
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f"::: {{.page-links}}\n{links}\n:::"))
        front = notebook.cells[0].source.rstrip().removesuffix("---")
        if any(re.search(r"(?<!\w)\[-?@\w", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"):
            front += f"bibliography: {up}references.bib\n"  # on every page it would be read in vain
        if found := first_picture(notebook):
            picture, alt = found
            stored = processed / "images" / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
            stored.parent.mkdir(exist_ok=True)
            stored.write_bytes(picture)
            front += (f"image: {up}images/{stored.name}\nimage-alt: {json.dumps(alt, ensure_ascii=False)}\n")
        notebook.cells[0].source = f"{front}---"
        nbformat.write(notebook, path)


def page_links(name: str, settings: dict[str, str], up: str) -> list[tuple[str, str]]:
    "Where the notebook of a page can be run and read: words and addresses."
    at = f"{settings['branch']}/nbs/{name}"
    colab = "https://colab.research.google.com/github/" + settings["git_url"].removeprefix("https://github.com/")
    return [("Open in Colab", f"{colab}/blob/{at}"), ("Notebook", f"{settings['git_url']}/blob/{at}"),
            ("What Colab needs first", f"{up}troubleshooting.ipynb#in-colab")]


def first_picture(notebook) -> tuple[bytes, str] | None:
    "The first PNG among the outputs of a notebook, and what it shows in words."
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return next(((base64.b64decode(o["data"]["image/png"]), o["metadata"].get("image/png", {}).get("alt", ""))
                 for o in outputs if "image/png" in o.get("data", {})), None)


def extended(contents: list, names: list[str]) -> list:
    "The contents of the sidebar with the reference and the page of papers below the notebooks."
    contents = [{"text": "Home", "href": name} if name == "index.ipynb" else name  # the title there is a promise
                for name in contents]
    return [*contents, {"section": REFERENCE_SECTION, "contents": names}]


# ---------------------------------------------------------------- the whole


def build(root: Path, out: Path, quarto: str) -> int:
    """Build the site of the course into a folder; returns the number of pages.

    Raises `click.ClickException` where sidebar and notebooks do not agree, before anything is rendered.
    """
    if problems := sidebar_problems(root):
        raise click.ClickException("; ".join(problems))
    processed, contents = prepare(root)
    shutil.rmtree(out, ignore_errors=True)
    render(processed, out, quarto, int(os.environ.get("XFER_JOBS") or os.cpu_count() or 1))
    return finish_site(out, contents)


def render(processed: Path, out: Path, quarto: str, processes: int) -> None:
    "Render a folder with so many Quartos at a time, each with a part of the pages: one takes them one after the other."
    pages = [path for path in processed.rglob("*") if path.suffix in PAGES]
    pages.sort(key=lambda path: path.stat().st_size)  # so that no part gets all the long ones
    with TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(number) for number in range(min(processes, len(pages)))]
        for number, folder in enumerate(folders):
            others = {page for place, page in enumerate(pages) if place % len(folders) != number}
            shutil.copytree(processed, folder, ignore=lambda at, names, others=others: [
                name for name in names if Path(at) / name in others])
        running = [subprocess.Popen([quarto, "render", "--no-cache"], cwd=folder) for folder in folders]
        if any([process.wait() for process in running]):  # a list: every one is waited for
            raise click.ClickException("Quarto could not render the site; it says above why")
        for folder in folders:
            if not any((folder / f"index{suffix}").exists() for suffix in PAGES):  # Quarto leads on from there instead
                (folder / "_docs/index.html").unlink(missing_ok=True)
            shutil.copytree(folder / "_docs", out, dirs_exist_ok=True)
        (out / "sitemap.xml").write_text(joined([(folder / "_docs/sitemap.xml").read_text("utf-8")
                                                 for folder in folders]), "utf-8")


def joined(maps: list[str]) -> str:
    "One map of the site from those of its parts."
    head, _, tail = maps[0].partition("</urlset>")
    rest = (place for other in maps[1:] for place in re.findall(r"  <url>.*?</url>\n", other, re.S))
    return f"{head}{''.join(rest)}</urlset>{tail}"


@click.command()
def main() -> None:
    quarto, out, started = quarto_program(), COURSE / "_docs", time.perf_counter()
    if quarto is None:
        raise click.ClickException(NO_QUARTO)
    number = build(COURSE, out, quarto)
    taken, pages = time.perf_counter() - started, read_site(out)
    click.echo(f"{number} pages in {out}, built in {taken:.0f} s; {report_of(count_site(COURSE, pages))}")
    problems = source_problems(COURSE) + site_problems(out, pages)
    for problem in problems:
        click.echo(problem, err=True)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
