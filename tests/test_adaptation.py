"""Test-time adaptation: both limits of the mixture, naive references, streams and corruptions, latent classes,
bad input."""
from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torchvision.ops import FrozenBatchNorm2d

from xfer_course.adaptation import (
    CAFA,
    CORRUPTIONS,
    METHODS,
    STREAMS,
    AlphaBatchNorm,
    AlphaBN,
    ClassStatistics,
    Core,
    LearningRule,
    OnlineAdapter,
    Tent,
    adapt,
    cafa_loss,
    calibrate,
    class_statistics,
    core_loss,
    corrupt,
    discover_classes,
    draw_class_shares,
    equal_domains,
    jittered_digits,
    label_shift_domains,
    matched_accuracy,
    source_network,
    stream,
)
from xfer_course.data import Images


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_network(seed: int = 0) -> nn.Sequential:
    "A network whose running statistics differ from those of any batch below."
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
                          nn.Linear(144, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with torch.no_grad():
        for norm in (model[1], model[6]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return model.eval()


IMAGES = random(24, 1, 8, 8).sigmoid()
LABELS = torch.arange(24) % 3
STATISTICS = class_statistics(small_network(), IMAGES, LABELS)
LEARNING = {"tent": Tent(), "core": Core(), "cafa": CAFA(STATISTICS)}
STEPS = LEARNING | {"cafa, all": CAFA(STATISTICS, away_from="all")}
RULES = {"source": AlphaBN(alpha=1.0), "test": AlphaBN(alpha=0.0), "alpha-bn": AlphaBN(), **LEARNING}


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Images, Images]:
    source = jittered_digits("train", 2000, seed=0)
    return source_network(source, steps=150), source, jittered_digits("test", 320, seed=1)


# the mixture


@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 5), (9, 4, 5, 6)], ids=["vectors", "sequences", "images"])
def test_the_limits_of_alpha_are_the_statistics_of_source_and_batch(shape):
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](4).eval()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    x = random(*shape)
    dims = [0, *range(2, x.ndim)]
    mean, var = AlphaBatchNorm(layer, 1.0).statistics(x)
    assert torch.equal(mean, layer.running_mean) and torch.equal(var, layer.running_var)
    mean, var = AlphaBatchNorm(layer, 0.0).statistics(x)
    reference_var, reference_mean = torch.var_mean(x, dims, correction=0)
    assert torch.equal(mean, reference_mean) and torch.equal(var, reference_var)
    torch.testing.assert_close(AlphaBatchNorm(layer, 1.0)(x), layer(x))
    torch.testing.assert_close(AlphaBatchNorm(layer, 0.0)(x), copy.deepcopy(layer).train()(x))


def test_between_the_limits_it_is_batch_norm_with_the_mixture():
    layer = small_network()[1]
    x = random(5, 4, 3, 3, seed=2)
    mean = 0.3 * layer.running_mean + 0.7 * x.mean((0, 2, 3))
    var = 0.3 * layer.running_var + 0.7 * x.var((0, 2, 3), correction=0)
    expected = F.batch_norm(x, mean, var, layer.weight, layer.bias, eps=layer.eps)
    torch.testing.assert_close(AlphaBatchNorm(layer, 0.3)(x), expected)


