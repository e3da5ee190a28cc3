"""What LoRA costs in training and after merging, held to bounds; measured by `benchmarks/peft.py`.

Run alone: `-m benchmark`."""
from __future__ import annotations

import pytest

from benchmarks import peft

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def test_a_step_costs_no_more_than_a_plain_layers_or_pefts(capsys):
    measured = peft.lora_step()
    with capsys.disabled():
        print(f"\n{measured}")
    for way in set(measured.values) & {"a plain layer", "peft"}:
        assert measured.times(way) >= 1 / 1.05, way


def test_merged_costs_what_an_untouched_network_costs(capsys):
    measured = peft.merged_forward()
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times("an untouched network") >= 1 / 1.05
