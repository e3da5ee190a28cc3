"""Prompts, features and training of CoOp on both kinds of CLIP, against the plain way; contexts on disk; bad input."""
import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from coop_models import StubCLIP, WordTokenizer, plain_logits, plain_prompts, plain_text_features
from xfer_course.clip import CLIP, CLIPConfig, Tokenizer, zero_shot_weights
from xfer_course.coop import (
    CoOp,
    context_slots,
    encode_images,
    few_shot,
    fit_coop,
    learning_rate,
    nearest_rows,
    paper_epochs,
    random_distance,
    text_tower,
)

NAMES = ["cat", "golden_retriever", "bird of paradise", "forest"]
POSITIONS = ["end", "middle", "front"]
SMALL = CLIPConfig(embed_dim=32, image_resolution=16, vision_layers=1, vision_width=64, vision_patch_size=8,
                   context_length=40, vocab_size=514, transformer_width=64, transformer_heads=2, transformer_layers=2)


def stub(**options) -> CoOp:
    clip = options.pop("clip", None) or StubCLIP()
    names = options.pop("classnames", NAMES)
    return CoOp(clip, names, tokenizer=options.pop("tokenizer", WordTokenizer()), **{"n_ctx": 4} | options)


def ours(names=NAMES, **options) -> CoOp:
    torch.manual_seed(0)
    return CoOp(CLIP(SMALL, Tokenizer(context_length=40)), names, **{"n_ctx": 4} | options)


