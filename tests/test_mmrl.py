"""MMRL and MMRL++: where tokens stand, what is frozen, what the two have in common, and bad input."""
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from xfer_course.clip import CLIP, CLIPConfig, tiny_clip, tiny_vit_clip
from xfer_course.peft import load_trained, save_trained
from xfer_course.visionlanguage import (
    MMRL,
    LayerProjections,
    MMRLOutput,
    MMRLPlusPlus,
    ResidualProjection,
    SharedProjections,
    SpaceTokens,
    fit_mmrl,
    frozen_features,
    lower_states,
    mmrl_loss,
    mmrl_output,
    mmrl_text,
    through_blocks,
)

NAMES = ["cat", "fish", "boat"]


def small_clip() -> CLIP:
    "Towers of three layers that a test trains in no time; two letters are a class's name."
    torch.manual_seed(0)
    clip = CLIP(CLIPConfig(embed_dim=6, image_resolution=8, vision_layers=3, vision_width=8, vision_patch_size=4,
                           context_length=8, vocab_size=40, transformer_width=8, transformer_heads=2,
                           transformer_layers=3, vision_heads=2))
    clip.tokenizer = lambda texts: torch.tensor([[38, *(1 + ord(letter) % 30 for letter in text[-3:-1]), 39]
                                                 for text in texts])
    return clip


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# --- tokens in the layers


def test_tokens_stand_behind_the_first_position_and_are_replaced():
    seen = []

    def block(x, causal):
        seen.append(x.clone())
        return x + 1

    x = torch.zeros(2, 3, 4)
    out = through_blocks([block] * 3, x, [torch.full((2, 4), 5.0), torch.full((2, 4), 7.0)])
    assert [tuple(each.shape) for each in seen] == [(2, 5, 4)] * 3
    assert seen[0][0, :, 0].tolist() == [0, 5, 5, 0, 0]
    assert seen[1][0, :, 0].tolist() == [1, 7, 7, 1, 1]
    assert seen[2][0, :, 0].tolist() == [2, 8, 8, 2, 2] and out[0, :, 0].tolist() == [3, 9, 9, 3, 3]


def test_beta_is_the_share_of_the_new_tokens():
    seen = []

    def block(x, causal):
        seen.append(x.clone())
        return x + 1

    through_blocks([block] * 2, torch.zeros(1, 2, 1), [torch.full((1, 1), 4.0), torch.full((1, 1), 10.0)], beta=0.75)
    assert seen[0][0, :, 0].tolist() == [0, 4, 0] and seen[1][0, 1, 0].item() == 0.75 * 10 + 0.25 * 5


def test_words_see_the_tokens_and_nothing_behind_them():
    clip = small_clip()
    blocks, x = clip.transformer.resblocks, torch.randn(1, 4, 8)
    tokens = [torch.randn(2, 8, requires_grad=True) for _ in blocks]
    out = through_blocks(blocks, x.requires_grad_(), tokens, causal=True)
    by_word, by_token = torch.autograd.grad(out[0, 3].sum(), (x, tokens[-1]))
    assert by_token.abs().sum() > 0 and by_word[0, 1].abs().sum() > 0  # position 3 is word 1
    assert by_word[0, 2:].abs().sum() == 0


# --- what is frozen


