"""DANN: gradient reversal against autograd, the loss by closed form, Algorithm 1 line by line, bad input,
learning at all."""
from __future__ import annotations

import io
import json
import math
import pickle
import re
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn import functional as F

import xfer_course.dann
from xfer_course import checks
from xfer_course.dann import (
    CDAN,
    DANN,
    GradientReversal,
    MarginalizedDenoiser,
    ShallowDANN,
    gradient_reversal,
    gtsrb_dann,
    lambda_schedule,
    learning_rate_schedule,
    mnist_dann,
    reverse_validation,
    svhn_dann,
)
from xfer_course.data import Images, domain_batches, moons_pair, multi_domain_batches
from xfer_course.exercises import exercise
from xfer_course.training import choose_accelerator, fit


def small_dann(seed: int = 0, **options) -> DANN:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh())
    return DANN(features, nn.Linear(32, 2), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)), **options)


MOONS = moons_pair(n=60)
SOURCE_X, SOURCE_Y, TARGET_X = (torch.tensor(a, dtype=t) for a, t in zip(MOONS, (torch.float, torch.long, torch.float)))


# --- bad input ---------------------------------------------------------------------------------------------------

NAN = float("nan")
X, Y, X_TARGET, _ = MOONS


def shallow(**options) -> ShallowDANN:
    return ShallowDANN(**{"hidden_size": 4, "max_iter": 2, "random_state": 0} | options)


def loss(source_x=SOURCE_X, source_y=SOURCE_Y, target_x=TARGET_X, lambda_=1.0, model=None):
    return (model or small_dann()).loss(source_x, source_y, target_x, lambda_)


def warm(**weights) -> ShallowDANN:
    estimator = shallow(warm_start=True).fit(X, Y, X_TARGET)
    for name, value in weights.items():
        setattr(estimator, name, value)
    return estimator


# (what is called, the error, words that its sentence must contain)
BAD_INPUT = {
    "reversal: lambda negative": (lambda: gradient_reversal(SOURCE_X, -0.1), ValueError,
                                  "lambda_ must be a finite number of at least 0, got -0.1"),
    "reversal: lambda NaN": (lambda: gradient_reversal(SOURCE_X, NAN), ValueError,
                             "lambda_ must be a finite number of at least 0, got nan"),
    "reversal: lambda infinite": (lambda: GradientReversal(math.inf), ValueError,
                                  "lambda_ must be a finite number of at least 0, got inf"),
    "reversal: lambda a tensor of two": (lambda: gradient_reversal(SOURCE_X, torch.ones(2)), TypeError,
                                         "lambda_ must be a finite number of at least 0, got tensor"),
    "reversal: lambda a word": (lambda: gradient_reversal(SOURCE_X, "strong"), TypeError,
                                "lambda_ must be a finite number of at least 0, got 'strong'"),
    "reversal: integers": (lambda: gradient_reversal(SOURCE_Y), TypeError,
                           "x must hold float numbers, got torch.int64"),
    "reversal: an array": (lambda: gradient_reversal(X), TypeError, "x must be a tensor, got ndarray"),
    "schedule: p below 0": (lambda: lambda_schedule(-0.01), ValueError,
                            "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p above 1": (lambda: learning_rate_schedule(1.01), ValueError,
                            "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p NaN": (lambda: lambda_schedule(NAN), ValueError,
                        "p must be the finished share of training, from 0 to 1, got"),
    "schedule: one p of an array": (lambda: lambda_schedule(np.array([0.5, 2.0])), ValueError,
                                    "p must be the finished share of training, from 0 to 1, got"),
    "schedule: one p of a tensor": (lambda: learning_rate_schedule(torch.tensor([0.5, -1.0])), ValueError,
                                    "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p a word": (lambda: lambda_schedule("0.5"), ValueError,
                           "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p a truth value": (lambda: lambda_schedule(True), ValueError,
                                  "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p None": (lambda: learning_rate_schedule(None), ValueError,
                         "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p complex": (lambda: learning_rate_schedule(0.5j), ValueError,
                            "p must be the finished share of training, from 0 to 1, got"),
    "schedule: p a complex tensor": (lambda: lambda_schedule(torch.tensor([0.5j])), ValueError,
                                     "p must be the finished share of training, from 0 to 1, got"),
    "schedule: gamma NaN": (lambda: lambda_schedule(0.5, gamma=NAN), ValueError,
                            "gamma must be a finite number of at least 0, got nan"),
    "schedule: gamma a word": (lambda: lambda_schedule(0.5, "10"), TypeError,
                               "gamma must be a finite number of at least 0, got '10'"),
    "schedule: alpha negative": (lambda: learning_rate_schedule(0.5, alpha=-1), ValueError,
                                 "alpha must be a finite number from 0 to 1e+06, got -1"),
    "schedule: mu_0 negative": (lambda: learning_rate_schedule(0.5, -0.01), ValueError,
                                "mu_0 must be a finite number of at least 0, got -0.01"),
    "loss: an array as source": (lambda: loss(SOURCE_X.numpy()), TypeError, "source_x must be a tensor, got ndarray"),
    "loss: an array as labels": (lambda: loss(source_y=SOURCE_Y.numpy()), TypeError,
                                 "source_y must be a tensor of shape (N), got ndarray"),
    "loss: an array as target": (lambda: loss(target_x=TARGET_X.numpy()), TypeError,
                                 "target_x must be a tensor of shape (N 2), got ndarray"),
    "loss: a number as source": (lambda: loss(torch.tensor(1.0)), ValueError, "source_x must be of shape (N, ...)"),
    "loss: doubles into a float network": (lambda: loss(SOURCE_X.double(), target_x=TARGET_X.double()), TypeError,
                                           "source_x must be of type torch.float32, as the network or the other domain "
                                           "is, got torch.float64"),
    "loss: flat class logits": (lambda: loss(model=DANN(nn.Identity(), nn.Flatten(0), nn.Linear(2, 1))), ValueError,
                                "label_predictor's output must be of shape (60 K), got (120,)"),
    "loss: one channel too few": (
        lambda: mnist_dann().loss(torch.zeros(2, 1, 28, 28), SOURCE_Y[:2], torch.zeros(2, 1, 28, 28)), ValueError,
        "source_x must be of shape (N 3 28 28), got (2, 1, 28, 28)"),
    "source loss: images of another size": (lambda: svhn_dann().source_loss(torch.zeros(2, 3, 28, 28), SOURCE_Y[:2]),
                                            ValueError, "source_x must be of shape (N 3 32 32), got (2, 3, 28, 28)"),
    "forward: images of another size": (lambda: gtsrb_dann()(torch.zeros(2, 3, 32, 32)), ValueError,
                                        "x must be of shape (N 3 40 40), got (2, 3, 32, 32)"),
    "forward: an array": (lambda: mnist_dann()(np.zeros((2, 3, 28, 28))), TypeError,
                          "x must be a tensor of shape (N 3 28 28), got ndarray"),
    "network: no modules": (lambda: DANN(1, 2, 3), TypeError, "feature_extractor must be an nn.Module, got int"),
    "network: no channels": (lambda: mnist_dann(in_channels=0), ValueError,
                             "in_channels must be a whole number of at least 1, got 0"),
    "network: empty domain layer": (lambda: mnist_dann(domain_hidden=(0,)), ValueError,
                                    "every size in domain_hidden must be a whole number of at least 1, got 0"),
    "network: reduction": (lambda: gtsrb_dann(domain_reduction="none"), ValueError,
                           "domain_reduction must be one of 'mean', 'sum', got 'none'"),
    "network: dropout a word": (lambda: mnist_dann(dropout="much"), TypeError,
                                "dropout must be a finite number of at least 0 below 1, got 'much'"),
    "shallow: adversarial a word": (lambda: shallow(adversarial="no").fit(X, Y, X_TARGET), ValueError,
                                    "adversarial must be one of True, False, got 'no'"),
    "shallow: rate a word": (lambda: shallow(learning_rate="fast").fit(X, Y, X_TARGET), TypeError,
                             "learning_rate must be a finite number above 0, got 'fast'"),
    "shallow: fraction a word": (lambda: shallow(validation_fraction="half").fit(X, Y, X_TARGET), TypeError,
                                 "validation_fraction must be a finite number above 0 and below 1, got 'half'"),
    "shallow: validation of other features": (lambda: shallow().fit(X, Y, X_TARGET, X[:, :1], Y), ValueError,
                                              "X_valid must have as many features as X (2)"),
    "shallow: validation lengths": (lambda: shallow().fit(X, Y, X_TARGET, X, Y[:5]), ValueError,
                                    "inconsistent numbers of samples: [60, 5]"),
    "denoiser: noise a word": (lambda: MarginalizedDenoiser(noise="much").fit(X), TypeError,
                               "noise must be a finite number of at least 0 below 1, got 'much'"),
    "denoiser: ridge None": (lambda: MarginalizedDenoiser(regularization=None).fit(X), TypeError,
                             "regularization must be a finite number above 0, got None"),
    "reverse validation: no target argument": (lambda: reverse_validation(MarginalizedDenoiser(), X, Y, X_TARGET),
                                               TypeError, "estimator must have fit(X, y, X_target=...)"),
    "reverse validation: fraction a word": (
        lambda: reverse_validation(shallow(), X, Y, X_TARGET, validation_fraction="half"), TypeError,
        "validation_fraction must be a finite number above 0 and below 1, got 'half'"),
    "loss: empty target": (lambda: loss(target_x=TARGET_X[:0]), ValueError,
                           "target_x must hold at least one value, got shape (0, 2)"),
    "loss: empty source": (lambda: loss(SOURCE_X[:0], SOURCE_Y[:0]), ValueError,
                           "source_x must hold at least one value, got shape (0, 2)"),
    "loss: lengths": (lambda: loss(source_y=SOURCE_Y[:5]), ValueError,
                      "source_y must have as many rows as source_x (60), got 5"),
    "loss: target of another shape": (lambda: loss(target_x=TARGET_X[:, :1]), ValueError,
                                      "target_x must be of shape (N 2), got (60, 1)"),
    "loss: target of another type": (lambda: loss(target_x=TARGET_X.double()), TypeError,
                                     "target_x must be of type torch.float32"),
    "loss: integer images": (lambda: loss(SOURCE_X.long()), TypeError,
                             "source_x must hold float numbers, got torch.int64"),
    "loss: float labels": (lambda: loss(source_y=SOURCE_Y.float()), TypeError,
                           "source_y must hold integer numbers, got torch.float32"),
    "loss: one-hot labels": (lambda: loss(source_y=F.one_hot(SOURCE_Y)), ValueError,
                             "source_y must be of shape (N), got (60, 2)"),
    "loss: short labels": (lambda: loss(source_y=SOURCE_Y.int()), TypeError,
                           "source_y must be class numbers of type torch.int64, got torch.int32"),
    "loss: label too large": (lambda: loss(source_y=SOURCE_Y + 1), ValueError,
                              "source_y must be class numbers from 0 up and below 2, got 2"),
    "loss: a column of labels": (lambda: loss(source_y=SOURCE_Y[:, None]), ValueError,
                                 "source_y must be of shape (N), got (60, 1)"),
    "loss: no labels": (lambda: loss(source_y=None), TypeError, "source_y must be a tensor of shape (N), got NoneType"),
    "reverse validation: a column of labels": (lambda: reverse_validation(shallow(), X, Y[:, None], X_TARGET),
                                               ValueError, "y must be of shape (N), got (60, 1)"),
    "reverse validation: a label is missing": (
        lambda: reverse_validation(shallow(), X, np.where(np.arange(len(Y)) == 3, NAN, Y), X_TARGET), TypeError,
        "y must be names or whole numbers, all of one kind, got nan at 3"),
    "shallow: validation counted from 1": (
        lambda: shallow(early_stopping=True).fit(X, Y, X_TARGET, X, Y + 1), ValueError,
        "every label of y_valid must be one of 0, 1, got 2"),
    "shallow: validation with names": (
        lambda: shallow(early_stopping=True).fit(X, Y, X_TARGET, X, np.array(["a", "b"])[Y]), TypeError,
        "y_valid must be of the kind of y, such as 0, got "),
    "shallow: a column for validation": (
        lambda: shallow(early_stopping=True).fit(X, Y, X_TARGET, X, Y[:, None]), ValueError,
        "y_valid must be of shape (N), got (60, 1)"),
    "domain batches: a column of labels": (
        lambda: domain_batches(Images(SOURCE_X, SOURCE_Y[:, None]), TARGET_X, 8, steps=1), ValueError,
        "source labels must be of shape (N), got (60, 1)"),
    "domain batches: one-hot labels": (
        lambda: domain_batches(Images(SOURCE_X, F.one_hot(SOURCE_Y)), TARGET_X, 8, steps=1), ValueError,
        "source labels must be of shape (N), got (60, 2): .argmax(1)"),
    "domain batches: float labels": (
        lambda: domain_batches(Images(SOURCE_X, SOURCE_Y.float()), TARGET_X, 8, steps=1), TypeError,
        "source labels must hold integer numbers"),
    "loss: label negative": (lambda: loss(source_y=SOURCE_Y - 1), ValueError,
                             "source_y must be class numbers from 0 up and below 2, got -1"),
    "loss: lambda negative": (lambda: loss(lambda_=-1.0), ValueError, "lambda_ must be a finite number of at least 0"),
    "loss: lambda NaN": (lambda: loss(lambda_=NAN), ValueError, "lambda_ must be a finite number of at least 0"),
    "loss: two domain logits": (lambda: loss(model=DANN(nn.Identity(), nn.Linear(2, 2), nn.Linear(2, 2))), ValueError,
                                "one logit per example"),
    "source loss: label too large": (lambda: small_dann().source_loss(SOURCE_X, SOURCE_Y + 1), ValueError,
                                     "source_y must be class numbers from 0 up and below 2, got 2"),
    "network: one class": (lambda: mnist_dann(num_classes=1), ValueError,
                           "num_classes must be a whole number of at least 2, got 1"),
    "network: dropout 1": (lambda: svhn_dann(dropout=1.0), ValueError,
                           "dropout must be a finite number of at least 0 below 1, got 1.0"),
    "shallow: no target": (lambda: shallow().fit(X, Y), ValueError,
                           "X_target must be unlabelled target examples unless lambda_=0, got None"),
    "shallow: empty target": (lambda: shallow().fit(X, Y, X_TARGET[:0]), ValueError,
                              "Found array with 0 sample(s) (shape=(0, 2))"),
    "shallow: target of other features": (lambda: shallow().fit(X, Y, X_TARGET[:, :1]), ValueError,
                                          "as many features as X (2)"),
    "shallow: NaN": (lambda: shallow().fit(X * NAN, Y, X_TARGET), ValueError, "Input X contains NaN"),
    "shallow: NaN in the target": (lambda: shallow().fit(X, Y, X_TARGET * NAN), ValueError,
                                   "Input X_target contains NaN"),
    "shallow: lengths": (lambda: shallow().fit(X, Y[:5], X_TARGET), ValueError, "inconsistent numbers of samples"),
    "shallow: one class": (lambda: shallow().fit(X, 0 * Y, X_TARGET), ValueError, "y must hold at least two classes"),
    "shallow: lambda negative": (lambda: shallow(lambda_=-1.0).fit(X, Y, X_TARGET), ValueError,
                                 "lambda_ must be a finite number of at least 0"),
    "shallow: hidden size 0": (lambda: shallow(hidden_size=0).fit(X, Y, X_TARGET), ValueError,
                               "hidden_size must be a whole number of at least 1, got 0"),
    "shallow: half an epoch": (lambda: shallow(max_iter=0.5).fit(X, Y, X_TARGET), TypeError,
                               "max_iter must be a whole number of at least 1, got 0.5"),
    "shallow: rate 0": (lambda: shallow(learning_rate=0).fit(X, Y, X_TARGET), ValueError,
                        "learning_rate must be a finite number above 0, got 0"),
    "shallow: fraction 1": (lambda: shallow(validation_fraction=1).fit(X, Y, X_TARGET), ValueError,
                            "validation_fraction must be a finite number above 0 and below 1, got 1"),
    "shallow: diverging": (lambda: shallow(learning_rate=1e308).fit(1e3 * X, Y, X_TARGET), ValueError,
                           "got a network that diverged in epoch 1"),
    "shallow: not fitted": (lambda: shallow().predict(X), NotFittedError, "not fitted"),
    "shallow: other features": (lambda: warm().predict(X[:, :1]), ValueError, "expecting 2 features"),
    "shallow: warm start of other shape": (lambda: warm(V_=np.zeros((3, 4))).fit(X, Y, X_TARGET), ValueError,
                                           "V_ must be of shape (2, 4) for a warm_start, got (3, 4)"),
    "shallow: half of a validation set": (lambda: shallow(early_stopping=True).fit(X, Y, X_TARGET, X_valid=X),
                                          ValueError, "X_valid and y_valid must be given together"),
    "denoiser: noise 1": (lambda: MarginalizedDenoiser(noise=1.0).fit(X), ValueError,
                          "noise must be a finite number of at least 0 below 1, got 1.0"),
    "denoiser: no layers": (lambda: MarginalizedDenoiser(n_layers=0).fit(X), ValueError,
                            "n_layers must be a whole number of at least 1, got 0"),
    "denoiser: no ridge": (lambda: MarginalizedDenoiser(regularization=0.0).fit(X), ValueError,
                           "regularization must be a finite number above 0, got 0.0"),
    "denoiser: not fitted": (lambda: MarginalizedDenoiser().transform(X), NotFittedError, "not fitted"),
    "reverse validation: fraction 1": (lambda: reverse_validation(shallow(), X, Y, X_TARGET, validation_fraction=1.5),
                                       ValueError, "validation_fraction must be a finite number above 0 and below "
                                                   "1, got 1.5"),
    "reverse validation: one target row": (lambda: reverse_validation(shallow(), X, Y, X_TARGET[:1]), ValueError,
                                           "a minimum of 2 is required"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_clear_sentence(case):
    call, error, words = BAD_INPUT[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(error) as raised:
            call()
    assert words in str(raised.value)


@pytest.mark.parametrize("call, words", [
    (lambda x: mnist_dann()(x), "x / 255"),
    (lambda x: mnist_dann().loss(x, torch.zeros(2).long(), x.float()), "source_x / 255"),
    (lambda x: mnist_dann().loss(x.float(), torch.zeros(2).long(), x), "target_x / 255"),
    (lambda x: gradient_reversal(x), "x / 255"),
])
def test_pixels_as_bytes_are_told_how_they_become_floats(call, words):
    with pytest.raises(TypeError, match=f"must hold float numbers, got torch.uint8: .*{words} makes floats in"):
        call(torch.zeros(2, 3, 28, 28, dtype=torch.uint8))


def test_nan_images_stop_training_with_the_loss_named():
    model, broken = small_dann(), SOURCE_X.clone()
    broken[0] = NAN
    loader = domain_batches(Images(broken, SOURCE_Y), TARGET_X, batch_size=20, steps=9)

    def step(batch, p):
        terms = model.loss(*batch)
        return terms.total, {"label": terms.label, "domain": terms.domain}

    with pytest.raises(FloatingPointError, match="label"):
        fit(step, loader, torch.optim.SGD(model.parameters(), 0.1), epochs=1, accelerator=choose_accelerator("cpu"),
            progress=False)


# --- gradient reversal -------------------------------------------------------------------------------------------

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    lambda_=st.floats(0, 100, width=16),
    seed=st.integers(0, 2**31),
)
def test_reversal_is_identity_forward_and_minus_lambda_backward(shape, dtype, lambda_, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    upstream = torch.randn(shape, generator=generator).to(dtype)
    y = gradient_reversal(x, lambda_)
    assert torch.equal(y, x) and y.dtype == dtype and (not y.numel() or y.data_ptr() != x.data_ptr())
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, -lambda_ * upstream)


IN_PLACE = {
    "leaky": lambda inplace: nn.LeakyReLU(0.2, inplace=inplace),
    "dropout": lambda inplace: nn.Dropout(0.5, inplace=inplace),
    "nested": lambda inplace: nn.Sequential(nn.Identity(), nn.Sequential(nn.SiLU(inplace=inplace))),
    "by hand": lambda inplace: Halved(inplace),
}


class Halved(nn.Module):
    "Works in place without an argument that says so."

    def __init__(self, inplace):
        super().__init__()
        self.how = inplace

    def forward(self, x):
        return x.mul_(0.5) if self.how else x * 0.5


def headed(first, where, inplace, kind=DANN, extractor=nn.Linear, **options):
    torch.manual_seed(0)
    heads = {"label": nn.Sequential(nn.Linear(8, 3)), "domain": nn.Sequential(nn.Linear(8 if kind is DANN else 24, 1))}
    for place in where.split():
        heads[place].insert(0, IN_PLACE[first](inplace))
    features = nn.Flatten() if extractor is nn.Flatten else nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return kind(features, heads["label"], heads["domain"], **options)


def all_numbers(model, training=True):
    x, y, z = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    y, before = torch.arange(6) % 3, (x.clone(), z.clone())
    model.train(training)
    torch.manual_seed(1)
    numbers = [*model.loss(x, y, z, 0.7), model.source_loss(x, y), *model(x)]
    (numbers[0] + numbers[3] + sum(part.sum() for part in numbers[4:])).backward()
    with torch.no_grad():
        numbers += [*model(x)]
    assert torch.equal(x, before[0]) and torch.equal(z, before[1]), "the inputs were overwritten"
    return [*numbers, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("first", IN_PLACE)
@pytest.mark.parametrize("where", ["label", "domain", "label domain"])
@pytest.mark.parametrize("options", [{}, {"joint_batch": False}, {"kind": CDAN}, {"extractor": nn.Flatten}], ids=str)
def test_heads_that_begin_in_place_give_the_same_numbers(first, where, options):
    """Features, losses and gradients, in training and evaluation mode; inputs stay as they were."""
    for training in (True, False):
        plain, same = (all_numbers(headed(first, where, inplace, **options), training) for inplace in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))


@pytest.mark.parametrize("reverse", [gradient_reversal, GradientReversal()])
def test_what_follows_the_reversal_may_work_in_place(reverse):
    x = torch.linspace(-1, 1, 6, requires_grad=True)
    reverse(x).relu_().sum().backward()
    assert x.grad.tolist() == [0, 0, 0, -1, -1, -1]
    with torch.no_grad():
        reverse(x).mul_(0)
    assert x.abs().min() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_label_loss_of_a_large_batch_fits_into_half_precision(dtype):
    model, x = DANN(nn.Identity(), nn.Linear(2, 60), nn.Linear(2, 1)).to(dtype), torch.zeros(20_000, 2, dtype=dtype)
    loss = model.loss(x, x[:, 0].long(), x[:4])
    assert abs(loss.label.item() - math.log(60)) < 1 and loss.domain.isfinite()


@settings(max_examples=20, deadline=None)
@given(lambda_=st.floats(0, 10), exponent=st.integers(2, 4))
def test_reversal_composes_with_autograd(lambda_, exponent):
    x = torch.linspace(0.5, 2, 5, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad((x**exponent).sum(), x)
    (reversed_,) = torch.autograd.grad((gradient_reversal(x, lambda_) ** exponent).sum(), x, create_graph=True)
    torch.testing.assert_close(reversed_, -lambda_ * plain)
    (twice,) = torch.autograd.grad(reversed_.sum(), x)  # the second derivative passes the reversal again
    torch.testing.assert_close(twice, lambda_**2 * exponent * (exponent - 1) * x.detach() ** (exponent - 2))


def test_reversal_works_under_functorch_compile_free_and_with_tensor_lambda():
    x = torch.arange(1.0, 4.0)
    per_sample = torch.func.vmap(torch.func.grad(lambda v: gradient_reversal(v, 0.5) ** 2))(x)
    torch.testing.assert_close(per_sample, -x)
    leaf = x.clone().requires_grad_()
    gradient_reversal(leaf, torch.tensor(0.25)).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full((3,), -0.25))


def test_schedules_keep_the_type_and_the_shape_of_p():
    assert isinstance(lambda_schedule(0.3), float) and isinstance(learning_rate_schedule(1), float)
    for schedule in (lambda_schedule, learning_rate_schedule):
        grid = np.linspace(0, 1, 6).reshape(2, 3)
        np.testing.assert_array_equal(schedule(grid), [[schedule(p) for p in row] for row in grid.tolist()])
        result = schedule(torch.tensor(grid))
        assert isinstance(result, torch.Tensor) and result.shape == (2, 3)
    assert lambda_schedule(0.0) == 0.0
    assert math.isclose(lambda_schedule(0.1), math.tanh(0.5), rel_tol=1e-12)


# --- the deep network --------------------------------------------------------------------------------------------


def gradients(scalar, model):
    return torch.autograd.grad(scalar, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("reduction, parts", [("mean", 2), ("sum", 1)])
@pytest.mark.parametrize("joint_batch", [True, False])
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 2.0])
def test_one_step_is_the_step_of_the_two_player_game(joint_batch, lambda_, reduction, parts):
    model = small_dann(joint_batch=joint_batch, domain_reduction=reduction)
    target = TARGET_X[:25]
    label = F.cross_entropy(model.label_predictor(model.feature_extractor(SOURCE_X)), SOURCE_Y)
    logits = [model.domain_classifier(model.feature_extractor(x)).flatten() for x in (SOURCE_X, target)]
    domain = (-F.logsigmoid(-logits[0]).mean() - F.logsigmoid(logits[1]).mean()) / parts
    ours = [p for part in (model.feature_extractor, model.label_predictor) for p in part.parameters()]
    wanted = torch.autograd.grad(label - lambda_ * domain, ours, retain_graph=True)
    wanted += torch.autograd.grad(domain, list(model.domain_classifier.parameters()))
    loss = model.loss(SOURCE_X, SOURCE_Y, target, lambda_)
    torch.testing.assert_close(torch.stack(loss), torch.stack([label + domain, label, domain]))
    for got, expected in zip(gradients(loss.total, model), wanted):
        torch.testing.assert_close(got, expected)


def test_batch_norm_sees_both_domains_or_each_alone():
    def model(joint_batch):
        torch.manual_seed(0)
        return DANN(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 1), joint_batch)

    shifted = TARGET_X + 5
    joint, apart = model(True), model(False)
    joint.loss(SOURCE_X, SOURCE_Y, shifted), apart.loss(SOURCE_X, SOURCE_Y, shifted)
    both = torch.cat([SOURCE_X, shifted]).mean(0)
    torch.testing.assert_close(joint.feature_extractor.running_mean, 0.1 * both)
    torch.testing.assert_close(apart.feature_extractor.running_mean, 0.09 * SOURCE_X.mean(0) + 0.1 * shifted.mean(0))


def test_every_image_goes_through_the_features_once():
    seen = []
    for joint_batch in (True, False):
        model = small_dann(joint_batch=joint_batch)
        model.feature_extractor.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
        model.loss(SOURCE_X, SOURCE_Y, TARGET_X[:25])
    assert seen == [85, 60, 25]


def test_loss_leaves_no_trace():
    model = small_dann()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = loss(model=model), loss(model=model)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "build, side, classes, features, sizes",
    [
        (mnist_dann, 28, 10, 768, [(3, 32, 5), (32, 48, 5), (768, 100), (100, 100), (100, 10), (768, 100), (100, 1)]),
        (svhn_dann, 32, 10, 6272,
         [(3, 64, 5), (64, 64, 5), (64, 128, 5), (6272, 3072), (3072, 2048), (2048, 10), (6272, 1024),
          (1024, 1024), (1024, 1)]),
        (gtsrb_dann, 40, 43, 1024,
         [(3, 96, 5), (96, 144, 3), (144, 256, 5), (1024, 512), (512, 43), (1024, 1024), (1024, 1024), (1024, 1)]),
    ],
)
def test_the_papers_networks(build, side, classes, features, sizes):
    model = build()
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sizes == [(m.in_channels, m.out_channels, m.kernel_size[0]) if isinstance(m, nn.Conv2d)
                     else (m.in_features, m.out_features) for m in layers]
    out = model(torch.rand(2, 3, side, side))
    assert [tuple(t.shape) for t in out] == [(2, classes), (2,), (2, features)]
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d)) for m in model.modules())


def test_options_of_the_mnist_network():
    model = mnist_dann(5, in_channels=1, batch_norm=True, dropout=0.5, domain_hidden=(64, 32), domain_batch_norm=True,
                       joint_batch=False)
    count = {kind: sum(isinstance(m, kind) for m in model.modules())
             for kind in (nn.BatchNorm2d, nn.BatchNorm1d, nn.Dropout2d)}
    assert count == {nn.BatchNorm2d: 2, nn.BatchNorm1d: 2, nn.Dropout2d: 1}
    images = torch.rand(4, 1, 28, 28)
    assert model.loss(images, torch.arange(4), images).total.isfinite() and not model.joint_batch


def test_pooling_before_relu_is_pooling_after_it():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    before, after = F.relu(F.max_pool2d(x, 2)), F.max_pool2d(F.relu(x), 2)
    assert torch.equal(before, after)
    assert torch.equal(*[torch.autograd.grad(out.square().sum(), x)[0] for out in (before, after)])


def test_deep_dann_learns_the_source_and_mixes_the_domains():
    def train(strength: float) -> tuple[float, float]:
        model = small_dann()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(300):
            terms = model.loss(SOURCE_X, SOURCE_Y, TARGET_X, strength * lambda_schedule(step / 300))
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        return (model(SOURCE_X).class_logits.argmax(1) == SOURCE_Y).float().mean().item(), terms.domain.item()

    onlooker, adversary = train(0.0), train(1.0)
    assert onlooker[0] > 0.95 and adversary[0] > 0.95  # chance is 0.5
    assert onlooker[1] < 0.4 < adversary[1]  # a coin flip has log 2 = 0.69
    assert train(1.0) == adversary


# --- the shallow network -----------------------------------------------------------------------------------------


def algorithm_1(estimator: ShallowDANN, X, y, X_target, epochs: int) -> dict:
    "The paper's Algorithm 1, one example after the other, on dense rows."
    rng = np.random.RandomState(estimator.random_state)
    shapes = (estimator.hidden_size, X.shape[1]), (len(np.unique(y)), estimator.hidden_size)
    W, V = (math.sqrt(6 / sum(shape)) * (2 * rng.rand(*shape) - 1) for shape in shapes)
    b, c, u, d = np.zeros(len(W)), np.zeros(len(V)), np.zeros(len(W)), 0.0
    rate, lambda_, adversarial = estimator.learning_rate, estimator.lambda_, estimator.adversarial
    for i in list(range(len(X))) * epochs:
        h = expit(W @ X[i] + b)
        delta_c = softmax(V @ h + c) - (np.arange(len(V)) == y[i])
        delta_b = V.T @ delta_c * h * (1 - h)
        delta_W, delta_V = np.outer(delta_b, X[i]), np.outer(delta_c, h)
        delta_u, delta_d = np.zeros(len(W)), 0.0
        if lambda_:
            j = rng.randint(len(X_target))
            for row, is_source in ((X[i], 1), (X_target[j], 0)):
                h = expit(W @ row + b)
                error = lambda_ * (is_source - expit(u @ h + d))
                delta_u, delta_d = delta_u + error * h, delta_d + error
                back = adversarial * error * u * h * (1 - h)
                delta_b, delta_W = delta_b + back, delta_W + np.outer(back, row)
        W, V, b, c = W - rate * delta_W, V - rate * delta_V, b - rate * delta_b, c - rate * delta_c
        u, d = u + rate * delta_u, d + rate * delta_d
    return {"W_": W, "V_": V, "b_": b, "c_": c, "u_": u, "d_": d}


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 150), m=st.integers(1, 30), features=st.integers(1, 12), classes=st.integers(2, 4),
    hidden=st.integers(1, 9),
    lambda_=st.sampled_from([0.0, 0.1, 3.0]), adversarial=st.booleans(), sparse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_blocks_take_the_steps_of_algorithm_1(n, m, features, classes, hidden, lambda_, adversarial, sparse, seed):
    rng = np.random.default_rng(seed)
    X, X_target = (rng.normal(size=(k, features)) * (rng.random((k, features)) < 0.5) for k in (n, m))
    y = np.r_[0, 1, rng.integers(classes, size=n - 2)]
    y = np.unique(y, return_inverse=True)[1]
    estimator = ShallowDANN(hidden, 0.1, lambda_, max_iter=2, adversarial=adversarial, random_state=seed)
    form = sp.csr_matrix if sparse else np.asarray
    estimator.fit(form(X), y, form(X_target))
    for name, expected in algorithm_1(estimator, X, y, X_target, epochs=2).items():
        np.testing.assert_allclose(getattr(estimator, name), expected, atol=1e-10)


def test_sparse_is_dense_and_rows_may_be_mixed():
    expected = shallow().fit(X, Y, X_TARGET)
    for source, target in [(sp.csr_matrix(X), X_TARGET), (X, sp.csc_array(X_TARGET)),
                           (sp.coo_matrix(X), sp.csr_array(X_TARGET))]:
        estimator = shallow().fit(source, Y, target)
        np.testing.assert_allclose(estimator.W_, expected.W_, atol=1e-12)
        np.testing.assert_allclose(estimator.predict_proba(source), expected.predict_proba(X), atol=1e-12)


def test_sparse_input_is_never_made_dense(monkeypatch):
    def refuse(self, *args, **kwargs):
        if self.shape[1] > 1000:
            raise AssertionError("a sparse matrix with all features was made dense")
        return original(self, *args, **kwargs)

    original = sp.csr_matrix.toarray
    monkeypatch.setattr(sp.csr_matrix, "toarray", refuse)
    wide = sp.random(100, 2000, density=0.01, format="csr", random_state=0)
    estimator = shallow(early_stopping=True).fit(wide, np.arange(100) % 2, wide)
    assert estimator.predict(wide).shape == (100,)


def test_same_seed_same_numbers_and_the_global_state_is_left_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, second = shallow().fit(X, Y, X_TARGET), shallow().fit(X, Y, X_TARGET)
    assert all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("W_", "V_", "b_", "c_", "u_", "d_"))
    assert np.array_equal(np.random.get_state()[1], before)
    again = first.W_.copy()
    assert np.array_equal(first.fit(X, Y, X_TARGET).W_, again)  # a second fit starts anew
    assert not np.array_equal(shallow(random_state=1).fit(X, Y, X_TARGET).W_, again)


