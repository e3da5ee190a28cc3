"""Scores of checkpoints, and classes that push each other apart before they are scored."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from xfer_course.transferability import (
    fit_logme,
    h_score,
    logme,
    nce,
    potential_energy,
    potential_energy_descent,
    rank_checkpoints,
    sfda,
    sfda_shrinkage,
    weighted_tau,
)


def features_of(separation, seed=0, rows=120, width=8, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    return separation * rng.normal(size=(classes, width))[labels] + rng.normal(size=(rows, width)), labels


# --- scores


@pytest.mark.parametrize("score", [logme, sfda, h_score])
def test_scores_rise_with_the_distance_of_classes(score):
    for seed in range(3):
        near, middle, far = (score(*features_of(separation, seed)) for separation in (0.0, 0.7, 2.0))
        assert near < middle < far


@pytest.mark.parametrize("score", [logme, sfda, h_score])
def test_scores_take_tensors_and_names_and_change_nothing(score):
    x, y = features_of(1.0)
    kept, names = x.copy(), np.array(["owl", "cat", "emu"])[y]
    assert score(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(score(x, y), abs=1e-12)
    assert score(x, names) == pytest.approx(score(x, y), abs=1e-9), "names are numbered in another order"
    assert np.array_equal(x, kept)


def test_logme_is_the_evidence_of_a_linear_gaussian_model():
    "Against the log density of one class's labels under N(0, F F' / alpha + I / beta)."
    from scipy.stats import multivariate_normal

    x, y = features_of(1.0, rows=60, classes=2)
    found = fit_logme(x, y)
    by_hand = [multivariate_normal(np.zeros(60), x @ x.T / a + np.eye(60) / b).logpdf((y == k).astype(float)) / 60
               for k, (a, b) in enumerate(zip(found.alphas, found.betas))]
    assert found.score == pytest.approx(np.mean(by_hand), abs=1e-3)


def test_a_dimension_that_is_always_zero_changes_no_score_but_sfda():
    x, y = features_of(1.0)
    wide = np.c_[x, np.zeros(len(x))]
    assert h_score(wide, y) == pytest.approx(h_score(x, y), abs=1e-9)
    # The evidence counts the prior of every dimension, and the posterior of one without data is its prior.
    assert logme(wide, y) == pytest.approx(logme(x, y) + np.mean(np.log(fit_logme(x, y).alphas)) / 2 / len(x), abs=1e-3)


def test_h_score_of_perfect_classes_is_their_number_minus_one():
    labels = np.repeat([0, 1, 2], 10)
    assert h_score(np.eye(3)[labels], labels) == pytest.approx(2)


def test_sfda_shrinks_less_where_classes_are_wide():
    x, y = features_of(1.0)
    assert sfda_shrinkage(0.1 * x, y) > sfda_shrinkage(x, y) > 0


@pytest.mark.parametrize("old, new, wanted", [
    ([0, 0, 1, 1], [3, 3, 4, 4], 0.0),
    ([0, 1, 0, 1], [3, 3, 4, 4], -np.log(2)),
    (["a", "a", "a", "b"], [0, 0, 1, 1], 0.75 * (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))),
])
def test_nce_is_minus_conditional_entropy(old, new, wanted):
    assert nce(old, new) == pytest.approx(wanted)


def test_weighted_tau_cares_for_the_top():
    order = np.arange(8.0)
    top, bottom = order.copy(), order.copy()
    top[[6, 7]], bottom[[0, 1]] = top[[7, 6]], bottom[[1, 0]]
    assert weighted_tau(top, order) < weighted_tau(bottom, order) < weighted_tau(order, order)
    assert weighted_tau(order, order) == pytest.approx(1)
    assert weighted_tau(-order, order) == pytest.approx(-1)


def test_checkpoints_come_back_best_first():
    x, y = features_of(2.0)
    images = torch.from_numpy(x).float()
    noise = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False))
    torch.nn.init.zeros_(noise[0].weight[1:])
    ranked = rank_checkpoints({"worse": noise, "as it is": torch.nn.Identity()}, images, y)
    assert [one.name for one in ranked] == ["as it is", "worse"]
    assert ranked[0].score == pytest.approx(logme(x, y), abs=1e-4)
    by_own = rank_checkpoints({"a": torch.nn.Identity()}, images, y, score=lambda x, y: x.shape[1])
    assert by_own[0].score == 8


@pytest.mark.parametrize("call, says", [
    (lambda x, y: logme(x[:, 0], y), "features must"),
    (lambda x, y: logme(x, y[:-1]), "labels must"),
    (lambda x, y: logme(x, 0 * y), "labels must hold at least two classes"),
    (lambda x, y: logme(np.where(x > 1, np.nan, x), y), "features must"),
    (lambda x, y: sfda(np.eye(3)[y], y), "features must differ inside a class"),
    (lambda x, y: weighted_tau([1, 1], [1, 2]), "scores must differ between models"),
    (lambda x, y: weighted_tau([1, 2], [1, 2, 3]), "scores must have as many rows as accuracies"),
    (lambda x, y: rank_checkpoints({}, x, y), "models must be a dictionary"),
    (lambda x, y: rank_checkpoints({"a": torch.nn.Identity()}, torch.from_numpy(x), y, score="best"),
     "score must be one"),
], ids=["vector", "too few labels", "one class", "nan", "points", "equal scores", "lengths", "no model", "score"])
def test_what_cannot_be_scored_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call(*features_of(1.0))


# --- the motion


def crowded(seed=0):
    x, y = features_of(0.5, seed)
    return x, y, np.random.default_rng(9).normal(size=(50, 8))


def test_energy_falls_with_every_step():
    x, y, general = crowded()
    energies = [potential_energy(x, y, general)]
    for steps in range(1, 5):
        moved = potential_energy_descent(x, y, general, strength=20.0, max_steps=steps, exit_ratio=0.0)
        assert moved.steps == steps
        energies.append(potential_energy(moved.features, y, general))
    assert energies[0] > 0 and all(a > b for a, b in zip(energies, energies[1:]))


def test_a_class_moves_as_one_and_the_sum_of_all_motions_is_zero():
    x, y, general = crowded()
    shift = (potential_energy_descent(x, y, general, strength=10.0).features - x) / np.maximum(general.std(0), 1e-3)
    for k in range(3):
        assert np.allclose(shift[y == k], shift[y == k][0])
    assert np.allclose(sum(shift[y == k][0] for k in range(3)), 0), "forces of a pair are opposite"


def test_separate_classes_stay_where_they_are():
    x, y = features_of(50.0)
    moved = potential_energy_descent(x, y, np.random.default_rng(1).normal(size=(50, 8)))
    assert np.allclose(moved.features, x) and moved.changes == [0.0]


def test_classes_with_one_centre_stay():
    x = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    moved = potential_energy_descent(x, [0, 0, 1, 1], np.random.default_rng(1).normal(size=(20, 2)))
    assert np.allclose(moved.features, x)


def test_a_step_that_has_calmed_down_is_discarded():
    x, y, general = crowded()
    moved = potential_energy_descent(x, y, general, strength=200.0)
    assert moved.steps == len(moved.changes) - 1 and moved.changes[-1] <= 0.5 * moved.changes[0]


@pytest.mark.parametrize("change, says", [
    ({"general": np.zeros((5, 3))}, "general must"), ({"labels": np.zeros(120, int)}, "at least two classes"),
    ({"n_sigma": 0}, "n_sigma must"), ({"dt": -1}, "dt must"), ({"strength": 0}, "strength must"),
    ({"max_steps": 0}, "max_steps must"), ({"exit_ratio": -1}, "exit_ratio must"),
], ids=["width", "one class", "n_sigma", "dt", "strength", "max_steps", "exit_ratio"])
def test_what_cannot_move_is_refused(change, says):
    x, y, general = crowded()
    with pytest.raises(ValueError, match=says):
        potential_energy_descent(**{"features": x, "labels": y, "general": general} | change)