def test_the_gradient_flows_through_the_batch_statistics():
    layer = AlphaBatchNorm(nn.BatchNorm2d(2), 0.0).double()
    x = random(3, 2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


def test_a_layer_without_scales_is_only_normalised():
    layer = nn.BatchNorm1d(3, affine=False)
    x = random(8, 3)
    torch.testing.assert_close(AlphaBatchNorm(layer, 0.0)(x), F.batch_norm(x, None, None, training=True))


# batch norms of other classes


class NormAct(nn.BatchNorm2d):
    "As timm's: dropout and an activation inside, the latter with a weight of its own."

    def __init__(self, channels, **options):
        super().__init__(channels, **options)
        self.drop, self.act = nn.Dropout(0.5), nn.PReLU(channels)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class WrittenOut(nn.BatchNorm2d):
    "As timm's, too: the function is called directly."

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.silu(x)


class Before(nn.BatchNorm2d):
    "What is normalised is not what comes in."

    def forward(self, x, gain=2.0):
        return super().forward(F.relu(gain * x))


class TwoInOne(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.inner = NormAct(channels)

    def forward(self, x):
        return self.inner(super().forward(x) ** 2)


class ByHand(nn.BatchNorm2d):
    def forward(self, x):
        return x - self.running_mean[:, None, None]


class LooksLikeIt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def parametrized(channels):
    return parametrize.register_parametrization(nn.BatchNorm2d(channels), "weight", Doubled())


def hooked(channels):
    layer = nn.BatchNorm2d(channels)
    layer.register_forward_hook(lambda layer, inputs, output: 3 * output)
    return layer


def seen(channels):
    layer = nn.LazyBatchNorm2d()
    layer(random(2, channels, 3, 3))
    return layer


KINDS = {
    "with an activation": NormAct, "written out": WrittenOut, "something before it": Before, "another inside": TwoInOne,
    "without scales": lambda c: NormAct(c, affine=False), "no momentum": lambda c: nn.BatchNorm2d(c, momentum=None),
    "of several processes": nn.SyncBatchNorm, "parametrized": parametrized, "with a hook": hooked, "lazy, seen": seen,
    "frozen weights": lambda c: NormAct(c).requires_grad_(False),
}


def network_with(layer, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    for part in layer.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.weight is not None and not hasattr(part, "parametrizations"):
                part.weight.data.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(144, 3)).eval()


def batch_norm_in_training_mode(model):
    model = copy.deepcopy(model)
    for layer in model.modules():
        layer.training = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return model


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_batch_norm_that_does_more_keeps_what_it_does(make):
    model = network_with(make(4))
    with torch.no_grad():
        torch.testing.assert_close(calibrate(model, 1.0)(IMAGES), model(IMAGES))
        torch.testing.assert_close(calibrate(model, 0.0)(IMAGES), batch_norm_in_training_mode(model)(IMAGES))
        half_way = calibrate(model, 0.5)(IMAGES)
    assert all((half_way - calibrate(model, alpha)(IMAGES)).abs().max() > 1e-3 for alpha in (0.0, 1.0))


def test_the_mixture_of_a_subclass_is_that_of_its_plain_part():
    layer = network_with(WrittenOut(4))[1]
    plain, x = nn.BatchNorm2d(4), random(6, 4, 5, 5).requires_grad_()
    plain.load_state_dict(layer.state_dict())
    mixed, expected = AlphaBatchNorm(layer, 0.3)(x), F.silu(AlphaBatchNorm(plain, 0.3)(x))
    torch.testing.assert_close(mixed, expected)
    weights = random(*mixed.shape, seed=1)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (mixed, expected)))


def test_other_arguments_reach_the_layer():
    layer, x = network_with(Before(4))[1], random(6, 4, 5, 5)
    torch.testing.assert_close(AlphaBatchNorm(layer, 1.0)(x, gain=0.5), layer(x, gain=0.5))


def test_a_frozen_batch_norm_takes_the_mixture():
    frozen, plain, x = FrozenBatchNorm2d(4), small_network()[1], random(6, 4, 5, 5)
    frozen.load_state_dict(plain.state_dict())
    for alpha in (0.0, 0.5, 1.0):
        torch.testing.assert_close(AlphaBatchNorm(frozen, alpha)(x), AlphaBatchNorm(plain, alpha)(x))
    torch.testing.assert_close(calibrate(network_with(frozen), 1.0)(IMAGES), network_with(frozen)(IMAGES))


def test_a_layer_that_stands_in_two_places_stays_one():
    shared = small_network()[1]
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": shared})
    mixed = calibrate(model, 0.5)
    assert mixed["a"][0] is mixed["b"] is mixed["c"] and isinstance(mixed["c"], AlphaBatchNorm)
    assert calibrate(mixed, 0.2)["b"].alpha == 0.2 and len(Tent().parameters(mixed)) == 2


def test_a_model_that_is_a_batch_norm_has_its_names():
    layer = small_network()[1]
    assert list(calibrate(layer, 0.5).state_dict()) == list(layer.state_dict())


class WithoutEps(nn.Module):
    "Batch norm as one writes it by functions, its eps in the call."

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


REFUSED = {
    "its eps in the call": (lambda c: nn.Sequential(nn.BatchNorm2d(c), WithoutEps(c)), ValueError,
                            "model.1.1 must be a batch norm with running statistics, got WithoutEps"),
    "by hand": (ByHand, TypeError, "torch.nn.functional.batch_norm .* got ByHand"),
    "unknown": (LooksLikeIt, ValueError, "model.1 must be a batch norm with running statistics, got LooksLikeIt"),
    "lazy": (lambda c: nn.LazyBatchNorm2d(), ValueError, "model.1 must be .* got LazyBatchNorm2d that has not seen"),
    "no statistics": (lambda c: NormAct(c, track_running_stats=False), ValueError, "got NormAct without them"),
    "not to be copied": (lambda c: prune.l1_unstructured(nn.BatchNorm2d(c), "weight", 2), ValueError,
                         "model must be a module that can be copied, got Sequential"),
}


