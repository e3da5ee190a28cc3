"""How fuzzing calls the public functions of the chapter mrl."""

from __future__ import annotations

import tempfile

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
NOT_DRAWN.update(["LivingIndex", "StoredIndex"])  # what FunnelRetrieval is made of: drawn with it
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
PAIRS = {"anchors": vectors(4, 8), "positives": vectors(4, 8)}
WILD_PAIRS = {"anchors": any_vectors, "positives": any_vectors}
fuzz("check_pairs", mrl.check_pairs, PAIRS, WILD_PAIRS, lambda r, a: r is None)
fuzz(
    "paired_loss",
    mrl.paired_loss,
    PAIRS | {"dims": st.just(HEAD)},
    WILD_PAIRS | {"dims": any_dims, "importance": any_weights, "scale": any_float, "symmetric": st.booleans()},
    lambda r, a: r.ndim == 0,
)
fuzz(
    "MatryoshkaContrastive",
    lambda anchors, positives, **options: mrl.MatryoshkaContrastive(**{"nesting_dims": HEAD} | options)(
        anchors, positives
    ),
    PAIRS,
    WILD_PAIRS
    | {"nesting_dims": any_dims, "weights": any_weights, "scale": any_float, "symmetric": st.booleans()},
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
LIFE = {
    "ids": st.sampled_from([None, list(range(10, 16)), list("abcdef")]),
    "first_stage": st.sampled_from(["float32", "int8", "binary"]),
    "where": st.sampled_from([None, lambda name: True, lambda name: False]),
    "exclude": st.none(),
    "added": st.none(),
    "gone": st.none(),
}
some_texts = st.lists(st.text("ab", max_size=1), max_size=6)
any_ids = st.one_of(any_labels, any_array, st.lists(any_int, max_size=6), some_texts)
WILD_LIFE = {
    "ids": any_ids,
    "first_stage": st.text(max_size=3),
    "where": st.one_of(any_labels, any_array, st.lists(st.booleans(), min_size=5, max_size=7)),
    "exclude": st.one_of(any_ids, st.lists(any_ids, min_size=2, max_size=2)),
    "added": st.one_of(any_vectors, any_array),
    "gone": any_ids,
}


def life(kind):
    "An index from its birth to a search, through changes and a file."

    def call(gallery, queries, k, where, exclude, added, gone, **options):
        index = kind(gallery, **{"progress": False} | options)
        if added is not None:
            index.add(added)
        if gone is not None:
            index.delete(gone)
        with tempfile.TemporaryDirectory() as folder:
            index.save(folder)
            return kind.load(folder).search(queries, k, where=where, exclude=exclude)

    return call


fuzz(
    "FunnelRetrieval",
    life(mrl.FunnelRetrieval),
    SEARCH | LIFE | {"dims": st.just((2, 4, 8)), "shortlists": st.just((4, 3))},
    WILD_SEARCH | WILD_LIFE | {"dims": any_dims, "shortlists": any_dims},
    lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]),
)
fuzz(
    "AdaptiveRetrieval",
    life(mrl.AdaptiveRetrieval),
    SEARCH | LIFE | {"shortlist_dim": st.just(2), "rerank_dim": st.just(8), "shortlist": st.just(4)},
    WILD_SEARCH | WILD_LIFE | {"shortlist_dim": any_int, "rerank_dim": any_int, "shortlist": any_int},
    lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]),
)
CODED = {"dim": st.just(8), "blocks": st.lists(vectors(6, 8), min_size=1, max_size=2), "rows": vectors(5, 8),
         "queries": vectors(2, 8)}
WILD_CODED = {"dim": any_int, "blocks": st.lists(any_vectors, max_size=2), "rows": any_vectors, "queries": any_vectors}


def coded(kind):
    def call(dim, blocks, rows, queries):
        codes = kind.learn(dim, blocks)
        return kind(dim, **codes.learned()).scores(queries, codes.encode(rows))

    return call


for name in ("Float32Codes", "Int8Codes", "BinaryCodes"):
    fuzz(name, coded(getattr(mrl, name)), CODED, WILD_CODED,
         lambda r, a: r.shape == (len(a["queries"]), len(a["rows"])))


def grown(fixed, more, count):
    rows = mrl.GrowingRows(fixed)
    rows.reserve(count)
    rows.append(more)
    return rows


fuzz(
    "GrowingRows",
    grown,
    {"fixed": vectors(3, 4), "more": vectors(2, 4), "count": st.integers(0, 5)},
    {"fixed": any_tensor, "more": any_tensor, "count": small_int},
    lambda r, a: len(r) == len(a["fixed"]) + len(a["more"]) == len(r.block(0, len(r))),
)


def named(count, ids, gone):
    names = mrl.RowIds(count, ids)
    names.delete(gone)
    return names


fuzz(
    "RowIds",
    named,
    {"count": st.just(4), "ids": st.sampled_from([None, [3, 2, 1, 0]]), "gone": st.just([1, 3])},
    {"count": small_int, "ids": any_ids, "gone": any_ids},
    lambda r, a: r.rows == a["count"] and (r.rows_of(a["gone"]) == -1).all(),
)
fuzz(
    "allowed_rows",
    lambda names, where: mrl.allowed_rows(names, where),
    {"names": st.just(mrl.RowIds(3, ["a", "b", "c"])), "where": st.sampled_from([lambda name: name > "a", [True] * 3])},
    {"where": WILD_LIFE["where"]},
    lambda r, a: r.shape == (3,) and r.dtype == torch.bool,
)
fuzz(
    "rows_left_out",
    mrl.rows_left_out,
    {"names": st.just(mrl.RowIds(3)), "exclude": st.sampled_from([[0, 2], [[0, 1], None]]), "count": st.just(2)},
    {"exclude": WILD_LIFE["exclude"], "count": any_int},
    lambda r, a: r is None or len(r) == a["count"],
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
