"""Build the site into `_docs/`: with Quarto where it is installed, else a plain HTML edition of every notebook.

The plain edition has the same pages in the same order, works without a network, and needs nothing but the course's own
packages. Quarto itself comes from https://quarto.org/docs/get-started/.
"""
from __future__ import annotations

import html
import shutil
import subprocess
import sys
from pathlib import Path

import click
import yaml

from xfer_course.cli import offline_html
from xfer_course.results import course_root


def sidebar_pages(root: Path) -> list[tuple[str, str]]:
    "(section, notebook) pairs in the order of `nbs/sidebar.yml`; the section is empty for pages outside of one."
    contents = yaml.safe_load((root / "nbs/sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"]
    pages = []
    for entry in contents:
        inside = entry["contents"] if isinstance(entry, dict) else [entry]
        pages += [(entry["section"] if isinstance(entry, dict) else "", name) for name in inside]
    return pages


def title_of(notebook: Path) -> str:
    import nbformat

    return nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")


def navigation(pages: list[tuple[str, str]], current: str, titles: dict[str, str]) -> str:
    "The list of all pages, as seen from one of them; the page itself is marked."
    up, section, items = "../" * current.count("/"), None, []
    for group, name in pages:
        if group and group != section:
            items.append(f"<li><strong>{html.escape(group)}</strong></li>")
        section = group
        mark = ' aria-current="page"' if name == current else ""
        items.append(f'<li><a href="{up}{Path(name).with_suffix(".html").as_posix()}"{mark}>{html.escape(titles[name])}</a></li>')
    return f'<nav aria-label="Pages"><details><summary>All pages</summary><ul>{"".join(items)}</ul></details></nav>'


def build_plain(root: Path, out: Path) -> int:
    "Write one HTML page per notebook of the sidebar; returns how many."
    pages = sidebar_pages(root)
    titles = {name: title_of(root / "nbs" / name) for _, name in pages}
    for _, name in pages:
        page = offline_html(root / "nbs" / name)
        target = (out / name).with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        body = page.index("<body")
        start = page.index(">", body) + 1
        text = page[:start] + navigation(pages, name, titles) + page[start:].replace('.ipynb"', '.html"').replace('.ipynb#', '.html#')
        target.write_text(text.replace("<html>", '<html lang="en">'), "utf-8")
    return len(pages)


def main() -> None:
    root = course_root()
    if shutil.which("quarto"):
        raise SystemExit(subprocess.call([Path(sys.executable).parent / "nbdev_docs"], cwd=root))
    click.echo("quarto is not installed (https://quarto.org/docs/get-started/); building the plain edition instead")
    shutil.rmtree(root / "_docs", ignore_errors=True)
    click.echo(f"{build_plain(root, root / '_docs')} pages in {root / '_docs'}; start with index.html")


if __name__ == "__main__":
    main()
