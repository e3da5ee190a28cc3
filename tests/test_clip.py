"""CLIP: loading of weights, key maps, the tokenizer, and bad input."""
from __future__ import annotations

import json
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from scipy.stats import binomtest
from torch.nn import functional as F

from xfer_course.clip import (
    CLIP,
    CLIPConfig,
    Tokenizer,
    contrastive_loss,
    convert_torchscript,
    infer_config,
    openai_names,
    preprocess,
    prompt_template,
    tiny_clip,
    zero_shot_weights,
)
from xfer_course.data import DataFileError

TEXT = dict(context_length=10, vocab_size=514, transformer_width=64, transformer_layers=2, embed_dim=16)
VIT = CLIPConfig(image_resolution=32, vision_layers=3, vision_width=64, vision_patch_size=8, **TEXT)
RESNET = CLIPConfig(image_resolution=64, vision_layers=(1, 2, 1, 1), vision_width=8, vision_patch_size=None, **TEXT)


def model(config: CLIPConfig = VIT, seed: int = 0) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(config, Tokenizer(context_length=10)).eval()


def hugging_face(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "The same weights under the names that Hugging Face's CLIPModel uses (written down from its documentation)."
    layer = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    top = {"logit_scale": "logit_scale", "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
           "positional_embedding": "text_model.embeddings.position_embedding.weight",
           "visual.class_embedding": "vision_model.embeddings.class_embedding",
           "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
           "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight"}
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}
    renamed = {"text_model.embeddings.position_ids": torch.arange(10)[None]}
    for name, tensor in state.items():
        if name in ("visual.proj", "text_projection"):
            renamed["visual_projection.weight" if name == "visual.proj"
                    else "text_projection.weight"] = tensor.t().contiguous()
        elif name in top:
            renamed[top[name]] = tensor
        elif "resblocks" in name:
            tower, rest = name.split("transformer.resblocks.")
            number, rest = rest.split(".", 1)
            prefix = f"{'vision_model' if tower else 'text_model'}.encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                for letter, part in zip("qkv", tensor.chunk(3)):
                    renamed[f"{prefix}self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = part.contiguous()
            else:
                old, kind = rest.rsplit(".", 1)
                renamed[f"{prefix}{layer[old]}.{kind}"] = tensor
        else:
            old, kind = name.rsplit(".", 1)
            renamed[f"{norms[old]}.{kind}"] = tensor
    return renamed


def assert_same(one: CLIP, two: CLIP) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_sizes_are_read_off_the_tensors(config):
    found = infer_config(model(config).state_dict())
    assert ((found.vision_layers, found.vision_width, found.vision_patch_size)
            == (config.vision_layers, config.vision_width, config.vision_patch_size))
    assert (found.image_resolution, found.embed_dim, found.context_length) == (config.image_resolution, 16, 10)
    assert (found.transformer_layers, found.transformer_width, found.vocab_size) == (2, 64, 514)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_safetensors_and_state_dicts_load(config, tmp_path):
    clip = model(config)
    clip.save(tmp_path / "own.safetensors")
    save_file(clip.state_dict(), tmp_path / "bare.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, tmp_path / "wrapped.pt")
    for name in ("own.safetensors", "bare.safetensors", "wrapped.pt"):
        loaded = CLIP.from_checkpoint(tmp_path / name)
        assert not loaded.training
        assert_same(loaded, clip)


def test_half_precision_files_become_float32(tmp_path):
    clip = model()
    clip.save(tmp_path / "half.safetensors", torch.float16)
    loaded = CLIP.from_checkpoint(tmp_path / "half.safetensors")
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.text_projection, clip.text_projection.half().float())


@pytest.mark.parametrize("stored",
                         ["{", "3", '{"zz": 1}', '{"embed_dim": -1}', '{"transformer_width": 0}',
                          '{"image_std": [0, 0, 0]}', '{"image_mean": [1]}', "[" * 5000])
def test_a_configuration_that_is_none_gives_one_sentence(tmp_path, stored):
    save_file(model(VIT).state_dict(), tmp_path / "a.safetensors", {"config": stored})
    with pytest.raises(ValueError, match="a.safetensors holds no configuration of a CLIP beside its weights"):
        CLIP.from_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("config, layers", [(VIT, 1_000_000), (RESNET, (1, 1_000_000, 1, 1))])
def test_more_layers_than_weights_are_refused_before_they_are_built(tmp_path, config, layers):
    save_file(model(config).state_dict(), tmp_path / "a.safetensors",
              {"config": json.dumps(asdict(config) | {"vision_layers": layers})})
    with pytest.raises(ValueError, match="more layers than it holds weights"):
        CLIP.from_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("spoil", [
    lambda weight: weight * torch.nan, lambda weight: weight.to(torch.complex64), lambda weight: weight.long()])
def test_weights_that_are_no_numbers_are_named(tmp_path, spoil):
    state = model(VIT).state_dict()
    save_file(state | {"ln_final.weight": spoil(state["ln_final.weight"])}, tmp_path / "a.safetensors")
    with pytest.raises((TypeError, ValueError), match="ln_final.weight of the checkpoint must"):
        CLIP.from_checkpoint(tmp_path / "a.safetensors")


def test_configuration_that_shapes_cannot_show_survives(tmp_path):
    config = CLIPConfig(image_resolution=32, vision_layers=1, vision_width=48, vision_patch_size=16, vision_heads=3,
                        activation="gelu", **TEXT)
    clip = model(config)
    clip.save(tmp_path / "a.safetensors")
    assert CLIP.from_checkpoint(tmp_path / "a.safetensors").config == config
    save_file(clip.state_dict(), tmp_path / "b.safetensors")
    again = CLIP.from_checkpoint(tmp_path / "b.safetensors", vision_heads=3, activation="gelu")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.encode_image(images), clip.encode_image(images))