def test_shallow_dann_is_a_scikit_learn_estimator():
    names = np.array(["low", "high"])[Y]
    estimator = shallow(hidden_size=15, max_iter=60, lambda_=6.0).fit(X, names, X_TARGET)
    assert list(estimator.classes_) == ["high", "low"] and estimator.score(X, names) > 0.8  # chance is 0.5
    twin = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(twin.predict(X_TARGET), estimator.predict(X_TARGET))
    fresh = clone(estimator)
    assert fresh.get_params() == estimator.get_params() and not hasattr(fresh, "W_")
    assert estimator.transform(X).shape == (60, 15) and set(estimator.predict_domain(X)) <= {0, 1}


@parametrize_with_checks([ShallowDANN(10, 0.1, lambda_=0.0, max_iter=100, random_state=0), MarginalizedDenoiser()])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_onlooker_leaves_the_representation_alone():
    plain, onlooker = shallow(lambda_=0.0).fit(X, Y), shallow(adversarial=False).fit(X, Y, X_TARGET)
    np.testing.assert_allclose(onlooker.W_, plain.W_, atol=1e-12)
    assert not plain.u_.any() and onlooker.u_.any()


def test_warm_start_goes_on_where_training_stopped():
    half = shallow(lambda_=0.0, warm_start=True, max_iter=3).fit(X, Y)
    whole = shallow(lambda_=0.0, max_iter=6).fit(X, Y)
    np.testing.assert_allclose(half.fit(X, Y).W_, whole.W_, atol=1e-12)
    given = shallow(lambda_=0.0, warm_start=True, max_iter=3)
    first = shallow(lambda_=0.0, max_iter=3).fit(X, Y)
    for name in ("W_", "V_", "b_", "c_", "u_", "d_"):
        setattr(given, name, getattr(first, name))
    np.testing.assert_allclose(given.fit(X, Y).W_, whole.W_, atol=1e-12)


