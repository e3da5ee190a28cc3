"""Every public function of the four method modules on drawn input: shapes, types, sizes, empty and NaN.

A call ends with a result that is checked against the docstring, or with a `ValueError` or `TypeError` that says something.
Each case starts from arguments that fit, and one or two of them are replaced by drawn ones that need not. `XFER_FUZZ=1000`
draws that many cases per function instead of the suite's number; the number of cases is recorded with each test.
"""
from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coop_models import StubCLIP, WordTokenizer
from xfer_course import coop, dann, mrl, rotation
from xfer_course.training import History

EXAMPLES = int(os.environ.get("XFER_FUZZ", 40))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


# --- what is drawn


def filled(shape, dtype=torch.float32, content: str = "normal", seed: int = 0) -> Tensor:
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if content == "zero":
        values = values * 0
    if content in ("nan", "inf") and values.numel():
        values.view(-1)[seed % values.numel()] = math.nan if content == "nan" else math.inf
    if content == "huge":
        values = values * 1e30
    return values.to(dtype) if dtype.is_floating_point else values.nan_to_num(0, 0, 0).clamp(-100, 100).abs().to(dtype)


CONTENTS = st.sampled_from(("normal", "normal", "zero", "nan", "inf", "huge"))
any_tensor = st.builds(filled, st.lists(st.integers(0, 6), max_size=5), st.sampled_from(DTYPES), CONTENTS, st.integers(0, 99))
any_vectors = st.builds(filled, st.tuples(st.integers(0, 6), st.integers(0, 9)), st.sampled_from(DTYPES), CONTENTS, st.integers(0, 99))
any_images = st.builds(filled, st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 8), st.integers(0, 8)), st.sampled_from(DTYPES), CONTENTS, st.integers(0, 99))
any_labels = st.one_of(any_tensor, st.lists(st.integers(-2, 12), max_size=8).map(lambda row: torch.tensor(row, dtype=torch.long)))
any_int = st.one_of(st.integers(-3, 12), st.sampled_from((2**40, -(2**40))))
small_int = st.integers(-3, 12)  # where a larger one is a valid wish for a network that does not fit into memory
any_float = st.one_of(st.floats(-2, 2), st.sampled_from((math.nan, math.inf, -math.inf, 1e30)))
any_dims = st.lists(st.integers(-1, 12), max_size=4)
any_weights = st.lists(any_float, max_size=4)
any_array = any_vectors.map(lambda t: t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy())


def images(n=(1, 3), c=(1, 3), size=(2, 8)) -> st.SearchStrategy[Tensor]:
    return st.tuples(st.integers(*n), st.integers(*c), st.integers(*size)).flatmap(
        lambda s: st.builds(filled, st.just((s[0], s[1], s[2], s[2])), st.just(torch.float32), st.just("normal"), st.integers(0, 9)))


def vectors(n: int, d: int, dtype=torch.float32) -> st.SearchStrategy[Tensor]:
    return st.builds(filled, st.just((n, d)), st.just(dtype), st.just("normal"), st.integers(0, 9))


def class_numbers(n: int, classes: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.integers(0, classes - 1), min_size=n, max_size=n).map(torch.tensor)


@dataclass
class Fuzz:
    """How to draw one function.

    Attributes:
        call: what is called, with the drawn arguments by name.
        fits: argument → strategy of values that fit.
        wild: argument → strategy of values that may not.
        check: what must hold for a result: `(result, arguments) -> bool`.
        also: documented errors beside those two.
    """

    call: Callable
    fits: dict
    wild: dict
    check: Callable = lambda result, arguments: True
    also: tuple = ()

    @property
    def cases(self) -> st.SearchStrategy[dict]:
        replaced = st.sets(st.sampled_from(sorted(self.wild)), max_size=2) if self.wild else st.just(set())
        return replaced.flatmap(lambda names: st.fixed_dictionaries({**self.fits, **{name: self.wild[name] for name in sorted(names)}}))


FUZZ: dict[str, Fuzz] = {}


def fuzz(name: str, call: Callable, fits: dict, wild: dict | None = None, check: Callable = lambda result, arguments: True, also: tuple = ()) -> None:
    FUZZ[name] = Fuzz(call, fits, wild or {}, check, also)


