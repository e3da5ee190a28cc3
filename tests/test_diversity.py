"""Votes, averages and soft targets of BANG: limits, one step against a naive reference, exact cases, bad input."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.data import Images
from xfer_course.evaluation import accuracy
from xfer_course.merging import (
    agreement,
    averaged_weights,
    balanced_step,
    colour_network,
    feature_votes,
    fine_tune,
    mixup,
    multicolour_digits,
    output_weights,
    right_votes,
    signal_to_noise,
    smooth_labels,
    vote_scores,
)


def test_spurious_votes_follow_p():
    labels = torch.randint(5, (20_000,), generator=torch.Generator().manual_seed(0))
    votes = feature_votes(labels, 5, 2, 3, p=0.5)
    right = (votes == labels[:, None]).double().mean(0)
    assert right[:2].tolist() == [1, 1]
    np.testing.assert_allclose(right[2:], 0.5 + 0.5 / 5, atol=0.015)  # the true class is among those drawn
    assert (feature_votes(labels, 5, 2, 3, p=0.0) == labels[:, None]).all()


def test_two_equal_masks_are_one_network():
    mask = torch.tensor([1.0, 0, 1, 1])
    votes = torch.randint(3, (50, 4))
    alone = vote_scores(votes, mask, 3)
    for weights in (output_weights(mask, mask), averaged_weights(mask, mask)):
        torch.testing.assert_close(vote_scores(votes, weights, 3), alone)


@pytest.mark.parametrize("shared", [0, 2, 6])
def test_signal_to_noise_is_the_fraction_of_the_paper(shared):
    first, second = torch.zeros(16), torch.zeros(16)
    first[:4], second[2:4] = 1, 1                                  # 4 and 2 invariant features, 2 in common
    first[4:10], second[10 - shared : 16 - shared] = 1, 1          # 6 and 6 spurious ones
    assert signal_to_noise(first, 4) == pytest.approx(4 / math.sqrt(6))
    assert signal_to_noise(output_weights(first, second), 4) == pytest.approx(6 / math.sqrt(12 + 2 * shared))
    assert signal_to_noise(averaged_weights(first, second), 4) == pytest.approx(10 / math.sqrt(12 + 14 * shared))
    assert signal_to_noise(torch.ones(2), 2) == math.inf


def test_ties_are_wrong_or_shared():
    scores = torch.tensor([[2.0, 2, 0], [1, 3, 0], [1 / 3 + 1 / 3 + 1 / 3, 1, 0]])
    labels = torch.tensor([0, 1, 1])
    assert right_votes(scores, labels).tolist() == [0, 1, 0]
    assert right_votes(scores, labels, "shared").tolist() == [0.5, 1, 0.5]


def test_agreement_counts():
    labels = torch.tensor([0, 0, 0, 0])
    found = agreement(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]), torch.tensor([1, 0, 0, 0]), labels)
    assert found == (4, 2, 3, 3, 1, 1) and found.net == 0


def test_a_step_is_the_naive_one():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    loss, _ = balanced_step(model, 4, smoothing=0.2, mixing=0.0)((x, y), 0.0)
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y, label_smoothing=0.2))
    mixed, targets = mixup(x, smooth_labels(y, 4, 0.0), 0.3, torch.tensor([1, 0, 2, 4, 3]))
    one_by_one = [-(t * F.log_softmax(model(row), 0)).sum() for row, t in zip(mixed, targets)]
    torch.testing.assert_close(F.cross_entropy(model(mixed), targets), torch.stack(one_by_one).mean())
    torch.testing.assert_close(mixed[0], 0.3 * x[0] + 0.7 * x[1])


@pytest.mark.parametrize("mixing", [1e-3, 0.2, 1.0, 50.0])
def test_shares_are_of_the_beta_distribution(mixing):
    "Seen through a model that returns its inputs: the mean of x over one of two rows."
    step = balanced_step(nn.Identity(), 2, 0.0, mixing)
    x, y = torch.tensor([[0.0, 0.0], [100.0, -100.0]]), torch.tensor([1, 0])
    losses = torch.stack([step((x, y), 0.0)[0] for _ in range(300)])
    assert losses.isfinite().all()


def test_colours_follow_the_digit_where_they_shall():
    one, other = (multicolour_digits(300, 0.0, seed, informative=slice(2), patches=4, noise=0.0) for seed in (0, 1))
    colours = one.images[:, 196:].view(300, 4, 3)
    for digit in range(10):
        rows = colours[one.labels == digit]
        assert (rows[:, :2] == rows[0, :2]).all()
        elsewhere = other.images[:, 196:].view(300, 4, 3)[other.labels == digit]
        torch.testing.assert_close(elsewhere[0, :2], rows[0, :2])
    assert len(colours[:, 3].unique(dim=0)) == 10


def test_a_network_learns_from_colours_and_its_start_stays():
    start = colour_network(hidden=32)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    tuned = fine_tune(start, multicolour_digits(400, 0.0), steps=60, rate=3e-3, smoothing=0.1, mixing=0.2)
    assert accuracy(tuned, *multicolour_digits(300, 0.0, 1, "test")) > 0.6
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


BAD = {
    "p": (lambda: feature_votes(torch.tensor([0]), 2, 1, 1, 1.5), r"p must be .*, got 1\.5"),
    "classes": (lambda: feature_votes(torch.tensor([2]), 2, 1, 1, 0.5), "labels must"),
    "weights": (lambda: vote_scores(torch.zeros(2, 3, dtype=torch.long), torch.ones(2), 2), "weights must"),
    "ties": (lambda: right_votes(torch.ones(1, 2), torch.tensor([0]), "half"), "ties must be .*, got 'half'"),
    "invariant": (lambda: signal_to_noise(torch.ones(2), 3), "invariant must be .*, got 3"),
    "masks": (lambda: output_weights(torch.ones(2), torch.ones(3)), "second must"),
    "order": (lambda: mixup(torch.ones(2, 1), torch.ones(2, 2), 0.5, torch.tensor([0, 2])), "order must"),
    "share": (lambda: mixup(torch.ones(2, 1), torch.ones(2, 2), 1.5, torch.tensor([0, 1])), r"share must .* got 1\.5"),
    "targets": (lambda: mixup(torch.ones(2, 1), torch.ones(3, 2), 0.5, torch.tensor([0, 1])), "targets must"),
    "informative": (lambda: multicolour_digits(2, 0.0, informative=16), "informative must be a slice"),
    "labels": (lambda: fine_tune(nn.Linear(2, 2), Images(torch.ones(3, 2), torch.tensor([0, 1, 2]))), "labels must"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_a_sentence(name):
    call, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_classes_do_not_wrap_around_in_narrow_labels():
    narrow = torch.tensor([44], dtype=torch.uint8)
    found = agreement(torch.tensor([300]), torch.tensor([44]), torch.tensor([44]), narrow)
    assert (found.first, found.second) == (0, 1)
