"""MMRL and MMRL++ against arrays from the authors' code: every case in the folder of the kinds `mmrl_*` and
`mmrlpp_*`, on a small CLIP whose weights the case holds."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.clip import CLIP, CLIPConfig
from xfer_course.visionlanguage import MMRL, MMRLPlusPlus, frozen_features, lower_states, mmrl_loss, mmrl_output


def small_clip(case) -> CLIP:
    o = case.options
    clip = CLIP(CLIPConfig(
        embed_dim=o["embed_dim"], image_resolution=o["resolution"], vision_layers=o["layers"], vision_width=o["width"],
        vision_patch_size=o["patch"], context_length=o["context_length"], vocab_size=o["vocab"],
        transformer_width=o["width"], transformer_heads=o["heads"], transformer_layers=o["layers"],
        vision_heads=o["heads"])).double()
    weights = {name[5:]: case.tensor(name).double() for name in case.data.files if name.startswith("clip.")}
    clip.load_state_dict(weights, strict=True)
    return clip


def own_names(model: MMRL) -> dict[str, tuple[str, int | None]]:
    "For each array of the authors: the parameter here, and which row of it."
    found = {"representation_learner.compound_rep_tokens": ("tokens.space", None)}
    for tower, letter in (("image", "v"), ("text", "t")):
        layers = getattr(model, f"{tower}_cut")[1]
        if isinstance(model, MMRLPlusPlus):
            shared = f"representation_learner.srra_r2{letter}proj"
            found[f"{shared}.weight"] = (f"tokens.{tower}.weight", None)
            for i in range(layers):
                for theirs, ours in (("A", "up"), ("B", "down"), ("bias", "bias")):
                    found[f"{shared}.srra.{i}.{theirs}"] = (f"tokens.{tower}.{ours}", i)
        else:
            for i in range(layers):
                for part in ("weight", "bias"):
                    found[f"representation_learner.compound_rep_tokens_r2{letter}proj.{i}.{part}"] = (
                        f"tokens.{tower}.{i}.{part}", None)
    if isinstance(model, MMRLPlusPlus):
        return found | {"image_encoder.A": ("proj_rep.up", None), "image_encoder.B": ("proj_rep.down", None)}
    return found | {"image_encoder.proj_rep": ("proj_rep.weight", None)}


def part_of(model: MMRL, values: dict[str, torch.Tensor], theirs: str) -> torch.Tensor:
    "Of values by our names the one that the authors call so, in their orientation."
    name, row = own_names(model)[theirs]
    value = values[name] if row is None else values[name][row]
    return value.T if name == "proj_rep.weight" else value


def built(case) -> MMRL:
    o = case.options
    clip, ids = small_clip(case), case.tensor("ids")
    kind = MMRLPlusPlus if "beta" in o else MMRL
    extra = dict(beta=o["beta"], rank=o["res_lora"], rep_rank=o["proj_lora"]) if "beta" in o else {}
    model = kind(clip, [f"class {i}" for i in range(len(ids))], n_tokens=o["n_rep"], dim=o["rep_dim"],
                 image_layers=o["rep_layers"], text_layers=o["rep_layers"], alpha=o["alpha"], reg=o["reg"],
                 scale=float(o["logit_factor"]), tokenizer=lambda texts: ids, **extra)
    values = dict(model.named_parameters())
    starts = {name[6:] for name in case.data.files if name.startswith("start.")}
    assert starts == set(own_names(model)), "the case trains other tensors than this model does"
    with torch.no_grad():
        for theirs in starts:
            part_of(model, values, theirs).copy_(case.tensor(f"start.{theirs}"))
    return model


@pytest.mark.parametrize("name", parity_cases("visionlanguage", "mmrl"))
def test_features_loss_gradients_and_steps(parity, name):
    case = parity("visionlanguage", name)
    model, labels = built(case), case.tensor("labels")
    images = case.tensor("images").double()
    states = lower_states(model, images)
    before = frozen_features(model, states)
    case.assert_close(before, "zero_shot_image")
    case.assert_close(model.text_before, "zero_shot_text")
    out = mmrl_output(model, states)
    for ours, theirs in (("image", "image_features"), ("text", "text_features"), ("logits", "logits"),
                         ("logits_rep", "logits_rep"), ("fused", "logits_fusion")):
        case.assert_close(getattr(out, ours).detach(), theirs)
    loss = mmrl_loss(out, labels, before, model.text_before, model.alpha, model.reg)
    case.assert_close(loss.detach(), "loss")
    assert torch.equal(model.loss(images, labels), loss)
    loss.backward()
    grads = {each: p.grad for each, p in model.named_parameters() if p.requires_grad}
    for theirs in own_names(model):
        case.assert_close(part_of(model, grads, theirs), f"grad.{theirs}")
    case.assert_close(steps(model, images, labels, len(case.tensor("step_losses"))), "step_losses")
    after = {each: p.detach() for each, p in model.named_parameters()}
    for theirs in own_names(model):
        case.assert_close(part_of(model, after, theirs), f"after.{theirs}")


def steps(model: MMRL, images: torch.Tensor, labels: torch.Tensor, count: int) -> list[float]:
    "Loss before each step of the authors' optimizer."
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=5e-4)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = model.loss(images, labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses
