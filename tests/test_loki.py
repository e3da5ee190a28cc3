"""Loki and trees of labels: theory by brute force, limits, the estimator, and bad input."""
from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import shortest_path
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier

from xfer_course.visionlanguage import (
    FrechetClassifier,
    feature_distances,
    frechet_one_hot,
    frechet_predict,
    frechet_scores,
    grid_distances,
    locus,
    locus_distances,
    next_label,
    project_simplex,
    random_tree,
    reachable,
    tree_distances,
    tree_scores,
)

PATH = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])


def lengths_of(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n - 1, dtype=torch.double, generator=torch.Generator().manual_seed(seed)) + 0.1


# --- trees


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_shortest_paths(seed):
    n = 30
    edges, lengths = random_tree(n, seed), lengths_of(n, seed)
    graph = np.zeros((n, n))
    graph[tuple(edges.T.numpy())] = lengths.numpy()
    np.testing.assert_allclose(tree_distances(edges, lengths), shortest_path(graph, directed=False))


@pytest.mark.parametrize("seed", range(4))
def test_two_passes_give_what_the_matrix_gives(seed):
    n = 40
    edges, lengths = random_tree(n, seed), lengths_of(n, seed)
    seen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:7]
    weights = torch.randn(5, 7, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(tree_scores(edges, weights, seen, lengths),
                               weights @ tree_distances(edges, lengths)[seen] ** 2)


def test_two_passes_have_the_gradient_of_the_matrix():
    edges, given = random_tree(12, 3), torch.rand(2, 12, dtype=torch.double, requires_grad=True)
    torch.autograd.gradcheck(lambda p: tree_scores(edges, p), given)


def test_two_passes_on_a_long_path_are_exact():
    n = 2000
    edges = torch.stack([torch.arange(n - 1), torch.arange(1, n)], 1)
    one = torch.zeros(1, n, dtype=torch.double)
    one[0, 0] = 1
    torch.testing.assert_close(tree_scores(edges, one)[0], torch.arange(n, dtype=torch.double) ** 2)


def test_random_trees_are_evenly_drawn():
    "Cayley: 16 trees of four labels, each as likely."
    found = Counter(tuple(sorted(map(tuple, map(sorted, random_tree(4, seed).tolist())))) for seed in range(1600))
    assert len(found) == 16 and min(found.values()) > 60 and max(found.values()) < 145


@pytest.mark.parametrize("seed", range(3))
def test_a_label_is_in_the_locus_if_and_only_if_it_lies_on_a_path_between_seen_ones(seed):
    edges = random_tree(25, seed)
    far = tree_distances(edges)
    seen = torch.randperm(25, generator=torch.Generator().manual_seed(seed))[:4]
    between = torch.zeros(25, dtype=torch.bool)
    for a, b in combinations(seen.tolist(), 2):
        between |= far[a] + far[b] == far[a, b]
    assert (locus(edges, seen) == between).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_farthest_label_brings_the_most_into_the_locus(seed):
    edges = random_tree(20, seed)
    seen = torch.tensor([0, 7])
    before, chosen = int(locus(edges, seen).sum()), next_label(edges, seen)
    gains = [int(locus(edges, torch.cat([seen, torch.tensor([label])])).sum()) - before
             for label in range(20) if label not in seen]
    found = int(locus(edges, torch.cat([seen, torch.tensor([chosen])])).sum()) - before
    assert found == max(gains) == locus_distances(edges, seen)[chosen]


def test_nothing_is_next_where_all_can_be_predicted():
    assert next_label(PATH, torch.tensor([0, 4])) is None
    assert next_label(torch.empty(0, 2, dtype=torch.long), torch.tensor([0])) is None


def test_edges_have_lengths():
    "The far end of a long edge is farther than two short steps."
    edges = torch.tensor([[0, 1], [0, 2], [2, 3]])
    assert next_label(edges, torch.tensor([0])) == 3
    assert next_label(edges, torch.tensor([0]), torch.tensor([5.0, 1.0, 1.0])) == 1


# --- what can be predicted: small graphs by brute force


def reached_by_search(squared: torch.Tensor, steps: int = 24) -> torch.Tensor:
    "Labels that are first for some weights on a grid in the simplex of two or three seen labels."
    if len(squared) == 2:
        grid = [(i, steps - i) for i in range(steps + 1)]
    else:
        grid = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    weights = torch.tensor(grid, dtype=torch.double) / steps
    scores = weights @ squared.double()
    return (scores <= scores.min(1, keepdim=True).values + 1e-9).any(0)


@pytest.mark.parametrize("squared, seen", [
    (tree_distances(PATH) ** 2, [0, 4]), (tree_distances(PATH) ** 2, [1, 3]), (1 - torch.eye(4), [0, 2]),
    (grid_distances(3, 3) ** 2, [0, 8]), (grid_distances(3, 3, norm="city block") ** 2, [0, 8]),
    (grid_distances(3, 3) ** 2, [0, 2, 6]), (tree_distances(random_tree(9, 1)) ** 2, [0, 4, 8]),
])
def test_the_linear_program_finds_what_a_search_finds(squared, seen):
    assert (reachable(squared[seen]) == reached_by_search(squared[seen])).all()


def test_the_linear_program_and_the_walk_agree_on_trees():
    edges, seen = random_tree(15, 5), torch.tensor([2, 9, 11])
    assert (reachable(tree_distances(edges)[seen] ** 2) == locus(edges, seen)).all()


def test_corners_of_a_grid_ends_of_a_path_and_leaves_of_a_tree_reach_everything():
    edges = random_tree(12, 2)
    leaves = (edges.flatten().bincount() == 1).nonzero().flatten()
    assert reachable(grid_distances(4, 4)[[0, 3, 12, 15]] ** 2).all()
    assert reachable(grid_distances(6)[[0, 5]] ** 2).all()
    assert reachable(tree_distances(edges)[leaves] ** 2).all()


# --- the rule


def test_without_geometry_the_rule_is_argmax():
    shares = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert (frechet_predict(shares, 1 - torch.eye(6)) == shares.argmax(1)).all()


def test_on_a_line_the_rule_is_the_rounded_mean():
    shares = torch.rand(40, 7, dtype=torch.double, generator=torch.Generator().manual_seed(0)).softmax(1)
    mean = shares @ torch.arange(7.0).double()
    assert (frechet_predict(shares, grid_distances(7) ** 2) == mean.round().long()).all()


def test_ties_go_to_the_first_label_whatever_the_rounding():
    "Thirds are rounded, and their sums differ in the last digit."
    thirds = torch.tensor([[1 / 3, 1 / 3, 1 / 3]])
    assert frechet_predict(thirds, 1 - torch.eye(3)).tolist() == [0]
    assert frechet_predict(torch.tensor([[0.5, 0.0, 0.0, 0.5]]), grid_distances(4) ** 2).tolist() == [1]


def test_features_at_right_angles_are_root_two_apart():
    far = feature_distances(torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]]))
    torch.testing.assert_close(far, torch.tensor([[0.0, 2**0.5, 2.0], [2**0.5, 0.0, 2**0.5], [2.0, 2**0.5, 0.0]]))