# --- rotation

fuzz("rotation.rotate", rotation.rotate, {"images": images(), "quarter_turns": st.integers(-9, 9)}, {"images": any_tensor, "quarter_turns": st.one_of(any_int, any_float)},
     lambda r, a: sorted(r.shape) == sorted(a["images"].shape) and r.dtype == a["images"].dtype)
fuzz("rotation.rotate_degrees", rotation.rotate_degrees, {"images": images(), "degrees": st.floats(-400, 400)},
     {"images": any_images, "degrees": any_float, "mode": st.sampled_from(["nearest", "cubic"]), "padding": st.sampled_from(["border", "wrap"])},
     lambda r, a: r.shape == a["images"].shape)
fuzz("rotation.centre_square", rotation.centre_square, {"images": images()}, {"images": any_tensor}, lambda r, a: r.shape[-1] == r.shape[-2] == min(a["images"].shape[-2:]))
fuzz("rotation.rotate_batch", rotation.rotate_batch, {"images": images()}, {"images": any_images, "quarter_turns": st.lists(st.integers(-1, 4), max_size=5), "crop": st.booleans()},
     lambda r, a: len(r[0]) == len(r[1]) == len(a["images"]) * len(a.get("quarter_turns", range(4))) and r[0].is_contiguous())
fuzz("rotation.crop_and_flip", rotation.crop_and_flip, {"images": images(), "padding": st.integers(0, 4)}, {"images": any_images, "padding": small_int}, lambda r, a: r.shape == a["images"].shape)


def pretext(backbone_width, feature_dim, quarter_turns, images) -> tuple[Tensor, Tensor]:
    model = rotation.RotationPretext(rotation.NetworkInNetwork(None, 2, backbone_width).eval(), feature_dim, quarter_turns)
    return model.loss(images), model.correct(images)


fuzz("rotation.RotationPretext", pretext, {"backbone_width": st.just(4), "feature_dim": st.just(4), "quarter_turns": st.just((0, 1, 2, 3)), "images": images(c=(3, 3))},
     {"feature_dim": st.integers(1, 6), "quarter_turns": st.lists(st.integers(-1, 4), max_size=5), "images": any_images},
     lambda r, a: r[0].ndim == 0 and r[1].dtype == torch.bool and r[1].shape == (len(a["images"]), len(a["quarter_turns"])))
fuzz("rotation.NetworkInNetwork", lambda images, **options: rotation.NetworkInNetwork(**options).eval()(images),
     {"images": images(c=(3, 3)), "num_classes": st.just(4), "num_blocks": st.just(2), "channels": st.just(4)},
     {"images": any_images, "num_classes": st.one_of(st.none(), small_int), "num_blocks": st.integers(-1, 4), "channels": small_int, "in_channels": st.integers(-1, 4)},
     lambda r, a: r.shape == (len(a["images"]), a["channels"] if a["num_classes"] is None else a["num_classes"]))
fuzz("rotation.nin_block", lambda images, **options: rotation.nin_block(**options).eval()(images), {"images": images(c=(3, 3)), "in_channels": st.just(3), "widths": st.just((4, 3, 2)), "kernel": st.just(3)},
     {"in_channels": st.integers(-1, 3).filter(lambda c: c < 1 or c == 3), "widths": st.lists(small_int, max_size=4), "kernel": small_int}, lambda r, a: r.shape == (len(a["images"]), a["widths"][2], *a["images"].shape[2:]))
fuzz("rotation.attention_map", rotation.attention_map, {"features": images(), "power": st.floats(0.1, 4)}, {"features": any_images, "power": any_float},
     lambda r, a: r.shape == a["features"].shape[:1] + a["features"].shape[2:])
PROBE = {"features": images(n=(2, 3), c=(3, 3), size=(4, 4)), "in_channels": st.just(3), "num_classes": st.integers(1, 5)}
for probe, extra in (("LinearProbe", {"size": st.just(2)}), ("NonLinearProbe", {"size": st.just(4)}), ("ConvProbe", {"channels": st.just(4)})):
    fuzz(f"rotation.{probe}", lambda features, probe=probe, **options: getattr(rotation, probe)(**options).eval()(features), PROBE | extra,
         {"features": any_images, "in_channels": st.integers(1, 5)}, lambda r, a: r.shape == (len(a["features"]), a["num_classes"]))