def test_early_stopping_keeps_the_best_epoch():
    settings_ = {"hidden_size": 15, "max_iter": 120, "lambda_": 6.0}
    estimator = shallow(early_stopping=True, validation_fraction=0.3, **settings_).fit(X, Y, X_TARGET)
    assert estimator.n_iter_ == len(estimator.validation_errors_) > 30
    np.testing.assert_allclose(1 - estimator.score(X[-18:], Y[-18:]), min(estimator.validation_errors_))
    last_best = max(i for i, e in enumerate(estimator.validation_errors_) if e == min(estimator.validation_errors_))
    assert estimator.n_iter_ == min(120, max(30, int(1.5 * last_best)) + 2)
    replay = shallow(**settings_ | {"max_iter": last_best + 1}).fit(X[:-18], Y[:-18], X_TARGET)
    np.testing.assert_allclose(estimator.W_, replay.W_, atol=1e-8)
    given = shallow(early_stopping=True, **settings_).fit(X[:-18], Y[:-18], X_TARGET, X_valid=X[-18:], y_valid=Y[-18:])
    assert np.array_equal(given.W_, estimator.W_)


# --- mSDA and reverse validation ---------------------------------------------------------------------------------


def test_denoiser_without_noise_is_the_identity_before_tanh():
    denoiser = MarginalizedDenoiser(n_layers=1, noise=0.0, regularization=1e-12).fit(X)
    np.testing.assert_allclose(denoiser.coefs_[0], np.eye(2, 3), atol=1e-9)
    np.testing.assert_allclose(denoiser.transform(X), np.hstack([X, np.tanh(X)]), atol=1e-9)


