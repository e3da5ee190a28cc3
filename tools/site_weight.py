"""Style sheets without what no page uses: Bootstrap has half a megabyte for each theme, pages need a tenth of it."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

KEPT_WHOLE = ("@font-face", "@keyframes", "@charset", "@import")


def prune_styles(out: Path) -> None:
    "Drop from the style sheets in `site_libs` every rule whose classes or ids occur in no page and no script."
    words: set[str] = set()
    for path in [*out.rglob("*.html"), *out.rglob("*.js")]:
        if path.name != "search-documents.js":
            words |= words_of(path.read_text("utf-8"), path.suffix == ".html")
    sheets = {path: pruned(path.read_text("utf-8"), words) for path in (out / "site_libs").rglob("*.css")}
    everything = "".join([*sheets.values(), *(path.read_text("utf-8") for path in out.glob("*.css"))])
    asked = set(re.findall(r"var\(\s*(--[\w-]+)", everything))
    for path, text in sheets.items():
        path.write_text(re.sub(r"(?<=[{;])(--[\w-]+):[^;{}\"]*(?:;|(?=}))",
                               lambda found: found[0] if found[1] in asked else "", text), "utf-8")


def words_of(text: str, is_page: bool) -> set[str]:
    "Every class and id of a page, or every word of a script that could be one."
    if not is_page:
        return set(re.findall(r"[A-Za-z_][\w-]*", text))
    scripts = " ".join(re.findall(r"<script.*?</script>", text, re.S))
    named = " ".join(re.findall(r'\b(?:class|id)="([^"]*)"', text))
    return set(named.split()) | set(re.findall(r"[A-Za-z_][\w-]*", scripts))


def pruned(css: str, words: set[str]) -> str:
    "The rules of a style sheet that can apply to something; rules inside of `@media` and the like are looked at too."
    kept = []
    for head, body in rules(re.sub(r"/\*.*?\*/", "", css, flags=re.S)):
        if head.startswith(KEPT_WHOLE) or body is None:
            kept.append(head + (";" if body is None else f"{{{body}}}"))
        elif head.startswith("@"):
            if inside := pruned(body, words):
                kept.append(f"{head}{{{inside}}}")
        elif selectors := [s for s in split_selectors(head) if can_apply(s, words)]:
            kept.append(f"{','.join(selectors)}{{{body}}}")
    return "".join(kept)


def rules(css: str) -> Iterator[tuple[str, str | None]]:
    "(selector or at-rule, what stands in its braces) pairs of the outermost level; None where there are no braces."
    start, depth, opened = 0, 0, 0
    for found in re.finditer(r"""[{};]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|url\([^)"']*\)""", css):
        mark, at = found[0], found.start()
        if mark == "{":
            opened, depth = (at if depth == 0 else opened), depth + 1
        elif mark == "}":
            depth -= 1
            if depth == 0:
                yield css[start:opened].strip(), css[opened + 1:at]
                start = at + 1
        elif mark == ";" and depth == 0:
            yield css[start:at].strip(), None
            start = at + 1


def split_selectors(head: str) -> list[str]:
    "The selectors of a rule; commas in brackets, as in `:is(a,b)`, do not divide."
    return [part.strip() for part in re.split(r",(?![^(]*\))", head)]


def can_apply(selector: str, words: set[str]) -> bool:
    "Whether every class and id that a selector asks for occurs; what stands in `:not(...)` need not."
    asked = re.sub(r":(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\]|\"[^\"]*\"", "", selector)
    return all(name.replace("\\", "") in words for name in re.findall(r"[.#]((?:[\w-]|\\.)+)", asked))
