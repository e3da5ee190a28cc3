"""The words of a page for the search: one document per section."""
from __future__ import annotations

import re
from html.parser import HTMLParser

from site_procs import SUMMARIES

LEFT_OUT = {"script", "style", "annotation", "nav", "button", "select", "header"}
VOID = {"img", "br", "hr", "input", "meta", "link", "col", "wbr", "source"}


def documents_of(page: str, address: str) -> list[list[str]]:
    "[address, heading, title of the page, text, code] for the opening of a page and each of its sections."
    reader = _Sections(address)
    page = re.sub(r"<body.*?(?=<main )", "<body>", page, count=1, flags=re.S)
    # what a fold is called by default says nothing about the code in it
    page = re.sub(rf"<summary>(?:{'|'.join(SUMMARIES)})(?:: [^<]*)?</summary>", "", page)
    reader.feed(re.sub(r'<div class="page-links">.*?</div>', "", page, count=1, flags=re.S))
    return [[where, _plain(heading), _plain(reader.title), _plain(text), _plain(_without_imports(code))]
            for where, heading, text, code in reader.sections if heading or text.strip() or code.strip()]


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _without_imports(code: str) -> str:
    "Code less its import lines, in which every name of the library occurs."
    return re.sub(r"^[ \t]*(?:from \S+ import \([^)]*\)|(?:from \S+ )?import .*)$", "", code, flags=re.M)


class _Sections(HTMLParser):
    "Collects (address, heading, text, code) of the sections inside `<main>`."

    def __init__(self, address: str):
        super().__init__()
        self.address, self.title = address, ""
        self.sections: list[list[str]] = [[address, "", "", ""]]
        self.open: list[str] = []  # the tags inside <main> that are open
        self.heading = self.in_main = False

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "main":
            self.in_main = True
        if tag == "meta" and values.get("name") == "description":
            self.sections[0][2] += (values.get("content") or "") + " "
        if not self.in_main or tag in VOID:
            return
        self.open.append(tag)
        if tag in ("h2", "h3") and (anchor := values.get("data-anchor-id") or values.get("id")):
            self.sections.append([f"{self.address}#{anchor}", "", "", ""])
            self.heading = True
        elif tag in ("p", "li", "td", "th", "div", "dt", "dd", "pre"):
            self.sections[-1][3 if "pre" in self.open else 2] += "\n"

    def handle_endtag(self, tag):
        if tag == "main":
            self.in_main = False
        if not self.in_main or tag in VOID:
            return
        if tag in self.open:  # an end tag that HTML lets one leave out closes with its parent
            while self.open.pop() != tag:
                pass
        if tag in ("h2", "h3"):
            self.heading = False

    def handle_data(self, data):
        if not self.in_main:
            return
        if "h1" in self.open:
            self.title += data
            self.sections[0][1] += data
        elif not LEFT_OUT & set(self.open):
            self.sections[-1][1 if self.heading else 3 if "pre" in self.open else 2] += data
