"""ALIGN: the smoothed loss against a loop, four kinds of noise, filters, the exchange rate, and bad input."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xfer_course.clip import contrastive_loss
from xfer_course.data import pictures
from xfer_course.training import unit_vectors
from xfer_course.visionlanguage import (
    BOILERPLATE,
    NOISE,
    align_loss,
    caption_words,
    combined_query,
    exchange_rate,
    noisy_captions,
    similarity_filter,
    text_filter,
)

CAPTIONS = pictures(200, 0, 16).captions


def rows(n: int, seed: int, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_the_loss_is_the_sum_of_both_directions_with_smoothed_targets():
    image, text, scale, smoothing = rows(5, 0), rows(5, 1), 3.0, 0.2
    logits, total = (scale * unit_vectors(image) @ unit_vectors(text).T), 0.0
    for table in (logits.tolist(), logits.T.tolist()):
        for i, row in enumerate(table):
            whole = math.log(sum(math.exp(z) for z in row))
            for j, z in enumerate(row):
                total -= ((1 - smoothing) * (i == j) + smoothing / 5) * (z - whole) / 5
    assert abs(align_loss(image, text, scale, smoothing).item() - total) < 1e-12


def test_without_smoothing_it_is_twice_the_loss_of_clip():
    image, text = rows(7, 0), rows(7, 1)
    torch.testing.assert_close(align_loss(image, text, 9.0, 0.0), 2 * contrastive_loss(image, text, 9.0))


def test_smoothing_gives_a_learned_scale_a_best_value():
    "For perfect pairs at right angles the own share is 1 - eps + eps / N where the gradient vanishes."
    best, eye = math.log(0.9125 / 0.0125), torch.eye(8, dtype=torch.double)
    scale = torch.tensor(best, dtype=torch.double, requires_grad=True)
    align_loss(eye, eye, scale).backward()
    assert abs(scale.grad) < 1e-12


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_near_single(dtype):
    image, text = rows(16, 0).to(dtype), rows(16, 1).to(dtype)
    torch.testing.assert_close(align_loss(image, text, 10.0).float(), align_loss(image.float(), text.float(), 10.0),
                               rtol=2e-2, atol=2e-2)


def test_gradients_go_through_features_and_scale_with_smooth_labels():
    image, text = rows(4, 0).requires_grad_(), rows(4, 1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: align_loss(*x, 0.2), (image, text, scale))


def test_a_single_pair_costs_nothing_and_equal_captions_what_cannot_be_told_apart():
    assert align_loss(rows(1, 0), rows(1, 1), 5.0).abs() < 1e-12
    same = rows(1, 0).repeat(4, 1)
    assert abs(align_loss(same, same, 5.0).item() - 2 * math.log(4)) < 1e-12


@pytest.mark.parametrize("scale", (0.0, -1.0, math.inf, math.nan))
def test_a_tensor_that_is_no_scale_is_refused_as_a_number_is(scale):
    for given in (scale, torch.tensor(scale, requires_grad=True), torch.tensor([scale])):
        with pytest.raises(ValueError, match="scale must be a finite number above 0"):
            align_loss(rows(4, 0), rows(4, 1), given)


@pytest.mark.parametrize("kind", NOISE)
def test_no_noise_leaves_captions_and_more_noise_holds_the_less(kind):
    assert noisy_captions(CAPTIONS, 0.0, kind).captions == CAPTIONS
    some, more = noisy_captions(CAPTIONS, 0.3, kind, 5), noisy_captions(CAPTIONS, 0.6, kind, 5)
    assert 0 < some.noisy.sum() <= 60 and (more.noisy | ~some.noisy).all() and more.noisy.sum() > some.noisy.sum()
    assert all(a == b for a, b, noisy in zip(some.captions, more.captions, some.noisy) if noisy)
    assert some.noisy.tolist() == [a != b for a, b in zip(CAPTIONS, some.captions)]
    assert noisy_captions(CAPTIONS, 0.3, kind, 5).captions == some.captions
    assert noisy_captions(CAPTIONS, 0.3, kind, 6).captions != some.captions


def test_mismatched_captions_are_those_of_other_rows():
    texts = [f"text {i}" for i in range(50)]
    spoiled = noisy_captions(texts, 1.0)
    assert spoiled.noisy.all() and set(spoiled.captions) <= set(texts)


def test_dropped_words_leave_some_in_their_order():
    for before, after in zip(CAPTIONS, noisy_captions(CAPTIONS, 1.0, "dropped words").captions):
        words = iter(before.split())
        assert after and all(word in words for word in after.split()), "the rest is a part of the caption, in order"


def test_a_caption_that_keeps_all_its_words_keeps_its_blanks_and_is_not_noisy():
    texts = ["a  red\tcat ", " x "] * 40
    spoiled = noisy_captions(texts, 1.0, "dropped words")
    assert not spoiled.noisy[1::2].any()
    assert all(len(b.split()) < 3 for a, b, noisy in zip(texts, spoiled.captions, spoiled.noisy) if noisy)


def test_capitals_signs_and_other_letters_survive_a_wrong_attribute():
    texts = ["A SCARLET-toned café, été!", "Ünïcode rouge ...", "日本語 red"]
    changed = noisy_captions(texts, 1.0, "wrong attribute").captions
    assert changed[0].startswith("A ") and changed[0].endswith("-toned café, été!") and "SCARLET" not in changed[0]
    assert changed[1] == texts[1] and changed[2].startswith("日本語 ") and changed[2] != texts[2]


def test_arrays_of_captions_and_shares_of_one_are_taken():
    assert noisy_captions(np.array(CAPTIONS), 1, "boilerplate").captions == noisy_captions(
        CAPTIONS, 1.0, "boilerplate").captions
    assert not noisy_captions(["the same"] * 5, 1.0).noisy.any()


def test_a_wrong_attribute_changes_one_word_and_its_meaning():
    changed = 0
    for before, after in zip(CAPTIONS, noisy_captions(CAPTIONS, 1.0, "wrong attribute").captions):
        old, new = caption_words(before), caption_words(after)
        assert len(old) == len(new) and sum(a != b for a, b in zip(old, new)) <= 1
        changed += old != new
    assert changed > 100
    said = {noisy_captions(["a red car"], 1.0, "wrong attribute", seed).captions[0] for seed in range(80)}
    assert not said & {"a red car", "a scarlet car", "a crimson car"} and "a green car" in said
    kept = noisy_captions(["a zigzag on white"], 1.0, "wrong attribute")
    assert not kept.noisy.any(), "the name of a shape is no attribute"


def test_boilerplate_is_shared():
    assert set(noisy_captions(CAPTIONS, 1.0, "boilerplate").captions) == set(BOILERPLATE)


def test_a_text_filter_drops_shared_short_long_and_rare_texts():
    texts = ["the same old text"] * 3 + ["The same, old text!", "too short", "a b c d e f", "one rare unicorn here"]
    assert text_filter(texts, most_shared=3, longest=5).tolist() == [False] * 6 + [True]
    assert text_filter(texts, most_shared=4, longest=5).tolist() == [True] * 4 + [False, False, True]
    common = ["a red cat", "a red cat sat", "a red dog", "a cat dog"]
    assert text_filter(common, frequent=4).tolist() == [True, False, True, True]


def test_a_text_filter_finds_boilerplate_and_no_mismatched_caption():
    clean = [text for text in CAPTIONS if text_filter([text])[0]]
    dull, moved = noisy_captions(clean, 0.5, "boilerplate"), noisy_captions(clean, 0.5, "mismatched")
    assert not text_filter(dull.captions)[dull.noisy].any() and text_filter(moved.captions).all()


def test_a_similarity_filter_keeps_the_nearest_pairs():
    image = torch.eye(4)
    text = torch.tensor([[1.0, 0, 0, 0], [9, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 5]])
    assert similarity_filter(image, text, 0.5).tolist() == [True, False, False, True]
    assert similarity_filter(image, text, 1.0).all() and similarity_filter(image, text, 0.01).sum() == 1


def test_a_similarity_filter_ranks_half_precision_in_single():
    image, text = rows(400, 0, 64).half(), rows(400, 1, 64).half()
    assert torch.equal(similarity_filter(image, text, 0.5), similarity_filter(image.float(), text.float(), 0.5))


def test_text_filters_may_keep_none_and_count_equal_words_in_any_spelling():
    assert text_filter(["a"]).tolist() == [False] and text_filter(["..."], shortest=0).all()
    assert text_filter(["A red car", "a RED car.", "it\u2019s a car", "it's a car"], 1).tolist() == [False] * 4


def test_a_combined_query_is_the_direction_of_a_weighted_sum():
    image, text = rows(3, 0), rows(3, 1)
    for weight in (0.0, 0.3, 1.0):
        expected = unit_vectors((1 - weight) * unit_vectors(image) + weight * unit_vectors(text))
        torch.testing.assert_close(combined_query(5 * image, 0.1 * text, weight), expected)
        torch.testing.assert_close(combined_query(image, text[:1], weight)[1:2],
                                   combined_query(image[1:2], text[:1], weight))
    torch.testing.assert_close(combined_query(image, text), unit_vectors(unit_vectors(image) + unit_vectors(text)))


def test_a_combined_query_finds_what_neither_part_finds():
    "A space of three colours and three scenes: scene 1 in colour 0, asked for in colour 2."
    table = torch.cat([torch.eye(3).repeat_interleave(3, 0), torch.eye(3).repeat(3, 1)], 1)  # row 3 * colour + scene
    query = combined_query(table[1:2], torch.tensor([[0.0, 0, 1, 0, 0, 0]]), 0.6)
    scores = (query @ unit_vectors(table).T)[0]
    assert scores.argmax() == 3 * 2 + 1
    assert (table[1] @ unit_vectors(table).T).argmax() == 1, "the picture alone finds itself"


def test_opposite_vectors_make_no_query():
    image = rows(3, 0)
    with pytest.raises(ValueError, match="opposite directions in row 0"):
        combined_query(image, -image)
    assert torch.isfinite(combined_query(image, -image, 0.4)).all()


def test_an_exchange_rate_is_read_from_a_curve_over_the_log_of_sizes():
    sizes = [100, 200, 400, 800]
    rate = exchange_rate(sizes, [0.1, 0.25, 0.3, 0.5], sizes, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(rate, [1, math.sqrt(2), 1, np.inf])
    np.testing.assert_allclose(exchange_rate(sizes, [0.1] * 4, sizes, [0.2, 0.3, 0.4, 0.5]), [1, 0.5, 0.25, 0.125])
    falls = exchange_rate([100], [0.2], sizes, [0.1, 0.3, 0.2, 0.4])
    np.testing.assert_allclose(falls, math.sqrt(2), err_msg="the first size that gets there")
    stands = exchange_rate([100], [0.3], sizes, [0.1, 0.3, 0.3, 0.4])
    np.testing.assert_allclose(stands, 2)


@pytest.mark.parametrize("call, sentence", [
    (lambda x: align_loss(x, x[:3], 1.0), "text_features must be of shape"),
    (lambda x: align_loss(x, x, 0), "scale must be"), (lambda x: align_loss(x, x, 1.0, 1.0), "label_smoothing must be"),
    (lambda x: noisy_captions(CAPTIONS, 30), "share must be"), (lambda x: noisy_captions([], 0.5), "captions must be"),
    (lambda x: noisy_captions(["a"], 0.5), "two at least"),
    (lambda x: noisy_captions(CAPTIONS, 0.5, "typos"), "kind must be one of"),
    (lambda x: text_filter(CAPTIONS, shortest=5, longest=4), "longest must be"),
    (lambda x: similarity_filter(x, x, 0), "share must be"),
    (lambda x: combined_query(x, x[:2]), "text_features must be of shape"),
    (lambda x: combined_query(x, x, 1.5), "weight must be"),
    (lambda x: combined_query(x * torch.tensor([[0.0]] + [[1.0]] * 4), x), r"image_features\[0\] must be finite"),
    (lambda x: combined_query(x, x[:1] * torch.nan), r"text_features\[0\] must be finite"),
    (lambda x: similarity_filter(x, x[:2], 0.5), "text_features must be of shape"),
    (lambda x: exchange_rate([2, 1], [1, 2], [1, 2], [1, 2]), "clean_sizes must increase"),
    (lambda x: exchange_rate([1, 2], [1, 2], [1, 2], [1, np.nan]), "noisy must be finite"),
    (lambda x: exchange_rate([1, 2], [1], [1, 2], [1, 2]), "clean"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(rows(5, 0))


def test_other_precisions_and_several_scales_are_refused():
    with pytest.raises(TypeError, match="text_features must be"):
        align_loss(rows(4, 0), rows(4, 1).float(), 1.0)
    with pytest.raises(TypeError, match="scale must be"):
        align_loss(rows(4, 0), rows(4, 1), torch.ones(2))
