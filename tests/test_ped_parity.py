"""Potential energy descent and its scores against arrays from the authors' code: every case in the folder of the kinds
`ped`, `ped_fast` and `weighted_tau`."""
from __future__ import annotations

import numpy as np
import pytest

from conftest import parity_cases
from xfer_course.transferability import (
    fit_logme,
    logme,
    potential_energy_descent,
    sfda,
    sfda_shrinkage,
    weighted_tau,
)


@pytest.mark.parametrize("name", parity_cases("transferability", "ped"))
def test_motion_and_scores(parity, name):
    case = parity("transferability", name)
    x, y, general = (case.data[key] for key in ("X", "y", "general_X"))
    options = {ours: case.options[theirs] for ours, theirs in (
        ("n_sigma", "nsigma"), ("dt", "time_step"), ("strength", "constant"), ("max_steps", "max_steps"),
        ("exit_ratio", "exit_ratio"))}
    moved = potential_energy_descent(x, y, general, **options)
    case.assert_close(np.array(moved.changes), "changes")
    case.assert_close(moved.features, "X_end")
    case.assert_close(np.array(moved.steps), "n_steps")
    one = potential_energy_descent(x, y, general, **options | {"max_steps": 1, "exit_ratio": 0.0})
    case.assert_close(one.features, "X_step1")
    case.assert_close(np.array(one.changes[0]), "change_1")

    case.assert_close(np.array(logme(moved.features, y)), "ped_logme")
    case.assert_close(np.array(sfda(moved.features, y)), "ped_sfda")


@pytest.mark.parametrize("name", parity_cases("transferability", "ped"))
def test_scores_of_features_at_rest(parity, name):
    case = parity("transferability", name)
    x, y = case.data["X"], case.data["y"]
    found = fit_logme(x, y)
    for got, wanted in ((found.score, "logme"), (found.alphas, "logme_alphas"), (found.betas, "logme_betas"),
                        (found.weights, "logme_weights"), (sfda(x, y), "sfda"),
                        (sfda_shrinkage(x, y), "sfda_shrinkage")):
        case.assert_close(np.array(got), wanted)


@pytest.mark.parametrize("name", parity_cases("transferability", "weighted_tau"))
def test_agreement_of_two_orders(parity, name):
    case = parity("transferability", name)
    found = [weighted_tau(score, accuracy) for score, accuracy in zip(case.data["score"], case.data["accuracy"])]
    case.assert_close(np.array(found), "tau")
