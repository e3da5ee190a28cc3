"""How fuzzing calls the public functions of the chapter rotation."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from drawing import (
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    class_numbers,
    fuzz,
    images,
    small_int,
)
from xfer_course import rotation

fuzz(
    "rotate",
    rotation.rotate,
    {"images": images(), "quarter_turns": st.integers(-9, 9)},
    {"images": any_tensor, "quarter_turns": st.one_of(any_int, any_float)},
    lambda r, a: sorted(r.shape) == sorted(a["images"].shape) and r.dtype == a["images"].dtype,
)
fuzz(
    "rotate_degrees",
    rotation.rotate_degrees,
    {"images": images(), "degrees": st.floats(-400, 400)},
    {
        "images": any_images,
        "degrees": any_float,
        "mode": st.sampled_from(["nearest", "cubic"]),
        "padding": st.sampled_from(["border", "wrap"]),
    },
    lambda r, a: r.shape == a["images"].shape,
)
fuzz(
    "centre_square",
    rotation.centre_square,
    {"images": images()},
    {"images": any_tensor},
    lambda r, a: r.shape[-1] == r.shape[-2] == min(a["images"].shape[-2:]),
)
fuzz(
    "rotate_batch",
    rotation.rotate_batch,
    {"images": images()},
    {"images": any_images, "quarter_turns": st.lists(st.integers(-1, 4), max_size=5), "crop": st.booleans()},
    lambda r, a: (
        len(r[0]) == len(r[1]) == len(a["images"]) * len(a.get("quarter_turns", range(4))) and r[0].is_contiguous()
    ),
)
fuzz(
    "crop_and_flip",
    rotation.crop_and_flip,
    {"images": images(), "padding": st.integers(0, 4)},
    {"images": any_images, "padding": small_int},
    lambda r, a: r.shape == a["images"].shape,
)


def pretext(backbone_width, feature_dim, quarter_turns, images) -> tuple[Tensor, Tensor]:
    model = rotation.RotationPretext(
        rotation.NetworkInNetwork(None, 2, backbone_width).eval(), feature_dim, quarter_turns
    )
    return model.loss(images), model.correct(images)


fuzz(
    "RotationPretext",
    pretext,
    {
        "backbone_width": st.just(4),
        "feature_dim": st.just(4),
        "quarter_turns": st.just((0, 1, 2, 3)),
        "images": images(c=(3, 3)),
    },
    {"feature_dim": st.integers(1, 6), "quarter_turns": st.lists(st.integers(-1, 4), max_size=5), "images": any_images},
    lambda r, a: (
        r[0].ndim == 0 and r[1].dtype == torch.bool and r[1].shape == (len(a["images"]), len(a["quarter_turns"]))
    ),
)
fuzz(
    "NetworkInNetwork",
    lambda images, **options: rotation.NetworkInNetwork(**options).eval()(images),
    {"images": images(c=(3, 3)), "num_classes": st.just(4), "num_blocks": st.just(2), "channels": st.just(4)},
    {
        "images": any_images,
        "num_classes": st.one_of(st.none(), small_int),
        "num_blocks": st.integers(-1, 4),
        "channels": small_int,
        "in_channels": st.integers(-1, 4),
    },
    lambda r, a: r.shape == (len(a["images"]), a["channels"] if a["num_classes"] is None else a["num_classes"]),
)
fuzz(
    "nin_block",
    lambda **options: rotation.nin_block(**options).eval()(torch.zeros(2, options["in_channels"], 5, 5)),
    {"in_channels": st.just(3), "widths": st.just((4, 3, 2)), "kernel": st.just(3)},
    {"in_channels": st.integers(-1, 3), "widths": st.lists(small_int, max_size=4), "kernel": small_int},
    lambda r, a: r.shape == (2, a["widths"][2], 5, 5),
)
fuzz(
    "attention_map",
    rotation.attention_map,
    {"features": images(), "power": st.floats(0.1, 4)},
    {"features": any_images, "power": any_float},
    lambda r, a: r.shape == a["features"].shape[:1] + a["features"].shape[2:],
)
PROBE = {
    "features": images(n=(2, 3), c=(3, 3), size=(4, 4)),
    "in_channels": st.just(3),
    "num_classes": st.integers(1, 5),
}
for probe, extra in (
    ("LinearProbe", {"size": st.just(2)}),
    ("NonLinearProbe", {"size": st.just(4)}),
    ("ConvProbe", {"channels": st.just(4)}),
):
    fuzz(
        f"{probe}",
        lambda features, probe=probe, **options: getattr(rotation, probe)(**options).eval()(features),
        PROBE | extra,
        {"features": any_images, "in_channels": st.integers(1, 5)},
        lambda r, a: r.shape == (len(a["features"]), a["num_classes"]),
    )
fuzz(
    "few_labels",
    rotation.few_labels,
    {"labels": class_numbers(8, 2), "per_class": st.integers(1, 3)},
    {"labels": any_labels, "per_class": st.one_of(any_int, any_float), "seed": st.integers(0, 9)},
    lambda r, a: (
        r.dtype == torch.long
        and bool((r.diff() > 0).all())
        and len(r) == a["per_class"] * len(torch.as_tensor(a["labels"]).unique())
    ),
)
fuzz(
    "TransferClassifier",
    lambda images, frozen: rotation.TransferClassifier(
        rotation.NetworkInNetwork(None, 2, 4).eval(), nn.Linear(4, 5), frozen
    ).eval()(images),
    {"images": images(c=(3, 3)), "frozen": st.booleans()},
    {"images": any_images},
    lambda r, a: r.shape == (len(a["images"]), 5),
)
