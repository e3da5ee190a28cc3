"""How fuzzing calls the public functions of the chapter adaptation."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from drawing import (
    NOT_DRAWN,
    any_array,
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    class_numbers,
    filled,
    fuzz,
    images,
    small_int,
    vectors,
)
from xfer_course import adaptation
from xfer_course.data import Images

NOT_DRAWN.update(["Adapted", "ClassStatistics", "LatentClasses"])
MODEL = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
STATISTICS = adaptation.ClassStatistics(filled((2, 3)), torch.eye(3).expand(2, 3, 3))
unit_images = images().map(torch.sigmoid)

for rule, learns in (("AlphaBN", False), ("LearningRule", True), ("Tent", True), ("Core", True)):
    rate = {"learning_rate": st.floats(0.001, 1)} if learns else {}
    fuzz(
        rule,
        getattr(adaptation, rule),
        {"alpha": st.floats(0, 1)} | rate,
        {"alpha": any_float} | dict.fromkeys(rate, any_float),
        lambda r, a: r.alpha == a["alpha"],
    )
fuzz(
    "CAFA",
    adaptation.CAFA,
    {"statistics": st.just(STATISTICS), "alpha": st.floats(0, 1)},
    {"statistics": any_tensor, "alpha": any_float},
    lambda r, a: r.alpha == a["alpha"],
)
fuzz(
    "AlphaBatchNorm",
    lambda alpha, x: adaptation.AlphaBatchNorm(nn.BatchNorm1d(3), alpha)(x),
    {"alpha": st.floats(0, 1), "x": vectors(4, 3)},
    {"alpha": any_float, "x": any_tensor},
    lambda r, a: r.shape == a["x"].shape,
)
fuzz(
    "calibrate",
    lambda alpha: adaptation.calibrate(MODEL, alpha),
    {"alpha": st.floats(0, 1)},
    {"alpha": any_float},
    lambda r, a: not r.training and r[0].alpha == a["alpha"],
)
fuzz(
    "class_logits",
    adaptation.class_logits,
    {"output": vectors(3, 2)},
    {"output": any_tensor.map(lambda t: (t, t))},
    lambda r, a: r is (a["output"][0] if isinstance(a["output"], tuple) else a["output"]),
)
fuzz(
    "adapt",
    lambda batch, rule: adaptation.adapt(MODEL, [batch, batch], rule),
    {
        "batch": vectors(4, 3),
        "rule": st.sampled_from(
            [adaptation.AlphaBN(), adaptation.Tent(), adaptation.Core(), adaptation.CAFA(STATISTICS)]
        ),
    },
    {"batch": any_vectors, "rule": st.sampled_from([None, "tent"])},
    lambda r, a: r.logits.shape == (2 * len(a["batch"]), 2) and not r.model.training,
    also=(RuntimeError,),  # inputs that the model itself does not take
)
fuzz(
    "OnlineAdapter",
    lambda batch, rule: adaptation.OnlineAdapter(MODEL, rule).step(batch),
    {"batch": vectors(4, 3), "rule": st.sampled_from([adaptation.AlphaBN(), adaptation.Tent()])},
    {"batch": any_vectors, "rule": st.sampled_from([None, "tent"])},
    lambda r, a: r.shape == (len(a["batch"]), 2),
    also=(RuntimeError,),  # inputs that the model itself does not take
)
fuzz(
    "cafa_loss",
    lambda features, logits, **options: adaptation.cafa_loss(features, logits, STATISTICS, **options),
    {"features": vectors(4, 3), "logits": vectors(4, 2), "away_from": st.sampled_from(["others", "all"])},
    {"features": any_vectors, "logits": any_vectors, "away_from": st.text(max_size=3)},
    lambda r, a: r.ndim == 0,
)
fuzz(
    "class_statistics",
    lambda images, labels: adaptation.class_statistics(MODEL, images, labels),
    {"images": vectors(6, 3), "labels": st.just(torch.tensor([0, 1, 0, 1, 0, 1]))},
    {"images": any_vectors, "labels": any_labels},
    lambda r, a: r.means.shape == (a["labels"].max() + 1, 3) and r.precisions.shape == (*r.means.shape, 3),
    also=(RuntimeError,),  # inputs that the model itself does not take
)
fuzz("core_loss", adaptation.core_loss, {"logits": vectors(4, 3)}, {"logits": any_tensor}, lambda r, a: r.ndim == 0)
fuzz(
    "corrupt",
    adaptation.corrupt,
    {"images": unit_images, "kind": st.sampled_from(sorted(adaptation.CORRUPTIONS)), "severity": st.integers(1, 5)},
    {"images": any_images, "kind": st.just("snow"), "severity": small_int, "seed": any_int},
    lambda r, a: r.shape == a["images"].shape and 0 <= r.min() and r.max() <= 1,
)
fuzz(
    "discover_classes",
    adaptation.discover_classes,
    {
        "domain_probabilities": vectors(12, 3).map(lambda x: x.softmax(1).double().numpy()),
        "domains": st.just([0, 1, 2] * 4),
        "n_classes": st.integers(2, 3),
    },
    {"domain_probabilities": any_array, "domains": any_labels, "n_classes": small_int, "groups": small_int},
    lambda r, a: r.posteriors.shape == (12, a["n_classes"]) and r.class_shares.shape == (3, a["n_classes"]),
)
fuzz(
    "jittered_digits",
    adaptation.jittered_digits,
    {"split": st.just("test"), "n": st.integers(1, 4), "seed": st.integers(0, 9)},
    {"split": st.sampled_from(["validation", ""]), "n": small_int, "seed": any_int, "size": st.integers(-2, 20)},
    lambda r, a: r.images.shape == (a["n"], 1, a.get("size", 16), a.get("size", 16)) and len(r.labels) == a["n"],
)
fuzz(
    "label_shift_domains",
    adaptation.label_shift_domains,
    {"labels": class_numbers(8, 3), "n_domains": st.integers(2, 4), "concentration": st.floats(0.1, 5)},
    {"labels": any_labels, "n_domains": small_int, "concentration": any_float, "seed": any_int},
    lambda r, a: r.shape == (len(a["labels"]),) and 0 <= r.min() and r.max() < a["n_domains"],
)
fuzz(
    "draw_class_shares",
    adaptation.draw_class_shares,
    {"n_classes": st.integers(2, 3), "n_domains": st.integers(3, 5), "alpha": st.floats(0.5, 5),
     "max_condition": st.just(20.0)},
    {"n_classes": small_int, "n_domains": small_int, "alpha": any_float, "max_condition": st.floats(5, 50),
     "seed": any_int},
    lambda r, a: r.shape == (a["n_domains"], a["n_classes"]) and abs(r.sum(1) - 1).max() < 1e-6,
)
fuzz(
    "equal_domains",
    adaptation.equal_domains,
    {"labels": class_numbers(9, 3), "shares": st.just([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])},
    {"labels": any_labels, "shares": any_array, "seed": any_int},
    lambda r, a: r.shape == (len(a["labels"]),) and r.min() >= -1 and r.max() < len(a["shares"]),
)
fuzz(
    "matched_accuracy",
    adaptation.matched_accuracy,
    {"found": class_numbers(6, 3), "labels": class_numbers(6, 3)},
    {"found": any_labels, "labels": any_labels},
    lambda r, a: 0 <= r <= 1,
)
fuzz(
    "source_network",
    lambda images, labels, **options: adaptation.source_network(Images(images, labels), **{"steps": 1} | options),
    {"images": images(n=(4, 4), size=(4, 4)), "labels": class_numbers(4, 3)},
    {
        "images": any_images,
        "labels": any_labels,
        "steps": st.integers(-1, 2),
        "batch_size": small_int,
        "learning_rate": any_float,
    },
    lambda r, a: not r.training and r[-1].out_features == a["labels"].max() + 1,
    also=(FloatingPointError,),
)
fuzz(
    "stream",
    lambda images, labels, **options: adaptation.stream(Images(images, labels), **options),
    {
        "images": vectors(5, 3),
        "labels": class_numbers(5, 2),
        "order": st.sampled_from(["shuffled", "sorted"]),
        "batch_size": st.integers(1, 4),
    },
    {
        "images": any_tensor,
        "labels": any_labels.filter(lambda t: t.ndim < 2),
        "order": st.just("random"),
        "batch_size": any_int,
    },
    lambda r, a: sum(len(batch.labels) for batch in r) == len(a["images"]),
)
