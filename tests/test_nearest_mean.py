"""Nearest means: order, running sums, the shared covariance against scikit-learn, streams and their numbers."""
from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.covariance import OAS
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import parametrize_with_checks

from xfer_course.fewshot import NearestMeanClassifier, class_stream, continual_report, shrink_covariance

OPTIONS = ({}, {"normalise": False}, {"cosine": True}, {"covariance": "shared"},
           {"covariance": "shared", "normalise": False, "shrinkage": 0.1}, {"covariance": "shared", "cosine": True})


def some_classes(per_class: int = 12, classes: int = 5, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), per_class)
    mixed = rng.standard_normal((width, width))
    return 2 * rng.standard_normal((classes, width))[y] + rng.standard_normal((len(y), width)) @ mixed + 3, y


@parametrize_with_checks([NearestMeanClassifier(**options) for options in OPTIONS])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_examples_and_of_tasks_changes_nothing(options, seed):
    x, y = some_classes()
    rng = np.random.default_rng(seed)
    whole, parts = NearestMeanClassifier(**options).fit(x, y), NearestMeanClassifier(**options)
    for part in np.array_split(rng.permutation(len(y)), 7):
        parts.partial_fit(x[part], y[part])
    np.testing.assert_array_equal(parts.classes_, whole.classes_)
    np.testing.assert_array_equal(parts.counts_, whole.counts_)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(parts.decision_function(x), whole.decision_function(x), rtol=1e-8, atol=1e-8)
    if options.get("covariance"):
        np.testing.assert_allclose(parts.scatter_, whole.scatter_, rtol=1e-10, atol=1e-10)


def test_one_example_at_a_time_gives_what_all_at_once_give():
    x, y = some_classes(4, 3)
    one = NearestMeanClassifier(covariance="shared")
    for i in range(len(y)):
        one.partial_fit(x[[i]], y[[i]])
    np.testing.assert_allclose(one.scatter_, NearestMeanClassifier(covariance="shared").fit(x, y).scatter_, atol=1e-12)


def test_a_far_mean_costs_the_covariance_no_digits():
    "Sums of squares less squares of sums would lose them all here."
    x, y = some_classes()
    near = NearestMeanClassifier(normalise=False, covariance="shared").fit(x, y)
    far = NearestMeanClassifier(normalise=False, covariance="shared")
    for part in class_stream(y, 3):
        far.partial_fit(x[part] + 1e8, y[part])
    np.testing.assert_allclose(far.scatter_, near.scatter_, rtol=1e-5, atol=1e-4)


def test_without_normalisation_it_is_the_nearest_centroid_of_scikit_learn():
    x, y = some_classes()
    other = np.random.default_rng(1).standard_normal((100, 8)) * 4
    assert (NearestMeanClassifier(normalise=False).fit(x, y).predict(other)
            == NearestCentroid().fit(x, y).predict(other)).all()


@pytest.mark.parametrize("share", (0.05, 0.3, 1.0))
def test_a_shared_covariance_is_linear_discriminant_analysis_with_equal_priors(share):
    x, y = some_classes()
    mine = NearestMeanClassifier(normalise=False, covariance="shared", shrinkage=share).fit(x, y)
    theirs = LinearDiscriminantAnalysis("lsqr", shrinkage=share, priors=np.full(5, 0.2)).fit(x, y)
    found, wanted = mine.decision_function(x), theirs.decision_function(x)
    np.testing.assert_allclose(found - found[:, :1], wanted - wanted[:, :1], rtol=1e-7, atol=1e-7)


def test_shrinkage_auto_is_that_of_scikit_learn():
    x, y = some_classes()
    apart = x - np.stack([x[y == k].mean(0) for k in range(5)])[y]
    np.testing.assert_allclose(shrink_covariance(apart.T @ apart / len(x), len(x)),
                               OAS(assume_centered=True).fit(apart).covariance_, rtol=1e-10)


def test_one_example_per_class_has_no_spread_and_distances_stay_euclidean():
    x, y = some_classes(1)
    other = np.random.default_rng(1).standard_normal((50, 8)) + 3
    assert (NearestMeanClassifier(covariance="shared").fit(x, y).predict(other)
            == NearestMeanClassifier().fit(x, y).predict(other)).all()


def test_scores_order_classes_as_distances_do():
    x, y = some_classes()
    model, unit = NearestMeanClassifier().fit(x, y), x / np.linalg.norm(x, axis=1, keepdims=True)
    far = ((unit[:, None] - model.means_) ** 2).sum(2)
    np.testing.assert_allclose(model.decision_function(x) * -2 + 1, far, atol=1e-12)
    directions = model.means_ / np.linalg.norm(model.means_, axis=1, keepdims=True)
    np.testing.assert_allclose(NearestMeanClassifier(cosine=True).fit(x, y).decision_function(x), unit @ directions.T)


