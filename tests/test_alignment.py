"""Alignment losses against closed forms and naive references, gradients, AdaBN, CDAN, subspace alignment, bad input."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from xfer_course.dann import reverse_validation
from xfer_course.dann.alignment import (
    CDAN,
    SubspaceAlignment,
    adapt_batch_norm,
    conditional_features,
    coral_loss,
    entropy_loss,
    mmd_loss,
)

A = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
B = 0.5 * torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
LABELS = np.arange(40) % 2
NORMED = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2)).double()

BAD_INPUT = {
    "coral: one row": (lambda: coral_loss(A[:1], B), ValueError,
                       "number of rows of source must be a whole number of at least 2, got 1"),
    "coral: widths differ": (lambda: coral_loss(A, B[:, :3]), ValueError, "target must be of shape .N 5., got .30, 3."),
    "coral: whole numbers": (lambda: coral_loss(A.long(), B), TypeError,
                             "source must hold float numbers, got torch.int64"),
    "mmd: an array": (lambda: mmd_loss(A.numpy(), B), TypeError, "source must be a tensor .* got ndarray"),
    "mmd: empty": (lambda: mmd_loss(A, B[:0]), ValueError, "target must hold at least one value"),
    "mmd: no kernel": (lambda: mmd_loss(A, B, factors=()), ValueError,
                       "the number of factors must be a whole number of at least 1, got 0"),
    "mmd: no width": (lambda: mmd_loss(A, B, factors=(1.0, 0.0)), ValueError,
                      "every one of factors must be a finite number above 0, got 0.0"),
    "entropy: one class": (lambda: entropy_loss(A[:, :1]), ValueError,
                           r"logits must have a column for each of at least two classes, got shape \(40, 1\)"),
    "entropy: empty": (lambda: entropy_loss(A[:0]), ValueError, "logits must hold at least one value"),
    "conditional: rows differ": (lambda: conditional_features(A, B), ValueError,
                                 "probabilities must be of shape .40 K., got .30, 5."),
    "batch norm: none": (lambda: adapt_batch_norm(nn.Linear(5, 2), A), ValueError,
                         "model must have batch norm with running statistics, got Linear without"),
    "batch norm: one input": (lambda: adapt_batch_norm(NORMED, A[:1]), ValueError,
                              "number of inputs in target must be a whole number of at least 2, got 1"),
    "subspace: widths differ": (lambda: SubspaceAlignment(2).fit(A, LABELS, B[:, :3]), ValueError, "as many features"),
    "subspace: too many directions": (lambda: SubspaceAlignment(6).fit(A, LABELS, B), ValueError,
                                      "n_components must be a whole number from 1 to 5"),
    "subspace: none": (lambda: SubspaceAlignment(0).fit(A, LABELS, B), ValueError,
                       "n_components must be a whole number from 1 to 5"),
    "subspace: not finite": (lambda: SubspaceAlignment(2).fit(A * np.nan, LABELS, B), ValueError, "NaN"),
}


@pytest.mark.parametrize("call, error, words", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_coral_is_the_distance_of_covariances():
    expected = np.sum((np.cov(A.numpy().T) - np.cov(B.numpy().T)) ** 2) / (4 * 25)
    assert coral_loss(A, B).item() == pytest.approx(expected)


def test_mmd_is_the_sum_over_all_pairs():
    both = torch.cat([A, B])
    squared = torch.tensor([[((x - y) ** 2).sum() for y in both] for x in both])
    kernel = sum(torch.exp(-squared / (f * squared.mean())) for f in (0.5, 2.0)) / 2
    expected = kernel[:40, :40].mean() + kernel[40:, 40:].mean() - 2 * kernel[:40, 40:].mean()
    torch.testing.assert_close(mmd_loss(A, B, factors=(0.5, 2.0)), expected)
    assert mmd_loss(A, A).item() == pytest.approx(0, abs=1e-12) and mmd_loss(A, B) > 0


@pytest.mark.parametrize("loss", [coral_loss, mmd_loss])
def test_losses_fall_when_they_are_followed(loss):
    moved = B.clone().requires_grad_()
    optimizer, values = torch.optim.Adam([moved], lr=0.05), []
    for _ in range(200):
        optimizer.zero_grad()
        values.append(loss(A, moved))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("loss", [coral_loss, mmd_loss])
def test_gradients_are_right(loss):
    x, y = A[:6, :3].clone().requires_grad_(), B[:5, :3].clone().requires_grad_()
    if loss is coral_loss:  # the bandwidth of MMD is a constant for the gradient, which finite differences do not know
        assert torch.autograd.gradcheck(loss, (x, y))
    loss(x, y).backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


def test_entropy_of_uniform_and_sure_predictions():
    assert entropy_loss(torch.zeros(3, 7)).item() == pytest.approx(np.log(7))
    assert entropy_loss(torch.tensor([[1000.0, 0.0]])).item() == pytest.approx(0)
    assert torch.autograd.gradcheck(entropy_loss, A[:4].clone().requires_grad_())


def test_cdan_judges_features_times_predictions():
    torch.manual_seed(0)
    model = CDAN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(6, 1))
    x, y, target = torch.randn(8, 4), torch.arange(8) % 2, torch.randn(6, 4)
    features = model.feature_extractor(torch.cat([x, target]))
    p = model.label_predictor(features).softmax(1)
    joint = torch.stack([torch.outer(f, q).flatten() for f, q in zip(features, p)])
    logits = model.domain_classifier(joint).squeeze(1)
    domain = (F.softplus(logits[:8]).mean() + F.softplus(-logits[8:]).mean()) / 2
    torch.testing.assert_close(model.loss(x, y, target).domain, domain)


def test_cdan_reverses_the_gradient_of_the_features_only():
    torch.manual_seed(0)
    model = CDAN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(6, 1))
    x, y, target = torch.randn(8, 4), torch.arange(8) % 2, torch.randn(6, 4)

    def gradients(lambda_):
        model.zero_grad()
        model.loss(x, y, target, lambda_).domain.backward()
        return (model.feature_extractor.weight.grad.clone(), model.domain_classifier.weight.grad.clone(),
                model.label_predictor.weight.grad)

    (f1, d1, l1), (f2, d2, _) = gradients(1.0), gradients(2.0)
    torch.testing.assert_close(f2, 2 * f1)
    torch.testing.assert_close(d2, d1)
    assert l1 is None or not l1.any()


def test_adapted_statistics_are_those_of_the_target_and_the_model_stays():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapted = adapt_batch_norm(model, B)
    torch.testing.assert_close(adapted[0].running_mean, B.mean(0))
    torch.testing.assert_close(adapted[0].running_var, B.var(0))
    torch.testing.assert_close(adapt_batch_norm(model, B, batch_size=10)[0].running_mean, B.mean(0))
    assert (all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and model.training
            and not adapted.training)
    assert adapted[0].momentum == model[0].momentum


class NormAct(nn.BatchNorm1d):
    def forward(self, x):
        return F.relu(super().forward(x) - 1)


class Locked(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


ORDERS = {"as drawn": torch.arange(30), "sorted": B[:, 0].argsort(), "reversed": torch.arange(30).flip(0)}


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, NormAct])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 29])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_statistics_of_several_passes_are_those_of_all_inputs(layer, batch_size, order):
    adapted = adapt_batch_norm(nn.Sequential(layer(5)).double(), B[order], batch_size=batch_size)
    torch.testing.assert_close(adapted[0].running_mean, B.mean(0))
    torch.testing.assert_close(adapted[0].running_var, B.var(0))


def test_maps_are_pooled_over_examples_and_positions():
    images = torch.randn(21, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images = images[images.mean((1, 2, 3)).argsort()]
    adapted = adapt_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), images, batch_size=4)
    torch.testing.assert_close(adapted[0].running_var, images.transpose(0, 1).flatten(1).var(1))


def test_deeper_layers_of_a_sorted_target_are_near_those_of_one_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8)).double()
    target = torch.randn(600, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = target[target[:, 0].argsort()]
    one, many = (adapt_batch_norm(model, target, batch_size=size) for size in (600, 60))
    assert ((one[3].running_var / many[3].running_var).log().abs() < 0.1).all()


def test_a_layer_that_is_not_called_keeps_its_statistics():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Identity()).double()
    model[1].unused = nn.BatchNorm1d(5).double()
    model[1].unused.running_mean.fill_(3)
    adapted = adapt_batch_norm(model, B)
    assert (adapted[1].unused.running_mean == 3).all() and adapted[1].unused.momentum == 0.1


@pytest.mark.parametrize("layer, sentence", [
    (Locked(5), "got one of type Locked whose statistics stay as they are"),
    (nn.LazyBatchNorm1d(), "model.0 must be .* got LazyBatchNorm1d that has not seen a batch"),
    (nn.BatchNorm1d(5, track_running_stats=False), "model must have batch norm with running statistics"),
])
def test_statistics_that_cannot_be_measured_are_refused(layer, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapt_batch_norm(nn.Sequential(layer).double(), B)


def test_a_model_adapted_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        adapted = adapt_batch_norm(NORMED, B)
    adapted(B).sum().backward()
    assert adapted[1].weight.grad is not None


@pytest.mark.parametrize("loss", [coral_loss, mmd_loss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_do_not_overflow_in_half_precision(loss, dtype):
    source, target = ((200 * x).to(dtype).requires_grad_() for x in (A, B))
    found, expected = loss(source, target), loss(source.detach().double(), target.detach().double())
    found.backward()
    assert found.dtype == torch.float32 and source.grad.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(loss(source.float(), target.float()).double(), expected, rtol=1e-4, atol=1e-4)


def test_subspace_alignment_maps_as_in_the_formula():
    X, X_target = A.numpy(), B.numpy()
    fitted = SubspaceAlignment(2).fit(X, LABELS, X_target)
    source, target = fitted.source_.components_, fitted.target_.components_
    np.testing.assert_allclose(fitted.transform_source(X), (X - X.mean(0)) @ source.T @ source @ target.T)
    np.testing.assert_allclose(fitted.transform(X_target), (X_target - X_target.mean(0)) @ target.T)
    assert clone(fitted).n_components == 2


def test_reverse_validation_can_choose_its_number_of_directions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6)) + 4 * np.eye(6)[0] * (np.arange(80) % 2)[:, None]
    assert reverse_validation(SubspaceAlignment(1), X, np.arange(80) % 2, X + 1, validation_fraction=0.25,
                              random_state=0) < 0.3
