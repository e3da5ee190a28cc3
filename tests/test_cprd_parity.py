"""Partial ranking distillation against arrays of an independent implementation: every case of the kinds `cprd_*`. No
authors' code was found, so the rule of what is valid (a teacher's logit above 0) is the cases' own."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.visionlanguage import by_teacher, hard_candidates, partial_ranking_loss


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "cprd"))
def test_candidates_order_and_loss(parity, name):
    case = parity("visionlanguage", name)
    similarities = case.tensor("image") @ case.tensor("text").T
    candidates = hard_candidates(similarities, case.tensor("positive"), case.options["K"])
    assert torch.equal(candidates, case.tensor("candidates"))
    ranked, scores = by_teacher(candidates, case.tensor("teacher"))
    assert torch.equal(ranked, case.tensor("ranked"))
    rule, threshold = case.options["valid_rule"].split(" > ")
    assert rule == "teacher logit"
    valid = (scores > float(threshold)).sum(1)
    assert torch.equal(valid, case.tensor("n_valid"))
    scaled = case.tensor("scale") * similarities.gather(1, ranked)
    case.assert_close(partial_ranking_loss(scaled, valid, reduction="none"), "loss_per_image")
    case.assert_close(partial_ranking_loss(scaled, valid), "loss")