class RowAverage(LogisticRegression):
    "An estimator that takes a target sample and learns nothing from it."

    def fit(self, X, y, X_target=None):
        return super().fit(X, y)


def test_reverse_validation_follows_the_round_trip_and_takes_any_estimator():
    same = moons_pair(n=100, degrees=0)[0], moons_pair(n=100, degrees=0)[1], moons_pair(n=100, degrees=0)[2]
    far = same[0], same[1], same[2] @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + 20
    close, hopeless = (np.mean([reverse_validation(RowAverage(), *data, random_state=s) for s in range(5)])
                       for data in (same, far))
    assert close < 0.25 < hopeless
    estimator = shallow(hidden_size=8, max_iter=20, early_stopping=True)
    before = estimator.get_params()
    errors = [reverse_validation(estimator, *same, random_state=0) for _ in range(2)]
    assert errors[0] == errors[1] and 0 <= errors[0] <= 1
    assert estimator.get_params() == before and not hasattr(estimator, "W_")


def test_reverse_validation_survives_a_class_that_the_target_never_gets():
    data, labels = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    data[labels == 2] += 8
    error = reverse_validation(shallow(hidden_size=8, max_iter=40, lambda_=0.1), data, labels, data[labels != 2],
                               random_state=0)
    assert 0 <= error <= 1