fuzz("rotation.few_labels", rotation.few_labels, {"labels": class_numbers(8, 2), "per_class": st.integers(1, 3)}, {"labels": any_labels, "per_class": st.one_of(any_int, any_float), "seed": st.integers(0, 9)},
     lambda r, a: r.dtype == torch.long and bool((r.diff() > 0).all()) and len(r) == a["per_class"] * len(torch.as_tensor(a["labels"]).unique()))
fuzz("rotation.TransferClassifier", lambda images, frozen: rotation.TransferClassifier(rotation.NetworkInNetwork(None, 2, 4).eval(), nn.Linear(4, 5), frozen).eval()(images),
     {"images": images(c=(3, 3)), "frozen": st.booleans()}, {"images": any_images}, lambda r, a: r.shape == (len(a["images"]), 5))

# --- DANN

fuzz("dann.gradient_reversal", dann.gradient_reversal, {"x": vectors(3, 2), "lambda_": st.floats(0, 3)}, {"x": any_tensor, "lambda_": st.one_of(any_float, any_tensor)},
     lambda r, a: r.shape == a["x"].shape and r.dtype == a["x"].dtype)
fuzz("dann.GradientReversal", lambda lambda_, x: dann.GradientReversal(lambda_)(x), {"x": vectors(3, 2), "lambda_": st.floats(0, 3)}, {"x": any_tensor, "lambda_": any_float},
     lambda r, a: r.shape == a["x"].shape)
PROGRESS = st.one_of(any_float, any_tensor, any_array)
fuzz("dann.lambda_schedule", dann.lambda_schedule, {"p": st.floats(0, 1)}, {"p": PROGRESS, "gamma": any_float}, lambda r, a: bool((np.asarray(torch.as_tensor(r).double()) >= 0).all()))
fuzz("dann.learning_rate_schedule", dann.learning_rate_schedule, {"p": st.floats(0, 1)}, {"p": PROGRESS, "mu_0": any_float, "alpha": any_float, "beta": any_float},
     lambda r, a: bool((np.asarray(torch.as_tensor(r).double()) >= 0).all()))


def dann_loss(joint_batch, source_x, source_y, target_x, lambda_):
    torch.manual_seed(0)
    model = dann.DANN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 1), joint_batch, (4,))
    return model.loss(source_x, source_y, target_x, lambda_), model.source_loss(source_x, source_y), model(target_x, lambda_)


fuzz("dann.DANN", dann_loss, {"joint_batch": st.booleans(), "source_x": vectors(4, 4), "source_y": class_numbers(4, 2), "target_x": vectors(3, 4), "lambda_": st.floats(0, 2)},
     {"source_x": any_vectors, "source_y": any_labels, "target_x": any_vectors, "lambda_": any_float},
     lambda r, a: all(part.ndim == 0 for part in (*r[0], r[1])) and r[2].domain_logits.shape == (len(a["target_x"]),))
NETWORK = {"num_classes": small_int, "in_channels": st.integers(-1, 4)}
fuzz("dann.mnist_dann", lambda **options: dann.mnist_dann(**options).eval()(torch.rand(2, max(options["in_channels"], 1), 28, 28)), {"num_classes": st.just(3), "in_channels": st.just(1)},
     NETWORK | {"dropout": any_float, "batch_norm": st.booleans(), "domain_hidden": st.lists(st.integers(-1, 5), max_size=3).map(tuple), "domain_batch_norm": st.booleans()},
     lambda r, a: r.class_logits.shape == (2, a["num_classes"]) and r.features.shape == (2, 768))
