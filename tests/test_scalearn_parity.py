"""ScaLearn and AdapterFusion against arrays from the authors' code: every case in the folder of these kinds.

Cases may have several layers, whose arrays then have one axis more or a number at the end of their names, and masks of
the dropout on scales; what a case does not have is not compared.
"""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from conftest import parity_cases
from xfer_course.peft import AdapterFusion, ScaLearn


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(case[name]).float()


def names(case, start: str) -> list[str]:
    "Arrays of a case called `start`, or `start` with a layer's ending."
    return sorted(name for name in case.data.files if name == start or name.startswith(f"{start}_"))


def first(options: dict, *keys: str, default=None):
    return next((options[key] for key in keys if key in options), default)


class GivenMask(nn.Module):
    "Dropout whose draw is known; a mask of zeros and ones is scaled here."

    def __init__(self, mask: torch.Tensor, p: float) -> None:
        super().__init__()
        self.factors = (mask != 0).float() / (1 - p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factors


def rule_of(case, width: int) -> ScaLearn:
    "A `ScaLearn` as the case's options say, with the case's scales."
    o, omega = case.options, of(case, "omega")
    normalise = "mean" if o.get("take_mean") else "softmax" if o.get("take_softmax") else "none"
    rule = ScaLearn(len(omega), width, "uniform" if omega.shape[1] == 1 else "vector", normalise=normalise,
                    dropout=first(o, "dropout", "dropout_ratio", "p", default=0.0))
    rule.omega.data.copy_(omega)
    mask = next((name for name in case.data.files if "mask" in name or "keep" in name), None)
    if mask is not None:
        rule.dropout = GivenMask(of(case, mask), rule.dropout.p or 0.3)
    elif "seed" in o:
        torch.manual_seed(o["seed"])
        rule.train()
    else:
        rule.eval()
    return rule


def layers(array: torch.Tensor, single: int) -> list[torch.Tensor]:
    "The layers of an array that has `single` axes when there is one layer."
    return list(array) if array.ndim > single else [array]


def stacked(parts: list[torch.Tensor], like: np.ndarray) -> torch.Tensor:
    return torch.stack(parts) if like.ndim > parts[0].ndim else parts[0]


@pytest.mark.parametrize("name", parity_cases("peft", "scalearn"))
def test_scaled_sum(parity, name):
    case = parity("peft", name)
    loss = torch.zeros(())
    rule = rule_of(case, case[names(case, "adapter_outputs")[0]].shape[-1])
    for group in names(case, "adapter_outputs"):
        end = group.removeprefix("adapter_outputs")
        y = f"y{end}"
        outputs, residuals = layers(of(case, group), 4), layers(of(case, f"residual{end}"), 3)
        if case.options.get("residual") is False:
            residuals = [torch.zeros_like(each) for each in residuals]
        found = [rule(*each) for each in zip(outputs, residuals, strict=True)]
        case.assert_close(stacked(found, case[y]).detach(), y)
        g = f"g{end}" if f"g{end}" in case.data.files else "g"
        if g in case.data.files:
            loss = loss + sum((part * up).sum() for part, up in zip(found, layers(of(case, g), 3), strict=True))
    if "grad_omega" in case.data.files:
        loss.backward()
        case.assert_close(rule.omega.grad, "grad_omega")


@pytest.mark.parametrize("name", parity_cases("peft", "scalearn"))
def test_scales_begin_where_the_authors_begin(parity, name):
    case = parity("peft", name)
    o = case.options
    if "init_mean" not in o:
        pytest.skip("the case says nothing about the start")
    torch.manual_seed(0)
    adapters, columns = case["omega"].shape
    rule = ScaLearn(adapters, columns, start=o["init_mean"] * adapters)
    assert (rule.omega - o["init_mean"]).abs().max() < 6 * o["init_std"]


@pytest.mark.parametrize("name", parity_cases("peft", "adapter_fusion"))
def test_adapter_fusion(parity, name):
    """Whether the value matrix comes before or after the weights makes no difference to the sum."""
    case = parity("peft", name)
    o = case.options
    outputs = of(case, "adapter_outputs")
    fusion = AdapterFusion(outputs.shape[-1], value="p.value.weight" in case.data.files,
                           hot=bool(o.get("temperature"))).eval()
    if "value_weight_at_start" in case.data.files:
        case.assert_close(fusion.value.weight.detach(), "value_weight_at_start")
    with torch.no_grad():
        for key, parameter in fusion.named_parameters():
            parameter.copy_(of(case, f"p.{key}"))
    found = fusion(outputs, of(case, "residual"), of(case, "query"))
    case.assert_close(found.detach(), "y")
