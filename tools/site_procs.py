"""What nbdev does to notebooks on their way to Quarto, beside its own steps; named in settings.ini."""
from __future__ import annotations

import json
import re

RAW_HTML = "```{=html}\n%s\n```"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# What a folded cell is called that has no `#| code-summary:` of its own: the first that fits.
CHECK, LIBRARY, FIGURE, CODE = "Code of the check", "Code for the library", "Code of the figure", "Show the code"
SUMMARIES = (CHECK, LIBRARY, FIGURE, CODE)


def describe(cell) -> None:
    """Give figures their texts as Quarto wants them, and make HTML outputs part of the page.

    An HTML output would bring require.js and jQuery from another host, which nothing here needs; standard error and
    widgets that need a kernel are left out, since a static picture stands beside them.
    """
    if cell.cell_type != "code":
        return
    name_fold(cell)
    texts = []
    cell.outputs = [output for output in cell.outputs or []
                    if output.get("name") != "stderr" and WIDGET_VIEW not in output.get("data", {})]
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            texts.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
        if "text/html" in data:
            page = "".join(data.pop("text/html"))
            output["data"] = {"text/markdown": RAW_HTML % page.strip()}
    if texts:
        said = json.dumps(texts if len(texts) > 1 else texts[0], ensure_ascii=False)
        cell.source = f"#| fig-alt: {said}\n" + re.sub(r"^#\| fig-alt:.*\n", "", cell.source, flags=re.M)


def name_fold(cell) -> None:
    """Say on a folded cell what is behind the click; Quarto's own word for all of them is `Code`.

    A cell that is exported has no directive of Quarto's, which nbdev would copy into the module: it is folded where
    JupyterLab folds it.
    """
    exported = bool({"export", "exports"} & set(getattr(cell, "directives_", None) or ()))
    if exported and cell.metadata.get("jupyter", {}).get("source_hidden") and "#| code-fold:" not in cell.source:
        cell.source = f"#| code-fold: true\n{cell.source}"
    if not re.search(r"^#\| code-fold: *true", cell.source, re.M) or "#| code-summary:" in cell.source:
        return
    is_drawn = any("image/png" in output.get("data", {}) for output in cell.outputs or [])
    if re.search(r"^def check_\w+\(", cell.source, re.M):
        words = CHECK
    elif exported:
        names = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", cell.source, re.M)
        words = f"{LIBRARY}: {', '.join(names)}" if names else LIBRARY
    else:
        words = FIGURE if is_drawn else CODE
    cell.source = f'#| code-summary: "{words}"\n{cell.source}'
