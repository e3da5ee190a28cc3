"""What the rotations cost, held to bounds; measured by `benchmarks/rotation.py`. Run alone: `-m benchmark`."""
from __future__ import annotations

import pytest

from benchmarks import rotation

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def test_rotate_batch_costs_at_most_three_plain_copies():
    for attempt in range(3):  # the machine may be busy
        measured = rotation.copies()
        if measured.times("plain copies") >= 1 / 3:
            break
    assert measured.times("plain copies") >= 1 / 3, str(measured)


def test_rotate_batch_is_faster_than_the_obvious_loops():
    measured = rotation.turns(rounds=3)
    assert measured.times("NumPy, image by image") >= 2.5, str(measured)
    assert measured.times("Pillow, image by image") >= 8, str(measured)
    assert measured.times("torchvision, the whole batch") >= 1, str(measured)


def test_a_pretext_step_costs_what_a_supervised_step_on_as_many_images_costs():
    measured = rotation.pretext_step()
    assert measured.times("supervised step on as many images") >= 1 / 1.1, str(measured)
