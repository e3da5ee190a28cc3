"""CLIP against the numbers of OpenAI's code: features, logits, hidden states, zero-shot weights."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xfer_course.clip import CLIP, Tokenizer, infer_config, zero_shot_weights


def load(case) -> CLIP:
    state = {name[3:]: torch.from_numpy(case[name]) for name in case.data.files if name.startswith("sd.")}
    table = torch.zeros(case.options["constructor"]["vocab_size"], case.options["constructor"]["transformer_width"])
    table[torch.from_numpy(case["token_row_ids"]).long()] = torch.from_numpy(case["token_embedding_rows"])
    state["token_embedding.weight"] = table
    return CLIP(infer_config(state)).load_weights(state).eval()


@pytest.mark.parametrize("name", ["vitA_model", "vitB_model", "resnet_model"])
def test_features_and_logits(parity, name):
    case = parity("coop", name)
    clip, images, tokens = load(case), torch.from_numpy(case["images"]), torch.from_numpy(case["zs_tokens"]).long()
    for field in ("embed_dim", "image_resolution", "vision_width", "context_length", "vocab_size", "transformer_width",
                  "transformer_layers"):
        assert getattr(clip.config, field) == case.options["constructor"][field]
    with torch.no_grad():
        features = clip.encode_image(images)
        case.assert_close(features, "image_features")
        case.assert_close(F.normalize(features, dim=-1), "image_features_normalized")
        case.assert_close(clip.encode_text(tokens), "zs_text_features")
        per_image, per_text = clip(images, tokens)
    case.assert_close(per_image, "logits_per_image")
    case.assert_close(per_text, "logits_per_text")


@pytest.mark.parametrize("name", ["vitA_model", "vitB_model"])
def test_hidden_states(parity, name):
    case = parity("coop", name)
    clip, seen = load(case), {}
    for i, block in enumerate(clip.visual.transformer.resblocks):
        block.register_forward_hook(lambda m, x, y, i=i: seen.update({f"visual_block{i}_out": y}))
    with torch.no_grad():
        clip.encode_image(torch.from_numpy(case["images"]))
        x = clip.token_embedding(torch.from_numpy(case["zs_tokens"][:2]).long()) + clip.positional_embedding
        for i, block in enumerate(clip.transformer.resblocks):
            x = block(x, causal=True)
            case.assert_close(x, f"text_block{i}_out_first2")
    for key, value in seen.items():
        case.assert_close(value, key)


class Recorded(Tokenizer):
    "Gives the recorded ids, in place of the published vocabulary."

    def __init__(self, ids: np.ndarray):
        super().__init__()
        self.recorded = torch.from_numpy(ids).long()

    def __call__(self, texts, context_length=None):
        return self.recorded


def test_zero_shot_weights_and_prompt_ensemble(parity):
    case, model = parity("coop", "vitA_zeroshot"), parity("coop", "vitA_model")
    clip, names = load(model), case.options["class_names"]
    templates = [*case.options["ensemble_templates"], case.options["own_template"]]
    tokens = case["ensemble_tokens"]  # (templates, classes, 77), the own template last
    single = zero_shot_weights(clip, names, templates[-1], tokenizer=Recorded(tokens[-1]))
    ensemble = zero_shot_weights(clip, names, templates, tokenizer=Recorded(np.swapaxes(tokens, 0, 1).reshape(-1, 77)))
    case.assert_close(single, "single_text_features")
    case.assert_close(ensemble, "ensemble_text_features")
    with torch.no_grad():
        features = F.normalize(clip.encode_image(torch.from_numpy(model["images"])), dim=-1)
        case.assert_close(clip.logit_scale.exp() * features @ single.T, "single_logits")
        case.assert_close(clip.logit_scale.exp() * features @ ensemble.T, "ensemble_logits")