@pytest.mark.parametrize("make, error, sentence", REFUSED.values(), ids=REFUSED)
def test_a_layer_that_cannot_be_right_is_refused_by_name(make, error, sentence):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), make(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    for call in (lambda: calibrate(model, 0.5)(IMAGES), lambda: adapt(model, [IMAGES], Tent())):
        with pytest.raises(error, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [small_network, *(lambda make=make: network_with(make(4)) for make in KINDS.values())],
                         ids=["plain", *KINDS])
def test_learnt_weights_load_into_the_original_and_back(make):
    model, other = make(), make()
    if not any(len(list(m.parameters(recurse=False))) for m in model if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        pytest.skip("no scales to learn")
    learnt = adapt(model, IMAGES.split(8), Tent()).model
    other.load_state_dict(learnt.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(IMAGES), calibrate(learnt, 1.0)(IMAGES))
        assert (other(IMAGES) - model(IMAGES)).abs().max() > 1e-3
        mixed = calibrate(other, 0.0)
        mixed.load_state_dict(model.state_dict())
        torch.testing.assert_close(mixed(IMAGES), calibrate(model, 0.0)(IMAGES))
    incomplete = {name: value for name, value in model.state_dict().items() if not name.endswith("running_mean")}
    with pytest.raises(RuntimeError, match="Missing key.*running_mean"):
        mixed.load_state_dict(incomplete)


@pytest.mark.parametrize("make", [NormAct, parametrized, nn.BatchNorm2d])
def test_only_scale_and_shift_are_learnt(make):
    model = network_with(make(4))
    learnt = adapt(model, [IMAGES], Tent()).model.state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, learnt[name])}
    assert moved == {name for name in learnt
                     if name.startswith("1.") and name.endswith(("1.weight", "bias", "original"))}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [nn.BatchNorm2d, WrittenOut])
def test_half_precision_overflows_nowhere(layer, dtype):
    model, x = layer(4).to(dtype).eval(), (500 * random(8, 4, 6, 6)).to(dtype)
    with torch.no_grad():
        y = AlphaBatchNorm(model, 0.0)(x)
        expected = AlphaBatchNorm(copy.deepcopy(model).float(), 0.0)(x.float())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)


def test_rules_learn_in_half_precision():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)).to(torch.float16).eval()
    statistics = class_statistics(model, 100 * random(24, 6).half(), LABELS)
    assert statistics.precisions.dtype == torch.float32 and statistics.precisions.isfinite().all()
    for rule in (Tent(), Core(), CAFA(statistics)):
        result = adapt(model, (100 * random(24, 6)).half().split(8), rule)
        assert result.logits.isfinite().all() and np.isfinite(result.losses).all() and len(result.losses) == 3


# online


@pytest.mark.parametrize("method", RULES)
def test_batch_by_batch_gives_the_numbers_of_the_stream(method):
    model = small_network()
    whole, online = adapt(model, IMAGES.split(6), RULES[method]), OnlineAdapter(model, RULES[method])
    logits = [online.step((batch, "a label")) for batch in IMAGES.split(6)]
    assert torch.equal(torch.cat(logits), whole.logits) and online.losses == whole.losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, online.model.state_dict()[name])


def test_the_state_of_the_optimizer_is_kept_and_a_refused_batch_changes_nothing():
    first, again = (OnlineAdapter(small_network(), Tent()) for _ in range(2))
    first.step(IMAGES[:8])
    again.step(IMAGES[:8])
    with pytest.raises(ValueError, match="batch must be finite"):
        again.step(IMAGES[:8] * float("nan"))
    assert torch.equal(first.step(IMAGES[8:]), again.step(IMAGES[8:]))
    afresh = OnlineAdapter(first.model, Tent())
    assert {state["step"].item() for state in first.optimizer.state.values()} == {2} and not afresh.optimizer.state


OFF = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
@pytest.mark.parametrize("method", RULES)
def test_rules_work_where_the_caller_has_switched_gradients_off(off, method):
    expected = adapt(small_network(), IMAGES.split(8), RULES[method])
    with off():
        images, model = IMAGES.clone(), small_network()  # made there, too: inference tensors
        rule = CAFA(class_statistics(model, images, LABELS)) if method == "cafa" else RULES[method]
        found, online = adapt(model, images.split(8), rule), OnlineAdapter(model, rule)
        logits = torch.cat([online.step(batch) for batch in images.split(8)])
    assert torch.equal(found.logits, expected.logits) and torch.equal(logits, expected.logits)
    assert found.losses == expected.losses
    found.model.requires_grad_()(IMAGES).sum().backward()  # it can be trained afterwards
    assert found.model[0].weight.grad is not None


def test_methods_are_listed_with_their_own_alpha():
    assert {name: rule.alpha for name, rule in RULES.items()} == METHODS
    assert [rule.learning_rate for rule in LEARNING.values()] == [0.01] * 3


@pytest.mark.parametrize("method", METHODS)
def test_the_model_stays_as_it_was_and_runs_repeat(method):
    model = small_network().train()
    before = copy.deepcopy(model.state_dict())
    runs = [adapt(model, IMAGES.split(8), RULES[method]) for _ in range(2)]
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters()) and not runs[0].model.training
    assert torch.equal(runs[0].logits, runs[1].logits) and runs[0].losses == runs[1].losses
    assert runs[0].logits.shape == (24, 3) and len(runs[0].losses) == (3 if method in LEARNING else 0)
    assert not runs[0].logits.requires_grad