# --- the notebook ------------------------------------------------------------------------------------------------


def run(check, answer) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        check(answer)
    return said.getvalue()


@pytest.mark.parametrize("lesson", ["dann", "networks", "shallow", "text"])
def test_solutions_of_the_exercises_pass_their_checks(root, lesson):
    cells = json.loads((root / f"nbs/dann/{lesson}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    names = vars(xfer_course.dann) | {"np": np, "nn": nn, "F": F, "math": math, "torch": torch}
    names |= {"target_x": TARGET_X, "X": X, "y": Y, "X_target": X_TARGET, "exercise": exercise}
    names["diagnosis"] = {
        "healthy": {"domain loss": 0.68, "source": 1.0, "fresh": 0.7},
        "weak domain head": {"domain loss": 0.69, "source": 1.0, "fresh": 0.9},
        "collapsed": {"domain loss": 0.69, "source": 0.7, "fresh": 0.5},
        "no adversary": {"domain loss": 0.1, "source": 1.0, "fresh": 0.9},
    }
    for source in sources:
        if re.search(r"^def check_|\Ayour_\w+ = None|\Adef your_", source, re.M):
            exec(source, names)
        for solution in re.findall(r"```python\n(def your_.*?)```", source, re.S):
            exec(solution, names)
            check = next(k for k in names if k.startswith("check_")
                         and k.removeprefix("check_") in solution.split("(")[0])
            said = run(names[check], names[re.match(r"def (\w+)", solution).group(1)])
            assert said.startswith("Right"), said
    answers = {"dann": [("check_sign", 1, -1), ("check_lambda_translation", 2.0, 1.0)],
               "networks": [("check_changed", {0, 3}, {0, 1, 3})],
               "shallow": [("check_onlooker", {"u", "d"}, {"W"})], "text": [("check_companion", True, False)]}
    for check, right, wrong in answers[lesson]:
        for answer, good in ((right, True), (wrong, False)):
            said = run(names[check], answer)
            assert ("Right" in said) == good, said


# --- heads that give no logits, domains of two scales, rows of another shape


class Shares(nn.Module):
    "A head with softmax as a line of its `forward`."

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 2)

    def forward(self, x):
        return self.layer(x).softmax(1)


class Last(nn.Module):
    "A head of one's own with the sigmoid as a layer."

    def __init__(self):
        super().__init__()
        self.layer, self.end = nn.Linear(32, 1), nn.Sigmoid()

    def forward(self, x):
        return self.end(self.layer(x))


def with_heads(label=None, domain=None) -> DANN:
    return DANN(nn.Linear(2, 32), label or nn.Linear(32, 2), domain or nn.Linear(32, 1))


@pytest.mark.parametrize("heads, words", [
    ({"label": nn.Sequential(nn.Linear(32, 2), nn.Softmax(1))}, "label_predictor must give .* ends in Softmax"),
    ({"label": nn.Sequential(nn.Sequential(nn.Linear(32, 2), nn.Sigmoid()))},
     "label_predictor must give .* ends in Sigmoid"),
    ({"domain": nn.Sequential(nn.Linear(32, 1), nn.Sigmoid())}, "domain_classifier must give .* ends in Sigmoid"),
    ({"domain": Last()}, "domain_classifier must give .* ends in Sigmoid"),
])
def test_a_head_that_ends_in_softmax_or_sigmoid_is_refused(heads, words):
    with pytest.raises(ValueError, match=words):
        with_heads(**heads)


def test_a_softmax_inside_a_forward_is_seen_in_the_first_step():
    with pytest.raises(ValueError, match="label_predictor's output must be logits, .* got shares whose sum is 1"):
        with_heads(Shares()).loss(SOURCE_X, SOURCE_Y, TARGET_X)
    with pytest.raises(ValueError, match="must be logits"):
        with_heads(Shares()).source_loss(SOURCE_X, SOURCE_Y)


@pytest.mark.parametrize("head", [nn.Sequential(nn.Linear(32, 2), nn.LogSoftmax(1)), nn.Sequential(nn.Softmax(1),
                                  nn.Linear(32, 2)), nn.Sequential(nn.Linear(32, 2), nn.ReLU())])
def test_other_ends_of_a_head_are_left_alone(head):
    assert with_heads(head).loss(SOURCE_X, SOURCE_Y, TARGET_X).total.isfinite()


def test_one_row_that_sums_to_one_is_no_softmax():
    model = with_heads(nn.Linear(32, 2, bias=False))
    with torch.no_grad():
        model.label_predictor.weight.zero_()
        model.label_predictor.weight[0, 0] = 1
        model.feature_extractor.weight.zero_()
        model.feature_extractor.bias.zero_()
        model.feature_extractor.weight[0, 0] = 1
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # logits (1, 0) and (3, 0)
    assert model.loss(rows, torch.tensor([0, 1]), rows).total.isfinite()


BYTES = (255 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))).round()
SMALL = Images(SOURCE_X[:20].sigmoid(), SOURCE_Y[:20])
SCALED = {
    "target in bytes": lambda: domain_batches(SMALL, BYTES, 4, steps=1),
    "source in bytes": lambda: domain_batches(Images(BYTES, SOURCE_Y[:20]), SMALL.images, 4, steps=1),
    "bytes as integers": lambda: domain_batches(SMALL, BYTES.byte(), 4, steps=1),
    "a data set": lambda: domain_batches(torch.utils.data.StackDataset(BYTES + 1, SOURCE_Y[:20]),
                                         SMALL.images, 4, steps=1),
    "several": lambda: multi_domain_batches([SMALL], [SOURCE_X.sigmoid(), BYTES], 4, steps=1),
    "shallow": lambda: shallow().fit(X, Y, 100 * X_TARGET),
}


