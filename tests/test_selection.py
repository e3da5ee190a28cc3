"""Rules for choosing a model without target labels: closed forms, bad input, the deep estimator,
reverse validation with it."""
from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from xfer_course.dann import DANN, reverse_validation
from xfer_course.dann.selection import (
    DANNClassifier,
    classifier_uniformity,
    hopkins_statistic,
    mean_entropy,
    mutual_information,
    saturation,
    transfer_score,
)
from xfer_course.data import moons_pair

X, Y, X_TARGET, Y_TARGET = moons_pair(60)


def network() -> DANN:
    return DANN(nn.Sequential(nn.Linear(2, 12), nn.ReLU()), nn.Linear(12, 2), nn.Linear(12, 1))


def classifier(**options) -> DANNClassifier:
    return DANNClassifier(network, **{"steps": 20, "learning_rate": 0.02, "batch_size": 16} | options)


EVEN = np.random.default_rng(5).random((300, 2))
TRIANGLE = np.array([[math.cos(a), math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
ROWS = np.full((4, 3), 1 / 3)

BAD_INPUT = {
    "probabilities: one class": (lambda: mean_entropy(np.ones((3, 1))), ValueError,
                                 "number of classes in probabilities must be a whole number of at least 2, got 1"),
    "probabilities: none": (lambda: mean_entropy(np.ones((0, 3))), ValueError,
                            "probabilities must hold at least one value"),
    "probabilities: three dimensions": (lambda: mean_entropy(np.ones((1, 1, 1))), ValueError,
                                        "probabilities must be of shape .N K., got .1, 1, 1."),
    "probabilities: do not sum to 1": (lambda: mutual_information(np.ones((2, 3))), ValueError, "sum to 1"),
    "probabilities: negative": (lambda: mutual_information([[1.5, -0.5]]), ValueError, "at least 0 and sum to 1"),
    "probabilities: NaN": (lambda: mean_entropy([[float("nan"), 1.0]]), ValueError,
                           "probabilities must be finite, got nan"),
    "weights: one class": (lambda: classifier_uniformity(np.ones((1, 3))), ValueError,
                           "number of rows of weights must be a whole number from 2 to 4, got 1"),
    "weights: too few dimensions": (lambda: classifier_uniformity(np.ones((4, 2))), ValueError,
                                    "number of rows of weights must be a whole number from 2 to 3, got 4"),
    "weights: a row of zeros": (lambda: classifier_uniformity([[0.0, 0.0], [1.0, 0.0]]), ValueError,
                                "weights must have an angle in every row"),
    "features: too few": (lambda: hopkins_statistic(EVEN[:10]), ValueError,
                          "number of rows of features must be a whole number of at least 20, got 10"),
    "features: all equal": (lambda: hopkins_statistic(np.ones((30, 2))), ValueError, "features must differ"),
    "features: infinite": (lambda: hopkins_statistic(np.full((30, 2), np.inf)), ValueError,
                           "features must be finite, got inf"),
    "sample: 0": (lambda: hopkins_statistic(EVEN, sample=0), ValueError,
                  "sample must be a finite number of at most 0.5 above 0, got 0"),
    "power: 0": (lambda: hopkins_statistic(EVEN, power=0), ValueError, "power must be a finite number above 0, got 0"),
    "score: rows differ": (lambda: transfer_score(TRIANGLE, EVEN, ROWS), ValueError,
                           "features must have as many rows as probabilities .4., got 300"),
    "score: classes differ": (lambda: transfer_score(TRIANGLE[:2], EVEN[:4], ROWS), ValueError,
                              "weights must have as many rows as the classes of probabilities .3., got 2"),
    "saturation: no score": (lambda: saturation([]), ValueError, "scores must hold at least one value"),
    "saturation: two dimensions": (lambda: saturation(np.ones((4, 2))), ValueError,
                                   "scores must be of shape .M., got .4, 2."),
    "saturation: NaN": (lambda: saturation([1.0, float("nan")]), ValueError, "scores must be finite, got nan"),
    "saturation: a window of one": (lambda: saturation([1.0, 1.0], window=1), ValueError,
                                    "window must be a whole number of at least 2, got 1"),
    "saturation: threshold 0": (lambda: saturation([1.0, 1.0], threshold=0), ValueError,
                                "threshold must be a finite number above 0, got 0"),
    "fit: no target": (lambda: classifier().fit(X, Y), ValueError,
                       "X_target must be unlabelled target examples unless lambda_=0, got None"),
    "fit: one class": (lambda: classifier().fit(X, np.zeros(60, int), X_TARGET), ValueError, "at least two classes"),
    "fit: lengths differ": (lambda: classifier().fit(X, Y[:9], X_TARGET), ValueError,
                            "X must have as many rows as y .9., got 60"),
    "fit: not finite": (lambda: classifier().fit(np.full_like(X, np.nan), Y, X_TARGET), ValueError,
                        "X must be finite, got nan"),
    "fit: no steps": (lambda: classifier(steps=0).fit(X, Y, X_TARGET), ValueError,
                      "steps must be a whole number of at least 1, got 0"),
    "fit: steps are a truth value": (lambda: classifier(steps=True).fit(X, Y, X_TARGET), TypeError,
                                     "steps must be a whole number of at least 1, got True"),
    "fit: negative lambda": (lambda: classifier(lambda_=-1).fit(X, Y, X_TARGET), ValueError,
                             "lambda_ must be a finite number of at least 0, got -1"),
    "fit: not a DANN": (lambda: DANNClassifier(lambda: nn.Linear(2, 2)).fit(X, Y, X_TARGET), TypeError,
                        "what network builds must be a DANN, got Linear"),
}


@pytest.mark.parametrize("call, error, words", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_entropy_and_information_in_closed_form():
    assert mean_entropy(ROWS) == pytest.approx(math.log(3)) and mutual_information(ROWS) == pytest.approx(0)
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    by_hand = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1) + 0.2 * math.log(0.2) + 0.8 * math.log(0.8)) / 2
    assert mean_entropy(p) == pytest.approx(by_hand)
    assert mutual_information(p) == pytest.approx(-0.55 * math.log(0.55) - 0.45 * math.log(0.45) - by_hand)


def test_uniformity_is_zero_for_even_angles_and_ignores_lengths():
    assert classifier_uniformity(TRIANGLE) == pytest.approx(0, abs=1e-12)
    assert classifier_uniformity(TRIANGLE * [[1.0], [5.0], [0.2]]) == pytest.approx(0, abs=1e-12)
    angles = [math.pi / 2, math.pi / 2, math.pi / 2]
    expected = np.mean([(a - math.acos(-1 / 2)) ** 2 for a in angles])
    assert classifier_uniformity(np.eye(3)) == pytest.approx(expected)


def test_hopkins_tells_clumps_from_an_even_cloud():
    rng = np.random.default_rng(1)
    clumps = np.repeat(rng.random((4, 2)), 75, axis=0) + 0.002 * rng.normal(size=(300, 2))
    assert 0.3 < np.mean([hopkins_statistic(EVEN, seed=s) for s in range(10)]) < 0.7
    assert hopkins_statistic(clumps) > 0.9
    wide = np.hstack([clumps, rng.random((300, 200))])
    assert 0 <= hopkins_statistic(wide, power=202) <= 1  # the paper's power, without overflow


def test_transfer_score_is_the_sum_of_its_parts():
    p = np.random.default_rng(2).dirichlet(np.ones(3), size=300)
    parts = -classifier_uniformity(np.eye(3)) + hopkins_statistic(EVEN) + mutual_information(p) / math.log(3)
    assert transfer_score(np.eye(3), EVEN, p) == pytest.approx(parts)


def test_saturation_is_the_coefficient_of_variation_of_the_last_scores():
    scores = np.array([0.2, 0.6, 0.9, 1.1, 1.2])
    levels = saturation(scores, window=3).levels
    assert np.isnan(levels[:2]).all()
    for m in (2, 3, 4):
        last = scores[m - 2 : m + 1]
        assert levels[m] == pytest.approx(math.sqrt(((last - last.mean()) ** 2).mean()) / last.mean())


def test_saturation_takes_the_best_score_of_the_first_quiet_window_and_nothing_later():
    scores = [0.1, 0.8, 1.000, 1.004, 1.002, 0.5, 2.0, 2.0, 2.0]
    found = saturation(scores)
    assert (found.epoch, found.checkpoint) == (4, 3)
    assert saturation(scores[:5])[1:] == (3, 4), "what comes later must not matter"
    assert saturation(scores[:4])[1:] == (None, None)


def test_saturation_without_a_quiet_window_takes_none():
    assert saturation([1.0, 2.0])[1:] == (None, None)
    assert saturation([-1.0, 0.0, 1.0]).levels[2] == math.inf
    assert saturation([-1.0, -1.0, -1.0]).checkpoint == 0, "levels are ratios to the size of the mean"


def test_the_deep_estimator_learns_and_repeats_itself():
    names = np.array(["low", "high"])[Y]
    first, second = (classifier(steps=80).fit(X, names, X_TARGET) for _ in range(2))
    assert first.score(X, names) > 0.8 and list(first.classes_) == ["high", "low"]
    np.testing.assert_array_equal(first.predict_proba(X_TARGET), second.predict_proba(X_TARGET))
    assert clone(first).get_params()["steps"] == 80 and first.transform(X).shape == (60, 12)


def test_without_lambda_the_target_does_not_matter():
    alone, beside = classifier(lambda_=0).fit(X, Y), classifier(lambda_=0).fit(X, Y, X_TARGET)
    np.testing.assert_array_equal(alone.predict_proba(X_TARGET), beside.predict_proba(X_TARGET))


def test_a_warm_start_keeps_features_and_label_head_but_not_the_domain_head():
    fitted = classifier().fit(X, Y, X_TARGET)
    before = {name: value.clone() for name, value in fitted.model_.state_dict().items()}
    fitted.set_params(warm_start=True, learning_rate=1e-12, steps=1).fit(X, Y, X_TARGET)
    after = fitted.model_.state_dict()
    same = {name: torch.allclose(before[name], after[name], atol=1e-6) for name in before}
    assert all(same[name] for name in same if not name.startswith("domain"))
    assert not all(same[name] for name in same if name.startswith("domain"))


def test_reverse_validation_takes_the_deep_estimator_and_images():
    images = np.random.default_rng(0).random((40, 1, 6, 6)).astype(np.float32)
    images[::2] *= 0.2
    labels = np.arange(40) % 2
    build = functools.partial(DANN, nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU()), nn.Linear(8, 2),
                              nn.Linear(8, 1))
    error = reverse_validation(DANNClassifier(build, steps=60, learning_rate=0.02, batch_size=16), images, labels,
                               images * 0.9, validation_fraction=0.3, random_state=0)
    assert error < 0.5


def test_mutual_information_over_batches_is_their_mean():
    p = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], 25)
    batches = [mutual_information(p[start : start + 8]) for start in (0, 8, 16)]
    assert mutual_information(p, 8) == pytest.approx(np.mean(batches))
    assert mutual_information(p, 25) == pytest.approx(mutual_information(p))
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1 to 25, got 26"):
        mutual_information(p, 26)


