"""What images that are read when they are asked for cost and save, held to bounds; measured by `benchmarks/data.py`.

Run alone: `-m benchmark`."""

import pytest

from benchmarks import data

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def test_lazy_images_save_the_memory_of_the_set(capsys):
    "A set of 94 MiB against two batches of 2.3 MiB and what Pillow needs."
    measured = data.memory()
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times("all read at once, then an epoch") >= 5


def test_lazy_images_cost_what_torchvisions_folder_costs(capsys):
    "And at most four times reading everything at once, which several threads do."
    measured = data.epoch(rounds=3)
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times(data.TORCHVISION) >= 1 / 1.5
    assert measured.times("all read at once, then an epoch") >= 1 / 4
    assert measured.times("tensors in memory, a later epoch") < 1, "memory is faster, where there is enough"