@pytest.mark.parametrize("kind", SCALED)
def test_domains_of_two_scales_are_said(kind):
    with pytest.warns(UserWarning, match="has values from .* to .*, .* from .* to .*: bring both to one scale"):
        SCALED[kind]()


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x / 10, lambda x: 0 * x, lambda x: x + 3])
def test_domains_of_about_one_scale_are_not_said(change, recwarn):
    domain_batches(Images(SOURCE_X, SOURCE_Y), change(TARGET_X), 4, steps=1)
    assert not recwarn.list


@pytest.mark.parametrize("odd", [None, "text", [], torch.eye(3).to_sparse(), torch.zeros(3, device="meta"),
                                 np.array(["a"]), torch.zeros(0, 3)])
def test_what_has_no_scale_is_not_compared(odd, recwarn):
    checks.one_scale("x", odd, "y", 1000 * torch.ones(3))
    checks.one_scale("x", 1000 * torch.ones(3), "y", odd)
    assert not [each for each in recwarn.list if "one scale" in str(each.message)]


def test_complex_numbers_have_the_scale_of_their_sizes():
    with pytest.warns(UserWarning, match="x has values from 100 to 100, y from 1 to 1: bring both to one scale"):
        checks.one_scale("x", torch.full((3,), 100j), "y", torch.ones(3))


def test_the_check_for_shares_leaves_vmap_alone():
    rows = torch.func.vmap(lambda x: checks.no_shares("x", x))(torch.full((3, 4, 2), 0.5))
    assert rows.shape == (3, 4, 2)
