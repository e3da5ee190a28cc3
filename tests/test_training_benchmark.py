"""What it costs to measure while training; measured by `benchmarks/training.py`. Run alone: `-m benchmark`."""
from __future__ import annotations

import pytest

from benchmarks import training

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def test_a_fit_that_is_measured_costs_what_the_measurements_cost(record_property):
    "The copies of the best weights and the random numbers included."
    for _ in range(3):  # the machine may be busy
        measured = training.measured_training()
        cost = 1 / measured.times("fit, then as many measurements")
        if cost <= 1.1:
            break
    print(measured)
    record_property("measured_training", cost)
    assert cost <= 1.1, str(measured)
