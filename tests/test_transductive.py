"""Transductive clustering: every step against a plain form of it, what falls and what need not, episodes, bad input."""
from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from xfer_course.fewshot import (
    NearestMeanClassifier,
    TransductiveClustering,
    bound_update,
    episode_points,
    episodes,
    kernel_width,
    knn_affinity,
)

X, Y = load_digits(return_X_y=True)


def clouds(seed: int, way: int = 3, shot: int = 2, query: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middle = 2 * rng.standard_normal((way, 6))
    labels = np.repeat(np.arange(way), shot)
    return (middle[labels] + rng.standard_normal((way * shot, 6)), labels,
            middle[np.repeat(np.arange(way), query)] + rng.standard_normal((way * query, 6)))


@pytest.mark.parametrize("k", (2, 3, 6))
def test_neighbours_are_those_of_scikit_learn(k):
    x = np.random.default_rng(k).standard_normal((40, 5))
    places = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(x)[1][:, 1:]
    wanted = np.zeros((40, 40))
    np.put_along_axis(wanted, places, 1, 1)
    found = knn_affinity(x, k)
    np.testing.assert_array_equal(found.toarray(), wanted)
    far = ((x[:, None] - x) ** 2).sum(2)
    assert kernel_width(x, found) == pytest.approx(np.sqrt((wanted * far).sum() / 200))


def test_a_point_is_never_its_own_neighbour_duplicates_or_not():
    found = knn_affinity(np.zeros((4, 2)), 2)
    assert found.diagonal().sum() == 0 and found.sum() == 4 and kernel_width(np.zeros((4, 2)), found) == 0


def test_points_are_centred_brought_to_length_one_and_shifted_in_this_order():
    support, _, query = clouds(0)
    centre = np.full(6, 0.3)
    unit = [(x - centre) / np.linalg.norm(x - centre, axis=1, keepdims=True) for x in (support, query)]
    points = episode_points(support, query, centre)
    np.testing.assert_allclose(points[:6], unit[0])
    np.testing.assert_allclose(points[6:].mean(0), unit[0].mean(0), err_msg="both means are the same")
    np.testing.assert_allclose(episode_points(support, query, centre, shift_queries=False)[6:], unit[1])
    np.testing.assert_array_equal(
        episode_points(support, query, None, normalise=False, shift_queries=False), np.concatenate([support, query]))


def test_updates_against_loops():
    rng = np.random.default_rng(0)
    costs, near, strength = rng.random((12, 3)), knn_affinity(rng.random((12, 2))).toarray(), 0.6
    shares = np.exp(-costs) / np.exp(-costs).sum(1, keepdims=True)
    for _ in range(3):
        new = np.zeros_like(shares)
        for p in range(12):
            pull = sum(near[p, q] * shares[q] for q in range(12))
            powers = np.exp(-costs[p] + strength * pull)
            new[p] = powers / powers.sum()
        shares = new
    found = bound_update(costs, sp.csr_matrix(near), strength, most=3)
    assert len(found.energies) == 3
    np.testing.assert_allclose(found.shares, shares, rtol=1e-12)
    energy = (found.shares * (np.log(found.shares) + costs - strength * near @ found.shares)).sum()
    assert found.energies[-1] == pytest.approx(energy)


@pytest.mark.parametrize("seed", range(5))
def test_the_energy_falls_with_every_update_where_the_graph_is_a_kernel(seed):
    "The theory's case: a symmetric matrix without negative eigenvalues, and half the strength in the energy."
    rng = np.random.default_rng(seed)
    costs, parts = rng.random((15, 4)), rng.random((15, 3))
    kernel, shares = parts @ parts.T, None
    energies = []
    for _ in range(12):
        shares = bound_update(costs, kernel, 0.5, shares, most=1).shares
        energies.append((shares * (np.log(shares) + costs - 0.25 * kernel @ shares)).sum())
    assert (np.diff(energies) <= 1e-9).all() and energies[-1] < energies[0]


@pytest.mark.parametrize("seed", range(5))
def test_without_neighbours_it_is_k_means_from_the_labelled_means(seed):
    support, labels, query = clouds(seed)
    model = TransductiveClustering(laplacian=0.0)
    said = model.fit_predict(support, labels, query)
    assert (np.diff(model.energies_) <= 1e-9).all(), "K-means never gets worse"
    first = np.concatenate([labels, ((model.points_[6:, None] - model.start_) ** 2).sum(2).argmin(1)])
    start = np.stack([model.points_[first == k].mean(0) for k in range(3)])
    theirs = KMeans(3, init=start, n_init=1, tol=0, algorithm="lloyd").fit(model.points_)
    assert (theirs.labels_[6:] == said).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_mode_is_where_the_density_of_its_cluster_is_level(seed):
    model = TransductiveClustering("mode", laplacian=0.0)
    model.fit_predict(*clouds(seed))
    width = kernel_width(model.points_, knn_affinity(model.points_, 3))
    for k, mode in enumerate(model.prototypes_):
        members = model.points_[model.labels_ == k]
        weights = np.exp(-((members - mode) ** 2).sum(1) / (2 * width**2))
        np.testing.assert_allclose(weights @ members / weights.sum(), mode, atol=2e-4)


def test_queries_together_beat_queries_alone_on_digits():
    alone, together = [], []
    for support, query in episodes(Y, 5, 1, 15, 40, seed=3):
        model = TransductiveClustering(laplacian=0.0, centre=X.mean(0))
        together.append((model.fit_predict(X[support], Y[support], X[query]) == Y[query]).mean())
        inductive = NearestMeanClassifier().fit(X[support] - X.mean(0), Y[support])
        alone.append(inductive.score(X[query] - X.mean(0), Y[query]))
    assert np.mean(together) > np.mean(alone) + 0.03


def test_names_and_order_of_labels_do_not_matter():
    support, labels, query = clouds(2)
    said = TransductiveClustering().fit_predict(support, labels, query)
    mixed = np.random.default_rng(0).permutation(len(labels))
    names = np.array(["c", "a", "b"])
    again = TransductiveClustering().fit_predict(support[mixed], names[labels][mixed], query)
    assert (again == names[said]).all()
    assert clone(TransductiveClustering("mode", 0.3)).get_params()["laplacian"] == 0.3


def test_an_empty_class_ends_it_with_the_labels_of_before():
    "The labelled point of class 1 lies amid the points of class 0, and all go to class 0 in the second round."
    support, query = np.array([[0.0], [1.0]]), np.array([[0.3], [-0.3], [0.0], [0.1], [0.48]])
    model = TransductiveClustering(laplacian=20.0, neighbours=5, normalise=False, shift_queries=False)
    said = model.fit_predict(support, [0, 1], query)
    assert model.emptied_ and model.n_iter_ == 0 and said.tolist() == [0] * 5
    np.testing.assert_array_equal(model.labels_, [0, 1, 0, 0, 0, 0, 0])


def test_duplicates_and_single_points_are_clustered():
    for mode in ("kmeans", "mode"):
        model = TransductiveClustering(mode, normalise=False, shift_queries=False)
        assert model.fit_predict([[0.0], [1.0]], [0, 1], [[0.0], [1.0], [1.0]]).tolist() == [0, 1, 1]
        assert np.isfinite(model.prototypes_).all()


def test_episodes_are_drawn_as_they_should():
    labels = np.repeat(np.arange(8), 12)
    drawn = list(episodes(labels, 5, 2, 4, 30, seed=1))
    assert len(drawn) == 30
    for support, query in drawn:
        assert labels[support].tolist() == np.repeat(labels[support][::2], 2).tolist(), "class by class"
        assert len(set(labels[support])) == 5
        assert set(support).isdisjoint(query) and (np.bincount(labels[query], minlength=8)[labels[support]] == 4).all()
    assert {label for support, _ in drawn for label in labels[support]} == set(range(8))
    again = next(episodes(labels, 5, 2, 4, 1, seed=1))
    assert (again.support == drawn[0].support).all() and (again.query == drawn[0].query).all()
    few = next(episodes(labels, 5, 10, 4, 1))
    assert len(few.query) == 10, "two of each are left"


def test_unbalanced_episodes_have_from_one_query_to_all():
    labels = np.repeat(np.arange(6), 20)
    counts = np.concatenate([np.bincount(labels[query])[np.unique(labels[query])]
                             for _, query in episodes(labels, 4, 1, 5, 200, balanced=False)])
    assert np.bincount(counts, minlength=6)[1:].min() > 100 and counts.max() == 5 and counts.min() == 1


@pytest.mark.parametrize("call, sentence", [
    (lambda: TransductiveClustering("means").fit_predict(*clouds(0)), "mode must be one of 'kmeans', 'mode'"),
    (lambda: TransductiveClustering(laplacian=-1).fit_predict(*clouds(0)), "laplacian must be"),
    (lambda: TransductiveClustering(neighbours=1).fit_predict(*clouds(0)), "k must be a whole number from 2 to 36"),
    (lambda: TransductiveClustering(centre=np.zeros(2)).fit_predict(*clouds(0)), "centre must be of shape"),
    (lambda: TransductiveClustering().fit_predict(clouds(0)[0], [0, 1], clouds(0)[2]), "must hold 6 labels"),
    (lambda: TransductiveClustering().fit_predict(np.zeros((1, 2)), [0], np.ones((1, 2))), r"support\[0\]"),
    (lambda: bound_update(np.ones((3, 2)), np.ones((2, 2)), 0.5), "affinity must be of shape"),
    (lambda: bound_update(np.ones((3, 2)), sp.eye_array(4), 0.5), "affinity must be of shape"),
    (lambda: knn_affinity([[1.0]]), "at least two points"),
    (lambda: episodes([0, 0, 1, 1], 3, 1, 1, 1), "way must be a whole number from 1 to 2"),
    (lambda: episodes([0, 0, 1], 2, 1, 1, 1), "shot must leave a query"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()