def test_the_source_method_is_the_model():
    model = small_network()
    with torch.no_grad():
        torch.testing.assert_close(adapt(model, IMAGES.split(8), AlphaBN(alpha=1.0)).logits, model(IMAGES),
                                   atol=1e-5, rtol=1e-5)


def naive_step(model: nn.Module, images: torch.Tensor, method: str, rate: float) -> nn.Module:
    "One update written out: batch statistics by hand, plain losses, Adam's first step is the sign of the gradient."
    model = copy.deepcopy(model).eval()
    alpha = METHODS[method.split(",")[0]]
    norms = [m for m in model if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    x = images
    for layer in model:
        if layer in norms:
            dims = (0, 2, 3) if x.ndim == 4 else (0,)
            mean = alpha * layer.running_mean + (1 - alpha) * x.mean(dims)
            var = alpha * layer.running_var + (1 - alpha) * ((x - x.mean(dims, keepdim=True)) ** 2).mean(dims)
            view = (1, -1, 1, 1)[: x.ndim]
            x = (layer.weight.view(view) * (x - mean.view(view)) / (var.view(view) + layer.eps).sqrt()
                 + layer.bias.view(view))
        else:
            features, x = x, layer(x)
    p = x.softmax(1)
    if method == "tent":
        loss = -(p * p.log()).sum(1).mean()
    elif method == "core":
        loss = sum((p[:, k] * p[:, j]).sum() / p[:, k].sum() for k in range(3) for j in range(3) if j != k) / 3
    else:
        loss = 0
        for feature, own in zip(features, x.argmax(1)):
            distances = torch.stack([(feature - m) @ P @ (feature - m) for m, P in zip(*STATISTICS)])
            far = distances.sum() - (0 if method == "cafa, all" else distances[own])
            loss = loss + (distances[own] / far).log() / len(images)
    parameters = [p for norm in norms for p in norm.parameters()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.data -= rate * gradient / (gradient.abs() + 1e-8)
    return model


@pytest.mark.parametrize("method", STEPS)
def test_one_step_equals_a_naive_one(method):
    model = small_network()
    learnt = adapt(model, [IMAGES], STEPS[method]).model
    expected = naive_step(model, IMAGES, method, 0.01)
    for place in (1, 6):
        for name in ("weight", "bias"):
            got = getattr(learnt[place].layer, name)
            torch.testing.assert_close(got, getattr(expected[place], name), atol=2e-4, rtol=0)
            assert (got - getattr(model[place], name)).abs().max() > 0.005
    assert torch.equal(learnt[0].weight, model[0].weight) and torch.equal(learnt[7].weight, model[7].weight)


@pytest.mark.parametrize("method", LEARNING)
def test_losses_fall_when_a_batch_is_repeated(method):
    losses = adapt(small_network(), [IMAGES] * 30, replace(LEARNING[method], learning_rate=0.1)).losses
    assert losses[-1] < losses[0] - 0.02


def test_answers_come_before_the_step():
    model = small_network()
    one = adapt(model, [IMAGES], Core(learning_rate=0.5)).logits
    torch.testing.assert_close(one, adapt(model, [IMAGES], AlphaBN()).logits)
    two = adapt(model, [IMAGES, IMAGES], Core(learning_rate=0.5)).logits[24:]
    assert (two - one).abs().max() > 0.1


def test_batches_may_bring_labels_and_models_may_return_tuples():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_network()

        def forward(self, x):
            return self.inner(x), "something else"

    plain = adapt(small_network(), IMAGES.split(8), CAFA(STATISTICS))
    tupled = adapt(Pair(), stream(Images(IMAGES, LABELS), batch_size=24), AlphaBN(alpha=0))
    assert tupled.logits.shape == (24, 3)
    torch.testing.assert_close(
        adapt(Pair(), [(part,) for part in IMAGES.split(8)], CAFA(STATISTICS)).logits, plain.logits)


# losses


def test_core_in_closed_form():
    assert core_loss(torch.zeros(5, 4)).item() == pytest.approx(0.75)
    assert core_loss(60 * torch.eye(4)[[0, 1, 2, 3, 0]]).item() == pytest.approx(0, abs=1e-6)
    logits = random(12, 5)
    torch.testing.assert_close(core_loss(logits), core_loss(logits[torch.randperm(12)][:, torch.randperm(5)]))


def test_class_statistics_are_those_of_the_last_linear_layers_input():
    model = small_network()
    features = model[:-1](IMAGES).detach()
    torch.testing.assert_close(STATISTICS.means, torch.stack([features[LABELS == k].mean(0) for k in range(3)]))
    for precision in STATISTICS.precisions:
        torch.testing.assert_close(precision, precision.T)
        assert torch.linalg.eigvalsh(precision).min() > 0


def test_cafa_pulls_to_the_named_class():
    statistics = ClassStatistics(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.eye(2).expand(2, 2, 2))
    feature = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = cafa_loss(feature, torch.tensor([[1.0, 0.0]]), statistics)
    assert loss.item() == pytest.approx(np.log(1 / 9))
    assert cafa_loss(feature, torch.tensor([[1.0, 0.0]]), statistics, "all").item() == pytest.approx(np.log(1 / 10))
    loss.backward()
    assert feature.grad[0, 0] > 0 and feature.grad[0, 1] == 0


# corruptions and streams


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_keep_shape_and_range(kind):
    images = jittered_digits("test", 30, seed=0).images
    distance = []
    for severity in range(1, 6):
        worse = corrupt(images, kind, severity, seed=3)
        assert worse.shape == images.shape and worse.min() >= 0 and worse.max() <= 1
        distance.append((worse - images).abs().mean().item())
    assert distance == sorted(distance) and distance[0] > 0
    assert torch.equal(corrupt(images, kind, 3, seed=3), corrupt(images, kind, 3, seed=3))


def test_blur_keeps_each_channel_apart():
    image = torch.zeros(1, 2, 15, 15)
    image[0, 0, 7, 7] = 1
    blurred = corrupt(image, "blur", 2)
    assert blurred[0, 1].abs().max() == 0 and blurred[0, 0].sum().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(blurred, blurred.flip(2, 3))


@pytest.mark.parametrize("name, order, sizes",
                         [("shuffled", "shuffled", [32, 32, 26]), ("sorted", "sorted", [32, 32, 26]),
                          ("small batches", "shuffled", [8] * 11 + [2])])
def test_streams_hold_every_example_once(name, order, sizes):
    assert STREAMS[name]["order"] == order
    data = Images(torch.arange(90.0)[:, None], torch.arange(90) % 4)
    arriving = stream(data, **STREAMS[name], seed=5)
    assert [len(batch.images) for batch in arriving] == sizes
    images, labels = (torch.cat(parts) for parts in zip(*arriving))
    assert (torch.equal(images.flatten().sort().values, torch.arange(90.0))
            and torch.equal(images.flatten().long() % 4, labels))
    assert (order == "sorted") == bool((labels.diff() >= 0).all())
    assert not torch.equal(images, torch.cat([b.images for b in stream(data, **STREAMS[name], seed=6)]))


def test_adaptation_is_better_than_chance_and_than_nothing(trained):
    model, source, test = trained
    rules, right = RULES | {"cafa": CAFA(class_statistics(model, *source))}, {}
    for order in ("shuffled", "sorted"):
        arriving = stream(Images(corrupt(test.images, "contrast", 4), test.labels), order)
        labels = torch.cat([batch.labels for batch in arriving])
        for method, rule in rules.items():
            logits = adapt(model, arriving, rule).logits
            right[order, method] = (logits.argmax(1) == labels).double().mean().item()
    assert all(right["shuffled", method] > right["shuffled", "source"] + 0.1 for method in METHODS
               if method != "source"), right
    assert min(right["shuffled", method] for method in ("test", "tent", "cafa")) > 0.8, right
    assert right["sorted", "test"] < right["shuffled", "test"] - 0.2, right


# latent label shift


def test_only_class_proportions_differ_between_domains():
    labels = np.arange(6000) % 3
    domains = label_shift_domains(labels, 4, concentration=0.5, seed=1)
    assert np.array_equal(domains, label_shift_domains(labels, 4, concentration=0.5, seed=1))
    shares = np.array([[np.mean(labels[domains == d] == k) for k in range(3)] for d in np.unique(domains)])
    assert shares.std(0).min() > 0.05
    position = np.arange(6000) // 3
    assert abs(np.corrcoef(position, domains)[0, 1]) < 0.05


def test_class_shares_are_well_conditioned_dirichlet_draws():
    draws = np.concatenate([draw_class_shares(3, 6, alpha=3.0, max_condition=4.0, seed=seed) for seed in range(200)])
    assert abs(draws.sum(1) - 1).max() < 1e-9 and abs(draws.mean(0) - 1 / 3).max() < 0.03
    conditions = [np.linalg.cond(draw_class_shares(3, 6, 3.0, limit, seed=1)) for limit in (3.0, 100.0)]
    assert conditions[0] <= 3.0
    assert np.array_equal(draw_class_shares(3, 6, seed=4), draw_class_shares(3, 6, seed=4))


def test_equal_domains_hold_the_shares_they_were_given():
    labels, shares = np.arange(3).repeat([400, 300, 200]), np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    domains = equal_domains(labels, shares, seed=3)
    counts = np.stack([np.bincount(labels[domains == d], minlength=3) for d in range(2)])
    # the scarcest class decides: 200 examples of class 2 are 0.7 of a domain
    assert counts.tolist() == [[142, 142, 0], [28, 57, 200]] and (domains == -1).sum() == 900 - counts.sum()


def test_exact_probabilities_are_factorised_exactly():
    # each class has a domain of its own
    given_class = np.array([[0.8, 0, 0], [0, 0.7, 0], [0, 0, 0.9], [0.2, 0.3, 0.1]])
    rng, labels = np.random.default_rng(0), np.arange(3).repeat(400)
    domains = np.array([rng.choice(4, p=given_class[:, k]) for k in labels])
    found = discover_classes(given_class[:, labels].T, domains, 3, groups=3)
    assert matched_accuracy(found.posteriors.argmax(1), labels) == 1.0
    order = [found.posteriors[labels == k].mean(0).argmax() for k in range(3)]
    empirical = np.array([[np.mean(labels[domains == d] == k) for k in range(3)] for d in range(4)])
    assert np.abs(found.class_shares[:, order] - empirical).max() < 0.05
    np.testing.assert_allclose(found.posteriors.sum(1), 1)
    np.testing.assert_allclose(found.group_shares.sum(1), 1)


def test_matched_accuracy_against_all_namings():
    from itertools import permutations

    rng = np.random.default_rng(0)
    found, labels = rng.integers(4, size=60), rng.integers(4, size=60)
    best = max(np.mean(np.array(names)[found] == labels) for names in permutations(range(4)))
    assert matched_accuracy(found, labels) == pytest.approx(best)


P, D = np.full((6, 3), 1 / 3), np.array([0, 1, 2, 0, 1, 2])
NORMLESS = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
NOT_AFFINE = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 3))
BAD_INPUT = {
    "corrupt: whole numbers": (lambda: corrupt(IMAGES.long(), "fog"),
                               "images must hold float numbers, got torch.int64"),
    "corrupt: one image": (lambda: corrupt(IMAGES[0], "fog"), r"images must be of shape \(N C H W\), got \(1, 8, 8\)"),
    "corrupt: no image": (lambda: corrupt(IMAGES[:0], "fog"), "images must hold at least one value"),
    "corrupt: an array": (lambda: corrupt(IMAGES.numpy(), "fog"), "images must be a tensor .* got ndarray"),
    "corrupt: bytes as floats": (lambda: corrupt(IMAGES * 255, "fog"),
                                 r"images must lie in \[0, 1\], got values from .* to 2\d\d"),
    "corrupt: NaN": (lambda: corrupt(IMAGES * float("nan"), "fog"), "got values from nan to nan"),
    "corrupt: unknown kind": (lambda: corrupt(IMAGES, "rain"), "kind must be one of 'noise', .* got 'rain'"),
    "corrupt: severity 0": (lambda: corrupt(IMAGES, "fog", 0), "severity must be a whole number from 1 to 5, got 0"),
    "stream: empty": (lambda: stream(Images(IMAGES[:0], LABELS[:0])), "images must hold at least one value"),
    "stream: lengths differ": (lambda: stream(Images(IMAGES, LABELS[:5])),
                               r"labels must have as many rows as images \(24\), got 5"),
    "stream: unknown order": (lambda: stream(Images(IMAGES, LABELS), "reversed"),
                              "order must be one of 'shuffled', 'sorted', got 'reversed'"),
    "stream: batch size 0": (lambda: stream(Images(IMAGES, LABELS), batch_size=0),
                             "batch_size must be a whole number of at least 1, got 0"),
    "network: odd size": (lambda: source_network(Images(IMAGES[..., :7], LABELS)), "multiples of 4, got 8 x 7"),
    "alpha above 1": (lambda: calibrate(small_network(), 1.5), "alpha must be a finite number from 0 to 1, got 1.5"),
    "alpha is nan": (lambda: calibrate(small_network(), float("nan")), "alpha must be .* got nan"),
    "alpha is a truth value": (lambda: AlphaBN(alpha=True), "alpha must be .* got True"),
    "rule: alpha above 1": (lambda: Core(alpha=1.5), "alpha must be a finite number from 0 to 1, got 1.5"),
    "calibrate: no model": (lambda: calibrate(None, 0.5), "model must be an nn.Module, got NoneType"),
    "calibrate: no batch norm": (lambda: calibrate(NORMLESS, 0.5), "no batch-norm layer"),
    "calibrate: no running statistics": (
        lambda: calibrate(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), 0.5), "running statistics"),
    "layer: not batch norm": (lambda: AlphaBatchNorm(nn.LayerNorm(3), 0.5), "got LayerNorm"),
    "layer: other channels": (lambda: AlphaBatchNorm(nn.BatchNorm1d(3), 0.5)(torch.zeros(2, 4)),
                              r"x must have shape \(N, 3, ...\), got \(2, 4\)"),
    "core: one class": (lambda: core_loss(torch.zeros(4, 1)),
                        r"logits must have a column for each of at least two classes, got shape \(4, 1\)"),
    "core: NaN": (lambda: core_loss(torch.full((4, 3), torch.nan)), "logits must have a finite largest value"),
    "core: empty": (lambda: core_loss(torch.zeros(0, 3)), "logits must hold at least one value"),
    "core: one row": (lambda: core_loss(torch.zeros(3)), r"logits must be of shape \(N K\), got \(3,\)"),
    "cafa: width differs": (lambda: cafa_loss(torch.zeros(4, 5), torch.zeros(4, 3), STATISTICS),
                            r"features must be of shape \(4 6\), got \(4, 5\)"),
    "cafa: classes differ": (lambda: cafa_loss(torch.zeros(4, 6), torch.zeros(4, 2), STATISTICS),
                             r"logits must be of shape \(N 3\), got \(4, 2\)"),
    "cafa: away from nothing": (lambda: CAFA(STATISTICS, away_from="none"),
                                "away_from must be one of 'others', 'all', got 'none'"),
    "cafa: one class": (
        lambda: cafa_loss(torch.zeros(4, 6), torch.zeros(4, 1), ClassStatistics(torch.zeros(1, 6), torch.eye(6)[None])),
                        "number of classes in statistics must be .* at least 2, got 1"),
    "cafa: empty": (lambda: cafa_loss(torch.zeros(0, 6), torch.zeros(0, 3), STATISTICS),
                    "logits must hold at least one value"),
    "statistics: a class with one image": (lambda: class_statistics(small_network(), IMAGES[:4], LABELS[:4]),
                                           r"at least twice, got classes of \[2, 1, 1\]"),
    "statistics: lengths differ": (lambda: class_statistics(small_network(), IMAGES, LABELS[:4]),
                                   "labels must hold 24 labels, one per row, got 4"),
    "statistics: no linear layer": (lambda: class_statistics(nn.Sequential(nn.BatchNorm2d(1)), IMAGES, LABELS),
                                    "none of its 0 linear layers does"),
    "statistics: float labels": (lambda: class_statistics(small_network(), IMAGES, LABELS.float()),
                                 "labels must hold integer numbers"),
    "statistics: negative labels": (lambda: class_statistics(small_network(), IMAGES, LABELS - 1),
                                    "labels must be class numbers from 0 up, got -1"),
    "statistics: more classes than outputs": (
        lambda: class_statistics(small_network(), IMAGES, torch.arange(24) % 8), "labels must be class numbers from 0"),
    "stream: a column of labels": (lambda: stream(Images(IMAGES, LABELS[:, None]), "sorted"),
                                   r"labels must be of shape \(N\), got \(24, 1\)"),
    "cafa: NaN": (lambda: cafa_loss(torch.zeros(4, 6), torch.full((4, 3), torch.nan), STATISTICS),
                  "logits must have a finite largest value in every row"),
    "domains: a column of labels": (lambda: label_shift_domains(LABELS[:, None], 2), r"labels must be of shape \(N\)"),
    "domains: names": (lambda: label_shift_domains(["a", "b"], 2), "labels must be class numbers, whole and from 0 up"),
    "matched: NaN": (lambda: matched_accuracy([0.0, np.nan], [0, 1]), "found must be names or whole numbers"),
    "statistics: NaN": (lambda: class_statistics(small_network(), IMAGES * float("nan"), LABELS),
                        "images must be finite, got nan"),
    "adapt: bytes": (lambda: adapt(small_network(), [(IMAGES * 255).byte()], AlphaBN()),
                     "batch 0 of loader must be scaled as in training, got bytes"),
    "adapt: an empty batch": (lambda: adapt(small_network(), [IMAGES[:0]], AlphaBN()),
                              "batch 0 of loader must hold at least one value"),
    "adapt: no model": (lambda: adapt(None, [IMAGES], Core()), "model must be an nn.Module, got NoneType"),
    "adapt: no loader": (lambda: adapt(small_network(), None, Core()), "loader must give batches, .* got NoneType"),
    "adapt: one batch of images and labels": (lambda: adapt(small_network(), Images(IMAGES, LABELS), Core()),
                                              "loader must give batches, .* got Images"),
    "adapt: no batches": (lambda: adapt(small_network(), [], AlphaBN()), "no batch"),
    "adapt: nothing to learn": (lambda: adapt(NOT_AFFINE, [IMAGES], Core()), "without scales and shifts"),
    "adapt: no loss": (lambda: adapt(small_network(), [IMAGES], LearningRule()), "LearningRule has no loss"),
    "rule: other statistics": (lambda: CAFA((1, 2)), "statistics must be a ClassStatistics, got tuple"),
    "rule: rate in words": (lambda: Core(learning_rate="a"), "learning_rate must be a finite number above 0, got 'a'"),
    "rule: rate 0": (lambda: Tent(learning_rate=0), "learning_rate must be a finite number above 0, got 0"),
    "shares: fewer domains than classes": (lambda: draw_class_shares(3, 2),
                                           "must be a whole number of at least 3, got 2"),
    "shares: no such draw": (lambda: draw_class_shares(8, 8, 50.0, 1.001), "max_condition must be larger"),
    "domains: class without examples": (lambda: equal_domains([0, 0], [[0.5, 0.5]]), "labels must hold every class"),
    "domains: shares that do not sum to 1": (lambda: equal_domains([0, 1], [[0.5, 0.6]]), "rows that sum to 1"),
    "domains: one": (lambda: label_shift_domains(LABELS, 1), "n_domains must be a whole number of at least 2, got 1"),
    "domains: concentration 0": (lambda: label_shift_domains(LABELS, 3, 0),
                                 "concentration must be a finite number above 0, got 0"),
    "discover: rows do not sum to 1": (lambda: discover_classes(P * 2, D, 2), "sum to 1"),
    "discover: a domain is missing": (lambda: discover_classes(P, [0, 1, 0, 1, 0, 1], 2), "each domain at least once"),
    "discover: more classes than domains": (lambda: discover_classes(P, D, 4),
                                            r"n_classes \(at most one per domain\) must be a whole number from 2 to "
                                            r"3, got 4"),
    "discover: too few groups": (lambda: discover_classes(P, D, 3, groups=2),
                                 r"groups \(at least one per class\) must be a whole number from 3 to 6, got 2"),
    "matched: lengths differ": (lambda: matched_accuracy([0, 1], [0]),
                                r"found must have as many rows as labels \(1\), got 2"),
}


