"""The voting model, soft targets and mixup of BANG against arrays computed from the formulas: every case of these
kinds."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import parity_cases
from xfer_course.merging import (
    agreement,
    averaged_weights,
    interpolate,
    mixup,
    output_weights,
    right_votes,
    smooth_labels,
    vote_scores,
)


@pytest.mark.parametrize("name", parity_cases("merging", "bang_votes"))
def test_votes(parity, name):
    case = parity("merging", name)
    o, (votes, labels) = case.options, (torch.from_numpy(case[key]) for key in ("votes", "y"))
    masks = [torch.from_numpy(case[f"mask_{i}"]) for i in (1, 2)]
    ties = {"wrong": "wrong"}.get(o.get("ties", "wrong"), "shared")
    ways = {"1": masks[0], "2": masks[1], "output_ensemble": output_weights(*masks),
            "weight_ensemble": averaged_weights(*masks)}
    right = {}
    for way, weights in ways.items():
        scores = vote_scores(votes, weights, o["classes"])
        case.assert_close(scores, f"scores_{way}")
        right[way] = right_votes(scores, labels, ties)
        np.testing.assert_array_equal(right[way].numpy() == 1, case[f"correct_{way}"])
    for way, short in (("weight_ensemble", "weight"), ("output_ensemble", "output")):
        # a class that is wrong stands in for whatever a network says that is not right, ties included
        said = [torch.where(right[each] == 1, labels, (labels + 1) % o["classes"]) for each in ("1", "2", way)]
        found = agreement(*said, labels)
        assert found.merged == case[f"correct_{way}"].sum()
        for what, count in (("false_false_true", found.false_false_true), ("true_true_false", found.true_true_false)):
            if f"{what}_{short}" in case.data.files:
                assert count == case[f"{what}_{short}"]


@pytest.mark.parametrize("name", parity_cases("merging", "bang_losses"))
def test_losses(parity, name):
    case = parity("merging", name)
    o, x, y, order = case.options, *(torch.from_numpy(case[key]) for key in ("X", "y", "perm"))
    states = [{"weight": torch.from_numpy(case[f"W{i}"]), "bias": torch.from_numpy(case[f"b{i}"])} for i in (0, 1)]
    classes = len(states[0]["bias"])

    def loss(smoothing: float, share: float) -> float:
        inputs, targets = mixup(x, smooth_labels(y, classes, smoothing).double(), share, order)
        return F.cross_entropy(F.linear(inputs, **states[1]), targets).item()

    case.assert_close(loss(o["eps"], 1.0), "loss_smoothed", 1e-6)
    case.assert_close(loss(0.0, o["lam"]), "loss_mixup", 1e-6)
    case.assert_close(loss(o["eps"], o["lam"]), "loss_both", 1e-6)
    middle = interpolate(*states, o["alpha"])
    case.assert_close(middle["weight"], "W_interpolated")
    case.assert_close(middle["bias"], "b_interpolated")
    case.assert_close(F.linear(x, **middle), "logits_interpolated")
