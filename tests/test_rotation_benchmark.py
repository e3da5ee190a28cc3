"""What the rotations cost, held to bounds; measured by `benchmarks/rotation.py`. Run alone: `-m benchmark`."""
from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

from benchmarks import rotation
from conftest import ROOT

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def speed_beside_plain_copies() -> float:
    """How many times faster than plain copying, in a process of its own.

    Where the memory of a process lies decides a third of what plain copying costs, and stays until it ends.
    """
    code = ("import torch; torch.set_num_threads(1); from benchmarks import rotation; "
            "print(rotation.copies().times('plain copies'))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def test_rotate_batch_costs_at_most_three_plain_copies():
    speeds = [speed_beside_plain_copies() for _ in range(5)]
    assert statistics.median(speeds) >= 1 / 3, speeds


def test_rotate_batch_is_faster_than_the_obvious_loops():
    measured = rotation.turns(rounds=3)
    assert measured.times("NumPy, image by image") >= 2.5, str(measured)
    assert measured.times("Pillow, image by image") >= 8, str(measured)
    assert measured.times("torchvision, the whole batch") >= 1, str(measured)


def test_a_pretext_step_costs_what_a_supervised_step_on_as_many_images_costs():
    measured = rotation.pretext_step()
    assert measured.times("supervised step on as many images") >= 1 / 1.1, str(measured)
