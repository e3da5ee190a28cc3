"""How fuzzing calls the public functions of the chapter fewshot."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from drawing import (
    NOT_DRAWN,
    any_array,
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

FOUR_LABELS = st.just(torch.tensor([0, 1, 0, 1]))
ANY_SOURCE = st.sampled_from(("mnist", None, 1))

fuzz("CharacterEncoder", lambda x: fewshot.CharacterEncoder()(x), {"x": images(c=(1, 1), size=(8, 12))},
     {"x": any_images}, lambda r, a: r.shape == (len(a["x"]), 64))
fuzz("character_encoder", fewshot.character_encoder, {"seed": st.integers(0, 4), "source": st.just("glyphs")},
     {"seed": any_int, "source": ANY_SOURCE}, lambda r, a: not any(p.requires_grad for p in r.parameters()))
fuzz("train_encoder", lambda images, labels, seed: fewshot.train_encoder(images, labels, seed=seed, epochs=1),
     {"images": images(n=(4, 4), c=(1, 1), size=(8, 8)), "labels": FOUR_LABELS, "seed": st.just(0)},
     {"images": any_images, "labels": any_labels, "seed": any_int}, lambda r, a: not r.training)

# --- nearest means

NOT_DRAWN.update(["ContinualReport"])
ROWS = vectors(6, 3).map(lambda x: x.double().numpy())
LABELS = st.just(np.array([0, 1, 2, 0, 1, 2]))
SHARE = st.floats(0.1, 1)


def answers(X, y, normalise, covariance, shrinkage, cosine):
    model = fewshot.NearestMeanClassifier(normalise, covariance, shrinkage, cosine)
    return model.fit(X, y).partial_fit(X, y).predict(X)


fuzz("NearestMeanClassifier", answers,
     {"X": ROWS, "y": LABELS, "normalise": st.booleans(), "covariance": st.sampled_from((None, "shared")),
      "shrinkage": st.one_of(st.just("auto"), SHARE), "cosine": st.booleans()},
     {"X": any_array, "y": any_labels, "normalise": any_int, "covariance": st.just("full"), "shrinkage": any_float,
      "cosine": any_float},
     lambda r, a: set(r.tolist()) <= set(np.asarray(a["y"]).tolist()))
fuzz("shrink_covariance", fewshot.shrink_covariance,
     {"covariance": ROWS.map(lambda x: x.T @ x), "n": st.integers(1, 99), "shrinkage": SHARE},
     {"covariance": any_array, "n": small_int, "shrinkage": any_float}, lambda r, a: r.shape[0] == r.shape[1])
fuzz("class_stream", fewshot.class_stream, {"labels": LABELS, "tasks": st.integers(1, 3), "seed": st.integers(0, 9)},
     {"labels": any_labels, "tasks": small_int, "seed": any_int},
     lambda r, a: sorted(np.concatenate(r)) == list(range(len(a["labels"]))))
fuzz("continual_report", fewshot.continual_report,
     {"accuracy_matrix": vectors(3, 3).map(lambda x: x.sigmoid().numpy()), "sizes": st.just([1, 2, 3])},
     {"accuracy_matrix": any_array, "sizes": st.lists(any_float, max_size=4)},
     lambda r, a: 0 <= r.final <= 1 and -1 <= r.forgetting <= 1)

# --- transductive clustering

NOT_DRAWN.update(["Bound", "Episode"])
QUERIES = vectors(8, 3).map(lambda x: x.double().numpy())
CENTRE = st.none() | vectors(1, 3).map(lambda x: 0.1 * x[0].numpy())
COSTS = vectors(6, 2).map(lambda x: x.abs().numpy())
GRAPH = ROWS.map(lambda x: fewshot.knn_affinity(x, 3))


def clustered(support, support_labels, query, mode, laplacian, neighbours, centre):
    model = fewshot.TransductiveClustering(mode, laplacian, neighbours, centre)
    return model.fit_predict(support, support_labels, query)


fuzz("episode_points", fewshot.episode_points,
     {"support": ROWS, "query": QUERIES, "centre": CENTRE, "normalise": st.booleans(), "shift_queries": st.booleans()},
     {"support": any_array, "query": any_array, "centre": any_array, "normalise": any_int, "shift_queries": any_float},
     lambda r, a: len(r) == len(a["support"]) + len(a["query"]))
fuzz("knn_affinity", fewshot.knn_affinity, {"X": ROWS, "k": st.integers(2, 6)}, {"X": any_array, "k": small_int},
     lambda r, a: r.sum() == len(a["X"]) * (a["k"] - 1))
fuzz("kernel_width", fewshot.kernel_width, {"X": ROWS, "affinity": GRAPH}, {"X": any_array, "affinity": any_array},
     lambda r, a: r >= 0 or r != r)
fuzz("bound_update", fewshot.bound_update,
     {"unary": COSTS, "affinity": GRAPH, "strength": st.floats(0, 2), "start": st.none(), "most": st.integers(1, 9)},
     {"unary": any_array, "affinity": any_array, "strength": any_float, "start": any_array, "most": small_int},
     lambda r, a: np.allclose(r.shares.sum(1), 1))
fuzz("TransductiveClustering", clustered,
     {"support": ROWS, "support_labels": LABELS, "query": QUERIES, "mode": st.sampled_from(("kmeans", "mode")),
      "laplacian": st.floats(0, 2), "neighbours": st.integers(2, 5), "centre": CENTRE},
     {"support": any_array, "support_labels": any_labels, "query": any_array, "mode": st.just("medoid"),
      "laplacian": any_float, "neighbours": small_int, "centre": any_array},
     lambda r, a: set(r.tolist()) <= set(np.asarray(a["support_labels"]).tolist()))
fuzz("episodes", lambda labels, way, shot, query, n, seed, balanced: list(
    fewshot.episodes(labels, way, shot, query, n, seed, balanced)),
     {"labels": LABELS, "way": st.integers(1, 3), "shot": st.just(1), "query": st.integers(1, 3),
      "n": st.integers(1, 3), "seed": st.integers(0, 9), "balanced": st.booleans()},
     {"labels": any_labels, "way": small_int, "shot": small_int, "query": small_int, "n": small_int, "seed": any_int,
      "balanced": any_float}, lambda r, a: len(r) == a["n"])

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
