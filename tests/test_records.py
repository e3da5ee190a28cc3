"""Runs, claims, records and the tables made of them."""
from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from bs4 import BeautifulSoup
from scipy import stats

from tools import notebooks as notebooks_tool
from xfer_course.labs import (
    NOT_JUDGED,
    README_MARKS,
    VERDICTS,
    Claim,
    Claims,
    Record,
    agreement_limit,
    agrees,
    best_records,
    choose_profile,
    claim_rows,
    describe,
    disagreements,
    fingerprint_differences,
    fingerprint_of,
    finish,
    html_table,
    load_records,
    markdown_table,
    on_the_border,
    partial_folder,
    read_record,
    record_display,
    resolve_device,
    results_markdown,
    run_grid,
    setting_differences,
    verdict_html,
    verdict_text,
    vouch,
    with_fingerprint,
    with_repeat,
    with_results,
)

MEASURED = {"commit": "0" * 12, "experiment": "v3:0", "inputs": {}, "date": "2026-01-01",
            "device": "x86_64 CPU, 2 cores", "cpu": "a CPU", "kernels": "k",
            "threads": 1, "versions": {"torch": "2.14.0", "numpy": "2.4.0", "scikit-learn": "1.9.0"}}
ELSEWHERE = {**MEASURED, "cpu": "another CPU"}


@dataclass(frozen=True)
class Size:
    steps: int = 20
    widths: tuple[int, int] = (16, 32)


def a_record(**changes) -> Record:
    claims = (Claim("method beats baseline", (0.10, 0.12, 0.11), at_least=0.0, paper=0.2, expected="reproduced"),)
    values = dict(lab="dann/example", profile="cpu", seeds=(0, 1, 2), setting={"steps": 20},
                  metrics={"gain": [0.10, 0.12, 0.11]},
                  claims=claims, measured=MEASURED, page="0" * 16, seconds=1.5, peak_memory_bytes=2**20,
                  speed_probe_seconds=0.01)
    return Record(**{**values, **changes})


def test_a_record_says_which_data_was_there():
    record = a_record(measured={**MEASURED, "data": {"usps": "usps.npz sha256:00ff", "svhn": "absent"}})
    assert "data: usps, svhn (absent)" in describe(Record.from_json(record.to_json()))
    with pytest.raises(ValueError, match="usps of data has the wrong form: 3"):
        Record.from_json(a_record(measured={**MEASURED, "data": {"usps": 3}}).to_json())
    with pytest.raises(ValueError, match="data"):
        Record.from_json(a_record(measured={**MEASURED, "data": ["usps"]}).to_json())


TODAY = {"experiments": {"cpu": "v3:new"}, "settings": {"cpu": {"steps": 20}}}


def a_smoke(**changes) -> Record:
    notes = {"first_losses": {"DANN": [0.693, 0.690]}, **TODAY}
    return a_record(**{"profile": "smoke", "seeds": (0, 1), "metrics": {"gain": [0.5, 0.25], "seconds": [1.0, 2.0]},
                       "claims": (), "notes": notes, **changes})


def square(seed, setting=None):
    return {"value": seed**2, "array": np.full(3, seed), "widths": list(setting.widths) if setting else []}


def fails_once(seed, folder):
    from pathlib import Path
    mark = Path(folder) / f"ran-{seed}"
    if seed == 2 and not mark.exists():
        mark.touch()
        raise RuntimeError("interrupted")
    (Path(folder) / f"count-{seed}").open("a").write("x")
    return {"value": seed}


# ---------------------------------------------------------------- runs


def test_run_grid_keeps_order_and_loads_what_is_finished(tmp_path):
    grid = [dict(seed=seed) for seed in (3, 1, 2)]
    first = run_grid(square, grid, cache=tmp_path)
    assert first["value"].tolist() == [9, 1, 4]
    again = run_grid(square, grid, cache=tmp_path)
    assert again["seconds"].tolist() == first["seconds"].tolist()
    assert np.array_equal(again[0]["array"], [3, 3, 3])
    assert first[0]["environment"]["threads"] == 1 and again.points == grid


