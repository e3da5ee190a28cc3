"""Moment probing and the small Transformer: shapes, exact cases, refusals."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xfer_course.peft import (
    MomentHead,
    RecalibratedBlock,
    Recalibration,
    TokenTransformer,
    cross_moments,
    digit_task,
    digit_transformer,
    head_pairs,
    recalibrate,
    train_on,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Cross-moments

def test_a_covariance_is_numpys():
    a, b = normal(1, 20, 3), normal(1, 20, 2, seed=1)
    together = torch.cat([a, b], 2)[0].T
    torch.testing.assert_close(cross_moments(a, b, "token")[0], torch.cov(together, correction=0)[:3, 3:])


def test_the_released_form_takes_one_number_off_each_example():
    a, b = normal(4, 6, 3), normal(4, 6, 5, seed=1)
    shifted = a + torch.arange(4.0).view(4, 1, 1)  # another number for each example, the same for all features
    torch.testing.assert_close(cross_moments(shifted, b), cross_moments(a, b))
    assert not torch.allclose(cross_moments(a + torch.tensor([3.0, 0, 0]), b), cross_moments(a, b), atol=0.1)


def test_means_are_blind_to_what_second_moments_see():
    "Tokens with equal means and opposite covariances: the sign of one entry decides."
    x = normal(50, 200, 1)
    up, down = torch.cat([x, x], 2), torch.cat([x, -x], 2)
    assert (cross_moments(up[..., :1], up[..., 1:]) > 0).all()
    assert (cross_moments(down[..., :1], down[..., 1:]) < 0).all()


@pytest.mark.parametrize("heads, pairs, expected", [
    (4, "near", [(0, 1), (1, 2), (2, 3)]), (4, "half", [(0, 2), (1, 3)]), (3, "all", [(0, 1), (0, 2), (1, 2)])])
def test_pairs_of_heads(heads, pairs, expected):
    assert head_pairs(heads, pairs) == expected


@pytest.mark.parametrize("call, words", [
    (lambda: cross_moments(normal(2, 5, 3), normal(2, 4, 3)), "b must"),
    (lambda: cross_moments(normal(2, 5, 3), normal(2, 5, 3), "mean"), "centre must"),
    (lambda: head_pairs(1), "heads must"), (lambda: head_pairs(3, "half"), "heads must be even"),
    (lambda: head_pairs(4, "n/2"), "pairs must"),
    (lambda: MomentHead(8, 3, hidden=30, heads=4), "hidden must"),
    (lambda: MomentHead(8, 3, hidden=24, heads=4), "hidden must give heads of at least 7"),
    (lambda: MomentHead(8, 3, reduce="pool"), "reduce must"), (lambda: MomentHead(8, 3, fuse="max"), "fuse must"),
    (lambda: MomentHead(8, 3)(normal(2, 1, 8)), "tokens must hold the class token and at least one more"),
    (lambda: Recalibration(8, 0), "rank must"), (lambda: TokenTransformer(patch=3), "patch must divide size"),
    (lambda: digit_task("middle"), "name must"), (lambda: digit_task("near", 672), "labels must"),
    (lambda: train_on(nn.Linear(2, 2), normal(4, 2), torch.zeros(4, dtype=torch.long), rate=0), "rate must"),
    (lambda: train_on(nn.Linear(2, 2), normal(4, 2), torch.tensor([0, 1, 2, 0]), rate=0.1),
     "labels must be .* below 2, got 2"),
    (lambda: train_on(nn.Linear(2, 1), normal(4, 2), torch.tensor([0, 1, 1, 0]), rate=0.1), "what model returns"),
    (lambda: train_on(nn.Flatten(), normal(4, 2), torch.tensor([0, 1, 1, 0]), rate=0.1), "model must have"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_blocks_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="block must"):
        RecalibratedBlock(nn.Linear(4, 4))


# The head

def test_the_second_moments_leave_the_class_token_out():
    head, tokens = MomentHead(8, 3, hidden=32, reduce="none", fuse="second"), normal(2, 6, 8)
    other = tokens.clone()
    other[:, 0] = 0
    torch.testing.assert_close(head(tokens), head(other))


def test_the_sum_is_twice_the_mean():
    head = MomentHead(8, 3, hidden=32)
    twice = copy.deepcopy(head)
    twice.fuse = "sum"
    torch.testing.assert_close(twice(normal(2, 6, 8)), 2 * head(normal(2, 6, 8)))


def test_the_papers_head_has_the_papers_numbers():
    "README of the authors: 3.65 million for ViT-B/16 and 1000 classes, the projection not counted."
    head = MomentHead(768, 1000)
    numbers = sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in head.project.parameters())
    assert round(numbers / 1e6, 2) == 3.65


# Recalibration

def test_a_start_at_zero_changes_nothing_and_only_recalibration_learns():
    network = TokenTransformer()
    images = normal(3, 1, 8, 8)
    before = network.tokens(images).detach()
    network.requires_grad_(False).blocks = recalibrate(network.blocks, rank=4, zero_start=True)
    torch.testing.assert_close(network.tokens(images), before)
    kept = copy.deepcopy(network.blocks[0].block.state_dict())
    model = nn.Sequential(network, nn.Linear(32, 2))
    train_on(model, images, torch.tensor([0, 1, 0]), rate=0.01, epochs=2)
    assert all(torch.equal(value, kept[name]) for name, value in network.blocks[0].block.state_dict().items())
    assert network.blocks[0].recalibration.up_bias.weight.abs().max() > 0


# The network and its tasks

def test_layers_end_in_the_tokens():
    network = TokenTransformer(layers=2).eval()
    layers = network.layers(normal(2, 1, 8, 8))
    assert len(layers) == 3 and layers[0].shape == (2, 17, 32)
    torch.testing.assert_close(network.norm(layers[-1])[:, 0], network(normal(2, 1, 8, 8)))


def test_tasks_hold_no_picture_of_the_pretraining_and_repeat_themselves():
    from xfer_course.data import digits

    seen = {image.numpy().tobytes() for image in digits("train", size=8, channels=1).images[::2]}
    task = digit_task("near", 671)
    own = {image.numpy().tobytes() for image in digits("train", size=8, channels=1).images[1::2]}
    assert {image.numpy().tobytes() for image in task.train.images} == own
    assert len(own & seen) < 0.01 * len(own)  # a few digits occur twice in the set
    assert torch.equal(digit_task("far", 20, 3).train.labels, digit_task("far", 20, 3).train.labels)
    assert torch.equal(digit_task("far", 20, 3).test.images, digit_task("far", 20, 4).test.images)


def test_pretraining_repeats_itself():
    first, again = digit_transformer(1, epochs=1), digit_transformer(1, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not first.training
