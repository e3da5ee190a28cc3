"""Approximated prompts against arrays from the authors' code: every case in the folder of the kinds `apt_*`; the gate
(the largest activation) has no gradient."""
from __future__ import annotations

import pytest

from conftest import parity_cases
from xfer_course.visionlanguage import ApproximatePrompt


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "apt"))
def test_output_and_gradients(parity, name):
    case = parity("visionlanguage", name)
    tokens, dim = case.tensor("tokens").shape
    prompt = ApproximatePrompt(dim, tokens, len(case.tensor("down"))).double()
    prompt.load_state_dict({each: case.tensor(each) for each in ("tokens", "down", "up", "log_scale")})
    x, res = (case.tensor(each).requires_grad_() for each in ("x", "res"))
    out = prompt(x, res)
    case.assert_close(out.detach(), "out")
    out.backward(case.tensor("upstream"))
    for name_of, grad in (("x", x.grad), ("res", res.grad), *((n, p.grad) for n, p in prompt.named_parameters())):
        case.assert_close(grad, f"grad_{name_of}")
