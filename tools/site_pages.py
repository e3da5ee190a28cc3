"""The last step of the site: Quarto's pages get what they lack for keyboards, screen readers and slow lines.

Nothing here changes what a page says. The list of all pages takes its place, landmarks get names, the search its field,
pictures their size; what no page uses leaves the style sheets; the words of all sections are collected for the search.
"""
from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from html import unescape
from pathlib import Path

from search_documents import documents_of
from site_navigation import Section, neighbours, read_sections, sidebar
from site_weight import prune_styles

SEARCH = """<search class="site-search">
<label class="visually-hidden" for="query">Search the course</label>
<input id="query" type="search" placeholder="Search (press /)" autocomplete="off">
<ul id="hits" aria-label="Search results" hidden></ul>
<p id="hit-count" class="visually-hidden" role="status"></p>
</search>
"""
THEME = """<button type="button" class="quarto-color-scheme-toggle quarto-navigation-tool" \
onclick="window.quartoToggleColorScheme()" aria-label="Switch between the light and the dark theme">\
<span class="bi" aria-hidden="true"></span></button>"""
ALL_PAGES = """<nav class="quarto-secondary-nav" aria-label="On small screens"><div class="container-fluid d-flex">\
<button type="button" class="quarto-btn-toggle btn" data-bs-toggle="collapse" \
data-bs-target=".quarto-sidebar-collapse-item" aria-controls="quarto-sidebar" aria-expanded="false" \
onclick="if (window.quartoToggleHeadroom) { window.quartoToggleHeadroom(); }">All pages</button></div></nav>"""
MANY = 4  # columns of a table that fit beside each other in letters of full size
SKIP = '<a class="skip-link" href="#quarto-document-content">Skip to the text</a>'
UNUSED = r"bootstrap-icons\.css|bootstrap\.min\.js|tippy|popper|tabsets"

OUTPUT = r'(<div class="cell-output[^>]*>\n<pre)>(.*?</pre>)'
COLUMNS = r"^ |[^ \n] {2,}[^ \n]|\t"  # blanks that put something below something else
LONG = 600  # characters of a line that nobody reads to its end
# around the text: (what Quarto writes, what the page gets)
AROUND = [
    (rf'<(?:link|script) [^>]*(?:{UNUSED})[^>]*>(?:</script>)?\n', ""),
    (r'<link [^>]*quarto-color-scheme-extra[^>]*>\n', ""),
    (r"\n *document\.querySelector\('link#[\w-]+\.quarto-color-scheme-extra'\)\.rel = '[\w-]+';", ""),
    (r'<nav class="navbar navbar-expand-lg " data-bs-theme="dark"',
     '<nav class="navbar navbar-expand-lg" aria-label="Main"'),
    (r'<button class="navbar-toggler".*?</button>', ""),  # the sidebar has these places too
    (r'<a href="" class="quarto-color-scheme-toggle.*?</a>', THEME),
    (r'<nav class="quarto-secondary-nav">.*?</nav>', ALL_PAGES),
    (r'<nav id="quarto-sidebar"', '<nav id="quarto-sidebar" aria-label="All pages"'),
    (r'<nav id="TOC"', '<nav id="TOC" aria-label="On this page"'),
    (r'<h2 id="toc-title">(.*?)</h2>', r'<p id="toc-title">\1</p>'),
    (r'(<body[^>]*>)', r"\1" + SKIP),
]


def finish_site(out: Path, contents: list) -> int:
    "Finish every page of a rendered site in its folder, with the contents of its sidebar; returns how many there are."
    paths, sections = sorted(out.rglob("*.html")), read_sections(out, contents)
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(partial(finish_page, out=out, sections=sections), paths, chunksize=4))
    documents = json.dumps([document for page in found for document in page], ensure_ascii=False)
    (out / "search-documents.js").write_text(f"window.searchDocuments = {documents};\n", "utf-8")
    for unused in ("bootstrap-icons.css", "bootstrap-icons.woff", "bootstrap.min.js"):
        (out / "site_libs/bootstrap" / unused).unlink(missing_ok=True)
    (out / "search.json").unlink(missing_ok=True)  # of Quarto's search, five megabytes
    prune_styles(out)
    return len(paths)


def finish_page(path: Path, out: Path, sections: list[Section]) -> list[list[str]]:
    "Mend one page; returns its sections for the search."
    address = path.relative_to(out).as_posix()
    text = with_navigation(mended(path.read_text("utf-8"), address), sections, address)
    text = re.sub(r"<img [^>]*>", lambda tag: _with_size(_as_file(tag[0], path, out), path), text)
    text = re.sub(r"<table.*?</table>", lambda table: mended_table(table[0]), text, flags=re.S)
    text = re.sub(r"<summary.*?</summary>", _without_links, text, flags=re.S)
    path.write_text(text, "utf-8")
    return documents_of(text, address)