def test_a_dataclass_in_a_point_arrives_as_it_is_and_is_named_by_its_fields(tmp_path):
    run_grid(square, [dict(seed=3, setting=Size())], cache=tmp_path)
    run_grid(square, [dict(seed=3, setting={"steps": 20, "widths": [16, 32]})], cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    assert run_grid(square, [dict(seed=3, setting=Size())])[0]["widths"] == [16, 32]


def test_two_experiments_keep_equal_points_apart(tmp_path):
    def cube(seed: int) -> dict:
        return {"value": seed**3}

    assert run_grid(square, [dict(seed=3)], cache=tmp_path)[0]["value"] == 9
    assert run_grid(cube, [dict(seed=3)], cache=tmp_path)[0]["value"] == 27


@pytest.mark.parametrize("grid, error, word", [
    (None, TypeError, "grid must be an iterable of dicts"), ({"seed": 1}, TypeError, "grid must be an iterable"),
    ([3], TypeError, "a point of grid must be a dict"), ([], ValueError, "grid must hold at least one point"),
    ([dict(seed=1, setting=lambda: 0)], TypeError, "a point must hold JSON-able values"),
    ([dict(seed=1, setting={1, 2})], TypeError, "a point must hold JSON-able values"),
    ([dict(seed=1, setting=object())], TypeError, "a point must hold JSON-able values"),
])
def test_a_grid_that_no_later_run_could_find_again_is_refused(grid, error, word, tmp_path):
    with pytest.raises(error, match=word):
        run_grid(square, grid, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_says_in_which_run_and_a_result_keeps_to_its_own_names(tmp_path):
    def failing(seed: int) -> dict:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken") as caught:
        run_grid(failing, [dict(seed=5)])
    assert any("'seed': 5" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="must not return 'seconds'"):
        run_grid(lambda seed: {"seconds": 1.0}, [dict(seed=5)])


def test_where_selects_by_the_point():
    runs = run_grid(square, [dict(seed=seed, setting=Size(steps)) for steps in (1, 2) for seed in (0, 3)])
    assert runs.where(setting=Size(2))["value"].tolist() == [0, 9]
    assert runs.where(seed=3, setting=Size(1))[0]["value"] == 9
    with pytest.raises(ValueError, match="no run has seed=7"):
        runs.where(seed=7)


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


def trains(seed):
    import torch

    from xfer_course.data import batches
    from xfer_course.training import choose_accelerator, fit, seed_everything

    seed_everything(seed)
    model = torch.nn.Linear(2, 1)
    loader = batches(torch.ones(8, 2), torch.ones(8, 1), batch_size=4, steps=9, seed=seed)
    fit(lambda batch, p: ((model(batch[0]) - batch[1]).square().mean(), {}), loader,
        torch.optim.SGD(model.parameters(), lr=0.1), epochs=1,
        progress=False, accelerator=choose_accelerator("cpu"), model=model)
    return {"weight": model.weight.detach().numpy()}


def test_a_point_notes_the_first_losses_of_what_it_trains(tmp_path):
    first, again = (run_grid(trains, [dict(seed=0)], cache=tmp_path)[0]["first_losses"] for _ in range(2))
    assert first == again and len(first) == 5 and first[0] > first[-1] > 0


# ---------------------------------------------------------------- claims


def test_interval_is_students_t():
    values = (0.10, 0.12, 0.17)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert Claim("c", values, at_least=0).interval == pytest.approx(expected)


@pytest.mark.parametrize("measured, bound, verdict", [
    ((0.1, 0.11, 0.12), dict(at_least=0.0), "reproduced"),
    ((0.1, -0.05, 0.02), dict(at_least=0.0), "partly"),
    ((-0.1, -0.05, 0.02), dict(at_least=0.0), "not reproduced here"),
    ((0.1, 0.11, 0.12), dict(at_most=0.2), "reproduced"),
    ((0.1, 0.11, 0.12), dict(at_most=0.1), "not reproduced here"),
    ((0.1,), dict(at_least=0.0), "partly"),
    ((-0.1,), dict(at_least=0.0), "not reproduced here"),
    ((0.01, -0.01, 0.0), dict(at_least=-0.05, at_most=0.05), "reproduced"),
    ((0.04, -0.04, 0.0), dict(at_least=-0.05, at_most=0.05), "partly"),
    ((0.07, 0.08, 0.09), dict(at_least=-0.05, at_most=0.05), "not reproduced here"),
    ((0.0,), dict(at_least=-0.05, at_most=0.05), "partly"),
])
def test_verdict(measured, bound, verdict):
    assert Claim("c", measured, **bound).verdict == verdict


def test_agreement_is_the_two_sample_test():
    one, other = Claim("c", (0.1, 0.2, 0.3, 0.2), at_least=0), Claim("c", (0.2, 0.3, 0.4, 0.1, 0.2), at_least=0)
    error = math.sqrt(stats.sem(one.measured) ** 2 + stats.sem(other.measured) ** 2)
    assert agreement_limit(one, other, 4) == pytest.approx(0.001 + stats.t.ppf(1 - 0.01 / 8, 7) * error)


def test_two_runs_of_the_same_thing_agree_nearly_always_and_a_shift_of_three_spreads_does_not():
    draws = np.random.default_rng(0)
    pairs = [[Claim("c", tuple(draws.normal(0.1, 0.02, 5)), at_least=0) for _ in range(2)] for _ in range(1000)]
    assert sum(not agrees(one, other) for one, other in pairs) <= 15, "the level is one in a hundred"
    shifted = [(one, replace(other, measured=tuple(v + 0.1 for v in other.measured))) for one, other in pairs]
    assert sum(agrees(one, other) for one, other in shifted) <= 50


def test_without_spread_only_rounding_is_granted():
    exact = Claim("c", (0.5, 0.5), at_least=0)
    assert (agrees(exact, replace(exact, measured=(0.5005, 0.5005)))
            and not agrees(exact, replace(exact, measured=(0.51, 0.51))))


def test_a_smoke_run_judges_nothing_neither_in_the_table_nor_in_the_cell_above():
    claims = Claims()
    claim = claims.add("gain", [0.1, 0.2], at_least=0, profile="smoke")
    assert "not judged (smoke)" in claim._repr_markdown_() and "reproduced" not in claim._repr_markdown_()
    record = a_record(profile="smoke", seeds=(0, 1), metrics={}, claims=tuple(claims))
    assert "judged" not in record.to_json()["claims"][0] and Record.from_json(record.to_json()) == record
    for shown in (record_display(record)["text/html"], record_display(record)["text/plain"]):
        assert "not judged (smoke)" in shown and "reproduced" not in shown
    assert "✓ reproduced</span>" in claims.add("gain", [0.10, 0.11], at_least=0)._repr_markdown_()


def contrast_luminance(colour: str) -> float:
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("verdict", [*VERDICTS, NOT_JUDGED, "partly (on the border: reproduced on another machine)"])
def test_a_verdict_has_a_sign_and_letters_that_stand_out_from_their_ground(verdict):
    page = verdict_html(verdict)
    ground, ink = re.search(r"background-color: (#\w+); color: (#\w+);", page).groups()
    sign, _, words = BeautifulSoup(page, "html.parser").get_text().partition(" ")
    assert sign in "✓≈✗·" and words == verdict and verdict_text(verdict) == f"{sign} {verdict}"
    light, dark = (contrast_luminance(colour) for colour in (ground, ink))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_tables_in_html_are_to_the_left_and_mark_verdicts_only():
    page = html_table([{"claim": "a < b", "verdict": "partly"}, {"claim": "partly", "verdict": "of a jury"}])
    assert page.count("text-align:left") == 6 and "a &lt; b" in page
    assert page.count("<span") == 1 and "≈ partly</span>" in page


def test_seconds_of_two_machines_are_held_to_the_verdict():
    fast = Claim("c", (14.0, 14.1), at_least=2.0, timed=True)
    assert agrees(fast, replace(fast, measured=(9.0, 9.1))) and not agrees(fast, replace(fast, measured=(1.0, 1.1)))


# ---------------------------------------------------------------- records


def test_record_survives_the_file(tmp_path):
    record = a_record(fingerprint=fingerprint_of(a_smoke()),
                      vouched=({"experiment": "v3:1", "commit": None, "date": "2026-01-01", "by": "smoke"},))
    path = record.save(tmp_path)
    assert path.name == "dann-example-cpu.json"
    assert load_records(tmp_path) == [record]
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file is left"


@pytest.mark.parametrize("edit", [
    lambda content: content["claims"][0].update(verdict="partly"),
    lambda content: content["claims"][0].update(mean=0.5),
    lambda content: content["claims"][0].update(measured=[0.9, 0.9, 0.9]),
    lambda content: content.pop("seeds"),
    lambda content: content.update(measured="yesterday"),
    lambda content: content["measured"].pop("cpu"),
    lambda content: content.update(metrics=None),
    lambda content: content.update(seeds=[0, 1]),
    lambda content: content.update(seeds=[0, 1, 1]),
    lambda content: content["metrics"].update(gain=[0.1]),
    lambda content: content.update(profile="huge"),
    lambda content: content.update(seconds=-1.5),
    lambda content: content.update(peak_memory_bytes=-1),
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
        finish("dann/moons", profile="smoke", seeds=[0], setting=Size(), metrics={"m": [1.0]}, claims=claims,
               started=0.0, out=tmp_path)
        assert len(list(tmp_path.iterdir())) == written


def test_the_best_profile_of_a_lab_is_shown():
    cpu, long, other = a_record(), a_record(profile="long"), a_record(lab="dann/other")
    assert best_records([cpu, long, other]) == [long, other]


def test_a_flip_at_the_border_is_no_disagreement_and_another_result_is():
    claim = Claim("gain", (0.03, 0.01, 0.05, 0.02, 0.04), at_least=0)
    recorded = a_record(claims=(claim,))
    flipped = a_record(claims=(replace(claim, measured=(0.03, -0.01, 0.05, 0.01, 0.02)),), measured=ELSEWHERE)
    moved = a_record(claims=(replace(claim, measured=(0.23, 0.21, 0.25, 0.22, 0.24)),), measured=ELSEWHERE)
    assert disagreements(flipped, recorded) == [] and len(on_the_border(flipped, recorded)) == 1
    (sentence,) = disagreements(moved, recorded)
    assert on_the_border(moved, recorded) == []
    assert all(text in sentence for text in ("another CPU", "a CPU", "torch 2.14.0", "0.230", "0.030"))
    assert "on the border: partly" in claim_rows(with_repeat(recorded, flipped))[0]["verdict"]


def test_a_repeat_keeps_what_was_measured_and_needs_the_same_setting():
    record = a_record()
    repeated = with_repeat(with_repeat(record, a_record(measured=ELSEWHERE)), a_record(measured=ELSEWHERE))
    assert repeated.measured == record.measured and len(repeated.repeats) == 1
    for other in (dict(setting={"steps": 30}), dict(lab="dann/other")):
        with pytest.raises(ValueError, match="lab, profile, seeds and setting"):
            with_repeat(record, a_record(**other))
    with pytest.raises(ValueError, match="must be of one of its experiments"):
        with_repeat(record, a_record(measured={**ELSEWHERE, "experiment": "v3:never"}))
    older = a_record(measured={**ELSEWHERE, "experiment": "v3:older"},
                     vouched=({"experiment": "v3:0", "commit": None, "date": "2026-01-01", "by": "smoke"},))
    assert len(with_repeat(record, older).repeats) == 1, "vouched for with the record's experiment"


# ---------------------------------------------------------------- freshness


@pytest.mark.parametrize("experiment, kept", [("v3:0", True), ("v3:other", False)])
def test_equal_numbers_keep_their_origin_only_if_the_experiment_is_the_same(monkeypatch, experiment, kept):
    before, saved = a_record(measured={**MEASURED, "commit": "1" * 12}), []
    again = a_record(measured={**MEASURED, "experiment": experiment})
    monkeypatch.setattr(notebooks_tool, "committed_record", lambda lab, profile: again)
    monkeypatch.setattr(notebooks_tool, "run_smoke", lambda notebook: None)
    monkeypatch.setattr(notebooks_tool, "with_fingerprint", lambda record, smoke: record)
    monkeypatch.setattr(notebooks_tool, "show_committed", lambda notebook, record: saved.append(record))
    monkeypatch.setattr(Record, "save", lambda record, folder: None)
    notebooks_tool.complete(SimpleNamespace(name="dann/example"), "cpu", before)
    assert saved[0].measured == (before if kept else again).measured


def test_nan_passes_through_a_kernel_and_agrees_with_itself():
    smoke = a_smoke(metrics={"share": [0.5, math.nan]})
    sent = smoke.to_json() | {"metrics": {"share": [0.5, "nan"]}}
    assert fingerprint_differences(a_record(fingerprint=fingerprint_of(smoke)), Record.from_json(sent)) == []
    kept = a_record(fingerprint=fingerprint_of(Record.from_json(sent)))
    stored = Record.from_json(json.loads(json.dumps(kept.to_json())))
    assert math.isnan(stored.fingerprint["metrics"]["share"][1])


def changed_claim(**values):
    return lambda content: content["claims"][0].update(values)


DAMAGE = {
    "unit that is none": changed_claim(unit=None), "unit that is a list": changed_claim(unit=["a"]),
    "paper as text": changed_claim(paper="0.2"), "statement as number": changed_claim(statement=3),
    "interval": changed_claim(interval=[0.0, 1.0]), "mean": changed_claim(mean=0.5),
    "verdict": changed_claim(verdict="partly"),
    "vouched text": lambda c: c.update(vouched=["x"]), "vouched empty": lambda c: c.update(vouched=[{}]),
    "repeat text": lambda c: c.update(repeats=["x"]), "repeat empty": lambda c: c.update(repeats=[{}]),
    "half seeds": lambda c: c.update(seeds=[0.5, 1.5, 2.5]), "seed twice": lambda c: c.update(seeds=[1, 1, 2]),
    "date": lambda c: c["measured"].update(date="yesterday"), "fingerprint": lambda c: c.update(fingerprint={}),
    "other lab": lambda c: c.update(lab="dann/another"), "other profile": lambda c: c.update(profile="long"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_refused_by_the_name_of_its_file(damage, tmp_path):
    path = a_record(fingerprint=fingerprint_of(a_smoke())).save(tmp_path)
    assert read_record(path).lab == "dann/example"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=path.name):
        load_records(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_record_is_refused_by_its_name(text, tmp_path):
    (tmp_path / "dann-moons-cpu.json").write_text(text)
    with pytest.raises(ValueError, match="dann-moons-cpu.json"):
        load_records(tmp_path)


@pytest.mark.parametrize("stored, today, differs", [
    ({"steps": 20}, {"steps": 20}, False), ({"steps": 20}, {"steps": 7}, True),
    ({"data": "real"}, {"data": "auto"}, False), ({"steps": 20}, {"steps": 20, "new": 1}, False),
    ({"widths": [16, 32]}, {"widths": [16, 33]}, True),
    ({"grid": {"C": [0.31622776601683794]}}, {"grid": {"C": [0.3162277660168379]}}, False),
    ({"grid": [[1e-3]]}, {"grid": [[1.00000001e-3]]}, True), ({"rates": [0.1]}, {"rates": [0.1, 0.2]}, True),
])
def test_a_setting_counts_in_what_both_name(stored, today, differs):
    smoke = a_smoke(notes={**TODAY, "settings": {"cpu": today}})
    assert bool(setting_differences(a_record(setting=stored), smoke)) == differs


def test_a_fingerprint_that_agrees_vouches_and_leaves_what_was_measured():
    record = a_record(fingerprint=fingerprint_of(a_smoke()))
    vouched = vouch(record, a_smoke())
    assert vouched.experiments == ("v3:0", "v3:new") and replace(vouched, vouched=()) == record
    assert vouch(vouched, a_smoke()) == vouched


@pytest.mark.parametrize("changes, word", [
    (dict(metrics={"gain": [0.5, 0.2501], "seconds": [1.0, 2.0]}), "metric 'gain' was"),
    (dict(metrics={"seconds": [1.0, 2.0]}), "metric 'gain' is gone"),
    (dict(notes={"first_losses": {"DANN": [0.693, 0.680]}, **TODAY}), "first losses of 'DANN' was"),
    (dict(notes={"first_losses": {}, **TODAY}), "first losses of 'DANN' is gone"),
    (dict(seeds=(0,)), "seeds"),
    (dict(notes={**TODAY, "first_losses": {"DANN": [0.693, 0.690]}, "settings": {"cpu": {"steps": 7}}}),
     "steps of cpu was 20 and is 7"),
    (dict(notes={**TODAY, "first_losses": {"DANN": [0.693, 0.690]}, "settings": {}}), "has no profile cpu"),
    (dict(claims=(Claim("larger", (1.0, 2.1), at_least=0.0),)), r"claim 'larger' was \[1.0, 2.0\]"),
    (dict(measured={**MEASURED, "commit": None}), "must be committed"),
])
def test_numbers_that_moved_cannot_be_vouched_for(changes, word):
    claims = (Claim("larger", (1.0, 2.0), at_least=0.0), Claim("said otherwise", (1.0, 2.0), at_least=0.0))
    record = a_record(fingerprint=fingerprint_of(a_smoke(claims=claims)))
    with pytest.raises(ValueError, match=word):
        vouch(record, a_smoke(**changes))


def test_a_smaller_smoke_profile_renews_the_fingerprint_and_hides_no_change_of_the_experiment():
    record = a_record(fingerprint=fingerprint_of(a_smoke()))
    smaller = a_smoke(metrics={"gain": [0.1]}, notes={"first_losses": {}, "experiments": {"cpu": "v3:0"}})
    renewed = with_fingerprint(record, smaller)
    assert fingerprint_differences(renewed, smaller) == []
    assert replace(renewed, fingerprint=record.fingerprint) == record
    with pytest.raises(ValueError, match="its experiment has changed too; vouch for the record first"):
        with_fingerprint(record, a_smoke(metrics={"gain": [0.1]}))


def test_seconds_do_not_count_and_metrics_only_on_the_same_machine():
    record = a_record(fingerprint=fingerprint_of(a_smoke()))
    assert fingerprint_differences(record, a_smoke(metrics={"gain": [0.5, 0.25], "seconds": [9.0, 9.0]})) == []
    assert fingerprint_differences(
        record, a_smoke(metrics={"gain": [0.9, 0.9], "seconds": [1.0, 2.0]}, measured=ELSEWHERE)) == []
    other_losses = {"first_losses": {"DANN": [0.693, 0.60]}, **TODAY}
    assert fingerprint_differences(record, a_smoke(measured=ELSEWHERE, notes=other_losses))


def test_nothing_is_vouched_for_where_nothing_can_be_compared():
    "Without first losses another machine has no number to hold the run to."
    record = a_record(fingerprint=fingerprint_of(a_smoke(notes={"first_losses": {}})))
    elsewhere = a_smoke(measured=ELSEWHERE, metrics={"gain": [9.0, 9.0]},
                        notes={"first_losses": {}, **TODAY})
    with pytest.raises(ValueError, match="nothing can be compared here"):
        vouch(record, elsewhere)


@pytest.mark.parametrize("change", [vouch, with_fingerprint])
def test_the_fingerprint_of_another_lab_is_refused(change):
    record = a_record(fingerprint=fingerprint_of(a_smoke()))
    with pytest.raises(ValueError, match="smoke must be a run of dann/example, got one of dann/other"):
        change(record, a_smoke(lab="dann/other"))


@pytest.mark.parametrize("measured", ["123", {0: 0.1, 1: 0.2}, 0.5])
def test_a_claim_takes_numbers_one_per_seed(measured):
    with pytest.raises(TypeError, match="measured must be numbers, one per seed, got"):
        Claims().add("c", measured, at_least=0)


@pytest.mark.parametrize("measured, kept", [([0.1, 0.11, 0.12], None), ([0.3, -0.2, 0.1], "noise"),
                                             ([-0.1, -0.11, -0.12], "noise")])
def test_a_reason_is_kept_where_the_claim_is_not_reproduced(measured, kept):
    assert Claims().add("c", measured, at_least=0, reason="noise").reason == kept


@pytest.mark.parametrize("bound", [math.nan, -math.inf, "1"])
def test_a_bound_is_a_finite_number(bound):
    with pytest.raises(ValueError, match="at_least or at_most must be a finite number"):
        Claims().add("c", [0.1], at_least=bound)


@pytest.mark.parametrize("options, says", [
    (dict(seeds=[0, 1], metrics={}, claims=[Claim("c", (1.0,), at_least=0)]), "claim 'c' must have one value per seed"),
    (dict(seeds=[0, 0], metrics={}, claims=[]), "seeds must be whole numbers that differ"),
    (dict(seeds=[0], metrics={}, claims=[], profile="huge"), "profile must be one of 'smoke', 'cpu'"),
])
def test_finish_holds_a_lab_to_its_seeds_and_profiles(options, says):
    with pytest.raises(ValueError, match=says):
        finish("dann/moons", setting=Size(), started=0.0, **{"profile": "smoke"} | options)


def test_an_array_is_no_part_of_a_point(tmp_path):
    "Two long arrays may have the same text, and so the same file."
    with pytest.raises(TypeError, match=r"got an array or tensor of shape \(5000,\)"):
        run_grid(lambda x: {"sum": x.sum()}, [{"x": np.arange(5000.0)}], cache=tmp_path)


def test_a_record_without_fingerprint_cannot_be_vouched_for():
    with pytest.raises(ValueError, match="no fingerprint"):
        vouch(a_record(), a_smoke())


# ---------------------------------------------------------------- tables


def test_table_escapes_and_aligns():
    table = markdown_table(claim_rows(a_record(claims=(Claim("a | b", (1.0, 1.0), at_least=0.5),))))
    assert r"a \| b" in table and len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1
    assert "No run" in results_markdown([])
    folded = results_markdown([a_record()], folded=True)
    assert folded.startswith("<details><summary><b>") and markdown_table(claim_rows(a_record())) in folded


def test_a_number_edited_between_the_marks_is_noticed():
    text = with_results("\n".join(README_MARKS), [a_record()])
    assert "0.110" in text
    assert with_results(text.replace("0.110", "0.990"), [a_record()]) == text


BAD_INPUT = [
    ("unknown profile", lambda tmp: choose_profile({"cpu": Size()}, "cup"), "'cup'"),
    ("unknown knob", lambda tmp: choose_profile({"cpu": Size()}, "cpu", stepz=3), "'stepz'"),
    ("empty grid", lambda tmp: run_grid(square, []), "grid must hold at least one point"),
    ("claim without bound", lambda tmp: Claims().add("c", [1.0]), "give at_least, at_most, or both"),
    ("claim that nothing satisfies", lambda tmp: Claims().add("c", [1.0], at_least=1, at_most=0),
     "at_least must not be above at_most, got 1 and 0"),
    ("claim without values", lambda tmp: Claims().add("c", [], at_least=0), "empty"),
    ("claim with NaN", lambda tmp: Claims().add("c", [math.nan], at_least=0), "finite"),
    ("unknown verdict", lambda tmp: Claims().add("c", [1.0], at_least=0, expected="yes"), "'yes'"),
    ("metric of wrong length", lambda tmp: finish("dann/moons", profile="cpu", seeds=[0, 1], setting=Size(),
                                                  metrics={"m": [1.0]}, claims=[], started=0.0), r"metrics\['m'\]"),
    ("folder that is not there", lambda tmp: load_records(tmp / "none"), "no folder of records"),
    ("unknown lab", lambda tmp: partial_folder("dann/none", tmp), "dann/none"),
    ("unknown device", lambda tmp: resolve_device("quantum"), "'quantum'"),
    ("README without marks", lambda tmp: with_results("text", []), "marks"),
    ("result that is no dict", lambda tmp: run_grid(lambda seed: 3, [dict(seed=0)]), "must return a dict"),
    ("fingerprint of a long run", lambda tmp: fingerprint_of(a_record()), "smoke profile"),
]


@pytest.mark.parametrize("call, message", [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT])
def test_bad_input_gets_one_sentence(call, message, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
