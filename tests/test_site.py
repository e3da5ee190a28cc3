"""The site: Quarto renders it once for all tests, and it is read back; and what the checks find, with the file named.

The tests of the whole site need Quarto: on the path, or named by XFER_QUARTO. XFER_SITE names a site that is built.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import click
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from click.testing import CliRunner

from conftest import ROOT
from house import NAMES, NOTEBOOKS, code_cells

sys.path.insert(0, str(ROOT / "tools"))
import check_site  # noqa: E402  (tools/ is on the path now)
import docs  # noqa: E402
import origins  # noqa: E402
import reference  # noqa: E402
import search_documents  # noqa: E402
import site_navigation  # noqa: E402
import site_pages  # noqa: E402
import site_procs  # noqa: E402
import site_weight  # noqa: E402

from xfer_course.registry import chapters, public_names  # noqa: E402

md, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def read(site: Path, name: str) -> str:
    return (site / name).read_text("utf-8")


def places(name: str) -> tuple[str, str]:
    "The page of the notebook that builds a public name, and its place in the reference."
    found = next(public for public in public_names(ROOT) if public.name == name)
    return f"{found.notebook.name}.html", f"api/{found.package}.html#xfer_course.{found.shown}"


def main_of(site: Path, name: str) -> BeautifulSoup:
    page = read(site, name)
    return BeautifulSoup(page[page.index("<main"):page.index("</main>")] + "</main>", "html.parser").main


def entry(site: Path, name: str) -> str:
    "What the reference says about a public name, as text."
    page, _, anchor = places(name)[1].partition("#")
    return " ".join(main_of(site, page).find(id=anchor).get_text(" ").split())


def test_every_page_passes_the_check(site, capsys):
    pages = check_site.read_site(site)
    counts = check_site.count_site(ROOT, pages)
    with capsys.disabled():
        print("\n" + check_site.report_of(counts))
    assert check_site.site_problems(site, pages) == []
    assert counts["images"] == counts["images with alt text"] > 0


def test_sources_pass_the_check():
    assert check_site.source_problems(ROOT) == []


def test_pages_are_those_of_the_sidebar_in_its_order(site):
    contents = yaml.safe_load((ROOT / "nbs/sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"]
    names = [name for entry in contents for name in (entry["contents"] if isinstance(entry, dict) else [entry])]
    sidebar = BeautifulSoup(read(site, "index.html"), "html.parser").find(id="quarto-sidebar")
    shown = [link["href"].removeprefix("./") for link in sidebar.select("a.sidebar-link[href*='.html']")]
    shown = [name for place, name in enumerate(shown) if place == 0 or shown[place - 1] != name]  # a section's, and its
    assert shown[:len(names)] == [name.replace(".ipynb", ".html") for name in names]
    assert shown[len(names):] == ["papers.html", *(f"api/{package}.html" for package in reference.packages(ROOT))]
    assert sorted(shown) == sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_previous_and_next_walk_through_all_pages(site):
    seen, here = [], "index.html"
    while here:
        seen.append(here)
        found = re.search(r'<link href="([^"]+)" rel="next">', read(site, here))
        here = ((site / here).parent.joinpath(found[1]).resolve().relative_to(site.resolve()).as_posix()
                if found else None)
    assert sorted(seen) == sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))


def test_pages_ask_no_other_host(site):
    for path in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^"]+)"', path.read_text("utf-8"))
        assert not [target for target in fetched if re.match(r"(?:[a-z]+:)?//", target)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", path.read_text("utf-8")), path


def test_the_front_page_is_light(site):
    page = read(site, "index.html")
    parts = {"index.html", *re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^":]+\.(?:js|css|png))"', page)}
    cards = {card.img["src"] for card in main_of(site, "index.html").select(".cards .card")}
    assert all((site / name).stat().st_size < 12_000 for name in cards)
    parts -= cards  # two screens down, and fetched when a reader gets there
    sizes = {name: (site / name).stat().st_size for name in parts}
    print("\n" + ", ".join(f"{name} {size / 1000:.0f} kB" for name, size in sorted(sizes.items())))
    assert sum(sizes.values()) < 400_000, sizes


def test_formulas_are_mathml(site):
    page = read(site, places("DANN")[0])
    assert page.count("<math ") > 20
    words = re.sub(r"<(pre|script|code|math)\b.*?</\1>|<[^>]+>", "", page, flags=re.S)
    assert not re.search(r"\$[^$\n]*\\[a-z]+[^$\n]*\$", words), "a formula was left as TeX"


def test_search_knows_sections_and_reference(site):
    text = read(site, "search-documents.js").removeprefix("window.searchDocuments = ").rstrip(";\n")
    documents = json.loads(text)
    assert any("0.69" in heading for _, heading, *_ in documents)
    assert any(address == places("ShallowDANN")[1] and heading == "ShallowDANN" for address, heading, *_ in documents)
    assert any("λ" in text for _, _, _, text, _ in documents) and not any("import torch" in d[4] for d in documents)
    ids: dict[str, set[str]] = {}
    for address, *_ in documents:
        page, _, anchor = address.partition("#")
        if page not in ids:
            ids[page] = set(re.findall(r'\bid="([^"]+)"', read(site, page)))
        assert not anchor or anchor in ids[page], address


def test_reference_holds_every_public_name_and_its_origin(site):
    pages = {package: read(site, f"api/{package}.html") for package in reference.packages(ROOT)}
    for public in public_names(ROOT):
        page = pages[public.package]
        at = page.index(f'id="xfer_course.{public.shown}"')
        assert re.search(rf'Built in <a href="\.\./{public.notebook.name}\.html#[\w-]+"', page[at:]), public.shown
    assert "used in" in entry(site, "ShallowDANN") and "dann/moons" in entry(site, "ShallowDANN"), (
        "an import from the chapter counts for its module")


def test_reference_shows_fields_types_and_errors(site):
    assert re.search(r"DANNOutput \( class_logits ?:|DANNOutput\( ?\w+ ?: ?Tensor", entry(site, "DANNOutput"))
    assert "-> Tensor" in entry(site, "gradient_reversal").replace("- >", "->")
    raised = main_of(site, "api/atlas.html").find(id="xfer_course.atlas.papers")
    assert "Raises" in raised.get_text() and [dt.get_text() for dt in raised.find_all("dt")][-1] == "ValueError"


def test_inline_code_leads_to_the_reference(site):
    built, place = places("lambda_schedule")
    links = {link["href"] for link in main_of(site, "troubleshooting.html").find_all("a")}
    assert place in {link.removeprefix("./") for link in links}
    assert "mnist_m" not in reference.symbols(ROOT), "in the text it is more often the lab than the function"


def test_papers_page_leads_from_every_source_to_code_test_and_record(site):
    page = main_of(site, "papers.html")
    row = next(row for row in page.find_all("tr") if "lambda_schedule" in row.get_text())
    links = {link["href"].removeprefix("./") for link in row.find_all("a")}
    assert "5.2.2" in row.get_text() and "test_dann_parity.py" in row.get_text()
    assert any(re.fullmatch(rf"{places('lambda_schedule')[0]}#\w{{8}}", link) for link in links)
    assert places("lambda_schedule")[1] in links
    for section in page.find_all("section"):
        if "Learning to Prompt" in section.h2.get_text():
            assert "basis_loss" not in section.get_text()
    built = {link["href"].removeprefix("./").partition("#")[0] for link in page.find_all("a", href=True)}
    for module in origins.modules(ROOT):
        assert f"{module.notebook.name}.html" in built or not re.search(r"\bSource:", module.text), module.name


@pytest.mark.parametrize("chapter", [chapter for chapter in chapters(ROOT) if chapter.papers],
                         ids=lambda chapter: chapter.name)
def test_every_chapter_has_exercises_a_self_test_and_a_slider_without_kernel(chapter):
    lessons = [nbformat.read(notebook.path, as_version=4) for notebook in chapter.notebooks if not notebook.is_lab]
    assert sum(exercise.check and exercise.solution for lesson in lessons
               for exercise in check_site.exercises(lesson)) >= 4
    assert sum(map(check_site.self_test, lessons)) >= 5
    assert sum(map(check_site.flipbooks, lessons)) >= 1


def test_no_slider_is_heavier_than_allowed():
    from xfer_course.evaluation import FLIPBOOK_BYTES

    for path in check_site.notebooks(ROOT):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                page = "".join(output.get("data", {}).get("text/html", ""))
                assert 'class="flipbook"' not in page or len(page) <= FLIPBOOK_BYTES, path


def test_folded_cells_are_folded_and_named_and_their_outputs_are_in_sight(site):
    folded = [(path, cell) for path in NOTEBOOKS for cell in code_cells(path)
              if cell.metadata.get("jupyter", {}).get("source_hidden")
              and not re.search(r"^#\| *(hide|echo: *false)", cell.source, re.M)]
    assert folded
    pages = {path: main_of(site, f"{NAMES[path]}.html") for path in {path for path, _ in folded}}
    documents = read(site, "search-documents.js")
    for path, cell in folded:
        shown = pages[path].find(id=cell.id)
        fold = shown.find("details", class_="code-fold", recursive=False)
        assert fold.find("pre") and not fold.has_attr("open") and len(shown.find_all("pre", class_="sourceCode")) == 1
        assert fold.summary.get_text().strip() not in ("", "Code") and not fold.find("img")
        pictures = sum("image/png" in o.get("data", {}) or "".join(o.get("data", {}).get("text/html", "")).count("<img")
                       for o in cell.outputs)
        assert len(shown.find_all("img")) == pictures
        if defined := re.search(r"^(?:def|class) (\w+)", cell.source, re.M):
            assert defined[1] in documents, "the search knows the words of folded code"


def test_home_page_has_a_card_for_every_chapter(site):
    cards = main_of(site, "index.html").select(".cards .card")
    shown = [card.h3.a["href"].removeprefix("./") for card in cards]
    assert shown == [f"{chapter.first.name}.html" for chapter in chapters(ROOT) if chapter.is_taught], (
        "run `python tools/notebooks.py index`")
    for card in cards:
        assert card.img["alt"] and card.img["loading"] == "lazy" and (site / card.img["src"]).is_file()
        assert re.search(r"level: \w", card.get_text()) and re.search(r"labs: (\d+ min|none)", card.get_text())


def test_cards_are_of_one_size_without_a_style_that_jupyterlab_drops():
    pages = ["".join(output.get("data", {}).get("text/html", "")) for cell in code_cells(ROOT / "nbs/index.ipynb")
             for output in cell.outputs]
    pictures = [picture for page in pages for picture in BeautifulSoup(page, "html.parser").select(".card img")]
    sizes = {struct.unpack(">II", b64decode(picture["src"].partition(",")[2])[16:24]) for picture in pictures}
    assert len(pictures) > 3 and len(sizes) == 1, sizes
    assert {(int(picture["width"]), int(picture["height"])) for picture in pictures} == sizes
    assert not any("object-fit" in picture["style"] for picture in pictures)


def test_every_page_describes_itself_for_previews(site):
    for path in site.rglob("*.html"):
        page = path.read_text("utf-8")
        for name in ('name="description"', 'property="og:title"', 'property="og:description"', 'property="og:image"'):
            content = re.search(rf'<meta {name} content="([^"]*)"', page)
            assert content and content[1].strip(), (path, name)


def test_what_colab_needs_first_works_in_an_empty_folder(tmp_path):
    """The commands of the troubleshooting page, with this checkout in the place of the repository
    and without the libraries."""
    text = "\n".join(c.source for c in nbformat.read(ROOT / "nbs/troubleshooting.ipynb", as_version=4).cells)
    clone, enter, install = re.search(r"### In Colab.*?```python\n(.+?)\n```", text, re.S)[1].splitlines()
    address = docs.read_settings(ROOT)["git_url"]
    assert clone.startswith("!git clone") and address in clone
    subprocess.run(clone[1:].replace(address, ROOT.as_uri()) + " xfer_course", shell=True, cwd=tmp_path, check=True,
                   capture_output=True)
    folder = tmp_path / enter.removeprefix("%cd ")
    wanted = install.removeprefix("%pip install --quiet ").strip('"')
    assert wanted == ".[course]" and "course_requirements" in docs.read_settings(folder)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(tmp_path / "packages")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "."], cwd=folder, check=True, capture_output=True)
    assert (tmp_path / "packages/xfer_course/_data/manifest.json").is_file()
    code = ("from xfer_course.dann import DANN; from xfer_course.results import course_root; print(DANN.__module__, "
            "course_root())")
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=True,
                          capture_output=True, text=True)
    assert said.stdout.split() == ["xfer_course.dann.deep", str(folder.resolve())]


# ---------------------------------------------------------------- small courses of our own


@pytest.fixture
def course(tmp_path) -> Path:
    "A tiny course with one notebook, one lab and everything in order; tests break one thing each."
    root = tmp_path / "course"
    (root / "nbs/toy").mkdir(parents=True)
    (root / "data/results").mkdir(parents=True)
    (root / "xfer_course").mkdir()
    shutil.copy(ROOT / "settings.ini", root)
    (root / "nbs/sidebar.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": [
        "index.ipynb", {"section": "Toy", "contents": ["toy/method.ipynb", "toy/lab.ipynb"]}]}}}))
    papers = [{"id": "toy", "title": "Toy", "family": "toys", "sentence": "A toy."}]
    (root / "data/atlas.json").write_text(json.dumps({"families": {"toys": "Toys"}, "papers": papers}))
    (root / "data/results/toy-lab-cpu.json").write_text("{}")
    write(root, "index", [md("# Home\n\n> Where it starts.\n\nSee [the method](toy/method.ipynb#How-it-works).")])
    write(root, "toy/method",
          [md("# Method\n\n> How a toy works.\n\n## How it works"), picture("a red dot"),
           md("## Exercises\n\n**1. Count.** How many?"),
           code("def check_count(n): pass"), md("<details><summary>Solution</summary>\n\nOne.\n</details>"),
           md("\n## Test yourself\n\n<details><summary>How many toys?</summary>\n\nOne.\n</details>")], "paper")
    parameters = code("profile = 'cpu'")
    parameters.metadata["tags"] = ["parameters"]
    write(root, "toy/lab", [md("# Lab\n\n> Does the toy work?"), parameters])
    return root


def picture(alt: str):
    cell = code("show(fig)")
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": alt}})]
    return cell


def write(root: Path, name: str, cells: list, kind: str = "guide") -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"xfer": {"kind": kind}}), root / f"nbs/{name}.ipynb")


def change(root: Path, name: str, number: int, old: str, new: str) -> None:
    path = root / f"nbs/{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert old in notebook.cells[number].source
    notebook.cells[number].source = notebook.cells[number].source.replace(old, new)
    nbformat.write(notebook, path)


def test_a_course_in_order_has_no_problem(course):
    assert check_site.source_problems(course) == []


BREAK = {
    "title": (lambda r: change(r, "toy/method", 0, "# Method\n", "Method\n"), "nbs/toy/method.ipynb: has no title"),
    "description": (lambda r: change(r, "toy/lab", 0, "> Does", "Does"), "nbs/toy/lab.ipynb: has no description"),
    "check": (lambda r: change(r, "toy/method", 3, "check_count", "count"),
              "nbs/toy/method.ipynb: exercise '1. Count. How many?' has no check"),
    "solution": (lambda r: change(r, "toy/method", 4, "Solution", "Hint"),
                 "nbs/toy/method.ipynb: exercise '1. Count. How many?' has no solution"),
    "alt text": (lambda r: write(r, "index", [md("# Home\n\n> Here."), picture(" ")]),
                 "nbs/index.ipynb: an image without alt text"),
    "alt text in Markdown": (lambda r: change(r, "index", 0, "See", "![](a.png) See"),
                             "nbs/index.ipynb: an image without alt text"),
    "record": (lambda r: (r / "data/results/toy-lab-cpu.json").unlink(),
               "nbs/toy/lab.ipynb: its result has no record (data/results/toy-lab-*.json)"),
    "family": (
        lambda r: (r / "data/atlas.json")
        .write_text('{"families": {}, "papers": [{"id": "toy", "title": "Toy", "family": "", "sentence": "A toy."}]}'),
               "data/atlas.json: paper 'toy' has no family"),
    "sidebar": (lambda r: write(r, "toy/new", [md("# New\n\n> Forgotten.")]),
                "nbs/toy/new.ipynb: not in nbs/sidebar.yml"),
    "file": (lambda r: (r / "nbs/toy/lab.ipynb").unlink(), "nbs/sidebar.yml: names toy/lab.ipynb, which is not there"),
}


@pytest.mark.parametrize("name", BREAK)
def test_what_is_missing_is_named_with_its_file(course, name):
    act, sentence = BREAK[name]
    act(course)
    problems = check_site.source_problems(course)
    assert len(problems) == 1 and problems[0].startswith(sentence), problems


PAGE = """<!DOCTYPE html><html lang="en"><head><title>Toy</title><meta name="description" content="A toy."></head>
<body><main><h1>Toy</h1><h2 id="how-it-works">How it works</h2><p>See <a href="#how-it-works">how</a>.</p>
<table><thead><tr><th>what</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table></main></body></html>"""
BREAK_PAGE = {
    "link": ("See", '<a href="nowhere.html">nothing</a>', "dead link 'nowhere.html'"),
    "anchor": ("#how-it-works", "#no-such-place", "there is no such place on that page"),
    "image": ("See", '<img src="lost.png" alt="lost">', "dead link 'lost.png'"),
    "alt": ("See", '<img src="index.html">', "image without alt text"),
    "directive": ("See", "<pre><code>\n#| export\n</code></pre>", "raw directive"),
    "traceback": ("See", "Traceback (most recent call last)", "raw directive or traceback"),
    "heading": ("<h2", "<h4>Deep</h4><h2", "a heading of level 4 follows one of level 1"),
    "outside": ("See", '<a href="../../../secret.html">out</a>', "leaves the site"),
    "table": ("th>", "td>", "1 tables without header cells"),
    "title": ("<title>Toy", "<title>", "no title"),
    "description": ("A toy.", "", "no description"),
    "two titles": ("<h2", "<h1>Again</h1><h2", "2 headings of level 1"),
}


def test_a_page_in_order_has_no_problem(tmp_path):
    (tmp_path / "index.html").write_text(PAGE)
    assert check_site.site_problems(tmp_path) == []


@pytest.mark.parametrize("name", BREAK_PAGE)
def test_what_is_broken_on_a_page_is_named_with_the_page(tmp_path, name):
    old, new, sentence = BREAK_PAGE[name]
    assert old in PAGE
    (tmp_path / "index.html").write_text(PAGE.replace(old, new))
    problems = check_site.site_problems(tmp_path)
    assert any(p.startswith("index.html: ") and sentence in p for p in problems), problems


# ---------------------------------------------------------------- the steps before and after Quarto


def test_outputs_are_prepared_for_quarto():
    cell = picture('a "red" dot')
    cell.outputs += [nbformat.v4.new_output("stream", name="stderr", text="noise"),
                     nbformat.v4.new_output("display_data", {"text/html": "<b>bold</b>", "text/plain": "bold"}),
                     nbformat.v4.new_output("display_data", {site_procs.WIDGET_VIEW: {}, "text/plain": "slider"})]
    site_procs.describe(cell)
    assert cell.source == '#| fig-alt: "a \\"red\\" dot"\nshow(fig)' and len(cell.outputs) == 2
    assert cell.outputs[1].data == {"text/markdown": "```{=html}\n<b>bold</b>\n```"}
    site_procs.describe(cell)
    assert cell.source.count("fig-alt") == 1, "twice is once"


@pytest.mark.parametrize("source, directives, words", [
    ("def check_x(answer):\n    pass", {}, site_procs.CHECK),
    ("def helper():\n    pass\n\n\nclass Part:\n    pass", {"export": []}, f"{site_procs.LIBRARY}: helper, Part"),
    ("import math", {"export": []}, site_procs.LIBRARY),
    ("show(fig)", {}, site_procs.FIGURE),
    ("x = 1", {}, site_procs.CODE),
])
def test_folded_cells_say_what_they_hold(source, directives, words):
    cell = picture("a dot") if source == "show(fig)" else code(source)
    cell.source, cell.directives_ = source if directives else f"#| code-fold: true\n{source}", directives
    cell.metadata = {"jupyter": {"source_hidden": True}} if directives else {}
    site_procs.describe(cell)
    site_procs.describe(cell)
    assert re.findall(r'^#\| code-summary: "(.*)"$', cell.source, re.M) == [words]
    assert cell.source.count("#| code-fold: true") == 1


def test_a_summary_of_ones_own_stays_and_cells_in_sight_get_none():
    own, open_ = code('#| code-fold: true\n#| code-summary: "The loop"\nx = 1'), code("x = 1")
    for cell in (own, open_):
        site_procs.describe(cell)
    assert own.source.count("code-summary") == 1 and "code-summary" not in open_.source


def test_several_pictures_of_a_cell_have_a_text_each():
    cell = picture("one")
    cell.outputs += picture("two").outputs
    site_procs.describe(cell)
    assert cell.source.startswith('#| fig-alt: ["one", "two"]\n')


def test_prepared_notebooks_get_links_and_a_preview(course):
    processed = course / "_proc"
    shutil.copytree(course / "nbs", processed)
    for path in processed.rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_raw_cell("---\ntitle: Toy\n---"))
        nbformat.write(notebook, path)
    docs.complete_notebooks(course, processed)
    notebook = nbformat.read(processed / "toy/method.ipynb", as_version=4)
    link = "https://colab.research.google.com/github/xfer-course/xfer_course/blob/main/nbs/toy/method.ipynb"
    assert f"[Open in Colab]({link})" in notebook.cells[1].source
    front = yaml.safe_load(notebook.cells[0].source.strip("-\n"))
    assert (processed / "toy" / front["image"]).is_file() and front["image-alt"] == "a red dot"
    assert "bibliography" not in front
    contents = docs.extended(site_navigation.take_sidebar(processed), ["papers.qmd"])
    assert contents[0]["text"] == "Home" and contents[1]["section"] == "Toy"
    assert contents[-1] == {"section": docs.REFERENCE_SECTION, "contents": ["papers.qmd"]}
    assert yaml.safe_load((processed / "sidebar.yml").read_text("utf-8")) == site_navigation.PLACE


def test_only_pages_that_cite_read_the_bibliography(course):
    processed = course / "_proc"
    shutil.copytree(course / "nbs", processed)
    for path in processed.rglob("*.ipynb"):
        cites = md("As [@ganin2016, section 5] has it." if path.stem == "lab" else "Mail a@b.org, or [@ me].")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell("---\ntitle: Toy\n---"), cites]), path)
    docs.complete_notebooks(course, processed)
    fronts = {path.stem: yaml.safe_load(nbformat.read(path, as_version=4).cells[0].source.strip("-\n"))
              for path in processed.rglob("*.ipynb")}
    assert fronts == {"index": {"title": "Toy"}, "method": {"title": "Toy"},
                      "lab": {"title": "Toy", "bibliography": "../references.bib"}}


@pytest.fixture
def sections(tmp_path) -> list[site_navigation.Section]:
    "A sidebar of three pages, one of them in no section."
    for name, title in (("index", "A promise"), ("toy/first", 'With <code>code</code> and <a href="#x">a link</a>'),
                        ("toy/second", 'Its "end"')):
        page = tmp_path / f"{name}.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f'<title>x</title><h1 class="title d-none">{title}</h1>')
    contents = [{"text": "Home & more", "href": "index.ipynb"},
                {"section": "Toys?", "contents": ["toy/first.ipynb", "toy/second.qmd"]}]
    return site_navigation.read_sections(tmp_path, contents)


def test_the_sidebar_opens_at_the_page_that_is_read(sections):
    shown = BeautifulSoup(site_navigation.sidebar(sections, "toy/second.html"), "html.parser")
    links = [(link["href"], " ".join(link.get_text().split()), "active" in link["class"]) for link in shown.select("a")]
    assert links == [("../index.html", "Home & more", False), ("../toy/first.html", "With code and a link", False),
                     ("../toy/second.html", 'Its "end"', True)]
    assert shown.button["aria-expanded"] == "true"
    assert "show" in shown.select_one(shown.button["data-bs-target"])["class"]
    closed = BeautifulSoup(site_navigation.sidebar(sections, "index.html"), "html.parser")
    assert closed.a["href"] == "./index.html" and closed.button["aria-expanded"] == "false"
    assert "show" not in closed.select_one("ul.sidebar-section")["class"]


def test_neighbours_are_those_of_the_sidebar(sections):
    head, end = site_navigation.neighbours(sections, "toy/first.html")
    assert head == '<link href="../toy/second.html" rel="next">\n<link href="../index.html" rel="prev">\n'
    links = BeautifulSoup(end, "html.parser").select("a")
    assert [(link["href"], link["aria-label"]) for link in links] == [
        ("../index.html", "Home & more"), ("../toy/second.html", 'Its "end"')]
    assert "previous" not in str(BeautifulSoup(site_navigation.neighbours(sections, "index.html")[1], "html.parser").a)
    with pytest.raises(ValueError, match="not in list"):
        site_navigation.neighbours(sections, "toy/forgotten.html")


def test_a_page_without_a_title_is_named(tmp_path):
    (tmp_path / "bare.html").write_text("<h1>Bare</h1>")
    with pytest.raises(ValueError, match="bare.html has no title"):
        site_navigation.read_sections(tmp_path, ["bare.ipynb"])


def test_several_quartos_share_the_pages_and_their_sites_are_joined(tmp_path):
    """A Quarto that only says which pages it was given: every page is rendered once, by the process that has it, and
    the map of the site names them all."""
    quarto, processed = tmp_path / "quarto", tmp_path / "_proc"
    quarto.write_text("""#!/bin/sh
