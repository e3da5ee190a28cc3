"""ScaLearn: exact cases, counts, what is trained, folding, sources, refusals."""
from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.peft import (
    Adapter,
    AdapterFusion,
    Bottleneck,
    Combination,
    LoRA,
    ScaLearn,
    TokenTransformer,
    combine,
    digit_source,
    digit_task,
    fold_,
    inject,
    injected,
    learned_scales,
    load_trained,
    save_trained,
    train_on,
    trainable_parameters,
)
from xfer_course.training import seed_everything

UNIFORM = partial(ScaLearn, form="uniform", dropout=0.0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def source(base: nn.Module, seed: int, config=None, where: str = "*.mlp") -> nn.Module:
    "A copy of a network with adapters that are not zero."
    network = copy.deepcopy(base)
    inject(network, config or Adapter(3, "parallel", 4.0), where)
    torch.manual_seed(seed)
    for _, update in injected(network):
        for each in update.parameters():
            nn.init.normal_(each, 0, 0.3)
    return network


@pytest.fixture(scope="module")
def base() -> nn.Module:
    seed_everything(0)
    return TokenTransformer(layers=2).eval()


@pytest.fixture(scope="module")
def sources(base) -> list[nn.Module]:
    return [source(base, seed) for seed in range(3)]


# The rule

def test_one_residual_whatever_the_scales():
    rule, residual = ScaLearn(3, 4).eval(), normal(2, 5, 4)
    torch.testing.assert_close(rule(torch.zeros(2, 5, 3, 4), residual), residual)


def test_a_uniform_scale_is_a_vector_of_equal_scales():
    uniform, vector, outputs = ScaLearn(3, 4, "uniform").eval(), ScaLearn(3, 4).eval(), normal(2, 5, 3, 4)
    vector.omega.data = uniform.omega.data.expand(3, 4).clone()
    torch.testing.assert_close(vector(outputs, normal(2, 5, 4)), uniform(outputs, normal(2, 5, 4)))


@pytest.mark.parametrize("form", ["vector", "uniform"])
def test_scales_begin_near_two_over_the_number_of_adapters(form):
    omega = ScaLearn(5, 64, form).omega
    assert (omega - 0.4).abs().max() < 0.006 and (form == "uniform" or 5e-4 < omega.std() < 2e-3)


def test_dropout_falls_on_scales_and_not_in_evaluation():
    rule, outputs, residual = ScaLearn(400, 1, dropout=0.3), torch.eye(400)[..., None], torch.zeros(400, 1)
    found = rule(outputs, residual) / rule.omega  # row t is adapter t alone
    kept = found[found != 0]
    assert 0.6 < len(kept) / 400 < 0.8
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    torch.testing.assert_close(rule.eval()(outputs, residual), rule.omega)


@pytest.mark.parametrize("normalise", ["mean", "softmax"])
def test_both_ablations_sum_to_one_for_every_feature(normalise):
    rule = ScaLearn(4, 6, normalise=normalise, dropout=0.0)
    torch.nn.init.uniform_(rule.omega, 0.1, 2)
    torch.testing.assert_close(rule.scales().sum(0), torch.ones(6))


def test_a_step_is_that_of_a_naive_reference():
    rule, outputs, residual, target = ScaLearn(3, 4, dropout=0.0), normal(7, 3, 4), normal(7, 4), normal(7, 4, seed=1)
    omega = rule.omega.detach().clone()
    F.mse_loss(rule(outputs, residual), target).backward()
    torch.optim.SGD(rule.parameters(), lr=0.1).step()
    error = residual + sum(omega[t] * outputs[:, t] for t in range(3)) - target
    slope = torch.stack([(2 * error * outputs[:, t]).sum(0) for t in range(3)]) / error.numel()
    torch.testing.assert_close(rule.omega.detach(), omega - 0.1 * slope)


def test_fusion_begins_near_the_mean_and_its_weights_sum_to_one():
    fusion, outputs, residual = AdapterFusion(6).eval(), normal(2, 5, 3, 6), normal(2, 5, 6)
    torch.testing.assert_close(fusion.weights(outputs, residual).sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(fusion(outputs, residual), residual + outputs.mean(-2), atol=0.05, rtol=0)


def test_a_temperature_falls_while_training_only():
    fusion = AdapterFusion(4, hot=True)
    fusion.eval()(normal(2, 3, 4), normal(2, 4))
    assert fusion.temperature == 50
    fusion.train()
    for _ in range(981):
        fusion(normal(2, 3, 4), normal(2, 4))
    assert fusion.temperature == 1


def test_a_temperature_travels_with_the_weights():
    fusion, again = AdapterFusion(4, hot=True), AdapterFusion(4, hot=True).eval()
    outputs, residual = normal(2, 3, 4), normal(2, 4)
    for _ in range(100):
        fusion(outputs, residual)
    again.load_state_dict(fusion.bfloat16().float().state_dict())  # it is a whole number, which no precision rounds
    assert again.temperature == pytest.approx(45) and "steps" not in AdapterFusion(4).state_dict()
    assert torch.equal(again(outputs, residual), fusion.eval()(outputs, residual))


def test_scales_divided_by_their_sum_stay_numbers_where_dropout_leaves_none():
    rule, outputs, residual = ScaLearn(2, 30, normalise="mean", dropout=0.9), normal(5, 2, 30), normal(5, 30)
    torch.manual_seed(0)
    result = rule(outputs, residual)
    assert (result == residual).all(0).any() and result.isfinite().all()


# In a network

@pytest.mark.parametrize("form, share, count", [
    ("vector", False, 3 * 32 * 2), ("uniform", False, 3 * 2), ("vector", True, 3 * 32), ("uniform", True, 3)])
def test_the_four_forms_train_what_the_paper_counts(sources, form, share, count):
    model = combine(sources, partial(ScaLearn, form=form), share_layers=share)
    assert sum(each.numel() for each in trainable_parameters(model).values()) == count


def test_the_papers_counts_for_its_network():
    "RoBERTa-base on GLUE: 8 adapters, 12 layers, 768 features."
    vector, uniform = ScaLearn(8, 768).omega.numel(), ScaLearn(8, 768, "uniform").omega.numel()
    assert (12 * vector, 12 * uniform, vector, uniform) == (73_728, 96, 6_144, 8)


def test_one_source_at_scale_one_is_that_source(base, sources):
    images = normal(4, 1, 8, 8)
    model = combine(sources[:1], partial(UNIFORM, start=1.0))
    for _, update in injected(model):
        nn.init.ones_(update.rule.omega)
    torch.testing.assert_close(model(images), sources[0](images))
    for _, update in injected(model):
        nn.init.zeros_(update.rule.omega)
    torch.testing.assert_close(model(images), base(images))


def test_training_changes_scales_and_nothing_else(sources):
    model = combine(sources, UNIFORM, share_layers=True)
    before, given = copy.deepcopy(model.state_dict()), copy.deepcopy(sources[0].state_dict())
    train_on(nn.Sequential(model.train(), nn.Linear(32, 2)), normal(12, 1, 8, 8), torch.arange(12) % 2, rate=0.01,
             epochs=2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith("rule.omega") for name in changed)
    assert all(torch.equal(value, given[name]) for name, value in sources[0].state_dict().items())
    first, second = learned_scales(model).values()
    assert torch.equal(first, second)


def test_scales_find_the_source_that_is_needed(base, sources):
    "Features of one source, asked for by a linear read-out: its scale rises, the others' fall."
    images, model = normal(64, 1, 8, 8), combine(sources, UNIFORM, share_layers=True)
    wanted = sources[1](images).detach()
    optimizer = torch.optim.Adam(trainable_parameters(model).values(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(model(images), wanted).backward()
        optimizer.step()
    scales = next(iter(learned_scales(model).values())).flatten()
    torch.testing.assert_close(scales, torch.tensor([0.0, 1.0, 0.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("form", ["sequential", "parallel"])
@pytest.mark.parametrize("where", ["*.mlp", "*.attn", "*.c_fc"])
def test_a_folded_sum_does_the_same_and_travels(base, form, where, tmp_path):
    images = normal(4, 1, 8, 8)
    configs = [Adapter(3, form, scale) for scale in (1.0, 2.0, "learned")]
    model = combine([source(base, seed, config, where) for seed, config in enumerate(configs)])
    wanted = model(images)
    assert fold_(model) == [place.name for place, _ in injected(model)]
    torch.testing.assert_close(model(images), wanted)
    assert {type(update) for _, update in injected(model)} == {Bottleneck}
    again = copy.deepcopy(base)
    load_trained(again, save_trained(model, tmp_path))
    torch.testing.assert_close(again(images), wanted)


# Sources

@pytest.mark.parametrize("name, classes", [
    ("near", 10), ("far", 4), ("odd", 2), ("large", 2), ("loops", 2), ("flipped", 2), ("lying", 2), ("mirrored", 2),
    ("shifted", 5), ("shuffled", 10)])
def test_sources_ask_about_the_pictures_of_the_tasks(name, classes):
    task, near = digit_source(name, 60, 3), digit_task("near", 60, 3)
    assert task.classes == classes and task.train.labels.unique().tolist() == list(range(classes))
    assert len(task.test.labels) == len(near.test.labels)
    torch.testing.assert_close(task.train.images.sum((1, 2, 3)), near.train.images.sum((1, 2, 3)), atol=4.5, rtol=0)
    assert torch.equal(digit_source(name, 60, 3).train.labels, task.train.labels)
    assert torch.equal(digit_source(name, 60, 4).test.images, task.test.images)


def test_shuffled_labels_are_the_same_labels_in_another_order():
    shuffled, near = digit_source("shuffled", 200, 1), digit_task("near", 200, 1)
    assert torch.equal(shuffled.train.images, near.train.images) and torch.equal(shuffled.test.labels, near.test.labels)
    assert torch.equal(shuffled.train.labels.bincount(), near.train.labels.bincount())
    assert (shuffled.train.labels == near.train.labels).float().mean() < 0.3


# Precision, and what is the caller's

@pytest.mark.parametrize("rule", [ScaLearn, lambda adapters, width: AdapterFusion(width)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rules_have_the_precision_of_their_place(base, sources, rule, dtype):
    images = normal(2, 1, 8, 8).to(dtype)
    with torch.no_grad():
        combined = combine([copy.deepcopy(each).to(dtype) for each in sources], rule).eval()
        assert combined(images).dtype == dtype
    with pytest.raises(ValueError, match="sources must be copies of one network.*class_token. in number 1"):
        combine([sources[0], copy.deepcopy(sources[1]).to(dtype)])


def test_scales_that_were_read_stay_when_training_goes_on(sources):
    combined = combine(sources)
    scales = learned_scales(combined)
    old = {name: each.clone() for name, each in scales.items()}
    for each in trainable_parameters(combined).values():
        each.data.add_(1)
    assert all(torch.equal(scales[name], old[name]) for name in old)


def test_a_rule_that_is_none_freezes_nothing():
    adapter = Adapter(2).build(nn.Linear(4, 4))
    with pytest.raises(TypeError, match="rule must be an nn.Module"):
        Combination([adapter], None)
    assert all(each.requires_grad for each in adapter.parameters())


# Refusals

def other(base) -> nn.Module:
    changed = copy.deepcopy(base)
    nn.init.zeros_(changed.class_token)
    return changed


@pytest.mark.parametrize("call, words", [
    (lambda b, s: ScaLearn(0, 4), "adapters must"), (lambda b, s: ScaLearn(2, 4, "scalar"), "form must"),
    (lambda b, s: ScaLearn(2, 4, dropout=1), "dropout must"),
    (lambda b, s: ScaLearn(2, 4, normalise="sum"), "normalise must"),
    (lambda b, s: ScaLearn(2, 4, start=float("nan")), "start must"),
    (lambda b, s: ScaLearn(2, 4)(normal(5, 3, 4), normal(5, 4)), r"outputs must be of shape \(..., 2, 4\), got \(5, 3"),
    (lambda b, s: ScaLearn(2, 4)(normal(5, 2, 4), normal(5, 3)), r"residual must be of shape \(5, 4\), got \(5, 3\)"),
    (lambda b, s: AdapterFusion(4)(normal(5, 2, 3), normal(5, 3)), r"outputs must be of shape \(..., adapters, 4\)"),
    (lambda b, s: AdapterFusion(4)(normal(5, 2, 4), normal(5, 4), normal(5, 3)), r"query must be of shape \(5, 4\)"),
    (lambda b, s: AdapterFusion(4, hot=2), "hot must"), (lambda b, s: Combination([], ScaLearn(1, 4)), "adapters must"),
    (lambda b, s: combine([]), "sources must be at least one"), (lambda b, s: combine([b]), "sources must"),
    (lambda b, s: combine([s[0], source(b, 0, where="*0.mlp")]), "sources must have adapters at the same places"),
    (lambda b, s: combine([s[0], source(other(b), 0)]), "sources must be copies of one network, got another 'class_t"),
    (lambda b, s: combine([source(b, 0, LoRA(2), "*.c_fc")]), "sources must have adapters beside linear layers"),
    (lambda b, s: combine([combine(s), s[0]]), "sources must have adapters beside linear layers"),
    (lambda b, s: combine([source(b, 0, where="*.c_*")], share_layers=True), "share_layers must be False"),
    (lambda b, s: save_trained(combine(s), "nowhere"), "must be folded into one adapter"),
    (lambda b, s: fold_(copy.deepcopy(b)), "model must hold"),
    (lambda b, s: fold_(combine(s, lambda n, width: AdapterFusion(width))), "model must combine adapters"),
    (lambda b, s: fold_(combine([source(b, 0, Adapter(2, layer_norm="in"))])), "without layer norm"),
    (lambda b, s: digit_source("even"), "name must"), (lambda b, s: digit_source("odd", 672), "labels must"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(base, sources, call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call(base, sources)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: Combination([nn.Linear(2, 2)], ScaLearn(1, 2)), "adapters must"), (lambda: combine([3]), "sources must"),
    (lambda: learned_scales(3), "model must"), (lambda: combine(3), "sources must be a list"),
    (lambda: combine([TokenTransformer()], 3), "rule must"),
    (lambda: combine([TokenTransformer()], ScaLearn(2, 32)), "rule must be a function.*got ScaLearn"),
    (lambda: ScaLearn(2, 4)([1], normal(4)), "outputs must"),
])
def test_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()
