"""Claims, records and the tables made of them."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from conftest import ROOT
from xfer_course.results import (
    Claim, Claims, Record, choose_profile, claim_rows, finish, load_records, markdown_table, partial_folder, results_markdown,
    resolve_device, run_grid, with_results, README_MARKS,
)


def a_record(**changes) -> Record:
    claims = (Claim("method beats baseline", (0.10, 0.12, 0.11), at_least=0.0, paper=0.2, expected="reproduced"),)
    values = dict(lab="dann/example", profile="cpu", seeds=(0, 1, 2), setting={"steps": 20}, metrics={"gain": [0.10, 0.12, 0.11]},
                  claims=claims, code="0" * 16, device="example", seconds=1.5, peak_memory_bytes=2**20,
                  speed_probe_seconds=0.01, versions={"torch": "2.0"}, date="2026-01-01")
    return Record(**{**values, **changes})


def square(seed):
    return {"value": seed**2, "array": np.full(3, seed)}


def fails_once(seed, folder):
    from pathlib import Path
    mark = Path(folder) / f"ran-{seed}"
    if seed == 2 and not mark.exists():
        mark.touch()
        raise RuntimeError("interrupted")
    (Path(folder) / f"count-{seed}").open("a").write("x")
    return {"value": seed}


def test_interval_is_students_t():
    values = (0.10, 0.12, 0.17)
    low, high = Claim("c", values, at_least=0).interval
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected)


@pytest.mark.parametrize("measured, bound, verdict", [
    ((0.1, 0.11, 0.12), dict(at_least=0.0), "reproduced"),
    ((0.1, -0.05, 0.02), dict(at_least=0.0), "partly"),
    ((-0.1, -0.05, 0.02), dict(at_least=0.0), "not reproduced here"),
    ((0.1, 0.11, 0.12), dict(at_most=0.2), "reproduced"),
    ((0.1, 0.11, 0.12), dict(at_most=0.1), "not reproduced here"),
    ((0.1,), dict(at_least=0.0), "partly"),
    ((-0.1,), dict(at_least=0.0), "not reproduced here"),
])
def test_verdict(measured, bound, verdict):
    assert Claim("c", measured, **bound).verdict == verdict


def test_run_grid_keeps_order_and_loads_what_is_finished(tmp_path):
    grid = [dict(seed=seed) for seed in (3, 1, 2)]
    first = run_grid(square, grid, cache=tmp_path)
    assert [r["value"] for r in first] == [9, 1, 4]
    again = run_grid(square, grid, cache=tmp_path)
    assert [r["seconds"] for r in again] == [r["seconds"] for r in first]
    assert np.array_equal(again[0]["array"], [3, 3, 3])


def test_a_damaged_point_of_a_grid_runs_again(tmp_path):
    run_grid(square, [dict(seed=3)], cache=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    for damaged in (b"", b"oops", file.read_bytes()[:-30]):
        file.write_bytes(damaged)
        assert run_grid(square, [dict(seed=3)], cache=tmp_path)[0]["value"] == 9


def test_an_interrupted_grid_goes_on_where_it_stopped(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    grid = [dict(seed=seed, folder=str(marks)) for seed in (0, 1, 2)]
    with pytest.raises(RuntimeError):
        run_grid(fails_once, grid, cache=tmp_path / "cache")
    kept = len(list((tmp_path / "cache").glob("*.npz")))
    assert [r["value"] for r in run_grid(fails_once, grid, cache=tmp_path / "cache")] == [0, 1, 2]
    ran = sum(len((marks / f"count-{seed}").read_text()) for seed in (0, 1, 2))
    assert ran <= 3 + (2 - kept), "points that were kept must not run again"


def test_record_survives_the_file(tmp_path):
    record = a_record()
    path = record.save(tmp_path)
    assert path.name == "dann-example-cpu.json"
    assert load_records(tmp_path) == [record]
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file is left"


@pytest.mark.parametrize("edit", [
    lambda content: content["claims"][0].update(verdict="partly"),
    lambda content: content["claims"][0].update(mean=0.5),
    lambda content: content["claims"][0].update(measured=[0.9, 0.9, 0.9]),
    lambda content: content.pop("seeds"),
])
def test_hand_edited_record_is_refused(tmp_path, edit):
    path = a_record().save(tmp_path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="dann-example-cpu.json"):
        load_records(tmp_path)


def test_of_several_processes_the_first_writes_the_record(tmp_path, monkeypatch):
    claims = [Claim("c", (1.0,), at_least=0.0)]
    for rank, written in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        finish("dann/moons", profile="smoke", seeds=[0], setting=a_record(), metrics={"m": [1.0]}, claims=claims, started=0.0, out=tmp_path)
        assert len(list(tmp_path.iterdir())) == written


def test_surprises_in_both_directions():
    declared = Claim("c", (0.1, 0.11), at_least=0.0, expected="not reproduced here", reason="unknown")
    assert len(a_record(claims=(declared,)).surprises()) == 1
    assert a_record().surprises() == []
    missed = Claim("c", (-0.1, -0.11), at_least=0.0, expected="reproduced")
    assert len(a_record(claims=(missed,)).surprises()) == 1
    assert a_record(claims=(missed,), profile="smoke").surprises() == []


def test_readme_results_are_the_records():
    text = (ROOT / "README.md").read_text()
    assert with_results(text, load_records()) == text, "stale: run `make readme`"


def test_a_number_edited_in_the_readme_is_noticed():
    text = with_results("\n".join(README_MARKS), [a_record()])
    assert "0.110" in text
    assert with_results(text.replace("0.110", "0.990"), [a_record()]) == text


def test_table_escapes_and_aligns():
    table = markdown_table(claim_rows(a_record(claims=(Claim("a | b", (1.0, 1.0), at_least=0.5),))))
    assert r"a \| b" in table and len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1
    assert "No run" in results_markdown([])
    folded = results_markdown([a_record()], folded=True)
    assert folded.startswith("<details><summary><b>") and markdown_table(claim_rows(a_record())) in folded


BAD_INPUT = [
    ("unknown profile", lambda tmp: choose_profile({"cpu": a_record()}, "cup"), "'cup'"),
    ("unknown knob", lambda tmp: choose_profile({"cpu": a_record()}, "cpu", stepz=3), "'stepz'"),
    ("empty grid", lambda tmp: run_grid(square, []), "grid is empty"),
    ("claim without bound", lambda tmp: Claims().add("c", [1.0]), "exactly one of"),
    ("claim with two bounds", lambda tmp: Claims().add("c", [1.0], at_least=0, at_most=1), "exactly one of"),
    ("claim without values", lambda tmp: Claims().add("c", [], at_least=0), "empty"),
    ("claim with NaN", lambda tmp: Claims().add("c", [math.nan], at_least=0), "finite"),
    ("unknown verdict", lambda tmp: Claims().add("c", [1.0], at_least=0, expected="yes"), "'yes'"),
    ("metric of wrong length", lambda tmp: finish("foundations/results", profile="cpu", seeds=[0, 1], setting=a_record(),
                                                  metrics={"m": [1.0]}, claims=[], started=0.0), r"metrics\['m'\]"),
    ("unknown lab", lambda tmp: partial_folder("dann/none", tmp), "dann/none"),
    ("unknown device", lambda tmp: resolve_device("quantum"), "'quantum'"),
    ("README without marks", lambda tmp: with_results("text", []), "marks"),
    ("result that is no dict", lambda tmp: run_grid(lambda seed: 3, [dict(seed=0)]), "must return a dict"),
]


@pytest.mark.parametrize("call, message", [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT])
def test_bad_input_gets_one_sentence(call, message, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
