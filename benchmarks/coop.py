"""What cutting, the shared prefix and chunks save in CoOp's text tower, beside the plain form and open_clip;
on one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measuring import Measurement, allocated_bytes, kinds_of, libraries, seconds_in_turns
from tests.coop_models import StubCLIP, WordTokenizer, plain_logits, plain_prompts
from xfer_course.coop import CoOp

THREADS = 1
VOCABULARY = 5000  # its size changes nothing that is measured


def names(classes: int) -> list[str]:
    "Class names of one to four tokens."
    return [" ".join(f"w{i}x{j}" for j in range(1 + i % 4)) for i in range(classes)]


def b32_text_tower(layers: int = 4) -> StubCLIP:
    "The text tower of ViT-B/32: width 512, 8 heads, 77 positions; cut to 4 of its 12 layers."
    return StubCLIP(512, 8, layers, VOCABULARY, embed_dim=512)


def prompt_model(clip: nn.Module, classes: int, position: str = "end", class_specific: bool = False, **options) -> CoOp:
    tokenizer = WordTokenizer(VOCABULARY, len(clip.positional_embedding))
    return CoOp(
        clip, names(classes), options.pop("n_ctx", 16), position, class_specific, tokenizer=tokenizer, **options
    )


def fast(model: CoOp, features: torch.Tensor) -> torch.Tensor:
    return model.from_features(features)


def step(model: CoOp, logits_of: Callable, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    model.ctx.grad = None
    logits = logits_of(model, features)
    F.cross_entropy(logits, labels).backward()
    return logits.detach()


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((got - expected).abs().max() <= 1e-5 * expected.abs().max())


def steps_side_by_side(
    model: CoOp,
    others: dict[str, Callable],
    what: str,
    rounds: int,
    from_libraries: tuple[str, ...] = (),
    skipped: dict | None = None,
) -> Measurement:
    """Every way trains a copy of the model, in turns; the logits and the context that they end with must agree."""
    torch.manual_seed(1)
    features, labels = torch.randn(32, model.clip.text_projection.shape[1]), torch.randint(len(model.classnames), (32,))
    last, twins, ways = {}, {}, {}
    for name, logits_of in {"CoOp": fast, **others}.items():
        twin = twins[name] = copy.deepcopy(model)
        optimizer = torch.optim.SGD([twin.ctx], lr=0.002, momentum=0.9, weight_decay=5e-4)

        def train(name=name, twin=twin, logits_of=logits_of, optimizer=optimizer) -> None:
            last[name] = step(twin, logits_of, features, labels)
            optimizer.step()

        ways[name] = train
    seconds = seconds_in_turns(ways, rounds)
    assert all(close(last[name], last["CoOp"]) and close(twins[name].ctx, twins["CoOp"].ctx) for name in others), (
        "the ways do not agree"
    )
    return Measurement("coop", what, "s", seconds, kinds_of(seconds, "CoOp", from_libraries), skipped or {})


def text_tower(position: str = "end", class_specific: bool = False, rounds: int = 2) -> Measurement:
    model = prompt_model(b32_text_tower(), 100, position, class_specific)
    kind = "a context for each class" if class_specific else "one context"
    return steps_side_by_side(
        model,
        {"all classes, positions and layers": plain_logits},
        f"a step, 4 layers of ViT-B/32, 100 classes, {kind}, name at the {position}",
        rounds,
    )


def towers(rounds: int = 3) -> list[Measurement]:
    return [
        text_tower(position, class_specific, rounds)
        for class_specific in (False, True)
        for position in ("end", "middle", "front")
    ]


def with_open_clip(rounds: int = 3) -> Measurement:
    """The same step on open_clip's own modules: its transformer over all 77 positions of all classes,
    as CoOp's public code does it."""

    def make() -> CoOp:
        import open_clip

        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": VOCABULARY, "width": 512, "heads": 8, "layers": 4}
        clip = open_clip.model.CLIP(
            512, {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}, text
        )
        return prompt_model(clip, 100)

    def open_clip_logits(model: CoOp, image_features: torch.Tensor) -> torch.Tensor:
        clip = model.clip
        x = plain_prompts(model, 77) + clip.positional_embedding
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
        text = F.normalize(x[torch.arange(len(x)), model.ends] @ clip.text_projection, dim=-1)
        return clip.logit_scale.exp() * F.normalize(image_features, dim=-1) @ text.T

    name, what = (
        "open_clip's text tower",
        "a step on open_clip's modules, 4 layers of ViT-B/32, 100 classes, one context, name at the end",
    )
    found, skipped = libraries({name: "open_clip_torch"}, {name: make})
    if not found:
        model = prompt_model(b32_text_tower(), 100)
        return steps_side_by_side(model, {}, what, 1, skipped=skipped)
    return steps_side_by_side(found[name], {name: open_clip_logits}, what, rounds, (name,))