fuzz("dann.svhn_dann", lambda num_classes, in_channels, **options: dann.svhn_dann(num_classes, in_channels, **options), {"num_classes": st.just(3), "in_channels": st.just(1)}, {"num_classes": st.integers(-1, 1), "in_channels": st.integers(-1, 0), "dropout": any_float})
fuzz("dann.gtsrb_dann", lambda num_classes, in_channels: dann.gtsrb_dann(num_classes, in_channels), {"num_classes": st.just(3), "in_channels": st.just(1)}, NETWORK)
BACKBONE = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
fuzz("dann.office_dann", lambda num_classes, backbone: dann.office_dann(num_classes, backbone)(torch.rand(2, 3, 2, 2)), {"num_classes": st.integers(2, 5), "backbone": st.just(BACKBONE)},
     {"num_classes": small_int, "backbone": st.sampled_from([nn.Flatten(), 3])}, lambda r, a: r.class_logits.shape == (2, a["num_classes"]) and r.features.shape == (2, 256))
fuzz("dann.office_parameters", lambda learning_rate, pretrained: dann.office_parameters(dann.office_dann(3, BACKBONE), learning_rate, pretrained), {"learning_rate": st.floats(0.001, 1), "pretrained": st.floats(0.001, 1)},
     {"learning_rate": any_float, "pretrained": any_float}, lambda r, a: len(r) == 2 and r[0]["lr"] < math.inf)


def shortened(limit):
    module = copy.deepcopy(BACKBONE)
    dann.max_norm_(module, limit)
    return module


fuzz("dann.max_norm_", shortened, {"limit": st.floats(0.01, 5)}, {"limit": any_float}, lambda r, a: all(layer.weight.double().norm(dim=1).max() <= a["limit"] * 1.001 for layer in r if isinstance(layer, nn.Linear)))
SHALLOW = {"X": vectors(6, 3), "y": st.just(torch.tensor([0, 1, 0, 1, 0, 1])), "X_target": vectors(4, 3)}


def shallow(X, y, X_target, **options):
    X, y, X_target = (part.float().numpy() if part.dtype == torch.bfloat16 else part.numpy() for part in (X, y, X_target))
    return dann.ShallowDANN(**{"hidden_size": 2, "max_iter": 2, "random_state": 0} | options).fit(X, y, X_target).predict_proba(X)


fuzz("dann.ShallowDANN", shallow, SHALLOW, {"X": any_vectors, "y": any_labels, "X_target": any_vectors, "lambda_": any_float, "learning_rate": any_float, "hidden_size": small_int,
     "max_iter": st.integers(-1, 3), "early_stopping": st.booleans(), "validation_fraction": any_float}, lambda r, a: r.shape[0] == len(a["X"]) and np.isfinite(r).all() and np.allclose(r.sum(1), 1))
fuzz("dann.MarginalizedDenoiser", lambda X, **options: dann.MarginalizedDenoiser(**{"n_layers": 2} | options).fit_transform(X.float().numpy() if X.dtype == torch.bfloat16 else X.numpy()), {"X": vectors(6, 3)},
     {"X": any_vectors, "n_layers": st.integers(-1, 3), "noise": any_float, "regularization": any_float}, lambda r, a: len(r) == len(a["X"]) and np.isfinite(r).all(), also=(np.linalg.LinAlgError,))
fuzz("dann.reverse_validation", lambda X, y, X_target, **options: dann.reverse_validation(dann.ShallowDANN(2, max_iter=1, random_state=0), X.double().numpy(), y.numpy() if y.dtype != torch.bfloat16 else y.float().numpy(), X_target.double().numpy(), random_state=0, **options),
     SHALLOW, {"X": any_vectors, "y": any_labels, "X_target": any_vectors, "validation_fraction": any_float}, lambda r, a: 0 <= r <= 1)

# --- MRL

HEAD = (2, 4, 8)
fuzz("mrl.doubling_dims", mrl.doubling_dims, {"dim": st.integers(8, 99), "smallest": st.integers(1, 8)}, {"dim": any_int, "smallest": any_int}, lambda r, a: r[0] == min(a["smallest"], a["dim"]) and r[-1] == a["dim"])
fuzz("mrl.digit_rotations", mrl.digit_rotations, {"split": st.just("test")}, {"split": st.sampled_from(["train", "validation", ""]), "size": st.integers(-2, 20)}, lambda r, a: len(r.images) == len(r.labels) and len(r.images) % 4 == 0)
fuzz("mrl.truncate", mrl.truncate, {"embeddings": vectors(4, 8), "dim": st.integers(1, 8)}, {"embeddings": st.one_of(any_vectors, any_array, any_tensor), "dim": any_int}, lambda r, a: r.shape == (len(a["embeddings"]), a["dim"]))
fuzz("mrl.MatryoshkaLoss", lambda nesting_dims, weights, logits, targets: mrl.MatryoshkaLoss(nesting_dims, weights)(logits, targets),
     {"nesting_dims": st.just(HEAD), "weights": st.none(), "logits": st.builds(filled, st.just((3, 4, 5))), "targets": class_numbers(4, 5)},
     {"nesting_dims": any_dims, "weights": any_weights, "logits": any_tensor, "targets": any_labels}, lambda r, a: r.ndim == 0)