@pytest.mark.parametrize("call, words", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=words):
        call()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_adapting_goes_on_from_its_own_result():
    images = torch.randn(64, 1, 8, 8)
    first = adapt(convolutions(), images.split(32), Core())
    second = adapt(first.model, images.split(32), Core())
    assert len(second.losses) == 2 and sum(isinstance(m, AlphaBatchNorm) for m in second.model.modules()) == 1


def test_learning_methods_learn_where_gradients_are_off():
    images = torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        off = adapt(convolutions(), images.split(32), Core())
    assert off.losses == adapt(convolutions(), images.split(32), Core()).losses


def test_core_loss_is_finite_where_a_class_underflows():
    logits = torch.tensor([[120.0, 0, 0], [0, 120.0, 0]], requires_grad=True)
    core_loss(logits).backward()
    assert logits.grad.isfinite().all()


def test_features_are_those_of_the_head_that_gives_the_logits():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.label, self.domain = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(6, 2)

        def forward(self, x):
            features = self.body(x)
            return self.label(features), self.domain(features[:, :6])

    labels = torch.arange(30) % 3
    assert class_statistics(TwoHeads(), torch.randn(30, 5), labels).means.shape == (3, 8)


@pytest.mark.parametrize("call, words", [
    (lambda net, x: adapt(net, x, Core()), "loader must give batches, such as images.split\\(64\\), got Tensor"),
    (lambda net, x: adapt(net, [x.numpy()], Core()), "batch 0 of loader must be a tensor, got ndarray"),
    (lambda net, x: adapt(net, [x, x * float("nan")], Core()), "batch 1 of loader must be finite"),
    (lambda net, x: adapt(net, [x], "core", alpha=0.5),
     r"rule must be an object .*Core\(alpha=0.5\).* got 'core', alpha=0.5"),
    (lambda net, x: adapt(net, [x], method="test"), "rule must be .* got None, method='test'"),
    (lambda net, x: adapt(net, [x], Core), "rule must be .* got <class"),
    (lambda net, x: adapt(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)), x.split(33),
                          AlphaBN(alpha=0)), "batch of one"),
    (lambda net, x: matched_accuracy([-1, 0], [0, 1]), "found"),
    (lambda net, x: label_shift_domains([-1, 0], 2), "labels"),
    (lambda net, x: discover_classes(np.full((4, 2), 0.5), np.array([[0], [1], [0], [1]]), 2), "domains"),
])
def test_mistakes_of_a_first_use_get_a_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(convolutions(), torch.randn(34, 1, 8, 8))


def test_the_factorisation_does_not_depend_on_one_start():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    domains = label_shift_domains(labels, 4, 0.3, seed=1)
    shares = np.stack([[np.mean(labels[domains == r] == k) for k in range(3)] for r in range(4)])
    p = np.clip((shares / shares.sum(0))[:, labels].T + rng.normal(0, 0.03, (600, 4)), 1e-3, None)
    p /= p.sum(1, keepdims=True)
    assert min(matched_accuracy(discover_classes(p, domains, 3, seed=s).posteriors.argmax(1), labels)
               for s in range(8)) > 0.8
