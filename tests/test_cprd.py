"""Partial ranking distillation: hard negatives, the teacher's order, what the loss asks for, and bad input."""
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from xfer_course.visionlanguage import CrossEncoder, by_teacher, hard_candidates, partial_ranking_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_the_right_one_and_what_is_as_right_are_no_candidates():
    similarities = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.2, 0.9, 0.5, 0.6]])
    assert hard_candidates(similarities, torch.tensor([0, 1]), 2).tolist() == [[1, 2], [3, 2]]
    correct = torch.tensor([[False, True, False, False], [False, False, False, False]])
    assert hard_candidates(similarities, torch.tensor([0, 1]), 2, correct=correct).tolist() == [[2, 3], [3, 2]]


def test_candidates_come_in_the_teachers_order_and_ties_stay_as_they_are():
    ranked, scores = by_teacher(torch.tensor([[3, 0, 1]]), torch.tensor([[2.0, 5.0, 9.0, 2.0]]))
    assert ranked.tolist() == [[1, 3, 0]] and scores.tolist() == [[5, 2, 2]]


def test_each_valid_one_is_a_softmax_against_those_behind_it():
    s, valid = drawn(3, 4), torch.tensor([0, 2, 4])
    expected = [sum(-s[i, j:].log_softmax(0)[0] for j in range(count)) for i, count in enumerate(valid.tolist())]
    losses = partial_ranking_loss(s, valid, reduction="none")
    torch.testing.assert_close(losses, torch.stack([torch.as_tensor(each, dtype=torch.double) for each in expected]))
    assert losses[0] == 0 and partial_ranking_loss(s, valid) == losses.mean()


def test_one_valid_candidate_is_the_contrastive_loss():
    s = drawn(5, 3)
    torch.testing.assert_close(partial_ranking_loss(s, torch.ones(5).long()), F.cross_entropy(s, torch.zeros(5).long()))


def test_the_last_of_a_whole_order_costs_nothing():
    s = drawn(2, 4)
    whole, but_one = (partial_ranking_loss(s, torch.full((2,), count)) for count in (4, 3))
    torch.testing.assert_close(whole, but_one)


def test_the_gradient_does_not_order_invalid_ones_among_each_other():
    "Two invalid candidates that are equally similar get the same slope, whatever the teacher thinks of them."
    s = torch.tensor([[1.0, 0.3, 0.3]], requires_grad=True)
    partial_ranking_loss(s, torch.tensor([1])).backward()
    assert s.grad[0, 1] == s.grad[0, 2] > 0 > s.grad[0, 0]


@pytest.mark.parametrize("size", (1e4, -1e4))
def test_large_similarities_stay_finite(size):
    assert torch.isfinite(partial_ranking_loss(size * drawn(2, 4), torch.tensor([2, 4])))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_summed_in_single(dtype):
    s, valid = drawn(3, 4).to(dtype), torch.tensor([1, 2, 4], dtype=torch.int32)
    found = partial_ranking_loss(s, valid)
    assert found.dtype == torch.float32 and found == partial_ranking_loss(s.float(), valid)


def test_ties_of_the_student_give_distinct_negatives():
    found = hard_candidates(torch.zeros(2, 5), torch.tensor([0, 4]), 4)
    assert [sorted(row) for row in found.tolist()] == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_a_cross_encoder_reads_both_and_learns_what_two_means_cannot():
    "Whether a word's sign equals the sign of the patch at the same place: no sum over both alone tells."
    torch.manual_seed(0)
    patches, words = torch.randn(256, 1, 4).sign(), torch.randn(256, 1, 4).sign()
    labels = (patches[:, 0, 0] == words[:, 0, 0]).float()
    cross = CrossEncoder(4, 4, width=16, layers=1, heads=2)
    optimizer = torch.optim.Adam(cross.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(cross(patches, words), labels).backward()
        optimizer.step()
    assert ((cross(patches, words) > 0) == labels.bool()).double().mean() > 0.95


def test_bad_input_is_named():
    s, positives, cross = drawn(2, 4), torch.tensor([0, 1]), CrossEncoder(4, 4, width=8)
    for call, sentence in (
        (lambda: hard_candidates(s, positives, 4), "k .*must be"),
        (lambda: hard_candidates(s, positives, 0), "k .*must be"),
        (lambda: hard_candidates(s, torch.tensor([0, 4]), 2), "positives"),
        (lambda: hard_candidates(s, positives, 2, correct=torch.zeros(2, 4)), "correct"),
        (lambda: hard_candidates(s, positives, 2, correct=torch.ones(2, 4).bool()), "got none in row 0"),
        (lambda: hard_candidates(s.masked_fill(s > 0, -torch.inf), positives, 2), "similarities must be finite"),
        (lambda: partial_ranking_loss(s.masked_fill(s > 0, -torch.inf), positives), "similarities must be finite"),
        (lambda: partial_ranking_loss(s, torch.tensor([True, False])), "valid"),
        (lambda: cross(torch.rand(2, 3, 4).double(), torch.rand(2, 3, 4)), "patches must be torch.float32"),
        (lambda: hard_candidates(s * torch.nan, positives, 2), "similarities"),
        (lambda: by_teacher(torch.tensor([[4], [0]]), s), "candidates"),
        (lambda: by_teacher(torch.tensor([[0]]), s), "candidates"),
        (lambda: partial_ranking_loss(s, torch.tensor([5, 0])), "valid"),
        (lambda: partial_ranking_loss(s, torch.tensor([1.0, 0.0])), "valid"),
        (lambda: partial_ranking_loss(s, torch.tensor([1])), "valid"),
        (lambda: partial_ranking_loss(s, torch.tensor([1, 1]), reduction="sum"), "reduction"),
        (lambda: cross(torch.rand(2, 3, 5), torch.rand(2, 3, 4)), "patches"),
        (lambda: cross(torch.rand(2, 3, 4), torch.rand(1, 3, 4)), "words"),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            call()
