"""How fuzzing calls the public functions of the chapter fewshot."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from drawing import (
    NOT_DRAWN,
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    class_numbers,
    fuzz,
    images,
    small_int,
    vectors,
)
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


# --- TEEN

NOT_DRAWN.update(["Calibration", "Session", "SessionScores"])
KNOB, TAU = st.floats(0, 1), st.floats(0, 64)
NUMBERS, ANY_NUMBERS = st.just([0.5, 1.0, 0.0]), st.lists(any_float, max_size=4)
FEW, ANY_FEW = st.just(torch.arange(4).repeat(5)), any_labels
ANY_BASE = st.lists(small_int, max_size=4) | any_labels


def teen(features, labels, new, weight, temperature):
    model = fewshot.TEEN(weight, temperature).fit(features, labels)
    return model.partial_fit(new, [7] * len(new)).predict(features)


fuzz("calibrate_prototypes", fewshot.calibrate_prototypes,
     {"new": vectors(3, 4), "base": vectors(5, 4), "weight": KNOB, "temperature": TAU},
     {"new": any_vectors, "base": any_vectors, "weight": any_float, "temperature": any_float},
     lambda r, a: r.shape == a["new"].shape and bool((torch.as_tensor(r).norm(dim=1) < 1.05).all()))
fuzz("harmonic_mean", fewshot.harmonic_mean, {"seen": NUMBERS, "unseen": NUMBERS},
     {"seen": ANY_NUMBERS | any_float, "unseen": ANY_NUMBERS | any_float},
     lambda r, a: bool((torch.tensor(r) >= 0).all()))
fuzz("session_scores", fewshot.session_scores,
     {"labels": class_numbers(8, 3).map(lambda y: torch.cat([y, torch.tensor([0, 3])])),
      "predictions": class_numbers(10, 5), "base": st.just([0, 1])},
     {"labels": any_labels, "predictions": any_labels, "base": ANY_BASE}, lambda r, a: 0 <= min(r) <= max(r) <= 1)
fuzz("incremental_sessions", fewshot.incremental_sessions,
     {"labels": FEW, "base": st.just([0]), "way": st.integers(1, 3), "shot": st.integers(1, 4), "seed": st.just(0)},
     {"labels": ANY_FEW, "base": ANY_BASE, "way": small_int, "shot": small_int, "seed": any_int},
     lambda r, a: all(len(each.classes) == a["way"] for each in r))
fuzz("TEEN", teen, {"features": vectors(6, 3), "labels": st.just([0, 1, 2, 0, 1, 2]), "new": vectors(2, 3),
                    "weight": KNOB, "temperature": TAU},
     {"features": any_vectors, "labels": any_labels, "new": any_vectors, "weight": any_float, "temperature": any_float},
     lambda r, a: len(r) == len(a["features"]))
fuzz("choose_calibration", fewshot.choose_calibration,
     {"features": vectors(20, 3), "labels": FEW, "shot": st.integers(1, 2), "share": st.floats(0.1, 0.6),
      "draws": st.integers(1, 2), "weights": st.just([0.0, 0.5]), "temperatures": st.just([4.0]), "seed": st.just(0)},
     {"features": any_vectors, "labels": any_labels, "shot": small_int, "share": any_float, "draws": small_int,
      "weights": ANY_NUMBERS, "temperatures": ANY_NUMBERS, "seed": any_int},
     lambda r, a: r.harmonic.shape == (len(a["weights"]), len(a["temperatures"])))


# --- the key-value bottleneck

CODES = st.just(torch.tensor([[[0], [1]], [[3], [2]]]))


def bottleneck(x, dim_in, num_codebooks, num_pairs, dim_key, dim_value, decay, k, seed):
    model = fewshot.KeyValueBottleneck(dim_in, num_codebooks, num_pairs, dim_key, dim_value, decay, k=k, seed=seed)
    return model.place_keys(x, 2, 2)(x)


SIZES = ("dim_in", "num_codebooks", "num_pairs", "dim_key", "dim_value")
fuzz("KeyValueBottleneck", bottleneck,
     {"x": vectors(5, 3), "dim_in": st.just(3), **dict.fromkeys(SIZES[1:], st.integers(1, 4)),
      "decay": st.floats(0, 0.99), "k": st.just(1), "seed": st.just(0)},
     {"x": any_vectors, **dict.fromkeys(SIZES, small_int), "decay": any_float, "k": small_int, "seed": any_int},
     lambda r, a: r.shape == (len(a["x"]), a["num_codebooks"], a["dim_value"]))
fuzz("voting_logits", fewshot.voting_logits, {"values": vectors(6, 4).map(lambda x: x.view(3, 2, 4))},
     {"values": any_tensor}, lambda r, a: r.shape == (len(a["values"]), a["values"].shape[2]))
fuzz("fit_values", lambda features, labels, **options: fewshot.fit_values(
    fewshot.KeyValueBottleneck(3, 2, 4, 2, 5), features, labels, **options),
     {"features": vectors(4, 3), "labels": class_numbers(4, 5), "epochs": st.integers(1, 2), "lr": st.floats(0.1, 2),
      "batch_size": st.integers(1, 5), "label_smoothing": st.floats(0, 0.5), "clip_norm": st.none(),
      "seed": st.just(0)},
     {"features": any_vectors, "labels": any_labels, "epochs": st.integers(-1, 2), "lr": any_float,
      "batch_size": small_int, "label_smoothing": any_float, "clip_norm": any_float, "seed": any_int},
     lambda r, a: len(r.loss) > 0)
fuzz("class_counts", fewshot.class_counts,
     {"codes": CODES, "labels": class_numbers(2, 3), "num_pairs": st.just(4), "num_classes": st.none() | st.just(3)},
     {"codes": any_tensor, "labels": any_labels, "num_pairs": small_int, "num_classes": small_int},
     lambda r, a: r.sum() == a["codes"].numel())
fuzz("shared_codes", fewshot.shared_codes, {"counts": CODES}, {"counts": any_tensor}, lambda r, a: 0 <= r <= 1)
