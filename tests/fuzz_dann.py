"""How fuzzing calls the public functions of the chapter dann."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from drawing import (
    NOT_DRAWN,
    any_array,
    any_float,
    any_labels,
    any_tensor,
    any_vectors,
    any_weights,
    class_numbers,
    fuzz,
    small_int,
    vectors,
)
from xfer_course import dann

NOT_DRAWN.update(["DANNOutput", "DANNLoss", "Saturation"])
fuzz(
    "gradient_reversal",
    dann.gradient_reversal,
    {"x": vectors(3, 2), "lambda_": st.floats(0, 3)},
    {"x": any_tensor, "lambda_": st.one_of(any_float, any_tensor)},
    lambda r, a: r.shape == a["x"].shape and r.dtype == a["x"].dtype,
)
fuzz(
    "GradientReversal",
    lambda lambda_, x: dann.GradientReversal(lambda_)(x),
    {"x": vectors(3, 2), "lambda_": st.floats(0, 3)},
    {"x": any_tensor, "lambda_": any_float},
    lambda r, a: r.shape == a["x"].shape,
)
PROGRESS = st.one_of(any_float, any_tensor, any_array)
fuzz(
    "lambda_schedule",
    dann.lambda_schedule,
    {"p": st.floats(0, 1)},
    {"p": PROGRESS, "gamma": any_float},
    lambda r, a: bool((np.asarray(torch.as_tensor(r).double()) >= 0).all()),
)
fuzz(
    "learning_rate_schedule",
    dann.learning_rate_schedule,
    {"p": st.floats(0, 1)},
    {"p": PROGRESS, "mu_0": any_float, "alpha": any_float, "beta": any_float},
    lambda r, a: bool((np.asarray(torch.as_tensor(r).double()) >= 0).all()),
)


def dann_loss(joint_batch, source_x, source_y, target_x, lambda_, class_weights, sample_weights):
    torch.manual_seed(0)
    model = dann.DANN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 1), joint_batch, (4,))
    return (
        model.loss(source_x, source_y, target_x, lambda_, class_weights, sample_weights),
        model.source_loss(source_x, source_y, class_weights=class_weights),
        model(target_x, lambda_),
    )


DANN_INPUT = {
    "joint_batch": st.booleans(),
    "source_x": vectors(4, 4),
    "source_y": class_numbers(4, 2),
    "target_x": vectors(3, 4),
    "lambda_": st.floats(0, 2),
    "class_weights": st.one_of(st.none(), st.lists(st.floats(0, 3), min_size=2, max_size=2)),
    "sample_weights": st.one_of(st.none(), vectors(1, 4).map(lambda x: x[0].abs())),
}
ANY_DANN_INPUT = {
    "source_x": any_vectors,
    "source_y": any_labels,
    "target_x": any_vectors,
    "lambda_": any_float,
    "class_weights": any_weights,
    "sample_weights": any_tensor,
}
fuzz(
    "DANN",
    dann_loss,
    DANN_INPUT,
    ANY_DANN_INPUT,
    lambda r, a: all(part.ndim == 0 for part in (*r[0], r[1])) and r[2].domain_logits.shape == (len(a["target_x"]),),
)


def multi_domain_loss(domains, joint_batch, source_x, source_y, target_x, lambda_, class_weights, sample_weights):
    torch.manual_seed(0)
    head = nn.Linear(3, domains if isinstance(domains, int) and domains > 2 else 1)
    model = dann.MultiDomainDANN(
        nn.Linear(4, 3), nn.Linear(3, 2), head, domains=domains, joint_batch=joint_batch, input_shape=(4,)
    )
    source = (source_x, source_y) if sample_weights is None else (source_x, source_y, sample_weights)
    sources = [source, (torch.ones(1, 4), torch.zeros(1, dtype=torch.long))][: domains - 1]
    return model.loss(sources, [target_x] * (domains - len(sources)), lambda_, class_weights)


fuzz(
    "MultiDomainDANN",
    multi_domain_loss,
    DANN_INPUT | {"domains": st.integers(2, 4)},
    ANY_DANN_INPUT | {"domains": st.integers(-1, 5)},
    lambda r, a: all(part.ndim == 0 for part in r),
)
NETWORK = {"num_classes": small_int, "in_channels": st.integers(-1, 4)}
fuzz(
    "mnist_dann",
    lambda **options: dann.mnist_dann(**options).eval()(torch.rand(2, max(options["in_channels"], 1), 28, 28)),
    {"num_classes": st.just(3), "in_channels": st.just(1)},
    NETWORK
    | {
        "dropout": any_float,
        "batch_norm": st.booleans(),
        "domain_hidden": st.lists(st.integers(-1, 5), max_size=3).map(tuple),
        "domain_batch_norm": st.booleans(),
    },
    lambda r, a: r.class_logits.shape == (2, a["num_classes"]) and r.features.shape == (2, 768),
)
fuzz(
    "svhn_dann",
    lambda num_classes, in_channels, **options: dann.svhn_dann(num_classes, in_channels, **options),
    {"num_classes": st.just(3), "in_channels": st.just(1)},
    {"num_classes": st.integers(-1, 1), "in_channels": st.integers(-1, 0), "dropout": any_float},
)
fuzz(
    "gtsrb_dann",
    lambda num_classes, in_channels: dann.gtsrb_dann(num_classes, in_channels),
    {"num_classes": st.just(3), "in_channels": st.just(1)},
    NETWORK,
)
BACKBONE = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
fuzz(
    "office_dann",
    lambda num_classes, backbone: dann.office_dann(num_classes, backbone)(torch.rand(2, 3, 2, 2)),
    {"num_classes": st.integers(2, 5), "backbone": st.just(BACKBONE)},
    {"num_classes": small_int, "backbone": st.sampled_from([nn.Flatten(), 3])},
    lambda r, a: r.class_logits.shape == (2, a["num_classes"]) and r.features.shape == (2, 256),
    also=(RuntimeError,),  # AlexNet, for a backbone of None, does not take so small an image
)
fuzz(
    "cut_head",
    lambda network, name: dann.cut_head(copy.deepcopy(network), name),
    {"network": st.just(BACKBONE), "name": st.just("network")},
    {"network": st.sampled_from([nn.Flatten(), 3])},
    lambda r, a: r == 5,
)
fuzz(
    "office_parameters",
    lambda learning_rate, pretrained: dann.office_parameters(dann.office_dann(3, BACKBONE), learning_rate, pretrained),
    {"learning_rate": st.floats(0.001, 1), "pretrained": st.floats(0.001, 1)},
    {"learning_rate": any_float, "pretrained": any_float},
    lambda r, a: len(r) == 2 and r[0]["lr"] < math.inf,
)


def shortened(limit):
    module = copy.deepcopy(BACKBONE)
    dann.max_norm_(module, limit)
    return module


fuzz(
    "max_norm_",
    shortened,
    {"limit": st.floats(0.01, 5)},
    {"limit": any_float},
    lambda r, a: all(
        layer.weight.double().norm(dim=1).max() <= a["limit"] * 1.001 for layer in r if isinstance(layer, nn.Linear)
    ),
)
SHALLOW = {
    "X": vectors(6, 3).map(lambda x: x.numpy()),
    "y": st.just(np.array([0, 1, 0, 1, 0, 1])),
    "X_target": vectors(4, 3).map(lambda x: x.numpy()),
}
any_y = any_labels.map(lambda t: t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy())


def shallow(X, y, X_target, **options):
    return (
        dann.ShallowDANN(**{"hidden_size": 2, "max_iter": 2, "random_state": 0} | options)
        .fit(X, y, X_target)
        .predict_proba(X)
    )


fuzz(
    "ShallowDANN",
    shallow,
    SHALLOW,
    {
        "X": any_array,
        "y": any_y,
        "X_target": any_array,
        "lambda_": any_float,
        "learning_rate": any_float,
        "hidden_size": small_int,
        "max_iter": st.integers(-1, 3),
        "early_stopping": st.booleans(),
        "validation_fraction": any_float,
    },
    lambda r, a: r.shape[0] == len(a["X"]) and np.isfinite(r).all() and np.allclose(r.sum(1), 1),
)
fuzz(
    "MarginalizedDenoiser",
    lambda X, **options: dann.MarginalizedDenoiser(**{"n_layers": 2} | options).fit_transform(X),
    {"X": vectors(6, 3).map(lambda x: x.numpy())},
    {"X": any_array, "n_layers": st.integers(-1, 3), "noise": any_float, "regularization": any_float},
    lambda r, a: len(r) == len(a["X"]) and np.isfinite(r).all(),
    also=(np.linalg.LinAlgError,),
)
fuzz(
    "reverse_validation",
    lambda X, y, X_target, **options: dann.reverse_validation(
        dann.ShallowDANN(2, max_iter=1, random_state=0),
        X,
        y,
        X_target,
        random_state=0,
        **options,
    ),
    SHALLOW,
    {"X": any_array, "y": any_y, "X_target": any_array, "validation_fraction": any_float},
    lambda r, a: 0 <= r <= 1,
)


# --- choosing a model


def numpy_vectors(n: int, d: int):
    return vectors(n, d).map(lambda x: x.numpy())


def predictions(n: int, classes: int):
    return vectors(n, classes).map(lambda x: x.softmax(1).numpy())


for rule in (dann.mean_entropy, dann.mutual_information):
    fuzz(
        rule.__name__,
        rule,
        {"probabilities": predictions(5, 3)},
        {"probabilities": any_array},
        lambda r, a: -1e-6 <= r <= 10,
    )
fuzz(
    "classifier_uniformity",
    dann.classifier_uniformity,
    {"weights": numpy_vectors(3, 4)},
    {"weights": any_array},
    lambda r, a: 0 <= r < 10,
)
fuzz(
    "hopkins_statistic",
    dann.hopkins_statistic,
    {"features": numpy_vectors(30, 3)},
    {"features": any_array, "sample": any_float, "power": any_float, "seed": st.integers(-1, 3)},
    lambda r, a: 0 <= r <= 1,
)
fuzz(
    "transfer_score",
    dann.transfer_score,
    {"weights": numpy_vectors(3, 4), "features": numpy_vectors(30, 2), "probabilities": predictions(30, 3)},
    {"weights": any_array, "features": any_array, "probabilities": any_array, "power": any_float},
    lambda r, a: math.isfinite(r),
)
fuzz(
    "saturation",
    dann.saturation,
    {"scores": vectors(1, 8).map(lambda x: x[0].numpy())},
    {"scores": any_array, "window": small_int, "threshold": any_float},
    lambda r, a: len(r.levels) == len(a["scores"]),
)


def small_dann():
    return dann.DANN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 1), input_shape=(4,))


fuzz(
    "DANNClassifier",
    lambda X, y, X_target, **options: (
        dann.DANNClassifier(small_dann, **{"steps": 2} | options).fit(X, y, X_target).predict_proba(X)
    ),
    {"X": numpy_vectors(6, 4), "y": st.just([0, 1, 0, 1, 0, 1]), "X_target": numpy_vectors(5, 4)},
    {
        "X": any_array,
        "y": any_labels,
        "X_target": any_array,
        "steps": st.integers(-1, 3),
        "batch_size": small_int,
        "learning_rate": any_float,
        "lambda_": any_float,
    },
    lambda r, a: r.shape == (len(a["X"]), 2),
    also=(FloatingPointError,),
)


# --- other alignments

PAIR = {"source": vectors(5, 3), "target": vectors(4, 3)}
ANY_PAIR = {"source": any_vectors, "target": any_vectors}
fuzz("coral_loss", dann.coral_loss, PAIR, ANY_PAIR, lambda r, a: r.ndim == 0)
fuzz("mmd_loss", dann.mmd_loss, PAIR, ANY_PAIR | {"factors": any_weights}, lambda r, a: r.ndim == 0)
fuzz("entropy_loss", dann.entropy_loss, {"logits": vectors(4, 3)}, {"logits": any_tensor}, lambda r, a: r.ndim == 0)
fuzz(
    "conditional_features",
    dann.conditional_features,
    {"features": vectors(4, 3), "probabilities": vectors(4, 2)},
    {"features": any_vectors, "probabilities": any_vectors},
    lambda r, a: r.shape == (len(a["features"]), a["features"].shape[1] * a["probabilities"].shape[1]),
)


def cdan_loss(source_x, source_y, target_x, lambda_):
    torch.manual_seed(0)
    model = dann.CDAN(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(6, 1), input_shape=(4,))
    return model.loss(source_x, source_y, target_x, lambda_)


fuzz(
    "CDAN",
    cdan_loss,
    {"source_x": vectors(4, 4), "source_y": class_numbers(4, 2), "target_x": vectors(3, 4), "lambda_": st.floats(0, 2)},
    {"source_x": any_vectors, "source_y": any_labels, "target_x": any_vectors, "lambda_": any_float},
    lambda r, a: all(part.ndim == 0 for part in r),
)
NORMED = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
fuzz(
    "adapt_batch_norm",
    lambda target, **options: dann.adapt_batch_norm(NORMED, target, **options),
    {"target": vectors(6, 3)},
    {"target": any_vectors, "batch_size": small_int},
    lambda r, a: not r.training,
    also=(RuntimeError,),  # inputs that the model itself does not take
)
fuzz(
    "SubspaceAlignment",
    lambda X, y, X_target, n: dann.SubspaceAlignment(n).fit(X, y, X_target).predict(X_target),
    {
        "X": numpy_vectors(8, 3),
        "y": st.just([0, 1] * 4),
        "X_target": numpy_vectors(6, 3),
        "n": st.integers(1, 2),
    },
    {"X": any_array, "y": any_labels, "X_target": any_array, "n": small_int},
    lambda r, a: len(r) == len(a["X_target"]),
    also=(np.linalg.LinAlgError,),
)
