"""What only a browser can tell: the site's search, theme switch and filter, its accessibility,
and a chapter in JupyterLab.

Needs Playwright (`pip install playwright`; no browser download) and a Chromium of the system, or one that CHROMIUM
names. The check of accessibility is axe-core's, which comes with axe-playwright-python; AXE names another `axe.min.js`
(`npm pack axe-core`). XFER_SITE names a site that has been built already; without it Quarto renders one.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import lru_cache, partial
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
AXE_PACKAGE = importlib.util.find_spec("axe_playwright_python")
AXE = Path(os.environ.get("AXE") or Path(AXE_PACKAGE.origin if AXE_PACKAGE else "absent").with_name("axe.min.js"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install the package `chromium`, or set CHROMIUM")]
PATIENCE = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()
    assert problems == [], "an error in a script of the page"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@lru_cache(maxsize=1)
def served(site: Path) -> str:
    "Where a thread of this process serves the site: browsers load no script modules from files."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    server.handle_error = lambda *of: None  # a browser that leaves a page while it loads is no error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def visit(page, site: Path, name: str) -> None:
    page.goto(f"{served(site)}/{name}")


# One page of each kind, told by what only its HTML holds.
TEMPLATES = {
    "start": 'class="cards"',
    "lesson": 'class="flipbook"',
    "lab": ">verdict<",
    "library": 'class="from"',
    "atlas": 'class="atlas-filter"',
    "formulas": "<math",
    "formulas in a head": '<th><span aria-hidden="true"><math',
    "folded": 'class="code-fold"',
}


def page_with(site: Path, word: str) -> str:
    "The first page in the order of names whose HTML holds the word."
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    found = next((name for name in pages if word in (site / name).read_text("utf-8")), None)
    assert found is not None, f"no page holds {word!r}"
    return found


def templates(site: Path) -> list[str]:
    return sorted({page_with(site, word) for word in TEMPLATES.values()})


def every_page(site: Path) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def hits(page, words: str) -> list[str]:
    "The first lines of what the search finds, best first."
    page.fill("#query", words)
    page.wait_for_function("document.getElementById('hit-count').textContent !== ''")
    page.wait_for_timeout(100)
    return [text.split("\n")[0] for text in page.locator("#hits a").all_inner_texts()]


def test_search_finds_a_section_and_leads_there(page, site):
    visit(page, site, "index.html")
    page.keyboard.press("/")
    page.keyboard.type("gradient reversal", delay=5)
    page.wait_for_selector("#hits a")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#hits') !== null"), "the arrow key reaches the results"
    page.keyboard.press("Enter")
    page.wait_for_url("**/*.html*")
    assert "reversal" in page.inner_text("main").lower()


def test_search_takes_words_in_any_order_with_slips_and_symbols(page, site):
    visit(page, site, "index.html")
    page.focus("#query")
    assert any("CLIP" in hit or "CoOp" in hit for hit in hits(page, "fine-tune clip few shot"))
    assert any("lambda" in hit for hit in hits(page, "lamda")), "a letter may be missing"
    assert hits(page, "lambda_schedule")[0].startswith("lambda_schedule")
    assert hits(page, "ShallowDANN")[0].startswith("ShallowDANN")
    assert hits(page, "λ")


def test_search_works_from_a_sub_folder_and_says_when_there_is_nothing(page, site):
    visit(page, site, page_with(site, 'class="flipbook"'))
    page.fill("#query", "MatryoshkaHead")
    page.wait_for_selector("#hits a")
    assert "../" in page.get_attribute("#hits a", "href")
    page.fill("#query", "zzzzqqqq")
    page.wait_for_function("document.getElementById('hit-count').textContent.startsWith('No')")
    assert page.is_hidden("#hits")
    page.fill("#query", "prompt")
    page.wait_for_selector("#hits a")
    page.keyboard.press("Escape")
    assert page.is_hidden("#hits") and page.evaluate("document.activeElement.id") == "query"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_results_of_the_search_are_accessible(page, site, theme):
    page.emulate_media(color_scheme=theme)
    visit(page, site, "index.html")
    assert hits(page, "prompt")
    assert violations(page, ["color-contrast", "list", "label"]) == []


def test_nothing_is_asked_of_another_host(page, site):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in templates(site):
        visit(page, site, name)
    page.fill("#query", "prompt")
    page.wait_for_selector("#hits a")
    assert [url for url in asked if not url.startswith((served(site), "data:"))] == []
    assert any(url.endswith("/minisearch.js") for url in asked)


def test_theme_follows_the_system_until_the_switch_is_used(page, site):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    visit(page, site, "index.html")
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    visit(page, site, "index.html")
    light = page.evaluate(ground)
    assert light != dark
    page.click(".quarto-color-scheme-toggle")
    assert page.evaluate(ground) == dark
    visit(page, site, page_with(site, 'class="flipbook"'))
    assert page.evaluate(ground) == dark, "the choice is remembered"


def test_atlas_filter(page, site):
    visit(page, site, "atlas.html")
    shown = "document.querySelectorAll('table.atlas tbody tr:not([hidden])').length"
    everything = page.evaluate(shown)
    assert everything > 200
    page.fill("#atlas-word", "matryoshka")
    few = page.evaluate(shown)
    assert 0 < few < 10 and page.inner_text("#atlas-count") == f"{few} of {everything} papers"
    page.fill("#atlas-word", "")
    page.select_option("#atlas-state", "built")
    built = json.loads((ROOT / "data/built.json").read_text("utf-8"))
    assert page.evaluate(shown) == len(built) < everything
    page.select_option("#atlas-chapter", "mrl")
    assert 0 < page.evaluate(shown) < 10
    page.select_option("#atlas-family", "graphs-and-relational")
    assert page.evaluate(shown) == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_slider_without_kernel_turns_the_pages(page, site, theme):
    page.emulate_media(color_scheme=theme)
    visit(page, site, page_with(site, 'class="flipbook"'))
    book = page.locator(".flipbook").first
    slider, picture, word = book.locator("input"), book.locator("img"), book.locator("span")
    slider.focus()
    page.keyboard.press("Home")
    first = word.inner_text()
    assert slider.is_visible() and first
    before, described = picture.get_attribute("src"), picture.get_attribute("alt")
    page.keyboard.press("ArrowRight")
    second = word.inner_text()
    assert second != first and slider.get_attribute("aria-valuetext").startswith(f"{second}: ")
    assert picture.get_attribute("src") != before and picture.get_attribute("alt") != described
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("(i) => i.complete && i.naturalWidth > 100", arg=picture.element_handle())


def test_slider_without_scripts_is_its_first_picture(browser, site):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    visit(opened, site, page_with(site, 'class="flipbook"'))
    book = opened.locator(".flipbook").first
    assert book.locator("img").is_visible() and not book.locator("input").is_visible()
    context.close()


whole_site = pytest.param(every_page, marks=pytest.mark.full, id="every page")
one_of_each_kind = pytest.param(templates, id="one of each kind")


@pytest.mark.parametrize("pages", [one_of_each_kind, whole_site])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(page, site, width, pages):
    page.set_viewport_size({"width": width, "height": 800})
    cut = []
    for name in pages(site):
        visit(page, site, name)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            cut.append(name)
    assert cut == []


def test_code_wraps_on_a_phone(page, site):
    page.set_viewport_size({"width": 390, "height": 800})
    cut = ("[...document.querySelectorAll('main pre')].filter((p) => !p.parentElement.matches('.cell-output')"
           " && p.scrollWidth > p.clientWidth + 1).length")
    for name in [*templates(site), "practice/cli_adapt.html"]:  # in its text a command of a terminal
        visit(page, site, name)
        assert page.evaluate(cut) == 0, name


def test_folded_code_opens_by_keyboard_and_by_a_link_to_its_cell(page, site):
    name = page_with(site, 'class="code-fold"')
    visit(page, site, name)
    fold = page.locator("main details.code-fold").first
    code = fold.locator("pre.sourceCode")
    assert not code.is_visible()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.is_visible()
    page.keyboard.press("Enter")
    assert not code.is_visible()
    visit(page, site, f"{name}#{fold.locator('..').get_attribute('id')}")
    page.wait_for_function("document.querySelector('main details.code-fold').open")


def test_code_of_a_lesson_fits_beside_the_list_of_pages(page, site):
    "88 characters, the width that tests/test_lessons.py asks of a line, stand without a break at 1280 px."
    visit(page, site, page_with(site, 'class="flipbook"'))
    needed, room = page.evaluate("""() => {
        const code = document.querySelector("main pre.sourceCode > code"), pre = code.parentElement;
        const pen = document.createElement("canvas").getContext("2d"), style = getComputedStyle(pre);
        pen.font = getComputedStyle(code).font;
        const inside = pre.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
        return [pen.measureText("x".repeat(88)).width, inside];
    }""")
    assert 0 < needed <= room


def test_the_button_that_copies_covers_no_code(page, site):
    page.set_viewport_size({"width": 390, "height": 800})
    visit(page, site, page_with(site, 'class="flipbook"'))
    covered = """() => [...document.querySelectorAll(".code-copy-outer-scaffold")].filter((outer) => {
        const button = outer.querySelector(".code-copy-button").getBoundingClientRect();
        const words = document.createRange();
        words.selectNodeContents(outer.querySelector("code"));
        return button.width && [...words.getClientRects()].some((line) =>
            line.right > button.left + 2 && line.top < button.bottom - 2 && line.bottom > button.top + 2);
    }).length"""
    assert page.locator(".code-copy-outer-scaffold").count() > 0 and page.evaluate(covered) == 0


CUT = "[...document.querySelectorAll('.table-responsive')].filter((t) => t.scrollWidth > t.clientWidth + 1).length"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_atlas_hides_no_column(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    visit(page, site, "atlas.html")
    assert page.locator("table.atlas tbody tr").first.locator("td:visible").count() == 3
    assert page.evaluate(CUT) == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_results_hide_no_column_and_break_no_verdict(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    visit(page, site, "results.html")
    assert page.evaluate(CUT) == 0
    verdicts = page.locator("#all-claims-chapter-by-chapter tbody td:first-child")
    broken = """(cells) => cells.filter((cell) => !cell.textContent.includes("(")).map((cell) => {
        const words = document.createRange();
        words.selectNodeContents(cell);
        return words.getClientRects().length;
    })"""
    assert set(verdicts.evaluate_all(broken)) == {1}


def test_claims_can_be_narrowed_to_a_chapter_a_verdict_and_headlines(page, site):
    visit(page, site, "results.html")
    place = page.locator("#all-claims-chapter-by-chapter")
    rows, number = place.locator("tbody tr"), place.locator("[role=status]")
    everything = rows.count()
    assert number.inner_text() == f"{everything} of {everything} claims"
    verdict, chapter = page.get_by_label("Verdict"), page.get_by_label("Chapter")
    verdict.select_option(label="≈\N{NO-BREAK SPACE}partly")
    partly = place.locator("tbody tr:visible")
    assert 0 < partly.count() < everything and all("≈" in text for text in partly.all_inner_texts())
    chosen = place.locator("h3:visible").nth(1).inner_text()
    chapter.select_option(label=chosen)
    assert place.locator("h3:visible").all_inner_texts() == [chosen]
    verdict.select_option(label="all")
    page.get_by_label("headline claims only").check()
    shown = place.locator("tbody tr:visible")
    assert shown.count() == shown.locator("td:nth-child(2) strong").count() > 0
    assert number.inner_text() == f"{shown.count()} of {everything} claims"
    chapter.select_option(label="all")
    page.get_by_label("headline claims only").uncheck()
    assert rows.count() == place.locator("tbody tr:visible").count() == everything


@pytest.mark.parametrize("width", [390, 1280])
def test_sections_of_the_sidebar_open_by_keyboard(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    visit(page, site, "index.html")
    if width == 390:
        page.click("text=All pages")
    section = page.locator("#quarto-sidebar button:has-text('MRL')")
    inside = page.locator("#quarto-sidebar a:has-text('Matryoshka representations')")
    assert section.get_attribute("aria-expanded") == "false" and not inside.is_visible()
    section.focus()
    page.keyboard.press("Enter")
    assert section.get_attribute("aria-expanded") == "true" and inside.is_visible()
    cut = "(a) => a.getBoundingClientRect().right > innerWidth"
    assert not page.locator("#quarto-sidebar a.sidebar-link:visible").evaluate_all(f"(all) => all.some({cut})")


def violations(page, only: list[str] | None = None) -> list[str]:
    "What axe-core finds on the page that is open."
    rules = {"resultTypes": ["violations"], **({"runOnly": only} if only else {})}
    page.evaluate("document.querySelectorAll('main details').forEach((d) => { d.open = true })")
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("(rules) => axe.run(document, rules)", rules)["violations"]
    return [f"{v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:160]}" for v in found]


@pytest.mark.skipif(
    not AXE.is_file(), reason="axe-core is not here: pip install axe-playwright-python, or set AXE to its axe.min.js"
)
@pytest.mark.parametrize("pages", [one_of_each_kind, whole_site])
@pytest.mark.parametrize("theme, width", [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_accessibility(page, site, theme, width, pages, capsys):
    "The pages pass every rule in the light theme; the dark theme differs from it in its colours alone."
    found, checked = [], 0
    for name in pages(site):
        opened = page.context.new_page()  # closed again: one page for all would grow to more than a GiB
        opened.set_viewport_size({"width": width, "height": 800})
        opened.emulate_media(color_scheme=theme)
        visit(opened, site, name)
        found += [f"{name}: {words}" for words in violations(opened, ["color-contrast"] if theme == "dark" else None)]
        opened.close()
        checked += 1
    with capsys.disabled():
        print(f"\naxe, {theme}, {width} px: {len(found)} violations on {checked} pages")
    assert found == []


# ---------------------------------------------------------------- JupyterLab


PAGES = """import matplotlib.pyplot as plt
from xfer_course.evaluation import flipbook
figures = {}
for n in (1, 2, 3):
    figures[n], axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, n])
