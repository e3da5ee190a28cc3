"""How fuzzing calls the public functions of the chapter coop."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from coop_models import StubCLIP, WordTokenizer
from drawing import (
    NOT_DRAWN,
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    class_numbers,
    filled,
    fuzz,
    images,
    small_int,
    vectors,
)
from xfer_course import coop
from xfer_course.training import History

# Parts of CoOp that `CoOp` draws, and what reads and writes files, which is in test_coop.py.
NOT_DRAWN.update(
    [
        "PromptLayout",
        "PromptLearner",
        "first_context",
        "in_chunks",
        "activation_bytes",
        "check_precision",
        "fill",
        "nearest_words",
        "save_context",
        "load_context",
        "context_options",
        "NearestWords",
    ]
)
CLIP = StubCLIP(16, 2, 2, 100, 24, 8).eval().requires_grad_(False)
TOKENIZER = WordTokenizer(100, 24)
NAMES = st.just(["cat", "small dog", "bird"])
any_names = st.lists(st.text(max_size=6), max_size=4)
any_position = st.sampled_from(["end", "middle", "front", "start"])
fuzz(
    "context_slots",
    coop.context_slots,
    {"n_ctx": st.integers(1, 8), "name_length": st.integers(1, 5), "position": st.sampled_from(coop.POSITIONS)},
    {"n_ctx": small_int, "name_length": small_int, "position": any_position},
    lambda r, a: a["n_ctx"] < 1 or (len(r) == a["n_ctx"] and sorted(r) == r),
)
fuzz(
    "text_tower",
    coop.text_tower,
    {"clip": st.just(CLIP)},
    {"clip": st.sampled_from([nn.Linear(2, 2), nn.Module(), nn.Transformer(8, 2, 1, 1, 8)])},
    lambda r, a: r is a["clip"],
)
fuzz(
    "encode_prefix",
    lambda prompt: coop.encode_prefix(CLIP, prompt),
    {"prompt": vectors(3, 16)},
    {"prompt": any_tensor},
    lambda r, a: len(r) == 2,
)
PAST = coop.encode_prefix(CLIP, filled((2, 16)))
fuzz(
    "encode_prompts",
    lambda prompts, ends: coop.encode_prompts(CLIP, prompts, ends, PAST),
    {"prompts": st.builds(filled, st.just((3, 5, 16))), "ends": class_numbers(3, 5)},
    {"prompts": any_tensor, "ends": any_labels},
    lambda r, a: r.shape == (len(a["prompts"]), 8),
)
fuzz(
    "nearest_rows",
    coop.nearest_rows,
    {"vectors": vectors(3, 4), "table": vectors(6, 4), "top": st.integers(1, 6)},
    {"vectors": any_vectors, "table": any_vectors, "top": any_int},
    lambda r, a: r[0].shape == r[1].shape == (len(a["vectors"]), a["top"]),
)
fuzz(
    "random_distance",
    coop.random_distance,
    {"vectors": vectors(3, 4), "table": vectors(6, 4), "draws": st.integers(1, 5)},
    {"vectors": any_vectors, "table": any_vectors, "draws": small_int},
    lambda r, a: r.shape == (len(a["vectors"]),),
)
fuzz(
    "image_size",
    coop.image_size,
    {"clip": st.sampled_from([CLIP, nn.Linear(2, 2)])},
    {},
    lambda r, a: r in (8, (8, 8), None),
)


def prompts_and_logits(classnames, features, n_ctx, position, class_specific, ctx_init, chunk_size):
    model = coop.CoOp(CLIP, classnames, n_ctx, position, class_specific, ctx_init, TOKENIZER, chunk_size)
    return model.from_features(features)


fuzz(
    "CoOp",
    prompts_and_logits,
    {
        "classnames": NAMES,
        "features": vectors(2, 8),
        "n_ctx": st.integers(1, 5),
        "position": st.sampled_from(coop.POSITIONS),
        "class_specific": st.booleans(),
        "ctx_init": st.none(),
        "chunk_size": st.none(),
    },
    {
        "classnames": any_names,
        "features": any_vectors,
        "n_ctx": any_int,
        "position": any_position,
        "ctx_init": st.text(max_size=9),
        "chunk_size": any_int,
    },
    lambda r, a: r.shape == (len(a["features"]), len(a["classnames"])),
)
fuzz(
    "lay_out",
    lambda names, n_ctx, position: coop.lay_out(names, TOKENIZER, CLIP, n_ctx, position),
    {"names": NAMES, "n_ctx": st.integers(1, 5), "position": st.sampled_from(coop.POSITIONS)},
    {"n_ctx": any_int, "position": any_position},
    lambda r, a: r.slots.shape == (len(a["names"]), a["n_ctx"]),
)
fuzz(
    "encode_images",
    lambda images, batch_size: coop.encode_images(CLIP, images, batch_size),
    {"images": images(c=(3, 3), size=(8, 8)), "batch_size": st.integers(1, 4)},
    {"images": any_images, "batch_size": any_int},
    lambda r, a: r.shape == (len(a["images"]), 8),
)
fuzz(
    "few_shot",
    coop.few_shot,
    {"labels": class_numbers(8, 2), "shots": st.integers(1, 3)},
    {"labels": any_labels, "shots": any_int, "seed": st.integers(0, 9)},
    lambda r, a: len(r) == a["shots"] * len(a["labels"].unique()),
)
fuzz(
    "learning_rate",
    coop.learning_rate,
    {"epoch": st.integers(0, 9), "max_epoch": st.just(10)},
    {"epoch": any_int, "max_epoch": any_int, "base": st.floats(0, 2), "warmup": st.floats(0, 2)},
    lambda r, a: r >= 0,
)
fuzz(
    "paper_epochs",
    coop.paper_epochs,
    {"shots": st.floats(0, 99)},
    {"shots": any_float},
    lambda r, a: r in (50, 100, 200),
)
fuzz(
    "fit_coop",
    lambda features, labels, **options: coop.fit_coop(
        coop.CoOp(CLIP, ["cat", "small dog", "bird"], 2, tokenizer=TOKENIZER),
        features,
        labels,
        **{"steps": 1} | options,
    ),
    {"features": vectors(4, 8), "labels": class_numbers(4, 3)},
    {
        "features": any_vectors,
        "labels": any_labels,
        "steps": st.integers(-1, 2),
        "batch_size": small_int,
        "seed": st.integers(-1, 3),
        "lr": any_float,
    },
    lambda r, a: isinstance(r, History) and len(r.loss) == a.get("steps", 1),
    also=(FloatingPointError,),
)