def own_plain_features(model: CoOp) -> torch.Tensor:
    "All positions of the course's CLIP, with its own transformer."
    clip, length = model.clip, len(model.clip.positional_embedding)
    x = clip.transformer(plain_prompts(model, length) + clip.positional_embedding, causal=True)
    return F.normalize(clip.ln_final(x)[torch.arange(len(x)), model.ends] @ clip.text_projection, dim=-1)


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("make, plain", [(stub, plain_text_features), (ours, own_plain_features)])
def test_equals_the_plain_way(make, plain, position, class_specific, chunk_size):
    model = make(class_token_position=position, class_specific=class_specific, chunk_size=chunk_size).double()
    weights = torch.randn(len(NAMES), 32, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    got, expected = model.text_features(), plain(model)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad((f * weights).sum(), model.ctx)[0] for f in (got, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@given(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(POSITIONS),
       st.booleans(), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_any_lengths(n_ctx, lengths, position, class_specific, chunk_size):
    names = [" ".join(f"w{i}z{j}" for j in range(n)) for i, n in enumerate(lengths)]
    model = stub(classnames=names, n_ctx=n_ctx, class_token_position=position, class_specific=class_specific,
                 chunk_size=chunk_size).double()
    torch.testing.assert_close(model.text_features(), plain_text_features(model))


def test_slots():
    assert context_slots(4, 2, "end") == [1, 2, 3, 4]
    assert context_slots(4, 2, "middle") == [1, 2, 5, 6]
    assert context_slots(5, 1, "middle") == [1, 2, 4, 5, 6]
    assert context_slots(4, 2, "front") == [3, 4, 5, 6]


@pytest.mark.parametrize("make", [stub, ours])
def test_context_of_real_words_is_the_hand_written_prompt(make):
    model = make(ctx_init="a photo of a").double()
    prompts = model.tokenizer([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    expected = F.normalize(model.clip.encode_text(prompts), dim=-1)
    torch.testing.assert_close(model.text_features(), expected, rtol=0, atol=1e-12)
    features = torch.randn(3, 32, dtype=torch.double)
    logits = model.clip.logit_scale.exp() * F.normalize(features, dim=-1) @ expected.T
    torch.testing.assert_close(model.from_features(features), logits, rtol=0, atol=1e-11)


def test_context_of_real_words_gives_zero_shot_weights():
    model = ours(ctx_init="a photo of a").double()
    weights = zero_shot_weights(model.clip, [name.replace("_", " ") for name in NAMES], ["a photo of a {}."])
    torch.testing.assert_close(model.text_features().detach(), weights.double(), rtol=0, atol=1e-12)


def test_words_count_by_tokens():
    model = ours(ctx_init="a photo")  # its tokenizer without merges spells letter by letter
    assert model.n_ctx == len(model.tokenizer.encode("a photo")) == 6 and model.ctx.shape == (6, 64)


def test_only_the_context_is_trained_and_the_clip_stays_in_evaluation_mode():
    model = stub().train()
    before = copy.deepcopy(model.clip.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(model(torch.randn(5, 3, 8, 8)), torch.tensor([0, 1, 2, 3, 0])).backward()
    optimizer.step()
    assert not model.clip.training and not model.clip.visual.norm.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.clip.state_dict().values()))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["ctx"]
    assert "token_ids" not in model.state_dict()


def test_features_may_be_cached_and_are_normalised_inside():
    model, images = stub(), torch.randn(5, 3, 8, 8)
    features = encode_images(model.clip, images, batch_size=2)
    torch.testing.assert_close(model.from_features(features), model(images))
    torch.testing.assert_close(model.from_features(7 * features), model(images))
    torch.testing.assert_close(model.from_features(1e60 * features.double()), model(images))  # before it is rounded
    torch.testing.assert_close(model.from_features((3e4 * features / features.abs().max()).half()), model(images),
                               atol=0.02, rtol=0.02)


def test_one_run_equals_a_naive_one():
    model, twin = stub(), stub()
    features, labels = torch.randn(12, 32), torch.arange(12) % 4
    history = fit_coop(model, features, labels, steps=5, seed=3)
    optimizer = torch.optim.SGD([twin.ctx], lr=0.002, momentum=0.9, weight_decay=5e-4)
    for epoch in range(5):  # twelve images are one batch, so a step is an epoch
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, 5)
        optimizer.zero_grad()
        F.cross_entropy(plain_logits(twin, features), labels).backward()
        optimizer.step()
    torch.testing.assert_close(model.ctx, twin.ctx, rtol=0, atol=1e-6)
    assert len(history.loss) == 5 and history.lr[0] == 1e-5 and history.lr[1] == 0.002


def test_same_seed_same_context_to_the_bit():
    features, labels = torch.randn(40, 32), torch.arange(40) % 4
    runs = []
    for _ in range(2):
        torch.rand(1)
        model = stub()
        fit_coop(model, features, labels, steps=4, seed=1, batch_size=8)
        runs.append(model.ctx.detach())
    assert torch.equal(*runs)


def held_out(model: CoOp, features, labels) -> tuple[float, float]:
    with torch.no_grad():
        logits = model.from_features(features)
    return float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels))


@pytest.mark.parametrize("position", POSITIONS)
def test_class_specific_context_learns_what_contradicts_the_names(position):
    model, labels = stub(class_token_position=position, class_specific=True), torch.arange(400) % 4
    torch.manual_seed(0)
    prototypes = model.text_features().detach()[[1, 2, 3, 0]]  # every class is shown what another one's prompt says
    features = prototypes[labels] + 0.1 * torch.randn(400, 32)
    before = held_out(model, features[100:], labels[100:])
    fit_coop(model, features[:100], labels[:100], steps=200, lr=0.05)
    after = held_out(model, features[100:], labels[100:])
    assert before[0] < 0.2 and after[0] > 0.33 and after[1] < before[1]


@pytest.mark.parametrize("position", POSITIONS)
def test_unified_context_finds_what_another_context_says(position):
    model, teacher, labels = (stub(class_token_position=position), stub(class_token_position=position, seed=9),
                              torch.arange(400) % 4)
    teacher.ctx.data *= 50
    torch.manual_seed(0)
    prototypes = teacher.text_features().detach()
    features = F.normalize(prototypes - prototypes.mean(0), dim=-1)[labels] + 0.1 * torch.randn(400, 32)
    before = held_out(model, features[100:], labels[100:])
    fit_coop(model, features[:100], labels[:100], steps=60, lr=0.02)
    after = held_out(model, features[100:], labels[100:])
    assert after[0] > 0.9 and after[1] < before[1]


def test_steps_and_epochs():
    features, labels = torch.randn(40, 32), torch.arange(40) % 4
    assert len(fit_coop(stub(), features[:4], labels[:4]).loss) == 50
    assert [paper_epochs(n) for n in (1, 2, 4, 8, 16)] == [50, 100, 100, 200, 200]
    # two steps are an epoch, the last 8 images wait
    lr = fit_coop(stub(), features, labels, steps=10, batch_size=16).lr
    assert lr[:2] == [1e-5] * 2 and lr[2] == lr[3] == 0.002 and lr[4] == lr[5] == learning_rate(2, 5)


def test_few_shot():
    labels = torch.tensor([2, 0, 1] * 10)
    rows = few_shot(labels, 4, seed=1)
    assert labels[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(rows.unique()) == 12
    assert torch.equal(rows, few_shot(labels, 4, seed=1)) and not torch.equal(rows, few_shot(labels, 4, seed=2))
    assert set(few_shot(labels, 2, seed=1).tolist()) < set(rows.tolist())


@pytest.mark.parametrize("class_specific", [False, True])
def test_context_on_disk(class_specific, tmp_path):
    model = stub(class_specific=class_specific, class_token_position="middle", seed=5)
    path = model.save_context(tmp_path / "context.safetensors")
    assert path.stat().st_size < 4 * model.ctx.numel() + 1000
    again = CoOp.from_context(StubCLIP(), NAMES, path, tokenizer=WordTokenizer())
    assert torch.equal(again.ctx, model.ctx) and again.position == "middle"
    torch.testing.assert_close(again.text_features(), model.text_features())
    if class_specific:
        with pytest.raises(ValueError, match="cannot move to new names"):
            CoOp.from_context(StubCLIP(), ["a", "b", "c", "d"], path, tokenizer=WordTokenizer())
    else:
        moved = CoOp.from_context(StubCLIP(), ["other", "names"], path, tokenizer=WordTokenizer())
        assert moved.text_features().shape == (2, 32)


@pytest.mark.parametrize("change", ["embedding", "projection", "positions", "block"])
def test_a_context_of_another_clip_of_the_same_shapes_is_refused(change, tmp_path):
    path = stub(seed=5).save_context(tmp_path / "context.safetensors")
    other = StubCLIP()
    part = {"embedding": other.token_embedding.weight, "projection": other.text_projection,
            "positions": other.positional_embedding,
            "block": other.transformer.resblocks[0].mlp.c_proj.weight}[change]
    with torch.no_grad():
        part.copy_(part[:, torch.randperm(part.shape[1], generator=torch.Generator().manual_seed(0))]
                   if change != "block" else 5 * part.flip(0))
    with pytest.raises(ValueError, match="learned with another CLIP"):
        CoOp.from_context(other, NAMES, path, tokenizer=WordTokenizer())
    rounded = StubCLIP().bfloat16().float()
    assert torch.equal(CoOp.from_context(rounded, NAMES, path, tokenizer=WordTokenizer()).ctx, stub(seed=5).ctx)


def test_a_context_of_an_older_file_has_no_answer_and_is_taken(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = stub(seed=5).save_context(tmp_path / "context.safetensors")
    with safe_open(path, framework="pt") as stored:
        save_file({"ctx": stored.get_tensor("ctx")}, tmp_path / "old.safetensors", stored.metadata())
    CoOp.from_context(StubCLIP(), NAMES, tmp_path / "old.safetensors", tokenizer=WordTokenizer())


def test_nearest_words():
    model = stub(ctx_init="a photo of a")
    found = model.nearest_words(top=3)
    assert [words[0] for words in found.words] == ["a", "photo", "of", "a"]
    assert (found.distances.shape == (4, 3) and (found.distances[:, 0] == 0).all()
            and (found.distances.diff() >= 0).all())
    assert found.random.shape == (4,) and (found.random > 1).all()
    each = stub(class_specific=True).nearest_words()
    assert (len(each.words) == 4 and len(each.words[0]) == 4 and each.distances.shape == (4, 4, 1)
            and each.random.shape == (4, 4))


def test_nearest_rows_are_the_nearest():
    generator = torch.Generator().manual_seed(0)
    vectors, table = torch.randn(300, 16, generator=generator), torch.randn(500, 16, generator=generator)
    distances, rows = nearest_rows(vectors, table, 5)
    expected = (vectors[:, None] - table).norm(dim=-1).topk(5, largest=False)
    torch.testing.assert_close(distances, expected.values)
    assert (rows == expected.indices).float().mean() > 0.99
    assert random_distance(vectors, table).shape == (300,)


def test_text_tower_of_a_custom_model():
    holder = torch.nn.Module()
    holder.text, holder.logit_scale = StubCLIP(), torch.nn.Parameter(torch.tensor(1.0))
    assert text_tower(holder) is holder.text


def changed(**attributes) -> StubCLIP:
    clip = StubCLIP()
    for name, value in attributes.items():
        delattr(clip, name)
        setattr(clip, name, value)
    return clip


def without_attention() -> StubCLIP:
    clip = StubCLIP()
    clip.transformer.resblocks[0].attn = torch.nn.Linear(2, 2)
    return clip


BAD_MODELS = {
    "a string": (dict(classnames="cat"), TypeError, "classnames must be a list of texts, got 'cat'"),
    "no names": (dict(classnames=[]), ValueError, "classnames must be a list of at least 1 text, got 0"),
    "an empty name": (dict(classnames=["cat", " _ "]), ValueError,
                      "classnames must be a list of texts that are not empty"),
    "a name twice": (dict(classnames=["sea lion", "dog", "Sea_Lion"]), ValueError,
                     "classnames must be different from each other, got 'Sea_Lion' at 2, the same as 'sea lion' at 0"),
    "a long name": (dict(classnames=["cat", "word " * 80]), ValueError,
                    r"classnames\[1\] is .* at least \d+ tokens, but the text tower takes 77"),
    "too many vectors": (dict(n_ctx=74), ValueError, "shorten the name or lower n_ctx"),
    "no vectors": (dict(n_ctx=0), ValueError, "n_ctx must be a whole number of at least 1, got 0"),
    "half a vector": (dict(n_ctx=1.5), TypeError, "n_ctx must be a whole number"),
    "no chunk": (dict(chunk_size=0), ValueError, "chunk_size must be a whole number"),
    "a place": (dict(class_token_position="back"), ValueError,
                "class_token_position must be one of 'end', 'middle', 'front', got 'back'"),
    "words for each class": (dict(ctx_init="a photo", class_specific=True), ValueError,
                             "ctx_init gives words to one context"),
    "no words": (dict(ctx_init=" "), ValueError,
                 "the number of tokens of ctx_init must be a whole number of at least 1, got 0"),
    "no tokenizer": (dict(tokenizer=3), TypeError, "tokenizer .* must be a Callable, got int"),
    "another tokenizer": (dict(tokenizer=WordTokenizer(5000)), ValueError, "tokenizer gives id .* knows 100 tokens"),
    "no CLIP": (dict(clip=torch.nn.Linear(2, 2)), TypeError,
                "clip is a Linear, whose text tower lacks one of token_embedding"),
    "another pooling": (dict(clip=changed(text_pool_type="first")), TypeError, "must be causal and read the end token"),
    "not causal": (dict(clip=changed(attn_mask=None)), TypeError, "must be causal and read the end token"),
    "another attention": (dict(clip=without_attention()), TypeError, "attention of type Linear"),
    "half precision": (dict(clip=StubCLIP().half()), ValueError,
                       r"half precision on a CPU, got torch.float16: call clip.float\(\)"),
    "bfloat16": (dict(clip=StubCLIP().bfloat16()), ValueError, "half precision on a CPU, got torch.bfloat16"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case):
    options, error, message = BAD_MODELS[case]
    with pytest.raises(error, match=message) as caught:
        stub(**options)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_refuses_long_names_is_heard():
    with pytest.raises(ValueError, match=r"classnames\[1\] must be a text that the tokenizer takes"):
        ours(["cat", "word " * 80])


X, Y = torch.randn(8, 32), torch.arange(8) % 4
BAD_CALLS = {
    "uint8 images": (lambda m: m(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), TypeError,
                     "images .* must hold float numbers, got torch.uint8"),
    "an array": (lambda m: m(torch.zeros(2, 3, 8, 8).numpy()), TypeError, "images .* must be a tensor .* got ndarray"),
    "large images": (lambda m: m(torch.zeros(2, 3, 9, 9)), ValueError,
                     r"must be of shape \(N 3 8 8\), got \(2, 3, 9, 9\)"),
    "one image": (lambda m: m(torch.zeros(3, 8, 8)), ValueError, r"must be of shape \(N 3 8 8\), got \(3, 8, 8\)"),
    "grey images": (lambda m: m(torch.zeros(2, 1, 8, 8)), ValueError, "images .* must be of shape"),
    "no images": (lambda m: encode_images(m.clip, torch.zeros(0, 3, 8, 8)), ValueError,
                  "images .* must hold at least one value"),
    "wide features": (lambda m: m.from_features(torch.zeros(2, 33)), ValueError,
                      r"image_features must be of shape \(N 32\), got \(2, 33\)"),
    "no features": (lambda m: fit_coop(m, [1.0], Y), TypeError, "features .* must be a tensor"),
    "labels too long": (lambda m: fit_coop(m, X, torch.zeros(9, dtype=torch.long)), ValueError,
                        "labels must hold 8 labels, one per row, got 9"),
    "float labels": (lambda m: fit_coop(m, X, Y.float()), TypeError, "labels must hold integer numbers"),
    "unknown class": (lambda m: fit_coop(m, X, Y + 1), ValueError,
                      "labels must be class numbers from 0 up and below 4, got 4"),
    "NaN": (lambda m: fit_coop(m, X * float("nan"), Y), ValueError, "features .* must be finite, got nan"),
    "no steps": (lambda m: fit_coop(m, X, Y, steps=0), ValueError, "steps must be a whole number of at least 1, got 0"),
    "an empty batch": (lambda m: fit_coop(m, X, Y, batch_size=0), ValueError,
                       "batch_size must be a whole number of at least 1, got 0"),
    "more shots than images": (lambda m: few_shot(Y, 3), ValueError, "shots is 3, but class 0 has only 2 images"),
    "no shots": (lambda m: few_shot(Y, 0), ValueError, "shots must be a whole number"),
    "names as labels": (lambda m: few_shot(["a", "b"], 1), TypeError, "labels must be a tensor"),
    "NaN images": (lambda m: encode_images(m.clip, torch.full((2, 3, 8, 8), float("nan"))), ValueError,
                   "images .* must be finite, got nan"),
    "features of another library": (lambda m: m.from_features(X.numpy()), TypeError,
                                    "image_features must be a tensor .* got ndarray"),
    "no labels": (lambda m: few_shot(Y[:0], 1), ValueError, "labels must hold at least one value"),
    "no batches": (lambda m: encode_images(m.clip, torch.zeros(2, 3, 8, 8), batch_size=0), ValueError,
                   "batch_size must be a whole number of at least 1, got 0"),
    "no draws": (lambda m: m.nearest_words(1, draws=0), ValueError,
                 "draws must be a whole number of at least 1, got 0"),
    "no top": (lambda m: m.nearest_words(0), ValueError, "top must be a whole number from 1 to 100, got 0"),
    "late epoch": (lambda m: learning_rate(50, 50), ValueError, "epoch must be a whole number from 0 to 49, got 50"),
    "no file": (lambda m: m.load_context("/nowhere"), FileNotFoundError, "there is no file /nowhere"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, error, message = BAD_CALLS[case]
    model = stub()
    before = model.ctx.detach().clone()
    with pytest.raises(error, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value) and torch.equal(model.ctx, before)


def test_bad_files(tmp_path):
    from safetensors.torch import save_file

    path = stub().save_context(tmp_path / "c.safetensors")
    for options, message in [(dict(n_ctx=5),
                              r"shape of the context in .* must be \(5, 64\), as in this model, got \(4, 64\)"),
                             (dict(class_specific=True),
                              "class_specific of the context in .* must be True, as in this model, got False"),
                             (dict(class_token_position="front"),
                              "class_token_position of the context in .* must be 'front', as in this model, got 'end'"),
                             (dict(clip=StubCLIP(width=32)), r"must be \(4, 32\), as in this model")]:
        with pytest.raises(ValueError, match=message):
            stub(**options).load_context(path)
    broken = stub()
    with torch.no_grad():
        broken.ctx[0, 0] = float("nan")
    model = stub()
    before = model.ctx.detach().clone()
    with pytest.raises(ValueError, match="the context in .* must be finite, got nan"):
        model.load_context(broken.save_context(tmp_path / "nan"))
    assert torch.equal(model.ctx, before)
    (tmp_path / "text").write_text("hello")
    save_file({"ctx": torch.zeros(4, 64)}, tmp_path / "other")
    for other in ("text", "other"):
        with pytest.raises(ValueError, match="is not a context that save_context wrote"):
            stub().load_context(tmp_path / other)
