"""CLIP's objectives: words against a loop, scores of names, wordings, robustness at equal accuracy, and bad input."""
from __future__ import annotations

import math

import pytest
import torch

from xfer_course.clip import contrastive_loss, tiny_clip, zero_shot_weights
from xfer_course.data import pictures
from xfer_course.training import train, unit_vectors
from xfer_course.visionlanguage import (
    ToyTowers,
    bag_of_words_loss,
    caption_words,
    effective_robustness,
    prompt_table,
    vocabulary,
    word_bags,
    word_zero_shot,
)


def numbers(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940"  # letters and vowel signs in turn
BAGS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]])


def test_words_are_small_and_without_signs():
    assert caption_words("A photo, of 2 Cats; it's ÉTÉ.") == ["a", "photo", "of", "2", "cats", "it's", "été"]


@pytest.mark.parametrize("caption, words", [
    ("it\u2019s a cafe\u0301", ["it's", "a", "caf\u00e9"]),  # a typographic sign, an accent stored on its own
    ("\u0130stanbul", ["i\u0307stanbul"]), (HINDI, [HINDI]),
    ("'red' dogs' rock'n'roll", ["red", "dogs", "rock'n'roll"]), ("...", []),
])
def test_a_word_is_one_however_it_is_stored(caption, words):
    assert caption_words(caption) == words
    assert [caption_words(word) for word in words] == [[word] for word in words]


def test_captions_without_words_are_named_as_such():
    with pytest.raises(ValueError, match="captions must hold a word"):
        vocabulary(["...", "!"])


def test_a_vocabulary_counts_captions_and_not_occurrences():
    assert vocabulary(["b b b a", "a c", "c a"]) == ["a", "c", "b"]
    assert vocabulary(["b b b a", "a c", "c a"], least=2) == ["a", "c"]


def test_bags_hold_each_known_word_once():
    assert word_bags(["A cat, a cat", "dog!"], ["cat", "a", "bird"]).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_softmax_form_is_the_mean_over_the_words_of_each_caption():
    logits, total = numbers(3, 4), 0.0
    for row, bag in zip(logits.tolist(), BAGS.tolist()):
        whole = sum(math.exp(z) for z in row)
        own = [-math.log(math.exp(z) / whole) for z, held in zip(row, bag) if held]
        total += sum(own) / len(own) / 3
    assert abs(bag_of_words_loss(logits, BAGS).item() - total) < 1e-12


def test_sigmoid_form_is_the_mean_over_all_words():
    logits, total = numbers(3, 4), 0.0
    for row, bag in zip(logits.tolist(), BAGS.tolist()):
        total -= sum(math.log(1 / (1 + math.exp(-z if held else z))) for z, held in zip(row, bag)) / 12
    assert abs(bag_of_words_loss(logits, BAGS, "sigmoid").item() - total) < 1e-12


@pytest.mark.parametrize("form", ("softmax", "sigmoid"))
@pytest.mark.parametrize("kind", (torch.bool, torch.long, torch.float))
def test_bags_of_any_kind_of_number_give_one_loss(form, kind):
    logits = numbers(3, 4).requires_grad_()
    loss = bag_of_words_loss(logits, BAGS.to(kind), form)
    torch.testing.assert_close(loss, bag_of_words_loss(logits, BAGS.double(), form))
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


@pytest.mark.parametrize("form", ("softmax", "sigmoid"))
def test_half_precision_is_near_single(form):
    logits = 5 * numbers(3, 4)
    found = bag_of_words_loss(logits.half(), BAGS, form)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, bag_of_words_loss(logits.float(), BAGS, form), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("form", ("softmax", "sigmoid"))
def test_a_word_ruled_out_costs_nothing_where_no_caption_holds_it(form):
    logits, bags = numbers(3, 4), BAGS.double() * torch.tensor([1, 1, 1, 0])
    logits[:, 3] = -torch.inf
    logits.requires_grad_()
    loss = bag_of_words_loss(logits, bags, form)
    others = bag_of_words_loss(logits.detach()[:, :3], bags[:, :3], form)
    torch.testing.assert_close(loss, others if form == "softmax" else others * 3 / 4)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[:, :3].abs().min() > 0
    scores = word_zero_shot(logits.detach(), torch.eye(4)[:3], form)
    assert torch.isfinite(scores).all()