def test_a_projection_is_the_nearest_point_of_the_simplex():
    x = torch.randn(20, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    found = project_simplex(x)
    assert (found >= 0).all() and torch.allclose(found.sum(1), torch.ones(20, dtype=torch.double))
    others = torch.rand(500, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    others = others / others.sum(1, keepdim=True)
    nearest = torch.cdist(x, others).min(1).values
    assert ((x - found).norm(dim=1) <= nearest + 1e-12).all()


def test_straight_through_hands_the_gradient_on():
    shares = torch.rand(3, 4).softmax(1).requires_grad_()
    gradient = torch.randn(3, 4)
    frechet_one_hot(shares, grid_distances(4) ** 2, step=None).backward(gradient)
    assert torch.equal(shares.grad, gradient)


def test_training_through_the_answer_learns_a_label_between_seen_ones():
    logits = torch.tensor([[2.0, 0.0, 0.0, 1.0]], requires_grad=True)
    squared, optimizer = grid_distances(4).float() ** 2, torch.optim.SGD([logits], 50.0)
    for _ in range(60):
        optimizer.zero_grad()
        (frechet_one_hot(logits.softmax(1), squared) * squared[3]).sum().backward()
        optimizer.step()
    assert frechet_predict(logits.detach().softmax(1), squared).item() == 3


# --- the estimator


def line(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    "Five labels on a line; examples of label k lie around k."
    rng = np.random.default_rng(seed)
    y = rng.integers(5, size=n)
    return y[:, None] + 0.2 * rng.standard_normal((n, 1)), y


def test_an_estimator_predicts_labels_that_it_has_not_seen():
    x, y = line()
    ends = np.isin(y, (0, 4))
    model = FrechetClassifier(LogisticRegression(), grid_distances(5) ** 2, temperature=2.0).fit(x[ends], y[ends])
    assert model.classes_.tolist() == [0, 1, 2, 3, 4] and model.seen_.tolist() == [0, 4]
    assert model.decision_function(x).shape == (60, 5) and model.score(x, y) > 0.45, "ends alone are two fifths"
    said = model.predict(np.linspace(0, 4, 41)[:, None])
    assert said[20] == 2 and (np.diff(said) >= 0).all(), "from one end to the other, over the middle"
    np.testing.assert_allclose(model.seen_probabilities(x).sum(1), 1)


def test_an_estimator_takes_names_and_works_in_a_search():
    x, y = line()
    names = np.array(["nought", "one", "two", "three", "four"])
    model = FrechetClassifier(KNeighborsClassifier(3), grid_distances(5).numpy() ** 2, names)
    search = GridSearchCV(model, {"temperature": [1.0, 3.0]}, cv=2).fit(x, names[y])
    assert search.score(x, names[y]) == 1 and clone(model).get_params()["labels"].tolist() == names.tolist()


def test_a_probability_of_zero_stays_zero():
    x, y = line()
    model = FrechetClassifier(KNeighborsClassifier(1), grid_distances(5) ** 2, temperature=3.0).fit(x, y)
    assert (model.predict(x) == y).all(), "one neighbour: probabilities are one and zero"


@pytest.mark.parametrize("matrix, sentence", [
    (torch.eye(3), "similarities"), (-grid_distances(3), "at least 0"), (grid_distances(3)[:2], "(L, L)"),
    ([[0.0]], "array or a tensor"), (grid_distances(3) * float("nan"), "finite"),
])
def test_what_are_no_distances_is_refused(matrix, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence.replace("(", r"\(").replace(")", r"\)")):
        FrechetClassifier(LogisticRegression(), matrix).fit(*line())


@pytest.mark.parametrize("call, sentence", [
    (lambda: tree_distances(torch.tensor([[0, 1], [1, 2], [2, 0]])), "one tree, got no way from label 0 to label 3"),
    (lambda: tree_distances(torch.tensor([[0, 1], [0, 3]])), "labels from 0 to 2"),
    (lambda: tree_distances(PATH, torch.tensor([1.0, 0.0, 1.0, 1.0])), "lengths must be above 0"),
    (lambda: tree_scores(PATH, torch.rand(2, 3)), "seen must be given"),
    (lambda: locus(PATH, torch.tensor([0, 5])), "below 5"), (lambda: locus(PATH, torch.tensor([1, 1])), "1 twice"),
    (lambda: frechet_scores(torch.tensor([[-1.0, 2.0]]), torch.zeros(2, 2)), "softmax"),
    (lambda: frechet_scores(torch.rand(1, 3), torch.zeros(2, 2)), "of shape"),
    (lambda: grid_distances(), "got none"), (lambda: grid_distances(3, norm="l3"), "norm must be"),
    (lambda: FrechetClassifier(LogisticRegression(), grid_distances(4) ** 2).fit(*line()), "got 4"),
    (lambda: FrechetClassifier(LogisticRegression(), grid_distances(5) ** 2, temperature=0).fit(*line()), "above 0"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