[ ! -e broken ] || exit 3
mkdir _docs && cp styles.css _docs
echo '<urlset>' > _docs/sitemap.xml
echo elsewhere > _docs/index.html
for page in *.ipynb; do
  echo $$ > _docs/${page%.ipynb}.html
  printf '  <url>\\n    <loc>%s</loc>\\n  </url>\\n' $page >> _docs/sitemap.xml
done
echo '</urlset>' >> _docs/sitemap.xml
""")
    quarto.chmod(0o755)
    processed.mkdir()
    for name in ("a.ipynb", "b.ipynb", "c.ipynb", "index.ipynb", "styles.css"):
        (processed / name).write_text(name)
    for processes in (1, 3):
        out = tmp_path / str(processes)
        docs.render(processed, out, str(quarto), processes)
        assert len({(out / f"{name}.html").read_text() for name in ("a", "b", "c", "index")}) == processes
        assert (out / "index.html").read_text() != "elsewhere\n", "what a part without a first page has instead"
        assert (out / "styles.css").is_file()
        named = re.findall(r"<loc>(\w)", (out / "sitemap.xml").read_text())
        assert sorted(named) == list("abci") and (out / "sitemap.xml").read_text().count("urlset>") == 2
    (processed / "broken").touch()
    with pytest.raises(docs.click.ClickException, match="could not render"):
        docs.render(processed, tmp_path / "none", str(quarto), 2)


def test_a_table_without_header_cells_has_them_in_its_first_column():
    table = '<table><tr class="odd">\n<td>level</td>\n<td>middle</td></tr></table>'
    assert site_pages.mended_table(table) == (
        '<table><tr class="odd">\n<th scope="row">level</th>\n<td>middle</td></tr></table>')
    assert site_pages.mended_table(table.replace("td>", "th>")) == table.replace("td>", "th>")
    formula = "<math ><mi>D</mi><mo>=</mo><mn>8</mn><annotation>D=8</annotation></math>"
    assert '<span class="visually-hidden">D = 8</span></th>' in site_pages.mended_table(f"<table><th>{formula}</th>")
    many = "<table><tr><th>" + "<td>1</td>" * 4 + "</tr></table>"
    assert site_pages.mended_table(many) == f'<div class="many" style="--columns: 5">{many}</div>'


@pytest.mark.parametrize("printed, wraps", [
    ("6 layers such as transformer.resblocks.0.attn, 10,374 weights to train", True),
    ("Setting(steps=100, start=&#39;a  photo&#39;)", False),
    ("head alone    0.55\ndeep prompts  0.54", False),
    ("{\n  &quot;epochs&quot;: 3\n}", False),
    ("two\n\nsentences", True),
    ("loss=[" + "0.1, " * 200 + "]", False),
])
def test_what_was_printed_wraps_unless_blanks_put_it_into_columns(printed, wraps):
    page = ('<main id="x">\n<div class="cell-output cell-output-stdout">\n<pre><code>' + printed
            + '</code></pre>\n</div>\n</main>')
    attribute = 'class="sentences"' if wraps else 'tabindex="0"'
    assert f"<pre {attribute}><code>{printed}</code></pre>" in site_pages.mended(page, "toy.html")


def test_style_sheets_lose_what_no_page_uses():
    sheet = ("/* note */ .used, .unused > a { color: red } .unused:hover{x:y} @media (width > 1px) { .unused {a:b} } "
             "a:not(.unused) { b: c } #there .used::before { content: '}' } @font-face { font-family: f } "
             "p, li { e: f }")
    kept = site_weight.pruned(sheet, {"used", "there"})
    assert kept == (".used{ color: red }a:not(.unused){ b: c }#there .used::before{ content: '}' }"
                    "@font-face{ font-family: f }p,li{ e: f }")


def test_search_documents_are_the_sections_of_a_page():
    page = PAGE.replace("</main>", '<pre><code>from a import b\nx = 1</code></pre><h2 id="more">More</h2>λ</main>')
    assert search_documents.documents_of(page, "toy.html") == [
        ["toy.html", "Toy", "Toy", "A toy.", ""],
        ["toy.html#how-it-works", "How it works", "Toy", "See how. what 1", "x = 1"],
        ["toy.html#more", "More", "Toy", "λ", ""]]
    fold = '<details class="code-fold">\n<summary>%s</summary><pre>y = 2</pre></details>'
    folded = PAGE.replace("</main>", fold % f"{site_procs.LIBRARY}: part" + fold % "The loop" + "</main>")
    assert search_documents.documents_of(folded, "toy.html")[1][3:] == ["See how. what 1 The loop", "y = 2 y = 2"]


def test_without_quarto_make_docs_says_where_it_is(monkeypatch):
    monkeypatch.delenv("XFER_QUARTO", raising=False)
    monkeypatch.setenv("PATH", "")
    said = CliRunner().invoke(docs.main)
    assert said.exit_code == 1 and said.output.strip() == f"Error: {docs.NO_QUARTO}"


def test_a_notebook_without_a_place_in_the_sidebar_is_named_before_anything_is_rendered(course, tmp_path):
    write(course, "toy/new", [md("# New\n\n> Forgotten.")])
    with pytest.raises(click.ClickException, match=r"^nbs/toy/new\.ipynb: not in nbs/sidebar\.yml$"):
        docs.build(course, tmp_path / "site", "no Quarto is asked")
    assert not (tmp_path / "site").exists()


def test_citation_and_settings_agree():
    citation, settings = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8")), docs.read_settings(ROOT)
    assert (citation["version"], citation["repository-code"]) == (settings["version"], settings["git_url"])
    assert (ROOT / "nbs/references.bib").read_text("utf-8").count("\n@") + 1 >= 5


def test_quarto_configuration_is_the_one_at_the_top():
    assert (ROOT / "nbs/_quarto.yml").read_text("utf-8") == (ROOT / "_quarto.yml").read_text("utf-8")
    configuration = yaml.safe_load((ROOT / "_quarto.yml").read_text("utf-8"))
    page = configuration["format"]["html"]
    assert page["respect-user-color-scheme"] and page["html-math-method"] == "mathml"
    for name in ("references.bib", page["css"], *configuration["filters"], page["theme"]["light"][1],
                 page["theme"]["dark"][1], configuration["metadata-files"][1], configuration["website"]["image"]):
        assert (ROOT / "nbs" / name).is_file()
    assert "MIT licence" in (ROOT / "nbs/minisearch.js").read_text("utf-8").split("\n")[0]