def matryoshka_head(in_features, num_classes, nesting_dims, tied, features, targets, weights, label_smoothing):
    torch.manual_seed(0)
    head = mrl.MatryoshkaHead(in_features, num_classes, nesting_dims, tied)
    return head(features), head.loss(features, targets, weights, label_smoothing)


fuzz("mrl.MatryoshkaHead", matryoshka_head, {"in_features": st.just(8), "num_classes": st.just(5), "nesting_dims": st.just(HEAD), "tied": st.booleans(), "features": vectors(4, 8),
     "targets": class_numbers(4, 5), "weights": st.none(), "label_smoothing": st.just(0.0)},
     {"nesting_dims": any_dims, "features": any_vectors, "targets": any_labels, "weights": any_weights, "label_smoothing": any_float},
     lambda r, a: r[0].shape == (len(a["nesting_dims"]), len(a["features"]), 5) and r[1].ndim == 0)
TIED = {"features": vectors(4, 8), "weight": vectors(5, 8), "bias": st.one_of(st.none(), vectors(1, 5).map(lambda t: t[0])), "dims": st.just(HEAD)}
WILD_TIED = {"features": any_vectors, "weight": any_vectors, "bias": any_tensor, "dims": any_dims}
fuzz("mrl.tied_logits", mrl.tied_logits, TIED, WILD_TIED, lambda r, a: r.shape == (len(a["dims"]), len(a["features"]), len(a["weight"])))
fuzz("mrl.tied_loss", mrl.tied_loss, TIED | {"targets": class_numbers(4, 5)}, WILD_TIED | {"targets": any_labels, "importance": any_weights, "label_smoothing": any_float}, lambda r, a: r.ndim == 0)
fuzz("mrl.untied_loss", lambda features, weight, bias, targets, dims, **options: mrl.untied_loss(features, [weight[:, :m].contiguous() if isinstance(m, int) and m > 0 else weight for m in dims], [bias] * len(dims), targets, dims, **options),
     TIED | {"targets": class_numbers(4, 5)}, WILD_TIED | {"targets": any_labels, "importance": any_weights, "label_smoothing": any_float}, lambda r, a: r.ndim == 0)
fuzz("mrl.class_targets", mrl.class_targets, {"targets": class_numbers(4, 5), "rows": st.just(4), "classes": st.just(5)}, {"targets": any_labels, "rows": small_int, "classes": small_int, "ignored": st.integers(-100, 3)}, lambda r, a: r is a["targets"])
fuzz("mrl.relative_importance", mrl.relative_importance, {"weights": st.none(), "count": st.integers(1, 4)}, {"weights": any_weights, "count": st.integers(1, 4)}, lambda r, a: len(r) == a["count"] and sum(r) > 0)
fuzz("mrl.MatryoshkaContrastive", lambda anchors, positives, **options: mrl.MatryoshkaContrastive(**{"nesting_dims": HEAD} | options)(anchors, positives), {"anchors": vectors(4, 8), "positives": vectors(4, 8)},
     {"anchors": any_vectors, "positives": any_vectors, "nesting_dims": any_dims, "weights": any_weights, "scale": any_float, "symmetric": st.booleans()}, lambda r, a: r.ndim == 0)


def adaptive_classifier(features, labels, grid, max_dim):
    torch.manual_seed(0)
    return mrl.AdaptiveClassifier(mrl.MatryoshkaHead(8, 5, HEAD), HEAD, grid).fit(features, labels).predict(features, max_dim)


