"""m2-Mix against arrays from the authors' code: every case in the folder of the kinds `m2mix_*` and
`embedding_metrics_*`; gradients take unit rows for free variables."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.visionlanguage import (
    alignment,
    geodesic_mix,
    hard_negative_loss,
    m2_mix_loss,
    uni_mix_losses,
    uniformity,
)


def assert_gradients(case, loss: torch.Tensor, rows: dict[str, torch.Tensor], kind: str) -> None:
    "Of the gradients by images and texts those that the case holds."
    names = [f"grad_{kind}_{name}" for name in rows]
    found = torch.autograd.grad(loss, list(rows.values()), retain_graph=True, allow_unused=True)
    held = [(name, grad) for name, grad in zip(names, found) if name in case.data.files]
    assert held, f"no gradient of {kind} in the case"
    for name, grad in held:
        case.assert_close(grad, name)


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "m2mix"))
def test_mixtures_losses_and_gradients(parity, name):
    case = parity("visionlanguage", name)
    o, share = case.options, float(case.tensor("lam"))
    rows = {"image": case.tensor("image").requires_grad_(), "text": case.tensor("text").requires_grad_()}
    image, text = rows.values()
    case.assert_close(geodesic_mix(image, text, share).detach(), "mix")
    scale, soft = float(case.tensor("scale")), float(case.tensor("scale2"))
    loss = m2_mix_loss(image, text, share, soft if o.get("sep_scale", True) else scale)
    case.assert_close(loss.detach(), "loss_m2")
    assert_gradients(case, loss, rows, "m2")
    one_sided = uni_mix_losses(image, text, share, scale)
    for kind, each in zip(("v", "l", "vl"), one_sided):
        case.assert_close(each.detach(), f"loss_{kind}")
        assert_gradients(case, each, rows, kind)


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "embedding_metrics"))
def test_measures_and_the_hard_negative_baseline(parity, name):
    case = parity("visionlanguage", name)
    x, y = case.tensor("x"), case.tensor("y")
    case.assert_close(alignment(x, y), "align")
    case.assert_close(alignment(x, y, relative=True), "align_relative")
    case.assert_close(uniformity(torch.cat([x, y])), "uniformity")
    case.assert_close(hard_negative_loss(x, y, 0.1, 1.0), "hcl_a")
    case.assert_close(hard_negative_loss(x, y, 0.05, 0.5), "hcl_b")
