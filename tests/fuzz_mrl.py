"""How fuzzing calls the public functions of the chapter mrl."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from drawing import (
    NOT_DRAWN,
    any_array,
    any_dims,
    any_float,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    any_weights,
    class_numbers,
    filled,
    fuzz,
    small_int,
    vectors,
)
from xfer_course import mrl

NOT_DRAWN.update(["SearchCost", "SearchSizes"])
HEAD = (2, 4, 8)
fuzz(
    "doubling_dims",
    mrl.doubling_dims,
    {"dim": st.integers(8, 99), "smallest": st.integers(1, 8)},
    {"dim": any_int, "smallest": any_int},
    lambda r, a: r[0] == min(a["smallest"], a["dim"]) and r[-1] == a["dim"],
)
fuzz(
    "digit_rotations",
    mrl.digit_rotations,
    {"split": st.just("test")},
    {"split": st.sampled_from(["train", "validation", ""]), "size": st.integers(-2, 20)},
    lambda r, a: len(r.images) == len(r.labels) and len(r.images) % 4 == 0,
)
fuzz(
    "truncate",
    mrl.truncate,
    {"embeddings": vectors(4, 8), "dim": st.integers(1, 8)},
    {"embeddings": st.one_of(any_vectors, any_array, any_tensor), "dim": any_int},
    lambda r, a: r.shape == (len(a["embeddings"]), a["dim"]),
)
fuzz(
    "MatryoshkaLoss",
    lambda nesting_dims, weights, logits, targets: mrl.MatryoshkaLoss(nesting_dims, weights)(logits, targets),
    {
        "nesting_dims": st.just(HEAD),
        "weights": st.none(),
        "logits": st.builds(filled, st.just((3, 4, 5))),
        "targets": class_numbers(4, 5),
    },
    {"nesting_dims": any_dims, "weights": any_weights, "logits": any_tensor, "targets": any_labels},
    lambda r, a: r.ndim == 0,
)


def matryoshka_head(in_features, num_classes, nesting_dims, tied, features, targets, weights, label_smoothing):
    torch.manual_seed(0)
    head = mrl.MatryoshkaHead(in_features, num_classes, nesting_dims, tied)
    return head(features), head.loss(features, targets, weights, label_smoothing)


fuzz(
    "MatryoshkaHead",
    matryoshka_head,
    {
        "in_features": st.just(8),
        "num_classes": st.just(5),
        "nesting_dims": st.just(HEAD),
        "tied": st.booleans(),
        "features": vectors(4, 8),
        "targets": class_numbers(4, 5),
        "weights": st.none(),
        "label_smoothing": st.just(0.0),
    },
    {
        "nesting_dims": any_dims,
        "features": any_vectors,
        "targets": any_labels,
        "weights": any_weights,
        "label_smoothing": any_float,
    },
    lambda r, a: r[0].shape == (len(a["nesting_dims"]), len(a["features"]), 5) and r[1].ndim == 0,
)
TIED = {
    "features": vectors(4, 8),
    "weight": vectors(5, 8),
    "bias": st.one_of(st.none(), vectors(1, 5).map(lambda t: t[0])),
    "dims": st.just(HEAD),
}
WILD_TIED = {"features": any_vectors, "weight": any_vectors, "bias": any_tensor, "dims": any_dims}
WILD_LOSS = WILD_TIED | {"targets": any_labels, "importance": any_weights, "label_smoothing": any_float}


def untied_loss(features, weight, bias, targets, dims, **options):
    cut = torch.is_tensor(weight) and weight.ndim == 2
    weights = [weight[:, :m].contiguous() if cut and isinstance(m, int) and m > 0 else weight for m in dims]
    return mrl.untied_loss(features, weights, [bias] * len(dims), targets, dims, **options)


fuzz(
    "tied_logits",
    mrl.tied_logits,
    TIED,
    WILD_TIED,
    lambda r, a: r.shape == (len(a["dims"]), len(a["features"]), len(a["weight"])),
)
fuzz("tied_loss", mrl.tied_loss, TIED | {"targets": class_numbers(4, 5)}, WILD_LOSS, lambda r, a: r.ndim == 0)
fuzz("untied_loss", untied_loss, TIED | {"targets": class_numbers(4, 5)}, WILD_LOSS, lambda r, a: r.ndim == 0)
fuzz(
    "class_targets",
    mrl.class_targets,
    {"targets": class_numbers(4, 5), "rows": st.just(4), "classes": st.just(5)},
    {"targets": any_labels, "rows": small_int, "classes": small_int, "ignored": st.integers(-100, 3)},
    lambda r, a: r is a["targets"],
)
fuzz(
    "relative_importance",
    mrl.relative_importance,
    {"weights": st.none(), "count": st.integers(1, 4)},
    {"weights": any_weights, "count": st.integers(1, 4)},
    lambda r, a: len(r) == a["count"] and sum(r) > 0,
)
fuzz(
    "MatryoshkaContrastive",
    lambda anchors, positives, **options: mrl.MatryoshkaContrastive(**{"nesting_dims": HEAD} | options)(
        anchors, positives
    ),
    {"anchors": vectors(4, 8), "positives": vectors(4, 8)},
    {
        "anchors": any_vectors,
        "positives": any_vectors,
        "nesting_dims": any_dims,
        "weights": any_weights,
        "scale": any_float,
        "symmetric": st.booleans(),
    },
    lambda r, a: r.ndim == 0,
)


def adaptive_classifier(features, labels, grid, max_dim):
    torch.manual_seed(0)
    return (
        mrl.AdaptiveClassifier(mrl.MatryoshkaHead(8, 5, HEAD), HEAD, grid)
        .fit(features, labels)
        .predict(features, max_dim)
    )


fuzz(
    "AdaptiveClassifier",
    adaptive_classifier,
    {"features": vectors(4, 8), "labels": class_numbers(4, 5), "grid": st.none(), "max_dim": st.none()},
    {"features": any_vectors, "labels": any_labels, "grid": any_weights, "max_dim": any_int},
    lambda r, a: r[0].shape == r[1].shape == (len(a["features"]),),
)
fuzz(
    "oracle",
    mrl.oracle,
    {"predictions": class_numbers(12, 5).map(lambda t: t.view(3, 4)), "labels": class_numbers(4, 5)},
    {"predictions": any_tensor, "labels": any_labels},
    lambda r, a: r.shape == a["labels"].shape,
)
FOUND = {
    "indices": class_numbers(12, 6).map(lambda t: t.view(3, 4)),
    "gallery_labels": class_numbers(6, 2),
    "query_labels": class_numbers(3, 2),
    "k": st.integers(1, 4),
}
WILD_FOUND = {
    "indices": any_vectors.filter(lambda t: t.dtype != torch.bfloat16),
    "gallery_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16),
    "query_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16),
    "k": any_int,
}
for name in ("mean_average_precision_at_k", "precision_at_k"):
    fuzz(f"{name}", getattr(mrl, name), FOUND, WILD_FOUND, lambda r, a: 0 <= r <= 1)
fuzz(
    "top1_nearest_neighbour",
    mrl.top1_nearest_neighbour,
    {k: v for k, v in FOUND.items() if k != "k"},
    {k: v for k, v in WILD_FOUND.items() if k != "k"},
    lambda r, a: 0 <= r <= 1,
)
fuzz(
    "search_cost",
    mrl.search_cost,
    {"gallery_size": st.integers(1, 99), "dims": st.just((2, 8)), "shortlists": st.just((5,))},
    {"gallery_size": any_int, "dims": any_dims, "shortlists": any_dims},
    lambda r, a: r.multiply_adds == r.scanned + r.fetched,
)
fuzz(
    "rerank_scores",
    mrl.rerank_scores,
    {
        "gallery": vectors(6, 8),
        "queries": vectors(2, 8),
        "candidates": class_numbers(6, 6).map(lambda t: t.view(2, 3)),
        "dim": st.integers(1, 8),
        "metric": st.sampled_from(["cosine", "dot", "euclidean"]),
    },
    {"gallery": any_vectors, "queries": any_vectors, "candidates": any_vectors, "dim": small_int},
    lambda r, a: r.shape == a["candidates"].shape,
)
SEARCH = {
    "gallery": vectors(6, 8),
    "queries": vectors(2, 8),
    "k": st.integers(1, 2),
    "metric": st.sampled_from(["cosine", "dot", "euclidean"]),
}
WILD_SEARCH = {
    "gallery": st.one_of(any_vectors, any_array),
    "queries": st.one_of(any_vectors, any_array),
    "k": any_int,
    "metric": st.just("manhattan"),
}
fuzz(
    "FunnelRetrieval",
    lambda gallery, queries, k, **options: mrl.FunnelRetrieval(gallery, **{"progress": False} | options).search(
        queries, k
    ),
    SEARCH | {"dims": st.just((2, 4, 8)), "shortlists": st.just((4, 3))},
    WILD_SEARCH | {"dims": any_dims, "shortlists": any_dims},
    lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]),
)
fuzz(
    "AdaptiveRetrieval",
    lambda gallery, queries, k, **options: mrl.AdaptiveRetrieval(gallery, **{"progress": False} | options).search(
        queries, k
    ),
    SEARCH | {"shortlist_dim": st.just(2), "rerank_dim": st.just(8), "shortlist": st.just(4)},
    WILD_SEARCH | {"shortlist_dim": any_int, "rerank_dim": any_int, "shortlist": any_int},
    lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]),
)
GRID = {
    "gallery": vectors(6, 8),
    "gallery_labels": class_numbers(6, 2),
    "queries": vectors(3, 8),
    "query_labels": class_numbers(3, 2),
    "shortlist_dims": st.just((2, 4)),
    "rerank_dims": st.just((4, 8)),
    "shortlists": st.just((2, 4)),
    "k": st.just(2),
}
fuzz(
    "search_grid",
    mrl.search_grid,
    GRID,
    {
        "gallery": any_vectors,
        "queries": any_vectors,
        "gallery_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16),
        "query_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16),
        "shortlist_dims": any_dims,
        "rerank_dims": any_dims,
        "shortlists": any_dims,
        "k": any_int,
    },
    lambda r, a: all(0 <= s.quality <= 1 for s in r),
)
fuzz(
    "choose_sizes",
    lambda qualities, tolerance, fetch: mrl.choose_sizes(
        [mrl.SearchSizes(2, 8, 4, q, 0.5, mrl.SearchCost(10 + i, 5)) for i, q in enumerate(qualities)], tolerance, fetch
    ),
    {"qualities": st.just([0.5, 0.4]), "tolerance": st.just(0.01), "fetch": st.just(50.0)},
    {"qualities": any_weights, "tolerance": any_float, "fetch": any_float},
    lambda r, a: r.quality >= 0.5 - a["tolerance"],
)
fuzz(
    "simulated_embeddings",
    mrl.simulated_embeddings,
    {"n": st.integers(1, 9), "dim": st.integers(1, 5), "num_classes": st.integers(1, 4)},
    {
        "n": small_int,
        "dim": small_int,
        "num_classes": small_int,
        "exponent": any_float,
        "noise": any_float,
        "seed": any_int,
    },
    lambda r, a: r[0].shape == (a["n"], a["dim"]) and len(r[1]) == a["n"],
)
