"""What a lesson owes its reader: a figure soon, an exercise early, and the method before the code that only a library
needs."""

from __future__ import annotations

import re
import statistics
import sys

import pytest

from house import LABS, LESSONS, NAMES, NOTEBOOKS, ROOT, code_cells, read
from solutions import solution_code, solved

sys.path.insert(0, str(ROOT / "tools"))
from check_site import exercises  # noqa: E402

# Guides that are read from top to bottom, as lessons on a paper are; the others say what a part of the library does.
READ_THROUGH = {"adaptation/corruptions", "merging/files", "merging/states", "own_images", "peft/files",
                "peft/injection", "peft/tokens", "peft/updates", "peft/which_method", "practice/examples",
                "start/fine_tuning", "upgrades/gallery", "upgrades/measures"}
TAUGHT = [path for path in NOTEBOOKS
          if read(path).metadata.get("xfer", {}).get("kind") == "paper" or NAMES[path] in READ_THROUGH]
every_lesson = pytest.mark.parametrize("path", TAUGHT, ids=NAMES.get)

# Code of a lesson stays within what a page of the site shows without a break. These are wider; the list may only
# shrink. What is exported has the width of the library, and the site wraps it.
SITE_WIDTH = 88
WIDER = {f"{chapter}/{name}".lstrip("/") for chapter, names in {
    "adaptation": "alpha_bn cafa core corruptions latent_label_shift",
    "": "atlas cli cluster own_images",
    "coop": "clip configs context_file coop encoding nearest pretraining tokenizer towers training weights "
        "zero_shot",
    "dann": "alignment dann networks selection shallow text",
    "foundations": "archives batching built captions catalogue checkpoints checks claims commands copies decoding "
        "devices domains engine environment figures files fingerprints finish folders freshness generated history "
        "intervals labels lazy loading machine measures normal_form pictures provenance rates records registry reviews "
        "run_pages running runs same_run scenes several_domains shapes signs tables training validation",
    "mrl": "cascade codes fused index metrics mrl search sizes storage",
    "practice": "adapt adapt_page backbones cli_labels cli_search collection copies embed_page examples held_out "
        "kept linear merge_page probe probe_page prompts prompts_page report",
    "rotation": "probes rotation",
    "start": "fine_tuning",
    "upgrades": "bt2 gallery measures oca stationary",
}.items() for name in names.split()}

# A screen holds some 30 lines of text or code, a figure about half of one.
SCREEN_LINES = 30
HIDDEN = re.compile(r"^#\|\s*(hide\b|code-fold:\s*true|echo:\s*false)", re.M)


def is_hidden(cell) -> bool:
    "Whether a reader sees the cell's code only after a click, or never."
    return cell.cell_type == "code" and (bool(HIDDEN.search(cell.source)) or (
        is_exported(cell) and cell.metadata.get("jupyter", {}).get("source_hidden", False)))


def is_exported(cell) -> bool:
    return bool(re.search(r"^#\|\s*exports?\b", cell.source, re.M))


def code_lines(cell) -> int:
    return sum(bool(line.strip()) and not line.startswith("#|") for line in cell.source.splitlines())


def has_picture(cell) -> bool:
    return any("image/png" in output.get("data", {}) or '<div class="flipbook">' in "".join(
        output.get("data", {}).get("text/html", "")) for output in cell.get("outputs", []))