def test_scores_of_half_precision_and_under_autocast_are_computed_in_single():
    logits = (9 * numbers(3, 4)).half()
    expected = word_zero_shot(logits.float(), BAGS)
    assert torch.equal(word_zero_shot(logits, BAGS), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(word_zero_shot(logits.float(), BAGS), expected)


def test_a_blind_softmax_network_is_undecided_with_the_frequencies_of_its_targets():
    captions = ["a"] + ["a b c d"] * 3 + ["b"]  # of other lengths: shares of captions are other numbers
    bags = word_bags(captions, ["a", "b", "c", "d"])
    blind = (bags / bags.sum(1, keepdim=True)).mean(0).log()[None]
    torch.testing.assert_close(word_zero_shot(blind, torch.eye(4), prior=blind[0]), torch.zeros(1, 4))
    assert word_zero_shot(blind, torch.eye(4), prior=bags.mean(0).log()).std() > 0.1
    gradient = torch.autograd.functional.jacobian(lambda z: bag_of_words_loss(z.expand(5, 4), bags), blind)
    torch.testing.assert_close(gradient, torch.zeros(1, 4), msg="no other constant answer has a smaller loss")


def test_a_name_scores_the_mean_of_its_words():
    logits = numbers(3, 4)
    names = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0]])
    logs = logits.log_softmax(1)
    expected = torch.stack([logs[:, 0], (logs[:, 1] + logs[:, 2]) / 2], 1)
    torch.testing.assert_close(word_zero_shot(logits, names), expected)
    logs = torch.nn.functional.logsigmoid(logits)
    expected = torch.stack([logs[:, 0], (logs[:, 1] + logs[:, 2]) / 2], 1)
    torch.testing.assert_close(word_zero_shot(logits, names, "sigmoid"), expected)


def test_a_frequent_word_loses_its_lead_when_frequencies_are_taken_off():
    "A network that has learned how frequent words are and nothing of the picture is undecided then."
    shares = torch.tensor([0.9, 0.1, 0.1, 0.4], dtype=torch.double)
    names, prior = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]), shares.log()
    blind = (shares.log() - 3).expand(2, 4)  # up to a constant, which a softmax does not see
    assert word_zero_shot(blind, names).argmax(1).tolist() == [0, 0]
    undecided = word_zero_shot(blind, names, prior=prior)
    torch.testing.assert_close(undecided, undecided[:, :1].expand(2, 3))
    saw = blind + torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert word_zero_shot(saw, names, prior=prior).argmax(1).tolist() == [1, 1]
    plain = word_zero_shot(saw, names)
    own = torch.stack([prior[0], prior[1], (prior[2] + prior[3]) / 2])
    torch.testing.assert_close(word_zero_shot(saw, names, prior=prior), plain - own)


def test_sharing_the_targets_of_equal_texts_changes_no_loss():
    image, text = numbers(8, 5), numbers(4, 5, 1).repeat_interleave(2, 0)
    pairs = torch.arange(4).repeat_interleave(2)
    torch.testing.assert_close(contrastive_loss(image, text, 7.0), contrastive_loss(image, text, 7.0, pairs))


