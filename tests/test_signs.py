"""Drawn traffic signs: every class looks different, a scene is a scene, and bad arguments get one sentence."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from xfer_course.data import SIGN_CLASSES, sign_picture, synthetic_signs
from xfer_course.data.signs import _plates


def test_there_are_the_43_classes_of_gtsrb_and_no_two_look_alike():
    assert len(SIGN_CLASSES) == len(set(SIGN_CLASSES)) == 43
    pictures = np.stack([np.asarray(sign_picture(label, 32), np.float32) for label in range(43)])
    assert pictures.shape == (43, 32, 32, 4)
    distances = np.abs(pictures[:, None] - pictures[None]).mean((2, 3, 4))
    assert distances[~np.eye(43, dtype=bool)].min() > 1.0


def test_corners_of_a_sign_are_transparent_and_its_middle_is_not():
    for label in range(43):
        alpha = np.asarray(sign_picture(label, 64))[..., 3]
        assert alpha[0, 0] == alpha[0, -1] == 0 and alpha[32, 32] == 255


def test_a_turn_to_the_left_is_one_to_the_right_mirrored():
    left, right = (np.asarray(sign_picture(SIGN_CLASSES.index(name), 64), np.int16)
                   for name in ("turn left", "turn right"))
    assert np.abs(left - right[:, ::-1]).mean() < 3
    assert np.abs(left - right).mean() > 3


def test_edges_do_not_darken():
    "A white-rimmed sign on white: wherever it is half transparent, the composite stays light."
    plates = _plates(32)
    stop = plates[SIGN_CLASSES.index("stop")]
    soft = (stop[3] > 0.2) & (stop[3] < 0.8)
    assert soft.any()
    assert ((1 - stop[3]) + stop[:3]).amin(0)[soft].median() > 0.85


def test_scenes_repeat_with_the_seed_and_vary_with_it():
    one, again, other = synthetic_signs(50, seed=1), synthetic_signs(50, seed=1), synthetic_signs(50, seed=2)
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, other.labels)
    assert one.images.shape == (50, 3, 32, 32) and one.images.dtype == torch.float32
    assert 0 <= one.images.min() and one.images.max() <= 1
    assert synthetic_signs(3, size=40).images.shape == (3, 3, 40, 40)


def test_classes_are_equally_likely_and_can_be_told_apart():
    train, test = synthetic_signs(6000, seed=0), synthetic_signs(1000, seed=1)
    counts = torch.bincount(train.labels, minlength=43)
    assert counts.min() > 90 and counts.max() < 190  # 140 each, five standard deviations
    pixels = [part.images.flatten(1) for part in (train, test)]
    flat = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in pixels]
    centres = torch.stack([flat[0][train.labels == label].mean(0) for label in range(43)])
    found = torch.cdist(flat[1], centres).argmin(1)
    assert (found == test.labels).double().mean() > 10 / 43


@pytest.mark.parametrize("name, call, message", [
    ("no such class", lambda: sign_picture(43), "label must be a whole number from 0 to 42, got 43"),
    ("no size", lambda: sign_picture(0, 0), "size must be a whole number of at least 1, got 0"),
    ("no images", lambda: synthetic_signs(0), "n must be a whole number of at least 1, got 0"),
    ("too small", lambda: synthetic_signs(1, size=4), "size must be a whole number of at least 8, got 4"),
    ("negative seed", lambda: synthetic_signs(1, seed=-1), "seed must be a whole number of at least 0, got -1"),
])
def test_bad_input(name, call, message):
    with pytest.raises(ValueError, match=message):
        call()