def tiny_clip_step(rounds: int = 15) -> Measurement:
    "At the course's own CLIP's length. Raises FileNotFoundError where its checkpoint is not there."
    from xfer_course.clip import tiny_clip

    clip = tiny_clip()

    def plain(model: CoOp, features: torch.Tensor) -> torch.Tensor:
        x = model.clip.transformer(
            plain_prompts(model, clip.context_length) + model.clip.positional_embedding, causal=True
        )
        text = model.clip.ln_final(x)[torch.arange(len(x)), model.ends] @ model.clip.text_projection
        return model.clip.logit_scale.exp() * F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T

    ten = ["cat", "rabbit", "bird", "fish", "turtle", "spider", "car", "bus", "boat", "rocket"]
    model = CoOp(clip, ten, n_ctx=4)
    return steps_side_by_side(
        model,
        {"all classes, positions and layers": plain},
        f"a step, the tiny CLIP with {clip.context_length} positions, 10 classes, one context",
        rounds,
    )


def image_tower(rounds: int = 3) -> Measurement:
    "A step on features that were encoded once against one that encodes its 32 images."
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    tower = VisionTransformer(
        image_size=224, patch_size=32, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=512
    ).eval()
    model, images, labels = prompt_model(b32_text_tower(), 100), torch.randn(32, 3, 224, 224), torch.randint(100, (32,))

    @torch.no_grad()
    def encoded() -> torch.Tensor:
        return tower(images)

    features = encoded()
    ways = {
        "cached image features": lambda: step(model, fast, features, labels),
        "images encoded in every step": lambda: step(model, fast, encoded(), labels),
    }
    seconds = seconds_in_turns(ways, rounds)
    return Measurement(
        "coop",
        "a step, 4 layers of ViT-B/32 in both towers, 100 classes, 32 images",
        "s",
        seconds,
        kinds_of(seconds, "cached image features", {}),
    )


def thousand_classes() -> Measurement:
    """Memory of a step with 1000 classes on all 12 layers. The ways without chunks are too large to run: they are
    measured at 100 and at 20 classes and multiplied, which is what they grow by."""
    clip, labels = b32_text_tower(layers=12), torch.zeros(32, dtype=torch.long)
    torch.manual_seed(1)
    features = torch.randn(32, 512)

    def peak(classes: int, logits_of: Callable = fast, **options) -> int:
        model = prompt_model(clip, classes, **options)
        return allocated_bytes(lambda: step(model, logits_of, features, labels))

    memory = {
        "CoOp in chunks of 50": [peak(1000, chunk_size=50)],
        "CoOp without chunks (10 x 100 classes)": [10 * peak(100, chunk_size=100)],
        "all positions and layers (50 x 20 classes)": [50 * peak(20, plain_logits)],
    }
    notes = {"the model's own estimate without chunks": 10 * prompt_model(clip, 100).activation_bytes(100)}
    return Measurement(
        "coop",
        "a step, ViT-B/32's text tower, 1000 classes, one context, name at the end",
        "bytes",
        memory,
        kinds_of(memory, "CoOp in chunks of 50", {}),
        {},
        notes,
    )


MEASUREMENTS = (towers, with_open_clip, tiny_clip_step, image_tower, thousand_classes)