def lines_above(cells) -> int:
    "Lines that a reader scrolls past: prose of 110 characters a line, and code that is not folded."
    return sum(code_lines(cell) if cell.cell_type == "code" and not is_hidden(cell)
               else sum(1 + len(line) // 110 for line in cell.source.splitlines()) if cell.cell_type == "markdown"
               else 0 for cell in cells)


@every_lesson
def test_first_figure_within_two_screens(path):
    cells = read(path).cells
    first = next((number for number, cell in enumerate(cells) if has_picture(cell)), None)
    assert first is not None, "no figure"
    assert lines_above(cells[:first]) <= 2 * SCREEN_LINES


@every_lesson
def test_first_exercise_within_the_first_third(path):
    cells = read(path).cells
    first = next((number for number, cell in enumerate(cells) if cell.cell_type == "markdown"
                  and re.search(r"^### Try it:", cell.source, re.M)), None)
    assert first is not None, "no exercise after an idea (### Try it: ...)"
    assert lines_above(cells[:first + 1]) <= lines_above(cells) / 3


@every_lesson
def test_what_is_exported_is_at_most_half_of_the_code_in_sight(path):
    shown = [cell for cell in read(path).cells if cell.cell_type == "code" and not is_hidden(cell)]
    exported = sum(code_lines(cell) for cell in shown if is_exported(cell))
    assert exported <= sum(map(code_lines, shown)) / 2


@every_lesson
def test_cells_in_sight_are_short(path):
    shown = [code_lines(cell) for cell in read(path).cells if cell.cell_type == "code" and not is_hidden(cell)]
    assert statistics.median(shown) <= 6


@pytest.mark.parametrize("path", LESSONS, ids=NAMES.get)
def test_code_in_sight_fits_beside_the_text(path):
    wide = [line for cell in code_cells(path) if not is_hidden(cell) and not is_exported(cell)
            for line in cell.source.splitlines() if len(line) > SITE_WIDTH]
    if NAMES[path] in WIDER:
        assert wide, "no line is too wide now: take the name from WIDER"
    else:
        assert wide == []


def test_only_lessons_that_are_there_are_excepted():
    assert WIDER <= {NAMES[path] for path in LESSONS}


@pytest.mark.parametrize("path", LABS, ids=NAMES.get)
def test_a_lab_has_two_exercises(path):
    assert len(exercises(read(path))) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES.get)
def test_what_the_site_folds_is_folded_in_jupyterlab(path):
    "By a directive of Quarto's, or, where nbdev would copy that into the module, by JupyterLab's mark alone."
    for cell in code_cells(path):
        if is_exported(cell):
            assert not HIDDEN.search(cell.source), f"an exported cell is folded by metadata alone:\n{cell.source}"
        else:
            folded = bool(HIDDEN.search(cell.source))
            assert cell.metadata.get("jupyter", {}).get("source_hidden", False) is folded, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES.get)
def test_a_folded_cell_begins_with_what_it_is(path):
    "JupyterLab shows the first line of a folded cell: a summary, where there is one, and no other directive."
    for cell in code_cells(path):
        summaries = [line for line in cell.source.splitlines() if line.startswith("#| code-summary:")]
        assert summaries in ([], [cell.source.splitlines()[0]]), f"put the summary first:\n{cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES.get)
def test_a_check_does_not_show_its_answer(path):
    for cell in read(path).cells:
        if (cell.cell_type == "code" and "#| export" not in cell.source
                and re.search(r"^def check_\w+\(", cell.source, re.M)):
            assert is_hidden(cell), f"fold this cell (#| code-fold: true):\n{cell.source}"
            assert "@exercise(" in cell.source, f"a check needs @exercise(...):\n{cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES.get)
def test_a_check_has_a_solution_that_can_be_run(path):
    "It gives a value to the name that the check is called with; lessons and labs are executed with it."
    for exercise in solved(read(path).cells):
        assert exercise.solution, f"no code after {exercise.call}: begin the solution with `answer` in backticks"


@pytest.mark.parametrize("text, code", [
    ("\n\n`3`, since", "a = 3"), ("\n`a = (1, 2)`: so", "a = (1, 2)"), ("\nThree: `3`", ""), ("\n`an answer`", ""),
    ("\n```python\nb = 1\n```\n```python\na = b\n```\n```python\nshow(a)\n```", "b = 1\n\na = b\n"),
    ("\n`a = 1`\n```python\nprint(2)\n```", "a = 1"),
])
def test_solutions_are_read_as_code(text, code):
    assert solution_code(text, "a") == code