flipbook(figures, [f"A line that rises to {n}." for n in figures], "height", start=2)"""


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "JupyterLab on a copy of a chapter; yields its address."
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    home, work = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "nbs/dann", work / "nbs/dann")
    moons = work / "nbs/dann/moons.ipynb"  # in the size that takes seconds
    moons.write_text(moons.read_text("utf-8").replace('profile = \\"cpu\\"', 'profile = \\"smoke\\"'), "utf-8")
    assert "smoke" in moons.read_text("utf-8")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(metadata=metadata, cells=[nbformat.v4.new_code_cell(PAGES)]), work / "pages.ipynb"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {
        name: str(home / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_DATA_DIR")
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={work}",
    ]
    server = subprocess.Popen(
        command, env={**os.environ, **folders}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: read(f"{address}/api/status"), "JupyterLab to start")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def read(address: str):
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def wait_for(condition, what: str, seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def idle(address: str, notebook: str) -> bool:
    kernels = [session["kernel"] for session in read(f"{address}/api/sessions") or () if session["path"] == notebook]
    return bool(kernels) and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"] > 0


def run_all_cells(page, jupyter: str, notebook: str) -> None:
    page.goto(f"{jupyter}/lab/tree/{notebook}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=2 * PATIENCE)
    wait_for(lambda: idle(jupyter, notebook), "the kernel")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_timeout(2000)
    wait_for(lambda: idle(jupyter, notebook), "all cells to run", 600)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0


@pytest.mark.full
def test_jupyterlab_runs_moons_and_its_slider_changes_the_picture(page, jupyter):
    run_all_cells(page, jupyter, "nbs/dann/moons.ipynb")
    slider = page.locator(".widget-slider, .jupyter-widgets.widget-hslider").first
    slider.scroll_into_view_if_needed()
    picture = page.locator("img.widget-image").first
    before = picture.get_attribute("src")
    slider.locator("[role=slider], .noUi-handle").first.focus()
    started = time.perf_counter()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(old) => document.querySelector('img.widget-image').src !== old", arg=before)
    print(f"the picture changed after {1000 * (time.perf_counter() - started):.0f} ms")


@pytest.mark.full
def test_jupyterlab_leaves_the_keys_to_a_slider_without_kernel(page, jupyter):
    run_all_cells(page, jupyter, "pages.ipynb")
    book = page.locator(".flipbook")
    slider, word = book.locator("input"), book.locator("span")
    assert word.inner_text() == "2" and book.locator("small").count() == 0
    slider.click()
    for key, label in (("Home", "1"), ("ArrowRight", "2"), ("ArrowRight", "3"), ("ArrowLeft", "2")):
        page.keyboard.press(key)
        assert word.inner_text() == label, f"after {key}"
    assert book.locator("img").get_attribute("alt") == "A line that rises to 2." and slider.is_visible()