def test_word_vectors_are_averaged_so_that_length_means_nothing():
    towers = ToyTowers(3, dim=4)
    both = towers.encode_words(torch.tensor([[1.0, 1, 0]]))
    one, other = towers.encode_words(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    torch.testing.assert_close(both[0], (one + other) / 2)


@pytest.mark.parametrize("kind", ("matching", "softmax", "sigmoid"))
def test_every_loss_teaches_colours_better_than_chance(kind):
    words = ["red", "green", "blue"]
    drawn = pictures(240, 0, 16, colour=words, size="large", style="photo", count=1)
    labels = torch.tensor([words.index(drawn.factors.names(i)["colour"]) for i in range(240)])
    bags = torch.eye(3)[labels]
    torch.manual_seed(0)
    towers = ToyTowers(3, width=8)

    def loss(images, held):
        if kind != "matching":
            return bag_of_words_loss(towers.head(towers.features(images)), held, kind)
        return contrastive_loss(towers.encode_image(images), towers.encode_words(held), 10.0, held.argmax(1))

    train(towers, drawn.images[:160], bags[:160], rate=1e-2, steps=60, batch_size=32, loss=loss)
    with torch.no_grad():
        features, classes = towers.eval().features(drawn.images[160:]), word_bags(words, words)
        scores = (towers.projection(features) @ unit_vectors(towers.encode_words(classes)).T if kind == "matching"
                  else word_zero_shot(towers.head(features), classes, kind))
    assert (scores.argmax(1) == labels[160:]).double().mean() > 0.6


def test_a_table_of_prompts_holds_what_each_weight_matrix_reaches():
    clip, names, templates = tiny_clip(), ["cat", "car", "house"], ["a photo of a {}.", "{}", "many {}"]
    features, labels = numbers(50, 128).float(), torch.arange(50) % 3
    table = prompt_table(clip, names, templates, features, labels)

    def reached(weights):
        return float(((unit_vectors(features) @ weights.T).argmax(1) == labels).double().mean())

    assert table.single == {each: reached(zero_shot_weights(clip, names, each)) for each in templates}
    assert table.features == reached(zero_shot_weights(clip, names, templates))
    one = prompt_table(clip, names, templates[:1], features, labels)
    assert one.features == one.probabilities == table.single[templates[0]]


def test_a_table_of_prompts_takes_half_precision_and_small_labels_as_they_are():
    clip, names, templates = tiny_clip(), ["cat", "car", "house"], ["a photo of a {}.", "{}"]
    features, labels = numbers(1500, 128).half(), torch.arange(1500) % 3
    expected = prompt_table(clip, names, templates, features.float(), labels)
    for kind in (torch.int64, torch.int32, torch.uint8):
        assert prompt_table(clip, names, templates, features, labels.to(kind)) == expected
    for given in (labels.tolist(), labels.numpy()):
        with pytest.raises(TypeError, match="labels must be a tensor"):
            prompt_table(clip, names, templates, features, given)


def test_a_model_on_the_line_of_its_baselines_has_no_effective_robustness():
    def on_line(a):
        return 1 / (1 + math.exp(-(0.8 * math.log(a / (1 - a)) - 1)))

    baselines = [0.3, 0.5, 0.8]
    found = effective_robustness(0.65, on_line(0.65), baselines, [on_line(a) for a in baselines])
    assert abs(found) < 1e-9
    found = effective_robustness(0.65, on_line(0.65) + 0.1, baselines, [on_line(a) for a in baselines])
    assert abs(found - 0.1) < 1e-9


def test_a_steep_line_of_baselines_gives_a_number_without_a_warning(recwarn):
    assert effective_robustness(0.01, 0.4, [0.9, 0.9001], [0.1, 0.8]) == pytest.approx(0.4)
    assert not recwarn.list


def test_other_precisions_are_refused_by_name():
    towers = ToyTowers(3)
    with pytest.raises(TypeError, match="images must be torch.float32"):
        towers.features(torch.zeros(1, 3, 16, 16, dtype=torch.double))
    with pytest.raises(TypeError, match="bags must be torch.float32"):
        towers.encode_words(torch.eye(3).double())


def test_a_smaller_drop_at_lower_accuracy_need_not_be_robust():
    assert effective_robustness(0.4, 0.25, [0.4, 0.9], [0.3, 0.7]) < 0


@pytest.mark.parametrize("call, sentence", [
    (lambda x: bag_of_words_loss(x, BAGS[:2]), "bags must be of shape"),
    (lambda x: bag_of_words_loss(x, 2 * BAGS), "bags must hold zeros and ones"),
    (lambda x: bag_of_words_loss(x, 0 * BAGS), "bags must hold a word in every row, got none in row 0"),
    (lambda x: bag_of_words_loss(x, BAGS, "logistic"), "form must be one of"),
    (lambda x: word_zero_shot(x, BAGS[:, :3]), "class_words must be of shape"),
    (lambda x: word_zero_shot(x, 0 * BAGS), "class_words must hold a word in every row"),
    (lambda x: word_zero_shot(x, 2 * BAGS), "class_words must hold zeros and ones"),
    (lambda x: word_zero_shot(x, BAGS * torch.nan), "class_words must hold zeros and ones"),
    (lambda x: word_bags(["a red cat"], ["Red"]), "words must be single, in small letters .* got 'Red'"),
    (lambda x: word_bags(["a red cat"], ["a", "red cat"]), "words must be single"),
    (lambda x: vocabulary(["a b"], 2), "least must be"), (lambda x: word_bags(["a"], ["a", "a"]), "'a' twice"),
    (lambda x: ToyTowers(3, pixels=20), "pixels must be"), (lambda x: ToyTowers(3).features(x), "images must be"),
    (lambda x: effective_robustness(1.0, 0.5, [0.2, 0.3], [0.1, 0.2]), "clean must be"),
    (lambda x: effective_robustness(0.5, 0.5, [0.2, 0.2], [0.1, 0.2]), "two different accuracies"),
    (lambda x: effective_robustness(0.5, 0.5, [0.2, 0.3], [0.1, 1.2]), "baseline_shifted must lie"),
    (lambda x: effective_robustness(0.5, 0.5, [0.2, 0.3], [0.1]), "baseline_shifted"),
    (lambda x: prompt_table(tiny_clip(), ["a", "b"], ["{}", "{}"], x, torch.zeros(3)), "templates must be different"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(numbers(3, 4))