def test_a_network_with_room_for_more_classes_answers_with_those_it_was_shown():
    X, y = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), np.repeat([3, 7], 20)
    roomy = DANNClassifier(lambda: DANN(nn.Linear(2, 8), nn.Linear(8, 10), nn.Linear(8, 1)), steps=1).fit(X, y, X)
    assert roomy.predict_proba(X).shape == (40, 2) and set(roomy.predict(X)) <= {3, 7}
    np.testing.assert_allclose(roomy.predict_proba(X).sum(1), 1, atol=1e-6)


# --- labels of the classifier


def heads(outputs: int):
    return lambda: DANN(nn.Linear(2, 3), nn.Linear(3, outputs), nn.Linear(3, 1))


@pytest.mark.parametrize("labels", [Y, np.array(["cat", "dog"])[Y], Y > 0, Y * 2.0, Y - 5], ids=lambda y: str(y.dtype))
@pytest.mark.parametrize("outputs", [2, 5])
def test_probabilities_have_a_column_for_each_class(labels, outputs):
    model = DANNClassifier(heads(outputs), steps=2).fit(X, labels, X_TARGET)
    assert model.predict_proba(X).shape == (len(X), len(model.classes_))
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1, atol=1e-5)
    assert model.classes_.dtype == np.unique(labels).dtype and set(model.predict(X)) <= set(model.classes_)


