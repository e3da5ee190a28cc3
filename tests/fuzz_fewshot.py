"""How fuzzing calls the public functions of the chapter fewshot."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from drawing import NOT_DRAWN, any_array, any_float, any_images, any_int, any_labels, fuzz, images, small_int, vectors
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
