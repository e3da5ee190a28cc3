"""Pretraining of a CLIP on drawn pictures: refusals before anything is trained, and answers that are no numbers."""
from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from xfer_course.clip import (
    CLIP,
    LARGEST_SEED,
    CaptionedBatches,
    CLIPConfig,
    Tokenizer,
    named_factor,
    preprocess,
    pretrain,
    tiny_clip,
    tiny_vit_clip,
)
from xfer_course.data.captioned import pictures

SMALL = CLIPConfig(embed_dim=8, image_resolution=16, vision_layers=1, vision_width=16, vision_patch_size=8,
                   context_length=96, vocab_size=520, transformer_width=16, transformer_layers=1)
DRAWN = pictures(20, seed=2**31 + 1)


def model(merges: tuple = (), **changes) -> CLIP:
    torch.manual_seed(0)
    return CLIP(replace(SMALL, **changes), Tokenizer(merges, context_length=96)).eval()


def train(clip, **options):
    return pretrain(clip, **{"steps": 2, "parts": 1, "batch_size": 3, "device": "cpu", "precision": "no",
                             "progress": False} | options)


@pytest.mark.parametrize("options, words", [
    ({"steps": 5, "parts": 20}, "steps must be a multiple of parts, 20, got 5"),
    ({"steps": 5, "parts": 3}, "steps must be a multiple of parts, 3, got 5"),
    ({"precision": "fp32"}, "precision must be one of 'no', 'bf16', 'fp16', got 'fp32'"),
    ({"teacher": model(embed_dim=4)}, "teacher must have 8 dimensions as clip has, got 4"),
    ({"teacher": model((("a", "b"),))}, "teacher must have the tokenizer of clip"),
    ({"teacher": model(image_mean=(0.5, 0.5, 0.5))}, "teacher must have image_mean .* got .0.5, 0.5, 0.5."),
    ({"teacher": model(image_resolution=32)}, "teacher must have image_resolution 16 as clip has, got 32"),
    ({"teacher": model().train()}, "teacher must be in evaluation mode.*call teacher.eval"),
])
def test_what_would_train_on_something_else_is_refused(options, words):
    clip = model().train()
    before = copy.deepcopy(clip.state_dict())
    with pytest.raises(ValueError, match=words) as refusal:
        train(clip, **options)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(each, before[name]) for name, each in clip.state_dict().items())


def test_a_pupil_must_be_a_clip_that_can_read():
    with pytest.raises(TypeError, match="clip must be a CLIP, got str"):
        train("ViT-B/32")
    with pytest.raises(ValueError, match="clip must have a tokenizer"):
        train(CLIP(SMALL))


def test_steps_are_as_many_as_were_asked_for_and_a_teacher_stays():
    teacher = model()
    before = copy.deepcopy(teacher.state_dict())
    assert len(train(model().train(), steps=4, parts=2, teacher=teacher).loss) == 4
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())


@pytest.mark.parametrize("number", [-1, 2**31])
def test_pictures_of_tests_are_no_batches(number):
    with pytest.raises(ValueError, match="i must be a whole number from 0 to"):
        CaptionedBatches(model(), 2)[number]


@pytest.mark.parametrize("part, words", [("visual.proj", "features of pictures"), ("text_projection", "of sentences")])
def test_features_that_are_no_numbers_have_no_score(part, words):
    clip = model()
    clip.get_parameter(part).data.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"{words} must be finite, got nan"):
        named_factor(clip, DRAWN, "shape")


def test_a_score_does_not_depend_on_the_precision():
    scores = {named_factor(model().to(dtype), DRAWN, "count") for dtype in (torch.float32, torch.float64)}
    assert len(scores) == 1


def test_the_shipped_transformer_reads_what_its_teacher_reads():
    teacher, pupil = tiny_clip(), tiny_vit_clip()
    assert not any(p.requires_grad for p in pupil.parameters()) and pupil.config.vision_patch_size == 8
    drawn = pictures(64, seed=LARGEST_SEED + 7)
    images = preprocess(drawn.images, pupil.config)
    for part in ("encode_image", "encode_text"):
        given = images if part == "encode_image" else pupil.tokenizer(drawn.captions)
        one, other = (F.normalize(getattr(clip, part)(given).float(), dim=-1) for clip in (teacher, pupil))
        assert (one * other).sum(1).mean() > 0.5  # far from the 0 of towers that know nothing of each other
