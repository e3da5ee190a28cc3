"""What is not normal, if only normal pictures are known."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from xfer_course.transferability import AnomalyDetector, heat_map, principal_parts, sigma_threshold

CAUSES = np.random.default_rng(1).normal(size=(3, 12)) * np.array([3, 2, 1])[:, None]


def parts(n, seed, defect=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) @ CAUSES + 0.3 * rng.normal(size=(n, 12)) + defect * rng.normal(size=(n, 12))


GOOD, TESTED, BAD = parts(80, 0), np.r_[parts(100, 1), parts(100, 2, 0.6)], np.repeat([0, 1], 100)


def auroc(detector):
    return roc_auc_score(BAD, -detector.fit(GOOD).score_samples(TESTED))


class TwoLevels(torch.nn.Module):
    "Brightness, and slopes at half the size."

    def forward(self, images):
        slopes = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs()
        return [torch.cat([images, images**2], 1), torch.nn.functional.avg_pool2d(torch.cat([slopes, slopes**2], 1), 2)]


# --- distances


def test_mahalanobis_hears_what_the_others_do_not():
    found = {name: auroc(AnomalyDetector(distance=name)) for name in ("l2", "standardised", "mahalanobis")}
    assert found["mahalanobis"] > 0.9 > 0.75 > found["standardised"] >= found["l2"] - 0.1


def test_narrow_directions_know_and_wide_ones_do_not():
    assert auroc(AnomalyDetector(keep="npca", variance=0.95)) > 0.95
    assert auroc(AnomalyDetector(keep="pca", variance=0.95)) < 0.7


def test_distances_do_not_change_when_features_are_moved():
    shift = np.linspace(-50, 50, 12)
    one, moved = AnomalyDetector().fit(GOOD), AnomalyDetector().fit(GOOD + shift)
    assert np.allclose(one.distances(TESTED), moved.distances(TESTED + shift), rtol=1e-6)


def test_levels_are_averaged():
    both = AnomalyDetector().fit([GOOD[:, :5], GOOD[:, 5:]])
    apart = [AnomalyDetector().fit(part).distances(rows)[:, 0]
             for part, rows in ((GOOD[:, :5], TESTED[:, :5]), (GOOD[:, 5:], TESTED[:, 5:]))]
    assert np.allclose(-both.score_samples([TESTED[:, :5], TESTED[:, 5:]]), np.mean(apart, 0))


def test_a_feature_that_never_varied_breaks_no_distance():
    flat, asked = np.c_[GOOD, np.full(len(GOOD), 3.0)], np.c_[TESTED, np.full(200, 3.0)]
    for distance in ("mahalanobis", "standardised", "l2"):
        assert np.isfinite(AnomalyDetector(distance=distance).fit(flat).distances(asked)).all()


def test_fewer_rows_than_features():
    few = parts(8, 3)
    for keep in (None, "pca", "npca"):
        assert np.isfinite(AnomalyDetector(keep=keep).fit(few).distances(TESTED)).all()
    assert len(principal_parts(few, 0.5, "npca")) <= 7, "eight rows span seven directions"


def test_one_component_that_explains_all_leaves_the_narrow_ones():
    "The released code keeps only the last component there."
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [100, 1, 1, 1]
    assert len(principal_parts(rows, 0.9, "npca")) == 4 and len(principal_parts(rows, 0.9, "pca")) == 1


def test_sigma_thresholds_are_quantiles_of_the_distance():
    rows = np.random.default_rng(0).normal(size=(200_000, 3))
    for n in (1, 2, 3):
        inside = (np.linalg.norm(rows, axis=1) < sigma_threshold(3, n)).mean()
        assert inside == pytest.approx({1: 0.6827, 2: 0.9545, 3: 0.9973}[n], abs=0.003)


# --- the estimator


def test_predict_calls_the_asked_share_of_the_fitted_rows_strange():
    detector = AnomalyDetector(contamination=0.1).fit(GOOD)
    assert (detector.predict(GOOD) == -1).mean() == pytest.approx(0.1, abs=0.02)
    assert ((detector.decision_function(TESTED) < 0) == (detector.predict(TESTED) == -1)).all()


def test_a_detector_can_be_cloned_and_pickled():
    detector = AnomalyDetector(keep="npca", variance=0.9).fit(GOOD)
    again = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(again.score_samples(TESTED), detector.score_samples(TESTED))
    assert clone(detector).get_params() == detector.get_params()


def test_tensors_and_arrays_are_the_same():
    one, other = AnomalyDetector().fit(GOOD), AnomalyDetector().fit(torch.from_numpy(GOOD))
    assert np.allclose(one.score_samples(TESTED), other.score_samples(torch.from_numpy(TESTED)))


# --- pictures


def cloth(n, seed, spot=False):
    images = 0.5 + 0.1 * torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    if spot:
        images[:, :, 4:8, 4:8] = 1
    return images


def test_a_network_gives_levels_and_a_map_that_points():
    detector = AnomalyDetector(TwoLevels()).fit(cloth(60, 0))
    assert detector.distances(cloth(3, 1)).shape == (3, 2)
    assert (detector.score_samples(cloth(20, 1, True)) < detector.score_samples(cloth(20, 1))).all()
    heat = heat_map(detector, cloth(2, 1, True), level=0)
    assert heat.shape == (2, 16, 16)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert heat[:, inside].min() > heat[:, ~inside].mean()
    assert heat_map(detector, cloth(2, 1)).shape == (2, 8, 7)


def test_batches_do_not_change_scores_and_the_network_keeps_its_mode():
    network = TwoLevels().train()
    small, large = (AnomalyDetector(network, batch_size=size).fit(cloth(30, 0)) for size in (7, 100))
    assert np.allclose(small.score_samples(cloth(9, 1)), large.score_samples(cloth(9, 1)), rtol=1e-5)
    assert network.training


@pytest.mark.parametrize("call, says", [
    (lambda: AnomalyDetector(distance="cosine").fit(GOOD), "distance must be one of"),
    (lambda: AnomalyDetector(keep="all").fit(GOOD), "keep must be one of"),
    (lambda: AnomalyDetector(keep="pca", variance=1).fit(GOOD), "variance must"),
    (lambda: AnomalyDetector(contamination=0.7).fit(GOOD), "contamination must"),
    (lambda: AnomalyDetector().fit(GOOD[:1]), "X must hold at least two normal rows, got 1"),
    (lambda: AnomalyDetector().fit(GOOD[0]), "X must"),
    (lambda: AnomalyDetector().fit(np.where(GOOD > 2, np.nan, GOOD)), "X must"),
    (lambda: AnomalyDetector().fit(GOOD).predict(GOOD[:, :5]), "X must have 12 features as in fit, got 5"),
    (lambda: AnomalyDetector().fit(GOOD).predict([GOOD, GOOD]), "X must have 1 levels as in fit, got 2"),
    (lambda: AnomalyDetector(keep="npca").fit(np.ones((5, 3))), "must vary"),
    (lambda: heat_map(AnomalyDetector().fit(GOOD), cloth(1, 0)), "detector must have a network"),
    (lambda: heat_map(AnomalyDetector(TwoLevels()).fit(cloth(9, 0)), cloth(1, 0), 2), "level must"),
    (lambda: AnomalyDetector(torch.nn.Flatten()).fit(cloth(9, 0)), "what network returns for a level must"),
    (lambda: sigma_threshold(0, 1), "dimensions must"),
    (lambda: sigma_threshold(3, 0), "n_sigma must"),
], ids=["distance", "keep", "variance", "contamination", "one row", "vector", "nan", "width", "levels", "equal rows",
        "no network", "level", "no maps", "dimensions", "n_sigma"])
def test_what_cannot_be_judged_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_a_detector_can_be_fitted_again_to_other_features():
    detector = AnomalyDetector().fit(GOOD)
    assert detector.fit(GOOD[:, :5]).distances(TESTED[:, :5]).shape == (200, 1)
    assert detector.fit([GOOD, GOOD[:, :3]]).distances([TESTED, TESTED[:, :3]]).shape == (200, 2)


@pytest.mark.parametrize("distance", ["mahalanobis", "standardised", "l2"])
def test_normal_rows_that_are_all_equal_are_refused(distance):
    with pytest.raises(ValueError, match="X must vary"):
        AnomalyDetector(distance=distance).fit(np.full((5, 3), 0.1))
