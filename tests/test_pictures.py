"""The picture generator: deterministic, labelled, and honest about bad input."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from xfer_course.pictures import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    POSITIONS,
    SHAPES,
    SHIFTS,
    SIZES,
    STYLES,
    TEXTURES,
    caption,
    distance_fields,
    draw_factors,
    few_shot_tasks,
    pictures,
    shifted,
    synonyms,
)

FACTORS = {"shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": tuple(SIZES),
           "position": tuple(POSITIONS),
           "count": COUNTS, "background": BACKGROUNDS, "style": STYLES}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_pictures_whatever_was_drawn_before():
    first = pictures(20, seed=4)
    torch.rand(3), np.random.rand(3)
    again, other = pictures(20, seed=4), pictures(20, seed=5)
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    assert not torch.equal(first.images, other.images) and first.captions != other.captions


def test_all_shapes_differ_and_are_neither_empty_nor_full():
    inside = distance_fields() > 0
    assert len(SHAPES) >= 60 and len(set(SHAPES)) == len(SHAPES)
    share = inside.float().mean((1, 2))
    assert share.min() > 0.04 and share.max() < 0.7
    overlap = inside.flatten(1).float()
    union = overlap.sum(1)[:, None] + overlap.sum(1)[None] - overlap @ overlap.T
    likeness = (overlap @ overlap.T / union).fill_diagonal_(0)
    assert likeness.max() < 0.95


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_can_be_fixed_and_is_labelled(factor):
    value = FACTORS[factor][-1]
    drawn = draw_factors(50, generator(), **{factor: value})
    assert set(getattr(drawn, factor).tolist()) == {len(FACTORS[factor]) - 1}
    assert drawn.names(0)[factor] == value


def test_factors_are_independent():
    drawn = draw_factors(20_000, generator())
    for a in ("shape", "colour", "size"):
        for b in ("texture", "position", "count", "style"):
            x, y = getattr(drawn, a).double(), getattr(drawn, b).double()
            assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.03


def test_colour_and_position_can_be_measured_in_the_picture():
    left = pictures(20, seed=1, style="photo", position="left", colour="red", texture="plain", count=1,
                    background="light").images
    right = pictures(20, seed=1, style="photo", position="right", colour="red", texture="plain", count=1,
                     background="light").images
    redness = [(images[:, 0] - images[:, 2]).clamp(min=0.3) for images in (left, right)]
    middles = [(r * torch.linspace(-1, 1, 64)).sum((1, 2)) for r in redness]
    assert (middles[0] < 0).all() and (middles[1] > 0).all()


def test_values_sizes_and_other_resolutions():
    for size in (32, 64, 96):
        images = pictures(6, seed=0, pixels=size).images
        assert (images.shape == (6, 3, size, size) and images.isfinite().all() and 0 <= images.min()
                and images.max() <= 1)


def test_captions_say_only_what_is_true():
    drawn = pictures(300, seed=2)
    for i, text in enumerate(drawn.captions):
        values = drawn.factors.names(i)
        for colour in COLOURS:
            if colour != values["colour"]:
                assert f" {colour} " not in f" {text} "
    rng = np.random.default_rng(0)
    texts = {caption(drawn.factors.names(0), rng) for _ in range(200)}
    assert len(texts) > 50
    assert synonyms("colour", "red")[0] == "red"


def test_shifts_keep_shape_and_range_and_depend_on_the_seed_only():
    images = pictures(4, seed=0).images
    for kind in SHIFTS:
        one, two = shifted(images, kind, seed=3), shifted(images, kind, seed=3)
        assert torch.equal(one, two) and one.shape == images.shape and 0 <= one.min() and one.max() <= 1
        torch.testing.assert_close(shifted(images, kind, strength=0.0), images)
        assert (one - images).abs().mean() > 0.02


def test_tasks_are_balanced_repeatable_and_apart():
    development, held_out = few_shot_tasks(), few_shot_tasks("held_out")
    assert len(development) >= 3 and len(held_out) >= 3 and not set(development) & set(held_out)
    seeds = [task.seed for task in (*development.values(), *held_out.values())]
    assert len(set(seeds)) == len(seeds)
    for task in (*development.values(), *held_out.values()):
        train, test = task.draw(2, seed=1), task.draw(2, seed=1, part="test")
        assert torch.bincount(train.labels).tolist() == [2] * len(task.classes)
        assert len(set(task.classnames)) == len(task.classes)
        assert torch.equal(train.images, task.draw(2, seed=1).images) and not torch.equal(train.images, test.images)


@pytest.mark.parametrize("call, says", [
    (lambda: pictures(0), "at least 1"),
    (lambda: pictures(3, shape="unicorn"), "unicorn"),
    (lambda: pictures(3, shape=()), "shape"),
    (lambda: pictures(3, mood="happy"), "mood"),
    (lambda: pictures(3, pixels=63), "multiple of 4"),
    (lambda: synonyms("colour", "infrared"), "infrared"),
    (lambda: shifted(torch.rand(2, 3, 8, 8), "blur"), "blur"),
    (lambda: shifted(torch.rand(2, 3, 8, 8), "noise", strength=2.0), "strength"),
    (lambda: shifted(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "noise"), "float"),
    (lambda: few_shot_tasks("secret"), "secret"),
    (lambda: few_shot_tasks()["tools"].draw(0), "per_class"),
    (lambda: few_shot_tasks()["tools"].draw(1, part="dev"), "dev"),
])
def test_bad_input_is_refused_in_one_sentence(call, says):
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
