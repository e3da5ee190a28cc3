"""The site: its plain edition is built whole and read back; and what the build refuses, with the file named."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import check_site  # noqa: E402  (tools/ is on the path now)
import docs  # noqa: E402

from xfer_course.registry import chapters, public_names  # noqa: E402

md, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    "The plain edition of the whole course."
    out = tmp_path_factory.mktemp("site")
    docs.build_plain(ROOT, out)
    return out


def read(site: Path, name: str) -> str:
    return (site / name).read_text("utf-8")


def places(name: str) -> tuple[str, str]:
    "The page of the notebook that builds a public name, and the page of its reference."
    found = next(public for public in public_names(ROOT) if public.name == name)
    return f"{found.notebook.name}.html", f"api/{found.module}.html"


def test_every_page_passes_the_check(site, capsys):
    counts = check_site.count_site(ROOT, site)
    with capsys.disabled():
        print("\n" + check_site.report_of(ROOT, site))
    assert check_site.site_problems(site) == []
    assert counts["images"] == counts["images with alt text"] > 0


def test_sources_pass_the_check():
    assert check_site.source_problems(ROOT) == []


def test_pages_are_those_of_the_sidebar_in_its_order(site):
    names = [name for _, name in docs.sidebar_entries(ROOT)]
    shown = re.findall(r'<li><a href="([^"]+)"',
                       re.search(r'<nav class="pages".*?</nav>', read(site, "index.html"), re.S)[0])
    assert shown[:len(names)] == [name.replace(".ipynb", ".html") for name in names]
    assert all((site / name).is_file() for name in shown)


def test_previous_and_next_walk_through_all_pages(site):
    seen, here = [], "index.html"
    while here:
        seen.append(here)
        found = re.search(r'<a rel="next" href="([^"]+)"', read(site, here))
        here = ((site / here).parent.joinpath(found[1]).resolve().relative_to(site.resolve()).as_posix()
                if found else None)
    assert sorted(seen) == sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))


def test_pages_need_no_network_and_no_server(site):
    for path in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^"]+)"', path.read_text("utf-8"))
        assert not [target for target in fetched if re.match(r"(?:[a-z]+:)?//", target)], path
    assert read(site, "assets/search-index.js").startswith("window.searchIndex = [")


def test_formulas_are_mathml(site):
    page = read(site, places("DANN")[0])
    assert page.count("<math ") > 20
    words = re.sub(r"<(pre|script|code|math)\b.*?</\1>|<[^>]+>", "", page, flags=re.S)
    assert not re.search(r"\$[^$\n]*\\[a-z]+[^$\n]*\$", words), "a formula was left as TeX"


def test_search_index_knows_sections_and_api(site):
    index = json.loads(read(site, "assets/search-index.js").removeprefix("window.searchIndex = ").rstrip(";\n"))
    assert any("0.69" in entry["heading"] for entry in index)
    reference = f"{places('ShallowDANN')[1]}#ShallowDANN"
    assert any(entry["address"] == reference for entry in index)
    for entry in index:
        page, _, anchor = entry["address"].partition("#")
        assert not anchor or f'id="{anchor}"' in read(site, page), entry["address"]


def test_api_pages_hold_every_public_name_and_its_origin(site):
    for public in public_names(ROOT):
        assert f'id="{public.name}"' in read(site, f"api/{public.module}.html"), public.shown
    built, reference = places("DANN")
    assert re.search(rf'href="\.\./{built}#cell-\w+"', read(site, reference)) and "Raises" in read(site, reference)
    assert re.search(r"used in .*dann/moons", read(site, places("ShallowDANN")[1])), (
        "an import from the chapter counts for its module")


def test_papers_page_leads_from_every_source_to_code_test_and_record(site):
    page = read(site, "papers.html")
    row = next(r for r in re.findall(r"<tr>.*?</tr>", page, re.S) if "lambda_schedule" in r)
    assert "5.2.2" in row and f"{places('lambda_schedule')[0]}#cell-" in row and "test_dann_parity.py" in row
    sections = dict(re.findall(r"<h2[^>]*>(.*?)</h2>(.*?)</table>", page, re.S))
    named = {heading: set(re.findall(r"<code>(?:<a[^>]*>)?([\w.]+)", rows)) for heading, rows in sections.items()}
    assert all("basis_loss" not in names for heading, names in named.items() if "Learning to Prompt" in heading)
    for chapter in chapters(ROOT):
        for notebook in chapter.notebooks:
            if (notebook.module
                    and re.search(r"\bSource:", (ROOT / "xfer_course" / f"{notebook.module.replace('.', '/')}.py")
                                  .read_text("utf-8"))):
                assert f'href="{notebook.name}.html#cell-' in page, notebook.name


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


def test_home_page_has_a_card_for_every_chapter(site):
    from bs4 import BeautifulSoup

    cards = BeautifulSoup(read(site, "index.html"), "html.parser").select(".cards .card")
    shown = [card.h3.a["href"] for card in cards]
    assert shown == [f"{chapter.first.name}.html" for chapter in chapters(ROOT) if chapter.papers], (
        "run `python tools/notebooks.py index`")
    for card in cards:
        assert card.img["alt"] and card.img["src"].startswith("images/") and (site / card.img["src"]).is_file()
        assert re.search(r"level: \w", card.get_text()) and re.search(r"labs: (\d+ min|none)", card.get_text())


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


@pytest.mark.parametrize("first, wide",
                         [("a whole sentence, which must not become a column one word wide", True), ("DANN", False)])
def test_a_first_column_of_sentences_keeps_its_width(first, wide):
    soup = BeautifulSoup(f"<table><tr><td>{first}</td><td>0.5</td></tr></table>", "html.parser")
    docs.mend_table(soup.table, soup)
    assert ("sentences" in soup.table.get("class", [])) == wide


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


def test_a_course_in_order_has_no_problem(course, tmp_path):
    assert check_site.source_problems(course) == []
    assert docs.build_plain(course, tmp_path / "out") == 3
    assert check_site.site_problems(tmp_path / "out") == []
    assert 'href="toy/method.html#how-it-works"' in read(tmp_path / "out", "index.html"), (
        "JupyterLab's anchors become the page's")


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


BREAK_PAGE = {
    "link": ("See", "See [nothing](nowhere.md).", "dead link 'nowhere.md'"),
    "anchor": ("#How-it-works", "#no-such-place", "there is no such place on that page"),
    "image": ("See", '<img src="lost.png" alt="lost"> See', "dead link 'lost.png'"),
    "alt": ("See", '<img src="index.html"> See', "image without alt text"),
    "directive": ("See", "```\n#| export\n```\n\nSee", "raw directive"),
    "traceback": ("See", "Traceback (most recent call last)\n\nSee", "raw directive or traceback"),
    "heading": ("See", "#### Deep\n\nSee", "a heading of level 4 follows one of level 1"),
    "outside": ("See", "[out](../../../secret.html) See", "leaves the site"),
}


@pytest.mark.parametrize("name", BREAK_PAGE)
def test_what_is_broken_on_a_page_is_named_with_the_page(course, tmp_path, name):
    old, new, sentence = BREAK_PAGE[name]
    change(course, "index", 0, old, new)
    docs.build_plain(course, tmp_path / "out")
    problems = check_site.site_problems(tmp_path / "out")
    assert any(p.startswith("index.html: ") and sentence in p for p in problems), problems


def test_hidden_cells_and_directives_are_honoured(course, tmp_path):
    said = nbformat.v4.new_output("stream", name="stdout", text="printed")
    cells = {"#| hide\nsecret = 1": None, "#| include: false\nsecret = 1": None, "#| echo: false\nquiet = 1": said,
             "#| output: false\nloud = 1": said,
             "#| export\ndef shown(): ...": None,
             "show_doc(shown)": nbformat.v4.new_output("display_data", {"text/markdown": "the signature"})}
    made = []
    for source, output in cells.items():
        made.append(code(source))
        made[-1].outputs = [output] if output else []
    write(course, "index", [md("# Home\n\n> Here."), *made])
    docs.build_plain(course, tmp_path / "out")
    page = visible_text(read(tmp_path / "out", "index.html"))
    assert "secret" not in page and "quiet" not in page and "#|" not in page and "show_doc" not in page
    assert page.count("printed") == 1 and "loud = 1" in page and "def shown" in page and "the signature" in page


def visible_text(page: str) -> str:
    from bs4 import BeautifulSoup

    return BeautifulSoup(page, "html.parser").main.get_text()


def test_links_to_files_of_the_repository_lead_there(course, tmp_path):
    (course / "README.md").write_text("hello")
    change(course, "index", 0, "See", "[read me](../README.md) See")
    docs.build_plain(course, tmp_path / "out")
    assert "/blob/main/README.md" in read(tmp_path / "out", "index.html")


def test_a_formula_that_cannot_be_converted_is_named_with_its_file(course, tmp_path):
    change(course, "index", 0, "See", r"$\left( x$ See")
    with pytest.raises(RuntimeError, match=r"nbs/index\.ipynb: the formula .*left"):
        docs.build_plain(course, tmp_path / "out")


def test_quarto_gets_what_the_plain_edition_has(course, tmp_path):
    """Colab links, a preview picture and the page from the papers to the code are added to what
    nbdev prepared for Quarto."""
    processed = tmp_path / "_proc"
    shutil.copytree(course / "nbs", processed)
    for path in processed.rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_raw_cell("---\ntitle: Toy\n---"))
        nbformat.write(notebook, path)
    built = places("lambda_schedule")[0].removesuffix(".html")
    shutil.copytree(ROOT / "xfer_course", course / "xfer_course", dirs_exist_ok=True)
    (course / "nbs/dann").mkdir()
    shutil.copy(ROOT / f"nbs/{built}.ipynb", course / "nbs/dann")
    docs.complete_quarto_sources(course, processed)
    notebook = nbformat.read(processed / "toy/method.ipynb", as_version=4)
    link = "https://colab.research.google.com/github/xfer-course/xfer_course/blob/main/nbs/toy/method.ipynb"
    assert f"[Open in Colab]({link})" in notebook.cells[1].source
    front = yaml.safe_load(notebook.cells[0].source.strip("-\n"))
    assert (processed / "toy" / front["image"]).is_file()
    papers = (processed / "papers.qmd").read_text("utf-8")
    assert f'href="{built}.html#lambda_schedule"' in papers and "api/" not in papers and "#cell-" not in papers
    assert (yaml.safe_load((processed / "sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"][-1]
            == "papers.qmd")


def test_citation_and_settings_agree():
    citation, settings = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8")), docs.read_settings(ROOT)
    assert (citation["version"], citation["repository-code"]) == (settings["version"], settings["git_url"])
    assert (ROOT / "nbs/references.bib").read_text("utf-8").count("\n@") + 1 >= 5


def test_quarto_configuration_is_the_one_at_the_top():
    assert (ROOT / "nbs/_quarto.yml").read_text("utf-8") == (ROOT / "_quarto.yml").read_text("utf-8")
    configuration = yaml.safe_load((ROOT / "_quarto.yml").read_text("utf-8"))
    assert (configuration["website"]["search"] is True
            and set(configuration["format"]["html"]["theme"]) == {"light", "dark"})
    for name in (configuration["bibliography"], configuration["format"]["html"]["css"],
                 configuration["metadata-files"][1]):
        assert (ROOT / "nbs" / name).is_file()


@pytest.mark.benchmark
def test_plain_edition_builds_within_a_minute(tmp_path):
    started = time.perf_counter()
    pages = docs.build_plain(ROOT, tmp_path / "out")
    seconds = time.perf_counter() - started
    print(f"\n{pages} pages in {seconds:.1f} s")
    assert seconds < 60
