"""How a function or class of the library looks in the API reference: quartodoc's Markdown, made for narrow pages."""
from __future__ import annotations

import re
from collections.abc import Callable

from griffe import Alias, Attribute, Class, DocstringSection, Function, Object
from plum import dispatch
from quartodoc import MdRenderer, layout
from quartodoc.renderers.md_renderer import ParamRow


class ReferenceRenderer(MdRenderer):
    """quartodoc's renderer with lists for tables, fields in the signatures of classes, and where a piece comes from.

    Args:
        places: what stands below an object: where it comes from.
    """

    style = "reference"

    def __init__(self, places: Callable[[Object], str]):
        super().__init__(header_level=2, show_signature_annotations=True, display_name="name")
        self.places = places

    def _render_table(self, rows: list[ParamRow], headers: list[str], style: str) -> str:
        "A definition list: it has no empty columns, and nothing of it is cut off on a phone."
        return "\n\n".join(f"{_term(row)}\n:   {_indented(row.description or '')}" for row in rows)

    def _fetch_object_dispname(self, el: Alias | Object) -> str:
        "The bare name: the page says which package it belongs to."
        return el.name

    @dispatch
    def render_header(self, el: layout.Doc) -> str:
        return f"{'#' * self.crnt_header_level} {el.obj.name} {{#{el.obj.path} .doc-heading}}"

    @dispatch
    def render_header(self, el: DocstringSection) -> str:  # noqa: F811 (plum chooses by type)
        "A bold word: as headings, `Returns` and `Raises` would fill the list of contents."
        return f"**{el.title or el.kind.value.title()}**"

    @dispatch
    def signature(self, el: Class, source: Alias | None = None) -> str:
        "The arguments of `__init__`, or the fields of a dataclass or named tuple, one per line."
        if "__init__" in el.members:
            return super().signature(el, source)
        fields = [_field(member) for member in el.members.values() if _is_field(member)]
        inside = "".join(f"\n    {field}," for field in fields)
        return f"```python\n{el.name}({inside}{chr(10) if fields else ''})\n```"

    @dispatch
    def signature(self, el: Function, source: Alias | None = None) -> str:  # noqa: F811
        "With the type of what comes back, which quartodoc leaves out."
        text = super().signature(el, source)
        returns = f" -> {el.returns}" if el.returns is not None and el.name != "__init__" else ""
        return text.removesuffix("\n```") + f"{returns}\n```"

    @dispatch
    def render(self, el: layout.DocClass) -> str:
        "A class with its described properties as a list and its methods below it; quartodoc's tables link to nothing."
        parts = [self.render_header(el), self.signature(el), self.render(el.obj)]
        described = [member.obj for member in el.members if member.obj.is_attribute and member.obj.docstring]
        if described:
            rows = [ParamRow(obj.name, obj.docstring.value, annotation=self.render_annotation(obj.annotation))
                    for obj in described]
            parts += ["**Properties**", self._render_table(rows, [], "attributes")]
        parts.append(self.places(el.obj))
        with self._increment_header():
            parts += [self.render(member) for member in el.members if member.obj.is_function]
        return "\n\n".join(filter(None, parts))

    @dispatch
    def render(self, el: layout.DocFunction) -> str:  # noqa: F811
        body = self.render(el.obj)
        return "\n\n".join(filter(None, [self.render_header(el), self.signature(el), body,
                                         self.places(el.obj)]))


def _term(row: ParamRow) -> str:
    "`name`: type, whichever of the two there is."
    annotation = re.sub(r"\\([\[\]|<>'\"])", r"\1", row.annotation or "")
    return ": ".join(f"`{part}`" for part in (row.name, annotation) if part) or "value"


def _indented(text: str) -> str:
    return "\n".join(("    " + line if line.strip() and number else line) for number, line in
                     enumerate(text.strip().split("\n"))) or "–"


def _is_field(member: Object) -> bool:
    return member.is_attribute and member.annotation is not None and "property" not in member.labels


def _field(member: Attribute) -> str:
    return f"{member.name}: {member.annotation}" + (f" = {member.value}" if member.value is not None else "")
