"""Loki against arrays from the authors' code: every case in the folder of the kinds `loki_tree_*`, `loki_locus_*` and
`loki_polytope_*`."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import parity_cases
from xfer_course.visionlanguage import (
    frechet_one_hot,
    frechet_predict,
    frechet_scores,
    locus,
    locus_distances,
    next_label,
    tree_distances,
    tree_scores,
)


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(case[name]))


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_tree"))
def test_scores_and_predictions_on_a_tree(parity, name):
    case = parity("visionlanguage", name)
    edges, seen, shares = of(case, "edges"), of(case, "seen").long(), of(case, "probs")
    squared = tree_distances(edges) ** 2
    case.assert_close(squared, "dist2")
    case.assert_close(frechet_scores(shares, squared[seen]), "scores")
    case.assert_close(tree_scores(edges, shares, seen), "scores")
    said = frechet_predict(shares, squared[seen])
    assert of(case, "minimisers").bool()[range(len(said)), said].all(), "one of the labels with the smallest score"

    full, targets = of(case, "probs_full"), of(case, "targets").long()
    case.assert_close(-frechet_scores(full, squared), "scores_full")
    case.assert_close(-tree_scores(edges, full), "scores_full")
    case.assert_close(squared[frechet_predict(full, squared), targets].mean(), "msd_loki")
    case.assert_close(squared[full.argmax(1), targets].mean(), "msd_argmax")


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_locus"))
def test_the_locus_grows_by_choices_that_are_as_far(parity, name):
    case = parity("visionlanguage", name)
    edges, seen = of(case, "edges"), of(case, "start").long()
    found = [locus(edges, seen)]
    for label, distance in zip(of(case, "chosen").tolist(), of(case, "distance").tolist()):
        far = locus_distances(edges, seen)
        assert far[next_label(edges, seen)] == far[label] == far.max() == distance
        seen = torch.cat([seen, torch.tensor([label])])
        found.append(locus(edges, seen))
    case.assert_close(torch.stack(found), "locus")
    case.assert_close(torch.stack(found).sum(1), "sizes")


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_polytope"))
def test_the_gradient_through_the_prediction(parity, name):
    case = parity("visionlanguage", name)
    probabilities = of(case, "probs").requires_grad_()
    answer = frechet_one_hot(probabilities, of(case, "dist") ** 2, step=case.options["eta"])
    case.assert_close(answer.detach(), "onehot")
    answer.backward(of(case, "upstream"))
    case.assert_close(probabilities.grad, "grad")