@pytest.mark.parametrize("labels, outputs, sentence", [
    (np.arange(len(Y)) % 3, 2, r"number of outputs of network \(a class each\) must be .* at least 3, got 2"),
    (Y[:, None], 2, r"y must be of shape \(N\), got"), (np.eye(2)[Y], 2, r"y must be of shape \(N\), got"),
    (np.where(Y == 0, np.nan, Y), 2, "y must be names or whole numbers, all of one kind, got nan"),
    ([None, *Y[1:]], 2, "y must be names or whole numbers"), (Y[:-1], 2, "X must have as many rows as y"),
])
def test_other_labels_are_refused(labels, outputs, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        DANNClassifier(heads(outputs), steps=2).fit(X, labels, X_TARGET)


def test_a_network_that_says_nothing_predicts_no_class():
    model = DANNClassifier(heads(2), steps=2).fit(X, Y, X_TARGET)
    nn.init.constant_(model.model_.label_predictor.bias, math.nan)
    with pytest.raises(ValueError, match="what network returns must have a finite largest value in every row"):
        model.predict(X)


@pytest.mark.parametrize("rows", [np.zeros((4, 3)), np.zeros((4, 1)), np.zeros(2), np.zeros((4, 2, 2)), 0.5])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform"])
def test_rows_of_another_shape_than_those_of_fit_are_refused_by_name(rows, method):
    fitted = classifier(steps=1).fit(X, Y, X_target=X_TARGET)
    with pytest.raises(ValueError, match=r"X must have rows of shape \(2,\), as those of fit, got an array of shape"):
        getattr(fitted, method)(rows)
    assert len(getattr(fitted, method)(X[:3])) == 3


def test_pictures_of_another_size_are_refused_by_name():
    images = np.random.default_rng(0).random((8, 1, 6, 6)).astype(np.float32)
    build = functools.partial(DANN, nn.Sequential(nn.Flatten(), nn.Linear(36, 8)), nn.Linear(8, 2), nn.Linear(8, 1))
    fitted = DANNClassifier(build, steps=1, batch_size=2).fit(images, np.arange(8) % 2, X_target=images)
    with pytest.raises(ValueError, match=r"X must have rows of shape \(1, 6, 6\), as .*, got .* \(8, 1, 8, 8\)"):
        fitted.predict(np.zeros((8, 1, 8, 8)))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"network": network, "steps": 1}, {"network": nn.Identity}])
def test_a_fit_that_fails_leaves_the_earlier_one_in_use(wrong):
    fitted = classifier(steps=1).fit(X, Y, X_target=X_TARGET)
    expected = fitted.predict(X)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        fitted.set_params(**wrong).fit(X[:, :1], Y, X_target=X_TARGET[:, :1])
    np.testing.assert_array_equal(fitted.predict(X), expected)