fuzz("mrl.AdaptiveClassifier", adaptive_classifier, {"features": vectors(4, 8), "labels": class_numbers(4, 5), "grid": st.none(), "max_dim": st.none()},
     {"features": any_vectors, "labels": any_labels, "grid": any_weights, "max_dim": any_int}, lambda r, a: r[0].shape == r[1].shape == (len(a["features"]),))
fuzz("mrl.oracle", mrl.oracle, {"predictions": class_numbers(12, 5).map(lambda t: t.view(3, 4)), "labels": class_numbers(4, 5)}, {"predictions": any_tensor, "labels": any_labels}, lambda r, a: r.shape == a["labels"].shape)
FOUND = {"indices": class_numbers(12, 6).map(lambda t: t.view(3, 4)), "gallery_labels": class_numbers(6, 2), "query_labels": class_numbers(3, 2), "k": st.integers(1, 4)}
WILD_FOUND = {"indices": any_vectors.filter(lambda t: t.dtype != torch.bfloat16), "gallery_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16), "query_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16), "k": any_int}
for name in ("mean_average_precision_at_k", "precision_at_k"):
    fuzz(f"mrl.{name}", getattr(mrl, name), FOUND, WILD_FOUND, lambda r, a: 0 <= r <= 1)
fuzz("mrl.top1_nearest_neighbour", mrl.top1_nearest_neighbour, {k: v for k, v in FOUND.items() if k != "k"}, {k: v for k, v in WILD_FOUND.items() if k != "k"}, lambda r, a: 0 <= r <= 1)
fuzz("mrl.search_cost", mrl.search_cost, {"gallery_size": st.integers(1, 99), "dims": st.just((2, 8)), "shortlists": st.just((5,))}, {"gallery_size": any_int, "dims": any_dims, "shortlists": any_dims},
     lambda r, a: r.multiply_adds == r.scanned + r.fetched)
fuzz("mrl.rerank_scores", mrl.rerank_scores, {"gallery": vectors(6, 8), "queries": vectors(2, 8), "candidates": class_numbers(6, 6).map(lambda t: t.view(2, 3)), "dim": st.integers(1, 8), "metric": st.sampled_from(["cosine", "dot", "euclidean"])},
     {"gallery": any_vectors, "queries": any_vectors, "candidates": any_vectors, "dim": small_int}, lambda r, a: r.shape == a["candidates"].shape)
SEARCH = {"gallery": vectors(6, 8), "queries": vectors(2, 8), "k": st.integers(1, 2), "metric": st.sampled_from(["cosine", "dot", "euclidean"])}
WILD_SEARCH = {"gallery": st.one_of(any_vectors, any_array), "queries": st.one_of(any_vectors, any_array), "k": any_int, "metric": st.just("manhattan")}
fuzz("mrl.FunnelRetrieval", lambda gallery, queries, k, **options: mrl.FunnelRetrieval(gallery, **{"progress": False} | options).search(queries, k), SEARCH | {"dims": st.just((2, 4, 8)), "shortlists": st.just((4, 3))},
     WILD_SEARCH | {"dims": any_dims, "shortlists": any_dims}, lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]))
fuzz("mrl.AdaptiveRetrieval", lambda gallery, queries, k, **options: mrl.AdaptiveRetrieval(gallery, **{"progress": False} | options).search(queries, k), SEARCH | {"shortlist_dim": st.just(2), "rerank_dim": st.just(8), "shortlist": st.just(4)},
     WILD_SEARCH | {"shortlist_dim": any_int, "rerank_dim": any_int, "shortlist": any_int}, lambda r, a: r[0].shape == r[1].shape == (len(a["queries"]), a["k"]))
GRID = {"gallery": vectors(6, 8), "gallery_labels": class_numbers(6, 2), "queries": vectors(3, 8), "query_labels": class_numbers(3, 2), "shortlist_dims": st.just((2, 4)), "rerank_dims": st.just((4, 8)), "shortlists": st.just((2, 4)), "k": st.just(2)}
fuzz("mrl.search_grid", mrl.search_grid, GRID, {"gallery": any_vectors, "queries": any_vectors, "gallery_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16), "query_labels": any_labels.filter(lambda t: t.dtype != torch.bfloat16),
     "shortlist_dims": any_dims, "rerank_dims": any_dims, "shortlists": any_dims, "k": any_int}, lambda r, a: all(0 <= s.quality <= 1 for s in r))
