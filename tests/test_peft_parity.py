"""Adapters, attention with updates, LoRA and IA3 against arrays from the authors' code and from Hugging Face's PEFT.

Every case in the folder whose kind belongs to the unified view is run; those of the chapter's other papers are not
collected here.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import parity_cases
from xfer_course.clip import Attention
from xfer_course.peft import IA3, Adapter, LoRA, Prefix, inject, injected, merge_, prefix_attention

FOLDER = Path(os.environ.get("XFER_PARITY", "")) / "peft"
OTHERS = ("adapter_fusion",)  # of another paper of the chapter


def options(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())["options"]


def of(case, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def fill(module: nn.Module, values: dict[str, Tensor]) -> None:
    "Give parameters their values; every parameter must be given."
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[name].view_as(parameter))


def adapter_of(case, prefix: str, form: str, scalar: str, norm: str):
    "Our adapter with the case's parameters, and its names → the authors'."
    names = {"down.weight": "down_proj.weight", "down.bias": "down_proj.bias", "up.weight": "up_proj.weight",
             "up.bias": "up_proj.bias"}
    if norm != "none":
        names |= {f"norm.{each}": f"adapter_layer_norm_before.{each}" for each in ("weight", "bias")}
    if scalar == "learnable_scalar":
        names["scale"] = "scale"
    r, d = case[f"{prefix}down_proj.weight"].shape
    config = Adapter(r, form, "learned" if scalar == "learnable_scalar" else float(scalar), norm)
    update = config.build(nn.Linear(d, d).to(of(case, f"{prefix}down_proj.weight").dtype))
    fill(update, {ours: of(case, prefix + theirs) for ours, theirs in names.items()})
    return update, names


@pytest.mark.parametrize("name", parity_cases("peft", "adapter_", but=OTHERS))
def test_adapter(parity, name):
    case = parity("peft", name)
    o = case.options
    update, names = adapter_of(case, "p.", "sequential" if o["add_residual"] else "parallel", o["scalar"], o["ln"])
    x = of(case, "x").requires_grad_()
    y = update(x, x if o["add_residual"] else torch.zeros_like(x))
    case.assert_close(y.detach(), "y")
    (y * of(case, "g")).sum().backward()
    case.assert_close(x.grad, "grad_x")
    for ours, theirs in names.items():
        case.assert_close(update.get_parameter(ours).grad, f"grad.{theirs}")


@pytest.mark.parametrize("name", parity_cases("peft", "lora_linear"))
def test_lora_beside_a_linear_layer(parity, name):
    case = parity("peft", name)
    layer = nn.Linear(*reversed(case["weight"].shape)).to(of(case, "weight").dtype)
    fill(layer, {"weight": of(case, "weight"), "bias": of(case, "bias")})
    inject(layer, LoRA(case.options["r"], case.options["alpha"]))
    update = injected(layer)[0][1]
    fill(update, {"lora_A.weight": of(case, "A"), "lora_B.weight": of(case, "B")})
    x = of(case, "x").requires_grad_()
    y = layer(x)
    case.assert_close(y.detach(), "y")
    (y * of(case, "g")).sum().backward()
    case.assert_close(x.grad, "grad_x")
    case.assert_close(update.lora_A.weight.grad, "grad_A")
    case.assert_close(update.lora_B.weight.grad, "grad_B")
    case.assert_close(layer.weight.detach(), "weight_unmerged")
    merge_(layer)
    case.assert_close(layer.weight.detach(), "weight_merged")
    case.assert_close(layer(x).detach(), "y_merged")


def attention_of(case) -> Attention:
    "Our attention, queries, keys and values in one matrix, with the case's weights."
    x = of(case, "x")
    attention = Attention(x.shape[-1], case.options["heads"]).to(x.dtype)
    joint = {f"in_proj_{end}": torch.cat([of(case, f"p.{row}_proj.{end}") for row in "qkv"])
             for end in ("weight", "bias")}
    fill(attention, joint | {f"out_proj.{end}": of(case, f"p.out_proj.{end}") for end in ("weight", "bias")})
    return attention


def heads_of(attention: Attention, x: Tensor) -> list[Tensor]:
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    return [part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)]


def known(name: str | None) -> bool:
    "Whether the options of a case of attention are ones that the chapter builds."
    o = options(name)
    return (o["mode"] in ("lora", "adapter") or o["mode"] == "prefix" and
            (o["option"] == "concat" or o["option"] == "cross_attn_noln" and o["composition"] in ("add", "gate_add")))


def attentions(mode: str) -> list:
    "Cases of attention with this mode."
    found = parity_cases("peft", "attention_")
    return [each for each in found if not isinstance(each, str) or (known(each) and options(each)["mode"] == mode)]


@pytest.mark.parametrize("name", attentions("prefix"))
def test_attention_with_a_prefix(parity, name):
    case = parity("peft", name)
    attention, x = attention_of(case), of(case, "x")
    gate = "none" if case.options["composition"] == "add" and case.options["option"] != "concat" else "joint"
    rows = of(case, "prefix_key"), of(case, "prefix_value")
    keep = of(case, "keep") if "keep" in case.data.files else torch.ones(x.shape[:2], dtype=torch.bool)
    if gate == "joint":
        mixed, share = prefix_attention(*heads_of(attention, x), *rows, keep[:, None, None])
        case.assert_close(attention.out_proj(mixed.transpose(1, 2).flatten(2)).detach(), "y")
        assert ((share > 0) & (share < 1)).all()
    inject(attention, Prefix(rows[0].shape[1], gate), "*")
    fill(injected(attention)[0][1], dict(zip(("keys", "values"), rows)))
    for i in range(len(x)):  # the module takes no mask: only what is kept goes in
        if keep[i].all():
            ours = attention(x[i:i + 1]).detach().numpy()
            assert abs(ours - case["y"][i:i + 1]).max() <= 1e-5 * max(abs(case["y"]).max(), 1e-3)


@pytest.mark.parametrize("name", attentions("lora"))
def test_attention_with_lora(parity, name):
    case = parity("peft", name)
    attention, o = attention_of(case), case.options
    with_lora = [row for row in "qkv" if f"p.{row}_proj.ef_lora_A" in case.data.files]
    assert inject(attention, LoRA(o["bottleneck"], o["lora_alpha"]), with_lora) == with_lora
    for place, update in injected(attention):
        fill(update, {f"lora_{part}.weight": of(case, f"p.{place.name}_proj.ef_lora_{part}") for part in "AB"})
    case.assert_close(attention(of(case, "x")).detach(), "y")
    merge_(attention)
    case.assert_close(attention(of(case, "x")).detach(), "y")


@pytest.mark.parametrize("name", attentions("adapter"))
def test_attention_with_an_adapter(parity, name):
    case = parity("peft", name)
    attention, prefix = attention_of(case), "p.ef_attn_adapter."
    norm = "in" if f"{prefix}adapter_layer_norm_before.weight" in case.data.files else "none"
    scalar = "learnable_scalar" if f"{prefix}scale" in case.data.files else case.options.get("scalar", "1")
    update, _ = adapter_of(case, prefix, case.options["option"], scalar, norm)
    inject(attention, update.config, lambda name, module: module is attention)
    injected(attention)[0][1].load_state_dict(update.state_dict())
    case.assert_close(attention(of(case, "x")).detach(), "y")


def two_layers(case) -> nn.Module:
    "Linear, ReLU, linear, as in the cases of PEFT."
    (hidden, width), out = case["base.first.weight"].shape, case["base.second.weight"].shape[0]
    model = nn.Sequential()
    model.add_module("first", nn.Linear(width, hidden))
    model.add_module("relu", nn.ReLU())
    model.add_module("second", nn.Linear(hidden, out))
    fill(model, {name: of(case, f"base.{name}") for name, _ in model.named_parameters()})
    return model


def assert_merged(case, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        case.assert_close(parameter.detach(), f"merged.{name}")


@pytest.mark.parametrize("name", parity_cases("peft", "hf_lora", "hf_rslora", "hf_dora"))
def test_lora_of_hugging_face(parity, name):
    case = parity("peft", name)
    o, model = case.options, two_layers(case)
    inject(model, LoRA(o["r"], o["alpha"], rslora=o.get("use_rslora", False), dora=o.get("use_dora", False)),
           ["first", "second"])
    theirs = {}
    for place, update in injected(model):
        stored = {key: f"lora.{place.name}.{key.replace('.weight', '')}.default.weight"
                  for key, _ in update.named_parameters()}
        fill(update, {key: of(case, value) for key, value in stored.items()})
        theirs |= {f"{place.name}.{key}": value.removeprefix("lora.") for key, value in stored.items()}
    y = model(of(case, "x"))
    case.assert_close(y.detach(), "y")
    (y * of(case, "g")).sum().backward()
    for place, update in injected(model):
        for key, parameter in update.named_parameters():
            case.assert_close(parameter.grad, f"grad.{theirs[f'{place.name}.{key}']}")
    merge_(model)
    case.assert_close(model(of(case, "x")).detach(), "y")
    assert_merged(case, model)


@pytest.mark.parametrize("name", parity_cases("peft", "hf_ia3"))
def test_ia3_of_hugging_face(parity, name):
    case = parity("peft", name)
    model = two_layers(case)
    for layer in ("first", "second"):
        factors = of(case, f"ia3.{layer}.ia3_l.default")
        inject(model, IA3(feedforward=factors.shape[0] == 1), layer)
        fill(model.get_submodule(layer).peft["out"], {"ia3_l": factors})
    case.assert_close(model(of(case, "x")).detach(), "y")
    merge_(model)
    case.assert_close(model(of(case, "x")).detach(), "y")
    assert_merged(case, model)