def test_a_bright_picture_weighs_no_more_than_others():
    x, y = load_digits(return_X_y=True)
    bright = x * np.where(np.arange(len(y)) % 50 == 0, 20.0, 1.0)[:, None]
    np.testing.assert_allclose(NearestMeanClassifier().fit(bright, y).means_, NearestMeanClassifier().fit(x, y).means_)
    assert not np.allclose(NearestMeanClassifier(normalise=False).fit(bright, y).means_,
                           NearestMeanClassifier(normalise=False).fit(x, y).means_, rtol=0.05)


def test_a_new_class_leaves_old_means_alone_and_competes():
    x, y = some_classes()
    model = NearestMeanClassifier().fit(x[y < 3], y[y < 3])
    before = model.means_.copy()
    said = model.predict(x[y < 3])
    model.partial_fit(x[y >= 3], y[y >= 3])
    np.testing.assert_array_equal(model.means_[:3], before)
    after = model.predict(x[y < 3])
    assert (after[after != said] >= 3).all(), "an answer changes to a new class, or not at all"


def test_names_of_classes_searches_and_clones():
    x, y = load_digits(return_X_y=True)
    names = np.array(["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    search = GridSearchCV(NearestMeanClassifier(covariance="shared"), {"shrinkage": [0.01, "auto"]}, cv=2)
    assert search.fit(x, names[y]).score(x, names[y]) > 0.9
    assert clone(NearestMeanClassifier(cosine=True)).get_params()["cosine"] is True


def test_a_row_of_zeros_has_no_direction_and_stays():
    model = NearestMeanClassifier().fit([[0.0, 0.0], [1e-200, 0.0], [0.0, 1e200]], [0, 0, 1])
    np.testing.assert_allclose(model.means_, [[0.5, 0.0], [0.0, 1.0]])


def test_a_stream_has_every_class_in_one_task():
    labels = np.array([3, 1, 1, 2, 0, 3, 4])
    tasks = class_stream(labels, 3, seed=1)
    assert sorted(np.concatenate(tasks)) == list(range(7)) and sorted(map(len, map(np.unique, (
        labels[task] for task in tasks)))) == [1, 2, 2]
    assert all(set(labels[a]).isdisjoint(labels[b]) for a, b in zip(tasks, tasks[1:]))
    other = np.tile([4, 3, 2, 1, 0], 2)
    assert [set(other[a]) for a in class_stream(other, 3, seed=1)] == [set(labels[a]) for a in tasks]


def test_what_a_report_says_of_a_table_by_hand():
    report = continual_report([[1.0, np.nan, np.nan], [0.8, 0.9, np.nan], [0.6, 0.8, 0.7]])
    assert report == pytest.approx((0.7, (1 + 0.85 + 0.7) / 3, (0.4 + 0.1) / 2))
    weighed = continual_report([[1.0, 0.5], [0.4, 1.0]], sizes=[30, 10])
    assert weighed == pytest.approx((0.55, 0.775, 0.6))
    assert continual_report([[0.9]]) == (0.9, 0.9, 0.0)


def test_forgetting_is_below_zero_where_old_tasks_gain():
    assert continual_report([[0.5, 0.0], [0.7, 0.9]]).forgetting == pytest.approx(-0.2)


@pytest.mark.parametrize("call, sentence", [
    (lambda: NearestMeanClassifier(covariance="own").fit(*some_classes()), "covariance must be one of None, 'shared'"),
    (lambda: NearestMeanClassifier(covariance="shared", shrinkage=2).fit(*some_classes()), "shrinkage must be"),
    (lambda: NearestMeanClassifier(covariance="shared", shrinkage=0.0, normalise=False).fit(
        *some_classes(2)).predict(some_classes()[0]), "shrinkage must be above 0"),
    (lambda: NearestMeanClassifier(normalise=1).fit(*some_classes()), "normalise must be one of True, False"),
    (lambda: NearestMeanClassifier().fit(*some_classes()).set_params(covariance="shared").partial_fit(
        *some_classes()), "covariance must stay"),
    (lambda: NearestMeanClassifier().partial_fit(*some_classes(), classes=[0, 1]), "among classes, got 2"),
    (lambda: NearestMeanClassifier().fit(*some_classes()).partial_fit(np.ones((1, 8)), ["a"]), "of the kind of"),
    (lambda: class_stream([0, 1], 3), "tasks must be a whole number from 1 to 2"),
    (lambda: continual_report([[0.5, 0.5]]), r"\(T T\)"), (lambda: continual_report([[2.0]]), "shares from 0 to 1"),
    (lambda: continual_report([[0.5]], sizes=[0]), "sizes must be above 0"),
    (lambda: shrink_covariance(np.ones((2, 3)), 5), r"\(D D\)"),
    (lambda: shrink_covariance(np.eye(2), 5, "ledoit"), "'auto'"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


def test_a_model_without_examples_says_so():
    with pytest.raises(NotFittedError):
        NearestMeanClassifier().predict([[1.0]])
