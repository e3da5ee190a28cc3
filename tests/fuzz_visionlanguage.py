"""How fuzzing calls the public functions of the chapter visionlanguage."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from drawing import NOT_DRAWN, any_float, any_int, any_labels, any_tensor, any_vectors, fuzz, small_int, vectors
from xfer_course import visionlanguage
from xfer_course.clip import CLIP, Attention, CLIPConfig, Transformer, tiny_clip

# --- trees of labels

EDGES = st.integers(0, 9).map(lambda seed: visionlanguage.random_tree(6, seed))
ANY_EDGES = st.one_of(any_tensor, st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), max_size=6).map(
    lambda pairs: torch.tensor(pairs, dtype=torch.long).view(-1, 2)))
SEEN = st.permutations(range(6)).map(lambda order: torch.tensor(order[:3]))
LENGTHS = st.none() | vectors(1, 5).map(lambda x: x[0].abs() + 0.1)
SHARES = vectors(4, 3).map(lambda x: x.softmax(1))
ANY_LENGTHS = st.one_of(any_vectors.map(lambda x: x.flatten()), any_tensor, any_float)

fuzz("random_tree", visionlanguage.random_tree, {"n": st.integers(2, 9), "seed": st.integers(0, 9)},
     {"n": small_int, "seed": any_int}, lambda r, a: r.shape == (a["n"] - 1, 2))
fuzz("tree_distances", visionlanguage.tree_distances, {"edges": EDGES, "lengths": LENGTHS},
     {"edges": ANY_EDGES, "lengths": ANY_LENGTHS}, lambda r, a: r.shape[0] == len(a["edges"]) + 1 and (r == r.T).all())
fuzz("tree_scores", visionlanguage.tree_scores,
     {"edges": EDGES, "probabilities": SHARES, "seen": SEEN, "lengths": LENGTHS},
     {"edges": ANY_EDGES, "probabilities": any_tensor, "seen": any_labels, "lengths": ANY_LENGTHS},
     lambda r, a: r.shape == (len(a["probabilities"]), len(a["edges"]) + 1))
fuzz("seen_labels", visionlanguage.seen_labels, {"seen": SEEN, "n": st.just(6), "number": st.none()},
     {"seen": any_labels, "n": st.integers(1, 9), "number": small_int}, lambda r, a: len(r.unique()) == len(r))
fuzz("locus", visionlanguage.locus, {"edges": EDGES, "seen": SEEN}, {"edges": ANY_EDGES, "seen": any_labels},
     lambda r, a: r[a["seen"].long()].all())
fuzz("locus_distances", visionlanguage.locus_distances, {"edges": EDGES, "seen": SEEN, "lengths": LENGTHS},
     {"edges": ANY_EDGES, "seen": any_labels, "lengths": ANY_LENGTHS}, lambda r, a: (r >= 0).all())
fuzz("next_label", visionlanguage.next_label, {"edges": EDGES, "seen": SEEN, "lengths": LENGTHS},
     {"edges": ANY_EDGES, "seen": any_labels, "lengths": ANY_LENGTHS}, lambda r, a: r is None or r not in a["seen"])

# --- Loki

SQUARED = st.just(visionlanguage.grid_distances(5).float()[[0, 2, 4]] ** 2)
SQUARE = st.just(visionlanguage.grid_distances(3).float() ** 2)

fuzz("grid_distances", lambda sizes, norm: visionlanguage.grid_distances(*sizes, norm=norm),
     {"sizes": st.lists(st.integers(1, 4), min_size=1, max_size=3), "norm": st.just("city block")},
     {"sizes": st.lists(small_int, max_size=3), "norm": st.sampled_from(("l2", 2, None))},
     lambda r, a: (r == r.T).all() and (r.diagonal() == 0).all())
fuzz("feature_distances", visionlanguage.feature_distances, {"features": vectors(4, 3)}, {"features": any_vectors},
     lambda r, a: r.shape == (len(a["features"]),) * 2 and (r <= 2.01).all())
fuzz("frechet_scores", visionlanguage.frechet_scores, {"probabilities": SHARES, "squared_distances": SQUARED},
     {"probabilities": any_vectors, "squared_distances": any_vectors}, lambda r, a: (r >= 0).all())
fuzz("frechet_predict", visionlanguage.frechet_predict, {"probabilities": SHARES, "squared_distances": SQUARED},
     {"probabilities": any_vectors, "squared_distances": any_vectors},
     lambda r, a: ((r >= 0) & (r < a["squared_distances"].shape[1])).all())
fuzz("frechet_one_hot", visionlanguage.frechet_one_hot,
     {"probabilities": SHARES, "squared_distances": SQUARE, "step": st.none()},
     {"probabilities": any_vectors, "squared_distances": any_vectors, "step": any_float},
     lambda r, a: (r.sum(1) == 1).all())
fuzz("project_simplex", visionlanguage.project_simplex, {"x": vectors(3, 4)}, {"x": any_vectors},
     lambda r, a: (r >= 0).all())
fuzz("reachable", visionlanguage.reachable, {"squared_distances": SQUARED}, {"squared_distances": any_vectors},
     lambda r, a: r.dtype == torch.bool)


def fitted(squared_distances, temperature, labels):
    x = torch.arange(6.0).view(3, 2).repeat(2, 1).numpy()
    return visionlanguage.FrechetClassifier(LogisticRegression(), squared_distances, labels, temperature).fit(
        x, [0, 2, 4] * 2).predict(x)


fuzz("FrechetClassifier", fitted,
     {"squared_distances": st.just(visionlanguage.grid_distances(5) ** 2), "temperature": st.floats(0.5, 3),
      "labels": st.none()},
     {"squared_distances": any_vectors, "temperature": any_float, "labels": st.lists(small_int, max_size=6)},
     lambda r, a: len(r) == 6)


# --- m2-Mix

NOT_DRAWN.update(["OneSidedLosses"])
ROWS = vectors(4, 3).map(lambda x: torch.nn.functional.normalize(x, dim=1))
SHARE = st.floats(0, 1)


def finite(result, arguments) -> bool:
    return bool(torch.isfinite(torch.as_tensor(result)).all())


fuzz("geodesic_mix", visionlanguage.geodesic_mix, {"first": ROWS, "second": ROWS, "share": SHARE},
     {"first": any_vectors, "second": any_vectors, "share": any_float}, lambda r, a: r.shape == a["first"].shape)
fuzz("m2_mix_loss", visionlanguage.m2_mix_loss,
     {"image": ROWS, "text": ROWS, "share": SHARE, "scale": st.just(10.0), "captions": st.none()},
     {"image": any_vectors, "text": any_vectors, "share": any_float, "scale": any_float, "captions": any_labels},
     finite)
fuzz("uni_mix_losses", visionlanguage.uni_mix_losses,
     {"image": ROWS, "text": ROWS, "share": SHARE, "scale": st.just(10.0)},
     {"image": any_vectors, "text": any_vectors, "share": any_float, "scale": any_float}, lambda r, a: len(r) == 3)
fuzz("hard_negative_loss", visionlanguage.hard_negative_loss,
     {"first": ROWS, "second": ROWS, "tau_plus": st.just(0.0), "beta": st.floats(0, 2), "scale": st.just(2.0)},
     {"first": any_vectors, "second": any_vectors, "tau_plus": any_float, "beta": any_float, "scale": any_float},
     lambda r, a: r.shape == ())
fuzz("modality_gap", visionlanguage.modality_gap, {"image": ROWS, "text": ROWS},
     {"image": any_vectors, "text": any_vectors}, lambda r, a: 0 <= r <= 2.05)
fuzz("alignment", visionlanguage.alignment, {"image": ROWS, "text": ROWS, "relative": st.booleans()},
     {"image": any_vectors, "text": any_vectors, "relative": any_float}, finite)
fuzz("uniformity", visionlanguage.uniformity, {"rows": ROWS, "t": st.just(2.0)},
     {"rows": any_vectors, "t": any_float}, finite)
fuzz("PairedMaps", lambda dim: visionlanguage.PairedMaps(dim)(torch.ones(2, dim), torch.ones(2, dim)),
     {"dim": st.integers(1, 5)}, {"dim": small_int}, lambda r, a: len(r) == 2)


# --- approximated prompts

NOT_DRAWN.update(["SplitAttention"])
HEADS, PROMPTS = vectors(12, 4).map(lambda x: x.view(2, 2, 3, 4)), vectors(10, 4).map(lambda x: x.view(2, 5, 4))
ROWS_OF_TOKENS = vectors(6, 4).map(lambda x: x.view(2, 3, 4))


def tower():
    torch.manual_seed(0)
    return Transformer(8, 2, 2)


fuzz("prompt_attention", visionlanguage.prompt_attention,
     {"q": HEADS, "k": HEADS, "v": HEADS, "prompt_k": PROMPTS, "prompt_v": PROMPTS},
     dict.fromkeys(("q", "k", "v", "prompt_k", "prompt_v"), any_tensor), lambda r, a: r.out.shape == a["q"].shape)
fuzz("ApproximatePrompt", lambda dim, tokens, rank, x, res: visionlanguage.ApproximatePrompt(dim, tokens, rank)(x, res),
     {"dim": st.just(4), "tokens": st.integers(1, 5), "rank": st.integers(1, 5), "x": ROWS_OF_TOKENS,
      "res": ROWS_OF_TOKENS},
     {"dim": small_int, "tokens": small_int, "rank": small_int, "x": any_tensor, "res": any_tensor},
     lambda r, a: r.shape == a["x"].shape)
fuzz("DeepPromptAttention", lambda tokens, x: visionlanguage.DeepPromptAttention(Attention(4, 2), tokens)(x),
     {"tokens": st.integers(1, 5), "x": ROWS_OF_TOKENS}, {"tokens": small_int}, lambda r, a: r.shape == a["x"].shape)
fuzz("ApproximatedAttention", lambda tokens, x: visionlanguage.ApproximatedAttention(
    Attention(4, 2), visionlanguage.ApproximatePrompt(4, tokens))(x),
     {"tokens": st.integers(1, 5), "x": ROWS_OF_TOKENS}, {"tokens": small_int}, lambda r, a: r.shape == a["x"].shape)
fuzz("attach_prompts", lambda tokens, rank: visionlanguage.attach_prompts(tower(), tokens, rank),
     {"tokens": st.integers(1, 5), "rank": st.none() | st.integers(1, 5)}, {"tokens": small_int, "rank": small_int},
     lambda r, a: len(r) == 2)
fuzz("detach_prompts", lambda network: visionlanguage.detach_prompts(network), {"network": st.builds(tower)}, {},
     lambda r, a: r == [])
fuzz("prompt_cost", visionlanguage.prompt_cost,
     dict.fromkeys(("length", "width", "prompts", "rank", "batch"), st.integers(1, 9)),
     dict.fromkeys(("length", "width", "prompts", "rank", "batch"), any_int), lambda r, a: min(r.values()) > 0)


# --- MMRL and MMRL++

NOT_DRAWN.update(["CutCLIP", "MMRLOutput", "TokenLearner"])
BLOCK_STATES = vectors(6, 8).map(lambda x: x.view(2, 3, 8))
PICTURES = st.integers(1, 3).map(lambda n: torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)))
STATES = st.integers(1, 3).map(lambda n: torch.randn(n, 5, 8, generator=torch.Generator().manual_seed(n)))
OF_MMRL = {"n_tokens": st.integers(1, 3), "dim": st.integers(1, 4), "alpha": SHARE, "reg": st.floats(0, 5)}
WILD_MMRL = {"n_tokens": small_int, "dim": small_int, "alpha": any_float, "reg": any_float}


def small_clip() -> CLIP:
    torch.manual_seed(0)
    clip = CLIP(CLIPConfig(embed_dim=6, image_resolution=8, vision_layers=2, vision_width=8, vision_patch_size=4,
                           context_length=6, vocab_size=40, transformer_width=8, transformer_heads=2,
                           transformer_layers=2, vision_heads=2))
    clip.tokenizer = lambda texts: torch.tensor([[38, 1 + len(text) % 9, 39] for text in texts])
    return clip


def small_mmrl(**options) -> visionlanguage.MMRL:
    return visionlanguage.MMRL(small_clip(), ["cat", "fish"], "{}", **{"dim": 4} | options)


fuzz("LayerProjections", lambda dim, width, layers: visionlanguage.LayerProjections(dim, width, layers)(
    torch.ones(2, dim)), dict.fromkeys(("dim", "width", "layers"), st.integers(1, 4)),
     dict.fromkeys(("dim", "width", "layers"), small_int), lambda r, a: len(r) == a["layers"])
fuzz("SharedProjections", lambda dim, width, layers, rank: visionlanguage.SharedProjections(dim, width, layers, rank)(
    torch.ones(2, dim)), dict.fromkeys(("dim", "width", "layers", "rank"), st.integers(1, 4)),
     dict.fromkeys(("dim", "width", "layers", "rank"), small_int), lambda r, a: len(r) == a["layers"])
fuzz("SpaceTokens", lambda count, dim: visionlanguage.SpaceTokens(count, dim, (8, 2), (6, 1))(),
     dict.fromkeys(("count", "dim"), st.integers(1, 4)), dict.fromkeys(("count", "dim"), small_int),
     lambda r, a: [len(each) for each in r] == [2, 1])
fuzz("ResidualProjection", lambda start, rank: visionlanguage.ResidualProjection(start, rank)(
    torch.ones(2, len(start))),
     {"start": ROWS, "rank": st.integers(1, 3)}, {"start": any_vectors, "rank": small_int}, finite)
fuzz("through_blocks", lambda x, tokens, beta: visionlanguage.through_blocks(tower().resblocks, x, tokens, beta=beta),
     {"x": BLOCK_STATES, "tokens": vectors(2, 8).map(lambda rows: [rows, rows]), "beta": SHARE},
     {"x": any_tensor, "tokens": st.lists(any_vectors, max_size=3), "beta": any_float},
     lambda r, a: r.shape == (2, 5, 8))
fuzz("MMRL", lambda images, **options: small_mmrl(**options)(images), {"images": PICTURES, **OF_MMRL},
     {"images": any_tensor, **WILD_MMRL}, lambda r, a: r.fused.shape == (len(a["images"]), 2))
fuzz("MMRLPlusPlus", lambda images, **options: visionlanguage.MMRLPlusPlus(
    small_clip(), ["cat", "fish"], "{}", dim=4, **options)(images),
     {"images": PICTURES, "rank": st.integers(1, 3), "rep_rank": st.integers(1, 3), "beta": SHARE},
     {"images": any_tensor, "rank": small_int, "rep_rank": small_int, "beta": any_float},
     lambda r, a: r.fused.shape == (len(a["images"]), 2))
fuzz("lower_states", lambda images, batch_size: visionlanguage.lower_states(small_mmrl(), images, batch_size),
     {"images": PICTURES, "batch_size": st.integers(1, 4)}, {"images": any_tensor, "batch_size": small_int},
     lambda r, a: r.shape == (len(a["images"]), 5, 8))
fuzz("frozen_features", lambda states, batch_size: visionlanguage.frozen_features(small_mmrl(), states, batch_size),
     {"states": STATES, "batch_size": st.integers(1, 4)}, {"states": any_tensor, "batch_size": small_int},
     lambda r, a: r.shape == (len(a["states"]), 6))
fuzz("mmrl_text", visionlanguage.mmrl_text, {"model": st.builds(small_mmrl)}, {}, lambda r, a: r.shape == (2, 6))
fuzz("mmrl_output", lambda states: visionlanguage.mmrl_output(small_mmrl(), states), {"states": STATES},
     {"states": any_tensor}, lambda r, a: r.logits.shape == (len(a["states"]), 2))
fuzz("mmrl_loss", lambda labels, image_before, alpha, reg: visionlanguage.mmrl_loss(
    small_mmrl()(torch.ones(2, 3, 8, 8)), labels, image_before, torch.ones(2, 6), alpha, reg),
     {"labels": st.just(torch.tensor([0, 1])), "image_before": vectors(2, 6), "alpha": SHARE, "reg": st.floats(0, 5)},
     {"labels": any_labels, "image_before": any_vectors, "alpha": any_float, "reg": any_float}, finite)
fuzz("fit_mmrl", lambda images, labels, epochs, batch_size, lr: visionlanguage.fit_mmrl(
    small_mmrl(), images, labels, epochs=epochs, batch_size=batch_size, lr=lr),
     {"images": st.just(torch.ones(2, 3, 8, 8)), "labels": st.just(torch.tensor([0, 1])), "epochs": st.integers(1, 2),
      "batch_size": st.integers(1, 3), "lr": st.floats(1e-5, 1e-2)},
     {"images": any_tensor, "labels": any_labels, "epochs": st.integers(-1, 2), "batch_size": small_int,
      "lr": any_float}, lambda r, a: len(r.loss) > 0)


# --- partial ranking distillation

PAIRS = vectors(3, 5)
COUNTS = st.lists(st.integers(0, 5), min_size=3, max_size=3).map(torch.tensor)

fuzz("hard_candidates", visionlanguage.hard_candidates,
     {"similarities": PAIRS, "positives": st.just(torch.tensor([0, 1, 4])), "k": st.integers(1, 4)},
     {"similarities": any_vectors, "positives": any_labels, "k": small_int},
     lambda r, a: (r != a["positives"].long()[:, None]).all())
fuzz("by_teacher", visionlanguage.by_teacher,
     {"candidates": st.just(torch.tensor([[0, 1], [2, 4], [3, 3]])), "teacher": PAIRS},
     {"candidates": any_tensor, "teacher": any_vectors}, lambda r, a: (r[1].diff(dim=1) <= 0).all())
fuzz("partial_ranking_loss", visionlanguage.partial_ranking_loss, {"similarities": PAIRS, "valid": COUNTS},
     {"similarities": any_vectors, "valid": any_labels}, lambda r, a: r.shape == ())
fuzz("CrossEncoder", lambda image_width, text_width, width, layers: visionlanguage.CrossEncoder(
    image_width, text_width, 2 * width, layers, 2)(torch.ones(2, 3, image_width), torch.ones(2, 1, text_width)),
     dict.fromkeys(("image_width", "text_width", "width", "layers"), st.integers(1, 3)),
     dict.fromkeys(("image_width", "text_width", "width", "layers"), small_int), lambda r, a: r.shape == (2,))


# --- words or captions

NOT_DRAWN.update(["PromptTable", "NoisyCaptions"])
TEXTS = st.lists(st.sampled_from(("a red cat", "two blue dogs on white", "a photo", "cat")), min_size=2, max_size=6)
ANY_TEXTS = st.lists(st.sampled_from(("a red cat", "...", "", 3, None)), max_size=4) | st.none() | st.text(max_size=5)
FORM, ANY_FORM = st.sampled_from(("softmax", "sigmoid")), st.sampled_from(("logistic", "", None, 1))
HELD = st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=4, max_size=4).map(
    lambda rows: torch.tensor(rows).index_fill_(1, torch.tensor(0), 1))
ACCURACY, ACCURACIES = st.floats(0.05, 0.95), st.just([0.3, 0.5, 0.8])
ANY_NUMBERS = st.lists(any_float, max_size=4)

fuzz("caption_words", visionlanguage.caption_words, {"caption": st.text(max_size=20)},
     {"caption": st.none() | any_int}, lambda r, a: all(visionlanguage.caption_words(word) == [word] for word in r))
fuzz("vocabulary", visionlanguage.vocabulary, {"captions": TEXTS, "least": st.just(1)},
     {"captions": ANY_TEXTS, "least": small_int}, lambda r, a: len(set(r)) == len(r) > 0)
fuzz("word_bags", visionlanguage.word_bags, {"captions": TEXTS, "words": st.just(["cat", "a", "blue"])},
     {"captions": ANY_TEXTS, "words": ANY_TEXTS}, lambda r, a: r.shape == (len(a["captions"]), len(a["words"])))
fuzz("bag_of_words_loss", visionlanguage.bag_of_words_loss, {"word_logits": vectors(4, 3), "bags": HELD, "form": FORM},
     {"word_logits": any_vectors, "bags": any_tensor, "form": ANY_FORM}, lambda r, a: r.shape == ())
fuzz("word_zero_shot", visionlanguage.word_zero_shot,
     {"word_logits": vectors(5, 3), "class_words": HELD, "form": FORM},
     {"word_logits": any_vectors, "class_words": any_tensor, "form": ANY_FORM}, lambda r, a: r.shape[1] == len(
         a["class_words"]))
fuzz("ToyTowers", lambda words, dim, pixels, width, bags: visionlanguage.ToyTowers(
    words, dim, pixels, width).encode_words(bags),
     {"words": st.just(3), "dim": st.integers(1, 4), "pixels": st.sampled_from((8, 16)), "width": st.integers(1, 3),
      "bags": HELD.map(torch.Tensor.float)},
     {"words": small_int, "dim": small_int, "pixels": small_int, "width": small_int, "bags": any_tensor},
     lambda r, a: r.shape == (len(a["bags"]), a["dim"]))
fuzz("prompt_table", lambda names, templates, features, labels: visionlanguage.prompt_table(
    tiny_clip(), names, templates, features, labels),
     {"names": st.just(["cat", "car"]), "templates": st.just(["a {}", "{}."]), "features": vectors(3, 128),
      "labels": st.just(torch.tensor([0, 1, 1]))},
     {"names": ANY_TEXTS, "templates": ANY_TEXTS, "features": any_vectors, "labels": any_labels},
     lambda r, a: 0 <= r.features <= 1 and 0 <= r.probabilities <= 1)
fuzz("effective_robustness", visionlanguage.effective_robustness,
     {"clean": ACCURACY, "shifted": ACCURACY, "baseline_clean": ACCURACIES, "baseline_shifted": ACCURACIES},
     {"clean": any_float, "shifted": any_float, "baseline_clean": ANY_NUMBERS, "baseline_shifted": ANY_NUMBERS},
     lambda r, a: -1 < r < 1)


# --- noise against size

fuzz("align_loss", visionlanguage.align_loss,
     {"image_features": ROWS, "text_features": ROWS, "scale": st.just(10.0), "label_smoothing": st.floats(0, 0.9)},
     {"image_features": any_vectors, "text_features": any_vectors, "scale": any_float, "label_smoothing": any_float},
     lambda r, a: r.shape == ())
fuzz("noisy_captions", visionlanguage.noisy_captions,
     {"captions": TEXTS, "share": SHARE, "kind": st.sampled_from(visionlanguage.NOISE), "seed": st.integers(0, 9)},
     {"captions": ANY_TEXTS, "share": any_float, "kind": ANY_FORM, "seed": any_int},
     lambda r, a: len(r.captions) == len(r.noisy) == len(a["captions"]))
fuzz("text_filter", visionlanguage.text_filter,
     {"captions": TEXTS, "most_shared": st.integers(1, 9), "shortest": st.just(0), "longest": st.integers(1, 9),
      "frequent": st.none() | st.integers(1, 9)},
     {"captions": ANY_TEXTS, "most_shared": any_int, "shortest": any_int, "longest": any_int, "frequent": any_int},
     lambda r, a: r.shape == (len(a["captions"]),))
fuzz("similarity_filter", visionlanguage.similarity_filter,
     {"image_features": ROWS, "text_features": ROWS, "share": st.floats(0.01, 1)},
     {"image_features": any_vectors, "text_features": any_vectors, "share": any_float}, lambda r, a: r.any())
fuzz("combined_query", visionlanguage.combined_query,
     {"image_features": ROWS, "text_features": ROWS, "weight": st.sampled_from((0.0, 0.25, 1.0))},
     {"image_features": any_vectors, "text_features": any_vectors, "weight": any_float},
     lambda r, a: ((r.norm(dim=1) - 1).abs() < 1e-3).all())
fuzz("exchange_rate", visionlanguage.exchange_rate,
     dict.fromkeys(("clean_sizes", "noisy_sizes"), st.just([1, 2, 4]))
     | dict.fromkeys(("clean", "noisy"), st.lists(st.floats(0, 1), min_size=3, max_size=3)),
     dict.fromkeys(("clean_sizes", "clean", "noisy_sizes", "noisy"), ANY_NUMBERS), lambda r, a: (r > 0).all())
