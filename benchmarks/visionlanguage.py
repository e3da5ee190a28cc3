"""What Loki's scores cost on a tree of many labels, beside the matrix of all distances; on one thread."""
from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks.measuring import Measurement, allocated_bytes, kinds_of, seconds_in_turns
from xfer_course.visionlanguage import frechet_scores, random_tree, tree_distances, tree_scores

THREADS = 1
PASSES, MATRIX, AT_HAND = "two passes over the tree", "the matrix, then a product", "a product, the matrix at hand"


def hierarchy(labels: int, children: int = 10) -> Tensor:
    "Edges of a tree in which every label but those of the last level has as many children, such as a taxonomy."
    below = torch.arange(1, labels)
    return torch.stack([below, (below - 1) // children], 1)


@cache
def shares(labels: int, pictures: int) -> Tensor:
    return torch.randn(pictures, labels, generator=torch.Generator().manual_seed(0), dtype=torch.double).softmax(1)


def ways_to_score(edges: Tensor, given: Tensor) -> dict[str, Callable[[], Tensor]]:
    squared = tree_distances(edges) ** 2
    return {PASSES: lambda: tree_scores(edges, given), AT_HAND: lambda: frechet_scores(given, squared),
            MATRIX: lambda: frechet_scores(given, tree_distances(edges) ** 2)}


def scores_on_trees(labels: int = 10_000, pictures: int = 64, rounds: int = 3) -> list[Measurement]:
    "Seconds and peak bytes of the scores of every label, on a hierarchy of ten children each and on a random tree."
    found = []
    for kind, edges in (("hierarchy of ten children each", hierarchy(labels)), ("random tree", random_tree(labels))):
        ways = ways_to_score(edges, shares(labels, pictures))
        torch.testing.assert_close(ways[PASSES](), ways[AT_HAND]())
        what = f"scores of {labels:,} labels for {pictures} pictures, {kind}"
        seconds = seconds_in_turns(ways, rounds)
        held = {way: [float(allocated_bytes(ways[way]))] for way in (PASSES, MATRIX)}
        peak = f"peak of PyTorch's tensors (distances before they are squared are NumPy's, and not counted): {what}"
        found += [Measurement("visionlanguage", what, "s", seconds, kinds_of(seconds, PASSES, {})),
                  Measurement("visionlanguage", peak, "bytes", held, kinds_of(held, PASSES, {}))]
    return found


MEASUREMENTS = (scores_on_trees,)
