"""Loki against arrays from the authors' code: every case in the folder of the kinds `loki_tree_*`, `loki_locus_*` and
`loki_polytope_*`."""
from __future__ import annotations

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


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_tree"))
def test_scores_and_predictions_on_a_tree(parity, name):
    case = parity("visionlanguage", name)
    edges, seen, shares = case.tensor("edges"), case.tensor("seen").long(), case.tensor("probs")
    squared = tree_distances(edges) ** 2
    case.assert_close(squared, "dist2")
    case.assert_close(frechet_scores(shares, squared[seen]), "scores")
    case.assert_close(tree_scores(edges, shares, seen), "scores")
    said = frechet_predict(shares, squared[seen])
    assert case.tensor("minimisers").bool()[range(len(said)), said].all(), "one of the labels with the smallest score"

    full, targets = case.tensor("probs_full"), case.tensor("targets").long()
    case.assert_close(-frechet_scores(full, squared), "scores_full")
    case.assert_close(-tree_scores(edges, full), "scores_full")
    case.assert_close(squared[frechet_predict(full, squared), targets].mean(), "msd_loki")
    case.assert_close(squared[full.argmax(1), targets].mean(), "msd_argmax")


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_locus"))
def test_the_locus_grows_by_choices_that_are_as_far(parity, name):
    case = parity("visionlanguage", name)
    edges, seen = case.tensor("edges"), case.tensor("start").long()
    found = [locus(edges, seen)]
    for label, distance in zip(case.tensor("chosen").tolist(), case.tensor("distance").tolist()):
        far = locus_distances(edges, seen)
        assert far[next_label(edges, seen)] == far[label] == far.max() == distance
        seen = torch.cat([seen, torch.tensor([label])])
        found.append(locus(edges, seen))
    case.assert_close(torch.stack(found), "locus")
    case.assert_close(torch.stack(found).sum(1), "sizes")


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "loki_polytope"))
def test_the_gradient_through_the_prediction(parity, name):
    case = parity("visionlanguage", name)
    probabilities = case.tensor("probs").requires_grad_()
    answer = frechet_one_hot(probabilities, case.tensor("dist") ** 2, step=case.options["eta"])
    case.assert_close(answer.detach(), "onehot")
    answer.backward(case.tensor("upstream"))
    case.assert_close(probabilities.grad, "grad")
