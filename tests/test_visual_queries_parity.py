"""Visual query tuning against arrays from the authors' code: every case in the folder whose kind is of this paper."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import parity_cases
from xfer_course.clip import Transformer
from xfer_course.peft import TokenTransformer, VisualQueries, frozen_layers

ENCODER = "p.transformer.encoder"
BLOCK = {"attn.out_proj": "attn.out", "ln_1": "attention_norm", "ln_2": "ffn_norm", "mlp.c_fc": "ffn.fc1",
         "mlp.c_proj": "ffn.fc2"}


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(case[name]).float()


def put(module: nn.Module, case, theirs: str, ours: str = "{}") -> None:
    "Weight and bias of a layer."
    for each in ("weight", "bias"):
        getattr(module, ours.format(each)).copy_(of(case, f"{theirs}.{each}"))


@torch.no_grad()
def network_of(case) -> TokenTransformer:
    "A Transformer with the case's sizes and the authors' numbers."
    o = case.options
    network = TokenTransformer(o["image"], o["patch"], case["images"].shape[1], o["d"], o["layers"], o["heads"])
    network.blocks = Transformer(o["d"], o["layers"], o["heads"], "gelu", o["mlp"]).resblocks
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = o["layer_norm_eps"]
    put(network.patches, case, "p.transformer.embeddings.patch_embeddings")
    network.class_token.copy_(of(case, "p.transformer.embeddings.cls_token")[0, 0])
    network.places.copy_(of(case, "p.transformer.embeddings.position_embeddings")[0])
    put(network.norm, case, f"{ENCODER}.encoder_norm")
    for i, block in enumerate(network.blocks):
        for ours, theirs in BLOCK.items():
            put(block.get_submodule(ours), case, f"{ENCODER}.layer.{i}.{theirs}")
        for each in ("weight", "bias"):
            rows = [of(case, f"{ENCODER}.layer.{i}.attn.{part}.{each}") for part in ("query", "key", "value")]
            getattr(block.attn, f"in_proj_{each}").copy_(torch.cat(rows))
    return network


def combine_of(options: dict) -> str:
    "The released code asks for the mean first, then for weights."
    return "mean" if options["mean_pool_queries"] else "weighted" if options["weighted_sum_queries"] else "concat"


@pytest.mark.parametrize("name", parity_cases("peft", "vqt"))
def test_features_and_gradients(parity, name):
    case = parity("peft", name)
    o = case.options
    queries = VisualQueries(network_of(case), o["T"], combine_of(o), o["normalize"]).eval()
    with torch.no_grad():
        queries.queries.copy_(of(case, f"{ENCODER}.query_prompt_embeddings"))
        if queries.weights is not None:
            queries.weights.copy_(of(case, "p.combine_params"))
    layers = frozen_layers(queries.network, of(case, "images"))
    features = queries(layers)
    case.assert_close(features.detach(), "features")
    case.assert_close(queries.network(of(case, "images")).detach(), "class_token")
    for layer, output in enumerate(queries.outputs(layers).detach().unbind(1)):
        case.assert_close(output, f"query_output_{layer}")
    (features * of(case, "g")).sum().backward()
    case.assert_close(queries.queries.grad, "grad_queries")
    if queries.weights is not None:
        case.assert_close(queries.weights.grad, "grad_combine")