def test_the_cut_gives_what_clip_gives():
    clip = small_clip()
    for layers in ((), (3,), range(1, 4), None):
        model = MMRL(clip, NAMES, dim=4, image_layers=layers)
        torch.testing.assert_close(frozen_features(model, lower_states(model, images(3))),
                                   F.normalize(clip.encode_image(images(3)), dim=1))
    tokens = clip.tokenizer([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(model.text_before, F.normalize(clip.encode_text(tokens), dim=1))


def test_text_features_are_read_at_the_moved_end():
    "Each name alone, its sequence ending at its end token, gives the row that all names together give."
    clip = small_clip()
    model = MMRL(clip, NAMES, dim=4, text_layers=(2, 3))
    tokens = model.tokens.text(model.tokens.space)
    for row, state, end in zip(mmrl_text(model), model.text_states, model.ends):
        alone = through_blocks(clip.transformer.resblocks[1:], state[None, : end + 1], tokens, causal=True)[:, -1]
        torch.testing.assert_close(row, F.normalize(clip.ln_final(alone) @ clip.text_projection, dim=1)[0])


def test_training_changes_what_is_learned_and_nothing_else():
    clip = small_clip()
    before = {name: p.clone() for name, p in clip.state_dict().items()}
    model = MMRL(clip, NAMES, dim=4)
    start = [p.clone() for p in model.parameters() if p.requires_grad]
    fit_mmrl(model, images(6), torch.tensor([0, 1, 2] * 2), epochs=3, batch_size=3, lr=0.01)
    assert all(torch.equal(p, before[name]) for name, p in clip.state_dict().items())
    assert all(not torch.equal(a, b) for a, b in zip(start, (p for p in model.parameters() if p.requires_grad)))


def test_kept_states_and_pixels_that_do_not_change_train_the_same_model():
    found = []
    for augment in (None, lambda x: x):
        model = MMRL(small_clip(), NAMES, dim=4)
        fit_mmrl(model, images(6), torch.tensor([0, 1, 2] * 2), epochs=2, batch_size=3, augment=augment)
        found.append(model.tokens.space.detach())
    torch.testing.assert_close(*found)


def test_a_seed_decides_the_start_and_leaves_the_random_numbers_alone():
    clip = small_clip()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, same, other = (MMRL(clip, NAMES, dim=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one.tokens.space, same.tokens.space) and not torch.equal(one.tokens.space, other.tokens.space)


# --- what the model says


def test_both_features_are_mixed_and_the_loss_adds_both_turns():
    model = MMRL(small_clip(), NAMES, dim=4, alpha=0.6, reg=2.0, scale=10)
    out, labels = model(images(4)), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(out.fused, 0.6 * out.logits + 0.4 * out.logits_rep)
    torch.testing.assert_close(out.logits, 10 * out.image @ out.text.T)
    before = frozen_features(model, lower_states(model, images(4)))
    turned = 2 - (out.image * before).sum(1).mean() - (out.text * model.text_before).sum(1).mean()
    expected = 0.6 * F.cross_entropy(out.logits, labels) + 0.4 * F.cross_entropy(out.logits_rep, labels) + 2 * turned
    torch.testing.assert_close(model.loss(images(4), labels), expected)
    assert torch.equal(model.loss(images(4), labels, before), model.loss(images(4), labels))
    elsewhere = F.normalize(before.flip(0) + 1, dim=1)
    assert not torch.equal(model.loss(images(4), labels, elsewhere), model.loss(images(4), labels))


def test_without_tokens_in_the_image_tower_there_is_one_feature():
    model = MMRL(small_clip(), NAMES, dim=4, image_layers=())
    out = model(images(2))
    assert out.rep is None and out.logits_rep is None and torch.equal(out.fused, out.logits)
    assert torch.isfinite(model.loss(images(2), torch.tensor([0, 1])))


def test_predictions_of_novel_classes_use_the_class_feature():
    model = MMRL(small_clip(), NAMES, dim=4)
    out = model(images(30))
    assert torch.equal(model.predict(images(30), batch_size=7), out.fused.argmax(1))
    assert torch.equal(model.predict(images(30), novel=True), out.logits.argmax(1))
    assert not torch.equal(out.fused.argmax(1), out.logits.argmax(1)), "the example cannot tell them apart"


def test_other_classes_share_what_is_learned():
    model = MMRL(small_clip(), NAMES, dim=4)
    other = model.for_classes(["bird", "tree"])
    assert other.tokens is model.tokens and model.text_before.shape[0] == 3 and other.text_before.shape[0] == 2
    assert other(images(2)).logits.shape == (2, 2) and model(images(2)).logits.shape == (2, 3)
    with torch.no_grad():
        model.tokens.space.add_(1)
    assert torch.equal(other(images(2)).image, model(images(2)).image)


@pytest.mark.parametrize("kind", (MMRL, MMRLPlusPlus))
def test_loaded_weights_of_another_clip_renew_what_is_kept_for_the_names(kind):
    model, other = kind(small_clip(), NAMES, dim=4), small_clip()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    again = kind(other, NAMES, dim=4, seed=5).double().float()  # what shared memory with the CLIP does so no longer
    assert not torch.equal(again.text_before, model.text_before)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.text_before, model.text_before)
    assert torch.equal(again(images(4)).fused, model(images(4)).fused)


def test_names_that_were_given_before_the_model_changed_its_type_follow():
    model = MMRL(small_clip(), NAMES, dim=4)
    other = model.for_classes(["bird", "tree"])
    model.double()
    assert other(images(2).double()).logits.dtype == torch.double


def test_an_augmented_run_needs_no_states_in_advance():
    seen = []
    model = MMRL(small_clip(), NAMES, dim=4)
    model.clip.visual.conv1.register_forward_pre_hook(lambda part, given: seen.append(len(given[0])))
    fit_mmrl(model, images(6), torch.tensor([0, 1, 2] * 2), epochs=1, batch_size=3, augment=lambda x: x)
    assert seen == [3, 3]


def test_labels_may_be_small_integers_and_turns_are_seen_in_half_precision():
    model = MMRL(small_clip(), NAMES, dim=4)
    labels = torch.tensor([0, 1])
    assert torch.equal(model.loss(images(2), labels.int()), model.loss(images(2), labels))
    out = model(images(2))._replace(image=F.normalize(torch.tensor([[1.0, 0.02] + 4 * [0.0]] * 2), dim=1).bfloat16())
    before = torch.eye(6)[:1].expand(2, -1).bfloat16()
    lossy, without = (mmrl_loss(out, labels, before, out.text.detach(), reg=reg) for reg in (1e3, 0.0))
    assert 0.1 < lossy - without < 0.3  # 1000 times 0.0002; bfloat16 would round the cosine to 1


def test_what_was_trained_is_saved_alone_and_comes_back(tmp_path):
    for kind in (MMRL, MMRLPlusPlus):
        model = kind(small_clip(), NAMES, dim=4)
        fit_mmrl(model, images(6), torch.tensor([0, 1, 2] * 2), epochs=2, batch_size=3, lr=0.01)
        save_trained(model, tmp_path / kind.__name__)
        again = kind(small_clip(), NAMES, dim=4, seed=5)
        load_trained(again, tmp_path / kind.__name__)
        assert torch.equal(model(images(4)).fused, again(images(4)).fused)


# --- MMRL++


def test_released_sizes_have_the_counted_weights():
    def count(projections):
        tokens = SpaceTokens(5, 512, (768, 7), (512, 7), projections)
        return sum(p.numel() for p in tokens.parameters())

    assert count(LayerProjections) + 768 * 512 == 4_992_256
    assert count(SharedProjections) + 64 * (768 + 512) == 813_312


def test_with_maps_of_their_own_and_no_memory_it_is_mmrl():
    plus = MMRLPlusPlus(small_clip(), NAMES, dim=4, beta=1.0, rank=2, rep_rank=2)
    plain = MMRL(small_clip(), NAMES, dim=4)
    with torch.no_grad():
        for tower in ("image", "text"):
            shared = getattr(plus.tokens, tower)
            shared.down.normal_()
            for i, project in enumerate(getattr(plain.tokens, tower)):
                project.weight.copy_(shared.weight + shared.up[i] @ shared.down[i])
                project.bias.copy_(shared.bias[i])
        plain.tokens.space.copy_(plus.tokens.space)
        plus.proj_rep.down.normal_()
        plain.proj_rep.weight.copy_((plus.proj_rep.start + plus.proj_rep.up @ plus.proj_rep.down).T)
    for ours, theirs in zip(plus(images(3)), plain(images(3))):
        torch.testing.assert_close(ours, theirs)


def test_the_new_feature_starts_at_clips_map_and_all_layers_alike():
    clip = small_clip()
    model = MMRLPlusPlus(clip, NAMES, dim=4)
    assert torch.equal(model.proj_rep(torch.eye(8)), clip.visual.proj)
    first, *others = model.tokens.image(model.tokens.space)
    assert all(torch.equal(first, each) for each in others)
    with torch.no_grad():
        model.tokens.image.down[1] += 1
    moved = model.tokens.image(model.tokens.space)
    assert torch.equal(moved[0], first) and not torch.equal(moved[1], first)


# --- bad input


@pytest.mark.parametrize("options, sentence", (
    ({"image_layers": (1, 3)}, "image_layers must be layers that follow each other"),
    ({"text_layers": (3, 4)}, "text_layers.* must be .*3"),
    ({"image_layers": (0,)}, "image_layers"),
    ({"alpha": 1.5}, "alpha"), ({"reg": -1}, "reg"), ({"scale": 0}, "scale"), ({"n_tokens": 0}, "n_tokens"),
    ({"dim": 2.5}, "dim"), ({"seed": -1}, "seed"), ({"template": "a photo"}, "template must have one {}"),
    ({"template": "{} or {}"}, "template must have one {}"), ({"template": "{0} of {}"}, "template must have one {}"),
))
def test_misfits_are_named(options, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        MMRL(small_clip(), NAMES, **{"dim": 4, **options})


def test_a_clip_with_a_resnet_is_refused():
    with pytest.raises(ValueError, match="Vision Transformer"):
        MMRL(tiny_clip(), NAMES)


@pytest.mark.parametrize("options, sentence", (({"rank": 0}, "rank"), ({"beta": 1.1}, "beta"),
                                              ({"rep_rank": -2}, "rep_rank")))
def test_misfits_of_the_second_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MMRLPlusPlus(small_clip(), NAMES, dim=4, **options)


def test_images_labels_and_states_that_do_not_fit_are_named():
    model = MMRL(small_clip(), NAMES, dim=4)
    for call, sentence in (
        (lambda: model(torch.rand(2, 3, 9, 9)), "images"), (lambda: model.predict([1]), "images"),
        (lambda: mmrl_output(model, torch.rand(2, 5, 7)), "states"),
        (lambda: frozen_features(model, torch.rand(2, 7)), "states"),
        (lambda: frozen_features(model, torch.rand(2, 7, 8)), "states"),
        (lambda: model(images(2).double()), "images must be torch.float32"),
        (lambda: mmrl_output(model, lower_states(model, images(2)), torch.rand(2, 6)), "text must be"),
        (lambda: MMRL(small_clip(), NAMES, tokenizer=lambda texts: torch.tensor([[1, 39]])), "what tokenizer gives"),
        (lambda: model.loss(images(2), torch.tensor([0, 3])), "labels"),
        (lambda: model.loss(images(2), torch.tensor([0, 1]), torch.rand(3, 6)), "image_before"),
        (lambda: fit_mmrl(model, images(2), torch.tensor([0])), "labels"),
        (lambda: fit_mmrl(model, images(2), torch.tensor([0, 1]), epochs=0), "epochs"),
        (lambda: mmrl_loss(model(images(2)), torch.tensor([0, 1]), torch.rand(3, 6), model.text_before),
         "image_before"),
        (lambda: through_blocks([], torch.rand(1, 2, 3), [torch.rand(1, 3)]), "tokens"),
        (lambda: ResidualProjection(torch.rand(3), 2), "start"),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            call()


def test_the_shipped_clip_can_be_adapted_and_keeps_its_types():
    model = MMRL(tiny_vit_clip(), NAMES, dim=4, scale=None)
    out = model(torch.randn(2, 3, 64, 64))
    assert isinstance(out, MMRLOutput) and out.fused.dtype == torch.float32
    assert model.scale == pytest.approx(model.clip.logit_scale.exp().item())
