"""The way through the site: all pages at the side of each one, and the page before and after it.

Quarto would filter and parse the titles of all pages again for every page, which took it half of its time. It gets
`PLACE` instead, and the last step of the site puts the navigation there.
"""
from __future__ import annotations

import re
from html import escape
from pathlib import Path

import yaml

PLACE = {"website": {"sidebar": {"contents": [{"text": "All pages", "href": "index.html"}]}}}
Section = tuple[str, list[tuple[str, str]]]  # its words, and (address, title) of its pages; no words: no section

ITEM = """<li class="sidebar-item">
<div class="sidebar-item-container">
<a href="{href}" class="sidebar-item-text sidebar-link{active}">
<span class="menu-text">{title}</span></a>
</div>
</li>
"""
# the words of a section are the button that opens it; the arrow beside them is one for the mouse
SECTION = """<li class="sidebar-item sidebar-item-section">
<div class="sidebar-item-container">
<button type="button" class="sidebar-item-text sidebar-link text-start{collapsed}" data-bs-toggle="collapse" \
data-bs-target="#{name}" aria-expanded="{expanded}">
<span class="menu-text">{words}</span></button>
<span class="sidebar-item-toggle text-start{collapsed}" data-bs-toggle="collapse" data-bs-target="#{name}" \
aria-hidden="true">
<i class="bi bi-chevron-right ms-2"></i>
</span>
</div>
<ul id="{name}" class="collapse list-unstyled sidebar-section depth1{show}">
{items}</ul>
</li>
"""
NEIGHBOURS = """<nav class="page-navigation" aria-label="Previous and next page">
<div class="nav-page nav-page-previous">{before}</div>
<div class="nav-page nav-page-next">{after}</div>
</nav>
"""
NEIGHBOUR = '<a href="{href}" class="pagination-link" aria-label="{label}">{inside}</a>'
WORDS, BACK, ON = '<span class="nav-page-text">{}</span>', "arrow-left-short", "arrow-right-short"


def take_sidebar(processed: Path) -> list:
    "The contents of the sidebar of the notebooks that are prepared; Quarto finds a place for it instead."
    path = processed / "sidebar.yml"
    contents = yaml.safe_load(path.read_text("utf-8"))["website"]["sidebar"]["contents"]
    path.write_text(yaml.safe_dump(PLACE), "utf-8")
    return contents


def read_sections(out: Path, contents: list) -> list[Section]:
    "The sections of a sidebar with the addresses of their pages and the titles that these pages have."
    def page(entry: str | dict[str, str]) -> tuple[str, str]:
        name, words = (entry["href"], entry["text"]) if isinstance(entry, dict) else (entry, None)
        address = re.sub(r"\.\w+$", ".html", name)
        return address, escape(words, quote=False) if words else _title(out / address)

    return [(escape(entry["section"], quote=False), [page(inside) for inside in entry["contents"]])
            if isinstance(entry, dict) and "section" in entry else ("", [page(entry)]) for entry in contents]


def _title(path: Path) -> str:
    "The title of a page as it stands there, without links."
    found = re.search(r'<h1 class="title[^>]*>(.*?)</h1>', path.read_text("utf-8"), re.S)
    if found is None:
        raise ValueError(f"{path.name} has no title, which its place in nbs/sidebar.yml needs")
    return re.sub(r"</?a\b[^>]*>", "", found[1]).strip()


def sidebar(sections: list[Section], here: str) -> str:
    "The list of all pages, as the page with the address `here` shows it: its own section is open."
    up, parts = _up(here), []
    for number, (words, pages) in enumerate(sections, 1):
        items = "".join(ITEM.format(href=up + address, title=title, active=" active" if address == here else "")
                        for address, title in pages)
        is_open = any(address == here for address, _ in pages)
        parts.append(items if not words else SECTION.format(
            name=f"quarto-sidebar-section-{number}", words=words, items=items, expanded=str(is_open).lower(),
            collapsed="" if is_open else " collapsed", show=" show" if is_open else ""))
    return f'<ul class="list-unstyled mt-1">\n{"".join(parts)}</ul>'


def neighbours(sections: list[Section], here: str) -> tuple[str, str]:
    "The links to the page before and after the one with the address `here`: for its head, and for its end."
    pages = [page for _, inside in sections for page in inside]
    place = [address for address, _ in pages].index(here)
    before, after = pages[place - 1:place], pages[place + 1:place + 2]
    head = "".join(f'<link href="{_up(here)}{address}" rel="{rel}">\n'
                   for found, rel in ((after, "next"), (before, "prev")) for address, _ in found)
    return head, NEIGHBOURS.format(before=_neighbour(before, here, BACK), after=_neighbour(after, here, ON))


def _neighbour(found: list[tuple[str, str]], here: str, icon: str) -> str:
    if not found:
        return ""
    (address, title), arrow = found[0], f'<i class="bi bi-{icon}"></i>'
    inside = [arrow, WORDS.format(title)] if icon == BACK else [WORDS.format(title), arrow]
    label = re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", title, flags=re.S).replace('"', "&quot;")
    return NEIGHBOUR.format(href=_up(here) + address, label=label, inside=" ".join(inside))


def _up(here: str) -> str:
    return "../" * here.count("/") or "./"
