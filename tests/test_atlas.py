"""The atlas of papers: the data file, the search, the page's table, the command."""
from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from conftest import ROOT
from xfer_course.atlas import atlas_html, families, papers
from xfer_course.cli import main

ENTRIES = json.loads((ROOT / "data/atlas.json").read_text("utf-8"))["papers"]


def test_every_entry_is_complete():
    assert len(ENTRIES) == len({e["id"] for e in ENTRIES}) == len({e["title"] for e in ENTRIES})
    for entry in ENTRIES:
        assert entry["family"] in families() and entry["title"].strip(), entry["id"]
        assert re.fullmatch(r"[A-Z].*\.", entry["sentence"]) and 5 <= len(entry["sentence"].split()) <= 45, entry["id"]
        assert entry["year"] is None or 1990 < entry["year"] < 2027, entry["id"]
        for link in (entry["link"], entry["code"]):
            assert link is None or link.startswith("https://"), entry["id"]


def test_every_family_has_papers():
    assert {p.family for p in papers()} == set(families())


def test_what_is_built_is_read_from_the_front_matter():
    import importlib

    from xfer_course.registry import papers as building

    built = {p.id: p for p in papers(implemented=True)}
    assert set(built) == {paper for paper, where in building().items() if any(n.module for n in where)}
    assert {"dann", "rotnet", "mrl"} <= set(built) and "dann.DANN" in built["dann"].implemented_by
    for paper in built.values():
        assert (ROOT / "nbs" / f"{paper.chapter}.ipynb").is_file()
        for name in paper.implemented_by:
            module, _, function = name.rpartition(".")
            assert hasattr(importlib.import_module(f"xfer_course.{module}"), function), f"{paper.id}: {name}"


def test_search_combines_its_questions():
    assert [p.id for p in papers("matryoshka", implemented=True)] == ["mrl"]
    assert {p.family for p in papers(family="domain-shift")} == {"domain-shift"}
    assert papers("dann") and all("dann" in f"{p.id}{p.title}{p.sentence}".casefold() for p in papers("dann"))
    assert len(papers()) == len(ENTRIES)


def test_unknown_family_is_one_sentence():
    with pytest.raises(ValueError, match="family must be one of .*domain-shift.*got 'cats'"):
        papers(family="cats")


def test_table_escapes_and_holds_every_paper():
    table = atlas_html(papers())
    assert table.count("<tr data-family=") == len(ENTRIES)
    odd = papers()[0]._replace(title="<b>&", sentence='"<script>"')
    assert ("<b>&</th>" not in atlas_html([odd]) and "&lt;b&gt;&amp;" in atlas_html([odd])
            and "&lt;script&gt;" in atlas_html([odd]))


def test_committed_page_shows_what_the_package_builds():
    "The page's code does not change when a chapter is added, so that its staleness has to be seen here."
    text = (ROOT / "nbs/atlas.ipynb").read_text("utf-8")
    shown = set(re.findall(r'<a href=\\"([\w/]+)\.ipynb\\">', text))
    assert shown == {p.chapter for p in papers(implemented=True)}, "run `python tools/notebooks.py atlas`"


def atlas(*arguments: str):
    return CliRunner().invoke(main, ["atlas", *arguments])


def test_command_shows_few_papers_in_full_and_many_as_a_table():
    few = atlas("matryoshka", "--built")
    assert (few.exit_code == 0 and "mrl.MatryoshkaHead" in few.output
            and "https://arxiv.org/abs/2205.13147" in few.output)
    many = atlas()
    assert many.exit_code == 0 and f"{len(ENTRIES)} of {len(ENTRIES)} papers" in many.output
    assert atlas("--families").output.count("\n") == len(families()) + 2
    assert "0 of" in atlas("no such word").output


def test_command_refuses_an_unknown_family_in_one_sentence():
    done = atlas("--family", "cats")
    assert done.exit_code == 1 and done.output.startswith("xfer: family must be one of")
    assert "Traceback" not in done.output


# ---------------------------------------------------------------- a learner's copy


def start(*arguments: str):
    return CliRunner().invoke(main, ["start", *arguments])


def test_start_copies_a_chapter_without_outputs(tmp_path):
    done = start("dann", "--into", str(tmp_path / "mine"))
    assert done.exit_code == 0, done.output
    copies = sorted(p.name for p in (tmp_path / "mine").iterdir())
    assert copies == sorted(p.name for p in (ROOT / "nbs/dann").glob("*.ipynb"))
    for path in (tmp_path / "mine").iterdir():
        text = path.read_text("utf-8")
        assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])
        assert "nbdev_export()" not in text and "](../" not in text, path
    assert "](moons.ipynb)" in "".join(path.read_text("utf-8") for path in (tmp_path / "mine").iterdir())


def test_start_never_overwrites(tmp_path):
    (tmp_path / "digits.ipynb").write_text("my work")
    done = start("dann", "--into", str(tmp_path))
    assert done.exit_code == 0 and "kept" in done.output
    assert (tmp_path / "digits.ipynb").read_text() == "my work"
    (tmp_path / "moons.ipynb").write_text("more work")
    start("dann", "--into", str(tmp_path))
    assert (tmp_path / "moons.ipynb").read_text() == "more work"


@pytest.mark.parametrize("arguments, sentence", [
    (("cats",), "a target must be a chapter or a notebook"),
    (("dann", "--into", str(ROOT / "nbs/mine")), "inside the course's own notebooks"),
])
def test_start_refuses_in_one_sentence(arguments, sentence):
    done = start(*arguments)
    assert done.exit_code == 1 and sentence in done.output and not (ROOT / "nbs/mine").exists()


def test_a_copied_lab_runs(tmp_path):
    "The copy works in its own folder, and its smoke run emits a record."
    from xfer_course.cli import CourseNotebook, Run, execute

    start("dann/moons", "--into", str(tmp_path))
    copy = CourseNotebook("dann/moons", tmp_path / "moons.ipynb", "Moons", ("profile", "seeds", "device", "out"))
    record = execute(Run(copy, {"profile": "smoke", "seeds": [0, 1]}, tmp_path / "run"), bar=False)
    assert record and record["profile"] == "smoke"
