"""Nearest means and transductive clustering against arrays: every case in the folder of the kinds `nmc_*`, `slk_*` and
`bound_update_*`."""
from __future__ import annotations

import numpy as np
import pytest

from conftest import parity_cases
from xfer_course.fewshot import (
    NearestMeanClassifier,
    TransductiveClustering,
    bound_update,
    episode_points,
    kernel_width,
    knn_affinity,
)


@pytest.mark.parametrize("name", parity_cases("fewshot", "nmc"))
def test_means_and_answers_after_each_task(parity, name):
    case = parity("fewshot", name)
    model, means, said = NearestMeanClassifier(), np.zeros(case["means"].shape), []
    for task, (x, y) in enumerate(zip(case["train_x"], case["train_y"])):
        model.partial_fit(x, y)
        means[task, model.classes_] = model.means_
        said.append(model.predict(case["test_x"]))
    case.assert_close(means, "means")
    case.assert_close(np.stack(said), "predictions")


@pytest.mark.parametrize("name", parity_cases("fewshot", "slk"))
def test_an_episode_is_clustered_as_by_the_authors(parity, name):
    case = parity("fewshot", name)
    options = case.options
    points = episode_points(case["support"], case["query"], case["base_mean"])
    case.assert_close(points, "X")
    affinity = knn_affinity(points, options["knn"])
    case.assert_close(affinity.toarray(), "affinity")
    case.assert_close(kernel_width(points, affinity), "sigma")

    model = TransductiveClustering("mode" if options["method"] == "MS" else options["method"],
                                   options["lmd"] if options["lap_bound"] else 0.0, options["knn"], case["base_mean"])
    said = model.fit_predict(case["support"], np.repeat(np.arange(options["way"]), options["shot"]), case["query"])
    case.assert_close(model.start_, "prototypes_start")
    case.assert_close(model.prototypes_, "prototypes_end")
    case.assert_close(said, "query_assignments")


@pytest.mark.parametrize("name", parity_cases("fewshot", "bound_update"))
def test_assignments_at_the_end_of_the_updates(parity, name):
    case = parity("fewshot", name)
    found = bound_update(case["unary"], case["affinity"], case.options["lmd"], most=case.options["bound_iterations"])
    case.assert_close(found.shares, "Y")
    case.assert_close(found.shares.argmax(1), "labels")
    case.assert_close(found.energies[-1], "energy")
    case.assert_close(bound_update(case["unary"], np.zeros_like(case["affinity"]), 0.0, most=1).shares, "Y0")
