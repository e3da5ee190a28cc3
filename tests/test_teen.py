"""TEEN: its limits, running sums, sessions and scores, and bad input."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator
from torch.nn.functional import normalize

from xfer_course.fewshot import (
    TEEN,
    calibrate_prototypes,
    choose_calibration,
    harmonic_mean,
    incremental_sessions,
    session_scores,
)


def rows(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def families(seed: int, classes: int = 50, each: int = 12, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    "Classes in ten families; class k is the k-th, family k % 10."
    rng = np.random.default_rng(seed)
    centres = 0.8 * rng.standard_normal((10, 32))[np.arange(classes) % 10] + 0.6 * rng.standard_normal((classes, 32))
    y = np.repeat(np.arange(classes), each)
    return np.maximum(centres[y] + noise * rng.standard_normal((len(y), 32)), 0), y


# --- calibration


def test_a_prototype_is_what_the_formula_says():
    new, base = rows(3), rows(5, seed=1)
    found = calibrate_prototypes(new, base, 0.3, 7.0)
    for i in range(3):
        p = new[i] / new[i].norm()
        shares = torch.tensor([torch.exp(7 * p @ b / b.norm()) for b in base])
        mixture = sum(share * b / b.norm() for share, b in zip(shares / shares.sum(), base))
        torch.testing.assert_close(found[i], 0.7 * p + 0.3 * mixture / mixture.norm())


def test_no_weight_moves_nothing_and_all_weight_leaves_nothing():
    new, base = rows(4), rows(5, seed=1)
    torch.testing.assert_close(calibrate_prototypes(new, base, 0.0), normalize(new))
    all_of_it = calibrate_prototypes(new, base, 1.0, 0.0)
    torch.testing.assert_close(all_of_it, normalize(normalize(base).mean(0, keepdim=True)).expand(4, -1))


def test_a_high_temperature_is_the_nearest_base_class():
    new, base = rows(4), rows(5, seed=1)
    best = (normalize(new) @ normalize(base).T).argmax(1)
    torch.testing.assert_close(calibrate_prototypes(new, base, 1.0, 1e6), normalize(base)[best])


def test_lengths_of_means_do_not_matter():
    new, base = rows(4), rows(5, seed=1)
    stretched = calibrate_prototypes(100 * new, base * torch.arange(1.0, 6.0)[:, None])
    torch.testing.assert_close(stretched, calibrate_prototypes(new, base))


@pytest.mark.parametrize("dtype, tolerance", ((torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6)))
def test_any_precision_gives_what_double_precision_gives(dtype, tolerance):
    new, base = rows(4).to(dtype), rows(5, seed=1).to(dtype)
    found = calibrate_prototypes(new, base)
    assert found.dtype == dtype
    wanted = calibrate_prototypes(new.double(), base.double())
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=0)


# --- the classifier


def test_without_weight_it_is_the_nearest_mean_by_cosine():
    x, y = families(0)
    model = TEEN(0.0).fit(x[y < 40], y[y < 40]).partial_fit(x[y >= 40], y[y >= 40])
    means = normalize(torch.from_numpy(np.stack([x[y == k].mean(0) for k in range(50)])))
    assert (model.predict(x) == (normalize(torch.from_numpy(x)) @ means.T).argmax(1).numpy()).all()


def test_only_new_classes_move():
    x, y = families(0)
    model = TEEN(0.5).fit(x[y < 40], y[y < 40])
    before = model.prototypes_
    model.partial_fit(x[y >= 40], y[y >= 40])
    assert (model.prototypes_[:40] == before).all() and model.is_new_.tolist() == [False] * 40 + [True] * 10
    expected = calibrate_prototypes(torch.from_numpy(model.means_[40:]), torch.from_numpy(model.means_[:40]))
    np.testing.assert_allclose(model.prototypes_[40:], expected)


def test_the_order_of_sessions_and_of_examples_does_not_matter():
    x, y = families(0)
    base = TEEN().fit(x[y < 40], y[y < 40])
    new = np.random.default_rng(0).permutation(np.flatnonzero(y >= 40))
    at_once, in_parts = clone(base).fit(x[y < 40], y[y < 40]).partial_fit(x[y >= 40], y[y >= 40]), base
    for part in np.array_split(new, 7):
        in_parts.partial_fit(x[part], y[part])
    assert in_parts.classes_.tolist() == list(range(50)) and (in_parts.counts_ == 12).all()
    np.testing.assert_allclose(in_parts.prototypes_, at_once.prototypes_, atol=1e-12)


def test_a_new_class_may_stand_before_base_classes():
    "Names are sorted; what is new is not what stands last."
    x, y = families(0, classes=4)
    names = np.array(["dog", "ant", "cat", "bee"])[y]
    model = TEEN().fit(x[y != 1], names[y != 1]).partial_fit(x[y == 1], names[y == 1])
    assert model.classes_.tolist() == ["ant", "bee", "cat", "dog"] and model.is_new_.tolist() == [True] + [False] * 3
    assert (model.predict(x) == names).mean() > 0.9, "one of four by chance"


def test_tensors_will_do_and_two_classes_give_one_column():
    x, y = families(0, classes=2)
    model = TEEN().fit(torch.from_numpy(x).float(), torch.from_numpy(y))
    assert model.decision_function(x).shape == (24,)
    assert ((model.decision_function(x) > 0) == model.predict(x)).all()


def test_a_refused_session_changes_nothing():
    x, y = families(0, classes=5)
    model = TEEN().fit(x[y < 4], y[y < 4])
    said = model.predict(x)
    with pytest.raises(ValueError, match="not all zero"):
        model.partial_fit(np.zeros((1, 32)), [4])
    with pytest.raises(TypeError, match="kind of the base classes"):
        model.partial_fit(x[:1], ["four"])
    assert (model.predict(x) == said).all() and len(model.classes_) == 4


def test_it_is_an_estimator_like_others():
    "A first session must be `fit`, which says what the base classes are; some of scikit-learn's tests begin otherwise."
    other = "the first call is fit, and classes are not announced"
    check_estimator(TEEN(), expected_failed_checks={"check_n_features_in_after_fitting": other,
                                                    "check_estimators_partial_fit_n_features": other}, on_skip=None)
    x, y = families(0, classes=5)
    model = TEEN(0.2).fit(x, y)
    assert (pickle.loads(pickle.dumps(model)).predict(x) == model.predict(x)).all()
    with pytest.raises(NotFittedError):
        TEEN().partial_fit(x, y)


def test_one_shot_classes_gain_and_fewer_of_them_are_taken_for_base():
    gains = []
    for seed in range(4):
        x, y = families(seed)
        first = np.arange(len(y)) % 12
        learned, shots, test = (y < 40) & (first < 8), (y >= 40) & (first == 0), first >= 8
        plain, ours = (session_scores(y[test], TEEN(weight).fit(x[learned], y[learned]).partial_fit(
            x[shots], y[shots]).predict(x[test]), range(40)) for weight in (0.0, 0.5))
        gains.append((ours.harmonic - plain.harmonic, plain.new_as_base - ours.new_as_base))
    assert np.mean(gains, 0).min() > 0


# --- scores


def test_scores_count_classes_and_not_examples():
    labels = np.array([0, 0, 0, 0, 1, 7, 7, 8])
    said = np.array([0, 0, 0, 7, 1, 7, 0, 7])
    found = session_scores(labels, said, [0, 1])
    assert found.seen == (0.75 + 1) / 2 and found.unseen == (0.5 + 0) / 2 and found.accuracy == 5 / 8
    assert found.new_as_base == 1 / 3 and found.base_as_new == 1 / 5
    assert found.harmonic == pytest.approx(2 * 0.875 * 0.25 / 1.125)


def test_a_harmonic_mean_of_nothing_is_nothing():
    assert harmonic_mean(0, 0) == 0 and harmonic_mean(1, 1) == 1 and isinstance(harmonic_mean(0.5, 1), float)
    np.testing.assert_allclose(harmonic_mean([0.0, 0.8], [0.0, 0.2]), [0, 0.32])


# --- sessions


@pytest.mark.parametrize("seed", range(3))
def test_sessions_take_every_new_class_once_and_split_its_examples(seed):
    y = np.repeat(np.arange(14), 6)[np.random.default_rng(seed).permutation(84)]
    found = incremental_sessions(y, range(4), way=3, shot=2, seed=seed)
    classes = np.concatenate([session.classes for session in found])
    assert len(found) == 3 and len(set(classes)) == 9 and set(classes) <= set(range(4, 14)), "ten, of which nine fit"
    for session in found:
        assert y[session.shots].tolist() == np.repeat(session.classes, 2).tolist()
        both = np.concatenate([session.shots, session.rest])
        assert sorted(both) == np.flatnonzero(np.isin(y, session.classes)).tolist()


def test_a_seed_decides_sessions():
    y = np.repeat(np.arange(14), 6)
    same, other = (incremental_sessions(y, range(4), 3, 2, seed=seed)[0] for seed in (0, 1))
    again = incremental_sessions(y, range(4), 3, 2, seed=0)[0]
    assert (same.shots == again.shots).all() and not np.array_equal(same.shots, other.shots)


# --- the choice of knobs


def test_knobs_are_chosen_by_base_classes_and_serve_new_ones():
    gains = []
    for seed in range(3):
        x, y = families(seed)
        first = np.arange(len(y)) % 12
        found = choose_calibration(x[y < 40], y[y < 40], seed=seed)
        learned, shots, test = (y < 40) & (first < 8), (y >= 40) & (first == 0), first >= 8
        plain, ours = (session_scores(y[test], TEEN(*knobs).fit(x[learned], y[learned]).partial_fit(
            x[shots], y[shots]).predict(x[test]), range(40)) for knobs in ((0.0, 16.0), found[:2]))
        gains.append(ours.harmonic - plain.harmonic)
        assert found.harmonic.shape == (10, 6) and np.ptp(found.harmonic[0]) == 0, "no weight, no temperature"
    assert np.mean(gains) > 0


def test_where_nothing_is_to_be_gained_nothing_moves():
    y = np.repeat(np.arange(10), 6)
    x = np.eye(10)[y] + 0.01 * np.random.default_rng(0).random((60, 10))
    assert choose_calibration(x, y)[:2] == (0.0, 0.0)


@pytest.mark.parametrize("call, sentence", [
    (lambda: calibrate_prototypes(rows(2), rows(3, 5)), "base must be of shape"),
    (lambda: calibrate_prototypes(rows(2), 0 * rows(3)), r"base\[0\] must be finite and not all zero"),
    (lambda: calibrate_prototypes(rows(2), rows(3), 1.5), "weight must be a finite number from 0 to 1"),
    (lambda: calibrate_prototypes(rows(2), rows(3), temperature=-1), "temperature must be a finite number"),
    (lambda: TEEN(2.0).fit(rows(4).numpy(), [0, 0, 1, 1]), "weight"),
    (lambda: harmonic_mean(-1, 1), "seen must be at least 0"),
    (lambda: session_scores([0, 1], [0, 1], [0, 1]), "got only base ones"),
    (lambda: session_scores([2, 3], [0, 1], [0, 1]), "got only new ones"),
    (lambda: incremental_sessions([0, 1, 1, 2, 2], [0], 3, 1), "way must be at most the number of new classes"),
    (lambda: incremental_sessions([0, 1, 1, 2], [0], 2, 1), "shot must be below the examples of every new class"),
    (lambda: incremental_sessions([0, 0], [0], 1, 1), "labels must hold new classes"),
    (lambda: choose_calibration(rows(4), [0, 0, 0, 0]), "at least two classes"),
    (lambda: choose_calibration(rows(4), [0, 0, 1, 1], weights=()), "weights"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("kind", [np.uint8, np.int32, object, str], ids=["uint8", "int32", "object", "str"])
def test_labels_of_any_kind_are_taken_by_both(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), np.arange(12) % 3
    model = TEEN().fit(x, (y.astype(str) if kind is object else y).astype(kind))
    new = np.full(2, "9" if kind in (object, str) else 9).astype(kind)
    assert len(model.partial_fit(x[:2], new).classes_) == 4
