"""Embeddings that survive upgrades: simplex geometry, rotations, losses, the compatibility matrix,
and the gallery on disk."""
from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from xfer_course.data import DataFileError
from xfer_course.upgrades import (
    Bases,
    BasisTransformation,
    CosineClassifier,
    Gallery,
    OrthogonalCompatibleHead,
    OrthogonalLayer,
    SimplexClassifier,
    average_accuracy,
    average_compatibility,
    basis_loss,
    cayley,
    class_mean_loss,
    class_means,
    class_prototypes,
    compatibility_figure,
    compatibility_matrix,
    compatible_pairs,
    cosine_gap,
    cross_test,
    higher_order_loss,
    influence_loss,
    multiply_adds,
    simplex,
    update_gain,
    upgrade_cost,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The fixed classifier

@pytest.mark.parametrize("classes", [2, 3, 10, 257])
def test_simplex_has_unit_vectors_at_equal_angles(classes):
    vertices = simplex(classes).double()
    gram = vertices @ vertices.T
    assert vertices.shape == (classes, classes - 1)
    torch.testing.assert_close(gram.diagonal(), torch.ones(classes, dtype=torch.double), atol=1e-6, rtol=0)
    others = gram[~torch.eye(classes, dtype=torch.bool)]
    assert (others + 1 / (classes - 1)).abs().max() < 1e-6
    assert vertices.sum(0).norm() < 1e-5


def test_simplex_classifier_has_nothing_to_learn_and_is_the_same_every_time():
    torch.manual_seed(1)
    first = SimplexClassifier(12)
    torch.manual_seed(2)
    assert torch.equal(first.weight, SimplexClassifier(12).weight)
    assert not list(first.parameters()) and "weight" in first.state_dict()
    z = normal(5, 11)
    torch.testing.assert_close(first(z), 16 * F.normalize(z) @ first.weight.T)
    torch.testing.assert_close(SimplexClassifier(12, scale=None)(z), z @ first.weight.T)


def test_models_of_growing_classes_meet_at_the_same_directions():
    """A second model that learns more classes sends the first ones where the first model sent them,
    without having seen it."""
    centres, head = 3 * normal(6, 8), SimplexClassifier(6)

    def trained(classes: int, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        labels = torch.arange(40 * classes) % classes
        inputs, model = centres[labels] + 0.3 * normal(len(labels), 8, seed=seed), torch.nn.Linear(8, head.feature_dim)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(head(model(inputs)), labels).backward()
            optimizer.step()
        return model

    old, new = trained(3, 1), trained(6, 2)
    similarities = F.normalize(old(centres[:3])) @ F.normalize(new(centres)).T
    assert similarities.argmax(1).tolist() == [0, 1, 2]
    own = similarities.diagonal()
    assert own.mean() > 0.6 and (similarities.sum(1) - own).mean() / 5 < 0.1  # by chance both would be about zero


# Rotations

@pytest.mark.parametrize("size", [1, 2, 7])
def test_cayley_is_orthogonal_and_a_rotation(size):
    q = cayley(normal(size, size).double())
    torch.testing.assert_close(q @ q.T, torch.eye(size, dtype=torch.double))
    assert math.isclose(float(torch.linalg.det(q)), 1.0, rel_tol=1e-9)


def test_cayley_turns_a_plane_by_twice_the_arc_tangent():
    q = cayley(torch.tensor([[0.0, 0.5], [9.0, 9.0]], dtype=torch.double))  # only what stands above the diagonal counts
    assert math.isclose(math.acos(q[0, 0]), 2 * math.atan(0.5))


def test_gradients_of_cayley():
    assert torch.autograd.gradcheck(cayley, normal(4, 4).double().requires_grad_())


def test_orthogonality_survives_training():
    torch.manual_seed(0)
    layer, x, y = OrthogonalLayer(10), normal(64, 10), normal(64, 10, seed=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    before = F.mse_loss(layer(x), y).item()
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(layer(x), y).backward()
        optimizer.step()
    q = layer.weight
    assert (q @ q.T - torch.eye(10)).norm() < 1e-4 and (q - torch.eye(10)).norm() > 0.5
    assert F.mse_loss(layer(x), y).item() < before
    torch.testing.assert_close(layer(x) @ layer(x).T, x @ x.T, atol=1e-4, rtol=1e-4)


# Losses

def naive_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -sum(torch.log(torch.exp(row[k]) / torch.exp(row).sum()) for row, k in zip(logits, labels)) / len(labels)


def test_prototypes_are_mean_directions():
    features, labels = normal(30, 5), torch.arange(30) % 3
    expected = torch.stack([F.normalize(torch.stack([f / f.norm() for f in features[labels == k]]).mean(0), dim=0)
                            for k in range(3)])
    torch.testing.assert_close(class_prototypes(features, labels, 3), expected)


def test_one_step_of_bct_against_a_naive_reference():
    "The same update of a linear model by the library's loss and by the formula written out."
    x, y, prototypes = normal(12, 6), torch.arange(12) % 3, F.normalize(normal(3, 4, seed=5))
    weights = []
    for naive in (False, True):
        torch.manual_seed(0)
        model, head = torch.nn.Linear(6, 4), CosineClassifier(4, 3, scale=5.0)
        z = model(x)
        if naive:
            unit = z / z.norm(dim=1, keepdim=True)
            own = 5 * unit @ (head.weight / head.weight.norm(dim=1, keepdim=True)).T
            loss = naive_cross_entropy(own, y) + 2 * naive_cross_entropy(7 * unit @ prototypes.T, y)
        else:
            loss = F.cross_entropy(head(z), y) + 2 * influence_loss(z, prototypes, y, scale=7.0)
        loss.backward()
        weights.append(model.weight - 0.1 * model.weight.grad)
    torch.testing.assert_close(*weights)


def test_oca_loss_is_classification_of_the_turned_and_alignment_of_the_first_block():
    torch.manual_seed(0)
    head, z, y, means = (OrthogonalCompatibleHead(4, 3, 5, scale=6.0), normal(9, 7), torch.arange(9) % 5,
                         normal(5, 4, seed=3))
    head.rotation.free.data.normal_()
    q, w = head.rotation.weight, F.normalize(head.classifier.weight)
    own = 16 * torch.stack([w @ (q @ row) / row.norm() for row in z])
    block = torch.stack([row[:4] / row[:4].norm() for row in z])
    apart = torch.stack([1 - means[k] @ row / means[k].norm() for row, k in zip(block, y)]).mean()
    # 5, 10 and 5: github.com/z3n0e/OCA, trainers/OCA_trainer.py
    torch.testing.assert_close(
        head.loss(z, y, means),
        5 * naive_cross_entropy(own, y) + 10 * naive_cross_entropy(6 * block @ means.T, y) + 5 * apart,
        rtol=1e-4, atol=1e-5)


def test_linear_oca_reads_unit_features_as_released():
    head, z = OrthogonalCompatibleHead(4, 3, 5, linear=True), normal(9, 7)
    head.rotation.free.data.normal_()
    torch.testing.assert_close(head(z), F.normalize(z) @ head.rotation.weight.T @ head.classifier.weight.T)
    assert head.classifier.bias is None


def test_oca_without_alignment_is_classification_alone():
    head = OrthogonalCompatibleHead(4, 3, 5, 0, class_weight=2, cosine_weight=0)
    z, y = normal(9, 7), torch.arange(9) % 5
    torch.testing.assert_close(head.loss(z, y, normal(5, 4, seed=3)), 2 * F.cross_entropy(head(z), y))


def test_extra_dimensions_alone_equal_oca_at_the_start():
    torch.manual_seed(0)
    with_layer = OrthogonalCompatibleHead(4, 2, 3)
    torch.manual_seed(0)
    without = OrthogonalCompatibleHead(4, 2, 3, rotate=False)
    z, y, prototypes = normal(6, 6), torch.arange(6) % 3, normal(3, 4, seed=1)
    torch.testing.assert_close(with_layer.loss(z, y, prototypes), without.loss(z, y, prototypes))
    assert sum(p.numel() for p in with_layer.parameters()) == sum(p.numel() for p in without.parameters()) + 36


def test_basis_transformation_loses_nothing_and_aligns_the_first_block():
    torch.manual_seed(0)
    transform = BasisTransformation(old_dim=5, new_dim=4, extra_dim=2, scale=2.0)
    transform.new_basis.free.data.normal_()
    transform.old_basis.free.data.normal_()
    r = normal(7, 9)
    bases = transform(r)
    added = F.normalize(transform.added(F.relu(r)))
    assert bases.embedding.shape == (7, 6) and bases.old.shape == (7, 5) and bases.new.shape == (7, 4)
    torch.testing.assert_close(bases.embedding @ bases.embedding.T, added @ added.T + 4 * bases.new @ bases.new.T)
    old, new = normal(7, 5, seed=1), normal(7, 4, seed=2)
    by_hand = sum(5 * (1 - b @ o / (b.norm() * o.norm())) + (1 - n @ m / (n.norm() * m.norm()))
                  for b, o, n, m in zip(bases.old, old, bases.new, new)) / 7
    torch.testing.assert_close(basis_loss(bases, old, new), by_hand)
    labels, means = torch.arange(7) % 3, normal(3, 5, seed=3)
    for scale in (1.0, 16.0):
        logits = [[scale * b @ mean / b.norm() for mean in means] for b in bases.old]
        influence = sum(torch.logsumexp(torch.stack(row), 0) - row[y] for row, y in zip(logits, labels)) / 7
        torch.testing.assert_close(basis_loss(bases, old, new, labels, means, influence_scale=scale),
                                   by_hand + 10 * influence)


def test_class_means_are_means_of_unit_vectors():
    z, y = normal(9, 4), torch.arange(9) % 3
    by_hand = torch.stack([torch.stack([row / row.norm() for row, label in zip(z, y) if label == k]).mean(0)
                           for k in range(3)])
    torch.testing.assert_close(class_means(z, y, 3), by_hand)
    torch.testing.assert_close(class_prototypes(z, y, 3), F.normalize(by_hand))


def test_losses_on_old_means_by_hand():
    z, means, y = normal(6, 4), 0.5 * normal(3, 4, seed=1), torch.tensor([0, 1, 2] * 2)
    unit = torch.stack([row / row.norm() for row in z])
    torch.testing.assert_close(class_mean_loss(z, means, y, 3.0), naive_cross_entropy(3 * unit @ means.T, y))
    gaps = [1 - row @ means[k] / means[k].norm() for row, k in zip(unit, y)]
    torch.testing.assert_close(cosine_gap(z, means[y]), torch.stack(gaps).mean())


def test_higher_order_loss_against_loops():
    new, old, y = normal(6, 4), normal(6, 4, seed=1), torch.tensor([0, 0, 1, 1, 2, 2])
    a, b = F.normalize(new), F.normalize(old)
    terms = [-3 * a[i] @ b[i] + torch.log(sum(torch.exp(3 * b[i] @ a[j]) for j in range(6) if y[j] != y[i]))
             for i in range(6)]  # the old picture is the anchor, as in the authors' `HocLoss`
    torch.testing.assert_close(higher_order_loss(new, old, y, scale=3.0), torch.stack(terms).mean())


def test_higher_order_loss_with_one_class_only_is_finite():
    new = normal(3, 4).requires_grad_()
    loss = higher_order_loss(new, normal(3, 4, seed=1), torch.zeros(3, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(new.grad).all()


# Training: better than chance within N steps, and repeatable

def upgraded(method: str) -> tuple[float, float]:
    """Cross test of a new linear model against an old one, and of an independent one:
    points of ten classes in 12 dimensions."""
    centres, labels = normal(10, 12), torch.arange(200) % 10
    x, queries = centres[labels] + 0.4 * normal(200, 12, seed=1), centres[labels] + 0.4 * normal(200, 12, seed=2)
    torch.manual_seed(3)
    old, free, model = (torch.nn.Linear(12, 8), torch.nn.Linear(12, 8),
                        torch.nn.Linear(12, 12 if method == "oca" else 16 if method == "bt2" else 8))
    with torch.no_grad():
        old_z, free_z, gallery = old(x), free(x), old(x)
    prototypes = class_prototypes(old_z, labels, 10)
    head = {"bct": CosineClassifier(8, 10), "oca": OrthogonalCompatibleHead(8, 4, 10),
            "bt2": BasisTransformation(8, 8, 4)}[method]
    losses = {"bct": lambda z: F.cross_entropy(head(z), labels) + influence_loss(z, prototypes, labels),
              "oca": lambda z: head.loss(z, labels, prototypes),
              "bt2": lambda z: basis_loss(head(z), old_z, free_z, labels, class_means(old_z, labels, 10))}
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        losses[method](model(x)).backward()
        optimizer.step()
    with torch.no_grad():
        z = model(queries)
        z = head(z).embedding if method == "bt2" else z
        return cross_test(z, gallery, labels, labels), cross_test(free(queries), gallery, labels, labels)


@pytest.mark.parametrize("method", ["bct", "oca", "bt2"])
def test_compatible_training_reaches_the_old_gallery_within_100_steps_and_repeats(method):
    aligned, independent = upgraded(method)
    assert aligned > 0.5 > 0.3 > independent
    assert upgraded(method) == (aligned, independent)


# Tests between models

def test_matrix_against_brute_force():
    widths, query_labels, gallery_labels = [3, 5, 4], torch.arange(20) % 4, torch.arange(30) % 4
    queries = [normal(20, w, seed=i) for i, w in enumerate(widths)]
    gallery = [normal(30, w, seed=10 + i) for i, w in enumerate(widths)]
    for k in (1, 4):
        got = compatibility_matrix(queries, gallery, query_labels, gallery_labels, k)
        for i, q in enumerate(queries):
            for j, g in enumerate(gallery):
                d, values = min(q.shape[1], g.shape[1]), []
                for row, label in zip(q[:, :d], query_labels):
                    order = sorted(range(30), key=lambda n: -float(F.cosine_similarity(row, g[n, :d], dim=0)))[:k]
                    hits = [bool(gallery_labels[n] == label) for n in order]
                    values.append(sum(hit * sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits)) / k)
                assert math.isclose(got[i, j], sum(values) / len(values), abs_tol=1e-9)


def test_summaries_of_a_matrix():
    matrix = np.array([[0.5, 0.9, 0.9], [0.5, 0.6, 0.9], [0.6, 0.7, 0.8]])
    # a tie does not count
    assert compatible_pairs(matrix).tolist() == [[False, False, False], [False, False, False], [True, True, False]]
    assert math.isclose(average_compatibility(matrix), 2 / 3) and math.isnan(average_compatibility([[0.5]]))
    assert math.isclose(average_accuracy(matrix), np.mean([0.5, 0.5, 0.6, 0.6, 0.7, 0.8]))
    assert update_gain(0.5, 0.5, 0.9) == 0 and math.isclose(update_gain(0.5, 0.9, 0.9), 1)


def test_figure_marks_compatible_cells():
    figure = compatibility_figure({"a": np.array([[0.5, 0.1], [0.6, 0.7]]), "b": np.array([[0.5, 0.1], [0.4, 0.7]])},
                                  ["1", "2"])
    bold = [[t.get_text() for t in ax.texts if t.get_weight() == "bold"] for ax in figure.axes]
    assert bold == [["60"], []]


# The gallery

def gallery(**options) -> Gallery:
    return Gallery(normal(40, 6), "v1", labels=torch.arange(40) % 4, **options)


LOSSES = {
    "influence": lambda a, b, y: influence_loss(a, class_prototypes(b, y, 4), y),
    "higher order": lambda a, b, y: higher_order_loss(a, b, y),
    "basis": lambda a, b, y: basis_loss(Bases(a, a[:, :8], a[:, 8:]), b[:, :8], b[:, 8:], y,
                                        class_means(b[:, :8], y, 4)),
    "simplex": lambda a, b, y: F.cross_entropy(SimplexClassifier(25).to(a.dtype)(a), y),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 15_000.0])
def test_losses_keep_their_value_in_half_precision(loss, dtype, size):
    """Lengths above 65,504, and vectors so short that their squares vanish."""
    a, b = ((size * normal(12, 24, seed=seed)).to(dtype).requires_grad_() for seed in (0, 1))
    y = torch.arange(12) % 4
    found, expected = loss(a, b.detach(), y), loss(a.double(), b.detach().double(), y)
    found.backward()
    assert a.grad.isfinite().all() and a.grad.any()
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.05)


def test_a_zero_vector_in_half_precision_is_no_nan():
    logits = CosineClassifier(4, 3).half()(torch.zeros(2, 4, dtype=torch.float16))
    assert not logits.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_class_means_of_many_examples_are_exact_in_half_precision(dtype):
    features, y = torch.ones(6000, 4, dtype=dtype), torch.zeros(6000, dtype=torch.long)
    assert class_means(features, y, 1).dtype == dtype and class_means(features, y, 1).tolist() == [[0.5] * 4]


def test_gallery_refuses_other_models_until_declared_or_measured():
    store = gallery(compatible=["v2"])
    assert store.search(normal(3, 6), "v1", k=2)[1].shape == (3, 2)
    assert store.search(normal(3, 9), "v2")[1].shape == (3, 1)  # longer queries are cut
    assert not store.needs_backfill("v1") and not store.needs_backfill("v2") and store.needs_backfill("v3")
    with pytest.raises(ValueError, match="'v3' is not known to be comparable"):
        store.search(normal(3, 6), "v3")


def test_check_upgrade_measures_the_criterion():
    store = gallery()
    bad, good, labels = normal(20, 6, seed=7), store.embeddings[:20] + 0.01, torch.arange(20) % 4
    check = store.check_upgrade("v2", bad, torch.cat([good, normal(20, 3)], 1), labels)
    assert check.compatible and check.cross == 1.0 and check.gain.mean == pytest.approx(check.cross - check.old_self)
    assert check.old_self == cross_test(bad, store.embeddings, labels, store.labels) and not store.needs_backfill("v2")
    again = store.check_upgrade("v2", good, bad, labels)  # a later measurement counts
    assert not again.compatible and store.needs_backfill("v2")
    assert store.check_upgrade("v2", good, good, labels, margin=-0.01).compatible
    assert (store.check_upgrade("v2", good, bad, labels, k=3).old_self
            == pytest.approx(cross_test(good, store.embeddings, labels, store.labels, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gallery_comes_back_from_disk(tmp_path, dtype):
    store = Gallery(normal(10, 4).to(dtype), "encoder ü 2", labels=torch.arange(10), compatible=["b", "a"])
    store.save(tmp_path / "folder" / "g.safetensors")
    back = Gallery.load(tmp_path / "folder" / "g.safetensors")
    assert (torch.equal(back.embeddings, store.embeddings) and back.embeddings.dtype == dtype
            and torch.equal(back.labels, store.labels))
    assert (back.version, back.compatible, back.bytes) == ("encoder ü 2", {"a", "b"}, store.bytes)
    Gallery(normal(3, 2), "x").save(tmp_path / "plain.safetensors")
    assert Gallery.load(tmp_path / "plain.safetensors").labels is None


@pytest.mark.parametrize("ids", [[2, 0, 1], [-5, -7, 0], [1, 2, 0], [10, 11, 12], ["a", "b", "c"], None], ids=str)
def test_rows_keep_their_names_on_disk(tmp_path, ids):
    store = Gallery(torch.eye(3), "v1", torch.arange(3), ids=ids)
    store.save(tmp_path / "g.safetensors")
    back = Gallery.load(tmp_path / "g.safetensors")
    expected = [[each] for each in ids or range(3)]
    assert back.search(torch.eye(3), "v1")[1].tolist() == store.search(torch.eye(3), "v1")[1].tolist() == expected
    if not isinstance(expected[0][0], str):
        assert back.add(torch.ones(1, 3), "v1", torch.tensor([3])) == max(0, *(ids or range(3))) + 1


def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    gallery().save(path)
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        Gallery(normal(5, 2), "v9").save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


def test_bad_files_get_one_sentence(tmp_path):
    path = tmp_path / "g.safetensors"
    with pytest.raises(FileNotFoundError, match="no gallery at g.safetensors"):
        Gallery.load(path)
    gallery().save(path)
    whole = path.read_bytes()
    header = {"kind": "xfer_course.Gallery", "version": "v1", "compatible": "[]"}
    cases = {
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]), "empty": lambda: path.write_bytes(b""),
        "pickle": lambda: torch.save({"a": 1}, path),
        "other kind": lambda: save_file({"embeddings": normal(3, 2)}, path, {"kind": "something"}),
        "no embeddings": lambda: save_file({"x": normal(3, 2)}, path, header),
        "no version": lambda: save_file({"embeddings": normal(3, 2)}, path,
                                        {k: v for k, v in header.items() if k != "version"}),
        "bad list": lambda: save_file({"embeddings": normal(3, 2)}, path, header | {"compatible": "[1"}),
        "not a number": lambda: save_file({"embeddings": torch.full((3, 2), math.nan)}, path, header),
        "integers": lambda: save_file({"embeddings": torch.ones(3, 2, dtype=torch.int32)}, path, header),
        "labels": lambda: save_file({"embeddings": normal(3, 2), "labels": torch.arange(2)}, path, header),
    }
    for name, damage in cases.items():
        damage()
        with pytest.raises(DataFileError, match="g.safetensors is damaged or no gallery"):
            Gallery.load(path)
            pytest.fail(name)


# Costs

def test_costs():
    keep, tenth, full = (upgrade_cost(100, 8, 12, 1000, share, itemsize=2) for share in (0, 0.1, 1))
    assert keep == (0, 0, 1600, 800)
    assert tenth == (10_000, 240, 90 * 16 + 10 * 24, 90 * 8 + 10 * 12)
    assert full == (100_000, 2400, 2400, 1200)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                  torch.nn.Linear(2 * 36, 5))
    assert multiply_adds(network, torch.zeros(1, 1, 8, 8)) == 36 * 2 * 9 + 72 * 5


# Bad input: one sentence that names the argument, what was given and what is allowed

Z, Y = normal(4, 3), torch.tensor([0, 1, 0, 1])
BAD = {
    "simplex": (lambda: simplex(1), "num_classes must be a whole number of at least 2, got 1"),
    "simplex bool": (lambda: SimplexClassifier(True), "num_classes"),
    "scale": (lambda: SimplexClassifier(3, scale=0), "scale must be a finite number above 0, got 0"),
    "simplex width": (lambda: SimplexClassifier(3)(Z), r"features must be of shape \(N 2\), got \(4, 3\)"),
    "classifier": (lambda: CosineClassifier(0, 3), "dim must be a whole number"),
    "integer features": (lambda: CosineClassifier(3, 2)(Z.long()), "features must hold float numbers, got torch.int64"),
    "cayley": (lambda: cayley(Z), r"free must be of shape \(D D\), got \(4, 3\)"),
    "double features": (lambda: CosineClassifier(3, 2)(Z.double()),
                        "features must be torch.float32 as the weights, got torch.float64"),
    "double basis": (lambda: BasisTransformation(2, 1, 1)(Z.double()),
                     "features must be torch.float32 as the weights, got torch.float64"),
    "prototypes in double": (lambda: OrthogonalCompatibleHead(2, 1, 2).loss(Z, Y, torch.eye(2).double()),
                             "prototypes must be torch.float32 as features, got torch.float64"),
    "prototypes": (lambda: OrthogonalCompatibleHead(2, 1, 2).loss(Z, Y, torch.eye(3)[:, :2]),
                   r"prototypes must be of shape \(2 2\), got \(3, 2\)"),
    "layer": (lambda: OrthogonalLayer(2)(Z), r"features must be of shape \(N 2\)"),
    "missing class": (lambda: class_prototypes(Z, Y, 3),
                      "labels must hold every class 0..2, but class 2 has no example"),
    "extra class": (lambda: class_prototypes(Z, Y + 1, 2), "labels must be class numbers from 0 up and below 2, got 2"),
    "column of labels": (lambda: influence_loss(Z, torch.eye(3), Y[:, None]),
                         r"labels must be of shape \(N\), got \(4, 1\)"),
    "labels counted from 1": (lambda: influence_loss(Z, torch.eye(3), torch.tensor([1, 2, 3, 1])),
                              "labels must be class numbers from 0 up and below 3, got 3: subtract 1"),
    "pairs with a column": (lambda: higher_order_loss(Z, Z, Y[:, None]), r"labels must be of shape \(N\)"),
    "pairs with NaN": (lambda: higher_order_loss(Z, Z, Y * math.nan), "labels must hold integer numbers"),
    "cross test of names": (lambda: cross_test(Z, Z, Y, list("abab")), "query_labels must be of the kind of gallery_"),
    "cross test of columns": (lambda: cross_test(Z, Z, Y[:, None], Y), r"query_labels must be of shape \(N\)"),
    "names as keys": (lambda: Gallery(Z, "v1", labels=list("abab")), "embeddings and labels must be numbers, got list"),
    "check of columns": (lambda: Gallery(Z, "v1", labels=Y).check_upgrade("v2", Z, Z, Y[:, None]),
                         r"query_labels must be of shape \(N\)"),
    "check of names": (lambda: Gallery(Z, "v1", labels=Y).check_upgrade("v2", Z, Z, list("abab")),
                       "query_labels must be of the kind of the gallery's labels"),
    "label count": (lambda: class_prototypes(Z, Y[:3], 2), "labels must hold 4 labels, one per row, got 3"),
    "prototype width": (lambda: influence_loss(Z, torch.eye(2), Y), r"features must be of shape \(N 2\)"),
    "pairs": (lambda: higher_order_loss(Z, Z[:2], Y), r"old_features must be of shape \(4 3\), got \(2, 3\)"),
    "extra": (lambda: OrthogonalCompatibleHead(3, -1, 2), "extra_dim must be a whole number of at least 0, got -1"),
    "weight": (lambda: OrthogonalCompatibleHead(3, 1, 2, weight=-1.0),
               "weight must be a finite number of at least 0, got -1"),
    "labels alone": (lambda: basis_loss(Bases(Z, Z, Z), Z, Z, torch.zeros(len(Z), dtype=torch.long)),
                     "labels and means must be given together"),
    "too much extra": (lambda: BasisTransformation(4, 4, 5),
                       r"extra_dim \(at least old_dim - new_dim\) must be a whole number from 1 to 4, got 5"),
    "too little extra": (lambda: BasisTransformation(8, 4, 3),
                         r"extra_dim \(at least old_dim - new_dim\) must be a whole number from 4 to 8, got 3"),
    "no rows": (lambda: cross_test(Z, Z, Y, Y[:2]), r"gallery_labels must have as many rows as gallery \(4\), got 2"),
    "k": (lambda: cross_test(Z, Z, Y, Y, 5), "k must be a whole number from 1 to 4, got 5"),
    "zero query": (lambda: cross_test(torch.zeros(1, 3), Z, Y[:1], Y), r"queries\[0\]"),
    "models": (lambda: compatibility_matrix([Z], [], Y, Y), r"gallery must have as many rows as queries \(1\), got 0"),
    "no model": (lambda: compatibility_matrix([], [], Y, Y),
                 "number of models must be a whole number of at least 1, got 0"),
    "matrix nan": (lambda: average_compatibility([[math.nan]]), "matrix must be finite"),
    "matrix": (lambda: average_accuracy([[1.0, 2.0]]), r"matrix must be of shape \(T T\), got \(1, 2\)"),
    "gain": (lambda: update_gain(0.5, 0.4, 0.5), r"new_self must be above old_self \(0.5\), .* got 0.5"),
    "figure": (lambda: compatibility_figure({}, ["1"]),
               "number of matrices must be a whole number of at least 1, got 0"),
    "figure names": (lambda: compatibility_figure({"a": np.eye(2)}, ["1"]),
                     r"matrix 'a' must be of shape \(1 1\), got \(2, 2\)"),
    "version": (lambda: Gallery(Z, " "), "version must be the name of a model"),
    "gallery labels": (lambda: Gallery(Z, "v1", labels=Y.float()), "labels must be int64"),
    "gallery nan": (lambda: Gallery(torch.full((2, 2), math.nan), "v1"), "must be finite, got nan"),
    "short queries": (lambda: Gallery(Z, "v1").search(Z[:, :2], "v1"),
                      r"shape \(Q, D\) with D at least 3, got \(4, 2\)"),
    "no labels": (lambda: Gallery(Z, "v1").check_upgrade("v2", Z, Z, Y), "this gallery has no labels"),
    "no version": (lambda: gallery().check_upgrade("", normal(2, 6), normal(2, 6), Y[:2]),
                   "version must be the name of a model"),
    "margin": (lambda: gallery().check_upgrade("v2", normal(2, 6), normal(2, 6), Y[:2], margin=math.nan),
               "margin must be a finite number, got nan"),
    "list of queries": (lambda: Gallery(Z, "v1").search([[1.0, 2.0, 3.0]], "v1"),
                        "queries must be a NumPy array or a tensor .* got list"),
    "unequal": (lambda: gallery().check_upgrade("v2", normal(2, 6), normal(3, 6), Y[:2]),
                r"new_queries must have as many rows as old_queries \(2\), got 3"),
    "share": (lambda: upgrade_cost(10, 2, 2, 5, share=2), "share must be a finite number from 0 to 1, got 2"),
    "batch": (lambda: multiply_adds(torch.nn.Linear(3, 1), Z), "example must be a batch of one, got 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_compatible_is_a_list_of_versions():
    with pytest.raises(TypeError, match="compatible must be a list of texts, got 'v2'"):
        Gallery(Z, "v1", compatible="v2")


def test_a_gallery_keeps_its_own_copy():
    buffer = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    gallery = Gallery(buffer, "v1")
    kept = gallery.embeddings.clone()
    buffer[:] = 0
    assert torch.equal(gallery.embeddings, kept)


def test_counting_multiply_adds_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).train()
    before = model[1].running_mean.clone()
    assert multiply_adds(model, torch.randn(1, 4)) == 24
    assert torch.equal(model[1].running_mean, before) and model.training


def test_shapes_and_sizes_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="embeddings"):
        Gallery(np.float32(1.0), "v1")
    gallery = Gallery(np.eye(4, dtype="float32"), "v1", labels=np.arange(4))
    one = torch.eye(4)[:1]
    with pytest.raises(ValueError, match="number of queries .* of at least 2, got 1"):
        gallery.check_upgrade("v2", one, one, torch.tensor([0]))
