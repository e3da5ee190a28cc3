"""How fuzzing calls the public functions of the chapter clip."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import torch
from hypothesis import strategies as st

from drawing import (
    NOT_DRAWN,
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    class_numbers,
    fuzz,
    images,
    small_int,
    vectors,
)
from xfer_course import clip
from xfer_course.pictures import pictures

# Without an argument, and what reads an archive with a program in it, which is in test_clip.py.
NOT_DRAWN.update(["tiny_clip", "tiny_vit_clip", "convert_torchscript"])
SIZES = dict(
    embed_dim=4,
    image_resolution=8,
    vision_layers=1,
    vision_width=8,
    vision_patch_size=4,
    context_length=24,
    vocab_size=514,
    transformer_width=8,
    transformer_heads=2,
    transformer_layers=1,
    vision_heads=2,
)
CONFIG = clip.CLIPConfig(**SIZES)
RESNET = clip.CLIPConfig(
    **SIZES
    | dict(vision_layers=(1, 1, 1, 1), image_resolution=32, vision_width=2, vision_patch_size=None, vision_heads=None)
)
MODEL = clip.CLIP(CONFIG, clip.Tokenizer(context_length=24)).freeze()

# --- towers

LAYER = {"width": st.sampled_from([2, 4]), "heads": st.sampled_from([1, 2])}
WILD_LAYER = {"width": small_int, "heads": small_int}
for part, extra, wild in (
    ("Attention", {}, {}),
    ("ResidualAttentionBlock", {}, {"activation": st.sampled_from(["gelu", "quick_gelu"])}),
    ("Transformer", {"layers": st.integers(1, 2)}, {"layers": st.integers(-1, 2)}),
):
    fuzz(
        part,
        lambda part=part, **options: getattr(clip, part)(**options)(torch.zeros(2, 3, options["width"]), causal=True),
        LAYER | extra,
        WILD_LAYER | wild,
        lambda r, a: r.shape == (2, 3, a["width"]),
    )
fuzz(
    "AttentionPool",
    lambda **options: clip.AttentionPool(**options)(torch.zeros(2, options["width"], options["places"], 1)),
    LAYER | {"places": st.integers(1, 4), "embed_dim": st.integers(1, 4)},
    WILD_LAYER | {"places": small_int, "embed_dim": small_int},
    lambda r, a: r.shape == (2, a["embed_dim"]),
)
fuzz(
    "Bottleneck",
    lambda **options: clip.Bottleneck(**options).eval()(torch.zeros(2, options["inputs"], 4, 4)),
    {"inputs": st.integers(1, 4), "planes": st.integers(1, 4), "stride": st.integers(1, 2)},
    {"inputs": small_int, "planes": small_int, "stride": st.integers(-1, 4)},
    lambda r, a: r.shape == (2, 4 * a["planes"], 4 // a["stride"], 4 // a["stride"]),
)
fuzz(
    "QuickGELU",
    lambda x: clip.QuickGELU()(x),
    {"x": vectors(3, 2)},
    {"x": any_tensor},
    lambda r, a: r.shape == a["x"].shape,
)
for tower, fits, other in (("VisionTransformer", CONFIG, RESNET), ("ModifiedResNet", RESNET, CONFIG)):
    fuzz(
        tower,
        lambda config, tower=tower: getattr(clip, tower)(config).eval()(
            torch.zeros(2, 3, *[config.image_resolution] * 2)
        ),
        {"config": st.just(fits)},
        {"config": st.sampled_from([other, SIZES])},
        lambda r, a: r.shape == (2, 4),
    )
fuzz(
    "CLIPConfig",
    clip.CLIPConfig,
    {name: st.just(value) for name, value in SIZES.items()},
    dict.fromkeys(SIZES, any_int)
    | {
        "vision_layers": st.lists(any_int, max_size=4),
        "image_std": st.lists(any_float, max_size=3),
        "activation": st.text(max_size=3),
    },
    lambda r, a: r.image_heads > 0 and r.text_heads > 0,
)

# --- the model

for name in ("TwoTowers", "CLIP"):
    fuzz(
        name,
        lambda config, images, tokens, name=name: getattr(clip, name)(config).eval()(images, tokens),
        {
            "config": st.just(CONFIG),
            "images": images(c=(3, 3), size=(8, 8)),
            "tokens": class_numbers(12, 514).map(lambda t: t.view(2, 6)),
        },
        {"config": st.just(SIZES), "images": any_images, "tokens": any_vectors},
        lambda r, a: r[0].T.shape == r[1].shape == (len(a["tokens"]), len(a["images"])),
    )
fuzz(
    "contrastive_loss",
    lambda image_features, text_features, scale=10.0, captions=None: clip.contrastive_loss(
        image_features, text_features, scale, captions
    ),
    {"image_features": vectors(3, 4), "text_features": vectors(3, 4)},
    {"image_features": any_vectors, "text_features": any_vectors, "scale": any_float, "captions": any_labels},
    lambda r, a: r.ndim == 0,
)
fuzz(
    "preprocess",
    clip.preprocess,
    {"images": images(c=(3, 3)).map(torch.sigmoid), "config": st.sampled_from([CONFIG, RESNET])},
    {"images": st.one_of(any_images, any_tensor), "config": st.just(SIZES)},
    lambda r, a: r.shape[1:] == (3, a["config"].image_resolution, a["config"].image_resolution),
)

# --- texts

MERGES = [("a", "b</w>"), ("c", "ab</w>")]
any_texts = st.lists(st.text(max_size=6), max_size=3)
any_pairs = st.lists(st.tuples(st.text("ab", max_size=2), st.sampled_from(["b</w>", "", "a"])), max_size=3)
fuzz(
    "Tokenizer",
    lambda merges, texts, **options: clip.Tokenizer(merges, **options)(texts),
    {"merges": st.just(MERGES), "texts": st.just(["ab cab", "x"]), "context_length": st.integers(6, 9)},
    {"merges": any_pairs, "texts": any_texts, "context_length": small_int},
    lambda r, a: r.shape == (len(a["texts"]), a["context_length"]),
)
fuzz(
    "learn_merges",
    clip.learn_merges,
    {"texts": st.just(["ab cab", "abc"]), "merges": st.integers(0, 3)},
    {"texts": any_texts, "merges": any_int},
    lambda r, a: len(r) <= max(a["merges"], 0) and clip.Tokenizer(r).merges == r,
)


def merges_of(content: bytes) -> list:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "merges.txt").write_bytes(content)
        return clip.read_merges(Path(folder) / "merges.txt")


fuzz(
    "read_merges",
    merges_of,
    {"content": st.just(b"#version\na b\nc ab\n")},
    {"content": st.binary(max_size=20)},
    lambda r, a: all(len(pair) == 2 for pair in r),
)
fuzz(
    "class_names",
    clip.class_names,
    {"classnames": st.just(["cat", "small_dog"])},
    {"classnames": any_texts},
    lambda r, a: len(r) == len(a["classnames"]) and all(name == " ".join(name.split()) for name in r),
)
fuzz(
    "prompt_template",
    lambda template: clip.prompt_template("template", template),
    {"template": st.sampled_from(["a {}.", "{}"])},
    {"template": st.text("a{}!", max_size=6) | st.none()},
    lambda r, a: r.format("cat") == r.replace("{}", "cat"),
)
fuzz(
    "zero_shot_weights",
    lambda **options: clip.zero_shot_weights(MODEL, **options),
    {
        "classnames": st.just(["cat", "small_dog"]),
        "templates": st.sampled_from(["a {}.", ["a {}.", "the {}"]]),
        "batch_size": st.integers(1, 4),
    },
    {"classnames": any_texts, "templates": st.lists(st.text("a{} ", max_size=4), max_size=2), "batch_size": any_int},
    lambda r, a: r.shape == (len(a["classnames"]), 4),
)

# --- weights

STATE = MODEL.state_dict()


def altered(name: str | None, tensor: torch.Tensor) -> dict:
    "The weights with one of them replaced, or with one more."
    return STATE | {name: tensor}


def beside(state: dict, said: object) -> clip.CLIPConfig:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (Path(folder) / "config.json").write_text(json.dumps(said))
        return clip.config_beside(Path(folder) / "model.safetensors", state, hugging_face=True)


any_state = st.one_of(
    st.builds(altered, st.sampled_from([*STATE, "another"]), any_tensor),
    st.sampled_from(sorted(STATE)).map(lambda gone: {name: t for name, t in STATE.items() if name != gone}),
    st.dictionaries(st.text(max_size=9), any_tensor, max_size=2),
)
WEIGHTS = {"state": st.just(STATE)}
fuzz("infer_config", clip.infer_config, WEIGHTS, {"state": any_state}, lambda r, a: isinstance(r, clip.CLIPConfig))
fuzz(
    "config_beside",
    lambda state, said: beside(state, said),
    {"state": st.just(STATE), "said": st.sampled_from([{}, {"model_type": "clip"}, {"model_cfg": {}}])},
    {
        "state": any_state,
        "said": st.dictionaries(
            st.sampled_from(["model_type", "text_config", "vision_config", "model_cfg", "vision_cfg"]),
            st.one_of(
                any_int,
                st.text(max_size=3),
                st.dictionaries(
                    st.sampled_from(["hidden_act", "hidden_size", "num_attention_heads", "width", "head_width"]),
                    st.one_of(any_int, st.text(max_size=3), st.lists(any_int, max_size=3)),
                    max_size=3,
                ),
            ),
            max_size=3,
        ),
    },
    lambda r, a: isinstance(r, clip.CLIPConfig),
)
fuzz("openai_names", clip.openai_names, WEIGHTS, {"state": any_state}, lambda r, a: len(r) <= len(a["state"]))
fuzz(
    "load_weights",
    lambda state: clip.load_weights(clip.CLIP(CONFIG), state),
    WEIGHTS,
    {"state": any_state},
    lambda r, a: all(value.isfinite().all() for value in r.state_dict().values()),
)


def saved(model: clip.CLIP, dtype: torch.dtype = torch.float32) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        clip.save(model, Path(folder) / "clip.safetensors", dtype)
        return (Path(folder) / "clip.safetensors").read_bytes()


def loaded(content: bytes, suffix: str = ".safetensors", **changes) -> clip.CLIP:
    with tempfile.TemporaryDirectory() as folder:
        path = (Path(folder) / "clip").with_suffix(suffix)
        path.write_bytes(content)
        return clip.load(path, **changes)


fuzz(
    "save",
    saved,
    {"model": st.just(MODEL)},
    {"model": st.just(torch.nn.Linear(2, 2)), "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float64])},
    lambda r, a: loaded(r).config == CONFIG,
)
fuzz(
    "load",
    loaded,
    {"content": st.just(saved(MODEL))},
    {
        "content": st.binary(max_size=30),
        "suffix": st.sampled_from([".pt", ".safetensors"]),
        "activation": st.text(max_size=5),
    },
    lambda r, a: not r.training and r.config.embed_dim == 4,
)

# --- pretraining

LONG = clip.CLIPConfig(**SIZES | dict(context_length=96))
READER = clip.CLIP(LONG, clip.Tokenizer(context_length=96)).freeze()
DRAWN = pictures(3, seed=clip.LARGEST_SEED)
fuzz(
    "learn_tokenizer",
    clip.learn_tokenizer,
    {"merges": st.integers(1, 5), "captions": st.integers(1, 5)},
    {"merges": small_int, "captions": small_int, "context_length": small_int, "seed": any_int},
    lambda r, a: r.vocab_size == 514 + a["merges"],
)
fuzz(
    "CaptionedBatches",
    lambda **options: clip.CaptionedBatches(**options)[3],
    {"clip": st.just(READER), "batch_size": st.integers(1, 4)},
    {"clip": st.just(torch.nn.Linear(2, 2)), "batch_size": small_int},
    lambda r, a: [len(each) for each in r] == [a["batch_size"]] * 3 and r[1].shape[1] == 96,
)
fuzz(
    "warm_cosine",
    clip.warm_cosine,
    {"p": st.floats(0, 0.99), "peak": st.floats(0.01, 1)},
    {"p": any_float, "peak": any_float, "warm": any_float},
    lambda r, a: -1e-9 <= r <= 1.03 * a["peak"],
)
fuzz(
    "pull_to_teacher",
    clip.pull_to_teacher,
    dict.fromkeys(["images", "texts", "teacher_images", "teacher_texts"], vectors(3, 4)),
    {"images": any_tensor, "texts": any_vectors, "teacher_images": any_tensor, "teacher_texts": any_vectors},
    lambda r, a: -1e-5 <= r <= 4 + 1e-5,
)
fuzz(
    "pretrain",
    lambda **options: clip.pretrain(
        clip.CLIP(LONG, clip.Tokenizer(context_length=96)).train(), device="cpu", progress=False, **options
    ),
    {"steps": st.integers(1, 2), "batch_size": st.integers(2, 3), "parts": st.just(1)},
    {
        "steps": st.integers(-1, 2),
        "batch_size": st.integers(-1, 3),
        "parts": st.integers(-1, 2),
        "rate": any_float,
        "weight_decay": any_float,
        "pull": any_float,
        "teacher": st.sampled_from([None, READER, RESNET, MODEL]),
        "seed": any_int,
    },
    lambda r, a: len(r.loss) == a["steps"],
    also=(FloatingPointError,),
)
fuzz(
    "named_factor",
    clip.named_factor,
    {"clip": st.just(READER), "drawn": st.just(DRAWN), "factor": st.sampled_from(["shape", "count"])},
    {"clip": st.just(torch.nn.Linear(2, 2)), "drawn": st.just(torch.zeros(2)), "factor": st.text(max_size=5)},
    lambda r, a: 0 <= r <= 1,
)
