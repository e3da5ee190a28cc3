"""What cutting, the shared prefix and chunks save in CoOp's text tower, against the plain form in the same run. Run alone: `-m benchmark`."""
import copy
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coop_models import StubCLIP, WordTokenizer, plain_logits, plain_prompts
from xfer_course.coop import CoOp

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]
VOCABULARY = 5000  # its size changes nothing that is measured


def names(classes: int) -> list[str]:
    "Class names of one to four tokens."
    return [" ".join(f"w{i}x{j}" for j in range(1 + i % 4)) for i in range(classes)]


def b32_text_tower(layers: int = 4) -> StubCLIP:
    "The text tower of ViT-B/32: width 512, 8 heads, 77 positions; cut to 4 of its 12 layers."
    return StubCLIP(512, 8, layers, VOCABULARY, embed_dim=512)


def prompt_model(clip: StubCLIP, classes: int, position: str = "end", class_specific: bool = False, **options) -> CoOp:
    tokenizer = WordTokenizer(VOCABULARY, len(clip.positional_embedding))
    return CoOp(clip, names(classes), options.pop("n_ctx", 16), position, class_specific, tokenizer=tokenizer, **options)


def peak_allocated(action) -> int:
    "Largest number of bytes of tensors that live at a time during `action`, beyond those that were there before."
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(changes).max())


def step(model: CoOp, logits_of, features, labels) -> torch.Tensor:
    model.ctx.grad = None
    logits = logits_of(model, features)
    F.cross_entropy(logits, labels).backward()
    return logits.detach()


def fast(model: CoOp, features: torch.Tensor) -> torch.Tensor:
    return model.from_features(features)


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((got - expected).abs().max() <= 1e-5 * expected.abs().max())


def compared(model: CoOp, plain, capsys, label: str, steps: int = 3) -> float:
    """How many times faster a training step is than the plain one, after checking that both give the same
    logits and context in the first three.

    Both train for some steps, turn by turn, so that other work on the machine hits them alike; the fastest counts.
    """
    torch.manual_seed(1)
    features, labels = torch.randn(32, model.clip.text_projection.shape[1]), torch.randint(len(model.classnames), (32,))
    runs = [(logits_of, twin, torch.optim.SGD([twin.ctx], lr=0.002, momentum=0.9, weight_decay=5e-4), [])
            for logits_of, twin in [(plain, copy.deepcopy(model)), (fast, model)]]
    for turn in range(steps):
        logits = []
        for logits_of, twin, optimizer, seconds in runs:
            started = time.perf_counter()
            logits.append(step(twin, logits_of, features, labels))
            optimizer.step()
            seconds.append(time.perf_counter() - started)
        if turn < 3:
            assert close(*logits)
            assert close(runs[0][1].ctx, runs[1][1].ctx)
    plain_s, fast_s = (min(seconds) for *_, seconds in runs)
    with capsys.disabled():
        print(f"\n{label}: {plain_s * 1e3:.0f} ms -> {fast_s * 1e3:.0f} ms ({plain_s / fast_s:.1f}x)")
    return plain_s / fast_s


@pytest.mark.parametrize("class_specific", [False, True], ids=["unified", "class-specific"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_text_tower_of_b32(position, class_specific, capsys):
    model = prompt_model(b32_text_tower(), 100, position, class_specific)
    times = compared(model, plain_logits, capsys, f"4 layers of ViT-B/32, 100 classes, {'class-specific' if class_specific else 'unified'}/{position}")
    assert times >= (8 if (position, class_specific) == ("end", False) else 3)


def test_image_features_are_encoded_once(capsys):
    from torchvision.models import VisionTransformer

    tower = VisionTransformer(image_size=224, patch_size=32, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=512).eval()
    model, images, seconds = prompt_model(b32_text_tower(), 100), torch.randn(32, 3, 224, 224), []
    with torch.no_grad():
        for _ in range(3):
            started = time.perf_counter()
            features = tower(images)
            seconds.append(time.perf_counter() - started)
    steps = []
    for _ in range(3):
        started = time.perf_counter()
        step(model, fast, features, torch.randint(100, (32,)))
        steps.append(time.perf_counter() - started)
    with capsys.disabled():
        print(f"\na step with cached features {min(steps) * 1e3:.0f} ms; encoding its 32 images (ViT-B/32's shape, 4 layers) would add {min(seconds) * 1e3:.0f} ms")


def test_tiny_clip_at_its_own_length(capsys):
    from xfer_course.clip import tiny_clip

    try:
        clip = tiny_clip()
    except FileNotFoundError:
        pytest.skip("the checkpoint of the tiny CLIP is not there")

    def plain(model: CoOp, features: torch.Tensor) -> torch.Tensor:
        x = clip.transformer(plain_prompts(model, clip.context_length) + clip.positional_embedding, causal=True)
        text = clip.ln_final(x)[torch.arange(len(x)), model.ends] @ clip.text_projection
        return clip.logit_scale.exp() * F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T

    names = ["cat", "rabbit", "bird", "fish", "turtle", "spider", "car", "bus", "boat", "rocket"]
    model = CoOp(clip, names, n_ctx=4)
    assert compared(model, plain, capsys, f"tiny CLIP, {clip.context_length} positions, 10 classes, unified/end", steps=20) >= 2


def test_a_thousand_classes_train_in_bounded_memory(capsys):
    clip, labels = b32_text_tower(layers=12), torch.zeros(32, dtype=torch.long)
    torch.manual_seed(1)
    features = torch.randn(32, 512)

    def peak(classes: int, logits_of=fast, **options) -> int:
        model = prompt_model(clip, classes, **options)
        return peak_allocated(lambda: step(model, logits_of, features, labels))

    chunked = peak(1000, chunk_size=50)
    whole, plain = 10 * peak(100, chunk_size=100), 50 * peak(20, plain_logits)
    estimate = 10 * prompt_model(clip, 100).activation_bytes(100)
    with capsys.disabled():
        print(f"\n1000 classes on ViT-B/32's text tower, unified/end: {chunked / 2**20:.0f} MiB in chunks of 50; without chunks {whole / 2**20:.0f} MiB "
              f"(from 100 classes; the model's own estimate is {estimate / 2**20:.0f} MiB), with all 77 positions {plain / 2**30:.1f} GiB (from 20 classes)")
    assert chunked <= 0.25 * whole and chunked <= 0.02 * plain
    assert 0.6 <= estimate / whole <= 1.6
