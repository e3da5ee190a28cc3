"""One Gaussian on normal features against arrays from the authors' code: every case of the kind `gaussian`."""
from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conftest import parity_cases
from xfer_course.transferability import AnomalyDetector, sigma_threshold


@pytest.mark.parametrize("name", parity_cases("transferability", "gaussian"))
def test_distances_components_and_thresholds(parity, name):
    case = parity("transferability", name)
    widths = case.options["levels"]
    train, test = ([case.data[f"{part}_{i}"] for i in range(len(widths))] for part in ("train", "test"))
    for distance, key in (("mahalanobis", "maha"), ("l2", "l2"), ("standardised", "sed")):
        detector = AnomalyDetector(distance=distance).fit(train)
        for i, found in enumerate(detector.distances(test).T):
            case.assert_close(found, f"{key}_{i}")
    detector = AnomalyDetector().fit(train)
    for i, gaussian in enumerate(detector.gaussians_):
        case.assert_close(gaussian.mean, f"mean_{i}")
        case.assert_close(gaussian.precision, f"precision_{i}")
    strange = -detector.score_samples(test)
    case.assert_close(strange, "maha_all")
    case.assert_close(np.array([roc_auc_score(case.data["labels"], strange)]), "auroc")
    case.assert_close(np.array([[sigma_threshold(d, n) for n in range(1, 9)] for d in widths]), "thresholds")


@pytest.mark.parametrize("keep", ["pca", "npca"])
@pytest.mark.parametrize("name", parity_cases("transferability", "gaussian"))
def test_wide_and_narrow_components(parity, name, keep):
    case = parity("transferability", name)
    widths = case.options["levels"]
    train, test = ([case.data[f"{part}_{i}"] for i in range(len(widths))] for part in ("train", "test"))
    for variance in case.options["variance_thresholds"]:
        detector = AnomalyDetector(keep=keep, variance=variance).fit(train)
        for i, found in enumerate(detector.distances(test).T):
            case.assert_close(np.array(len(detector.components_[i])), f"{keep}_{variance:g}_{i}_kept")
            case.assert_close(found, f"{keep}_{variance:g}_{i}_maha")