def mended(text: str, address: str) -> str:
    "A page with names for its landmarks, the field for the search, and buttons that say that they are buttons."
    up = "../" * address.count("/")
    above, main, below = re.split(r"(<main .*</main>)", text, maxsplit=1, flags=re.S)
    for pattern, instead in AROUND:
        above, below = re.sub(pattern, instead, above, flags=re.S), re.sub(pattern, instead, below, flags=re.S)
    above = re.sub(r"\n\s+", "\n", above)  # blanks are a quarter of the navigation
    main = main.replace("<main ", '<main tabindex="-1" ', 1).replace('"title d-none d-lg-block"', '"title"', 1)
    text = above + re.sub(OUTPUT, _output, main, flags=re.S) + below
    text = re.sub(r'class="nav-link active" href="([^"]*)" aria-current="page"',
                  lambda link: link[0] if link[1] in (address, f"./{address}")
                  else f'class="nav-link" href="{link[1]}"', text)
    text = text.replace('<div class="quarto-navbar-tools">', SEARCH + '<div class="quarto-navbar-tools">', 1)
    return text.replace("</body>", f'<script src="{up}site.js" data-up="{up}" defer></script>\n</body>', 1)


def with_navigation(text: str, sections: list[Section], address: str) -> str:
    "A page with the list of all pages at its side, and with the page before and after it."
    head, end = neighbours(sections, address)
    place = text.index('<ul class="list-unstyled', text.index('<nav id="quarto-sidebar"'))
    text = text[:place] + sidebar(sections, address) + text[text.index("</ul>", place) + len("</ul>"):]
    text = text.replace("</head>", f"{head}</head>", 1)
    return text.replace("</div> <!-- /content -->", f"{end}</div> <!-- /content -->", 1)


def mended_table(table: str) -> str:
    "A table with a header cell in each row where it had none at all, and smaller letters where it has many columns."
    if "<th" not in table:
        table = re.sub(r"(<tr[^>]*>\s*)<td([^>]*)>(.*?)</td>", r'\1<th scope="row"\2>\3</th>', table, flags=re.S)
    table = re.sub(r"(<th[^>]*>)\s*(<math .*?</math>)\s*</th>", _spoken, table, flags=re.S)
    columns = len(re.findall(r"<t[hd][ >]", table.partition("</tr>")[0]))
    return f'<div class="many" style="--columns: {columns}">{table}</div>' if columns > MANY else table


def _output(found: re.Match) -> str:
    "What a program printed: sentences wrap; columns keep their places and scroll, by keyboard too."
    printed = unescape(re.sub(r"<[^>]+>", "", found[2]))
    scrolls = re.search(COLUMNS, printed, re.M) or max(map(len, printed.split("\n"))) > LONG
    return f'{found[1]} {"tabindex" if scrolls else "class"}="{"0" if scrolls else "sentences"}">{found[2]}'


def _spoken(header: re.Match) -> str:
    "A header cell that is a formula: it is seen, and its letters are read out, since a header needs words."
    words = " ".join(re.sub(r"<annotation.*?</annotation>|<[^>]+>", " ", header[2], flags=re.S).split())
    return (f'{header[1]}<span aria-hidden="true">{header[2]}</span>'
            f'<span class="visually-hidden">{words}</span></th>')


def _without_links(summary: re.Match) -> str:
    "What a click opens holds nothing else that a click could mean."
    return re.sub(r"</?a\b[^>]*>", "", summary[0])


def _as_file(tag: str, page: Path, out: Path) -> str:
    "The tag of a picture that is to be loaded late, with a file of its own instead of a copy inside the page."
    source = re.search(r'src="data:image/png;base64,([^"]+)"', tag)
    if source is None or 'loading="lazy"' not in tag:
        return tag
    picture = b64decode(source[1])
    name = f"images/{sha256(picture).hexdigest()[:16]}.png"
    (out / name).write_bytes(picture)
    return tag.replace(source[0], f'src="{"../" * len(page.relative_to(out).parents[:-1])}{name}"')


def _with_size(tag: str, page: Path) -> str:
    "The tag of a PNG with its size, so that the page does not jump while it loads."
    source = re.search(r'src="([^":]+\.png)"', tag)
    if source is None or " width=" in tag or not (picture := page.parent / source[1]).is_file():
        return tag
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return tag.replace("<img ", f'<img width="{width}" height="{height}" loading="lazy" ', 1)
