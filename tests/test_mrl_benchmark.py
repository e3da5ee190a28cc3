"""What the nested head and the staged search save, held to bounds; measured by `benchmarks/mrl.py`.

Run alone: `-m benchmark`."""

import pytest

from benchmarks import mrl

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_head_is_fast_lean_and_equal(tied, capsys):
    "Equal to the textbook form, which the measurement checks."
    seconds, memory = mrl.head(tied)
    with capsys.disabled():
        print(f"\n{seconds}\n{memory}")
    assert memory.times("one product per size") >= (1.6 if tied else 1.0)
    assert seconds.times("one product per size") >= (1.6 if tied else 0.95)  # untied: the same products, all the same


def test_contrastive_loss_is_faster_and_leaner_than_one_matrix_per_size(capsys):
    seconds, memory = mrl.contrastive()
    with capsys.disabled():
        print(f"\n{seconds}\n{memory}")
    assert seconds.times("one similarity matrix per size") >= 1
    assert memory.times("one similarity matrix per size") >= 1.5


def test_retrieval_is_fast_at_the_same_quality(capsys):
    measured = mrl.retrieval(rounds=1, with_libraries=False)
    exact = next(way for way in measured.values if way.startswith("best exact search"))
    with capsys.disabled():
        print(f"\n{measured}, mAP@10 {measured.notes['mAP@10']}")
    assert measured.notes["mAP@10"]["AdaptiveRetrieval"] >= measured.notes["mAP@10"][exact] - 0.005
    assert measured.times(exact) >= 8


@pytest.mark.parametrize("stage, smaller, times, least", [("int8", 4, 0.3, 0.99), ("binary", 32, 1.5, 0.95)])
def test_rounded_stages_are_small_at_nearly_the_same_recall(stage, smaller, times, least, capsys):
    "Bits also save time, one query at a time; bytes need not."
    seconds, memory = mrl.rounded(stage, rounds=1, with_libraries=False)
    with capsys.disabled():
        print(f"\n{seconds}\n{memory}, {seconds.notes}")
    assert seconds.notes["recall@10"][seconds.course] >= least
    assert memory.times("exact search, float32") == smaller
    assert seconds.times("exact search, float32") >= times


def test_memory_mapped_gallery_is_searched_in_bounded_memory(capsys):
    measured = mrl.mapped_gallery()
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.median(measured.course) <= measured.notes["bound in bytes"]
    assert measured.times("exact search, everything loaded") >= 4
