"""SHERL's early route against arrays from the authors' code: every case in the folder whose kind is of this paper."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.peft import SHERL, redundancy

PARTS = {"guide_block.fc_attn": "mixture.score", "fc_out.1": "out.1", "fc_out.2": "out.2"}


def ours(theirs: str) -> str:
    "Our name of one of their parameters."
    if theirs == "gate_params":
        return "theta"
    part, _, kind = theirs.rpartition(".")
    return f"{PARTS.get(part) or part.replace('hor_block', 'down').replace('.fc.', '.')}.{kind}"


def filled(case) -> SHERL:
    "The module with the authors' options and parameters, in evaluation mode: their dropout is off."
    o = case.options
    side = SHERL(o["d"], o["layers"], o["hidden"], temperature=o["gate_temperature"]).eval()
    side.out[2].eps = o["out_layer_norm_eps"]
    for down in side.down:
        down[1].eps = o["down_layer_norm_eps"]
    side.load_state_dict({ours(name[2:]): torch.from_numpy(case[name]).float() for name in case.data
                          if name.startswith("p.")})
    return side


@pytest.mark.parametrize("name", parity_cases("peft", "sherl"))
def test_early_route(parity, name):
    case = parity("peft", name)
    side = filled(case)
    features = torch.from_numpy(case["features"]).float()
    assert side.theta.item() == pytest.approx(case.options["gate_parameter"])
    rows = side.rows(features).detach()
    case.assert_close(redundancy(rows[..., :-1, :]), "redundancy")
    case.assert_close(side.mixture.weights(rows).detach(), "weights")
    case.assert_close(side(features).detach(), "out")
    case.assert_close(side(list(features)).detach(), "out")


@pytest.mark.parametrize("name", parity_cases("peft", "sherl"))
def test_gradients_of_the_early_route(parity, name):
    case = parity("peft", name)
    side = filled(case)
    side(torch.from_numpy(case["features"]).float()).backward(torch.from_numpy(case["g"]).float())
    own = dict(side.named_parameters())
    expected = [array for array in case.data if array.startswith("grad.")]
    assert expected
    for array in expected:
        case.assert_close(own[ours(array.removeprefix("grad."))].grad, array)