fuzz("mrl.choose_sizes", lambda qualities, tolerance, fetch: mrl.choose_sizes([mrl.SearchSizes(2, 8, 4, q, 0.5, mrl.SearchCost(10 + i, 5)) for i, q in enumerate(qualities)], tolerance, fetch),
     {"qualities": st.just([0.5, 0.4]), "tolerance": st.just(0.01), "fetch": st.just(50.0)}, {"qualities": any_weights, "tolerance": any_float, "fetch": any_float}, lambda r, a: r.quality >= 0.5 - a["tolerance"])
fuzz("mrl.simulated_embeddings", mrl.simulated_embeddings, {"n": st.integers(1, 9), "dim": st.integers(1, 5), "num_classes": st.integers(1, 4)},
     {"n": small_int, "dim": small_int, "num_classes": small_int, "exponent": any_float, "noise": any_float, "seed": any_int}, lambda r, a: r[0].shape == (a["n"], a["dim"]) and len(r[1]) == a["n"])

# --- CoOp

CLIP = StubCLIP(16, 2, 2, 100, 24, 8).eval().requires_grad_(False)
TOKENIZER = WordTokenizer(100, 24)
NAMES = st.just(["cat", "small dog", "bird"])
any_names = st.lists(st.text(max_size=6), max_size=4)
any_position = st.sampled_from(["end", "middle", "front", "start"])
fuzz("coop.context_slots", coop.context_slots, {"n_ctx": st.integers(1, 8), "name_length": st.integers(1, 5), "position": st.sampled_from(coop.POSITIONS)}, {"n_ctx": small_int, "name_length": small_int, "position": any_position},
     lambda r, a: a["n_ctx"] < 1 or (len(r) == a["n_ctx"] and sorted(r) == r))
fuzz("coop.text_tower", coop.text_tower, {"clip": st.just(CLIP)}, {"clip": st.sampled_from([nn.Linear(2, 2), nn.Module(), nn.Transformer(8, 2, 1, 1, 8)])}, lambda r, a: r is a["clip"])
fuzz("coop.encode_prefix", lambda prompt: coop.encode_prefix(CLIP, prompt), {"prompt": vectors(3, 16)}, {"prompt": any_tensor}, lambda r, a: len(r) == 2)
PAST = coop.encode_prefix(CLIP, filled((2, 16)))
fuzz("coop.encode_prompts", lambda prompts, ends: coop.encode_prompts(CLIP, prompts, ends, PAST), {"prompts": st.builds(filled, st.just((3, 5, 16))), "ends": class_numbers(3, 5)}, {"prompts": any_tensor, "ends": any_labels},
     lambda r, a: r.shape == (len(a["prompts"]), 8))
fuzz("coop.nearest_rows", coop.nearest_rows, {"vectors": vectors(3, 4), "table": vectors(6, 4), "top": st.integers(1, 6)}, {"vectors": any_vectors, "table": any_vectors, "top": any_int}, lambda r, a: r[0].shape == r[1].shape == (len(a["vectors"]), a["top"]))
fuzz("coop.random_distance", coop.random_distance, {"vectors": vectors(3, 4), "table": vectors(6, 4), "draws": st.integers(1, 5)}, {"vectors": any_vectors, "table": any_vectors, "draws": small_int}, lambda r, a: r.shape == (len(a["vectors"]),))
fuzz("coop.image_size", coop.image_size, {"clip": st.sampled_from([CLIP, nn.Linear(2, 2)])}, {}, lambda r, a: r in (8, (8, 8), None))


def prompts_and_logits(classnames, features, n_ctx, position, class_specific, ctx_init, chunk_size):
    model = coop.CoOp(CLIP, classnames, n_ctx, position, class_specific, ctx_init, TOKENIZER, chunk_size)
    return model.from_features(features)


