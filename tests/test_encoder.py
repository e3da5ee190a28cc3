"""The encoders on which the chapter on frozen features stands."""
from __future__ import annotations

import pytest
import torch

from xfer_course.data import glyphs
from xfer_course.evaluation import predict
from xfer_course.fewshot import (
    ENCODER_SEEDS,
    ENCODER_SOURCES,
    CharacterEncoder,
    character_encoder,
    train_encoder,
)
from xfer_course.training import unit_vectors


def nearest_example(features, drawn) -> float:
    directions, example = unit_vectors(features.flatten(1)), drawn.drawers == 0
    named = drawn.labels[example][(directions[~example] @ directions[example].T).argmax(1)]
    return float((named == drawn.labels[~example]).double().mean())


@pytest.mark.parametrize("source", ENCODER_SOURCES)
def test_shipped_encoders_know_new_characters_better_than_pixels_do(source):
    drawn = glyphs(20, 8, seed=7)
    pixels = nearest_example(torch.nn.functional.avg_pool2d(drawn.images, 2), drawn)
    for seed in range(ENCODER_SEEDS):
        assert nearest_example(predict(character_encoder(seed, source), drawn.images), drawn) > pixels


def test_the_ten_encoders_are_different():
    images = glyphs(3, 1).images
    features = [predict(character_encoder(seed, source), images) for source in ENCODER_SOURCES
                for seed in range(ENCODER_SEEDS)]
    assert all(not torch.allclose(x, y) for i, x in enumerate(features) for y in features[:i])


def test_a_shipped_encoder_is_frozen():
    encoder = character_encoder()
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_training_leaves_a_frozen_encoder_and_repeats_itself():
    drawn = glyphs(4, 6)
    one, again = (train_encoder(drawn.images, drawn.labels, seed=1, epochs=2, batch_size=8) for _ in range(2))
    assert not one.training and not any(p.requires_grad for p in one.parameters())
    for x, y in zip(one.state_dict().values(), again.state_dict().values()):
        assert torch.equal(x, y)
    other = train_encoder(drawn.images, drawn.labels, seed=2, epochs=2, batch_size=8)
    assert not torch.equal(one.blocks[0].weight, other.blocks[0].weight)


@pytest.mark.parametrize("call, says", [
    (lambda: character_encoder(5), "seed must be a whole number from 0 to 4, got 5"),
    (lambda: character_encoder(0, "mnist"), "source must be one of"),
    (lambda: CharacterEncoder()(torch.rand(2, 3, 28, 28)), "images must"),
    (lambda: CharacterEncoder()(torch.rand(2, 1, 7, 28)), "at least 8 pixels high and wide, got 7 x 28"),
    (lambda: train_encoder(torch.rand(4, 1, 28, 28), torch.tensor([0, 1])), "labels must"),
    (lambda: train_encoder(torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), epochs=0), "epochs must"),
], ids=["seed", "source", "colours", "size", "labels", "epochs"])
def test_what_an_encoder_cannot_do_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
