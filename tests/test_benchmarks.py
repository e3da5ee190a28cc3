"""The measuring itself: ratios, refusals, optional libraries, and the file that the page of benchmarks shows."""
from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from benchmarks.measuring import Measurement, allocated_bytes, kinds_of, libraries, resident_bytes, seconds_in_turns
from conftest import ROOT


def a_measurement(**changes) -> Measurement:
    values = {"ours": [1.0, 2.0, 1.0], "loop": [2.0, 8.0, 3.0]}
    return Measurement(
        **{"chapter": "x", "what": "y", "unit": "s", "values": values, "kinds": kinds_of(values, "ours", {}), **changes}
    )


def test_ratios_are_taken_round_by_round():
    measured = a_measurement()
    assert measured.course == "ours" and measured.ratios("loop").tolist() == [2.0, 4.0, 3.0]
    assert measured.times("loop") == 3.0 and "loop 3000.0 ms (3.00x)" in str(measured)


@pytest.mark.parametrize("changes", [
    {"unit": "ms"}, {"kinds": {"ours": "course"}}, {"kinds": {"ours": "course", "loop": "course"}},
    {"kinds": {"ours": "library", "loop": "library"}}, {"values": {"ours": [1.0], "loop": [1.0, 2.0]}},
])
def test_a_measurement_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError):
        a_measurement(**changes)


def test_ways_take_turns_and_the_first_round_does_not_count():
    order = []
    seconds = seconds_in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b") or time.sleep(0.002)}, rounds=3
    )
    assert order == ["a", "b"] * 4
    assert len(seconds["a"]) == len(seconds["b"]) == 3 and min(seconds["b"]) >= 0.002


def test_memory_is_seen():
    assert 4e6 <= allocated_bytes(lambda: torch.ones(1_000_000) + 1) <= 9e6
    assert 3e7 <= resident_bytes(lambda: (np.ones(5_000_000), time.sleep(0.05))) <= 9e7


def test_a_library_that_is_missing_or_broken_is_skipped_with_a_reason():
    def broken():
        raise ImportError("no such thing")

    packages = {"missing": "no-such-package-anywhere", "broken": "torch", "fine": "torch"}
    found, skipped = libraries(packages, {"missing": broken, "broken": broken, "fine": lambda: print})
    assert list(found) == ["fine"]
    assert skipped == {
        "missing": "no-such-package-anywhere is not installed",
        "broken": "torch fails here: ImportError: no such thing",
    }


def test_the_committed_file_holds_whole_measurements():
    content = json.loads((ROOT / "data/benchmarks.json").read_text())
    assert all({"device", "versions", "date"} <= set(run) for run in content["runs"].values())
    measured = [Measurement(**each) for each in content["measurements"]]
    chapters = {"data", "training", "rotation", "dann", "mrl", "coop", "peft", "merging", "visionlanguage"}
    assert {each.chapter for each in measured} == set(content["runs"]) == chapters
    assert {each.unit for each in measured} == {"s", "bytes"}
    for each in measured:
        assert all(np.isfinite(value) and value > 0 for values in each.values.values() for value in values)


def test_one_chapter_is_replaced_and_the_others_stay(tmp_path):
    from benchmarks.__main__ import keep

    out = tmp_path / "kept.json"
    for chapter, seconds in (("a", 1), ("b", 2), ("a", 3)):
        keep(out, chapter, {"seconds": seconds}, [{"chapter": chapter, "what": seconds}])
    content = json.loads(out.read_text())
    assert content["runs"] == {"a": {"seconds": 3}, "b": {"seconds": 2}}
    assert content["measurements"] == [{"chapter": "b", "what": 2}, {"chapter": "a", "what": 3}]


def test_merging_is_measured_beside_the_released_procedure():
    "At a tiny size: what is measured, and that both ways end nearer to their parents' mean than they began."
    from benchmarks import merging
    from xfer_course.merging import DigitNetwork

    given = merging.setting(lambda: DigitNetwork(width=3, norm="batch", classes=3), (1, 14, 14), 24, 8, 40)
    measured = [*merging.matching_units(given), *merging.fitting_layers(given)]
    assert [each.unit for each in measured] == ["s", "bytes", "s", "bytes"]
    assert all(value > 0 for each in measured for values in each.values.values() for value in values)
    before, closed, adam = map(float, measured[2].notes.values())
    assert closed < before and adam < before
    assert all("released" in way for each in measured for way in list(each.values)[-1:])


def test_lokis_passes_are_measured_beside_the_matrix():
    from benchmarks.visionlanguage import scores_on_trees

    measured = scores_on_trees(labels=60, pictures=3, rounds=1)
    assert [each.unit for each in measured] == ["s", "bytes"] * 2
    assert all(value > 0 for each in measured for values in each.values.values() for value in values)


def test_episodes_and_new_classes_are_measured_beside_scikit_learn():
    from benchmarks.fewshot import LIBRARY, REFITTED, seconds_per_episode, seconds_per_new_class

    measured = [*seconds_per_episode((3,), number=2, width=5, rounds=1),
                *seconds_per_new_class(4, 5, width=5, rounds=1)]
    assert [each.unit for each in measured] == ["s"] * 6
    assert all(value > 0 for each in measured for values in each.values.values() for value in values)
    assert measured[0].kinds["K-means"] == "course" and measured[0].kinds[LIBRARY] == "library"
    assert measured[-1].kinds[REFITTED] == "library"
