"""Loki and trees of labels: theory by brute force, limits, the estimator, and bad input."""
from __future__ import annotations

import pickle
from collections import Counter
from itertools import combinations

import joblib
import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import shortest_path
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

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


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_two_passes_give_it_in_any_precision(dtype):
    "On a path of a thousand labels, where squares pass what half precision can hold."
    edges = torch.stack([torch.arange(999), torch.arange(1, 1000)], 1)
    given = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    found = tree_scores(edges, given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), given.double() @ tree_distances(edges) ** 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("edges", (torch.empty(0, 2, dtype=torch.long), torch.tensor([[1, 0]])))
def test_trees_of_one_or_two_labels(edges):
    n = len(edges) + 1
    assert tree_distances(edges).tolist() == (1.0 - torch.eye(n)).tolist()
    assert tree_scores(edges, torch.eye(n)).tolist() == (1.0 - torch.eye(n)).tolist()
    assert locus(edges, torch.tensor([n - 1])).tolist() == [False] * (n - 1) + [True]
    assert next_label(edges, torch.tensor([n - 1])) == (None if n == 1 else 0)


def test_deep_and_wide_trees_are_walked_without_recursion():
    n = 20_000
    path = torch.stack([torch.arange(1, n), torch.arange(n - 1)], 1).flip(0)
    star = torch.stack([torch.zeros(n - 1, dtype=torch.int32), torch.arange(1, n, dtype=torch.int32)], 1)
    assert next_label(path, torch.tensor([n // 2])) == 0 and locus(path, torch.tensor([0, n - 1])).all()
    assert next_label(star, torch.tensor([0, 1])) == 2 and locus(star, torch.tensor([5, 6])).sum() == 3
    one = torch.zeros(1, n).index_fill(1, torch.tensor([1]), 1.0)
    assert tree_scores(star, one)[0].unique(return_counts=True)[1].tolist() == [1, 1, n - 2]


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


def test_all_labels_seen_and_lengths_that_learn():
    assert locus_distances(PATH, None).tolist() == [0.0] * 5
    assert tree_distances(PATH, torch.ones(4, requires_grad=True))[0, 4] == 4


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


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_neighbours_among_many_labels_are_told_apart_in_any_precision(dtype):
    "One of ten thousand places in a row: scores of neighbours differ in the eighth digit."
    shares = torch.rand(30, 5, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    places = torch.linspace(0, 9999, 5).double().round()
    squared = (places[:, None] - torch.arange(10_000.0)).square()
    weights = shares.double() / shares.double().sum(1, keepdim=True)
    for given in (squared, squared.long()):
        with torch.autocast("cpu"):
            said = frechet_predict(shares, given)
        assert (said == (weights @ places).round().long()).all()
    assert frechet_scores(shares, squared).dtype == torch.float32


def test_a_faraway_label_blurs_nothing():
    "Kilometres between towns, and one label on another planet."
    squared = (torch.tensor([0.0, 1.0, 2.0, 1e8])[:, None] - torch.tensor([0.0, 1.0, 2.0, 1e8])).square()
    shares = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.1, 0.8, 0.1, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert frechet_predict(shares, squared).tolist() == [2, 1, 3]


@pytest.mark.parametrize("scale", (1e-8, 1.0, 1e8))
def test_what_can_be_predicted_does_not_depend_on_the_unit(scale):
    squared = scale * grid_distances(3, 3)[[0, 8]] ** 2
    wanted = [True, True, False, True, True, True, False, True, True]
    assert reachable(squared).tolist() == wanted, "four of them in ties alone"


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


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_projections_of_many_and_of_large_entries_stay_in_the_simplex(dtype):
    many = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)) * 1e-4
    torch.testing.assert_close(project_simplex(many.to(dtype)).double().sum(1), torch.ones(4, dtype=torch.double),
                               atol=0, rtol=2e-2)
    large = torch.tensor([[3e4, 3e4, 0.0], [3e4, 0.0, -3e4]]).to(dtype)
    assert project_simplex(large).tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    assert project_simplex(torch.tensor([[1e30, 0.0]])).tolist() == [[1.0, 0.0]]


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


def test_an_estimator_says_what_the_rule_says_ties_included():
    "Five examples, one of each label, and three neighbours: three labels have a third each."
    x = np.arange(5.0)[:, None]
    model = FrechetClassifier(KNeighborsClassifier(3), 1.0 - np.eye(5)).fit(x, np.arange(5))
    np.testing.assert_allclose(model.seen_probabilities(x).max(1), 1 / 3)
    assert model.predict(x).tolist() == [0, 0, 1, 2, 2]


def test_of_two_labels_the_scores_are_one_column_as_scikit_learn_wants_it():
    x, y = line(100)
    model = FrechetClassifier(LogisticRegression(), grid_distances(2) ** 2)
    assert (cross_val_score(model, x, y > 2, scoring="roc_auc", cv=3) == 1).all()
    model.fit(x, y > 2, sample_weight=np.ones(100))
    assert ((model.decision_function(x) > 0) == model.predict(x)).all()


def test_squares_that_rounding_has_put_below_zero_are_zeros():
    features = torch.nn.functional.normalize(torch.randn(5, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    squared = 2 - 2 * features @ features.T
    assert squared.min() < 0
    x, y = line()
    assert FrechetClassifier(LogisticRegression(), squared).fit(x, y).rows_.min() == 0
    assert (frechet_predict(torch.eye(5), squared) == torch.arange(5)).all() and reachable(squared).all()


@pytest.mark.parametrize("kind", (np.float16, np.float32, np.int8, torch.bfloat16, torch.float16, torch.int32))
def test_a_matrix_of_any_kind_of_numbers_will_do(kind):
    x, y = line()
    far = grid_distances(5) ** 2
    far = far.to(kind) if isinstance(kind, torch.dtype) else far.numpy().astype(kind)
    assert FrechetClassifier(LogisticRegression(), far).fit(x, y).rows_.tolist() == (grid_distances(5) ** 2).tolist()


def test_an_estimator_goes_through_pipelines_folds_and_files(tmp_path):
    x, y = line(100)
    model = make_pipeline(StandardScaler(), FrechetClassifier(LogisticRegression(), grid_distances(5) ** 2))
    assert (cross_val_score(model, x, y, cv=3) > 0.6).all(), "one of five by chance"
    inside = FrechetClassifier(make_pipeline(StandardScaler(), LogisticRegression()), grid_distances(5) ** 2)
    search = GridSearchCV(inside, {"estimator__logisticregression__C": [0.1, 10.0], "temperature": [1.0, 2.0]}, cv=2)
    found = search.fit(x, y).best_estimator_
    joblib.dump(found, tmp_path / "model")
    for again in (pickle.loads(pickle.dumps(found)), joblib.load(tmp_path / "model")):
        assert (again.predict(x) == found.predict(x)).all()


def test_what_cannot_predict_says_so():
    x, y = line()
    with pytest.raises(NotFittedError):
        FrechetClassifier(LogisticRegression(), grid_distances(5) ** 2).predict(x)
    with pytest.raises(TypeError, match="estimator must have predict_proba, got LinearSVC"):
        FrechetClassifier(LinearSVC(), grid_distances(5) ** 2).fit(x, y)
    with pytest.raises(TypeError, match="numbers, got bool"):
        FrechetClassifier(LogisticRegression(), ~np.eye(5, dtype=bool)).fit(x, y)
    model = FrechetClassifier(RadiusNeighborsClassifier(1.0, outlier_label=0), grid_distances(5) ** 2).fit(x, y)
    model.estimator_.predict_proba = lambda x: np.zeros((len(x), 5))  # as of one-against-rest that is sure of nothing
    with pytest.raises(ValueError, match="probabilities of the estimator must be finite"):
        model.predict(x)


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
    (lambda: locus_distances(PATH[:, 0], torch.tensor([0])), "edges must be of shape"),
    (lambda: frechet_scores(torch.tensor([[-1.0, 2.0]]), torch.zeros(2, 2)), "softmax"),
    (lambda: frechet_scores(torch.rand(1, 3), torch.zeros(2, 2)), "of shape"),
    (lambda: grid_distances(), "got none"), (lambda: grid_distances(3, norm="l3"), "norm must be"),
    (lambda: FrechetClassifier(LogisticRegression(), grid_distances(4) ** 2).fit(*line()), "got 4"),
    (lambda: FrechetClassifier(LogisticRegression(), grid_distances(5) ** 2, temperature=0).fit(*line()), "above 0"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