def test_hugging_face_names(tmp_path):
    clip = model()
    save_file(hugging_face(clip.state_dict()), tmp_path / "model.safetensors")
    assert_same(CLIP.from_checkpoint(tmp_path / "model.safetensors"), clip)


def test_open_clip_names(tmp_path):
    clip = model()
    towers = ("visual.", "logit_scale")
    state = {k if k.startswith(towers) else f"text.{k}": v for k, v in clip.state_dict().items()}
    state["text.text_projection.weight"] = state.pop("text.text_projection").t().contiguous()
    state["text.attn_mask"] = torch.zeros(10, 10)
    save_file(state, tmp_path / "open_clip.safetensors")
    assert_same(CLIP.from_checkpoint(tmp_path / "open_clip.safetensors"), clip)


def test_a_missing_part_of_an_attention_layer_is_named():
    state = hugging_face(model().state_dict())
    del state["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"text_model\.encoder\.layers\.1\.self_attn\.k_proj\.bias"):
        openai_names(state)


class Archive(torch.nn.Module):
    "What OpenAI's archives hold: a CLIP in float16 and three numbers."

    def __init__(self, clip: CLIP):
        super().__init__()
        self.visual, self.transformer, self.token_embedding, self.ln_final = (
            clip.visual, clip.transformer, clip.token_embedding, clip.ln_final)
        self.positional_embedding, self.text_projection, self.logit_scale = (
            clip.positional_embedding, clip.text_projection, clip.logit_scale)
        for name, value in (("input_resolution", 32), ("context_length", 10), ("vocab_size", 514)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, tokens):
        return self.token_embedding(tokens).to(self.text_projection.dtype) @ self.text_projection


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_are_converted(tmp_path):
    "Each tensor keeps its precision: float16 only where the archive has it."
    clip = model()
    clip.load_state_dict({k: v.half().float() if "mlp" in k else v for k, v in clip.state_dict().items()})
    for block in (*clip.transformer.resblocks, *clip.visual.transformer.resblocks):
        block.mlp.half()
    torch.jit.trace(Archive(clip), torch.zeros(1, 10, dtype=torch.long),
                    check_trace=False).save(str(tmp_path / "ViT.pt"))
    with pytest.raises(ValueError, match="convert_torchscript"):
        CLIP.from_checkpoint(tmp_path / "ViT.pt")
    convert_torchscript(tmp_path / "ViT.pt", tmp_path / "ViT.safetensors")
    assert_same(CLIP.from_checkpoint(tmp_path / "ViT.safetensors"), clip.float())


# other people's libraries, where they are installed: random weights, saved by them and read by us

def open_clip_model(seed: int = 0, custom_text: bool = False, **changes):
    "A small open_clip CLIP whose weights, and whose running averages, are all away from their first values."
    library = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    torch.manual_seed(seed)
    kind = library.CustomTextCLIP if custom_text else library.CLIP
    sizes = {"embed_dim": 48, "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64},
             "text_cfg": {"width": 128, "heads": 2, "layers": 3}, "quick_gelu": True} | changes
    made = kind(**sizes).eval()
    return shaken(made)


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and name != "logit_scale" and "attn_mask" not in name:
                tensor += 0.1 * torch.rand_like(tensor) if "running_var" in name else 0.05 * torch.randn_like(tensor)
    return module


def assert_features_agree(clip: CLIP, images, tokens, reference_images, reference_texts, reference_logits) -> None:
    "To 1e-5, on unit vectors; logits relative to their scale."
    with torch.no_grad():
        for got, wanted in ((clip.encode_image(images), reference_images), (clip.encode_text(tokens), reference_texts)):
            torch.testing.assert_close(F.normalize(got, dim=-1), F.normalize(wanted, dim=-1), rtol=0, atol=1e-5)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(clip(images, tokens)[0], reference_logits, rtol=0,
                                   atol=1e-5 * float(clip.logit_scale.exp()))


TEXTS = ["a photo of a cat.", "two dogs & a Café at 12:30 — it's", "x"]
RN = {"vision_cfg": {"layers": (1, 2, 1, 2), "width": 32, "image_size": 64, "patch_size": None}}


LIKE_G = {"layers": 2, "width": 176, "head_width": 44, "mlp_ratio": 4.3637, "patch_size": 16, "image_size": 64}


@pytest.mark.parametrize("changes, activation",
                         [({}, "quick_gelu"), ({"quick_gelu": False}, "gelu"), (RN, "quick_gelu"),
                          ({"custom_text": True}, "quick_gelu"), ({"vision_cfg": LIKE_G}, "quick_gelu")],
                         ids=["vit", "vit-gelu", "resnet", "custom-text", "heads-of-44"])
def test_weights_of_open_clip(changes, activation, tmp_path):
    reference = open_clip_model(**changes)
    save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    said = {"embed_dim": 48, "quick_gelu": activation == "quick_gelu",
            "vision_cfg": changes.get("vision_cfg", {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64}),
            "text_cfg": {"width": 128, "heads": 2, "layers": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": said}))
    clip = CLIP.from_checkpoint(tmp_path)
    assert clip.config.activation == activation
    images, tokens = torch.randn(3, 3, 64, 64), pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")(TEXTS)
    with torch.no_grad():
        f, g = reference.encode_image(images), reference.encode_text(tokens)
        logits = reference.logit_scale.exp() * F.normalize(f, dim=-1) @ F.normalize(g, dim=-1).T
    assert_features_agree(clip, images, tokens, f, g, logits)
    if "vision_cfg" not in changes:  # the other activation is another model: the comparison can tell
        other = CLIP.from_checkpoint(tmp_path / "open_clip_model.safetensors",
                                     activation={"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation])
        assert not torch.allclose(F.normalize(other.encode_image(images), dim=-1), F.normalize(f, dim=-1), atol=1e-5)


@pytest.mark.parametrize("name", ["RN50-quickgelu", "ViT-B-32-quickgelu", "ViT-B-32"])
def test_full_sizes_of_open_clip(name, tmp_path):
    "The architectures of released weights in their full size, with random numbers in them."
    library = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    torch.manual_seed(0)
    reference = shaken(library.create_model(name, pretrained=None).eval())
    save_file(reference.state_dict(), tmp_path / "open_clip_model.safetensors")
    clip = CLIP.from_checkpoint(tmp_path / "open_clip_model.safetensors",
                                activation="quick_gelu" if "quickgelu" in name else "gelu")
    assert clip.config.image_resolution == 224 and clip.context_length == 77 and clip.config.vocab_size == 49408
    images, tokens = torch.randn(1, 3, 224, 224), library.get_tokenizer(name)(TEXTS)
    with torch.no_grad():
        f, g = reference.encode_image(images), reference.encode_text(tokens)
        logits = reference.logit_scale.exp() * F.normalize(f, dim=-1) @ F.normalize(g, dim=-1).T
    assert_features_agree(clip, images, tokens, f, g, logits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", [{}, RN], ids=["vit", "resnet"])
def test_openais_archives_as_open_clip_reads_them(changes, tmp_path):
    "A stand-in for OpenAI's files: TorchScript, part float16 and part float32, read by open_clip and converted by us."
    reference = open_clip_model(
        **{"vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64}} | changes)
    library = pytest.importorskip("open_clip")
    library.convert_weights_to_lp(reference, torch.float16)
    torch.jit.trace(Archive(reference), torch.zeros(1, 77, dtype=torch.long),
                    check_trace=False).save(str(tmp_path / "ViT.pt"))
    theirs = library.load_openai_model(str(tmp_path / "ViT.pt"), precision="fp32", device="cpu").eval()
    convert_torchscript(tmp_path / "ViT.pt", tmp_path / "ViT.safetensors")
    clip = CLIP.from_checkpoint(tmp_path / "ViT.safetensors")
    images, tokens = torch.randn(2, 3, 64, 64), library.get_tokenizer("ViT-B-32")(TEXTS)
    with torch.no_grad():
        f, g = theirs.encode_image(images), theirs.encode_text(tokens)
        logits = theirs.logit_scale.exp() * F.normalize(f, dim=-1) @ F.normalize(g, dim=-1).T
    assert_features_agree(clip, images, tokens, f, g, logits)


def test_the_published_vocabulary_as_open_clip_reads_it():
    library = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    ours, theirs = Tokenizer.from_file(library.tokenizer.default_bpe()), library.get_tokenizer("ViT-B-32")
    texts = [*TEXTS, "naïve &amp; <b> 日本語 🙂 don't they'll I'VE", "“quoted” it’s", "  blanks \n and\ttabs  ",
             "snake_case_name", "3.14159 (2023)!?"]
    assert torch.equal(ours(texts), theirs(texts))
    assert all(ours.decode(ours.encode(t)) == theirs.decode(theirs.encode(t)).strip() for t in TEXTS)


def test_coop_on_open_clip_itself():
    "A context made of words gives the text features that open_clip computes for these words."
    from xfer_course.coop import CoOp, encode_images

    reference = open_clip_model()
    tokenizer = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    names = ["cat", "Persian cat", "forget-me-not"]
    model = CoOp(reference, names, ctx_init="a photo of a", tokenizer=tokenizer)
    with torch.no_grad():
        wanted = reference.encode_text(tokenizer([f"a photo of a {name}." for name in names]), normalize=True)
        torch.testing.assert_close(model.text_features(), wanted, rtol=0, atol=1e-5)
        images = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(encode_images(reference, images), reference.encode_image(images))


def test_weights_that_hugging_face_saves(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    torch.manual_seed(0)
    config = library.CLIPConfig(
        projection_dim=24,
        text_config={"vocab_size": 514, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
                     "num_attention_heads": 2,
                     "max_position_embeddings": 16, "projection_dim": 24, "bos_token_id": 512, "eos_token_id": 513,
                     "pad_token_id": 513},
        vision_config={"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 3,
                       "image_size": 48,
                       "patch_size": 16, "projection_dim": 24})
    reference = shaken(library.CLIPModel(config).eval())
    reference.save_pretrained(tmp_path)
    clip = CLIP.from_checkpoint(tmp_path / "model.safetensors")
    assert (clip.config.text_heads, clip.config.image_heads) == (2, 3)
    images, tokens = torch.randn(3, 3, 48, 48), torch.full((3, 16), 513)  # its tokenizer pads with the end token
    for row, length in zip(tokens, (2, 7, 15)):
        row[:length] = torch.cat([torch.tensor([512]), torch.randint(1, 500, (length - 1,))])
    with torch.no_grad():
        out = reference(input_ids=tokens, pixel_values=images)
        vision, text = (reference.vision_model(pixel_values=images).pooler_output,
                        reference.text_model(input_ids=tokens).pooler_output)
        f, g = reference.visual_projection(vision), reference.text_projection(text)
    assert_features_agree(clip, images, tokens, f, g, out.logits_per_image)


# --- the configuration beside the weights

NARROW = CLIPConfig(image_resolution=32, vision_layers=1, vision_width=160, vision_patch_size=8, vision_heads=2,
                    vision_mlp_width=700, transformer_heads=4, activation="gelu", **TEXT)
HF_SAYS = {"model_type": "clip", "projection_dim": 16,
           "text_config": {"hidden_act": "gelu", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
                           "vocab_size": 514, "max_position_embeddings": 10},
           "vision_config": {"hidden_act": "gelu", "hidden_size": 160, "num_attention_heads": 2,
                             "num_hidden_layers": 1, "patch_size": 8, "image_size": 32}}
CFG = {"embed_dim": 16, "text_cfg": {"width": 64, "heads": 4, "layers": 2, "context_length": 10, "vocab_size": 514},
       "vision_cfg": {"width": 160, "head_width": 80, "layers": 1, "patch_size": 8, "image_size": [32, 32]}}
OLD_HF = {"model_type": "clip", "text_config": None, "text_config_dict": HF_SAYS["text_config"], "vision_config": {},
          "vision_config_dict": HF_SAYS["vision_config"]}


def written(folder, name: str, said: object, config: CLIPConfig = NARROW, weights: str = "model.safetensors") -> CLIP:
    "Weights in a folder, under Hugging Face's names or ours, beside a configuration."
    clip = model(config)
    if weights == "model.safetensors":
        save_file(hugging_face(clip.state_dict()), folder / weights)
    else:
        save_file(clip.state_dict(), folder / weights)
    (folder / name).write_text(said if isinstance(said, str) else json.dumps(said))
    return clip


@pytest.mark.parametrize("weights, name, said", [
    ("model.safetensors", "config.json", HF_SAYS), ("model.safetensors", "config.json", OLD_HF),
    ("open_clip_model.safetensors", "open_clip_config.json", {"model_cfg": CFG}),
    ("ViT-x.safetensors", "ViT-x.json", CFG), ("model.safetensors", "open_clip_config.json", {"model_cfg": CFG})])
@pytest.mark.filterwarnings("error")
def test_activation_and_heads_come_from_beside_the_weights(tmp_path, weights, name, said):
    clip, images = written(tmp_path, name, said, weights=weights), torch.rand(2, 3, 32, 32)
    tokens = clip.tokenizer(["a", "bc"])
    loaded = CLIP.from_checkpoint(tmp_path / weights)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(images), clip.encode_image(images))
        torch.testing.assert_close(loaded.encode_text(tokens), clip.encode_text(tokens))
    assert CLIP.from_checkpoint(tmp_path / weights, vision_heads=5).config.image_heads == 5


def test_the_kind_of_configuration_that_goes_with_the_names_is_read_first(tmp_path):
    written(tmp_path, "config.json", HF_SAYS)
    save_file(model(NARROW).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CFG | {"quick_gelu": True}}))
    assert CLIP.from_checkpoint(tmp_path / "model.safetensors").config.activation == "gelu"
    assert CLIP.from_checkpoint(tmp_path / "open_clip_model.safetensors").config.activation == "quick_gelu"


@pytest.mark.parametrize("name, said", [
    ("open_clip_config.json", {"model_cfg": CFG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}),
    ("config.json", HF_SAYS)])
def test_normalisation_comes_from_beside_the_weights(tmp_path, name, said):
    written(tmp_path, name, said)
    prepared = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    prepared = CLIP.from_checkpoint(tmp_path).preprocess(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(prepared, torch.full_like(prepared, 2.0))


def test_images_that_are_squashed_are_said_aloud(tmp_path):
    written(tmp_path, "open_clip_config.json", {"model_cfg": CFG, "preprocess_cfg": {"resize_mode": "squash"}})
    with pytest.warns(UserWarning, match="resize_mode 'squash'"):
        CLIP.from_checkpoint(tmp_path)


def changed(said: dict, section: str, **settings) -> dict:
    return said | {section: said[section] | settings}


@pytest.mark.parametrize("name, said, words", [
    ("config.json", "{", "is not JSON"),
    ("config.json", changed(HF_SAYS, "text_config", hidden_size=512), "transformer_width 512, and the weights have 64"),
    ("config.json", changed(HF_SAYS, "text_config", hidden_act="quick_gelu"), "same for texts and images"),
    ("config.json", changed(HF_SAYS, "vision_config", layer_norm_eps=1e-6), "layer_norm_eps is 1e-06"),
    ("config.json", changed(HF_SAYS, "vision_config", num_attention_heads="2"), "num_attention_heads must be a whole"),
    ("config.json", HF_SAYS | {"text_config": [1]}, "text_config must be a dict"),
    ("config.json", {part: {"hidden_act": "relu"} for part in ("text_config", "vision_config")},
     "activation must be one of"),
    ("open_clip_config.json", {"model_cfg": changed(CFG, "vision_cfg", pool_type="avg")}, "pool_type is 'avg'"),
    ("open_clip_config.json", {"model_cfg": changed(CFG, "text_cfg", no_causal_mask=True)}, "no_causal_mask is True"),
    ("open_clip_config.json", {"model_cfg": changed(CFG, "text_cfg", heads=5)}, "number of heads, 5, got 64"),
    ("open_clip_config.json", {"model_cfg": changed(CFG, "vision_cfg", head_width=0)}, "head_width"),
    ("open_clip_config.json", {"model_cfg": changed(CFG, "vision_cfg", layers=[1, 1, 1, 1])}, "vision_layers"),
])
def test_a_configuration_of_other_weights_is_refused_by_name(tmp_path, name, said, words):
    written(tmp_path, name, said, weights="open_clip_model.safetensors" if name[0] == "o" else "model.safetensors")
    with pytest.raises(ValueError, match=words) as refused:
        CLIP.from_checkpoint(tmp_path)
    assert name in str(refused.value)
    known = CLIP.from_checkpoint(tmp_path, activation="gelu", transformer_heads=4, vision_heads=2)  # without the file
    assert known.config.image_heads == 2


@pytest.mark.parametrize("beside", [None, {"epochs": 3}, {"model_type": "bert", "text_config": {}}, [1]])
def test_without_a_configuration_the_rule_is_said_aloud(tmp_path, beside):
    written(tmp_path, "config.json", beside)
    with pytest.warns(UserWarning, match="activation quick_gelu, 1 head of 64 numbers for texts, 2 heads of 80"):
        CLIP.from_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="so 2 heads of 80 numbers for images are assumed"):
        CLIP.from_checkpoint(tmp_path, activation="gelu", transformer_heads=4)


@pytest.mark.filterwarnings("error")
def test_openais_own_state_dict_needs_no_configuration(tmp_path):
    marks = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(10), "vocab_size": torch.tensor(514)}
    torch.save(model().state_dict() | marks, tmp_path / "openai.pt")
    assert CLIP.from_checkpoint(tmp_path / "openai.pt").config.activation == "quick_gelu"


@pytest.mark.parametrize("width, heads, mlp", [(1280, 16, None), (1408, 16, 6144), (1664, 16, 8192), (1792, 16, 15360),
                                               (1024, 16, None), (896, 14, None), (384, 6, None)])
def test_heads_of_the_published_image_towers(width, heads, mlp):
    "By open_clip's configurations of ViT-H, g, bigG, e, L, B-plus and S."
    with torch.device("meta"):
        tower = CLIP(CLIPConfig(image_resolution=14, vision_layers=1, vision_width=width, vision_patch_size=14,
                                vision_mlp_width=mlp, vision_heads=heads, **TEXT))
    found = infer_config(tower.state_dict())
    assert (found.image_heads, found.vision_mlp_width, found.text_heads) == (heads, mlp, 1)


# --- what is wrapped around weights

WRAPPED = ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "model.{}", "model._orig_mod.{}",
           "clip_model.module.{}", "_fsdp_wrapped_module.{}"]


@pytest.mark.filterwarnings("ignore:no config")
@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("names", [dict, hugging_face, lambda state: {
    name if name.startswith(("visual", "logit")) else f"text.{name}": tensor for name, tensor in state.items()}],
    ids=["openai", "hugging face", "custom text"])
def test_names_are_unwrapped(tmp_path, wrap, names):
    clip = model()
    state = {wrap.format(name): tensor for name, tensor in names(clip.state_dict()).items()}
    save_file(state, tmp_path / "a.safetensors")
    assert_same(CLIP.from_checkpoint(tmp_path / "a.safetensors"), clip)


def test_a_layer_that_was_compiled_alone_and_an_averaged_model_load():
    clip = model()
    state = {name.replace("visual.", "visual._orig_mod.").replace("resblocks.1.", "resblocks.1._orig_mod."): tensor
             for name, tensor in clip.state_dict().items()}
    assert_same(model(seed=1).load_weights(state), clip)
    averaged = torch.optim.swa_utils.AveragedModel(clip).state_dict()
    assert_same(model(seed=1).load_weights(averaged), clip)
    with pytest.raises(ValueError, match="logit_scale more than once"):
        openai_names(clip.state_dict() | {"module.logit_scale": torch.ones(())})
    with pytest.raises(TypeError, match="a name in state must be a str, got int"):
        openai_names({3: torch.ones(())})


@pytest.mark.filterwarnings("ignore:no config")
@pytest.mark.parametrize("around", [
    lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
    lambda state: {"model_state_dict": state},
    lambda state: {"model": {"state_dict": state}}, lambda state: {"module": state, "step": 1}])
def test_a_checkpoint_of_a_trainer_is_opened(tmp_path, around):
    clip = model()
    torch.save(around(dict(clip.state_dict())), tmp_path / "pytorch_model.bin")
    assert_same(CLIP.from_checkpoint(tmp_path), clip)


def test_weights_in_parts_are_put_together(tmp_path):
    clip = written(tmp_path, "config.json", HF_SAYS)
    state = hugging_face(clip.state_dict())
    (tmp_path / "model.safetensors").unlink()
    parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
    for part in set(parts.values()):
        save_file({name: state[name] for name in state if parts[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert_same(CLIP.from_checkpoint(path), clip)
    climbs = {"weight_map": {"a": "../b.safetensors"}}
    for wrong, words in ((climbs, "another folder"), ([], "no index"), ({}, "no index")):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=words):
            CLIP.from_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no weights in the folder .*empty"):
        CLIP.from_checkpoint(tmp_path / "empty")


# --- a tokenizer and its tower


def test_a_tokenizer_of_other_weights_is_refused_or_doubted(tmp_path):
    small, large = (model(CLIPConfig(**vars(VIT) | {"vocab_size": size}), seed=0) if size >= 514 else CLIP(
        CLIPConfig(**vars(VIT) | {"vocab_size": size})) for size in (100, 600))
    for clip, name in ((small, "small"), (large, "large")):
        clip.save(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="tokenizer must have at most 100 ids, .* got 514"):
        CLIP.from_checkpoint(tmp_path / "small.safetensors", Tokenizer())
    with pytest.warns(UserWarning, match="tokenizer has 514 ids and the text tower of large.safetensors 600"):
        CLIP.from_checkpoint(tmp_path / "large.safetensors", Tokenizer())


def test_a_tokenizer_takes_the_length_of_its_tower():
    given = Tokenizer(context_length=77)
    clip = CLIP(VIT, given)
    assert clip.tokenizer(["a"]).shape == (1, 10) and given.context_length == 77
    clip.encode_text(clip.tokenizer(["a word that is far too long"], truncate=True))


@pytest.mark.parametrize("length", [2, 3, 8, 77])
def test_truncation_keeps_start_and_end(length):
    plain = Tokenizer()
    whole = plain(["dog " * 40, "a"], context_length=300)
    cut = plain(["dog " * 40, "a"], context_length=length, truncate=True)
    assert cut.shape == (2, length) and (cut[:, 0] == plain.start).all()
    assert (cut.amax(1) == plain.end).all() and torch.equal(cut[0, :-1], whole[0, : length - 1])
    with pytest.raises(ValueError, match="truncate=True"):
        plain(["dog " * 40], context_length=length)
    with pytest.raises((TypeError, ValueError), match="context_length must be a whole number"):
        plain(["a"], context_length=1, truncate=True)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="without running code"):
        CLIP.from_checkpoint(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


def test_the_first_parameter_that_does_not_fit_is_named():
    clip, state = model(), dict(model().state_dict())
    wide = model(CLIPConfig(image_resolution=32, vision_layers=3, vision_width=128, vision_patch_size=8, **TEXT))
    with pytest.raises(ValueError,
                       match=r"visual\.class_embedding of the checkpoint must be of shape \(64,\), got \(128,\)"):
        clip.load_weights(wide.state_dict())
    del state["transformer.resblocks.1.ln_2.bias"]
    with pytest.raises(ValueError, match=r"transformer\.resblocks\.1\.ln_2\.bias"):
        clip.load_weights(state)
    with pytest.raises(ValueError, match="extra"):
        clip.load_weights({**clip.state_dict(), "extra": torch.zeros(1)})


def test_files_that_are_no_clip(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"12345678nonsense")
    save_file({"weight": torch.zeros(2)}, tmp_path / "linear.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    for name, says in (("broken.safetensors", "complete"), ("linear.safetensors", "transformer.resblocks"),
                       ("list.pt", "state dict"), ("zip.pt", "state dict")):
        with pytest.raises(ValueError, match=says):
            CLIP.from_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent"):
        CLIP.from_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="colour"):
        model().save(tmp_path / "ok.safetensors") or CLIP.from_checkpoint(tmp_path / "ok.safetensors", colour=1)


def test_numerics_equal_torchs_own_layers():
    "The block against nn.MultiheadAttention and an explicit mask, as OpenAI's code computes it."
    clip = model()
    block, x = clip.transformer.resblocks[0], torch.randn(2, 7, 64)
    reference = torch.nn.MultiheadAttention(64, block.attn.heads, batch_first=True)
    reference.load_state_dict(block.attn.state_dict())
    y = block.ln_1(x)
    mask = torch.full((7, 7), float("-inf")).triu(1)
    h = x + reference(y, y, y, attn_mask=mask, need_weights=False)[0]
    h = h + block.mlp(block.ln_2(h))
    torch.testing.assert_close(block(x, causal=True), h, rtol=1e-4, atol=1e-5)


def test_what_stands_behind_the_end_does_not_matter():
    clip, end = model(), 513
    tokens = torch.tensor([[512, 5, 6, end, 0, 0, 0, 0, 0, 0], [512, 5, 6, 7, 8, end, 0, 0, 0, 0]])
    other = tokens.clone()
    other[0, 4:], other[1, 6:] = 99, 7
    torch.testing.assert_close(clip.encode_text(tokens), clip.encode_text(other))
    torch.testing.assert_close(clip.encode_text(tokens[:, :6]), clip.encode_text(tokens))
    torch.testing.assert_close(clip.encode_text(tokens[:1]), clip.encode_text(tokens)[:1], rtol=1e-4, atol=1e-5)


def test_frozen_batch_norm_stays_as_it_is():
    clip = model(RESNET).freeze().train()
    before = clip.visual.bn1.running_mean.clone()
    clip.encode_image(torch.rand(4, 3, 64, 64))
    assert torch.equal(before, clip.visual.bn1.running_mean) and not any(p.requires_grad for p in clip.parameters())


def test_preprocess_of_pictures_and_tensors():
    from PIL import Image

    clip = model()
    picture = Image.new("RGB", (90, 60), (255, 0, 0))
    one, two = clip.preprocess(picture), clip.preprocess([picture, picture.convert("L")])
    assert one.shape == (1, 3, 32, 32) and two.shape == (2, 3, 32, 32)
    assert abs(float(one[0, 0].mean()) - (1 - 0.48145466) / 0.26862954) < 1e-4
    torch.testing.assert_close(clip.preprocess(torch.full((1, 3, 40, 32), 255, dtype=torch.uint8)),
                               clip.preprocess(torch.ones(1, 40, 32)))


def test_preprocess_refuses_pictures_that_pillow_would_turn_white():
    from PIL import Image

    deep = Image.fromarray(np.full((40, 40), 20_000, dtype=np.uint16))
    with pytest.raises(ValueError, match="must be 8 bits deep, got a picture of mode 'I;16'"):
        model().preprocess([Image.new("L", (40, 40)), deep])


# the loss

def test_the_loss_is_symmetric_and_counts_from_log_n():
    torch.manual_seed(0)
    f, g = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(contrastive_loss(f, g, 3.0), contrastive_loss(g, f, 3.0))
    torch.testing.assert_close(contrastive_loss(f, g, 0.0), torch.log(torch.tensor(6.0)))
    assert contrastive_loss(torch.eye(6), torch.eye(6), 100.0) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 15_000.0])
def test_contrastive_loss_keeps_its_value_in_half_precision(dtype, size):
    f, g = ((size * torch.randn(9, 32, generator=torch.Generator().manual_seed(s))).to(dtype).requires_grad_()
            for s in (0, 1))
    for captions in (None, torch.arange(9) // 2):
        found = contrastive_loss(f, g, 20.0, captions)
        found.backward()
        assert f.grad.isfinite().all() and f.grad.any()
        torch.testing.assert_close(found.double(), contrastive_loss(f.double(), g.double(), 20.0, captions),
                                   rtol=0.02, atol=0.02)


def test_a_few_steps_match_pairs_better_than_chance():
    torch.manual_seed(0)
    clip = CLIP(VIT)
    images, tokens = torch.randn(16, 3, 1, 1).expand(-1, -1, 32, 32), torch.randint(1, 500, (16, 6))
    tokens[:, -1] = 513
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    for _ in range(30):
        loss = contrastive_loss(clip.encode_image(images), clip.encode_text(tokens), clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (clip(images, tokens)[0].argmax(1) == torch.arange(16)).double().mean() > 0.5


# the tokenizer

WORDS = ["a red cat and a blue cap", "two red cups on the left", "the cat sat on a red mat", "naïve café №5"]
LEARNED = Tokenizer.train(WORDS * 3, merges=40)


def test_a_bigger_vocabulary_makes_shorter_texts():
    assert len(LEARNED.encode("a red cat")) == 3 < len(Tokenizer().encode("a red cat"))
    assert LEARNED.end == LEARNED.vocab_size - 1 == max(LEARNED._ids.values())
    assert Tokenizer.train(WORDS, merges=20).merges == Tokenizer.train(list(WORDS), merges=20).merges


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=40))
def test_every_text_can_be_encoded_and_comes_back(text):
    ids = LEARNED.encode(text)
    assert all(0 <= i < LEARNED.vocab_size for i in ids)
    again = LEARNED.decode(ids)
    assert LEARNED.encode(again) == [i for i in ids if i < LEARNED.start] or "&" in text or "<|" in text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("red cat cap mat the a on two left cups ü 7 !".split()), max_size=8))
def test_words_come_back_in_order(words):
    assert LEARNED.decode(LEARNED.encode(" ".join(words))).split() == words


def test_vocabulary_files(tmp_path):
    import gzip

    LEARNED.save(tmp_path / "bpe.txt")
    assert Tokenizer.from_file(tmp_path / "bpe.txt").merges == LEARNED.merges
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress((tmp_path / "bpe.txt").read_bytes()))
    assert Tokenizer.from_file(tmp_path / "bpe.txt.gz").vocab_size == LEARNED.vocab_size
    (tmp_path / "bad.txt").write_text("#version\na b c\n")
    with pytest.raises(ValueError, match="a b c"):
        Tokenizer.from_file(tmp_path / "bad.txt")
    for name, content in (("cut.txt.gz", gzip.compress(b"#version\na b\n")[:-9]), ("no.txt.gz", b"a b"),
                          ("latin.txt", "#version\nä b\n".encode("latin-1"))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFileError, match=name):
            Tokenizer.from_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_file(tmp_path / "absent.txt")


