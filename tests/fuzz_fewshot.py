"""How fuzzing calls the public functions of the chapter fewshot."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from drawing import any_images, any_int, any_labels, fuzz, images
from xfer_course import fewshot

# --- the encoder

LABELS = st.just(torch.tensor([0, 1, 0, 1]))
ANY_SOURCE = st.sampled_from(("mnist", None, 1))

fuzz("CharacterEncoder", lambda x: fewshot.CharacterEncoder()(x), {"x": images(c=(1, 1), size=(8, 12))},
     {"x": any_images}, lambda r, a: r.shape == (len(a["x"]), 64))
fuzz("character_encoder", fewshot.character_encoder, {"seed": st.integers(0, 4), "source": st.just("glyphs")},
     {"seed": any_int, "source": ANY_SOURCE}, lambda r, a: not any(p.requires_grad for p in r.parameters()))
fuzz("train_encoder", lambda images, labels, seed: fewshot.train_encoder(images, labels, seed=seed, epochs=1),
     {"images": images(n=(4, 4), c=(1, 1), size=(8, 8)), "labels": LABELS, "seed": st.just(0)},
     {"images": any_images, "labels": any_labels, "seed": any_int}, lambda r, a: not r.training)
