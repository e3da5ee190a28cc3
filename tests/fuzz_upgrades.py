"""How fuzzing calls the public functions of the chapter upgrades."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from hypothesis import strategies as st
from torch import nn

from drawing import (
    NOT_DRAWN,
    any_array,
    any_float,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    class_numbers,
    filled,
    fuzz,
    small_int,
    vectors,
)
from xfer_course import upgrades

NOT_DRAWN.update(["Bases", "UpgradeCheck", "UpgradeCost", "UpgradeTask"])
NOT_DRAWN.add("upgrade_task")  # takes no argument
SCALE = {"scale": st.floats(0.1, 20)}


def scalar(result, arguments) -> bool:
    return result.ndim == 0


# --- training for compatibility

fuzz(
    "CosineClassifier",
    lambda features, **options: upgrades.CosineClassifier(**options)(features),
    {"features": vectors(4, 3), "dim": st.just(3), "num_classes": st.integers(1, 4)} | SCALE,
    {"features": any_vectors, "dim": small_int, "num_classes": small_int, "scale": any_float},
    lambda r, a: r.shape == (len(a["features"]), a["num_classes"]),
)
fuzz(
    "SimplexClassifier",
    lambda features, **options: upgrades.SimplexClassifier(**options)(features),
    {"features": vectors(4, 3), "num_classes": st.just(4)} | SCALE,
    {"features": any_vectors, "num_classes": small_int, "scale": st.one_of(st.none(), any_float)},
    lambda r, a: r.shape == (len(a["features"]), a["num_classes"]),
)
fuzz(
    "simplex",
    upgrades.simplex,
    {"num_classes": st.integers(2, 6)},
    {"num_classes": small_int},
    lambda r, a: torch.allclose(r.norm(dim=1), torch.ones(a["num_classes"])),
)
PAIR = {"features": vectors(4, 3), "old_features": vectors(4, 3), "labels": class_numbers(4, 2)}
fuzz(
    "higher_order_loss",
    upgrades.higher_order_loss,
    PAIR,
    {"features": any_vectors, "old_features": any_vectors, "labels": any_labels, "scale": any_float},
    scalar,
)
fuzz(
    "influence_loss",
    upgrades.influence_loss,
    {"features": vectors(4, 3), "prototypes": vectors(2, 3), "labels": class_numbers(4, 2)},
    {"features": any_vectors, "prototypes": any_vectors, "labels": any_labels, "scale": any_float},
    scalar,
)
fuzz(
    "class_mean_loss",
    upgrades.class_mean_loss,
    {"features": vectors(4, 3), "means": vectors(2, 3), "labels": class_numbers(4, 2)},
    {"features": any_vectors, "means": any_vectors, "labels": any_labels, "scale": any_float},
    scalar,
)
fuzz(
    "cosine_gap",
    upgrades.cosine_gap,
    {"features": vectors(4, 3), "wanted": vectors(4, 3)},
    {"features": any_vectors, "wanted": any_vectors},
    scalar,
)
for of_classes in (upgrades.class_prototypes, upgrades.class_means):
    fuzz(
        of_classes.__name__,
        of_classes,
        {"features": vectors(6, 3), "labels": st.just(torch.tensor([0, 1, 2] * 2)), "num_classes": st.just(3)},
        {"features": any_vectors, "labels": any_labels, "num_classes": small_int},
        lambda r, a: r.shape == (a["num_classes"], a["features"].shape[1]),
    )
fuzz(
    "cayley",
    upgrades.cayley,
    {"free": vectors(3, 3)},
    {"free": any_tensor},
    lambda r, a: r.shape == a["free"].shape,
    also=(torch.linalg.LinAlgError,),
)
fuzz(
    "OrthogonalLayer",
    lambda dim, features: upgrades.OrthogonalLayer(dim)(features),
    {"dim": st.just(3), "features": vectors(4, 3)},
    {"dim": small_int, "features": any_vectors},
    lambda r, a: r.shape == a["features"].shape,
)
fuzz(
    "OrthogonalCompatibleHead",
    lambda features, labels, prototypes, **options: upgrades.OrthogonalCompatibleHead(**options).loss(
        features, labels, prototypes
    ),
    {
        "old_dim": st.just(2),
        "extra_dim": st.just(1),
        "num_classes": st.just(2),
        "features": vectors(4, 3),
        "labels": class_numbers(4, 2),
        "prototypes": vectors(2, 2),
        "weight": st.floats(0.1, 2),
    },
    {
        "old_dim": small_int,
        "extra_dim": small_int,
        "num_classes": small_int,
        "features": any_vectors,
        "labels": any_labels,
        "prototypes": any_vectors,
        "weight": any_float,
        "scale": any_float,
        "rotate": st.booleans(),
    },
    scalar,
)
fuzz(
    "BasisTransformation",
    lambda features, **options: upgrades.BasisTransformation(**options)(features),
    {"old_dim": st.just(2), "new_dim": st.just(3), "extra_dim": st.integers(1, 2), "features": vectors(4, 5)},
    {"old_dim": small_int, "new_dim": small_int, "extra_dim": small_int, "features": any_vectors, "scale": any_float},
    lambda r, a: r.embedding.shape == (len(a["features"]), a["new_dim"] + a["extra_dim"]),
)
BASES = upgrades.Bases(filled((4, 5)), filled((4, 2)), filled((4, 3)))
fuzz(
    "basis_loss",
    upgrades.basis_loss,
    {"bases": st.just(BASES), "old_features": vectors(4, 2), "new_features": vectors(4, 3),
     "labels": st.just(torch.tensor([0, 1, 2, 0])), "means": vectors(3, 2)},
    {"bases": any_tensor, "old_features": any_vectors, "new_features": any_vectors, "labels": any_labels,
     "means": any_vectors, "old_weight": any_float, "influence_scale": any_float},
    scalar,
)
fuzz(
    "small_encoder",
    lambda dim, hidden: upgrades.small_encoder(dim, hidden)(torch.zeros(2, 1, 16, 16)),
    {"dim": st.integers(1, 4), "hidden": st.integers(1, 4)},
    {"dim": small_int, "hidden": small_int},
    lambda r, a: r.shape == (2, a["dim"]),
)


def trained(x, **options):
    model = nn.Linear(3, 2)
    upgrades.train_with(lambda batch: model(batch).square().mean(), [model], x, **{"epochs": 1} | options)
    return model


fuzz(
    "train_with",
    trained,
    {"x": vectors(128, 3)},  # one batch
    {"x": any_vectors, "epochs": st.integers(-1, 2), "seed": st.integers(0, 9)},
    lambda r, a: all(p.isfinite().all() for p in r.parameters()),
    also=(
        RuntimeError,
        FloatingPointError,
    ),  # inputs that the model itself does not take, and a loss that is not finite
)

# --- measuring

SEARCH = {"query_labels": class_numbers(3, 2), "gallery_labels": class_numbers(6, 2), "k": st.integers(1, 3)}
any_numbers = any_labels.filter(lambda t: t.dtype != torch.bfloat16)
WILD_SEARCH = {"query_labels": any_numbers, "gallery_labels": any_numbers, "k": any_int}
fuzz(
    "cross_test",
    upgrades.cross_test,
    {"queries": vectors(3, 4), "gallery": vectors(6, 3)} | SEARCH,
    {"queries": any_vectors, "gallery": any_vectors} | WILD_SEARCH,
    lambda r, a: 0 <= r <= 1,
)
fuzz(
    "compatibility_matrix",
    upgrades.compatibility_matrix,
    {
        "queries": st.lists(vectors(3, 4), min_size=2, max_size=2),
        "gallery": st.lists(vectors(6, 4), min_size=2, max_size=2),
    }
    | SEARCH,
    {"queries": st.lists(any_vectors, max_size=2), "gallery": st.lists(any_vectors, max_size=2)} | WILD_SEARCH,
    lambda r, a: r.shape == (len(a["queries"]),) * 2 and (r >= 0).all() and (r <= 1).all(),
)
square = vectors(3, 3).map(lambda x: x.sigmoid().numpy())
fuzz(
    "compatible_pairs",
    upgrades.compatible_pairs,
    {"matrix": square},
    {"matrix": any_array},
    lambda r, a: r.dtype == bool and r.shape == a["matrix"].shape,
)
fuzz(
    "average_accuracy",
    upgrades.average_accuracy,
    {"matrix": square},
    {"matrix": any_array},
    lambda r, a: math.isfinite(r),
)
fuzz(
    "average_compatibility",
    upgrades.average_compatibility,
    {"matrix": square},
    {"matrix": any_array},
    lambda r, a: 0 <= r <= 1 or len(a["matrix"]) == 1,
)
fuzz(
    "update_gain",
    upgrades.update_gain,
    {"old_self": st.floats(0, 0.4), "cross": st.floats(0, 1), "new_self": st.floats(0.5, 1)},
    {"old_self": any_float, "cross": any_float, "new_self": any_float},
    lambda r, a: math.isfinite(r),
)


def figure(matrices, names):
    drawn = upgrades.compatibility_figure(matrices, names)
    plt.close(drawn)
    return drawn


fuzz(
    "compatibility_figure",
    figure,
    {"matrices": square.map(lambda matrix: {"BCT": matrix}), "names": st.just(["v1", "v2", "v3"])},
    {
        "matrices": any_array.map(lambda matrix: {"BCT": matrix}),
        "names": st.lists(st.text("abc", max_size=2), max_size=3),
    },
    lambda r, a: len(r.axes) == len(a["matrices"]),
)
fuzz(
    "multiply_adds",
    lambda example: upgrades.multiply_adds(nn.Linear(3, 2), example),
    {"example": vectors(1, 3)},
    {"example": any_vectors},
    lambda r, a: r == 6,
    also=(RuntimeError,),  # inputs that the model itself does not take
)
COST = {"gallery_size": st.integers(1, 99), "old_dim": st.integers(1, 9), "new_dim": st.integers(1, 9)}
fuzz(
    "upgrade_cost",
    upgrades.upgrade_cost,
    COST | {"encoder_multiply_adds": st.integers(0, 99), "share": st.floats(0, 1)},
    dict.fromkeys([*COST, "encoder_multiply_adds", "itemsize"], any_int) | {"share": any_float},
    lambda r, a: all(value >= 0 for value in r),
)

# --- a gallery

ROWS = {"embeddings": vectors(6, 4), "version": st.just("v1"), "labels": class_numbers(6, 2)}
WILD_ROWS = {
    "embeddings": st.one_of(any_vectors, any_array),
    "version": st.text(max_size=2),
    "labels": any_labels,
    "compatible": st.lists(st.text(max_size=2), max_size=2),
}
fuzz(
    "VersionedEmbeddings",
    upgrades.VersionedEmbeddings,
    ROWS,
    WILD_ROWS,
    lambda r, a: len(r) == len(a["embeddings"]) and not r.needs_backfill(a["version"]),
)


def asked_gallery(queries, asked, k, added, added_labels, gone, **options):
    gallery = upgrades.Gallery(**options)
    if added is not None:
        gallery.add(added, asked, added_labels)
    if gone is not None:
        gallery.delete(gone)
    return gallery.search(queries, asked, k, exclude=None)


fuzz(
    "Gallery",
    asked_gallery,
    ROWS | {"queries": vectors(3, 5), "asked": st.just("v1"), "k": st.integers(1, 3), "ids": st.just([*range(4, 10)]),
            "added": vectors(2, 4), "added_labels": class_numbers(2, 2), "gone": st.just([4])},
    WILD_ROWS | {"queries": st.one_of(any_vectors, any_array), "asked": st.text(max_size=2), "k": any_int,
                 "ids": any_labels, "added": st.one_of(any_vectors, any_array), "added_labels": any_labels,
                 "gone": any_labels},
    lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]),
)
fuzz(
    "check_upgrade",
    lambda embeddings, labels, **options: upgrades.check_upgrade(upgrades.Gallery(embeddings, "v1", labels), **options),
    {
        "embeddings": vectors(6, 4),
        "labels": class_numbers(6, 2),
        "version": st.just("v2"),
        "old_queries": vectors(3, 4),
        "new_queries": vectors(3, 5),
        "query_labels": class_numbers(3, 2),
        "k": st.integers(1, 3),
        "margin": st.floats(-1, 1),
    },
    {
        "old_queries": any_vectors,
        "new_queries": any_vectors,
        "query_labels": any_numbers.filter(lambda t: t.ndim == 1),
        "k": any_int,
        "margin": any_float,
    },
    lambda r, a: 0 <= r.old_self <= 1 and 0 <= r.cross <= 1,
)


def stored(**arguments) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        upgrades.save_gallery(upgrades.Gallery(**arguments), Path(folder) / "gallery")
        return (Path(folder) / "gallery").read_bytes()


def read(content: bytes) -> upgrades.Gallery:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "gallery").write_bytes(content)
        return upgrades.load_gallery(Path(folder) / "gallery")


fuzz("save_gallery", stored, ROWS, WILD_ROWS, lambda r, a: read(r).version == a["version"])
fuzz(
    "load_gallery",
    read,
    {"content": st.just(stored(embeddings=filled((6, 4)), version="v1"))},
    {"content": st.binary(max_size=40)},
    lambda r, a: r.version == "v1",
)