def test_ids_of_the_published_order():
    "Bytes first in the published order: ! is 0, a is 64, and the same with an end of word 256 later."
    plain = Tokenizer()
    assert plain.pieces[0] == "!" and plain.pieces[64] == "a" and plain.pieces[256 + 64] == "a</w>"
    assert plain.encode("a") == [320] and plain.vocab_size == 514


# bad input

@pytest.mark.parametrize("call, kind, says", [
    (lambda c: c.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), TypeError, "uint8"),
    (lambda c: c.encode_image(torch.zeros(1, 3, 32, 32).half()), TypeError, "float16"),
    (lambda c: c.encode_image(torch.zeros(1, 3, 64, 64)), ValueError,
     r"must be of shape \(N 3 32 32\), got \(1, 3, 64, 64\)"),
    (lambda c: c.encode_image(torch.zeros(3, 32, 32)), ValueError, "shape"),
    (lambda c: c.half().encode_image(torch.zeros(1, 3, 32, 32).half()), TypeError, r"clip.float\(\)"),
    (lambda c: c.half().encode_text(torch.zeros(1, 4, dtype=torch.long)), TypeError, r"clip.float\(\)"),
    (lambda c: c.encode_text(torch.zeros(1, 4)), TypeError, "integer"),
    (lambda c: c.encode_text(torch.zeros(1, 11, dtype=torch.long)), ValueError,
     "the number of tokens must be a whole number from 1 to 10, got 11"),
    (lambda c: c.encode_text(torch.full((1, 4), 514)), ValueError, "tokenizer"),
    (lambda c: c.preprocess("cat.jpg"), TypeError, "PIL"),
    (lambda c: c.preprocess(torch.rand(1, 4, 32, 32)), ValueError, "shape"),
    (lambda c: c.preprocess(torch.full((1, 3, 32, 32), 7.0)), ValueError, r"\[0, 1\]"),
    (lambda c: c.preprocess(torch.zeros(1, 3, 32, 32, dtype=torch.long)), TypeError, "uint8"),
    (lambda c: zero_shot_weights(c, ["cat", "cat"]), ValueError, "'cat' at 1, the same as 'cat' at 0"),
    (lambda c: zero_shot_weights(c, ["cat", " "]), ValueError, "not empty"),
    (lambda c: zero_shot_weights(c, ["cat", "_"]), ValueError, "not empty"),
    (lambda c: zero_shot_weights(c, ["Sea_Lion", "sea  lion"]), ValueError, "the same as 'Sea_Lion'"),
    (lambda c: zero_shot_weights(c, []), ValueError, "classnames must be a list of at least 1 text"),
    (lambda c: zero_shot_weights(c, "cat"), TypeError, "classnames must be a list of texts, got 'cat'"),
    (lambda c: zero_shot_weights(c, ["cat"], "a photo"), ValueError, "{}"),
    (lambda c: zero_shot_weights(c, ["cat"], []), ValueError, "templates must be a list of at least 1 text"),
    (lambda c: zero_shot_weights(c, ["cat"], "a {} {}"), ValueError, "one {} and no other braces, got 'a {} {}'"),
    (lambda c: zero_shot_weights(c, ["cat"], "a {} {x}"), ValueError, "no other braces"),
    (lambda c: zero_shot_weights(c, ["cat"], "a {} {"), ValueError, "templates must have one {} and no other braces"),
    (lambda c: zero_shot_weights(c, ["cat"], "a {!r}"), ValueError, "templates must have one {} and no other braces"),
    (lambda c: prompt_template("template", 3), TypeError, "template must be"),
    (lambda c: zero_shot_weights(c, ["hippopotamus"], "{}"), ValueError, "shorten"),
    (lambda c: zero_shot_weights(CLIP(VIT), ["cat"], "{}"), ValueError, "tokenizer"),
    (lambda c: c.tokenizer(["a", 3]), TypeError, "text must be a str, got int"),
    (lambda c: c.tokenizer([]), ValueError, "at least one text"),
    (lambda c: c.tokenizer.decode([600]), ValueError, "600"),
    (lambda c: Tokenizer([("a", "zz")]), ValueError, "zz"),
    (lambda c: Tokenizer(context_length=2), ValueError, "3"),
    (lambda c: contrastive_loss(torch.zeros(2, 3), torch.zeros(3, 3), 1.0), ValueError, "shape"),
    (lambda c: contrastive_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, torch.zeros(3)), ValueError, "captions"),
    (lambda c: CLIPConfig(activation="relu"), ValueError, "relu"),
    (lambda c: CLIPConfig(image_resolution=225), ValueError, "225"),
    (lambda c: CLIPConfig(vision_layers=(1, 1, 1), vision_patch_size=None), ValueError, "four"),
    (lambda c: CLIPConfig(transformer_width=100, transformer_heads=3), ValueError, "heads"),
])
def test_bad_input_is_refused_in_one_sentence(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call(model())
    assert "\n" not in str(caught.value)


# the model that ships

def test_the_shipped_model_is_small_and_better_than_guessing():
    "Under guessing, right answers are binomial; so many would come up less than once in 10⁹ such tests."
    from xfer_course.data import shipped
    from xfer_course.pictures import SHAPES, pictures

    assert shipped("checkpoints/tiny_clip.safetensors").stat().st_size < 6e6
    clip = tiny_clip()
    assert not clip.training and clip.tokenizer.vocab_size == clip.config.vocab_size
    drawn = pictures(200, seed=2**31 + 77, style="photo", count=1, size="large")
    features = F.normalize(clip.encode_image(preprocess(drawn.images, clip.config)), dim=-1)
    found = (features @ zero_shot_weights(clip, SHAPES).T).argmax(1)
    hits = int((found == drawn.factors.shape).sum())
    assert binomtest(hits, len(drawn.images), 1 / len(SHAPES), alternative="greater").pvalue < 1e-9, (
        f"{hits} of 200 named, guessing names 1 in {len(SHAPES)}")
