"""Linear expansion and distillation against arrays from the authors' code: every case of the kinds `tleg_*`."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from conftest import parity_cases
from xfer_course.clip import Transformer
from xfer_course.merging import LinearExpansion, PatchTransformer, descendant, distillation_loss

# Our names of a block's parameters → the authors'.
NAMES = {"attn.in_proj_weight": "attn.qkv.weight", "attn.in_proj_bias": "attn.qkv.bias",
         "attn.out_proj.weight": "attn.proj.weight", "attn.out_proj.bias": "attn.proj.bias",
         "mlp.c_fc.weight": "mlp.fc1.weight", "mlp.c_fc.bias": "mlp.fc1.bias",
         "mlp.c_proj.weight": "mlp.fc2.weight", "mlp.c_proj.bias": "mlp.fc2.bias",
         "ln_1.weight": "norm1.weight", "ln_1.bias": "norm1.bias", "ln_2.weight": "norm2.weight",
         "ln_2.bias": "norm2.bias"}


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(case[name]))


def auxiliary_name(name: str, part: str) -> str:
    module, kind = NAMES[name].rsplit(".", 1)
    return f"blocks.block.{module}.instances.0.{kind}_{part}"


def network_of(case) -> PatchTransformer:
    "The auxiliary network of a case; a query and value without a bias have one of zeros."
    o = case.options
    block = Transformer(o["d"], 1, o["heads"], "gelu", int(o["d"] * o.get("mlp_ratio", 4))).resblocks[0]
    for module in block.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = o.get("layer_norm_eps_auxiliary", 1e-5)
    network = PatchTransformer(LinearExpansion(block, o["depth"]), o["d"], o["classes"], o["image"], o["patch"],
                               case["images"].shape[1])
    with torch.no_grad():
        for half, part in ((network.blocks.base, "base"), (network.blocks.slope, "ilayer")):
            for name, each in half.named_parameters():
                given = f"p.{auxiliary_name(name, part)}"
                each.copy_(of(case, given)) if given in case.data.files else each.zero_()
        network.places.copy_(of(case, "p.pos_embed")[0])
        for ours, theirs in (("patches", "patch_embed.proj"), ("norm", "norm"), ("head", "head")):
            for kind in ("weight", "bias"):
                getattr(getattr(network, ours), kind).copy_(of(case, f"p.{theirs}.{kind}"))
    return network


@pytest.mark.parametrize("name", parity_cases("merging", "tleg_depth"))
def test_logits_and_gradients_of_the_auxiliary_network(parity, name):
    case = parity("merging", name)
    network = network_of(case)
    logits = network(of(case, "images"))
    case.assert_close(logits.detach(), "logits")
    (logits * of(case, "g")).sum().backward()
    for half, part in ((network.blocks.base, "base"), (network.blocks.slope, "ilayer")):
        for ours, each in half.named_parameters():
            if (wanted := f"grad.{auxiliary_name(ours, part)}") in case.data.files:
                case.assert_close(each.grad, wanted)


@pytest.mark.parametrize("name", parity_cases("merging", "tleg_depth"))
def test_weights_that_descendants_begin_with(parity, name):
    case = parity("merging", name)
    network = network_of(case)
    for depth in case.options["descendants"]:
        grown, start = descendant(network, depth), f"descendant{depth}."
        for layer, block in enumerate(grown.blocks):
            for ours, each in block.named_parameters():
                if (wanted := f"{start}blocks.{layer}.{NAMES[ours]}") in case.data.files:
                    case.assert_close(each.detach(), wanted)
        others = {"fc_norm.weight": grown.norm.weight, "fc_norm.bias": grown.norm.bias,
                  "head.weight": grown.head.weight, "head.bias": grown.head.bias, "pos_embed": grown.places[None],
                  "patch_embed.proj.weight": grown.patches.weight, "patch_embed.proj.bias": grown.patches.bias}
        for wanted, each in others.items():
            if start + wanted in case.data.files:
                case.assert_close(each.detach(), start + wanted)


@pytest.mark.parametrize("name", parity_cases("merging", "tleg_distill"))
def test_distillation(parity, name):
    case = parity("merging", name)
    o, student = case.options, of(case, "student").requires_grad_()
    loss = distillation_loss(student, of(case, "teacher"), of(case, "y"), alpha=o.get("alpha", 1.0),
                             tau=o.get("tau", 1.0), kind=o.get("type", "soft"), released=True)
    loss.backward()
    case.assert_close(loss.detach(), "loss")
    case.assert_close(student.grad, "grad")