fuzz("coop.CoOp", prompts_and_logits, {"classnames": NAMES, "features": vectors(2, 8), "n_ctx": st.integers(1, 5), "position": st.sampled_from(coop.POSITIONS), "class_specific": st.booleans(), "ctx_init": st.none(), "chunk_size": st.none()},
     {"classnames": any_names, "features": any_vectors, "n_ctx": any_int, "position": any_position, "ctx_init": st.text(max_size=9), "chunk_size": any_int}, lambda r, a: r.shape == (len(a["features"]), len(a["classnames"])))
fuzz("coop.lay_out", lambda names, n_ctx, position: coop.lay_out(names, TOKENIZER, CLIP, n_ctx, position), {"names": NAMES, "n_ctx": st.integers(1, 5), "position": st.sampled_from(coop.POSITIONS)},
     {"n_ctx": any_int, "position": any_position}, lambda r, a: r.slots.shape == (len(a["names"]), a["n_ctx"]))
fuzz("coop.encode_images", lambda images, batch_size: coop.encode_images(CLIP, images, batch_size), {"images": images(c=(3, 3), size=(8, 8)), "batch_size": st.integers(1, 4)}, {"images": any_images, "batch_size": any_int},
     lambda r, a: r.shape == (len(a["images"]), 8))
fuzz("coop.few_shot", coop.few_shot, {"labels": class_numbers(8, 2), "shots": st.integers(1, 3)}, {"labels": any_labels, "shots": any_int, "seed": st.integers(0, 9)}, lambda r, a: len(r) == a["shots"] * len(a["labels"].unique()))
fuzz("coop.learning_rate", coop.learning_rate, {"epoch": st.integers(0, 9), "max_epoch": st.just(10)}, {"epoch": any_int, "max_epoch": any_int, "base": st.floats(0, 2), "warmup": st.floats(0, 2)}, lambda r, a: r >= 0)
fuzz("coop.paper_epochs", coop.paper_epochs, {"shots": st.floats(0, 99)}, {"shots": any_float}, lambda r, a: r in (50, 100, 200))
fuzz("coop.fit_coop", lambda features, labels, **options: coop.fit_coop(coop.CoOp(CLIP, ["cat", "small dog", "bird"], 2, tokenizer=TOKENIZER), features, labels, **{"steps": 1} | options), {"features": vectors(4, 8), "labels": class_numbers(4, 3)},
     {"features": any_vectors, "labels": any_labels, "steps": st.integers(-1, 2), "batch_size": small_int, "seed": st.integers(-1, 3), "lr": any_float}, lambda r, a: isinstance(r, History) and len(r.loss) == a.get("steps", 1), also=(FloatingPointError,))

# Types that hold what functions return, and constants: nothing to draw. Parts of CoOp that `coop.CoOp` draws; files are in test_coop.py.
NOT_DRAWN = {"coop.PromptLayout", "coop.CHUNK_BYTES", "coop.PromptLearner", "coop.first_context", "coop.in_chunks", "coop.activation_bytes", "coop.check_precision", "coop.fill",
             "coop.nearest_words", "coop.save_context", "coop.load_context", "coop.context_options",
             "dann.DANNOutput", "dann.DANNLoss", "mrl.SearchCost", "mrl.SearchSizes", "coop.NearestWords", "coop.POSITIONS"}


# --- the tests


def test_every_public_name_is_drawn():
    public = {f"{module.__name__.split('.')[1]}.{name}" for module in (rotation, dann, mrl, coop) for name in module.__all__}
    assert set(FUZZ) | NOT_DRAWN == public


@pytest.mark.parametrize("name", FUZZ)
def test_a_documented_result_or_one_clear_error(name, record_property):
    function, count = FUZZ[name], {"cases": 0, "refused": 0}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(function.cases)
    def check(arguments):
        count["cases"] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = function.call(**copy.copy(arguments))
            except (ValueError, TypeError, *function.also) as error:
                count["refused"] += 1
                assert len(str(error)) > 10, f"an error that says nothing: {error!r}"
            else:
                assert function.check(result, arguments), f"not the documented result: {result!r}"

    check()
    assert count["cases"] > count["refused"], "no case got through: what should fit does not"
    record_property(f"fuzz {name}", f"{count['cases']} cases, {count['refused']} refused")
