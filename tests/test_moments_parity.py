"""Moment probing against arrays from the authors' code: every case in the folder whose kind is of this paper."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import parity_cases
from xfer_course.peft import MomentHead, Recalibration, cross_moments

PAIRS = {"near": "near", "n/2": "half", "cn2": "all"}


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(case[name]).float()


def fill(module: nn.Module, case, names: dict[str, str]) -> None:
    "Give every parameter of a module the authors' value; `names`: ours → theirs."
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(of(case, f"p.{names[name]}"))


@pytest.mark.parametrize("name", parity_cases("peft", "moment_covariance"))
def test_three_forms_of_a_cross_moment(parity, name):
    case = parity("peft", name)
    x, y = of(case, "x"), of(case, "y")
    for centre, expected in (("released", "cross_as_released"), ("none", "cross_no_mean"),
                             ("token", "true_cross_covariance")):
        case.assert_close(cross_moments(x, y, centre), expected)


@pytest.mark.parametrize("name", parity_cases("peft", "moment_probing"))
def test_moment_head(parity, name):
    case = parity("peft", name)
    o = case.options
    head = MomentHead(o["in_dim"], o["classes"], o["hidden"], o["heads"], PAIRS[o["pairs"]])
    convolutions = {f"reduce.{i}.weight": f"downblocks.0.{i}.weight" for i in (0, 2)}
    fill(head, case, convolutions | {f"{ours}.{each}": f"{theirs}.{each}" for each in ("weight", "bias")
                                     for ours, theirs in (("project", "proj"), ("norm", "ln"),
                                                          ("first", "classifier1"), ("second", "classifier2"))})
    tokens = of(case, "tokens").requires_grad_()
    with_class = torch.cat([of(case, "cls")[:, None], tokens[:, 1:]], 1)
    logits = head(with_class)
    case.assert_close(logits.detach(), "logits")
    (logits * of(case, "g")).sum().backward()
    case.assert_close(tokens.grad, "grad_tokens")
    case.assert_close(head.reduce[0].weight.grad, "grad_conv1")
    case.assert_close(head.reduce[2].weight.grad, "grad_conv2")
    case.assert_close(head.norm.weight.grad, "grad_ln")


@pytest.mark.parametrize("name", parity_cases("peft", "psrp"))
def test_recalibration(parity, name):
    case = parity("peft", name)
    module = Recalibration(case.options["d"], case.options["r"])
    fill(module, case, {f"{each}.weight": f"{each}.weight" for each in ("down", "up_weight", "up_bias")})
    weight, bias = (each.detach() for each in module(of(case, "x")))
    case.assert_close(weight, "weight")
    case.assert_close(bias, "bias")
    case.assert_close(bias + (1 + weight) * of(case, "mlp_output"), "recalibrated")
